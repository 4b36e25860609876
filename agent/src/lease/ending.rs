//! Ending: release, cancel, and clearing up after a loss, each until the store acknowledged it.

use stormlock_protocol::name::LeaseId;

use super::entry::{Busy, Entry, Phase, Purpose, Wish};
use super::law::Law;
use super::port::{After, Answer, Call, CallResult, Effect, No, Ticket};
use super::schedule;
use super::{Attach, Awaiting, Ending, LeaseTable, Loss, Moment, Record, Standing, Uid};

impl LeaseTable {
    pub(super) fn release(&mut self, now: Moment, ticket: Ticket, lease: LeaseId) {
        let Some(entry) = self.entries.get_mut(&lease) else {
            return self.refuse(ticket, No::NotHeld);
        };
        match &mut entry.phase {
            Phase::Asking(_) => self.refuse(ticket, No::NotHeld),
            Phase::Ending(_, waiting) => {
                // Whoever asks again is answered by a try of now, not by one of in half a minute.
                waiting.push(ticket);
                entry.retry_at = now;
                self.advance(now, lease);
            }
            Phase::Lost(loss, _) => {
                let loss = loss.clone();
                self.acknowledge_broken(now, lease);
                self.refuse(ticket, No::Lost(loss));
            }
            Phase::Held | Phase::Unproven => {
                self.end(now, lease, Ending::Release);
                if let Some(entry) = self.entries.get_mut(&lease)
                    && let Phase::Ending(_, waiting) = &mut entry.phase
                {
                    waiting.push(ticket);
                }
            }
        }
    }

    /// Begins to end a lease: from here on nobody believes in it, whatever the store says.
    pub(super) fn end(&mut self, now: Moment, lease: LeaseId, how: Ending) {
        self.end_at(now, lease, how, now);
    }

    /// The same, and the store hears of it then.
    pub(super) fn end_at(&mut self, now: Moment, lease: LeaseId, how: Ending, at: Moment) {
        let tells = self.obeys(Law::ReleaseTellsLoss);
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let wishes = entry.take_wishes();
        let is_believed = matches!(entry.phase, Phase::Held) && now < entry.deadline;
        entry.may_be_lost = tells && is_believed && entry.claim.over.is_none();
        entry.phase = Phase::Ending(how, Vec::new());
        entry.tries = 0;
        entry.retry_at = at;
        if matches!(entry.busy, Busy::Sync(_)) {
            // Whatever waited for the journal is moot; its answer finds nothing to do.
            entry.busy = Busy::No;
        }
        self.record(Record::Ending { lease, how });
        for wish in wishes {
            self.refuse(wish.ticket, No::NotHeld);
        }
        self.advance(now, lease);
    }

    pub(super) fn go_on_ending(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get(&lease) else { return };
        let Phase::Ending(how, _) = &entry.phase else { return };
        let looks = entry.lingers() && entry.verify_at <= now;
        if entry.busy != Busy::No || entry.retry_at > now && !looks {
            return;
        }
        let (proof, resource) = (entry.proof(), entry.claim.resource.clone());
        if entry.waits_out || entry.retry_at > now {
            return self.call_for(now, lease, Call::Verify(proof), Purpose::Look);
        }
        match how {
            // The store has ended it by itself long ago, and no call of ours can bring it back.
            Ending::Release if entry.tries > 0 && now >= entry.release_until() => {
                self.gone_for_good(now, lease);
            }
            Ending::Release => self.call(now, lease, Call::Release(proof)),
            Ending::Linger => {
                self.lingers_no_more(lease);
                self.call(now, lease, Call::Release(proof));
            }
            Ending::Cancel => self.call(now, lease, Call::Cancel(resource, lease)),
        }
    }

    /// Begins to end a lease whose holder has ended without giving it back, or stands still at the
    /// end of its hold. Those who count on it hear of that only now: they have their time to end,
    /// while nobody else can have it.
    pub(super) fn linger(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get(&lease) else { return };
        let grace = entry.lingers_for();
        if grace.is_zero() || !self.obeys(Law::HolderLingers) {
            return self.end(now, lease, Ending::Release);
        }
        self.end_at(now, lease, Ending::Linger, now + grace);
    }

    /// The store was asked whether what lingers is there. If it is not, those who count on it have
    /// lost it like anybody else, but for a holder to be told.
    pub(super) fn looked_at_lingering(&mut self, now: Moment, lease: LeaseId, result: &CallResult) {
        let roll = self.roll();
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let end = entry.retry_at;
        let standing = match result {
            CallResult::Stands(Standing::Ours { .. }) => {
                entry.verify_at = now + schedule::VERIFY_EVERY;
                return;
            }
            CallResult::Stands(standing) => standing.clone(),
            _ => {
                entry.verify_at = now + schedule::retry(3, schedule::length(entry.claim.ttl), roll);
                return;
            }
        };
        let waiting = match &mut entry.phase {
            Phase::Ending(_, waiting) => std::mem::take(waiting),
            _ => Vec::new(),
        };
        self.not_ours(now, lease, standing);
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let Phase::Lost(loss, _) = &entry.phase else { return };
        let loss = loss.clone();
        entry.attach = Attach::Detached;
        if entry.instead {
            // Whoever broke it gave them the time that they had left.
            entry.frees_at = end;
            entry.is_orphan = true;
            self.refresh(now, lease);
        } else {
            self.acknowledge(now, lease);
        }
        for ticket in waiting {
            self.refuse(ticket, No::Lost(loss.clone()));
        }
    }

    fn lingers_no_more(&mut self, lease: LeaseId) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        if let Phase::Ending(how, _) = &mut entry.phase {
            *how = Ending::Release;
        }
        self.record(Record::Ending { lease, how: Ending::Release });
    }

    /// A call came back to a lease that is being ended; it may be one that left before the end
    /// was wanted, which then only made room for the release.
    pub(super) fn ended(
        &mut self,
        now: Moment,
        lease: LeaseId,
        purpose: Purpose,
        result: CallResult,
    ) {
        match (purpose, result) {
            (Purpose::End, CallResult::NotThere) => self.look_instead(now, lease),
            (Purpose::End, CallResult::Done) => {
                self.is_no_loss(now, lease);
                self.end_acknowledged(now, lease);
            }
            (Purpose::Look, result) => self.looked_instead(now, lease, &result),
            (Purpose::End, result) => {
                // That try may have been what took it away.
                self.is_no_loss(now, lease);
                self.ending_failed(now, lease, &result);
            }
            (Purpose::Ask | Purpose::Renew(_) | Purpose::Read, _) => {}
        }
    }

    /// Whatever the store says from here on, this end was its holder's wish.
    pub(super) fn is_no_loss(&mut self, now: Moment, lease: LeaseId) {
        if let Some(entry) = self.entries.get_mut(&lease)
            && std::mem::take(&mut entry.may_be_lost)
        {
            self.refresh(now, lease);
        }
    }

    /// The store let go. Whoever is told so must not hear after a crash of the agent that the lease
    /// was lost, so that it ends stands in the journal first. Where the journal is the store, it
    /// has to be on disk: no crash may bring the lease back.
    pub(super) fn end_acknowledged(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get(&lease) else { return };
        let Phase::Ending(how, waiting) = &entry.phase else { return };
        let sync = if self.in_journal.contains(&entry.claim.backend) {
            self.sync(Awaiting::End(lease))
        } else if *how == Ending::Release && !waiting.is_empty() {
            self.write(Awaiting::End(lease))
        } else {
            return self.end_for_good(now, lease);
        };
        if let Some(entry) = self.entries.get_mut(&lease) {
            entry.busy = Busy::Sync(sync);
        }
    }

    pub(super) fn end_durable(&mut self, now: Moment, lease: LeaseId, durable: bool) {
        let Some(entry) = self.entries.get(&lease) else { return };
        if !matches!(entry.phase, Phase::Ending(..)) || entry.busy != Busy::No {
            return;
        }
        if durable || !self.in_journal.contains(&entry.claim.backend) {
            self.end_for_good(now, lease);
        } else {
            self.try_to_end_again(now, lease, &No::Journal);
        }
    }

    /// A copy of the acquire may be left on its way to a store: the cancel shuts it out, and leaves
    /// only now, so that no late copy of the cancel meets a lease which the next start renewed.
    fn end_for_good(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let Phase::Ending(how, waiting) = &mut entry.phase else { return };
        let is_shut_out = *how == Ending::Cancel
            || !entry.is_in_copies
            || self.in_journal.contains(&entry.claim.backend);
        if is_shut_out {
            return self.gone_for_good(now, lease);
        }
        *how = Ending::Cancel;
        let waiting = std::mem::take(waiting);
        entry.tries = 0;
        entry.retry_at = now;
        self.record(Record::Ending { lease, how: Ending::Cancel });
        for ticket in waiting {
            self.answer(ticket, Answer::Released);
        }
    }

    pub(super) fn ending_failed(&mut self, now: Moment, lease: LeaseId, result: &CallResult) {
        let Some(entry) = self.entries.get(&lease) else { return };
        let kind = match result {
            CallResult::Refused(kind) => Some(*kind),
            _ => None,
        };
        let no = entry.store_no(kind, After::Releasing);
        self.try_to_end_again(now, lease, &no);
    }

    fn try_to_end_again(&mut self, now: Moment, lease: LeaseId, no: &No) {
        let roll = self.roll();
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let Phase::Ending(_, waiting) = &mut entry.phase else { return };
        let waiting = std::mem::take(waiting);
        entry.end_later(now, roll);
        let (backend, resource) = (entry.claim.backend.clone(), entry.claim.resource.clone());
        for ticket in waiting {
            self.refuse(ticket, no.clone());
        }
        self.wake_askers(now, &backend, &resource);
    }

    fn gone_for_good(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        if let Phase::Ending(_, waiting) = &mut entry.phase {
            for ticket in std::mem::take(waiting) {
                self.answer(ticket, Answer::Released);
            }
        }
        self.forget(now, lease);
    }

    /// Ends belief for good and says so, once (law 7). The store is asked to let go of what nobody
    /// believes in any more: a renewal may have come through, and DynamoDB keeps what has ended,
    /// where the Python tool cannot take it.
    pub(super) fn lose(&mut self, now: Moment, lease: LeaseId, loss: Loss) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        if entry.claim.over.is_some() {
            // Nobody holds it, so nobody has to hear of it; and it goes no earlier than it must.
            let at = entry.kept_until;
            return self.end_at(now, lease, Ending::Release, at);
        }
        let sweeps = match loss {
            Loss::Expired => true,
            Loss::StoreLostIt => entry.is_in_copies,
            Loss::TakenBy(_) | Loss::BrokenBy { .. } | Loss::Clone | Loss::Revoked => false,
        };
        let wishes = entry.take_wishes();
        if matches!(entry.busy, Busy::Sync(_)) {
            entry.busy = Busy::No;
        }
        entry.phase = Phase::Lost(loss.clone(), sweeps);
        entry.tries = 0;
        entry.retry_at = now;
        entry.orphan_at = Moment::NEVER;
        if matches!(loss, Loss::BrokenBy { .. }) {
            entry.makes_room_later(now);
        }
        let owner = entry.owner;
        self.record(Record::Lost { lease, loss: loss.clone() });
        for wish in wishes {
            self.refuse(wish.ticket, No::Lost(loss.clone()));
        }
        self.refresh(now, lease);
        self.forget_oldest_lost(now, owner);
        self.advance(now, lease);
    }

    /// Clears the store of a lost lease that may still be there.
    pub(super) fn sweep(&mut self, now: Moment, lease: LeaseId) {
        if self.entries.get(&lease).is_some_and(|entry| entry.frees_at <= now) {
            self.free_instead(now, lease);
            if self.entries.get(&lease).is_some_and(|entry| entry.is_orphan) {
                return self.acknowledge(now, lease);
            }
        }
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let Phase::Lost(_, sweeps) = &mut entry.phase else { return };
        if !*sweeps || entry.busy != Busy::No || entry.retry_at > now {
            return;
        }
        if entry.tries > 0 && now >= entry.kept_until {
            *sweeps = false;
            let (backend, on) = (entry.claim.backend.clone(), entry.claim.resource.clone());
            self.wake_askers(now, &backend, &on);
            return self.stir(now, &(backend, on));
        }
        let call = if entry.is_swept {
            Call::Cancel(entry.claim.resource.clone(), lease)
        } else {
            Call::Release(entry.proof())
        };
        self.call(now, lease, call);
    }

    pub(super) fn swept(
        &mut self,
        now: Moment,
        lease: LeaseId,
        purpose: Purpose,
        result: CallResult,
    ) {
        let (revives, roll) = (!self.obeys(Law::LostForEver), self.roll());
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let (backend, on) = (entry.claim.backend.clone(), entry.claim.resource.clone());
        match (purpose, result) {
            (Purpose::End, CallResult::Done | CallResult::NotThere) => {
                if entry.is_in_copies && !entry.is_swept {
                    entry.is_swept = true;
                    entry.retry_at = now;
                    return;
                }
                if let Phase::Lost(_, sweeps) = &mut entry.phase {
                    *sweeps = false;
                }
            }
            (Purpose::End, _) => {
                entry.end_later(now, roll);
            }
            // It left before the loss; whatever it found, the lease stays lost (law 7).
            (Purpose::Renew(_), CallResult::Stands(Standing::Ours { remaining })) if revives => {
                entry.phase = Phase::Held;
                entry.prove(now, remaining);
                entry.renew_next(now, 0);
            }
            (Purpose::Ask | Purpose::Renew(_) | Purpose::Read | Purpose::Look, _) => {}
        }
        self.wake_askers(now, &backend, &on);
        self.stir(now, &(backend, on));
    }

    /// A session or a process ended: what is attached to it, or would be, ends with it (law 9).
    /// While the agent stops, sessions end because of us and nothing is concluded.
    pub(super) fn left(&mut self, now: Moment, attach: Attach) {
        self.unattached(now, attach);
        if self.stopping || !self.obeys(Law::AttachedEnds) {
            return;
        }
        let is_shared = self.obeys(Law::LastEnds);
        let mut attached = Vec::new();
        let mut left = Vec::new();
        let mut changed = Vec::new();
        for entry in self.entries.values_mut() {
            let lease = entry.lease();
            for process in entry.sharers.extract_if(.., |it| Attach::Process(*it) == attach) {
                changed.push(Record::Left { lease, process });
                left.push(lease);
            }
            entry.commands_changed(false);
            if !entry.attach.ends_with(attach) {
                continue;
            }
            // The others go on under it: the first of them takes the place of what ended.
            match entry.sharers.first().copied().filter(|_| is_shared) {
                Some(next) => {
                    entry.attach = entry.attach.passed_on(next);
                    entry.sharers.remove(0);
                    entry.commands_changed(next.group);
                    changed.push(Record::Attached { lease, attach: entry.attach });
                    left.push(lease);
                }
                None => attached.push(lease),
            }
        }
        // Nobody waits for the journal: a start that does not know this hears of the end again.
        self.effects.extend(changed.into_iter().map(Effect::Record));
        // A hold that was over may end now what those who left have kept.
        for lease in left {
            self.sharer_left_broken(now, lease);
            self.advance(now, lease);
        }
        for lease in attached {
            match self.entries.get(&lease).map(|entry| &entry.phase) {
                Some(Phase::Held | Phase::Unproven) => self.linger(now, lease),
                // Whoever could acknowledge it is gone.
                Some(Phase::Lost(..)) => self.left_broken(now, lease),
                Some(Phase::Asking(_) | Phase::Ending(..)) | None => {}
            }
        }
    }

    /// The holder knows of the loss; the store may still have to be cleared.
    pub(super) fn acknowledge(&mut self, now: Moment, lease: LeaseId) {
        match self.entries.get(&lease).map(|entry| &entry.phase) {
            Some(Phase::Lost(_, true)) => self.end(now, lease, Ending::Release),
            Some(Phase::Lost(_, false)) => self.forget(now, lease),
            _ => {}
        }
    }

    /// Keeps what a careless user never acknowledges within bounds.
    fn forget_oldest_lost(&mut self, now: Moment, owner: Uid) {
        let lost = |lease: &&LeaseId| {
            self.entries.get(*lease).is_some_and(|entry| matches!(entry.phase, Phase::Lost(..)))
        };
        let lost: Vec<LeaseId> =
            self.owners.get(&owner).into_iter().flatten().filter(lost).copied().collect();
        if lost.len() > super::LOST_MAX
            && let Some(oldest) = lost.iter().min_by_key(|lease| self.entries[lease].deadline)
        {
            self.acknowledge(now, *oldest);
        }
    }
}

impl Entry {
    /// An end that failed is tried again. Nobody believes in the lease any more, so its ttl,
    /// however short, is no reason to hurry a store that is down.
    fn end_later(&mut self, now: Moment, roll: u64) {
        self.tries += 1;
        self.retry_at = now + schedule::retry_ending(self.tries, roll);
    }

    /// Everybody who waits for a change of its end.
    fn take_wishes(&mut self) -> Vec<Wish> {
        self.trying.take().into_iter().chain(self.wishes.drain(..)).collect()
    }
}
