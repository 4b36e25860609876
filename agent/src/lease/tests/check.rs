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
        self.check_queues(now);
        let told = self.wakeups.iter().all(|(at, lease)| self.entries[lease].wakeup == *at);
        assert!(told && self.wakeups.len() <= self.entries.len());
        assert!(self.calls.len() <= self.entries.len());
    }

    fn check_queues(&self, now: Moment) {
        for (ticket, group) in &self.groups {
            let why = || format!("{ticket:?} at {now:?}: {group:?}");
            for lease in &group.members {
                let entry = &self.entries[lease];
                let asks = matches!(&entry.phase, Phase::Asking(asking) if asking.group == *ticket);
                assert!(asks, "{}: {entry:?}", why());
            }
            let Some(patience) = &group.patience else { continue };
            // Whoever has everything already waits for the disk only.
            if group.at < group.members.len() {
                assert!(patience.until > now, "{}", why());
                assert!(self.patience.contains(&(patience.until, *ticket)), "{}", why());
            }
            match &patience.queued {
                Some(on) => assert!(self.queues[on].has(*ticket), "{}", why()),
                None => assert!(!patience.parked, "{}", why()),
            }
        }
        for (on, queue) in &self.queues {
            queue.check(now, |ticket| {
                let group = self.groups.get(&ticket)?;
                let patience = group.patience.as_ref()?;
                (patience.queued.as_ref() == Some(on)).then_some(patience.parked)
            });
        }
        assert!(self.patience.len() <= self.groups.len());
    }
}
