//! Refusals cost the refused nothing; so that nobody fills a disk with them, each user's are
//! written down so often and no more. In the agent's own log, too.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lease::{Moment, Uid};

/// Refusals of one user that are written down within [`WINDOW`]: what a person or a script does by
/// mistake.
const WRITTEN_MAX: u32 = 30;
const WINDOW: Duration = Duration::from_secs(60);
/// Users that are remembered; more than have a shell on a host.
const USERS_MAX: usize = 1024;

/// Who was refused how often of late.
#[derive(Debug, Default)]
pub struct Flood {
    users: BTreeMap<Uid, Tally>,
}

#[derive(Debug)]
struct Tally {
    ends: Moment,
    written: u32,
    untold: u64,
}

impl Flood {
    /// Counts a refusal. `None`: it is left out; else how many before it were.
    pub fn pass(&mut self, uid: Uid, now: Moment) -> Option<u64> {
        if self.users.len() >= USERS_MAX {
            self.users.retain(|_, tally| now < tally.ends);
        }
        let fresh = Tally { ends: now + WINDOW, written: 0, untold: 0 };
        let tally = self.users.entry(uid).or_insert(fresh);
        if now >= tally.ends {
            tally.ends = now + WINDOW;
            tally.written = 0;
        }
        if tally.written >= WRITTEN_MAX {
            tally.untold += 1;
            return None;
        }
        tally.written += 1;
        Some(std::mem::take(&mut tally.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_again_and_again_is_counted_and_nobody_else() {
        let mut flood = Flood::default();
        let start = Moment::from_nanos(1_000_000_000);
        let (eve, maria) = (Uid(1001), Uid(1000));
        let written = (0..100).filter(|_| flood.pass(eve, start).is_some()).count();
        assert_eq!(written, usize::try_from(WRITTEN_MAX).unwrap());
        assert_eq!(flood.pass(maria, start), Some(0));
        let later = start + WINDOW;
        assert_eq!(flood.pass(eve, later), Some(70));
        assert_eq!(flood.pass(eve, later), Some(0));
    }

    #[test]
    fn users_who_are_quiet_are_forgotten() {
        let mut flood = Flood::default();
        let start = Moment::from_nanos(1_000_000_000);
        for uid in 0..5_000 {
            flood.pass(Uid(uid), start + Duration::from_secs(u64::from(uid)));
        }
        assert!(flood.users.len() <= USERS_MAX);
    }
}
