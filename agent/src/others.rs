//! What other users of the host could do to the files that the agent relies on.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{self, Component, Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::lease::Uid;

/// Permission bits of a directory's group and of everyone.
const GROUP_WRITES: u32 = 0o020;
const EVERYONE_WRITES: u32 = 0o002;
/// In a directory with this bit, only the owner of a file takes it away.
const STICKY: u32 = 0o1000;
/// Whom the kernel shows for a user that this namespace does not know.
const OVERFLOW_UID: u32 = 65_534;
/// Symbolic links on one path, as many as the kernel follows (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

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
    let uid = found.uid();
    uid != rustix::process::geteuid().as_raw() && uid != 0
}

/// True of what may be root's in a user namespace that does not know root, where nobody can tell
/// that from what is anybody else's (`unshare --user`).
fn may_be_roots(found: &Metadata) -> bool {
    found.uid() == OVERFLOW_UID && no_root()
}

fn no_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    !map.is_empty() && map.lines().filter_map(first).all(|first| first != "0")
}

/// Why somebody else than root and the agent's own user could put another file in the place of one
/// that was opened, or change it, and what mends that; `None` when nobody could. Each directory and
/// each symbolic link on the way to it counts.
///
/// # Errors
/// What the system says when its place is looked at.
pub fn changed_by(path: &Path, opened: &Metadata) -> io::Result<Option<String>> {
    let shown = path.display();
    if is_open(opened) {
        return Ok(Some(format!("everyone can change it, run: chmod o-w {shown}")));
    }
    if is_foreign(opened) {
        let uid = opened.uid();
        return Ok(Some(format!("belongs to uid {uid}, run: chown root {shown}")));
    }
    let (why, found) = moved_by(path)?;
    let is_it = found.is_some_and(|it| (it.dev(), it.ino()) == (opened.dev(), opened.ino()));
    if why.is_none() && !is_it {
        return Ok(Some(format!("something else took the place of {shown} meanwhile, try again")));
    }
    Ok(why)
}

/// The same for the way to a file: by name after name from the root on, as the kernel walks it. And
/// what is there now.
fn moved_by(path: &Path) -> io::Result<(Option<String>, Option<Metadata>)> {
    let mut to_go = Vec::new();
    go(&mut to_go, &path::absolute(path)?);
    // Without links, so that the one above is the one it is in.
    let mut at = PathBuf::new();
    let mut links = 0;
    let mut last = None;
    while let Some(name) = to_go.pop() {
        match Path::new(&name).components().next() {
            Some(Component::Normal(name)) => at.push(name),
            Some(Component::ParentDir) => {
                at.pop();
                continue;
            }
            Some(Component::RootDir) => {
                at = PathBuf::from("/");
                continue;
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => continue,
        }
        let above = at.parent().unwrap_or(Path::new("/"));
        let holds = fs::metadata(above)?;
        // A user's own agent there has its files in folders of their own.
        let is_far = !to_go.is_empty() && may_be_roots(&holds);
        if let Some(why) = taken_away_by(above, &holds).filter(|_| !is_far) {
            return Ok((Some(why), None));
        }
        let found = at.symlink_metadata()?;
        if !found.is_symlink() {
            last = Some(found);
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        if is_foreign(&found) {
            let (uid, link) = (found.uid(), at.display());
            let why = format!(
                "uid {uid}, whose symbolic link leads to it, can replace it, run: chown -h root \
                 {link}"
            );
            return Ok((Some(why), None));
        }
        go(&mut to_go, &fs::read_link(&at)?);
        at.pop();
    }
    Ok((None, last))
}

/// Puts the names of a path before those that are still to go, the next one last.
fn go(to_go: &mut Vec<OsString>, path: &Path) {
    to_go.extend(path.components().rev().map(|part| part.as_os_str().to_owned()));
}

fn taken_away_by(directory: &Path, found: &Metadata) -> Option<String> {
    let directory = directory.display();
    match replaced_by(found)? {
        Other::Owner(Uid(uid)) => Some(format!(
            "uid {uid}, whose directory it is in, can replace it, run: chown root {directory}"
        )),
        Other::Everyone => Some(format!("everyone can replace it, run: chmod o-w {directory}")),
        // Whom the site lets write there, it lets configure.
        Other::Group(_) => None,
    }
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
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

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

    #[test]
    fn each_directory_and_each_link_on_the_way_counts() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b/c")).unwrap();
        fs::create_dir_all(at("links/d")).unwrap();
        fs::write(at("a/b/c/file"), "").unwrap();
        symlink("../a/./b", at("links/first")).unwrap();
        symlink(at("links/first/c/../c/file"), at("links/d/second")).unwrap();
        let said = |path: &Path| changed_by(path, &fs::metadata(path).unwrap()).unwrap();
        let (file, second) = (at("a/b/c/file"), at("links/d/second"));
        assert_eq!((said(&file), said(&second)), (None, None));
        for (name, of_file) in [("a", true), ("a/b", true), ("a/b/c", true), ("links", false)] {
            chown(at(name), Some(7), None).expect("tests run as root");
            assert_eq!(said(&file).is_some(), of_file, "{name}");
            let why = said(&second).expect(name);
            let mends = format!("run: chown root {}", at(name).display());
            assert!(why.starts_with("uid 7, whose directory") && why.ends_with(&mends), "{why}");
            chown(at(name), Some(0), None).unwrap();
        }
        for name in ["links/first", "links/d/second"] {
            lchown(at(name), Some(7), None).expect("tests run as root");
            let why = said(&second).expect(name);
            let mends = format!("run: chown -h root {}", at(name).display());
            assert!(why.starts_with("uid 7, whose symbolic") && why.ends_with(&mends), "{why}");
            lchown(at(name), Some(0), None).unwrap();
        }
        // What is looked at is what was opened.
        let other = fs::metadata(dir.path()).unwrap();
        let why = changed_by(&file, &other).unwrap().expect("it is another");
        assert!(why.contains("took the place"), "{why}");
        symlink("round", at("round")).unwrap();
        let error = changed_by(&at("round"), &fs::metadata(&file).unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }
}
