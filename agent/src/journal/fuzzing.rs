//! A way in for `tests/fuzz`; no other build has it.

use stormlock_protocol::name::LeaseId;

use super::body::{self, Line};
use super::{Place, frame, recover};
use crate::lease::{Memory, Record};

/// A journal of these lines. None may be longer than a line of ours; one that is, is left out.
#[must_use]
pub fn write<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = frame::header();
    for line in lines {
        let _ = frame::push(&mut bytes, line);
    }
    bytes
}

/// The journal that a start makes of what it remembers.
#[must_use]
pub fn write_anew(memory: &Memory, place: &Place) -> Vec<u8> {
    let records = memory.records().into_iter().map(Line::Record);
    let whole = [Line::Begin(place.clone())].into_iter().chain(records);
    let lines = whole.chain([Line::Whole(place.clone())]);
    let bodies: Vec<Vec<u8>> = lines.filter_map(|line| body::encode(&line).ok()).collect();
    write(bodies.iter().map(Vec::as_slice))
}

/// What a start concludes from a journal, and what people are told; `None` if a newer agent seems
/// to have written it.
#[must_use]
pub fn read(bytes: &[u8], place: &Place) -> Option<(Memory, Vec<String>)> {
    let found = recover::recover(bytes, place, |_| "journal.aside".to_owned()).ok()?;
    Some((found.memory, found.notes))
}

/// The line that is written for what one says, and the lease that it is the intent of; `None` if it
/// is none of ours.
#[must_use]
pub fn again(line: &[u8]) -> Option<(Vec<u8>, Option<LeaseId>)> {
    let line = body::decode(line).ok()?;
    let intent = match &line {
        Line::Record(Record::Intent(intent)) => Some(intent.claim.lease),
        Line::Record(_) | Line::Begin(_) | Line::Whole(_) => None,
    };
    Some((body::encode(&line).ok()?, intent))
}
