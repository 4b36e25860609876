//! What a command sees, how it ends, and what is held meanwhile.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::{Job, all_is_free, wait_for_file};
use crate::agent::{Agent, program};
use crate::redis_server::RedisServer;
use crate::{acquire, leases, local, until, wish};

/// How often a lock is taken and given back in a row.
const IN_A_ROW: usize = 200;
/// How often a command leaves something behind.
const DAEMONS: usize = 60;

fn path(agent: &Agent, name: &str) -> String {
    agent.file(name).to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let agent = Agent::start(&local());
    for (args, code) in [
        (&["--", "true"][..], 0),
        (&["--", "sh", "-c", "exit 7"], 7),
        (&["-c", "exit 255"], 255),
        (&["-c", "kill -9 $$"], 128 + 9),
        (&["-c", "kill $$"], 128 + 15),
        (&["--", "there is no such command"], 127),
        (&["--", "/dev/null"], 126),
    ] {
        let ran = Job::start(&agent, &[&["run", "prod/db"], args].concat()).ends();
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(leases(&mut agent.client().expect("it answers")).is_empty(), "given back");
    }
}

/// The agent sees the end of the group too, and gives back: it may be the first.
#[test]
fn a_command_that_leaves_a_daemon_behind_ends_with_its_own_code_whoever_sees_its_end_first() {
    let agent = Agent::start(&local());
    for round in 0..DAEMONS {
        let ran = Job::start(&agent, &["run", "prod/db", "-c", "setsid -f true; exit 5"]).ends();
        assert_eq!(ran.code, Some(5), "round {round}: {ran:?}");
    }
}

#[test]
fn what_is_not_had_runs_nothing_and_has_its_own_code() {
    let agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", crate::Hold::Keep));
    let touch = path(&agent, "touched");
    for (args, code) in [
        (&["prod/app", "prod/db"][..], 75),
        (&["prod/db", "-E", "0"], 0),
        (&["prod/db", "-E", "9", "--timeout", "1s"], 9),
        (&["prod/app", "--ttl", "4s"], 64),
        (&["prod/app", "--ttl", "9s", "--kill-after", "4s"], 64),
        (&["prod/app", "prod/app"], 64),
        (&["prod/app", "--for", "20s", "--kill-after", "20s"], 64),
        (&["prod/app", "--until", "+20s", "--kill-after", "20s"], 64),
        (&["prod/app", "--for", "3s"], 64),
    ] {
        let ran = Job::start(&agent, &[&["run"], args, &["--", "touch", &touch]].concat()).ends();
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(!ran.stderr.is_empty(), "it says why");
    }
    assert!(!agent.file("touched").exists());
    assert_eq!(leases(&mut agent.client().expect("it answers")).len(), 1, "all or none");
}

#[test]
fn whoever_ignores_the_end_of_children_is_told_so() {
    let agent = Agent::start(&local());
    let mut command = Command::new("env");
    command.args(["--ignore-signal=CHLD"]).arg(program("stormctl"));
    command.arg("--socket").arg(agent.socket()).args(["run", "prod/db", "--", "true"]);
    let ran = crate::program::run(&mut command, super::GIVE_UP);
    assert_eq!(ran.code, Some(70), "{ran:?}");
    assert!(ran.stderr.contains("SIGCHLD is ignored"), "{ran:?}");
    all_is_free(&agent);
}

#[test]
fn the_command_is_told_what_it_runs_under() {
    let agent = Agent::start(&local());
    let line = "stormctl() { \"$CTL\" \"$@\"; }
        for word in RESOURCE RESOURCES LEASE LEASES FENCE FENCES SOCKET DEADLINE; do
            eval \"echo $word=\\$STORMLOCK_$word\"
        done
        \"$CTL\" is-held \"$STORMLOCK_RESOURCE\" \"$STORMLOCK_LEASE\" --by me || exit 1
        [ \"$STORMLOCK_DEADLINE\" -gt \"$(date +%s)\" ]";
    let job = Job::start_with(&agent, &["run", "prod/b", "prod/a", "-c", line], |command| {
        command.env("CTL", program("stormctl"));
    });
    let ran = job.ends();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let word = |name: &str| {
        let line = ran.stdout.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("no {name} in {ran:?}")).to_owned()
    };
    assert_eq!((word("RESOURCE"), word("RESOURCES")), ("prod/b".into(), "prod/b prod/a".into()));
    assert_eq!(word("LEASES").split(' ').next(), Some(&*word("LEASE")));
    assert_eq!(word("FENCES").split(' ').next(), Some(&*word("FENCE")));
    assert_eq!((word("LEASES").split(' ').count(), word("FENCES").split(' ').count()), (2, 2));
    assert_eq!(word("SOCKET"), path(&agent, "socket"));
}

#[test]
fn arguments_and_stdin_are_the_commands_and_no_file_is_left_open_for_it() {
    let agent = Agent::start(&local());
    let line = "echo \"$@\"; cat; ls /proc/$$/fd";
    let words = ["sh", "-c", line, "sh", "-v", "--", "--ttl", "$HOME"];
    let args = [&["run", "prod/db", "--"], &words[..]].concat();
    let mut job = Job::start_with(&agent, &args, |command| {
        command.stdin(Stdio::piped());
    });
    let mut stdin = job.child.stdin.take().expect("a pipe");
    stdin.write_all(b"what came in\n").expect("it is read");
    drop(stdin);
    let ran = job.ends();
    // The same without us: whoever runs the test may have left files open.
    let mut alone = Command::new(words[0]);
    alone.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut alone = alone.spawn().expect("a shell");
    let mut stdin = alone.stdin.take().expect("a pipe");
    stdin.write_all(b"what came in\n").expect("it is read");
    drop(stdin);
    let alone = alone.wait_with_output().expect("it ends");
    assert_eq!(ran.stdout, String::from_utf8_lossy(&alone.stdout), "{ran:?}");
    assert!(ran.stdout.starts_with("-v -- --ttl $HOME\nwhat came in\n0\n"), "{ran:?}");
}

#[test]
fn signals_are_passed_on_to_the_whole_group() {
    let agent = Agent::start(&local());
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::ALARM, "ALRM"),
        (Signal::VTALARM, "VTALRM"),
        (Signal::PROF, "PROF"),
        (Signal::POWER, "PWR"),
        (Signal::WINCH, "WINCH"),
    ] {
        let line = format!(
            "trap 'echo got {name}; exit 9' {name}; echo ready; while :; do read x <{}; done",
            path(&agent, "pipe")
        );
        if signal == Signal::TERM {
            let made = Command::new("mkfifo").arg(agent.file("pipe")).status();
            assert!(made.expect("mkfifo runs").success());
        }
        let job = Job::start(&agent, &["run", "prod/db", "-c", &line]);
        until("it is ready", || job.said().contains("ready").then_some(()));
        job.signal(signal);
        let ran = job.ends();
        assert_eq!(ran.code, Some(9), "{name}: {ran:?}");
        assert!(ran.stdout.contains(&format!("got {name}")), "{ran:?}");
    }
}

#[test]
fn it_is_held_until_the_last_of_the_group_has_ended() {
    let agent = Agent::start(&local());
    let pipe = path(&agent, "pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let line = format!("{{ read x <{pipe}; }} & echo $$; exit 3");
    let mut job = Job::start(&agent, &["run", "prod/db", "-c", &line]);
    let leader = until("the leader has said its number", || {
        job.said().lines().find_map(|line| line.parse::<i32>().ok())
    });
    until("the leader has ended", || {
        let is_there = std::path::Path::new(&format!("/proc/{leader}")).exists();
        (!is_there).then_some(())
    });
    assert!(job.is_running(), "it waits for the rest");
    assert_eq!(agent.ctl(&["is-held", "prod/db", "--by", "me"]).code, Some(0));
    std::fs::write(&pipe, "go\n").expect("the rest ends");
    assert_eq!(job.ends().code, Some(3));
    assert!(leases(&mut agent.client().expect("it answers")).is_empty());
}

#[test]
fn one_that_left_the_group_is_not_waited_for() {
    let agent = Agent::start(&local());
    let pipe = path(&agent, "pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let line = format!("setsid sh -c 'echo away; read x <{pipe}' & read y <{pipe}; exit 4");
    let mut job = Job::start(&agent, &["run", "prod/db", "-c", &line]);
    until("the daemon is away", || job.said().contains("away").then_some(()));
    // Both read, and each takes one line.
    let mut open = std::fs::File::options().write(true).open(&pipe).expect("both read");
    until("the command has ended", || {
        let _ = open.write_all(b"go\n");
        (!job.is_running()).then_some(())
    });
    let ran = job.ends();
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(leases(&mut agent.client().expect("it answers")).is_empty());
}

#[test]
fn whoever_goes_on_without_the_lock_is_named() {
    let agent = Agent::start(&local());
    let pid = path(&agent, "pid");
    let pipe = path(&agent, "pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let away = format!("echo $$ >{pid}.new; mv {pid}.new {pid}; read x <{pipe}");
    let line = format!("setsid sh -c '{away}' & until [ -e {pid} ]; do sleep 0.02; done; exit 4");
    let ran = Job::start(&agent, &["run", "prod/db", "-c", &line]).ends();
    assert_eq!(ran.code, Some(4), "{ran:?}");
    let pid = fs::read_to_string(&pid).expect("it is away");
    let told = format!("process {} of the command goes on without prod/db\n", pid.trim());
    assert!(ran.stderr.contains(&told), "{ran:?}");
    fs::write(&pipe, "go\n").expect("it ends");
}

#[test]
fn two_hundred_in_a_row_never_meet_their_own_predecessor() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    for round in 0..IN_A_ROW {
        let ran = Job::start(&agent, &["run", "-q", "prod/db", "--", "true"]).ends();
        assert_eq!(ran.code, Some(0), "round {round}: {ran:?}");
    }
}

#[test]
fn the_next_one_waits_for_what_a_killed_predecessor_left() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    for round in 0..5 {
        let mut job = Job::start(&agent, &["run", "prod/db", "-c", "echo $$; exec sleep 600"]);
        let leader = until("it has said its number", || {
            job.said().lines().find_map(|line| line.parse::<i32>().ok())
        });
        job.signal(Signal::KILL);
        job.child.wait().expect("our own child");
        let leader = rustix::process::Pid::from_raw(leader).expect("a number");
        let _ = rustix::process::kill_process(leader, Signal::KILL);
        until("the command is gone", || {
            let gone = rustix::process::test_kill_process(leader).is_err();
            gone.then_some(())
        });
        let ran = Job::start(&agent, &["run", "prod/db", "--", "true"]).ends();
        assert_eq!(ran.code, Some(0), "round {round}: {ran:?}");
    }
}

#[test]
fn a_run_within_a_run_shares_its_lease_and_gives_back_only_its_own() {
    let agent = Agent::start(&local());
    let line = "\"$CTL\" run prod/app prod/db -c 'echo $STORMLOCK_RESOURCES $STORMLOCK_LEASES'
        \"$CTL\" is-held prod/db \"$STORMLOCK_LEASE\" || exit 1
        \"$CTL\" is-held prod/app; [ $? = 1 ] || exit 2
        echo $STORMLOCK_LEASE";
    let job = Job::start_with(&agent, &["run", "prod/db", "-c", line], |command| {
        command.env("CTL", program("stormctl"));
    });
    let ran = job.ends();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines[0][..2], ["prod/app", "prod/db"]);
    assert_eq!(lines[0][3], lines[1][0], "the same lease");
    // What only claims to be within one is not believed.
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", crate::Hold::Keep));
    let job = Job::start_with(&agent, &["run", "prod/db", "--", "true"], |command| {
        command.env("STORMLOCK_RESOURCES", "prod/db").env("STORMLOCK_LEASES", lines[1][0]);
    });
    assert_eq!(job.ends().code, Some(75));
}

#[test]
fn a_run_that_left_the_one_around_it_keeps_their_lease() {
    let mut agent = Agent::start(&local());
    let [inner, end] = ["inner", "end"].map(|name| path(&agent, name));
    let goes_on = format!(
        "echo $$ >{inner}.new; mv {inner}.new {inner}; until [ -e {end} ]; do sleep 0.02; done"
    );
    let line = format!(
        "setsid \"$CTL\" run prod/db -c '{goes_on}' & until [ -e {inner} ]; do sleep 0.02; done"
    );
    let job = Job::start_with(&agent, &["run", "prod/db", "-c", &line], |command| {
        command.env("CTL", program("stormctl"));
    });
    let ran = job.ends();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let group = fs::read_to_string(&inner).expect("it ran");
    let told =
        format!("prod/db is held for a command that goes on, process group {}", group.trim());
    assert!(ran.stderr.contains(&told), "{ran:?}");
    assert!(!ran.stderr.contains("without prod/db"), "it has the lock: {ran:?}");
    let held = agent.ctl(&["is-held", "prod/db", "--by", "me"]);
    assert_eq!(held.code, Some(0), "{held:?}");
    // The next agent knows of both, and sees that one has ended.
    agent.kill();
    agent.restart();
    until("it is held for the one that goes on", || {
        let status = agent.ctl(&["status", "-o", "json"]).stdout;
        let pid = format!("\"pid\":{}", group.trim());
        (status.contains("\"held\"") && status.replace(' ', "").contains(&pid)).then_some(())
    });
    fs::write(&end, "").expect("a file");
    all_is_free(&agent);
}

#[test]
fn nobody_releases_what_a_command_counts_on_and_its_end_does() {
    let mut agent = Agent::start(&local());
    let [begun, end] = ["begun", "end"].map(|name| path(&agent, name));
    let line = format!(
        "echo $$ >{begun}.new; mv {begun}.new {begun}; until [ -e {end} ]; do sleep 0.02; done; \
         exit 5"
    );
    let job = Job::start(&agent, &["run", "prod/db", "-c", &line]);
    let group = until("it runs", || fs::read_to_string(&begun).ok());
    let told = format!("kill -TERM -- -{}", group.trim());
    let other = agent.ctl(&["acquire", "prod/app"]);
    assert_eq!(other.code, Some(0), "{other:?}");
    for args in
        [&["release", "prod/db"][..], &["release", "--all"], &["release", "prod/db", "--if-held"]]
    {
        let refused = agent.ctl(args);
        assert_eq!(refused.code, Some(75), "{refused:?}");
        assert!(refused.stderr.contains(&told), "{refused:?}");
    }
    let shorter = agent.ctl(&["renew", "prod/db", "--ttl", "5s"]);
    assert_eq!(shorter.code, Some(64), "{shorter:?}");
    let why = format!("process group {} counts on a ttl of 900 s", group.trim());
    assert!(shorter.stderr.contains(&why), "{shorter:?}");
    // What it was let go under is enough for it, also for an agent that did not see that.
    let longer = agent.ctl(&["renew", "prod/db", "--ttl", "20m"]);
    assert_eq!(longer.code, Some(0), "{longer:?}");
    agent.kill();
    agent.restart();
    for (ttl, code) in [("899s", 64), ("15m", 0)] {
        let back = until("the lease is proven again", || {
            let back = agent.ctl(&["renew", "prod/db", "--ttl", ttl]);
            (!matches!(back.code, Some(69 | 79))).then_some(back)
        });
        assert_eq!(back.code, Some(code), "{back:?}");
    }
    let again = agent.ctl(&["acquire", "prod/db"]);
    assert_eq!(again.code, Some(75), "{again:?}");
    assert!(
        again.stderr.contains(&told) && !again.stderr.contains("stormctl release"),
        "{again:?}"
    );
    let held = agent.ctl(&["is-held", "prod/db", "--by", "me"]);
    assert_eq!(held.code, Some(0), "{held:?}");
    assert_eq!(agent.ctl(&["is-held", "prod/app"]).code, Some(1), "--all gave back what it could");
    fs::write(&end, "").expect("a file");
    assert_eq!(job.ends().code, Some(5), "nothing disturbed it");
    all_is_free(&agent);
}

#[test]
fn a_command_that_releases_its_own_lock_is_told_that_its_end_does() {
    let agent = Agent::start(&local());
    let line = "\"$CTL\" release prod/db; echo code=$?";
    let job = Job::start_with(&agent, &["run", "prod/db", "-c", line], |command| {
        command.env("CTL", program("stormctl"));
    });
    let ran = job.ends();
    assert!(ran.stdout.contains("code=75"), "{ran:?}");
    assert!(ran.stderr.contains("what runs here is under it already"), "{ran:?}");
    assert!(!ran.stderr.contains("kill"), "{ran:?}");
}

/// Its environment may be of a run that is over.
#[test]
fn whoever_does_not_run_under_a_lock_is_not_told_so() {
    let agent = Agent::start(&local());
    let end = path(&agent, "end");
    let line = format!("echo be''gun; until [ -e {end} ]; do sleep 0.02; done");
    let job = Job::start(&agent, &["run", "prod/db", "-c", &line]);
    until("it runs", || job.said().contains("begun").then_some(()));
    let stale = "0af1c2d3e4f50617283940515263748f";
    for args in [&["release", "prod/db"][..], &["release", "--all"]] {
        let asked = Job::start_with(&agent, args, |command| {
            command.env("STORMLOCK_RESOURCES", "prod/db").env("STORMLOCK_LEASES", stale);
        });
        let ran = asked.ends();
        assert_eq!(ran.code, Some(75), "{ran:?}");
        assert!(ran.stderr.contains("kill -TERM") && !ran.stderr.contains(stale), "{ran:?}");
    }
    fs::write(&end, "").expect("a file");
    assert_eq!(job.ends().code, Some(0));
}

#[test]
fn a_run_that_waits_goes_on_waiting_across_a_restart_of_the_agent() {
    let mut agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", crate::Hold::Keep));
    let done = path(&agent, "done");
    let mut job = Job::start(&agent, &["run", "prod/db", "-w", "-c", &format!("echo ran >{done}")]);
    for _ in 0..2 {
        until("it waits", || {
            let seen = agent.ctl(&["acquire", "prod/db"]);
            seen.stderr.contains("waiting 1 on this host").then_some(())
        });
        agent.kill();
        agent.restart();
    }
    assert!(job.is_running());
    until("it can be given back", || {
        (agent.ctl(&["release", "prod/db"]).code == Some(0)).then_some(())
    });
    assert_eq!(job.ends().code, Some(0));
    wait_for_file(&agent, "done", "ran");
    all_is_free(&agent);
}

#[test]
fn what_happens_to_ones_leases_can_be_watched() {
    let agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/old", crate::Hold::Keep));
    let job = Job::start(&agent, &["watch"]);
    until("the state is told", || job.said().contains("caught").then_some(()));
    assert!(job.said().contains("\"resource\":\"prod/old\""), "{}", job.said());
    let ran = Job::start(&agent, &["run", "prod/db", "--", "true"]).ends();
    assert_eq!(ran.code, Some(0));
    until("the end is told", || {
        let said = job.said();
        let is = |line: &str| line.contains("prod/db") && line.contains("\"released\"");
        said.lines().any(is).then_some(())
    });
    let mut agent = agent;
    for restart in 1..=2 {
        let caught = |said: &str| said.matches("caught").count();
        let before = caught(&job.said());
        if restart == 1 {
            assert!(agent.stop().success())
        } else {
            agent.kill()
        }
        until("it is told that the agent went away", || {
            (job.said().matches("closed the stream").count() == restart).then_some(())
        });
        agent.restart();
        until("the state is told anew", || (caught(&job.said()) > before).then_some(()));
        assert_eq!(job.said().matches("the agent is back").count(), restart, "{}", job.said());
    }
    job.signal(Signal::KILL);
    let ran = job.ends();
    assert!(ran.stdout.matches("\"resource\":\"prod/old\"").count() >= 3, "{ran:?}");
    for line in ran.stdout.lines() {
        assert!(line.starts_with("{\"schema\":1,\"type\":"), "{line}");
    }
    agent.stop();
    assert_eq!(agent.ctl(&["watch"]).code, Some(69), "where there never was one");
}
