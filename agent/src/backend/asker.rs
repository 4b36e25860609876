//! For whom a store is asked: a store that answers one question after the other has turns, so that
//! one user's questions are not what another's wait for. It goes beside the call and not through
//! it, since most stores have nothing to do with it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use crate::lease::Uid;

tokio::task_local! {
    static ASKER: Asker;
}

/// Who has a call under way.
#[derive(Debug, Clone)]
pub struct Asker {
    /// `None` when it is for nobody in particular.
    user: Option<Uid>,
    queue: Arc<Queue>,
}

/// Whether the call waits for its turn, and whether it ever had to.
#[derive(Debug, Default)]
struct Queue {
    waits: AtomicBool,
    waited: AtomicBool,
}

impl Asker {
    /// For one call.
    #[must_use]
    pub fn new(user: Option<Uid>) -> Asker {
        Asker { user, queue: Arc::default() }
    }

    /// Makes the call for them.
    pub async fn asks<T>(&self, call: impl Future<Output = T>) -> T {
        ASKER.scope(self.clone(), call).await
    }

    /// Whether the call stands in a queue of ours, or ended there: what it was about to ask has not
    /// left.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.queue.waits.load(Ordering::Relaxed)
    }

    /// Whether it ever stood there: that it took long says nothing about the store.
    #[must_use]
    pub fn has_waited(&self) -> bool {
        self.queue.waited.load(Ordering::Relaxed)
    }
}

/// The user for whom this call is made, if it is for one.
pub(super) fn user() -> Option<Uid> {
    ASKER.try_with(|asker| asker.user).ok().flatten()
}

/// Waits for the turn of this call.
pub(super) async fn waits<T>(turn: impl Future<Output = T>) -> T {
    let mut turn = pin!(turn);
    if let Poll::Ready(turn) = futures_util::poll!(turn.as_mut()) {
        return turn;
    }
    // Outside of a call nobody wants to know.
    let queue = ASKER.try_with(|asker| Arc::clone(&asker.queue)).unwrap_or_default();
    queue.waits.store(true, Ordering::Relaxed);
    queue.waited.store(true, Ordering::Relaxed);
    let turn = turn.await;
    queue.waits.store(false, Ordering::Relaxed);
    turn
}
