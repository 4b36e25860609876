//! A command that is no child of this process: what it became was there before (`run --exec`). Its
//! end is that of its process, and of the group if it leads one, and so is what it started as far
//! as that can be known of somebody else's children.
//!
//! `/proc` may hide the command (`ProtectProc=`, `hidepid`), and then its group and its children,
//! or not be readable for want of files to open. The process and its group are signalled, and their
//! end is known, without it; what they started elsewhere is found by it alone.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpgid, kill_process_group, pidfd_open, pidfd_send_signal,
    test_kill_process_group,
};
use rustix::time::Timespec;
use stormlock_protocol::process::{Process, Stat};

use super::group::{Named, named, named_signal};
use super::take::pause;
use crate::clock::Moment;

/// How long what is being killed is waited for between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long processes are tried to be killed that do not die: in the hands of a disk, or another
/// user's.
const KILL_MAX: Duration = Duration::from_secs(10);
/// How often it is looked at: by whom it leads, and whether somebody has waited for it.
const GROUP_EVERY: Duration = Duration::from_millis(250);
const DEAD_EVERY: Duration = Duration::from_millis(10);
/// How long whoever started it may take to wait for it. To the agent it is there until then.
const REAPED_WITHIN: Duration = Duration::from_secs(2);
/// How often in a row nothing must be found: one that starts while the list is read can be missed.
const LOOKS: u32 = 2;
/// The first process of every host and container.
const FIRST: u32 = 1;

/// What can be seen of other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    All,
    /// What the kernel would let this user trace.
    Own,
    Nothing,
}

/// Such a command.
#[derive(Debug)]
pub(super) struct Outside {
    process: Process,
    number: Pid,
    pidfd: OwnedFd,
    leads_session: bool,
    /// Somebody else's is in its group, as what stands behind a `|` in a shell.
    shares_group: bool,
    /// What belonged to its group, its session or its children before it was let go, but itself.
    others: BTreeSet<Named>,
    /// What was found of it: an orphan has nothing that says so.
    known: BTreeSet<Named>,
    /// Since when nothing of its group is alive.
    dead_since: Option<Moment>,
    /// It is not let go yet, and nothing is done to it.
    pub(super) is_spared: bool,
}

impl Outside {
    /// This very process; its group, if it leads that.
    pub(super) fn open(pid: u32, started: u64) -> io::Result<Outside> {
        let gone = || io::Error::other("the process that is to become the command is gone");
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty())?;
        let stat = Stat::of(pid)?;
        if stat.started != started {
            return Err(gone());
        }
        let process = Process { pid, started, group: stat.group == pid };
        let known = BTreeSet::from([(pid, started)]);
        let leads_session = stat.session == pid;
        let mut outside = Outside {
            process,
            number,
            pidfd,
            leads_session,
            shares_group: false,
            others: BTreeSet::new(),
            known: known.clone(),
            dead_since: None,
            is_spared: true,
        };
        let before = outside.find();
        let others = before.iter().filter(|one| named(one) != (pid, started));
        outside.shares_group = others.clone().any(|one| one.group == pid);
        outside.others = others.map(named).collect();
        outside.known = known;
        Ok(outside)
    }

    /// Whose end ends the leases.
    pub(super) fn process(&self) -> Process {
        self.process
    }

    /// Readable when it has ended.
    pub(super) fn file(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// True when the process itself has ended, whoever waits for it.
    pub(super) fn has_ended(&self) -> bool {
        let mut file = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut file, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// True when nothing is left of its group either. The dead are in it until somebody waits for
    /// them, which is about to happen, or never does.
    pub(super) fn is_gone(&mut self) -> bool {
        // In this order: until it is waited for its group is not empty.
        let is_there = self.process.is_there();
        if !self.has_ended() || self.has_group(&Stat::all()) {
            self.dead_since = None;
            return false;
        }
        let dead_since = *self.dead_since.get_or_insert_with(Moment::now);
        is_there != Some(true) || dead_since + REAPED_WITHIN < Moment::now()
    }

    /// When to look again whether it is gone, if it has ended.
    pub(super) fn look_every(&self) -> Option<Duration> {
        let is_dead = self.dead_since.is_some();
        self.has_ended().then_some(if is_dead { DEAD_EVERY } else { GROUP_EVERY })
    }

    /// True while something of the group that it leads is alive, or may be: what is in it and not
    /// shown. The kernel knows of the dead, too; they are shown.
    fn has_group(&self, all: &[Stat]) -> bool {
        if !self.process.group
            || !self.keeps_number()
            || test_kill_process_group(self.number) == Err(Errno::SRCH)
        {
            return false;
        }
        let mut shown = all.iter().filter(|one| one.group == self.process.pid).peekable();
        shown.peek().is_none() || shown.any(|one| !one.is_dead)
    }

    /// Sends it a signal, and its group if that is its own, whatever is shown of them.
    pub(super) fn signal(&self, signal: Signal) {
        if self.is_spared {
            return;
        }
        let by_group = self.process.group && !self.shares_group && self.keeps_number();
        if by_group {
            // What may not be told is another user's by now, and named when it is left.
            let _ = kill_process_group(self.number, signal);
        }
        // Once: it may count them. One that leads a group may go into another.
        if !by_group || getpgid(Some(self.number)) != Ok(self.number) {
            let _ = pidfd_send_signal(&self.pidfd, signal);
        }
    }

    /// The same with all that it started.
    pub(super) fn signal_all(&mut self, signal: Signal) {
        if self.is_spared {
            return;
        }
        self.signal(signal);
        let own = (self.process.pid, self.process.started);
        let found = self.find();
        let is_told = |one: &Stat| {
            let in_group = self.process.group && one.group == self.process.pid;
            named(one) == own || (in_group && !self.shares_group)
        };
        found.iter().filter(|one| !is_told(one)).for_each(|one| named_signal(named(one), signal));
    }

    /// True when nothing is left of it, nor of all that was found.
    pub(super) fn is_alone(&mut self) -> bool {
        self.find().is_empty() && !self.is_left()
    }

    /// What `/proc` shows here.
    pub(super) fn sight() -> Sight {
        let all = Stat::all();
        let sees = |pid| all.iter().any(|one| one.pid == pid);
        match (sees(std::process::id()), sees(FIRST)) {
            (false, _) => Sight::Nothing,
            (true, false) => Sight::Own,
            (true, true) => Sight::All,
        }
    }

    /// True while it goes on, or something of a group that is its own.
    fn is_left(&self) -> bool {
        !self.has_ended() || (!self.shares_group && self.has_group(&Stat::all()))
    }

    /// Kills all of it. What cannot be killed is named.
    pub(super) fn kill(&mut self) -> Vec<String> {
        if self.is_spared {
            return Vec::new();
        }
        let (began, mut empty) = (Moment::now(), 0);
        loop {
            self.signal(Signal::STOP);
            let found = self.stop_all(began);
            self.signal(Signal::KILL);
            found.iter().for_each(|one| named_signal(named(one), Signal::KILL));
            let is_over = found.is_empty() && !self.is_left();
            empty = if is_over { empty + 1 } else { 0 };
            if empty >= LOOKS {
                return Vec::new();
            }
            if began.until(Moment::now()) > KILL_MAX {
                return self.left(&found);
            }
            pause(LOOK_EVERY);
        }
    }

    /// What stands still starts nothing, and its children are still known as such.
    fn stop_all(&mut self, began: Moment) -> Vec<Stat> {
        let mut stopped = BTreeSet::new();
        loop {
            let found = self.find();
            let fresh = found.iter().map(named).filter(|one| !stopped.contains(one));
            let fresh: Vec<Named> = fresh.collect();
            if fresh.is_empty() || began.until(Moment::now()) > KILL_MAX {
                return found;
            }
            fresh.iter().for_each(|one| named_signal(*one, Signal::STOP));
            stopped.extend(fresh);
        }
    }

    fn left(&self, found: &[Stat]) -> Vec<String> {
        let mut left: BTreeSet<u32> = found.iter().map(|one| one.pid).collect();
        if !self.has_ended() {
            left.insert(self.process.pid);
        }
        if left.is_empty() && self.is_left() {
            return vec![format!("the group {}", self.process.pid)];
        }
        left.iter().map(ToString::to_string).collect()
    }

    /// The kernel gives a number to nobody else while a group or session has it.
    fn keeps_number(&self) -> bool {
        self.process.is_there() != Some(false)
    }

    /// Everything alive of it: itself, its group, its session, and what all of those started.
    fn find(&mut self) -> Vec<Stat> {
        let all = Stat::all();
        let number = self.process.pid;
        let keeps_number = self.keeps_number();
        // It may be hidden when they are not.
        let has_children = !self.has_ended();
        let is_own = |one: &Stat| {
            let in_group = self.process.group && one.group == number;
            let in_session = self.leads_session && one.session == number;
            let is_child = has_children && one.parent == number;
            keeps_number && (in_group || in_session || is_child)
        };
        let mut found: BTreeSet<Named> = BTreeSet::new();
        loop {
            let is_new = |one: &&Stat| {
                let name = named(one);
                let is_child = found.iter().any(|(pid, _)| *pid == one.parent);
                !found.contains(&name)
                    && !self.others.contains(&name)
                    && (is_own(one) || self.known.contains(&name) || is_child)
            };
            let new: Vec<Named> = all.iter().filter(is_new).map(named).collect();
            if new.is_empty() {
                break;
            }
            found.extend(new);
        }
        self.known.extend(&found);
        all.into_iter().filter(|one| !one.is_dead && found.contains(&named(one))).collect()
    }
}
