//! The command's process group and whatever it started: signals to it, its end, and the killing of
//! all of it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::Duration;

use rustix::event::poll;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, pidfd_open,
    pidfd_send_signal, set_child_subreaper, test_kill_process_group, wait,
};

use stormlock_protocol::process::Stat;

use super::guardian;
use super::outside::{Outside, Sight};
use crate::clock::Moment;

/// How often a group is looked at whose leader has ended.
const GROUP_EVERY: Duration = Duration::from_millis(250);
/// How long what is being killed is waited for between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long processes are tried to be killed that do not die: in the hands of a disk, or another
/// user's.
const KILL_MAX: Duration = Duration::from_secs(10);
/// How often at most is looked whether others came before those that were found are killed.
const STOPS: u32 = 200;
/// So many looks are left to those who stop by themselves.
const STOPS_ITSELF: u32 = 20;
/// How often in a row nothing must be found: a process whose parent dies while the list is read can
/// be missed in it once.
const LOOKS: u32 = 2;

/// The command, its group, and its descendants.
#[derive(Debug)]
pub(crate) struct Group {
    leader: Pid,
    /// How the leader ended.
    ended: Option<WaitStatus>,
    is_gone: bool,
    /// Children that this process had before: they are not the command's.
    others: BTreeSet<Named>,
    /// It is no child of this process.
    outside: Option<Outside>,
}

/// A process, by its number and when it started.
pub(crate) type Named = (u32, u64);

impl Group {
    /// What others of ours there are, before the command is started: orphans of the command become
    /// ours from now on.
    pub(crate) fn prepare() -> io::Result<BTreeSet<Named>> {
        if ignores_children() {
            return Err(io::Error::other(
                "SIGCHLD is ignored here, so its end could not be seen (whoever started stormctl \
                 ignores it: `env --default-signal=CHLD stormctl run ...`)",
            ));
        }
        set_child_subreaper(Some(getpid()))?;
        Ok(descendants(&BTreeSet::new()).iter().map(named).collect())
    }

    pub(crate) fn new(leader: &Child, others: BTreeSet<Named>) -> Group {
        let leader = Pid::from_child(leader);
        Group { leader, ended: None, is_gone: false, others, outside: None }
    }

    /// Of a command that is no child of this process.
    pub(super) fn outside(leader: Pid, outside: Outside) -> Group {
        let others = BTreeSet::new();
        Group { leader, ended: None, is_gone: false, others, outside: Some(outside) }
    }

    /// True for a child, whose terminal and signals pass through this process.
    pub(super) fn is_child(&self) -> bool {
        self.outside.is_none()
    }

    /// Becomes readable at the end of one that is no child.
    pub(super) fn file(&self) -> Option<&OwnedFd> {
        self.outside.as_ref().filter(|outside| !outside.has_ended()).map(Outside::file)
    }

    /// It is let go: from now on it may be signalled.
    pub(super) fn is_let_go(&mut self) {
        if let Some(outside) = &mut self.outside {
            outside.is_spared = false;
        }
    }

    /// How often it is to be looked at, when the leader has ended.
    pub(super) fn look_every(&self) -> Option<Duration> {
        match &self.outside {
            Some(outside) => outside.look_every(),
            // Its others may be nobody's children here.
            None => self.ended.map(|_| GROUP_EVERY),
        }
    }

    pub(crate) fn leader(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.leader.as_raw_nonzero().get())
    }

    /// How the command ended.
    pub(crate) fn ended(&self) -> Option<WaitStatus> {
        self.ended
    }

    /// Takes note of all that ended; the signal that stopped the command, if one did.
    pub(crate) fn reap(&mut self) -> Option<i32> {
        let mut stopped = None;
        while self.is_child() {
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) if pid == self.leader => match status.stopping_signal() {
                    Some(signal) => stopped = Some(signal),
                    None => self.ended = Some(status),
                },
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.is_found_gone();
        stopped
    }

    /// Looks whether nothing of the group is left.
    pub(crate) fn is_found_gone(&mut self) -> bool {
        // The number of a group that has gone may become another's.
        if let Some(outside) = &mut self.outside {
            self.is_gone = self.is_gone || outside.is_gone();
        } else if self.ended.is_some() {
            self.is_gone |= test_kill_process_group(self.leader) == Err(Errno::SRCH);
        }
        self.is_gone
    }

    /// True when nothing of the group is left.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Sends the whole group a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.is_gone {
            return;
        }
        if let Some(outside) = &self.outside {
            outside.signal(signal);
        } else {
            // What may not be told is another user's by now; there is nobody to tell that.
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Sends the whole group and every descendant outside of it a signal.
    pub(crate) fn signal_all(&mut self, signal: Signal) {
        if let Some(outside) = &mut self.outside {
            return outside.signal_all(signal);
        }
        self.signal(signal);
        for one in descendants(&self.others) {
            if i32::try_from(one.group) != Ok(self.leader.as_raw_nonzero().get()) {
                named_signal(named(&one), signal);
            }
        }
    }

    /// Lets everything that it started stand still that does not do so yet, and says what that was.
    /// What stops by itself when it is asked to is given a moment for that: it may have to tidy up.
    pub(crate) fn freeze(&self) -> BTreeSet<Named> {
        let mut frozen = BTreeSet::new();
        let mut quiet = 0;
        for look in 0..STOPS {
            let mut running = descendants(&self.others);
            running.retain(|one| !one.is_stopped && !frozen.contains(&named(one)));
            quiet = if running.is_empty() { quiet + 1 } else { 0 };
            if quiet >= LOOKS {
                break;
            }
            if look < STOPS_ITSELF {
                pause(LOOK_EVERY);
                continue;
            }
            for one in &running {
                named_signal(named(one), Signal::STOP);
            }
            frozen.extend(running.iter().map(named));
        }
        frozen
    }

    /// Lets those go on that were made to stand still.
    pub(crate) fn thaw(&self, frozen: &BTreeSet<Named>) {
        for one in frozen {
            named_signal(*one, Signal::CONT);
        }
    }

    /// True when nothing is left of all that it started.
    pub(crate) fn is_alone(&mut self) -> bool {
        match &mut self.outside {
            Some(outside) => outside.is_alone(),
            None => descendants(&self.others).is_empty(),
        }
    }

    /// The descendants that the kernel tells of at once; those that went on when the group ended.
    pub(crate) fn that_go_on(&self) -> Vec<u32> {
        if !self.is_child() {
            return Vec::new();
        }
        let found = children_of_children(&self.others).into_iter().map(|(pid, _)| pid);
        // A guardian of a run within this one ends by itself.
        found.filter(|pid| !guardian::is_one(*pid)).collect()
    }

    /// How far what it started could be looked for.
    pub(super) fn sight(&self) -> Sight {
        if self.is_child() { Sight::All } else { Outside::sight() }
    }

    /// Kills the group and every descendant, wherever it went, until none is left. What cannot be
    /// killed is named.
    pub(crate) fn kill(&mut self) -> Vec<String> {
        if let Some(outside) = &mut self.outside {
            return outside.kill();
        }
        let began = Moment::now();
        let mut empty = 0;
        loop {
            self.signal(Signal::KILL);
            self.stop_all();
            // The list that the kernel keeps of children may miss one while others go; this does
            // not, but takes longer.
            let found = descendants(&self.others);
            for one in &found {
                named_signal(named(one), Signal::KILL);
            }
            self.reap();
            empty = if found.is_empty() { empty + 1 } else { 0 };
            if empty >= LOOKS {
                return Vec::new();
            }
            if began.until(Moment::now()) > KILL_MAX {
                return found.iter().map(|one| one.pid.to_string()).collect();
            }
            if !found.is_empty() {
                pause(LOOK_EVERY);
            }
        }
    }

    /// A process that stands still starts no other: all stand still before any is waited for. One
    /// that always is another process is caught only by whoever looks again at once.
    fn stop_all(&mut self) {
        let mut stopped = BTreeSet::new();
        for _ in 0..STOPS {
            let found = children_of_children(&self.others);
            let mut is_fresh = false;
            for one in found {
                // Named before it is signalled: a number that comes again is another process.
                if stopped.insert(one) {
                    is_fresh = true;
                    named_signal(one, Signal::STOP);
                }
            }
            if !is_fresh {
                break;
            }
        }
        for one in stopped {
            named_signal(one, Signal::KILL);
        }
        self.reap();
    }
}

/// How a command that ended is told as an exit code: its own, or 128 and its signal.
pub(crate) fn code(status: WaitStatus) -> u8 {
    const OF_SIGNALS: i32 = 128;
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => OF_SIGNALS + signal,
        (None, None) => OF_SIGNALS,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// True when the kernel was told to forget children that end; that is inherited.
fn ignores_children() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (Signal::CHILD.as_raw() - 1) & 1 == 1)
}

fn pause(length: Duration) {
    if let Ok(length) = length.try_into() {
        let _ = poll(&mut [], Some(&length));
    }
}

pub(super) fn named(of: &Stat) -> Named {
    (of.pid, of.started)
}

/// Signals this very process, whoever has its number now.
pub(super) fn named_signal((pid, started): Named, signal: Signal) {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(pidfd) = pidfd_open(number, PidfdFlags::empty()) else { return };
    if Stat::of(pid).is_ok_and(|now| now.started == started) {
        let _ = pidfd_send_signal(&pidfd, signal);
    }
}

/// What the kernel says at once of the children of this process, and theirs; nothing where it was
/// built without that.
fn children_of_children(others: &BTreeSet<Named>) -> Vec<Named> {
    let mut found = Vec::new();
    let mut parents = vec![std::process::id()];
    while let Some(parent) = parents.pop() {
        let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for thread in threads.flatten() {
            let Ok(text) = fs::read_to_string(thread.path().join("children")) else { continue };
            let pids = text.split_ascii_whitespace().filter_map(|word| word.parse().ok());
            let alive = pids.filter_map(|pid| Stat::of(pid).ok()).filter(|one| !one.is_dead);
            for one in alive.map(|one| named(&one)).filter(|one| !others.contains(one)) {
                parents.push(one.0);
                found.push(one);
            }
        }
    }
    found
}

/// Everything alive below this process but for `others` and what is below them.
fn descendants(others: &BTreeSet<Named>) -> Vec<Stat> {
    let mut rest = Stat::all();
    rest.retain(|one| !others.contains(&named(one)));
    let mut known = vec![std::process::id()];
    let mut found = Vec::new();
    while let Some(parent) = known.pop() {
        let (below, others): (Vec<Stat>, _) =
            rest.into_iter().partition(|one| one.parent == parent);
        rest = others;
        known.extend(below.iter().map(|one| one.pid));
        found.extend(below);
    }
    found.retain(|one| !one.is_dead);
    found
}
