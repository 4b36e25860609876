//! Waiting for what others hold: who on this host waits for a resource, first come first served.
//!
//! Each resource that is waited for has one queue, and only its first asks the store: when
//! something stirred there (a hint, from the store or because a lease of ours ended), and otherwise
//! when it is time to look. What decides is the answer to its acquire, never the hint. Nothing is
//! held meanwhile: what a group had taken before it met a holder is given back, so whoever waits is
//! in nobody's way.

use std::collections::BTreeSet;

use stormlock_protocol::name::{LeaseId, Resource, UnixMs};

use super::asking::Group;
use super::claim::{is_narrow, mint};
use super::entry::{Busy, Entry, Phase};
use super::port::{After, Effect, No, Ticket};
use super::schedule;
use super::{BackendName, Claim, Ending, Holder, Intent, LeaseTable, Moment, Nonce, Record};

/// A resource in a store.
pub(super) type On = (BackendName, Resource);

/// Who waits for one resource. Never empty.
#[derive(Debug)]
pub(super) struct Queue {
    /// In the order of their questions, which is the order in which they came.
    waiters: BTreeSet<Ticket>,
    /// Who has it, as far as is known.
    holder: Option<Holder>,
    /// When the first asks next; never while somebody is asking.
    look_at: Moment,
    /// Who is asking.
    asking: Option<Ticket>,
    /// When somebody asked last.
    asked_at: Moment,
    /// Something stirred meanwhile: the answer may be of before.
    stirred: bool,
    /// The store says when something stirs.
    tells: bool,
    /// It was asked to.
    is_watched: bool,
    /// Looks in a row at a lock whose end was due.
    late: u32,
    /// Since when the store says nothing of the resource, and why, as it was told last.
    trouble: Option<(Moment, No)>,
}

/// What a waiting group knows of its wait.
#[derive(Debug)]
pub(super) struct Patience {
    /// When it ends.
    pub(super) until: Moment,
    /// The queue that it stands in.
    pub(super) queued: Option<On>,
    /// It stands still until its turn comes.
    pub(super) parked: bool,
    /// When it asked, by the boot clock and by the wall clock.
    asked: (Moment, UnixMs),
    /// What it was told last: its place, of how many, and the holder's lease.
    told: Option<(u32, u32, Option<LeaseId>)>,
}

impl Patience {
    pub(super) fn new(until: Moment, asked: (Moment, UnixMs)) -> Patience {
        Patience { until, queued: None, parked: false, asked, told: None }
    }
}

impl LeaseTable {
    /// Something may have changed, says the store.
    pub(super) fn stirred(&mut self, now: Moment, on: &On, tells: bool) {
        if let Some(queue) = self.queues.get_mut(on) {
            queue.tells = tells;
        }
        self.stir(now, on);
    }

    /// The first of the queue is to ask, at once but never in a tight circle.
    pub(super) fn stir(&mut self, now: Moment, on: &On) {
        let Some(queue) = self.queues.get_mut(on) else { return };
        if queue.asking.is_some() {
            queue.stirred = true;
            return;
        }
        queue.look_at = queue.look_at.min(now.max(queue.asked_at + schedule::LOOK_GAP));
        self.look(now, on);
    }

    /// How many wait for a resource.
    #[must_use]
    pub fn waiters(&self, backend: &BackendName, on: &Resource) -> u32 {
        let queue = self.queues.get(&(backend.clone(), on.clone()));
        queue.map_or(0, |queue| u32::try_from(queue.waiters.len()).unwrap_or(u32::MAX))
    }

    /// True for a claim of somebody who does not wait, while the first of those who do is asking,
    /// or is about to.
    pub(super) fn is_behind(&self, now: Moment, claim: &Claim, group: Ticket) -> bool {
        let waits = self.groups.get(&group).is_some_and(|group| group.patience.is_some());
        let queue = self.queues.get(&(claim.backend.clone(), claim.resource.clone()));
        let soon = now + schedule::LOOK_GAP;
        !waits && queue.is_some_and(|queue| queue.asking.is_some() || queue.look_at <= soon)
    }

    /// Before a group asks for the first time: where others wait already it takes its place behind
    /// them, or lets their first ask before it. True when it waits.
    pub(super) fn queues_up(&mut self, now: Moment, ticket: Ticket) -> bool {
        let Some(group) = self.groups.get(&ticket) else { return false };
        let waits = group.patience.is_some();
        let wanted: Vec<On> = group.members.iter().filter_map(|lease| self.place(*lease)).collect();
        if let Some(on) = wanted.iter().find(|on| self.queues.contains_key(on)) {
            if waits {
                self.park(now, ticket, on.clone(), None);
            }
            self.stir(now, on);
            return waits;
        }
        // Whoever comes later and waits too is served later, however long this takes.
        if let ([on], Some(group)) = (wanted.as_slice(), self.groups.get_mut(&ticket))
            && let Some(patience) = &mut group.patience
        {
            patience.queued = Some(on.clone());
            let in_journal = self.in_journal.contains(&on.0);
            self.queues.insert(on.clone(), Queue::asked_by(ticket, now, in_journal));
        }
        false
    }

    /// The store did not say who has it: those who wait hear of that when they give up.
    pub(super) fn troubled(&mut self, on: &On, no: No) {
        if let Some(queue) = self.queues.get_mut(on) {
            let since = queue.trouble.take().map_or(queue.asked_at, |(since, _)| since);
            queue.trouble = Some((since, no));
        }
    }

    /// The store answered.
    pub(super) fn heard(&mut self, on: &On) {
        if let Some(queue) = self.queues.get_mut(on) {
            queue.trouble = None;
        }
    }

    /// What to say at the end of a wait. Who had it once is no answer when the store has said
    /// nothing since.
    fn waited(&self, now: Moment, ticket: Ticket, on: On) -> No {
        let queue = self.queues.get(&on);
        if let Some((since, no)) = queue.and_then(|queue| queue.trouble.as_ref()) {
            return No::WaitedInVain(since.until(now), Box::new(no.clone()));
        }
        let holder = queue.and_then(|queue| queue.holder.clone());
        let asker = queue.and_then(|queue| queue.asking).unwrap_or(ticket);
        match self.unanswered(asker, &on) {
            Some((entry, since)) if holder.is_none() || entry.tries > 0 => {
                let since = queue.map_or(since, |queue| queue.asked_at);
                let no = entry.store_no(None, After::Cancelling);
                No::WaitedInVain(since.until(now), Box::new(no))
            }
            _ => No::WaitedOut(on.1, holder.map(Box::new)),
        }
    }

    /// The claim that a group is asking the store for, if that has not answered, and when it asked.
    fn unanswered(&self, asker: Ticket, on: &On) -> Option<(&Entry, Moment)> {
        let group = self.groups.get(&asker)?;
        let lease = *group.members.get(group.at)?;
        let entry = self.entries.get(&lease)?;
        let is_asked = matches!(entry.busy, Busy::Call { .. }) || entry.tries > 0;
        let asked = group.patience.as_ref()?.asked.0;
        (is_asked && self.place(lease).as_ref() == Some(on)).then_some((entry, asked))
    }

    /// A group met a holder: it gives back what it has and waits for its turn. `holder`: who it is,
    /// where that is news.
    pub(super) fn park(&mut self, now: Moment, ticket: Ticket, on: On, holder: Option<Holder>) {
        let is_over = |group: &Group| group.patience.as_ref().is_some_and(|it| it.until <= now);
        if self.groups.get(&ticket).is_some_and(is_over) {
            let no = match holder {
                Some(holder) => No::WaitedOut(on.1, Some(Box::new(holder))),
                None => self.waited(now, ticket, on),
            };
            return self.fail(now, ticket, no);
        }
        self.let_go(now, ticket);
        let roll = self.roll();
        let Some(group) = self.groups.get_mut(&ticket) else { return };
        let Some(patience) = &mut group.patience else { return };
        group.at = 0;
        patience.parked = true;
        let before = patience.queued.replace(on.clone()).filter(|before| *before != on);
        let in_journal = self.in_journal.contains(&on.0);
        let fresh = || Queue::asked_by(ticket, now, in_journal);
        let queue = self.queues.entry(on.clone()).or_insert_with(fresh);
        queue.waiters.insert(ticket);
        if queue.asking == Some(ticket) {
            queue.asking = None;
            queue.look_later(now, holder, roll);
        }
        if !std::mem::replace(&mut queue.is_watched, true) {
            let (backend, resource) = on.clone();
            self.effects.push_back(Effect::Watch { backend, resource });
        }
        if let Some(before) = before {
            self.leave(now, ticket, &before);
        }
        self.wake_askers(now, &on.0, &on.1);
        self.tell(now, &on);
    }

    /// Gives back what a group has taken, and cancels what it may have, under ids that are not used
    /// again: the claims go on under others.
    fn let_go(&mut self, now: Moment, ticket: Ticket) {
        let Some(group) = self.groups.get(&ticket) else { return };
        let at = group.at;
        for (index, lease) in group.members.clone().into_iter().enumerate() {
            let Some(entry) = self.entries.get_mut(&lease) else { continue };
            let Phase::Asking(asking) = &mut entry.phase else { continue };
            if entry.fence.is_some() {
                self.swap(now, ticket, index, Ending::Release);
            } else if index == at && asking.uncertain {
                self.swap(now, ticket, index, Ending::Cancel);
            } else {
                asking.turn = false;
                asking.moved = 0;
                entry.tries = 0;
                entry.retry_at = Moment::BOOT;
            }
        }
    }

    fn swap(&mut self, now: Moment, ticket: Ticket, index: usize, how: Ending) {
        let (nonce, high, low) = (Nonce(self.roll()), self.roll(), self.roll());
        let Some(group) = self.groups.get_mut(&ticket) else { return };
        let Some(slot) = group.members.get_mut(index) else { return };
        let old = *slot;
        let Some(entry) = self.entries.get(&old) else { return };
        let lease = mint(is_narrow(old), high, low);
        let Entry { owner, hold, attach, terminal, .. } = *entry;
        let claim = Claim { lease, nonce, ..entry.claim.clone() };
        let intent = Intent { claim, owner, hold, attach, terminal };
        *slot = lease;
        group.is_fresh = true;
        self.record(Record::Intent(Box::new(intent.clone())));
        self.insert(Entry::asked(intent, ticket));
        self.end(now, old, how);
    }

    /// Whoever waits has waited long enough, and the first of each queue whose time has come asks.
    pub(super) fn mind_queues(&mut self, now: Moment) {
        while let Some(&(until, ticket)) = self.patience.first()
            && until <= now
        {
            self.patience.remove(&(until, ticket));
            let Some(group) = self.groups.get(&ticket) else { continue };
            let waited_for = group.patience.as_ref().and_then(|patience| patience.queued.clone());
            let asked_for = group.members.get(group.at).and_then(|lease| self.place(*lease));
            let Some(on) = waited_for.or(asked_for) else { continue };
            let no = self.waited(now, ticket, on);
            self.fail(now, ticket, no);
        }
        let due = self.queues.iter().filter(|(_, queue)| queue.look_at <= now);
        let due: Vec<On> = due.map(|(on, _)| on.clone()).collect();
        for on in due {
            self.look(now, &on);
        }
    }

    /// When [`LeaseTable::mind_queues`] has something to do.
    pub(super) fn queues_wakeup(&self) -> Moment {
        let looks = self.queues.values().map(|queue| queue.look_at);
        let ends = self.patience.first().map(|(until, _)| *until);
        looks.chain(ends).min().unwrap_or(Moment::NEVER)
    }

    fn look(&mut self, now: Moment, on: &On) {
        let works = self.journal_works;
        let roll = self.roll();
        let Some(queue) = self.queues.get_mut(on) else { return };
        if queue.look_at > now {
            return;
        }
        if !works {
            // What would have to be written down first cannot be.
            queue.look_later(now, None, roll);
            return self.troubled(on, No::Journal);
        }
        let Some(first) = queue.waiters.first().copied() else { return };
        queue.look_at = Moment::NEVER;
        queue.asking = Some(first);
        queue.asked_at = now;
        queue.stirred = false;
        let Some(group) = self.groups.get_mut(&first) else { return };
        let Some(patience) = &mut group.patience else { return };
        patience.parked = false;
        // Whoever waited for an hour has it since now, not since an hour ago.
        let waited = i64::try_from(patience.asked.0.until(now).as_millis()).unwrap_or(i64::MAX);
        let created = UnixMs(patience.asked.1.0.saturating_add(waited));
        for lease in &group.members {
            if let Some(entry) = self.entries.get_mut(lease) {
                entry.claim.created = created;
            }
        }
        self.begin(now, first);
    }

    /// Where a group waits that has been told so.
    pub(super) fn has_waited(&self, ticket: Ticket) -> Option<On> {
        let patience = self.groups.get(&ticket)?.patience.as_ref()?;
        patience.queued.clone().filter(|_| patience.told.is_some())
    }

    /// A group that waited is gone from its queue: it has what it waited for, or gave up.
    pub(super) fn waits_no_more(&mut self, now: Moment, ticket: Ticket, group: &Group) {
        let Some(patience) = &group.patience else { return };
        self.patience.remove(&(patience.until, ticket));
        if let Some(on) = &patience.queued {
            self.leave(now, ticket, on);
        }
    }

    fn leave(&mut self, now: Moment, ticket: Ticket, on: &On) {
        let Some(queue) = self.queues.get_mut(on) else { return };
        queue.waiters.remove(&ticket);
        if queue.waiters.is_empty() {
            let is_watched = queue.is_watched;
            self.queues.remove(on);
            if is_watched {
                let (backend, resource) = on.clone();
                self.effects.push_back(Effect::Unwatch { backend, resource });
            }
        } else if queue.asking == Some(ticket) {
            // Whatever it heard, the others did not.
            queue.asking = None;
            queue.look_at = now + schedule::LOOK_GAP;
        }
        self.wake_askers(now, &on.0, &on.1);
        self.tell(now, on);
    }

    /// Tells those who wait what has changed for them, and the holder, if it is one of ours, how
    /// many there are.
    fn tell(&mut self, now: Moment, on: &On) {
        let here: Vec<LeaseId> = self.leases_on(&on.0, &on.1).collect();
        for lease in here {
            self.refresh(now, lease);
        }
        let Some(queue) = self.queues.get(on) else { return };
        let of = u32::try_from(queue.waiters.len()).unwrap_or(u32::MAX);
        let holder = queue.holder.as_ref().map(|holder| holder.lease);
        for (place, ticket) in (1..).zip(&queue.waiters) {
            let group = self.groups.get_mut(ticket);
            let Some(patience) = group.and_then(|group| group.patience.as_mut()) else { continue };
            let news = (place, of, holder);
            if patience.told.replace(news) != Some(news) {
                self.effects.push_back(Effect::Waiting {
                    ticket: *ticket,
                    backend: on.0.clone(),
                    resource: on.1.clone(),
                    holder: queue.holder.clone().map(Box::new),
                    place,
                    of,
                });
            }
        }
    }

    /// What a claim is for, and where.
    pub(super) fn place(&self, lease: LeaseId) -> Option<On> {
        let claim = &self.entries.get(&lease)?.claim;
        Some((claim.backend.clone(), claim.resource.clone()))
    }
}

impl Queue {
    fn asked_by(ticket: Ticket, now: Moment, tells: bool) -> Queue {
        Queue {
            waiters: BTreeSet::from([ticket]),
            holder: None,
            look_at: Moment::NEVER,
            asking: Some(ticket),
            asked_at: now,
            stirred: false,
            tells,
            is_watched: false,
            late: 0,
            trouble: None,
        }
    }

    /// When the first asks next, by what it heard.
    fn look_later(&mut self, now: Moment, holder: Option<Holder>, roll: u64) {
        let remaining = holder.as_ref().and_then(|holder| holder.remaining);
        let same = |known: &Holder| holder.as_ref().is_some_and(|new| new.lease == known.lease);
        let is_due = remaining.is_some_and(|left| left <= schedule::LOOK_DUE);
        self.late = match is_due && self.holder.as_ref().is_some_and(same) {
            true => self.late.saturating_add(1),
            false => 0,
        };
        self.look_at = if std::mem::take(&mut self.stirred) {
            now + schedule::LOOK_GAP
        } else {
            now + schedule::look(remaining, self.tells, self.late, roll)
        };
        if holder.is_some() {
            self.holder = holder;
        }
    }
}

#[cfg(test)]
impl Queue {
    pub(super) fn has(&self, ticket: Ticket) -> bool {
        self.waiters.contains(&ticket)
    }

    /// What must be true of a queue between two inputs; `parked` says of one who waits in it
    /// whether it stands still.
    pub(super) fn check(&self, now: Moment, parked: impl Fn(Ticket) -> Option<bool>) {
        assert!(!self.waiters.is_empty(), "a queue of nobody: {self:?}");
        for ticket in &self.waiters {
            let is_parked = parked(*ticket).expect("it waits here");
            assert_eq!(is_parked, self.asking != Some(*ticket), "{ticket:?}: {self:?}");
        }
        match self.asking {
            Some(asking) => assert!(self.waiters.contains(&asking), "{self:?}"),
            None => assert!(self.look_at > now && self.look_at != Moment::NEVER, "{self:?}"),
        }
    }
}
