//! What stands in an etcd: the keys of one lock, and what is read under them. Nothing is asked
//! here.

use etcd_client::proto::{PbKeyValue, PbTxnOpResponse};
use etcd_client::{Compare, CompareOp, PutOptions, TxnOp, TxnResponse};
use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, UnixMs};

use crate::lease::{Claim, Holder, Nonce, Proof};

/// One key of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Id,
    Principal,
    Created,
    Host,
    Reason,
    Mark,
    /// The fence, of a lock that was moved to another etcd lease.
    Fence,
    /// Outlives every lock of its resource.
    Counter,
}

/// The keys that come and go with a lock; the first three are the Python tool's.
pub(super) const LOCK: [Part; 7] =
    [Part::Id, Part::Principal, Part::Created, Part::Host, Part::Reason, Part::Mark, Part::Fence];

/// The ending of the key that says who has a lock.
pub(super) const ID: &str = "/id";
/// Hex digits of the largest lease id.
const ID_MAX: usize = 16;

impl Part {
    fn ending(self) -> &'static str {
        match self {
            Part::Id => ID,
            Part::Principal => "/p",
            Part::Created => "/c",
            Part::Host => "/h",
            Part::Reason => "/r",
            Part::Mark => "/n",
            Part::Fence => "/g",
            Part::Counter => "/f",
        }
    }
}

/// The keys of one resource.
#[derive(Debug)]
pub(super) struct Keys(String);

impl Keys {
    pub(super) fn new(prefix: &str, on: &Resource) -> Keys {
        Keys(format!("{prefix}{on}"))
    }

    pub(super) fn of(&self, part: Part) -> String {
        format!("{}{}", self.0, part.ending())
    }

    /// Reads every key by its own name: a range would cover the resources below this one.
    pub(super) fn read(&self) -> Vec<TxnOp> {
        let parts = LOCK.into_iter().chain([Part::Counter]);
        parts.map(|part| TxnOp::get(self.of(part), None)).collect()
    }

    pub(super) fn put(&self, part: Part, value: impl Into<Vec<u8>>, lease: i64) -> TxnOp {
        let options = (lease != 0).then(|| PutOptions::new().with_lease(lease));
        TxnOp::put(self.of(part), value, options)
    }

    pub(super) fn delete(&self, part: Part) -> TxnOp {
        TxnOp::delete(self.of(part), None)
    }

    pub(super) fn delete_lock(&self) -> Vec<TxnOp> {
        LOCK.into_iter().map(|part| self.delete(part)).collect()
    }

    /// That a key was not written since; 0 for one that is not there.
    pub(super) fn unmoved(&self, part: Part, revision: i64) -> Compare {
        Compare::mod_revision(self.of(part), CompareOp::Equal, revision)
    }

    pub(super) fn absent(&self, part: Part) -> Compare {
        Compare::create_revision(self.of(part), CompareOp::Equal, 0)
    }
}

/// A lease id of ours as etcd counts it; `None` for one that is too wide, which no lock there has.
pub(super) fn number(lease: LeaseId) -> Option<i64> {
    i64::try_from(u128::from_be_bytes(*lease.as_bytes())).ok().filter(|number| *number > 0)
}

/// The same as it is stored: hex without leading zeros, as the Python tool writes it.
pub(super) fn hex(number: i64) -> String {
    format!("{number:x}")
}

/// A mark as it is stored.
pub(super) fn mark(nonce: Nonce) -> String {
    format!("{:016x}", nonce.0)
}

/// Unix seconds in 8 bytes, as Python's `struct.pack("d", …)` writes them on every machine that
/// runs an agent. For people only, so the lost fraction of a microsecond is none.
pub(super) fn created(at: UnixMs) -> [u8; 8] {
    #[expect(clippy::cast_precision_loss, reason = "exact to 2^53 ms, and for people")]
    (at.0 as f64 / 1000.0).to_le_bytes()
}

fn since(bytes: [u8; 8]) -> UnixMs {
    #[expect(clippy::cast_possible_truncation, reason = "it saturates, and is for people")]
    UnixMs((f64::from_le_bytes(bytes) * 1000.0).round() as i64)
}

/// All keys of one resource at one instant.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) found: Found,
    /// The counter's revision, 0 for none; `None` when what stands there is none of ours.
    pub(super) counter: Option<i64>,
    /// The raft term of the member that read them.
    pub(super) term: u64,
}

#[derive(Debug)]
pub(super) enum Found {
    Free,
    /// Something that is no lock; what.
    Foreign(String),
    Lock(Box<Lock>),
}

/// A lock as it stands.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) id: LeaseId,
    /// The etcd lease that its keys hang on; 0 for none.
    pub(super) hangs_on: i64,
    /// When the id was written last.
    id_moved: i64,
    fence: Fence,
    principal: Principal,
    since: UnixMs,
    host: Option<String>,
    reason: Option<Reason>,
    mark: Option<Vec<u8>>,
    /// When the mark was written last; 0 for none.
    mark_moved: i64,
    /// Every part as it is stored.
    stored: Vec<(Part, Vec<u8>)>,
}

impl Seen {
    /// Reads what [`Keys::read`] asked for; `None` when it is no answer to that.
    pub(super) fn read(response: TxnResponse, keys: &Keys) -> Option<Seen> {
        let term = response.header()?.raft_term();
        let mut parts = Vec::with_capacity(LOCK.len() + 1);
        for one in response.0.responses {
            let Some(PbTxnOpResponse::ResponseRange(range)) = one.response else { return None };
            parts.push(range.kvs.into_iter().next());
        }
        Seen::of(parts, keys, term)
    }

    /// The same from the keys themselves, in their order.
    pub(super) fn of(mut parts: Vec<Option<PbKeyValue>>, keys: &Keys, term: u64) -> Option<Seen> {
        if parts.len() != LOCK.len() + 1 {
            return None;
        }
        let counter = match parts.pop()? {
            None => Some(0),
            Some(kv) => (kv.lease == 0 && parse(&kv.value).is_some()).then_some(kv.mod_revision),
        };
        let named: Vec<_> = LOCK.into_iter().zip(parts).collect();
        Some(Seen { found: found(named, keys), counter, term })
    }

    /// The lock, if there is one.
    pub(super) fn lock(&self) -> Option<&Lock> {
        match &self.found {
            Found::Lock(lock) => Some(lock),
            Found::Free | Found::Foreign(_) => None,
        }
    }
}

fn found(mut parts: Vec<(Part, Option<PbKeyValue>)>, keys: &Keys) -> Found {
    let odd = |part, what: &str| Found::Foreign(format!("{what} at key {:?}", keys.of(part)));
    let id = parts.iter_mut().find(|(part, _)| *part == Part::Id).and_then(|(_, kv)| kv.take());
    let Some(id) = id else {
        return match parts.iter().find(|(_, kv)| kv.is_some()) {
            None => Found::Free,
            Some((part, _)) => odd(*part, "there is something without a lease id"),
        };
    };
    let Some(lease) = parse(&id.value) else {
        return odd(Part::Id, "there is something that is no lease id");
    };
    // What hangs on another lease was not written with this lock: it is no part of it.
    let mut stored: Vec<(Part, Vec<u8>)> = Vec::with_capacity(LOCK.len());
    let (mut mark_moved, mut taken) = (0, 0);
    for (part, kv) in parts.into_iter().filter_map(|(part, kv)| Some((part, kv?))) {
        if part == Part::Mark {
            mark_moved = kv.mod_revision;
        }
        if part == Part::Principal {
            taken = kv.mod_revision;
        }
        if kv.lease == id.lease {
            stored.push((part, kv.value));
        }
    }
    let raw = |wanted| stored.iter().find(|(part, _)| *part == wanted).map(|(_, raw)| raw);
    let text = |part| raw(part).map(|raw| String::from_utf8_lossy(raw).into_owned());
    let Some(principal) = text(Part::Principal) else {
        return odd(Part::Principal, "a lock without a principal: nothing");
    };
    let Some(created) = raw(Part::Created).and_then(|raw| raw.as_slice().try_into().ok()) else {
        return odd(Part::Created, "a lock without its time: nothing of 8 bytes");
    };
    let known = |part| text(part).filter(|text| !text.is_empty());
    let moved = text(Part::Fence).and_then(|digits| digits.parse().ok());
    let lock = Lock {
        id: lease,
        hangs_on: id.lease,
        id_moved: id.mod_revision,
        fence: Fence(moved.unwrap_or(taken.unsigned_abs())),
        principal: Principal::foreign(&principal),
        since: since(created),
        // Tamed like a principal: it is printed beside one.
        host: known(Part::Host).map(|host| Principal::foreign(&host).as_str().to_owned()),
        reason: known(Part::Reason).map(|reason| Reason::foreign(&reason)),
        mark: raw(Part::Mark).cloned(),
        mark_moved,
        stored: Vec::new(),
    };
    stored.push((Part::Id, id.value));
    Found::Lock(Box::new(Lock { stored, ..lock }))
}

/// A lease id as it is stored; `None` for any other text.
fn parse(value: &[u8]) -> Option<LeaseId> {
    let text = str::from_utf8(value).ok().filter(|text| text.len() <= ID_MAX)?;
    let number = i64::from_str_radix(text, 16).ok().filter(|number| *number > 0)?;
    // One spelling only: the others would not be found by a comparison.
    (hex(number) == text)
        .then(|| LeaseId::from_bytes(u128::from(number.unsigned_abs()).to_be_bytes()))
}

impl Lock {
    /// True when the claim is over this lease.
    pub(super) fn is_broken_by(&self, claim: &Claim) -> bool {
        claim.over == Some(self.id) && claim.lease != self.id
    }

    /// True when it is the proof's lease under one of its marks, or `next`. `None` when it is the
    /// lease under another mark.
    pub(super) fn stands(&self, proof: &Proof, next: Option<Nonce>) -> Option<bool> {
        if self.id != proof.lease {
            return Some(false);
        }
        let Some(mark) = &self.mark else { return Some(true) };
        let mut known = proof.nonces.iter().copied().chain(next);
        let is_known = proof.nonces.is_empty()
            || known.any(|nonce| self::mark(nonce).as_bytes() == mark.as_slice());
        is_known.then_some(true)
    }

    /// That neither the lease nor its mark moved since.
    pub(super) fn unmoved(&self, keys: &Keys) -> Vec<Compare> {
        let id = keys.unmoved(Part::Id, self.id_moved);
        vec![id, keys.unmoved(Part::Mark, self.mark_moved)]
    }

    /// Writes it again as it is, but for the mark, under another lease.
    pub(super) fn hung_on(&self, keys: &Keys, lease: i64, next: Option<Nonce>) -> Vec<TxnOp> {
        let is_kept = |part| match part {
            Part::Mark => next.is_none(),
            Part::Fence => false,
            _ => true,
        };
        let kept = self.stored.iter().filter(|(part, _)| is_kept(*part));
        let kept = kept.map(|(part, raw)| keys.put(*part, raw.clone(), lease));
        let next = next.map(|next| keys.put(Part::Mark, mark(next), lease));
        let fence = || keys.put(Part::Fence, self.fence.0.to_string(), lease);
        kept.chain(next).chain(self.mark.is_some().then(fence)).collect()
    }

    /// True when its etcd lease is certainly for this lock alone: it has the lock's name, or an
    /// agent made it.
    pub(super) fn has_its_own_lease(&self) -> bool {
        self.hangs_on != 0 && (number(self.id) == Some(self.hangs_on) || self.is_marked())
    }

    /// True for one that an agent made, and marks anew with each renewal.
    pub(super) fn is_marked(&self) -> bool {
        self.mark.is_some()
    }

    pub(super) fn fence(&self) -> Fence {
        self.fence
    }

    pub(super) fn holder(&self, on: &Resource, remaining: Option<std::time::Duration>) -> Holder {
        Holder {
            resource: on.clone(),
            lease: self.id,
            principal: self.principal.clone(),
            host: self.host.clone(),
            reason: self.reason.clone(),
            // Every lock has a revision; only of ours is it known that somebody counts on it.
            fence: self.mark.is_some().then(|| self.fence()),
            since: self.since,
            remaining,
        }
    }
}
