//! The scripts: one atomic operation each, and how their replies are read.
//!
//! The Lua stands in files of its own, so that an editor and a linter can read it.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Value;
use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, TTL_MAX_SECS, UnixMs};

use crate::lease::Holder;

/// One script, by its text and its name on the server.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) text: &'static str,
    pub(super) sha1: LazyLock<String>,
}

macro_rules! scripts {
    ($($name:ident: $($file:literal)*;)*) => {$(
        pub(super) static $name: Script = Script {
            text: concat!($(include_str!($file)),*),
            sha1: LazyLock::new(|| redis::Script::new($name.text).get_hash().to_owned()),
        };
    )*};
}
scripts! {
    LOOK: "record.lua" "claim.lua" "look.lua";
    ACQUIRE: "record.lua" "claim.lua" "acquire.lua";
    RENEW: "record.lua" "stands.lua" "renew.lua";
    VERIFY: "record.lua" "stands.lua" "verify.lua";
    RELEASE: "record.lua" "stands.lua" "release.lua";
    CANCEL: "record.lua" "cancel.lua";
    HOLDER: "record.lua" "holder.lua";
    LIST: "record.lua" "list.lua";
}

/// What a script said.
#[derive(Debug)]
pub(super) enum Said {
    /// It may be taken, and its counter is this.
    Free(Vec<u8>),
    /// It is ours, for so long, under this fence where the script tells it.
    Ours(Duration, Option<Fence>),
    /// Another has it.
    Held(Box<Holder>),
    /// Nobody has it.
    Gone,
    /// The counter is not the expected one.
    Moved,
    /// Ours under a mark that we never wrote.
    Cloned,
    /// It is so.
    Done,
    /// Something that is no lock, in words.
    Foreign(String),
}

impl Said {
    /// Reads a reply about `on`; `None` when it is none that our scripts give.
    pub(super) fn read(value: &Value, on: &Resource) -> Option<Said> {
        let Value::Array(items) = value else { return None };
        let (tag, rest) = items.split_first()?;
        match (bytes(tag)?, rest) {
            (b"FREE", [counter]) => Some(Said::Free(bytes(counter)?.to_vec())),
            (b"OURS", [left]) => Some(Said::Ours(still(left)?, None)),
            (b"OURS", [left, fence]) => Some(Said::Ours(still(left)?, Some(number(fence)?))),
            (b"HELD", fields) => Some(Said::Held(Box::new(holder(fields, on)?))),
            (b"GONE", []) => Some(Said::Gone),
            (b"MOVED", []) => Some(Said::Moved),
            (b"CLONED", []) => Some(Said::Cloned),
            (b"DONE", []) => Some(Said::Done),
            (b"FOREIGN", [what]) => Some(Said::Foreign(text(what)?)),
            _ => None,
        }
    }
}

/// What is left of a lease of ours. Somebody who took away a lock's end (PERSIST) made it outlast
/// every lease.
fn still(left: &Value) -> Option<Duration> {
    let for_ever = Duration::from_secs(u64::from(TTL_MAX_SECS));
    Some(remaining(left)?.unwrap_or(for_ever))
}

/// PTTL's answer: `Some(None)` for a key without an end.
fn remaining(left: &Value) -> Option<Option<Duration>> {
    match *left {
        Value::Int(-1) => Some(None),
        Value::Int(ms) => Some(Some(Duration::from_millis(u64::try_from(ms).ok()?))),
        _ => None,
    }
}

fn holder(fields: &[Value], on: &Resource) -> Option<Holder> {
    let [left, id, principal, created, fence, host, reason] = fields else { return None };
    let known = |field: &Value| text(field).filter(|text| !text.is_empty());
    Some(Holder {
        resource: on.clone(),
        lease: LeaseId::from_bytes(bytes(id)?.try_into().ok()?),
        principal: Principal::foreign(&text(principal).unwrap_or_default()),
        // Tamed like a principal: it is printed beside one.
        host: known(host).map(|host| Principal::foreign(&host).as_str().to_owned()),
        reason: known(reason).map(|reason| Reason::foreign(&reason)),
        fence: number(fence),
        since: text(created).map_or(UnixMs(0), |secs| since(&secs)),
        remaining: remaining(left)?,
    })
}

/// Unix seconds with a fraction, as the Python tool writes them. For people only, so what cannot
/// be read is the epoch; the cast saturates.
fn since(secs: &str) -> UnixMs {
    let secs: f64 = secs.trim().parse().unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, reason = "it saturates, and is for people")]
    UnixMs((secs * 1000.0).round() as i64)
}

/// The same the other way.
pub(super) fn created(at: UnixMs) -> String {
    let sign = if at.0 < 0 { "-" } else { "" };
    let ms = at.0.unsigned_abs();
    format!("{sign}{}.{:03}", ms / 1000, ms % 1000)
}

fn number(value: &Value) -> Option<Fence> {
    text(value)?.parse().ok().map(Fence)
}

fn text(value: &Value) -> Option<String> {
    bytes(value).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_is_unix_seconds_as_the_python_tool_writes_them() {
        assert_eq!(created(UnixMs(1_700_000_000_005)), "1700000000.005");
        assert_eq!(created(UnixMs(-1500)), "-1.500");
        assert_eq!(since("1700000000.0054321"), UnixMs(1_700_000_000_005));
        for odd in ["", "x", "nan", "1e999", "-1e999"] {
            let UnixMs(_) = since(odd);
        }
    }

    #[test]
    fn a_reply_that_no_script_gives_is_none() {
        let on = Resource::new("a").unwrap();
        let word = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        for odd in [
            Value::Nil,
            Value::Int(1),
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![word("OURS")]),
            Value::Array(vec![word("OURS"), Value::Int(-2)]),
            Value::Array(vec![word("OURS"), Value::Int(5), word("x")]),
            Value::Array(vec![word("HELD"), Value::Int(5), word("short")]),
            Value::Array(vec![word("DONE"), Value::Nil]),
        ] {
            assert!(Said::read(&odd, &on).is_none(), "{odd:?}");
        }
    }
}
