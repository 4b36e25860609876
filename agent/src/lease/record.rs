//! What must survive the agent: the records of the journal, and what they add up to.
//!
//! Not here: bytes and files (`journal`). Nothing in a [`Memory`] is believed (law 12): it says
//! what to ask the store about.

use std::collections::BTreeMap;
use std::time::Duration;

use stormlock_protocol::name::{Fence, LeaseId, Principal, Ttl, UnixMs};

use super::{Attach, Claim, Hold, Loss, Moment, Nonce, ProcessId, Terminal, Uid};

/// One change that the next start must know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The moments that follow count from this boot.
    Boot {
        /// The kernel's random id of this boot.
        id: [u8; 16],
        /// The wall clock at moment zero, to carry moments over to another boot.
        wall_at_boot: UnixMs,
    },
    /// A claim is about to leave for the store (law 4).
    Intent(Box<Intent>),
    /// The store granted it.
    Granted {
        /// Which.
        lease: LeaseId,
        /// Its fence.
        fence: Fence,
        /// When the call left that proved it.
        sent: Moment,
        /// What the store said remained.
        remaining: Duration,
    },
    /// A renewal under a new mark is about to leave.
    Marking {
        /// Which.
        lease: LeaseId,
        /// The new mark.
        next: Nonce,
        /// When it was about to leave and for how long it asks, if that may end the lease before
        /// the latest proof says: from then on the store may count the shorter time.
        ceiling: Option<(Moment, Duration)>,
    },
    /// The store renewed it, or it was read back, or its end was moved.
    Renewed {
        /// Which.
        lease: LeaseId,
        /// The only mark that the store has now; `None` when it was not changed.
        nonce: Option<Nonce>,
        /// Its ttl from now on.
        ttl: Ttl,
        /// Until when it is renewed from now on.
        hold: Hold,
        /// When the call left that proved it.
        sent: Moment,
        /// What the store said remained.
        remaining: Duration,
    },
    /// It is being given back, or an unknown acquire is being cancelled.
    Ending {
        /// Which.
        lease: LeaseId,
        /// How.
        how: Ending,
    },
    /// It was lost, and the holder has not acknowledged that yet.
    Lost {
        /// Which.
        lease: LeaseId,
        /// Why.
        loss: Loss,
    },
    /// Another end ends it from now on.
    Attached {
        /// Which.
        lease: LeaseId,
        /// Whose end ends it.
        attach: Attach,
    },
    /// The end of another process has to come, too, before it ends.
    Shared {
        /// Which.
        lease: LeaseId,
        /// Whose end.
        process: ProcessId,
    },
    /// The end of that process has come, or is its own affair from now on.
    Left {
        /// Which.
        lease: LeaseId,
        /// Whose end.
        process: ProcessId,
    },
    /// Nothing is left to remember of it.
    Gone {
        /// Which.
        lease: LeaseId,
    },
    /// No fence of the local backend was ever greater than this one.
    Floor(Fence),
}

/// A claim with what the agent alone knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// What the store is asked for.
    pub claim: Claim,
    /// The kernel's uid of who asked: only this user may renew or release it.
    pub owner: Uid,
    /// How long it is renewed.
    pub hold: Hold,
    /// Whose end ends it.
    pub attach: Attach,
    /// Where its owner wants to hear of it.
    pub terminal: Option<Terminal>,
}

/// How a lease is being ended in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its acquire may or may not have happened, or may yet happen.
    Cancel,
    /// It was granted and is given back.
    Release,
    /// Its holder has ended, and those who count on it have their grace: then it is given back.
    Linger,
}

/// One lease as the journal remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// What was asked for; `claim.ttl`, `claim.nonce` and `hold` are the latest acknowledged.
    pub intent: Intent,
    /// How far it had come.
    pub stage: Stage,
    /// Its fence, once granted.
    pub fence: Option<Fence>,
    /// When the latest proof's call left, and what the store said remained.
    pub proven: Option<(Moment, Duration)>,
    /// Every mark that the store may have.
    pub nonces: Vec<Nonce>,
    /// The processes that share it, as far as is known.
    pub sharers: Vec<ProcessId>,
    /// The greatest ttl under which a command was let go. No record says so: each command began
    /// under the ttl of then.
    pub command_ttl: Option<Ttl>,
    /// True when it was asked for in an earlier boot than the last one in the journal.
    pub earlier_boot: bool,
}

/// How far a remembered lease had come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The claim may have left.
    Asked,
    /// Granted, and the holder may have been told.
    Held,
    /// Being ended.
    Ending(Ending),
    /// Lost and not acknowledged.
    Lost(Loss),
}

/// What a journal's records add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The leases, by id.
    pub leases: BTreeMap<LeaseId, Remembered>,
    /// See [`Record::Floor`].
    pub floor: u64,
    boot: Option<([u8; 16], UnixMs)>,
}

impl Memory {
    /// Takes one more record. Records about unknown leases say nothing and are passed over: the
    /// journal may have lost the beginning of a story, never the agent's licence to invent one.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Boot { id, wall_at_boot } => self.boot(id, wall_at_boot),
            Record::Floor(fence) => self.floor = self.floor.max(fence.0),
            Record::Intent(intent) => self.intent(*intent),
            Record::Gone { lease } => {
                self.leases.remove(&lease);
            }
            Record::Granted { lease, fence, sent, remaining } => {
                self.floor = self.floor.max(fence.0);
                if let Some(known) = self.leases.get_mut(&lease)
                    && known.stage == Stage::Asked
                {
                    known.stage = Stage::Held;
                    known.fence = Some(fence);
                    known.proven = Some((sent, remaining));
                }
            }
            Record::Marking { lease, next, ceiling } => {
                if let Some(known) = self.leases.get_mut(&lease) {
                    if !known.nonces.contains(&next) {
                        known.nonces.push(next);
                    }
                    // Recovery must not believe for longer than the agent before it did (law 7).
                    known.proven = earlier(known.proven, ceiling);
                }
            }
            Record::Renewed { lease, nonce, ttl, hold, sent, remaining } => {
                if let Some(known) = self.leases.get_mut(&lease) {
                    if let Some(only) = nonce {
                        known.intent.claim.nonce = only;
                        known.nonces = vec![only];
                    }
                    known.intent.claim.ttl = ttl;
                    known.intent.hold = hold;
                    known.proven = Some((sent, remaining));
                }
            }
            Record::Attached { lease, attach } => {
                if let Some(known) = self.leases.get_mut(&lease) {
                    known.intent.attach = attach;
                    known.sharers.retain(|process| Some(*process) != attach.process());
                    known.commands_changed(attach.is_command());
                }
            }
            Record::Shared { lease, process } => {
                if let Some(known) = self.leases.get_mut(&lease) {
                    if !known.sharers.contains(&process) {
                        known.sharers.push(process);
                    }
                    known.commands_changed(process.group);
                }
            }
            Record::Left { lease, process } => {
                if let Some(known) = self.leases.get_mut(&lease) {
                    known.sharers.retain(|it| *it != process);
                    known.commands_changed(false);
                }
            }
            Record::Ending { lease, how } => self.stage(lease, Stage::Ending(how)),
            Record::Lost { lease, loss } => self.stage(lease, Stage::Lost(loss)),
        }
    }

    /// The shortest journal that adds up to the same.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Floor(Fence(self.floor))];
        // Leases of an earlier boot come first, before the boot that makes them earlier; their
        // moments already count from the latest one, which both boot records therefore share.
        if let Some((_, wall_at_boot)) = self.boot {
            records.push(Record::Boot { id: EARLIER_BOOT, wall_at_boot });
        }
        for known in self.leases.values().filter(|known| known.earlier_boot) {
            known.push_records(&mut records);
        }
        if let Some((id, wall_at_boot)) = self.boot {
            records.push(Record::Boot { id, wall_at_boot });
        }
        for known in self.leases.values().filter(|known| !known.earlier_boot) {
            known.push_records(&mut records);
        }
        records
    }

    fn boot(&mut self, id: [u8; 16], wall_at_boot: UnixMs) {
        match self.boot {
            Some((known, _)) if known == id => {}
            Some((_, before)) => {
                let shift_ms = before.0.saturating_sub(wall_at_boot.0);
                for known in self.leases.values_mut() {
                    known.carry_over(shift_ms);
                }
            }
            None => {}
        }
        self.boot = Some((id, wall_at_boot));
    }

    fn intent(&mut self, intent: Intent) {
        let nonces = vec![intent.claim.nonce];
        let lease = intent.claim.lease;
        let (fence, proven, stage) = (None, None, Stage::Asked);
        let (sharers, earlier_boot) = (Vec::new(), false);
        let command_ttl = intent.attach.is_command().then_some(intent.claim.ttl);
        let fresh =
            Remembered { intent, stage, fence, proven, nonces, sharers, command_ttl, earlier_boot };
        self.leases.insert(lease, fresh);
    }

    fn stage(&mut self, lease: LeaseId, stage: Stage) {
        if let Some(known) = self.leases.get_mut(&lease) {
            known.stage = stage;
        }
    }
}

/// The proof that ends first; no ceiling is no limit, and without a proof nothing is limited.
fn earlier(
    proven: Option<(Moment, Duration)>,
    ceiling: Option<(Moment, Duration)>,
) -> Option<(Moment, Duration)> {
    let end = |(sent, remaining): (Moment, Duration)| sent + remaining;
    match (proven, ceiling) {
        (Some(proven), Some(ceiling)) if end(ceiling) < end(proven) => Some(ceiling),
        _ => proven,
    }
}

/// Stands for every boot before the latest in a compacted journal.
const EARLIER_BOOT: [u8; 16] = [0; 16];

impl Remembered {
    fn commands_changed(&mut self, began: bool) {
        let (before, began) = (self.command_ttl, began.then_some(self.intent.claim.ttl));
        self.command_ttl = self.intent.attach.command_ttl(&self.sharers, before, began);
    }

    fn carry_over(&mut self, shift_ms: i64) {
        let shift = |moment: Moment| {
            let by = Duration::from_millis(shift_ms.unsigned_abs());
            if shift_ms < 0 { moment - by } else { moment + by }
        };
        self.earlier_boot = true;
        self.proven = self.proven.map(|(sent, remaining)| {
            // A call that left before this boot: what of its time was over then does not count.
            let end = shift(sent + remaining);
            let sent = shift(sent);
            (sent, sent.until(end))
        });
        if let Hold::Until(end) = self.intent.hold {
            self.intent.hold = Hold::Until(shift(end));
        }
    }

    fn push_records(&self, records: &mut Vec<Record>) {
        let lease = self.intent.claim.lease;
        let mut intent = self.intent.clone();
        // Its commands first, under the ttl of then.
        intent.claim.ttl = self.command_ttl.unwrap_or(intent.claim.ttl);
        records.push(Record::Intent(Box::new(intent)));
        for process in &self.sharers {
            records.push(Record::Shared { lease, process: *process });
        }
        if let (Some(fence), Some((sent, remaining))) = (self.fence, self.proven) {
            records.push(Record::Granted { lease, fence, sent, remaining });
            let Claim { ttl, .. } = self.intent.claim;
            if self.command_ttl.is_some_and(|before| before != ttl) {
                let (nonce, hold) = (None, self.intent.hold);
                records.push(Record::Renewed { lease, nonce, ttl, hold, sent, remaining });
            }
        }
        for next in self.nonces.iter().skip(1) {
            records.push(Record::Marking { lease, next: *next, ceiling: None });
        }
        match &self.stage {
            Stage::Asked | Stage::Held => {}
            Stage::Ending(how) => records.push(Record::Ending { lease, how: *how }),
            Stage::Lost(loss) => records.push(Record::Lost { lease, loss: loss.clone() }),
        }
    }
}

/// The principal of a loss, where there is one.
impl Loss {
    /// Who took it or broke it.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        match self {
            Loss::TakenBy(who) | Loss::BrokenBy { who, .. } => Some(who),
            Loss::Expired | Loss::StoreLostIt | Loss::Clone | Loss::Revoked => None,
        }
    }
}
