//! Users at work: they take, look, renew and give back, and write down what they are told.

use std::time::Duration;

use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{
    Acquire, Attach, Code, Hold, IsHeld, Lease, Refusal, Release, Renew, State, Target, Wait,
};
use stormlock_protocol::name::{LeaseId, Resource, Ttl};

use crate::Node;
use crate::agent::Agent;
use crate::course::Course;
use crate::dice::{Dice, now_us};
use crate::history::{Belief, History, HungUp, Told, What};

/// Longest that anybody waits for an answer: three tries of one acquire with the pauses between
/// them take half of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// What passers take; a request to the store about any of it has the prefix in it.
pub(crate) const PREFIX: &str = "faults/";
const PASSED: usize = 9;
/// What keepers take: as many as there are keepers, so that each has to wait now and then.
const KEPT: usize = 3;
/// The ttls of passers: as short as can be, and a long one.
const TTLS: [u64; 5] = [1, 2, 3, 5, LONG_TTL];
/// What the hasty want, and nobody keeps: a request about any of it takes it or lets it go.
pub(crate) const HASTY_PREFIX: &str = "faults/hasty";
const HASTY: usize = 3;
/// A ttl that shows an orphan, because it outlives the run.
const LONG_TTL: u64 = 300;
/// The ttl of keepers: an outage costs them nothing.
const KEEPERS_TTL: u64 = 60;

/// How somebody works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    /// For a second or two each time, with ttls as short as can be.
    Passer,
    /// For half a minute.
    Keeper,
    /// Not at all: hangs up whenever an answer takes long, and as soon as there is one.
    Hasty,
}

/// A connection to an agent.
pub(crate) fn connect(agent: &Agent) -> Client {
    Client::connect(&agent.socket(), PATIENCE).expect("the agent answers")
}

/// One user.
pub(crate) struct User<'a> {
    at: usize,
    agent: &'a Agent,
    client: Client,
    history: &'a History,
    course: &'a Course,
    dice: Dice,
}

/// What a user holds.
type Mine = (Resource, LeaseId);

impl<'a> User<'a> {
    pub(crate) fn new(
        at: usize,
        node: &'a Node,
        (history, course): (&'a History, &'a Course),
        dice: Dice,
    ) -> User<'a> {
        let agent = &node.agent;
        User { at, agent, client: connect(agent), history, course, dice }
    }

    /// Works until the users stop.
    pub(crate) fn works(mut self, nature: Nature) {
        while self.course.users_work() {
            if nature == Nature::Hasty {
                self.hangs_up();
                continue;
            }
            let (wish, is_let_go) = self.wish(nature);
            let Some(mut mine) = self.takes(wish) else {
                self.rests(20, 200);
                continue;
            };
            let looks = match nature {
                Nature::Keeper => 20 + self.dice.below(30),
                Nature::Passer | Nature::Hasty => self.dice.below(5),
            };
            for _ in 0..looks {
                match nature {
                    Nature::Keeper => self.rests(300, 700),
                    Nature::Passer | Nature::Hasty => self.rests(0, 300),
                }
                if !self.course.users_work() || mine.is_empty() {
                    break;
                }
                mine.retain(|(on, lease)| self.looks(on, *lease));
            }
            if !is_let_go && !mine.is_empty() {
                self.gives_back(&mine);
            }
            self.rests(0, 100);
        }
    }

    /// What to take next, and whether it is left to end by itself.
    fn wish(&mut self, nature: Nature) -> (Acquire, bool) {
        let (names, secs) = match nature {
            Nature::Keeper => (vec![format!("{PREFIX}kept{}", self.dice.below(KEPT))], KEEPERS_TTL),
            Nature::Passer | Nature::Hasty => {
                let first = self.dice.below(PASSED);
                let others = if self.dice.below(6) == 0 { 1..2 } else { 0..0 };
                let names = std::iter::once(first).chain(others.map(|by| (first + by) % PASSED));
                let names = names.map(|it| format!("{PREFIX}passed{it}")).collect();
                (names, TTLS[self.dice.below(TTLS.len())])
            }
        };
        let is_short = secs < KEEPERS_TTL;
        let hold = match self.dice.below(8) {
            0 if is_short => Hold::No,
            1 if is_short => Hold::For(2),
            _ => Hold::Keep,
        };
        let is_let_go = hold != Hold::Keep && self.dice.below(2) == 0;
        let ttl = Some(Ttl::from_secs(secs).expect("a ttl"));
        let resources = names.into_iter().map(|it| Resource::new(it).expect("a name")).collect();
        (
            Acquire {
                resources,
                ttl,
                hold,
                reason: None,
                attach: Attach::Detached,
                wait: Wait::No,
                terminal: None,
            },
            is_let_go,
        )
    }

    fn takes(&mut self, wish: Acquire) -> Option<Vec<Mine>> {
        let is_kept = wish.hold != Hold::No;
        let (asked, taken) = self.asks("acquire", |client| client.acquire(wish));
        match taken {
            Ok(leases) => {
                let mut mine = Vec::new();
                for lease in leases {
                    self.granted(&lease, asked, is_kept);
                    mine.push((lease.resource, lease.lease));
                }
                Some(mine)
            }
            Err(no) => {
                self.refused(no, asked);
                None
            }
        }
    }

    /// Takes something for as long as its connection lasts, and hangs up: an agent that was asked
    /// and can tell nobody lets go again, whatever became of its call.
    fn hangs_up(&mut self) {
        let name = format!("{HASTY_PREFIX}{}", self.dice.below(HASTY));
        let resource = Resource::new(name).expect("a name");
        let ttl = Some(Ttl::from_secs(LONG_TTL).expect("a ttl"));
        let (hold, attach) = (Hold::Keep, Attach::Session);
        let wish = Acquire {
            resources: vec![resource.clone()],
            ttl,
            hold,
            reason: None,
            attach,
            wait: Wait::No,
            terminal: None,
        };
        let mut client = connect(self.agent);
        let patience = 10 + self.dice.below(300);
        client.set_patience(Duration::from_millis(patience.try_into().expect("a short time")));
        let asked = now_us();
        match client.acquire(wish) {
            Ok(leases) => {
                for lease in leases {
                    self.granted(&lease, asked, true);
                    self.told(&lease.resource, lease.lease, now_us(), What::Leaves);
                }
            }
            Err(ClientError::Mute(_)) => {
                self.history.hung_up(HungUp { agent: self.at, resource, asked });
            }
            Err(ClientError::Refused(no)) => self.refused(no, asked),
            Err(error) => panic!("the agent does not answer an acquire: {error:?}"),
        }
        drop(client);
        self.rests(50, 300);
    }

    fn granted(&self, lease: &Lease, asked: u64, is_kept: bool) {
        let belief = belief(lease).expect("a granted lease has a fence");
        let ttl_secs = lease.ttl.as_secs();
        let what = What::Granted { belief, ttl_secs, is_kept };
        self.told(&lease.resource, lease.lease, asked, what);
    }

    fn refused(&self, no: Refusal, asked: u64) {
        assert!(matches!(no.code, Code::Held | Code::Unavailable), "{no:?}");
        if let Some(lock) = no.holder {
            self.told(&lock.resource, lock.lease, asked, What::Stands);
        }
    }

    /// Uses what it holds; false once it was told that it does not.
    fn looks(&mut self, on: &Resource, lease: LeaseId) -> bool {
        match self.dice.below(3) {
            0 => self.renews(on, lease),
            1 => {
                let ask = IsHeld { resource: on.clone(), lease: Some(lease), by_me: true };
                let (asked, verdict) = self.asks("is-held", |client| client.is_held(ask));
                if let Ok((is_held, Some(lock))) = verdict {
                    let what = if is_held { What::HeldInStore } else { What::Stands };
                    self.told(on, lock.lease, asked, what);
                }
                true
            }
            _ => {
                let (asked, lock) = self.asks("current", |client| client.current(on.clone()));
                if let Ok(Some(lock)) = lock {
                    self.told(on, lock.lease, asked, What::Stands);
                }
                true
            }
        }
    }

    fn renews(&mut self, on: &Resource, lease: LeaseId) -> bool {
        let target = Target { resource: on.clone(), lease: Some(lease) };
        let ask = Renew { target, ttl: None, hold: None };
        let (asked, renewed) = self.asks("renew", |client| client.renew(ask));
        match renewed {
            Ok(renewed) => {
                if let Some(belief) = belief(&renewed) {
                    self.told(on, lease, asked, What::Held(belief));
                }
                true
            }
            Err(no) => match no.code {
                Code::Unavailable => true,
                Code::Lost => {
                    self.told(on, lease, asked, What::Lost);
                    false
                }
                // Its hold is over, and the agent has given it back.
                Code::NotHeld => false,
                _ => panic!("a renewal is refused: {no:?}"),
            },
        }
    }

    fn gives_back(&mut self, mine: &[Mine]) {
        let now = now_us();
        let targets = mine.iter().map(|(on, lease)| {
            self.told(on, *lease, now, What::Leaves);
            Target { resource: on.clone(), lease: Some(*lease) }
        });
        let ask = Release::These(targets.collect());
        let (asked, outcomes) = self.asks("release", |client| client.release(ask));
        for (outcome, (on, lease)) in outcomes.expect("one outcome for each").iter().zip(mine) {
            match outcome.refusal.as_ref().map(|no| no.code) {
                None => self.told(on, *lease, asked, What::Released),
                Some(Code::Lost) => self.told(on, *lease, asked, What::Lost),
                // The agent goes on giving it back, or has done so when its hold was over.
                Some(Code::Unavailable | Code::NotHeld) => {}
                Some(_) => panic!("a release is refused: {outcome:?}"),
            }
        }
    }

    fn rests(&mut self, least: usize, more: usize) {
        let ms = least + self.dice.below(more);
        self.course.pause(ms);
    }

    /// Asks the agent, which always answers, if with a no. Gives when the question left.
    fn asks<T>(
        &mut self,
        what: &'static str,
        question: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> (u64, Result<T, Refusal>) {
        let asked = now_us();
        let answer = question(&mut self.client);
        self.history.waited(now_us() - asked, what);
        match answer {
            Ok(answer) => (asked, Ok(answer)),
            Err(ClientError::Refused(no)) => (asked, Err(no)),
            Err(error) => panic!("the agent does not answer {what}: {error:?}"),
        }
    }

    fn told(&self, resource: &Resource, lease: LeaseId, asked: u64, what: What) {
        let (agent, resource, answered) = (self.at, resource.clone(), now_us());
        self.history.add(Told { agent, resource, lease, asked, answered, what });
    }
}

/// What an agent believes of a lease, if it does.
pub(crate) fn belief(lease: &Lease) -> Option<Belief> {
    match lease.state {
        State::Held | State::AtRisk => {
            let fence = lease.fence.expect("a held lease has a fence");
            Some(Belief { fence, left_us: lease.left_ms * 1000 })
        }
        State::Asking | State::Unknown | State::Lost(_) | State::Released => None,
    }
}
