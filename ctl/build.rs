//! Links the unwinder into a client for glibc: to load `libgcc_s.so` takes a good part of what its
//! prompt takes. Where the compiler's own archive is not to be found, it is loaded as before.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const ARCHIVE: &str = "libgcc_eh.a";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let var = |name| env::var(name).unwrap_or_default();
    let is_glibc = var("CARGO_CFG_TARGET_OS") == "linux" && var("CARGO_CFG_TARGET_ENV") == "gnu";
    let is_static = var("CARGO_CFG_TARGET_FEATURE").split(',').any(|it| it == "crt-static");
    // The compiler of another host has another's archive, and what is static has it already.
    if is_glibc
        && !is_static
        && var("TARGET") == var("HOST")
        && let Some(folder) = folder()
    {
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=static:+whole-archive,-bundle=gcc_eh");
    }
}

/// Where the compiler that links keeps the archive.
fn folder() -> Option<PathBuf> {
    let said = Command::new("cc").arg(format!("-print-file-name={ARCHIVE}")).output().ok()?;
    let file = PathBuf::from(String::from_utf8(said.stdout).ok()?.trim());
    // Without one it says the bare name.
    let folder = file.parent()?;
    file.is_absolute().then(|| folder.to_owned())
}
