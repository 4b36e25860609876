//! One watcher for each resource that somebody on this host waits for, however many they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stormlock_protocol::name::Resource;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::backend::Stirs;
use crate::clock;
use crate::lease::BackendName;
use crate::stores::Stores;

/// How long a store that cannot tell is left in peace, at first; it doubles with each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A resource in a store.
pub(super) type On = (BackendName, Resource);

/// Something stirred, or the store tells of it from now on, or does no more.
#[derive(Debug)]
pub(super) struct Stir {
    pub(super) on: On,
    pub(super) tells: bool,
}

/// Who watches what.
#[derive(Debug)]
pub(super) struct Watched {
    stores: Arc<Stores>,
    of: BTreeMap<On, Watch>,
    news: mpsc::UnboundedSender<Stir>,
    heard: mpsc::UnboundedReceiver<Stir>,
}

#[derive(Debug)]
struct Watch {
    users: u32,
    task: AbortHandle,
    /// Whether the store tells; marked anew whenever something stirs.
    stirs: watch::Sender<bool>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    pub(super) fn new(stores: Arc<Stores>) -> Watched {
        let (news, heard) = mpsc::unbounded_channel();
        Watched { stores, of: BTreeMap::new(), news, heard }
    }

    /// One more wants to know.
    pub(super) fn add(&mut self, on: &On) -> watch::Receiver<bool> {
        let (stores, news) = (&self.stores, &self.news);
        let watch = self.of.entry(on.clone()).or_insert_with(|| {
            let task = tokio::spawn(watch_for_ever(Arc::clone(stores), on.clone(), news.clone()));
            Watch { users: 0, task: task.abort_handle(), stirs: watch::Sender::new(false) }
        });
        watch.users += 1;
        watch.stirs.subscribe()
    }

    /// One does not any more.
    pub(super) fn remove(&mut self, on: &On) {
        if let Some(watch) = self.of.get_mut(on) {
            watch.users = watch.users.saturating_sub(1);
            if watch.users == 0 {
                self.of.remove(on);
            }
        }
    }

    /// The next one; for the driver, which passes it on by [`Watched::pass_on`].
    pub(super) async fn heard(&mut self) -> Stir {
        match self.heard.recv().await {
            Some(stir) => stir,
            None => std::future::pending().await,
        }
    }

    pub(super) fn pass_on(&self, stir: &Stir) {
        if let Some(watch) = self.of.get(&stir.on) {
            watch.stirs.send_replace(stir.tells);
        }
    }
}

async fn watch_for_ever(stores: Arc<Stores>, on: On, news: mpsc::UnboundedSender<Stir>) {
    let mut wait = RETRY_FIRST;
    while let Some(store) = stores.get(&on.0) {
        let (stirs, mut told) = Stirs::new();
        let Some(mut watching) = store.watch(&on.1, stirs) else { return };
        let why = loop {
            tokio::select! {
                ended = &mut watching => break ended.err(),
                () = told.heard() => {
                    wait = RETRY_FIRST;
                    let _ = news.send(Stir { on: on.clone(), tells: true });
                }
            }
        };
        if let Some(why) = why {
            tracing::debug!(backend = %on.0, resource = %on.1, %why, "no notices");
        }
        let _ = news.send(Stir { on: on.clone(), tells: false });
        if clock::pause(wait).await.is_err() {
            return;
        }
        wait = (wait * 2).min(RETRY_MAX);
    }
}
