//! The only reader of the OS clock, and the two timers that follow it through suspend and through
//! steps of the wall clock. It wakes nobody periodically, and nothing here is counted in `Instant`.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use stormlock_protocol::name::UnixMs;
use tokio::io::unix::AsyncFd;

use crate::fd;
use crate::lease::Moment;

/// Now, on the boot clock (law 2).
#[must_use]
pub fn now() -> Moment {
    Moment::from_nanos(nanos(clock_gettime(ClockId::Boottime)))
}

/// Now, by the wall clock: for people, never for a deadline.
#[must_use]
pub fn wall() -> UnixMs {
    let time = clock_gettime(ClockId::Realtime);
    UnixMs(time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000))
}

/// A timer on the boot clock: it goes on while the host sleeps, and rings on resume if its Moment
/// passed meanwhile. tokio's own timers do not.
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
    at: Option<Moment>,
}

impl Alarm {
    /// An alarm that is not set. Call it inside a runtime.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Alarm> {
        Ok(Alarm { timer: timer(TimerfdClockId::Boottime)?, at: None })
    }

    /// Rings at `at` and not before, at once if that is past; `None` silences it. An earlier
    /// setting is forgotten, also when it is due and nobody has listened yet.
    pub fn set(&mut self, at: Option<Moment>) {
        let at = at.filter(|at| *at != Moment::NEVER);
        if at == self.at {
            return;
        }
        arm(&self.timer, at);
        self.at = at;
    }

    /// Waits until it rings; then it is no longer set. Never returns while it is not set. Dropping
    /// the future loses nothing.
    pub async fn rings(&mut self) {
        loop {
            match expiry(&self.timer).await {
                // Its reading clears the kernel's timer, so the next `set` must arm it again.
                Ok(()) => {
                    self.at = None;
                    return;
                }
                Err(Errno::INTR) => {}
                Err(_) => return pending().await,
            }
        }
    }
}

/// How far wall clock and boot clock may move apart before every lease is verified (law 2); less is
/// the everyday work of a time daemon.
pub const STEP_MAX: Duration = Duration::from_secs(2);

/// What the clocks did, seen from outside the usual flow of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    /// The wall clock was set by more than [`STEP_MAX`]; so many milliseconds forward.
    Stepped {
        /// Forward; negative when it was set back.
        ms: i64,
    },
    /// The host slept that long.
    Slept(Duration),
}

/// Waits for so long, whether the host is awake or asleep.
///
/// # Errors
/// When the kernel gives no timer.
pub async fn pause(length: Duration) -> io::Result<()> {
    let mut alarm = Alarm::new()?;
    alarm.set(Some(now() + length));
    alarm.rings().await;
    Ok(())
}

/// Waits for about so long, without a file of its own as each [`pause`] has: for what clients do as
/// often as they like. A sleep of the host does not count.
pub async fn rest(length: Duration) {
    let _ = tokio::time::timeout(length, std::future::pending::<()>()).await;
}

/// Notices steps of the wall clock and resumes from sleep at the instant they happen: the kernel
/// cancels a timer on the wall clock (`TFD_TIMER_CANCEL_ON_SET`), so nothing has to look again and
/// again.
#[derive(Debug)]
pub struct JumpWatch {
    timer: AsyncFd<OwnedFd>,
    seen: Clocks,
}

impl JumpWatch {
    /// Watches from now on. Call it inside a runtime.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<JumpWatch> {
        let timer = timer(TimerfdClockId::Realtime)?;
        // The kernel caps this at the last instant that it can count.
        let never = Timespec { tv_sec: i64::MAX, tv_nsec: 0 };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        match timerfd_settime(&timer, flags, &once(never)) {
            // Canceled: the clock was set between the two calls, and the timer is set all the same.
            Ok(_) | Err(Errno::CANCELED) => {}
            Err(error) => return Err(error.into()),
        }
        // Only now: a step before this line is in the first reading, one after it cancels.
        Ok(JumpWatch { timer, seen: Clocks::read() })
    }

    /// Waits until the clocks jump. Small steps add up until they are worth a [`Jump`]. Dropping
    /// the future loses nothing.
    pub async fn jumps(&mut self) -> Jump {
        loop {
            match expiry(&self.timer).await {
                Ok(()) | Err(Errno::CANCELED | Errno::INTR) => {}
                Err(_) => return pending().await,
            }
            let clocks = Clocks::read();
            if let Some(jump) = clocks.since(self.seen) {
                self.seen = clocks;
                return jump;
            }
        }
    }
}

/// The distances between the three clocks, which no flow of time changes: a wall clock that is
/// slewed takes the others with it.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    /// Wall clock less boot clock.
    wall_ms: i64,
    /// Boot clock less the one that stops while the host sleeps.
    asleep: Duration,
}

impl Clocks {
    fn read() -> Clocks {
        let running = nanos(clock_gettime(ClockId::Monotonic));
        let boot = nanos(clock_gettime(ClockId::Boottime));
        let boot_ms = i64::try_from(boot / 1_000_000).unwrap_or(i64::MAX);
        Clocks {
            wall_ms: wall().0.saturating_sub(boot_ms),
            asleep: Duration::from_nanos(boot.saturating_sub(running)),
        }
    }

    /// A step is told before a sleep: after a sleep that the boot clock missed (a virtual machine
    /// that was paused) the step is all there is to see.
    fn since(self, before: Clocks) -> Option<Jump> {
        let step_ms = self.wall_ms.saturating_sub(before.wall_ms);
        if u128::from(step_ms.unsigned_abs()) > STEP_MAX.as_millis() {
            return Some(Jump::Stepped { ms: step_ms });
        }
        let slept = self.asleep.saturating_sub(before.asleep);
        (slept > STEP_MAX).then_some(Jump::Slept(slept))
    }
}

fn timer(clock: TimerfdClockId) -> io::Result<AsyncFd<OwnedFd>> {
    fd::watch(timerfd_create(clock, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?)
}

fn arm(timer: &AsyncFd<OwnedFd>, at: Option<Moment>) {
    // Zero would disarm, and a Moment at or before boot is past.
    let nanos = at.map_or(0, |at| at.as_nanos().max(1));
    let time = Timespec {
        tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
    };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &once(time))
        .expect("the kernel sets a timer of ours to any time that a Timespec can hold");
}

fn once(at: Timespec) -> Itimerspec {
    Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at }
}

/// Waits for the timer and takes its expiry. An error other than `CANCELED` and `INTR` means that
/// the runtime is going away.
async fn expiry(timer: &AsyncFd<OwnedFd>) -> Result<(), Errno> {
    loop {
        let mut ready = timer.readable().await.map_err(|_| Errno::SHUTDOWN)?;
        let mut count = [0; 8];
        match rustix::io::read(timer, &mut count) {
            Err(Errno::AGAIN) => ready.clear_ready(),
            other => return other.map(drop),
        }
    }
}

fn nanos(time: Timespec) -> u64 {
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(30);
    const LONG: Duration = Duration::from_secs(3600);

    fn in_runtime<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test)
    }

    #[test]
    fn an_alarm_rings_at_its_moment_and_not_before() {
        in_runtime(async {
            let mut alarm = Alarm::new().unwrap();
            let at = now() + SOON;
            alarm.set(Some(at));
            alarm.rings().await;
            assert!(now() >= at);
            assert!(at.until(now()) < LONG);
        });
    }

    #[test]
    fn an_alarm_set_into_the_past_rings_at_once() {
        in_runtime(async {
            let mut alarm = Alarm::new().unwrap();
            for past in [Moment::BOOT, now() - SOON] {
                alarm.set(Some(past));
                alarm.rings().await;
            }
        });
    }

    #[test]
    fn the_last_setting_of_an_alarm_counts() {
        in_runtime(async {
            let mut alarm = Alarm::new().unwrap();
            alarm.set(Some(now() + LONG));
            let at = now() + SOON;
            alarm.set(Some(at));
            alarm.rings().await;
            assert!(now() >= at);
        });
    }

    #[test]
    fn an_alarm_that_is_silenced_or_rang_does_not_ring() {
        in_runtime(async {
            let mut silenced = Alarm::new().unwrap();
            let mut rang = Alarm::new().unwrap();
            let mut witness = Alarm::new().unwrap();
            silenced.set(Some(Moment::BOOT));
            silenced.set(None);
            rang.set(Some(Moment::BOOT));
            rang.rings().await;
            witness.set(Some(now() + SOON));
            tokio::select! {
                biased;
                () = silenced.rings() => panic!("rang though it was silenced"),
                () = rang.rings() => panic!("rang twice for one setting"),
                () = witness.rings() => {}
            }
        });
    }

    #[test]
    fn an_alarm_rings_again_for_the_same_moment_when_it_is_set_again() {
        in_runtime(async {
            let mut alarm = Alarm::new().unwrap();
            let past = now();
            for _ in 0..2 {
                alarm.set(Some(past));
                alarm.rings().await;
            }
        });
    }

    #[test]
    fn never_is_a_moment_that_can_be_set() {
        in_runtime(async {
            let mut alarm = Alarm::new().unwrap();
            let mut witness = Alarm::new().unwrap();
            alarm.set(Some(Moment::from_nanos(u64::MAX - 1)));
            alarm.set(Some(Moment::NEVER));
            witness.set(Some(now() + SOON));
            tokio::select! {
                () = alarm.rings() => panic!("never came"),
                () = witness.rings() => {}
            }
        });
    }

    #[test]
    fn no_jump_is_seen_where_none_was() {
        in_runtime(async {
            let mut watch = JumpWatch::new().unwrap();
            let mut witness = Alarm::new().unwrap();
            witness.set(Some(now() + SOON));
            tokio::select! {
                jump = watch.jumps() => panic!("{jump:?} out of nothing"),
                () = witness.rings() => {}
            }
        });
    }

    fn check(wall_ms: i64, asleep_ms: u64, expected: Option<Jump>) {
        let before = Clocks { wall_ms: 1_700_000_000_000, asleep: Duration::from_secs(60) };
        let after = Clocks {
            wall_ms: before.wall_ms + wall_ms,
            asleep: before.asleep + Duration::from_millis(asleep_ms),
        };
        assert_eq!(after.since(before), expected, "{wall_ms} {asleep_ms}");
    }

    #[test]
    fn a_step_of_more_than_two_seconds_or_a_sleep_is_a_jump() {
        check(0, 0, None);
        check(2000, 0, None);
        check(-2000, 2000, None);
        check(2001, 0, Some(Jump::Stepped { ms: 2001 }));
        check(-2001, 0, Some(Jump::Stepped { ms: -2001 }));
        check(0, 2001, Some(Jump::Slept(Duration::from_millis(2001))));
        check(5000, 9000, Some(Jump::Stepped { ms: 5000 }));
    }
}
