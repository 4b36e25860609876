//! A blocking client of the agent: one typed method per request.
//!
//! It waits no longer than it was told to, it never retries, and it starts nothing.

mod patience;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use interprocess::ConnectWaitMode;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, Stream, prelude::*};

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
    stream: Stream,
    welcome: Option<Welcome>,
    patience: Duration,
    /// What has come of the next reply: a wait may end in the midst of it.
    arrived: Vec<u8>,
    slow: Option<Slow>,
    /// How much later than the end of a wait its answer may come.
    wait_slack: Option<Duration>,
}

/// Who is told, once, that an answer takes longer than this.
#[derive(Debug)]
struct Slow {
    after: Duration,
    socket: PathBuf,
    tell: fn(&Path),
}

impl Client {
    /// Connects, and will wait at most `patience` for the connection and for each reply.
    ///
    /// # Errors
    /// [`ClientError::NoAgent`], [`ClientError::NoAccess`], [`ClientError::LongPath`],
    /// [`ClientError::Mute`] when the agent's backlog is full, [`ClientError::Io`].
    pub fn connect(path: &Path, patience: Duration) -> Result<Client, ClientError> {
        if path.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(ClientError::LongPath(path.to_owned()));
        }
        let name = path.to_fs_name::<GenericFilePath>().map_err(ClientError::Io)?;
        let connected = ConnectOptions::new()
            .name(name)
            .wait_mode(ConnectWaitMode::Timeout(patience))
            .connect_sync();
        let stream = connected.map_err(|source| connect_error(path, patience, source))?;
        let (welcome, arrived, slow, wait_slack) = (None, Vec::new(), None, None);
        Ok(Client { stream, welcome, patience, arrived, slow, wait_slack })
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
        self.slow = Some(Slow { after, socket, tell });
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

    /// See [`Request::Glance`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn glance(&mut self) -> Result<Glance, ClientError> {
        match self.ask(&Request::Glance)? {
            Reply::Glance(glance) => Ok(glance),
            other => Err(unexpected(other)),
        }
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
        let slow = self.slow.take();
        while let Reply::Waiting(waiting) = reply {
            waits(waiting);
            reply = self.read_reply(whole)?;
        }
        self.slow = slow;
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
        let frame = frame::encode(request)?;
        if self.welcome.is_some() {
            self.write(&frame, &patience)?;
        } else {
            let mut first = Hello::OURS.encode().to_vec();
            first.extend_from_slice(&frame);
            // A refused greeting closes the connection while we still write: the answer that says
            // why is already on its way, so it is read before the broken pipe is believed.
            let written = self.write(&first, &patience);
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
        self.read(&mut bytes, Some(patience))?;
        Ok(Welcome::decode(&bytes)?)
    }

    fn read_reply(&mut self, patience: Option<Patience>) -> Result<Reply, ClientError> {
        self.arrive(HEADER_LEN, patience.as_ref())?;
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&self.arrived[..HEADER_LEN]);
        self.arrive(HEADER_LEN + frame::body_len(header)?, patience.as_ref())?;
        let whole = std::mem::take(&mut self.arrived);
        Ok(frame::decode(&whole[HEADER_LEN..])?)
    }

    /// Reads on until so many bytes of the next reply are there.
    fn arrive(&mut self, count: usize, within: Option<&Patience>) -> Result<(), ClientError> {
        while self.arrived.len() < count {
            let mut piece = vec![0; count - self.arrived.len()];
            let length = self.read_some(&mut piece, within)?;
            self.arrived.extend_from_slice(&piece[..length]);
        }
        Ok(())
    }

    fn read(&mut self, mut into: &mut [u8], within: Option<&Patience>) -> Result<(), ClientError> {
        while !into.is_empty() {
            let length = self.read_some(into, within)?;
            into = &mut into[length..];
        }
        Ok(())
    }

    /// Reads what there is, at least one byte.
    fn read_some(
        &mut self,
        into: &mut [u8],
        within: Option<&Patience>,
    ) -> Result<usize, ClientError> {
        loop {
            let left = within.map(|patience| self.next_look(patience)).transpose()?;
            self.stream.set_recv_timeout(left).map_err(ClientError::Io)?;
            match self.stream.read(into) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(length) => return Ok(length),
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(io_error(e)),
            }
        }
    }

    /// How long to wait before the next look at what is left of the patience.
    fn next_look(&mut self, patience: &Patience) -> Result<Duration, ClientError> {
        let left = patience.left()?;
        let Some(slow) = self.slow.take() else { return Ok(left) };
        let passed = patience.limit.saturating_sub(left);
        match slow.after.checked_sub(passed) {
            Some(rest) if !rest.is_zero() => {
                self.slow = Some(slow);
                Ok(left.min(rest))
            }
            _ => {
                (slow.tell)(&slow.socket);
                Ok(left)
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8], within: &Patience) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            self.stream.set_send_timeout(Some(within.left()?)).map_err(ClientError::Io)?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => bytes = &bytes[count..],
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(io_error(e)),
            }
        }
        Ok(())
    }
}

fn connect_error(path: &Path, patience: Duration, source: io::Error) -> ClientError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NoAgent { path, source }
        }
        io::ErrorKind::PermissionDenied => ClientError::NoAccess { path, source },
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ClientError::Mute(patience),
        _ => ClientError::Io(source),
    }
}

fn is_pause(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

fn io_error(error: io::Error) -> ClientError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error.kind() {
        BrokenPipe | ConnectionReset => ClientError::Closed,
        _ => ClientError::Io(error),
    }
}

fn unexpected(reply: Reply) -> ClientError {
    match reply {
        Reply::Refused(refusal) => ClientError::Refused(refusal),
        _ => ClientError::WrongReply,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    /// Long enough for what is there, short enough to wait for what is not.
    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn an_event_that_comes_in_pieces_is_whole_when_the_first_wait_for_it_ended_between_them() {
        let path = std::env::temp_dir().join(format!("stormlock-client-{}", std::process::id()));
        let listener = UnixListener::bind(&path).expect("a socket");
        let mut client = Client::connect(&path, LONG).expect("somebody listens");
        let (mut agent, _) = listener.accept().expect("the client");
        std::fs::remove_file(&path).expect("its file");
        let event = frame::encode(&Reply::Event(Event::Caught)).expect("a frame");
        let (go_on, waits) = channel();
        let served = thread::spawn(move || {
            for at in 1..event.len() {
                for piece in [&event[..at], &event[at..]] {
                    agent.write_all(piece).expect("it listens");
                    waits.recv().expect("it goes on");
                }
            }
            agent
        });
        for _ in 1..frame::encode(&Reply::Event(Event::Caught)).expect("a frame").len() {
            assert!(matches!(client.next_event(Some(SHORT)), Err(ClientError::Mute(_))));
            go_on.send(()).expect("the agent is there");
            assert_eq!(client.next_event(Some(LONG)).expect("an event"), Event::Caught);
            go_on.send(()).expect("the agent is there");
        }
        drop(served.join().expect("it wrote all"));
    }
}
