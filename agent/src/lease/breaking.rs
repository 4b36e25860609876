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

use stormlock_protocol::name::{LeaseId, Reason};

use super::entry::{Entry, Phase};
use super::law::Law;
use super::port::{Call, CallId, Effect};
use super::schedule::{self, length};
use super::{Attach, Claim, Ending, Holder, LeaseTable, Loss, Moment, Proof};

/// How the reason of such a lease begins.
const BROKE: &str = "broke ";
/// What follows on the broken lease's id.
const WHY: &str = ": ";
/// How long a person, whom nobody but a word on the terminal stops, has for that.
const PERSON_STOPS: Duration = Duration::from_secs(30);
/// The part of a ttl that a command may take to end, at most.
const KILL_PART: u32 = 3;

/// The reason of the lease that stands in the place of a broken one; `None` when `why` is too long
/// for that.
#[must_use]
pub fn epitaph(broken: LeaseId, why: &Reason) -> Option<Reason> {
    Reason::new(format!("{BROKE}{broken}{WHY}{why}")).ok()
}

/// True for the reason of a lease that stands in the place of a broken one.
#[must_use]
pub fn is_epitaph(reason: &Reason) -> bool {
    let broken = reason.as_str().strip_prefix(BROKE).and_then(|rest| rest.split_once(WHY));
    broken.is_some_and(|(lease, _)| lease.parse::<LeaseId>().is_ok())
}

/// Why a lease was broken, if that is what such a reason says.
fn why(reason: Option<&Reason>, broken: LeaseId) -> Option<Reason> {
    let rest = reason?.as_str().strip_prefix(BROKE)?;
    let why = rest.strip_prefix(&broken.to_string())?.strip_prefix(WHY)?;
    Reason::new(why).ok()
}

/// How a lease was lost to whoever has its resource now, and what stands in its place.
pub(super) fn lost_to(holder: &Holder, lease: LeaseId) -> (Loss, Option<LeaseId>) {
    let who = holder.principal.clone();
    match why(holder.reason.as_ref(), lease) {
        Some(why) => (Loss::BrokenBy { who, why: Some(why) }, Some(holder.lease)),
        None => (Loss::TakenBy(who), None),
    }
}

/// The same of one that a later lease of this agent took the place of.
pub(super) fn lost_to_ours(claim: &Claim, lease: LeaseId) -> (Loss, Option<LeaseId>) {
    let who = claim.principal.clone();
    if claim.over == Some(lease) {
        let why = why(claim.reason.as_ref(), lease);
        return (Loss::BrokenBy { who, why }, Some(claim.lease));
    }
    (Loss::TakenBy(who), None)
}

impl LeaseTable {
    /// A lease is lost, and whatever stands in its place is given back when nobody relies on it any
    /// more.
    pub(super) fn lose_to(
        &mut self,
        now: Moment,
        lease: LeaseId,
        (loss, instead): (Loss, Option<LeaseId>),
    ) {
        self.lose(now, lease, loss);
        if let Some(entry) = self.entries.get_mut(&lease) {
            entry.instead = instead;
            // Of a command its end is known.
            entry.frees_at = match instead {
                Some(_) if !entry.has_command() => now + PERSON_STOPS,
                Some(_) | None => Moment::NEVER,
            };
            self.refresh(now, lease);
        }
    }

    /// Its holder knows that it is lost. While a command goes on that relied on it somebody's word
    /// is no end of that; only then what stands in its place is given back.
    pub(super) fn acknowledge_broken(&mut self, now: Moment, lease: LeaseId) {
        if let Some(entry) = self.entries.get_mut(&lease)
            && entry.instead.is_some()
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
        if entry.instead.is_none() || entry.is_known_broken {
            self.free_instead(now, lease);
            return self.acknowledge(now, lease);
        }
        if entry.has_command() {
            entry.frees_at = now + PERSON_STOPS.max(length(entry.claim.ttl) / KILL_PART);
        }
        entry.attach = Attach::Detached;
        entry.is_orphan = true;
        self.refresh(now, lease);
    }

    /// A command that only shared it has ended.
    pub(super) fn sharer_left_broken(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        if entry.instead.is_none() || entry.has_command() || entry.frees_at != Moment::NEVER {
            return;
        }
        if entry.is_known_broken {
            return self.acknowledge_broken(now, lease);
        }
        entry.frees_at = now + PERSON_STOPS;
    }

    /// Nobody relies on a broken lease any more: gives back what stands in its place. If that does
    /// not come through it ends by itself.
    pub(super) fn free_instead(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        entry.frees_at = Moment::NEVER;
        let Some(instead) = entry.instead.take() else { return };
        let Claim { resource, backend, ttl, .. } = entry.claim.clone();
        if let Some(ours) = self.entries.get(&instead) {
            if matches!(ours.phase, Phase::Held | Phase::Unproven) {
                self.end(now, instead, Ending::Release);
            }
            return;
        }
        let id = CallId(self.next_id());
        let call = Call::Release(Proof { resource, lease: instead, nonces: Vec::new() });
        let patience = schedule::patience(ttl);
        self.effects.push_back(Effect::Call { id, backend, call, patience });
    }

    /// Ends what stands in the place of a broken lease, and of which it is not known whether it
    /// does: not before it is over in any case.
    pub(super) fn end_when_over(&mut self, now: Moment, lease: LeaseId, how: Ending) {
        let waits = self.obeys(Law::BreakGivesGrace);
        let grace = self.entries.get(&lease).filter(|_| waits).map(Entry::grace);
        self.end_at(now, lease, how, now + grace.unwrap_or_default());
    }
}

impl Entry {
    /// How long it is not to be ended early: nothing, but for one in the place of a broken lease.
    pub(super) fn grace(&self) -> Duration {
        self.claim.over.map_or(Duration::ZERO, |_| length(self.claim.ttl))
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
        let reason = epitaph(lease, &Reason::new("bob: left: early").unwrap()).unwrap();
        assert_eq!(reason.as_str(), "broke 0123456789abcdef0123456789abcdef: bob: left: early");
        assert!(is_epitaph(&reason) && !is_epitaph(&Reason::new("broke it: alas").unwrap()));
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
        let reason = epitaph(narrow, &Reason::new("x").unwrap()).unwrap();
        assert_eq!(why(Some(&reason), narrow).unwrap().as_str(), "x");
        assert_eq!(epitaph(lease, &Reason::new("x".repeat(217)).unwrap()), None);
    }
}
