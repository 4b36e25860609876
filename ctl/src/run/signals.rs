//! Signals as something that can be read and waited for, in their turn with everything else. No
//! disposition is changed, so the command inherits what this process was started with.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What the whole group gets when this process gets it: what people and tools send to end a program
/// or to ask something of it, and what timers bring. Not SIGPIPE, which comes of our own writing,
/// nor what the kernel tells a process of its own faults and limits.
const FORWARDED: [Signal; 12] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGWINCH,
];
/// What is read beside them. A group in the background that sets the terminal's would be stopped by
/// SIGTTOU.
const READ: [Signal; 5] =
    [Signal::SIGCHLD, Signal::SIGCONT, Signal::SIGTSTP, Signal::SIGTTOU, Signal::SIGTTIN];

/// Signals that came.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

/// One that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// To be passed on.
    Forward(rustix::process::Signal),
    /// The terminal or somebody else wants this job to stand still.
    Stop,
    /// It goes on.
    Continue,
    /// A child changed, or nothing that matters here.
    Other,
}

impl Signals {
    /// From now on they are read here and do nothing else. Every other thread is
    /// started after it, or by [`thread_without`].
    pub(crate) fn block() -> io::Result<Signals> {
        let set: SigSet = FORWARDED.into_iter().chain(READ).collect();
        set.thread_block()?;
        Ok(Signals(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// The same, and no other that may be kept from it does anything either: nothing but SIGKILL
    /// and SIGSTOP, those that the C library keeps for itself, and this process's own faults.
    pub(crate) fn block_all() -> io::Result<Signals> {
        SigSet::all().thread_block()?;
        Signals::block()
    }

    /// The next one, if there is one.
    pub(crate) fn next(&self) -> Option<Came> {
        let number = self.0.read_signal().ok().flatten()?.ssi_signo;
        let signal = i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok());
        Some(match signal {
            Some(signal) if FORWARDED.contains(&signal) => {
                rustix::process::Signal::from_named_raw(signal as i32)
                    .map_or(Came::Other, Came::Forward)
            }
            Some(Signal::SIGTSTP) => Came::Stop,
            Some(Signal::SIGCONT) => Came::Continue,
            _ => Came::Other,
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Starts a thread that takes no signal: it may go on when [`Signals::block`] is called, and what
/// came to it would end the process.
pub(crate) fn thread_without(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    before.thread_set_mask()?;
    started.map(drop)
}

/// Stands still as the terminal's Ctrl-Z makes a job stand still, this process's whole group, until
/// somebody continues it. The kernel does not let a group stop that nobody could continue.
pub(crate) fn stand_still() -> io::Result<()> {
    let stop: SigSet = [Signal::SIGTSTP].into_iter().collect();
    nix::sys::signal::killpg(nix::unistd::getpgrp(), Signal::SIGTSTP)?;
    // Here it stops; what it does not stop for is spent.
    stop.thread_unblock()?;
    stop.thread_block()?;
    Ok(())
}
