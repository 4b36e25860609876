//! The process of one run: how it is started, and that nothing of it is left.
//!
//! It has a process group of its own, a clean environment, `/` as its directory and the three
//! pipes; everything else that the agent has open closes at its start. The group is killed when
//! the run ends, whoever ended it. If the agent itself is killed, the program reads the end of its
//! input; what it still does then, the protocol makes harmless.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;

use super::Options;
use super::trouble::Trouble;
use crate::fd;
use crate::others::changed_by;

/// A running program and what it may have started.
pub(super) struct Life {
    child: Child,
    group: Option<Pid>,
    /// Readable once the program ended, which takes nothing away: its number stays taken until
    /// the group is killed.
    end: Option<AsyncFd<OwnedFd>>,
}

/// Starts of programs at once, of all stores: those that hang hold no more threads than these.
const STARTS_MAX: usize = 8;

/// The ends of its pipes.
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

impl Life {
    /// Starts it, on another thread: it may be on a file system that hangs, and leases of other
    /// stores are renewed on this one.
    pub(super) async fn start(options: &Options) -> Result<(Life, Pipes), Trouble> {
        static STARTS: Semaphore = Semaphore::const_new(STARTS_MAX);
        let Ok(permit) = STARTS.try_acquire() else {
            return Err(Trouble::unreachable("earlier starts of programs hang"));
        };
        let options = options.clone();
        let started = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            Life::start_here(&options)
        });
        started.await.unwrap_or_else(|error| Err(Trouble::unreachable(error.to_string())))
    }

    fn start_here(options: &Options) -> Result<(Life, Pipes), Trouble> {
        let Some((path, arguments)) = options.command.split_first() else {
            return Err(Trouble::unreachable("there is no program to start"));
        };
        let cannot = |error: io::Error| Trouble::unreachable(error.to_string());
        let found = std::fs::metadata(path).map_err(cannot)?;
        // Then somebody else could be the program.
        if let Some(why) = changed_by(Path::new(path), &found).map_err(cannot)? {
            return Err(Trouble::unreachable(why));
        }
        let mut command = Command::new(path);
        command.args(arguments).env_clear().envs(&options.env).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).kill_on_drop(true).spawn().map_err(cannot)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        // Without it (an old kernel) the end of its output is the end of it.
        let end = group.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let end = end.and_then(|end| fd::watch(end).ok());
        let life = Life { child, group, end };
        match pipes {
            (Some(stdin), Some(stdout), Some(stderr)) => {
                Ok((life, Pipes { stdin, stdout, stderr }))
            }
            _ => Err(Trouble::unreachable("it has no pipes")),
        }
    }

    /// Returns once it ended by itself.
    pub(super) async fn ends(&self) {
        match &self.end {
            Some(end) => drop(end.readable().await),
            None => std::future::pending().await,
        }
    }

    /// Kills what is left of it, and says how it ended if that was by itself.
    pub(super) async fn finish(&mut self) -> Option<ExitStatus> {
        self.kill();
        let status = self.child.wait().await.ok()?;
        (status.signal() != Some(Signal::KILL.as_raw())).then_some(status)
    }

    /// Its number is its own for as long as nobody waited for its end, so this hits nobody else.
    fn kill(&self) {
        if let Some(group) = self.group.filter(|_| self.child.id().is_some()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.kill();
    }
}
