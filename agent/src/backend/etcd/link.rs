//! What the connection to a member of an etcd is: how it is made and greeted, and how something is
//! asked over it. See `backend::line` for when it is made and given up; the next one then goes to
//! the next endpoint first. One thing is said twice: what a member refused because its token had
//! run out.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, ResponseHeader};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use tonic::transport::{Endpoint, Uri};

use super::super::RefusedKind;
use super::super::line::{self, Dial};
use super::super::tls::Tls;
use super::place::Place;
use super::refusal::{Trouble, chain};
use super::socket::{Hold, Socket};

/// Longest time to connect, greet and log in, at all endpoints together: below the longest attempt,
/// so that a store that swallows everything is still told from one that may have done something.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How to make a connection.
pub(super) struct Target {
    /// Never empty.
    pub(super) places: Vec<Place>,
    pub(super) tls: Option<Tls>,
    pub(super) login: Option<(String, SecretString)>,
}

/// The connection to one cluster.
pub(super) type Line = line::Line<Members>;

/// Whom to connect to, and what is known of them.
pub(super) struct Members {
    pub(super) target: Arc<Target>,
    /// The endpoint to try first.
    first: AtomicUsize,
    cluster: Mutex<Option<Cluster>>,
    /// The highest revision seen.
    revision: AtomicI64,
}

/// Which cluster it is, and how often it was seen to have forgotten something.
#[derive(Clone, Copy)]
struct Cluster {
    id: u64,
    relapses: u32,
}

/// A connection that was greeted. The last clone of its `Arc` ends it.
pub(super) struct Link {
    pub(super) client: Client,
    hold: Hold,
    /// A login was configured, and the cluster has no users.
    pub(super) login_was_idle: bool,
}

impl Line {
    /// The cluster last connected to. A cluster that was wiped, or restored from a backup, may have
    /// the id that it had: it is noticed by a revision that fell.
    pub(super) fn identity(&self) -> Option<String> {
        let Cluster { id, relapses } = (*self.dialler().cluster())?;
        Some(format!("{id:x}.{relapses}"))
    }

    /// What [`Line::saw`] compares with: to be taken before the question leaves.
    pub(super) fn revision(&self) -> i64 {
        self.dialler().revision.load(Ordering::Acquire)
    }

    /// Takes note of an answer that no stale member can give.
    pub(super) fn saw(&self, before: i64, header: &ResponseHeader) {
        self.dialler().met(header);
        if header.revision() >= before {
            self.dialler().revision.fetch_max(header.revision(), Ordering::AcqRel);
            return;
        }
        self.dialler().revision.store(header.revision(), Ordering::Release);
        if let Some(cluster) = self.dialler().cluster().as_mut() {
            cluster.relapses = cluster.relapses.wrapping_add(1);
        }
    }

    /// Asks a member something and waits for its answer.
    pub(super) async fn ask<T, F>(&self, question: impl FnOnce(Client) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let link = self.link().await?;
        let owed = self.owed(&link);
        let answer = question(link.client.clone()).await.map_err(Trouble::from);
        owed.settle(answer.as_ref().err().is_none_or(Trouble::is_about_the_question));
        answer
    }
}

impl Dial for Members {
    type Link = Link;
    type Trouble = Trouble;

    /// Tries each endpoint once; of several troubles the first that says more than that nobody is
    /// there counts.
    async fn dial(&self) -> Result<Link, Trouble> {
        let places = &self.target.places;
        let count = places.len().max(1);
        let each = CONNECT_MAX / u32::try_from(count).unwrap_or(u32::MAX);
        let first = self.first.load(Ordering::Relaxed);
        let mut trouble = None;
        for turn in 0..count {
            let at = first.wrapping_add(turn) % count;
            let Some(place) = places.get(at) else { continue };
            let connected = tokio::time::timeout(each, self.connect_to(place)).await;
            let connected = connected.unwrap_or_else(|_| {
                let ms = each.as_millis();
                Err(Trouble::unreachable(format!("no greeting within {ms} ms")))
            });
            match connected {
                Ok(link) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(link);
                }
                Err(new) => {
                    let new = new.before_any_call(&format!("connecting to etcd at {place}"));
                    let is_worse =
                        |it: &Trouble| matches!(it, Trouble::NotSent(RefusedKind::Unreachable, _));
                    if trouble.as_ref().is_none_or(is_worse) {
                        trouble = Some(new);
                    }
                }
            }
        }
        Err(trouble.unwrap_or_else(|| Trouble::unreachable("there is no endpoint")))
    }

    fn is_open(link: &Link) -> bool {
        link.hold.is_open()
    }

    fn stopping() -> Trouble {
        Trouble::unreachable("the agent is stopping")
    }

    fn given_up(&self) {
        self.first.fetch_add(1, Ordering::Relaxed);
    }
}

impl Members {
    pub(super) fn new(target: Arc<Target>) -> Members {
        Members {
            target,
            first: AtomicUsize::new(0),
            cluster: Mutex::default(),
            revision: AtomicI64::new(0),
        }
    }

    fn cluster(&self) -> MutexGuard<'_, Option<Cluster>> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect_to(&self, place: &Place) -> Result<Link, Trouble> {
        let connected = Socket::connect(place, self.target.tls.as_ref()).await;
        let (socket, hold) = connected.map_err(|error| Trouble::unreachable(error.to_string()))?;
        let mut client = over(place, socket).await?;
        let login_was_idle = match &self.target.login {
            None => false,
            Some(login) => log_in(&mut client, login).await?,
        };
        match client.status().await.map_err(Trouble::from) {
            Ok(status) if status.leader() == 0 || status.is_learner() => {
                let why =
                    "this member has no leader: its cluster is not up, or it is cut off from it";
                return Err(Trouble::NotSent(RefusedKind::NotWritable, why.to_owned()));
            }
            Ok(status) => status.header().into_iter().for_each(|header| self.met(header)),
            // From 3.5.28 to 3.5.31, and up to 3.6.11, only root may ask that. Which cluster it is
            // the first answer tells; and each question wants a leader.
            Err(trouble) if trouble.is_no_right() => {}
            Err(trouble) => return Err(trouble),
        }
        Ok(Link { client, hold, login_was_idle })
    }

    /// Takes note of which cluster it is.
    fn met(&self, header: &ResponseHeader) {
        let id = header.cluster_id();
        let mut cluster = self.cluster();
        if cluster.is_some_and(|cluster| cluster.id == id) {
            return;
        }
        let relapses = cluster.map_or(0, |cluster| cluster.relapses);
        self.revision.store(0, Ordering::Release);
        *cluster = Some(Cluster { id, relapses });
    }
}

/// The library's client over a socket of ours. It may want another one after the first broke:
/// there is none.
async fn over(place: &Place, socket: Socket) -> Result<Client, Trouble> {
    let only = Mutex::new(Some(socket));
    let connector = tower::service_fn(move |_: Uri| {
        let socket = only.lock().unwrap_or_else(PoisonError::into_inner).take();
        let socket = socket.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(socket.map(TokioIo::new))
    });
    let endpoint = Endpoint::from_shared(place.origin())
        .map_err(|error| Trouble::unreachable(chain(&error)))?;
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|error| Trouble::unreachable(chain(&error)))?;
    let options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
    Ok(Client::from_channel(Channel::Tonic(channel), Some(options)).await?)
}

/// Gets a token; true when the cluster has no users, and so takes everybody.
async fn log_in(client: &mut Client, login: &(String, SecretString)) -> Result<bool, Trouble> {
    let (user, password) = (login.0.clone(), login.1.expose_secret().to_owned());
    match client.update_user(Some((user, password))).await.map_err(Trouble::from) {
        Ok(()) => Ok(false),
        Err(trouble) if trouble.is_no_users() => Ok(true),
        Err(trouble) => Err(trouble),
    }
}
