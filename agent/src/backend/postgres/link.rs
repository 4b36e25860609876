//! Connections: each lent to one call at a time, kept if it was answered, and given up if an answer
//! is owed.
//!
//! An abandoned call leaves bytes on their way. Its connection is closed by a reset (SO_LINGER 0):
//! what a silent network still holds then never arrives, and what arrived without its COMMIT is
//! rolled back. No retries and no timers here, but the bound on connecting. No cancel requests:
//! one that comes late would hit another call.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, oneshot};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::RefusedKind;
use super::super::socket::tcp;
use super::super::tls::Tls;
use super::passfile::Passfile;
use super::place::Place;
use super::refusal::Trouble;

/// Longest time to connect and log in, wherever: below the longest attempt, so that a store that
/// swallows everything is still told from one that may have done something.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Most connections of one store at once; further calls wait. A fleet of agents shares the server's
/// `max_connections`, which is 100 unless somebody raised it.
const CONNECTIONS_MAX: usize = 4;
/// Connections kept while nothing is asked: renewals come one by one.
const IDLE_MAX: usize = 2;
/// Notices that one listener may be behind with; whoever is more so looks as if it had heard one.
const NOTICES_MAX: usize = 256;
/// Where the server warns that a commit may be on no standby; the words are in its language.
const NO_STANDBY: &str = "SyncRepWaitForLSN";

/// How to make a connection.
#[derive(Debug)]
pub(super) struct Target {
    /// Never empty.
    pub(super) places: Vec<Place>,
    pub(super) database: String,
    pub(super) username: String,
    pub(super) password: Option<SecretString>,
    pub(super) passfile: Option<Passfile>,
    /// For the places that want it.
    pub(super) tls: Option<Tls>,
    /// Every place wants TLS, or none; otherwise those elsewhere.
    pub(super) tls_everywhere: Option<bool>,
}

/// The connections of one store, made when they are needed.
#[derive(Debug, Clone)]
pub(super) struct Line(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    target: Target,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Link>>,
    identity: Mutex<Option<String>>,
    /// The place that last answered as a primary: after a failover the dead one is not asked first.
    preferred: AtomicUsize,
}

/// A connection that was greeted.
pub(super) struct Link {
    pub(super) client: Client,
    driver: JoinHandle<()>,
    doubt: Arc<AtomicBool>,
    /// What the server was asked to tell of; ends with the connection.
    notices: broadcast::Receiver<String>,
}

/// A connection lent to one call. It goes back only if all its answers came.
pub(super) struct Lent {
    link: Option<Link>,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
    pub(super) is_answered: bool,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("is_open", &self.is_open()).finish()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Drops the socket with whatever is unsent or unanswered.
        self.driver.abort();
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(link) = self.link.take().filter(|_| self.is_answered) {
            self.shared.keep(link);
        }
    }
}

impl Lent {
    pub(super) fn link(&self) -> Result<&Link, Trouble> {
        self.link.as_ref().ok_or_else(|| Trouble::unreachable("the connection is gone"))
    }
}

impl Line {
    pub(super) fn new(target: Target) -> Line {
        Line(Arc::new(Shared {
            target,
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            idle: Mutex::default(),
            identity: Mutex::default(),
            preferred: AtomicUsize::new(0),
        }))
    }

    /// The server last connected to.
    pub(super) fn identity(&self) -> Option<String> {
        self.0.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection for no call, over and above theirs.
    pub(super) async fn another(&self) -> Result<Link, Trouble> {
        self.0.connect().await
    }

    /// A connection for one call.
    pub(super) async fn lend(&self) -> Result<Lent, Trouble> {
        let stopping = |_| Trouble::unreachable("the agent is stopping");
        let permit = Arc::clone(&self.0.permits).acquire_owned().await.map_err(stopping)?;
        let link = match self.0.take() {
            Some(link) => link,
            None => self.connect().await?,
        };
        let shared = Arc::clone(&self.0);
        Ok(Lent { link: Some(link), shared, _permit: permit, is_answered: false })
    }

    /// The task that connects belongs to no call: what a caller with little patience began is there
    /// for the next one.
    async fn connect(&self) -> Result<Link, Trouble> {
        let (done, connected) = oneshot::channel();
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            if let Err(Ok(unwanted)) = done.send(shared.connect().await) {
                shared.keep(unwanted);
            }
        });
        connected.await.unwrap_or_else(|_| Err(Trouble::unreachable("the agent is stopping")))
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Link>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Link> {
        let mut idle = self.idle();
        idle.retain(Link::is_open);
        idle.pop()
    }

    fn keep(&self, link: Link) {
        let mut idle = self.idle();
        if link.is_open() && idle.len() < IDLE_MAX {
            idle.push(link);
        }
    }

    /// Asks one place after the other for a primary.
    async fn connect(&self) -> Result<Link, Trouble> {
        let places = &self.target.places;
        let count = places.len();
        let each = CONNECT_MAX / u32::try_from(count).unwrap_or(u32::MAX);
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = None;
        for at in (0..count).map(|step| (first + step) % count) {
            let Some(place) = places.get(at) else { continue };
            let late = |_| Err(Trouble::unreachable(format!("no greeting within {each:?}")));
            let met = tokio::time::timeout(each, self.target.connect(place)).await;
            match met.unwrap_or_else(late) {
                Ok((link, identity)) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
                    return Ok(link);
                }
                Err(trouble) => last = Some(worse(last, trouble.at(place))),
            }
        }
        Err(last.unwrap_or_else(|| Trouble::unreachable("there is no host to connect to")))
    }
}

/// Of several hosts' reasons the one that somebody can act upon: one that answered.
fn worse(before: Option<Trouble>, now: Trouble) -> Trouble {
    match before {
        Some(Trouble::NotSent(kind, why)) => match now {
            Trouble::NotSent(RefusedKind::Unreachable, more) => {
                Trouble::NotSent(kind, format!("{why}; {more}"))
            }
            Trouble::NotSent(kind, more) => Trouble::NotSent(kind, format!("{more}; {why}")),
            other => other,
        },
        _ => now,
    }
}

impl Trouble {
    fn at(self, place: &Place) -> Trouble {
        let doing = format!("connecting to postgres at {place}");
        match self {
            Trouble::NotSent(kind, why) => Trouble::NotSent(kind, format!("{doing}: {why}")),
            Trouble::Silence(why) => Trouble::unreachable(format!("{doing}: {why}")),
            Trouble::Answered { text, .. } => Trouble::unreachable(format!("{doing}: {text}")),
        }
    }
}

/// What a server says of itself when it is connected to; the last is null without the rights.
const GREETING: &str =
    "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool";
/// Which cluster, which history of it (a failover starts a new one), which database.
const IDENTITY: &str = "SELECT format('%s/%s/%s', (SELECT system_identifier FROM \
    pg_control_system()), left(pg_walfile_name(pg_current_wal_lsn()), 8), (SELECT oid FROM \
    pg_database WHERE datname = current_database()))";

impl Target {
    async fn connect(&self, place: &Place) -> Result<(Link, Option<String>), Trouble> {
        let link = self.log_in(place).await?;
        let trouble = |error| Trouble::before_any_call(&error);
        let greeting = link.client.query_typed(GREETING, &[]).await.map_err(trouble)?;
        if greeting.first().and_then(|row| row.try_get(0).ok()) != Some(false) {
            let why = "it is a standby or read-only, and locks live on the primary: name the \
                       primary too, as in postgres://HOST1,HOST2/DATABASE";
            return Err(Trouble::NotSent(RefusedKind::NotWritable, why.to_owned()));
        }
        let identity = match link.client.query_typed(IDENTITY, &[]).await {
            Ok(rows) => rows.first().and_then(|row| row.try_get(0).ok()),
            // A user who may not read it may still lock; the server then has no name for us.
            Err(error) if error.as_db_error().is_some() => None,
            Err(error) => return Err(trouble(error)),
        };
        Ok((link, identity))
    }

    async fn log_in(&self, place: &Place) -> Result<Link, Trouble> {
        let mut config = tokio_postgres::Config::new();
        config.user(&self.username).dbname(&self.database).application_name("stormlockd");
        let (database, username) = (&self.database, &self.username);
        let from_file = self.passfile.as_ref().and_then(|it| it.find(place, database, username));
        if let Some(password) = self.password.as_ref().or(from_file.as_ref()) {
            config.password(password.expose_secret());
        }
        let unreachable = |error: io::Error| Trouble::unreachable(error.to_string());
        match place {
            Place::Unix(..) => {
                config.ssl_mode(SslMode::Disable);
                let stream = UnixStream::connect(place.to_string()).await.map_err(unreachable)?;
                Link::over(&config, stream, NoTls).await
            }
            Place::Tcp { host, port } => {
                let stream = tcp(host, *port).await.map_err(unreachable)?;
                let wants_tls = self.tls_everywhere.unwrap_or_else(|| place.is_elsewhere());
                let Some(tls) = self.tls.as_ref().filter(|_| wants_tls) else {
                    config.ssl_mode(SslMode::Disable);
                    return Link::over(&config, stream, NoTls).await;
                };
                config.ssl_mode(SslMode::Require);
                let mut tls = MakeRustlsConnect::new(tls.fresh().await.map_err(unreachable)?);
                let tls = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, host);
                let tls = tls.map_err(|error| Trouble::unreachable(error.to_string()))?;
                Link::over(&config, stream, tls).await
            }
        }
    }
}

impl Link {
    async fn over<S, T>(config: &tokio_postgres::Config, stream: S, tls: T) -> Result<Link, Trouble>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: TlsConnect<S>,
        T::Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connected = config.connect_raw(stream, tls).await;
        let (client, connection) = connected.map_err(|error| Trouble::before_any_call(&error))?;
        let doubt = Arc::new(AtomicBool::new(false));
        let (tell, notices) = broadcast::channel(NOTICES_MAX);
        let driver = tokio::spawn(drive(connection, Arc::clone(&doubt), tell));
        Ok(Link { client, driver, doubt, notices })
    }

    /// What the server tells from now on.
    pub(super) fn notices(&self) -> broadcast::Receiver<String> {
        self.notices.resubscribe()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.driver.is_finished() && !self.client.is_closed()
    }

    /// Whether the server warned since the last time that what it committed may be lost, or that
    /// there was nothing to commit. Its warning comes before the answer to the COMMIT.
    pub(super) fn take_doubt(&self) -> bool {
        self.doubt.swap(false, Ordering::SeqCst)
    }
}

async fn drive<S, T>(
    mut connection: Connection<S, T>,
    doubt: Arc<AtomicBool>,
    tell: broadcast::Sender<String>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    // The calls on it learn of its end by themselves.
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            AsyncMessage::Notice(notice) if is_doubtful(&notice) => {
                doubt.store(true, Ordering::SeqCst);
            }
            AsyncMessage::Notification(told) => {
                let _ = tell.send(told.payload().to_owned());
            }
            _ => {}
        }
    }
}

/// True for the warning that a commit is on no standby, and for one that there is no transaction.
fn is_doubtful(notice: &DbError) -> bool {
    let is_warning = match notice.parsed_severity() {
        Some(severity) => severity == Severity::Warning,
        None => notice.severity() == "WARNING",
    };
    let names_another = notice.routine().is_some_and(|routine| routine != NO_STANDBY);
    let is_of_transaction = notice.code().code().starts_with("25");
    is_warning && (!names_another || is_of_transaction)
}
