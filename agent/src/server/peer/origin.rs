//! What `/proc` says of the process that connected: who logged in, and which unit it belongs to. A
//! hint for people who read the audit; no right depends on it.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::lease::Uid;

/// Most of a file in `/proc` that is read: the paths of control groups are far shorter.
const FILE_MAX: u64 = 16 << 10;
/// Longest name of a unit (`UNIT_NAME_MAX` of systemd).
const UNIT_MAX: usize = 255;
/// The kernel's number for a process that nobody logged in for.
const UNSET: u32 = u32::MAX;
/// What a control group of a unit with processes ends in.
const UNITS: [&str; 2] = [".service", ".scope"];

/// See the fields of [`super::Peer`] of the same names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) login: Option<Uid>,
    pub(super) unit: Option<String>,
}

impl Origin {
    /// Nothing is said unless it is certain that it was read of this very process. Without a pidfd
    /// (before Linux 6.5) a process of the same user has to do.
    pub(super) fn of(pid: i32, pidfd: Option<&OwnedFd>, uid: Uid) -> Origin {
        let Ok(pid) = u32::try_from(pid) else { return Origin::default() };
        // Zero stands for a process of another namespace.
        if pid == 0 {
            return Origin::default();
        }
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let origin = Origin::read(&dir);
        let is_it = match pidfd {
            // It has not ended yet, so the number was its own all the while.
            Some(pidfd) => !has_ended(pidfd),
            None => fs::metadata(&dir).is_ok_and(|found| found.uid() == uid.0),
        };
        if is_it { origin } else { Origin::default() }
    }

    fn read(dir: &Path) -> Origin {
        let text = |name| read(&dir.join(name)).unwrap_or_default();
        Origin { login: login(&text("loginuid")), unit: unit(&text("cgroup")) }
    }
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut fds, Some(&now)), Ok(0))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn login(text: &str) -> Option<Uid> {
    let uid = text.trim().parse().ok()?;
    (uid != UNSET).then_some(Uid(uid))
}

/// The innermost unit on the path of systemd's hierarchy, be it the unified one or its own.
fn unit(text: &str) -> Option<String> {
    let path_of = |prefix| {
        let line = text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.strip_prefix(prefix)
        });
        line.and_then(innermost)
    };
    path_of("name=systemd:").or_else(|| path_of(":"))
}

fn innermost(path: &str) -> Option<String> {
    let is_unit = |part: &&str| UNITS.iter().any(|end| part.ends_with(end));
    let unit = path.rsplit('/').find(is_unit)?;
    let is_plain = unit.len() <= UNIT_MAX && unit.bytes().all(|b| b.is_ascii_graphic());
    is_plain.then(|| unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_a_number_unless_nobody_logged_in() {
        assert_eq!(login("1000"), Some(Uid(1000)));
        assert_eq!(login("0\n"), Some(Uid(0)));
        for none in ["4294967295", "", "maria", "-1"] {
            assert_eq!(login(none), None, "{none:?}");
        }
    }

    #[test]
    fn the_unit_is_the_innermost_one_of_systemds_hierarchy() {
        for (text, expected) in [
            ("0::/system.slice/cron.service\n", Some("cron.service")),
            ("0::/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/backup.service/x",
                Some("backup.service"),
            ),
            ("8:pids:/a.service\n1:name=systemd:/b.service\n0::/\n", Some("b.service")),
            ("8:pids:/a.service\n0::/c.service\n", Some("c.service")),
            ("0::/", None),
            ("0::/x\u{1b}[31m.service", None),
            ("garbage", None),
            ("", None),
        ] {
            assert_eq!(unit(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn nothing_is_said_of_a_process_that_has_ended() {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(has_ended(&pidfd));
        let own = i32::try_from(std::process::id()).unwrap();
        let me = Uid(rustix::process::geteuid().as_raw());
        assert_eq!(Origin::of(own, Some(&pidfd), me), Origin::default());
        assert_eq!(Origin::of(0, None, me), Origin::default());
        let here = Origin::read(Path::new("/proc/self"));
        assert_eq!(Origin::of(own, None, me), here);
        assert_eq!(Origin::of(own, None, Uid(me.0 + 1)), Origin::default());
    }
}
