//! All locks in a Redis, in order: SCAN has none, so a window of the smallest keys is kept.

use std::collections::BTreeSet;

use redis::Value;
use stormlock_protocol::name::Resource;

use super::super::{BackendError, RefusedKind};
use super::script::{self, Said};
use super::{FENCES, Redis, strange};
use crate::lease::Holder;

/// Keys that one SCAN looks at: well under a millisecond of the server's time.
const SCAN_COUNT: u32 = 1000;
/// Locks that one script reads: well under a millisecond as well.
const BATCH: usize = 100;
/// More candidates than locks asked for, since a hash may be no lock or end meanwhile.
const SPARE: usize = 256;
/// Most candidates kept at once, whatever the limit.
const WINDOW_MAX: usize = 4096;

impl Redis {
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
                locks.extend(self.readable(some).await?);
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

    /// The same without those that our user may not read: others keep their keys beside ours, and
    /// a server that is asked for several refuses all. Who may read none of them is told so.
    async fn readable(&self, some: &[Resource]) -> Result<Vec<Holder>, BackendError> {
        let all = self.some_locks(some).await;
        if some.len() < 2 || !all.as_ref().is_err_and(is_denied) {
            return all;
        }
        let (mut locks, mut read, mut denied) = (Vec::new(), 0, None);
        for one in some.chunks(1) {
            match self.some_locks(one).await {
                Ok(lock) => {
                    read += 1;
                    locks.extend(lock);
                }
                Err(error) if is_denied(&error) => denied = Some(error),
                Err(error) => return Err(error),
            }
        }
        match denied {
            Some(error) if read == 0 => Err(error),
            _ => Ok(locks),
        }
    }

    /// Those of `some` that are locks now.
    async fn some_locks(&self, some: &[Resource]) -> Result<Vec<Holder>, BackendError> {
        let keys: Vec<_> = some.iter().map(|on| self.key(on)).collect();
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        let answer = self.eval(&script::LIST, &keys, &[]).await?;
        let Value::Array(answers) = &answer else { return Err(strange(&answer)) };
        if answers.len() != some.len() {
            return Err(strange(&answer));
        }
        let mut locks = Vec::new();
        for (on, answer) in some.iter().zip(answers) {
            match Said::read(answer, on) {
                Some(Said::Held(holder)) => locks.push(*holder),
                Some(Said::Gone) => {}
                _ => return Err(strange(answer)),
            }
        }
        Ok(locks)
    }

    /// The first resources after `after` under whose keys there are hashes, at most `window`.
    async fn candidates(
        &self,
        after: Option<&Resource>,
        window: usize,
    ) -> Result<BTreeSet<Resource>, BackendError> {
        let pattern = pattern(&self.prefix);
        let mut found = BTreeSet::new();
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_COUNT);
            let answer = self.line.ask(scan.arg("TYPE").arg("hash")).await?;
            let Some((next, keys)) = page(&answer) else { return Err(strange(&answer)) };
            for on in keys.iter().filter_map(|key| self.resource(key)) {
                if after.is_none_or(|after| on > *after) {
                    found.insert(on);
                }
                if found.len() > window {
                    found.pop_last();
                }
            }
            if next == b"0" {
                return Ok(found);
            }
            cursor = next.to_vec();
        }
    }

    /// The resource that a key is for; `None` for the counters and for names that are none of ours.
    fn resource(&self, key: &Value) -> Option<Resource> {
        let Value::BulkString(key) = key else { return None };
        let key = str::from_utf8(key).ok().filter(|key| *key != FENCES)?;
        Resource::new(key.strip_prefix(self.prefix.as_str())?).ok()
    }
}

fn is_denied(error: &BackendError) -> bool {
    matches!(error, BackendError::Refused { kind: RefusedKind::Denied, .. })
}

fn page(answer: &Value) -> Option<(&[u8], &[Value])> {
    let Value::Array(parts) = answer else { return None };
    let [Value::BulkString(cursor), Value::Array(keys)] = parts.as_slice() else { return None };
    Some((cursor, keys))
}

/// Everything that begins with `prefix`, as a glob.
fn pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for c in prefix.chars() {
        if r"*?[]\^".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_matched_as_written() {
        assert_eq!(pattern(""), "*");
        assert_eq!(pattern("locks/"), "locks/*");
        assert_eq!(pattern(r"a*b?[c]\^"), r"a\*b\?\[c\]\\\^*");
    }
}
