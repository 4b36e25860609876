//! What a journal's bytes add up to, and what is concluded when some of them are bad.
//!
//! **A torn tail** is bad bytes at the very end of a file that is sound up to there: the last write
//! before a crash, of which nobody was told. It is cut, and what stands before it is a state
//! that really was.
//!
//! **Anything else that is bad is damage**: records that were on disk, and that people were told
//! of, are gone. Which ones, nobody knows; a `Gone`, an `Ending` or a `Lost` may be among them, and
//! so may a `Granted`. The store's word is not enough to mend that: it may still have a lease that
//! was already reported lost (law 7: it never becomes held again, whatever the store says), and for
//! the local backend this file *is* the store. So each lease that was known before the damage is in
//! doubt until a later record proves that it was still held then: a `Renewed`, or a `Granted`
//! behind its `Intent`, for the core writes neither of a lease that is over. What stays in doubt
//! is lost, for the reason that comes nearest. Not held: see above. Not released or
//! cancelled: a holder who was told "held" may still believe it, and the resource must not be free
//! before that ends; so it stays in its store until its ttl is over. A lease that renews has such a
//! later record within minutes, so this costs those that the damage is nearest to.
//!
//! A lease whose `Intent` is gone is forgotten: later records about it say nothing. That is what
//! [`Found::damaged`] tells a store that lives in this file. Fences of that store leap, so that
//! none is given twice.
//!
//! **Another machine's journal** is a copied disk: its leases are another agent's, and a store
//! could not tell the two of us apart. Nothing is adopted; so too when no line is left that names
//! the machine. The floor of fences is kept in any case: it claims nothing.

use std::collections::BTreeSet;
use std::fmt::Write;

use stormlock_protocol::name::{Fence, LeaseId};

use super::Place;
use super::body::{self, Line, Unreadable};
use super::frame::{self, Header, Piece};
use crate::lease::{Loss, Memory, Record, Stage};

/// By how much fences leap over what damage may have hidden: more grants than any journal holds,
/// and small enough for a million damages below the 2^53 that JSON readers count exactly to.
const FLOOR_LEAP: u64 = 1 << 32;
/// Most leases that a note names.
const NAMED_MAX: usize = 8;

/// What was found in a journal.
#[derive(Debug)]
pub(super) struct Found {
    /// What to go on with; this boot is not in it yet.
    pub(super) memory: Memory,
    /// What people must know.
    pub(super) notes: Vec<String>,
    /// Why the file must be kept beside the new one.
    pub(super) aside: Option<Aside>,
    /// Records that were on disk are gone.
    pub(super) damaged: bool,
}

/// Why a file is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aside {
    Damaged,
    OtherMachine,
}

/// Why nothing can be concluded: a newer agent wrote it, and it must stay as it is.
#[derive(Debug)]
pub(super) enum Newer {
    /// Its format's number.
    Format(u64),
    /// A line that was written in full, and that we do not know.
    Line(Unreadable),
}

/// Reads a journal. `kept_as` gives the path where the file will be set aside.
pub(super) fn recover(
    bytes: &[u8],
    place: &Place,
    kept_as: impl Fn(Aside) -> String,
) -> Result<Found, Newer> {
    let (header, pieces) = frame::split(bytes);
    if let Header::Foreign(format) = header {
        return Err(Newer::Format(format));
    }
    let mut replay = Replay::default();
    let last = pieces.len().saturating_sub(1);
    for (index, piece) in pieces.iter().enumerate() {
        match *piece {
            Piece::Gap { at, len } if index == last && replay.is_sound() => replay.torn(at, len),
            Piece::Gap { at, len } => replay.damage(at, len),
            Piece::Body(body) => replay.line(body::decode(body).map_err(Newer::Line)?),
        }
    }
    if !replay.is_whole {
        // The beginning was on disk before the file had its name: that it ends early is no crash.
        replay.damage(bytes.len(), 0);
    }
    Ok(replay.conclude(place, kept_as))
}

#[derive(Debug, Default)]
struct Replay {
    memory: Memory,
    notes: Vec<String>,
    origin: Option<Place>,
    is_whole: bool,
    /// The last boot that a record named.
    boot: Option<[u8; 16]>,
    /// Where damage begins, and how many bytes of it there are in all.
    damage: Option<(usize, usize)>,
    in_doubt: BTreeSet<LeaseId>,
    /// Those whose moments count from nobody knows when: no later record mends that.
    undated: BTreeSet<LeaseId>,
}

impl Replay {
    /// Nothing speaks against a crash as the reason why the file ends badly.
    fn is_sound(&self) -> bool {
        self.is_whole && self.damage.is_none()
    }

    fn torn(&mut self, at: usize, len: usize) {
        self.notes.push(format!(
            "cut {len} bytes of an unfinished last record at byte {at}, as a crash leaves it: it \
             had not been acknowledged to anybody"
        ));
    }

    fn damage(&mut self, at: usize, len: usize) {
        let (_, sum) = self.damage.get_or_insert((at, 0));
        *sum += len;
        self.in_doubt.extend(self.memory.leases.keys());
    }

    fn line(&mut self, line: Line) {
        match line {
            Line::Begin(place) => self.origin = Some(place),
            Line::Whole(place) => {
                self.is_whole = true;
                self.check_boot(&place);
                self.memory
                    .apply(Record::Boot { id: place.boot, wall_at_boot: place.wall_at_boot });
                self.boot = Some(place.boot);
                self.origin.get_or_insert(place);
            }
            Line::Record(record) => {
                self.settle(&record);
                self.memory.apply(record);
            }
        }
    }

    /// The boot that the file was written in was never named: what was read so far has no date.
    fn check_boot(&mut self, place: &Place) {
        if self.boot != Some(place.boot) {
            self.undated.extend(self.memory.leases.keys());
        }
    }

    /// Ends the doubt about a lease where a record proves it.
    fn settle(&mut self, record: &Record) {
        let stage = |lease| self.memory.leases.get(lease).map(|known| &known.stage);
        match record {
            Record::Boot { id, .. } => self.boot = Some(*id),
            Record::Granted { lease, .. } if stage(lease) == Some(&Stage::Asked) => {
                self.in_doubt.remove(lease);
            }
            // With the mark it names, no mark that was lost matters any more.
            Record::Renewed { lease, nonce: Some(_), .. } if stage(lease) == Some(&Stage::Held) => {
                self.in_doubt.remove(lease);
            }
            Record::Intent(intent) => {
                self.in_doubt.remove(&intent.claim.lease);
            }
            Record::Granted { .. }
            | Record::Renewed { .. }
            | Record::Marking { .. }
            | Record::Attached { .. }
            | Record::Shared { .. }
            | Record::Left { .. }
            | Record::Ending { .. }
            | Record::Lost { .. }
            | Record::Gone { .. }
            | Record::Floor(_) => {}
        }
    }

    fn conclude(mut self, place: &Place, kept_as: impl Fn(Aside) -> String) -> Found {
        let aside = match &self.origin {
            Some(origin) if origin.machine != place.machine => Some(Aside::OtherMachine),
            _ => self.damage.map(|_| Aside::Damaged),
        };
        if let Some(origin) = self.origin.clone() {
            self.check_boot(&origin);
        }
        let found = self.memory.leases.len();
        let lost = if self.damage.is_some() { self.lose_doubtful() } else { Vec::new() };
        let adopts = self.origin.is_some() && aside != Some(Aside::OtherMachine);
        if !adopts {
            let floor = Fence(self.memory.floor);
            self.memory = Memory::default();
            self.memory.apply(Record::Floor(floor));
        }
        if let Some(aside) = aside {
            let path = kept_as(aside);
            let note = match aside {
                Aside::OtherMachine => self.of_other_machine(place, found, &path),
                Aside::Damaged if !adopts => self.of_nobody(found, &path),
                Aside::Damaged => self.of_damage(&lost, &path),
            };
            self.notes.push(note);
        }
        let damaged = self.damage.is_some();
        Found { memory: self.memory, notes: self.notes, aside, damaged }
    }

    /// Gives up what is in doubt, and names it.
    fn lose_doubtful(&mut self) -> Vec<String> {
        let mut lost = Vec::new();
        for lease in self.in_doubt.union(&self.undated) {
            let Some(known) = self.memory.leases.get(lease) else { continue };
            if matches!(known.stage, Stage::Asked | Stage::Held) {
                lost.push(format!("{} ({lease})", known.intent.claim.resource));
                self.memory.apply(Record::Lost { lease: *lease, loss: Loss::StoreLostIt });
            }
        }
        let leap = Fence(self.memory.floor.saturating_add(FLOOR_LEAP));
        self.memory.apply(Record::Floor(leap));
        lost
    }

    fn of_damage(&self, lost: &[String], path: &str) -> String {
        let (at, len) = self.damage.unwrap_or_default();
        let mut note = format!(
            "the journal is damaged from byte {at} on ({len} bad bytes) and is kept as {path}: \
             records that were on disk are gone. Check this disk. Leases taken in that part are \
             forgotten and stay in their stores until their ttl is over"
        );
        if !lost.is_empty() {
            let named = lost.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
            let _ = write!(note, ". Reported lost, because nothing after it proves them: {named}");
            if lost.len() > NAMED_MAX {
                let _ = write!(note, " and {} more", lost.len() - NAMED_MAX);
            }
        }
        note
    }

    fn of_nobody(&self, found: usize, path: &str) -> String {
        let leases = match found {
            0 => "No lease can be read in it: any that was stays in its store until its".to_owned(),
            1 => "The one lease in it is not adopted: it stays in its store until its".to_owned(),
            _ => format!(
                "None of its {found} leases is adopted: they stay in their stores until their"
            ),
        };
        format!(
            "the journal is so damaged that nothing in it says which machine wrote it; it is kept \
             as {path}. {leases} ttl is over. Check this disk"
        )
    }

    fn of_other_machine(&self, place: &Place, found: usize, path: &str) -> String {
        let theirs = self.origin.as_ref().and_then(|origin| origin.machine.as_deref());
        let ours = place.machine.as_deref();
        let leases = match found {
            0 => ", and has no lease in it".to_owned(),
            1 => " and the one lease in it is not adopted; it is the other machine's, or stays in \
                  its store until its ttl is over"
                .to_owned(),
            _ => format!(
                " and none of its {found} leases is adopted; they are the other machine's, or stay \
                 in their stores until their ttl is over"
            ),
        };
        format!(
            "the journal was written on another machine (machine id {}, here it is {}): a copied \
             disk. It is kept as {path}{leases}",
            theirs.unwrap_or("none"),
            ours.unwrap_or("none"),
        )
    }
}
