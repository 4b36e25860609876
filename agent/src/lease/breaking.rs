//! Breaking: taking a resource away from a lease on purpose. In the place of the broken lease
//! stands another for a while, which nobody holds, so that whoever relied on the broken one hears
//! of it and ends before somebody else can take the resource (law 7). What it is stands in its
//! reason, where people and older programs read it too.
//!
//! That lease lasts as long as the broken one could have been believed, so it is no less safe than
//! to wait; but the agent of the broken one gives it back as soon as nobody relies on that any
//! more. It is no claim of unknown outcome that has to be undone at once: undone, it would be a
//! break without that grace. So its cancel waits until it is over in any case.

use std::time::Duration;

use stormlock_protocol::name::{LeaseId, Reason, Resource, Ttl};

use super::entry::{Entry, Phase, Purpose};
use super::law::Law;
use super::port::{Call, CallId, CallResult, Effect, No};
use super::schedule::{self, length};
use super::{
    Attach, BackendName, Claim, Ending, Holder, LeaseTable, Loss, Moment, Proof, Standing,
};

/// How long a person, whom nobody but a word on the terminal stops, has for that.
const PERSON_STOPS: Duration = Duration::from_secs(30);
/// The part of a ttl that a command may take to end, at most.
const KILL_PART: u32 = 3;
/// A place where a broken lease was is looked after for so much longer than that could last.
const GRAVE_SLACK: Duration = Duration::from_secs(120);
/// What the store said is left is over for certain after so much more.
const OVER_SLACK: Duration = Duration::from_secs(1);

/// The reason of the lease that stands in the place of a broken one; `None` when `why` is too long
/// for that. What stands there already can be broken, too (`its_reason` says so): then the next in
/// that place is still what the holder of the first one looks for.
#[must_use]
pub fn epitaph(broken: LeaseId, its_reason: Option<&Reason>, why: &Reason) -> Option<Reason> {
    let first = its_reason.and_then(broken_in).unwrap_or(broken);
    Reason::of_a_break(first, why)
}

/// Which lease was broken, if such a reason says that one stands in its place.
#[must_use]
pub fn broken_in(reason: &Reason) -> Option<LeaseId> {
    reason.broken().map(|(lease, _)| lease)
}

/// Why a lease was broken, if that is what such a reason says.
fn why(reason: Option<&Reason>, broken: LeaseId) -> Option<Reason> {
    let (lease, why) = reason?.broken()?;
    Reason::new(why).ok().filter(|_| lease == broken)
}

/// How a lease was lost to whoever has its resource now.
pub(super) fn lost_to(holder: &Holder, lease: LeaseId) -> Loss {
    let who = holder.principal.clone();
    match why(holder.reason.as_ref(), lease) {
        Some(why) => Loss::BrokenBy { who, why: Some(why) },
        None => Loss::TakenBy(who),
    }
}

/// The same of one that a later lease of this agent took the place of.
pub(super) fn lost_to_ours(claim: &Claim, lease: LeaseId) -> Loss {
    let who = claim.principal.clone();
    match why(claim.reason.as_ref(), lease) {
        None if claim.over != Some(lease) => Loss::TakenBy(who),
        why => Loss::BrokenBy { who, why },
    }
}

/// The place of a broken lease on which nobody relies any more: what stands there is to go.
#[derive(Debug)]
pub(super) struct Grave {
    resource: Resource,
    backend: BackendName,
    ttl: Ttl,
    /// What was seen there.
    found: Option<LeaseId>,
    call: Option<CallId>,
    tries: u32,
    at: Moment,
    /// By then it has ended by itself.
    until: Moment,
}

impl LeaseTable {
    /// Its holder knows that it is lost. While a command goes on that relied on it somebody's word
    /// is no end of that; only then what stands in its place is given back.
    pub(super) fn acknowledge_broken(&mut self, now: Moment, lease: LeaseId) {
        if let Some(entry) = self.entries.get_mut(&lease)
            && entry.instead
            && entry.has_command()
        {
            entry.is_known_broken = true;
            return;
        }
        self.free_instead(now, lease);
        self.acknowledge(now, lease);
    }

    /// What a lost lease was attached to has ended. Of a command that is its group: its wrapper may
    /// have others of it to kill yet, and says when that is done; if it does not, the longest time
    /// for that is waited for. A holder like `hold` only tells others to end.
    pub(super) fn left_broken(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        if !entry.instead || entry.is_known_broken {
            self.free_instead(now, lease);
            return self.acknowledge(now, lease);
        }
        if entry.has_command() {
            entry.frees_at = now + PERSON_STOPS.max(length(entry.claim.ttl) / KILL_PART);
        } else {
            // It may have stood still: then those who count on it hear of its end only now.
            entry.frees_at = entry.frees_at.max(now + entry.lingers_for());
        }
        entry.attach = Attach::Detached;
        entry.is_orphan = true;
        self.refresh(now, lease);
    }

    /// A command that only shared it has ended.
    pub(super) fn sharer_left_broken(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        if !entry.instead || entry.has_command() || entry.frees_at != Moment::NEVER {
            return;
        }
        if entry.is_known_broken {
            return self.acknowledge_broken(now, lease);
        }
        entry.frees_at = now + PERSON_STOPS;
    }

    /// Nobody relies on a broken lease any more: whatever stands in its place makes room. It may be
    /// another than the one that was seen first, for that can be broken, too.
    pub(super) fn free_instead(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        entry.frees_at = Moment::NEVER;
        if std::mem::take(&mut entry.instead) {
            self.dig(now, lease, None);
        }
    }

    fn dig(&mut self, now: Moment, lease: LeaseId, found: Option<LeaseId>) {
        let Some(entry) = self.entries.get(&lease) else { return };
        let Claim { resource, backend, ttl, .. } = entry.claim.clone();
        let until = now + length(ttl) + GRAVE_SLACK;
        let grave = Grave { resource, backend, ttl, found, call: None, tries: 0, at: now, until };
        self.graves.insert(lease, grave);
    }

    pub(super) fn graves_wakeup(&self) -> Moment {
        let waits = self.graves.values().filter(|grave| grave.call.is_none());
        waits.map(|grave| grave.at).min().unwrap_or(Moment::NEVER)
    }

    pub(super) fn mind_graves(&mut self, now: Moment) {
        self.graves.retain(|_, grave| grave.call.is_some() || now < grave.until);
        let due = |grave: &Grave| grave.call.is_none() && grave.at <= now;
        let due = self.graves.iter().filter(|(_, grave)| due(grave)).map(|(lease, _)| *lease);
        for broken in due.collect::<Vec<_>>() {
            let id = CallId(self.next_id());
            let Some(grave) = self.graves.get_mut(&broken) else { continue };
            grave.call = Some(id);
            let lease = grave.found.unwrap_or(broken);
            let proof = Proof { resource: grave.resource.clone(), lease, nonces: Vec::new() };
            let call = match grave.found {
                Some(_) => Call::Release(proof),
                None => Call::Verify(proof),
            };
            let (backend, patience) = (grave.backend.clone(), schedule::patience(grave.ttl));
            self.effects.push_back(Effect::Call { id, backend, call, patience });
        }
    }

    pub(super) fn grave_answered(&mut self, now: Moment, call: CallId, result: &CallResult) {
        let roll = self.roll();
        let asked = self.graves.iter_mut().find(|(_, grave)| grave.call == Some(call));
        let Some((&broken, grave)) = asked else { return };
        grave.call = None;
        match (grave.found, result) {
            (None, CallResult::Stands(standing)) => match stands_for(standing, broken) {
                Some(lease) => self.found_in(now, broken, lease),
                None => drop(self.graves.remove(&broken)),
            },
            (Some(_), CallResult::Done | CallResult::NotThere) => {
                let Some(grave) = self.graves.remove(&broken) else { return };
                self.stir(now, &(grave.backend, grave.resource));
            }
            (_, _) => {
                grave.tries += 1;
                grave.found = None;
                grave.at = now + schedule::retry_ending(grave.tries, roll);
            }
        }
    }

    /// Such a lease stands there; it may be one of ours, of which more is known.
    fn found_in(&mut self, now: Moment, broken: LeaseId, lease: LeaseId) {
        let roll = self.roll();
        let Some(grave) = self.graves.get_mut(&broken) else { return };
        let Some(ours) = self.entries.get_mut(&lease) else {
            (grave.found, grave.at) = (Some(lease), now);
            return;
        };
        match ours.phase {
            // Its own answer is still to come.
            Phase::Asking(_) => {
                grave.tries += 1;
                grave.at = now + schedule::retry_ending(grave.tries, roll);
                return;
            }
            Phase::Held | Phase::Unproven => self.end(now, lease, Ending::Release),
            Phase::Ending(..) => {
                ours.waits_out = false;
                ours.retry_at = now;
                self.advance(now, lease);
            }
            Phase::Lost(..) => {}
        }
        self.graves.remove(&broken);
    }

    /// A lease that was given back was not there: perhaps it was broken, and nobody here knows.
    pub(super) fn look_instead(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get(&lease) else { return };
        if entry.claim.over.is_some() || !matches!(entry.phase, Phase::Ending(Ending::Release, _)) {
            return self.end_acknowledged(now, lease);
        }
        if now >= entry.deadline {
            // It may have ended by itself, and then nobody took anything away.
            self.is_no_loss(now, lease);
        }
        let Some(entry) = self.entries.get(&lease) else { return };
        let proof = entry.proof();
        self.call_for(now, lease, Call::Verify(proof), Purpose::Look);
    }

    pub(super) fn looked_instead(&mut self, now: Moment, lease: LeaseId, result: &CallResult) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        if entry.lingers() {
            return self.looked_at_lingering(now, lease, result);
        }
        if entry.waits_out {
            match result {
                CallResult::Stands(Standing::Ours { remaining }) => {
                    entry.retry_at = now + *remaining + OVER_SLACK;
                }
                CallResult::Stands(_) => entry.waits_out = false,
                result => self.ending_failed(now, lease, result),
            }
            return;
        }
        let loss = match result {
            CallResult::Stands(Standing::NotOurs(Some(holder))) => {
                let loss = lost_to(holder, lease);
                if matches!(loss, Loss::BrokenBy { .. }) {
                    self.dig(now, lease, Some(holder.lease));
                }
                Some(loss)
            }
            CallResult::Stands(Standing::NotOurs(None)) => Some(Loss::StoreLostIt),
            CallResult::Stands(Standing::Cloned) => Some(Loss::Clone),
            CallResult::Stands(Standing::Ours { .. }) => None,
            _ => {
                self.dig(now, lease, None);
                Some(Loss::StoreLostIt)
            }
        };
        match loss {
            Some(loss) if self.entries.get(&lease).is_some_and(Entry::is_undecided) => {
                self.was_lost_before(now, lease, &loss);
            }
            Some(loss @ Loss::BrokenBy { .. }) => {
                // Nobody but a break leaves such a thing.
                self.refuse_waiting(lease, &loss);
                self.end_acknowledged(now, lease);
            }
            Some(_) | None => {
                self.is_no_loss(now, lease);
                self.end_acknowledged(now, lease);
            }
        }
    }

    /// It was given back and was not there, though it could neither have ended by itself nor have
    /// been given back before: somebody took it away. Whoever asked hears so, and need not
    /// acknowledge it.
    fn was_lost_before(&mut self, now: Moment, lease: LeaseId, loss: &Loss) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let is_asked = matches!(&entry.phase, Phase::Ending(_, waiting) if !waiting.is_empty());
        let (is_attached, is_command) = (entry.attach != Attach::Detached, entry.has_command());
        self.refuse_waiting(lease, loss);
        self.lose(now, lease, loss.clone());
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        // What stands in its place is on its way out, for nobody relies on it any more.
        (entry.instead, entry.frees_at) = (false, Moment::NEVER);
        if is_asked || is_attached && !is_command {
            return self.acknowledge(now, lease);
        }
        if is_command {
            // Its wrapper gives it back in a moment, unless it was killed, too.
            entry.attach = Attach::Detached;
            entry.frees_at = now + PERSON_STOPS;
            entry.is_orphan = true;
        }
        self.refresh(now, lease);
    }

    fn refuse_waiting(&mut self, lease: LeaseId, loss: &Loss) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let Phase::Ending(_, waiting) = &mut entry.phase else { return };
        for ticket in std::mem::take(waiting) {
            self.refuse(ticket, No::Lost(loss.clone()));
        }
    }

    /// Ends what stands in the place of a broken lease, and of which it is not known whether it
    /// does: not before it is over in any case.
    pub(super) fn end_when_over(&mut self, now: Moment, lease: LeaseId, how: Ending) {
        let waits = self.obeys(Law::BreakGivesGrace);
        let mut grace = Duration::ZERO;
        if let Some(entry) = self.entries.get_mut(&lease).filter(|_| waits) {
            entry.waits_out = entry.claim.over.is_some();
            grace = entry.grace();
        }
        self.end_at(now, lease, how, now + grace);
    }
}

/// Which lease stands in the place of a broken one, if that is what a look at it says.
fn stands_for(standing: &Standing, broken: LeaseId) -> Option<LeaseId> {
    let Standing::NotOurs(Some(holder)) = standing else { return None };
    why(holder.reason.as_ref(), broken).map(|_| holder.lease)
}

impl Entry {
    /// How long it is not to be ended early: nothing, but for one in the place of a broken lease.
    pub(super) fn grace(&self) -> Duration {
        self.claim.over.map_or(Duration::ZERO, |_| length(self.claim.ttl))
    }

    /// The store gave it more than was asked for: what it breaks was renewed meanwhile.
    pub(super) fn lasts_no_less(&mut self, remaining: Duration) {
        if self.claim.over.is_some() {
            self.claim = self.claim.no_shorter_than(remaining);
            self.carried = self.claim.ttl;
        }
    }

    /// It is broken: when whatever stands in its place makes room.
    pub(super) fn makes_room_later(&mut self, now: Moment) {
        self.instead = true;
        // Of a command its end is known.
        let holds_for_others = now + PERSON_STOPS.max(self.lingers_for());
        self.frees_at = if self.has_command() { Moment::NEVER } else { holds_for_others };
    }

    fn has_command(&self) -> bool {
        self.attach.is_command() || self.sharers.iter().any(|process| process.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_says_which_lease_was_broken_and_why() {
        let lease: LeaseId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let reason = epitaph(lease, None, &Reason::new("bob: left: early").unwrap()).unwrap();
        assert_eq!(reason.as_str(), "broke 0123456789abcdef0123456789abcdef: bob: left: early");
        assert_eq!(broken_in(&reason), Some(lease));
        assert_eq!(broken_in(&Reason::new("broke it: alas").unwrap()), None);
        assert_eq!(why(Some(&reason), lease).unwrap().as_str(), "bob: left: early");
        let other: LeaseId = "1123456789abcdef0123456789abcdef".parse().unwrap();
        for (reason, lease) in [
            (Some(&reason), other),
            (None, lease),
            (Some(&Reason::new("broke it").unwrap()), lease),
            (Some(&Reason::foreign("broke 0123456789abcdef0123456789abcdef:  ")), lease),
        ] {
            assert_eq!(why(reason, lease), None, "{reason:?}");
        }
        let narrow: LeaseId = "1f".parse().unwrap();
        let reason = epitaph(narrow, None, &Reason::new("x").unwrap()).unwrap();
        assert_eq!(why(Some(&reason), narrow).unwrap().as_str(), "x");
        let again = epitaph(narrow, Some(&reason), &Reason::new("y").unwrap()).unwrap();
        assert_eq!(why(Some(&again), narrow).unwrap().as_str(), "y");
        let second = epitaph(lease, Some(&again), &Reason::new("z").unwrap()).unwrap();
        assert_eq!(second.as_str(), "broke 1f: z");
        assert_eq!(epitaph(lease, None, &Reason::new("x".repeat(217)).unwrap()), None);
    }
}
