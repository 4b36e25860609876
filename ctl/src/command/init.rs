//! `init`: what binds other programs to locks. Each of them has a file of its own; none needs an
//! agent.

mod shell;
mod systemd;

use crate::args::{Init, Initial, Shell};
use crate::exit::{Answer, Failure};

/// Runs the command.
pub(crate) fn run(args: &Init) -> Result<Answer, Failure> {
    match &args.what {
        Initial::Bash(args) => Ok(shell::run(Shell::Bash, args)),
        Initial::Zsh(args) => Ok(shell::run(Shell::Zsh, args)),
        Initial::Fish(args) => Ok(shell::run(Shell::Fish, args)),
        Initial::Systemd(args) => systemd::run(args),
    }
}
