//! The file read backwards, a bounded piece at a time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use stormlock_protocol::message::{LogCursor, Logged};
use stormlock_protocol::name::{Resource, UnixMs};

use super::file::{FileError, open_to_read};
use super::line::Line;
use crate::lease::Uid;

/// Events of one page: with the longest texts they stay below the longest frame.
pub(super) const PAGE: usize = 24;
/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// Bytes looked at for one page; a page that finds little in them says where to go on.
const LOOKED_AT_MAX: usize = 1 << 20;
/// Longest line of ours, several times over; a longer one is not kept in memory.
const LINE_MAX: usize = 16 << 10;
/// How far the wall clock may have been set back between two lines, in milliseconds, before what is
/// younger than asked for is missed.
const SET_BACK_MAX_MS: i64 = 3_600_000;

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Search {
    /// Only events about this resource.
    pub resource: Option<Resource>,
    /// Nothing older.
    pub since: Option<UnixMs>,
    /// Where the last page ended.
    pub before: Option<LogCursor>,
    /// At most so many, and no more than a page has.
    pub limit: usize,
    /// Who reads: see [`Logged::origin`].
    pub reader: Uid,
}

/// The latest first, and where the next page begins.
pub(super) type Page = (Vec<Logged>, Option<LogCursor>);

/// One page of the events that are looked for and that `may` be seen.
pub(super) fn page(
    path: &Path,
    search: &Search,
    may: impl Fn(&Resource) -> bool,
) -> Result<Page, FileError> {
    let Some((file, found)) = open_to_read(path)? else { return Ok((Vec::new(), None)) };
    let size = u64::try_from(found.st_size).unwrap_or(0);
    let end = match search.before {
        // It was put away meanwhile: what is left to read is in another file now.
        Some(before) if before.file != found.st_ino => return Ok((Vec::new(), None)),
        Some(before) => before.end.min(size),
        None => size,
    };
    let failed = |source| FileError::Io { doing: "reading", path: path.to_owned(), source };
    let mut lines = Lines::new(&file, end);
    let mut events = Vec::new();
    while events.len() < search.limit.clamp(1, PAGE) {
        let Some(bytes) = lines.before().map_err(failed)? else { break };
        let Some(line) = Line::decode(&bytes) else { continue };
        if let (Some(at), Some(since)) = (line.at(), search.since) {
            if at.0 < since.0.saturating_sub(SET_BACK_MAX_MS) {
                return Ok((events, None));
            }
            if at < since {
                continue;
            }
        }
        let resource = line.resource();
        let is_asked = search.resource.is_none() || resource == search.resource;
        if is_asked && resource.as_ref().is_none_or(&may) {
            events.extend(line.logged(search.reader));
        }
    }
    let next = (lines.at > 0).then_some(LogCursor { file: found.st_ino, end: lines.at });
    Ok((events, next))
}

/// The lines before a place, the last one first.
pub(super) struct Lines<'a> {
    file: &'a File,
    /// Everything from here on was given.
    at: u64,
    /// What was read of the part before.
    read: Vec<u8>,
    looked_at: usize,
    /// The end of a line that is too long was passed over.
    is_cut: bool,
}

impl<'a> Lines<'a> {
    pub(super) fn new(file: &'a File, end: u64) -> Lines<'a> {
        Lines { file, at: end, read: Vec::new(), looked_at: 0, is_cut: false }
    }

    /// The next one; `None` at the beginning of the file, and when enough was looked at.
    pub(super) fn before(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.read.iter().rposition(|byte| *byte == b'\n') {
                let line = self.read.split_off(end + 1);
                self.read.pop();
                self.at = self.at.saturating_sub(count(line.len() + 1));
                if std::mem::take(&mut self.is_cut) || line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            let unread = self.at.saturating_sub(count(self.read.len()));
            if unread == 0 {
                self.at = 0;
                let line = std::mem::take(&mut self.read);
                let is_line = !line.is_empty() && !std::mem::take(&mut self.is_cut);
                return Ok(is_line.then_some(line));
            }
            if self.looked_at >= LOOKED_AT_MAX {
                return Ok(None);
            }
            if self.read.len() > LINE_MAX {
                self.at = unread;
                self.read.clear();
                self.is_cut = true;
            }
            self.read_on(unread)?;
        }
    }

    fn read_on(&mut self, unread: u64) -> io::Result<()> {
        let len = usize::try_from(unread).unwrap_or(usize::MAX).min(CHUNK);
        let mut chunk = vec![0; len];
        match self.file.read_exact_at(&mut chunk, unread - count(len)) {
            Ok(()) => {}
            // It was cut short meanwhile (copytruncate): there is nothing there any more.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.at = 0;
                self.read.clear();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.looked_at += len;
        chunk.append(&mut self.read);
        self.read = chunk;
        Ok(())
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
