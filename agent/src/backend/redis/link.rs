//! What the connection to a Redis is: how it is made and greeted, and what is said over it. See
//! `backend::line` for when it is made and given up.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ProtocolVersion, PushInfo, RedisConnectionInfo, Value};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::UnixStream;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::super::RefusedKind;
use super::super::line::{self, Dial};
use super::super::socket::{Stream, tcp};
use super::super::tls::Tls;
use super::place::Place;
use super::refusal::Trouble;
use super::sentinel::Sentinels;

/// Longest time to connect, greet and log in: below the longest attempt, so that a store that
/// swallows everything is still told from one that may have done something.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(3);

/// What to do about a port that speaks no TLS; it may also wait for the end of a command that our
/// greeting seems to begin.
const PLAIN: &str = "; rediss:// is with TLS: if that port speaks none, write redis://";

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

/// The connection of one store.
pub(super) type Line = line::Line<Server>;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Calls,
    /// To be told of what changes: by RESP3, since only that has messages that nobody asked for.
    Notices,
}

/// Notices that one listener may be behind with; whoever is more so looks as if it had heard one.
const NOTICES_MAX: usize = 256;

/// Whom to connect to, and whom that was last time.
#[derive(Debug)]
pub(super) struct Server {
    target: Arc<Target>,
    purpose: Purpose,
    identity: Mutex<Option<String>>,
}

/// A connection that was greeted. The last clone of its `Arc` closes it.
pub(super) struct Link {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
    /// Ends with the connection; none ever come on one for calls.
    notices: broadcast::Receiver<PushInfo>,
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

impl Server {
    pub(super) fn new(target: Arc<Target>, purpose: Purpose) -> Server {
        Server { target, purpose, identity: Mutex::default() }
    }
}

impl Dial for Server {
    type Link = Link;
    type Trouble = Trouble;

    async fn dial(&self) -> Result<Link, Trouble> {
        let doing = match &self.target.sentinels {
            None => format!("connecting to redis at {}", self.target.place),
            Some(sentinels) => format!("connecting to the primary {}", sentinels.service),
        };
        let secs = CONNECT_MAX.as_secs();
        let connected = tokio::time::timeout(CONNECT_MAX, self.target.connect(self.purpose)).await;
        let connected = connected.unwrap_or_else(|_| {
            let hint = if self.target.tls.is_some() { PLAIN } else { "" };
            Err(Trouble::unreachable(format!("no greeting within {secs} s{hint}")))
        });
        let (link, greeting) = connected.map_err(|trouble| trouble.before_any_call(&doing))?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = greeting.run_id;
        Ok(link)
    }

    fn is_open(link: &Link) -> bool {
        link.is_open()
    }

    fn stopping() -> Trouble {
        Trouble::unreachable("the agent is stopping")
    }
}

impl Line {
    /// The run id of the server last connected to.
    pub(super) fn identity(&self) -> Option<String> {
        self.dialler().identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Trouble> {
        let link = self.link().await?;
        let owed = self.owed(&link);
        let answer = link.say(command).await;
        owed.settle(match &answer {
            Ok(_) => true,
            // The primary is elsewhere now, or the password changed: the next call looks anew.
            Err(Trouble::Answered { code, .. }) => {
                !matches!(code.as_str(), "READONLY" | "MOVED" | "NOAUTH")
            }
            Err(_) => false,
        });
        answer
    }
}

impl Link {
    fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }
}

/// What a server says of itself when it is connected to.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    run_id: Option<String>,
}

impl Target {
    /// Connects, logs in and looks whom it met.
    async fn connect(&self, purpose: Purpose) -> Result<(Link, Greeting), Trouble> {
        match &self.sentinels {
            None => self.connect_to(&self.place, purpose).await,
            Some(sentinels) => sentinels.connect(self, purpose).await,
        }
    }

    /// The same with a place that may not be the configured one.
    pub(super) async fn connect_to(
        &self,
        place: &Place,
        purpose: Purpose,
    ) -> Result<(Link, Greeting), Trouble> {
        let link = match purpose {
            Purpose::Calls => self.raw(place).await?,
            Purpose::Notices => self.hearing(place).await?,
        };
        let greeting = self.greet(&link).await?;
        if purpose == Purpose::Notices {
            link.say(redis::cmd("CLIENT").arg("TRACKING").arg("ON")).await?;
        }
        Ok((link, greeting))
    }

    /// A connection that said nothing yet.
    pub(super) async fn raw(&self, place: &Place) -> Result<Link, Trouble> {
        // Without a user, a password and a database the crate sends nothing of its own.
        let silent = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2);
        let (_, notices) = broadcast::channel(1);
        Link::over(self.stream(place).await?, silent, AsyncConnectionConfig::new(), notices).await
    }

    /// A connection over which the server may say what nobody asked for. It logs in with its first
    /// word: that is not understood from somebody unknown.
    async fn hearing(&self, place: &Place) -> Result<Link, Trouble> {
        let mut info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
        if let Some(password) = &self.password {
            info = info.set_password(password.expose_secret());
            if let Some(username) = &self.username {
                info = info.set_username(username);
            }
        }
        let (tell, notices) = broadcast::channel(NOTICES_MAX);
        let config = AsyncConnectionConfig::new().set_push_sender(tell);
        Link::over(self.stream(place).await?, info, config, notices).await
    }

    async fn stream(&self, place: &Place) -> Result<Box<dyn Stream>, Trouble> {
        let stream = place.stream(self.tls.as_ref()).await;
        stream.map_err(|error| {
            let hint = if is_no_tls(&error) { PLAIN } else { "" };
            Trouble::unreachable(format!("{error}{hint}"))
        })
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
                Ok(Value::VerbatimString { text, .. }) => info.push_str(&text),
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
    async fn over(
        stream: Box<dyn Stream>,
        info: RedisConnectionInfo,
        config: AsyncConnectionConfig,
        notices: broadcast::Receiver<PushInfo>,
    ) -> Result<Link, Trouble> {
        let info = info.set_skip_set_lib_name();
        // The caller's patience is the only one: the crate's own would be half a second.
        let config = config.set_response_timeout(None);
        let made = MultiplexedConnection::new_with_config(&info, stream, config).await;
        let (connection, driver) = made?;
        Ok(Link { connection, driver: tokio::spawn(driver), notices })
    }

    /// What the server says from now on without being asked.
    pub(super) fn notices(&self) -> broadcast::Receiver<PushInfo> {
        self.notices.resubscribe()
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn say(&self, command: &Cmd) -> Result<Value, Trouble> {
        Ok(command.query_async(&mut self.connection.clone()).await?)
    }
}

/// True when the other end answered something that is no TLS.
fn is_no_tls(error: &io::Error) -> bool {
    let of_tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(of_tls, Some(rustls::Error::InvalidMessage(_)))
}

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
