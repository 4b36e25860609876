//! What must be true of a table between any two inputs.

use super::super::entry::{Busy, Phase};
use super::*;

impl LeaseTable {
    /// Everything that must be true between two inputs.
    pub(in crate::lease) fn check(&self, now: Moment) {
        for (lease, entry) in &self.entries {
            let why = || format!("{lease} at {now:?}: {entry:?}");
            assert_eq!(*lease, entry.lease(), "{}", why());
            assert!(entry.wakeup > now, "overdue: {}", why());
            assert!(
                entry.wakeup == Moment::NEVER || self.wakeups.contains(&(entry.wakeup, *lease)),
                "{}",
                why()
            );
            assert!(self.owners[&entry.owner].contains(lease), "{}", why());
            assert!(!entry.marks.is_empty(), "{}", why());
            match entry.busy {
                Busy::No => {}
                Busy::Call { id, .. } => assert_eq!(self.calls.get(&id), Some(lease), "{}", why()),
                Busy::Sync(sync) => assert!(self.syncs.contains_key(&sync), "{}", why()),
            }
            match &entry.phase {
                Phase::Held => {
                    assert!(entry.fence.is_some() && entry.proven.is_some(), "{}", why());
                    let renews = entry.hold == Hold::No
                        || entry.busy != Busy::No
                        || entry.renew_at != Moment::NEVER;
                    assert!(renews, "held and no renewal scheduled: {}", why());
                }
                Phase::Asking(asking) => {
                    assert!(self.groups.contains_key(&asking.group), "{}", why());
                }
                Phase::Ending(..) => {
                    let goes_on = entry.busy != Busy::No || entry.wakeup != Moment::NEVER;
                    assert!(goes_on, "an end that nobody brings about: {}", why());
                }
                Phase::Unproven | Phase::Lost(..) => {}
            }
        }
        let told = self.wakeups.iter().all(|(at, lease)| self.entries[lease].wakeup == *at);
        assert!(told && self.wakeups.len() <= self.entries.len());
        assert!(self.calls.len() <= self.entries.len());
    }
}
