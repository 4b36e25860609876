//! A linearizable store of the simulation: what every real one promises, and switches that take
//! single promises away.

use std::collections::BTreeMap;
use std::time::Duration;

use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, UnixMs};

use super::super::*;

/// A promise of the store, which the simulation may take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// Law 5: a cancel moves the counter.
    CancelIsDefinitive,
    /// Law 10: every write compares the lease.
    Compare,
    /// Law 7: what breaks a lease ends no earlier than that would have.
    BreakLasts,
}

/// One lock in the store.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) lease: LeaseId,
    pub(super) principal: Principal,
    pub(super) mark: Option<Nonce>,
    pub(super) fence: Option<Fence>,
    pub(super) reason: Option<Reason>,
    /// The leases that it stands in the place of.
    pub(super) over: Vec<LeaseId>,
    /// By the store's clock, in nanoseconds.
    pub(super) expires: u64,
}

impl Row {
    /// The lease, and those that it stands in the place of.
    pub(super) fn of(&self) -> impl Iterator<Item = LeaseId> {
        self.over.iter().copied().chain([self.lease])
    }
}

/// The store. Every operation is one step; `now` is the store's own clock.
#[derive(Debug, Default)]
pub(super) struct Store {
    rows: BTreeMap<Resource, Row>,
    counters: BTreeMap<Resource, u64>,
    /// How far its clock was set back when it was restored, in microseconds.
    behind_us: u64,
    /// How often that was. The counter of a resource that it knows nothing of is this: a restored
    /// server has lost its connections, so no half of an acquire of before fits.
    restored: u64,
    pub(super) broken_promise: Option<Promise>,
}

impl Store {
    pub(super) fn row(&self, now: u64, on: &Resource) -> Option<&Row> {
        self.rows.get(on).filter(|row| row.expires > now)
    }

    pub(super) fn rows(&self, now: u64) -> impl Iterator<Item = (&Resource, &Row)> {
        self.rows.iter().filter(move |(_, row)| row.expires > now)
    }

    pub(super) fn counter(&self, on: &Resource) -> u64 {
        self.counters.get(on).copied().unwrap_or(self.restored)
    }

    pub(super) fn acquire(&mut self, now: u64, claim: &Claim, expected: u64) -> Attempt {
        let on = &claim.resource;
        let mut remaining = Duration::from_secs(u64::from(claim.ttl.as_secs()));
        let mut over = Vec::new();
        if let Some(row) = self.row(now, on) {
            if row.lease == claim.lease {
                let remaining = Duration::from_nanos(row.expires - now);
                let fence = row.fence.expect("our rows have fences");
                return Attempt::Granted(Grant { fence, remaining });
            }
            if claim.over != Some(row.lease) && self.broken_promise != Some(Promise::Compare) {
                return Attempt::Held(Some(Box::new(self.holder(now, on, row))));
            }
            over.extend(row.over.iter().copied().chain([row.lease]));
            if self.broken_promise != Some(Promise::BreakLasts) {
                remaining = remaining.max(Duration::from_nanos(row.expires - now));
            }
        } else if claim.over.is_some() {
            return Attempt::Gone;
        }
        if self.counter(on) != expected {
            return Attempt::Moved;
        }
        let fence = Fence(self.bump(now, on));
        let row = Row {
            lease: claim.lease,
            principal: claim.principal.clone(),
            mark: Some(claim.nonce),
            fence: Some(fence),
            reason: claim.reason.clone(),
            over,
            expires: now + nanos(remaining),
        };
        self.rows.insert(on.clone(), row);
        Attempt::Granted(Grant { fence, remaining })
    }

    /// As the Python tool does it: no counter, no mark.
    pub(super) fn python_acquire(
        &mut self,
        now: u64,
        on: &Resource,
        lease: LeaseId,
        ttl: Duration,
    ) {
        if self.row(now, on).is_none() {
            let principal = Principal::foreign("python");
            let expires = now + nanos(ttl);
            let (mark, fence, reason, over) = (None, None, None, Vec::new());
            let row = Row { lease, principal, mark, fence, reason, over, expires };
            self.rows.insert(on.clone(), row);
        }
    }

    pub(super) fn delete(&mut self, on: &Resource) {
        self.rows.remove(on);
    }

    /// An operator restores an old state: everything is gone, and the clock was set back.
    pub(super) fn restore(&mut self, by_us: u64) {
        self.rows.clear();
        self.counters.clear();
        self.behind_us += by_us;
        self.restored += 1;
    }

    pub(super) fn does(&mut self, now: u64, call: &Call) -> CallResult {
        match call {
            Call::Acquire(claim) => {
                let expected = self.counter(&claim.resource);
                CallResult::Attempted(self.acquire(now, claim, expected))
            }
            Call::Renew { proof, ttl, next } => {
                let standing = self.standing(now, proof, Some(*next));
                if let (Standing::Ours { .. }, Some(row)) =
                    (&standing, self.rows.get_mut(&proof.resource))
                {
                    let remaining = Duration::from_secs(u64::from(ttl.as_secs()));
                    row.expires = now + nanos(remaining);
                    row.mark = Some(*next);
                    return CallResult::Stands(Standing::Ours { remaining });
                }
                CallResult::Stands(standing)
            }
            Call::Verify(proof) => CallResult::Stands(self.standing(now, proof, None)),
            Call::Release(proof) => {
                let ours = matches!(self.standing(now, proof, None), Standing::Ours { .. });
                if ours || self.broken_promise == Some(Promise::Compare) {
                    self.rows.remove(&proof.resource);
                    return CallResult::Done;
                }
                CallResult::NotThere
            }
            Call::Cancel(on, lease) => {
                if self.broken_promise != Some(Promise::CancelIsDefinitive) {
                    self.bump(now, on);
                }
                self.delete_if(on, *lease);
                CallResult::Done
            }
        }
    }

    fn delete_if(&mut self, on: &Resource, lease: LeaseId) {
        let compares = self.broken_promise != Some(Promise::Compare);
        if !compares || self.rows.get(on).is_some_and(|row| row.lease == lease) {
            self.rows.remove(on);
        }
    }

    fn standing(&self, now: u64, proof: &Proof, next: Option<Nonce>) -> Standing {
        let Some(row) = self.row(now, &proof.resource) else { return Standing::NotOurs(None) };
        if row.lease != proof.lease {
            return Standing::NotOurs(Some(Box::new(self.holder(now, &proof.resource, row))));
        }
        let known = row.mark.is_none_or(|mark| {
            proof.nonces.is_empty() || proof.nonces.contains(&mark) || next == Some(mark)
        });
        if !known {
            return Standing::Cloned;
        }
        Standing::Ours { remaining: Duration::from_nanos(row.expires - now) }
    }

    fn bump(&mut self, now: u64, on: &Resource) -> u64 {
        let time_us = EPOCH_US + now / 1000 - self.behind_us;
        let counter = self.counters.entry(on.clone()).or_insert(self.restored);
        *counter = (*counter + 1).max(time_us);
        *counter
    }

    fn holder(&self, now: u64, on: &Resource, row: &Row) -> Holder {
        Holder {
            resource: on.clone(),
            lease: row.lease,
            principal: row.principal.clone(),
            host: None,
            reason: row.reason.clone(),
            fence: row.fence,
            since: UnixMs(0),
            remaining: Some(Duration::from_nanos(row.expires.saturating_sub(now))),
        }
    }
}

/// What the store's clock shows at the true time zero: more than it is ever set back by, in all.
const EPOCH_US: u64 = 1_000_000_000_000;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a short time")
}
