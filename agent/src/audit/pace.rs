//! How fast one user may change things. Each change is a line in the audit file and in the system's
//! journal, and none is left out: whoever takes and gives back in a loop is slowed down, so that
//! they fill no disk and nobody's lines get lost among theirs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::lease::{Moment, Uid};

/// Lines of one user that are written as fast as they come: to take all leases that a user may have
/// and to give them back, four times over.
const AT_ONCE: u32 = 2048;
/// Further ones come as fast as this: no person is faster, and a day of it is less than two
/// gigabytes.
const EVERY: Duration = Duration::from_millis(50);
/// Users that are remembered before those are forgotten who have been quiet.
const USERS_MAX: usize = 1024;

/// Until when each user's lines would take, with one in [`EVERY`].
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<BTreeMap<Uid, Moment>>);

impl Pace {
    /// Waits until it is a user's turn again.
    pub(super) async fn of(&self, uid: Uid) {
        loop {
            let wait = self.wait(uid, clock::now());
            if wait.is_zero() {
                return;
            }
            clock::rest(wait).await;
        }
    }

    /// One line was written.
    pub(super) fn count(&self, uid: Uid) {
        self.add(uid, clock::now());
    }

    fn wait(&self, uid: Uid, now: Moment) -> Duration {
        let busy_until = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&uid).copied();
        busy_until.map_or(Duration::ZERO, |busy_until| {
            now.until(busy_until).saturating_sub(EVERY * AT_ONCE)
        })
    }

    fn add(&self, uid: Uid, now: Moment) {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS_MAX {
            users.retain(|_, busy_until| now < *busy_until);
        }
        let busy_until = users.entry(uid).or_insert(now);
        *busy_until = (*busy_until).max(now) + EVERY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVE: Uid = Uid(1001);
    const MARIA: Uid = Uid(1000);

    #[test]
    fn who_changes_things_in_a_loop_is_slowed_down_and_nobody_else() {
        let pace = Pace::default();
        let start = Moment::from_nanos(1_000_000_000);
        for _ in 0..AT_ONCE {
            assert_eq!(pace.wait(EVE, start), Duration::ZERO);
            pace.add(EVE, start);
        }
        pace.add(EVE, start);
        assert_eq!(pace.wait(EVE, start), EVERY);
        assert_eq!(pace.wait(EVE, start + EVERY), Duration::ZERO);
        assert_eq!(pace.wait(MARIA, start), Duration::ZERO);
    }

    #[test]
    fn users_who_are_quiet_are_forgotten() {
        let pace = Pace::default();
        let start = Moment::from_nanos(1_000_000_000);
        for uid in 0..5_000 {
            pace.add(Uid(uid), start + EVERY * uid);
        }
        let users = pace.0.lock().unwrap();
        assert!(users.len() <= USERS_MAX, "{}", users.len());
    }
}
