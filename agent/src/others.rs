//! What other users of the host could do to the files that the agent relies on.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::lease::Uid;

/// Permission bits of a directory's group and of everyone.
const GROUP_WRITES: u32 = 0o020;
const EVERYONE_WRITES: u32 = 0o002;
/// In a directory with this bit, only the owner of a file takes it away.
const STICKY: u32 = 0o1000;

/// Who could, besides root and the agent's own user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// The user whose directory it is.
    Owner(Uid),
    /// Everyone.
    Everyone,
    /// The members of this group.
    Group(u32),
}

/// Who could put something else in the place of what is in a directory, besides root and the user
/// that this process runs as; the worst of them, `None` when nobody could. (Root's own group is
/// root.)
#[must_use]
pub fn replaced_by(directory: &Metadata) -> Option<Other> {
    let mode = directory.mode();
    let can = |bits| mode & bits != 0 && mode & STICKY == 0;
    if is_foreign(directory) {
        Some(Other::Owner(Uid(directory.uid())))
    } else if can(EVERYONE_WRITES) {
        Some(Other::Everyone)
    } else if can(GROUP_WRITES) && directory.gid() != 0 {
        Some(Other::Group(directory.gid()))
    } else {
        None
    }
}

/// True of a file that everyone may write to.
#[must_use]
pub fn is_open(found: &Metadata) -> bool {
    found.mode() & EVERYONE_WRITES != 0
}

/// True of what belongs neither to root nor to the user that this process runs as.
fn is_foreign(found: &Metadata) -> bool {
    found.uid() != rustix::process::geteuid().as_raw() && found.uid() != 0
}

/// Why somebody else than root and the agent's own user could put another file in the place of one
/// that was opened, or change it, and what mends that; `None` when nobody could.
///
/// # Errors
/// What the system says when its place is looked at.
pub fn changed_by(path: &Path, opened: &Metadata) -> io::Result<Option<String>> {
    let named = path.symlink_metadata()?;
    let shown = path.display();
    if is_open(opened) {
        return Ok(Some(format!("everyone can change it, run: chmod o-w {shown}")));
    }
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
        let directory = directory.display();
        match replaced_by(&found) {
            Some(Other::Owner(Uid(uid))) => {
                return Ok(Some(format!(
                    "uid {uid}, whose directory it is in, can replace it, run: chown root \
                     {directory}"
                )));
            }
            Some(Other::Everyone) => {
                return Ok(Some(format!("everyone can replace it, run: chmod o-w {directory}")));
            }
            // Whom the site lets write there, it lets configure.
            Some(Other::Group(_)) | None => {}
        }
    }
    Ok(None)
}

/// Opens a file to be read, without waiting for anybody; nothing else than a file is.
///
/// # Errors
/// What the system says, or that it is no file.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
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

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn whoever_may_write_in_a_directory_is_found_the_worst_first() {
        let dir = tempfile::tempdir().unwrap();
        let seen = |mode| {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            replaced_by(&fs::metadata(dir.path()).unwrap())
        };
        assert_eq!((seen(0o755), seen(0o1777), seen(0o770)), (None, None, None));
        assert_eq!(seen(0o707), Some(Other::Everyone));
        chown(dir.path(), None, Some(7)).expect("tests run as root");
        assert_eq!((seen(0o770), seen(0o1770)), (Some(Other::Group(7)), None));
        assert_eq!(seen(0o777), Some(Other::Everyone));
        chown(dir.path(), Some(7), None).expect("tests run as root");
        assert_eq!(seen(0o1777), Some(Other::Owner(Uid(7))));
    }
}
