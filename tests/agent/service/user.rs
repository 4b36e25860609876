//! `--user`: an agent of one's own needs no option and no file, and is found without one.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{ok, run_it, says};
use crate::agent::program;
use crate::program::{Ran, ends_within};
use crate::until_right;

/// A host whose system has no agent, also if this one has.
const BARE: &str = "
    if [ -d /run/stormlock ]; then mount -t tmpfs stormlock-test /run/stormlock; fi
    exec \"$@\"";

struct Home(TempDir);

impl Home {
    fn new() -> Home {
        let home = Home(tempfile::tempdir().expect("a folder"));
        for dir in ["run", "state", "config"] {
            fs::create_dir(home.file(dir)).expect("a folder");
        }
        home
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-euc", BARE, "sh"]);
        command.arg(program(name)).env_remove("STORMLOCK_SOCKET").env("HOME", self.0.path());
        for (variable, dir) in
            [("XDG_RUNTIME_DIR", "run"), ("XDG_STATE_HOME", "state"), ("XDG_CONFIG_HOME", "config")]
        {
            command.env(variable, self.file(dir));
        }
        command
    }

    fn ctl(&self, args: &[&str]) -> Ran {
        run_it(self.command("stormctl").args(args))
    }
}

/// An agent that ends with the test.
struct Running(Child);

impl Running {
    fn start(home: &Home) -> Running {
        Running::start_with(home, |_| {})
    }

    fn start_with(home: &Home, change: impl FnOnce(&mut Command)) -> Running {
        let log = fs::File::options().append(true).create(true).open(home.file("log"));
        let mut command = home.command("stormlockd");
        command.arg("--user").stdout(Stdio::null()).stderr(log.expect("a log"));
        change(&mut command);
        let mut running = Running(command.spawn().expect("stormlockd can be started"));
        until_right("it answers", || {
            let ended = running.0.try_wait().expect("our own child");
            assert!(ended.is_none(), "{}", fs::read_to_string(home.file("log")).expect("a log"));
            let ran = home.ctl(&["status"]);
            if ran.code == Some(0) { Ok(()) } else { Err(ran.stderr) }
        });
        running
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("our own child");
    }

    fn stop(mut self) {
        self.signal(Signal::TERM);
        assert!(ends_within(&self.0, Duration::from_secs(20)), "it does not stop");
        assert_eq!(self.0.wait().expect("our own child").code(), Some(0));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_of_ones_own_works_without_options_and_is_found_without_one() {
    let home = Home::new();
    says(&home.ctl(&["status"]), 69, &["no agent listens on", "/run/stormlock/stormlockd.sock"]);
    let agent = Running::start(&home);
    assert!(home.file("run/stormlock/stormlockd.sock").exists());
    assert_eq!(super::mode(&home.file("run/stormlock")), 0o700);
    assert_eq!(super::mode(&home.file("run/stormlock/stormlockd.sock")), 0o600);
    assert_eq!(super::mode(&home.file("state/stormlock")), 0o700);
    ok(home.ctl(&["acquire", "prod/db", "--keep"]));
    agent.stop();
    let agent = Running::start(&home);
    assert!(ok(home.ctl(&["status"])).contains("prod/db"), "its state is remembered");
    ok(home.ctl(&["release", "prod/db"]));
    agent.stop();
    assert!(!home.file("run/stormlock/stormlockd.sock").exists());
}

#[test]
fn a_file_in_the_users_own_place_is_read_and_watched_also_if_it_comes_later() {
    let home = Home::new();
    let agent = Running::start(&home);
    let file = home.file("config/stormlock/stormlock.toml");
    let host = || ok(home.ctl(&["-o", "json", "status"]));
    fs::create_dir(home.file("config/stormlock")).expect("a folder");
    for name in ["late", "later"] {
        fs::write(&file, format!("host = \"{name}\"\n")).expect("a configuration");
        let wanted = format!("\"{name}\"");
        until_right("it is in force", || {
            let said = host();
            if said.contains(&wanted) { Ok(()) } else { Err(said) }
        });
    }
    agent.stop();
    let agent = Running::start(&home);
    assert!(host().contains("\"later\""), "{}", host());
    agent.stop();
}

#[test]
fn without_a_usual_place_the_option_to_give_is_said() {
    let home = Home::new();
    let ran = run_it(home.command("stormlockd").arg("--user").env_remove("XDG_RUNTIME_DIR"));
    says(&ran, 64, &["XDG_RUNTIME_DIR", "--socket", "STORMLOCK_SOCKET"]);
}

#[test]
fn without_a_place_for_a_file_a_sighup_is_told_that_there_is_none() {
    let home = Home::new();
    let agent = Running::start_with(&home, |command| {
        command.env_remove("HOME").env_remove("XDG_CONFIG_HOME");
    });
    agent.signal(Signal::HUP);
    until_right("it is said", || {
        let log = fs::read_to_string(home.file("log")).expect("a log");
        if log.contains("there is no configuration file to read again") { Ok(()) } else { Err(log) }
    });
    agent.stop();
}
