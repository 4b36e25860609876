//! What must survive the agent, on disk: append, group commit, compact, recover.

use std::path::Path;

use crate::lease::{Memory, Record, SyncId};

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
/// that wait together.
#[derive(Debug)]
pub struct Journal {}

/// What a start found.
#[derive(Debug)]
pub struct Recovered {
    /// What the records add up to, this boot's included.
    pub memory: Memory,
    /// What was wrong with the file, for the log and `doctor`: cut, quarantined, of another machine.
    pub notes: Vec<String>,
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
    #[error("another agent uses it")]
    InUse,
}

impl Journal {
    /// Locks the directory, reads the journal, writes it anew and starts its thread, which calls
    /// `said` (from that thread).
    ///
    /// # Errors
    /// [`JournalError`] when the directory cannot be used.
    pub fn open(
        dir: &Path,
        place: &Place,
        said: impl Fn(Said) + Send + 'static,
    ) -> Result<(Journal, Recovered), JournalError> {
        let _ = (dir, place, said);
        Err(JournalError::InUse)
    }

    /// Appends a record; never blocks on the disk.
    pub fn record(&self, record: Record) {
        let _ = record;
    }

    /// Asks for a [`Said::Synced`] of everything recorded so far.
    pub fn sync(&self, sync: SyncId) {
        let _ = sync;
    }
}
