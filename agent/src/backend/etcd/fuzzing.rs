//! A way in for `tests/fuzz`; no other build has it.

use etcd_client::TxnResponse;
use etcd_client::proto::PbTxnResponse;
use stormlock_protocol::name::Resource;

use super::keys::{Found, Keys, Seen};
use crate::lease::{Holder, Nonce, Proof};

/// What is read in a server's answer about the keys of a resource: `None` if it is no answer to
/// that, else the holder that it tells of.
#[must_use]
pub fn read(answer: PbTxnResponse, on: &Resource) -> Option<Option<Holder>> {
    let keys = Keys::new("", on);
    let seen = Seen::read(TxnResponse(answer), &keys)?;
    let Found::Lock(lock) = &seen.found else { return Some(None) };
    let holder = lock.holder(on, None);
    // What is made of it further on: the conditions of a write, and the keys written again.
    let (next, nonces) = (Nonce(1), vec![Nonce(2)]);
    let proof = Proof { resource: on.clone(), lease: holder.lease, nonces };
    let _ = (lock.stands(&proof, Some(next)), lock.unmoved(&keys), lock.has_its_own_lease());
    let _ = lock.hung_on(&keys, 1, Some(next));
    Some(Some(holder))
}
