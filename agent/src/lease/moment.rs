//! A point on the host's boot clock, and the arithmetic of deadlines.
//!
//! It never reads a clock: `clock.rs` does, and the simulation has its own.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds since boot, time asleep included (CLOCK_BOOTTIME). Law 2: `Instant` and tokio's
/// timers stop while a laptop sleeps, and the store does not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// The boot itself; also what a point before it becomes.
    pub const BOOT: Moment = Moment(0);
    /// Later than any that comes.
    pub const NEVER: Moment = Moment(u64::MAX);

    /// A point so many nanoseconds after boot.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Moment {
        Moment(nanos)
    }

    /// Nanoseconds after boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long until `later`; zero when it is past.
    #[must_use]
    pub const fn until(self, later: Moment) -> Duration {
        Duration::from_nanos(later.0.saturating_sub(self.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, length: Duration) -> Moment {
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, length: Duration) -> Moment {
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_sub(nanos))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}
