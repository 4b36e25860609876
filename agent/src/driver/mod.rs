//! The only owner of the [`LeaseTable`]: hands it every input with the time, performs its effects,
//! and tells what changed. One task, no lock; everybody else talks to it through a [`Handle`].
//!
//! Not here: what a lease is (`lease`), what a request means (`server::service`).

mod dog;
#[cfg(debug_assertions)]
mod failpoint;
mod guard;
mod handle;
mod notice;
mod stirs;
mod tally;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stormlock_protocol::name::{LeaseId, Resource};
use tokio::sync::{mpsc, oneshot, watch as latest};
use tokio::task::JoinSet;

use guard::too_short;
pub use guard::{at_work, is_there};
pub use handle::{Handle, Looking, Snapshot, Stopping, Waits, Wish};
pub use tally::{LOSSES, Measures, RENEWALS};

use crate::audit::{Audit, Facts};
use crate::clock::{self, Alarm, JumpWatch};
use crate::journal::{Journal, Said};
use crate::lease::{
    Answer, Ask, BackendName, CallId, Effect, Input, LeaseTable, Memory, No, State, Ticket, Uid,
    View,
};
use crate::stores::{NotOpened, Outcome, Stores, Wanted};
use dog::Dog;
use guard::Guards;
use handle::Command;
use notice::Notices;
use stirs::{Stir, Watched};
use tally::Tally;
use watch::Watchers;

/// Longest time that a stopping agent waits for the calls that are out, and for what it gives back.
/// Below systemd's stop timeout of the unit, above the longest patience of one call.
const STOP_MAX: Duration = Duration::from_secs(8);

/// What happens to the leases when the agent stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// They stay: a restart or an upgrade takes them up again.
    Keep,
    /// They are given back first: a private agent goes together with its journal.
    Release,
}

/// Everything that the driver works with.
#[derive(Debug)]
pub struct Driver {
    table: LeaseTable,
    stores: Arc<Stores>,
    journal: Journal,
    said: mpsc::UnboundedReceiver<Said>,
    commands: mpsc::Receiver<Command>,
    calls: JoinSet<(CallId, BackendName, Outcome)>,
    questions: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    /// What those hear who wait for the answer to an acquire.
    waits: BTreeMap<Ticket, latest::Sender<Option<Waits>>>,
    /// Who asked for what is acquired, for the audit.
    askers: BTreeMap<Ticket, Arc<Facts>>,
    audit: Audit,
    tally: Tally,
    guards: Guards,
    watched: Watched,
    last_ticket: u64,
    watchers: Watchers,
    notices: Notices,
}

impl Driver {
    /// A driver that has taken up what the journal remembers, and the handle to it.
    pub fn new(
        stores: Arc<Stores>,
        journal: Journal,
        said: mpsc::UnboundedReceiver<Said>,
        memory: Memory,
        audit: Audit,
    ) -> (Driver, Handle) {
        let (handle, commands) = Handle::new();
        let watched = Watched::new(Arc::clone(&stores));
        let mut driver = Driver {
            table: LeaseTable::new(stores.in_journal(), die),
            stores,
            journal,
            said,
            commands,
            calls: JoinSet::new(),
            questions: BTreeMap::new(),
            waits: BTreeMap::new(),
            askers: BTreeMap::new(),
            audit,
            tally: Tally::default(),
            guards: Guards::default(),
            watched,
            last_ticket: 0,
            watchers: Watchers::default(),
            notices: Notices::default(),
        };
        #[cfg(debug_assertions)]
        failpoint::passes("recover");
        driver.input(Input::Recover(Box::new(memory)));
        #[cfg(debug_assertions)]
        failpoint::passes("recovered");
        (driver, handle)
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// When the kernel gives no timers: without them no deadline can be kept.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut alarm = Alarm::new()?;
        let mut jumps = JumpWatch::new()?;
        let mut dog = Dog::new()?;
        loop {
            alarm.set(self.table.next_wakeup());
            tokio::select! {
                Some(command) = self.commands.recv() => match self.obey(command) {
                    Next::GoOn => {}
                    Next::Stop(leaving, done) => {
                        self.stop(leaving, &mut alarm, &mut dog).await;
                        drop(self.journal);
                        let _ = done.send(());
                        return Ok(());
                    }
                },
                Some(settled) = self.calls.join_next(), if !self.calls.is_empty() => {
                    self.settle(settled);
                }
                Some(said) = self.said.recv() => self.hear(said),
                process = self.guards.ended() => self.input(Input::Ended(process)),
                stir = self.watched.heard() => {
                    self.watched.pass_on(&stir);
                    let Stir { on: (backend, resource), tells } = stir;
                    self.input(Input::Stirred { backend, resource, tells });
                }
                backend = self.stores.doubted() => self.input(Input::Suspect(backend)),
                () = alarm.rings() => self.input(Input::Tick),
                jump = jumps.jumps() => {
                    tracing::warn!(?jump, "the clocks moved apart: every lease is read back");
                    self.input(Input::ClockJumped);
                }
                () = dog.barks() => {}
            }
        }
    }

    fn obey(&mut self, command: Command) -> Next {
        match command {
            // The end of its session may have come first.
            Command::Acquire { wish, .. } if wish.hung_up.is_cancelled() => {}
            Command::Acquire { wish, waits, answer } => self.acquire(wish, waits, answer),
            Command::Attach { lease, attach, answer } => {
                let ticket = self.question(answer);
                self.input(Input::Attach { ticket, lease, attach });
            }
            Command::Share { lease, process, answer } => {
                let ticket = self.question(answer);
                self.input(Input::Share { ticket, lease, process });
            }
            Command::Look { on, answer } => {
                let waiters = self.table.waiters(&on.0, &on.1);
                let stirs = self.watched.add(&on);
                let _ = answer.send((stirs, waiters));
            }
            Command::LookedAt(on) => self.watched.remove(&on),
            Command::Waiters { on, answer } => {
                let _ = answer.send(self.table.waiters(&on.0, &on.1));
            }
            Command::Release { lease, answer } => self.release(lease, answer),
            Command::Renew { lease, ttl, hold, answer } => {
                let view = self.table.view(clock::now(), lease);
                match view.and_then(|view| too_short(&view, ttl?)) {
                    Some(no) => {
                        let _ = answer.send(Answer::No(no));
                    }
                    None => {
                        let ticket = self.question(answer);
                        self.input(Input::Renew { ticket, lease, ttl, hold });
                    }
                }
            }
            Command::Gone(session) => self.input(Input::Gone(session)),
            Command::Views { leases, answer } => {
                let now = clock::now();
                let view = |lease: &LeaseId| self.table.view(now, *lease);
                let _ = answer.send(leases.iter().filter_map(view).collect());
            }
            Command::Owned { owner, after, limit, answer } => {
                let owned = self.table.owned(clock::now(), owner, after);
                let _ = answer.send(owned.take(limit).collect());
            }
            Command::Find { owner, on, answer } => {
                let _ = answer.send(self.find(owner, &on));
            }
            Command::Subscribe { owner, answer } => {
                let owned = self.table.owned(clock::now(), owner, None).collect();
                let _ = answer.send((owned, self.watchers.add(owner)));
            }
            Command::Snapshot(answer) => {
                let (leases, backends) = (self.table.len(), self.table.backends());
                let journal_works = self.table.journal_works();
                let trouble = self.journal.trouble();
                let _ = answer.send(Snapshot { leases, backends, journal_works, trouble });
            }
            Command::Measure(answer) => {
                let waiters = self.waits.values().filter(|waits| waits.borrow().is_some()).count();
                let _ = answer.send(self.tally.measures(&self.table, waiters));
            }
            Command::Configure(backends, answer) => {
                let _ = answer.send(self.configure(&backends));
            }
            Command::Stop(leaving, done) => return Next::Stop(leaving, done),
        }
        Next::GoOn
    }

    /// Between two inputs, so that the core and the stores agree at each on which store is the
    /// journal itself. A store that was replaced is asked whether it has the leases of the old one.
    fn configure(&mut self, backends: &Wanted) -> Result<(), NotOpened> {
        let replaced = self.stores.configure(backends)?;
        self.table.set_in_journal(self.stores.in_journal());
        for backend in replaced {
            self.input(Input::Suspect(backend));
        }
        Ok(())
    }

    fn acquire(
        &mut self,
        wish: Wish,
        waits: latest::Sender<Option<Waits>>,
        answer: oneshot::Sender<Answer>,
    ) {
        let ticket = self.question(answer);
        let Wish { session, claims, owner, hold, attach, terminal, by, .. } = wish;
        self.askers.insert(ticket, by);
        let (leases_max, until, hold_for) = (wish.leases_max, wish.until, wish.hold_for);
        if until.is_some() {
            self.waits.insert(ticket, waits);
        }
        let ask = Ask {
            ticket,
            session,
            claims,
            owner,
            hold,
            attach,
            terminal,
            leases_max,
            until,
            hold_for,
        };
        self.input(Input::Acquire(Box::new(ask)));
    }

    /// Looked at here and not before: between the two a command could begin under it.
    fn release(&mut self, lease: LeaseId, answer: oneshot::Sender<Answer>) {
        if let Some(view) = self.table.view(clock::now(), lease)
            && let Some(group) = at_work(&view)
        {
            let _ = answer.send(Answer::No(No::AtWork(view.claim.resource, group)));
            return;
        }
        self.notices.is_given_back(lease);
        let ticket = self.question(answer);
        self.input(Input::Release { ticket, lease });
    }

    /// The lease of `owner` on a resource that a command without a lease id means: the one that is
    /// held, else the one that may be, else the last one that was lost.
    fn find(&self, owner: Uid, on: &Resource) -> Option<View> {
        let rank = |view: &View| match view.state {
            State::Held | State::AtRisk => 0,
            State::Unknown => 1,
            State::Lingering => 2,
            State::Lost(_) => 3,
            State::Asking => 4,
            State::Releasing | State::Released => 5,
        };
        let owned = self.table.owned(clock::now(), owner, None);
        owned
            .filter(|view| view.claim.resource == *on)
            .filter(|view| rank(view) < 4)
            .min_by_key(|view| (rank(view), std::cmp::Reverse(view.deadline)))
    }

    fn hear(&mut self, said: Said) {
        self.input(match said {
            Said::Synced { sync, durable } => Input::Synced { sync, durable },
            Said::Works(works) => {
                if works {
                    tracing::info!("the journal can be written again");
                } else {
                    let why = self.journal.trouble().unwrap_or_default();
                    tracing::error!(%why, "the journal cannot be written: no new lease is taken");
                }
                Input::Journal { works }
            }
        });
    }

    fn settle(&mut self, settled: Result<(CallId, BackendName, Outcome), tokio::task::JoinError>) {
        let (call, backend, outcome) = match settled {
            Ok(settled) => settled,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        self.tally.settled(call, &backend, &outcome.result);
        if outcome.is_doubtful {
            self.input(Input::Suspect(backend));
        }
        self.input(Input::Settled { call, result: outcome.result });
    }

    fn input(&mut self, input: Input) {
        self.table.handle(clock::now(), input);
        while let Some(effect) = self.table.next_effect() {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        #[cfg(debug_assertions)]
        failpoint::performs(&effect);
        match effect {
            Effect::Record(record) => self.journal.record(record),
            Effect::Sync(sync) => self.journal.sync(sync),
            Effect::Write(sync) => self.journal.write(sync),
            Effect::Call { id, backend, call, patience } => {
                tracing::debug!(%backend, ?call, "calls");
                self.tally.calls(id, &call);
                let stores = Arc::clone(&self.stores);
                let by = self.table.owner(call.lease());
                self.calls.spawn(async move {
                    #[cfg(debug_assertions)]
                    let point = failpoint::leaves(&call);
                    let outcome = stores.perform(&backend, call, patience, by).await;
                    #[cfg(debug_assertions)]
                    failpoint::answered(point, &outcome.result);
                    (id, backend, outcome)
                });
            }
            Effect::Answer { ticket, answer } => {
                self.waits.remove(&ticket);
                if let (Some(by), Answer::Acquired(views)) = (self.askers.remove(&ticket), &answer)
                {
                    views.iter().for_each(|view| self.audit.acquired(view, &by));
                }
                if let Some(asker) = self.questions.remove(&ticket) {
                    // Whoever asked may be gone; the core hears of that as a session's end.
                    let _ = asker.send(answer);
                }
            }
            Effect::Changed(view) => {
                if let State::Lost(loss) = &view.state {
                    self.tally.lost(loss);
                }
                self.watchers.tell(&view, &self.audit);
                self.notices.tell(&view);
            }
            Effect::Guard(process) => self.guards.watch(process),
            Effect::Watch { backend, resource } => {
                let _ = self.watched.add(&(backend, resource));
            }
            Effect::Unwatch { backend, resource } => self.watched.remove(&(backend, resource)),
            Effect::Waiting { ticket, backend, resource, holder, place, of } => {
                if let Some(asker) = self.waits.get(&ticket) {
                    let waits = Waits { backend, resource, holder, place, of };
                    asker.send_replace(Some(waits));
                }
            }
            Effect::Touched(view, touch) => watch::warn_of(&view, touch),
        }
    }

    fn question(&mut self, answer: oneshot::Sender<Answer>) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.questions.insert(ticket, answer);
        ticket
    }

    /// Takes nothing new, waits for what is out, gives back what shall not stay; all bounded.
    async fn stop(&mut self, leaving: Leaving, alarm: &mut Alarm, dog: &mut Dog) {
        if leaving == Leaving::Release {
            for lease in self.table.leases() {
                let (answer, _) = oneshot::channel();
                let ticket = self.question(answer);
                self.input(Input::Release { ticket, lease });
            }
        }
        self.input(Input::Stop);
        let end = clock::now() + STOP_MAX;
        loop {
            let is_done = match leaving {
                Leaving::Keep => self.table.is_quiet(),
                Leaving::Release => self.table.is_empty(),
            };
            if is_done {
                return;
            }
            if clock::now() >= end {
                tracing::warn!("stopped before every call was answered; the next start settles it");
                return;
            }
            alarm.set(self.table.next_wakeup().map_or(Some(end), |at| Some(at.min(end))));
            tokio::select! {
                Some(settled) = self.calls.join_next(), if !self.calls.is_empty() => {
                    self.settle(settled);
                }
                Some(said) = self.said.recv() => self.hear(said),
                () = alarm.rings() => self.input(Input::Tick),
                () = dog.barks() => {}
            }
        }
    }
}

/// What the loop does after a command.
enum Next {
    GoOn,
    Stop(Leaving, oneshot::Sender<()>),
}

/// Chance that no copy of this host gets again: from the kernel, each time.
fn die() -> u64 {
    // Without the kernel's random numbers no lease id could be minted either.
    getrandom::u64().unwrap_or_else(|error| panic!("the kernel gives no random numbers: {error}"))
}
