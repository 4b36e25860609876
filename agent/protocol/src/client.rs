//! A blocking client of the agent: one typed method per request.
//!
//! It waits no longer than it was told to, it never retries, and it starts nothing.

mod line;
mod patience;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::line::{Line, Slow};
use self::patience::Patience;
use crate::RELEASED_MAX;
use crate::SOCKET_PATH_MAX;
use crate::frame::{self, FrameError, HEADER_LEN, Hello, Verdict, WELCOME_LEN, Welcome};
use crate::message::{
    Acquire, Attach, Break, Broken, Cursor, Event, Finding, Glance, IsHeld, Lease, List, Lock, Log,
    LogCursor, Logged, Refusal, Release, Released, Renew, Reply, Request, Status, Target, Unread,
    Wait, Waiting,
};
use crate::name::{LeaseId, Resource};
use crate::process::Process;
use crate::{PROTOCOL_MAX, PROTOCOL_MIN};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the socket is absent or refuses.
    #[error("no agent listens on {}", path.display())]
    NoAgent {
        /// The socket that was tried.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket may not be used by this user.
    #[error("may not use the agent's socket {}", path.display())]
    NoAccess {
        /// The socket that was tried.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No socket can have such a path.
    #[error("{} is longer than a socket's path can be ({SOCKET_PATH_MAX} bytes)", .0.display())]
    LongPath(PathBuf),
    /// The agent did not answer in the time allowed.
    #[error("the agent did not answer within {} ms", .0.as_millis())]
    Mute(Duration),
    /// The agent refused the greeting.
    #[error("the agent refused the greeting")]
    Greeting(Welcome),
    /// The agent closed the connection before it answered: what was asked may have happened.
    #[error("the agent closed the connection before it answered")]
    Closed,
    /// The connection failed: what was asked may have happened.
    #[error("talking to the agent")]
    Io(#[source] io::Error),
    /// Bytes that are no message.
    #[error("talking to the agent")]
    Frame(#[from] FrameError),
    /// A reply to another question: a bug on one side.
    #[error("the agent answered another question than was asked")]
    WrongReply,
    /// The agent said no.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

/// A page of locks: see [`Reply::Locks`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locks {
    /// Sorted by backend, then resource.
    pub locks: Vec<Lock>,
    /// Where the next page begins.
    pub next: Option<Cursor>,
    /// Backends that could not be read.
    pub unread: Vec<Unread>,
}

/// One connection to the agent.
#[derive(Debug)]
pub struct Client {
    line: Line,
    welcome: Option<Welcome>,
    patience: Duration,
    /// How much later than the end of a wait its answer may come.
    wait_slack: Option<Duration>,
}

/// A glance that was asked for; its time runs since then.
#[derive(Debug)]
pub struct AskedGlance {
    client: Client,
    sent: Sent,
}

impl AskedGlance {
    /// Waits for it.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn answer(mut self) -> Result<Glance, ClientError> {
        match self.client.answer(self.sent)? {
            Reply::Glance(glance) => Ok(glance),
            other => Err(unexpected(other)),
        }
    }
}

/// A request on its way, or one that could not be written.
#[derive(Debug)]
struct Sent {
    written: Result<(), ClientError>,
    patience: Patience,
}

impl Client {
    /// Connects, and will wait at most `patience` for the connection and for each reply.
    ///
    /// # Errors
    /// [`ClientError::NoAgent`], [`ClientError::NoAccess`], [`ClientError::LongPath`],
    /// [`ClientError::Mute`] when the agent's backlog is full all that time, [`ClientError::Io`].
    pub fn connect(path: &Path, patience: Duration) -> Result<Client, ClientError> {
        let line = Line::connect(path, patience)?;
        Ok(Client { line, welcome: None, patience, wait_slack: None })
    }

    /// Changes how long each later reply may take.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Bounds each wait that has an end: its answer may come so much later, and the first word of
    /// it is waited for no longer either. Otherwise an agent that hangs is waited for without end.
    pub fn bound_waits(&mut self, slack: Duration) {
        self.wait_slack = Some(slack);
    }

    /// Has `tell` called with `socket`, once, when the first word of an answer takes longer than
    /// `after`.
    pub fn tell_if_slow(&mut self, after: Duration, socket: PathBuf, tell: fn(&Path)) {
        self.line.slow = Some(Slow { after, socket, tell });
    }

    /// The agent's welcome, once a first question was answered.
    #[must_use]
    pub fn welcome(&self) -> Option<Welcome> {
        self.welcome
    }

    /// See [`Request::Acquire`].
    ///
    /// # Errors
    /// Any [`ClientError`]; unless it is `Refused`, the outcome is unknown.
    pub fn acquire(&mut self, ask: Acquire) -> Result<Vec<Lease>, ClientError> {
        self.acquire_waiting(ask, |_| {})
    }

    /// The same, and `waits` is told what for, if it waits. It takes as long as that takes:
    /// patience then bounds its beginning only.
    ///
    /// # Errors
    /// As [`Client::acquire`].
    pub fn acquire_waiting(
        &mut self,
        ask: Acquire,
        waits: impl FnMut(Waiting),
    ) -> Result<Vec<Lease>, ClientError> {
        let limit = self.limit(ask.wait);
        match self.ask_and_wait(&Request::Acquire(ask), limit, waits)? {
            Reply::Acquired(leases) => Ok(leases),
            other => Err(unexpected(other)),
        }
    }

    /// See [`Request::Wait`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn wait(
        &mut self,
        resource: Resource,
        wait: Wait,
        waits: impl FnMut(Waiting),
    ) -> Result<(), ClientError> {
        let limit = self.limit(wait);
        match self.ask_and_wait(&Request::Wait { resource, wait }, limit, waits)? {
            Reply::Current(None) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// See [`Request::Attach`].
    ///
    /// # Errors
    /// Any [`ClientError`]; unless it is `Refused`, the outcome is unknown.
    pub fn attach(
        &mut self,
        leases: Vec<Target>,
        attach: Attach,
    ) -> Result<Vec<Lease>, ClientError> {
        match self.ask(&Request::Attach { leases, attach })? {
            Reply::Acquired(leases) => Ok(leases),
            other => Err(unexpected(other)),
        }
    }

    /// See [`Request::Share`].
    ///
    /// # Errors
    /// Any [`ClientError`]; unless it is `Refused`, the outcome is unknown.
    pub fn share(
        &mut self,
        leases: Vec<Target>,
        process: Process,
    ) -> Result<Vec<Lease>, ClientError> {
        match self.ask(&Request::Share { leases, process })? {
            Reply::Acquired(leases) => Ok(leases),
            other => Err(unexpected(other)),
        }
    }

    /// See [`Request::Release`].
    ///
    /// # Errors
    /// Any [`ClientError`]; unless it is `Refused`, the outcome is unknown.
    pub fn release(&mut self, ask: Release) -> Result<Vec<Released>, ClientError> {
        let is_all = ask == Release::All;
        let request = Request::Release(ask);
        let mut outcomes = Vec::new();
        loop {
            let some = match self.ask(&request)? {
                Reply::Released(some) => some,
                other => return Err(unexpected(other)),
            };
            let is_told =
                |it: &Released| outcomes.iter().any(|told: &Released| told.lease == it.lease);
            let is_last = !is_all || some.len() < RELEASED_MAX || some.iter().all(is_told);
            // What was refused is told again by each reply.
            outcomes.retain(|told: &Released| some.iter().all(|it| it.lease != told.lease));
            outcomes.extend(some);
            if is_last {
                return Ok(outcomes);
            }
        }
    }

    /// See [`Request::Renew`].
    ///
    /// # Errors
    /// Any [`ClientError`]; unless it is `Refused`, the outcome is unknown.
    pub fn renew(&mut self, ask: Renew) -> Result<Lease, ClientError> {
        match self.ask(&Request::Renew(ask))? {
            Reply::Renewed(lease) => Ok(lease),
            other => Err(unexpected(other)),
        }
    }

    /// See [`Request::Break`].
    ///
    /// # Errors
    /// Any [`ClientError`]; unless it is `Refused`, the outcome is unknown.
    pub fn break_lease(&mut self, ask: Break) -> Result<Broken, ClientError> {
        match self.ask(&Request::Break(ask))? {
            Reply::Broken(broken) => Ok(broken),
            other => Err(unexpected(other)),
        }
    }

    /// See [`Request::Current`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn current(&mut self, resource: Resource) -> Result<Option<Lock>, ClientError> {
        match self.ask(&Request::Current(resource))? {
            Reply::Current(lock) => Ok(lock),
            other => Err(unexpected(other)),
        }
    }

    /// See [`Request::IsHeld`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn is_held(&mut self, ask: IsHeld) -> Result<(bool, Option<Lock>), ClientError> {
        match self.ask(&Request::IsHeld(ask))? {
            Reply::Verdict { held, lock } => Ok((held, lock)),
            other => Err(unexpected(other)),
        }
    }

    /// One page; see [`Request::List`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn list(&mut self, ask: List) -> Result<Locks, ClientError> {
        match self.ask(&Request::List(ask))? {
            Reply::Locks { locks, next, unread } => Ok(Locks { locks, next, unread }),
            other => Err(unexpected(other)),
        }
    }

    /// One page; see [`Request::Status`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn status(&mut self, after: Option<LeaseId>) -> Result<Status, ClientError> {
        match self.ask(&Request::Status { after })? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(other)),
        }
    }

    /// See [`Request::Doctor`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn doctor(&mut self) -> Result<Vec<Finding>, ClientError> {
        match self.ask(&Request::Doctor)? {
            Reply::Findings(findings) => Ok(findings),
            other => Err(unexpected(other)),
        }
    }

    /// One page, the latest events first, and where the next begins; see [`Request::Log`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn log(&mut self, ask: Log) -> Result<(Vec<Logged>, Option<LogCursor>), ClientError> {
        match self.ask(&Request::Log(ask))? {
            Reply::Log { events, next } => Ok((events, next)),
            other => Err(unexpected(other)),
        }
    }

    /// See [`Request::Metrics`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn metrics(&mut self) -> Result<String, ClientError> {
        match self.ask(&Request::Metrics)? {
            Reply::Metrics(text) => Ok(text),
            other => Err(unexpected(other)),
        }
    }

    /// See [`Request::Glance`]. An agent that slept takes about as long to wake as its client takes
    /// to do whatever else it has to do: that is best done before the answer is waited for.
    ///
    /// # Errors
    /// [`ClientError::Frame`].
    pub fn ask_glance(mut self) -> Result<AskedGlance, ClientError> {
        let sent = self.send(&Request::Glance, Patience::new(self.patience))?;
        Ok(AskedGlance { client: self, sent })
    }

    /// Turns the session into an event stream and gives its first event; the rest come from
    /// [`Client::next_event`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn subscribe(&mut self) -> Result<Event, ClientError> {
        match self.ask(&Request::Subscribe)? {
            Reply::Event(event) => Ok(event),
            other => Err(unexpected(other)),
        }
    }

    /// Asks a stream for the whole state once more and gives its first event. Changes that were
    /// told before are passed over: that state has them.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn subscribe_anew(&mut self) -> Result<Event, ClientError> {
        let mut event = self.subscribe()?;
        let patience = Patience::new(self.patience);
        while event != Event::Anew {
            event = self.event(Some(patience))?;
        }
        self.event(Some(patience))
    }

    /// The next event of a stream. Waits for ever with `None`.
    ///
    /// # Errors
    /// Any [`ClientError`]; `Mute` when no whole event came in `patience`: the next call goes on
    /// where this one stopped.
    pub fn next_event(&mut self, patience: Option<Duration>) -> Result<Event, ClientError> {
        self.event(patience.map(Patience::new))
    }

    fn event(&mut self, patience: Option<Patience>) -> Result<Event, ClientError> {
        match self.read_reply(patience)? {
            Reply::Event(event) => Ok(event),
            other => Err(unexpected(other)),
        }
    }

    fn ask_and_wait(
        &mut self,
        request: &Request,
        limit: Option<Duration>,
        mut waits: impl FnMut(Waiting),
    ) -> Result<Reply, ClientError> {
        let whole = limit.map(Patience::new);
        let first = limit.map_or(self.patience, |limit| limit.min(self.patience));
        let mut reply = self.ask_within(request, Patience::new(first))?;
        // From here on the agent has said why it takes long.
        let slow = self.line.slow.take();
        while let Reply::Waiting(waiting) = reply {
            waits(waiting);
            reply = self.read_reply(whole)?;
        }
        self.line.slow = slow;
        Ok(reply)
    }

    /// The longest that the answer to a question with this wait may take.
    fn limit(&self, wait: Wait) -> Option<Duration> {
        match wait {
            Wait::No | Wait::Forever => None,
            Wait::For(secs) => Some(Duration::from_secs(secs.into()) + self.wait_slack?),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        self.ask_within(request, Patience::new(self.patience))
    }

    fn ask_within(&mut self, request: &Request, patience: Patience) -> Result<Reply, ClientError> {
        let sent = self.send(request, patience)?;
        self.answer(sent)
    }

    fn send(&mut self, request: &Request, patience: Patience) -> Result<Sent, ClientError> {
        let frame = frame::encode(request)?;
        let written = if self.welcome.is_some() {
            self.line.write(&frame, &patience)
        } else {
            let mut first = Hello::OURS.encode().to_vec();
            first.extend_from_slice(&frame);
            self.line.write(&first, &patience)
        };
        Ok(Sent { written, patience })
    }

    fn answer(&mut self, Sent { written, patience }: Sent) -> Result<Reply, ClientError> {
        if self.welcome.is_some() {
            written?;
        } else {
            // A refused greeting closes the connection while we still write: the answer that says
            // why is already on its way, so it is read before the broken pipe is believed.
            let welcome = match (self.read_welcome(&patience), written) {
                (Ok(welcome), _) => welcome,
                (Err(_), Err(unwritten)) => return Err(unwritten),
                (Err(unread), Ok(())) => return Err(unread),
            };
            // One that chose what this side never offered is not to be understood either.
            let ours = PROTOCOL_MIN..=PROTOCOL_MAX;
            if !matches!(welcome.verdict, Verdict::Speak(chosen) if ours.contains(&chosen)) {
                return Err(ClientError::Greeting(welcome));
            }
            self.welcome = Some(welcome);
        }
        self.read_reply(Some(patience))
    }

    fn read_welcome(&mut self, patience: &Patience) -> Result<Welcome, ClientError> {
        let mut bytes = [0; WELCOME_LEN];
        bytes.copy_from_slice(self.line.look(WELCOME_LEN, Some(patience))?);
        self.line.pass(WELCOME_LEN);
        Ok(Welcome::decode(&bytes)?)
    }

    fn read_reply(&mut self, patience: Option<Patience>) -> Result<Reply, ClientError> {
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(self.line.look(HEADER_LEN, patience.as_ref())?);
        let whole = HEADER_LEN + frame::body_len(header)?;
        let reply = frame::decode(&self.line.look(whole, patience.as_ref())?[HEADER_LEN..]);
        self.line.pass(whole);
        Ok(reply?)
    }
}

fn unexpected(reply: Reply) -> ClientError {
    match reply {
        Reply::Refused(refusal) => ClientError::Refused(refusal),
        _ => ClientError::WrongReply,
    }
}
