//! DynamoDB: one table in one region.
//!
//! - Whose clock expires a lease: the region's, as the Date of its answers tells it (`time`); never
//!   this host's wall clock. `expires` is written rounded up from the latest time that it can be,
//!   and counts as past only when the earliest is past it by the margin (`takeover_margin`).
//! - The fence: `max(counter + 1, the region's time in microseconds)`. Each resource has a counter
//!   in an item of its own, `stormlock/fence/RESOURCE`, which has no `expires` and so stays.
//! - What decides: one transaction for an acquire, which puts the lock if there is none (or the one
//!   that was seen to be over, or the live one that the claim breaks) and compares and moves the
//!   counter; one conditional write of one item for each other verb. A cancel moves the counter and
//!   then deletes: two writes, and after the first no late copy of an acquire succeeds, whatever
//!   becomes of the second.
//! - Not guaranteed: anything between regions (global tables replicate later); a table that was
//!   restored from a backup. The Python tool's renew names no lease (its condition says only that
//!   the lock has not ended): one that comes late from a holder of before shortens or lengthens our
//!   lease. It is seen when the lease is read back, and renewed at once if it is kept.
//!
//! A lock is an item: `resource` (the key), `principal`, `created`, `lease` in 32 hex digits,
//! `expires` in seconds, as the Python tool writes it, and `created_ms`, `fence`, `mark`, `ttl`,
//! `host`, `reason`, which it does not read. That tool takes no lock over an item that exists, not
//! even a dead one, until DynamoDB sweeps it (up to two days): so nothing of ours is left behind,
//! and agents delete their dead locks when they see them. An agent needs `dynamodb:` GetItem,
//! BatchGetItem, PutItem, UpdateItem, DeleteItem and Scan on the table, and DescribeTable so that
//! another table under the same name is noticed.

mod acquire;
mod examine;
#[cfg(fuzzing)]
pub mod fuzzing;
mod item;
mod link;
mod list;
mod refusal;
mod setup;
mod time;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use secrecy::{ExposeSecret, SecretString};
use stormlock_protocol::name::{LeaseId, Resource, Ttl};

use super::{
    Attempt, Backend, BackendError, Clock, OpenError, Pending, RefusedKind, Released, Remark,
    Standing, Traits,
};
use crate::lease::{Claim, Holder, Nonce, Proof};
use item::{
    EXPIRES, FENCE, Item, LEASE, Lock, MARK, RESOURCE, TTL, counter, hex, is_counter, mark, number,
    text,
};
use link::Link;
use refusal::{of_read, of_write, refused};
use time::Span;

/// As `kind` in the configuration.
pub(super) const KIND: &str = "dynamodb";
/// The Python tool's table.
pub const TABLE: &str = "stormlock";
/// How long after its end a lock may be taken, if nothing else is said: more than the clocks of
/// hosts with a time service are ever apart.
pub const TAKEOVER_MARGIN: Duration = Duration::from_secs(60);

/// How to reach a table and how to count there.
#[derive(Debug, Clone)]
pub struct Options {
    /// The table's name.
    pub table: String,
    /// The region; `None`: as the environment or the profile says.
    pub region: Option<String>,
    /// Where to ask instead of the region's own address.
    pub endpoint_url: Option<String>,
    /// The profile in the files of the AWS tools.
    pub profile: Option<String>,
    /// Access key and secret; `None`: whatever the SDK finds (environment, profile, role).
    pub keys: Option<(String, SecretString)>,
    /// How long after its end a lock may be taken, in whole seconds.
    pub takeover_margin: Duration,
    /// Certificates of authorities to trust, PEM; `None` for the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and its key, PEM.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

impl Options {
    /// See [`super::Options::same`].
    pub(super) fn same(&self, other: &Options) -> bool {
        // Every field by name: a new one must be thought of here.
        let Options {
            table,
            region,
            endpoint_url,
            profile,
            keys,
            takeover_margin,
            ca_file,
            client_cert,
        } = self;
        let plain = |keys: &Option<(String, SecretString)>| {
            keys.as_ref().map(|(id, secret)| (id.clone(), secret.expose_secret().to_owned()))
        };
        *table == other.table
            && *region == other.region
            && *endpoint_url == other.endpoint_url
            && *profile == other.profile
            && plain(keys) == plain(&other.keys)
            && *takeover_margin == other.takeover_margin
            && *ca_file == other.ca_file
            && *client_cert == other.client_cert
    }
}

/// A table of locks.
#[derive(Debug)]
pub struct DynamoDb {
    link: Link,
}

impl DynamoDb {
    /// A table that nobody has connected to yet; boot time is told by `clock`.
    ///
    /// # Errors
    /// [`OpenError`] when the options cannot work whatever the service says.
    pub fn new(options: &Options, clock: Clock) -> Result<DynamoDb, OpenError> {
        Ok(DynamoDb { link: Link::new(options, clock)? })
    }

    fn table(&self) -> &str {
        &self.link.options.table
    }

    fn margin(&self) -> Duration {
        self.link.options.takeover_margin
    }

    /// What stands under a resource, and the time that its answer brought; `None`: nothing.
    async fn look(&self, on: &Resource) -> Result<Option<(Item, Span)>, BackendError> {
        let client = self.link.ready().await?;
        let sent = self.link.now();
        let asked = client.get_item().table_name(self.table()).consistent_read(true);
        let answer = asked.key(RESOURCE, text(on.as_str())).send().await;
        let answer = answer.map_err(|error| self.link.heard(of_read(&error)))?;
        let span = self.link.span(sent)?;
        Ok(answer.item.map(|item| (item, span)))
    }

    /// What the item that a write found says of a lease under these marks.
    fn standing(&self, found: Option<&Item>, known: &Known<'_>, now: Span) -> Standing {
        let Some(Ok(lock)) = found.map(Lock::read) else { return Standing::NotOurs(None) };
        if lock.is_over(now, self.margin()) {
            return Standing::NotOurs(None);
        }
        if lock.lease != known.proof.lease {
            return Standing::NotOurs(Some(Box::new(lock.holder(&known.proof.resource, now))));
        }
        if !lock.fits(&known.marks) {
            return Standing::Cloned;
        }
        Standing::Ours { remaining: lock.still(now) }
    }

    async fn renewed(
        &self,
        proof: &Proof,
        ttl: Ttl,
        next: Nonce,
    ) -> Result<Standing, BackendError> {
        // A repeat of a renewal finds the mark that the first copy left: so it is a fit.
        let next = (!proof.nonces.is_empty()).then_some(next);
        let known = Known::new(proof, next)?;
        let client = self.link.ready().await?;
        let sent = self.link.now();
        let now = self.link.span(sent)?;
        let expires = now.end(ttl);
        let mut ask = client
            .update_item()
            .table_name(self.table())
            .key(RESOURCE, text(proof.resource.as_str()))
            .expression_attribute_names("#x", EXPIRES)
            .expression_attribute_names("#t", TTL)
            .expression_attribute_names("#l", LEASE)
            .expression_attribute_values(":x", number(expires))
            .expression_attribute_values(":t", number(ttl.as_secs()))
            .expression_attribute_values(":l", text(hex(proof.lease)))
            .expression_attribute_values(":over", number(now.over(self.margin())))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let mut update = "SET #x = :x, #t = :t".to_owned();
        if let Some(next) = next {
            update.push_str(", #m = :next");
            ask = ask.expression_attribute_values(":next", text(mark(next)));
        }
        let (fits, values) = known.fits();
        if !known.marks.is_empty() {
            ask = ask.expression_attribute_names("#m", MARK);
        }
        for (name, value) in values {
            ask = ask.expression_attribute_values(name, text(value));
        }
        let live = "(attribute_not_exists(#x) OR #x > :over)";
        let condition = format!("#l = :l AND {live}{fits}");
        match ask.update_expression(update).condition_expression(condition).send().await {
            Ok(_) => {
                // The answer may have brought another time than the one that was counted from.
                let left = self.link.span(sent)?.left(expires);
                let asked = Duration::from_secs(u64::from(ttl.as_secs()));
                Ok(Standing::Ours { remaining: left.min(asked) })
            }
            Err(error) => match &error {
                SdkError::ServiceError(answer) => match answer.err() {
                    UpdateItemError::ConditionalCheckFailedException(failed) => {
                        let now = self.link.span(sent)?;
                        self.bury_if_over(&proof.resource, failed.item(), now).await;
                        match self.standing(failed.item(), &known, now) {
                            // It changed in between, and changed back: nobody knows.
                            Standing::Ours { .. } => {
                                Err(strange("a renewal failed though it fits"))
                            }
                            standing => Ok(standing),
                        }
                    }
                    _ => Err(self.link.heard(of_write(&error))),
                },
                _ => Err(self.link.heard(of_write(&error))),
            },
        }
    }

    /// Deletes the item of `on` if it is this lease under one of the marks; otherwise nothing.
    async fn delete(&self, known: &Known<'_>, also: Option<i64>) -> Result<Released, BackendError> {
        let client = self.link.ready().await?;
        let (fits, values) = known.fits();
        let mut condition = format!("#l = :l{fits}");
        let mut ask = client
            .delete_item()
            .table_name(self.table())
            .key(RESOURCE, text(known.proof.resource.as_str()))
            .expression_attribute_names("#l", LEASE)
            .expression_attribute_values(":l", text(hex(known.proof.lease)));
        if !known.marks.is_empty() {
            ask = ask.expression_attribute_names("#m", MARK);
        }
        for (name, value) in values {
            ask = ask.expression_attribute_values(name, text(value));
        }
        if let Some(expires) = also {
            condition.push_str(" AND #x = :x");
            ask = ask
                .expression_attribute_names("#x", EXPIRES)
                .expression_attribute_values(":x", number(expires));
        }
        match ask.condition_expression(condition).send().await {
            Ok(_) => Ok(Released::Done),
            Err(SdkError::ServiceError(answer))
                if matches!(answer.err(), DeleteItemError::ConditionalCheckFailedException(_)) =>
            {
                Ok(Released::NotThere)
            }
            Err(error) => Err(self.link.heard(of_write(&error))),
        }
    }

    /// Takes away a dead lock that an agent wrote: the Python tool could not take it otherwise. As
    /// nobody depends on it, nobody hears if it fails; a lock that was renewed meanwhile stays.
    async fn bury(&self, on: &Resource, lock: &Lock) {
        if lock.mark.is_none() {
            return;
        }
        let proof = Proof { resource: on.clone(), lease: lock.lease, nonces: Vec::new() };
        if let Ok(known) = Known::new(&proof, None) {
            let _ = self.delete(&known, lock.expires).await;
        }
    }

    /// The same for what a read-back or a renewal found there: whoever loses a lease to somebody
    /// who cut it is told that it is gone, and clears nothing later.
    async fn bury_if_over(&self, on: &Resource, found: Option<&Item>, now: Span) {
        if let Some(Ok(lock)) = found.map(Lock::read)
            && lock.is_over(now, self.margin())
        {
            self.bury(on, &lock).await;
        }
    }

    async fn cancelled(&self, on: &Resource, lease: LeaseId) -> Result<(), BackendError> {
        let proof = Proof { resource: on.clone(), lease, nonces: Vec::new() };
        let known = Known::new(&proof, None)?;
        let client = self.link.ready().await?;
        let moved = client
            .update_item()
            .table_name(self.table())
            .key(RESOURCE, text(counter(on)))
            .update_expression("SET #f = if_not_exists(#f, :zero) + :one")
            .condition_expression("attribute_not_exists(#k) OR attribute_type(#f, :number)")
            .expression_attribute_names("#k", RESOURCE)
            .expression_attribute_names("#f", FENCE)
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":number", text("N"))
            .send()
            .await;
        match moved {
            Ok(_) => self.delete(&known, None).await.map(|_| ()),
            Err(SdkError::ServiceError(answer))
                if matches!(answer.err(), UpdateItemError::ConditionalCheckFailedException(_)) =>
            {
                Err(strange_counter(on))
            }
            Err(error) => Err(self.link.heard(of_write(&error))),
        }
    }

    async fn holding(&self, on: &Resource) -> Result<Option<Holder>, BackendError> {
        no_counter(on)?;
        let Some((item, now)) = self.look(on).await? else { return Ok(None) };
        let lock =
            Lock::read(&item).map_err(|what| foreign(&format!("there is {what} at {on}")))?;
        if lock.is_over(now, self.margin()) {
            self.bury(on, &lock).await;
            return Ok(None);
        }
        Ok(Some(lock.holder(on, now)))
    }
}

impl Backend for DynamoDb {
    fn traits(&self) -> Traits {
        Traits { kind: KIND, this_host_only: false, narrow_ids: false }
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Pending<'a, Attempt> {
        Box::pin(self.acquired(claim))
    }

    fn renew<'a>(&'a self, proof: &'a Proof, ttl: Ttl, next: Nonce) -> Pending<'a, Standing> {
        Box::pin(self.renewed(proof, ttl, next))
    }

    fn verify<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Standing> {
        Box::pin(async move {
            let known = Known::new(proof, None)?;
            let Some((item, now)) = self.look(&proof.resource).await? else {
                return Ok(Standing::NotOurs(None));
            };
            self.bury_if_over(&proof.resource, Some(&item), now).await;
            Ok(self.standing(Some(&item), &known, now))
        })
    }

    fn release<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Released> {
        Box::pin(async move { self.delete(&Known::new(proof, None)?, None).await })
    }

    fn cancel<'a>(&'a self, resource: &'a Resource, lease: LeaseId) -> Pending<'a, ()> {
        Box::pin(self.cancelled(resource, lease))
    }

    fn holder<'a>(&'a self, resource: &'a Resource) -> Pending<'a, Option<Holder>> {
        Box::pin(self.holding(resource))
    }

    fn list<'a>(&'a self, after: Option<&'a Resource>, limit: usize) -> Pending<'a, Vec<Holder>> {
        Box::pin(self.locks(after, limit))
    }

    fn examine(&self) -> Pending<'_, Vec<Remark>> {
        Box::pin(self.remarks())
    }

    fn setup(&self) -> Option<Pending<'_, Vec<String>>> {
        Some(Box::pin(self.set_up()))
    }

    fn setup_by_hand(&self) -> Option<String> {
        Some(self.set_up_by_hand())
    }

    fn identity(&self) -> Option<String> {
        self.link.identity()
    }
}

/// How a proof names itself to a condition.
struct Known<'a> {
    proof: &'a Proof,
    marks: Vec<String>,
}

impl<'a> Known<'a> {
    fn new(proof: &'a Proof, next: Option<Nonce>) -> Result<Known<'a>, BackendError> {
        no_counter(&proof.resource)?;
        let marks = proof.nonces.iter().copied().chain(next).map(mark).collect();
        Ok(Known { proof, marks })
    }

    /// The rest of a condition, and its values; `#m` is the mark.
    fn fits(&self) -> (String, Vec<(String, String)>) {
        if self.marks.is_empty() {
            return (String::new(), Vec::new());
        }
        let values: Vec<_> = self
            .marks
            .iter()
            .enumerate()
            .map(|(n, mark)| (format!(":m{n}"), mark.clone()))
            .collect();
        let names: Vec<_> = values.iter().map(|(name, _)| name.as_str()).collect();
        (format!(" AND #m IN ({})", names.join(", ")), values)
    }
}

/// Counters are no resources.
fn no_counter(on: &Resource) -> Result<(), BackendError> {
    if is_counter(on.as_str()) {
        return Err(foreign("the counters of all locks stand under such names"));
    }
    Ok(())
}

fn strange_counter(on: &Resource) -> BackendError {
    foreign(&format!("there is something else than a counter at {}", counter(on)))
}

fn foreign(why: &str) -> BackendError {
    refused(RefusedKind::Foreign, why)
}

/// An answer that a table of ours does not give: whatever it is, it is no proof of anything.
fn strange(what: &str) -> BackendError {
    BackendError::Unknown { why: format!("dynamodb gave an answer that makes no sense: {what}") }
}

#[cfg(test)]
mod tests;
