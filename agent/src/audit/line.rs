//! An event as a line of JSON, and back. Fields are only ever added; what is not known is left out.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stormlock_protocol::message::{Logged, Origin};
use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, UnixMs, is_invisible};

use super::event::{By, Deed, Event};
use crate::lease::Uid;

/// Longest text about an outcome, in bytes.
const WHY_MAX: usize = 512;
/// Longest name of a user or a unit, in bytes: a unit's (`UNIT_NAME_MAX` of systemd).
const NAME_MAX: usize = 255;
/// Longest of the file's own words, in bytes.
const WORD_MAX: usize = 32;

/// Which agent writes.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    /// Its host, as written into the stores.
    pub(super) host: String,
    /// The kernel's id of this boot.
    pub(super) boot: String,
}

/// One line, as it stands in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Line {
    time: String,
    event: String,
    result: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fence: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<u32>,
    /// `agent` or `caller`; the fields down to `unit` are about the caller.
    #[serde(default)]
    by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    login_uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    login: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing: Option<u64>,
    #[serde(default)]
    host: String,
    #[serde(default)]
    boot: String,
}

impl Line {
    pub(super) fn new(event: &Event, at: UnixMs, writer: &Writer) -> Line {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let mut line = Line {
            resource: text(event.resource.as_ref().map(Resource::as_str)),
            lease: event.lease.map(|lease| lease.to_string()),
            fence: event.fence.map(|fence| fence.0),
            backend: event.backend.as_ref().map(ToString::to_string),
            principal: text(event.principal.as_ref().map(Principal::as_str)),
            owner: event.owner.map(|owner| owner.0),
            by: "agent".to_owned(),
            reason: text(event.reason.as_ref().map(Reason::as_str)),
            why: event.why.as_deref().map(|why| cut(why, WHY_MAX)),
            ..Line::bare(event.deed, event.outcome.as_str(), at, writer)
        };
        if let By::Caller(facts) = &event.by {
            line.by = "caller".to_owned();
            line.caller = Some(facts.principal.as_str().to_owned());
            line.uid = Some(facts.uid.0);
            line.user = Some(cut(&facts.user, NAME_MAX));
            line.login_uid = facts.login.as_ref().map(|login| login.uid.0);
            line.login = facts.login.as_ref().map(|login| cut(&login.user, NAME_MAX));
            line.pid = facts.pid;
            line.unit = facts.unit.as_deref().map(|unit| cut(unit, NAME_MAX));
        }
        line
    }

    /// So many events could not be written.
    pub(super) fn gap(missing: u64, at: UnixMs, writer: &Writer) -> Line {
        let (by, missing) = ("agent".to_owned(), Some(missing));
        Line { by, missing, ..Line::bare(Deed::Gap, "failed", at, writer) }
    }

    fn bare(deed: Deed, result: &str, at: UnixMs, writer: &Writer) -> Line {
        let time = Timestamp::from_millisecond(at.0).unwrap_or_default();
        Line {
            time: format!("{time:.3}"),
            event: deed.as_str().to_owned(),
            result: result.to_owned(),
            host: writer.host.clone(),
            boot: writer.boot.clone(),
            ..Line::default()
        }
    }

    /// The line with its end. Whatever moves a terminal's cursor is an escape in it.
    pub(super) fn encode(&self) -> String {
        // Texts and numbers can always be written as JSON.
        let json = serde_json::to_string(self).unwrap_or_default();
        let mut line = String::with_capacity(json.len() + 1);
        for c in json.chars() {
            if is_invisible(c) {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(line, "\\u{unit:04x}");
                }
            } else {
                line.push(c);
            }
        }
        line.push('\n');
        line
    }

    /// `None` for what is no line of ours: half a line of a crash, or somebody else's.
    pub(super) fn decode(bytes: &[u8]) -> Option<Line> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn at(&self) -> Option<UnixMs> {
        let time: Timestamp = self.time.parse().ok()?;
        Some(UnixMs(time.as_millisecond()))
    }

    pub(super) fn resource(&self) -> Option<Resource> {
        Resource::new(self.resource.as_deref()?).ok()
    }

    /// As `reader` may see it: what the kernel said of a user is for that user and root. `None` if
    /// it is none of an agent's lines after all.
    pub(super) fn logged(&self, reader: Uid) -> Option<Logged> {
        let is_word = |word: &str| {
            let plain = |b: u8| b.is_ascii_lowercase() || b == b'_';
            (1..=WORD_MAX).contains(&word.len()) && word.bytes().all(plain)
        };
        if !is_word(&self.event) || !is_word(&self.result) {
            return None;
        }
        let may_see = reader == Uid(0) || self.uid == Some(reader.0);
        let name = |text: &String| cut(text, NAME_MAX);
        Some(Logged {
            at: self.at()?,
            event: self.event.clone(),
            result: self.result.clone(),
            resource: self.resource(),
            lease: self.lease.as_deref().and_then(|lease| lease.parse::<LeaseId>().ok()),
            fence: self.fence.map(Fence),
            backend: self.backend.as_ref().map(name),
            principal: self.principal.as_deref().map(Principal::foreign),
            by: self.caller.as_deref().map(Principal::foreign),
            reason: self.reason.as_deref().map(Reason::foreign),
            why: self.why.as_deref().map(|why| cut(why, WHY_MAX)),
            missing: self.missing.unwrap_or(0),
            origin: self.uid.filter(|_| may_see).map(|uid| Origin {
                uid,
                user: self.user.as_ref().map_or_else(|| uid.to_string(), name),
                login: self.login.as_ref().map(name),
                pid: self.pid,
                unit: self.unit.as_ref().map(name),
            }),
        })
    }
}

/// The beginning of a text that has at most so many bytes.
fn cut(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}
