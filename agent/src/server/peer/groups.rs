//! What the names of groups in rules stand for on this host. They are asked for by these names and
//! not by the numbers of a caller's groups: rules are the site's, and whoever has subordinate
//! groups (`/etc/subgid`) is in a thousand that nobody has looked up yet.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{Gid, Group};
use tokio::sync::{Notify, Semaphore};

use super::{NAMES_FRESH, locked};
use crate::clock;
use crate::lease::Moment;
use crate::policy::GroupNames;

/// How long it takes until a name is asked for again that nobody knew: a group may have come, or a
/// directory service be back.
const AGAIN: Duration = Duration::from_secs(5);
/// Who waits for an answer does so for a request of theirs, and has their own patience.
const PATIENCE: Duration = Duration::from_secs(1);
/// A service that hangs holds no more threads than these: far more names than rules go by.
const LOOKUPS_MAX: usize = 32;

/// Remembers them for a while; asks once for all who want to know.
#[derive(Debug)]
pub(super) struct Groups {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    known: Mutex<Known>,
    lookups: Arc<Semaphore>,
    /// An answer came.
    bell: Notify,
}

#[derive(Debug, Default)]
struct Known {
    names: Arc<GroupNames>,
    asked: BTreeMap<String, Asked>,
}

/// When a name was asked for, and that is under way; or when it may be again.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Since(Moment),
    Again(Moment),
}

impl Groups {
    pub(super) fn new() -> Groups {
        let (known, bell) = (Mutex::default(), Notify::new());
        let lookups = Arc::new(Semaphore::new(LOOKUPS_MAX));
        Groups { shared: Arc::new(Shared { known, lookups, bell }) }
    }

    /// What is known of these by now. Waits a little for what is being asked for; what does not
    /// come in time is there for who asks later, and what was known stays so meanwhile, for names
    /// keep their numbers.
    pub(super) async fn named(&self, wanted: &BTreeSet<String>) -> Arc<GroupNames> {
        for name in self.take_due(wanted) {
            // It goes on, whoever asked for it hangs up.
            tokio::spawn(look_up(Arc::clone(&self.shared), name));
        }
        if let Some(since) = self.under_way(wanted) {
            let left = clock::now().until(since + PATIENCE);
            if tokio::time::timeout(left, self.answers(wanted)).await.is_err() && !left.is_zero() {
                tracing::warn!("looking up the names of groups takes long");
            }
        }
        Arc::clone(&locked(&self.shared.known).names)
    }

    /// Those that are to be asked for now, by this caller alone. Names that no rule has any more
    /// are forgotten.
    fn take_due(&self, wanted: &BTreeSet<String>) -> Vec<String> {
        let now = clock::now();
        let mut known = locked(&self.shared.known);
        let is_due = |name: &&String| match known.asked.get(*name) {
            None => true,
            Some(Asked::Again(at)) => *at <= now,
            Some(Asked::Since(_)) => false,
        };
        let due: Vec<String> = wanted.iter().filter(is_due).cloned().collect();
        if !due.is_empty() {
            let under_way = |asked: &Asked| matches!(asked, Asked::Since(_));
            known.asked.retain(|name, asked| wanted.contains(name) || under_way(asked));
            known.asked.extend(due.iter().map(|name| (name.clone(), Asked::Since(now))));
        }
        due
    }

    /// Since when the latest of these is being asked for; `None` when none is.
    fn under_way(&self, wanted: &BTreeSet<String>) -> Option<Moment> {
        let known = locked(&self.shared.known);
        let since = wanted.iter().filter_map(|name| match known.asked.get(name) {
            Some(Asked::Since(at)) => Some(*at),
            Some(Asked::Again(_)) | None => None,
        });
        since.max()
    }

    /// Returns once none of these is being asked for.
    async fn answers(&self, wanted: &BTreeSet<String>) {
        loop {
            let mut rings = pin!(self.shared.bell.notified());
            rings.as_mut().enable();
            if self.under_way(wanted).is_none() {
                return;
            }
            rings.await;
        }
    }
}

/// Asks, and writes down what came of it.
async fn look_up(shared: Arc<Shared>, name: String) {
    let Ok(permit) = Arc::clone(&shared.lookups).acquire_owned().await else { return };
    let looked_up = tokio::task::spawn_blocking(move || {
        let found = number(&name);
        let pause = if matches!(found, Ok(Some(_))) { NAMES_FRESH } else { AGAIN };
        let mut known = locked(&shared.known);
        if let Ok(gid) = found {
            known.names = Arc::new(known.names.with(&name, gid));
        }
        known.asked.insert(name, Asked::Again(clock::now() + pause));
        drop((known, permit));
        shared.bell.notify_waiters();
    });
    // A panic in it leaves what was known.
    let _ = looked_up.await;
}

/// The number that a name has here, if any. Blocks for as long as the host's name services like.
fn number(name: &str) -> Result<Option<u32>, Errno> {
    let found = Group::from_name(name).inspect_err(|error| {
        tracing::warn!(%error, name, "the name of a group cannot be looked up");
    });
    match found? {
        Some(group) => Ok(Some(group.gid.as_raw())),
        // Rules have a number for a group that has no name.
        None => match name.parse::<u32>().ok().filter(|gid| gid.to_string() == name) {
            Some(gid) if Group::from_gid(Gid::from_raw(gid))?.is_none() => Ok(Some(gid)),
            _ => Ok(None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn rules_name_groups_and_numbers_of_groups_without_a_name() {
        let groups = Groups::new();
        // 4 is adm on every Debian; nobody has the others.
        let all = wanted(&["adm", "no such group", "54321", "4", "054321", "+54321"]);
        let names = groups.named(&all).await;
        assert_eq!(names.gid("adm"), Some(Some(4)));
        assert_eq!(names.gid("54321"), Some(Some(54321)));
        for nobody in ["no such group", "4", "054321", "+54321"] {
            assert_eq!(names.gid(nobody), Some(None), "{nobody}");
        }
        assert_eq!(names.gid("tty"), None, "nobody asked for it");
    }

    #[tokio::test]
    async fn a_service_that_hangs_is_waited_for_once_and_what_was_known_stays_so() {
        let groups = Groups::new();
        groups.named(&wanted(&["adm"])).await;
        let permits = u32::try_from(LOOKUPS_MAX).unwrap();
        let lookups = Arc::clone(&groups.shared.lookups);
        let hangs = lookups.acquire_many_owned(permits).await.unwrap();
        let again = Asked::Again(Moment::BOOT);
        locked(&groups.shared.known).asked.insert("adm".to_owned(), again);
        let both = wanted(&["adm", "tty"]);
        let gids = |names: Arc<GroupNames>| (names.gid("adm"), names.gid("tty"));
        assert_eq!(gids(groups.named(&both).await), (Some(Some(4)), None));
        let again = tokio::time::timeout(PATIENCE / 2, groups.named(&both)).await;
        assert_eq!(gids(again.expect("at once")), (Some(Some(4)), None));
        // No rule has them for a while: they are not asked for a second time.
        groups.named(&wanted(&[])).await;
        assert!(groups.take_due(&both).is_empty());
        drop(hangs);
        groups.answers(&both).await;
        assert_eq!(gids(groups.named(&both).await), (Some(Some(4)), Some(Some(5))));
    }

    #[tokio::test]
    async fn who_comes_while_a_name_is_asked_for_waits_for_it_too() {
        let groups = Groups::new();
        let permits = u32::try_from(LOOKUPS_MAX).unwrap();
        let lookups = Arc::clone(&groups.shared.lookups);
        let slow = lookups.acquire_many_owned(permits).await.unwrap();
        let adm = wanted(&["adm"]);
        let all = async { tokio::join!(groups.named(&adm), groups.named(&adm)) };
        let comes = async {
            while groups.under_way(&adm).is_none() {
                tokio::task::yield_now().await;
            }
            drop(slow);
        };
        let ((first, second), ()) = tokio::join!(all, comes);
        assert_eq!((first.gid("adm"), second.gid("adm")), (Some(Some(4)), Some(Some(4))));
    }

    #[tokio::test]
    async fn a_name_that_nobody_knew_is_asked_for_again_soon() {
        let groups = Groups::new();
        groups.named(&wanted(&["adm", "no such group"])).await;
        let again = |name: &str| match locked(&groups.shared.known).asked[name] {
            Asked::Again(at) => at,
            Asked::Since(_) => panic!("it was answered"),
        };
        assert!(again("no such group") < clock::now() + AGAIN);
        assert!(again("adm") > clock::now() + AGAIN);
    }
}
