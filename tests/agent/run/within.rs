//! A run within a run, and one that waited: what each counts on, and what it is told.

use std::fs;

use super::{Job, all_is_free};
use crate::agent::{Agent, program};
use crate::dice::now_ms;
use crate::proxy::Proxy;
use crate::redis_server::RedisServer;
use crate::{acquire, local, until, wish};

/// The client, started by a shell that finds itself as `$CTL`.
fn start(agent: &Agent, args: &[&str]) -> Job {
    Job::start_with(agent, args, |command| {
        command.env("CTL", program("stormctl")).current_dir(agent.file(""));
    })
}

/// A line for the shell of an outer run: waits for a file of this name, then does the rest.
fn after(name: &str, rest: &str) -> String {
    format!("echo >began; until [ -e {name} ]; do sleep 0.02; done; {rest}")
}

fn begins(agent: &Agent) {
    until("the outer one runs", || agent.file("began").exists().then_some(()));
}

/// Goes on, and gives what was started by that a second to be refused.
fn go(agent: &Agent) {
    fs::write(agent.file("go"), "").expect("a file");
    let began = now_ms();
    until("a second is over", || (now_ms() - began > 1_000).then_some(()));
}

#[test]
fn a_wait_longer_than_the_ttl_leaves_the_command_its_time() {
    let agent = Agent::start(&local());
    for name in ["prod/db", "prod/web"] {
        acquire(&mut agent.client().expect("it answers"), wish(name, crate::Hold::Keep));
    }
    let began = now_ms();
    let jobs = [
        start(&agent, &["run", "prod/db", "--ttl", "15s", "-w", "-c", "sleep 1; exit 5"]),
        start(
            &agent,
            &[
                "run",
                "prod/app",
                "--ttl",
                "15s",
                "-c",
                "\"$CTL\" run prod/web prod/app --ttl 15s -w -c 'sleep 1; exit 5'",
            ],
        ),
    ];
    until("the ttl is over twice", || (now_ms() - began > 30_000).then_some(()));
    for name in ["prod/db", "prod/web"] {
        let ran = agent.ctl(&["release", name]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    for job in jobs {
        let ran = job.ends();
        assert_eq!(ran.code, Some(5), "{ran:?}");
        assert!(!ran.stderr.contains("renewed") && !ran.stderr.contains("killed"), "{ran:?}");
    }
}

#[test]
fn one_that_finds_no_session_to_ask_with_asks_again_and_is_part_of_the_run_around_it() {
    let agent = Agent::start(&local());
    let line = after("go", "\"$CTL\" run prod/db -c 'exit 5'");
    let job = start(&agent, &["run", "prod/db", "-c", &line]);
    begins(&agent);
    let mut sessions = Vec::new();
    loop {
        let mut client = agent.client().expect("it listens");
        if client.status(None).is_err() {
            break;
        }
        sessions.push(client);
    }
    go(&agent);
    drop(sessions);
    let ran = job.ends();
    assert_eq!(ran.code, Some(5), "{ran:?}");
    all_is_free(&agent);
}

/// What is heard of renewals takes no session anew, so nobody else can take it away.
#[test]
fn whoever_holds_is_not_ended_by_another_who_takes_every_session() {
    let agent = Agent::start(&local());
    let line = after("go", "exit 5");
    let job = start(&agent, &["run", "prod/db", "--ttl", "5s", "-c", &line]);
    begins(&agent);
    let holder = start(&agent, &["hold", "prod/app", "--ttl", "5s"]);
    until("it holds", || holder.said().contains("prod/app").then_some(()));
    let began = now_ms();
    let mut sessions = Vec::new();
    while now_ms() - began < 16_000 {
        let mut client = agent.client().expect("it listens");
        if client.status(None).is_ok() {
            sessions.push(client);
        }
    }
    drop(sessions);
    fs::write(agent.file("go"), "").expect("a file");
    let ran = job.ends();
    assert_eq!(ran.code, Some(5), "{ran:?}");
    holder.signal(rustix::process::Signal::TERM);
    let ran = holder.ends();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    all_is_free(&agent);
}

#[test]
fn a_wait_that_is_granted_too_late_runs_nothing_and_has_the_code_of_one_in_vain() {
    let agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", crate::Hold::Keep));
    let began = now_ms();
    let job =
        start(&agent, &["run", "prod/db", "-w", "--until", "+8s", "-E", "3", "-c", "touch ran"]);
    until("it waits", || job.said().contains("waiting for").then_some(()));
    until("no time is left", || (now_ms() - began > 6_500).then_some(()));
    let ran = agent.ctl(&["release", "prod/db"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = job.ends();
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(!agent.file("ran").exists(), "{ran:?}");
    all_is_free(&agent);
}

#[test]
fn one_whose_agent_does_not_know_yet_whether_the_lease_stands_waits_for_that() {
    let store = RedisServer::start();
    let proxy = Proxy::start(store.port());
    let mut agent = Agent::on_redis("alpha", &format!("redis://127.0.0.1:{}", proxy.port()));
    let line = after("go", "\"$CTL\" run prod/db -c 'exit 5'");
    let job = start(&agent, &["run", "prod/db", "--ttl", "90s", "-c", &line]);
    begins(&agent);
    proxy.freeze();
    agent.kill();
    agent.restart();
    go(&agent);
    proxy.thaw();
    let ran = job.ends();
    assert_eq!(ran.code, Some(5), "{ran:?}");
}

#[test]
fn what_is_held_around_a_command_is_not_waited_for_in_it() {
    let agent = Agent::start(&local());
    for verb in ["acquire prod/db --wait", "wait prod/db", "hold prod/db --timeout 1d"] {
        let line = format!("\"$CTL\" {verb}");
        let ran = start(&agent, &["run", "prod/db", "-c", &line]).ends();
        assert_eq!(ran.code, Some(75), "{verb}: {ran:?}");
        assert!(ran.stderr.contains("what runs here is under it already"), "{verb}: {ran:?}");
    }
}

#[test]
fn whoever_waits_goes_on_waiting_across_a_restart_while_the_store_is_away() {
    let store = RedisServer::start();
    let proxy = Proxy::start(store.port());
    let other = Agent::on_redis("beta", &store.url());
    let mut agent = Agent::on_redis("alpha", &format!("redis://127.0.0.1:{}", proxy.port()));
    let names = ["prod/a", "prod/b", "prod/c", "prod/d"];
    for name in names {
        acquire(&mut other.client().expect("it answers"), wish(name, crate::Hold::Keep));
    }
    let jobs = [
        &["acquire", "prod/a", "--keep", "-w"][..],
        &["wait", "prod/b"],
        &["run", "prod/c", "-w", "-c", "exit 0"],
        &["hold", "prod/d", "-w", "--for", "5s"],
    ];
    let jobs = jobs.map(|args| start(&agent, args));
    for job in &jobs {
        until("it waits", || job.said().contains("waiting for").then_some(()));
    }
    proxy.freeze();
    agent.kill();
    agent.restart();
    // Each takes as long as a call to a store that does not answer: the others' have ended by then.
    for _ in 0..2 {
        let refused = agent.ctl(&["acquire", "prod/e"]);
        assert_eq!(refused.code, Some(69), "{refused:?}");
    }
    proxy.thaw();
    for name in names {
        let ran = other.ctl(&["release", name]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    for job in jobs {
        let ran = job.ends();
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
}

#[test]
fn a_limit_of_its_own_ends_the_inner_command_and_not_the_lease() {
    let agent = Agent::start(&local());
    let line = "\"$CTL\" run prod/db --for 6s -m why --ttl 20s -c 'sleep 600'; echo inner=$?
        \"$CTL\" is-held prod/db \"$STORMLOCK_LEASE\" && exit 5";
    let ran = start(&agent, &["run", "prod/db", "-c", line]).ends();
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(ran.stdout.contains("inner=79"), "{ran:?}");
    assert!(ran.stderr.contains("the command's own time under prod/db is at its end"), "{ran:?}");
    let told = "--ttl and -m do not apply to prod/db, which the run around this one holds\n";
    assert!(ran.stderr.contains(told), "{ran:?}");
}
