//! Who is on the roll: leases by owner and by resource, how they enter and leave it, and what
//! others may see of them.

use std::collections::BTreeMap;

use stormlock_protocol::name::{LeaseId, Resource};

use super::entry::{Busy, Entry, Phase};
use super::law::Law;
use super::port::{State, View};
use super::{BackendName, Claim, LeaseTable, Moment, Record, Uid};

impl LeaseTable {
    /// A lease, as it may be believed at `now`.
    #[must_use]
    pub fn view(&self, now: Moment, lease: LeaseId) -> Option<View> {
        let checks = self.obeys(Law::CheckAtUse);
        let entry = self.entries.get(&lease)?;
        let waiters = self.waiters(&entry.claim.backend, &entry.claim.resource);
        Some(entry.view(now, self.journal_works, checks, waiters))
    }

    /// Whose a lease is.
    #[must_use]
    pub fn owner(&self, lease: LeaseId) -> Option<Uid> {
        Some(self.entries.get(&lease)?.owner)
    }

    /// Every lease, in any state.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseId> {
        self.entries.keys().copied().collect()
    }

    /// A user's leases, by id, those after `after`; [`State::Asking`] ones included.
    pub fn owned(
        &self,
        now: Moment,
        owner: Uid,
        after: Option<LeaseId>,
    ) -> impl Iterator<Item = View> {
        let leases = self.owners.get(&owner).into_iter().flatten();
        leases
            .filter(move |lease| after.is_none_or(|after| **lease > after))
            .filter_map(move |lease| self.view(now, *lease))
    }

    /// The leases on a resource in a store; more than one while an old one is being cleared.
    pub fn on<'a>(
        &'a self,
        now: Moment,
        backend: &'a BackendName,
        resource: &'a Resource,
    ) -> impl Iterator<Item = View> + 'a {
        self.leases_on(backend, resource).filter_map(move |lease| self.view(now, lease))
    }

    /// True while the journal can be written.
    #[must_use]
    pub fn journal_works(&self) -> bool {
        self.journal_works
    }

    /// True when no call is under way and nothing waits for the journal. After [`Input::Stop`]
    /// every question has then been answered.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.calls.is_empty() && self.syncs.is_empty()
    }

    /// How many leases there are, in any state.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many leases there are in each store, in any state.
    #[must_use]
    pub fn backends(&self) -> BTreeMap<BackendName, usize> {
        let mut counts = BTreeMap::new();
        for entry in self.entries.values() {
            *counts.entry(entry.claim.backend.clone()).or_default() += 1;
        }
        counts
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let (claim, lease) = (&entry.claim, entry.lease());
        self.resources.insert((claim.resource.clone(), claim.backend.clone(), lease));
        self.owners.entry(entry.owner).or_default().insert(lease);
        self.entries.insert(lease, entry);
    }

    /// Forgets a lease, here and in the journal, and lets those go on who waited for its resource.
    pub(super) fn forget(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.remove(&lease) else { return };
        let was_there = !matches!(entry.phase, Phase::Asking(_));
        self.record(Record::Gone { lease });
        self.wakeups.remove(&(entry.wakeup, lease));
        if let Busy::Call { id, .. } = entry.busy {
            self.calls.remove(&id);
        }
        if let Some(owned) = self.owners.get_mut(&entry.owner) {
            owned.remove(&lease);
            if owned.is_empty() {
                self.owners.remove(&entry.owner);
            }
        }
        let Claim { backend, resource, .. } = entry.claim;
        self.resources.remove(&(resource.clone(), backend.clone(), lease));
        self.wake_askers(now, &backend, &resource);
        if was_there {
            self.stir(now, &(backend, resource));
        }
    }

    pub(super) fn leases_on<'a>(
        &'a self,
        backend: &'a BackendName,
        resource: &'a Resource,
    ) -> impl Iterator<Item = LeaseId> + 'a {
        let from = (resource.clone(), backend.clone(), LeaseId::from_bytes([0; 16]));
        let to = (resource.clone(), backend.clone(), LeaseId::from_bytes([0xff; 16]));
        self.resources.range(from..=to).map(|(_, _, lease)| *lease)
    }

    /// A lease on a resource that was taken, and may yet be held, in another store than the one it
    /// belongs to now: the configuration changed meanwhile, and the two stores know nothing of each
    /// other.
    pub(super) fn held_elsewhere(&self, now: Moment, claim: &Claim) -> Option<View> {
        let from = (claim.resource.clone(), BackendName::new(""), LeaseId::from_bytes([0; 16]));
        let on_it = self.resources.range(from..).take_while(|(on, _, _)| *on == claim.resource);
        on_it
            .filter(|(_, backend, _)| *backend != claim.backend)
            .filter_map(|(_, _, lease)| self.view(now, *lease))
            .find(|it| {
                matches!(it.state, State::Held | State::AtRisk | State::Unknown | State::Lingering)
            })
    }
}
