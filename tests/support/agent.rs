//! A real `stormlockd` on a folder of its own, and the client beside it.

#![allow(dead_code, reason = "each test binary uses its own part of the support")]

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use stormlock_protocol::client::{Client, ClientError};
use tempfile::TempDir;

use crate::program::{Ran, ends_within, run};

/// How often an agent that starts is asked, and how long its end is watched for in between.
const START_TRIES: u32 = 3000;
const START_PAUSE: Duration = Duration::from_millis(10);
/// How long an agent may take to stop: it gives attached leases back first.
const STOP_MAX: Duration = Duration::from_secs(60);
/// How long one run of the client may take.
const CTL_MAX: Duration = Duration::from_secs(60);
/// How long a test waits for one reply.
const PATIENCE: Duration = Duration::from_secs(60);

/// In every password of a test, and nowhere else: what an agent leaves behind is looked through for
/// it, and so is what the tests print.
pub(crate) const CANARY: &str = "canary-5f1e";

/// One agent. Its folder and its process end with this value.
pub(crate) struct Agent {
    dir: TempDir,
    child: Option<Child>,
}

impl Agent {
    /// Starts an agent with this configuration and waits until it answers.
    pub(crate) fn start(config: &str) -> Agent {
        let mut agent = Agent::prepare(config);
        agent.restart();
        agent
    }

    /// Everything that an agent needs, and no agent yet.
    pub(crate) fn prepare(config: &str) -> Agent {
        let dir = tempfile::tempdir().expect("a folder for an agent");
        let state = dir.path().join("state");
        DirBuilder::new().mode(0o700).create(state).expect("a folder for its journal");
        symlink(program("stormctl"), dir.path().join("stormlock")).expect("the second name");
        let agent = Agent { dir, child: None };
        agent.configure(config);
        agent
    }

    /// Starts an agent called `host` on the Redis at `url`, where the user of this test may do all.
    pub(crate) fn on_redis(host: &str, url: &str) -> Agent {
        Agent::on_store(host, &format!("kind = \"redis\"\nurl = \"{url}\""))
    }

    /// The same on the etcd at `url`.
    pub(crate) fn on_etcd(host: &str, url: &str) -> Agent {
        Agent::on_store(host, &format!("kind = \"etcd\"\nendpoints = [\"{url}\"]"))
    }

    /// The same on the PostgreSQL at `url`.
    pub(crate) fn on_postgres(host: &str, url: &str) -> Agent {
        Agent::on_store(host, &format!("kind = \"postgres\"\nurl = \"{url}\""))
    }

    /// The same on a program of the site's own.
    pub(crate) fn on_exec(host: &str, command: &[String]) -> Agent {
        // A list of plain texts is written alike in both languages.
        Agent::on_store(host, &format!("kind = \"exec\"\ncommand = {command:?}"))
    }

    fn on_store(host: &str, store: &str) -> Agent {
        let uid = geteuid().as_raw();
        Agent::start(&format!(
            "host = \"{host}\"\n\n[backend.main]\n{store}\n\n[[rule]]\nwho = [\"uid:{uid}\"]\n\
             may = [\"acquire\", \"break\", \"read\", \"release-any\"]\n"
        ))
    }

    /// Writes another configuration; the agent is not told.
    pub(crate) fn configure(&self, config: &str) {
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(self.file("stormlockd.toml")).expect("its configuration");
        file.write_all(config.as_bytes()).expect("its configuration can be written");
    }

    /// Starts it on the folder it had, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        self.restart_with(|_| {});
    }

    /// The same, with a change to its command (its environment, say).
    pub(crate) fn restart_with(&mut self, change: impl FnOnce(&mut Command)) {
        self.restart_under(&[], change);
    }

    /// The same below another command (`unshare …`), which has to become the agent by exec.
    pub(crate) fn restart_under(&mut self, words: &[&str], change: impl FnOnce(&mut Command)) {
        let ended = self.starts_under(words, change);
        assert!(ended.is_none(), "it ended at once ({ended:?}):\n{}", self.log());
    }

    /// The same for one that may end before it answers: then how it ended.
    pub(crate) fn starts_under(
        &mut self,
        words: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Option<ExitStatus> {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().append(true).create(true).open(self.file("log"));
        let stormlockd = program("stormlockd");
        let mut command = match words.split_first() {
            None => Command::new(stormlockd),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(stormlockd);
                command
            }
        };
        command.arg("--config").arg(self.file("stormlockd.toml"));
        command.arg("--socket").arg(self.socket());
        command.arg("--state").arg(self.file("state"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a file for its log"));
        change(&mut command);
        self.child = Some(command.spawn().expect("stormlockd can be started"));
        for _ in 0..START_TRIES {
            if self.client().is_ok_and(|mut client| client.status(None).is_ok()) {
                return None;
            }
            if self.ends_within(START_PAUSE) {
                return Some(self.wait());
            }
        }
        panic!("it does not answer:\n{}", self.log());
    }

    /// A connection to it.
    pub(crate) fn client(&self) -> Result<Client, ClientError> {
        Client::connect(&self.socket(), PATIENCE)
    }

    /// Runs `stormctl ARGS` against it.
    pub(crate) fn ctl(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(program("stormctl"));
        run(command.arg("--socket").arg(self.socket()).args(args), CTL_MAX)
    }

    /// Runs `stormlock ARGS`, the Python tool's command line, against it.
    pub(crate) fn stormlock(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(self.file("stormlock"));
        run(command.args(args).env("STORMLOCK_SOCKET", self.socket()), CTL_MAX)
    }

    /// `kill -9`: nothing is put away.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("our own child can be killed");
        child.wait().expect("our own child can be waited for");
    }

    /// False before its start, and once it was killed or its end was waited for.
    pub(crate) fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// True as soon as it has ended by itself, false when it still runs after `limit`; it is then
    /// still to be waited for.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        ends_within(self.child.as_ref().expect("it runs"), limit)
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for an end that it was told to make.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let ended = ends_within(&child, STOP_MAX);
        if !ended {
            child.kill().expect("our own child can be killed");
        }
        let status = child.wait().expect("our own child can be waited for");
        assert!(ended, "it did not stop within {STOP_MAX:?}:\n{}", self.log());
        status
    }

    /// SIGSTOP: it is there and does nothing, until [`Agent::resume`].
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("our own child takes a signal");
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// All that it ever wrote to stderr.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.file("socket")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.file("state")
    }

    /// A file in its folder: `stormlockd.toml`, `log`, or one of the test's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("what the agent in {} said:\n{}", self.dir.path().display(), self.log());
        } else {
            self.has_told_no_password();
        }
    }
}

impl Agent {
    fn has_told_no_password(&self) {
        let state = fs::read_dir(self.state()).into_iter().flatten().flatten();
        let files = state.map(|entry| entry.path()).chain([self.file("log")]);
        for file in files {
            let bytes = fs::read(&file).unwrap_or_default();
            let found = bytes.windows(CANARY.len()).any(|it| it == CANARY.as_bytes());
            assert!(!found, "a password stands in {}", file.display());
        }
    }
}

/// A binary of the project. Cargo tells a test where those of its own package are; the other
/// package's stand beside them once the whole workspace was built.
pub(crate) fn program(name: &str) -> PathBuf {
    let ours = option_env!("CARGO_BIN_EXE_stormlockd").or(option_env!("CARGO_BIN_EXE_stormctl"));
    let beside = ours.map(Path::new).and_then(Path::parent).expect("cargo builds this test");
    let program = beside.join(name);
    assert!(
        program.exists(),
        "{} is not built: run `cargo build --workspace` first, as tests/run does",
        program.display()
    );
    program
}
