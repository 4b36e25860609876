//! Descriptors: how many there may be, waiting for one that tokio has no type for (timers and
//! pidfds), and what the kernel says of a file that is open.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Resource, getrlimit};
use tokio::io::unix::AsyncFd;

/// Room that is left on a disk for the journal, in bytes: whoever takes and gives back again and
/// again must not fill the disk on which leases are kept by what is written of that elsewhere.
const RESERVE_MAX: u64 = 16 << 20;
/// On a small disk the room that is left is this part of it.
const RESERVE_PART: u64 = 2;

/// How many this process may have open. What users can make it open gets a part of them each, so
/// that there is always one left to reach a store or to write the journal anew.
#[must_use]
pub fn most() -> usize {
    let most = getrlimit(Resource::Nofile).current;
    most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

/// Lets the runtime wait for `fd`, which has to be non-blocking if it is read. Call it inside a
/// runtime.
///
/// # Errors
/// When the kernel or the runtime cannot watch it.
#[expect(
    deprecated,
    reason = "an OwnedFd keeps its number for as long as it lives, which is all that the unsafe \
              replacement asks for"
)]
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// True when the disk of a file has room for more than the journal may need.
pub fn has_room(file: impl AsFd) -> bool {
    // Whoever cannot be asked is not known to be full.
    let Ok(disk) = rustix::fs::fstatvfs(file) else { return true };
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    let reserve = (bytes(disk.f_blocks) / RESERVE_PART).min(RESERVE_MAX);
    disk.f_blocks == 0 || bytes(disk.f_bavail) >= reserve
}

/// The process that has locked a file (flock); `None` where the kernel does not say, or it is one
/// of another namespace.
pub fn locked_by(file: impl AsFd) -> Option<u32> {
    let inode = rustix::fs::fstat(file).ok()?.st_ino.to_string();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| lock_on(line, &inode))
}

/// From `1: FLOCK  ADVISORY  WRITE 4711 fd:00:131 0 EOF`.
fn lock_on(line: &str, inode: &str) -> Option<u32> {
    const KIND: usize = 1;
    const PID: usize = 4;
    const FILE: usize = 5;
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let is_it =
        fields.get(KIND) == Some(&"FLOCK") && fields.get(FILE)?.rsplit(':').next() == Some(inode);
    fields.get(PID)?.parse().ok().filter(|pid| is_it && *pid != 0)
}

/// A process in words, to stand behind what it is.
#[must_use]
pub fn process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_its_process() {
        let line = "12: FLOCK  ADVISORY  WRITE 4711 fd:00:131 0 EOF";
        assert_eq!(lock_on(line, "131"), Some(4711));
        assert_eq!(lock_on(line, "31"), None);
        assert_eq!(lock_on("12: FLOCK  ADVISORY  WRITE 0 fd:00:131 0 EOF", "131"), None);
        assert_eq!(lock_on("12: POSIX  ADVISORY  WRITE 4711 fd:00:131 0 EOF", "131"), None);
        assert_eq!(lock_on("1: -> FLOCK  ADVISORY  WRITE 4712 fd:00:131 0 EOF", "131"), None);
        assert_eq!(lock_on("", "131"), None);
    }

    #[test]
    fn the_kernel_says_who_locked_a_file() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(locked_by(&file), None);
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(locked_by(&file), Some(std::process::id()));
    }
}
