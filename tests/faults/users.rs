//! Users at work: they take, look, renew and give back, and write down what they are told.

use std::time::Duration;

use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{
    Acquire, Attach, Code, Hold, IsHeld, Lease, Refusal, Release, Renew, State, Target, Wait,
};
use stormlock_protocol::name::{LeaseId, Reason, Resource, Ttl};

use crate::course::Course;
use crate::dice::{Dice, now_us};
use crate::history::{Belief, History, HungUp, Told, What};
use crate::node::{Connection, Node, is_broken};

/// What passers take; a request to the store about any of it has the prefix in it.
pub(crate) const PREFIX: &str = "faults/";
const PASSED: usize = 7;
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
/// What each agent has one of, all the time, and nobody renews by hand: with the others, sixteen.
const STEADY_PREFIX: &str = "faults/steady";
/// Short enough to be lost in a calm if nobody renews it, and long enough to outlast each trouble
/// of an agent.
pub(crate) const STEADY_TTL: u64 = 20;
/// Longest that somebody waits for what another has, in seconds.
const WAIT_MAX: usize = 3;

/// How somebody works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    /// For a second or two each time, with ttls as short as can be.
    Passer,
    /// For half a minute.
    Keeper,
    /// For as long as it can.
    Steady,
    /// Not at all: hangs up whenever an answer takes long, and as soon as there is one.
    Hasty,
}

/// One user.
pub(crate) struct User<'a> {
    at: usize,
    number: usize,
    node: &'a Node,
    connection: Connection,
    /// How often it asked for something: that, and who it is, stands in its reasons.
    wishes: usize,
    history: &'a History,
    course: &'a Course,
    dice: Dice,
}

/// What a user holds.
type Mine = (Resource, LeaseId);

/// Why a question has no answer.
#[derive(Debug)]
enum No {
    Refused(Refusal),
    /// The agent was killed: what was asked may have happened. It is there again.
    Broken,
}

impl<'a> User<'a> {
    pub(crate) fn new(
        (at, number): (usize, usize),
        node: &'a Node,
        (history, course): (&'a History, &'a Course),
        dice: Dice,
    ) -> User<'a> {
        let connection = node.connect();
        User { at, number, node, connection, wishes: 0, history, course, dice }
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
                Nature::Steady => usize::MAX,
                Nature::Passer | Nature::Hasty => self.dice.below(5),
            };
            for _ in 0..looks {
                match nature {
                    Nature::Keeper | Nature::Steady => self.rests(300, 700),
                    Nature::Passer | Nature::Hasty => self.rests(0, 300),
                }
                if !self.course.users_work() || mine.is_empty() {
                    break;
                }
                mine.retain(|(on, lease)| match nature {
                    Nature::Steady => self.still_has(on, *lease),
                    Nature::Keeper | Nature::Passer | Nature::Hasty => self.looks(on, *lease),
                });
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
            Nature::Steady => (vec![steady(self.at).to_string()], STEADY_TTL),
            Nature::Passer | Nature::Hasty => {
                let first = self.dice.below(PASSED);
                let others = if self.dice.below(6) == 0 { 1..2 } else { 0..0 };
                let names = std::iter::once(first).chain(others.map(|by| (first + by) % PASSED));
                let names = names.map(|it| format!("{PREFIX}passed{it}")).collect();
                (names, TTLS[self.dice.below(TTLS.len())])
            }
        };
        let is_passer = nature == Nature::Passer;
        let is_short = is_passer && secs < LONG_TTL;
        let hold = match self.dice.below(8) {
            0 if is_short => Hold::No,
            1 if is_short => Hold::For(2),
            _ => Hold::Keep,
        };
        let is_let_go = hold != Hold::Keep && self.dice.below(2) == 0;
        let wait = match self.dice.below(4) {
            0 if is_passer => {
                let secs = 1 + self.dice.below(WAIT_MAX);
                Wait::For(secs.try_into().expect("a few seconds"))
            }
            _ => Wait::No,
        };
        let ttl = Some(Ttl::from_secs(secs).expect("a ttl"));
        let resources = names.into_iter().map(|it| Resource::new(it).expect("a name")).collect();
        let (reason, attach) = (Some(self.reason()), Attach::Detached);
        let terminal = None;
        (Acquire { resources, ttl, hold, reason, attach, wait, terminal }, is_let_go)
    }

    /// Tells its wishes apart, also after the agent that heard one was killed.
    fn reason(&mut self) -> Reason {
        self.wishes += 1;
        Reason::new(format!("{}-{}-{}", self.at, self.number, self.wishes)).expect("a reason")
    }

    fn takes(&mut self, wish: Acquire) -> Option<Vec<Mine>> {
        let is_kept = wish.hold == Hold::Keep;
        let what = if wish.wait == Wait::No { "acquire" } else { WAITING };
        let (resources, reason) = (wish.resources.clone(), wish.reason.clone());
        let life = self.connection.life;
        let (asked, taken) = self.asks(what, |client| client.acquire(wish));
        match taken {
            Ok(leases) => {
                let mut mine = Vec::new();
                for lease in leases {
                    self.granted(&lease, (asked, life), is_kept);
                    mine.push((lease.resource, lease.lease));
                }
                Some(mine)
            }
            Err(No::Refused(no)) => {
                self.refused(no, asked);
                None
            }
            Err(No::Broken) => {
                for resource in resources {
                    self.history.hung_up(HungUp { agent: self.at, resource, asked });
                }
                self.gives_back_what_it_never_heard_of(reason.as_ref());
                None
            }
        }
    }

    /// What was taken by an acquire whose answer never came is found by its reason.
    fn gives_back_what_it_never_heard_of(&mut self, reason: Option<&Reason>) {
        let leases = loop {
            match self.connection.leases() {
                Ok(leases) => break leases,
                Err(error) => self.is_born_again("status", &error),
            }
        };
        let is_it = |lease: &Lease| {
            lease.reason.as_ref() == reason
                && matches!(lease.state, State::Held | State::AtRisk | State::Unknown)
        };
        let mine = leases.into_iter().filter(is_it).map(|lease| (lease.resource, lease.lease));
        let mine: Vec<Mine> = mine.collect();
        if !mine.is_empty() {
            self.gives_back(&mine);
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
            reason: Some(self.reason()),
            attach,
            wait: Wait::No,
            terminal: None,
        };
        let Connection { mut client, life } = self.node.connect();
        let patience = 10 + self.dice.below(300);
        client.set_patience(Duration::from_millis(patience.try_into().expect("a short time")));
        let asked = now_us();
        match client.acquire(wish) {
            Ok(leases) => {
                for lease in leases {
                    self.granted(&lease, (asked, life), false);
                    self.told(&lease.resource, lease.lease, now_us(), What::Leaves);
                }
            }
            Err(ClientError::Refused(no)) => self.refused(no, asked),
            Err(error) if matches!(error, ClientError::Mute(_)) || is_broken(&error) => {
                self.history.hung_up(HungUp { agent: self.at, resource, asked });
                // Each leaves a cancel for when the store is back: they are not to pile up.
                self.rests(500, 500);
            }
            Err(error) => panic!("the agent does not answer an acquire: {error:?}"),
        }
        drop(client);
        self.rests(50, 300);
    }

    fn granted(&self, lease: &Lease, (asked, life): (u64, u32), is_kept: bool) {
        let belief = belief(lease).expect("a granted lease has a fence");
        let ttl_secs = lease.ttl.as_secs();
        let what = What::Granted { belief, ttl_secs, is_kept };
        self.told_in(life, &lease.resource, lease.lease, asked, what);
    }

    fn refused(&self, no: Refusal, asked: u64) {
        // What is still being cancelled counts against the limit of a user, and all are one here.
        let codes = [Code::Held, Code::Unavailable, Code::Timeout, Code::TooMany];
        assert!(codes.contains(&no.code), "{no:?}");
        // Who waited in vain is told the holder that was seen last, which may be of before.
        if let (Code::Held, Some(lock)) = (no.code, no.holder) {
            self.told(&lock.resource, lock.lease, asked, What::Stands);
        }
    }

    /// Uses what it holds; false once it was told that it does not.
    fn looks(&mut self, on: &Resource, lease: LeaseId) -> bool {
        match self.dice.below(3) {
            0 => return self.renews(on, lease),
            1 => drop(self.asks_whether(on, lease)),
            _ => {
                let (asked, lock) = self.asks("current", |client| client.current(on.clone()));
                if let Ok(Some(lock)) = lock {
                    self.told(on, lock.lease, asked, What::Stands);
                }
            }
        }
        true
    }

    /// Whether the agent and the store agree that it has it.
    fn asks_whether(&mut self, on: &Resource, lease: LeaseId) -> Option<bool> {
        let ask = IsHeld { resource: on.clone(), lease: Some(lease), by_me: true };
        let life = self.connection.life;
        let (asked, verdict) = self.asks("is-held", |client| client.is_held(ask));
        let (is_held, lock) = verdict.ok()?;
        if let Some(lock) = lock {
            let what = if is_held { What::HeldInStore } else { What::Stands };
            self.told_in(life, on, lock.lease, asked, what);
        }
        Some(is_held)
    }

    /// Uses it and never renews it; false once it is lost, and then it is acknowledged.
    fn still_has(&mut self, on: &Resource, lease: LeaseId) -> bool {
        if self.asks_whether(on, lease) != Some(false) {
            return true;
        }
        let Ok(leases) = self.connection.leases() else { return true };
        let state = leases.into_iter().find(|it| it.lease == lease).map(|it| it.state);
        if state.is_none() {
            self.told(on, lease, now_us(), What::NotThere);
        }
        let is_over = matches!(state, None | Some(State::Lost(_) | State::Released));
        if is_over {
            self.gives_back(&[(on.clone(), lease)]);
        }
        !is_over
    }

    fn renews(&mut self, on: &Resource, lease: LeaseId) -> bool {
        let target = Target { resource: on.clone(), lease: Some(lease) };
        let ask = Renew { target, ttl: None, hold: None };
        let life = self.connection.life;
        let (asked, renewed) = self.asks("renew", |client| client.renew(ask));
        match renewed {
            Ok(renewed) => {
                if let Some(belief) = belief(&renewed) {
                    self.told_in(life, on, lease, asked, What::Held(belief));
                }
                true
            }
            Err(No::Broken) => {
                self.told_in(life, on, lease, asked, What::Tried);
                true
            }
            Err(No::Refused(no)) => match no.code {
                Code::Unavailable => {
                    self.told_in(life, on, lease, asked, What::Tried);
                    true
                }
                Code::Lost => {
                    self.told_in(life, on, lease, asked, What::Lost);
                    false
                }
                // Its hold is over, and the agent has given it back; or else it forgot it.
                Code::NotHeld => {
                    self.told_in(life, on, lease, asked, What::NotThere);
                    false
                }
                _ => panic!("a renewal is refused: {no:?}"),
            },
        }
    }

    /// Until there is an answer, through every death of the agent.
    fn gives_back(&mut self, mine: &[Mine]) {
        let now = now_us();
        for (on, lease) in mine {
            self.told(on, *lease, now, What::Leaves);
        }
        let (life, asked, outcomes) = loop {
            let targets =
                mine.iter().map(|(on, lease)| Target { resource: on.clone(), lease: Some(*lease) });
            let ask = Release::These(targets.collect());
            let life = self.connection.life;
            match self.asks("release", |client| client.release(ask)) {
                (asked, Ok(outcomes)) => break (life, asked, outcomes),
                (_, Err(No::Broken)) => {}
                (_, Err(No::Refused(no))) => panic!("a release is refused: {no:?}"),
            }
        };
        for (outcome, (on, lease)) in outcomes.iter().zip(mine) {
            match outcome.refusal.as_ref().map(|no| no.code) {
                None => self.told_in(life, on, *lease, asked, What::Released),
                Some(Code::Lost) => self.told_in(life, on, *lease, asked, What::Lost),
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

    /// Asks the agent, which always answers while it lives, if with a no. Gives when the question
    /// left.
    fn asks<T>(
        &mut self,
        what: &'static str,
        question: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> (u64, Result<T, No>) {
        let asked = now_us();
        let answer = question(&mut self.connection.client);
        if what != WAITING {
            self.history.waited(now_us() - asked, what);
        }
        match answer {
            Ok(answer) => (asked, Ok(answer)),
            Err(ClientError::Refused(no)) => (asked, Err(No::Refused(no))),
            Err(error) => {
                self.is_born_again(what, &error);
                (asked, Err(No::Broken))
            }
        }
    }

    /// Nothing but its death excuses an agent that does not answer; then its next life is waited
    /// for.
    fn is_born_again(&mut self, what: &str, error: &ClientError) {
        assert!(is_broken(error), "the agent does not answer {what}: {error:?}");
        self.connection = self.node.connect_after(self.connection.life);
    }

    fn told(&self, resource: &Resource, lease: LeaseId, asked: u64, what: What) {
        self.told_in(self.connection.life, resource, lease, asked, what);
    }

    fn told_in(&self, life: u32, on: &Resource, lease: LeaseId, asked: u64, what: What) {
        let (agent, resource, answered) = (self.at, on.clone(), now_us());
        self.history.add(Told { agent, life, resource, lease, asked, answered, what });
    }
}

/// What an acquire is called that waits for another holder: it takes as long as it may.
const WAITING: &str = "acquire, waiting";

/// What an agent has all the time.
pub(crate) fn steady(at: usize) -> Resource {
    Resource::new(format!("{STEADY_PREFIX}{at}")).expect("a name")
}

/// What an agent believes of a lease, if it does.
pub(crate) fn belief(lease: &Lease) -> Option<Belief> {
    match lease.state {
        State::Held | State::AtRisk => {
            let fence = lease.fence.expect("a held lease has a fence");
            Some(Belief { fence, left_us: lease.left_ms * 1000 })
        }
        State::Asking | State::Unknown | State::Lost(_) | State::Released | State::Lingering => {
            None
        }
    }
}
