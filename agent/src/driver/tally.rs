//! What the driver counts, for people who watch many agents.

use std::collections::{BTreeMap, BTreeSet};

use crate::audit::Outcome;
use crate::clock;
use crate::lease::{
    BackendName, Call, CallId, CallResult, LeaseTable, Loss, Standing, State, View,
};

/// The driver's counters and gauges. What a label may be is bounded by the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measures {
    /// Leases now, by state.
    pub leases: BTreeMap<&'static str, usize>,
    /// Acquires that wait now.
    pub waiters: usize,
    /// Renewals since the start, by store and by what came of them.
    pub renewals: BTreeMap<(BackendName, &'static str), u64>,
    /// Leases lost since the start, by why.
    pub lost: BTreeMap<&'static str, u64>,
    /// The journal can be written.
    pub journal_works: bool,
}

/// Every state, so that one that no lease is in is told as zero.
const STATES: [&str; 7] = ["asking", "held", "at_risk", "unknown", "lost", "released", "lingering"];
/// What can come of a renewal.
pub const RENEWALS: [&str; 4] = ["ok", "lost", "refused", "unknown"];
/// Why a lease can be lost.
pub const LOSSES: [Outcome; 6] = [
    Outcome::Expired,
    Outcome::TakenBy,
    Outcome::BrokenBy,
    Outcome::StoreLostIt,
    Outcome::Clone,
    Outcome::Revoked,
];

/// What is counted as it happens.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The renewals that are out.
    out: BTreeSet<CallId>,
    renewals: BTreeMap<(BackendName, &'static str), u64>,
    lost: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(super) fn calls(&mut self, id: CallId, call: &Call) {
        if matches!(call, Call::Renew { .. }) {
            self.out.insert(id);
        }
    }

    pub(super) fn settled(&mut self, id: CallId, backend: &BackendName, result: &CallResult) {
        if !self.out.remove(&id) {
            return;
        }
        let came_of_it = match result {
            CallResult::Stands(Standing::Ours { .. }) => "ok",
            CallResult::Stands(Standing::NotOurs(_) | Standing::Cloned) => "lost",
            CallResult::Refused(_) => "refused",
            CallResult::Attempted(_)
            | CallResult::Done
            | CallResult::NotThere
            | CallResult::Unknown => "unknown",
        };
        *self.renewals.entry((backend.clone(), came_of_it)).or_default() += 1;
    }

    pub(super) fn lost(&mut self, loss: &Loss) {
        *self.lost.entry(Outcome::from(loss).as_str()).or_default() += 1;
    }

    pub(super) fn measures(&self, table: &LeaseTable, waiters: usize) -> Measures {
        let mut leases: BTreeMap<_, _> = STATES.into_iter().map(|state| (state, 0)).collect();
        let now = clock::now();
        for view in table.leases().into_iter().filter_map(|lease| table.view(now, lease)) {
            *leases.entry(word(&view)).or_default() += 1;
        }
        Measures {
            leases,
            waiters,
            renewals: self.renewals.clone(),
            lost: self.lost.clone(),
            journal_works: table.journal_works(),
        }
    }
}

fn word(view: &View) -> &'static str {
    match view.state {
        State::Asking => "asking",
        State::Held => "held",
        State::AtRisk => "at_risk",
        State::Unknown => "unknown",
        State::Lost(_) => "lost",
        State::Releasing | State::Released => "released",
        State::Lingering => "lingering",
    }
}
