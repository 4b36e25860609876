//! Random interleavings of the Python tool and two agents, each operation checked against a model
//! that knows who may hold, and against what the store shows.

use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{Code, Release, Renew, Target};
use stormlock_protocol::name::{LeaseId, Ttl};

use crate::agent::Agent;
use crate::dice::Dice;
use crate::python::{Peer, PythonTool, Said};
use crate::redis_server::RedisServer;
use crate::{Taken, acquire, resource};

const RUNS: usize = 200;
const STEPS: usize = 12;
const RESOURCES: [&str; 3] = ["prod/db", "prod/web", "a"];
/// Nothing expires in here.
const TTL_SECS: u32 = 3600;

/// Who takes part: two agents, then the Python tool.
const AGENTS: usize = 2;
const PYTHON: usize = 2;
const ALL: usize = 3;

/// Who holds a resource, and under which lease.
type Held = Option<(usize, String)>;

struct World<'a> {
    clients: &'a mut [Client; AGENTS],
    peer: &'a mut Peer,
    /// By resource.
    held: [Held; RESOURCES.len()],
    /// The greatest fence that one of our agents got, by resource.
    fences: &'a mut [u64; RESOURCES.len()],
    story: Vec<String>,
}

impl World<'_> {
    fn acquire(&mut self, who: usize, on: usize) {
        let name = RESOURCES[on];
        let got = if who == PYTHON {
            match self.peer.acquire(name, TTL_SECS) {
                Said::Granted(lease) => Ok(lease),
                Said::Held { lease, .. } => Err(Some(lease)),
                other => panic!("{other:?}\n{}", self.story.join("\n")),
            }
        } else {
            match acquire(&mut self.clients[who], name, TTL_SECS) {
                Taken::Granted(lease) => {
                    let fence = lease.fence.expect("a granted lease has a fence").0;
                    assert!(fence > self.fences[on], "{fence} after {}", self.fences[on]);
                    self.fences[on] = fence;
                    Ok(lease.lease.to_string())
                }
                Taken::Held(holder) => Err(holder.map(|lock| lock.lease.to_string())),
            }
        };
        self.story.push(format!("{who} acquires {name}: {got:?}"));
        match (&self.held[on], got) {
            (None, Ok(lease)) => self.held[on] = Some((who, lease)),
            (Some((_, holds)), Err(Some(said))) if *holds == said => {}
            (model, got) => panic!("{got:?} but {model:?}\n{}", self.story.join("\n")),
        }
    }

    /// Gives back the lease that is there: the holder's release frees it. The others do not know
    /// its id, as people do not: they try one that nobody has.
    fn release(&mut self, who: usize, on: usize) {
        let name = RESOURCES[on];
        let own = self.held[on].clone().filter(|(holder, _)| *holder == who).map(|(_, id)| id);
        let lease = own.clone().unwrap_or_else(|| "00112233445566778899aabbccddeeff".to_owned());
        self.story.push(format!("{who} releases {name} {lease}"));
        if who == PYTHON {
            assert_eq!(self.peer.release(name, &lease), Said::Done);
        } else {
            let these = Release::These(vec![target(name, &lease)]);
            let outcome = self.clients[who].release(these).map(|mut all| all.remove(0).refusal);
            match (outcome, &own) {
                (Ok(None), Some(_)) => {}
                (Ok(Some(no)), None) if no.code == Code::NotHeld => {}
                (Err(ClientError::Refused(no)), None) if no.code == Code::NotHeld => {}
                (other, _) => panic!("{other:?}\n{}", self.story.join("\n")),
            }
        }
        if own.is_some() {
            self.held[on] = None;
        }
    }

    /// Renews whatever lease is there, by its id, whoever holds it: at most its end moves.
    fn renew(&mut self, who: usize, on: usize) {
        let name = RESOURCES[on];
        let Some((holder, lease)) = self.held[on].clone() else { return };
        self.story.push(format!("{who} renews {name} {lease} of {holder}"));
        if who == PYTHON {
            assert_eq!(self.peer.renew(name, &lease, TTL_SECS), Said::Done, "{:?}", self.story);
            return;
        }
        let ttl = Ttl::from_secs(TTL_SECS.into()).ok();
        let ask = Renew { target: target(name, &lease), ttl, hold: None };
        match self.clients[who].renew(ask) {
            Ok(renewed) => assert_eq!(renewed.lease.to_string(), lease, "{:?}", self.story),
            Err(ClientError::Refused(no)) if no.code == Code::NotHeld && who != holder => {}
            other => panic!("{other:?}\n{}", self.story.join("\n")),
        }
    }

    /// The store shows the model's holder, to the Python tool and to each agent; and no agent but
    /// the holder's believes in a lease.
    fn check(&mut self, on: usize) {
        let name = RESOURCES[on];
        let model = self.held[on].as_ref().map(|(_, lease)| lease.clone());
        let shown = match self.peer.current(name) {
            Said::Held { lease, .. } => Some(lease),
            _ => None,
        };
        assert_eq!(shown, model, "{}", self.story.join("\n"));
        for (who, client) in self.clients.iter_mut().enumerate() {
            let lock = client.current(resource(name)).expect("current is answered");
            let is_holder = self.held[on].as_ref().is_some_and(|(holder, _)| *holder == who);
            let is_mine = lock.as_ref().is_some_and(|lock| lock.mine);
            assert_eq!(lock.map(|lock| lock.lease.to_string()), model, "{:?}", self.story);
            assert_eq!(is_mine, is_holder, "agent {who}: {}", self.story.join("\n"));
        }
    }
}

fn target(name: &str, lease: &str) -> Target {
    let lease: LeaseId = lease.parse().expect("a lease id");
    Target { resource: resource(name), lease: Some(lease) }
}

#[test]
fn two_agents_and_the_python_tool_never_hold_the_same_resource() {
    let mut dice = Dice::seeded("interleaving");
    let store = RedisServer::start();
    let agents = ["alpha", "beta"].map(|host| Agent::on_redis(host, &store.url()));
    let mut clients = agents.each_ref().map(|agent| agent.client().expect("the agent answers"));
    let mut peer = PythonTool::new(&store.url(), "peer@elsewhere").peer();
    let mut fences = [0; RESOURCES.len()];
    let mut grants = [0; ALL];
    for _ in 0..RUNS {
        let mut world = World {
            clients: &mut clients,
            peer: &mut peer,
            held: [const { None }; RESOURCES.len()],
            fences: &mut fences,
            story: Vec::new(),
        };
        for _ in 0..STEPS {
            let (who, on) = (dice.below(ALL), dice.below(RESOURCES.len()));
            let was_free = world.held[on].is_none();
            match dice.below(4) {
                0 | 1 => world.acquire(who, on),
                2 => world.release(who, on),
                _ => world.renew(who, on),
            }
            world.check(on);
            grants[who] += usize::from(was_free && world.held[on].is_some());
        }
        for on in 0..RESOURCES.len() {
            if let Some((holder, _)) = world.held[on].clone() {
                world.release(holder, on);
                world.check(on);
            }
        }
    }
    println!("interleaving: {RUNS} runs, grants of alpha, beta and Python: {grants:?}");
    assert!(grants.iter().all(|grants| *grants > RUNS / 4), "one hardly took part: {grants:?}");
}
