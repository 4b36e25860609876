//! What does not disturb a command, and what ends it: restarts, outages, losses, a killed wrapper.

use std::fs;

use rustix::process::Signal;

use super::{Job, all_is_free, wait_for_file};
use crate::agent::{Agent, program};
use crate::dice::now_ms;
use crate::proxy::Proxy;
use crate::redis_server::{Answer, RedisServer};
use crate::{leases, local, until};

/// How often the agent is killed under a command.
const KILLS: usize = 5;
/// How long a store may be away and nobody notices.
const OUTAGE_MS: u64 = 5_000;

/// A line for a shell that counts in a file until another file is there, then ends with 5.
fn counts(agent: &Agent) -> String {
    counts_as(agent, "count")
}

/// The same in a file of another name.
fn counts_as(agent: &Agent, name: &str) -> String {
    let file = |name| agent.file(name).to_str().expect("a path in UTF-8").to_owned();
    let (count, end) = (file(name), file("end"));
    format!(
        "n=0; until [ -e {end} ]; do n=$((n+1)); echo $n >{count}.new; mv {count}.new {count}; \
         sleep 0.02; done; exit 5"
    )
}

/// Waits until the command has counted on.
fn counts_on(agent: &Agent) {
    let count = || {
        let text = fs::read_to_string(agent.file("count")).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    let before = count();
    until("the command goes on", || (count() > before + 3).then_some(()));
}

/// Somebody with access to the store deletes a lock there; the agent finds out when it renews.
fn take_away(store: &RedisServer, resource: &str) {
    assert_eq!(store.run(&format!("DEL {resource}")), Answer::Int(1));
}

fn end(agent: &Agent) {
    fs::write(agent.file("end"), "").expect("a file");
}

#[test]
fn a_killed_wrapper_leaves_the_lease_to_the_command_and_to_nobody_after_it() {
    let agent = Agent::start(&local());
    let line = format!("trap 'echo asked >{}' TERM; {}", path(&agent, "asked"), counts(&agent));
    let mut job = Job::start(&agent, &["run", "prod/db", "-c", &line]);
    counts_on(&agent);
    job.signal(Signal::KILL);
    job.wait();
    wait_for_file(&agent, "asked", "asked");
    counts_on(&agent);
    let held = agent.ctl(&["is-held", "prod/db", "--by", "me"]);
    assert_eq!(held.code, Some(0), "the command goes on, and so does its lease: {held:?}");
    end(&agent);
    all_is_free(&agent);
}

#[test]
fn the_agent_may_be_killed_again_and_again() {
    let store = RedisServer::start();
    let mut agent = Agent::on_redis("alpha", &store.url());
    let job = Job::start(&agent, &["run", "prod/db", "--ttl", "20s", "-c", &counts(&agent)]);
    counts_on(&agent);
    let lease = |agent: &Agent| {
        let all = leases(&mut agent.client().expect("it answers"));
        all.into_iter().map(|lease| (lease.lease, lease.fence)).next()
    };
    let before = lease(&agent);
    assert!(before.is_some());
    for kill in 0..KILLS {
        agent.kill();
        counts_on(&agent);
        agent.restart();
        counts_on(&agent);
        assert_eq!(lease(&agent), before, "kill {kill}");
    }
    end(&agent);
    let ran = job.ends();
    assert_eq!(ran.code, Some(5), "{ran:?}");
    all_is_free(&agent);
    println!("{KILLS} kills under one lease");
}

#[test]
fn an_agent_that_is_gone_when_the_command_ends_gives_the_lease_back_at_its_next_start() {
    let mut agent = Agent::start(&local());
    let job = Job::start(&agent, &["run", "prod/db", "-c", &counts(&agent)]);
    counts_on(&agent);
    agent.kill();
    end(&agent);
    let ran = job.ends();
    assert_eq!(ran.code, Some(5), "the code stays the command's: {ran:?}");
    assert!(ran.stderr.contains("gives it back once it can"), "{ran:?}");
    agent.restart();
    all_is_free(&agent);
}

#[test]
fn an_outage_of_five_seconds_disturbs_nobody() {
    let store = RedisServer::start();
    let proxy = Proxy::start(store.port());
    let agent = Agent::on_redis("alpha", &format!("redis://127.0.0.1:{}", proxy.port()));
    let job = Job::start(&agent, &["run", "prod/db", "--ttl", "30s", "-c", &counts(&agent)]);
    counts_on(&agent);
    proxy.freeze();
    let began = now_ms();
    until("five seconds are over", || (now_ms() - began > OUTAGE_MS).then(|| counts_on(&agent)));
    proxy.thaw();
    // A whole ttl later it would be over, had nothing been renewed since.
    until("the ttl is over", || (now_ms() - began > 31_000).then(|| counts_on(&agent)));
    end(&agent);
    let ran = job.ends();
    assert_eq!(ran.code, Some(5), "{ran:?}");
}

#[test]
fn a_lease_that_is_taken_away_ends_the_command_at_once_and_kindly() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    let start = |how: &str, line: &str| {
        Job::start(&agent, &["run", how, "--ttl", "15s", "--on-lost", how, "-c", line])
    };
    let asked = [("term", "TERM"), ("int", "INT"), ("hup", "HUP")].map(|(how, signal)| {
        let file = path(&agent, how);
        let line =
            format!("trap 'echo asked >{file}; exit 0' {signal}; {}", counts_as(&agent, signal));
        (how, signal, start(how, &line))
    });
    let warned = start("warn", &counts(&agent));
    counts_on(&agent);
    for (how, signal, _) in &asked {
        until("it counts", || agent.file(signal).exists().then_some(()));
        take_away(&store, how);
    }
    for (how, _, job) in asked {
        let ran = job.ends();
        assert_eq!(ran.code, Some(79), "{ran:?}");
        assert!(ran.stderr.contains("has to end"), "{ran:?}");
        wait_for_file(&agent, how, "asked");
    }
    take_away(&store, "warn");
    until("it is said", || warned.said().contains("goes on").then_some(()));
    counts_on(&agent);
    end(&agent);
    assert_eq!(warned.ends().code, Some(5));
}

#[test]
fn what_does_not_end_when_it_is_asked_is_killed_after_the_grace_with_all_that_it_started() {
    for leader_ignores in [true, false] {
        let store = RedisServer::start();
        let agent = Agent::on_redis("alpha", &store.url());
        let counting = counts(&agent);
        let daemon = counting.replace("/count", "/daemon").replace("/end", "/never");
        let trap = if leader_ignores { "trap '' TERM;" } else { "" };
        // The daemon ignores it in any case.
        let line = format!("{trap} (trap '' TERM; exec setsid sh -c '{daemon}') & {counting}");
        let args = ["run", "prod/db", "--ttl", "15s", "--kill-after", "1s", "-c", &line];
        let job = Job::start(&agent, &args);
        counts_on(&agent);
        until("the daemon counts", || agent.file("daemon").exists().then_some(()));
        take_away(&store, "prod/db");
        let ran = job.ends();
        assert_eq!(ran.code, Some(79), "{ran:?}");
        assert!(ran.stderr.contains("it is killed"), "{ran:?}");
        let read = || fs::read_to_string(agent.file("daemon")).expect("what it counted");
        let before = read();
        let began = now_ms();
        // It counted fifty times a second.
        until("half a second is over", || (now_ms() - began > 500).then_some(()));
        assert_eq!(read(), before, "the daemon lives");
    }
}

#[test]
fn a_wrapper_that_wakes_after_the_deadline_kills_at_once() {
    let agent = Agent::start(&local());
    let line = format!("trap 'echo asked >{}' TERM; {}", path(&agent, "asked"), counts(&agent));
    let job = Job::start(&agent, &["run", "prod/db", "--ttl", "5s", "-c", &line]);
    counts_on(&agent);
    agent.pause();
    job.signal(Signal::STOP);
    let began = now_ms();
    until("the ttl is over", || (now_ms() - began > 5_000).then_some(()));
    job.signal(Signal::CONT);
    let ran = job.ends();
    assert_eq!(ran.code, Some(79), "{ran:?}");
    assert!(ran.stderr.contains("the command is killed"), "{ran:?}");
    assert!(!agent.file("asked").exists(), "it was given time that was not there");
    agent.resume();
}

#[test]
fn a_hold_that_ends_ends_the_command_before() {
    let agent = Agent::start(&local());
    let began = now_ms();
    let args = ["run", "prod/db", "--ttl", "60s", "--for", "6s", "--kill-after", "2s", "-c"];
    let line = counts(&agent);
    let ran = Job::start(&agent, &[&args[..], &[&line]].concat()).ends();
    assert_eq!(ran.code, Some(79), "{ran:?}");
    assert!(ran.stderr.contains("is about to end"), "{ran:?}");
    assert!(ran.stderr.contains("the hold on prod/db is at its end"), "{ran:?}");
    assert!(now_ms() - began > 2_000, "it was given its time");
    all_is_free(&agent);
}

/// Nobody gave it a time to end in: it gets what the hold leaves, and the rest to work in.
#[test]
fn a_command_under_a_short_hold_runs_before_it_has_to_end() {
    let agent = Agent::start(&local());
    let inner = "\"$CTL\" run prod/db --kill-after 29s -c true";
    for hold in [["--for", "20s"], ["--until", "+20s"]] {
        let args = [&["run", "prod/db"], &hold[..], &["-c", inner]].concat();
        let job = Job::start_with(&agent, &args, |command| {
            command.env("CTL", program("stormctl"));
        });
        let ran = job.ends();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(!ran.stderr.contains("has to end"), "{ran:?}");
        assert!(ran.stderr.contains("not --kill-after 29s"), "the inner one is told: {ran:?}");
    }
}

#[test]
fn a_hold_that_ends_gives_nothing_away_under_a_wrapper_that_stands_still() {
    let agent = Agent::start(&local());
    let args = ["run", "prod/db", "--ttl", "10s", "--for", "6s", "--kill-after", "1s", "-c"];
    let job = Job::start(&agent, &[&args[..], &[&counts(&agent)]].concat());
    counts_on(&agent);
    job.signal(Signal::STOP);
    let began = now_ms();
    until("its hold is over", || (now_ms() - began > 7_000).then_some(()));
    let held = agent.ctl(&["is-held", "prod/db", "--by", "me"]);
    assert_eq!(held.code, Some(0), "{held:?}");
    counts_on(&agent);
    job.signal(Signal::CONT);
    assert_eq!(job.ends().code, Some(79));
    all_is_free(&agent);
}

fn path(agent: &Agent, name: &str) -> String {
    agent.file(name).to_str().expect("a path in UTF-8").to_owned()
}
