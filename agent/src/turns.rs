//! What takes long and others need too: a store that has the leases of others to renew, the names
//! of users and groups, the audit file. One user has one of these under way at once, or a few.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock;
use crate::lease::Uid;

/// So many at once, of one user: with more each would stand in the others' way as two.
const AT_ONCE: usize = 1;
/// The same of what is asked about one lock.
const ONE_LOCK_AT_ONCE: usize = 4;
/// How long one takes at least: whoever asks again and again waits for that.
const PAUSE: Duration = Duration::from_millis(50);

/// Whose questions are under way.
#[derive(Debug)]
pub(crate) struct Turns {
    at_once: usize,
    pause: Duration,
    users: Mutex<BTreeMap<Uid, Arc<Semaphore>>>,
}

/// One of them; the next may begin a little after it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    pause: Duration,
}

impl Turns {
    /// Those of questions to stores.
    pub(crate) fn of_stores() -> Turns {
        Turns::new(AT_ONCE, PAUSE)
    }

    /// Those of questions about one lock each: a store may be a program that answers one after the
    /// other, and whoever has many sessions is not to keep it from everybody else's.
    pub(crate) fn of_one_lock() -> Turns {
        Turns::new(ONE_LOCK_AT_ONCE, Duration::ZERO)
    }

    /// So many at once, each with a pause after it.
    pub(crate) fn new(at_once: usize, pause: Duration) -> Turns {
        Turns { at_once, pause, users: Mutex::default() }
    }

    /// Waits until it is the user's turn.
    pub(crate) async fn of(&self, uid: Uid) -> Turn {
        let turns = {
            let mut all = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody is in those that nobody else has.
            all.retain(|_, turns| Arc::strong_count(turns) > 1);
            Arc::clone(all.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(self.at_once))))
        };
        Turn { permit: turns.acquire_owned().await.ok(), pause: self.pause }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (permit, pause) = (self.permit.take(), self.pause);
        if !pause.is_zero() {
            tokio::spawn(async move {
                clock::rest(pause).await;
                drop(permit);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_user_waits_for_their_own_turns_and_nobody_elses() {
        let turns = Turns::of_stores();
        let mine = turns.of(Uid(1)).await;
        let second = tokio::time::timeout(PAUSE * 4, turns.of(Uid(1))).await;
        assert!(second.is_err());
        let _other = turns.of(Uid(2)).await;
        drop(mine);
        let _next = turns.of(Uid(1)).await;
    }
}
