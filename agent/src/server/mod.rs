//! The socket: accepts connections, asks the kernel who they are, and gives each its session.

mod attach;
mod audited;
mod breaking;
pub mod burial;
mod elsewhere;
mod glance;
pub mod listen;
mod log;
mod metrics;
mod overview;
pub mod peer;
mod release;
mod rights;
pub mod service;
mod session;
pub mod stream;
mod terms;
mod told;
mod wait;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stormlock_protocol::frame::Verdict;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::{Facts, Flood};
use crate::clock;
use crate::lease::{SessionId, Uid};
use listen::Listener;
use peer::{Names, Peer, PeerError};
use service::{Caller, Service};
use stream::Stream;

/// Most connections at once: a bastion's shells and jobs many times over, a tenth of a usual fd
/// limit.
const SESSIONS_MAX: usize = 1024;
/// Most connections of one user, so that no user can lock out the others.
const SESSIONS_PER_UID_MAX: usize = 64;
/// The part of the files that this process may have open that may be connections, where these are
/// few: one in so many.
const FILES_PART: usize = 2;
/// And of those connections the part that may be of one user.
const USER_PART: usize = 4;
/// How long a stopping agent lets sessions write their last replies.
const FAREWELL: Duration = Duration::from_secs(2);
/// Longest wait for a session to end after an accept failed for want of descriptors or memory, when
/// trying again at once would only burn the processor that might free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open connections, counted by user.
#[derive(Debug)]
struct Guests {
    max: usize,
    of_one_max: usize,
    by_uid: Mutex<BTreeMap<Uid, usize>>,
    /// Whoever is turned away may come again at once; the log says so only so often.
    turned_away: Mutex<Flood>,
    left: Notify,
}

/// A place among the guests; given up when dropped.
#[derive(Debug)]
struct Seat {
    guests: Arc<Guests>,
    uid: Uid,
}

impl Guests {
    /// Nobody yet, where so many files may be open.
    fn new(files: usize) -> Guests {
        let max = SESSIONS_MAX.min(files / FILES_PART);
        let of_one_max = SESSIONS_PER_UID_MAX.min(max / USER_PART);
        if max < SESSIONS_MAX {
            tracing::info!(
                "this process may open {files} files only, so no more than {max} clients at once \
                 are served, {of_one_max} of one user: raise LimitNOFILE= of the unit, or ulimit -n"
            );
        }
        let (by_uid, turned_away) = (Mutex::default(), Mutex::default());
        Guests { max, of_one_max, by_uid, turned_away, left: Notify::new() }
    }

    /// How many there are.
    fn count(&self) -> usize {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// A seat, unless there are too many, in all or of this user.
    fn admit(self: &Arc<Guests>, uid: Uid) -> Option<Seat> {
        let mut by_uid = self.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = by_uid.values().sum();
        let own = by_uid.get(&uid).copied().unwrap_or(0);
        if all >= self.max || own >= self.of_one_max {
            return None;
        }
        by_uid.insert(uid, own + 1);
        Some(Seat { guests: Arc::clone(self), uid })
    }

    fn log_turned_away(&self, uid: Uid, why: &str) {
        let mut turned_away = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(untold) = turned_away.pass(uid, clock::now()) {
            tracing::warn!(uid = uid.0, why, untold, "a client was turned away");
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut by_uid = self.guests.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = by_uid.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                by_uid.remove(&self.uid);
            }
        }
        self.guests.left.notify_one();
    }
}

/// Accepts until `stopping` says so; then waits a little for the sessions to say their last word.
pub async fn serve(listener: Listener, service: Arc<Service>, mut stopping: watch::Receiver<bool>) {
    let sessions = TaskTracker::new();
    let guests = Arc::clone(&service.guests);
    let mut last_session = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopping.wait_for(|stops| *stops) => break,
            accepted = accept(&listener) => accepted,
        };
        match accepted {
            Ok(stream) => {
                last_session += 1;
                let id = SessionId(last_session);
                let (service, stopping) = (Arc::clone(&service), stopping.clone());
                sessions.spawn(async move {
                    match admit(&stream, id, &service).await {
                        Ok((arrived, _seat)) => {
                            session::serve(stream, arrived, service, stopping).await;
                        }
                        Err(verdict) => session::turn_away(stream, verdict).await,
                    }
                });
                // Whoever is turned away goes before the next comes in: a queue of them has not
                // all of its descriptors open at once.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                let _ = tokio::time::timeout(ACCEPT_PAUSE, guests.left.notified()).await;
            }
        }
    }
    // No new connection is refused by a silent queue: the socket is gone before the last words.
    let last = listener.once_more();
    drop(listener);
    let _ = last.map(burial::bury);
    sessions.close();
    let _ = tokio::time::timeout(FAREWELL, sessions.wait()).await;
}

async fn accept(listener: &Listener) -> io::Result<Stream> {
    burial::has_room().await;
    listener.accept().await
}

/// Somebody who connected.
#[derive(Debug)]
struct Arrived {
    caller: Caller,
    /// Of one who is still to be traced ([`Arrived::trace`]).
    untraced: Option<Peer>,
}

impl Arrived {
    /// Fills in what `/proc` says of the process, at once, since it might be gone later. It takes
    /// longer than all else that a prompt waits for, so one is traced only if it stays.
    async fn trace(&mut self, names: &Names) {
        if let Some(peer) = self.untraced.take() {
            let (login, unit) = names.trace(&peer).await;
            let facts = Facts::clone(&self.caller.facts);
            self.caller.facts = Arc::new(Facts { login, unit, ..facts });
        }
    }
}

/// Who connected, and their seat, unless they are to be turned away.
async fn admit(
    stream: &Stream,
    session: SessionId,
    service: &Service,
) -> Result<(Arrived, Seat), Verdict> {
    let Service { guests, names, .. } = service;
    let denied = |error: PeerError| {
        guests.log_turned_away(error.uid(), &error.to_string());
        Verdict::Denied
    };
    let uid = names.uid(stream).map_err(denied)?;
    // Before anything is looked up that takes its time: those who wait for it have a seat each.
    let Some(seat) = guests.admit(uid) else {
        guests.log_turned_away(uid, "too many sessions");
        return Err(Verdict::TooMany);
    };
    let peer = names.identify(stream).await.map_err(denied)?;
    let who = peer.who.clone();
    let facts = Arc::new(Facts {
        principal: service.config().principal(&who),
        uid: who.uid,
        user: who.user.clone(),
        login: None,
        // Zero stands for a process of another namespace.
        pid: u32::try_from(peer.pid).ok().filter(|pid| *pid != 0),
        unit: None,
    });
    let caller = Caller { who, session, hung_up: CancellationToken::new(), facts };
    let mut arrived = Arrived { caller, untraced: Some(peer) };
    if !session::is_glance(&stream.ahead(session::GLANCE_MAX)) {
        arrived.trace(names).await;
    }
    Ok((arrived, seat))
}
