//! Processes of this host as `/proc` tells of them, and how one is named so that no later one is
//! taken for it.

use std::fs;
use std::io;

use bincode::{Decode, Encode};

/// A process on this host, named so that no later one is taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub started: u64,
    /// True when its end is the end of the last process in the group that it leads.
    pub group: bool,
}

/// A terminal, for as long as the session goes on that it controls: its number is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Terminal {
    /// The kernel's number of its device: field 7 of `/proc/PID/stat`.
    pub device: u32,
    /// The leader of that session. When it ends, the terminal is taken from all of the session.
    pub session: Process,
}

impl Process {
    /// The process that has this number now. With `group`, its end is that of the last process in
    /// the group that it leads.
    ///
    /// # Errors
    /// When there is none, or it may not be looked at.
    pub fn look(pid: u32, group: bool) -> io::Result<Process> {
        Stat::of(pid).map(|stat| Process { pid, started: stat.started, group })
    }

    /// True while this very process is there, alive or not yet waited for; `None` where `/proc`
    /// shows nobody of its number: it is gone, or hidden (`hidepid`, `ProtectProc=`).
    #[must_use]
    pub fn is_there(&self) -> Option<bool> {
        Stat::of(self.pid).ok().map(|now| now.started == self.started)
    }
}

impl Terminal {
    /// The terminal that controls this process, if one does and `/proc` tells.
    #[must_use]
    pub fn of_this_process() -> Option<Terminal> {
        let me = Stat::of(std::process::id()).ok()?;
        // A session that began outside of this namespace has no leader that could be looked at.
        let session = Process::look(me.session, false).ok()?;
        (me.terminal != 0).then_some(Terminal { device: me.terminal, session })
    }
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its number.
    pub pid: u32,
    /// It has ended with all its threads, and nobody has waited for it yet. (One whose first thread
    /// alone has ended looks dead, and works on.)
    pub is_dead: bool,
    /// It stands still: by a signal, or because somebody traces it.
    pub is_stopped: bool,
    /// Whose child it is.
    pub parent: u32,
    /// The group it is in, by the number of its leader.
    pub group: u32,
    /// The session it is in, by the number of its leader.
    pub session: u32,
    /// The device of the terminal that controls it, as the kernel writes it; 0 for none.
    pub terminal: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl Stat {
    /// Of the process that has this number now.
    ///
    /// # Errors
    /// When there is none, or it may not be looked at.
    pub fn of(pid: u32) -> io::Result<Stat> {
        let text = fs::read(format!("/proc/{pid}/stat"))?;
        let strange =
            || io::Error::new(io::ErrorKind::InvalidData, "its /proc entry is unreadable");
        Stat::read(pid, &String::from_utf8_lossy(&text)).ok_or_else(strange)
    }

    /// Of all processes that `/proc` shows. They are read one after the other: one that starts
    /// meanwhile may be missing.
    #[must_use]
    pub fn all() -> Vec<Stat> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| Stat::of(pid).ok()).collect()
    }

    /// The name may hold anything, also parentheses and white space; nothing after it does.
    fn read(pid: u32, text: &str) -> Option<Stat> {
        /// Fields as proc(5) counts them; the first after the name is the third.
        const STATE: usize = 3;
        const PARENT: usize = 4;
        const GROUP: usize = 5;
        const SESSION: usize = 6;
        const TERMINAL: usize = 7;
        const THREADS: usize = 20;
        const STARTED: usize = 22;
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - STATE).copied();
        let number = |at| field(at)?.parse().ok();
        Some(Stat {
            pid,
            is_dead: matches!(field(STATE)?, "Z" | "X")
                && field(THREADS)?.parse::<u32>().ok()? <= 1,
            is_stopped: matches!(field(STATE)?, "T" | "t"),
            parent: number(PARENT)?,
            group: number(GROUP)?,
            session: number(SESSION)?,
            // A signed number to the kernel, whose bits are those of the device.
            terminal: field(TERMINAL)?.parse::<i32>().ok()?.cast_unsigned(),
            started: field(STARTED)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let rest = "1 2 3 34819 5 6 7 8 9 10 11 12 13 14 15 16 2 18 4711 20 21";
        for name in ["sh", "a b", "x) R 9 9 (", ")"] {
            let expected = Stat {
                pid: 42,
                is_dead: false,
                is_stopped: false,
                parent: 1,
                group: 2,
                session: 3,
                terminal: 0x8803,
                started: 4711,
            };
            let read = Stat::read(42, &format!("42 ({name}) S {rest}"));
            assert_eq!(read, Some(expected), "{name}");
        }
        let is_dead = |rest: &str| Stat::read(42, &format!("42 (sh) Z {rest}")).unwrap().is_dead;
        assert!(!is_dead(rest), "its other thread is alive");
        assert!(is_dead(&rest.replace(" 16 2 18 ", " 16 1 18 ")));
        for cut in ["42 (sh) S 1 2", "42 (sh)", "42 (sh", ""] {
            assert_eq!(Stat::read(42, cut), None, "{cut}");
        }
    }

    #[test]
    fn this_process_is_there_and_one_of_another_start_is_not() {
        let me = Process::look(std::process::id(), false).unwrap();
        assert_eq!(me.is_there(), Some(true));
        let another = Process { started: me.started + 1, ..me };
        assert_eq!(another.is_there(), Some(false));
        assert!(Stat::all().iter().any(|one| one.pid == me.pid && one.started == me.started));
    }
}
