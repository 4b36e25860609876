//! Two agents and the Python tool want one resource at the same moment, again and again: each time
//! exactly one has it, and the fences of ours only rise.

use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use stormlock_protocol::client::Client;
use stormlock_protocol::message::{Release, Target};

use crate::dice::{Dice, now_ms, now_us};
use crate::python::{Peer, Said};
use crate::stores::Store;
use crate::{Taken, acquire, resource};

const RESOURCE: &str = "prod/db";
const TTL_SECS: u32 = 3600;
/// Rounds of the gate, unless `STORMLOCK_ROUNDS` says otherwise.
const ROUNDS: usize = 1000;
/// In fewer rounds than this one contender may win nothing by chance.
const ROUNDS_MIN: usize = 50;
const CONTENDERS: usize = 3;
/// How long one try may take: more than an agent waits for its store.
const TRY_MAX: Duration = Duration::from_secs(30);

/// Somebody who wants the lock.
trait Contender: Send {
    /// The lease, and the fence if it has one; `None` when another has the lock.
    fn try_once(&mut self) -> Option<(String, Option<u64>)>;
    fn give_back(&mut self, lease: &str);
}

/// The Python tool writes no journal first, so it would win nearly every round: a pause of its own,
/// longer in one round than in another and never much longer than the agents need, makes it a fair
/// one on a slow store and on a busy machine as well.
struct Handicapped {
    peer: Peer,
    dice: Dice,
    pace: Arc<AtomicU64>,
}

impl Contender for Handicapped {
    fn try_once(&mut self) -> Option<(String, Option<u64>)> {
        let pace_us = usize::try_from(self.pace.load(Ordering::Relaxed)).expect("it is short");
        let pause_us = u64::try_from(self.dice.below(pace_us.max(1))).expect("it is shorter");
        let pause = Duration::from_micros(pause_us);
        // A wait for a word that never comes.
        let (_tell, told) = channel::<()>();
        let _ = told.recv_timeout(pause);
        match self.peer.acquire(RESOURCE, TTL_SECS) {
            Said::Granted(lease) => Some((lease, None)),
            Said::Held { .. } => None,
            other => panic!("an acquire is granted or held: {other:?}"),
        }
    }

    fn give_back(&mut self, lease: &str) {
        assert_eq!(self.peer.release(RESOURCE, lease), Said::Done);
    }
}

/// An agent's connection, and how long its tries take, in microseconds: the mean of the last few.
struct Paced {
    client: Client,
    pace: Arc<AtomicU64>,
}

impl Contender for Paced {
    fn try_once(&mut self) -> Option<(String, Option<u64>)> {
        let begun = now_us();
        let outcome = match acquire(&mut self.client, RESOURCE, TTL_SECS) {
            Taken::Granted(lease) => Some((lease.lease.to_string(), lease.fence.map(|f| f.0))),
            Taken::Held(_) => None,
        };
        let (took, mean) = (now_us() - begun, self.pace.load(Ordering::Relaxed));
        self.pace.store((mean * 7 + took) / 8, Ordering::Relaxed);
        outcome
    }

    fn give_back(&mut self, lease: &str) {
        let lease = Some(lease.parse().expect("a lease id"));
        let target = Target { resource: resource(RESOURCE), lease };
        let outcome = self.client.release(Release::These(vec![target]));
        let outcome = outcome.expect("release is answered");
        assert!(outcome.iter().all(|one| one.refusal.is_none()), "{outcome:?}");
    }
}

/// What a round was for one contender.
type Outcome = (usize, Option<(String, Option<u64>)>);

/// One contender's thread: at each `Some(())` it waits for the others and tries; the lease comes
/// back to be given back. It ends with its order book.
fn contend(
    me: usize,
    mut contender: Box<dyn Contender>,
    orders: Receiver<Order>,
    start: &Barrier,
    outcomes: Sender<Outcome>,
) {
    for order in orders {
        let outcome = match order {
            Order::Try => {
                start.wait();
                contender.try_once()
            }
            Order::GiveBack(lease) => {
                contender.give_back(&lease);
                None
            }
        };
        outcomes.send((me, outcome)).expect("somebody counts");
    }
}

enum Order {
    Try,
    GiveBack(String),
}

fn rounds() -> usize {
    let rounds = env::var("STORMLOCK_ROUNDS").ok();
    rounds.map_or(ROUNDS, |text| text.parse().expect("STORMLOCK_ROUNDS is a number"))
}

/// The contention on one store.
fn one_wins_each_round(store: &Store) {
    let name = store.name();
    let dice = Dice::seeded(&format!("contention on {name}"));
    let agents = ["alpha", "beta"].map(|host| store.agent(host));
    let (peer, pace) = (store.tool().peer(), Arc::new(AtomicU64::new(0)));
    let python = Handicapped { peer, dice, pace: Arc::clone(&pace) };
    let mut contenders: Vec<Box<dyn Contender>> = vec![Box::new(python)];
    for agent in &agents {
        let client = agent.client().expect("the agent answers");
        contenders.push(Box::new(Paced { client, pace: Arc::clone(&pace) }));
    }
    assert_eq!(contenders.len(), CONTENDERS);
    let (start, planned) = (Barrier::new(CONTENDERS), rounds());
    let (report, outcomes) = channel();
    let mut wins = [0_usize; CONTENDERS];
    let begun = now_ms();
    thread::scope(|scope| {
        let mut orders = Vec::new();
        for (me, contender) in contenders.into_iter().enumerate() {
            let (order, book) = channel();
            orders.push(order);
            let (start, report) = (&start, report.clone());
            scope.spawn(move || contend(me, contender, book, start, report));
        }
        let next = || outcomes.recv_timeout(TRY_MAX).expect("a contender fell out: see above");
        let mut fence = 0;
        for round in 0..planned {
            for order in &orders {
                order.send(Order::Try).expect("a contender ended early");
            }
            let tried: Vec<Outcome> = (0..CONTENDERS).map(|_| next()).collect();
            let mut won = tried.into_iter().filter_map(|(who, got)| got.map(|got| (who, got)));
            let (winner, (lease, got)) = won.next().expect("nobody won a free resource");
            let second = won.next();
            assert!(second.is_none(), "two holders in round {round}: {winner} and {second:?}");
            if let Some(got) = got {
                assert!(got > fence, "round {round}: fence {got} after {fence}");
                fence = got;
            }
            wins[winner] += 1;
            orders[winner].send(Order::GiveBack(lease)).expect("the winner is there");
            next();
        }
    });
    let secs = (now_ms() - begun) / 1000;
    println!(
        "contention on {name}: {planned} rounds in {secs} s, won by Python, alpha and beta: \
         {wins:?}"
    );
    assert_eq!(wins.iter().sum::<usize>(), planned);
    assert!(planned < ROUNDS_MIN || wins.iter().all(|wins| *wins > 0), "no contention: {wins:?}");
}

#[test]
fn of_two_agents_and_the_python_tool_exactly_one_wins_each_round() {
    one_wins_each_round(&Store::redis());
}

#[test]
fn of_two_agents_and_the_python_tool_exactly_one_wins_each_round_on_etcd() {
    one_wins_each_round(&Store::etcd());
}

#[test]
fn of_two_agents_and_the_python_tool_exactly_one_wins_each_round_on_postgres() {
    one_wins_each_round(&Store::postgres());
}

#[test]
fn of_two_agents_and_the_python_tool_exactly_one_wins_each_round_on_dynamodb() {
    one_wins_each_round(&Store::dynamo());
}
