//! `kill -9` of the agent at random instants, while clients take, renew and give back: no lease
//! that a client was told of is lost, and none is left behind that nobody knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{
    Code, Hold, Lease, LostReason, Release, Released, Renew, State, Target,
};
use stormlock_protocol::name::{Fence, LeaseId, Resource};

use crate::agent::Agent;
use crate::dice::Dice;
use crate::redis_server::RedisServer;
use crate::{leases, local, locks, until_right, wish};

const KILLS: usize = 100;
const CLIENTS: u64 = 4;
const RESOURCES: usize = 6;

/// What the clients were told, and so may count on.
#[derive(Default)]
struct Told {
    held: BTreeMap<LeaseId, Resource>,
    /// Asked to be given back, and never answered.
    leaving: BTreeSet<LeaseId>,
    fences: BTreeMap<Resource, Fence>,
    granted: usize,
    unknown: usize,
}

impl Told {
    fn take(&mut self, dice: &mut Dice) -> Option<(LeaseId, Resource)> {
        let which = dice.below(self.held.len().max(1));
        let lease = *self.held.keys().nth(which)?;
        self.held.remove_entry(&lease)
    }

    fn grant(&mut self, lease: &Lease) {
        let fence = lease.fence.expect("a granted lease has a fence");
        let before = self.fences.insert(lease.resource.clone(), fence);
        assert!(before < Some(fence), "a fence did not rise: {before:?}, then {lease:?}");
        self.held.insert(lease.lease, lease.resource.clone());
        self.granted += 1;
    }
}

/// Works until the connection breaks: that is the kill.
fn work(mut client: Client, told: &Mutex<Told>, mut dice: Dice, begins: &Sender<()>) {
    let told = || told.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let _ = begins.send(());
        let outcome = match dice.below(4) {
            0 | 1 => {
                let name = format!("res{}", dice.below(RESOURCES));
                client.acquire(wish(&name, Hold::Keep)).map(|leases| {
                    for lease in &leases {
                        told().grant(lease);
                    }
                })
            }
            action => {
                let Some((lease, on)) = told().take(&mut dice) else { continue };
                let target = Target { resource: on.clone(), lease: Some(lease) };
                if action == 2 {
                    // From the question on it may be gone: nobody counts on it any more.
                    told().leaving.insert(lease);
                    client.release(Release::These(vec![target])).map(|outcomes| {
                        assert!(outcomes.iter().all(|one| one.refusal.is_none()), "{outcomes:?}");
                        told().leaving.remove(&lease);
                    })
                } else {
                    let renewed = client.renew(Renew { target, ttl: None, hold: None });
                    told().held.insert(lease, on);
                    renewed.map(drop)
                }
            }
        };
        match outcome {
            Ok(()) => {}
            Err(ClientError::Refused(no)) if no.code == Code::Held => {}
            Err(ClientError::Refused(no)) => panic!("refused: {no:?}"),
            Err(_) => {
                told().unknown += 1;
                return;
            }
        }
    }
}

/// One round: clients at work, the kill in the midst of it, and the next start.
fn kill_at_work(agent: &mut Agent, told: &Mutex<Told>, dice: &mut Dice) {
    let (begins, begun) = channel();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let client = agent.client().expect("the agent answers");
            let (own, begins) = (dice.split(), begins.clone());
            scope.spawn(move || work(client, told, own, &begins));
        }
        for _ in 0..dice.below(60) {
            begun.recv().expect("the clients are at work");
        }
        agent.kill();
    });
    agent.restart();
}

/// After a start: everything that somebody counts on is held, in the store too, and everything in
/// the store is known.
fn look(agent: &Agent, told: &Mutex<Told>, round: usize) {
    let mut client = agent.client().expect("the agent answers");
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let known = until_right("everything is settled after a start", || {
        let mut known = leases(&mut client);
        // The store let go, and the crash came before the journal had that: the next start finds it
        // gone, and says so to somebody who had no answer to the release.
        let gone = |it: &Lease| it.state == State::Lost(LostReason::StoreLostIt);
        known.retain(|it| !(gone(it) && told.leaving.contains(&it.lease)));
        let settled = known.iter().all(|it| matches!(it.state, State::Held));
        let known: BTreeMap<LeaseId, Lease> = known.into_iter().map(|it| (it.lease, it)).collect();
        let stored = locks(&mut client);
        let same = stored.len() == known.len()
            && stored
                .iter()
                .all(|lock| known.get(&lock.lease).is_some_and(|it| it.fence == lock.fence));
        // A lease that is being cancelled is in the store for a moment longer.
        if settled && same { Ok(known) } else { Err(format!("{known:?}\n{stored:?}")) }
    });
    for (lease, on) in &told.held {
        assert!(known.contains_key(lease), "round {round}: lease {lease} on {on} was lost");
    }
    for (lease, it) in known {
        if let std::collections::btree_map::Entry::Vacant(free) = told.held.entry(lease) {
            // Its answer was lost in the crash; the agent kept it for whoever asked.
            free.insert(it.resource.clone());
            let fence = it.fence.expect("a held lease has a fence");
            told.fences.insert(it.resource, fence);
        }
    }
}

pub(crate) fn kill_again_and_again(mut agent: Agent, name: &str, kills: usize) {
    let mut dice = Dice::seeded(name);
    let told = Mutex::new(Told::default());
    for round in 0..kills {
        kill_at_work(&mut agent, &told, &mut dice);
        look(&agent, &told, round);
    }
    let mut client = agent.client().expect("the agent answers");
    let told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
    let outcomes = client.release(Release::All).expect("all are given back");
    // As in `look`: what the last crash took with the answer to its release is refused as lost.
    let may_be_lost = |one: &Released| {
        let lost = one.refusal.as_ref().is_some_and(|no| no.code == Code::Lost);
        lost && one.lease.is_some_and(|lease| told.leaving.contains(&lease))
    };
    let given_back = |one: &Released| one.refusal.is_none() || may_be_lost(one);
    assert!(outcomes.iter().all(given_back), "{outcomes:?}");
    assert!(locks(&mut client).is_empty(), "an orphan");
    println!("{name}: {kills} kills, {} grants, {} unknown", told.granted, told.unknown);
    assert!(told.granted > kills, "hardly anything was granted: nothing was shown");
    assert!(told.unknown > kills, "hardly anything was interrupted: nothing was shown");
}

#[test]
fn kill_9_a_hundred_times_loses_no_lease_and_leaves_no_orphan_on_redis() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    kill_again_and_again(agent, "kill_on_redis", KILLS);
}

#[test]
fn kill_9_a_hundred_times_loses_no_lease_and_leaves_no_orphan_on_the_local_backend() {
    kill_again_and_again(Agent::start(&local()), "kill_on_local", KILLS);
}
