//! What is said on the terminal where a lease was taken: that its end is near, that it is at risk,
//! that it is lost. As with `write`, only its owner's terminal is written to, and only while that
//! takes messages (`mesg y`); whatever goes wrong there is nobody's trouble.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, lstat, major, makedev, minor, open};
use stormlock_protocol::name::LeaseId;

use super::guard::is_there;
use crate::clock;
use crate::lease::{Hold, State, Terminal, Uid, View};

/// The kernel's numbers of pseudo terminals: 256 of them per major number.
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;
const PTS_PER_MAJOR: u32 = 256;
/// Consoles, and behind the first 64 of them serial lines.
const TTY_MAJOR: u32 = 4;
const CONSOLES: u32 = 64;
/// The number as `/proc` has it: the minor number's upper bits, the major number, the lower bits.
const MAJOR_AT: u32 = 8;
const MAJOR_MASK: u32 = 0xfff;
const LOW_MASK: u32 = 0xff;
const HIGH_AT: u32 = 12;
const HIGH_MASK: u32 = 0xfff00;
/// Up to here time is told in seconds, up to there in minutes.
const SECONDS_MAX: u64 = 2 * 60;
const MINUTES_MAX: u64 = 2 * 60 * 60;

/// What was said of each lease that is not over and was taken at a terminal.
#[derive(Debug, Default)]
pub(super) struct Notices {
    said: BTreeMap<LeaseId, Said>,
}

#[derive(Debug, Default)]
struct Said {
    ends_soon: bool,
    at_risk: bool,
}

impl Notices {
    /// Says what is new about a lease, if anything is.
    pub(super) fn tell(&mut self, view: &View) {
        if let Some(terminal) = view.terminal
            && let Some(text) = self.news(view)
        {
            let owner = view.owner;
            tokio::task::spawn_blocking(move || {
                if let Err(error) = say(terminal, owner, &text) {
                    tracing::debug!(%error, ?terminal, "nothing was said on the terminal");
                }
            });
        }
    }

    /// Whoever gives it back hears of a loss in the answer.
    pub(super) fn is_given_back(&mut self, lease: LeaseId) {
        self.said.remove(&lease);
    }

    /// Each thing once. A loss is told of what this agent saw alive: an earlier one, which the
    /// journal remembers until the holder acknowledges it, was told in its time.
    fn news(&mut self, view: &View) -> Option<String> {
        let on = &view.claim.resource;
        let lease = view.claim.lease;
        let left = || words(clock::now().until(view.deadline));
        match &view.state {
            State::Asking => None,
            State::Releasing => None,
            State::Released | State::Lingering => {
                self.said.remove(&lease);
                None
            }
            State::Lost(why) => self
                .said
                .remove(&lease)
                .map(|_| format!("{on} is lost: {why}. Stop what relies on it.")),
            State::Held | State::AtRisk | State::Unknown => {
                let said = self.said.entry(lease).or_default();
                let is_soon = view.ends_soon && !std::mem::replace(&mut said.ends_soon, true);
                let is_risk =
                    view.state == State::AtRisk && !std::mem::replace(&mut said.at_risk, true);
                said.ends_soon &= view.ends_soon;
                if is_soon {
                    let (what, to_keep) = match view.hold {
                        Hold::Until(_) => ("the hold on ", " --for 1h"),
                        Hold::No | Hold::Keep => ("", ""),
                    };
                    let left = left();
                    Some(format!(
                        "{what}{on} ends in {left}; to keep it: stormctl renew {on}{to_keep}"
                    ))
                } else if is_risk {
                    let left = left();
                    Some(format!(
                        "{on} is at risk: lost in {left} unless it can be renewed; see `stormctl \
                         doctor`"
                    ))
                } else {
                    None
                }
            }
        }
    }
}

/// How long something lasts, for people.
fn words(length: Duration) -> String {
    let secs = u64::try_from(length.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX);
    let (count, unit) = match secs {
        0..=SECONDS_MAX => (secs, "second"),
        secs if secs <= MINUTES_MAX => (secs / 60, "minute"),
        secs => (secs / 3600, "hour"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

fn say(terminal: Terminal, owner: Uid, text: &str) -> io::Result<()> {
    let (path, device) = place(terminal.device).ok_or(io::ErrorKind::Unsupported)?;
    // The number may be another terminal's by now: the session's end took it from its own.
    if !is_there(terminal.session) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let is_fit = |stat: &Stat| {
        let is_it = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == device;
        let is_welcome = Mode::from_raw_mode(stat.st_mode).contains(Mode::WGRP);
        is_it && stat.st_uid == owner.0 && is_welcome
    };
    // To some devices an open does something already: another's is not opened at all.
    if !is_fit(&lstat(&path)?) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // One that was stopped (Ctrl-S) must not hold anybody up, nor become this process's own.
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = open(path, flags | OFlags::CLOEXEC, Mode::empty())?;
    if !is_fit(&fstat(&file)?) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // The bell, and lines of its own whatever stands there and however its lines end.
    rustix::io::write(&file, format!("\x07\r\nstormlock: {text}\r\n").as_bytes())?;
    Ok(())
}

/// Where a terminal's device is, and its number as files have it.
fn place(number: u32) -> Option<(String, u64)> {
    let upper = number >> MAJOR_AT & MAJOR_MASK;
    let lower = number & LOW_MASK | number >> HIGH_AT & HIGH_MASK;
    let device = makedev(upper, lower);
    debug_assert_eq!((major(device), minor(device)), (upper, lower));
    let path = if PTS_MAJORS.contains(&upper) {
        let first = (upper - PTS_MAJORS.start()) * PTS_PER_MAJOR;
        format!("/dev/pts/{}", first.checked_add(lower)?)
    } else if upper == TTY_MAJOR && lower < CONSOLES {
        format!("/dev/tty{lower}")
    } else if upper == TTY_MAJOR {
        format!("/dev/ttyS{}", lower - CONSOLES)
    } else {
        return None;
    };
    Some((path, device))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use rustix::process::getuid;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use stormlock_protocol::process::Process;

    use super::*;
    use crate::lease::ProcessId;

    /// A terminal of ours, its other side, and its path.
    fn terminal() -> (Terminal, rustix::fd::OwnedFd, File, String) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let side = File::options().read(true).write(true).open(&path).unwrap();
        side.set_permissions(PermissionsExt::from_mode(0o620)).unwrap();
        let device = side.metadata().unwrap().rdev();
        let number = major(device) << MAJOR_AT | minor(device) & LOW_MASK;
        let device = number | (minor(device) & HIGH_MASK) << HIGH_AT;
        let me = Process::look(std::process::id(), false).unwrap();
        let session = ProcessId { pid: me.pid, started: me.started, group: false };
        (Terminal { device, session }, master, side, path)
    }

    /// What came, up to the end of a line that says this; in as many pieces as it comes.
    fn reads(master: &rustix::fd::OwnedFd, what: &str) {
        let mut seen = String::new();
        while !seen.contains(what) {
            let mut bytes = [0; 512];
            let length = rustix::io::read(master, &mut bytes).unwrap();
            seen += &String::from_utf8_lossy(&bytes[..length]);
        }
    }

    #[test]
    fn the_owner_of_a_terminal_reads_there_what_was_said() {
        let (terminal, master, _side, path) = terminal();
        assert_eq!(place(terminal.device).unwrap().0, path);
        say(terminal, Uid(getuid().as_raw()), "prod/db is lost").unwrap();
        reads(&master, "stormlock: prod/db is lost");
    }

    #[test]
    fn nothing_is_said_to_others_or_where_messages_are_unwelcome() {
        let (terminal, _master, side, _) = terminal();
        let me = getuid().as_raw();
        let said = say(terminal, Uid(me + 1), "secret").unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::PermissionDenied);
        side.set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
        let said = say(terminal, Uid(me), "unwelcome").unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn nothing_is_said_on_a_later_terminal_of_the_same_number() {
        let (terminal, _master, _side, _) = terminal();
        let ProcessId { pid, started, group } = terminal.session;
        let session = ProcessId { pid, started: started - 1, group };
        let me = Uid(getuid().as_raw());
        let said = say(Terminal { session, ..terminal }, me, "of before").unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_terminal_that_stands_still_holds_nobody_up() {
        let (terminal, master, _side, _) = terminal();
        let stops = rustix::termios::tcflow(&master, rustix::termios::Action::OOff);
        stops.unwrap();
        let me = Uid(getuid().as_raw());
        let long = "x".repeat(1 << 16);
        assert!((0..64).any(|_| say(terminal, me, &long).is_err()), "it never fills");
    }

    #[test]
    fn devices_are_found_by_their_number() {
        let path = |number| place(number).map(|(path, _)| path);
        assert_eq!(path(0x8803).as_deref(), Some("/dev/pts/3"));
        assert_eq!(path(0x8900).as_deref(), Some("/dev/pts/256"));
        assert_eq!(path(0x0010_8801).as_deref(), Some("/dev/pts/257"));
        assert_eq!(path(0x0401).as_deref(), Some("/dev/tty1"));
        assert_eq!(path(0x0440).as_deref(), Some("/dev/ttyS0"));
        assert_eq!(path(0), None);
        assert_eq!(path(u32::MAX), None);
    }

    #[test]
    fn how_long_is_told_in_words() {
        for (secs, expected) in
            [(0, "0 seconds"), (1, "1 second"), (120, "120 seconds"), (300, "5 minutes")]
        {
            assert_eq!(words(Duration::from_secs(secs)), expected);
        }
        assert_eq!(words(Duration::from_secs(4 * 3600)), "4 hours");
    }
}
