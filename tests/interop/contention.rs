//! Two agents and the Python tool want one resource at the same moment, again and again: each time
//! exactly one has it, and the fences of ours only rise.

use std::env;
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use stormlock_protocol::client::Client;
use stormlock_protocol::message::{Release, Target};

use crate::agent::Agent;
use crate::dice::{Dice, now_ms};
use crate::python::{Peer, PythonTool, Said};
use crate::redis_server::RedisServer;
use crate::{Taken, acquire, resource};

const RESOURCE: &str = "prod/db";
const TTL_SECS: u32 = 3600;
/// Rounds of the gate, unless `STORMLOCK_ROUNDS` says otherwise, ended early by the time.
const ROUNDS: usize = 1000;
const GATE_MS: u64 = 60_000;
/// Fewer rounds than this show nothing.
const ROUNDS_MIN: usize = 50;
const CONTENDERS: usize = 3;
/// Most questions that the Python tool asks before its try: as long as two writes to a disk take.
const HANDICAP_MAX: usize = 60;
/// How long one try may take: more than an agent waits for its store.
const TRY_MAX: Duration = Duration::from_secs(30);

/// Somebody who wants the lock.
trait Contender: Send {
    /// The lease, and the fence if it has one; `None` when another has the lock.
    fn try_once(&mut self) -> Option<(String, Option<u64>)>;
    fn give_back(&mut self, lease: &str);
}

impl Contender for Client {
    fn try_once(&mut self) -> Option<(String, Option<u64>)> {
        match acquire(self, RESOURCE, TTL_SECS) {
            Taken::Granted(lease) => Some((lease.lease.to_string(), lease.fence.map(|f| f.0))),
            Taken::Held(_) => None,
        }
    }

    fn give_back(&mut self, lease: &str) {
        let lease = Some(lease.parse().expect("a lease id"));
        let target = Target { resource: resource(RESOURCE), lease };
        let outcome = self.release(Release::These(vec![target])).expect("release is answered");
        assert!(outcome.iter().all(|one| one.refusal.is_none()), "{outcome:?}");
    }
}

/// The Python tool writes no journal first, so it would win nearly every round: a few questions of
/// its own, more in one round than in another, make it a fair one.
struct Handicapped {
    peer: Peer,
    dice: Dice,
    questions_max: usize,
}

impl Contender for Handicapped {
    fn try_once(&mut self) -> Option<(String, Option<u64>)> {
        for _ in 0..self.dice.below(self.questions_max) {
            self.peer.current("elsewhere");
        }
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

/// How many rounds to run, and until when.
fn rounds(usual: usize) -> (usize, u64) {
    match env::var("STORMLOCK_ROUNDS") {
        Ok(text) => (text.parse().expect("STORMLOCK_ROUNDS is a number"), u64::MAX),
        Err(_) => (usual, now_ms() + GATE_MS),
    }
}

#[test]
fn of_two_agents_and_the_python_tool_exactly_one_wins_each_round() {
    let store = RedisServer::start();
    let agents = ["alpha", "beta"].map(|host| Agent::on_redis(host, &store.url()));
    let tool = PythonTool::new(&store.url(), "peer@elsewhere");
    one_wins_each_round(&agents, tool, HANDICAP_MAX, ROUNDS);
}

/// The contention, on whatever store the agents and the tool share.
pub(crate) fn one_wins_each_round(
    agents: &[Agent; 2],
    tool: PythonTool,
    questions_max: usize,
    usual_rounds: usize,
) {
    let (peer, dice) = (tool.peer(), Dice::seeded("contention"));
    let python = Handicapped { peer, dice, questions_max };
    let mut contenders: Vec<Box<dyn Contender>> = vec![Box::new(python)];
    for agent in agents {
        contenders.push(Box::new(agent.client().expect("the agent answers")));
    }
    assert_eq!(contenders.len(), CONTENDERS);
    let start = Barrier::new(CONTENDERS);
    let (report, outcomes) = channel();
    let (planned, until) = rounds(usual_rounds);
    let mut wins = [0_usize; CONTENDERS];
    let mut ran = 0;
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
        while ran < planned && now_ms() < until {
            for order in &orders {
                order.send(Order::Try).expect("a contender ended early");
            }
            let tried: Vec<Outcome> = (0..CONTENDERS).map(|_| next()).collect();
            let mut won = tried.into_iter().filter_map(|(who, got)| got.map(|got| (who, got)));
            let (winner, (lease, got)) = won.next().expect("nobody won a free resource");
            let second = won.next();
            assert!(second.is_none(), "two holders in round {ran}: {winner} and {second:?}");
            if let Some(got) = got {
                assert!(got > fence, "round {ran}: fence {got} after {fence}");
                fence = got;
            }
            wins[winner] += 1;
            ran += 1;
            orders[winner].send(Order::GiveBack(lease)).expect("the winner is there");
            next();
        }
    });
    println!("contention: {ran} rounds, won by Python, alpha and beta: {wins:?}");
    assert!(ran >= ROUNDS_MIN.min(planned), "only {ran} rounds in the time");
    assert!(planned < ROUNDS_MIN || wins.iter().all(|wins| *wins > 0), "no contention: {wins:?}");
}
