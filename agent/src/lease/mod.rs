//! The pure core: what a lease is, and what may be believed of it.
//!
//! No IO, no clock, no async, no log: time comes in as an argument, effects come out as values, and
//! chance comes from a die that the caller brings. The laws are those of the README; each has a
//! test of its name in `tests.rs`.

mod asking;
mod belief;
mod breaking;
mod claim;
mod ending;
mod entry;
mod fences;
mod keeping;
mod law;
mod moment;
mod port;
mod queue;
mod record;
mod recovery;
mod roll;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use stormlock_protocol::name::{LeaseId, Resource};

pub use breaking::{broken_in, epitaph};
pub use claim::{
    Attach, Attempt, BackendName, Claim, Grant, Hold, Holder, Loss, Nonce, ProcessId, Proof,
    RefusedKind, Released, SHARERS_MAX, SHARERS_OF_ONE_MAX, SessionId, Standing, Terminal, Uid,
    Unfit, covering, mint,
};
pub use moment::Moment;
pub use port::{
    After, Answer, Ask, Call, CallId, CallResult, Effect, Input, No, State, SyncId, Ticket, Touch,
    View,
};
pub use record::{Ending, Intent, Memory, Record, Remembered, Stage};
pub use schedule::{look_alone, patience};

use asking::Group;
use breaking::Grave;
use entry::{Busy, Entry, Phase, Purpose, Told};
use fences::Fences;
use keeping::Landing;
use law::Law;
use queue::{On, Queue};
use schedule::Pace;

/// How long a recovered, attached lease waits for its holder to come back.
const ORPHAN_AFTER: Duration = Duration::from_secs(30);
/// Lost leases that one user has not acknowledged; the oldest beyond that are forgotten.
const LOST_MAX: usize = 64;

/// All leases of this agent. Its one owner hands it every [`Input`] with the time, then does the
/// [`Effect`]s in order, and comes back at [`LeaseTable::next_wakeup`] at the latest.
pub struct LeaseTable {
    entries: BTreeMap<LeaseId, Entry>,
    groups: BTreeMap<Ticket, Group>,
    calls: BTreeMap<CallId, LeaseId>,
    syncs: BTreeMap<SyncId, Awaiting>,
    /// Where something may stand in the place of a broken lease on which nobody relies any more.
    graves: BTreeMap<LeaseId, Grave>,
    resources: BTreeSet<(Resource, BackendName, LeaseId)>,
    owners: BTreeMap<Uid, BTreeSet<LeaseId>>,
    wakeups: BTreeSet<(Moment, LeaseId)>,
    effects: VecDeque<Effect>,
    fences: Fences,
    queues: BTreeMap<On, Queue>,
    /// When which of those who wait have waited long enough.
    patience: BTreeSet<(Moment, Ticket)>,
    in_journal: BTreeSet<BackendName>,
    journal_works: bool,
    stopping: bool,
    last_id: u64,
    die: Box<dyn FnMut() -> u64 + Send>,
    #[cfg(test)]
    off: Option<law::Law>,
}

/// What goes on when the journal has caught up.
#[derive(Debug)]
enum Awaiting {
    /// The first call of a group may leave (law 4).
    Intents(Ticket),
    /// A grant counts.
    Grant(LeaseId),
    /// A renewal with a new mark may leave.
    Mark(LeaseId, Nonce),
    /// A renewal counts, or may be answered.
    Landing(LeaseId, Landing),
    /// An end in a store that is the journal itself counts.
    End(LeaseId),
    /// What a lease is attached to may be answered.
    Attached(LeaseId, Ticket),
}

impl LeaseTable {
    /// An empty table. `in_journal` are the backends whose locks stand in this agent's own journal
    /// (`local`): a change there counts once it is on disk. `die` gives 64 random bits that no
    /// copy of this host will get again.
    pub fn new(
        in_journal: BTreeSet<BackendName>,
        die: impl FnMut() -> u64 + Send + 'static,
    ) -> LeaseTable {
        LeaseTable {
            entries: BTreeMap::new(),
            groups: BTreeMap::new(),
            calls: BTreeMap::new(),
            graves: BTreeMap::new(),
            syncs: BTreeMap::new(),
            resources: BTreeSet::new(),
            owners: BTreeMap::new(),
            wakeups: BTreeSet::new(),
            effects: VecDeque::new(),
            fences: Fences::default(),
            queues: BTreeMap::new(),
            patience: BTreeSet::new(),
            in_journal,
            journal_works: true,
            stopping: false,
            last_id: 0,
            die: Box::new(die),
            #[cfg(test)]
            off: None,
        }
    }

    /// The backends whose locks stand in this agent's own journal are others from now on.
    pub fn set_in_journal(&mut self, backends: BTreeSet<BackendName>) {
        self.in_journal = backends;
    }

    /// Takes one input at `now`. Effects are to be fetched before the next one.
    pub fn handle(&mut self, now: Moment, input: Input) {
        // What ended meanwhile has ended, though its timer is late: whoever looked was told so, and
        // an answer that comes with this input does not bring it back (laws 6 and 7).
        self.catch_up(now);
        match input {
            Input::Recover(memory) => self.recover(now, *memory),
            Input::Acquire(ask) => self.acquire(now, *ask),
            Input::Release { ticket, lease } => self.release(now, ticket, lease),
            Input::Renew { ticket, lease, ttl, hold } => {
                self.wish(now, lease, entry::Wish { ticket, ttl, hold });
            }
            Input::Attach { ticket, lease, attach } => self.attach(now, ticket, lease, attach),
            Input::Share { ticket, lease, process } => self.share(now, ticket, lease, process),
            Input::Gone(session) => {
                self.unheard(now, session);
                self.left(now, Attach::Session(session));
            }
            Input::Ended(process) => self.left(now, Attach::Process(process)),
            Input::Settled { call, result } => self.settled(now, call, result),
            Input::Synced { sync, durable } => self.synced(now, sync, durable),
            Input::Journal { works } => self.journal(now, works),
            Input::Suspect(backend) => self.suspect(now, Some(&backend)),
            Input::Stirred { backend, resource, tells } => {
                self.stirred(now, &(backend, resource), tells);
            }
            Input::ClockJumped => self.suspect(now, None),
            Input::Stop => self.stop(now),
            Input::Tick => {}
        }
        self.catch_up(now);
        #[cfg(test)]
        self.check(now);
    }

    /// The next thing to do.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to hand in a [`Input::Tick`] if nothing else comes.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Moment> {
        let lease = self.wakeups.first().map_or(Moment::NEVER, |&(at, _)| at);
        Some(lease.min(self.queues_wakeup()).min(self.graves_wakeup()))
            .filter(|at| *at != Moment::NEVER)
    }

    fn catch_up(&mut self, now: Moment) {
        while let Some(&(at, lease)) = self.wakeups.first()
            && at <= now
        {
            self.advance(now, lease);
        }
        self.mind_queues(now);
        self.mind_graves(now);
    }

    fn journal(&mut self, now: Moment, works: bool) {
        if self.journal_works != works {
            self.journal_works = works;
            self.refresh_all(now);
        }
    }

    fn suspect(&mut self, now: Moment, backend: Option<&BackendName>) {
        let leases: Vec<LeaseId> = self.entries.keys().copied().collect();
        let mut pace = Pace::default();
        for lease in leases {
            let Some(entry) = self.entries.get_mut(&lease) else { continue };
            match backend {
                None => entry.is_doubted(now),
                Some(backend) if *backend == entry.claim.backend => {
                    let at = now.max(entry.called_at + schedule::BACK_GAP) + pace.wait();
                    if entry.met_a_stranger(now, at) {
                        pace.step();
                    }
                }
                Some(_) => {}
            }
            self.advance(now, lease);
        }
    }

    /// Nothing new begins, and no question stays open for longer than the call that is under way
    /// for it. Leases stay as they are: the next start takes them up.
    fn stop(&mut self, now: Moment) {
        self.stopping = true;
        let groups: Vec<Ticket> = self.groups.keys().copied().collect();
        for group in groups {
            self.fail(now, group, No::Stopping);
        }
        let mut open = Vec::new();
        for entry in self.entries.values_mut() {
            entry.orphan_at = Moment::NEVER;
            open.extend(entry.wishes.drain(..));
            if entry.busy == Busy::No {
                open.extend(entry.trying.take());
            }
        }
        for wish in open {
            self.refuse(wish.ticket, No::Stopping);
        }
        self.refresh_all(now);
    }

    fn refresh_all(&mut self, now: Moment) {
        let leases: Vec<LeaseId> = self.entries.keys().copied().collect();
        for lease in leases {
            self.refresh(now, lease);
        }
    }

    fn settled(&mut self, now: Moment, call: CallId, result: CallResult) {
        let Some(lease) = self.calls.remove(&call) else {
            return self.grave_answered(now, call, &result);
        };
        let counts = self.obeys(Law::CountFromDeparture);
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let Busy::Call { id, sent, purpose } = entry.busy else { return };
        if id != call {
            return;
        }
        entry.busy = Busy::No;
        let sent = if counts { sent } else { now };
        match entry.phase {
            Phase::Asking(_) => self.attempted(now, lease, sent, result),
            Phase::Held | Phase::Unproven => match purpose {
                Purpose::Renew(mark) => self.renewed(now, lease, sent, mark, result),
                Purpose::Ask | Purpose::Read | Purpose::Look | Purpose::End => {
                    self.verified(now, lease, sent, result);
                }
            },
            Phase::Ending(..) => self.ended(now, lease, purpose, result),
            Phase::Lost(..) => self.swept(now, lease, purpose, result),
        }
        self.advance(now, lease);
    }

    fn synced(&mut self, now: Moment, sync: SyncId, durable: bool) {
        let Some(awaiting) = self.syncs.remove(&sync) else { return };
        let lease = match &awaiting {
            Awaiting::Intents(_) | Awaiting::Attached(..) => None,
            Awaiting::Grant(lease)
            | Awaiting::Mark(lease, _)
            | Awaiting::Landing(lease, _)
            | Awaiting::End(lease) => Some(*lease),
        };
        if let Some(entry) = lease.and_then(|lease| self.entries.get_mut(&lease))
            && entry.busy == Busy::Sync(sync)
        {
            entry.busy = Busy::No;
        }
        match awaiting {
            Awaiting::Intents(group) => self.intents_durable(now, group, durable),
            Awaiting::Grant(lease) => self.grant_durable(now, lease, durable),
            Awaiting::Mark(lease, mark) => self.mark_durable(now, lease, mark, durable),
            Awaiting::Landing(lease, landing) => self.landed(now, lease, &landing, durable),
            Awaiting::End(lease) => self.end_durable(now, lease, durable),
            Awaiting::Attached(lease, ticket) => self.attached(now, lease, ticket, durable),
        }
        if let Some(lease) = lease {
            self.advance(now, lease);
        }
    }

    /// Does what a lease needs done now, then says when it needs something next.
    fn advance(&mut self, now: Moment, lease: LeaseId) {
        let Some(entry) = self.entries.get(&lease) else { return };
        match entry.phase {
            Phase::Asking(_) => self.go_on_asking(now, lease),
            Phase::Held | Phase::Unproven => self.keep(now, lease),
            Phase::Ending(..) => self.go_on_ending(now, lease),
            Phase::Lost(..) => self.sweep(now, lease),
        }
        self.refresh(now, lease);
    }

    /// Brings a lease's place in the order of wakeups, and what subscribers know, up to date.
    fn refresh(&mut self, now: Moment, lease: LeaseId) {
        let (works, checks) = (self.journal_works, self.obeys(Law::CheckAtUse));
        let Some(entry) = self.entries.get(&lease) else { return };
        let waiters = self.waiters(&entry.claim.backend, &entry.claim.resource);
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let state = entry.state(now, works, checks);
        let is_end = |state: &State| matches!(state, State::Lost(_) | State::Released);
        let is_over = is_end(&state);
        // An acquire is news once it is granted, and one that never was is none.
        let never_was = entry.told.is_none() && matches!(state, State::Asking | State::Released);
        let view = entry.view(now, works, checks, waiters);
        let news = Told { state, end: entry.told_end(), waiters, ends_soon: view.ends_soon };
        let is_known = match &entry.told {
            // That a lost lease is cleared away, once its holder knows, is no second end (law 7).
            Some(told) if is_over => is_end(&told.state),
            told => told.as_ref() == Some(&news),
        };
        if !never_was && !is_known {
            entry.told = Some(news);
            self.effects.push_back(Effect::Changed(Box::new(view)));
        }
        let wakeup = entry.next_wakeup(now).max(Moment::from_nanos(now.as_nanos() + 1));
        if wakeup != entry.wakeup {
            self.wakeups.remove(&(entry.wakeup, lease));
            entry.wakeup = wakeup;
            if wakeup != Moment::NEVER {
                self.wakeups.insert((wakeup, lease));
            }
        }
    }

    fn call(&mut self, now: Moment, lease: LeaseId, call: Call) {
        let purpose = match &call {
            Call::Acquire(_) => Purpose::Ask,
            Call::Renew { next, .. } => Purpose::Renew(*next),
            Call::Verify(_) => Purpose::Read,
            Call::Release(..) | Call::Cancel(..) => Purpose::End,
        };
        self.call_for(now, lease, call, purpose);
    }

    fn call_for(&mut self, now: Moment, lease: LeaseId, call: Call, purpose: Purpose) {
        let id = CallId(self.next_id());
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        entry.busy = Busy::Call { id, sent: now, purpose };
        entry.called_at = now;
        let patience = schedule::patience(entry.claim.ttl);
        let backend = entry.claim.backend.clone();
        self.calls.insert(id, lease);
        self.effects.push_back(Effect::Call { id, backend, call, patience });
    }

    fn record(&mut self, record: Record) {
        self.effects.push_back(Effect::Record(record));
    }

    fn sync(&mut self, awaiting: Awaiting) -> SyncId {
        let sync = SyncId(self.next_id());
        self.syncs.insert(sync, awaiting);
        self.effects.push_back(Effect::Sync(sync));
        sync
    }

    fn write(&mut self, awaiting: Awaiting) -> SyncId {
        let sync = SyncId(self.next_id());
        self.syncs.insert(sync, awaiting);
        self.effects.push_back(Effect::Write(sync));
        sync
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.effects.push_back(Effect::Answer { ticket, answer });
    }

    fn refuse_some(&mut self, ticket: Option<Ticket>, no: &No) {
        if let Some(ticket) = ticket {
            self.refuse(ticket, no.clone());
        }
    }

    fn refuse(&mut self, ticket: Ticket, no: No) {
        self.answer(ticket, Answer::No(no));
    }

    /// True, but in a simulation that turned this law off to see whether anybody notices.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "the simulation's switch"))]
    fn obeys(&self, law: Law) -> bool {
        #[cfg(test)]
        return self.off != Some(law);
        #[cfg(not(test))]
        {
            let _ = law;
            true
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn roll(&mut self) -> u64 {
        (self.die)()
    }
}

impl fmt::Debug for LeaseTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseTable").field("entries", &self.entries).finish_non_exhaustive()
    }
}
