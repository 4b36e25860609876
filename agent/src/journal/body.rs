//! One line of the journal as it is written: JSON, which a person can read with `strings`.
//!
//! The types here mirror the core's and are append-only: a kind or a field that was ever released
//! keeps its name and meaning. Unknown fields are passed over, so a field may be added only where
//! an agent that does not know it concludes nothing wrong; anything else raises the format number.
//! An unknown kind is never passed over: nobody can say what it would have meant.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stormlock_protocol::name::{Fence, UnixMs};

use super::Place;
use super::part::{
    WrittenAttach, WrittenCeiling, WrittenEnding, WrittenIntent, WrittenLoss, WrittenPlace,
    WrittenProcess, WrittenRenewal, boot_id, hex, lease_id, mark, nanos, nonce, ttl,
};
use crate::lease::{Ending, Moment, Record};

/// What one line of the journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// The first line: where the file was written.
    Begin(Place),
    /// All that the file was made of is written, and was on disk before the file had its name. The
    /// place again, so that one bad spot does not make the file nobody's.
    Whole(Place),
    /// A record.
    Record(Record),
}

/// Sound bytes that say nothing we know: a newer agent wrote them.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// Not our JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A field that does not hold what its name says.
    #[error("{0:?} is no {1}")]
    Field(String, &'static str),
}

pub(super) fn encode(line: &Line) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Written::from(line))
}

pub(super) fn decode(body: &[u8]) -> Result<Line, Unreadable> {
    serde_json::from_slice::<Written>(body)?.try_into()
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Written {
    Begin(WrittenPlace),
    Whole(WrittenPlace),
    Boot {
        id: String,
        wall_at_boot_ms: i64,
    },
    Intent(Box<WrittenIntent>),
    Granted {
        lease: String,
        fence: u64,
        sent_ns: u64,
        remaining_ns: u64,
    },
    Marking {
        lease: String,
        next: String,
        ceiling: Option<WrittenCeiling>,
    },
    Renewed(Box<WrittenRenewal>),
    Ending {
        lease: String,
        #[serde(with = "WrittenEnding")]
        how: Ending,
    },
    Lost {
        lease: String,
        loss: WrittenLoss,
    },
    Gone {
        lease: String,
    },
    Attached {
        lease: String,
        attach: WrittenAttach,
    },
    Shared {
        lease: String,
        process: WrittenProcess,
    },
    Left {
        lease: String,
        process: WrittenProcess,
    },
    Floor {
        fence: u64,
    },
}

impl From<&Line> for Written {
    fn from(line: &Line) -> Written {
        match line {
            Line::Begin(place) => Written::Begin(place.into()),
            Line::Whole(place) => Written::Whole(place.into()),
            Line::Record(record) => record.into(),
        }
    }
}

impl TryFrom<Written> for Line {
    type Error = Unreadable;

    fn try_from(written: Written) -> Result<Line, Unreadable> {
        let record = match written {
            Written::Begin(place) => return Ok(Line::Begin(place.try_into()?)),
            Written::Whole(place) => return Ok(Line::Whole(place.try_into()?)),
            Written::Boot { id, wall_at_boot_ms } => {
                Record::Boot { id: boot_id(&id)?, wall_at_boot: UnixMs(wall_at_boot_ms) }
            }
            Written::Intent(intent) => Record::Intent(Box::new((*intent).try_into()?)),
            Written::Granted { lease, fence, sent_ns, remaining_ns } => Record::Granted {
                lease: lease_id(&lease)?,
                fence: Fence(fence),
                sent: Moment::from_nanos(sent_ns),
                remaining: Duration::from_nanos(remaining_ns),
            },
            Written::Marking { lease, next, ceiling } => Record::Marking {
                lease: lease_id(&lease)?,
                next: nonce(&next)?,
                ceiling: ceiling.map(|WrittenCeiling { sent_ns, remaining_ns }| {
                    (Moment::from_nanos(sent_ns), Duration::from_nanos(remaining_ns))
                }),
            },
            Written::Renewed(renewal) => Record::Renewed {
                lease: lease_id(&renewal.lease)?,
                nonce: renewal.nonce.as_deref().map(nonce).transpose()?,
                ttl: ttl(renewal.ttl_secs)?,
                hold: renewal.hold.into(),
                sent: Moment::from_nanos(renewal.sent_ns),
                remaining: Duration::from_nanos(renewal.remaining_ns),
            },
            Written::Ending { lease, how } => Record::Ending { lease: lease_id(&lease)?, how },
            Written::Lost { lease, loss } => {
                Record::Lost { lease: lease_id(&lease)?, loss: loss.into() }
            }
            Written::Gone { lease } => Record::Gone { lease: lease_id(&lease)? },
            Written::Attached { lease, attach } => {
                Record::Attached { lease: lease_id(&lease)?, attach: attach.into() }
            }
            Written::Shared { lease, process } => {
                Record::Shared { lease: lease_id(&lease)?, process: process.into() }
            }
            Written::Left { lease, process } => {
                Record::Left { lease: lease_id(&lease)?, process: process.into() }
            }
            Written::Floor { fence } => Record::Floor(Fence(fence)),
        };
        Ok(Line::Record(record))
    }
}

impl From<&Record> for Written {
    fn from(record: &Record) -> Written {
        match record {
            Record::Boot { id, wall_at_boot } => {
                Written::Boot { id: hex(id), wall_at_boot_ms: wall_at_boot.0 }
            }
            Record::Intent(intent) => Written::Intent(Box::new((&**intent).into())),
            Record::Granted { lease, fence, sent, remaining } => Written::Granted {
                lease: lease.to_string(),
                fence: fence.0,
                sent_ns: sent.as_nanos(),
                remaining_ns: nanos(*remaining),
            },
            Record::Marking { lease, next, ceiling } => Written::Marking {
                lease: lease.to_string(),
                next: mark(*next),
                ceiling: ceiling.map(|(sent, remaining)| WrittenCeiling {
                    sent_ns: sent.as_nanos(),
                    remaining_ns: nanos(remaining),
                }),
            },
            Record::Renewed { lease, nonce, ttl, hold, sent, remaining } => {
                Written::Renewed(Box::new(WrittenRenewal {
                    lease: lease.to_string(),
                    nonce: nonce.map(mark),
                    ttl_secs: ttl.as_secs().into(),
                    hold: (*hold).into(),
                    sent_ns: sent.as_nanos(),
                    remaining_ns: nanos(*remaining),
                }))
            }
            Record::Ending { lease, how } => {
                Written::Ending { lease: lease.to_string(), how: *how }
            }
            Record::Lost { lease, loss } => {
                Written::Lost { lease: lease.to_string(), loss: loss.into() }
            }
            Record::Gone { lease } => Written::Gone { lease: lease.to_string() },
            Record::Attached { lease, attach } => {
                Written::Attached { lease: lease.to_string(), attach: (*attach).into() }
            }
            Record::Shared { lease, process } => {
                Written::Shared { lease: lease.to_string(), process: (*process).into() }
            }
            Record::Left { lease, process } => {
                Written::Left { lease: lease.to_string(), process: (*process).into() }
            }
            Record::Floor(fence) => Written::Floor { fence: fence.0 },
        }
    }
}
