//! A command that is no child of this process: what it became was there before (`run --exec`). Its
//! end is that of its process, and of the group if it leads one, and so is what it started as far
//! as that can be known of somebody else's children.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
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

/// Such a command.
#[derive(Debug)]
pub(super) struct Outside {
    process: Process,
    pidfd: OwnedFd,
    leads_session: bool,
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
        let others = BTreeSet::new();
        let (dead_since, is_spared) = (None, true);
        let mut outside =
            Outside { process, pidfd, leads_session, others, known, dead_since, is_spared };
        outside.others = outside.find().iter().map(named).collect();
        outside.others.remove(&(pid, started));
        outside.known = BTreeSet::from([(pid, started)]);
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
        if !self.has_ended() || self.has_group() {
            self.dead_since = None;
            return false;
        }
        let dead_since = *self.dead_since.get_or_insert_with(Moment::now);
        self.process.is_there() != Some(true) || dead_since + REAPED_WITHIN < Moment::now()
    }

    /// When to look again whether it is gone, if it has ended.
    pub(super) fn look_every(&self) -> Option<Duration> {
        let is_dead = self.dead_since.is_some();
        self.has_ended().then_some(if is_dead { DEAD_EVERY } else { GROUP_EVERY })
    }

    fn has_group(&self) -> bool {
        self.process.group && Stat::all().iter().any(|one| self.leads(one))
    }

    /// Sends it, and its group if it leads one, a signal.
    pub(super) fn signal(&self, signal: Signal) {
        if self.is_spared {
            return;
        }
        let _ = pidfd_send_signal(&self.pidfd, signal);
        let own = (self.process.pid, self.process.started);
        let group = Stat::all().into_iter().filter(|one| self.leads(one) && named(one) != own);
        group.for_each(|one| named_signal(named(&one), signal));
    }

    /// The same with all that it started.
    pub(super) fn signal_all(&mut self, signal: Signal) {
        if !self.is_spared {
            self.find().iter().for_each(|one| named_signal(named(one), signal));
        }
    }

    /// True when nothing is left of all that was found.
    pub(super) fn is_alone(&mut self) -> bool {
        self.find().is_empty()
    }

    /// Kills all of it. Those that cannot be killed are given back.
    pub(super) fn kill(&mut self) -> Vec<u32> {
        if self.is_spared {
            return Vec::new();
        }
        let (began, mut empty) = (Moment::now(), 0);
        loop {
            // What stands still starts nothing, and its children are still known as such.
            let mut stopped = BTreeSet::new();
            let found = loop {
                let found = self.find();
                let fresh = found.iter().map(named).filter(|one| !stopped.contains(one));
                let fresh: Vec<Named> = fresh.collect();
                if fresh.is_empty() {
                    break found;
                }
                fresh.iter().for_each(|one| named_signal(*one, Signal::STOP));
                stopped.extend(fresh);
                if began.until(Moment::now()) > KILL_MAX {
                    break found;
                }
            };
            found.iter().for_each(|one| named_signal(named(one), Signal::KILL));
            empty = if found.is_empty() { empty + 1 } else { 0 };
            if empty >= LOOKS {
                return Vec::new();
            }
            if began.until(Moment::now()) > KILL_MAX {
                return found.iter().map(|one| one.pid).collect();
            }
            pause(LOOK_EVERY);
        }
    }

    /// True for one of the group that it leads, by the number that nobody else has meanwhile.
    fn leads(&self, one: &Stat) -> bool {
        self.process.group && !one.is_dead && one.group == self.process.pid && self.keeps_number()
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
        let is_own = |one: &Stat| {
            let in_group = self.process.group && one.group == number;
            let in_session = self.leads_session && one.session == number;
            keeps_number && (in_group || in_session)
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
