//! After a restart: what the journal remembers is asked about, and believed only once the store has
//! confirmed it under a mark that the agent before us never knew (law 12).

use std::time::Duration;

use stormlock_protocol::name::{Fence, LeaseId};

use super::entry::{Entry, Phase};
use super::law::Law;
use super::port::{Answer, Effect, No, Ticket};
use super::schedule::{self, Pace, length};
use super::{
    Attach, Awaiting, Ending, Hold, LeaseTable, Memory, Moment, ORPHAN_AFTER, ProcessId, Record,
    SHARERS_MAX, SHARERS_OF_ONE_MAX,
};

impl LeaseTable {
    /// Law 12: takes up what the journal remembers, believing none of it.
    pub(super) fn recover(&mut self, now: Moment, memory: Memory) {
        let mut pace = Pace::default();
        for known in memory.leases.into_values() {
            let lease = known.intent.claim.lease;
            let mut entry = Entry::remembered(known, now, now + ORPHAN_AFTER);
            if !self.obeys(Law::RestartRenews) && matches!(entry.phase, Phase::Unproven) {
                entry.phase = Phase::Held;
                entry.renew_at = now + length(entry.claim.ttl) / 3;
                entry.deadline = now + length(entry.claim.ttl);
                entry.fence.get_or_insert(Fence(0));
                entry.proven.get_or_insert((now, Duration::ZERO));
            }
            // Whoever holds one waits for its proof; for what is over there is time.
            if entry.is_leaving() {
                entry.waits_out = entry.claim.over.is_some() && self.obeys(Law::BreakGivesGrace);
                let is_unknown = matches!(entry.phase, Phase::Ending(Ending::Cancel, _));
                let waits = entry.waits_out && is_unknown;
                let grace = if waits { entry.grace() } else { Duration::ZERO };
                // The agent before us may have died a moment after it began.
                let lingers = if entry.lingers() { entry.lingers_for() } else { Duration::ZERO };
                // It may have been broken meanwhile.
                entry.verify_at = now;
                entry.retry_at = now + pace.wait() + grace.max(lingers);
                pace.step();
            }
            if let Some(fence) = entry.fence {
                let claim = &entry.claim;
                self.fences.remember((claim.backend.clone(), claim.resource.clone()), fence);
            }
            let attach = entry.attach;
            for process in &entry.sharers {
                self.effects.push_back(Effect::Guard(*process));
            }
            self.insert(entry);
            self.guard(attach);
            self.advance(now, lease);
        }
    }

    /// Another end ends a lease from now on. It is in the kernel's hands before it is answered:
    /// after a crash of the agent the end of before must not end it.
    pub(super) fn attach(&mut self, now: Moment, ticket: Ticket, lease: LeaseId, attach: Attach) {
        self.change_end(now, ticket, lease, attach, |entry| {
            entry.attach = attach;
            entry.commands_changed(attach.is_command());
            entry.orphan_at = Moment::NEVER;
            Record::Attached { lease, attach }
        });
    }

    /// The end of another process has to come, too, before a lease ends.
    pub(super) fn share(
        &mut self,
        now: Moment,
        ticket: Ticket,
        lease: LeaseId,
        process: ProcessId,
    ) {
        let known = self.entries.get(&lease);
        if let Some(entry) = known.filter(|entry| !entry.sharers.contains(&process)) {
            let of = |lease: &LeaseId| self.entries.get(lease).map_or(0, |it| it.sharers.len());
            let owned = self.owners.get(&entry.owner).into_iter().flatten();
            if entry.sharers.len() >= SHARERS_MAX {
                let on = entry.claim.resource.clone();
                return self.refuse(ticket, No::TooManySharers(on));
            }
            if owned.map(of).sum::<usize>() >= SHARERS_OF_ONE_MAX {
                return self.refuse(ticket, No::TooManyShared);
            }
        }
        self.change_end(now, ticket, lease, Attach::Process(process), |entry| {
            if !entry.sharers.contains(&process) {
                entry.sharers.push(process);
            }
            entry.commands_changed(process.group);
            Record::Shared { lease, process }
        });
    }

    fn change_end(
        &mut self,
        now: Moment,
        ticket: Ticket,
        lease: LeaseId,
        guarded: Attach,
        change: impl FnOnce(&mut Entry) -> Record,
    ) {
        let (stopping, works) = (self.stopping, self.journal_works);
        let Some(entry) = self.entries.get_mut(&lease) else {
            return self.refuse(ticket, No::NotHeld);
        };
        match &entry.phase {
            Phase::Held | Phase::Unproven if stopping => self.refuse(ticket, No::Stopping),
            Phase::Held | Phase::Unproven if !works => self.refuse(ticket, No::Journal),
            Phase::Held | Phase::Unproven => {
                let record = change(entry);
                self.record(record);
                self.guard(guarded);
                self.write(Awaiting::Attached(lease, ticket));
                self.refresh(now, lease);
            }
            Phase::Lost(loss, _) => {
                let loss = loss.clone();
                self.refuse(ticket, No::Lost(loss));
            }
            Phase::Asking(_) | Phase::Ending(..) => {
                let no = entry.is_over();
                self.refuse(ticket, no);
            }
        }
    }

    /// What a lease is attached to stands in the journal, or cannot be brought there.
    pub(super) fn attached(&mut self, now: Moment, lease: LeaseId, ticket: Ticket, durable: bool) {
        match self.view(now, lease) {
            Some(view) if durable => self.answer(ticket, Answer::Renewed(Box::new(view))),
            Some(_) => self.refuse(ticket, No::Journal),
            None => self.refuse(ticket, No::NotHeld),
        }
    }

    /// Has the end of a process told, if that is what ends a lease.
    pub(super) fn guard(&mut self, attach: Attach) {
        if let Some(process) = attach.process() {
            self.effects.push_back(Effect::Guard(process));
        }
    }

    /// A remembered lease was renewed under a mark that the agent before us knew: a call which that
    /// one sent, and forgot in its crash, may yet arrive and fit. The store keeps the lease, but it
    /// is believed only under a new mark, which has to wait for the journal.
    pub(super) fn kept_unproven(
        &mut self,
        now: Moment,
        lease: LeaseId,
        sent: Moment,
        remaining: Duration,
    ) {
        let (roll, stopping) = (self.roll(), self.stopping);
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let tries = entry.tries;
        entry.prove(sent, remaining);
        entry.tries = tries + 1;
        let unanswered = if stopping { entry.trying.take() } else { None };
        entry.retry_at = now + schedule::retry(entry.tries, length(entry.claim.ttl), roll);
        self.refuse_some(unanswered.map(|wish| wish.ticket), &No::Stopping);
    }
}

impl Entry {
    /// A lease that nobody wants renewed is confirmed after a restart for what is left of it: not
    /// for more, and never for less than the agent before us told its holder. The store knows.
    pub(super) fn is_to_be_read_first(&self) -> bool {
        let is_wished = self.trying.is_some() || !self.wishes.is_empty();
        self.hold == Hold::No && !is_wished && self.left.is_none()
    }
}
