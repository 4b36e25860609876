//! What a program answers, as JSON, and what the agent makes of it.
//!
//! Nothing is trusted further than the protocol asks: names are parsed, texts tamed and cut. An
//! answer that does not belong to its question is nothing that anybody knows.

use std::time::Duration;

use serde::Deserialize;
use stormlock_protocol::message::Level;
use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, TTL_MAX_SECS, UnixMs};

use super::super::tame;
use super::super::{Attempt, RefusedKind, Released, Remark, Standing, Unfit};
use super::mask::Mask;
use super::trouble::Trouble;
use crate::lease::{Claim, Grant, Holder};

/// Longest text of a program that is shown, in characters: a few lines of a terminal.
const TEXT_MAX: usize = 400;
/// Most texts that are shown of one answer: a page of `doctor`.
const TEXTS_MAX: usize = 50;

/// An answer with the number of its question.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) id: u64,
    #[serde(flatten)]
    pub(super) said: Said,
}

/// An answer. Keys that are not known here are passed over.
#[derive(Debug, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum Said {
    Ready(Ready),
    Free {
        counter: u64,
    },
    Granted {
        fence: u64,
        remaining_ms: Option<u64>,
    },
    Held {
        holder: Option<Lock>,
        /// From a program that can break what is held.
        counter: Option<u64>,
    },
    Moved,
    Gone,
    Ours {
        remaining_ms: Option<u64>,
    },
    NotOurs {
        holder: Option<Lock>,
    },
    Cloned,
    Done {
        #[serde(default)]
        did: Vec<String>,
    },
    Locks {
        locks: Vec<Lock>,
    },
    Remarks {
        remarks: Vec<Word>,
    },
    Unsupported,
    Refused {
        kind: No,
        why: String,
    },
    Unknown {
        why: String,
    },
}

/// How a program introduces itself.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Ready {
    pub(super) protocol: u32,
    pub(super) kind: String,
    pub(super) store: Option<String>,
    #[serde(default)]
    pub(super) this_host_only: bool,
}

/// A lock, as a program shows it.
#[derive(Debug, Deserialize)]
pub(super) struct Lock {
    resource: String,
    lease: String,
    principal: String,
    host: Option<String>,
    reason: Option<String>,
    fence: Option<u64>,
    #[serde(default)]
    since_ms: i64,
    remaining_ms: Option<u64>,
}

/// A kind of a definite no.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum No {
    Unreachable,
    NotWritable,
    Credentials,
    Denied,
    NotSetUp,
    Foreign,
}

/// A remark for `doctor`.
#[derive(Debug, Deserialize)]
pub(super) struct Word {
    level: Weight,
    text: String,
    mend: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Weight {
    Good,
    Note,
    Warning,
    Bad,
}

/// How a resource stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// Nobody has it, and its counter is this.
    Free(u64),
    /// Somebody has it, if it is said who, and its counter, if that is said.
    Held(Option<Holder>, Option<u64>),
}

impl Said {
    pub(super) fn looked(self, on: &Resource) -> Result<Looked, Trouble> {
        match self {
            Said::Free { counter } => Ok(Looked::Free(counter)),
            Said::Held { holder, counter } => Ok(Looked::Held(holder_of(holder, on)?, counter)),
            said => Err(said.no()),
        }
    }

    pub(super) fn attempt(self, claim: &Claim) -> Result<Attempt, Trouble> {
        let on = &claim.resource;
        match self {
            Said::Gone if claim.over.is_some() => Ok(Attempt::Gone),
            Said::Granted { fence, remaining_ms } => {
                let (fence, remaining) = (Fence(fence), still(remaining_ms));
                Ok(Attempt::Granted(Grant { fence, remaining }))
            }
            Said::Held { holder, .. } => Ok(Attempt::Held(holder_of(holder, on)?.map(Box::new))),
            Said::Moved => Ok(Attempt::Moved),
            said => Err(said.no()),
        }
    }

    pub(super) fn standing(self, on: &Resource) -> Result<Standing, Trouble> {
        match self {
            Said::Ours { remaining_ms } => Ok(Standing::Ours { remaining: still(remaining_ms) }),
            Said::NotOurs { holder } => Ok(Standing::NotOurs(holder_of(holder, on)?.map(Box::new))),
            Said::Cloned => Ok(Standing::Cloned),
            said => Err(said.no()),
        }
    }

    pub(super) fn released(self) -> Result<Released, Trouble> {
        match self {
            Said::Gone => Ok(Released::NotThere),
            said => said.done().map(|_| Released::Done),
        }
    }

    pub(super) fn done(self) -> Result<Vec<String>, Trouble> {
        match self {
            Said::Done { did } => {
                Ok(did.iter().take(TEXTS_MAX).map(|text| tame(text, TEXT_MAX)).collect())
            }
            said => Err(said.no()),
        }
    }

    pub(super) fn locks(self) -> Result<Vec<Holder>, Trouble> {
        match self {
            Said::Locks { locks } => {
                locks.into_iter().map(|lock| lock.holder().map_err(Trouble::strange)).collect()
            }
            said => Err(said.no()),
        }
    }

    /// `None` from a program that has nothing to say of its store.
    pub(super) fn remarks(self) -> Result<Option<Vec<Remark>>, Trouble> {
        match self {
            Said::Remarks { remarks } => {
                Ok(Some(remarks.iter().take(TEXTS_MAX).map(Word::remark).collect()))
            }
            Said::Unsupported => Ok(None),
            said => Err(said.no()),
        }
    }

    /// The same without the password in what people will read.
    pub(super) fn masked(self, mask: &Mask) -> Said {
        let hide = |text: String| mask.hide(&text);
        match self {
            Said::Done { did } => Said::Done { did: did.into_iter().map(hide).collect() },
            Said::Remarks { remarks } => {
                let masked = |Word { level, text, mend }: Word| {
                    let (text, mend) = (hide(text), mend.map(hide));
                    Word { level, text, mend }
                };
                Said::Remarks { remarks: remarks.into_iter().map(masked).collect() }
            }
            Said::Refused { kind, why } => Said::Refused { kind, why: hide(why) },
            Said::Unknown { why } => Said::Unknown { why: hide(why) },
            said @ (Said::Ready(_)
            | Said::Free { .. }
            | Said::Granted { .. }
            | Said::Held { .. }
            | Said::Moved
            | Said::Gone
            | Said::Ours { .. }
            | Said::NotOurs { .. }
            | Said::Cloned
            | Said::Locks { .. }
            | Said::Unsupported) => said,
        }
    }

    /// What an answer says that is none of those that its question may have.
    pub(super) fn no(self) -> Trouble {
        match self {
            Said::Refused { kind, why } => Trouble::no(kind.kind(), tame(&why, TEXT_MAX)),
            Said::Unknown { why } => Trouble::silence(tame(&why, TEXT_MAX)),
            other => Trouble::strange(format!("{other:?}")),
        }
    }
}

impl Lock {
    /// In words, what is wrong with it.
    fn holder(self) -> Result<Holder, String> {
        let resource = Resource::new(self.resource.as_str())
            .map_err(|error| format!("resource {:?}: {error}", self.resource))?;
        let lease: LeaseId =
            self.lease.parse().map_err(|error| format!("lease {:?}: {error}", self.lease))?;
        let known = |text: &String| !text.is_empty();
        Ok(Holder {
            resource,
            lease,
            principal: Principal::foreign(&self.principal),
            // Tamed like a principal: it is printed beside one.
            host: self.host.filter(known).map(|it| Principal::foreign(&it).as_str().to_owned()),
            reason: self.reason.filter(known).map(|reason| Reason::foreign(&reason)),
            fence: self.fence.map(Fence),
            since: UnixMs(self.since_ms),
            remaining: self.remaining_ms.map(remaining),
        })
    }
}

/// A holder of another resource than was asked about is no answer.
fn holder_of(lock: Option<Lock>, on: &Resource) -> Result<Option<Holder>, Trouble> {
    let Some(lock) = lock else { return Ok(None) };
    let holder = lock.holder().map_err(Trouble::strange)?;
    if holder.resource != *on {
        return Err(Trouble::strange(format!("asked about {on}, it told of {}", holder.resource)));
    }
    Ok(Some(holder))
}

impl Word {
    fn remark(&self) -> Remark {
        let level = match self.level {
            Weight::Good => Level::Good,
            Weight::Note => Level::Note,
            Weight::Warning => Level::Warning,
            Weight::Bad => Level::Bad,
        };
        let mend = self.mend.as_ref().map(|mend| tame(mend, TEXT_MAX));
        Remark { level, text: tame(&self.text, TEXT_MAX), mend }
    }
}

impl No {
    fn kind(self) -> RefusedKind {
        match self {
            No::Unreachable => RefusedKind::Unreachable,
            No::NotWritable => RefusedKind::NotWritable,
            No::Credentials => RefusedKind::Credentials,
            No::Denied => RefusedKind::Denied,
            No::NotSetUp => RefusedKind::NotSetUp(Unfit::NoTable),
            No::Foreign => RefusedKind::Foreign,
        }
    }
}

/// What is left of a lease of ours; a lock without an end outlasts every one.
fn still(ms: Option<u64>) -> Duration {
    remaining(ms.unwrap_or(u64::MAX))
}

/// Nothing lives longer than the longest ttl, whatever a program says.
fn remaining(ms: u64) -> Duration {
    Duration::from_millis(ms).min(Duration::from_secs(u64::from(TTL_MAX_SECS)))
}
