//! The terminal, lent to the command's group while that is at work, as a shell lends it to a job.

use std::fs::File;
use std::io::{IsTerminal, stdin, stdout};

// A group of outside this container has the number 0, which rustix has no word for.
use nix::errno::Errno;
use nix::sys::signal::killpg;
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The terminal that controls this process.
#[derive(Debug)]
pub(crate) struct Terminal {
    tty: File,
    before: Option<Termios>,
    is_lent: bool,
}

impl Terminal {
    pub(crate) fn find() -> Option<Terminal> {
        let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let before = tcgetattr(&tty).ok();
        Some(Terminal { tty, before, is_lent: false })
    }

    /// True when the command is to have it from its beginning. Beside others in a pipe it is only
    /// once it asks, by being stopped for it: a pager there needs the terminal too.
    pub(crate) fn is_wanted() -> bool {
        stdin().is_terminal() && stdout().is_terminal()
    }

    /// True while this process's group has it.
    pub(crate) fn is_ours(&self) -> bool {
        tcgetpgrp(&self.tty).is_ok_and(|group| group == getpgrp())
    }

    /// Lends it to a group, if it is ours.
    pub(crate) fn lend(&mut self, to: Pid) {
        if self.is_ours() {
            self.is_lent = tcsetpgrp(&self.tty, to).is_ok();
        }
    }

    /// Takes it back from the group that it was lent to, or from one of its own that is no more.
    /// True if it was lent.
    pub(crate) fn take_back(&mut self, from: Pid) -> bool {
        if !self.is_lent {
            return false;
        }
        let has = tcgetpgrp(&self.tty);
        let is_gone = |group| killpg(group, None) == Err(Errno::ESRCH);
        if has.is_ok_and(|group| group == from || is_gone(group)) {
            let _ = tcsetpgrp(&self.tty, getpgrp());
        }
        self.is_lent = false;
        true
    }

    /// Sets it as it was: what was killed had no time for that.
    pub(crate) fn mend(&self) {
        if let (Some(before), true) = (&self.before, self.is_ours()) {
            let _ = tcsetattr(&self.tty, OptionalActions::Now, before);
        }
    }
}
