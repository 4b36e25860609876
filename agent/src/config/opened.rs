//! Files that a configuration is in or names: opened without waiting for anybody, and looked at.
//!
//! Not here: what stands in them.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

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
