//! Keeping: renewal, reading back, and noticing that a lease is lost.

use std::time::Duration;

use stormlock_protocol::name::{LeaseId, Ttl};

use super::breaking;
use super::entry::{Busy, Entry, MARKS_MAX, Phase, Wish};
use super::law::Law;
use super::port::{After, Answer, Call, CallResult, Effect, No, Ticket, Touch};
use super::schedule::{self, length};
use super::{Awaiting, Hold, LeaseTable, Loss, Moment, Nonce, Record, Standing};

/// A renewal that the store granted.
#[derive(Debug, Clone)]
pub(super) struct Landing {
    sent: Moment,
    remaining: Duration,
    /// What was asked for with it.
    wish: Option<Wish>,
    /// Belief in it waits for the journal: the journal is its store.
    waits: bool,
}

impl LeaseTable {
    /// Somebody wants a lease's end moved.
    pub(super) fn wish(&mut self, now: Moment, lease: LeaseId, wish: Wish) {
        let Some(entry) = self.entries.get_mut(&lease) else {
            return self.refuse(wish.ticket, No::NotHeld);
        };
        match &entry.phase {
            Phase::Lost(loss, _) => {
                let loss = loss.clone();
                self.refuse(wish.ticket, No::Lost(loss));
            }
            Phase::Asking(_) | Phase::Ending(..) => {
                let no = entry.is_over();
                self.refuse(wish.ticket, no);
            }
            Phase::Held | Phase::Unproven if self.stopping => {
                self.refuse(wish.ticket, No::Stopping);
            }
            Phase::Held | Phase::Unproven if self.journal_works => {
                entry.wishes.push_back(wish);
                self.advance(now, lease);
            }
            Phase::Held | Phase::Unproven => self.refuse(wish.ticket, No::Journal),
        }
    }

    /// What a lease that is, or may be, ours needs now.
    pub(super) fn keep(&mut self, now: Moment, lease: LeaseId) {
        let checks = self.obeys(Law::CheckAtUse);
        let Some(entry) = self.entries.get(&lease) else { return };
        let held = matches!(entry.phase, Phase::Held);
        let hold_over = entry.hold_end() <= now;
        if now >= entry.deadline && checks {
            return self.lose(now, lease, Loss::Expired);
        }
        if hold_over || now >= entry.orphan_at {
            return self.linger(now, lease);
        }
        if entry.busy != Busy::No {
            return;
        }
        let renews = if held {
            !entry.wishes.is_empty() || entry.renew_at <= now
        } else {
            entry.retry_at <= now
        };
        if renews && !held && entry.is_to_be_read_first() {
            let proof = entry.proof();
            self.call(now, lease, Call::Verify(proof));
        } else if renews {
            self.renew(now, lease);
        } else if held && entry.verify_at <= now {
            let proof = entry.proof();
            self.call(now, lease, Call::Verify(proof));
        }
    }

    fn renew(&mut self, now: Moment, lease: LeaseId) {
        let (works, in_journal) = (self.journal_works, &self.in_journal);
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        entry.trying = entry.trying.take().or_else(|| entry.wishes.pop_front());
        if !works {
            // What the next start would not know of is not promised; what was due goes on.
            let wish = entry.trying.take();
            let is_due = matches!(entry.phase, Phase::Unproven) || entry.renew_at <= now;
            self.refuse_some(wish.map(|wish| wish.ticket), &No::Journal);
            return if is_due {
                self.renew_unrecorded(now, lease)
            };
        }
        let ttl = entry.next_ttl();
        if in_journal.contains(&entry.claim.backend) {
            let mark = entry.marks[0];
            return self.renew_with(now, lease, ttl, mark);
        }
        if let Some((mark, carried)) = entry.pending
            && (carried == ttl || entry.marks.len() >= MARKS_MAX)
        {
            // A repeat is a repeat only with the same ttl: otherwise a late copy of the one could
            // cut what the other gave.
            if carried != ttl
                && let Some(wish) = entry.trying.take()
            {
                let no = entry.store_no(None, After::Nothing);
                self.refuse(wish.ticket, no);
            }
            return self.renew_with(now, lease, carried, mark);
        }
        // A copy of this host must not get the same mark: hence the caller's die, not our state.
        let ceiling = entry.ceiling(now, ttl);
        let mark = Nonce(self.roll());
        self.record(Record::Marking { lease, next: mark, ceiling });
        let sync = self.sync(Awaiting::Mark(lease, mark));
        if let Some(entry) = self.entries.get_mut(&lease) {
            entry.plan(now, ttl);
            entry.marks.push(mark);
            entry.pending = Some((mark, ttl));
            entry.busy = Busy::Sync(sync);
        }
    }

    pub(super) fn mark_durable(&mut self, now: Moment, lease: LeaseId, mark: Nonce, durable: bool) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        if !matches!(entry.phase, Phase::Held | Phase::Unproven) || entry.busy != Busy::No {
            return;
        }
        if durable {
            let ttl = entry.next_ttl();
            entry.pending = Some((mark, ttl));
            return self.renew_with(now, lease, ttl, mark);
        }
        // The mark never left, so the store cannot have it; and it must not get it, for the next
        // start would not know it. A renewal that was due must go on.
        entry.marks.retain(|known| *known != mark);
        entry.pending = None;
        entry.never_left();
        let wish = entry.trying.take();
        let is_due = matches!(entry.phase, Phase::Unproven) || entry.renew_at <= now;
        self.refuse_some(wish.map(|wish| wish.ticket), &No::Journal);
        if is_due {
            self.renew_unrecorded(now, lease);
        }
    }

    /// Renews without the journal: under a mark that the next start knows, and for no longer than
    /// any renewal under that mark before.
    fn renew_unrecorded(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let (mark, ttl) = match (entry.pending, &entry.phase) {
            (Some((mark, carried)), _) => (mark, carried),
            (None, Phase::Held) => {
                entry.carried = entry.carried.min(entry.claim.ttl);
                (entry.marks[0], entry.carried)
            }
            (None, _) => (entry.marks[0], entry.next_ttl()),
        };
        self.renew_with(now, lease, ttl, mark);
    }

    fn renew_with(&mut self, now: Moment, lease: LeaseId, ttl: Ttl, next: Nonce) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let proof = entry.proof();
        // From here on the store may count the new ttl, also if it is shorter and no answer comes.
        entry.plan(now, ttl);
        entry.kept_until = entry.kept_until.max(now + schedule::patience(ttl) + length(ttl));
        self.call(now, lease, Call::Renew { proof, ttl, next });
    }

    pub(super) fn renewed(
        &mut self,
        now: Moment,
        lease: LeaseId,
        sent: Moment,
        mark: Nonce,
        result: CallResult,
    ) {
        if let Some(entry) = self.entries.get_mut(&lease) {
            entry.left = None;
        }
        match result {
            CallResult::Stands(Standing::Ours { remaining }) => {
                let Some(entry) = self.entries.get_mut(&lease) else { return };
                let waits = self.in_journal.contains(&entry.claim.backend);
                if matches!(entry.phase, Phase::Unproven) && mark == entry.marks[0] && !waits {
                    return self.kept_unproven(now, lease, sent, remaining);
                }
                let wish = entry.trying.take();
                if let Some((_, carried)) = entry.pending.take() {
                    entry.carried = carried;
                }
                entry.marks = vec![mark];
                self.land(now, lease, Landing { sent, remaining, wish, waits });
            }
            CallResult::Stands(standing) => self.not_ours(now, lease, standing),
            CallResult::Unknown if !self.obeys(Law::TimeoutIsNoSuccess) => {
                let Some(entry) = self.entries.get_mut(&lease) else { return };
                let remaining = length(entry.claim.ttl);
                entry.prove(sent, remaining);
                entry.renew_next(sent, 0);
            }
            CallResult::Refused(_)
            | CallResult::Unknown
            | CallResult::Attempted(_)
            | CallResult::Done
            | CallResult::NotThere => self.renewal_failed(now, lease, &result),
        }
    }

    fn renewal_failed(&mut self, now: Moment, lease: LeaseId, result: &CallResult) {
        let roll = self.roll();
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let kind = match result {
            CallResult::Refused(kind) => Some(*kind),
            _ => None,
        };
        if kind.is_some() {
            entry.never_left();
        } else {
            entry.may_have_come_through();
        }
        let no = entry.store_no(kind, After::Nothing);
        let wish = entry.trying.take();
        self.try_again(now, lease, roll);
        self.refuse_some(wish.map(|wish| wish.ticket), &no);
    }

    fn try_again(&mut self, now: Moment, lease: LeaseId, roll: u64) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let wait = schedule::retry(entry.tries, length(entry.claim.ttl), roll);
        entry.tries += 1;
        entry.retry_at = now + wait;
        if entry.hold != Hold::No {
            entry.renew_at = now + wait;
        }
    }

    /// The store renewed it. What was promised with it, or what the journal itself is the store
    /// of, counts once it is on disk; the rest counts at once.
    fn land(&mut self, now: Moment, lease: LeaseId, landing: Landing) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let wished = landing.wish.as_ref();
        let ttl = wished.and_then(|wish| wish.ttl).unwrap_or(entry.claim.ttl);
        let hold = wished.and_then(|wish| wish.hold).unwrap_or(entry.hold);
        let nonce = Some(entry.marks[0]);
        let Landing { sent, remaining, waits, .. } = landing;
        if !waits {
            self.take_proof(now, lease, sent, remaining);
        }
        self.record(Record::Renewed { lease, nonce, ttl, hold, sent, remaining });
        if !waits && landing.wish.is_none() {
            return;
        }
        let sync = self.sync(Awaiting::Landing(lease, landing));
        if let Some(entry) = self.entries.get_mut(&lease) {
            entry.busy = Busy::Sync(sync);
        }
    }

    pub(super) fn landed(&mut self, now: Moment, lease: LeaseId, landing: &Landing, durable: bool) {
        let ticket: Option<Ticket> = landing.wish.map(|wish| wish.ticket);
        let Some(entry) = self.entries.get_mut(&lease) else {
            return self.refuse_some(ticket, &No::NotHeld);
        };
        match &entry.phase {
            Phase::Held | Phase::Unproven => {}
            Phase::Lost(loss, _) => {
                let loss = loss.clone();
                return self.refuse_some(ticket, &No::Lost(loss));
            }
            Phase::Asking(_) | Phase::Ending(..) => {
                return self.refuse_some(ticket, &No::NotHeld);
            }
        }
        if !durable {
            // The store may keep it for longer than we now believe: harmless.
            entry.may_have_come_through();
            if landing.waits {
                let roll = self.roll();
                self.try_again(now, lease, roll);
            }
            return self.refuse_some(ticket, &No::Journal);
        }
        if let Some(wish) = landing.wish {
            entry.claim.ttl = wish.ttl.unwrap_or(entry.claim.ttl);
            entry.hold = wish.hold.unwrap_or(entry.hold);
            entry.warn_later(now);
        }
        self.take_proof(now, lease, landing.sent, landing.remaining);
        let Some(ticket) = ticket else { return };
        if let Some(view) = self.view(now, lease) {
            self.answer(ticket, Answer::Renewed(Box::new(view)));
        }
    }

    fn take_proof(&mut self, now: Moment, lease: LeaseId, sent: Moment, remaining: Duration) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        entry.phase = Phase::Held;
        entry.prove(sent, remaining);
        if entry.hold == Hold::No || entry.warn_at == Moment::NEVER {
            entry.warn_later(now);
        }
        self.schedule(lease, sent);
        self.refresh(now, lease);
    }

    /// Law 11: when to renew and read back a lease whose time began again at `sent`.
    pub(super) fn schedule(&mut self, lease: LeaseId, sent: Moment) {
        let roll = self.roll();
        let (early, often) = (self.obeys(Law::RenewEarly), self.obeys(Law::VerifyOften));
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        entry.renew_next(sent, roll);
        if !early && entry.hold != Hold::No {
            entry.renew_at = entry.deadline;
        }
        if !often {
            entry.verify_at = Moment::NEVER;
        }
    }

    pub(super) fn verified(
        &mut self,
        now: Moment,
        lease: LeaseId,
        sent: Moment,
        result: CallResult,
    ) {
        let roll = self.roll();
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        match result {
            CallResult::Stands(Standing::Ours { remaining }) => {
                let touch = entry.touch(sent, remaining);
                entry.read_back(sent, remaining);
                if matches!(entry.phase, Phase::Unproven) {
                    entry.left = Some(remaining);
                    return;
                }
                entry.renew_no_later(sent, remaining, roll);
                // The store answers again after renewals had failed: their pauses have grown.
                if entry.tries > 0 && entry.hold != Hold::No {
                    entry.renew_at = now;
                }
                if let Some(touch) = touch {
                    self.touched(now, lease, touch);
                }
            }
            CallResult::Stands(standing) => self.not_ours(now, lease, standing),
            CallResult::Refused(_)
            | CallResult::Unknown
            | CallResult::Attempted(_)
            | CallResult::Done
            | CallResult::NotThere => {
                entry.verify_at = now + schedule::retry(3, length(entry.claim.ttl), roll);
                if matches!(entry.phase, Phase::Unproven) {
                    self.try_again(now, lease, roll);
                }
            }
        }
    }

    /// Somebody else moved a lease's end: what is kept is set again at once, and it is said.
    fn touched(&mut self, now: Moment, lease: LeaseId, touch: Touch) {
        if let Some(entry) = self.entries.get_mut(&lease)
            && entry.hold != Hold::No
        {
            entry.renew_at = now;
        }
        if let Some(view) = self.view(now, lease) {
            self.effects.push_back(Effect::Touched(Box::new(view), touch));
        }
    }

    pub(super) fn not_ours(&mut self, now: Moment, lease: LeaseId, standing: Standing) {
        let Some(entry) = self.entries.get(&lease) else { return };
        let over = entry.proven.is_none_or(|(sent, remaining)| now >= sent + remaining);
        let loss = match standing {
            Standing::Ours { .. } => return,
            Standing::Cloned => Loss::Clone,
            Standing::NotOurs(Some(holder)) => breaking::lost_to(&holder, lease),
            Standing::NotOurs(None) if over => Loss::Expired,
            Standing::NotOurs(None) => Loss::StoreLostIt,
        };
        self.lose(now, lease, loss);
    }
}

impl Entry {
    /// The ttl that the next renewal asks for.
    fn next_ttl(&self) -> Ttl {
        if let Some(wish) = &self.trying {
            return wish.ttl.unwrap_or(self.claim.ttl);
        }
        match self.left {
            Some(left) => {
                // A second for the rounding and for clocks that run apart.
                let secs = left.as_secs().saturating_add(2);
                Ttl::from_secs(secs).unwrap_or(self.claim.ttl).min(self.claim.ttl)
            }
            None => self.claim.ttl,
        }
    }
}
