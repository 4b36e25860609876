//! The parts of lines as they are written: places, intents, and the words and numbers in them.
//!
//! Not here: which lines there are (`body`, with the rule by which both may grow).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stormlock_protocol::name::{LeaseId, Principal, Reason, Resource, Ttl, UnixMs};

use super::Place;
use super::body::Unreadable;
use crate::lease::{
    Attach, BackendName, Claim, Ending, Hold, Intent, Loss, Moment, Nonce, ProcessId, SessionId,
    Terminal, Uid,
};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WrittenPlace {
    pub(super) machine: Option<String>,
    pub(super) boot: String,
    pub(super) wall_at_boot_ms: i64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WrittenIntent {
    pub(super) resource: String,
    pub(super) lease: String,
    pub(super) backend: String,
    pub(super) principal: String,
    pub(super) host: String,
    pub(super) reason: Option<String>,
    pub(super) ttl_secs: u64,
    pub(super) created_ms: i64,
    pub(super) nonce: String,
    pub(super) owner: u32,
    pub(super) hold: WrittenHold,
    pub(super) attach: WrittenAttach,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) terminal: Option<WrittenTerminal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) over: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WrittenRenewal {
    pub(super) lease: String,
    pub(super) nonce: Option<String>,
    pub(super) ttl_secs: u64,
    pub(super) hold: WrittenHold,
    pub(super) sent_ns: u64,
    pub(super) remaining_ns: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WrittenCeiling {
    pub(super) sent_ns: u64,
    pub(super) remaining_ns: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WrittenHold {
    No,
    UntilNs(u64),
    Keep,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WrittenAttach {
    Detached,
    Session(u64),
    Process(WrittenProcess),
    Holder { process: WrittenProcess, grace_secs: u32 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WrittenProcess {
    pid: u32,
    started: u64,
    group: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WrittenTerminal {
    device: u32,
    session: WrittenProcess,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Ending", rename_all = "snake_case")]
pub(super) enum WrittenEnding {
    Cancel,
    Release,
    Linger,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WrittenLoss {
    Expired,
    TakenBy(String),
    BrokenBy { who: String, why: Option<String> },
    StoreLostIt,
    Clone,
    Revoked,
}

impl From<&Place> for WrittenPlace {
    fn from(place: &Place) -> WrittenPlace {
        WrittenPlace {
            machine: place.machine.clone(),
            boot: hex(&place.boot),
            wall_at_boot_ms: place.wall_at_boot.0,
        }
    }
}

impl TryFrom<WrittenPlace> for Place {
    type Error = Unreadable;

    fn try_from(written: WrittenPlace) -> Result<Place, Unreadable> {
        let wall_at_boot = UnixMs(written.wall_at_boot_ms);
        Ok(Place { machine: written.machine, boot: boot_id(&written.boot)?, wall_at_boot })
    }
}

impl From<&Intent> for WrittenIntent {
    fn from(intent: &Intent) -> WrittenIntent {
        let Intent { claim, owner, hold, attach, terminal } = intent;
        WrittenIntent {
            resource: claim.resource.to_string(),
            lease: claim.lease.to_string(),
            backend: claim.backend.to_string(),
            principal: claim.principal.to_string(),
            host: claim.host.clone(),
            reason: claim.reason.as_ref().map(ToString::to_string),
            ttl_secs: claim.ttl.as_secs().into(),
            created_ms: claim.created.0,
            nonce: mark(claim.nonce),
            owner: owner.0,
            hold: (*hold).into(),
            attach: (*attach).into(),
            terminal: terminal.map(|Terminal { device, session }| WrittenTerminal {
                device,
                session: session.into(),
            }),
            over: claim.over.map(|lease| lease.to_string()),
        }
    }
}

impl TryFrom<WrittenIntent> for Intent {
    type Error = Unreadable;

    fn try_from(written: WrittenIntent) -> Result<Intent, Unreadable> {
        let resource = Resource::new(written.resource.as_str());
        let claim = Claim {
            resource: resource.map_err(|_| Unreadable::Field(written.resource, "resource"))?,
            lease: lease_id(&written.lease)?,
            backend: BackendName::new(&written.backend),
            // For people only: a text that today's rules would refuse must not cost the lease.
            principal: Principal::foreign(&written.principal),
            host: written.host,
            reason: written.reason.as_deref().map(Reason::foreign),
            ttl: ttl(written.ttl_secs)?,
            created: UnixMs(written.created_ms),
            nonce: nonce(&written.nonce)?,
            over: written.over.as_deref().map(lease_id).transpose()?,
        };
        let (hold, attach) = (written.hold.into(), written.attach.into());
        let terminal = written.terminal;
        let terminal = terminal.map(|WrittenTerminal { device, session }| Terminal {
            device,
            session: session.into(),
        });
        Ok(Intent { claim, owner: Uid(written.owner), hold, attach, terminal })
    }
}

impl From<Hold> for WrittenHold {
    fn from(hold: Hold) -> WrittenHold {
        match hold {
            Hold::No => WrittenHold::No,
            Hold::Until(end) => WrittenHold::UntilNs(end.as_nanos()),
            Hold::Keep => WrittenHold::Keep,
        }
    }
}

impl From<WrittenHold> for Hold {
    fn from(written: WrittenHold) -> Hold {
        match written {
            WrittenHold::No => Hold::No,
            WrittenHold::UntilNs(end) => Hold::Until(Moment::from_nanos(end)),
            WrittenHold::Keep => Hold::Keep,
        }
    }
}

impl From<Attach> for WrittenAttach {
    fn from(attach: Attach) -> WrittenAttach {
        match attach {
            Attach::Detached => WrittenAttach::Detached,
            Attach::Session(session) => WrittenAttach::Session(session.0),
            Attach::Process(process) => WrittenAttach::Process(process.into()),
            Attach::Holder(process, grace_secs) => {
                WrittenAttach::Holder { process: process.into(), grace_secs }
            }
        }
    }
}

impl From<WrittenAttach> for Attach {
    fn from(written: WrittenAttach) -> Attach {
        match written {
            WrittenAttach::Detached => Attach::Detached,
            WrittenAttach::Session(session) => Attach::Session(SessionId(session)),
            WrittenAttach::Process(process) => Attach::Process(process.into()),
            WrittenAttach::Holder { process, grace_secs } => {
                Attach::Holder(process.into(), grace_secs)
            }
        }
    }
}

impl From<ProcessId> for WrittenProcess {
    fn from(process: ProcessId) -> WrittenProcess {
        let ProcessId { pid, started, group } = process;
        WrittenProcess { pid, started, group }
    }
}

impl From<WrittenProcess> for ProcessId {
    fn from(written: WrittenProcess) -> ProcessId {
        let WrittenProcess { pid, started, group } = written;
        ProcessId { pid, started, group }
    }
}

impl From<&Loss> for WrittenLoss {
    fn from(loss: &Loss) -> WrittenLoss {
        match loss {
            Loss::Expired => WrittenLoss::Expired,
            Loss::TakenBy(who) => WrittenLoss::TakenBy(who.to_string()),
            Loss::BrokenBy { who, why } => WrittenLoss::BrokenBy {
                who: who.to_string(),
                why: why.as_ref().map(ToString::to_string),
            },
            Loss::StoreLostIt => WrittenLoss::StoreLostIt,
            Loss::Clone => WrittenLoss::Clone,
            Loss::Revoked => WrittenLoss::Revoked,
        }
    }
}

impl From<WrittenLoss> for Loss {
    fn from(written: WrittenLoss) -> Loss {
        match written {
            WrittenLoss::Expired => Loss::Expired,
            WrittenLoss::TakenBy(who) => Loss::TakenBy(Principal::foreign(&who)),
            WrittenLoss::BrokenBy { who, why } => Loss::BrokenBy {
                who: Principal::foreign(&who),
                why: why.as_deref().map(Reason::foreign),
            },
            WrittenLoss::StoreLostIt => Loss::StoreLostIt,
            WrittenLoss::Clone => Loss::Clone,
            WrittenLoss::Revoked => Loss::Revoked,
        }
    }
}

pub(super) fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

pub(super) fn boot_id(text: &str) -> Result<[u8; 16], Unreadable> {
    let number = u128::from_str_radix(text, 16);
    number.map(u128::to_be_bytes).map_err(|_| Unreadable::Field(text.to_owned(), "boot id"))
}

/// Sixteen digits and not a number, because programs that read JSON round numbers of 64 bits.
pub(super) fn mark(nonce: Nonce) -> String {
    format!("{:016x}", nonce.0)
}

pub(super) fn nonce(text: &str) -> Result<Nonce, Unreadable> {
    let number = u64::from_str_radix(text, 16);
    number.map(Nonce).map_err(|_| Unreadable::Field(text.to_owned(), "mark"))
}

pub(super) fn lease_id(text: &str) -> Result<LeaseId, Unreadable> {
    text.parse().map_err(|_| Unreadable::Field(text.to_owned(), "lease id"))
}

pub(super) fn ttl(secs: u64) -> Result<Ttl, Unreadable> {
    Ttl::from_secs(secs).map_err(|_| Unreadable::Field(secs.to_string(), "ttl"))
}

/// A length that no [`Moment`] can reach is as good as the longest that one can.
pub(super) fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}
