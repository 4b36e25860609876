//! The journal's directory: whose it is, who may look, one agent at a time, and how a file in it
//! is replaced so that a crash leaves the old one or the new one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::JournalError;
use crate::fd;

const JOURNAL: &str = "journal";
/// The file that will replace the journal; whatever stands there at a start is half a file.
const NEXT: &str = "journal.new";
const LOCK: &str = "lock";

const DIRECTORY_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// What nobody but the owner may have.
const OTHERS: Mode = Mode::RWXG.union(Mode::RWXO);

/// Largest journal that is read. It is written anew far below; more is no journal of ours, and
/// reading it could starve the host.
const JOURNAL_MAX: u64 = 256 << 20;
/// Names tried for a file that is set aside; two in one second are a crash loop already.
const ASIDE_TRIES: u32 = 100;

/// The directory, locked as long as this lives.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    /// True when no agent was ever here.
    is_new: bool,
    lock: OwnedFd,
}

/// A replacement that failed.
#[derive(Debug)]
pub(super) struct NotReplaced {
    pub(super) error: io::Error,
    /// The old file still has its name, and is as good as it was.
    pub(super) old_stands: bool,
}

impl Directory {
    /// Makes the directory if there is none, looks whether it is safe, and locks it.
    pub(super) fn open(path: &Path) -> Result<Directory, JournalError> {
        // A slash at the end would make the kernel follow a symbolic link before it.
        let path: &Path = &path.components().collect::<PathBuf>();
        let doing = |doing| move |source| JournalError::io(doing, path, source);
        make(path).map_err(doing("making the directory"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let why = "it is a symbolic link or no directory".to_owned();
                return Err(not_safe(path, why, FileType::Directory));
            }
            Err(errno) => return Err(doing("opening")(errno.into())),
        };
        check(&fd, path, FileType::Directory)?;
        let lock_path = path.join(LOCK);
        let is_new = rustix::fs::statat(&fd, LOCK, AtFlags::SYMLINK_NOFOLLOW).is_err();
        // Read-only, so that an agent can start beside its old journal on a read-only file system.
        let lock = open_in(&fd, &lock_path, LOCK, OFlags::RDONLY | OFlags::CREATE)?
            .ok_or_else(|| JournalError::io("opening", &lock_path, Errno::NOENT.into()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = fd::locked_by(&lock);
                return Err(JournalError::InUse { dir: path.to_owned(), pid });
            }
            Err(errno) => return Err(JournalError::io("locking", &lock_path, errno.into())),
        }
        let directory = Directory { fd, path: path.to_owned(), is_new, lock };
        directory.remove_next();
        Ok(directory)
    }

    /// Bytes that are left on its disk; `None` where the disk does not say.
    pub(super) fn room(&self) -> Option<u64> {
        let disk = rustix::fs::fstatvfs(&self.fd).ok().filter(|disk| disk.f_blocks > 0)?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    pub(super) fn journal_path(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// The path that [`Directory::replace`] sets a file aside as, if the name is free.
    pub(super) fn aside_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The whole journal; `None` when there is none.
    pub(super) fn read(&self) -> Result<Option<Vec<u8>>, JournalError> {
        let path = self.journal_path();
        let Some(fd) = open_in(&self.fd, &path, JOURNAL, OFlags::RDONLY)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = File::from(fd).take(JOURNAL_MAX + 1).read_to_end(&mut bytes);
        let len = read.map_err(|source| JournalError::io("reading", &path, source))?;
        if u64::try_from(len).is_ok_and(|len| len > JOURNAL_MAX) {
            return Err(JournalError::TooBig { path, max: JOURNAL_MAX });
        }
        Ok(Some(bytes))
    }

    /// Puts a file of these bytes in the journal's place and gives it back for appending. With
    /// `aside`, the old file is kept under that name.
    pub(super) fn replace(&self, bytes: &[u8], aside: Option<&str>) -> Result<File, NotReplaced> {
        let next = self.write_next(bytes, aside).map_err(|error| {
            // Half a file on a full disk keeps it full.
            self.remove_next();
            NotReplaced { error, old_stands: true }
        })?;
        // Until the directory is on disk a crash may bring the old file back; and after an error
        // nobody knows which of the two has the name.
        rustix::fs::renameat(&self.fd, NEXT, &self.fd, JOURNAL)
            .and_then(|()| rustix::fs::fsync(&self.fd))
            .map_err(|errno| NotReplaced { error: errno.into(), old_stands: false })?;
        Ok(next)
    }

    fn write_next(&self, bytes: &[u8], aside: Option<&str>) -> io::Result<File> {
        self.remove_next();
        let flags = OFlags::WRONLY | OFlags::APPEND;
        let mut next = File::from(self.create(NEXT, flags)?);
        next.write_all(bytes)?;
        next.sync_all()?;
        if let Some(name) = aside {
            self.set_aside(name)?;
        }
        Ok(next)
    }

    /// Gives the journal a second name: the file that replaces it takes away only the first, so
    /// nothing is copied and at no moment is there no journal.
    fn set_aside(&self, name: &str) -> io::Result<()> {
        for number in 1..=ASIDE_TRIES {
            let numbered = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
            match rustix::fs::linkat(&self.fd, JOURNAL, &self.fd, &numbered, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                // A file system without second names.
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                    return self.copy_aside(&numbered);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EXIST.into())
    }

    fn copy_aside(&self, name: &str) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut from = File::from(rustix::fs::openat(&self.fd, JOURNAL, flags, Mode::empty())?);
        let mut to = File::from(self.create(name, OFlags::WRONLY)?);
        io::copy(&mut from, &mut to)?;
        to.sync_all()
    }

    fn create(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, name, flags | new, FILE_MODE)?)
    }

    fn remove_next(&self) {
        // If it cannot be removed, the next file cannot be made either, and that is told.
        let _ = rustix::fs::unlinkat(&self.fd, NEXT, AtFlags::empty());
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing is not enough: a child of the agent that has not come to its exec has a copy.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Makes a directory and those above it, each on disk before anything is put into it: a lease must
/// not be lost because its journal's directory was never written down.
fn make(path: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(path, DIRECTORY_MODE) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(Errno::NOENT) => {
            let above = path.parent().ok_or(Errno::NOENT)?;
            make(above)?;
            match rustix::fs::mkdir(path, DIRECTORY_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // It may be there all the same.
        Err(Errno::ROFS | Errno::ACCESS) if path.exists() => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    match path.parent() {
        Some(above) if above.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(above) => File::open(above)?.sync_all(),
        None => Ok(()),
    }
}

/// Opens a file in the directory, if it is there and safe.
fn open_in(
    dir: &OwnedFd,
    path: &Path,
    name: &str,
    flags: OFlags,
) -> Result<Option<OwnedFd>, JournalError> {
    // Without NONBLOCK, opening a pipe that somebody put there would wait for ever.
    let safe = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::openat(dir, name, flags | safe, FILE_MODE) {
        Ok(fd) => {
            check(&fd, path, FileType::RegularFile)?;
            Ok(Some(fd))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP) => {
            Err(not_safe(path, "it is a symbolic link".to_owned(), FileType::RegularFile))
        }
        Err(errno) => Err(JournalError::io("opening", path, errno.into())),
    }
}

fn check(fd: impl AsFd, path: &Path, kind: FileType) -> Result<(), JournalError> {
    let stat: Stat = rustix::fs::fstat(fd)
        .map_err(|errno| JournalError::io("looking at", path, errno.into()))?;
    let us = rustix::process::geteuid().as_raw();
    let open_to = Mode::from_raw_mode(stat.st_mode) & OTHERS;
    let why = if FileType::from_raw_mode(stat.st_mode) != kind {
        "it is something else".to_owned()
    } else if stat.st_uid != us {
        format!("it belongs to uid {}, and this agent is uid {us}", stat.st_uid)
    } else if !open_to.is_empty() {
        let mode = Mode::from_raw_mode(stat.st_mode).as_raw_mode();
        format!("its mode is {mode:04o}, so that others than its owner get at it")
    } else {
        return Ok(());
    };
    Err(not_safe(path, why, kind))
}

fn not_safe(path: &Path, why: String, kind: FileType) -> JournalError {
    let mend = match kind {
        FileType::Directory => "use a real directory of the agent's own user with mode 0700",
        _ => "find out who put it there, then move it away or give it back its owner and mode 0600",
    };
    JournalError::NotSafe { path: path.to_owned(), why, mend }
}
