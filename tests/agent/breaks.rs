//! Taking a lock away: what was seen and nothing else, by whoever may, and never before whoever
//! relied on it has ended.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use stormlock_protocol::client::ClientError;
use stormlock_protocol::message::{Break, Code, Hold, LostReason, Release, State, Target};
use stormlock_protocol::name::{LeaseId, Reason};

use crate::agent::{Agent, program};
use crate::dice::now_ms;
use crate::meanwhile::Meanwhile;
use crate::redis_server::RedisServer;
use crate::run::terminal::{PROMPT, Shell};
use crate::run::{Job, wait_for_file};
use crate::{acquire, leases, local, resource, until, wish};

/// How often the wrong lease could be broken, and never is.
const RACES: usize = 1_000;

fn two(store: &RedisServer) -> (Agent, Agent) {
    (Agent::on_redis("alpha", &store.url()), Agent::on_redis("beta", &store.url()))
}

fn breaks(agent: &Agent, args: &[&str]) -> crate::program::Ran {
    agent.ctl(&[&["break", "prod/db", "-m", "it is on fire"], args].concat())
}

#[test]
fn a_broken_run_is_told_by_whom_and_why_and_nobody_has_the_resource_before_it_has_ended() {
    let store = RedisServer::start();
    let (alpha, beta) = two(&store);
    let [asked, over] = ["asked", "over"].map(|name| alpha.file(name).display().to_string());
    // It takes three seconds to end, which is more than nothing and less than it may.
    let line = format!(
        "trap 'date +%s%N >{asked}; sleep 3; date +%s%N >{over}; exit 0' TERM; echo >{asked}.up; \
         while :; do sleep 0.1; done"
    );
    let job = Job::start(&alpha, &["run", "prod/db", "--kill-after", "20s", "-c", &line]);
    wait_for_file(&alpha, "asked.up", "\n");
    let ran = breaks(&beta, &["--yes"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.is_empty() && ran.stderr.contains("of root@alpha on prod/db is broken"));
    let waits = Job::start(&beta, &["run", "prod/db", "-w", "-c", "date +%s%N"]);
    let ran = job.ends();
    assert_eq!(ran.code, Some(79), "{ran:?}");
    let told = "prod/db is lost: root@beta broke it: it is on fire";
    assert!(ran.stderr.contains(told), "{ran:?}");
    let next = waits.ends();
    assert_eq!(next.code, Some(0), "{next:?}");
    let number = |text: String| text.trim().parse::<u64>().expect("a time");
    let over = number(fs::read_to_string(over).expect("it ended by itself"));
    assert!(over < number(next.stdout.clone()), "{over} {next:?}");
}

#[test]
fn a_broken_lease_says_who_broke_it_and_its_holder_at_a_terminal_is_told() {
    let store = RedisServer::start();
    let (alpha, beta) = two(&store);
    let mut shell = Shell::start(&alpha);
    shell.types("chmod 620 $(tty); $CTL acquire prod/db --keep\n");
    shell.sees("renewed until you release it");
    shell.sees(PROMPT);
    let held = leases(&mut alpha.client().expect("it answers"));
    let ran = breaks(&beta, &["--yes", "--json", "--lease", &held[0].lease.to_string()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(json["broken"]["lease"], held[0].lease.to_string());
    assert!(json["free_in_secs"].as_u64().is_some_and(|secs| (60..=1_000).contains(&secs)));
    shell.sees("prod/db is lost: root@beta broke it: it is on fire. Stop what relies on it.");
    let lost = leases(&mut alpha.client().expect("it answers"));
    assert!(
        matches!(&lost[0].state, State::Lost(LostReason::BrokenBy { who, why: Some(why) })
            if who.as_str() == "root@beta" && why.as_str() == "it is on fire"),
        "{lost:?}"
    );
    // In the meantime it is nobody's, not even for whoever may release any.
    let id = beta.ctl(&["current", "prod/db", "--id-only"]).stdout;
    for (agent, verb) in [(&beta, "release"), (&beta, "renew"), (&alpha, "release")] {
        let ran = agent.ctl(&[verb, "prod/db", id.trim()]);
        assert_eq!(ran.code, Some(75), "{ran:?}");
        assert!(ran.stderr.contains("in the place of a broken one"), "{ran:?}");
    }
    // It says why.
    let seen = beta.ctl(&["acquire", "prod/db"]);
    assert_eq!(seen.code, Some(75), "{seen:?}");
    assert!(seen.stderr.contains(&format!("broke {}: it is on fire", held[0].lease)), "{seen:?}");
    // Whoever acknowledges it relies on it no more.
    let ran = alpha.ctl(&["release", "prod/db"]);
    assert_eq!(ran.code, Some(79), "{ran:?}");
    until("it is free", || (beta.ctl(&["acquire", "prod/db"]).code == Some(0)).then_some(()));
}

#[test]
fn whoever_gives_back_before_the_agent_has_noticed_is_told_and_the_resource_is_free() {
    let store = RedisServer::start();
    let (alpha, beta) = two(&store);
    for _ in 0..3 {
        acquire(&mut alpha.client().expect("it answers"), wish("prod/db", Hold::Keep));
        assert_eq!(breaks(&beta, &["--yes"]).code, Some(0));
        let ran = alpha.ctl(&["release", "prod/db"]);
        assert_eq!(ran.code, Some(79), "{ran:?}");
        assert!(ran.stderr.contains("root@beta broke it: it is on fire"), "{ran:?}");
        let taken = beta.ctl(&["acquire", "prod/db", "--timeout", "20s", "-o", "id"]);
        assert_eq!(taken.code, Some(0), "{taken:?}");
        assert_eq!(beta.ctl(&["release", "prod/db"]).code, Some(0));
    }
    // A command that ends by itself meanwhile has done its work, and nobody was in its place.
    let line = format!(
        "{} break prod/db --yes -m fire --socket {}; exit 3",
        program("stormctl").display(),
        beta.socket().display()
    );
    let ran =
        alpha.ctl(&["run", "prod/db", "--", "env", "-u", "STORMLOCK_LEASES", "sh", "-c", &line]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    let taken = beta.ctl(&["acquire", "prod/db", "--timeout", "20s"]);
    assert_eq!(taken.code, Some(0), "{taken:?}");
}

#[test]
fn whoever_gives_back_what_was_taken_away_at_once_hears_that_it_was_lost() {
    let store = RedisServer::start();
    let (alpha, beta) = two(&store);
    for is_retaken in [false, true] {
        acquire(&mut alpha.client().expect("it answers"), wish("prod/db", Hold::Keep));
        assert_eq!(breaks(&beta, &["--yes", "--now"]).code, Some(0));
        if is_retaken {
            assert_eq!(beta.ctl(&["acquire", "prod/db"]).code, Some(0));
        }
        let ran = alpha.ctl(&["release", "prod/db"]);
        assert_eq!(ran.code, Some(79), "{ran:?}");
        let why = if is_retaken { "root@beta has it" } else { "the store no longer has it" };
        assert!(ran.stderr.contains(&format!("the lease is lost: {why}")), "{ran:?}");
        let log = alpha.ctl(&["log", "prod/db", "-o", "jsonl"]).stdout;
        let lost = log.matches("\"event\":\"lost\"").count();
        assert_eq!(
            (lost, log.contains("\"event\":\"release\"")),
            (1 + usize::from(is_retaken), false)
        );
        let again = alpha.ctl(&["release", "prod/db", "--if-held"]);
        assert_eq!(again.code, Some(0), "it is acknowledged: {again:?}");
        assert_eq!(beta.ctl(&["release", "prod/db", "--if-held"]).code, Some(0));
    }
    let line = format!(
        "{} break prod/db --yes --now -m fire --socket {}; exit 3",
        program("stormctl").display(),
        beta.socket().display()
    );
    let ran =
        alpha.ctl(&["run", "prod/db", "--", "env", "-u", "STORMLOCK_LEASES", "sh", "-c", &line]);
    assert_eq!(ran.code, Some(79), "somebody else may have had it: {ran:?}");
    assert!(ran.stderr.contains("was lost before the command ended: the store"), "{ran:?}");
}

#[test]
fn whoever_gives_back_all_has_acknowledged_what_was_lost() {
    let store = RedisServer::start();
    let (alpha, beta) = two(&store);
    for on in ["prod/db", "prod/web"] {
        acquire(&mut alpha.client().expect("it answers"), wish(on, Hold::Keep));
    }
    assert_eq!(breaks(&beta, &["--yes"]).code, Some(0));
    let is_lost = || alpha.ctl(&["status", "--json"]).stdout.contains("\"state\": \"lost\"");
    until("it is lost", || is_lost().then_some(()));
    let ran = alpha.ctl(&["release", "--all"]);
    assert_eq!(ran.code, Some(79), "{ran:?}");
    let told = "prod/db: the lease is lost: root@beta broke it: it is on fire";
    assert!(ran.stderr.contains(told) && ran.stderr.contains("released: prod/web"), "{ran:?}");
    assert!(!is_lost(), "it is known");
    let ran = alpha.ctl(&["release", "--all"]);
    assert_eq!((ran.code, ran.stderr.contains("nothing was held")), (Some(0), true), "{ran:?}");
}

#[test]
fn a_second_break_and_an_agent_that_starts_again_leave_nothing_in_the_way() {
    let store = RedisServer::start();
    let (mut alpha, beta) = two(&store);
    acquire(&mut alpha.client().expect("it answers"), wish("prod/db", Hold::Keep));
    let left = |ran: &crate::program::Ran| {
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let json: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        json["free_in_secs"].as_u64().expect("a number")
    };
    let first = left(&breaks(&beta, &["--yes", "--json"]));
    let again = left(&beta.ctl(&["break", "prod/db", "-m", "it burns", "--yes", "--json"]));
    assert!(again <= first + 1, "{first} s, and then {again} s");
    until("it is lost", || {
        let lost = leases(&mut alpha.client().expect("it answers"));
        matches!(&lost[0].state, State::Lost(LostReason::BrokenBy { .. })).then_some(())
    });
    alpha.kill();
    alpha.restart();
    let ran = alpha.ctl(&["release", "prod/db"]);
    assert_eq!(ran.code, Some(79), "{ran:?}");
    assert!(ran.stderr.contains("root@beta broke it: it "), "{ran:?}");
    let taken = beta.ctl(&["acquire", "prod/db", "--timeout", "20s"]);
    assert_eq!(taken.code, Some(0), "{taken:?}");
}

#[test]
fn a_break_that_was_begun_is_done_and_written_down_though_nobody_waits_for_the_answer() {
    let agent = Agent::start(&local());
    let mut client = agent.client().expect("it answers");
    let mut done = 0;
    for round in 0..20 {
        let on = format!("prod/db{round}");
        let lease = acquire(&mut client, wish(&on, Hold::Keep)).lease;
        let mut breaker = agent.client().expect("it answers");
        breaker.set_patience(Duration::from_micros(50 * round));
        let reason = Reason::new("it is on fire").expect("a reason");
        let ask = Break { resource: resource(&on), lease, reason, now: true };
        let _ = breaker.break_lease(ask);
        drop(breaker);
        let told = |result: &str| {
            let log = agent.ctl(&["log", &on, "-o", "jsonl"]).stdout;
            let is_it = |line: &str| {
                line.contains("\"event\":\"break\"")
                    && line.contains(&format!("\"result\":\"{result}\""))
            };
            log.lines().any(is_it)
        };
        // What was sent is begun; before that nothing was.
        let begun = told("begun") || agent.ctl(&["is-held", &on]).code == Some(1);
        if begun {
            until("it is written down", || told("ok").then_some(()));
            assert_eq!(agent.ctl(&["is-held", &on]).code, Some(1));
            done += 1;
        }
    }
    assert!(done > 0, "nobody hung up on a break that was begun");
}

#[test]
fn nobody_takes_a_lease_that_looks_like_what_a_break_leaves() {
    let agent = Agent::start(&local());
    let forged = "broke 0af1c2d3e4f50617283940515263748f: so there";
    for verb in [&["acquire", "prod/db"][..], &["run", "prod/db", "-c", "true"]] {
        let ran = agent.ctl(&[verb, &["-m", forged]].concat());
        assert_eq!(ran.code, Some(64), "{ran:?}");
        assert!(ran.stderr.contains("say it in other words"), "{ran:?}");
    }
    assert_eq!(agent.ctl(&["acquire", "prod/db", "-m", "broke it: alas"]).code, Some(0));
}

#[test]
fn a_command_cannot_break_the_lease_that_it_runs_under() {
    let agent = Agent::start(&local());
    let ctl = program("stormctl").display().to_string();
    let line = format!("{ctl} break prod/db -m no --yes; echo code=$?");
    let ran = agent.ctl(&["run", "prod/db", "-c", &line]);
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "code=64"), "{ran:?}");
    assert!(ran.stderr.contains("would be ended, and this with it"), "{ran:?}");
}

#[test]
fn what_is_not_as_it_was_said_to_be_is_not_broken() {
    let agent = Agent::start(&local());
    let ran = breaks(&agent, &["--yes"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("nobody holds it"), "{ran:?}");
    let mut client = agent.client().expect("it answers");
    let lease = acquire(&mut client, wish("prod/db", Hold::Keep)).lease;
    let other = "0af1c2d3e4f50617283940515263748f";
    let ran = breaks(&agent, &["--yes", "--lease", other]);
    assert_eq!(ran.code, Some(75), "{ran:?}");
    assert!(ran.stderr.contains(&lease.to_string()), "{ran:?}");
    let ran = breaks(&agent, &[]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    assert!(ran.stderr.contains("no terminal to ask on"), "{ran:?}");
    let ran = agent.ctl(&["break", "prod/db", "--yes"]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    assert!(ran.stderr.contains("--reason"), "{ran:?}");
    let long = "x".repeat(220);
    let ran = agent.ctl(&["break", "prod/db", "--yes", "-m", &long]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    assert!(ran.stderr.contains("say it shorter"), "{ran:?}");
    let held = agent.ctl(&["is-held", "prod/db", &lease.to_string(), "--by", "me"]);
    assert_eq!(held.code, Some(0), "{held:?}");
}

#[test]
fn whoever_may_not_break_is_told_which_rule_says_so() {
    let uid = rustix::process::geteuid().as_raw();
    let agent = Agent::start(&format!(
        "host = \"alpha\"\n[backend.here]\nkind = \"local\"\n[[rule]]\nwho = [\"uid:{uid}\"]\n\
         may = [\"acquire\"]\n"
    ));
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", Hold::Keep));
    let ran = breaks(&agent, &["--yes"]);
    assert_eq!(ran.code, Some(77), "{ran:?}");
    assert!(ran.stderr.contains("may not break prod/db: rule 1 (line 4"), "{ran:?}");
    assert_eq!(agent.ctl(&["is-held", "prod/db", "--by", "me"]).code, Some(0));
}

#[test]
fn with_now_it_is_free_at_once_and_its_holder_is_told_all_the_same() {
    let agent = Agent::start(&local());
    let mut client = agent.client().expect("it answers");
    acquire(&mut client, wish("prod/db", Hold::Keep));
    let ran = breaks(&agent, &["--yes", "--now"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("prod/db is free"), "{ran:?}");
    let lost = leases(&mut client);
    assert!(matches!(&lost[0].state, State::Lost(LostReason::BrokenBy { .. })), "{lost:?}");
    assert_eq!(agent.ctl(&["is-held", "prod/db"]).code, Some(1));
    acquire(&mut client, wish("prod/db", Hold::Keep));
}

#[test]
fn at_a_terminal_it_shows_what_it_breaks_and_takes_no_other_word_than_yes() {
    let agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", Hold::Keep));
    let mut shell = Shell::start(&agent);
    for word in ["y", "", "no"] {
        shell.types("$CTL break prod/db -m fire; echo co''de=$?\n");
        shell.sees("prod/db is already yours");
        shell.sees("type yes to break it: fire");
        shell.types(&format!("{word}\n"));
        shell.sees("code=1");
        shell.sees(PROMPT);
        assert_eq!(agent.ctl(&["is-held", "prod/db", "--by", "me"]).code, Some(0), "{word:?}");
    }
    shell.types("$CTL break prod/db -m fire; echo co''de=$?\n");
    shell.sees("type yes to break it: fire");
    shell.types("yes\n");
    shell.sees("is broken");
    shell.sees("code=0");
    assert_eq!(agent.ctl(&["is-held", "prod/db", "--by", "me"]).code, Some(1));
}

/// One agent's user takes, gives back and takes again; another agent's breaks what it saw.
#[test]
fn the_wrong_lease_is_never_broken() {
    let store = RedisServer::start();
    let (alpha, beta) = two(&store);
    let is_over = AtomicBool::new(false);
    let (lost, broken) = thread::scope(|scope| {
        let meanwhile = Meanwhile(&is_over);
        let holder = scope.spawn(|| {
            let mut client = alpha.client().expect("it answers");
            let mut lost = BTreeSet::new();
            while !is_over.load(Ordering::Relaxed) {
                let Ok(mut taken) = client.acquire(wish("prod/db", Hold::Keep)) else { continue };
                let lease = taken.remove(0).lease;
                let target = Target { resource: resource("prod/db"), lease: Some(lease) };
                let released = client.release(Release::These(vec![target])).expect("an answer");
                if released[0].refusal.as_ref().is_some_and(|no| no.code == Code::Lost) {
                    lost.insert(lease);
                }
            }
            lost
        });
        let mut client = beta.client().expect("it answers");
        let mut broken: BTreeSet<LeaseId> = BTreeSet::new();
        let mut seen = 0;
        let began = now_ms();
        while seen < RACES {
            assert!(now_ms() - began < 4 * crate::GIVE_UP_MS, "only {seen} were seen");
            let on = resource("prod/db");
            let Some(lock) = client.current(on.clone()).expect("an answer") else { continue };
            if lock.host.as_deref() != Some("alpha") {
                continue;
            }
            seen += 1;
            let reason = Reason::new("a race").expect("a reason");
            let ask = Break { resource: on, lease: lock.lease, reason, now: true };
            match client.break_lease(ask) {
                Ok(done) => {
                    assert_eq!(done.broken.lease, lock.lease);
                    assert!(broken.insert(lock.lease), "{} was broken twice", lock.lease);
                }
                Err(ClientError::Refused(no)) => {
                    assert!(matches!(no.code, Code::Held | Code::NotHeld), "{no:?}");
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        drop(meanwhile);
        (holder.join().expect("it goes on"), broken)
    });
    println!("{} of {RACES} were broken, {} noticed so", broken.len(), lost.len());
    assert!(lost.is_subset(&broken), "{:?} were broken and never seen", lost.difference(&broken));
    assert!(!broken.is_empty() && broken.len() < RACES, "no race was run");
}

#[test]
fn a_break_stands_in_the_log_before_it_is_done_and_none_is_done_that_cannot() {
    let agent = Agent::start(&local());
    let mut client = agent.client().expect("it answers");
    let first = acquire(&mut client, wish("prod/db", Hold::Keep)).lease;
    assert_eq!(breaks(&agent, &["--yes", "--now"]).code, Some(0));
    let log = agent.ctl(&["log", "prod/db", "-o", "jsonl"]);
    assert_eq!(log.code, Some(0), "{log:?}");
    let told: Vec<serde_json::Value> =
        log.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let breaks_told: Vec<String> = told
        .iter()
        .filter(|event| event["event"] == "break" && event["lease"] == first.to_string())
        .map(|event| format!("{} {}", event["result"], event["reason"]))
        .collect();
    assert_eq!(breaks_told, ["\"begun\" \"it is on fire\"", "\"ok\" \"it is on fire\""], "{log:?}");
    assert!(told.iter().any(|event| event["event"] == "lost" && event["result"] == "broken_by"));
    let second = acquire(&mut client, wish("prod/db", Hold::Keep)).lease;
    let file = agent.file("state/audit.jsonl");
    fs::remove_file(&file).expect("it is there");
    fs::create_dir(&file).expect("what no line can be written to");
    let ran = breaks(&agent, &["--yes"]);
    assert_eq!(ran.code, Some(69), "{ran:?}");
    let told = "nothing was done: what is to be broken is written down first, and the audit file";
    assert!(ran.stderr.contains(told), "{ran:?}");
    let held = agent.ctl(&["is-held", "prod/db", &second.to_string(), "--by", "me"]);
    assert_eq!(held.code, Some(0), "{held:?}");
}
