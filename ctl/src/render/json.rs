//! The stable JSON of `-o json` and `-o jsonl`: schema 1.
//!
//! Fields are only ever added. Times are RFC 3339 in UTC, durations whole seconds with the unit in
//! the name, what is unknown is null.

use jiff::Zoned;
use serde::Serialize;
use stormlock_protocol::message::{
    Agent, Attach, Backend, Finding, Health, Hold, Lease, Level, Lock, Logged, LostReason,
    Released, State, Unread,
};

use crate::time;

/// The number of this layout.
const SCHEMA: u32 = 1;

/// A document: the schema's number before what it holds.
#[derive(Debug, Serialize)]
pub(crate) struct Document<T> {
    schema: u32,
    #[serde(flatten)]
    content: T,
}

impl<T> Document<T> {
    pub(crate) fn new(content: T) -> Document<T> {
        Document { schema: SCHEMA, content }
    }
}

/// What a command says of one thing: in a line of `jsonl` with what it is.
#[derive(Debug, Serialize)]
pub(crate) struct One<T> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) what: Option<&'static str>,
    #[serde(flatten)]
    pub(crate) content: T,
}

/// One line of `jsonl`: what it is, beside what it holds.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Line<'a> {
    Lease(LeaseJson<'a>),
    Lock(LockJson<'a>),
    Released(ReleasedJson<'a>),
    Unread(UnreadJson<'a>),
    Agent(AgentJson<'a>),
    Backend(BackendJson<'a>),
    Finding(FindingJson<'a>),
    Broken {
        broken: LockJson<'a>,
        free_in_secs: u64,
    },
    Event(LoggedJson<'a>),
    /// The whole state was told; what follows are changes.
    Caught {},
}

impl Line<'_> {
    pub(crate) fn document(self) -> Document<Self> {
        Document::new(self)
    }
}

/// See [`Lease`].
#[derive(Debug, Serialize)]
pub(crate) struct LeaseJson<'a> {
    resource: &'a str,
    lease: String,
    fence: Option<u64>,
    backend: &'a str,
    this_host_only: bool,
    state: &'static str,
    lost_reason: Option<&'static str>,
    lost_to: Option<&'a str>,
    lost_why: Option<&'a str>,
    principal: &'a str,
    reason: Option<&'a str>,
    since: Option<String>,
    until: Option<String>,
    left_secs: u64,
    ttl_secs: u32,
    hold: &'static str,
    hold_until: Option<String>,
    attach: &'static str,
    pid: Option<u32>,
    waiters: u32,
    ends_soon: bool,
}

impl<'a> LeaseJson<'a> {
    pub(crate) fn new(lease: &'a Lease, now: &Zoned) -> LeaseJson<'a> {
        let (lost_reason, lost_to) = match &lease.state {
            State::Lost(reason) => (Some(lost_word(reason)), lost_to(reason)),
            State::Asking
            | State::Held
            | State::AtRisk
            | State::Unknown
            | State::Released
            | State::Lingering => (None, None),
        };
        let (hold, hold_until) = match lease.hold {
            Hold::No | Hold::Usual => ("no", None),
            Hold::For(secs) => ("until", time::rfc3339(time::end(u64::from(secs) * 1_000, now))),
            Hold::Until(at) => ("until", time::rfc3339(at)),
            Hold::Keep => ("keep", None),
        };
        LeaseJson {
            resource: lease.resource.as_str(),
            lease: lease.lease.to_string(),
            fence: lease.fence.map(|fence| fence.0),
            backend: &lease.backend,
            this_host_only: lease.this_host_only,
            state: state_word(&lease.state),
            lost_reason,
            lost_to,
            lost_why: lost_why(&lease.state),
            principal: lease.principal.as_str(),
            reason: lease.reason.as_ref().map(|reason| reason.as_str()),
            since: time::rfc3339(lease.since),
            until: time::rfc3339(time::end(lease.left_ms, now)),
            left_secs: lease.left_ms / 1_000,
            ttl_secs: lease.ttl.as_secs(),
            hold,
            hold_until,
            attach: match lease.attach {
                Attach::Detached => "detached",
                Attach::Session => "session",
                Attach::Process(_) | Attach::Holder { .. } => "process",
            },
            pid: lease.attach.process().map(|process| process.pid),
            waiters: lease.waiters,
            ends_soon: lease.ends_soon,
        }
    }
}

/// See [`Lock`].
#[derive(Debug, Serialize)]
pub(crate) struct LockJson<'a> {
    resource: &'a str,
    backend: &'a str,
    this_host_only: bool,
    principal: &'a str,
    host: Option<&'a str>,
    lease: String,
    fence: Option<u64>,
    reason: Option<&'a str>,
    since: Option<String>,
    until: Option<String>,
    left_secs: Option<u64>,
    mine: bool,
    waiters: u32,
}

impl<'a> LockJson<'a> {
    pub(crate) fn new(lock: &'a Lock, now: &Zoned) -> LockJson<'a> {
        LockJson {
            resource: lock.resource.as_str(),
            backend: &lock.backend,
            this_host_only: lock.this_host_only,
            principal: lock.principal.as_str(),
            host: lock.host.as_deref(),
            lease: lock.lease.to_string(),
            fence: lock.fence.map(|fence| fence.0),
            reason: lock.reason.as_ref().map(|reason| reason.as_str()),
            since: time::rfc3339(lock.since),
            until: lock.left_ms.and_then(|left| time::rfc3339(time::end(left, now))),
            left_secs: lock.left_ms.map(|left| left / 1_000),
            mine: lock.mine,
            waiters: lock.waiters,
        }
    }
}

/// See [`Released`]; only what was given back.
#[derive(Debug, Serialize)]
pub(crate) struct ReleasedJson<'a> {
    resource: &'a str,
    lease: Option<String>,
    /// False with `--if-held` when there was nothing to give back.
    released: bool,
}

impl<'a> ReleasedJson<'a> {
    pub(crate) fn new(outcome: &'a Released) -> ReleasedJson<'a> {
        ReleasedJson {
            resource: outcome.resource.as_str(),
            lease: outcome.lease.map(|lease| lease.to_string()),
            released: outcome.refusal.is_none(),
        }
    }
}

/// See [`Unread`].
#[derive(Debug, Serialize)]
pub(crate) struct UnreadJson<'a> {
    backend: &'a str,
    why: &'a str,
}

impl<'a> UnreadJson<'a> {
    pub(crate) fn new(unread: &'a Unread) -> UnreadJson<'a> {
        UnreadJson { backend: &unread.backend, why: &unread.why }
    }
}

/// See [`Agent`].
#[derive(Debug, Serialize)]
pub(crate) struct AgentJson<'a> {
    version: &'a str,
    host: &'a str,
    pid: u32,
    since: Option<String>,
    you: &'a str,
    journal_works: bool,
}

impl<'a> AgentJson<'a> {
    pub(crate) fn new(agent: &'a Agent) -> AgentJson<'a> {
        AgentJson {
            version: &agent.version,
            host: &agent.host,
            pid: agent.pid,
            since: time::rfc3339(agent.since),
            you: agent.you.as_str(),
            journal_works: agent.journal_works,
        }
    }
}

/// See [`Backend`].
#[derive(Debug, Serialize)]
pub(crate) struct BackendJson<'a> {
    name: &'a str,
    kind: &'a str,
    health: &'static str,
    since: Option<String>,
}

impl<'a> BackendJson<'a> {
    pub(crate) fn new(backend: &'a Backend) -> BackendJson<'a> {
        BackendJson {
            name: &backend.name,
            kind: &backend.kind,
            health: health_word(backend.health),
            since: backend.since.and_then(time::rfc3339),
        }
    }
}

/// See [`Finding`].
#[derive(Debug, Serialize)]
pub(crate) struct FindingJson<'a> {
    level: &'static str,
    about: &'a str,
    text: &'a str,
    mend: Option<&'a str>,
}

impl<'a> FindingJson<'a> {
    pub(crate) fn new(finding: &'a Finding) -> FindingJson<'a> {
        FindingJson {
            level: level_word(finding.level),
            about: &finding.about,
            text: &finding.text,
            mend: finding.mend.as_deref(),
        }
    }
}

/// See [`Logged`].
#[derive(Debug, Serialize)]
pub(crate) struct LoggedJson<'a> {
    time: Option<String>,
    event: &'a str,
    result: &'a str,
    resource: Option<&'a str>,
    lease: Option<String>,
    fence: Option<u64>,
    backend: Option<&'a str>,
    principal: Option<&'a str>,
    by: Option<&'a str>,
    uid: Option<u32>,
    user: Option<&'a str>,
    login: Option<&'a str>,
    pid: Option<u32>,
    unit: Option<&'a str>,
    reason: Option<&'a str>,
    why: Option<&'a str>,
    missing: u64,
}

impl<'a> LoggedJson<'a> {
    pub(crate) fn new(event: &'a Logged) -> LoggedJson<'a> {
        let origin = event.origin.as_ref();
        LoggedJson {
            time: time::rfc3339(event.at),
            event: &event.event,
            result: &event.result,
            resource: event.resource.as_ref().map(|resource| resource.as_str()),
            lease: event.lease.map(|lease| lease.to_string()),
            fence: event.fence.map(|fence| fence.0),
            backend: event.backend.as_deref(),
            principal: event.principal.as_ref().map(|principal| principal.as_str()),
            by: event.by.as_ref().map(|by| by.as_str()),
            uid: origin.map(|origin| origin.uid),
            user: origin.map(|origin| origin.user.as_str()),
            login: origin.and_then(|origin| origin.login.as_deref()),
            pid: origin.and_then(|origin| origin.pid),
            unit: origin.and_then(|origin| origin.unit.as_deref()),
            reason: event.reason.as_ref().map(|reason| reason.as_str()),
            why: event.why.as_deref(),
            missing: event.missing,
        }
    }
}

/// A state as programs read it.
pub(crate) fn state_word(state: &State) -> &'static str {
    match state {
        State::Asking => "asking",
        State::Held => "held",
        State::AtRisk => "at_risk",
        State::Unknown => "unknown",
        State::Lost(_) => "lost",
        State::Released => "released",
        State::Lingering => "lingering",
    }
}

/// A reason for loss as programs read it.
pub(crate) fn lost_word(reason: &LostReason) -> &'static str {
    match reason {
        LostReason::Expired => "expired",
        LostReason::TakenBy(_) => "taken_by",
        LostReason::BrokenBy { .. } => "broken_by",
        LostReason::StoreLostIt => "store_lost_it",
        LostReason::Clone => "clone",
        LostReason::Revoked => "revoked",
    }
}

/// Who has what was lost, where it is known.
pub(crate) fn lost_to(reason: &LostReason) -> Option<&str> {
    match reason {
        LostReason::TakenBy(principal) | LostReason::BrokenBy { who: principal, .. } => {
            Some(principal.as_str())
        }
        LostReason::Expired | LostReason::StoreLostIt | LostReason::Clone | LostReason::Revoked => {
            None
        }
    }
}

/// Why somebody broke it, as they said.
pub(crate) fn lost_why(state: &State) -> Option<&str> {
    match state {
        State::Lost(LostReason::BrokenBy { why, .. }) => why.as_ref().map(|why| why.as_str()),
        State::Lost(_)
        | State::Asking
        | State::Held
        | State::AtRisk
        | State::Unknown
        | State::Released
        | State::Lingering => None,
    }
}

/// A backend's health as programs read it.
pub(crate) fn health_word(health: Health) -> &'static str {
    match health {
        Health::Unused => "unused",
        Health::Up => "up",
        Health::Down => "down",
    }
}

/// A finding's level as programs read it.
pub(crate) fn level_word(level: Level) -> &'static str {
    match level {
        Level::Good => "good",
        Level::Note => "note",
        Level::Warning => "warning",
        Level::Bad => "bad",
    }
}
