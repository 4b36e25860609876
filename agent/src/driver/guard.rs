//! The processes whose end ends a lease.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process, test_kill_process_group};
use stormlock_protocol::message::Process;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use crate::lease::ProcessId;
use crate::{clock, fd};

/// How often a group that lost its leader is looked at: the kernel tells of no group's end.
const GROUP_EVERY: Duration = Duration::from_millis(250);

/// Those that are watched.
#[derive(Debug, Default)]
pub(super) struct Guards {
    watched: BTreeSet<ProcessId>,
    ends: JoinSet<ProcessId>,
}

impl Guards {
    pub(super) fn watch(&mut self, process: ProcessId) {
        if self.watched.insert(process) {
            self.ends.spawn(async move {
                end(process).await;
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

async fn end(process: ProcessId) {
    let Some(pid) = number(process.pid) else { return };
    if let Some(opened) = open(process, pid) {
        let _ = opened.readable().await;
    }
    while process.group && is_group(pid) {
        if clock::pause(GROUP_EVERY).await.is_err() {
            return;
        }
    }
}

/// The very process; `None` when it is gone, whoever has its number now.
fn open(process: ProcessId, pid: Pid) -> Option<AsyncFd<OwnedFd>> {
    let opened = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let ProcessId { pid, started, group } = process;
    // Looked at after it was opened: while it is open, the number stays its own.
    if !is_there(&Process { pid, started, group }) {
        return None;
    }
    fd::watch(opened).ok()
}

/// True while a process is there. One that `/proc` hides from this agent is there while its number
/// is somebody's: a later one of that number may be taken for it then, which keeps a lease for
/// longer and ends none too early.
pub fn is_there(process: &Process) -> bool {
    let exists = |pid| test_kill_process(pid) != Err(Errno::SRCH);
    process.is_there().unwrap_or_else(|| number(process.pid).is_some_and(exists))
}

fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// True while a process is in the group; that it belongs to somebody else is no reason to say no.
fn is_group(leader: Pid) -> bool {
    test_kill_process_group(leader) != Err(Errno::SRCH)
}
