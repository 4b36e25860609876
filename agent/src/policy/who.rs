//! Whom the policy judges.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::lease::Uid;

/// Who asks, as the kernel knows them.
#[derive(Debug, Clone)]
pub struct Who {
    /// The user.
    pub uid: Uid,
    /// The user's name; the number as text when there is none.
    pub user: String,
    /// False when a directory service did not answer, and the number stands for a name that may
    /// exist. A rule that takes a right away by name may be about them then.
    pub is_named: bool,
    /// The numbers of all their groups, sorted.
    pub gids: Arc<[u32]>,
    /// What the names of groups stand for.
    pub groups: Arc<GroupNames>,
}

impl Who {
    /// Whether they are in the group of this name; `None` when that is not known.
    #[must_use]
    pub fn is_in(&self, group: &str) -> Option<bool> {
        let gid = self.groups.gid(group)?;
        Some(gid.is_some_and(|gid| self.gids.binary_search(&gid).is_ok()))
    }

    /// Whether they are the user of this name; `None` when that is not known.
    #[must_use]
    pub fn is_called(&self, name: &str) -> Option<bool> {
        self.is_named.then(|| self.user == name)
    }
}

/// Names of groups, each with its number on this host, or that it has none.
#[derive(Debug, Default)]
pub struct GroupNames(BTreeMap<String, Option<u32>>);

impl GroupNames {
    /// These.
    #[must_use]
    pub fn new(names: BTreeMap<String, Option<u32>>) -> GroupNames {
        GroupNames(names)
    }

    /// The number of one, if it has any; `None` of one that is not known.
    #[must_use]
    pub fn gid(&self, name: &str) -> Option<Option<u32>> {
        self.0.get(name).copied()
    }

    /// The same and one more.
    #[must_use]
    pub fn with(&self, name: &str, gid: Option<u32>) -> GroupNames {
        let mut names = self.0.clone();
        names.insert(name.to_owned(), gid);
        GroupNames(names)
    }
}

/// Somebody of whom all is known, for tests; the groups that those tests have rules about.
#[cfg(test)]
pub(crate) fn known(uid: u32, user: &str, groups: &[&str]) -> Who {
    let all = ["games", "ops", "dba", super::GROUP];
    let of = |(gid, name): (u32, &&str)| ((*name).to_owned(), Some(gid));
    let names = GroupNames::new((1..).zip(groups.iter().chain(&all)).map(of).collect());
    let mut gids: Vec<u32> = groups.iter().filter_map(|name| names.gid(name)?).collect();
    gids.sort_unstable();
    Who {
        uid: Uid(uid),
        user: user.to_owned(),
        is_named: true,
        gids: gids.into(),
        groups: Arc::new(names),
    }
}
