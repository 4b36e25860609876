//! Files that a configuration is in or names: opened without waiting for anybody, and looked at.
//!
//! Not here: what stands in them.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::lease::Uid;

/// Permission bit that lets everyone write.
pub(super) const EVERYONE_WRITES: u32 = 0o002;
/// In a directory with this bit, only the owner of a file takes it away.
const STICKY: u32 = 0o1000;

/// Opens a file to be read; nothing else than a file is.
pub(super) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // A pipe that nobody writes to would be waited for, for ever.
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    let kind = found.file_type();
    // Their permissions are the system's business, and no advice of ours.
    let what = if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    } else if kind.is_char_device() || kind.is_block_device() {
        "it is a device, not a file"
    } else if kind.is_fifo() {
        "it is a pipe, not a file"
    } else {
        return Ok((file, found));
    };
    Err(io::Error::other(what))
}

/// Why somebody else than root and the agent's own user `own` could put another file in the place
/// of one that was opened, or change it; `None` when nobody could.
pub(super) fn changed_by(path: &Path, opened: &Metadata, own: Uid) -> io::Result<Option<String>> {
    let is_foreign = |found: &Metadata| found.uid() != own.0 && found.uid() != 0;
    let named = path.symlink_metadata()?;
    let shown = path.display();
    if named.is_symlink() && is_foreign(&named) {
        let uid = named.uid();
        return Ok(Some(format!("is a symbolic link of uid {uid}, run: chown -h root {shown}")));
    }
    if is_foreign(opened) {
        let uid = opened.uid();
        return Ok(Some(format!("belongs to uid {uid}, run: chown root {shown}")));
    }
    let place = fs::canonicalize(path)?;
    for directory in [path.parent(), place.parent()].into_iter().flatten() {
        let found = fs::metadata(directory)?;
        let mode = found.mode();
        if is_foreign(&found) {
            let (uid, directory) = (found.uid(), directory.display());
            return Ok(Some(format!(
                "uid {uid}, whose directory it is in, can replace it, run: chown root {directory}"
            )));
        }
        if mode & EVERYONE_WRITES != 0 && mode & STICKY == 0 {
            let directory = directory.display();
            return Ok(Some(format!("everyone can replace it, run: chmod o-w {directory}")));
        }
    }
    Ok(None)
}
