//! What must survive the agent, on disk: append, group commit, compact, recover.
//!
//! A header, a line that names the machine and the boot, the shortest records that add up to what
//! was known when the file was written, a line that says that all of them are there, and from then
//! on one line for each record. `directory` has the files, `frame`, `body` and `part` the bytes,
//! `recover` the conclusions, `writer` the thread. Not here: what a record means (`lease`).

mod body;
mod directory;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod part;
mod recover;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use crate::lease::{Memory, Record, SyncId};

use writer::{Message, Writer};

/// Where this process runs, for the journal's first lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The host's machine id (`/etc/machine-id`); `None` where there is none.
    pub machine: Option<String>,
    /// The kernel's random id of this boot.
    pub boot: [u8; 16],
    /// The wall clock at moment zero of the boot clock.
    pub wall_at_boot: stormlock_protocol::name::UnixMs,
}

/// The journal of one agent. The file belongs to a thread of its own: one `fdatasync` serves all
/// that wait together. Dropping it writes and syncs what is left, and waits for that.
#[derive(Debug)]
pub struct Journal {
    to_writer: Option<mpsc::Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// What a start found.
#[derive(Debug)]
pub struct Recovered {
    /// What the records add up to, this boot's included.
    pub memory: Memory,
    /// What was wrong with the file, for the log and `doctor`: cut, set aside, of another machine.
    pub notes: Vec<String>,
    /// Records that were on disk are gone, and leases with them. A store of its own keeps those
    /// until their ttl is over; the local backend does not know of them any more, so a holder who
    /// has not heard yet may still believe in one.
    pub damaged: bool,
}

/// What the journal's thread tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Everything recorded before this wait is on disk, or could not be brought there.
    Synced {
        /// Which wait.
        sync: SyncId,
        /// On disk.
        durable: bool,
    },
    /// The journal broke, or works again.
    Works(bool),
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another agent has it.
    #[error(
        "another agent uses {}{}: stop it, or give this one a state directory of its own",
        dir.display(), crate::fd::process(*pid)
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process of that agent, where the kernel says.
        pid: Option<u32>,
    },
    /// Somebody else could read or change it.
    #[error("{} is not safe to use: {why}; {mend}", path.display())]
    NotSafe {
        /// What is not safe.
        path: PathBuf,
        /// What was seen.
        why: String,
        /// What to do.
        mend: &'static str,
    },
    /// A newer agent wrote it.
    #[error(
        "{} was written by another version of stormlockd ({why}): start that one, or move the file \
         away if its leases may be forgotten",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// What was not understood.
        why: String,
    },
    /// No journal grows like that.
    #[error("{} is larger than {max} bytes and no journal of ours: move it away", path.display())]
    TooBig {
        /// The file.
        path: PathBuf,
        /// The limit.
        max: u64,
    },
    /// The system said no.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What the thread lets others see.
#[derive(Debug, Default)]
struct Shared {
    fdatasyncs: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Journal {
    /// Locks the directory, reads the journal, writes it anew and starts its thread, which calls
    /// `said` (from that thread; it must not wait, and must not wait for this journal's drop).
    ///
    /// A directory in which nothing can be written just now is no error: what it remembers is
    /// recovered, `said` hears `Works(false)`, and the thread goes on trying.
    ///
    /// # Errors
    /// [`JournalError`] when the directory cannot be used.
    pub fn open(
        dir: &Path,
        place: &Place,
        said: impl Fn(Said) + Send + 'static,
    ) -> Result<(Journal, Recovered), JournalError> {
        let shared = Arc::new(Shared::default());
        let (writer, recovered) = Writer::open(dir, place, said, Arc::clone(&shared))?;
        // Unbounded, because waiting here would let a slow disk delay a renewal. The core bounds
        // what can be in it: leases are limited, and each has one wait under way at most.
        let (to_writer, from_agent) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&from_agent))
            .map_err(|source| JournalError::io("starting the thread of", dir, source))?;
        let journal = Journal { to_writer: Some(to_writer), thread: Some(thread), shared };
        Ok((journal, recovered))
    }

    /// Appends a record; never blocks on the disk. Without a [`Journal::sync`] it is on disk about
    /// a second later.
    pub fn record(&self, record: Record) {
        self.send(Message::Record(record));
    }

    /// Asks for a [`Said::Synced`] of everything recorded so far.
    pub fn sync(&self, sync: SyncId) {
        self.send(Message::Sync(sync));
    }

    /// Asks for a [`Said::Synced`] as soon as everything recorded so far would survive a crash of
    /// this process, though not one of the host: no wait for the disk.
    pub fn write(&self, sync: SyncId) {
        self.send(Message::Write(sync));
    }

    /// Why the journal does not work, while it does not; or why it could not be compacted.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often the disk was waited for since the start, for metrics.
    #[must_use]
    pub fn fdatasyncs(&self) -> u64 {
        self.shared.fdatasyncs.load(Ordering::Relaxed)
    }

    fn send(&self, message: Message) {
        if let Some(to_writer) = &self.to_writer {
            // The thread ends only after this sender; if a bug of ours ended it, silence is safe:
            // what waits for the disk is not believed.
            let _ = to_writer.send(message);
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        drop(self.to_writer.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl JournalError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> JournalError {
        JournalError::Io { doing, path: path.to_owned(), source }
    }
}

impl Shared {
    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}
