//! `init`: what binds other programs to locks. Each of them has a file of its own; none needs an
//! agent.

mod systemd;

use crate::args::{Init, Initial};
use crate::exit::{Answer, Failure};

/// Runs the command.
pub(crate) fn run(args: &Init) -> Result<Answer, Failure> {
    match &args.what {
        Initial::Systemd(args) => systemd::run(args),
    }
}
