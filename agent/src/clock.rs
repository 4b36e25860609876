//! The only reader of the OS clock.

use rustix::time::{ClockId, clock_gettime};
use stormlock_protocol::name::UnixMs;

use crate::lease::Moment;

/// Now, on the boot clock (law 2).
#[must_use]
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Moment::from_nanos(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Now, by the wall clock: for people, never for a deadline.
#[must_use]
pub fn wall() -> UnixMs {
    let time = clock_gettime(ClockId::Realtime);
    UnixMs(time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000))
}
