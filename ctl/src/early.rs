//! The answer to a prompt's question before std is ready for a program. Its start has glibc read
//! all of `/proc/self/maps` for the end of the stack, a tenth of what a prompt takes. Of the rest a
//! prompt needs the care for broken pipes, which is here; that a closed stdout becomes `/dev/null`
//! is nothing to one that has closed its socket before it writes. Whatever else is asked for is not
//! touched: `main` comes next.
//!
//! Not with musl: that start is a fiftieth of a prompt there, and nobody knows the arguments yet.

use std::ffi::OsString;
use std::{env, panic, process};

use nix::sys::signal::{SigSet, Signal};

use crate::command::prompt;
use crate::compat;

const SHOWN: i32 = 0;
/// What a program of std returns after a panic.
const PANICKED: i32 = 101;

// SAFETY: glibc calls what is here once, with the program's arguments, which are left to std.
#[unsafe(link_section = ".init_array")]
#[used]
#[expect(unsafe_code, reason = "there is no other place before main")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    // Std has an entry of its own before this one, by which glibc hands it the arguments.
    let argv: Vec<OsString> = env::args_os().collect();
    if compat::is_called(argv.first()) {
        return;
    }
    if let Some(surface) = prompt::is_asked(&argv)
        && is_without_sigpipe()
    {
        let shown = panic::catch_unwind(|| prompt::answer_shell(surface));
        end(shown.map_or(PANICKED, |()| SHOWN));
    }
}

/// A pipe that nobody reads any more is an error then, and not the end.
fn is_without_sigpipe() -> bool {
    SigSet::from(Signal::SIGPIPE).thread_block().is_ok()
}

#[expect(clippy::disallowed_methods, reason = "there is no main yet to return from")]
fn end(code: i32) -> ! {
    process::exit(code)
}
