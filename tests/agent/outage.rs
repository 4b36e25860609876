//! A store that is away, answers late or answers nothing: bounded waits, clear words, no lease lost
//! whose ttl allows that, and none that nobody knows of.

use stormlock_protocol::client::ClientError;
use stormlock_protocol::message::{
    Acquire, Code, Event, Health, Hold, Level, LostReason, Release, State,
};

use crate::agent::Agent;
use crate::day::ok;
use crate::dice::now_ms;
use crate::proxy::{Fault, Proxy};
use crate::redis_server::{Answer, RedisServer, free_port};
use crate::{acquire, leases, local, locks, resource, ttl, until, wish};

fn behind(proxy: &Proxy) -> Agent {
    Agent::on_redis("alpha", &format!("redis://127.0.0.1:{}", proxy.port()))
}

#[test]
fn a_store_that_is_down_is_said_in_bounded_time_and_takes_nothing() {
    let agent = Agent::on_redis("alpha", &format!("redis://127.0.0.1:{}", free_port()));
    let began = now_ms();
    let ran = agent.ctl(&["acquire", "prod/db"]);
    assert_eq!(ran.code, Some(69), "{ran:?}");
    assert!(ran.stderr.contains("main") && ran.stderr.contains("reached"), "{ran:?}");
    assert!(now_ms() - began < 15_000, "a person waited too long");
    let status = agent.ctl(&["status"]);
    assert_eq!(status.code, Some(0));
    assert!(status.stdout.contains("cannot be used"), "{status:?}");
    let doctor = agent.ctl(&["doctor"]);
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
    let listed = agent.ctl(&["list"]);
    assert_eq!(listed.code, Some(69), "{listed:?}");
}

#[test]
fn a_wait_for_a_store_that_is_away_ends_as_unavailable_and_says_what_to_look_at() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = mute.local_addr().expect("its address").port();
    let agent = Agent::on_redis("alpha", &format!("redis://127.0.0.1:{port}"));
    for (timeout, why) in [("1s", "without an answer: backend main"), ("20s", "backend main")] {
        let ran = agent.ctl(&["acquire", "prod/db", "--timeout", timeout]);
        assert_eq!(ran.code, Some(69), "{ran:?}");
        assert!(ran.stderr.contains(why), "{ran:?}");
        assert!(ran.stderr.contains("stormctl doctor"), "{ran:?}");
        assert!(!ran.stderr.contains("hands"), "{ran:?}");
    }
}

#[test]
fn a_wait_during_which_a_store_goes_away_ends_as_unavailable_too() {
    let store = RedisServer::start();
    let proxy = Proxy::start(store.port());
    let agent = behind(&proxy);
    let other = Agent::on_redis("beta", &store.url());
    acquire(&mut other.client().expect("it answers"), wish("prod/db", Hold::Keep));
    for verb in ["acquire", "wait"] {
        let job = crate::run::Job::start(&agent, &[verb, "prod/db", "--timeout", "20s"]);
        until("it waits", || job.said().contains("waiting for prod/db").then_some(()));
        proxy.refuse(true);
        proxy.cut();
        let ran = job.ends();
        assert_eq!(ran.code, Some(69), "{verb}: {ran:?}");
        let told = ran.stderr.contains("without an answer: backend main cannot be reached");
        assert!(told && ran.stderr.contains("stormctl doctor"), "{verb}: {ran:?}");
        proxy.refuse(false);
        until("the store is back", || {
            (agent.ctl(&["current", "prod/db"]).code == Some(0)).then_some(())
        });
    }
}

/// Stores of a test that never answer: the kernel takes connections for them.
const MUTE: usize = 8;

/// An agent with a local store and many that are mute.
fn among_the_mute(mute: &std::net::TcpListener) -> Agent {
    let port = mute.local_addr().expect("its address").port();
    let mut config = local();
    for n in 0..MUTE {
        // Some before the one that answers, some after it.
        let name = if n % 2 == 0 { "a" } else { "mute" };
        let url = format!("redis://127.0.0.1:{port}");
        config += &format!("[backend.{name}{n}]\nkind = \"redis\"\nurl = \"{url}\"\n");
    }
    Agent::start(&format!("default_backend = \"here\"\n{config}"))
}

#[test]
fn a_list_waits_for_many_mute_stores_no_longer_than_for_two() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let agent = among_the_mute(&mute);
    let mut client = agent.client().expect("the agent answers");
    acquire(&mut client, wish("prod/db", Hold::Keep));
    let began = now_ms();
    let listed = agent.ctl(&["list", "-o", "tsv"]);
    // Those before the page's store, and those after it on the next page.
    assert!(now_ms() - began < 18_000, "they were waited for one after the other");
    assert_eq!(listed.code, Some(69), "{listed:?}");
    assert!(listed.stdout.starts_with("prod/db\t"), "{listed:?}");
    let unread = listed.stderr.lines().filter(|line| line.contains("could not be read"));
    assert_eq!(unread.count(), MUTE, "{listed:?}");
}

#[test]
fn a_doctor_waits_for_many_mute_stores_no_longer_than_for_one() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let agent = among_the_mute(&mute);
    let mut client = agent.client().expect("the agent answers");
    let began = now_ms();
    let findings = client.doctor().expect("what is wrong");
    assert!(now_ms() - began < 12_000, "they were waited for one after the other");
    let bad = findings.iter().filter(|it| it.level == Level::Bad);
    let about: Vec<&str> = bad.map(|it| it.about.as_str()).collect();
    assert_eq!(about.len(), MUTE, "{findings:?}");
    assert!(about.is_sorted(), "{about:?}");
}

#[test]
fn a_lease_in_a_store_that_no_configuration_names_is_not_said_to_be_waited_for() {
    let store = RedisServer::start();
    let mut agent = Agent::start(&local());
    acquire(&mut agent.client().expect("the agent answers"), wish("prod/db", Hold::Keep));
    agent.stop();
    agent.configure(&local().replace(
        "[backend.here]\nkind = \"local\"",
        &format!("[backend.main]\nkind = \"redis\"\nurl = \"{}\"", store.url()),
    ));
    agent.restart();
    let doctor = ok(agent.ctl(&["doctor"]));
    let told = "no configuration names it, and leases in it are kept here (1): none of them is";
    assert!(doctor.contains("backend here") && doctor.contains(told), "{doctor}");
    let ran = agent.ctl(&["release", "prod/db"]);
    assert_eq!(ran.code, Some(69), "{ran:?}");
    assert!(ran.stderr.contains("backend here cannot be reached"), "{ran:?}");
}

#[test]
fn an_outage_shorter_than_the_ttl_costs_no_lease() {
    let store = RedisServer::start();
    let proxy = Proxy::start(store.port());
    let agent = behind(&proxy);
    let mut client = agent.client().expect("the agent answers");
    let ask = Acquire { ttl: Some(ttl(15)), ..wish("prod/db", Hold::Keep) };
    let lease = acquire(&mut client, ask);
    let mut events = agent.client().expect("the agent answers");
    events.subscribe().expect("a stream");

    proxy.refuse(true);
    proxy.cut();
    let at_risk = until("a failed renewal is told", || told(&mut events, &State::AtRisk));
    assert_eq!(at_risk, lease.lease);
    proxy.refuse(false);
    let held = until("the lease is safe again", || told(&mut events, &State::Held));
    assert_eq!(held, lease.lease);
    assert_eq!(locks(&mut client)[0].lease, lease.lease);
    assert_eq!(locks(&mut client)[0].fence, lease.fence);
}

fn told(
    events: &mut stormlock_protocol::client::Client,
    state: &State,
) -> Option<stormlock_protocol::name::LeaseId> {
    match events.next_event(Some(std::time::Duration::from_secs(20))).expect("an event") {
        Event::Lease(lease) => (lease.state == *state).then_some(lease.lease),
        Event::Caught | Event::Anew => None,
    }
}

#[test]
fn an_acquire_whose_answer_is_lost_is_granted_once_or_cancelled() {
    let store = RedisServer::start();
    let proxy = Proxy::start(store.port());
    let agent = behind(&proxy);
    let mut client = agent.client().expect("the agent answers");
    for round in 0..20 {
        let name = format!("res{round}");
        let faults = [Fault::LoseAnswer, Fault::CutAfter, Fault::CutBefore];
        proxy.when(&name, faults[round % faults.len()]);
        match client.acquire(wish(&name, Hold::Keep)) {
            Ok(taken) => assert_eq!(taken.len(), 1),
            Err(ClientError::Refused(no)) => assert_eq!(no.code, Code::Unavailable, "{no:?}"),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(proxy.hits() > 0, "nothing was lost: nothing was shown");
    until("the store and the agent agree", || {
        let known: Vec<_> = leases(&mut client).into_iter().map(|it| it.lease).collect();
        let stored = locks(&mut client);
        let same = stored.iter().all(|lock| known.contains(&lock.lease));
        (same && stored.len() == known.len()).then_some(())
    });
    client.release(Release::All).expect("given back");
    until("nothing is left", || locks(&mut client).is_empty().then_some(()));
}

#[test]
fn a_frozen_store_loses_the_lease_in_time_and_says_so_once() {
    let store = RedisServer::start();
    let proxy = Proxy::start(store.port());
    let agent = behind(&proxy);
    let mut client = agent.client().expect("the agent answers");
    let began = now_ms();
    acquire(&mut client, Acquire { ttl: Some(ttl(3)), ..wish("prod/db", Hold::Keep) });
    let mut events = agent.client().expect("the agent answers");
    events.subscribe().expect("a stream");
    proxy.freeze();
    let lost = |events: &mut stormlock_protocol::client::Client| match events
        .next_event(Some(std::time::Duration::from_secs(20)))
        .expect("an event")
    {
        Event::Lease(lease) => matches!(lease.state, State::Lost(_)).then_some(()),
        Event::Caught | Event::Anew => None,
    };
    until("the loss is told", || lost(&mut events));
    // One renewal may have come through before the freeze; its ttl counts from then.
    assert!(now_ms() - began < 6500, "told after {} ms", now_ms() - began);
    assert!(matches!(leases(&mut client)[0].state, State::Lost(_)));
    proxy.thaw();
    until("the store is up again", || {
        locks(&mut client);
        let status = client.status(None).expect("the agent answers");
        (status.backends[0].health == Health::Up).then_some(())
    });
    assert!(matches!(leases(&mut client)[0].state, State::Lost(_)), "lost stays lost");
}

#[test]
fn a_key_of_somebody_else_is_left_alone_and_said() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    store.run("SET prod/db precious");
    store.run("HSET prod/hash field precious");
    for name in ["prod/db", "prod/hash"] {
        let ran = agent.ctl(&["acquire", name]);
        assert_eq!(ran.code, Some(78), "{ran:?}");
        assert!(ran.stderr.contains("no lock"), "{ran:?}");
    }
    assert_eq!(store.run("GET prod/db").text(), "precious");
    assert_eq!(store.run("HGET prod/hash field").text(), "precious");
}

#[test]
fn all_leases_are_given_back_at_once_by_as_many_replies_as_they_need() {
    let store = RedisServer::start();
    let proxy = Proxy::start(store.port());
    let agent = behind(&proxy);
    let mut client = agent.client().expect("the agent answers");
    for group in 0..8 {
        let name = |at| resource(&format!("{}/{group}/{at:02}", "x".repeat(120)));
        let resources = (0..32).map(name).collect();
        let ask = Acquire { resources, ttl: Some(ttl(20)), ..wish("a", Hold::Keep) };
        client.acquire(ask).expect("granted");
    }
    // No answer to any of them: the longest outcomes, after the longest wait.
    proxy.freeze();
    let began = now_ms();
    let outcomes = client.release(Release::All).expect("what became of each");
    assert_eq!(outcomes.len(), 256);
    assert!(outcomes.iter().all(|one| one.refusal.is_some()), "{outcomes:?}");
    assert!(now_ms() - began < 20_000, "the store was waited for more often than once a reply");
    proxy.thaw();
    // What is left are the fences.
    until("the agent goes on", || (store.run("DBSIZE") == Answer::Int(1)).then_some(()));
}

#[test]
fn a_store_that_came_back_with_old_data_is_noticed_by_the_next_question_to_it() {
    let dir = tempfile::tempdir().expect("a folder for its data");
    let mut store = RedisServer::start_in(dir, &["--save", "", "--dir", "{dir}"]);
    let agent = Agent::on_redis("alpha", &store.url());
    let mut client = agent.client().expect("the agent answers");
    assert_eq!(store.run("SAVE"), Answer::Simple("OK".to_owned()));
    acquire(&mut client, wish("prod/db", Hold::Keep));
    let began = now_ms();
    store.kill();
    store.start_again();
    assert!(locks(&mut client).is_empty());
    let lost = State::Lost(LostReason::StoreLostIt);
    until("it is lost", || (leases(&mut client)[0].state == lost).then_some(()));
    assert!(now_ms() - began < 10_000, "it was believed until its next read-back");
}

/// So many times a lock is taken and given back: its log would fill a pipe many times over.
const IN_A_LOG: usize = 1000;

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let mut agent = Agent::start(&local());
    agent.kill();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    agent.restart_with(|command| {
        command.env("STORMLOCK_LOG", "trace").stderr(writer);
    });
    let mut client = agent.client().expect("it answers");
    for _ in 0..IN_A_LOG {
        acquire(&mut client, wish("prod/db", Hold::Keep));
        client.release(Release::All).expect("given back");
    }
    let held = rustix::io::ioctl_fionread(&reader).expect("what waits in the pipe");
    assert!(held > 32_000, "the pipe was never full: {held}");
    agent.stop();
}
