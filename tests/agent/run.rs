//! `stormctl run`, `hold` and `watch` with the real agent: the command never outlives its lease,
//! and nothing but the lease ends the command.

mod exec;
mod hold;
mod life;
mod plain;
mod proof;
mod stopped;
pub(crate) mod terminal;
mod within;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{Agent, program};
use crate::program::{Ran, ends_within};
use crate::{leases, until};

/// What takes longer than this never happens.
const GIVE_UP: Duration = Duration::from_secs(90);

/// A `stormctl` at work. Its output goes to files, so that nothing holds it up.
pub(crate) struct Job {
    child: Child,
    stdout: File,
    stderr: File,
}

impl Job {
    /// `stormctl ARGS`, without a stdin.
    pub(crate) fn start<S: AsRef<OsStr>>(agent: &Agent, args: &[S]) -> Job {
        Job::start_with(agent, args, |_| {})
    }

    /// The same with a change to its command.
    pub(crate) fn start_with<S: AsRef<OsStr>>(
        agent: &Agent,
        args: &[S],
        change: impl FnOnce(&mut Command),
    ) -> Job {
        Job::start_by(Command::new(program("stormctl")), agent, args, change)
    }

    /// The same by a command that becomes stormctl with these arguments.
    pub(crate) fn start_by<S: AsRef<OsStr>>(
        mut command: Command,
        agent: &Agent,
        args: &[S],
        change: impl FnOnce(&mut Command),
    ) -> Job {
        let file = || tempfile::tempfile().expect("a file for its output");
        let (stdout, stderr) = (file(), file());
        command.arg("--socket").arg(agent.socket()).args(args).stdin(Stdio::null());
        command.stdout(stdout.try_clone().expect("a second handle"));
        command.stderr(stderr.try_clone().expect("a second handle"));
        change(&mut command);
        Job { child: command.spawn().expect("stormctl can be started"), stdout, stderr }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own child");
    }

    /// Waits for the end of one that was killed.
    pub(crate) fn wait(&mut self) {
        self.child.wait().expect("our own child");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> String {
        text(&self.stdout) + &text(&self.stderr)
    }

    /// Waits for its end.
    pub(crate) fn ends(mut self) -> Ran {
        let ended = !self.is_running() || ends_within(&self.child, GIVE_UP);
        if !ended {
            self.child.kill().expect("our own child");
        }
        let status = self.child.wait().expect("our own child");
        let (stdout, stderr) = (text(&self.stdout), text(&self.stderr));
        assert!(ended, "it did not end within {GIVE_UP:?}:\n{stdout}{stderr}");
        Ran { code: status.code(), stdout, stderr }
    }
}

/// From the beginning, and without moving the place where the job goes on writing.
fn text(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().map_or(0, |of| of.len()).try_into().expect("it fits")];
    let length = file.read_at(&mut bytes, 0).expect("a file can be read");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// What is written to, and has no room. Its reader stays open until the test ends, and never reads.
pub(crate) fn full_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let before = rustix::fs::fcntl_getfl(&writer).expect("its flags");
    rustix::fs::fcntl_setfl(&writer, before | OFlags::NONBLOCK).expect("a flag");
    // The last of it byte by byte: a write that does not fit as a whole is not made.
    for piece in [&[b'.'; 4096][..], b"."] {
        while rustix::io::write(&writer, piece).is_ok() {}
    }
    rustix::fs::fcntl_setfl(&writer, before).expect("a flag");
    std::mem::forget(reader);
    writer.into()
}

/// Waits until the agent holds nothing for us.
pub(crate) fn all_is_free(agent: &Agent) {
    until("everything is given back", || {
        let client = agent.client().ok();
        client.and_then(|mut client| leases(&mut client).is_empty().then_some(()))
    });
}

/// Waits until a file holds this.
pub(crate) fn wait_for_file(agent: &Agent, name: &str, expected: &str) {
    until(&format!("{name} holds {expected:?}"), || {
        let text = std::fs::read_to_string(agent.file(name)).unwrap_or_default();
        text.contains(expected).then_some(())
    });
}
