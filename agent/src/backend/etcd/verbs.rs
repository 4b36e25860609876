//! The verbs: each reads, and then writes by one transaction that compares what it read.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use stormlock_protocol::name::{Fence, LeaseId, Resource, TTL_MAX_SECS, Ttl};

use super::keys::{self, Found, Keys, LOCK, Lock, Part, Seen};
use super::{Etcd, answer_to, foreign, otherwise, unknown};
use crate::backend::{Attempt, BackendError, Released, Standing};
use crate::lease::{Claim, Grant, Nonce, Proof};

/// What a lock on no etcd lease has left: it outlasts every lease.
const FOR_EVER: Duration = Duration::from_secs(TTL_MAX_SECS as u64);

impl Etcd {
    /// See [`crate::backend::Backend::acquire`].
    pub(super) async fn take(&self, claim: &Claim) -> Result<Attempt, BackendError> {
        let keys = self.keys(&claim.resource);
        let id = keys::number(claim.lease)
            .ok_or_else(|| foreign("the lease id is wider than one of etcd's"))?;
        let before = self.look(&keys).await?;
        let broken = match &before.found {
            Found::Free if claim.over.is_none() => None,
            Found::Lock(lock) if lock.is_broken_by(claim) => Some(lock),
            Found::Free | Found::Lock(_) | Found::Foreign(_) => {
                return self.taken(claim, &before).await;
            }
        };
        let counter = before.counter.ok_or_else(|| no_counter(&keys))?;
        let claim = &match broken {
            Some(lock) => claim.no_shorter_than(self.lasts(lock).await?),
            None => claim.clone(),
        };
        let granted = self.grant(id, claim.ttl).await?;
        let remaining = match granted {
            Some(secs) => length(secs, claim.ttl),
            // An earlier copy of this acquire made it: its time runs since then.
            None => match self.time_to_live(id).await? {
                // What it was to break was renewed since: it would end too early.
                Some(told) if broken.is_some() && told.left < whole(claim.ttl) => {
                    self.revoke(id).await?;
                    return Ok(Attempt::Moved);
                }
                Some(told) => told.left.min(whole(claim.ttl)),
                None => return Ok(Attempt::Moved),
            },
        };
        let txn = match broken {
            None => hang(&keys, claim, id, counter),
            Some(lock) => take_over(&keys, claim, id, counter, lock),
        };
        let response = match self.transact(txn).await {
            Ok(response) => response,
            // It ended, or a cancel ended it.
            Err(trouble) if trouble.is_no_lease() => return Ok(Attempt::Moved),
            Err(trouble) => return Err(trouble.into()),
        };
        if response.succeeded() {
            if let Some(lock) = broken.filter(|lock| lock.has_its_own_lease()) {
                self.tidy(lock.hangs_on).await;
            }
            let revision = response.header().map(|header| header.revision().unsigned_abs());
            let fence =
                revision.ok_or_else(|| unknown("etcd gave an answer without a revision"))?;
            return Ok(Attempt::Granted(Grant { fence: Fence(fence), remaining }));
        }
        let after = answer_to(response, &keys)?;
        if after.lock().is_none_or(|lock| lock.id != claim.lease) {
            // The claim may be tried again under this id: a revocation that is still on its way
            // then would end that lock.
            let revoked = self.revoke(id).await;
            revoked.map_err(|_| unknown("a lease that lost its race may yet be revoked"))?;
        }
        self.taken(claim, &after).await
    }

    /// How long a lock that is to be broken may go on: as long as its etcd lease has left, if a
    /// renewal would show in a key, and the transaction compares those; else that lease's length.
    async fn lasts(&self, lock: &Lock) -> Result<Duration, BackendError> {
        let life = match lock.hangs_on {
            0 => None,
            id => self.time_to_live(id).await?,
        };
        Ok(life.map_or(Duration::ZERO, |life| match lock.is_marked() {
            // Cut to whole seconds.
            true => life.left + Duration::from_secs(1),
            false => life.whole,
        }))
    }

    /// The answer to an acquire that writes nothing.
    async fn taken(&self, claim: &Claim, seen: &Seen) -> Result<Attempt, BackendError> {
        let lock = match &seen.found {
            Found::Free if claim.over.is_some() => return Ok(Attempt::Gone),
            Found::Free => return Ok(Attempt::Moved),
            Found::Lock(lock) if lock.is_broken_by(claim) => return Ok(Attempt::Moved),
            Found::Foreign(what) => return Err(foreign(what)),
            Found::Lock(lock) => lock,
        };
        let holder = self.holder_of(&claim.resource, lock).await?;
        if lock.id != claim.lease {
            return Ok(Attempt::Held(holder.map(Box::new)));
        }
        let Some(holder) = holder else { return Ok(Attempt::Held(None)) };
        if let Some(over) = claim.over {
            self.tidy_broken(over).await;
        }
        let remaining = holder.remaining.unwrap_or(FOR_EVER);
        Ok(Attempt::Granted(Grant { fence: lock.fence(), remaining }))
    }

    /// See [`crate::backend::Backend::renew`].
    pub(super) async fn start_again(
        &self,
        proof: &Proof,
        ttl: Ttl,
        next: Option<Nonce>,
    ) -> Result<Standing, BackendError> {
        let keys = self.keys(&proof.resource);
        let seen = self.look(&keys).await?;
        let lock = match self.stands(proof, &seen, next).await? {
            Ok(lock) => lock,
            Err(standing) => return Ok(standing),
        };
        let mut kept = None;
        if lock.hangs_on != 0 {
            kept = self.keep_alive(lock.hangs_on).await?;
            if kept.is_none() {
                return self.gone(proof, &keys).await;
            }
        }
        let (length_now, term) = kept.unwrap_or((0, 0));
        if length_now != i64::from(ttl.as_secs()) {
            let other = fresh_id()?;
            let Some(length) = self.grant(other, ttl).await? else {
                return Err(unknown("etcd has a lease of the id that was minted just now"));
            };
            if length != length_now {
                return self.hang_on(proof, lock, other, ttl, length, next).await;
            }
            // The least length that the members allow: a new lease would be no shorter.
            self.tidy(other).await;
        }
        let writes = next.map(|next| keys.put(Part::Mark, keys::mark(next), lock.hangs_on));
        let writes: Vec<_> = writes.into_iter().collect();
        let txn = Txn::new().when(lock.unmoved(&keys)).and_then(writes).or_else(otherwise(&keys));
        let response = match self.transact(txn).await {
            Ok(response) => response,
            Err(trouble) if trouble.is_no_lease() => return self.gone(proof, &keys).await,
            Err(trouble) => return Err(trouble.into()),
        };
        if !response.succeeded() {
            return self.changed(proof, &answer_to(response, &keys)?, next).await;
        }
        if response.header().is_none_or(|header| header.raft_term() != term) {
            return Err(unknown(ANOTHER_TERM));
        }
        Ok(Standing::Ours { remaining: length(length_now, ttl) })
    }

    /// The end of a renewal for another length: the keys move to the new etcd lease.
    async fn hang_on(
        &self,
        proof: &Proof,
        lock: &Lock,
        other: i64,
        ttl: Ttl,
        secs: i64,
        next: Option<Nonce>,
    ) -> Result<Standing, BackendError> {
        let keys = self.keys(&proof.resource);
        let txn = Txn::new()
            .when(lock.unmoved(&keys))
            .and_then(lock.hung_on(&keys, other, next))
            .or_else(otherwise(&keys));
        let response = self.transact(txn).await?;
        if !response.succeeded() {
            self.tidy(other).await;
            return self.changed(proof, &answer_to(response, &keys)?, next).await;
        }
        if lock.has_its_own_lease() {
            self.tidy(lock.hangs_on).await;
        }
        Ok(Standing::Ours { remaining: length(secs, ttl) })
    }

    /// What to say when the etcd lease of a lock that was the proof's is no more: it ended, or
    /// whoever broke the lease revoked it.
    async fn gone(&self, proof: &Proof, keys: &Keys) -> Result<Standing, BackendError> {
        let seen = self.look(keys).await?;
        let standing = self.stands(proof, &seen, None).await?;
        Ok(standing.err().unwrap_or(Standing::NotOurs(None)))
    }

    /// What to say when the lock moved between reading and writing.
    async fn changed(
        &self,
        proof: &Proof,
        seen: &Seen,
        next: Option<Nonce>,
    ) -> Result<Standing, BackendError> {
        match self.stands(proof, seen, next).await? {
            // Another copy of this renewal, or the mark alone: nobody else has it.
            Ok(_) => Err(unknown("the lock was written by another call of this lease meanwhile")),
            Err(standing) => Ok(standing),
        }
    }

    /// The lock if it is the proof's, or how it stands otherwise.
    async fn stands<'a>(
        &self,
        proof: &Proof,
        seen: &'a Seen,
        next: Option<Nonce>,
    ) -> Result<Result<&'a Lock, Standing>, BackendError> {
        let Some(lock) = seen.lock() else { return Ok(Err(Standing::NotOurs(None))) };
        Ok(match lock.stands(proof, next) {
            Some(true) => Ok(lock),
            None => Err(Standing::Cloned),
            Some(false) => {
                let holder = self.holder_of(&proof.resource, lock).await?;
                Err(Standing::NotOurs(holder.map(Box::new)))
            }
        })
    }

    /// See [`crate::backend::Backend::verify`].
    pub(super) async fn read_back(&self, proof: &Proof) -> Result<Standing, BackendError> {
        let keys = self.keys(&proof.resource);
        // The time first and the lock after it, in one term: so the lease was there all the while.
        let named = keys::number(proof.lease);
        let mut told = match named {
            Some(id) => self.time_to_live(id).await?,
            None => None,
        };
        let mut seen = self.look(&keys).await?;
        let hangs_on = match self.stands(proof, &seen, None).await? {
            Ok(lock) => lock.hangs_on,
            Err(standing) => return Ok(standing),
        };
        if hangs_on == 0 {
            return Ok(Standing::Ours { remaining: FOR_EVER });
        }
        if Some(hangs_on) != named {
            told = self.time_to_live(hangs_on).await?;
            seen = self.look(&keys).await?;
            match self.stands(proof, &seen, None).await? {
                Ok(lock) if lock.hangs_on == hangs_on => {}
                Ok(_) => return Err(unknown("the lock was renewed while it was read back")),
                Err(standing) => return Ok(standing),
            }
        }
        match told {
            Some(life) if life.term != seen.term => Err(unknown(ANOTHER_TERM)),
            Some(life) => Ok(Standing::Ours { remaining: life.left }),
            None => Err(unknown("the lock came to be while it was read back")),
        }
    }

    /// See [`crate::backend::Backend::release`].
    pub(super) async fn give_back(&self, proof: &Proof) -> Result<Released, BackendError> {
        let keys = self.keys(&proof.resource);
        let seen = self.look(&keys).await?;
        let Some(lock) = seen.lock().filter(|lock| lock.stands(proof, None) == Some(true)) else {
            return Ok(Released::NotThere);
        };
        let txn = Txn::new()
            .when(lock.unmoved(&keys))
            .and_then(keys.delete_lock())
            .or_else(otherwise(&keys));
        let response = self.transact(txn).await?;
        if !response.succeeded() {
            let after = answer_to(response, &keys)?;
            let still = after.lock().is_some_and(|lock| lock.stands(proof, None) == Some(true));
            return match still {
                true => Err(unknown("the lock was renewed meanwhile")),
                false => Ok(Released::NotThere),
            };
        }
        if lock.has_its_own_lease() {
            self.tidy(lock.hangs_on).await;
        }
        Ok(Released::Done)
    }

    /// See [`crate::backend::Backend::cancel`].
    pub(super) async fn end_for_good(
        &self,
        on: &Resource,
        lease: LeaseId,
    ) -> Result<(), BackendError> {
        let keys = self.keys(on);
        // No acquire of such an id ever got further than this.
        let Some(id) = keys::number(lease) else { return Ok(()) };
        if self.look(&keys).await?.counter.is_none() {
            return Err(no_counter(&keys));
        }
        let is_ours = Compare::value(keys.of(Part::Id), CompareOp::Equal, keys::hex(id));
        let moves = || keys.put(Part::Counter, keys::hex(id), 0);
        let mut ends = keys.delete_lock();
        ends.push(moves());
        let txn = Txn::new().when(vec![is_ours]).and_then(ends).or_else(vec![moves()]);
        self.transact(txn).await?;
        // No key hangs on it, and none ever will: the agent minted the id for this claim alone.
        self.tidy(id).await;
        Ok(())
    }
}

/// What is said when the cluster may have had another leader between two answers.
const ANOTHER_TERM: &str = "etcd elected another leader between two answers";

/// The transaction that takes a free resource.
pub(super) fn hang(keys: &Keys, claim: &Claim, id: i64, counter: i64) -> Txn {
    let mut compares: Vec<_> = LOCK.into_iter().map(|part| keys.absent(part)).collect();
    compares.push(keys.unmoved(Part::Counter, counter));
    Txn::new().when(compares).and_then(writes(keys, claim, id)).or_else(otherwise(keys))
}

/// The transaction that takes a resource from the lease that was seen. One that would delete a key
/// and write it is refused: so what the new lock has is written over the old one's.
pub(super) fn take_over(keys: &Keys, claim: &Claim, id: i64, counter: i64, broken: &Lock) -> Txn {
    let mut compares = broken.unmoved(keys);
    compares.push(keys.unmoved(Part::Counter, counter));
    let mut writes = writes(keys, claim, id);
    writes.push(keys.delete(Part::Fence));
    if claim.reason.is_none() {
        writes.push(keys.delete(Part::Reason));
    }
    Txn::new().when(compares).and_then(writes).or_else(otherwise(keys))
}

/// A lock as a claim makes it, and its counter.
fn writes(keys: &Keys, claim: &Claim, id: i64) -> Vec<TxnOp> {
    let mut writes = vec![
        keys.put(Part::Id, keys::hex(id), id),
        keys.put(Part::Principal, claim.principal.as_str(), id),
        keys.put(Part::Created, keys::created(claim.created), id),
        keys.put(Part::Host, claim.host.as_str(), id),
        keys.put(Part::Mark, keys::mark(claim.nonce), id),
        keys.put(Part::Counter, keys::hex(id), 0),
    ];
    if let Some(reason) = &claim.reason {
        writes.push(keys.put(Part::Reason, reason.as_str(), id));
    }
    writes
}

fn no_counter(keys: &Keys) -> BackendError {
    let key = keys.of(Part::Counter);
    foreign(&format!("there is something that is no counter of ours at key {key:?}"))
}

/// What an etcd lease of this length gives to a lease of this ttl: a member may make it longer.
fn length(secs: i64, ttl: Ttl) -> Duration {
    Duration::from_secs(secs.max(0).unsigned_abs()).min(whole(ttl))
}

fn whole(ttl: Ttl) -> Duration {
    Duration::from_secs(u64::from(ttl.as_secs()))
}

/// An id for an etcd lease that is no lease's own.
fn fresh_id() -> Result<i64, BackendError> {
    let number = getrandom::u64().map_err(|_| unknown("the kernel gives no random numbers"))?;
    Ok(i64::try_from(number >> 1).unwrap_or(i64::MAX).max(1))
}
