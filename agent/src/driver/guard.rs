//! The processes whose end ends a lease.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process, test_kill_process_group};
use stormlock_protocol::name::Ttl;
use stormlock_protocol::process::{Process, Stat};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use crate::clock;
use crate::fd;
use crate::lease::{Moment, No, ProcessId, State, View};

/// How often a group that lost its leader is looked at: the kernel tells of no group's end.
const GROUP_EVERY: Duration = Duration::from_millis(250);
/// The part of the files that this process may have open that may be of watched processes, which
/// are as many as users like: one in so many. Further ones are looked at every so often.
const FILES_PART: usize = 4;
/// Once in so many looks it is read in `/proc` whether any of the group is still alive: to the
/// kernel the dead are in it until somebody waits for them, which the first process of a container
/// may never do.
const DEAD_EVERY: u32 = 20;
/// Which of so many it is: not long after the watch began, for of some groups it is only known then
/// whose they are, but later than any look that is older than the watch could be ([`LOOK_FRESH`]).
const DEAD_FIRST: u32 = 5;
/// A look is good for so long, for whoever else asks: less than there is between two of one group.
const LOOK_FRESH: Duration = Duration::from_secs(1);
/// So many times in a row, for one that starts while the list is read can be missed in it.
const DEAD_LOOKS: u32 = 2;

/// Those that are watched.
#[derive(Debug)]
pub(super) struct Guards {
    watched: BTreeSet<ProcessId>,
    ends: JoinSet<ProcessId>,
    files: Arc<Semaphore>,
}

impl Default for Guards {
    fn default() -> Guards {
        let files = (fd::most() / FILES_PART).min(Semaphore::MAX_PERMITS);
        Guards {
            watched: BTreeSet::new(),
            ends: JoinSet::new(),
            files: Arc::new(Semaphore::new(files)),
        }
    }
}

impl Guards {
    pub(super) fn watch(&mut self, process: ProcessId) {
        if self.watched.insert(process) {
            let files = Arc::clone(&self.files);
            self.ends.spawn(async move {
                end(process, &files).await;
                process
            });
        }
    }

    /// The next one that ended; never returns while there is none.
    pub(super) async fn ended(&mut self) -> ProcessId {
        loop {
            match self.ends.join_next().await {
                Some(Ok(process)) => {
                    self.watched.remove(&process);
                    return process;
                }
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

async fn end(process: ProcessId, files: &Semaphore) {
    let Some(pid) = number(process.pid) else { return };
    let session = session_of(process);
    let file = files.try_acquire().ok();
    match file.as_ref().map(|_| open(process, pid)) {
        Some(Ok(Some(opened))) => drop(opened.readable().await),
        Some(Ok(None)) => {}
        // No end may be concluded from a want of files.
        Some(Err(_)) | None => {
            while is_alive(process) {
                clock::rest(GROUP_EVERY).await;
            }
        }
    }
    drop(file);
    if process.group {
        group_ends(process, pid, session).await;
    }
}

/// Waits until nobody is left in a group whose leader has ended.
async fn group_ends(process: ProcessId, pid: Pid, mut session: Option<u32>) {
    let (mut looks, mut dead) = (0_u32, 0);
    while is_group(pid) && !is_used_again(process) {
        looks = looks.wrapping_add(1);
        if looks % DEAD_EVERY == DEAD_FIRST {
            let now = group(process.pid).await;
            if now.is_some_and(|now| is_anothers(now, &mut session)) {
                return;
            }
            dead = if now.is_some_and(|now| !now.is_alive) { dead + 1 } else { 0 };
            if dead == DEAD_LOOKS {
                return;
            }
        }
        clock::rest(GROUP_EVERY).await;
    }
}

/// The session of a process that is there, and of all that will ever be in its group. Where numbers
/// are few or processes many, that of a group can be another's between two looks, and without a
/// leader to tell by; another user's group is in another session.
fn session_of(process: ProcessId) -> Option<u32> {
    let now = Stat::of(process.pid).ok()?;
    (now.started == process.started).then_some(now.session)
}

/// True for a group of another session than that of the process that is watched. Of one whose
/// leader ended while no agent was there, the first that is seen counts from then on.
fn is_anothers(now: Group, session: &mut Option<u32>) -> bool {
    let known = session.get_or_insert_with(|| {
        tracing::debug!(session = now.session, "a group without its leader is known from now on");
        now.session
    });
    *known != now.session
}

/// True while a process is there and has not ended.
fn is_alive(process: ProcessId) -> bool {
    match Stat::of(process.pid) {
        Ok(now) => now.started == process.started && !now.is_dead,
        Err(_) => is_there(process),
    }
}

/// How a group is now, unless `/proc` may hide it.
async fn group(leader: u32) -> Option<Group> {
    groups().await?.get(&leader).copied()
}

/// A group of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    /// Somebody in it has not ended. (The kernel counts the dead until somebody waits for them.)
    is_alive: bool,
    /// The session that all of it are in.
    session: u32,
}

type Groups = BTreeMap<u32, Group>;

/// All groups, as they were not long ago: one look for all who ask, for a user may have as many as
/// they like. `None` where `/proc` may hide some.
async fn groups() -> Option<Arc<Groups>> {
    static SEEN: Mutex<Option<(Moment, Option<Arc<Groups>>)>> = Mutex::const_new(None);
    let mut seen = SEEN.lock().await;
    if let Some((at, groups)) = &*seen
        && clock::now() < *at + LOOK_FRESH
    {
        return groups.clone();
    }
    let groups = tokio::task::spawn_blocking(look_at_groups).await.ok().flatten().map(Arc::new);
    *seen = Some((clock::now(), groups.clone()));
    groups
}

fn look_at_groups() -> Option<Groups> {
    // Whoever may not look at the first process may not look at others.
    Stat::of(1).ok()?;
    let mut groups = Groups::new();
    for one in Stat::all() {
        let fresh = Group { is_alive: false, session: one.session };
        groups.entry(one.group).or_insert(fresh).is_alive |= !one.is_dead;
    }
    // Nor when files ran out meanwhile.
    Stat::of(1).is_ok().then_some(groups)
}

/// The very process; `None` when it is gone, whoever has its number now.
fn open(process: ProcessId, pid: Pid) -> io::Result<Option<AsyncFd<OwnedFd>>> {
    let opened = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(opened) => opened,
        Err(Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    // Looked at after it was opened: while it is open, the number stays its own.
    if !is_there(process) {
        return Ok(None);
    }
    fd::watch(opened).map(Some)
}

/// True while a process is there. One that `/proc` hides from this agent is there while its number
/// is somebody's: a later one of that number may be taken for it then, which keeps a lease for
/// longer and ends none too early.
pub fn is_there(process: ProcessId) -> bool {
    let ProcessId { pid, started, group } = process;
    let exists = |pid| test_kill_process(pid) != Err(Errno::SRCH);
    let is_there = Process { pid, started, group }.is_there();
    is_there.unwrap_or_else(|| number(pid).is_some_and(exists))
}

/// The group of a command of `run` that goes on under a lease, if one does. Given back under it the
/// lease could be another's before that has ended: its own end gives it back. (What `--bind` names
/// is no group.)
pub fn at_work(view: &View) -> Option<u32> {
    let is_open = matches!(view.state, State::Held | State::AtRisk | State::Unknown);
    let mut all = view.attach.process().into_iter().chain(view.sharers.iter().copied());
    all.find(|process| is_open && process.group && goes_on(*process)).map(|process| process.pid)
}

/// Why a lease may not have this ttl, if so: a command goes on that was let go under a longer one,
/// and how long it may take to end follows from that.
pub(super) fn too_short(view: &View, ttl: Ttl) -> Option<No> {
    let least = view.command_ttl.filter(|least| ttl < *least)?;
    let group = at_work(view)?;
    Some(No::TooShort(view.claim.resource.clone(), group, least))
}

/// True while any of what ends with a process is there.
fn goes_on(process: ProcessId) -> bool {
    let is_group = || process.group && number(process.pid).is_some_and(is_group);
    is_there(process) || !is_used_again(process) && is_group()
}

/// True when another process has the number: the kernel gives it to nobody while a group has it.
fn is_used_again(process: ProcessId) -> bool {
    let ProcessId { pid, started, group } = process;
    Process { pid, started, group }.is_there() == Some(false)
}

fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// True while a process is in the group; that it belongs to somebody else is no reason to say no.
fn is_group(leader: Pid) -> bool {
    test_kill_process_group(leader) != Err(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use tokio::time::timeout;

    use super::*;

    /// Far more than the looks that it takes; only a test that fails waits for it.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_group_whose_dead_nobody_waits_for_has_ended() {
        // This process is the one that does not wait for it.
        let mut dead = Command::new("true").process_group(0).spawn().unwrap();
        let started = Process::look(dead.id(), true).unwrap().started;
        let process = ProcessId { pid: dead.id(), started, group: true };
        let files = Semaphore::new(1);
        timeout(PATIENCE, end(process, &files)).await.expect("it has ended");
        assert!(is_group(number(dead.id()).unwrap()), "the kernel counts the dead");
        let another = ProcessId { started: started + 1, ..process };
        assert!(!goes_on(another), "the number is used again, so that group is gone");
        timeout(PATIENCE, end(another, &files)).await.expect("it has ended");
        dead.wait().unwrap();
        assert!(!goes_on(process));
    }

    #[tokio::test]
    async fn a_group_goes_on_while_one_of_it_does() {
        let mut leader = Command::new("sh");
        leader.args(["-c", "sleep 1000 >/dev/null & echo $!"]).process_group(0);
        let leader = leader.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let started = Process::look(leader.id(), true).unwrap().started;
        let process = ProcessId { pid: leader.id(), started, group: true };
        let said = leader.wait_with_output().unwrap().stdout;
        let other: u32 = String::from_utf8(said).unwrap().trim().parse().unwrap();
        assert!(goes_on(process));
        assert!(group(process.pid).await.is_some_and(|group| group.is_alive));
        let leader = number(process.pid).unwrap();
        let ours = group(process.pid).await.map(|group| group.session);
        let early = timeout(GROUP_EVERY * (DEAD_EVERY + 4), group_ends(process, leader, ours));
        assert!(early.await.is_err(), "it goes on");
        let another = group_ends(process, leader, ours.map(|session| session + 1));
        timeout(PATIENCE, another).await.expect("the number is that of somebody else's group");
        let mut guards = Guards::default();
        guards.watch(process);
        rustix::process::kill_process(number(other).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
        let ended = timeout(PATIENCE, guards.ended()).await.expect("it has ended");
        assert_eq!(ended, process);
    }

    #[test]
    fn a_group_whose_leader_nobody_saw_is_that_of_its_first_session() {
        let group = |session| Group { is_alive: true, session };
        let mut unseen = None;
        assert!(!is_anothers(group(7), &mut unseen));
        assert!(!is_anothers(group(7), &mut unseen));
        assert!(is_anothers(group(8), &mut unseen), "the number was given away meanwhile");
        assert!(is_anothers(group(8), &mut Some(7)));
    }

    #[tokio::test]
    async fn a_process_that_no_file_is_left_to_watch_ends_when_it_does() {
        let none = Semaphore::new(0);
        let mut idle = Command::new("sleep").arg("1000").spawn().unwrap();
        let started = Process::look(idle.id(), false).unwrap().started;
        let process = ProcessId { pid: idle.id(), started, group: false };
        let early = timeout(GROUP_EVERY * 4, end(process, &none)).await;
        assert!(early.is_err(), "it goes on");
        idle.kill().unwrap();
        // Nobody has waited for it yet.
        timeout(PATIENCE, end(process, &none)).await.expect("it has ended");
        idle.wait().unwrap();
    }
}
