//! Waiting, with the real agent and the real client: whose turn it is, what is seen meanwhile, and
//! that nothing is left of a wait that ends.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use stormlock_protocol::client::ClientError;
use stormlock_protocol::message::{Acquire, Attach, Code, Hold, Target};
use stormlock_protocol::process::Process;

use crate::agent::{Agent, program};
use crate::dice::now_ms;
use crate::redis_server::RedisServer;
use crate::run::Job;
use crate::{acquire, leases, local, locks, resource, until, wish};

/// `stormctl` that waits; its first sentence on stderr was read.
struct Waiter {
    child: Child,
    said: Vec<String>,
}

impl Waiter {
    fn start(agent: &Agent, args: &[&str]) -> Waiter {
        let mut command = Command::new(program("stormctl"));
        command.arg("--socket").arg(agent.socket()).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("stormctl can be started");
        let stderr = child.stderr.as_mut().expect("stderr is a pipe");
        let mut line = String::new();
        BufReader::with_capacity(1, stderr).read_line(&mut line).expect("it says that it waits");
        assert!(line.contains("waiting for"), "{line}");
        Waiter { child, said: vec![line] }
    }

    fn ends(self) -> (Option<i32>, String) {
        let output = self.child.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn give_back(agent: &Agent, name: &str) {
    let ran = agent.ctl(&["release", name]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    let agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", Hold::Keep));
    let mut waiters = Vec::new();
    for number in 1..=3 {
        let why = format!("number {number}");
        let waiter = Waiter::start(&agent, &["acquire", "prod/db", "--keep", "-w", "-m", &why]);
        let place =
            if number == 1 { ", yours already " } else { &format!("number {number} of {number}") };
        assert!(waiter.said[0].contains(place), "{:?}", waiter.said);
        waiters.push(waiter);
    }
    let seen = agent.ctl(&["acquire", "prod/db"]);
    assert_eq!(seen.code, Some(75));
    assert!(seen.stderr.contains("waiting 3 on this host"), "{seen:?}");
    for (number, waiter) in (1..).zip(waiters) {
        give_back(&agent, "prod/db");
        let (code, id) = waiter.ends();
        assert_eq!(code, Some(0));
        let held = leases(&mut agent.client().expect("it answers"));
        let held = held.iter().find(|lease| lease.lease.to_string() == id.trim());
        let reason = held.and_then(|lease| lease.reason.as_ref()).map(ToString::to_string);
        assert_eq!(reason.as_deref(), Some(&*format!("number {number}")));
    }
    give_back(&agent, "prod/db");
}

/// What is told after a wait is told of then.
#[test]
fn times_that_are_shown_after_a_wait_are_those_of_its_end() {
    let agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", Hold::Keep));
    let job = Job::start(&agent, &["acquire", "prod/db", "-w", "--ttl", "5m", "--json"]);
    until("it waits", || job.said().contains("waiting for").then_some(()));
    let began = now_ms();
    until("a while is over", || (now_ms() - began > 4_000).then_some(()));
    assert_eq!(agent.ctl(&["release", "prod/db"]).code, Some(0));
    let ran = job.ends();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let end = |text: &str| {
        let json: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let text = json["leases"][0]["until"].as_str().expect("a time").to_owned();
        text.parse::<jiff::Timestamp>().expect("RFC 3339").as_second()
    };
    let status = agent.ctl(&["status", "--json"]).stdout;
    let apart = end(&status) - end(&ran.stdout);
    assert!(apart.abs() <= 1, "{apart} s apart: {} {status}", ran.stdout);
}

#[test]
fn a_wait_that_is_over_is_no_success_and_says_who_has_it() {
    let agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", Hold::Keep));
    for verb in ["acquire", "wait"] {
        let ran = agent.ctl(&[verb, "prod/db", "--timeout", "1s"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(75), ""), "{ran:?}");
        assert!(ran.stderr.contains("already yours") && ran.stderr.contains("lease"), "{ran:?}");
        let told = agent.ctl(&["--json", verb, "prod/db", "--timeout", "1s"]);
        assert!(told.stderr.contains("\"code\":\"timeout\""), "{told:?}");
    }
    assert_eq!(leases(&mut agent.client().expect("it answers")).len(), 1);
}

#[test]
fn whoever_goes_away_while_waiting_leaves_no_trace() {
    let store = RedisServer::start();
    let agents = ["alpha", "beta"].map(|host| Agent::on_redis(host, &store.url()));
    acquire(&mut agents[0].client().expect("it answers"), wish("prod/db", Hold::Keep));
    for signal in [Signal::INT, Signal::KILL] {
        let args = ["acquire", "prod/app", "prod/db", "--keep", "--wait"];
        let waiter = Waiter::start(&agents[1], &args);
        kill_process(Pid::from_child(&waiter.child), signal).expect("our own child");
        assert_eq!(waiter.ends().0, None, "it died of the signal");
        until("nothing is left of it", || {
            let mine = leases(&mut agents[1].client().expect("it answers"));
            mine.is_empty().then_some(())
        });
    }
    give_back(&agents[0], "prod/db");
    until("and nothing in the store", || {
        locks(&mut agents[0].client().expect("it answers")).is_empty().then_some(())
    });
}

#[test]
fn several_resources_are_waited_for_without_holding_any() {
    let store = RedisServer::start();
    let agents = ["alpha", "beta"].map(|host| Agent::on_redis(host, &store.url()));
    acquire(&mut agents[0].client().expect("it answers"), wish("prod/db", Hold::Keep));
    let waiter = Waiter::start(&agents[1], &["acquire", "prod/app", "prod/db", "--keep", "-w"]);
    until("it holds nothing while it waits", || {
        let seen = locks(&mut agents[0].client().expect("it answers"));
        (seen.len() == 1).then_some(())
    });
    give_back(&agents[0], "prod/db");
    let (code, ids) = waiter.ends();
    assert_eq!((code, ids.lines().count()), (Some(0), 2));
    assert_eq!(locks(&mut agents[0].client().expect("it answers")).len(), 2);
}

#[test]
fn a_bound_lease_ends_with_its_process_also_across_a_kill_of_the_agent() {
    let mut agent = Agent::start(&local());
    for restarts in [false, true] {
        let mut shell = Command::new("cat").stdin(Stdio::piped()).spawn().expect("a process");
        let pid = shell.id().to_string();
        let ran = agent.ctl(&["acquire", "prod/db", "--keep", "--bind", &pid]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        if restarts {
            agent.kill();
            agent.restart();
        }
        until("it is held", || {
            let held = agent.ctl(&["is-held", "prod/db", "--by", "me"]);
            (held.code == Some(0)).then_some(())
        });
        shell.kill().expect("our own child");
        shell.wait().expect("our own child");
        until("its lease is given back", || {
            leases(&mut agent.client().expect("it answers")).is_empty().then_some(())
        });
    }
    let ran = agent.ctl(&["acquire", "prod/db", "--bind", "4194303"]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    assert!(ran.stderr.contains("process 4194303") && ran.stderr.contains("$$"), "{ran:?}");
}

/// As the unit's `ProtectProc=invisible` does, and hosts with `hidepid`.
#[test]
fn a_bound_lease_ends_with_its_process_also_where_proc_hides_that_from_the_agent() {
    let mut agent = Agent::prepare(&local());
    let dir = agent.file("");
    let dir = dir.to_str().expect("a path in UTF-8");
    let hidden = format!(
        "mount -t proc -o hidepid=2 proc /proc && cp \"$0\" {dir}/agent && chown -R 64999 {dir} && \
         exec setpriv --reuid 64999 --clear-groups {dir}/agent \"$@\""
    );
    agent.restart_under(&["unshare", "--mount", "sh", "-c", &hidden], |_| {});
    let mut shell = Command::new("cat").stdin(Stdio::piped()).spawn().expect("a process");
    let pid = shell.id().to_string();
    let ran = agent.ctl(&["acquire", "prod/db", "--keep", "--bind", &pid]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(agent.ctl(&["is-held", "prod/db", "--by", "me"]).code, Some(0));
    shell.kill().expect("our own child");
    shell.wait().expect("our own child");
    until("its lease is given back", || {
        leases(&mut agent.client().expect("it answers")).is_empty().then_some(())
    });
    let ran = agent.ctl(&["acquire", "prod/db", "--bind", &pid]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
}

#[test]
fn a_lease_may_be_attached_to_another_end_by_its_owner_only_to_what_is_there() {
    let agent = Agent::start(&local());
    let mut first = agent.client().expect("it answers");
    let lease =
        acquire(&mut first, Acquire { attach: Attach::Session, ..wish("prod/db", Hold::Keep) });
    let me = Process::look(std::process::id(), false).expect("this process");
    let target = Target { resource: resource("prod/db"), lease: Some(lease.lease) };
    let attached = first.attach(vec![target.clone()], Attach::Process(me)).expect("attached");
    assert_eq!(attached[0].attach, Attach::Process(me));
    drop(first);
    let mut second = agent.client().expect("it answers");
    assert_eq!(leases(&mut second).len(), 1, "it ends with the process, not the connection");
    let gone = Process { started: me.started + 1, ..me };
    let refused = second.attach(vec![target.clone()], Attach::Process(gone));
    assert!(matches!(refused, Err(error) if code(&error) == Some(Code::BadRequest)));
    second.attach(vec![target], Attach::Detached).expect("attached to nobody");
}

#[test]
fn a_wait_outlives_restarts_of_the_agent() {
    for verb in [&["acquire", "prod/db", "--keep", "-w"][..], &["wait", "prod/db"]] {
        let mut agent = Agent::start(&local());
        acquire(&mut agent.client().expect("it answers"), wish("prod/db", Hold::Keep));
        let mut job = crate::run::Job::start(&agent, verb);
        for restart in 0..3 {
            until("it waits", || {
                (job.said().matches("waiting for prod/db").count() > restart).then_some(())
            });
            match restart {
                0 => agent.kill(),
                1 => assert!(agent.stop().success()),
                _ => break,
            }
            agent.restart();
        }
        assert!(job.is_running(), "{}", job.said());
        until("it can be given back", || {
            (agent.ctl(&["release", "prod/db"]).code == Some(0)).then_some(())
        });
        let ran = job.ends();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let held = leases(&mut agent.client().expect("it answers"));
        let held: Vec<String> = held.iter().map(|lease| lease.lease.to_string()).collect();
        let told: Vec<&str> = ran.stdout.lines().collect();
        assert_eq!(held, told, "what it printed, and nothing else");
    }
}

/// Killed when the grant, or what it was attached to, was written down and not told yet.
#[test]
fn a_wait_that_was_granted_when_the_agent_died_leaves_one_lease() {
    std::thread::scope(|scope| {
        for point in ["acquire-tell:1", "renew-tell:1"] {
            scope.spawn(move || {
                let mut agent = Agent::prepare(&local());
                agent.restart_with(|command| {
                    command.env("STORMLOCK_FAILPOINT", point);
                });
                let args = ["acquire", "prod/db", "--keep", "-w"];
                let job = crate::run::Job::start(&agent, &args);
                assert!(agent.ends_within(std::time::Duration::from_secs(60)), "{point}");
                agent.kill();
                agent.restart();
                let ran = job.ends();
                assert_eq!(ran.code, Some(0), "{point}: {ran:?}");
                let held = leases(&mut agent.client().expect("it answers"));
                assert_eq!(held.len(), 1, "{point}: {held:?}");
                assert_eq!(ran.stdout.trim(), held[0].lease.to_string(), "{point}");
                assert_eq!(held[0].attach, Attach::Detached, "{point}");
            });
        }
    });
}

#[test]
fn a_wait_outlives_a_store_that_is_away_for_a_while() {
    let store = RedisServer::start();
    let agents = ["alpha", "beta"].map(|host| Agent::on_redis(host, &store.url()));
    acquire(&mut agents[0].client().expect("it answers"), wish("prod/db", Hold::Keep));
    let waiter = Waiter::start(&agents[1], &["acquire", "prod/db", "--keep", "-w"]);
    store.freeze();
    until("the waiting agent sees it", || {
        let status = agents[1].ctl(&["status"]);
        status.stdout.contains("cannot be used").then_some(())
    });
    store.thaw();
    give_back(&agents[0], "prod/db");
    assert_eq!(waiter.ends().0, Some(0));
}

fn code(error: &ClientError) -> Option<Code> {
    match error {
        ClientError::Refused(refusal) => Some(refusal.code),
        _ => None,
    }
}

#[test]
fn nobody_waits_for_a_hold_beyond_its_end() {
    let agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", Hold::Keep));
    let began = now_ms();
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
    let ran = agent.ctl(&["acquire", "prod/db", "--wait", "--until", &end.to_string()]);
    assert_eq!(ran.code, Some(75), "{ran:?}");
    assert!((2_000..60_000).contains(&(now_ms() - began)), "{ran:?}");
}
