//! Three agents on one real store, users at work on each, and everything that goes wrong: lines
//! that cut, reset, delay, hold and swallow, a store that is killed or started anew, an agent whose
//! packets vanish, that is killed at any moment or at a point of its own, or that stands still.
//! What the users were told is checked against the laws.
//!
//! `STORMLOCK_SEED` repeats the choices of a run, `STORMLOCK_STORE=redis` runs one store only.
//! Needs root, for network namespaces.

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/dice.rs"]
mod dice;
#[path = "../support/dynamo.rs"]
mod dynamo_server;
#[path = "../support/etcd.rs"]
mod etcd_server;
#[path = "../support/netns.rs"]
mod netns;
#[path = "../support/postgres.rs"]
mod postgres_server;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/redis.rs"]
mod redis_server;

mod check;
mod course;
mod history;
mod node;
mod report;
mod stores;
mod trouble;
mod users;
mod watch;

use std::sync::Mutex;
use std::{panic, thread};

use rustix::process::{Resource, getrlimit, setrlimit};
use stormlock_protocol::message::{List, Release, State, Target};

use agent::Agent;
use course::{Course, Pulse};
use dice::{Dice, now_us};
use history::{History, Told, What};
use node::Node;
use stores::{Start, Store};
use trouble::There;
use users::{Nature, User};

/// The agents.
const HOSTS: [&str; 3] = ["alpha", "beta", "gamma"];
/// Users of each agent who take, use and give back, beside the others.
const PASSERS: usize = 4;
/// One of each agent who keeps, one who is steady, and a hasty one.
const OTHERS: [Nature; 3] = [Nature::Keeper, Nature::Steady, Nature::Hasty];
/// Fewer grants than this show nothing; a quiet machine makes many times as many.
const GRANTS_MIN: usize = 40;
/// How long it may take until nothing is left, once all is well: a cancel is tried again after half
/// a minute at the latest, and then waits for its store.
const SETTLE_MAX_US: u64 = 120_000_000;

/// Most words of a failure that are said again at the end.
const SAID_MAX: usize = 8;

/// All stores at once: each run waits far more than it works.
#[test]
fn the_laws_hold_on_every_store_whatever_happens() {
    let said = what_panics_is_kept();
    as_many_files_as_allowed();
    let only = std::env::var("STORMLOCK_STORE").ok();
    let is_wanted = |(name, _): &(&str, Start)| only.as_deref().is_none_or(|it| it == *name);
    let runs = Store::ALL.into_iter().filter(is_wanted).map(|(name, start)| {
        let run = thread::Builder::new().name(name.to_owned());
        (name, run.spawn(move || whatever_happens(start())).expect("a thread"))
    });
    let runs: Vec<_> = runs.collect();
    assert!(!runs.is_empty(), "STORMLOCK_STORE names no store: {only:?}");
    let ended: Vec<_> = runs.into_iter().map(|(name, run)| (name, run.join())).collect();
    let failed: Vec<_> = ended.iter().filter(|(_, it)| it.is_err()).map(|(name, _)| name).collect();
    // Let go of before this fails: what it fails with is kept there too.
    let said = said.lock().expect("no panic while it is held").clone();
    let said = said.into_iter().take(SAID_MAX).collect::<Vec<_>>().join("\n");
    assert!(failed.is_empty(), "laws broken on {failed:?}:\n{said}");
}

/// What any thread panics with from now on: the agents' logs stand between it and the end, where a
/// log that was cut has nothing else.
fn what_panics_is_kept() -> &'static Mutex<Vec<String>> {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if let Ok(mut said) = SAID.lock() {
            let whose = thread::current().name().unwrap_or("a part of it").to_owned();
            said.push(format!("{whose}: {info}"));
        }
        before(info);
    }));
    &SAID
}

/// Every connection passes a proxy of this process.
fn as_many_files_as_allowed() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).expect("what is allowed");
}

fn whatever_happens(mut store: Store) {
    let (seed, mut dice) = Dice::told(&format!("faults on {}", store.name()));
    let nodes = HOSTS.map(|host| Node::start(host, &store));
    let (history, course) = (History::default(), Course::default());
    let pulses = HOSTS.map(|_| Pulse::default());
    let met = thread::scope(|scope| {
        let _ends = course.ends_with_this();
        for (at, (node, pulse)) in nodes.iter().zip(&pulses).enumerate() {
            let events = watch::subscribe(node, 0);
            scope.spawn({
                let it = (&history, &course);
                move || watch::events(at, node, events, it)
            });
            scope.spawn({
                let it = (&history, &course);
                move || watch::beliefs(at, node, it)
            });
            scope.spawn({
                let it = (&history, &course);
                move || watch::pulse(at, node, it, pulse)
            });
        }
        let users: Vec<_> = nodes
            .iter()
            .enumerate()
            .flat_map(|(at, node)| (0..PASSERS + OTHERS.len()).map(move |user| (at, node, user)))
            .map(|(at, node, user)| {
                let nature = OTHERS.get(user).copied().unwrap_or(Nature::Passer);
                let user = User::new((at, user), node, (&history, &course), dice.split());
                scope.spawn(move || user.works(nature))
            })
            .collect();
        let there = There { nodes: &nodes, pulses: &pulses, course: &course, history: &history };
        let mut met = trouble::all(&mut store, there, &mut dice);
        let begun = now_us();
        course.users_stop();
        for user in users {
            user.join().expect("a user was told something that nobody may be told: see above");
        }
        for (at, node) in nodes.iter().enumerate() {
            settle(at, node, &history, &course);
        }
        met.parts.push(("settling", begun, now_us()));
        met
    });
    let auditor = Agent::start(&store.config("auditor", store.port()));
    let mut client = auditor.client().expect("the auditor answers");
    let left = client.list(List { glob: None, mine: false, after: None }).expect("all locks");
    assert!(left.locks.is_empty() && left.unread.is_empty(), "orphans: {left:?}");
    let (events, longest) = history.close();
    report::print(&store, seed, &met, &events, longest);
    let wrong = check::wrong(&events);
    let told = &events.told;
    assert!(wrong.is_empty(), "{} laws broken:\n{}", wrong.len(), report::explain(&wrong, told));
    met.are_all_there(&store);
    let steady = check::seen_in_calm(&events);
    assert!(steady >= HOSTS.len(), "in the calm only {steady} leases had to be renewed");
    let unproven = events.told.iter().filter(|it| it.what == What::Unproven).count();
    assert!(unproven > 0, "no agent was ever asked before it could know");
    let grants = told.iter().filter(|it| matches!(it.what, What::Granted { .. })).count();
    assert!(grants >= GRANTS_MIN, "hardly anything was granted: {grants}");
}

/// Everybody lets go, losses are acknowledged, and waits until the agent has nothing left to do.
fn settle(at: usize, node: &Node, history: &History, course: &Course) {
    let mut connection = node.connect();
    let began = now_us();
    loop {
        let all = connection.leases().expect("the agent answers");
        if all.is_empty() {
            return;
        }
        let waited = now_us() - began;
        assert!(waited < SETTLE_MAX_US, "{} still has {all:?}", HOSTS[at]);
        for lease in all {
            let (asked, resource) = (now_us(), lease.resource);
            let what = What::Leaves;
            history.add(Told {
                agent: at,
                life: connection.life,
                resource: resource.clone(),
                lease: lease.lease,
                asked,
                answered: asked,
                what,
            });
            if lease.state != State::Released {
                let target = Target { resource, lease: Some(lease.lease) };
                connection.client.release(Release::These(vec![target])).expect("an answer");
            }
        }
        course.pause(100);
    }
}
