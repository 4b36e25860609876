//! Who took what, who gave it back, what was lost and what policy refused: one line of JSON for
//! each, in a file of the agent's own and in its log.
//!
//! Recording never waits: a thread of its own writes, and what it cannot write is counted, said
//! once, and told in the file as a gap. Only [`Audit::durable`] waits, for what must not be done
//! unseen. Not here: what may be done (`policy`), and what a lease is (`lease`).

mod event;
mod file;
mod flood;
#[cfg(fuzzing)]
pub mod fuzzing;
mod line;
mod pace;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stormlock_protocol::message::{LogCursor, Logged};
use stormlock_protocol::name::{LeaseId, Resource};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

pub use event::{By, Deed, Event, Facts, Login, Outcome};
pub use file::FileError;
pub use flood::Flood;
pub use tail::Search;

use crate::clock;
use crate::lease::{State, Uid, View};
use line::Line;
use pace::Pace;
use writer::{Health, Message, Writer};

/// The file's usual name, in the state directory.
pub const FILE: &str = "audit.jsonl";
/// Lines that wait for the thread: a few megabytes, and far more than change hands while a disk is
/// slow for a moment.
const QUEUE_MAX: usize = 8192;
/// How long somebody waits who must not go on without a line on the disk. A disk that takes longer
/// is broken, and a person waits.
const DURABLE_PATIENCE: Duration = Duration::from_secs(5);
/// Readers at once: each costs a thread, and those who read must not cost the disk either.
const READERS_MAX: usize = 4;

/// The audit of one agent; cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: SyncSender<Message>,
    names: Mutex<Names>,
    known: Mutex<BTreeMap<LeaseId, Known>>,
    refused: Mutex<Flood>,
    pace: Pace,
    health: Arc<Health>,
    readers: Semaphore,
}

#[derive(Debug)]
struct Names {
    path: PathBuf,
    writer: line::Writer,
}

/// What the audit remembers of a lease until it is over.
#[derive(Debug, Default)]
struct Known {
    /// An earlier agent had it, and that it goes on was not told yet.
    is_recovered: bool,
    /// Who asked for its end.
    ends: Option<Arc<Facts>>,
}

/// Why nobody knows that a line is on the disk.
#[derive(Debug, thiserror::Error)]
pub enum NotDurable {
    /// It cannot be written.
    #[error("the audit file cannot be written")]
    File(#[from] FileError),
    /// Too many lines wait already.
    #[error("the audit file is too slow: {QUEUE_MAX} lines wait for it")]
    Busy,
    /// The disk does not answer.
    #[error("the audit file's disk did not answer within {} s", DURABLE_PATIENCE.as_secs())]
    Mute,
}

/// Why the file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    /// What the file says to it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

impl Audit {
    /// Begins to write to the end of a file, on a thread of its own. A file that cannot be written
    /// stops nothing: see [`Audit::trouble`].
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(path: PathBuf, host: &str, boot: [u8; 16]) -> io::Result<Audit> {
        let (queue, messages) = sync_channel(QUEUE_MAX);
        let health = Arc::new(Health::default());
        let writer = line::Writer { host: host.to_owned(), boot: uuid(boot) };
        let thread = Writer::new(path.clone(), writer.clone(), Arc::clone(&health));
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || thread.run(&messages))?;
        let names = Mutex::new(Names { path, writer });
        let (known, refused, pace) = (Mutex::default(), Mutex::default(), Pace::default());
        let readers = Semaphore::new(READERS_MAX);
        let shared = Shared { queue, names, known, refused, pace, health, readers };
        Ok(Audit { shared: Arc::new(shared) })
    }

    /// Takes another file, and another name of this host, for what comes from now on.
    pub fn configure(&self, path: PathBuf, host: &str) {
        let mut names = locked(&self.shared.names);
        host.clone_into(&mut names.writer.host);
        names.path.clone_from(&path);
        let message = Message::Move(path, names.writer.clone());
        // A queue that is full empties; until then the old file takes the lines, and the next
        // configuration tries again.
        if self.shared.queue.try_send(message).is_err() {
            tracing::error!("the audit is too busy to take its new configuration; reload again");
        }
    }

    /// Writes an event down, and does not wait.
    pub fn record(&self, event: &Event) {
        let message = Message::Line(self.line(event));
        if self.shared.queue.try_send(message).is_err() {
            self.shared.health.lost.fetch_add(1, Ordering::Relaxed);
        }
        log(event);
    }

    /// Writes an event down and waits until it is on the disk, for what must not be done unseen: on
    /// an error, do not do it.
    ///
    /// # Errors
    /// [`NotDurable`]: nobody knows that the line would outlive the host. It may stand in the file
    /// all the same.
    pub async fn durable(&self, event: &Event) -> Result<(), NotDurable> {
        let (answer, written) = oneshot::channel();
        let message = Message::Durable(self.line(event), answer);
        self.shared.queue.try_send(message).map_err(|_| NotDurable::Busy)?;
        match timeout(DURABLE_PATIENCE, written).await {
            Ok(Ok(written)) => written?,
            Ok(Err(_)) | Err(_) => return Err(NotDurable::Mute),
        }
        log(event);
        Ok(())
    }

    /// Writes down that policy refused something. Of one user who tries again and again, some are
    /// left out and counted.
    pub fn refused(&self, event: Event, facts: &Facts) {
        let Some(untold) = locked(&self.shared.refused).pass(facts.uid, clock::now()) else {
            return;
        };
        match (untold, &event.why) {
            (0, _) => self.record(&event),
            (untold, why) => {
                let why = why.as_deref().unwrap_or("refused");
                let told = format!("{untold} more refusals before this one are left out; {why}");
                self.record(&event.explained(told));
            }
        }
    }

    /// An acquire was granted.
    pub fn acquired(&self, view: &View, by: &Arc<Facts>) {
        if view.claim.over.is_some() {
            // That is a break, and has a word of its own.
            return;
        }
        let by = By::Caller(Arc::clone(by));
        self.record(&Event::of_view(Deed::Acquire, Outcome::Done, by, view));
    }

    /// Somebody asked for the end of these leases: if they end now, it is by them.
    pub fn releasing(&self, leases: &[LeaseId], by: &Arc<Facts>) {
        let mut known = locked(&self.shared.known);
        for lease in leases {
            if let Some(known) = known.get_mut(lease) {
                known.ends = Some(Arc::clone(by));
            }
        }
    }

    /// That came to nothing: it goes on.
    pub fn not_released(&self, lease: LeaseId) {
        if let Some(known) = locked(&self.shared.known).get_mut(&lease) {
            known.ends = None;
        }
    }

    /// A lease is in another state than the one that was told last (`before`; `None`: never).
    pub fn changed(&self, view: &View, before: Option<&State>) {
        if let Some(event) = self.change(view, before) {
            self.record(&event);
        }
    }

    fn change(&self, view: &View, before: Option<&State>) -> Option<Event> {
        if view.claim.over.is_some() {
            // Nobody holds it.
            return None;
        }
        let mut leases = locked(&self.shared.known);
        let lease = view.claim.lease;
        match &view.state {
            State::Asking => None,
            // It changes hands at the end of that.
            State::Releasing | State::Lingering => {
                leases.entry(lease).or_default();
                None
            }
            State::Unknown => {
                let known = leases.entry(lease).or_default();
                known.is_recovered |= before.is_none();
                None
            }
            State::Held | State::AtRisk => {
                let known = leases.entry(lease).or_default();
                std::mem::take(&mut known.is_recovered)
                    .then(|| Event::of_view(Deed::Resume, Outcome::Done, By::Agent, view))
            }
            State::Released => {
                let by = leases.remove(&lease)?.ends.map_or(By::Agent, By::Caller);
                Some(Event::of_view(Deed::Release, Outcome::Done, by, view))
            }
            State::Lost(loss) => {
                leases.remove(&lease)?;
                let event = Event::of_view(Deed::Lost, Outcome::from(loss), By::Agent, view);
                Some(event.explained(loss.to_string()))
            }
        }
    }

    /// One page of the file: the latest event first, only what `may` be seen, and where the next
    /// page begins. What was recorded before is in it.
    ///
    /// # Errors
    /// [`NotRead`].
    pub async fn read(
        &self,
        search: Search,
        may: impl Fn(&Resource) -> bool + Send + 'static,
    ) -> Result<(Vec<Logged>, Option<LogCursor>), NotRead> {
        let _one_of_few = self.shared.readers.acquire().await.map_err(|_| NotRead::Stopping)?;
        self.flush().await;
        let path = locked(&self.shared.names).path.clone();
        let read = tokio::task::spawn_blocking(move || tail::page(&path, &search, may)).await;
        Ok(read.map_err(|_| NotRead::Stopping)??)
    }

    /// Waits until what was recorded is written, or is not going to be, or that takes too long.
    pub async fn flush(&self) {
        let (answer, flushed) = oneshot::channel();
        if self.shared.queue.try_send(Message::Flush(answer)).is_ok() {
            let _ = timeout(DURABLE_PATIENCE, flushed).await;
        }
    }

    /// Why the file cannot be written; `None` when it can be.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.health.trouble()
    }

    /// Events that could not be written since the agent started.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.health.lost.load(Ordering::Relaxed)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        locked(&self.shared.names).path.clone()
    }

    /// Waits until it is a user's turn to do what is written down. What gives something back does
    /// not wait for it.
    pub async fn turn(&self, uid: Uid) {
        self.shared.pace.of(uid).await;
    }

    fn line(&self, event: &Event) -> String {
        // What the agent does follows from what the lease's owner did.
        let uid = match &event.by {
            By::Caller(facts) => Some(facts.uid),
            By::Agent => event.owner,
        };
        if let Some(uid) = uid {
            self.shared.pace.count(uid);
        }
        Line::new(event, clock::wall(), &locked(&self.shared.names).writer).encode()
    }
}

/// The same for people, and for the journal of the system as fields.
fn log(event: &Event) {
    let resource = event.resource.as_ref().map(Resource::as_str);
    let lease = event.lease.map(tracing::field::display);
    let principal = event.principal.as_ref().map(|principal| principal.as_str());
    let fence = event.fence.map(|fence| fence.0);
    let backend = event.backend.as_ref().map(|backend| backend.as_str());
    let facts = match &event.by {
        By::Agent => None,
        By::Caller(facts) => Some(facts),
    };
    let by = facts.map_or("agent", |facts| facts.principal.as_str());
    let uid = facts.map(|facts| facts.uid.0);
    let login = facts.and_then(|facts| facts.login.as_ref()).map(|login| login.user.as_str());
    let login_uid = facts.and_then(|facts| facts.login.as_ref()).map(|login| login.uid.0);
    let pid = facts.and_then(|facts| facts.pid);
    let unit = facts.and_then(|facts| facts.unit.as_deref());
    let reason = event.reason.as_ref().map(|reason| reason.as_str());
    let why = event.why.as_deref();
    let (deed, result) = (event.deed.as_str(), event.outcome.as_str());
    let owner = event.owner.map(|Uid(owner)| owner);
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(
                event = deed,
                result,
                resource,
                lease,
                principal,
                fence,
                backend,
                owner,
                by,
                uid,
                login_uid,
                login,
                pid,
                unit,
                reason,
                why,
                "{}",
                in_words(event)
            )
        };
    }
    match (event.deed, event.outcome) {
        (Deed::Lost | Deed::Break, _) => say!(warn),
        _ => say!(info),
    }
}

fn in_words(event: &Event) -> &'static str {
    match (event.deed, event.outcome) {
        (_, Outcome::Denied) => "policy refused a request",
        (Deed::Acquire | Deed::Resume, _) => "lease is held",
        (Deed::Release, _) => "lease is released",
        (Deed::Renew, _) => "another's lease is renewed",
        (Deed::Attach, _) => "lease ends with another end",
        (Deed::Break, Outcome::Begun) => "lease is being broken",
        (Deed::Break, Outcome::Failed) => "lease was not broken, or nobody knows",
        (Deed::Break, _) => "lease is broken",
        (Deed::Lost, _) => "lease is lost",
        (Deed::Gap, _) => "events are missing in the audit file",
    }
}

/// As the kernel writes it.
fn uuid(bytes: [u8; 16]) -> String {
    let number = u128::from_be_bytes(bytes);
    let hex = format!("{number:032x}");
    let (one, rest) = hex.split_at(8);
    let (two, rest) = rest.split_at(4);
    let (three, rest) = rest.split_at(4);
    let (four, five) = rest.split_at(4);
    [one, two, three, four, five].join("-")
}

/// A panic elsewhere leaves what is as good as before.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
