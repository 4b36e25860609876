//! `--daemonize`, for hosts without systemd: whoever started it may use it when the command
//! returns, and hears why if it cannot be used.

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stormlock_protocol::client::Client;
use stormlock_protocol::message::{Acquire, Hold, Release};
use tempfile::TempDir;

use super::{CONFIG, OK, UNAVAILABLE, mode, run_it, says, stormlockd};
use crate::agent::program;
use crate::limits::{CROWD, as_user};
use crate::program::Ran;
use crate::{acquire, leases, local, resource, wish};

const PATIENCE: Duration = Duration::from_secs(60);
const ROUNDS: usize = 20;

/// A place without journal and syslog, so that the log goes where it goes on such a host.
const BARE: &str = "
    if [ -d /run/systemd ]; then mount -t tmpfs stormlock-test /run/systemd; fi
    if [ -e /dev/log ]; then mount --bind /dev/null /dev/log; fi
    if [ -n \"$0\" ]; then mount -t tmpfs -o size=1m,mode=0700 stormlock-test \"$0\"; fi
    exec \"$@\"";

/// Files of a daemon; the daemon itself ends with it, whatever became of the test.
struct Daemon {
    dir: TempDir,
    /// Its state directory is on a disk of 1 MB, which nobody else sees.
    is_small: bool,
    process: Option<OwnedFd>,
}

impl Daemon {
    fn new(config: &str) -> Daemon {
        let daemon =
            Daemon { dir: tempfile::tempdir().expect("a folder"), is_small: false, process: None };
        fs::write(daemon.file("stormlock.toml"), config).expect("a configuration");
        daemon
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, state: &str, socket: &str, pidfile: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-euc", BARE]);
        let small = if self.is_small { self.file(state) } else { PathBuf::new() };
        command.arg(small);
        command.arg(program("stormlockd")).arg("--daemonize");
        command.arg("--config").arg(self.file("stormlock.toml"));
        command.arg("--state").arg(self.file(state));
        command.arg("--socket").arg(self.file(socket));
        command.arg("--pidfile").arg(self.file(pidfile));
        command
    }

    /// Starts it; what the command that returned said.
    fn start(&mut self) -> Ran {
        let ran = run_it(&mut self.command("state", "socket", "pid"));
        self.process = self.find();
        ran
    }

    /// The process of the pidfile, if it is one of ours: numbers are used again.
    fn find(&self) -> Option<OwnedFd> {
        let pid = self.pid()?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let words = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        words.contains(self.dir.path().to_str()?).then_some(process)
    }

    fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.file("pid")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    fn client(&self) -> Client {
        Client::connect(&self.file("socket"), PATIENCE).expect("the socket answers")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("state/stormlockd.log")).unwrap_or_default()
    }

    fn end(&mut self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        pidfd_send_signal(process, signal).expect("it takes a signal");
        let limit = Timespec::try_from(PATIENCE).expect("a limit");
        let mut ends = [PollFd::new(process, PollFlags::IN)];
        assert_eq!(poll(&mut ends, Some(&limit)), Ok(1), "it does not end:\n{}", self.log());
        self.process = None;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Also one whose start the test did not live to see.
        if let Some(process) = self.process.take().or_else(|| self.find()) {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("what the daemon said:\n{}", self.log());
        }
    }
}

#[test]
fn the_command_returns_when_the_socket_answers_and_not_before() {
    let mut daemon = Daemon::new(&local());
    for round in 0..ROUNDS {
        let ran = daemon.start();
        let nothing = (Some(OK), String::new(), String::new());
        assert_eq!((ran.code, ran.stdout, ran.stderr), nothing, "round {round}");
        daemon.client().status(None).expect("an answer");
        daemon.end(Signal::TERM);
        assert!(!daemon.file("socket").exists() && !daemon.file("pid").exists(), "left behind");
    }
}

#[test]
fn a_daemon_belongs_to_nobody_and_logs_beside_its_journal_where_there_is_nothing_better() {
    let mut daemon = Daemon::new(&local());
    assert_eq!(daemon.start().code, Some(OK));
    let pid = daemon.pid().expect("a number in the pidfile");
    let proc = |name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
    let status = fs::read_to_string(proc("status")).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    assert_ne!(parent.trim(), std::process::id().to_string());
    let session = |who: &str| {
        // Field 6; the first after the name is field 3. It is 0 for one outside of this namespace.
        let stat = fs::read_to_string(format!("/proc/{who}/stat")).expect("it runs");
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        fields.split_ascii_whitespace().nth(6 - 3).expect("a session").to_owned()
    };
    let its = session(&pid.as_raw_nonzero().to_string());
    assert_ne!(its, session("self"), "it can still get the terminal's signals");
    for fd in 0..3 {
        let target = fs::read_link(proc(&format!("fd/{fd}"))).expect("it is open");
        assert_eq!(target, PathBuf::from("/dev/null"), "descriptor {fd}");
    }
    assert_eq!(fs::read_link(proc("cwd")).expect("a folder"), PathBuf::from("/"));
    assert_eq!(daemon.client().status(None).expect("an answer").agent.pid, pid_number(pid));
    assert!(daemon.log().contains("ready"), "{}", daemon.log());
    assert_eq!(mode(&daemon.file("state/stormlockd.log")), 0o600);
    assert_eq!(mode(&daemon.file("state")), 0o700);
    daemon.end(Signal::TERM);
    assert!(daemon.log().contains("stopping; leases stay"), "{}", daemon.log());
    let help = run_it(&mut stormlockd(&["--help"])).stdout;
    assert!(help.contains("stormlockd.log"), "nobody is told where it is: {help}");
}

/// What users do is logged as often as they do it.
#[test]
fn a_log_beside_the_journal_leaves_the_rest_of_a_small_disk_to_that() {
    let everybody = "[[rule]]\nwho = [\"everyone\"]\nmay = [\"acquire\"]\n";
    let mut daemon = Daemon::new(&format!("{}{everybody}", local()));
    daemon.is_small = true;
    fs::create_dir(daemon.file("state")).expect("a folder");
    assert_eq!(daemon.start().code, Some(OK));
    for (file, mode) in [("", 0o711), ("socket", 0o666)] {
        let open = Permissions::from_mode(mode);
        fs::set_permissions(daemon.file(file), open).expect("our own files");
    }
    let name = |number| resource(&format!("{number}/{}", "x".repeat(100)));
    let many = Acquire { resources: (0..32).map(name).collect(), ..wish("x", Hold::Keep) };
    for round in 0..200 {
        // One user who did all of it would be slowed down.
        let mut client = as_user(CROWD + round / 20, || daemon.client());
        if let Err(no) = client.acquire(many.clone()) {
            panic!("round {round}: {no}");
        }
        client.release(Release::All).expect("they are given back");
    }
}

fn pid_number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

#[test]
fn a_daemon_that_cannot_start_says_why_before_the_command_returns() {
    let mut daemon = Daemon::new("host = \"alpha\"\ndefault_tll = \"1m\"\n");
    says(&daemon.start(), CONFIG, &["stormlock.toml:2:", "default_tll"]);
    // Found after the fork: the socket is another file.
    fs::write(daemon.file("stormlock.toml"), local()).expect("a configuration");
    fs::write(daemon.file("socket"), "precious").expect("a file");
    says(&daemon.start(), UNAVAILABLE, &["will not listen on", "it is no socket"]);
    assert_eq!(fs::read_to_string(daemon.file("socket")).expect("it is there"), "precious");
    assert!(!daemon.file("pid").exists(), "a pidfile of nobody");
    fs::remove_file(daemon.file("socket")).expect("it is there");
    assert_eq!(daemon.start().code, Some(OK));
    daemon.end(Signal::TERM);
}

#[test]
fn a_second_daemon_is_refused_and_the_first_is_undisturbed() {
    let mut daemon = Daemon::new(&local());
    assert_eq!(daemon.start().code, Some(OK));
    let pid = daemon.pid();
    let held = acquire(&mut daemon.client(), wish("prod/db", Hold::Keep));
    for (state, socket, pidfile, word) in [
        ("other-state", "other-socket", "pid", "pidfile"),
        ("state", "other-socket", "other-pid", "state"),
        ("other-state", "socket", "other-pid", "another agent listens on"),
    ] {
        let refused = run_it(&mut daemon.command(state, socket, pidfile));
        says(&refused, UNAVAILABLE, &[word]);
        assert_eq!(daemon.pid(), pid, "the pidfile is the first one's");
        assert_eq!(leases(&mut daemon.client())[0].lease, held.lease);
        assert!(!daemon.file("other-socket").exists() && !daemon.file("other-pid").exists());
    }
    daemon.end(Signal::TERM);
}

#[test]
fn a_daemon_after_a_crash_takes_socket_pidfile_and_leases_over() {
    let mut daemon = Daemon::new(&local());
    assert_eq!(daemon.start().code, Some(OK));
    let held = acquire(&mut daemon.client(), wish("prod/db", Hold::Keep));
    daemon.end(Signal::KILL);
    assert!(daemon.file("socket").exists() && daemon.file("pid").exists(), "nothing is tidied");
    assert_eq!(daemon.start().code, Some(OK));
    let after = leases(&mut daemon.client());
    assert_eq!((after[0].lease, after[0].fence), (held.lease, held.fence));
    daemon.end(Signal::TERM);
}
