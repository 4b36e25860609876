//! The items: a lock as the Python tool writes it with our extras, and the counter beside it.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, TTL_MAX_SECS, UnixMs};

use super::time::Span;
use crate::lease::{Claim, Holder, Nonce};

/// What a table keeps under one key.
pub(super) type Item = HashMap<String, AttributeValue>;

/// The table's key: what is protected, or whose counter it is.
pub(super) const RESOURCE: &str = "resource";
/// Who holds it.
pub(super) const PRINCIPAL: &str = "principal";
/// Since when, in seconds since 1970 by the writer's clock.
pub(super) const CREATED: &str = "created";
/// Ours: the same in milliseconds, which no whole second can say.
const CREATED_MS: &str = "created_ms";
/// The lease, in 32 hex digits.
pub(super) const LEASE: &str = "lease";
/// Its end, in seconds since 1970 by the region's clock; the table's TTL attribute.
pub(super) const EXPIRES: &str = "expires";
/// Ours: the fence of a lock, and the number of a counter.
pub(super) const FENCE: &str = "fence";
/// Ours: the mark of its last renewal, in 16 hex digits.
pub(super) const MARK: &str = "mark";
/// Ours: the length that was last asked for, in seconds; `expires` is rounded up.
pub(super) const TTL: &str = "ttl";
const HOST: &str = "host";
const REASON: &str = "reason";

/// What the keys of the counters begin with: no resource of ours does.
const COUNTERS: &str = "stormlock/fence/";

/// The key of a resource's counter.
pub(super) fn counter(on: &Resource) -> String {
    format!("{COUNTERS}{on}")
}

/// True for a key that only a counter may have.
pub(super) fn is_counter(key: &str) -> bool {
    key.starts_with(COUNTERS)
}

/// A lock, as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lock {
    pub(super) lease: LeaseId,
    /// Of a lock that an agent wrote.
    pub(super) mark: Option<String>,
    /// `None`: it never ends.
    pub(super) expires: Option<i64>,
    pub(super) fence: Option<Fence>,
    ttl: Option<Duration>,
    principal: Principal,
    created: UnixMs,
    host: Option<String>,
    reason: Option<Reason>,
}

impl Lock {
    /// Reads an item that stands under a resource; in words, why it is no lock.
    pub(super) fn read(item: &Item) -> Result<Lock, &'static str> {
        let lease = match item.get(LEASE) {
            Some(AttributeValue::S(digits)) => digits.parse::<LeaseId>().ok(),
            _ => None,
        };
        let lease = lease.filter(|lease| item.get(LEASE) == Some(&text(hex(*lease))));
        let expires = match item.get(EXPIRES) {
            None => Some(None),
            Some(AttributeValue::N(secs)) => secs.parse::<i64>().ok().map(Some),
            Some(_) => None,
        };
        let words = |name: &str| match item.get(name) {
            Some(AttributeValue::S(words)) if !words.is_empty() => Some(words.as_str()),
            _ => None,
        };
        let number = |name: &str| match item.get(name) {
            Some(AttributeValue::N(digits)) => Some(digits.as_str()),
            _ => None,
        };
        let secs = |digits: &str| digits.parse().ok().map(Duration::from_secs);
        Ok(Lock {
            lease: lease.ok_or("an item without a lease of 32 hex digits")?,
            expires: expires.ok_or("an item whose `expires` is no whole number")?,
            mark: words(MARK).map(str::to_owned),
            fence: number(FENCE).and_then(|digits| digits.parse().ok()).map(Fence),
            ttl: number(TTL).and_then(secs),
            principal: Principal::foreign(words(PRINCIPAL).unwrap_or_default()),
            created: since(number(CREATED), number(CREATED_MS)),
            // Tamed like a principal: it is printed beside one.
            host: words(HOST).map(|host| Principal::foreign(host).as_str().to_owned()),
            reason: words(REASON).map(Reason::foreign),
        })
    }

    /// True when its end is past for certain: others may have it.
    pub(super) fn is_over(&self, now: Span, margin: Duration) -> bool {
        self.expires.is_some_and(|expires| expires <= now.over(margin))
    }

    /// How long it certainly lasts; `None`: for ever. Of a lock of ours never more than was asked
    /// for, although its end is rounded up.
    pub(super) fn left(&self, now: Span) -> Option<Duration> {
        let left = now.left(self.expires?);
        let most = self.ttl.filter(|_| self.mark.is_some());
        Some(most.map_or(left, |most| left.min(most)))
    }

    /// The same for a lease of ours. Somebody who took away its end made it outlast every lease.
    pub(super) fn still(&self, now: Span) -> Duration {
        self.left(now).unwrap_or(Duration::from_secs(u64::from(TTL_MAX_SECS)))
    }

    pub(super) fn holder(&self, on: &Resource, now: Span) -> Holder {
        Holder {
            resource: on.clone(),
            lease: self.lease,
            principal: self.principal.clone(),
            host: self.host.clone(),
            reason: self.reason.clone(),
            fence: self.fence,
            since: self.created,
            remaining: self.left(now),
        }
    }

    /// True for one of these marks, or for any if there are none.
    pub(super) fn fits(&self, marks: &[String]) -> bool {
        marks.is_empty() || self.mark.as_ref().is_some_and(|mark| marks.contains(mark))
    }
}

/// A claim as it is stored.
pub(super) fn lock(claim: &Claim, expires: i64, fence: Fence) -> Item {
    let mut item = HashMap::from([
        (RESOURCE.to_owned(), text(claim.resource.as_str())),
        (PRINCIPAL.to_owned(), text(claim.principal.as_str())),
        (CREATED.to_owned(), number(created(claim.created))),
        (CREATED_MS.to_owned(), number(claim.created.0)),
        (LEASE.to_owned(), text(hex(claim.lease))),
        (EXPIRES.to_owned(), number(expires)),
        (FENCE.to_owned(), number(fence.0)),
        (MARK.to_owned(), text(mark(claim.nonce))),
        (TTL.to_owned(), number(claim.ttl.as_secs())),
        (HOST.to_owned(), text(claim.host.as_str())),
    ]);
    if let Some(reason) = &claim.reason {
        item.insert(REASON.to_owned(), text(reason.as_str()));
    }
    item
}

/// A lease as the Python tool writes it.
pub(super) fn hex(lease: LeaseId) -> String {
    format!("{:032x}", u128::from_be_bytes(*lease.as_bytes()))
}

/// A mark as it is stored.
pub(super) fn mark(nonce: Nonce) -> String {
    format!("{:016x}", nonce.0)
}

/// A text attribute.
pub(super) fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A number attribute.
pub(super) fn number(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Whole seconds: the Python tool reads nothing else.
fn created(at: UnixMs) -> i64 {
    at.0.div_euclid(1000)
}

/// The same the other way, in milliseconds where they fit. For people only, so what cannot be read
/// is the epoch; the cast saturates.
fn since(secs: Option<&str>, ms: Option<&str>) -> UnixMs {
    let secs: f64 = secs.and_then(|secs| secs.parse().ok()).unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, reason = "it saturates, and is for people")]
    let rough = UnixMs((secs * 1000.0).round() as i64);
    let fine = ms.and_then(|ms| ms.parse().ok()).map(UnixMs);
    fine.filter(|fine| UnixMs(created(*fine).saturating_mul(1000)) == rough).unwrap_or(rough)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Span = Span { earliest: 1_000_000_000, latest: 1_002_000_000 };

    fn item(extra: &[(&str, AttributeValue)]) -> Item {
        let mut item = HashMap::from([(LEASE.to_owned(), text("0".repeat(31) + "a"))]);
        item.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        item
    }

    #[test]
    fn only_32_hex_digits_and_a_whole_number_make_a_lock() {
        assert!(Lock::read(&item(&[])).is_ok());
        for (name, value) in [
            (LEASE, text("a")),
            (LEASE, text("A".repeat(32))),
            (LEASE, number(7)),
            (EXPIRES, text("7")),
            (EXPIRES, number("1.5")),
        ] {
            assert!(Lock::read(&item(&[(name, value.clone())])).is_err(), "{name} {value:?}");
        }
        assert!(Lock::read(&Item::new()).is_err());
    }

    #[test]
    fn a_lock_of_ours_lasts_no_longer_than_was_asked_for() {
        let python = item(&[(EXPIRES, number(1012)), (TTL, number(5))]);
        assert_eq!(Lock::read(&python).unwrap().left(NOW), Some(Duration::from_secs(10)));
        let ours = item(&[(EXPIRES, number(1012)), (TTL, number(5)), (MARK, text("x"))]);
        assert_eq!(Lock::read(&ours).unwrap().left(NOW), Some(Duration::from_secs(5)));
        assert_eq!(Lock::read(&item(&[])).unwrap().left(NOW), None);
    }

    #[test]
    fn a_lock_is_over_when_its_end_is_past_by_the_margin() {
        let margin = Duration::from_secs(60);
        let ends = |at: i64| Lock::read(&item(&[(EXPIRES, number(at))])).unwrap();
        assert!(ends(940).is_over(NOW, margin));
        assert!(!ends(941).is_over(NOW, margin));
        assert!(!Lock::read(&item(&[])).unwrap().is_over(NOW, Duration::ZERO));
    }

    #[test]
    fn since_is_to_the_millisecond_where_an_agent_wrote_it() {
        let since = |secs, ms| since(Some(secs), ms).0;
        assert_eq!(since("1700000000", Some("1700000000005")), 1_700_000_000_005);
        assert_eq!(since("1700000000", Some("1600000000005")), 1_700_000_000_000);
        assert_eq!(since("1700000000", None), 1_700_000_000_000);
        for odd in ["", "x", "nan", "1e999", "-1e999"] {
            let _ = since(odd, Some(odd));
        }
    }
}
