//! Acquiring: one or several resources, all or none, each durable as an intent before it leaves.

use std::collections::BTreeSet;
use std::time::Duration;

use stormlock_protocol::name::{Fence, LeaseId, Resource, UnixMs};

use super::breaking;
use super::entry::{Asking, Busy, Entry, Phase};
use super::law::Law;
use super::port::{After, Answer, Ask, Call, CallResult, No, Ticket};
use super::queue::{On, Patience};
use super::schedule::{self, length};
use super::{
    Attach, Attempt, Awaiting, BackendName, Claim, Ending, Grant, Hold, Holder, Intent, LeaseTable,
    Moment, Record, SessionId,
};

/// Most attempts of one acquire whose outcome is unknown; then it is cancelled.
const TRIES_MAX: u32 = 3;
/// Most answers in a row that mean "ask again": more contention than any lock of people has.
const MOVED_MAX: u32 = 16;

/// Claims that are taken all or none.
#[derive(Debug)]
pub(super) struct Group {
    session: SessionId,
    attach: Attach,
    pub(super) members: Vec<LeaseId>,
    /// The member whose turn it is.
    pub(super) at: usize,
    /// Some of its claims are not in the journal yet.
    pub(super) is_fresh: bool,
    /// It waits for what others hold.
    pub(super) patience: Option<Patience>,
    hold_for: Option<Duration>,
}

impl LeaseTable {
    pub(super) fn acquire(&mut self, now: Moment, ask: Ask) {
        let Ask { ticket, session, claims, owner, hold, attach, terminal, .. } = ask;
        let (leases_max, until, hold_for) = (ask.leases_max, ask.until, ask.hold_for);
        if self.stopping {
            return self.refuse(ticket, No::Stopping);
        }
        if !self.journal_works {
            return self.refuse(ticket, No::Journal);
        }
        if claims.is_empty() {
            return self.answer(ticket, Answer::Acquired(Vec::new()));
        }
        if let Some(twice) = twice(&claims) {
            return self.refuse(ticket, twice);
        }
        // What was lost is bounded elsewhere, and nobody has it: it is no reason for a no.
        let is_lost = |lease: &&LeaseId| {
            self.entries.get(*lease).is_some_and(|entry| matches!(entry.phase, Phase::Lost(..)))
        };
        let owned = self.owners.get(&owner).into_iter().flatten();
        if owned.filter(|lease| !is_lost(lease)).count() + claims.len() > leases_max {
            return self.refuse(ticket, No::TooMany(leases_max));
        }
        if let Some(held) = claims.iter().find_map(|claim| self.held_elsewhere(now, claim)) {
            let holder = holder(&held.claim, held.fence, now.until(held.deadline));
            return self.refuse(ticket, No::Held(held.claim.resource, Some(Box::new(holder))));
        }
        let created = claims.first().map_or(UnixMs(0), |claim| claim.created);
        let mut members = Vec::with_capacity(claims.len());
        for claim in claims {
            members.push(claim.lease);
            let intent = Intent { claim, owner, hold, attach, terminal };
            self.record(Record::Intent(Box::new(intent.clone())));
            self.insert(Entry::asked(intent, ticket));
        }
        let patience = until.map(|until| Patience::new(until, (now, created)));
        self.patience.extend(until.map(|until| (until, ticket)));
        let (at, is_fresh) = (0, true);
        let group = Group { session, attach, members, at, is_fresh, patience, hold_for };
        self.groups.insert(ticket, group);
        self.guard(attach);
        if !self.queues_up(now, ticket) {
            self.begin(now, ticket);
        }
    }

    /// Asks for the first of a group, once the next start would know of all of them (law 4).
    pub(super) fn begin(&mut self, now: Moment, ticket: Ticket) {
        let Some(group) = self.groups.get(&ticket) else { return };
        let entries = group.members.iter().filter_map(|lease| self.entries.get(lease));
        // Where the store is the journal itself the grant's own wait covers the intent.
        let in_journal = entries.map(|entry| &entry.claim.backend);
        let in_journal = in_journal.into_iter().all(|backend| self.in_journal.contains(backend));
        if !group.is_fresh || in_journal || !self.obeys(Law::IntentBeforeAction) {
            self.take_turn(now, ticket);
        } else {
            self.sync(Awaiting::Intents(ticket));
        }
    }

    pub(super) fn intents_durable(&mut self, now: Moment, ticket: Ticket, durable: bool) {
        let Some(group) = self.groups.get_mut(&ticket) else { return };
        if durable {
            group.is_fresh = false;
            return self.take_turn(now, ticket);
        }
        self.fail_or_wait(now, ticket, No::Journal);
    }

    /// What is wrong may be over before the time to wait is: it does not send away who waits.
    fn fail_or_wait(&mut self, now: Moment, ticket: Ticket, no: No) {
        match self.has_waited(ticket) {
            Some(on) => {
                let group = self.groups.get(&ticket);
                let asks = group.and_then(|group| self.place(*group.members.get(group.at)?));
                // What another of its resources met is no trouble of those who wait for this one.
                if no == No::Journal || asks.as_ref() == Some(&on) {
                    self.troubled(&on, no);
                }
                self.park(now, ticket, on, None);
            }
            None => self.fail(now, ticket, no),
        }
    }

    /// A session ended: nobody will read the answers to its acquires.
    pub(super) fn unheard(&mut self, now: Moment, session: SessionId) {
        self.fail_all(now, |group| group.session == session);
    }

    /// What these leases would have been attached to is gone.
    pub(super) fn unattached(&mut self, now: Moment, attach: Attach) {
        self.fail_all(now, |group| group.attach.ends_with(attach));
    }

    /// While the agent stops, sessions end because of us and nothing is concluded.
    fn fail_all(&mut self, now: Moment, which: impl Fn(&Group) -> bool) {
        if self.stopping {
            return;
        }
        let groups: Vec<Ticket> = self
            .groups
            .iter()
            .filter(|(_, group)| which(group))
            .map(|(ticket, _)| *ticket)
            .collect();
        for group in groups {
            self.fail(now, group, No::NotHeld);
        }
    }

    /// Takes the next step of a claim, if it is its turn and nothing is under way.
    pub(super) fn go_on_asking(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get(&lease) else { return };
        let Phase::Asking(asking) = &entry.phase else { return };
        if !asking.turn || asking.granted || entry.busy != Busy::No || entry.retry_at > now {
            return;
        }
        let (claim, group) = (entry.claim.clone(), asking.group);
        let breaks = claim.over.is_some();
        let clearing = self
            .leases_on(&claim.backend, &claim.resource)
            .any(|other| self.entries.get(&other).is_some_and(Entry::is_clearing));
        if !breaks && (clearing || self.is_behind(now, &claim, group)) {
            // An earlier lease of ours is about to leave the store: its end wakes this one, so
            // that one command after the other never sees its own predecessor as a stranger. Or
            // somebody who has waited asks first.
            if let Some(entry) = self.entries.get_mut(&lease) {
                entry.retry_at = Moment::NEVER;
            }
            return;
        }
        self.call(now, lease, Call::Acquire(claim));
    }

    /// Lets the acquires on a resource go on that waited for another lease of ours to leave.
    pub(super) fn wake_askers(&mut self, now: Moment, backend: &BackendName, on: &Resource) {
        let leases: Vec<LeaseId> = self.leases_on(backend, on).collect();
        for lease in leases {
            if let Some(entry) = self.entries.get_mut(&lease)
                && matches!(entry.phase, Phase::Asking(_))
                && entry.retry_at == Moment::NEVER
            {
                entry.retry_at = now;
                self.advance(now, lease);
            }
        }
    }

    pub(super) fn attempted(
        &mut self,
        now: Moment,
        lease: LeaseId,
        sent: Moment,
        result: CallResult,
    ) {
        let cancels = self.obeys(Law::UnknownIsNotNo);
        if let (CallResult::Attempted(_), Some(on)) = (&result, self.place(lease)) {
            self.heard(&on);
        }
        let Some((entry, group)) = self.asked_by(lease) else { return };
        let Phase::Asking(asking) = &mut entry.phase else { return };
        match result {
            CallResult::Attempted(Attempt::Granted(grant)) => self.granted(now, lease, sent, grant),
            CallResult::Attempted(Attempt::Held(Some(holder))) => {
                let on = (entry.claim.backend.clone(), entry.claim.resource.clone());
                self.met_holder(now, group, on, Some(*holder));
            }
            CallResult::Attempted(Attempt::Gone) => self.fail(now, group, No::NotHeld),
            CallResult::Attempted(Attempt::Held(None) | Attempt::Moved) => {
                asking.moved += 1;
                if asking.moved > MOVED_MAX {
                    let on = (entry.claim.backend.clone(), entry.claim.resource.clone());
                    self.met_holder(now, group, on, None);
                }
            }
            CallResult::Refused(kind) => {
                let after = if asking.uncertain { After::Cancelling } else { After::Nothing };
                let no = entry.store_no(Some(kind), after);
                if kind.may_pass() {
                    self.fail_or_wait(now, group, no);
                } else {
                    self.fail(now, group, no);
                }
            }
            // Anything else is no answer to an acquire: whatever it was, it may have happened.
            CallResult::Unknown
            | CallResult::Done
            | CallResult::NotThere
            | CallResult::Stands(_) => {
                entry.tries += 1;
                asking.uncertain = cancels;
                entry.is_in_copies = cancels;
                if entry.tries >= TRIES_MAX {
                    let no = entry.store_no(None, After::Cancelling);
                    return self.fail_or_wait(now, group, no);
                }
                self.back_off(now, lease);
            }
        }
    }

    fn met_holder(&mut self, now: Moment, ticket: Ticket, on: On, holder: Option<Holder>) {
        match self.groups.get(&ticket) {
            Some(group) if group.patience.is_some() => self.park(now, ticket, on, holder),
            _ => self.fail(now, ticket, No::Held(on.1, holder.map(Box::new))),
        }
    }

    /// The grants of a group and their fences are on disk: they count.
    pub(super) fn grant_durable(&mut self, now: Moment, lease: LeaseId, durable: bool) {
        let Some((_, group)) = self.asked_by(lease) else { return };
        if durable { self.win(now, group) } else { self.fail(now, group, No::Journal) }
    }

    fn granted(&mut self, now: Moment, lease: LeaseId, sent: Moment, grant: Grant) {
        let Some((entry, group)) = self.asked_by(lease) else { return };
        entry.fence = Some(grant.fence);
        entry.lasts_no_less(grant.remaining);
        entry.prove(sent, grant.remaining);
        entry.kept_until = now + length(entry.claim.ttl);
        let key = (entry.claim.backend.clone(), entry.claim.resource.clone());
        if let Some(before) = self.fences.of(&key)
            && grant.fence <= before
            && self.obeys(Law::FencesRise)
        {
            return self.fail(now, group, No::Fence(key.1, grant.fence));
        }
        self.end_older(now, lease, &key, grant.fence);
        self.fences.remember(key, grant.fence);
        if let Some(entry) = self.entries.get_mut(&lease)
            && let Phase::Asking(asking) = &mut entry.phase
        {
            asking.granted = true;
        }
        let Some(waiting) = self.groups.get_mut(&group) else { return };
        waiting.at += 1;
        if waiting.at < waiting.members.len() {
            return self.take_turn(now, group);
        }
        self.record_grants(now, lease, group);
    }

    /// All or none also for the next start: the journal hears of the grants of a group when there
    /// are all of them, and a crash before that leaves intents, which are cancelled.
    fn record_grants(&mut self, now: Moment, last: LeaseId, group: Ticket) {
        let Some(group) = self.groups.get(&group) else { return };
        let hold = group.hold_for.map(|length| Hold::Until(now + length));
        for lease in group.members.clone() {
            if let Some(entry) = self.entries.get_mut(&lease)
                && let (Some(fence), Some((sent, remaining))) = (entry.fence, entry.proven)
            {
                let ttl = entry.claim.ttl;
                entry.hold = hold.unwrap_or(entry.hold);
                entry.warn_later(now);
                let is_other = hold.is_some() || entry.claim.over.is_some();
                let hold = entry.hold;
                self.record(Record::Granted { lease, fence, sent, remaining });
                if is_other {
                    let nonce = None;
                    self.record(Record::Renewed { lease, nonce, ttl, hold, sent, remaining });
                }
            }
        }
        let sync = self.sync(Awaiting::Grant(last));
        if let Some(entry) = self.entries.get_mut(&last) {
            entry.busy = Busy::Sync(sync);
        }
    }

    /// A greater fence says that the store had let go of every lease of ours with a smaller one.
    fn end_older(
        &mut self,
        now: Moment,
        lease: LeaseId,
        on: &(BackendName, Resource),
        fence: Fence,
    ) {
        let older: Vec<LeaseId> = self.leases_on(&on.0, &on.1).filter(|id| *id != lease).collect();
        for id in older {
            let Some(entry) = self.entries.get(&id) else { continue };
            if entry.fence.is_none_or(|before| before >= fence) {
                continue;
            }
            match &entry.phase {
                Phase::Held | Phase::Unproven => {
                    let loss = breaking::lost_to_ours(&self.entries[&lease].claim, id);
                    self.lose(now, id, loss);
                }
                Phase::Asking(asking) => {
                    let group = asking.group;
                    self.fail(now, group, No::Held(on.1.clone(), None));
                }
                Phase::Ending(..) | Phase::Lost(..) => {}
            }
        }
    }

    /// All members are granted and durable: they are held, if that can still be believed.
    fn win(&mut self, now: Moment, ticket: Ticket) {
        let Some(group) = self.groups.get(&ticket) else { return };
        let members = group.members.clone();
        let late = members.iter().filter_map(|lease| self.entries.get(lease)).find(|entry| {
            // Law 6, and a hold that is over before it began is no hold either.
            entry.end() <= now
        });
        if let Some(late) = late {
            let no = No::TooLate(late.claim.resource.clone());
            return self.fail(now, ticket, no);
        }
        if let Some(group) = self.groups.remove(&ticket) {
            self.waits_no_more(now, ticket, &group);
        }
        let mut views = Vec::with_capacity(members.len());
        for lease in members {
            let Some(entry) = self.entries.get_mut(&lease) else { continue };
            entry.phase = Phase::Held;
            entry.tries = 0;
            let sent = entry.proven.map_or(now, |(sent, _)| sent);
            self.schedule(lease, sent);
            views.extend(self.view(now, lease));
            self.acknowledge_lost(now, lease);
            self.advance(now, lease);
        }
        self.answer(ticket, Answer::Acquired(views));
    }

    /// None, then: what was granted is given back, what may have been is cancelled (laws 3 and 5),
    /// what never left is forgotten.
    pub(super) fn fail(&mut self, now: Moment, ticket: Ticket, no: No) {
        let Some(group) = self.groups.remove(&ticket) else { return };
        self.refuse(ticket, no);
        self.waits_no_more(now, ticket, &group);
        for (index, lease) in group.members.into_iter().enumerate() {
            let Some(entry) = self.entries.get(&lease) else { continue };
            let Phase::Asking(asking) = &entry.phase else { continue };
            let leaving =
                matches!(entry.busy, Busy::Call { .. }) && self.obeys(Law::UnknownIsNotNo);
            let left = leaving || asking.uncertain;
            if entry.fence.is_some() {
                self.end_when_over(now, lease, Ending::Release);
            } else if index == group.at && left {
                self.end_when_over(now, lease, Ending::Cancel);
            } else {
                self.forget(now, lease);
            }
        }
    }

    fn take_turn(&mut self, now: Moment, ticket: Ticket) {
        let Some(group) = self.groups.get(&ticket) else { return };
        let Some(&lease) = group.members.get(group.at) else { return };
        if let Some(entry) = self.entries.get_mut(&lease)
            && let Phase::Asking(asking) = &mut entry.phase
        {
            asking.turn = true;
        }
        self.advance(now, lease);
    }

    fn asked_by(&mut self, lease: LeaseId) -> Option<(&mut Entry, Ticket)> {
        let entry = self.entries.get_mut(&lease)?;
        let Phase::Asking(Asking { group, .. }) = &entry.phase else { return None };
        let group = *group;
        Some((entry, group))
    }

    fn back_off(&mut self, now: Moment, lease: LeaseId) {
        let roll = self.roll();
        if let Some(entry) = self.entries.get_mut(&lease) {
            entry.retry_at = now + schedule::retry(entry.tries, length(entry.claim.ttl), roll);
        }
    }

    /// A new lease on a resource says that its holder knows of the lost ones before it.
    fn acknowledge_lost(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get(&lease) else { return };
        let (owner, claim) = (entry.owner, entry.claim.clone());
        let lost: Vec<LeaseId> = self
            .leases_on(&claim.backend, &claim.resource)
            .filter(|other| *other != lease)
            .filter(|other| {
                self.entries.get(other).is_some_and(|entry| {
                    entry.owner == owner && matches!(entry.phase, Phase::Lost(..))
                })
            })
            .collect();
        for lost in lost {
            self.forget(now, lost);
        }
    }
}

/// What to say to an ask that names one resource twice: it would find it held by itself.
fn twice(claims: &[Claim]) -> Option<No> {
    let mut seen = BTreeSet::new();
    let claim = claims.iter().find(|claim| !seen.insert((&claim.backend, &claim.resource)))?;
    let holder = holder(claim, None, length(claim.ttl));
    Some(No::Held(claim.resource.clone(), Some(Box::new(holder))))
}

fn holder(claim: &Claim, fence: Option<Fence>, remaining: Duration) -> Holder {
    Holder {
        resource: claim.resource.clone(),
        lease: claim.lease,
        principal: claim.principal.clone(),
        host: Some(claim.host.clone()),
        reason: claim.reason.clone(),
        fence,
        since: claim.created,
        remaining: Some(remaining),
    }
}
