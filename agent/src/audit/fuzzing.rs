//! A way in for `tests/fuzz`; no other build has it.

use std::fs::File;

use stormlock_protocol::message::Logged;

use super::line::Line;
use super::tail::Lines;
use crate::lease::Uid;

/// The lines of a file, the last one first.
#[must_use]
pub fn backwards(file: &File) -> Vec<Vec<u8>> {
    let size = file.metadata().map_or(0, |found| found.len());
    let mut lines = Lines::new(file, size);
    let mut found = Vec::new();
    while let Ok(Some(line)) = lines.before() {
        found.push(line);
    }
    found
}

/// What a line says to a reader, and the line that is written for what it says; `None` if it is
/// none of ours.
#[must_use]
pub fn read(line: &[u8], reader: Uid) -> Option<(Option<Logged>, String)> {
    let line = Line::decode(line)?;
    Some((line.logged(reader), line.encode()))
}
