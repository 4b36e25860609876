//! Taking a lock: what stands there is read with its counter, then both are written or neither.

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, KeysAndAttributes, Put,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use stormlock_protocol::name::{Fence, Resource};

use super::item::{EXPIRES, FENCE, Item, LEASE, Lock, RESOURCE, counter, hex, lock, number, text};
use super::refusal::{kind, of_read, of_write, refused};
use super::time::Span;
use super::{BackendError, DynamoDb, foreign, no_counter, strange, strange_counter};
use crate::lease::{Attempt, Claim, Grant, Moment};

/// What stands under a resource and under its counter.
struct Seen {
    lock: Option<Lock>,
    counter: Option<u64>,
}

impl DynamoDb {
    /// See [`super::Backend::acquire`].
    pub(super) async fn acquired(&self, claim: &Claim) -> Result<Attempt, BackendError> {
        let on = &claim.resource;
        no_counter(on)?;
        let read = self.link.now();
        let seen = self.see(on).await?;
        if let Some(attempt) = self.found(claim, seen.lock.as_ref(), read).await? {
            return Ok(attempt);
        }
        let sent = self.link.now();
        let now = self.link.span(sent)?;
        let broken = seen.lock.as_ref().filter(|_| claim.over.is_some());
        // The write compares that it was not renewed since.
        let claim = &match broken.and_then(|it| Some(now.at_most(it.expires?))) {
            Some(left) => claim.no_shorter_than(left),
            None => claim.clone(),
        };
        let (expires, fence) = (now.end(claim.ttl), next(&seen, now.earliest));
        let items = self.writes(claim, &seen, now, expires, fence)?;
        let client = self.link.ready().await?;
        match client.transact_write_items().set_transact_items(Some(items)).send().await {
            Ok(_) => {
                // The answer may have brought another time than the one that was counted from.
                let left = self.link.span(sent)?.left(expires);
                let asked = std::time::Duration::from_secs(u64::from(claim.ttl.as_secs()));
                Ok(Attempt::Granted(Grant { fence, remaining: left.min(asked) }))
            }
            Err(error) => {
                if let SdkError::ServiceError(answer) = &error
                    && let TransactWriteItemsError::TransactionCanceledException(cancelled) =
                        answer.err()
                {
                    return self.lost(claim, cancelled.cancellation_reasons(), sent).await;
                }
                Err(self.link.heard(of_write(&error)))
            }
        }
    }

    /// Lock and counter, in one request.
    async fn see(&self, on: &Resource) -> Result<Seen, BackendError> {
        let client = self.link.ready().await?;
        let mut keys = KeysAndAttributes::builder().consistent_read(true);
        for key in [on.as_str().to_owned(), counter(on)] {
            keys = keys.keys(Item::from([(RESOURCE.to_owned(), text(key))]));
        }
        let keys = keys.build().map_err(|_| strange("a request without keys"))?;
        let answer = client.batch_get_item().request_items(self.table(), keys).send().await;
        let answer = answer.map_err(|error| self.link.heard(of_read(&error)))?;
        if answer.unprocessed_keys.is_some_and(|keys| !keys.is_empty()) {
            let why =
                "dynamodb has no capacity left for this table: raise it, or make it on demand";
            return Err(refused(super::RefusedKind::NotWritable, why));
        }
        let mut seen = Seen { lock: None, counter: None };
        for item in answer.responses.unwrap_or_default().into_values().flatten() {
            if item.get(RESOURCE) == Some(&text(on.as_str())) {
                let lock = Lock::read(&item);
                seen.lock =
                    Some(lock.map_err(|what| foreign(&format!("there is {what} at {on}")))?);
            } else {
                seen.counter = Some(count(&item).ok_or_else(|| strange_counter(on))?);
            }
        }
        Ok(seen)
    }

    /// What stands there means for the claim, by the time at `sent`; `None`: it may take it.
    async fn found(
        &self,
        claim: &Claim,
        lock: Option<&Lock>,
        sent: Moment,
    ) -> Result<Option<Attempt>, BackendError> {
        let Some(lock) = lock else { return Ok(claim.over.map(|_| Attempt::Gone)) };
        let now = self.link.span(sent)?;
        if lock.is_over(now, self.margin()) {
            if claim.over.is_some() {
                self.bury(&claim.resource, lock).await;
            }
            return Ok(claim.over.map(|_| Attempt::Gone));
        }
        if lock.lease == claim.lease {
            let fence = lock.fence.ok_or_else(|| strange("a lease of ours without a fence"))?;
            return Ok(Some(Attempt::Granted(Grant { fence, remaining: lock.still(now) })));
        }
        if claim.over == Some(lock.lease) {
            return Ok(None);
        }
        Ok(Some(Attempt::Held(Some(Box::new(lock.holder(&claim.resource, now))))))
    }

    /// Nothing was written, for these reasons: of the lock, of the counter.
    async fn lost(
        &self,
        claim: &Claim,
        reasons: &[CancellationReason],
        sent: Moment,
    ) -> Result<Attempt, BackendError> {
        let code = |reason: &CancellationReason| reason.code().unwrap_or("None").to_owned();
        if let Some(of_lock) = reasons.first()
            && code(of_lock) == "ConditionalCheckFailed"
        {
            let lock = of_lock.item().map(Lock::read).transpose();
            let lock = lock.map_err(|what| foreign(&format!("there is {what} there")))?;
            let attempt = self.found(claim, lock.as_ref(), sent).await?;
            return Ok(attempt.unwrap_or(Attempt::Moved));
        }
        for reason in reasons {
            match code(reason).as_str() {
                "None" | "ConditionalCheckFailed" | "TransactionConflict" => {}
                other => {
                    let detail = reason.message().unwrap_or_default();
                    let why = format!("dynamodb cancelled it: {other} {detail}");
                    // Whatever the reason, a cancelled transaction has written nothing.
                    let kind = kind(&format!("{other}Exception")).or(kind(other));
                    return Err(refused(kind.unwrap_or(super::RefusedKind::NotWritable), &why));
                }
            }
        }
        Ok(Attempt::Moved)
    }

    fn writes(
        &self,
        claim: &Claim,
        seen: &Seen,
        now: Span,
        expires: i64,
        fence: Fence,
    ) -> Result<Vec<TransactWriteItem>, BackendError> {
        let mut put = Put::builder()
            .table_name(self.table())
            .set_item(Some(lock(claim, expires, fence)))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let lock = seen.lock.as_ref();
        put = match (claim.over, lock.and_then(|lock| Some((lock.lease, lock.expires?)))) {
            (Some(over), None) => put
                .condition_expression("#l = :l AND attribute_not_exists(#x)")
                .expression_attribute_names("#l", LEASE)
                .expression_attribute_names("#x", EXPIRES)
                .expression_attribute_values(":l", text(hex(over))),
            (Some(over), Some((_, end))) => put
                .condition_expression("#l = :l AND #x = :x AND #x > :over")
                .expression_attribute_names("#l", LEASE)
                .expression_attribute_names("#x", EXPIRES)
                .expression_attribute_values(":l", text(hex(over)))
                .expression_attribute_values(":x", number(end))
                .expression_attribute_values(":over", number(now.over(self.margin()))),
            (None, None) => put
                .condition_expression("attribute_not_exists(#k)")
                .expression_attribute_names("#k", RESOURCE),
            (None, Some((lease, end))) => put
                .condition_expression("attribute_not_exists(#k) OR (#l = :l AND #x = :x)")
                .expression_attribute_names("#k", RESOURCE)
                .expression_attribute_names("#l", LEASE)
                .expression_attribute_names("#x", EXPIRES)
                .expression_attribute_values(":l", text(hex(lease)))
                .expression_attribute_values(":x", number(end)),
        };
        let mut count = Update::builder()
            .table_name(self.table())
            .key(RESOURCE, text(counter(&claim.resource)))
            .update_expression("SET #f = :next")
            .expression_attribute_names("#f", FENCE)
            .expression_attribute_values(":next", number(fence.0));
        count = match seen.counter {
            None => count
                .condition_expression("attribute_not_exists(#k)")
                .expression_attribute_names("#k", RESOURCE),
            Some(now) => count
                .condition_expression("#f = :now")
                .expression_attribute_values(":now", number(now)),
        };
        let (put, count) = (put.build(), count.build());
        let (Ok(put), Ok(count)) = (put, count) else {
            return Err(strange("a request that cannot be built"));
        };
        let write = TransactWriteItem::builder;
        Ok(vec![write().put(put).build(), write().update(count).build()])
    }
}

/// What a counter says; `None` if it is none of ours, or too full to count on.
fn count(item: &Item) -> Option<u64> {
    match item.get(FENCE) {
        Some(AttributeValue::N(digits)) => digits.parse().ok().filter(|n| *n < u64::MAX),
        _ => None,
    }
}

fn next(seen: &Seen, now_us: i64) -> Fence {
    let now_us = u64::try_from(now_us).unwrap_or(0);
    Fence(seen.counter.map_or(1, |n| n.saturating_add(1)).max(now_us))
}
