//! `init systemd`: what is written where, and what is left as it is.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::fake::{Run, stormctl};

/// A user's folder of configurations, without an agent.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(TempDir::new().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = stormctl();
        command.args(["init", "systemd"]).args(args).env("XDG_CONFIG_HOME", self.0.path());
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args))
    }
}

const NIGHTLY: [&str; 4] = ["--user", "nightly", "--lock", "prod/db-1"];

#[test]
fn a_users_unit_is_bound_and_what_to_type_next_is_told() {
    let home = Home::new();
    let run = home.run(&NIGHTLY);
    let path = home.0.path().join("systemd/user/nightly.service.d/50-stormlock.conf");
    assert_eq!((run.code, run.stdout.trim_end()), (0, path.to_str().unwrap()));
    assert!(run.stderr.contains("systemctl --user daemon-reload\n"), "{}", run.stderr);
    let text = fs::read_to_string(&path).unwrap();
    for line in [
        "[Unit]",
        "BindsTo=stormlock@prod-db\\x2d1.service",
        "After=stormlock@prod-db\\x2d1.service",
        "[Service]",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} in {text}");
    }
    assert!(text.contains("\nTimeoutStopSec="), "{text}");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    // Once more it changes nothing, and says so.
    let again = home.run(&NIGHTLY);
    assert_eq!((again.code, again.stdout), (0, run.stdout));
    assert!(again.stderr.contains("already"), "{}", again.stderr);
}

#[test]
fn a_file_that_says_something_else_is_replaced_only_by_force() {
    let home = Home::new();
    home.run(&NIGHTLY);
    let other = ["--user", "nightly", "--lock", "prod/cache"];
    let path = home.0.path().join("systemd/user/nightly.service.d/50-stormlock.conf");
    let before = fs::read(&path).unwrap();
    home.run(&other).fails(64, &["50-stormlock.conf says something else already", "--force"]);
    assert_eq!(fs::read(&path).unwrap(), before);
    let mut forced = other.to_vec();
    forced.push("--force");
    let run = home.run(&forced);
    assert_eq!(run.code, 0);
    // At a daemon-reload its old lock is given up while it runs.
    for told in ["systemctl --user stop nightly, and only then", "stormlock@prod-db\\x2d1.service"]
    {
        assert!(run.stderr.contains(told), "{told}: {}", run.stderr);
    }
    assert!(fs::read_to_string(&path).unwrap().contains("BindsTo=stormlock@prod-cache.service"));
}

#[test]
fn a_unit_that_is_nowhere_is_bound_and_that_is_told() {
    let home = Home::new();
    let note = "note: systemd has no nigthly.service";
    let typo = ["--user", "nigthly", "--lock", "prod/db"];
    let run = home.run(&typo);
    assert!(run.code == 0 && run.stderr.contains(note), "{}", run.stderr);
    let units = home.0.path().join("systemd/user");
    fs::write(units.join("nigthly.service"), "").unwrap();
    let run = home.run(&typo);
    assert!(run.code == 0 && !run.stderr.contains("note:"), "{}", run.stderr);
    fs::write(units.join("backup@.service"), "").unwrap();
    let run = home.run(&["--user", "backup@home", "--lock", "prod/db"]);
    assert!(run.code == 0 && !run.stderr.contains("note:"), "{}", run.stderr);
}

#[test]
fn print_writes_nothing() {
    let home = Home::new();
    let run = home.run(&["--print", "nightly.service", "--lock", "prod/db"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert!(run.stdout.contains("\nBindsTo=stormlock@prod-db.service\n"), "{}", run.stdout);
    assert_eq!(fs::read_dir(home.0.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_bound_is_refused() {
    let home = Home::new();
    home.run(&["nightly.timer", "--lock", "a"]).fails(64, &["bind that, nightly.service"]);
    home.run(&["stormlockd", "--lock", "a"]).fails(64, &["stormlock's own"]);
    home.run(&["nightly"]).fails(64, &["--lock"]);
    let long = "-".repeat(64);
    let long = format!("a{long}");
    home.run(&["nightly", "--lock", &long]).fails(64, &["too long", "stormctl run"]);
    let file = home.0.path().join("file");
    fs::write(&file, "").unwrap();
    let mut command = home.command(&NIGHTLY);
    command.env("XDG_CONFIG_HOME", &file);
    Run::of(command).fails(78, &["50-stormlock.conf"]);
}
