//! The boot clock, which goes on while the host sleeps, and a timer that follows it.
//!
//! Not here: the wall clock ([`crate::time`]). No lease is judged by that one.

use std::io;
use std::ops::{Add, Sub};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A point on the boot clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    /// A moment that never comes.
    pub(crate) const NEVER: Moment = Moment(Duration::MAX);

    /// The beginning.
    pub(crate) const BOOT: Moment = Moment(Duration::ZERO);

    /// By libc, which has the kernel's page of clocks anyway: `rustix` would look for that page by
    /// itself, at each prompt.
    pub(crate) fn now() -> Moment {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("since Linux 2.6.39");
        Moment(now.into())
    }

    /// How long it is from here to `later`; nothing if that is past.
    pub(crate) fn until(self, later: Moment) -> Duration {
        later.0.saturating_sub(self.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, length: Duration) -> Moment {
        Moment(self.0.saturating_add(length))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, length: Duration) -> Moment {
        if self == Moment::NEVER { self } else { Moment(self.0.saturating_sub(length)) }
    }
}

/// A timer that rings at a [`Moment`], at once if that passed while the host slept.
#[derive(Debug)]
pub(crate) struct Alarm(OwnedFd);

impl Alarm {
    pub(crate) fn new() -> io::Result<Alarm> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Alarm(timerfd_create(TimerfdClockId::Boottime, flags)?))
    }

    /// Rings then and at no time that was set before; not at all with [`Moment::NEVER`].
    pub(crate) fn set(&self, at: Moment) -> io::Result<()> {
        // Zero would disarm, and a Moment at or before boot is past.
        let at = if at == Moment::NEVER { Duration::ZERO } else { at.0.max(Duration::new(0, 1)) };
        let at = Timespec {
            tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: at.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
