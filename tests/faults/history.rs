//! What the users of several agents were told, in the time of the one clock that they share.
//!
//! Not here: what is right and wrong about it (`check`).

use std::sync::{Mutex, MutexGuard, PoisonError};

use stormlock_protocol::message::LostReason;
use stormlock_protocol::name::{Fence, LeaseId, Resource};

/// One thing that somebody was told about a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// Which agent said so.
    pub(crate) agent: usize,
    /// In which of its lives.
    pub(crate) life: u32,
    pub(crate) resource: Resource,
    pub(crate) lease: LeaseId,
    /// When the question left, in microseconds since boot; of an event, when it was read.
    pub(crate) asked: u64,
    /// When the answer was there.
    pub(crate) answered: u64,
    pub(crate) what: What,
}

/// What was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// An acquire was granted.
    Granted {
        belief: Belief,
        ttl_secs: u32,
        is_kept: bool,
    },
    /// An answer said that it is held, and for how long.
    Held(Belief),
    /// The store was asked, showed it, and the agent believed in it.
    HeldInStore,
    /// The store showed it to somebody.
    Stands,
    /// A renewal was asked for and never answered.
    Tried,
    /// From when it was asked on, its holder counts on it no more.
    Leaves,
    /// The agent has it from before its start, and does not know yet.
    Unproven,
    /// The agent said that it is given back, or being given back, to somebody who only looked.
    Leaving,
    /// The agent does not know of it (any more).
    NotThere,
    /// An answer said that it is given back.
    Released,
    /// An answer said that it is lost.
    Lost,
    /// The stream of its agent's events said so.
    EventHeld(Fence),
    EventReleased,
    EventLost(LostReason),
    /// A stream that begins anew no longer has it, and no stream before told its end: that came
    /// when the agent was killed. True if it was to be kept.
    EventGone {
        was_kept: bool,
    },
}

/// What an agent says of a lease that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Belief {
    pub(crate) fence: Fence,
    /// How much longer the agent believes in it.
    pub(crate) left_us: u64,
}

/// A time in which an agent could not reach its store: from the last question that was answered to
/// the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) agent: usize,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// An acquire whose asker did not wait for the answer, or whose agent was killed before it: nobody
/// was told of what it may have taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HungUp {
    pub(crate) agent: usize,
    pub(crate) resource: Resource,
    pub(crate) asked: u64,
}

/// A time in which an agent that had just started could reach no store: it can know nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blind {
    pub(crate) agent: usize,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// All that happened in a run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Events {
    pub(crate) told: Vec<Told>,
    pub(crate) outages: Vec<Outage>,
    pub(crate) hung_up: Vec<HungUp>,
    pub(crate) blind: Vec<Blind>,
    /// From when to when nothing went wrong.
    pub(crate) calm: Option<(u64, u64)>,
}

/// Everything that was told, by whoever heard it.
#[derive(Debug, Default)]
pub(crate) struct History {
    events: Mutex<Events>,
    /// Longest that anybody waited for an answer, and for which.
    longest: Mutex<(u64, &'static str)>,
}

impl History {
    pub(crate) fn add(&self, told: Told) {
        self.events().told.push(told);
    }

    /// True once somebody was told that the lease is held.
    pub(crate) fn was_told_held(&self, lease: LeaseId) -> bool {
        let is_held = |it: &Told| {
            it.lease == lease && matches!(it.what, What::Granted { .. } | What::Held(_))
        };
        self.events().told.iter().rev().any(is_held)
    }

    pub(crate) fn add_outage(&self, outage: Outage) {
        self.events().outages.push(outage);
    }

    pub(crate) fn hung_up(&self, hung_up: HungUp) {
        self.events().hung_up.push(hung_up);
    }

    pub(crate) fn was_blind(&self, blind: Blind) {
        self.events().blind.push(blind);
    }

    pub(crate) fn was_calm(&self, from: u64, to: u64) {
        self.events().calm = Some((from, to));
    }

    pub(crate) fn waited(&self, us: u64, what: &'static str) {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = (*longest).max((us, what));
    }

    /// What happened, and the longest wait.
    pub(crate) fn close(self) -> (Events, (u64, &'static str)) {
        let events = self.events.into_inner().unwrap_or_else(PoisonError::into_inner);
        (events, self.longest.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
