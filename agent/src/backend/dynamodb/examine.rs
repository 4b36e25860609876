//! What doctor says of a table: whether it can keep the promises of the header. Nothing is changed,
//! and what an agent may not read is said rather than guessed.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    Delete, KeyType, Put, ScalarAttributeType, TableDescription, TableStatus, TimeToLiveStatus,
    TransactWriteItem, Update,
};
use stormlock_protocol::message::Level;

use super::super::{BackendError, RefusedKind, Remark};
use super::item::{EXPIRES, FENCE, Item, RESOURCE, counter, number, text};
use super::refusal::{code, of_read, of_write};
use super::{DynamoDb, TAKEOVER_MARGIN, strange};
use crate::clock;

/// No resource is called like that: not a letter or digit first.
const TRIAL: &str = "-stormlock.doctor";
/// Locks in the table whose names are tried where a name of no lock is refused.
const PERMITTED_MAX: usize = 10;
/// A host's clock that is further off than this is worth a word, in milliseconds.
const SKEW_MS: u64 = 3_000;
/// The service refuses signatures that are five minutes off; a little before, it is time to act.
const SKEW_BAD_MS: u64 = 240_000;

impl DynamoDb {
    /// See [`super::Backend::examine`].
    pub(super) async fn remarks(&self) -> Result<Vec<Remark>, BackendError> {
        self.link.ready().await?;
        let mut remarks = vec![self.trial().await?];
        remarks.extend(self.description().await?);
        remarks.extend(self.sweeping().await?);
        remarks.extend(self.endpoint());
        remarks.extend(self.margin_remark());
        remarks.extend(self.skew()?);
        Ok(remarks)
    }

    /// Writes on names of no lock that never happen: they show the rights.
    async fn trial(&self) -> Result<Remark, BackendError> {
        let [put, update, delete] = ["put", "update", "delete"].map(|it| format!("{TRIAL}/{it}"));
        let (kind, why) = match self.never(&put, &update, Some(&delete)).await {
            Ok(()) => return Ok(good("it lets us write")),
            Err(BackendError::Refused { kind, why }) if kind != RefusedKind::Unreachable => {
                (kind, why)
            }
            Err(error) => return Err(error),
        };
        if kind == RefusedKind::Denied {
            if self.permits_some().await {
                // Which one is not for everybody to read.
                let text = format!(
                    "its rights cover some names only: not {TRIAL}/..., but one of a lock in the \
                     table; whoever asks for a lock beyond them is told so"
                );
                let mend = "nothing, if that is what the policy is for (dynamodb:LeadingKeys)";
                return Ok(remark(Level::Note, text, mend));
            }
            let mend = "see the rights in the README's section on DynamoDB; if the policy names \
                        keys (dynamodb:LeadingKeys), it has to name RESOURCE and \
                        stormlock/fence/RESOURCE of each, and doctor can tell once one is in use";
            return Ok(remark(Level::Bad, why, mend));
        }
        Ok(remark(Level::Bad, why, "see the rights in the README's section on DynamoDB"))
    }

    /// True when the rights to one of the locks in the table let us take it.
    async fn permits_some(&self) -> bool {
        let Ok(locks) = self.locks(None, PERMITTED_MAX).await else { return false };
        for lock in locks {
            let on = lock.resource;
            if self.never(on.as_str(), &counter(&on), None).await.is_ok() {
                return true;
            }
        }
        false
    }

    /// A transaction of every kind of write that the agent makes, which can never hold.
    async fn never(
        &self,
        put: &str,
        update: &str,
        delete: Option<&str>,
    ) -> Result<(), BackendError> {
        const NEVER: &str = "attribute_exists(#k) AND attribute_not_exists(#k)";
        let item = Item::from([(RESOURCE.to_owned(), text(put))]);
        let put = Put::builder().set_item(Some(item)).table_name(self.table());
        let update = Update::builder()
            .table_name(self.table())
            .key(RESOURCE, text(update))
            .update_expression("SET #f = :one")
            .expression_attribute_names("#f", FENCE)
            .expression_attribute_values(":one", number(1));
        let put = put.condition_expression(NEVER).expression_attribute_names("#k", RESOURCE);
        let update = update.condition_expression(NEVER).expression_attribute_names("#k", RESOURCE);
        let delete = delete.map(|key| {
            let delete = Delete::builder().table_name(self.table()).key(RESOURCE, text(key));
            delete.condition_expression(NEVER).expression_attribute_names("#k", RESOURCE).build()
        });
        let (Ok(put), Ok(update), Ok(delete)) = (put.build(), update.build(), delete.transpose())
        else {
            return Err(strange("a trial that cannot be built"));
        };
        let write = TransactWriteItem::builder;
        let mut items = vec![write().put(put).build(), write().update(update).build()];
        items.extend(delete.map(|delete| write().delete(delete).build()));
        let client = self.link.ready().await?;
        let answer = client.transact_write_items().set_transact_items(Some(items)).send().await;
        match answer {
            Ok(_) => Err(strange("what can never hold was done")),
            Err(SdkError::ServiceError(answer))
                if matches!(
                    answer.err(),
                    TransactWriteItemsError::TransactionCanceledException(_)
                ) =>
            {
                Ok(())
            }
            Err(error) => match of_write(&error) {
                refused @ BackendError::Refused { .. } => Err(refused),
                unknown => Err(self.link.heard(unknown)),
            },
        }
    }

    async fn description(&self) -> Result<Vec<Remark>, BackendError> {
        let client = self.link.ready().await?;
        match client.describe_table().table_name(self.table()).send().await {
            Ok(answer) => Ok(answer.table.as_ref().map(table).unwrap_or_default()),
            Err(error) => Ok(vec![unseen(&error, "DescribeTable")?]),
        }
    }

    async fn sweeping(&self) -> Result<Vec<Remark>, BackendError> {
        let client = self.link.ready().await?;
        let answer = client.describe_time_to_live().table_name(self.table()).send().await;
        let answer = match answer {
            Ok(answer) => answer.time_to_live_description,
            Err(error) => return Ok(vec![unseen(&error, "DescribeTimeToLive")?]),
        };
        let status = answer.as_ref().and_then(|ttl| ttl.time_to_live_status.clone());
        let attribute = answer.as_ref().and_then(|ttl| ttl.attribute_name.as_deref());
        let is_on = matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling));
        Ok(vec![match (is_on, attribute) {
            (true, Some(EXPIRES)) => good("its TTL sweeps dead locks away, by `expires`"),
            (true, other) => remark(
                Level::Bad,
                format!(
                    "its TTL is by the attribute {:?}: locks are not swept, and items may go that \
                     should stay",
                    other.unwrap_or("?")
                ),
                "turn that off, and turn TTL on for `expires` (stormlockd setup)",
            ),
            (false, _) => remark(
                Level::Warning,
                "its TTL is off: a dead lock that no agent sees stays, and the Python tool can \
                 never take that resource again",
                "turn TTL on for `expires` (stormlockd setup)",
            ),
        }])
    }

    fn endpoint(&self) -> Option<Remark> {
        let url = self.link.options.endpoint_url.as_deref()?;
        let plain = url.strip_prefix("http://")?;
        let is_here = ["127.", "localhost", "[::1]"].iter().any(|here| plain.starts_with(here));
        (!is_here).then(|| {
            remark(
                Level::Bad,
                "endpoint_url is without TLS: whoever is on the way can change answers and times",
                "write it with https://",
            )
        })
    }

    fn margin_remark(&self) -> Option<Remark> {
        let (margin, usual) = (self.margin().as_secs(), TAKEOVER_MARGIN.as_secs());
        (self.margin() < TAKEOVER_MARGIN).then(|| {
            remark(
                Level::Warning,
                format!(
                    "takeover_margin is {margin} s: a Python tool on a host whose clock is slow by \
                     more than that still believes in its lock when another takes it"
                ),
                &format!("set it to {usual}s, or to 15m where hosts have no time service"),
            )
        })
    }

    /// How far this host's clock is from the region's: no lease depends on it, but signatures do.
    fn skew(&self) -> Result<Option<Remark>, BackendError> {
        let now = self.link.span(self.link.now())?;
        let wall_us = clock::wall().0.saturating_mul(1000);
        let apart_us = (now.earliest.saturating_sub(wall_us))
            .max(wall_us.saturating_sub(now.latest))
            .max(0)
            .unsigned_abs();
        let apart_ms = apart_us / 1000;
        let level = if apart_ms > SKEW_BAD_MS { Level::Bad } else { Level::Note };
        Ok((apart_ms > SKEW_MS).then(|| {
            remark(
                level,
                format!(
                    "the region's clock and this host's are {} s apart; no lease depends on it, \
                     but from five minutes on the service refuses every request",
                    apart_ms / 1000
                ),
                "run a time service on this host",
            )
        }))
    }
}

/// What a table says of itself.
pub(super) fn table(table: &TableDescription) -> Vec<Remark> {
    let mut remarks = vec![key_schema(table)];
    if !matches!(table.table_status, None | Some(TableStatus::Active | TableStatus::Updating)) {
        let status = table.table_status.as_ref().map_or("?", TableStatus::as_str);
        remarks.push(remark(
            Level::Bad,
            format!("the table is {status}: it takes no locks"),
            "wait until it is ACTIVE, or restore it",
        ));
    }
    if table.replicas.as_ref().is_some_and(|replicas| !replicas.is_empty())
        || table.global_table_version.is_some()
    {
        remarks.push(remark(
            Level::Warning,
            "it is a global table: regions hear of each other's locks later, so that two of them \
             may give the same one",
            "let all agents use the same region, or a table of one region only",
        ));
    }
    if table.deletion_protection_enabled == Some(false) {
        remarks.push(remark(
            Level::Note,
            "the table may be deleted by one command, with all locks in it",
            "turn its deletion protection on",
        ));
    }
    remarks
}

fn key_schema(table: &TableDescription) -> Remark {
    let keys = table.key_schema.as_deref().unwrap_or_default();
    let is_text = table.attribute_definitions.iter().flatten().any(|attribute| {
        attribute.attribute_name == RESOURCE && attribute.attribute_type == ScalarAttributeType::S
    });
    match keys {
        [key] if key.attribute_name == RESOURCE && key.key_type == KeyType::Hash && is_text => {
            good("its key is `resource`, a text")
        }
        _ => remark(
            Level::Bad,
            "its key is not the text `resource` alone: this is no table of locks",
            "name another table, and create it with stormlockd setup",
        ),
    }
}

fn good(text: impl Into<String>) -> Remark {
    Remark { level: Level::Good, text: text.into(), mend: None }
}

fn remark(level: Level, text: impl Into<String>, mend: &str) -> Remark {
    Remark { level, text: text.into(), mend: Some(mend.to_owned()) }
}

/// What may not be read; anything else that goes wrong is an error.
fn unseen<E>(
    error: &SdkError<E, aws_sdk_dynamodb::config::http::HttpResponse>,
    what: &str,
) -> Result<Remark, BackendError>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if code(error).is_none() {
        return Err(of_read(error));
    }
    let text = format!("{what} has no answer: {}", of_read(error));
    Ok(remark(Level::Note, text, &format!("allow dynamodb:{what}, or check by hand")))
}
