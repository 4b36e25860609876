//! Programs that a test runs: their output whole, and never longer than they may take.

#![allow(dead_code, reason = "each test binary uses its own part of the support")]

use std::io::{Read, Seek};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    /// `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program to its end, without a stdin. One that takes longer than `limit` is killed, and
/// the test fails. The output goes to files, so that a child of the program's cannot hold us up.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Ran {
    let mut stdout = tempfile::tempfile().expect("a file for stdout");
    let mut stderr = tempfile::tempfile().expect("a file for stderr");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a second handle"))
        .stderr(stderr.try_clone().expect("a second handle"))
        .spawn()
        .unwrap_or_else(|e| panic!("starting {command:?}: {e}"));
    let ended = ends_within(&child, limit);
    if !ended {
        child.kill().expect("our own child can be killed");
    }
    let status = child.wait().expect("our own child can be waited for");
    let text = |file: &mut std::fs::File| {
        let mut bytes = Vec::new();
        file.rewind().expect("a file can be rewound");
        file.read_to_end(&mut bytes).expect("a file can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = (text(&mut stdout), text(&mut stderr));
    assert!(ended, "{command:?} took longer than {limit:?}; it said:\n{stdout}{stderr}");
    Ran { code: status.code(), stdout, stderr }
}

/// True as soon as the child has ended, false when it still runs after `limit`. The child is still
/// to be waited for.
pub(crate) fn ends_within(child: &Child, limit: Duration) -> bool {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("a pidfd");
    let limit = Timespec::try_from(limit).expect("a limit that the kernel can count");
    loop {
        let mut ends = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut ends, Some(&limit)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("waiting for a child: {e}"),
        }
    }
}
