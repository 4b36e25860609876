//! The Python tool (PyPI `stormlock`), our peer in the store: as its users run it, and as a process
//! that stays and takes one operation per line, because a start of Python costs 160 ms.

#![allow(dead_code, reason = "each test binary uses its own part of the support")]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::program::{Ran, run};

/// One run of the tool: it takes 0.2 s, and on a busy machine some more.
const RUN_MAX: Duration = Duration::from_secs(30);

/// The tool, set up for one store.
pub(crate) struct PythonTool {
    program: PathBuf,
    config: PathBuf,
    _dir: TempDir,
}

impl PythonTool {
    /// The tool for the Redis at `url`, acting as `principal`, with leases of 60 seconds unless an
    /// operation says otherwise. It has no prefix for its keys: a resource of ours behind a prefix
    /// is to it a resource of that longer name.
    pub(crate) fn new(url: &str, principal: &str) -> PythonTool {
        PythonTool::on("redis", &format!("[backend.redis]\nurl = {url}\n"), principal)
    }

    /// The same for a store of another kind, as `section` says.
    pub(crate) fn on(kind: &str, section: &str, principal: &str) -> PythonTool {
        let dir = tempfile::tempdir().expect("a folder for the tool's configuration");
        let config = dir.path().join("stormlock.cfg");
        let text = format!(
            "[default]\nprincipal = {principal}\nbackend = {kind}\nttl = 60 seconds\n\n{section}"
        );
        fs::write(&config, text).expect("the tool's configuration can be written");
        PythonTool { program: program(), config, _dir: dir }
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// Runs `stormlock ARGS`.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(&self.program);
        run(command.args(args).env("STORMLOCK_CONFIG", &self.config), RUN_MAX)
    }

    /// A process of the tool that stays.
    pub(crate) fn peer(self) -> Peer {
        let python = self.program.with_file_name("python");
        let mut child = Command::new(python)
            .args(["-u", "-c", include_str!("peer.py")])
            .env("STORMLOCK_CONFIG", &self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the Python that the tool was installed for runs");
        let ask = child.stdin.take().expect("stdin is a pipe");
        let answers = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Peer { child, ask, answers, _tool: self }
    }
}

/// `$STORMLOCK_PYTHON`, or the environment that tests/run makes.
fn program() -> PathBuf {
    let default = || {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || PathBuf::from(env::var_os("HOME").expect("$HOME is set")).join(".cache");
        cache.unwrap_or_else(home).join("stormlock-venv/bin/stormlock")
    };
    let program = env::var_os("STORMLOCK_PYTHON").map_or_else(default, PathBuf::from);
    assert!(
        program.exists(),
        "the Python tool is not at {}: run tests/run, which installs it, or set STORMLOCK_PYTHON",
        program.display()
    );
    program
}

/// What the Python tool says to one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// It has the lock now, under this lease.
    Granted(String),
    /// Another has it.
    Held { lease: String, principal: String },
    /// Nobody has it.
    Free,
    /// Done.
    Done,
    /// The lease is not there any more.
    Expired,
    /// It fell over: the exception.
    Failed(String),
}

/// A process of the tool's library. It ends with this value.
pub(crate) struct Peer {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Its configuration is read at the first operation.
    _tool: PythonTool,
}

impl Peer {
    /// Takes the lock for `ttl_secs`: [`Said::Granted`] or [`Said::Held`].
    pub(crate) fn acquire(&mut self, resource: &str, ttl_secs: u32) -> Said {
        self.ask(&["acquire", resource, &ttl_secs.to_string()])
    }

    /// Starts a lease's time again: [`Said::Done`] or [`Said::Expired`].
    pub(crate) fn renew(&mut self, resource: &str, lease: &str, ttl_secs: u32) -> Said {
        self.ask(&["renew", resource, lease, &ttl_secs.to_string()])
    }

    /// Gives a lease back: [`Said::Done`], even where there is none; on etcd [`Said::Failed`] then.
    pub(crate) fn release(&mut self, resource: &str, lease: &str) -> Said {
        self.ask(&["release", resource, lease])
    }

    /// Who has it: [`Said::Held`] or [`Said::Free`].
    pub(crate) fn current(&mut self, resource: &str) -> Said {
        self.ask(&["current", resource])
    }

    fn ask(&mut self, words: &[&str]) -> Said {
        writeln!(self.ask, "{}", words.join("\t")).expect("the Python tool reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the Python tool answers");
        let words: Vec<&str> = line.trim_end().split('\t').collect();
        match words[..] {
            ["granted", lease] => Said::Granted(lease.to_owned()),
            ["held", lease, principal] => {
                Said::Held { lease: lease.to_owned(), principal: principal.to_owned() }
            }
            ["free"] => Said::Free,
            ["done"] => Said::Done,
            ["expired"] => Said::Expired,
            ["failed", error] => Said::Failed(error.to_owned()),
            _ => panic!("the Python tool said {line:?}; its own words stand above"),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
