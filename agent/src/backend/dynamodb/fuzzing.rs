//! A way in for `tests/fuzz`; no other build has it.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use stormlock_protocol::name::{Resource, TTL_MAX_SECS};

use super::item::{Item, Lock};
use super::time::Span;
use crate::lease::Holder;

/// When the item is read, in microseconds since 1970: that the region's clock is not known better
/// than this is no matter here.
const NOW: Span = Span { earliest: 1_700_000_000_000_000, latest: 1_700_000_002_000_000 };

/// What is read in an item, which is given in the JSON of DynamoDB's own protocol: `None` if it is
/// no lock, else its holder.
#[must_use]
pub fn read(item: &[u8], on: &Resource) -> Option<Holder> {
    let lock = Lock::read(&self::item(item)?).ok()?;
    // What is made of it further on.
    let longest = Duration::from_secs(u64::from(TTL_MAX_SECS));
    let _ = (lock.is_over(NOW, longest), lock.still(NOW), lock.fits(&["00".to_owned()]));
    Some(lock.holder(on, NOW))
}

fn item(json: &[u8]) -> Option<Item> {
    let Value::Object(attributes) = serde_json::from_slice(json).ok()? else { return None };
    attributes.into_iter().map(|(name, typed)| Some((name, attribute(typed)?))).collect()
}

fn attribute(typed: Value) -> Option<AttributeValue> {
    let Value::Object(typed) = typed else { return None };
    let (kind, value) = typed.into_iter().next()?;
    match (kind.as_str(), value) {
        ("S", Value::String(text)) => Some(AttributeValue::S(text)),
        ("N", Value::String(digits)) => Some(AttributeValue::N(digits)),
        ("BOOL", Value::Bool(truth)) => Some(AttributeValue::Bool(truth)),
        ("NULL", Value::Bool(truth)) => Some(AttributeValue::Null(truth)),
        ("M", _) => Some(AttributeValue::M(HashMap::new())),
        _ => None,
    }
}
