//! How the rest of the agent talks to the driver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stormlock_protocol::name::{LeaseId, Resource, Ttl};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Leaving;
use super::stirs::On;
use super::tally::Measures;
use crate::audit::Facts;
use crate::lease::{
    Answer, Attach, BackendName, Claim, Hold, Holder, Moment, ProcessId, SessionId, Terminal, Uid,
    View,
};
use crate::stores::{NotOpened, Wanted};

/// Commands that wait while the driver is at work; more callers than that wait their turn.
const COMMANDS_MAX: usize = 1024;

/// A way to the driver; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// An acquire: see [`crate::lease::Ask`].
#[derive(Debug)]
pub struct Wish {
    /// Who waits for the answer.
    pub session: SessionId,
    /// The claims, in the order to be taken; never empty.
    pub claims: Vec<Claim>,
    /// The kernel's uid of who asks.
    pub owner: Uid,
    /// How long they are renewed.
    pub hold: Hold,
    /// Whose end ends them.
    pub attach: Attach,
    /// Where their owner wants to hear of them.
    pub terminal: Option<Terminal>,
    /// Most leases that `owner` may have, these included.
    pub leases_max: usize,
    /// Wait for what others hold, until then at most.
    pub until: Option<Moment>,
    /// `hold` is this long, from the grant on.
    pub hold_for: Option<Duration>,
    /// Who asks, for the audit.
    pub by: Arc<Facts>,
    /// Nobody waits for the answer any more: what has not begun by then does not begin.
    pub hung_up: CancellationToken,
}

/// What an acquire waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// The store.
    pub backend: BackendName,
    /// The resource.
    pub resource: Resource,
    /// Who has it, as far as is known.
    pub holder: Option<Box<Holder>>,
    /// Its place among those who wait on this host: 1 is next.
    pub place: u32,
    /// How many there are.
    pub of: u32,
}

/// Hears what stirs at a resource, for somebody who takes nothing.
#[derive(Debug)]
pub struct Looking {
    on: On,
    /// Whether the store tells; marked anew whenever something stirs.
    pub stirs: watch::Receiver<bool>,
    /// How many wait to take it.
    pub waiters: u32,
    handle: Handle,
}

impl Drop for Looking {
    fn drop(&mut self) {
        // A full queue of commands is as good as a watcher that is let go a little later.
        let (commands, on) = (self.handle.commands.clone(), self.on.clone());
        if let Err(TrySendError::Full(command)) = commands.try_send(Command::LookedAt(on)) {
            tokio::spawn(async move { commands.send(command).await });
        }
    }
}

/// The driver in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Leases in any state.
    pub leases: usize,
    /// How many of them are in each store.
    pub backends: BTreeMap<BackendName, usize>,
    /// The journal can be written.
    pub journal_works: bool,
    /// Why it cannot be, or why it was not compacted.
    pub trouble: Option<String>,
}

/// The driver is gone: the agent is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is stopping")]
pub struct Stopping;

#[derive(Debug)]
pub(super) enum Command {
    Acquire { wish: Wish, waits: watch::Sender<Option<Waits>>, answer: oneshot::Sender<Answer> },
    Attach { lease: LeaseId, attach: Attach, answer: oneshot::Sender<Answer> },
    Share { lease: LeaseId, process: ProcessId, answer: oneshot::Sender<Answer> },
    Look { on: On, answer: oneshot::Sender<(watch::Receiver<bool>, u32)> },
    LookedAt(On),
    Waiters { on: On, answer: oneshot::Sender<u32> },
    Release { lease: LeaseId, answer: oneshot::Sender<Answer> },
    Renew { lease: LeaseId, ttl: Option<Ttl>, hold: Option<Hold>, answer: oneshot::Sender<Answer> },
    Gone(SessionId),
    Views { leases: Vec<LeaseId>, answer: oneshot::Sender<Vec<View>> },
    Owned { owner: Uid, after: Option<LeaseId>, limit: usize, answer: oneshot::Sender<Vec<View>> },
    Find { owner: Uid, on: Resource, answer: oneshot::Sender<Option<View>> },
    Subscribe { owner: Uid, answer: oneshot::Sender<(Vec<View>, mpsc::Receiver<View>)> },
    Snapshot(oneshot::Sender<Snapshot>),
    Measure(oneshot::Sender<Measures>),
    Configure(Wanted, oneshot::Sender<Result<(), NotOpened>>),
    Stop(Leaving, oneshot::Sender<()>),
}

impl Handle {
    pub(super) fn new() -> (Handle, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        (Handle { commands }, receiver)
    }

    /// Takes resources, all or none; `waits` hears what for, if it waits.
    ///
    /// # Errors
    /// [`Stopping`], also when the driver stopped before it answered.
    pub async fn acquire(
        &self,
        wish: Wish,
        waits: watch::Sender<Option<Waits>>,
    ) -> Result<Answer, Stopping> {
        self.ask(|answer| Command::Acquire { wish, waits, answer }).await
    }

    /// Lets another end than before end a lease.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn attach(&self, lease: LeaseId, attach: Attach) -> Result<Answer, Stopping> {
        self.ask(|answer| Command::Attach { lease, attach, answer }).await
    }

    /// Lets the end of another process be needed, too, for a lease to end.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn share(&self, lease: LeaseId, process: ProcessId) -> Result<Answer, Stopping> {
        self.ask(|answer| Command::Share { lease, process, answer }).await
    }

    /// How many on this host wait to take a resource.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn waiters(&self, backend: BackendName, resource: Resource) -> Result<u32, Stopping> {
        self.ask(|answer| Command::Waiters { on: (backend, resource), answer }).await
    }

    /// Listens to what stirs at a resource.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn look(
        &self,
        backend: BackendName,
        resource: Resource,
    ) -> Result<Looking, Stopping> {
        let on = (backend, resource);
        let asked = on.clone();
        let (stirs, waiters) = self.ask(|answer| Command::Look { on: asked, answer }).await?;
        Ok(Looking { on, stirs, waiters, handle: self.clone() })
    }

    /// Gives leases back, all at once: a store that does not answer is waited for once, not for
    /// each. The answers are in the order of the leases.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn release_all(&self, leases: Vec<LeaseId>) -> Result<Vec<Answer>, Stopping> {
        let mut open = Vec::with_capacity(leases.len());
        for lease in leases {
            open.push(self.question(|answer| Command::Release { lease, answer }).await?);
        }
        let mut answers = Vec::with_capacity(open.len());
        for answer in open {
            answers.push(answer.await.map_err(|_| Stopping)?);
        }
        Ok(answers)
    }

    /// Moves a lease's end.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn renew(
        &self,
        lease: LeaseId,
        ttl: Option<Ttl>,
        hold: Option<Hold>,
    ) -> Result<Answer, Stopping> {
        self.ask(|answer| Command::Renew { lease, ttl, hold, answer }).await
    }

    /// A session ended.
    pub async fn gone(&self, session: SessionId) {
        // A driver that is gone has no leases left to end.
        let _ = self.commands.send(Command::Gone(session)).await;
    }

    /// Those of the leases that this agent has.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn views(&self, leases: Vec<LeaseId>) -> Result<Vec<View>, Stopping> {
        self.ask(|answer| Command::Views { leases, answer }).await
    }

    /// One lease, if this agent has it.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn view(&self, lease: LeaseId) -> Result<Option<View>, Stopping> {
        Ok(self.views(vec![lease]).await?.pop())
    }

    /// A user's leases, by id, those after `after`.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn owned(
        &self,
        owner: Uid,
        after: Option<LeaseId>,
        limit: usize,
    ) -> Result<Vec<View>, Stopping> {
        self.ask(|answer| Command::Owned { owner, after, limit, answer }).await
    }

    /// The lease that a user means who names only the resource.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn find(&self, owner: Uid, on: Resource) -> Result<Option<View>, Stopping> {
        self.ask(|answer| Command::Find { owner, on, answer }).await
    }

    /// A user's leases now, and each change from then on.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn subscribe(
        &self,
        owner: Uid,
    ) -> Result<(Vec<View>, mpsc::Receiver<View>), Stopping> {
        self.ask(|answer| Command::Subscribe { owner, answer }).await
    }

    /// The driver in numbers.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn snapshot(&self) -> Result<Snapshot, Stopping> {
        self.ask(Command::Snapshot).await
    }

    /// What the driver counts.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn measures(&self) -> Result<Measures, Stopping> {
        self.ask(Command::Measure).await
    }

    /// Gives the stores another configuration: see [`crate::stores::Stores::configure`].
    ///
    /// # Errors
    /// [`Stopping`]; within it, the store that cannot be opened: then nothing has changed.
    pub async fn configure(&self, backends: Wanted) -> Result<Result<(), NotOpened>, Stopping> {
        self.ask(|answer| Command::Configure(backends, answer)).await
    }

    /// Stops the driver and waits until its journal is closed.
    pub async fn stop(&self, leaving: Leaving) {
        let _ = self.ask(|done| Command::Stop(leaving, done)).await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Stopping> {
        self.question(command).await?.await.map_err(|_| Stopping)
    }

    async fn question<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<oneshot::Receiver<T>, Stopping> {
        let (sender, answer) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| Stopping)?;
        Ok(answer)
    }
}
