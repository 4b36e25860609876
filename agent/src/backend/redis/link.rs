//! One connection: made once, by one task at a time, and given up as soon as an answer is owed.
//!
//! An abandoned call leaves bytes on their way. After it no call uses that connection any more, and
//! the last one that waits on it closes it by a reset (SO_LINGER 0): what a silent network still
//! holds then never arrives (a plain close would deliver it late). No retries and no timers here,
//! but the bound on connecting.

use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ProtocolVersion, RedisConnectionInfo, Value};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::RefusedKind;
use super::super::tls::Tls;
use super::place::Place;
use super::refusal::Trouble;
use super::sentinel::Sentinels;

/// Longest time to connect, greet and log in: below the longest attempt, so that a store that
/// swallows everything is still told from one that may have done something.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(3);
/// An idle connection is probed after this long, then every [`KEEPALIVE_EVERY`], and is dead after
/// [`KEEPALIVE_TRIES`]: well before the next renewal of a usual lease finds it out.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

/// How to make a connection.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) tls: Option<Tls>,
    pub(super) sentinels: Option<Sentinels>,
    pub(super) db: u32,
    pub(super) username: Option<String>,
    pub(super) password: Option<SecretString>,
}

/// The connection of one store: made when it is needed, and made anew after it failed.
#[derive(Debug, Clone)]
pub(super) struct Line(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    target: Target,
    slot: Mutex<Slot>,
    identity: Mutex<Option<String>>,
}

#[derive(Debug)]
enum Slot {
    Idle,
    Connecting(watch::Receiver<Option<Connected>>),
    Ready(Arc<Link>),
}

type Connected = Result<Arc<Link>, Trouble>;

/// A connection that was greeted. The last clone of its `Arc` closes it.
pub(super) struct Link {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
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

impl Line {
    pub(super) fn new(target: Target) -> Line {
        let (slot, identity) = (Mutex::new(Slot::Idle), Mutex::default());
        Line(Arc::new(Shared { target, slot, identity }))
    }

    /// The run id of the server last connected to.
    pub(super) fn identity(&self) -> Option<String> {
        self.0.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Trouble> {
        let link = self.link().await?;
        let mut owed = Owed { line: self, link: &link, answered: false };
        let answer = link.say(command).await;
        owed.answered = match &answer {
            Ok(_) => true,
            // The primary is elsewhere now, or the password changed: the next call looks anew.
            Err(Trouble::Answered { code, .. }) => {
                !matches!(code.as_str(), "READONLY" | "MOVED" | "NOAUTH")
            }
            Err(_) => false,
        };
        answer
    }

    async fn link(&self) -> Result<Arc<Link>, Trouble> {
        let mut connecting = match self.0.ready_or_connecting() {
            Ok(link) => return Ok(link),
            Err(connecting) => connecting,
        };
        let connected = match connecting.wait_for(Option::is_some).await {
            Ok(connected) => connected.clone(),
            Err(_) => None,
        };
        connected.unwrap_or_else(|| Err(Trouble::unreachable("the agent is stopping")))
    }
}

/// Gives up the connection unless its call was answered; also when the call is dropped.
struct Owed<'a> {
    line: &'a Line,
    link: &'a Arc<Link>,
    answered: bool,
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let mut slot = self.line.0.slot();
        if matches!(&*slot, Slot::Ready(link) if Arc::ptr_eq(link, self.link)) {
            *slot = Slot::Idle;
        }
    }
}

impl Link {
    fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open connection, or the one being made. The task that makes it belongs to no call, so a
    /// caller with little patience does not spoil it for the others.
    fn ready_or_connecting(
        self: &Arc<Shared>,
    ) -> Result<Arc<Link>, watch::Receiver<Option<Connected>>> {
        let mut slot = self.slot();
        match &*slot {
            Slot::Ready(link) if link.is_open() => return Ok(link.clone()),
            // A task that died with its runtime has closed the channel.
            Slot::Connecting(waits) if waits.has_changed().is_ok() => return Err(waits.clone()),
            Slot::Idle | Slot::Ready(_) | Slot::Connecting(_) => {}
        }
        let (done, waits) = watch::channel(None);
        *slot = Slot::Connecting(waits.clone());
        let shared = self.clone();
        tokio::spawn(async move {
            let connected = shared.connect().await;
            *shared.slot() = match &connected {
                Ok(link) => Slot::Ready(link.clone()),
                Err(_) => Slot::Idle,
            };
            let _ = done.send(Some(connected));
        });
        Err(waits)
    }

    async fn connect(&self) -> Connected {
        let doing = match &self.target.sentinels {
            None => format!("connecting to redis at {}", self.target.place),
            Some(sentinels) => format!("connecting to the primary {}", sentinels.service),
        };
        let secs = CONNECT_MAX.as_secs();
        let connected = tokio::time::timeout(CONNECT_MAX, self.target.connect()).await;
        let connected = connected
            .unwrap_or_else(|_| Err(Trouble::unreachable(format!("no greeting within {secs} s"))));
        let (link, greeting) = connected.map_err(|trouble| trouble.before_any_call(&doing))?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = greeting.run_id;
        Ok(Arc::new(link))
    }
}

/// What a server says of itself when it is connected to.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    run_id: Option<String>,
}

impl Target {
    /// Connects, logs in and looks whom it met.
    async fn connect(&self) -> Result<(Link, Greeting), Trouble> {
        match &self.sentinels {
            None => self.connect_to(&self.place).await,
            Some(sentinels) => sentinels.connect(self).await,
        }
    }

    /// The same with a place that may not be the configured one.
    pub(super) async fn connect_to(&self, place: &Place) -> Result<(Link, Greeting), Trouble> {
        let link = self.raw(place).await?;
        let greeting = self.greet(&link).await?;
        Ok((link, greeting))
    }

    /// A connection that said nothing yet.
    pub(super) async fn raw(&self, place: &Place) -> Result<Link, Trouble> {
        let stream = place.stream(self.tls.as_ref()).await;
        Link::over(stream.map_err(|error| Trouble::unreachable(error.to_string()))?).await
    }

    async fn greet(&self, link: &Link) -> Result<Greeting, Trouble> {
        if let Some(password) = &self.password {
            let mut auth = redis::cmd("AUTH");
            if let Some(username) = &self.username {
                auth.arg(username);
            }
            link.say(auth.arg(password.expose_secret())).await?;
        }
        if self.db != 0 {
            link.say(redis::cmd("SELECT").arg(self.db)).await?;
        }
        let mut info = String::new();
        for section in ["server", "replication"] {
            match link.say(redis::cmd("INFO").arg(section)).await {
                Ok(Value::BulkString(text)) => info.push_str(&String::from_utf8_lossy(&text)),
                Ok(_) => {}
                // A user who may not read it may still lock; the server then has no name for us.
                Err(Trouble::Answered { code, .. }) if code == "NOPERM" => {}
                Err(trouble) => return Err(trouble),
            }
        }
        if field(&info, "role") == Some("slave") {
            let host = field(&info, "master_host").unwrap_or("?");
            let port = field(&info, "master_port").unwrap_or("?");
            let why = format!(
                "it is a replica of {host}:{port}, and locks live on the primary: configure the \
                 primary's address, or sentinels"
            );
            return Err(Trouble::NotSent(RefusedKind::NotWritable, why));
        }
        Ok(Greeting { run_id: field(&info, "run_id").map(str::to_owned) })
    }
}

/// One field of INFO.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim_end())
}

impl Link {
    async fn over(stream: Box<dyn Stream>) -> Result<Link, Trouble> {
        // Without a user, a password and a database the crate sends nothing of its own.
        let silent = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        // The caller's patience is the only one: the crate's own would be half a second.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let made = MultiplexedConnection::new_with_config(&silent, stream, config).await;
        let (connection, driver) = made?;
        Ok(Link { connection, driver: tokio::spawn(driver) })
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn say(&self, command: &Cmd) -> Result<Value, Trouble> {
        Ok(command.query_async(&mut self.connection.clone()).await?)
    }
}

/// What a connection runs over.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Place {
    async fn stream(&self, tls: Option<&Tls>) -> io::Result<Box<dyn Stream>> {
        match self {
            Place::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Place::Tcp { host, port } => {
                let stream = tcp(host, *port).await?;
                match tls {
                    None => Ok(Box::new(stream)),
                    Some(tls) => Ok(Box::new(tls.over(stream, host).await?)),
                }
            }
        }
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    use rustix::net::sockopt;

    let stream = pin!(TcpStream::connect((host, port))).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_TRIES)?;
    Ok(stream)
}
