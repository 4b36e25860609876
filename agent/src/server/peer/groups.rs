//! What the names of groups in rules stand for on this host. They are asked for by these names and
//! not by the numbers of a caller's groups: rules are the site's, and whoever has subordinate
//! groups (`/etc/subgid`) is in a thousand that nobody has looked up yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use nix::errno::Errno;
use nix::unistd::{Gid, Group};
use tokio::sync::Semaphore;

use super::{NAMES_FRESH, locked};
use crate::clock;
use crate::lease::Moment;
use crate::policy::GroupNames;

/// How long it takes until a name is asked for again that nobody knew: a group may have come, or a
/// directory service be back.
const AGAIN: Duration = Duration::from_secs(5);
/// Who waits for an answer does so for a request of theirs, and has their own patience.
const PATIENCE: Duration = Duration::from_secs(1);
/// A service that hangs holds no more threads than these.
const LOOKUPS_MAX: usize = 4;

/// Remembers them for a while; asks once for all who want to know.
#[derive(Debug)]
pub(super) struct Groups {
    known: Arc<Mutex<Known>>,
    lookups: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Known {
    names: Arc<GroupNames>,
    /// When each may be asked for again; `NEVER` while somebody does.
    due: BTreeMap<String, Moment>,
}

impl Groups {
    pub(super) fn new() -> Groups {
        Groups { known: Arc::default(), lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    /// What is known of these by now. Waits a little for what is to be asked for; what does not
    /// come in time is there for who asks later, and what was known stays so meanwhile, for names
    /// keep their numbers.
    pub(super) async fn named(&self, wanted: &BTreeSet<String>) -> Arc<GroupNames> {
        // They go on, whoever asked for them hangs up.
        let asked = self.take_due(wanted).into_iter().map(|name| {
            let (known, lookups) = (Arc::clone(&self.known), Arc::clone(&self.lookups));
            tokio::spawn(look_up(known, lookups, name))
        });
        if tokio::time::timeout(PATIENCE, join_all(asked)).await.is_err() {
            tracing::warn!("looking up the names of groups takes long");
        }
        Arc::clone(&locked(&self.known).names)
    }

    /// Those that are to be asked for now, by this caller alone. Names that no rule has any more
    /// are forgotten.
    fn take_due(&self, wanted: &BTreeSet<String>) -> Vec<String> {
        let now = clock::now();
        let mut known = locked(&self.known);
        let is_due = |name: &&String| known.due.get(*name).is_none_or(|due| *due <= now);
        let due: Vec<String> = wanted.iter().filter(is_due).cloned().collect();
        if !due.is_empty() {
            known.due.retain(|name, _| wanted.contains(name));
            known.due.extend(due.iter().map(|name| (name.clone(), Moment::NEVER)));
        }
        due
    }
}

/// Asks, and writes down what came of it.
async fn look_up(known: Arc<Mutex<Known>>, lookups: Arc<Semaphore>, name: String) {
    let Ok(permit) = lookups.acquire_owned().await else { return };
    let looked_up = tokio::task::spawn_blocking(move || {
        let found = number(&name);
        let pause = if matches!(found, Ok(Some(_))) { NAMES_FRESH } else { AGAIN };
        let mut known = locked(&known);
        if let Ok(gid) = found {
            known.names = Arc::new(known.names.with(&name, gid));
        }
        known.due.insert(name, clock::now() + pause);
        drop(permit);
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
        let hangs = Arc::clone(&groups.lookups).acquire_many_owned(permits).await.unwrap();
        locked(&groups.known).due.insert("adm".to_owned(), Moment::BOOT);
        let both = wanted(&["adm", "tty"]);
        let gids = |names: Arc<GroupNames>| (names.gid("adm"), names.gid("tty"));
        assert_eq!(gids(groups.named(&both).await), (Some(Some(4)), None));
        let again = tokio::time::timeout(PATIENCE / 2, groups.named(&both)).await;
        assert_eq!(gids(again.expect("at once")), (Some(Some(4)), None));
        drop(hangs);
        // Nobody has to ask again for what was asked for.
        while locked(&groups.known).names.gid("tty").is_none() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_name_that_nobody_knew_is_asked_for_again_soon() {
        let groups = Groups::new();
        groups.named(&wanted(&["adm", "no such group"])).await;
        let due = locked(&groups.known).due.clone();
        assert!(due["no such group"] < clock::now() + AGAIN, "{due:?}");
        assert!(due["adm"] > clock::now() + AGAIN, "{due:?}");
    }
}
