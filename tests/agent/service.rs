//! The agent as a service of its host: start, stop, reload, who may come in, and what supervisors
//! are told. Each is the real binary, run as administrators and systemd run it.

mod access;
mod commands;
mod daemon;
mod dev;
mod disk;
mod identity;
mod reload;
mod second;
mod stop;
mod systemd;
mod user;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::agent::program;
use crate::program::{Ran, run};

/// Longest time that one command of the agent may take.
const COMMAND_MAX: Duration = Duration::from_secs(60);

const OK: i32 = 0;
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const NO_PERMISSION: i32 = 77;
const CONFIG: i32 = 78;

/// A real Redis as the only backend, and the user of this test may do all.
fn on_redis(port: u16) -> String {
    let uid = rustix::process::geteuid().as_raw();
    format!(
        "host = \"alpha\"\n[backend.main]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{port}\"\n\
         [[rule]]\nwho = [\"uid:{uid}\"]\nmay = [\"acquire\", \"break\", \"read\"]\n"
    )
}

fn stormlockd(args: &[&str]) -> Command {
    let mut command = Command::new(program("stormlockd"));
    command.args(args);
    command
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// What a command printed, which succeeded.
fn ok(ran: Ran) -> String {
    assert_eq!(ran.code, Some(OK), "{ran:?}");
    ran.stdout
}

/// A failure with this code, which says all of these words on stderr and nothing on stdout.
fn says(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert_eq!(ran.stdout, "", "nothing on stdout when a command fails");
    for word in words {
        assert!(ran.stderr.contains(word), "{word} is missing: {}", ran.stderr);
    }
}

fn run_it(command: &mut Command) -> Ran {
    run(command, COMMAND_MAX)
}

/// The permission bits of a file.
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).mode() & 0o7777
}
