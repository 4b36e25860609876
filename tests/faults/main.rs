//! Three agents on one real store, users at work on each, and everything that goes wrong between
//! agents and store: lines that cut, reset, delay, hold and swallow, a store that is killed, an
//! agent whose packets vanish. What the users were told is checked against the laws.
//!
//! `STORMLOCK_SEED` repeats the choices of a run. Needs root, for network namespaces.

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
mod report;
mod stores;
mod trouble;
mod users;
mod watch;

use std::thread;

use stormlock_protocol::message::{List, Release, State, Target};

use agent::Agent;
use course::{Course, Pulse};
use dice::{Dice, now_us};
use history::{History, Told, What};
use netns::Namespace;
use proxy::Proxy;
use stores::Store;
use users::{Nature, User, connect};

/// The agents.
const HOSTS: [&str; 3] = ["alpha", "beta", "gamma"];
/// Users of each agent who take, use and give back; beside one who keeps and a hasty one.
const PASSERS: usize = 4;
/// Fewer grants than this show nothing; a quiet machine makes many times as many.
const GRANTS_MIN: usize = 40;
/// How long it may take until nothing is left, once all is well: a cancel is tried again after half
/// a minute at the latest, and then waits for its store.
const SETTLE_MAX_US: u64 = 120_000_000;

/// One agent, in a network of its own, and its line to the store.
pub(crate) struct Node {
    pub(crate) agent: Agent,
    pub(crate) line: Proxy,
    pub(crate) network: Namespace,
}

impl Node {
    fn start(host: &str, store: &Store) -> Node {
        let network = Namespace::new();
        let line = Proxy::on(network.listen(), store.port());
        let mut agent = Agent::prepare(&store.config(host, line.port()));
        agent.restart_under(&network.words().each_ref().map(String::as_str), |_| {});
        Node { agent, line, network }
    }
}

#[test]
fn the_laws_hold_on_redis_whatever_happens_to_it() {
    whatever_happens(Store::redis());
}

#[test]
fn the_laws_hold_on_etcd_whatever_happens_to_it() {
    whatever_happens(Store::etcd());
}

#[test]
fn the_laws_hold_on_postgres_whatever_happens_to_it() {
    whatever_happens(Store::postgres());
}

#[test]
fn the_laws_hold_on_dynamodb_whatever_happens_to_it() {
    whatever_happens(Store::dynamodb());
}

fn whatever_happens(mut store: Store) {
    let (seed, mut dice) = Dice::told(&format!("faults on {}", store.name()));
    let nodes = HOSTS.map(|host| Node::start(host, &store));
    let (history, course) = (History::default(), Course::default());
    let pulses = HOSTS.map(|_| Pulse::default());
    let met = thread::scope(|scope| {
        let _ends = course.ends_with_this();
        for (at, (node, pulse)) in nodes.iter().zip(&pulses).enumerate() {
            let events = watch::subscribe(node);
            scope.spawn({
                let it = (&history, &course);
                move || watch::events(at, events, it)
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
            .flat_map(|(at, node)| (0..PASSERS + 2).map(move |user| (at, node, user)))
            .map(|(at, node, user)| {
                let nature = match user {
                    0 => Nature::Keeper,
                    1 => Nature::Hasty,
                    _ => Nature::Passer,
                };
                let user = User::new(at, node, (&history, &course), dice.split());
                scope.spawn(move || user.works(nature))
            })
            .collect();
        let mut met = trouble::all(&mut store, &nodes, &pulses, &course, &mut dice);
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
    let mut client = connect(&auditor);
    let left = client.list(List { glob: None, mine: false, after: None }).expect("all locks");
    assert!(left.locks.is_empty() && left.unread.is_empty(), "orphans: {left:?}");
    let (events, longest) = history.close();
    report::print(&store, seed, &met, &events, longest);
    let wrong = check::wrong(&events);
    let told = &events.told;
    assert!(wrong.is_empty(), "{} laws broken:\n{}", wrong.len(), report::explain(&wrong, told));
    met.are_all_there();
    let grants = told.iter().filter(|it| matches!(it.what, What::Granted { .. })).count();
    assert!(grants >= GRANTS_MIN, "hardly anything was granted: {grants}");
}

/// Everybody lets go, losses are acknowledged, and waits until the agent has nothing left to do.
fn settle(at: usize, node: &Node, history: &History, course: &Course) {
    let mut client = connect(&node.agent);
    let began = now_us();
    loop {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = client.status(after).expect("the agent answers");
            all.extend(page.leases);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
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
                resource: resource.clone(),
                lease: lease.lease,
                asked,
                answered: asked,
                what,
            });
            if lease.state != State::Released {
                let target = Target { resource, lease: Some(lease.lease) };
                client.release(Release::These(vec![target])).expect("an answer");
            }
        }
        course.pause(100);
    }
}
