//! The agent's stores by name: one call at a time is made here, timed, and turned into what the
//! core understands. Retries are the core's; nothing here decides anything about a lease.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stormlock_protocol::message;
use stormlock_protocol::name::UnixMs;
use tokio::sync::{Notify, Semaphore};

use crate::backend::asker::Asker;
use crate::backend::{self, Backend, BackendError, OpenError, Options, Traits};
use crate::clock;
use crate::lease::{
    BackendName, Call, CallResult, Memory, Moment, RefusedKind, Released, Remembered, Uid,
};

/// The stores of a configuration, by name.
pub type Wanted = BTreeMap<BackendName, Options>;

/// The store that cannot be opened, and why.
pub type NotOpened = (BackendName, OpenError);

/// Every store of the configuration, and those that an earlier one named: a lease is never dropped
/// because a reload no longer mentions its store.
#[derive(Debug, Default)]
pub struct Stores {
    // Held for a look-up only, never across a call.
    known: Mutex<BTreeMap<BackendName, Store>>,
    /// Those of whose leases a question made doubtful, until the driver heard of it.
    doubted: Mutex<BTreeSet<BackendName>>,
    bell: Notify,
}

#[derive(Debug)]
struct Store {
    options: Options,
    backend: Arc<dyn Backend>,
    /// False once the configuration no longer names it.
    is_configured: bool,
    health: message::Health,
    since: Option<UnixMs>,
    identity: Option<String>,
    /// When it last answered anybody.
    answered: Option<Moment>,
    /// It answered after it had been down, and no call of the core was told yet.
    came_back: bool,
    /// Who reads much of it, in the order in which they came.
    readers: Arc<Semaphore>,
}

/// So many read much of a store at once, whoever they are: what they leave of its time is for the
/// calls that renew.
const READERS_MAX: usize = 2;
/// How long one waits for that: less than a client does for its answer.
const READERS_PATIENCE: Duration = Duration::from_secs(8);

impl Store {
    fn new(options: Options, backend: Arc<dyn Backend>) -> Store {
        Store {
            options,
            backend,
            is_configured: true,
            health: message::Health::Unused,
            since: None,
            identity: None,
            answered: None,
            came_back: false,
            readers: Arc::new(Semaphore::new(READERS_MAX)),
        }
    }
}

/// What one call came to.
#[derive(Debug)]
pub struct Outcome {
    /// For the core.
    pub result: CallResult,
    /// The store answers again after it was down, or is not the one it was: every lease in it is to
    /// be read back (law 11).
    pub is_doubtful: bool,
}

/// Why a question to a store has no answer; texts are without secrets.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The configuration has no such store.
    #[error("no backend is called {0}")]
    NoSuch(BackendName),
    /// The store said so, or could not be asked.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// No answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Mute(Duration),
    /// Others ask it for much.
    #[error("many read it now")]
    Busy,
    /// The same user asks it for much: what was to be asked never left.
    #[error("it has enough of yours to answer already")]
    NoTurn,
}

impl AskError {
    /// What is certain about it; `None` when nothing is.
    #[must_use]
    pub fn kind(&self) -> Option<RefusedKind> {
        match self {
            AskError::Backend(BackendError::Refused { kind, .. }) => Some(*kind),
            AskError::NoSuch(_) => Some(RefusedKind::Unreachable),
            AskError::NoTurn => Some(RefusedKind::Busy),
            AskError::Backend(BackendError::Unknown { .. })
            | AskError::Mute(_)
            | AskError::Busy => None,
        }
    }
}

impl Stores {
    /// Opens what the configuration names, keeps what did not change, and keeps the retired ones
    /// for the leases in them. Tells which have another address, or are of another kind, than
    /// before: what was believed of their leases may be true of the old ones only.
    ///
    /// # Errors
    /// [`NotOpened`]; then nothing has changed.
    pub fn configure(&self, wanted: &Wanted) -> Result<Vec<BackendName>, NotOpened> {
        let mut opened = Vec::new();
        for (name, options) in wanted {
            let is_same = self.known().get(name).is_some_and(|store| store.options.same(options));
            if !is_same {
                let backend =
                    backend::open(options, clock::now).map_err(|error| (name.clone(), error))?;
                opened.push((name.clone(), backend));
            }
        }
        let mut known = self.known();
        let mut replaced = Vec::new();
        for (name, backend) in opened {
            let options = wanted[&name].clone();
            if known.insert(name.clone(), Store::new(options, backend)).is_some() {
                replaced.push(name);
            }
        }
        for (name, store) in known.iter_mut() {
            store.is_configured = wanted.contains_key(name);
        }
        Ok(replaced)
    }

    /// The stores whose locks stand in the agent's own journal; also retired ones.
    #[must_use]
    pub fn in_journal(&self) -> BTreeSet<BackendName> {
        let known = self.known();
        let local = known.iter().filter(|(_, store)| matches!(store.options, Options::Local));
        local.map(|(name, _)| name.clone()).collect()
    }

    /// Hands each store that lives in the journal what the journal says of it.
    pub fn recall(&self, memory: &Memory) {
        for (name, store) in self.known().iter() {
            let leases: Vec<&Remembered> = memory
                .leases
                .values()
                .filter(|known| known.intent.claim.backend == *name)
                .collect();
            store.backend.recall(memory.floor, &leases);
        }
    }

    /// A store; also a retired one.
    #[must_use]
    pub fn get(&self, name: &BackendName) -> Option<Arc<dyn Backend>> {
        self.known().get(name).map(|store| Arc::clone(&store.backend))
    }

    /// What a store can do; of a store that nobody knows, nothing.
    #[must_use]
    pub fn traits(&self, name: &BackendName) -> Option<Traits> {
        self.get(name).map(|backend| backend.traits())
    }

    /// The names in the configuration, in order.
    #[must_use]
    pub fn names(&self) -> Vec<BackendName> {
        let known = self.known();
        known
            .iter()
            .filter(|(_, store)| store.is_configured)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Every store's health, for `status`.
    #[must_use]
    pub fn health(&self) -> Vec<message::Backend> {
        let as_told = |(name, store): (&BackendName, &Store)| message::Backend {
            name: name.to_string(),
            kind: store.backend.traits().kind.to_owned(),
            health: store.health,
            since: store.since,
        };
        self.known().iter().map(as_told).collect()
    }

    /// Makes one call of the core for a user, for at most `patience`. What had no answer by then is
    /// unknown (law 3), and what stood in a queue of ours until then was not asked. The timer is
    /// tokio's, which sleeps with the host: it bounds the wait, and no deadline depends on it.
    pub async fn perform(
        &self,
        name: &BackendName,
        call: Call,
        patience: Duration,
        by: Option<Uid>,
    ) -> Outcome {
        let result = match self.get(name) {
            Some(backend) => self.timed(name, patience, make(&*backend, &call), by).await,
            None => Err(AskError::NoSuch(name.clone())),
        };
        let is_doubtful = self.is_doubtful(name);
        let result = result.unwrap_or_else(|error| match error.kind() {
            Some(kind) => CallResult::Refused(kind),
            None => CallResult::Unknown,
        });
        Outcome { result, is_doubtful }
    }

    /// Asks a store something, for at most `patience`, and notes whether it answered. What it shows
    /// of the store itself, [`Stores::doubted`] tells.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn within<T>(
        &self,
        name: &BackendName,
        patience: Duration,
        question: impl Future<Output = Result<T, BackendError>>,
        by: Option<Uid>,
    ) -> Result<T, AskError> {
        let answer = self.timed(name, patience, question, by).await;
        if self.is_doubtful(name) {
            self.doubts().insert(name.clone());
            self.bell.notify_one();
        }
        answer
    }

    /// The same of a question whose answer takes as long as there is much in the store: a few of
    /// them are asked at once, and that an answer is not there in time says nothing of the store's
    /// health.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn reading<T>(
        &self,
        name: &BackendName,
        patience: Duration,
        question: impl Future<Output = Result<T, BackendError>>,
        by: Option<Uid>,
    ) -> Result<T, AskError> {
        let readers = self.known().get(name).map(|store| Arc::clone(&store.readers));
        let readers = readers.ok_or_else(|| AskError::NoSuch(name.clone()))?;
        let turn = tokio::time::timeout(READERS_PATIENCE, readers.acquire_owned()).await;
        let _turn = turn.map_err(|_| AskError::Busy)?;
        match tokio::time::timeout(patience, Asker::new(by).asks(question)).await {
            Ok(answer) => self.within(name, patience, std::future::ready(answer), by).await,
            Err(_) => Err(AskError::Mute(patience)),
        }
    }

    /// Waits for a store whose leases are to be read back, because a question showed that it
    /// answers again after it was down, or is not the one it was (law 11). For one listener.
    pub async fn doubted(&self) -> BackendName {
        loop {
            if let Some(name) = self.doubts().pop_first() {
                return name;
            }
            self.bell.notified().await;
        }
    }

    async fn timed<T>(
        &self,
        name: &BackendName,
        patience: Duration,
        question: impl Future<Output = Result<T, BackendError>>,
        by: Option<Uid>,
    ) -> Result<T, AskError> {
        let (by, began) = (Asker::new(by), clock::now());
        let answer = match tokio::time::timeout(patience, by.asks(question)).await {
            Ok(answer) => answer.map_err(AskError::from),
            Err(_) if by.is_waiting() => return Err(AskError::NoTurn),
            // It answers others meanwhile, or this waited for others' answers: it is slow, and no
            // store that was away.
            Err(_) if by.has_waited() || self.has_answered_since(name, began) => {
                return Err(AskError::Mute(patience));
            }
            Err(_) => Err(AskError::Mute(patience)),
        };
        self.note_health(name, answer.as_ref().err());
        answer
    }

    fn has_answered_since(&self, name: &BackendName, began: Moment) -> bool {
        let answered = self.known().get(name).and_then(|store| store.answered);
        answered.is_some_and(|at| at >= began)
    }

    fn note_health(&self, name: &BackendName, error: Option<&AskError>) {
        let is_up = match error {
            None => true,
            // It answered, if only to say no to this.
            Some(error) => error.kind().is_some_and(RefusedKind::is_about_the_question),
        };
        let health = if is_up { message::Health::Up } else { message::Health::Down };
        let was = {
            let mut known = self.known();
            let Some(store) = known.get_mut(name) else { return };
            let was = store.health;
            store.answered = if is_up { Some(clock::now()) } else { store.answered };
            if was != health {
                store.health = health;
                store.came_back |= is_up && was == message::Health::Down;
                store.since = Some(clock::wall());
            }
            was
        };
        let was_down = was == message::Health::Down;
        match error {
            Some(why) if !is_up && !was_down => {
                tracing::warn!(backend = %name, %why, "backend is down");
            }
            Some(why) => tracing::debug!(backend = %name, %why, "a call failed"),
            None => {}
        }
        if is_up && was_down {
            tracing::info!(backend = %name, "backend answers again");
        }
    }

    /// True when the store is not the one it was, or was away: once for each time.
    fn is_doubtful(&self, name: &BackendName) -> bool {
        let mut known = self.known();
        let Some(store) = known.get_mut(name) else { return false };
        let came_back = std::mem::take(&mut store.came_back);
        let Some(now) = store.backend.identity() else { return came_back };
        let is_stranger = store.identity.as_ref().is_some_and(|before| *before != now);
        if is_stranger {
            tracing::warn!(backend = %name, "backend has another identity than before");
        }
        store.identity = Some(now);
        came_back || is_stranger
    }

    fn doubts(&self) -> MutexGuard<'_, BTreeSet<BackendName>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<BackendName, Store>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn make(backend: &dyn Backend, call: &Call) -> Result<CallResult, BackendError> {
    Ok(match call {
        Call::Acquire(claim) => CallResult::Attempted(backend.acquire(claim).await?),
        Call::Renew { proof, ttl, next } => {
            CallResult::Stands(backend.renew(proof, *ttl, *next).await?)
        }
        Call::Verify(proof) => CallResult::Stands(backend.verify(proof).await?),
        Call::Release(proof) => match backend.release(proof).await? {
            Released::Done => CallResult::Done,
            Released::NotThere => CallResult::NotThere,
        },
        Call::Cancel(on, lease) => backend.cancel(on, *lease).await.map(|()| CallResult::Done)?,
    })
}
