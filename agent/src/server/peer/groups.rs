//! What the names of groups in rules stand for on this host. They are asked for by these names and
//! not by the numbers of a caller's groups: rules are the site's, and whoever has subordinate
//! groups (`/etc/subgid`) is in a thousand that nobody has looked up yet.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::unistd::Group;
use tokio::sync::Semaphore;

use super::{LOOKUP_PATIENCE, NAMES_FRESH, locked};
use crate::clock;
use crate::lease::Moment;
use crate::policy::GroupNames;

/// Remembers them for a while; asks once for all who want to know.
#[derive(Debug)]
pub(super) struct Groups {
    known: Arc<Mutex<Known>>,
    /// A service that hangs holds no more threads than this.
    pub(super) lookups: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Known {
    names: Arc<GroupNames>,
    until: Option<Moment>,
}

impl Groups {
    pub(super) fn new() -> Groups {
        Groups { known: Arc::default(), lookups: Arc::new(Semaphore::new(1)) }
    }

    /// What is known of these by now. Waits no longer than [`LOOKUP_PATIENCE`]; a directory service
    /// that does not answer leaves what it said before, for names keep their numbers.
    pub(super) async fn named(&self, wanted: &BTreeSet<String>) -> Arc<GroupNames> {
        if let Some(names) = self.fresh(wanted) {
            return names;
        }
        if tokio::time::timeout(LOOKUP_PATIENCE, self.look_up(wanted)).await.is_err() {
            tracing::warn!("looking up the names of groups takes long");
            // Who asks next need not wait for it as well.
            locked(&self.known).until = Some(clock::now() + NAMES_FRESH);
        }
        Arc::clone(&locked(&self.known).names)
    }

    fn fresh(&self, wanted: &BTreeSet<String>) -> Option<Arc<GroupNames>> {
        let known = locked(&self.known);
        let is_fresh = known.until.is_some_and(|until| clock::now() < until);
        let has_all = wanted.iter().all(|name| known.names.knows(name));
        (is_fresh && has_all).then(|| Arc::clone(&known.names))
    }

    /// What comes too late for its asker is still there for the next.
    async fn look_up(&self, wanted: &BTreeSet<String>) {
        let Ok(permit) = Arc::clone(&self.lookups).acquire_owned().await else { return };
        if self.fresh(wanted).is_some() {
            return;
        }
        let (known, wanted) = (Arc::clone(&self.known), wanted.clone());
        let looked_up = tokio::task::spawn_blocking(move || {
            let before = Arc::clone(&locked(&known).names);
            let names = wanted.iter().filter_map(|name| number(name, &before)).collect();
            let names = Arc::new(GroupNames::new(names));
            *locked(&known) = Known { names, until: Some(clock::now() + NAMES_FRESH) };
            drop(permit);
        });
        // A panic in it leaves what was known.
        let _ = looked_up.await;
    }
}

/// A name with the number it has here, if any; nothing when that cannot be known. Blocks for as
/// long as the host's name services like.
fn number(name: &str, before: &GroupNames) -> Option<(String, Option<u32>)> {
    let gid = match Group::from_name(name) {
        Ok(Some(group)) => Some(group.gid.as_raw()),
        // Rules have a number for a group that has no name.
        Ok(None) => name.parse().ok(),
        Err(error) => {
            if error != Errno::EINTR {
                tracing::warn!(%error, name, "the name of a group cannot be looked up");
            }
            before.gid(name)?
        }
    };
    Some((name.to_owned(), gid))
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
        let names = groups.named(&wanted(&["adm", "no such group", "54321"])).await;
        assert_eq!(names.gid("adm"), Some(Some(4)));
        assert_eq!(names.gid("no such group"), Some(None));
        assert_eq!(names.gid("54321"), Some(Some(54321)));
        assert_eq!(names.gid("tty"), None, "nobody asked for it");
    }

    #[tokio::test]
    async fn what_was_known_stays_known_while_nobody_answers() {
        let groups = Groups::new();
        groups.named(&wanted(&["adm"])).await;
        groups.lookups.close();
        locked(&groups.known).until = Some(Moment::BOOT);
        let names = groups.named(&wanted(&["adm", "tty"])).await;
        assert_eq!((names.gid("adm"), names.gid("tty")), (Some(Some(4)), None));
    }

    #[tokio::test]
    async fn a_service_that_hangs_is_waited_for_once_in_a_while() {
        let groups = Groups::new();
        groups.named(&wanted(&["adm"])).await;
        let _hangs = Arc::clone(&groups.lookups).acquire_owned().await.unwrap();
        locked(&groups.known).until = Some(Moment::BOOT);
        assert_eq!(groups.named(&wanted(&["adm"])).await.gid("adm"), Some(Some(4)));
        let wanted = wanted(&["adm"]);
        let again = tokio::time::timeout(LOOKUP_PATIENCE / 2, groups.named(&wanted)).await;
        assert_eq!(again.expect("at once").gid("adm"), Some(Some(4)));
    }
}
