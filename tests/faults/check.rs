//! The laws, checked on a history: pure, so that its own tests can hand it histories that no agent
//! should ever make.
//!
//! Of what is uncertain, the side is taken that accuses nobody: an answer made belief certain from
//! when it was there, until what it said was left after its question had left.

use std::collections::{BTreeMap, BTreeSet};

use stormlock_protocol::message::LostReason;
use stormlock_protocol::name::{Fence, LeaseId, Resource};

use crate::history::{Belief, Events, HungUp, Outage, Told, What};

/// How much of its ttl a kept lease may have had a store within reach and yet be lost: many
/// renewals, each of which has its own bad luck, on a machine that is busy.
pub(crate) const IN_REACH_US: u64 = 30_000_000;

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
}

/// Everything that is wrong with a history that is over: every lease has ended, and every event was
/// read.
pub(crate) fn wrong(events: &Events) -> Vec<Wrong> {
    let Events { told: history, outages, hung_up } = events;
    let leases = by_lease(history);
    let mut wrong = Vec::new();
    for (&lease, told) in &leases {
        wrong.extend(fence_changed(lease, told));
        wrong.extend(revived(lease, told));
        wrong.extend(ends(lease, told, hung_up));
        wrong.extend(lost_in_time(lease, told, outages));
    }
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
        matches!(self.what, What::Released | What::Lost) || self.is_event_of_end()
    }

    fn is_event_of_end(&self) -> bool {
        matches!(self.what, What::EventReleased | What::EventLost(_))
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
/// that was read after that.
fn revived(lease: LeaseId, told: &[&Told]) -> Option<Wrong> {
    let answers = told.iter().filter(|it| matches!(it.what, What::Released | What::Lost));
    if let Some(over) = answers.map(|it| it.answered).min() {
        let is_held = |it: &&&Told| it.belief().is_some() || it.what == What::HeldInStore;
        let mut again = told.iter().filter(is_held).map(|it| it.asked);
        if let Some(again) = again.find(|again| *again > over) {
            return Some(Wrong::Revived { lease, over, again });
        }
    }
    let mut events = told.iter().skip_while(|it| !it.is_event_of_end());
    let over = events.next()?.answered;
    let again = events.find(|it| matches!(it.what, What::EventHeld(_)))?.answered;
    Some(Wrong::Revived { lease, over, again })
}

fn ends(lease: LeaseId, told: &[&Told], hung_up: &[HungUp]) -> Option<Wrong> {
    let is_held = |it: &&&Told| it.fence().is_some() || it.what == What::HeldInStore;
    let held = told.iter().find(is_held)?;
    let is_excused = |it: &HungUp| {
        it.agent == held.agent && it.resource == held.resource && it.asked <= held.answered
    };
    let is_granted = told.iter().any(|it| matches!(it.what, What::Granted { .. }));
    if !is_granted && !hung_up.iter().any(is_excused) {
        return Some(Wrong::NobodyWasTold { resource: held.resource.clone(), lease });
    }
    let ends = told.iter().filter(|it| it.is_event_of_end()).count();
    (ends != 1).then_some(Wrong::Ends { lease, told: ends })
}

fn lost_in_time(lease: LeaseId, told: &[&Told], outages: &[Outage]) -> Option<Wrong> {
    let (lost, reason) = told.iter().find_map(|it| match &it.what {
        What::EventLost(reason) => Some((*it, reason.clone())),
        _ => None,
    })?;
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
