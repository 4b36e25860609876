//! After a restart: what the journal remembers is asked about, and believed only once the store has
//! confirmed it under a mark that the agent before us never knew (law 12).

use std::time::Duration;

use stormlock_protocol::name::{Fence, LeaseId};

use super::entry::{Entry, Phase};
use super::law::Law;
use super::port::{Answer, No, Ticket};
use super::schedule::{self, length};
use super::{Attach, Hold, LeaseTable, Memory, Moment, ORPHAN_AFTER, SessionId};

impl LeaseTable {
    /// Law 12: takes up what the journal remembers, believing none of it.
    pub(super) fn recover(&mut self, now: Moment, memory: Memory) {
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
            if let Some(fence) = entry.fence {
                let claim = &entry.claim;
                self.remember_fence((claim.backend.clone(), claim.resource.clone()), fence);
            }
            self.insert(entry);
            self.advance(now, lease);
        }
    }

    /// The holder of a recovered, attached lease came back. Nothing to write down: to the next
    /// start every session is nobody's.
    pub(super) fn attach(
        &mut self,
        now: Moment,
        ticket: Ticket,
        lease: LeaseId,
        session: SessionId,
    ) {
        let Some(entry) = self.entries.get_mut(&lease) else {
            return self.refuse(ticket, No::NotHeld);
        };
        match &entry.phase {
            Phase::Held | Phase::Unproven if entry.attach == Attach::Session(SessionId::NOBODY) => {
                entry.attach = Attach::Session(session);
                entry.orphan_at = Moment::NEVER;
                self.refresh(now, lease);
                if let Some(view) = self.view(now, lease) {
                    self.answer(ticket, Answer::Renewed(Box::new(view)));
                }
            }
            Phase::Lost(loss, _) => {
                let loss = loss.clone();
                self.refuse(ticket, No::Lost(loss));
            }
            Phase::Held | Phase::Unproven | Phase::Asking(_) | Phase::Ending(..) => {
                self.refuse(ticket, No::NotHeld);
            }
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
