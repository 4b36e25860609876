//! A simulated world: several agents, one linearizable store, a writer like the Python tool; calls
//! and answers that are lost, late or doubled; crashes, stops, suspends, drifting clocks, a journal
//! of which only the synced part survives.
//!
//! What must hold at each instant: whoever has reason to believe in a lease has it in the store
//! (so there is never a second one), and fences only rise. At the end, when everything is mended:
//! nothing stands in the store that no agent knows of. A seed is a whole run: `STORMLOCK_SEED=n`
//! plays one again and tells what happens, `STORMLOCK_SEEDS=n` plays the first n.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use stormlock_protocol::name::{Fence, LeaseId, Reason, Resource, UnixMs};

use super::super::law::Law;
use super::super::*;
use super::store::{Promise, Store};
use super::{Dice, backend, claim, resource, ttl};

mod lives;
mod people;
mod restarts;

const SECOND: u64 = 1_000_000_000;
const AGENTS: usize = 3;
const NAMES: [&str; 3] = ["infra", "infra/db", "deploy"];
/// How long the world is hostile.
const STORM: u64 = 240 * SECOND;
/// How long the mended world has to settle: longer than the longest retry and the orphan wait.
const CALM: u64 = 150 * SECOND;
/// How long a lease must hold in the mended world.
const PROBE: u64 = 60 * SECOND;
/// How many worlds the gate plays.
const SEEDS: u64 = 10_000;
/// The longest that a broken lease may be believed in a mended world (law 11), with its retries.
const NOTICED: u64 = 40 * SECOND;

/// What a run leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Off {
    Nothing,
    Core(Law),
    Store(Promise),
    /// Law 2: the agent's clock stops while the host sleeps.
    BootClock,
    /// Law 7: a command dies when its agent says so, and not by a clock of its own.
    OwnDeadline,
}

/// Something that happens at an instant of the true time.
#[derive(Debug, Clone)]
enum Happening {
    /// The store gets a call.
    Arrives {
        agent: usize,
        life: u64,
        id: CallId,
        call: Call,
    },
    /// The store gets the conditional half of an acquire.
    Conditional {
        agent: usize,
        life: u64,
        id: CallId,
        claim: Claim,
        expected: u64,
    },
    /// The agent got the counter and sends the conditional half.
    Counter {
        agent: usize,
        life: u64,
        id: CallId,
        claim: Claim,
        expected: u64,
    },
    Tell {
        agent: usize,
        life: u64,
        input: Input,
    },
    OnDisk {
        agent: usize,
        life: u64,
        sync: SyncId,
        length: usize,
    },
    Wake {
        agent: usize,
        life: u64,
    },
    /// The store tells an agent that something stirred.
    Stirs {
        agent: usize,
        life: u64,
        on: Resource,
    },
    Person {
        agent: usize,
    },
    Python,
    Admin,
    Fate {
        agent: usize,
    },
    Start {
        agent: usize,
        life: u64,
    },
    /// A row ends: a good instant to look who believes.
    Look,
}

impl Happening {
    /// The same twice. A transport tries a second time only while it has no answer to the first
    /// try of an acquire, so that try arrives before and its answer goes nowhere. Renewals and ends
    /// are doubled at any time; but no transport tries a release again, so that whatever a late
    /// copy of it finds is no answer.
    fn doubled(self) -> (Happening, Happening) {
        match self {
            Happening::Conditional { agent, life, id, claim, expected } => {
                let conditional =
                    |life, claim| Happening::Conditional { agent, life, id, claim, expected };
                (conditional(u64::MAX, claim.clone()), conditional(life, claim))
            }
            Happening::Arrives { agent, life, id, call: call @ Call::Release(_) } => {
                let arrives = |life, call| Happening::Arrives { agent, life, id, call };
                (arrives(life, call.clone()), arrives(u64::MAX, call))
            }
            other => (other.clone(), other),
        }
    }
}

#[derive(Debug)]
struct Agent {
    table: Option<LeaseTable>,
    life: u64,
    waiting: BTreeSet<CallId>,
    journal: Vec<Record>,
    durable: usize,
    written: usize,
    journal_breaks: bool,
    /// Parts per million that its clock is fast, and what it showed at the true time zero.
    fast_ppm: i64,
    offset: u64,
    /// Time that the clock missed, with law 2 off.
    missed: u64,
    asleep_until: u64,
    /// When it is woken next, if nothing happens before.
    wakes_at: Option<u64>,
    boot: u8,
    /// What its people believe: until which Moment of this host.
    beliefs: BTreeMap<LeaseId, (Resource, Moment)>,
    /// What others count on whose holder was killed, and until when.
    lingering: BTreeMap<LeaseId, (Resource, Moment)>,
    /// Leases that were told to be over, true for lost ones: none is ever held again, but that a
    /// crash may forget a release that nobody was promised yet.
    over: BTreeMap<LeaseId, bool>,
    fences: BTreeMap<Resource, Fence>,
    /// Who took what through which session.
    taken: Vec<(LeaseId, SessionId, Attach)>,
    sessions: BTreeMap<Ticket, (SessionId, Attach)>,
    /// What is to end with another process too, once that is answered; and what surely does.
    shares: BTreeMap<Ticket, (LeaseId, SessionId)>,
    sharers: BTreeMap<LeaseId, Vec<(SessionId, IsSure)>>,
    /// Who waits for one resource alone, in the order in which they came.
    waiting_for: BTreeMap<Ticket, Resource>,
    /// What the store tells it about.
    watching: BTreeSet<Resource>,
}

pub(super) struct World {
    dice: Dice,
    off: Off,
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Box<Happening>>,
    store: Store,
    store_fast_ppm: i64,
    agents: Vec<Agent>,
    next: u64,
    storm: bool,
    outage: [u64; AGENTS],
    /// Leases that somebody took away behind our back, and when.
    broken: BTreeMap<LeaseId, u64>,
    /// Questions that give back what its agent believes in, and until when it does.
    releasing: BTreeMap<Ticket, (LeaseId, Moment)>,
    /// How often each lease was to be given back in the store.
    releases: BTreeMap<LeaseId, u32>,
    /// What a release took out of the store.
    given_back: BTreeSet<LeaseId>,
    gone_sessions: BTreeSet<SessionId>,
    gone_processes: BTreeSet<ProcessId>,
    gone_tickets: BTreeSet<Ticket>,
    waits: u64,
    python: Vec<(Resource, LeaseId)>,
    pub(super) grants: u64,
    pub(super) breaks: u64,
    tells: bool,
}

impl World {
    pub(super) fn new(seed: u64, off: Off) -> World {
        let mut dice = Dice(seed);
        let mut store = Store::default();
        if let Off::Store(promise) = off {
            store.broken_promise = Some(promise);
        }
        let ppm = |dice: &mut Dice| i64::try_from(dice.below(1800)).expect("small") - 900;
        let store_fast_ppm = ppm(&mut dice);
        let agents = (0..AGENTS)
            .map(|_| Agent {
                table: None,
                life: 0,
                waiting: BTreeSet::new(),
                journal: Vec::new(),
                durable: 0,
                written: 0,
                journal_breaks: false,
                fast_ppm: ppm(&mut dice),
                offset: dice.below(1_000_000) * SECOND,
                missed: 0,
                asleep_until: 0,
                wakes_at: None,
                boot: 1,
                beliefs: BTreeMap::new(),
                lingering: BTreeMap::new(),
                over: BTreeMap::new(),
                fences: BTreeMap::new(),
                taken: Vec::new(),
                sessions: BTreeMap::new(),
                shares: BTreeMap::new(),
                sharers: BTreeMap::new(),
                waiting_for: BTreeMap::new(),
                watching: BTreeSet::new(),
            })
            .collect();
        let mut world = World {
            dice,
            off,
            now: SECOND,
            order: 0,
            queue: BTreeMap::new(),
            store,
            store_fast_ppm,
            agents,
            next: 0,
            storm: true,
            outage: [0; AGENTS],
            broken: BTreeMap::new(),
            releasing: BTreeMap::new(),
            releases: BTreeMap::new(),
            given_back: BTreeSet::new(),
            gone_sessions: BTreeSet::new(),
            gone_processes: BTreeSet::new(),
            gone_tickets: BTreeSet::new(),
            waits: 0,
            python: Vec::new(),
            grants: 0,
            breaks: 0,
            tells: std::env::var_os("STORMLOCK_SEED").is_some(),
        };
        for agent in 0..AGENTS {
            world.start(agent);
            world.later(SECOND, Happening::Person { agent });
            world.later(20 * SECOND, Happening::Fate { agent });
        }
        world.later(SECOND, Happening::Python);
        world.later(60 * SECOND, Happening::Admin);
        world
    }

    /// Plays the whole run.
    pub(super) fn run(&mut self) {
        self.play_until(SECOND + STORM);
        self.storm = false;
        for agent in 0..AGENTS {
            self.agents[agent].journal_breaks = false;
            self.agents[agent].asleep_until = 0;
            self.tell(agent, Input::Journal { works: true });
            if self.agents[agent].table.is_none() {
                self.start(agent);
            }
        }
        self.play_until(SECOND + STORM + CALM);
        self.look_for_orphans();
        self.look_for_sleepers();
        self.probe();
    }

    fn play_until(&mut self, end: u64) {
        while let Some((&(at, order), _)) = self.queue.first_key_value()
            && at <= end
        {
            let happening = self.queue.remove(&(at, order)).expect("it was there");
            self.now = at;
            if self.tells {
                println!("{:.6} {happening:?}", secs(at));
            }
            self.happens(*happening);
            self.look();
        }
        self.now = end;
        self.look();
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Arrives { agent, life, id, call: Call::Acquire(claim) } => {
                let expected = self.store.counter(&claim.resource);
                let back = Happening::Counter { agent, life, id, claim, expected };
                self.sends(agent, back, false);
            }
            Happening::Counter { agent, life, id, claim, expected } => {
                let known = &self.agents[agent];
                if known.life == life && known.waiting.contains(&id) {
                    let on = Happening::Conditional { agent, life, id, claim, expected };
                    self.sends(agent, on, true);
                }
            }
            Happening::Conditional { agent, life, id, claim, expected } => {
                let now = self.store_now();
                let attempt = self.store.acquire(now, &claim, expected);
                if matches!(attempt, Attempt::Granted(_)) {
                    self.broken.remove(&claim.lease);
                }
                let result = CallResult::Attempted(attempt);
                self.look_at_expiry(&claim.resource);
                self.replies(agent, life, id, result);
            }
            Happening::Arrives { agent, life, id, call } => {
                let now = self.store_now();
                let result = self.store.does(now, &call);
                if let Call::Release(Proof { resource, .. }) | Call::Cancel(resource, _) = &call {
                    self.stirs(&resource.clone());
                }
                if let (Call::Release(proof), CallResult::Done) = (&call, &result) {
                    self.given_back.insert(proof.lease);
                }
                if let Call::Renew { proof, .. } = &call {
                    self.look_at_expiry(&proof.resource);
                }
                self.replies(agent, life, id, result);
            }
            Happening::Tell { agent, life, input } => self.tell_in_time(agent, life, input),
            Happening::OnDisk { agent, life, sync, length } => {
                let known = &mut self.agents[agent];
                if known.life == life {
                    let durable = !known.journal_breaks;
                    if durable {
                        known.durable = known.durable.max(length);
                    }
                    self.tell_in_time(agent, life, Input::Synced { sync, durable });
                }
            }
            Happening::Stirs { agent, life, on } => {
                let input = Input::Stirred { backend: backend(), resource: on, tells: true };
                self.tell_in_time(agent, life, input);
            }
            Happening::Wake { agent, life } => {
                let known = &mut self.agents[agent];
                if known.life == life && known.wakes_at == Some(self.now) {
                    known.wakes_at = None;
                    self.tell_in_time(agent, life, Input::Tick);
                }
            }
            Happening::Person { agent } if self.storm => self.person(agent),
            Happening::Python if self.storm => self.python(),
            Happening::Admin if self.storm => self.admin(),
            Happening::Fate { agent } if self.storm => self.fate(agent),
            Happening::Start { agent, life } => {
                if self.agents[agent].life == life && self.agents[agent].table.is_none() {
                    self.start(agent);
                }
            }
            Happening::Person { .. }
            | Happening::Python
            | Happening::Admin
            | Happening::Fate { .. }
            | Happening::Look => {}
        }
    }

    /// One message across the network, which in a storm may be lost, late or doubled.
    fn sends(&mut self, agent: usize, happening: Happening, may_double: bool) {
        if !self.storm {
            return self.later(5_000_000, happening);
        }
        if self.outage[agent] > self.now || self.dice.chance(30) {
            // Lost; or kept somewhere and delivered when nobody counts on it any more.
            if self.dice.chance(300) {
                let delay = self.dice.below(20 * SECOND);
                self.later(delay, happening);
            }
            return;
        }
        let slow = self.dice.chance(100);
        let delay = self.dice.below(if slow { 5 * SECOND } else { SECOND / 50 });
        if may_double && self.dice.chance(30) {
            let again = delay + self.dice.below(20 * SECOND);
            let (first, second) = happening.doubled();
            self.later(again, second);
            return self.later(delay, first);
        }
        self.later(delay, happening);
    }

    fn replies(&mut self, agent: usize, life: u64, id: CallId, result: CallResult) {
        let input = Input::Settled { call: id, result };
        self.sends(agent, Happening::Tell { agent, life, input }, false);
    }

    /// Hands an input over as soon as the agent runs; one that was for an earlier life is lost.
    fn tell_in_time(&mut self, agent: usize, life: u64, input: Input) {
        let known = &self.agents[agent];
        if known.life != life || known.table.is_none() {
            return;
        }
        if known.asleep_until > self.now {
            let delay = known.asleep_until - self.now;
            return self.later(delay, Happening::Tell { agent, life, input });
        }
        if let Input::Settled { call, .. } = &input
            && !self.agents[agent].waiting.remove(call)
        {
            return;
        }
        self.tell(agent, input);
    }

    fn tell(&mut self, agent: usize, input: Input) {
        let moment = self.moment(agent);
        let Some(mut table) = self.agents[agent].table.take() else { return };
        table.handle(moment, input);
        let mut effects = Vec::new();
        while let Some(effect) = table.next_effect() {
            effects.push(effect);
        }
        let wakeup = table.next_wakeup();
        self.agents[agent].table = Some(table);
        for effect in effects {
            self.does(agent, effect);
        }
        if let Some(at) = wakeup {
            let delay = nanos(moment.until(at)) + 1_000_000;
            let known = &mut self.agents[agent];
            if known.wakes_at.is_none_or(|before| self.now + delay < before) {
                known.wakes_at = Some(self.now + delay);
                let life = known.life;
                self.later(delay, Happening::Wake { agent, life });
            }
        }
    }

    fn does(&mut self, agent: usize, effect: Effect) {
        let life = self.agents[agent].life;
        if self.tells {
            println!(
                "{:.6}   agent {agent} at {:?}: {effect:?}",
                secs(self.now),
                self.moment(agent)
            );
        }
        match effect {
            Effect::Record(record) => self.agents[agent].journal.push(record),
            Effect::Sync(sync) => {
                let length = self.agents[agent].journal.len();
                let delay = self.dice.below(SECOND / 20);
                self.later(delay, Happening::OnDisk { agent, life, sync, length });
            }
            Effect::Write(sync) => {
                // In the kernel's hands: a crash of the host takes it, one of the agent does not.
                let known = &mut self.agents[agent];
                known.written = known.journal.len();
                let input = Input::Synced { sync, durable: true };
                self.later(0, Happening::Tell { agent, life, input });
            }
            Effect::Call { id, call, patience, .. } => {
                self.agents[agent].waiting.insert(id);
                if let Call::Release(proof) = &call {
                    *self.releases.entry(proof.lease).or_default() += 1;
                }
                let input = Input::Settled { call: id, result: CallResult::Unknown };
                self.later(nanos(patience), Happening::Tell { agent, life, input });
                let doubles = !matches!(call, Call::Acquire(_));
                self.sends(agent, Happening::Arrives { agent, life, id, call }, doubles);
            }
            Effect::Answer { ticket, answer } => self.hears(agent, ticket, answer),
            Effect::Changed(view) => self.learns(agent, &view),
            Effect::Guard(process) => self.guards(agent, process),
            Effect::Watch { resource, .. } => self.watches(agent, resource),
            Effect::Unwatch { resource, .. } => {
                self.agents[agent].watching.remove(&resource);
            }
            Effect::Waiting { ticket, .. } => {
                // An agent hears of a session's end after all that was due before.
                let known = self.agents[agent].sessions.contains_key(&ticket);
                let is_there = known || self.gone_tickets.contains(&ticket);
                assert!(is_there, "{ticket:?} waits and asked nothing");
            }
            Effect::Touched(..) => {}
        }
    }

    /// A person gets an answer.
    fn hears(&mut self, agent: usize, ticket: Ticket, answer: Answer) {
        self.served(agent, ticket, &answer);
        self.tells_the_truth(agent, ticket, &answer);
        let session = self.agents[agent].sessions.remove(&ticket);
        match answer {
            Answer::Acquired(views) => {
                let Some((session, attach)) = session else { return };
                for view in views {
                    if view.claim.over.is_some() {
                        self.breaks += 1;
                        continue;
                    }
                    self.grants += 1;
                    let fence = view.fence.expect("a grant has a fence");
                    let known = &mut self.agents[agent];
                    let before = known.fences.insert(view.claim.resource.clone(), fence);
                    assert!(before < Some(fence), "a fence fell: {before:?} then {view:?}");
                    known.taken.push((view.claim.lease, session, attach));
                    self.believes(agent, &view);
                }
            }
            Answer::Renewed(view) => {
                self.shared(agent, ticket);
                if self.agents[agent].beliefs.contains_key(&view.claim.lease) {
                    self.believes(agent, &view);
                }
            }
            Answer::Released | Answer::No(_) => {}
        }
    }

    /// Of those on one host who wait for one resource, whoever came first is served first.
    fn served(&mut self, agent: usize, ticket: Ticket, answer: &Answer) {
        let Some(on) = self.agents[agent].waiting_for.remove(&ticket) else { return };
        if !matches!(answer, Answer::Acquired(_)) {
            return;
        }
        self.waits += 1;
        let earlier = self.agents[agent].waiting_for.range(..ticket);
        let passed: Vec<_> = earlier.filter(|(_, waits_for)| **waits_for == on).collect();
        assert!(passed.is_empty(), "{ticket:?} was served before {passed:?} on {on}");
    }

    fn guards(&mut self, agent: usize, process: ProcessId) {
        if self.gone_processes.contains(&process) {
            let life = self.agents[agent].life;
            let input = Input::Ended(process);
            self.later(1, Happening::Tell { agent, life, input });
        }
    }

    /// Some stores tell, and some do not.
    fn watches(&mut self, agent: usize, on: Resource) {
        if self.dice.chance(500) {
            self.agents[agent].watching.insert(on.clone());
            let life = self.agents[agent].life;
            self.later(SECOND / 20, Happening::Stirs { agent, life, on });
        }
    }

    /// Whoever listens hears of it, if nothing is lost on the way.
    fn stirs(&mut self, on: &Resource) {
        for agent in 0..AGENTS {
            if self.agents[agent].watching.contains(on) {
                let life = self.agents[agent].life;
                self.sends(agent, Happening::Stirs { agent, life, on: on.clone() }, false);
            }
        }
    }

    /// In the mended world nobody waits for what nobody has.
    fn look_for_sleepers(&self) {
        for (number, agent) in self.agents.iter().enumerate() {
            for (ticket, on) in &agent.waiting_for {
                let row = self.store.row(self.store_now(), on);
                let table = &agent.table;
                assert!(row.is_some(), "agent {number}: {ticket:?} sleeps beside {on}: {table:?}");
            }
        }
    }

    /// The agent told its subscribers.
    fn learns(&mut self, agent: usize, view: &View) {
        let lease = view.claim.lease;
        match &view.state {
            State::Held | State::AtRisk => {
                assert!(!self.agents[agent].over.contains_key(&lease), "it came back: {view:?}");
                if self.agents[agent].beliefs.contains_key(&lease) {
                    self.believes(agent, view);
                }
            }
            State::Lost(_) | State::Releasing | State::Released | State::Lingering => {
                self.ends_with_its_processes(agent, view);
                self.agents[agent].beliefs.remove(&lease);
                let lost = matches!(view.state, State::Lost(_));
                self.agents[agent].over.insert(lease, lost);
            }
            // Whoever counts on a later end hears of an earlier one.
            State::Unknown => {
                if let Some((_, until)) = self.agents[agent].beliefs.get_mut(&lease) {
                    *until = view.deadline.min(*until);
                }
            }
            State::Asking => {}
        }
    }

    fn believes(&mut self, agent: usize, view: &View) {
        self.holds_now(agent, view);
        let belief = (view.claim.resource.clone(), view.deadline);
        self.agents[agent].beliefs.insert(view.claim.lease, belief);
    }

    /// Whoever is told "held" has it in the store at that instant.
    fn holds_now(&self, agent: usize, view: &View) {
        if matches!(view.state, State::Held | State::AtRisk)
            && !self.broken.contains_key(&view.claim.lease)
        {
            let row = self.store.row(self.store_now(), &view.claim.resource);
            let is_ours = row.is_some_and(|row| row.lease == view.claim.lease);
            let is_instead = row.is_some_and(|row| row.over.contains(&view.claim.lease));
            assert!(is_ours || is_instead, "agent {agent} says held: {view:?}; the store: {row:?}");
        }
    }

    /// One believer at most: each is the one whom the store knows.
    fn look(&self) {
        for (number, agent) in self.agents.iter().enumerate() {
            for (lease, (on, deadline)) in agent.beliefs.iter().chain(&agent.lingering) {
                // Whoever holds a lease counts for themselves (`run`): agents sleep and crash.
                if self.moment(number) >= *deadline && self.off != Off::OwnDeadline {
                    continue;
                }
                if let Some(at) = self.broken.get(lease) {
                    let noticed = self.storm || self.now < at.max(&(SECOND + STORM)) + NOTICED;
                    assert!(noticed, "agent {number} never noticed that {lease} was broken");
                    continue;
                }
                let row = self.store.row(self.store_now(), on);
                assert!(
                    row.is_some_and(|row| row.lease == *lease || row.over.contains(lease)),
                    "agent {number} believes in {lease} on {on} until {deadline:?}, now {:?}; \
                     the store: {row:?}; {:?}",
                    self.moment(number),
                    agent.table
                );
            }
        }
    }

    /// In the mended world every lock of ours is known to the agent that took it, and what was
    /// attached to a session that is gone is gone.
    fn look_for_orphans(&self) {
        let python: BTreeSet<LeaseId> = self.python.iter().map(|(_, lease)| *lease).collect();
        for (on, row) in self.store.rows(self.store_now()) {
            // What stands in the place of a broken lease ends by itself.
            if python.contains(&row.lease) || !row.over.is_empty() {
                continue;
            }
            let holder = (0..AGENTS).find(|agent| {
                let table = self.agents[*agent].table.as_ref().expect("all run now");
                let view = table.view(self.moment(*agent), row.lease);
                // One of several that somebody waits for may have been granted just now.
                let is_known = |state| matches!(state, State::Asking | State::Held | State::AtRisk);
                view.is_some_and(|view| is_known(view.state))
            });
            assert!(holder.is_some(), "an orphan on {on}: {row:?}");
            let attached = self.agents.iter().any(|agent| {
                agent.taken.iter().any(|(lease, session, attach)| {
                    *lease == row.lease
                        && match attach {
                            Attach::Detached => false,
                            Attach::Session(_) => self.gone_sessions.contains(session),
                            Attach::Process(_) | Attach::Holder(..) => {
                                !self.goes_on(agent, *lease, *attach, false)
                            }
                        }
                })
            });
            assert!(!attached, "attached to nobody on {on}: {row:?}");
        }
    }

    /// In the mended world a lease that shall be kept is kept, and whoever has one that somebody
    /// took away hears of it, long before its end would tell.
    fn probe(&mut self) {
        let kept = self.takes("kept", 5, Hold::Keep);
        let broken = self.takes("broken", 3600, Hold::No);
        self.play_until(self.now + PROBE);
        for lease in [kept, broken] {
            assert!(self.agents[0].beliefs.contains_key(&lease), "{lease} was not kept");
        }
        self.broken.insert(broken, self.now);
        self.store.delete(&resource("broken"));
        self.play_until(self.now + NOTICED);
        assert!(self.agents[0].beliefs.contains_key(&kept), "a kept lease was not kept");
        self.tell(0, Input::Release { ticket: Ticket(u64::MAX), lease: kept });
    }

    fn takes(&mut self, on: &str, secs: u64, hold: Hold) -> LeaseId {
        let claim = self.fresh_claim(0, on, secs);
        let lease = claim.lease;
        let ask = self.ask(0, vec![claim], hold, 0);
        self.tell(0, ask);
        lease
    }

    fn ask(&mut self, agent: usize, claims: Vec<Claim>, hold: Hold, attached: u64) -> Input {
        let (ticket, session) = (Ticket(self.fresh()), SessionId(self.fresh()));
        let attach = match attached {
            6 | 7 => Attach::Session(session),
            8 | 9 => Attach::Process(process(session)),
            10 | 11 => Attach::Holder(process(session), 5),
            _ => Attach::Detached,
        };
        self.agents[agent].sessions.insert(ticket, (session, attach));
        let owner = Uid(1000);
        let (leases_max, hold_for) = (256, None);
        let waits = self.storm && self.dice.chance(400);
        let until = waits.then(|| match self.dice.below(60) {
            0 => Moment::NEVER,
            secs => self.moment(agent) + Duration::from_secs(secs),
        });
        if let ([claim], Some(_)) = (claims.as_slice(), until) {
            self.agents[agent].waiting_for.insert(ticket, claim.resource.clone());
        }
        let terminal = None;
        let ask = Ask {
            ticket,
            session,
            claims,
            owner,
            hold,
            attach,
            terminal,
            leases_max,
            until,
            hold_for,
        };
        Input::Acquire(Box::new(ask))
    }

    fn fresh_claim(&mut self, agent: usize, on: &str, secs: u64) -> Claim {
        let number = self.fresh();
        Claim { host: format!("host{agent}"), ..claim(number, on, secs) }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn look_at_expiry(&mut self, on: &Resource) {
        let now = self.store_now();
        if let Some(row) = self.store.row(now, on) {
            let delay = row.expires - now;
            self.later(delay + delay / 1000 + 1, Happening::Look);
        }
    }

    fn later(&mut self, delay: u64, happening: Happening) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), Box::new(happening));
    }

    fn store_now(&self) -> u64 {
        drifted(self.now, self.store_fast_ppm)
    }

    fn moment(&self, agent: usize) -> Moment {
        let known = &self.agents[agent];
        Moment::from_nanos(known.offset + drifted(self.now - known.missed, known.fast_ppm))
    }
}

/// An answer said so.
type IsSure = bool;

/// The process that whoever has this session would have its leases follow.
fn process(of: SessionId) -> ProcessId {
    ProcessId { pid: u32::try_from(of.0).expect("small"), started: 1, group: true }
}

fn drifted(nanos: u64, fast_ppm: i64) -> u64 {
    let part = nanos / 1_000_000 * fast_ppm.unsigned_abs();
    if fast_ppm < 0 { nanos - part } else { nanos + part }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn secs(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a short time")
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match (number("STORMLOCK_SEED"), number("STORMLOCK_SEEDS")) {
        (Some(one), _) => one..one + 1,
        (None, Some(count)) => 0..count,
        (None, None) => 0..default,
    }
}

#[test]
fn the_world_never_has_two_believers() {
    let seeds = Mutex::new(seeds(SEEDS));
    let play = || {
        let (mut grants, mut waits, mut breaks) = (0, 0, 0);
        loop {
            let Some(seed) = seeds.lock().expect("nobody panics with it").next() else { break };
            let played = std::panic::catch_unwind(|| {
                let mut world = World::new(seed, Off::Nothing);
                world.run();
                (world.grants, world.waits, world.breaks)
            });
            match played {
                Ok((more, waited, broken)) => {
                    grants += more;
                    waits += waited;
                    breaks += broken;
                }
                Err(why) => {
                    eprintln!("play it again with STORMLOCK_SEED={seed}");
                    std::panic::resume_unwind(why);
                }
            }
        }
        (grants, waits, breaks)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (grants, waits, breaks) = std::thread::scope(|scope| {
        let played: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        let played = played.into_iter().map(|thread| thread.join().expect("a seed failed"));
        played.fold((0, 0, 0), |sum: (u64, u64, u64), more| {
            (sum.0 + more.0, sum.1 + more.1, sum.2 + more.2)
        })
    });
    println!("{grants} grants, {waits} of them after a wait; {breaks} leases broken");
    assert!(
        grants > 1000 && waits > 100 && breaks > 100,
        "a world in which hardly anything is granted shows nothing"
    );
}

thread_local! {
    /// What panics on this thread is meant to.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The first seed that notices that something is off.
fn detected(off: Off) -> Option<u64> {
    (0..500).find(|seed| std::panic::catch_unwind(|| World::new(*seed, off).run()).is_err())
}

#[test]
fn every_law_that_is_turned_off_is_noticed() {
    let store = [Promise::CancelIsDefinitive, Promise::Compare, Promise::BreakLasts];
    let store = store.map(Off::Store);
    let core = Law::ALL.iter().copied().map(Off::Core);
    let switches = core.chain(store);
    let switches = switches.chain([Off::BootClock, Off::OwnDeadline]);
    let told = std::panic::take_hook();
    // What other tests have to say meanwhile is heard.
    std::panic::set_hook(Box::new(move |panic| {
        if !IS_QUIET.get() {
            told(panic);
        }
    }));
    IS_QUIET.set(true);
    let results: Vec<(Off, Option<u64>)> = switches.map(|off| (off, detected(off))).collect();
    IS_QUIET.set(false);
    for (off, seed) in &results {
        println!("{off:?}: noticed at seed {seed:?}");
    }
    let unnoticed: Vec<_> = results.iter().filter(|(_, seed)| seed.is_none()).collect();
    assert!(unnoticed.is_empty(), "nobody noticed {unnoticed:?}");
}
