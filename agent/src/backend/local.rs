//! Locks among the users of this one host, in the agent's memory.
//!
//! - Whose clock expires a lease: this host's boot clock, given to [`Local::new`].
//! - The fence: `max(counter + 1, wall clock in microseconds)`, one counter for all resources. It
//!   is never below the journal's floor; the wall clock keeps it rising if the journal is lost.
//! - What decides: one mutex around the whole table. A call does everything in its first poll, so
//!   no copy of it can come late.
//! - Not guaranteed: anything between two hosts. Nothing is on disk here either: what must survive
//!   stands in the agent's own journal, and [`Backend::recall`] takes it up from there.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stormlock_protocol::message::Level;
use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, Ttl, UnixMs};

use super::{Attempt, Backend, Clock, Pending, Released, Remark, Standing, Traits};
use crate::clock;
use crate::lease::{Claim, Grant, Holder, Moment, Nonce, Proof, Remembered, Stage};

/// As `kind` in the configuration.
pub(super) const KIND: &str = "local";

/// The local store. What it must remember stands in the agent's journal.
#[derive(Debug)]
pub struct Local {
    clock: Clock,
    table: Mutex<Table>,
}

impl Local {
    /// An empty store, which tells the time by `clock`.
    #[must_use]
    pub fn new(clock: Clock) -> Local {
        Local { clock, table: Mutex::default() }
    }

    /// The time is read under the mutex, so that it never runs back from call to call.
    fn table(&self) -> (Moment, MutexGuard<'_, Table>) {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        ((self.clock)(), table)
    }
}

impl Backend for Local {
    fn traits(&self) -> Traits {
        Traits { kind: KIND, this_host_only: true, narrow_ids: false }
    }

    fn recall(&self, floor: u64, leases: &[&Remembered]) {
        let (_, mut table) = self.table();
        table.counter = table.counter.max(floor);
        for known in leases {
            table.recall(known);
        }
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Pending<'a, Attempt> {
        Box::pin(async move {
            let (now, mut table) = self.table();
            Ok(table.acquire(now, claim))
        })
    }

    fn renew<'a>(&'a self, proof: &'a Proof, ttl: Ttl, next: Nonce) -> Pending<'a, Standing> {
        Box::pin(async move {
            let (now, mut table) = self.table();
            let mut marks = proof.nonces.clone();
            // A repeat of a renewal finds the mark that the first copy left.
            marks.extend((!marks.is_empty()).then_some(next));
            let standing = table.standing(now, &Proof { nonces: marks, ..proof.clone() });
            if let Standing::Ours { .. } = standing
                && let Some(row) = table.rows.get_mut(&proof.resource)
            {
                let remaining = length(ttl);
                row.expires = now + remaining;
                if !proof.nonces.is_empty() {
                    row.marks = vec![next];
                }
                return Ok(Standing::Ours { remaining });
            }
            Ok(standing)
        })
    }

    fn verify<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Standing> {
        Box::pin(async move {
            let (now, table) = self.table();
            Ok(table.standing(now, proof))
        })
    }

    fn release<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Released> {
        Box::pin(async move {
            let (now, mut table) = self.table();
            let Standing::Ours { .. } = table.standing(now, proof) else {
                return Ok(Released::NotThere);
            };
            table.rows.remove(&proof.resource);
            Ok(Released::Done)
        })
    }

    fn cancel<'a>(&'a self, resource: &'a Resource, lease: LeaseId) -> Pending<'a, ()> {
        Box::pin(async move {
            let (_, mut table) = self.table();
            table.next_fence();
            if table.rows.get(resource).is_some_and(|row| row.lease == lease) {
                table.rows.remove(resource);
            }
            Ok(())
        })
    }

    fn holder<'a>(&'a self, resource: &'a Resource) -> Pending<'a, Option<Holder>> {
        Box::pin(async move {
            let (now, table) = self.table();
            Ok(table.row(now, resource).map(|row| row.holder(now, resource)))
        })
    }

    fn list<'a>(&'a self, after: Option<&'a Resource>, limit: usize) -> Pending<'a, Vec<Holder>> {
        Box::pin(async move {
            let (now, table) = self.table();
            let later = |resource: &Resource| after.is_none_or(|after| resource > after);
            let live = |row: &Row| now < row.expires;
            let rows = table.rows.iter().filter(|(resource, row)| later(resource) && live(row));
            Ok(rows.take(limit).map(|(resource, row)| row.holder(now, resource)).collect())
        })
    }

    fn examine(&self) -> Pending<'_, Vec<Remark>> {
        Box::pin(async {
            Ok(vec![Remark {
                level: Level::Note,
                text: "its locks count among the users of this host only".to_owned(),
                mend: Some("for a lock across hosts, configure a backend they share".to_owned()),
            }])
        })
    }
}

/// Fewest rows that are worth a sweep of the expired ones.
const SWEEP_MIN: usize = 64;

/// All locks, and the greatest fence so far. Expired rows count as absent everywhere; they are
/// swept when the table has doubled, so that no call pays for all of them.
#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<Resource, Row>,
    counter: u64,
    sweep_at: usize,
}

/// One lock.
#[derive(Debug)]
struct Row {
    lease: LeaseId,
    principal: Principal,
    host: String,
    reason: Option<Reason>,
    fence: Fence,
    since: UnixMs,
    /// Any of these is its mark: after a restart the journal may know several.
    marks: Vec<Nonce>,
    expires: Moment,
}

impl Table {
    fn row(&self, now: Moment, resource: &Resource) -> Option<&Row> {
        self.rows.get(resource).filter(|row| now < row.expires)
    }

    fn acquire(&mut self, now: Moment, claim: &Claim) -> Attempt {
        let mut remaining = length(claim.ttl);
        match self.row(now, &claim.resource) {
            Some(row) if row.lease == claim.lease => {
                let remaining = now.until(row.expires);
                return Attempt::Granted(Grant { fence: row.fence, remaining });
            }
            Some(row) if claim.over != Some(row.lease) => {
                return Attempt::Held(Some(Box::new(row.holder(now, &claim.resource))));
            }
            None if claim.over.is_some() => return Attempt::Gone,
            Some(row) => remaining = remaining.max(now.until(row.expires)),
            None => {}
        }
        let fence = self.next_fence();
        let row = Row::new(claim, fence, vec![claim.nonce], now + remaining);
        self.sweep(now);
        self.rows.insert(claim.resource.clone(), row);
        Attempt::Granted(Grant { fence, remaining })
    }

    fn sweep(&mut self, now: Moment) {
        if self.rows.len() >= self.sweep_at {
            self.rows.retain(|_, row| now < row.expires);
            self.sweep_at = (self.rows.len() * 2).max(SWEEP_MIN);
        }
    }

    fn standing(&self, now: Moment, proof: &Proof) -> Standing {
        match self.row(now, &proof.resource) {
            None => Standing::NotOurs(None),
            Some(row) if row.lease != proof.lease => {
                Standing::NotOurs(Some(Box::new(row.holder(now, &proof.resource))))
            }
            Some(row) if row.fits(&proof.nonces) => {
                Standing::Ours { remaining: now.until(row.expires) }
            }
            Some(_) => Standing::Cloned,
        }
    }

    fn next_fence(&mut self) -> Fence {
        let wall_us = u64::try_from(clock::wall().0).unwrap_or(0).saturating_mul(1000);
        self.counter = self.counter.saturating_add(1).max(wall_us);
        Fence(self.counter)
    }

    /// Only what was granted and proven had told anybody anything; the rest of the memory of this
    /// store died with the agent before, and a cancel or release of it succeeds.
    fn recall(&mut self, known: &Remembered) {
        let (Some(fence), Some((sent, remaining))) = (known.fence, known.proven) else { return };
        self.counter = self.counter.max(fence.0);
        match known.stage {
            Stage::Held | Stage::Ending(_) => {}
            Stage::Asked | Stage::Lost(_) => return,
        }
        let claim = &known.intent.claim;
        if self.rows.get(&claim.resource).is_some_and(|row| row.fence > fence) {
            return;
        }
        let row = Row::new(claim, fence, known.nonces.clone(), sent + remaining);
        self.rows.insert(claim.resource.clone(), row);
    }
}

impl Row {
    fn new(claim: &Claim, fence: Fence, marks: Vec<Nonce>, expires: Moment) -> Row {
        Row {
            lease: claim.lease,
            principal: claim.principal.clone(),
            host: claim.host.clone(),
            reason: claim.reason.clone(),
            fence,
            since: claim.created,
            marks,
            expires,
        }
    }

    fn fits(&self, marks: &[Nonce]) -> bool {
        marks.is_empty() || self.marks.iter().any(|mark| marks.contains(mark))
    }

    fn holder(&self, now: Moment, resource: &Resource) -> Holder {
        Holder {
            resource: resource.clone(),
            lease: self.lease,
            principal: self.principal.clone(),
            host: Some(self.host.clone()),
            reason: self.reason.clone(),
            fence: Some(self.fence),
            since: self.since,
            remaining: Some(now.until(self.expires)),
        }
    }
}

fn length(ttl: Ttl) -> Duration {
    Duration::from_secs(u64::from(ttl.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::contract::{self, Others, Site};
    use super::*;
    use crate::lease::{Attach, Hold, Intent, Uid};

    impl Site for Arc<Local> {
        fn open(&self) -> Arc<dyn Backend> {
            self.clone()
        }

        fn others(&self) -> Option<&dyn Others> {
            None
        }
    }

    contract::contract!(Arc::new(Local::new(clock::now)));

    /// The clock of the one test that moves it.
    static NOW: AtomicU64 = AtomicU64::new(0);

    fn moved_clock() -> Moment {
        Moment::from_nanos(NOW.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn a_lease_ends_when_its_clock_says_so() {
        let store = Local::new(moved_clock);
        let claim = contract::claim(&contract::resource("clock"), 10);
        contract::granted(&store, &claim).await;
        NOW.store(10_000_000_000 - 1, Ordering::SeqCst);
        assert!(store.holder(&claim.resource).await.unwrap().is_some());
        NOW.store(10_000_000_000, Ordering::SeqCst);
        assert_eq!(store.holder(&claim.resource).await.unwrap(), None);
    }

    fn remembered(stage: Stage, fence: Option<u64>) -> Remembered {
        let claim = contract::claim(&contract::resource("recalled"), 60);
        let proven = fence.map(|_| (clock::now(), Duration::from_secs(60)));
        let nonces = vec![claim.nonce, contract::nonce()];
        let (owner, hold, attach) = (Uid(7), Hold::No, Attach::Detached);
        let terminal = None;
        let intent = Intent { claim, owner, hold, attach, terminal };
        let fence = fence.map(Fence);
        Remembered {
            intent,
            stage,
            fence,
            proven,
            nonces,
            sharers: Vec::new(),
            command_ttl: None,
            earlier_boot: false,
        }
    }

    #[tokio::test]
    async fn what_the_journal_proves_is_held_again_and_nothing_else() {
        let store = Local::new(clock::now);
        let held = remembered(Stage::Held, Some(1 << 60));
        let asked = remembered(Stage::Asked, None);
        store.recall(1 << 61, &[&held, &asked]);
        assert_eq!(store.holder(&asked.intent.claim.resource).await.unwrap(), None);

        let claim = &held.intent.claim;
        let holder = store.holder(&claim.resource).await.unwrap().unwrap();
        assert_eq!((holder.lease, holder.fence), (claim.lease, Some(Fence(1 << 60))));
        for mark in &held.nonces {
            let known = Proof { nonces: vec![*mark], ..contract::proof(claim) };
            assert!(matches!(store.verify(&known).await.unwrap(), Standing::Ours { .. }));
        }
        let unknown = Proof { nonces: vec![contract::nonce()], ..contract::proof(claim) };
        assert_eq!(store.verify(&unknown).await.unwrap(), Standing::Cloned);

        let next = contract::granted(&store, &asked.intent.claim).await;
        assert!(next.fence > Fence(1 << 61), "{next:?}");
    }

    #[tokio::test]
    async fn of_two_remembered_leases_the_later_grant_counts() {
        let (older, mut newer) =
            (remembered(Stage::Held, Some(5)), remembered(Stage::Held, Some(6)));
        newer.intent.claim.resource = older.intent.claim.resource.clone();
        for order in [[&older, &newer], [&newer, &older]] {
            let store = Local::new(clock::now);
            store.recall(0, &order);
            let holder = store.holder(&older.intent.claim.resource).await.unwrap().unwrap();
            assert_eq!(holder.lease, newer.intent.claim.lease);
        }
    }

    #[tokio::test]
    async fn expired_rows_are_swept() {
        let store = Local::new(|| Moment::from_nanos(5));
        let dead = remembered(Stage::Held, Some(5));
        for n in 0..1000 {
            let mut dead = dead.clone();
            dead.proven = Some((Moment::BOOT, Duration::from_nanos(5)));
            dead.intent.claim.resource = Resource::new(format!("dead/{n}")).unwrap();
            store.recall(0, &[&dead]);
        }
        contract::granted(&store, &contract::claim(&contract::resource("live"), 60)).await;
        assert_eq!(store.table().1.rows.len(), 1);
    }
}
