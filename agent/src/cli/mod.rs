//! The command line of stormlockd: what is asked, and what came of it as an exit code.

mod args;
mod check;
mod daemon;
mod dev;
mod exit;
mod journal;
mod log;
mod paths;
mod private;
mod process;
mod serve;
mod setup;
mod shell;
mod syslog;

use std::ffi::CString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use stormlock_agent::server::burial;

use self::args::{Args, Command};
use self::exit::Failure;

pub(crate) fn main() -> ExitCode {
    match catch_unwind(AssertUnwindSafe(perform)) {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(failure)) => {
            if !failure.is_told {
                eprintln!("{failure}");
            }
            ExitCode::from(failure.code)
        }
        Err(_) => {
            eprintln!("stormlockd: this is a bug of stormlock; please report what stands above");
            ExitCode::from(exit::SOFTWARE)
        }
    }
}

fn perform() -> Result<u8, Failure> {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(answer) => {
            if answer.use_stderr() {
                let text = args::mended(answer).render().to_string();
                return Err(Failure::usage(
                    text.strip_prefix("error: ").unwrap_or(&text).trim_end(),
                ));
            }
            // A broken pipe is all that can go wrong, and then nobody reads it.
            let _ = answer.print();
            return Ok(exit::OK);
        }
    };
    process::protect_secrets();
    match args.command {
        None => serve::serve(&args.serve).map(|()| exit::OK),
        Some(Command::Check(check)) => check::check(&check).map(|()| exit::OK),
        Some(Command::Import(import)) => check::import(&import).map(|()| exit::OK),
        Some(Command::Setup(setup)) => setup::setup(&setup).map(|()| exit::OK),
        Some(Command::Dev(dev)) => dev::dev(&dev),
        Some(Command::CloseFiles) => {
            close_files();
            Ok(exit::OK)
        }
    }
}

/// Ends when its input does, and with it what the agent left to it. Nobody waits for it, or hears
/// of anything from it.
fn close_files() {
    // Where it is seen at its end, what it was called by is not; and it is counted by this.
    if let Ok(name) = CString::new(burial::CLOSER_NAME) {
        let _ = rustix::thread::set_name(&name);
    }
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}
