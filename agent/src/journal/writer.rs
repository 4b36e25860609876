//! The journal's thread: what waits together is written and synced together.
//!
//! **When writing fails.** After a failed write or `fdatasync` nobody can say what is on disk: the
//! kernel may have dropped the pages and report success the next time. So the old file is never
//! touched again; durability comes back only with a whole new file, made from this thread's own
//! [`Memory`], which has taken every record, also those whose wait was answered "not durable".
//! That such a record is in the new file after all does no harm, because the core at once records
//! what it made of the answer, and the new file has that too, or it is one crash behind, where:
//! - an `Intent` is cancelled at the next start, though its call never left;
//! - a `Granted` without the `Ending` that followed is a lease that its owner sees and can give
//!   back, as after a crash between the sync and the answer;
//! - a `Marking` names a mark that no store has, which no proof minds;
//! - a `Renewed` is what the store really did; only who asked for it was told that it may not last.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::body::{self, Line};
use super::directory::{Directory, NotReplaced};
use super::recover::{self, Aside, Found, Newer};
use super::{JournalError, Place, Recovered, Said, Shared, frame};
use crate::clock;
use crate::lease::{Memory, Moment, Record, SyncId};

/// A file is written anew when it is larger than this, so that a start reads little...
const COMPACT_OVER: u64 = 1 << 20;
/// ...and so many times larger than when it was last written anew, so that writing it anew is a
/// small part of all writing however many leases there are.
const COMPACT_TIMES: u64 = 4;
/// On a disk with less room than so many files of its length, a file is written anew earlier...
const ROOM_TIMES: u64 = 4;
/// ...each time that it has grown by this, or by a part of its length: while the old one and the
/// new one still fit there together.
const GROWN_MIN: u64 = 16 << 10;
const GROWN_PART: u64 = 4;
/// Most bytes that are gathered for one write: the wait of the first for the last stays short.
const BATCH_MAX: usize = 1 << 20;
/// What nobody waits for is on disk after this long: a `Lost` or `Gone` should survive the host.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// The first wait after a failure, and how often waits of the core may ask for a try.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest wait between two tries: how late mended space is noticed.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the agent tells the thread.
#[derive(Debug)]
pub(super) enum Message {
    Record(Record),
    Sync(SyncId),
    Write(SyncId),
}

#[derive(Debug)]
pub(super) struct Writer<F> {
    directory: Directory,
    place: Place,
    memory: Memory,
    pub(super) disk: Disk,
    /// The name under which the file that was found is to be kept, until it is.
    aside: Option<String>,
    said: F,
    shared: Arc<Shared>,
}

/// The file, or since when there is none to rely on.
#[derive(Debug)]
pub(super) enum Disk {
    Works {
        file: File,
        len: u64,
        compact_over: u64,
        /// How long it was when that was last done, or tried.
        last_anew: u64,
        /// Since when something is written and not synced.
        unsynced: Option<Moment>,
    },
    Broken {
        tried: Moment,
        wait: Duration,
    },
}

/// What goes to disk together.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    waiting: Vec<SyncId>,
    /// Those that wait for the kernel only, not for the disk.
    in_hand: Vec<SyncId>,
    unwritable: Option<io::Error>,
}

impl<F: Fn(Said)> Writer<F> {
    /// Locks the directory, recovers what is there and writes it anew.
    pub(super) fn open(
        dir: &Path,
        place: &Place,
        said: F,
        shared: Arc<Shared>,
    ) -> Result<(Writer<F>, Recovered), JournalError> {
        let directory = Directory::open(dir)?;
        let stamp = stamp();
        let Found { mut memory, mut notes, aside, damaged } = find(&directory, place, &stamp)?;
        memory.apply(Record::Boot { id: place.boot, wall_at_boot: place.wall_at_boot });
        let aside = aside.map(|aside| aside_name(aside, &stamp));
        let wait = RETRY_MIN;
        let disk = Disk::Broken { tried: clock::now(), wait };
        let place = place.clone();
        let mut writer = Writer { directory, place, memory, disk, aside, said, shared };
        match writer.write_anew() {
            Ok(disk) => writer.disk = disk,
            Err(NotReplaced { error, .. }) => {
                notes.push(format!(
                    "the journal cannot be written ({error}): until it can, nothing new is taken \
                     and the file stays as it was found"
                ));
                writer.trouble(&error);
            }
        }
        let memory = writer.memory.clone();
        Ok((writer, Recovered { memory, notes, damaged }))
    }

    /// Serves the agent until it drops its end, then leaves nothing unsynced.
    pub(super) fn run(mut self, from_agent: &Receiver<Message>) {
        if !self.works() {
            (self.said)(Said::Works(false));
        }
        loop {
            let first = match self.next_wakeup() {
                None => from_agent.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => from_agent.recv_timeout(clock::now().until(at)),
            };
            match first {
                Ok(first) => {
                    self.commit(clock::now(), std::iter::once(first).chain(from_agent.try_iter()))
                }
                Err(RecvTimeoutError::Timeout) => self.commit(clock::now(), std::iter::empty()),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.close(clock::now());
    }

    /// Takes what waits, up to a bound, brings it to disk, and says so.
    pub(super) fn commit(&mut self, now: Moment, messages: impl Iterator<Item = Message>) {
        let batch = self.gather(messages);
        if let Some(error) = batch.unwritable {
            self.broke(now, &error);
        }
        self.append(now, &batch.bytes);
        let durable = self.works();
        for sync in batch.in_hand {
            (self.said)(Said::Synced { sync, durable });
        }
        match &self.disk {
            Disk::Works { unsynced: Some(since), .. }
                if !batch.waiting.is_empty() || now >= *since + FLUSH_AFTER =>
            {
                self.fdatasync(now);
            }
            Disk::Works { .. } => {}
            Disk::Broken { tried, wait } => {
                let wait = if batch.waiting.is_empty() { *wait } else { RETRY_MIN };
                if now >= *tried + wait {
                    self.mend(now);
                }
            }
        }
        let durable = self.works();
        for sync in batch.waiting {
            (self.said)(Said::Synced { sync, durable });
        }
        self.compact(now);
    }

    pub(super) fn close(&mut self, now: Moment) {
        match self.disk {
            Disk::Works { unsynced: Some(_), .. } => self.fdatasync(now),
            Disk::Works { unsynced: None, .. } => {}
            Disk::Broken { .. } => self.mend(now),
        }
    }

    /// When to come back though nobody says anything.
    pub(super) fn next_wakeup(&self) -> Option<Moment> {
        match &self.disk {
            Disk::Works { unsynced, .. } => unsynced.map(|since| since + FLUSH_AFTER),
            Disk::Broken { tried, wait } => Some(*tried + *wait),
        }
    }

    pub(super) fn works(&self) -> bool {
        matches!(self.disk, Disk::Works { .. })
    }

    fn gather(&mut self, messages: impl Iterator<Item = Message>) -> Batch {
        let mut batch = Batch::default();
        for message in messages {
            match message {
                Message::Sync(sync) => batch.waiting.push(sync),
                Message::Write(sync) => batch.in_hand.push(sync),
                Message::Record(record) => {
                    let line = Line::Record(record);
                    if self.works()
                        && let Err(error) = push(&mut batch.bytes, &line)
                    {
                        batch.unwritable = Some(error);
                    }
                    if let Line::Record(record) = line {
                        self.memory.apply(record);
                    }
                }
            }
            if batch.bytes.len() >= BATCH_MAX {
                break;
            }
        }
        batch
    }

    fn append(&mut self, now: Moment, bytes: &[u8]) {
        let Disk::Works { file, len, unsynced, .. } = &mut self.disk else { return };
        if bytes.is_empty() {
            return;
        }
        match file.write_all(bytes) {
            Ok(()) => {
                *len += bytes.len() as u64;
                unsynced.get_or_insert(now);
            }
            Err(error) => self.broke(now, &error),
        }
    }

    fn fdatasync(&mut self, now: Moment) {
        let Disk::Works { file, unsynced, .. } = &mut self.disk else { return };
        self.shared.fdatasyncs.fetch_add(1, Ordering::Relaxed);
        match file.sync_data() {
            Ok(()) => *unsynced = None,
            Err(error) => self.broke(now, &error),
        }
    }

    fn broke(&mut self, now: Moment, error: &io::Error) {
        self.trouble(error);
        if self.works() {
            self.disk = Disk::Broken { tried: now, wait: RETRY_MIN };
            (self.said)(Said::Works(false));
        }
    }

    /// Tries to begin again with a whole new file.
    fn mend(&mut self, now: Moment) {
        let Disk::Broken { wait, .. } = self.disk else { return };
        match self.write_anew() {
            Ok(disk) => {
                self.disk = disk;
                self.shared.set_trouble(None);
                (self.said)(Said::Works(true));
            }
            Err(NotReplaced { error, .. }) => {
                self.trouble(&error);
                self.disk = Disk::Broken { tried: now, wait: (wait * 2).min(RETRY_MAX) };
            }
        }
    }

    fn compact(&mut self, now: Moment) {
        match &self.disk {
            Disk::Works { len, compact_over, .. } if len > compact_over => {}
            Disk::Works { len, last_anew, .. } if self.is_tight(*len, *last_anew) => {}
            _ => return,
        }
        match self.write_anew() {
            Ok(disk) => {
                self.disk = disk;
                self.shared.set_trouble(None);
            }
            // The file that stands is as good as before: go on with it, and try again when it has
            // grown by as much as a small file may.
            Err(NotReplaced { error, old_stands: true }) => {
                self.trouble(&error);
                if let Disk::Works { len, compact_over, last_anew, .. } = &mut self.disk {
                    *compact_over = *len + COMPACT_OVER;
                    *last_anew = *len;
                }
            }
            Err(NotReplaced { error, old_stands: false }) => self.broke(now, &error),
        }
    }

    /// True when the file has grown on a disk that may soon have no room for two of it.
    fn is_tight(&self, len: u64, last_anew: u64) -> bool {
        len > last_anew + GROWN_MIN.max(last_anew / GROWN_PART)
            && self.directory.room().is_some_and(|room| room < len.saturating_mul(ROOM_TIMES))
    }

    fn write_anew(&mut self) -> Result<Disk, NotReplaced> {
        let bytes = image(&self.place, &self.memory)
            .map_err(|error| NotReplaced { error, old_stands: true })?;
        let replaced = self.directory.replace(&bytes, self.aside.as_deref());
        if !matches!(&replaced, Err(NotReplaced { old_stands: true, .. })) {
            // The file that was found has its second name; what stands there now is ours.
            self.aside = None;
        }
        let file = replaced?;
        let len = bytes.len() as u64;
        let compact_over = COMPACT_OVER.max(len.saturating_mul(COMPACT_TIMES));
        Ok(Disk::Works { file, len, compact_over, last_anew: len, unsynced: None })
    }

    fn trouble(&self, error: &io::Error) {
        let path = self.directory.journal_path();
        self.shared.set_trouble(Some(format!("writing {}: {error}", path.display())));
    }
}

/// Reads what is there.
fn find(directory: &Directory, place: &Place, stamp: &str) -> Result<Found, JournalError> {
    let path = directory.journal_path();
    let Some(bytes) = directory.read()? else {
        let mut notes = Vec::new();
        if !directory.is_new() {
            notes.push(format!(
                "{} is missing though an agent ran here: nothing it held is remembered",
                path.display()
            ));
        }
        let memory = Memory::default();
        return Ok(Found { memory, notes, aside: None, damaged: false });
    };
    let kept_as = |aside| directory.aside_path(&aside_name(aside, stamp)).display().to_string();
    recover::recover(&bytes, place, kept_as).map_err(|newer| {
        let why = match newer {
            Newer::Format(format) => {
                format!("its format is {format}, this one writes {}", frame::FORMAT)
            }
            Newer::Line(unreadable) => format!("a line of it is not known here: {unreadable}"),
        };
        JournalError::Newer { path, why }
    })
}

/// The bytes of a whole journal.
pub(super) fn image(place: &Place, memory: &Memory) -> io::Result<Vec<u8>> {
    let mut bytes = frame::header();
    push(&mut bytes, &Line::Begin(place.clone()))?;
    for record in memory.records() {
        push(&mut bytes, &Line::Record(record))?;
    }
    push(&mut bytes, &Line::Whole(place.clone()))?;
    Ok(bytes)
}

pub(super) fn push(to: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    let body = body::encode(line)?;
    if frame::push(to, &body) {
        return Ok(());
    }
    let len = body.len();
    Err(io::Error::other(format!("a record of {len} bytes is longer than {}", frame::BODY_MAX)))
}

fn aside_name(aside: Aside, stamp: &str) -> String {
    match aside {
        Aside::Damaged => format!("journal.damaged-{stamp}"),
        Aside::OtherMachine => format!("journal.other-machine-{stamp}"),
    }
}

/// Now, as part of a file's name; UTC, and without the colons that other systems refuse.
fn stamp() -> String {
    let wall = clock::wall();
    match jiff::Timestamp::from_millisecond(wall.0) {
        Ok(now) => now.strftime("%Y%m%dT%H%M%SZ").to_string(),
        Err(_) => wall.0.to_string(),
    }
}
