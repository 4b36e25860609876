//! One connection for all calls of a store: made once, by one task at a time, and given up as soon
//! as an answer is owed.
//!
//! An abandoned call leaves bytes on their way. After it no call uses that connection any more, and
//! the last one that waits on it drops it, which closes it by a reset (see `socket`). No retries
//! and no timers here: the bound on connecting is the dialler's.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// How a store is connected to.
pub(super) trait Dial: Send + Sync + 'static {
    /// A connection that was greeted. The last clone of its `Arc` closes it.
    type Link: Send + Sync + 'static;
    /// Why there is none.
    type Trouble: Clone + Send + Sync + 'static;

    /// Connects and greets, in bounded time.
    fn dial(&self) -> impl Future<Output = Result<Self::Link, Self::Trouble>> + Send;

    /// False once the connection is known to be broken.
    fn is_open(link: &Self::Link) -> bool;

    /// Nobody will connect any more.
    fn stopping() -> Self::Trouble;

    /// Hears that a connection was given up.
    fn given_up(&self) {}
}

/// The connection of one store: made when it is needed, and made anew after it failed. Clones share
/// it.
pub(super) struct Line<D: Dial>(Arc<Shared<D>>);

struct Shared<D: Dial> {
    dialler: D,
    slot: Mutex<Slot<D>>,
}

enum Slot<D: Dial> {
    Idle,
    Connecting(watch::Receiver<Option<Connected<D>>>),
    Ready(Arc<D::Link>),
}

type Connected<D> = Result<Arc<<D as Dial>::Link>, <D as Dial>::Trouble>;

impl<D: Dial> Clone for Line<D> {
    fn clone(&self) -> Line<D> {
        Line(self.0.clone())
    }
}

impl<D: Dial> fmt::Debug for Line<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = match &*self.0.slot() {
            Slot::Idle => "idle",
            Slot::Connecting(_) => "connecting",
            Slot::Ready(_) => "ready",
        };
        f.debug_tuple("Line").field(&slot).finish()
    }
}

impl<D: Dial> Line<D> {
    pub(super) fn new(dialler: D) -> Line<D> {
        Line(Arc::new(Shared { dialler, slot: Mutex::new(Slot::Idle) }))
    }

    pub(super) fn dialler(&self) -> &D {
        &self.0.dialler
    }

    /// The open connection, or the next one.
    pub(super) async fn link(&self) -> Result<Arc<D::Link>, D::Trouble> {
        let mut connecting = match self.0.ready_or_connecting() {
            Ok(link) => return Ok(link),
            Err(connecting) => connecting,
        };
        let connected = match connecting.wait_for(Option::is_some).await {
            Ok(connected) => connected.clone(),
            Err(_) => None,
        };
        connected.unwrap_or_else(|| Err(D::stopping()))
    }

    /// The same for something that nobody waits for an answer of, as long as it lasts: the last one
    /// that ends closes the connection.
    pub(super) async fn used(&self) -> Result<Used<D>, D::Trouble> {
        Ok(Used { link: self.link().await?, line: self.clone() })
    }

    fn give_up(&self, link: &Arc<D::Link>) {
        let mut slot = self.0.slot();
        if matches!(&*slot, Slot::Ready(ready) if Arc::ptr_eq(ready, link)) {
            *slot = Slot::Idle;
            self.0.dialler.given_up();
        }
    }

    /// To be held while a call is under way on `link`.
    pub(super) fn owed<'a>(&'a self, link: &'a Arc<D::Link>) -> Owed<'a, D> {
        Owed { line: self, link, is_answered: false }
    }
}

/// A call whose answer is owed: unless it comes, the connection is given up; also when the call is
/// dropped.
pub(super) struct Owed<'a, D: Dial> {
    line: &'a Line<D>,
    link: &'a Arc<D::Link>,
    is_answered: bool,
}

impl<D: Dial> Owed<'_, D> {
    /// The answer came; whether the connection is fit for the next call.
    pub(super) fn settle(mut self, is_fit: bool) {
        self.is_answered = is_fit;
    }
}

impl<D: Dial> Drop for Owed<'_, D> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.line.give_up(self.link);
        }
    }
}

/// A connection in use.
pub(super) struct Used<D: Dial> {
    line: Line<D>,
    link: Arc<D::Link>,
}

impl<D: Dial> Used<D> {
    /// Nobody else begins to use this connection.
    pub(super) fn give_up(self) {
        self.line.give_up(&self.link);
    }
}

impl<D: Dial> Deref for Used<D> {
    type Target = D::Link;

    fn deref(&self) -> &D::Link {
        &self.link
    }
}

impl<D: Dial> Drop for Used<D> {
    fn drop(&mut self) {
        let mut slot = self.line.0.slot();
        // The slot's and this one: clones are made under this lock only, or by who still connects.
        let is_last = Arc::strong_count(&self.link) == 2;
        if is_last && matches!(&*slot, Slot::Ready(ready) if Arc::ptr_eq(ready, &self.link)) {
            *slot = Slot::Idle;
        }
    }
}

impl<D: Dial> Shared<D> {
    fn slot(&self) -> MutexGuard<'_, Slot<D>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task that connects belongs to no call, so a caller with little patience does not spoil
    /// it for the others.
    fn ready_or_connecting(
        self: &Arc<Self>,
    ) -> Result<Arc<D::Link>, watch::Receiver<Option<Connected<D>>>> {
        let mut slot = self.slot();
        match &*slot {
            Slot::Ready(link) if D::is_open(link) => return Ok(link.clone()),
            // A task that died with its runtime has closed the channel.
            Slot::Connecting(waits) if waits.has_changed().is_ok() => return Err(waits.clone()),
            Slot::Idle | Slot::Ready(_) | Slot::Connecting(_) => {}
        }
        let (done, waits) = watch::channel(None);
        *slot = Slot::Connecting(waits.clone());
        let shared = self.clone();
        tokio::spawn(async move {
            let connected = shared.dialler.dial().await.map(Arc::new);
            *shared.slot() = match &connected {
                Ok(link) => Slot::Ready(link.clone()),
                Err(_) => Slot::Idle,
            };
            let _ = done.send(Some(connected));
        });
        Err(waits)
    }
}
