//! The file: whole lines are put to its end, one write each, wherever its name leads at that time.
//! So it may be renamed or deleted at any moment (logrotate), and nobody has to be told.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::fd;
use crate::lease::Uid;
use crate::others::{Other, replaced_by};

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Who may write there could forge what happened.
const OTHERS_WRITE: Mode = Mode::WGRP.union(Mode::WOTH);

/// Why a line is not written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// What stands there is not to be written to.
    #[error(
        "{} is not safe to write to: {what}; move it away, or name another file",
        path.display()
    )]
    NotSafe {
        /// The file.
        path: PathBuf,
        /// What was seen.
        what: String,
    },
    /// The rest of the disk is the journal's.
    #[error(
        "the disk of {} is nearly full, and the journal needs the rest; free space",
        .0.display()
    )]
    Full(PathBuf),
    /// The system says no.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// It is left out where the journal needs the room.
    Usual,
    /// Somebody waits for it.
    Durable,
}

#[derive(Debug)]
pub(super) struct AuditFile {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// By which it is known again.
    id: (u64, u64),
    /// Its last line has no end yet.
    is_torn: bool,
    /// Its name may be forgotten by a crash of the host.
    is_new: bool,
}

impl AuditFile {
    pub(super) fn new(path: PathBuf) -> AuditFile {
        AuditFile { path, open: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it, if it is not open, or another file has its name now.
    pub(super) fn look(&mut self) -> Result<(), FileError> {
        let named = rustix::fs::statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        if let (Some(open), Ok(named)) = (&self.open, &named)
            && open.id == id(named)
        {
            // What was safe may have been opened to others since.
            return check(named, &self.path);
        }
        self.open = None;
        self.open = Some(open(&self.path)?);
        Ok(())
    }

    /// Puts one line, with its end, to the end.
    pub(super) fn append(&mut self, line: &str, weight: Weight) -> Result<(), FileError> {
        self.look()?;
        let path = &self.path;
        let Some(open) = &mut self.open else { return Ok(()) };
        if weight == Weight::Usual && !fd::has_room(&open.file) {
            return Err(FileError::Full(path.clone()));
        }
        let ended = if open.is_torn { format!("\n{line}") } else { line.to_owned() };
        match write_once(&mut open.file, ended.as_bytes()) {
            Ok(written) if written == ended.len() => {
                open.is_torn = false;
                Ok(())
            }
            Ok(written) => {
                open.is_torn |= written > 0;
                Err(io_error("writing", path)(io::ErrorKind::StorageFull.into()))
            }
            Err(source) => Err(io_error("writing", path)(source)),
        }
    }

    /// Brings what was written to the disk, and the file's name too.
    pub(super) fn sync(&mut self) -> Result<(), FileError> {
        let path = &self.path;
        let Some(open) = &mut self.open else { return Ok(()) };
        let synced = rustix::fs::fdatasync(&open.file).and_then(|()| match open.is_new {
            true => sync_directory(path),
            false => Ok(()),
        });
        match synced {
            Ok(()) => {
                open.is_new = false;
                Ok(())
            }
            Err(errno) => {
                // After a failure the kernel may call the same pages clean: see the journal.
                self.open = None;
                Err(io_error("syncing", path)(errno.into()))
            }
        }
    }
}

/// A name that no other file is given, nor any that another user can change.
fn open(path: &Path) -> Result<Open, FileError> {
    check_above(path)?;
    // Not blocking: a FIFO would hold up the thread until somebody reads it.
    let flags = OFlags::RDWR
        | OFlags::APPEND
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let (fd, is_new) = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => (fd, false),
        Err(Errno::NOENT) => {
            let new = flags | OFlags::CREATE | OFlags::EXCL;
            let made = rustix::fs::open(path, new, FILE_MODE);
            (made.map_err(|errno| io_error("making", path)(errno.into()))?, true)
        }
        Err(Errno::LOOP) => return Err(not_safe(path, "it is a symbolic link")),
        Err(errno) => return Err(io_error("opening", path)(errno.into())),
    };
    let found = look_at(fd.as_fd(), path)?;
    check(&found, path)?;
    let file = File::from(fd);
    let is_torn = is_torn(&file, &found).map_err(io_error("reading the end of", path))?;
    Ok(Open { file, id: id(&found), is_torn, is_new })
}

/// Opens it to be read; `None` where there is none.
pub(super) fn open_to_read(path: &Path) -> Result<Option<(File, Stat)>, FileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags | OFlags::NOCTTY, Mode::empty()) {
        Ok(fd) => {
            let found = look_at(fd.as_fd(), path)?;
            check(&found, path)?;
            Ok(Some((File::from(fd), found)))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP) => Err(not_safe(path, "it is a symbolic link")),
        Err(errno) => Err(io_error("opening", path)(errno.into())),
    }
}

fn look_at(fd: BorrowedFd<'_>, path: &Path) -> Result<Stat, FileError> {
    rustix::fs::fstat(fd).map_err(|errno| io_error("looking at", path)(errno.into()))
}

fn check(found: &Stat, path: &Path) -> Result<(), FileError> {
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(not_safe(path, "it is no plain file"));
    }
    let own = rustix::process::geteuid().as_raw();
    if found.st_uid != own {
        let what = format!("it belongs to uid {}, and the agent runs as uid {own}", found.st_uid);
        return Err(FileError::NotSafe { path: path.to_owned(), what });
    }
    if found.st_nlink > 1 {
        return Err(not_safe(path, "it has a second name (a hard link)"));
    }
    if Mode::from_raw_mode(found.st_mode).intersects(OTHERS_WRITE) {
        return Err(not_safe(path, "others can write to it (try chmod go-w)"));
    }
    Ok(())
}

/// A directory that is not there is told with the file.
fn check_above(path: &Path) -> Result<(), FileError> {
    let Some(Ok(above)) = path.parent().map(std::fs::metadata) else { return Ok(()) };
    match replaced_by(&above) {
        Some(Other::Owner(Uid(uid))) => {
            let what = format!("uid {uid}, whose directory it is in, can take it away");
            Err(FileError::NotSafe { path: path.to_owned(), what })
        }
        Some(Other::Everyone) => {
            Err(not_safe(path, "everyone can take it away there (try chmod o-w on the directory)"))
        }
        // The group of the site's logs may be one (adm, syslog).
        Some(Other::Group(_)) | None => Ok(()),
    }
}

fn not_safe(path: &Path, what: &str) -> FileError {
    FileError::NotSafe { path: path.to_owned(), what: what.to_owned() }
}

fn id(found: &Stat) -> (u64, u64) {
    (found.st_dev, found.st_ino)
}

fn is_torn(file: &File, found: &Stat) -> io::Result<bool> {
    let Some(last) = u64::try_from(found.st_size).unwrap_or(0).checked_sub(1) else {
        return Ok(false);
    };
    let mut byte = [0];
    let read = rustix::io::pread(file, &mut byte, last)?;
    Ok(read == 1 && byte != *b"\n")
}

/// A second write could land behind what another program put there.
fn write_once(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn sync_directory(path: &Path) -> rustix::io::Result<()> {
    let above = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::fsync(rustix::fs::open(above, flags, Mode::empty())?) {
        // Some file systems sync no directories, for they have nothing to bring to disk.
        Err(Errno::INVAL) => Ok(()),
        other => other,
    }
}

fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
