//! All locks in an etcd, in order. Keys are not in the order of resources (`a-x/id` comes before
//! `a/id`), so a window of the smallest resources is kept.

use std::collections::BTreeSet;

use etcd_client::{GetOptions, GetResponse, Txn};
use stormlock_protocol::name::Resource;
use tokio::task::JoinSet;

use super::super::BackendError;
use super::keys::{ID, LOCK, Lock, Seen};
use super::{Etcd, Found, unknown};
use crate::lease::Holder;
use etcd_client::proto::PbTxnOpResponse;

/// Keys in one answer, without their values: well below the largest message.
const PAGE: i64 = 5_000;
/// Locks read by one transaction: a server allows 128 operations in one unless told otherwise.
const BATCH: usize = 128 / (LOCK.len() + 1);
/// More candidates than locks asked for, since a key may be no lock or end meanwhile.
const SPARE: usize = 256;
/// Most candidates kept at once, whatever the limit.
const WINDOW_MAX: usize = 4096;

impl Etcd {
    /// The locks after `after`, at most `limit`.
    pub(super) async fn locks(
        &self,
        after: Option<&Resource>,
        limit: usize,
    ) -> Result<Vec<Holder>, BackendError> {
        let mut locks = Vec::new();
        let mut after = after.cloned();
        loop {
            let window = (limit - locks.len()).saturating_add(SPARE).min(WINDOW_MAX);
            let candidates = self.candidates(after.as_ref(), window).await?;
            let is_last = candidates.len() < window;
            after = candidates.last().cloned();
            let candidates: Vec<_> = candidates.into_iter().collect();
            for some in candidates.chunks(BATCH) {
                locks.extend(self.some_locks(some).await?);
                if locks.len() >= limit {
                    locks.truncate(limit);
                    return Ok(locks);
                }
            }
            if is_last {
                return Ok(locks);
            }
        }
    }

    /// Those of `some` that are locks now, in their order.
    async fn some_locks(&self, some: &[Resource]) -> Result<Vec<Holder>, BackendError> {
        let strange = || unknown("etcd gave an answer to another question");
        let reads = some.iter().flat_map(|on| self.keys(on).read()).collect::<Vec<_>>();
        let response = self.transact(Txn::new().and_then(reads)).await?;
        let term = response.header().ok_or_else(strange)?.raft_term();
        let mut parts = Vec::new();
        for one in response.0.responses {
            let Some(PbTxnOpResponse::ResponseRange(range)) = one.response else {
                return Err(strange());
            };
            parts.push(range.kvs.into_iter().next());
        }
        let each = LOCK.len() + 1;
        if parts.len() != some.len() * each {
            return Err(strange());
        }
        let mut found = Vec::new();
        for on in some {
            let rest = parts.split_off(each);
            let seen = Seen::of(parts, &self.keys(on), term).ok_or_else(strange)?;
            parts = rest;
            if let Found::Lock(lock) = seen.found {
                found.push((on, lock));
            }
        }
        self.with_ends(found).await
    }

    /// Asks for all ends at once: one after the other would take a round trip each.
    async fn with_ends(
        &self,
        found: Vec<(&Resource, Box<Lock>)>,
    ) -> Result<Vec<Holder>, BackendError> {
        let mut asked = JoinSet::new();
        for (at, (_, lock)) in found.iter().enumerate().filter(|(_, (_, it))| it.hangs_on != 0) {
            let (line, id) = (self.line.clone(), lock.hangs_on);
            asked.spawn(async move { (at, super::time_to_live(&line, id).await) });
        }
        let mut ends = vec![None; found.len()];
        while let Some(answer) = asked.join_next().await {
            let (at, end) = answer.map_err(|_| unknown("the agent is stopping"))?;
            if let (Some(slot), Some(life)) = (ends.get_mut(at), end?) {
                *slot = Some(life.left);
            }
        }
        let both = found.into_iter().zip(ends);
        // One whose lease is gone has ended meanwhile.
        let still = both.filter(|((_, lock), end)| lock.hangs_on == 0 || end.is_some());
        Ok(still.map(|((on, lock), end)| lock.holder(on, end)).collect())
    }

    /// The first resources after `after` that have a lease id, at most `window`.
    async fn candidates(
        &self,
        after: Option<&Resource>,
        window: usize,
    ) -> Result<BTreeSet<Resource>, BackendError> {
        let mut found = BTreeSet::new();
        let end = end_of(&self.prefix);
        // Every resource after this one has its keys after its name.
        let mut from =
            format!("{}{}", self.prefix, after.map_or("", Resource::as_str)).into_bytes();
        // An empty key is etcd's word for the first one.
        if from.is_empty() {
            from.push(0);
        }
        loop {
            let page = self.page(from, end.clone()).await?;
            for on in page.kvs().iter().filter_map(|kv| self.resource(kv.key())) {
                if after.is_none_or(|after| on > *after) {
                    found.insert(on);
                }
                if found.len() > window {
                    found.pop_last();
                }
            }
            let Some(last) = page.kvs().last().filter(|_| page.more()) else { return Ok(found) };
            from = last.key().to_vec();
            from.push(0);
        }
    }

    async fn page(&self, from: Vec<u8>, end: Vec<u8>) -> Result<GetResponse, BackendError> {
        let options = GetOptions::new().with_range(end).with_limit(PAGE).with_keys_only();
        let asked = self.line.ask(async |client| client.kv_client().get(from, Some(options)).await);
        Ok(asked.await?)
    }

    /// The resource whose lease id a key is; `None` for other keys and for names that are none of
    /// ours.
    fn resource(&self, key: &[u8]) -> Option<Resource> {
        let key = str::from_utf8(key).ok()?;
        Resource::new(key.strip_prefix(self.prefix.as_str())?.strip_suffix(ID)?).ok()
    }
}

/// The first key after all that begin with `prefix`; a zero byte is etcd's word for no end.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_after_the_last_key_of_its_prefix() {
        assert_eq!(end_of("/"), b"0");
        assert_eq!(end_of("locks/"), b"locks0");
        assert_eq!(end_of(""), [0]);
    }
}
