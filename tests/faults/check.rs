//! The laws, checked on a history: pure, so that its own tests can hand it histories that no agent
//! should ever make.
//!
//! Of what is uncertain, the side is taken that accuses nobody: an answer made belief certain from
//! when it was there, until what it said was left after its question had left.

use std::collections::{BTreeMap, BTreeSet};

use stormlock_protocol::message::LostReason;
use stormlock_protocol::name::{Fence, LeaseId, Resource};

use crate::history::{Belief, Blind, Events, HungUp, Outage, Told, What};

/// How much of its ttl a kept lease may have had a store within reach and yet be lost: many
/// renewals, each of which has its own bad luck, on a machine that is busy.
pub(crate) const IN_REACH_US: u64 = 30_000_000;
/// How much later than a third of its ttl a lease may be renewed in a calm, on a machine that is
/// busy.
const LATE_US: u64 = 10_000_000;
/// By how much the end of a lease moves that was renewed: less is the way of an answer.
const MOVES_US: u64 = 1_000_000;
/// How much later than its ttl says a store may show a lease that nobody renews: a hold of two
/// seconds, a call that was held up, and an etcd that counts from its own start again.
const FREE_US: u64 = 20_000_000;
/// How long the store may show a lease that nobody was granted: a cancel is tried again after half
/// a minute at the latest.
const LINGERS_US: u64 = 60_000_000;

/// What is wrong with a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Two leases on one resource were believed in at one instant.
    TwoBelievers { resource: Resource, leases: [LeaseId; 2], at: u64 },
    /// The store showed one lease while another was believed in.
    AnotherStood { resource: Resource, stood: LeaseId, believed: LeaseId, at: u64 },
    /// A grant had a fence no greater than one before it.
    FenceFell { resource: Resource, lease: LeaseId, before: Fence, fence: Fence },
    /// A lease was told with two fences.
    FenceChanged { lease: LeaseId, fences: [Fence; 2] },
    /// A lease that was said to be over was said to be held again.
    Revived { lease: LeaseId, over: u64, again: u64 },
    /// A lease was held that nobody was granted: a refused acquire took it.
    NobodyWasTold { resource: Resource, lease: LeaseId },
    /// A granted lease had no end that was told, or more than one.
    Ends { lease: LeaseId, told: usize },
    /// The store gave a lease away before its end.
    GivenAway { lease: LeaseId, reason: LostReason },
    /// A lease that was to be kept ran out, though the store was in reach for long enough.
    RanOut { lease: LeaseId, ttl_us: u64, outages_us: u64 },
    /// An agent that had just started said that it is held, before any store can have said so.
    BelievedBeforeRenewed { lease: LeaseId, at: u64 },
    /// An agent did not know of a lease that it was to keep, and nobody had let go of.
    Forgotten { lease: LeaseId, at: u64 },
    /// The store went on showing a lease that nobody was granted.
    Lingers { lease: LeaseId, us: u64 },
    /// The store went on showing a lease that was given back, or that nobody renewed.
    Outstays { lease: LeaseId, us: u64 },
    /// A kept lease was lost in a calm, or its end did not move in time.
    NotRenewed { lease: LeaseId, from: u64, to: u64 },
}

/// Everything that is wrong with a history that is over: every lease has ended, and every event was
/// read.
pub(crate) fn wrong(events: &Events) -> Vec<Wrong> {
    let Events { told: history, outages, hung_up, blind, calm } = events;
    let leases = by_lease(history);
    let mut wrong = Vec::new();
    for (&lease, told) in &leases {
        wrong.extend(fence_changed(lease, told));
        wrong.extend(revived(lease, told));
        wrong.extend(ends(lease, told));
        wrong.extend(lost_in_time(lease, told, outages));
        wrong.extend(believed_before_renewed(lease, told, blind));
        wrong.extend(forgotten(lease, told));
        wrong.extend(lingers(lease, told));
        wrong.extend(outstays(lease, told));
        wrong.extend(calm.and_then(|calm| not_renewed(lease, told, calm)));
    }
    wrong.extend(nobody_was_told(&leases, hung_up));
    let resources: BTreeSet<&Resource> = history.iter().map(|told| &told.resource).collect();
    for resource in resources {
        let here = history.iter().filter(|told| told.resource == *resource);
        let here: Vec<&Told> = here.collect();
        let beliefs = beliefs(&leases, resource);
        wrong.extend(two_believers(resource, &beliefs));
        wrong.extend(another_stood(resource, &here, &beliefs));
        wrong.extend(fence_fell(resource, &here));
    }
    wrong
}

type ByLease<'a> = BTreeMap<LeaseId, Vec<&'a Told>>;

fn by_lease(history: &[Told]) -> ByLease<'_> {
    let mut leases = ByLease::new();
    for told in history {
        leases.entry(told.lease).or_default().push(told);
    }
    leases
}

impl Told {
    /// What the agent believed, if this told it.
    fn belief(&self) -> Option<Belief> {
        match self.what {
            What::Granted { belief, .. } | What::Held(belief) => Some(belief),
            _ => None,
        }
    }

    fn fence(&self) -> Option<Fence> {
        match self.what {
            What::EventHeld(fence) => Some(fence),
            _ => self.belief().map(|belief| belief.fence),
        }
    }

    /// True when it says that the lease is over.
    fn is_end(&self) -> bool {
        matches!(self.what, What::Released | What::Lost | What::Leaving) || self.is_event_of_end()
    }

    fn is_event_of_end(&self) -> bool {
        matches!(self.what, What::EventReleased | What::EventLost(_) | What::EventGone { .. })
    }

    fn is_held(&self) -> bool {
        self.belief().is_some() || self.what == What::HeldInStore
    }
}

/// A time in which a lease was certainly believed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Believed {
    from: u64,
    to: u64,
    lease: LeaseId,
}

/// What was believed on a resource, by when it began; what overlaps of one lease is one.
fn beliefs(leases: &ByLease<'_>, resource: &Resource) -> Vec<Believed> {
    let mut all: Vec<Believed> = Vec::new();
    for (&lease, told) in leases {
        if told.iter().all(|it| it.resource != *resource) {
            continue;
        }
        // Its holder does not count on it once it is being given back, or was said to be over.
        let ends = told.iter().filter_map(|it| match it.what {
            What::Leaves => Some(it.asked),
            _ => it.is_end().then_some(it.answered),
        });
        let end = ends.min().unwrap_or(u64::MAX);
        let spans = told.iter().filter_map(|it| {
            let (from, to) = (it.answered, (it.asked + it.belief()?.left_us).min(end));
            (from < to).then_some(Believed { from, to, lease })
        });
        let mut spans: Vec<Believed> = spans.collect();
        spans.sort_unstable();
        let first = all.len();
        for span in spans {
            match all[first..].last_mut() {
                Some(last) if last.to >= span.from => last.to = last.to.max(span.to),
                _ => all.push(span),
            }
        }
    }
    all.sort_unstable();
    all
}

fn two_believers(resource: &Resource, beliefs: &[Believed]) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    let mut open: Vec<Believed> = Vec::new();
    for now in beliefs {
        open.retain(|before| before.to > now.from);
        wrong.extend(open.iter().filter(|before| before.lease != now.lease).map(|before| {
            let leases = [before.lease, now.lease];
            Wrong::TwoBelievers { resource: resource.clone(), leases, at: now.from }
        }));
        open.push(*now);
    }
    wrong
}

fn another_stood(resource: &Resource, told: &[&Told], beliefs: &[Believed]) -> Vec<Wrong> {
    let stands = |told: &&&Told| matches!(told.what, What::Stands | What::HeldInStore);
    let mut wrong = Vec::new();
    for stood in told.iter().filter(stands) {
        // Wherever in its call the store was looked at, the other one was believed in.
        let covers = |it: &&Believed| it.from <= stood.asked && stood.answered <= it.to;
        let others = beliefs.iter().filter(|it| it.lease != stood.lease);
        wrong.extend(others.filter(covers).map(|other| Wrong::AnotherStood {
            resource: resource.clone(),
            stood: stood.lease,
            believed: other.lease,
            at: stood.asked,
        }));
    }
    wrong
}

/// A grant that was asked for after another was answered has the greater fence, and no two have the
/// same.
fn fence_fell(resource: &Resource, told: &[&Told]) -> Vec<Wrong> {
    let granted = |told: &&&Told| matches!(told.what, What::Granted { .. });
    let mut grants: Vec<(&Told, Fence)> =
        told.iter().filter(granted).filter_map(|told| Some((*told, told.fence()?))).collect();
    grants.sort_unstable_by_key(|(told, _)| told.asked);
    let mut answered = grants.clone();
    answered.sort_unstable_by_key(|(told, _)| told.answered);
    let mut answered = answered.into_iter().peekable();
    let (mut highest, mut seen, mut wrong) = (None, BTreeSet::new(), Vec::new());
    for (grant, fence) in grants {
        while let Some((_, before)) = answered.next_if(|(it, _)| it.answered <= grant.asked) {
            highest = highest.max(Some(before));
        }
        let again = (!seen.insert(fence)).then_some(fence);
        if let Some(before) = highest.filter(|before| *before >= fence).or(again) {
            let resource = resource.clone();
            wrong.push(Wrong::FenceFell { resource, lease: grant.lease, before, fence });
        }
    }
    wrong
}

fn fence_changed(lease: LeaseId, told: &[&Told]) -> Option<Wrong> {
    let mut fences = told.iter().filter_map(|it| it.fence());
    let first = fences.next()?;
    let other = fences.find(|fence| *fence != first)?;
    Some(Wrong::FenceChanged { lease, fences: [first, other] })
}

/// Of the answers, one that was asked for after another said that it is over; of the events, one
/// that was read after that. Who was told that it is lost, or asked that it be released and was
/// told so, was told for ever; who only saw that it is being given back may see it again when the
/// agent was killed before it had written that down.
fn revived(lease: LeaseId, told: &[&Told]) -> Option<Wrong> {
    let is_said = |it: &&&Told| matches!(it.what, What::Released | What::Lost);
    let over = told.iter().filter(is_said).map(|it| it.answered).min();
    let again = over.and_then(|over| {
        let again = told.iter().filter(|it| it.is_held() && it.asked > over);
        Some((over, again.map(|it| it.asked).next()?))
    });
    let seen = || {
        told.iter().filter(|it| it.what == What::Leaving).find_map(|over| {
            let later = |it: &&&Told| it.life == over.life && it.asked > over.answered;
            let again = told.iter().filter(later).find(|it| it.is_held())?;
            Some((over.answered, again.asked))
        })
    };
    let streamed = || {
        let mut events = told.iter().skip_while(|it| !it.is_event_of_end());
        let over = events.next()?;
        let is_lost = matches!(over.what, What::EventLost(_));
        let again = |it: &&&Told| {
            matches!(it.what, What::EventHeld(_)) && (is_lost || it.life == over.life)
        };
        Some((over.answered, events.find(again)?.answered))
    };
    let (over, again) = again.or_else(seen).or_else(streamed)?;
    Some(Wrong::Revived { lease, over, again })
}

/// One end of all that were held, and no second one in one life of the agent: it may tell one again
/// that it was killed while it wrote down.
fn ends(lease: LeaseId, told: &[&Told]) -> Option<Wrong> {
    told.iter().find(|it| it.is_held() || it.fence().is_some())?;
    let mut lives: BTreeMap<u32, usize> = BTreeMap::new();
    for end in told.iter().filter(|it| it.is_event_of_end()) {
        *lives.entry(end.life).or_default() += 1;
    }
    let most = lives.into_values().max().unwrap_or_default();
    (most != 1).then_some(Wrong::Ends { lease, told: most })
}

/// Leases that were held and nobody was granted. Each acquire that was not waited for, or whose
/// agent was killed, accounts for one.
fn nobody_was_told(leases: &ByLease<'_>, hung_up: &[HungUp]) -> Vec<Wrong> {
    let mut orphans = Vec::new();
    for (&lease, told) in leases {
        let held = told.iter().find(|it| it.is_held() || it.fence().is_some());
        let is_granted = told.iter().any(|it| matches!(it.what, What::Granted { .. }));
        orphans.extend(held.filter(|_| !is_granted).map(|held| (held.answered, lease, *held)));
    }
    orphans.sort_unstable_by_key(|(at, ..)| *at);
    let mut excuses: Vec<&HungUp> = hung_up.iter().collect();
    let mut wrong = Vec::new();
    for (at, lease, held) in orphans {
        let excuse = excuses.iter().position(|it| {
            it.agent == held.agent && it.resource == held.resource && it.asked <= at
        });
        match excuse {
            Some(excuse) => drop(excuses.swap_remove(excuse)),
            None => {
                wrong.push(Wrong::NobodyWasTold { resource: held.resource.clone(), lease });
            }
        }
    }
    wrong
}

fn believed_before_renewed(lease: LeaseId, told: &[&Told], blind: &[Blind]) -> Option<Wrong> {
    let is_within = |it: &&&Told| {
        let is_within = |blind: &Blind| {
            blind.agent == it.agent && blind.from <= it.asked && it.answered <= blind.to
        };
        it.is_held() && blind.iter().any(is_within)
    };
    let at = told.iter().find(is_within)?.asked;
    Some(Wrong::BelievedBeforeRenewed { lease, at })
}

fn forgotten(lease: LeaseId, told: &[&Told]) -> Option<Wrong> {
    let is_kept = told.iter().any(|it| matches!(it.what, What::Granted { is_kept: true, .. }));
    let is_lost = told.iter().any(|it| matches!(it.what, What::Lost | What::EventLost(_)));
    let forgotten = told.iter().find(|it| match it.what {
        What::EventGone { was_kept } => was_kept,
        // Whoever takes the resource next acknowledges the loss of the lease before.
        What::NotThere => is_kept && !is_lost,
        _ => false,
    })?;
    let lets_go = |it: &&Told| it.what == What::Leaves && it.asked <= forgotten.answered;
    let is_let_go = told.iter().any(lets_go);
    (!is_let_go).then_some(Wrong::Forgotten { lease, at: forgotten.asked })
}

fn lingers(lease: LeaseId, told: &[&Told]) -> Option<Wrong> {
    if told.iter().any(|it| it.is_held() || it.fence().is_some()) {
        return None;
    }
    let stood: Vec<&&Told> = told.iter().filter(|it| it.what == What::Stands).collect();
    let first = stood.iter().map(|it| it.answered).min()?;
    let us = stood.iter().map(|it| it.asked).max()?.saturating_sub(first);
    (us > LINGERS_US).then_some(Wrong::Lingers { lease, us })
}

/// What is given back is free at once, and what nobody renews once its ttl is over.
fn outstays(lease: LeaseId, told: &[&Told]) -> Option<Wrong> {
    let released = told.iter().filter(|it| it.what == What::Released).map(|it| it.answered).min();
    let ran_out = told.iter().find_map(|it| match it.what {
        What::Granted { ttl_secs, is_kept: false, .. } => {
            // The renewal that counts may be one whose answer never came.
            let renews = |it: &&&Told| it.belief().is_some() || it.what == What::Tried;
            let renewed = told.iter().filter(renews).map(|it| it.answered).max()?;
            Some(renewed + u64::from(ttl_secs) * 1_000_000 + FREE_US)
        }
        _ => None,
    });
    let free = released.into_iter().chain(ran_out).min()?;
    let stood = told.iter().filter(|it| it.what == What::Stands).map(|it| it.asked).max()?;
    (stood > free).then(|| Wrong::Outstays { lease, us: stood - free })
}

/// In a calm the end of a kept lease moves whenever it is renewed. One whose ttl is longer than the
/// calm says nothing.
fn not_renewed(lease: LeaseId, told: &[&Told], calm: (u64, u64)) -> Option<Wrong> {
    let (until, often_us) = stands_in(told, calm)?;
    let ends = told.iter().filter_map(|it| Some((it.answered, it.asked + it.belief()?.left_us)));
    let mut ends: Vec<(u64, u64)> = ends.filter(|(at, _)| *at < until).collect();
    ends.sort_unstable();
    let (mut end, mut since) = (0, calm.0);
    for (at, next) in ends.into_iter().chain([(until, 0)]) {
        if at > since + often_us {
            return Some(Wrong::NotRenewed { lease, from: since, to: at });
        }
        if next > end + MOVES_US {
            (end, since) = (next, at.max(calm.0));
        }
    }
    None
}

/// Of a kept lease that stands when a calm begins: until when it is to, and how often it is to be
/// renewed meanwhile.
fn stands_in(told: &[&Told], (begun, over): (u64, u64)) -> Option<(u64, u64)> {
    let often_us = told.iter().find_map(|it| match it.what {
        What::Granted { ttl_secs, is_kept: true, .. } => {
            Some(u64::from(ttl_secs) * 1_000_000 / 3 + LATE_US)
        }
        _ => None,
    })?;
    let covers = |it: &&&Told| it.belief().is_some_and(|belief| it.asked + belief.left_us > begun);
    told.iter().filter(|it| it.answered <= begun).find(covers)?;
    let is_over = |it: &&&Told| (it.is_end() || it.what == What::Leaves) && it.answered <= begun;
    if told.iter().any(|it| is_over(&it)) {
        return None;
    }
    let leaves = told.iter().filter(|it| it.what == What::Leaves).map(|it| it.asked).min();
    Some((leaves.unwrap_or(u64::MAX).min(over), often_us))
}

/// How many leases would have been seen to be renewed too late in the calm.
pub(crate) fn seen_in_calm(events: &Events) -> usize {
    let Some(calm) = events.calm else { return 0 };
    let leases = by_lease(&events.told);
    let stands = leases.values().filter_map(|told| stands_in(told, calm));
    stands.filter(|(until, often_us)| *until > calm.0 + often_us).count()
}

/// What its holder had let go of is another's business: an agent that was killed between its
/// store's answer to a release and its journal finds the lease gone.
fn lost_in_time(lease: LeaseId, told: &[&Told], outages: &[Outage]) -> Option<Wrong> {
    let (lost, reason) = told.iter().find_map(|it| match &it.what {
        What::EventLost(reason) => Some((*it, reason.clone())),
        _ => None,
    })?;
    // Whoever hung up before it was granted lets go of it too, and the agent says that it ends.
    let lets_go = |it: &What| matches!(it, What::Leaves | What::EventReleased);
    if told.iter().any(|it| lets_go(&it.what) && it.asked <= lost.asked) {
        return None;
    }
    if reason != LostReason::Expired {
        return Some(Wrong::GivenAway { lease, reason });
    }
    let ttl_us = told.iter().find_map(|it| match it.what {
        What::Granted { ttl_secs, is_kept: true, .. } => Some(u64::from(ttl_secs) * 1_000_000),
        _ => None,
    })?;
    let from = lost.answered.saturating_sub(ttl_us);
    let within = outages.iter().filter(|it| it.agent == lost.agent);
    let outages_us: u64 =
        within.map(|it| it.to.min(lost.answered).saturating_sub(it.from.max(from))).sum();
    (ttl_us > outages_us + IN_REACH_US).then_some(Wrong::RanOut { lease, ttl_us, outages_us })
}

#[cfg(test)]
#[path = "check/tests.rs"]
mod tests;
