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
        && let Some(archive) = archive(&var("CARGO_CFG_TARGET_ARCH"))
        && let Some(folder) = archive.parent()
    {
        // It moves with the next version of the compiler.
        println!("cargo::rerun-if-changed={}", archive.display());
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=static:+whole-archive,-bundle=gcc_eh");
    }
}

/// Where the compiler that links keeps the archive, if it is one for this architecture.
fn archive(arch: &str) -> Option<PathBuf> {
    let said = |word: &str| {
        let said = Command::new("cc").arg(word).output().ok()?;
        String::from_utf8(said.stdout).ok()
    };
    if said("-dumpmachine")?.split('-').next()? != arch {
        return None;
    }
    let file = PathBuf::from(said(&format!("-print-file-name={ARCHIVE}"))?.trim());
    // Without one it says the bare name.
    file.is_absolute().then_some(file)
}
