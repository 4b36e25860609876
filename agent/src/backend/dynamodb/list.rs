//! All locks in a table, in order: a scan has none, so a window of the first ones is kept.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use stormlock_protocol::name::Resource;

use super::item::{LEASE, Lock, RESOURCE, is_counter};
use super::refusal::of_read;
use super::{BackendError, DynamoDb};
use crate::lease::Holder;

/// Dead locks that one list takes away: the next ones have their turn at the next list.
const BURIED_MAX: usize = 8;

impl DynamoDb {
    /// The locks after `after`, at most `limit`. Each page of a list reads the whole table: it is
    /// small, and a table with a sort key would be none of the Python tool's.
    pub(super) async fn locks(
        &self,
        after: Option<&Resource>,
        limit: usize,
    ) -> Result<Vec<Holder>, BackendError> {
        let client = self.link.ready().await?;
        let (mut found, mut dead) = (BTreeMap::new(), Vec::new());
        let mut from = None;
        loop {
            let sent = self.link.now();
            let page = client
                .scan()
                .table_name(self.table())
                .consistent_read(true)
                .filter_expression("attribute_exists(#l)")
                .expression_attribute_names("#l", LEASE)
                .set_exclusive_start_key(from)
                .send()
                .await;
            let page = page.map_err(|error| self.link.heard(of_read(&error)))?;
            let now = self.link.span(sent)?;
            for item in page.items.unwrap_or_default() {
                let Some(on) = resource(item.get(RESOURCE)) else { continue };
                let Ok(lock) = Lock::read(&item) else { continue };
                if lock.is_over(now, self.margin()) {
                    dead.push((on, lock));
                    dead.truncate(BURIED_MAX);
                } else if after.is_none_or(|after| on > *after) {
                    found.insert(on.clone(), lock.holder(&on, now));
                }
                if found.len() > limit {
                    found.pop_last();
                }
            }
            from = page.last_evaluated_key.filter(|key| !key.is_empty());
            if from.is_none() {
                break;
            }
        }
        for (on, lock) in dead {
            self.bury(&on, &lock).await;
        }
        Ok(found.into_values().collect())
    }
}

/// The resource that a key is for; `None` for counters and for names that are none of ours.
fn resource(key: Option<&AttributeValue>) -> Option<Resource> {
    match key {
        Some(AttributeValue::S(key)) if !is_counter(key) => Resource::new(key.as_str()).ok(),
        _ => None,
    }
}
