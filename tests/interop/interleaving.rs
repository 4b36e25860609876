//! Random interleavings of the Python tool and two agents on each store: every answer is compared
//! with a model that knows who holds what, and after each operation with what all three are shown.
//!
//! A run has three resources of its own, one of them named like a folder of another, and takes its
//! steps from its own dice; a few runs go on side by side, so that a lease that is left to end
//! costs no waiting. What the model forgives is what the Python tool cannot do: see [`Model`].

use std::time::Duration;

use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{Code, Lease, Release, Renew, State, Target};
use stormlock_protocol::name::{LeaseId, Ttl};

use crate::dice::{Dice, now_ms};
use crate::python::{Peer, Said};
use crate::stores::{Store, plain};
use crate::{Taken, attempt, resource};

const RUNS: usize = 200;
const STEPS: usize = 12;
/// Runs that go on side by side.
const LANES: usize = 20;
const RESOURCES: usize = 3;
/// What is held for so long does not end in here.
const LONG_SECS: u32 = 3600;
/// What is left to end.
const SHORT_SECS: u32 = 2;
/// A lease may end late, but so late that something is wrong.
const GIVE_UP_MS: u64 = 60_000;
/// How long it is waited for between two tries.
const WAIT_EVERY: Duration = Duration::from_millis(3);
/// So much before the store an agent stops believing in what lasts two seconds, and gives it back.
const BEFORE_MS: u64 = 260;
/// The Python tool cuts its ends to whole seconds on DynamoDB.
const CUT_MS: u64 = 1000;
/// Two whole milliseconds, each cut: so much may a time seem too short.
const ROUNDED_MS: u64 = 2;

/// Who takes part: two agents, then the Python tool.
const AGENTS: usize = 2;
const PYTHON: usize = 2;
const ALL: usize = 3;

/// What stands under a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slot {
    Free,
    /// By whom, and under which lease.
    Held(usize, String),
    /// A lease of the Python tool that has ended and that this tool cannot take.
    Dead(String),
}

/// What is peculiar to the Python tool on a store.
#[derive(Debug, Clone, Copy)]
struct Model {
    /// Its release and its renew look at the id alone, wherever that lease is (etcd).
    by_id_alone: bool,
    /// Its renew takes any id, and its acquire takes nothing that is there, ended or not; its ends
    /// are cut to whole seconds (DynamoDB).
    dynamo: bool,
}

/// The three, on one store.
struct Players {
    clients: [Client; AGENTS],
    peer: Peer,
    model: Model,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    grants: [usize; ALL],
    refused: usize,
    strays: usize,
    ends: [usize; ALL],
}

/// A lease that is left to end, and who wants the resource then.
#[derive(Debug, Clone)]
struct Ending {
    on: usize,
    next: usize,
    asked_ms: u64,
    refusals: usize,
}

struct Lane {
    names: [String; RESOURCES],
    slots: [Slot; RESOURCES],
    /// The greatest fence that one of our agents got.
    fences: [u64; RESOURCES],
    /// Leases that are over, and whose they were.
    over: [Vec<(usize, String)>; RESOURCES],
    ending: Option<Ending>,
    steps: usize,
    dice: Dice,
    story: Vec<String>,
}

/// An answer to an acquire, whoever gave it.
#[derive(Debug)]
enum Got {
    Granted(String, Option<u64>),
    /// By whom, where that is told.
    Held(Option<String>),
    /// The agent says that it does not know.
    Unknown,
}

impl Players {
    fn on(store: &Store, agents: &[crate::agent::Agent; AGENTS]) -> Players {
        let clients = agents.each_ref().map(|agent| agent.client().expect("the agent answers"));
        let model = Model {
            by_id_alone: matches!(store, Store::Etcd(_)),
            dynamo: matches!(store, Store::Dynamo(_)),
        };
        Players { clients, peer: store.tool().peer(), model, tally: Tally::default() }
    }

    fn acquire(&mut self, who: usize, name: &str, ttl_secs: u32) -> Got {
        let got = if who == PYTHON {
            match self.peer.acquire(name, ttl_secs) {
                Said::Granted(lease) => Got::Granted(plain(&lease), None),
                Said::Held { lease, .. } => Got::Held(Some(plain(&lease))),
                Said::Free => Got::Held(None),
                other => panic!("an acquire of {name}: {other:?}"),
            }
        } else {
            match attempt(&mut self.clients[who], name, ttl_secs) {
                Ok(Taken::Granted(lease)) => {
                    let fence = lease.fence.expect("a granted lease has a fence").0;
                    Got::Granted(lease.lease.to_string(), Some(fence))
                }
                Ok(Taken::Held(lock)) => Got::Held(lock.map(|lock| lock.lease.to_string())),
                Err(ClientError::Refused(no)) if no.code == Code::Unavailable => Got::Unknown,
                Err(other) => panic!("an acquire of {name}: {other:?}"),
            }
        };
        match got {
            Got::Granted(..) => self.tally.grants[who] += 1,
            Got::Held(_) => self.tally.refused += 1,
            Got::Unknown => {}
        }
        got
    }

    /// `None` when it is given back, or why not.
    fn release(&mut self, who: usize, name: &str, lease: &str) -> Option<Code> {
        let these = Release::These(vec![target(name, lease)]);
        match self.clients[who].release(these) {
            Ok(mut all) => all.remove(0).refusal.map(|no| no.code),
            Err(ClientError::Refused(no)) => Some(no.code),
            Err(other) => panic!("a release of {name} {lease}: {other:?}"),
        }
    }

    fn renew(&mut self, who: usize, name: &str, lease: &str) -> Result<Lease, Code> {
        let ttl = Ttl::from_secs(LONG_SECS.into()).ok();
        match self.clients[who].renew(Renew { target: target(name, lease), ttl, hold: None }) {
            Ok(renewed) => Ok(renewed),
            Err(ClientError::Refused(no)) => Err(no.code),
            Err(other) => panic!("a renewal of {name} {lease}: {other:?}"),
        }
    }

    /// The lease that each is shown; of an agent also whether it is its own.
    fn shown(&mut self, name: &str) -> [Option<(String, bool)>; ALL] {
        let python = match self.peer.current(name) {
            Said::Held { lease, .. } => Some((plain(&lease), false)),
            _ => None,
        };
        let [alpha, beta] = self.clients.each_mut().map(|client| {
            let lock = client.current(resource(name)).expect("current is answered");
            lock.map(|lock| (lock.lease.to_string(), lock.mine))
        });
        [alpha, beta, python]
    }

    fn believes(&mut self, who: usize, lease: &str) -> bool {
        let status = self.clients[who].status(None).expect("the agent answers");
        let mut held = status
            .leases
            .into_iter()
            .filter(|lease| matches!(lease.state, State::Held | State::AtRisk));
        held.any(|held| held.lease.to_string() == lease)
    }
}

impl Lane {
    fn new(run: usize, dice: Dice) -> Lane {
        let names = ["a", "a/b", "a-b"].map(|name| format!("run{run}/{name}"));
        Lane {
            names,
            slots: [const { Slot::Free }; RESOURCES],
            fences: [0; RESOURCES],
            over: [const { Vec::new() }; RESOURCES],
            ending: None,
            steps: 0,
            dice,
            story: Vec::new(),
        }
    }

    fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    #[track_caller]
    fn wrong(&self, what: &str) -> ! {
        panic!("{what}; the model: {:?}\n{}", self.slots, self.story.join("\n"))
    }

    /// Takes the next step; false when the run is over.
    fn step(&mut self, players: &mut Players) -> bool {
        if let Some(ending) = self.ending.take() {
            self.wait(players, ending);
            return true;
        }
        if self.steps == STEPS {
            self.put_away(players);
            return false;
        }
        self.steps += 1;
        let (who, on) = (self.dice.below(ALL), self.dice.below(RESOURCES));
        match self.dice.below(8) {
            0..=2 => self.acquire(players, who, on),
            3 => self.release(players, who, on),
            4 => self.renew(players, who, on),
            5 | 6 => self.stray(players, who, on),
            _ => self.let_end(players, who, on),
        }
        self.check(players, on);
        true
    }

    fn granted(&mut self, who: usize, on: usize, lease: String, fence: Option<u64>) {
        if let Some(fence) = fence {
            if fence <= self.fences[on] {
                self.wrong(&format!("fence {fence} after {}", self.fences[on]));
            }
            self.fences[on] = fence;
        }
        self.slots[on] = Slot::Held(who, lease);
    }

    fn acquire(&mut self, players: &mut Players, who: usize, on: usize) {
        let got = players.acquire(who, &self.names[on], LONG_SECS);
        self.tell(format!("{who} acquires {}: {got:?}", self.names[on]));
        match (self.slots[on].clone(), got) {
            (Slot::Free, Got::Granted(lease, fence)) => self.granted(who, on, lease, fence),
            (Slot::Dead(_), Got::Granted(lease, fence)) if who != PYTHON => {
                self.granted(who, on, lease, fence);
            }
            (Slot::Dead(_), Got::Held(None)) if who == PYTHON => {}
            (Slot::Held(_, lease), Got::Held(Some(said))) if lease == said => {}
            (_, got) => self.wrong(&format!("{got:?}")),
        }
    }

    /// Gives back what is one's own; others have no id for that.
    fn release(&mut self, players: &mut Players, who: usize, on: usize) {
        let Slot::Held(holder, lease) = self.slots[on].clone() else { return };
        if holder != who {
            return self.stray(players, who, on);
        }
        let name = self.names[on].clone();
        self.tell(format!("{who} releases {name} {lease}"));
        if who == PYTHON {
            let said = players.peer.release(&name, &lease);
            assert_eq!(said, Said::Done, "{}", self.story.join("\n"));
        } else if let Some(no) = players.release(who, &name, &lease) {
            self.wrong(&format!("{no:?}"));
        }
        self.slots[on] = Slot::Free;
        self.over[on].push((who, lease));
    }

    /// Renews whatever lease is there, by its id, whoever holds it: at most its end moves.
    fn renew(&mut self, players: &mut Players, who: usize, on: usize) {
        let Slot::Held(holder, lease) = self.slots[on].clone() else { return };
        let name = self.names[on].clone();
        self.tell(format!("{who} renews {name} {lease} of {holder}"));
        if who == PYTHON {
            let said = players.peer.renew(&name, &lease, LONG_SECS);
            assert_eq!(said, Said::Done, "{}", self.story.join("\n"));
            return;
        }
        match players.renew(who, &name, &lease) {
            Ok(renewed) if renewed.lease.to_string() == lease => {}
            other => self.wrong(&format!("{other:?}")),
        }
    }

    /// Releases or renews under an id that is not the one that holds: nobody's, one that is over,
    /// or that of another resource.
    fn stray(&mut self, players: &mut Players, who: usize, on: usize) {
        let other = (on + 1 + self.dice.below(RESOURCES - 1)) % RESOURCES;
        let nobodys = "0112233445566778".to_owned();
        let over = self.over[on].last().map(|(_, lease)| lease.clone());
        let others = match &self.slots[other] {
            Slot::Held(_, lease) => Some(lease.clone()),
            Slot::Free | Slot::Dead(_) => None,
        };
        let picked = [Some(nobodys.clone()), over, others.clone()][self.dice.below(3)].clone();
        let mut lease = picked.unwrap_or(nobodys.clone());
        let releases = self.dice.below(2) == 0;
        if players.model.by_id_alone && who == PYTHON && releases && Some(&lease) == others.as_ref()
        {
            // It would free the other resource: that is no step of ours to make worse.
            lease = nobodys;
        }
        if !players.model.by_id_alone {
            lease = format!("{lease:0>32}");
        }
        let name = self.names[on].clone();
        let verb = if releases { "releases" } else { "renews" };
        self.tell(format!("{who} {verb} {name} under {lease}, which is not its lease"));
        players.tally.strays += 1;
        if who == PYTHON {
            self.stray_of_python(players, on, &lease, others.as_ref() == Some(&lease));
            // It may have met what it was not aimed at.
            return self.check(players, other);
        }
        let no = if releases {
            players.release(who, &name, &lease)
        } else {
            players.renew(who, &name, &lease).err()
        };
        let was_mine = self.over[on].contains(&(who, lease));
        match no {
            Some(Code::NotHeld) => {}
            // It ended by itself, and its holder hears that until it has heard.
            Some(Code::Lost) if was_mine => {}
            no => self.wrong(&format!("{no:?}")),
        }
        self.check(players, other);
    }

    fn stray_of_python(&mut self, players: &mut Players, on: usize, lease: &str, lives: bool) {
        let (name, model) = (self.names[on].clone(), players.model);
        let is_held = matches!(self.slots[on], Slot::Held(..));
        let releases = self.story.last().is_some_and(|told| told.contains("releases"));
        let (said, is_right) = if releases {
            let said = players.peer.release(&name, lease);
            // It takes away what it cannot take over.
            if matches!(&self.slots[on], Slot::Dead(dead) if dead == lease) {
                self.slots[on] = Slot::Free;
            }
            let fails = model.by_id_alone && !lives;
            let is_right = if fails { matches!(said, Said::Failed(_)) } else { said == Said::Done };
            (said, is_right)
        } else {
            let said = players.peer.renew(&name, lease, LONG_SECS);
            let renews = model.by_id_alone && lives || model.dynamo && is_held;
            let is_right = said == if renews { Said::Done } else { Said::Expired };
            (said, is_right)
        };
        if !is_right {
            self.wrong(&format!("{said:?}"));
        }
    }

    /// Takes what is free for two seconds, and leaves it to end.
    fn let_end(&mut self, players: &mut Players, who: usize, on: usize) {
        let next = self.dice.below(ALL);
        if self.slots[on] != Slot::Free {
            return;
        }
        let name = self.names[on].clone();
        let begun = now_ms();
        let asked_ms = loop {
            let asked_ms = now_ms();
            // An agent gives so short a try little time: on a busy machine it may not know, undoes
            // it, and shows its own lease meanwhile.
            match players.acquire(who, &name, SHORT_SECS) {
                Got::Granted(lease, fence) => {
                    self.tell(format!("{who} acquires {name} for a moment: {lease} {fence:?}"));
                    self.granted(who, on, lease, fence);
                    break asked_ms;
                }
                Got::Unknown | Got::Held(_) if asked_ms < begun + GIVE_UP_MS => {}
                got => self.wrong(&format!("{got:?}")),
            }
        };
        self.ending = Some(Ending { on, next, asked_ms, refusals: 0 });
    }

    /// One try of the next one to take what is left to end.
    fn wait(&mut self, players: &mut Players, mut ending: Ending) {
        let Ending { on, next, asked_ms, .. } = ending;
        // A pause without a sleep: a wait for a word that never comes.
        let (_tell, told) = std::sync::mpsc::channel::<()>();
        let _ = told.recv_timeout(WAIT_EVERY);
        let Slot::Held(who, lease) = self.slots[on].clone() else { self.wrong("nobody has it") };
        let name = self.names[on].clone();
        let mut is_over = false;
        if players.model.dynamo && next == PYTHON {
            // Until an agent has looked, what has ended is there, and the tool does not take it.
            let seen = players.clients[0].current(resource(&name)).expect("current is answered");
            is_over = seen.is_none();
        }
        let got = players.acquire(next, &name, LONG_SECS);
        let now = now_ms();
        match got {
            Got::Held(Some(said)) if said == lease && !is_over => ending.refusals += 1,
            Got::Held(None) if is_over && who == PYTHON => {
                self.tell(format!("{lease} has ended, and Python cannot take {name}"));
                self.slots[on] = Slot::Dead(lease.clone());
            }
            Got::Held(None) | Got::Unknown => ending.refusals += 1,
            Got::Granted(new, fence) => {
                self.tell(format!("{lease} has ended, {next} has {name}: {new} {fence:?}"));
                self.granted(next, on, new, fence);
            }
            got => self.wrong(&format!("{lease} is to end: {got:?}")),
        }
        if self.slots[on] == Slot::Held(who, lease.clone()) {
            if now > asked_ms + GIVE_UP_MS {
                self.wrong(&format!("{lease} on {name} never ends"));
            }
            self.ending = Some(ending);
            return;
        }
        let early_ms = match who {
            PYTHON if players.model.dynamo => CUT_MS,
            PYTHON => ROUNDED_MS,
            _ => BEFORE_MS,
        };
        if now + early_ms < asked_ms + u64::from(SHORT_SECS) * 1000 {
            self.wrong(&format!("{lease} ended after {} ms", now - asked_ms));
        }
        if who != PYTHON && players.believes(who, &lease) {
            self.wrong(&format!("{who} believes that it has {lease}"));
        }
        players.tally.ends[who] += 1;
        self.over[on].push((who, lease));
        self.check(players, on);
    }

    /// All three are shown the model's holder, and only its agent calls it its own.
    fn check(&mut self, players: &mut Players, on: usize) {
        if self.ending.as_ref().is_some_and(|ending| ending.on == on) {
            return;
        }
        let shown = players.shown(&self.names[on]);
        let expected = [0, 1, PYTHON].map(|who| match &self.slots[on] {
            Slot::Held(holder, lease) => Some((lease.clone(), who != PYTHON && *holder == who)),
            Slot::Free | Slot::Dead(_) => None,
        });
        if shown != expected {
            self.wrong(&format!("{} is shown as {shown:?}", self.names[on]));
        }
    }

    fn put_away(&mut self, players: &mut Players) {
        for on in 0..RESOURCES {
            if matches!(self.slots[on], Slot::Dead(_)) {
                self.acquire(players, 0, on);
            }
            if let Slot::Held(holder, _) = self.slots[on] {
                self.release(players, holder, on);
            }
        }
        for on in 0..RESOURCES {
            self.check(players, on);
        }
    }
}

fn target(name: &str, lease: &str) -> Target {
    let lease: LeaseId = lease.parse().expect("a lease id");
    Target { resource: resource(name), lease: Some(lease) }
}

fn never_two_holders(store: &Store) {
    let mut dice = Dice::seeded(&format!("interleaving on {}", store.name()));
    let agents = ["alpha", "beta"].map(|host| store.agent(host));
    let mut players = Players::on(store, &agents);
    let begun = now_ms();
    let mut runs = (0..RUNS).map(|run| Lane::new(run, dice.split()));
    let mut lanes: Vec<Lane> = runs.by_ref().take(LANES).collect();
    let mut done = 0;
    while !lanes.is_empty() {
        for at in (0..lanes.len()).rev() {
            if !lanes[at].step(&mut players) {
                done += 1;
                match runs.next() {
                    Some(lane) => lanes[at] = lane,
                    None => drop(lanes.swap_remove(at)),
                }
            }
        }
    }
    let (name, secs) = (store.name(), (now_ms() - begun) / 1000);
    let Tally { grants, refused, strays, ends } = &players.tally;
    println!(
        "interleaving on {name}: {done} runs in {secs} s; of alpha, beta and Python: grants \
         {grants:?}, left to end {ends:?}; {refused} refusals, {strays} strays"
    );
    assert_eq!(done, RUNS);
    assert!(grants.iter().all(|grants| *grants > RUNS / 4), "one hardly took part: {grants:?}");
    assert!(ends.iter().all(|ends| *ends > RUNS / 40), "hardly anything ended: {ends:?}");
    assert!(*strays > RUNS, "{strays} strays");
}

#[test]
fn two_agents_and_the_python_tool_never_hold_the_same_resource() {
    never_two_holders(&Store::redis());
}

#[test]
fn two_agents_and_the_python_tool_never_hold_the_same_resource_on_etcd() {
    never_two_holders(&Store::etcd());
}

#[test]
fn two_agents_and_the_python_tool_never_hold_the_same_resource_on_postgres() {
    never_two_holders(&Store::postgres());
}

#[test]
fn two_agents_and_the_python_tool_never_hold_the_same_resource_on_dynamodb() {
    never_two_holders(&Store::dynamo());
}
