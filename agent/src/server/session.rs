//! One connection: greeting, then one request and one reply at a time, or a stream of events.
//!
//! A client can be slow, mute, gone or hostile; it costs this task and nobody else.

use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use stormlock_protocol::HELLO_SECS;
use stormlock_protocol::frame::{self, FrameError, HELLO_LEN, Hello, Verdict, Welcome};
use stormlock_protocol::message::{Attach, Event, Refusal, Reply, Request};
use stormlock_protocol::name::LeaseId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::bytes::{Buf, BytesMut};
use tokio_util::codec::{Decoder, Encoder, Framed};

use super::Arrived;
use super::service::Service;

/// How long a client may take to read what it asked for, before it is dropped.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the rest of a request may take to come, once it has begun.
const REST_PATIENCE: Duration = Duration::from_secs(5);
/// How soon a prompt's client closes once it has its answer. One that stays longer is traced.
const PROMPT_LEAVES: Duration = Duration::from_millis(20);
/// Requests that a client may send ahead of their answers; it is not read further until then.
const AHEAD_MAX: usize = 16;
/// Most bytes of them before no more is read: one user has many sessions, and the longest requests
/// in all of them would be a large part of a small host's memory.
const AHEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves one connection until either side ends it, or `stopping` says so between two requests.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    arrived: Arrived,
    service: Arc<Service>,
    stopping: watch::Receiver<bool>,
) {
    let Some(welcome) = greet(&mut stream).await else { return };
    let mut frames = Framed::new(stream, Codec);
    frames.write_buffer_mut().extend_from_slice(&welcome.encode());
    let is_prompt = arrived.untraced.is_some();
    let (ahead, fresh) = (Vec::new(), Vec::new());
    let mut session = Session { frames, ahead, arrived, service, stopping, fresh };
    // A prompt hears it together with the answer, and wakes up once for both.
    if !is_prompt && !session.flush().await {
        return;
    }
    let ended = session.run().await;
    session.end(ended).await;
}

/// Says no to a client before it said anything.
pub(super) async fn turn_away<S: AsyncWrite + Unpin>(mut stream: S, verdict: Verdict) {
    let _ = timeout(WRITE_PATIENCE, stream.write_all(&Welcome::refusal(verdict).encode())).await;
}

/// The word of welcome, which is still to be said, when both sides speak the same protocol.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Option<Welcome> {
    let mut hello = [0; HELLO_LEN];
    let read = timeout(Duration::from_secs(HELLO_SECS), stream.read_exact(&mut hello)).await;
    let welcome = match read {
        Ok(Ok(_)) => match Hello::decode(&hello) {
            Ok(hello) => hello.answer(),
            Err(_) => Welcome::refusal(Verdict::Garbage),
        },
        Ok(Err(_)) => return None,
        Err(_) => Welcome::refusal(Verdict::Slow),
    };
    if matches!(welcome.verdict, Verdict::Speak(_)) {
        return Some(welcome);
    }
    let _ = timeout(WRITE_PATIENCE, stream.write_all(&welcome.encode())).await;
    None
}

struct Session<S> {
    frames: Framed<S, Codec>,
    /// Requests that came before the answer to the one in work.
    ahead: Vec<Came>,
    arrived: Arrived,
    service: Arc<Service>,
    stopping: watch::Receiver<bool>,
    /// What the last reply gave; given back if the client was gone before it could read that.
    fresh: Vec<LeaseId>,
}

/// The next request; `None` at the end of the connection, and where the rest of one that has begun
/// does not come in time. Nothing is lost when it is dropped before.
async fn whole<S: AsyncRead + AsyncWrite + Unpin>(
    frames: &mut Framed<S, Codec>,
) -> Option<Result<Came, CodecError>> {
    let mut patience = None;
    poll_fn(|context| {
        if let Poll::Ready(next) = frames.poll_next_unpin(context) {
            return Poll::Ready(next);
        }
        if frames.read_buffer().is_empty() {
            return Poll::Pending;
        }
        let rest = || Box::pin(timeout(REST_PATIENCE, pending::<()>()));
        patience.get_or_insert_with(rest).as_mut().poll(context).map(|_| None)
    })
    .await
}

/// A request that came.
#[derive(Debug)]
struct Came {
    request: Request,
    /// Of the frame.
    length: usize,
}

/// How a conversation ended.
#[derive(Debug)]
enum Ended {
    /// The client closed, spoke no protocol of ours, or lagged behind.
    Closed,
    /// The client was gone before it read the last reply.
    Unread,
    /// The agent stops; that concludes nothing about any lease.
    Stopping,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn run(&mut self) -> Ended {
        loop {
            let request = match self.next_request().await {
                Ok(request) => request,
                Err(ended) => return ended,
            };
            self.fresh.clear();
            if request == Request::Subscribe {
                return self.stream().await;
            }
            let gives = gives(&request);
            let Some(reply) = self.work(request).await else { return Ended::Closed };
            if gives {
                self.fresh = fresh(&reply);
            }
            if !self.send(reply).await {
                return Ended::Unread;
            }
            if self.arrived.untraced.is_some() {
                if self.leaves().await {
                    return Ended::Closed;
                }
                self.arrived.trace(&self.service.names).await;
            }
        }
    }

    /// True for a client that wanted nothing else.
    async fn leaves(&mut self) -> bool {
        match timeout(PROMPT_LEAVES, self.frames.next()).await {
            Ok(Some(Ok(came))) => {
                self.ahead.push(came);
                false
            }
            Ok(Some(Err(_)) | None) => true,
            Err(_) => false,
        }
    }

    /// The next request. A stopping agent answers what it has begun, no more.
    async fn next_request(&mut self) -> Result<Request, Ended> {
        if !self.ahead.is_empty() {
            return Ok(self.ahead.remove(0).request);
        }
        tokio::select! {
            biased;
            _ = self.stopping.wait_for(|stops| *stops) => Err(Ended::Stopping),
            next = whole(&mut self.frames) => match next {
                Some(Ok(came)) => Ok(came.request),
                // So the kernel says that the other side closed without reading all of it.
                Some(Err(CodecError::Io(error)))
                    if error.kind() == io::ErrorKind::ConnectionReset => Err(Ended::Unread),
                Some(Err(_)) | None => Err(Ended::Closed),
            },
        }
    }

    /// Answers a request; `None` when the client went away meanwhile, so that nobody is left to
    /// read it.
    async fn work(&mut self, request: Request) -> Option<Reply> {
        let service = Arc::clone(&self.service);
        let caller = self.arrived.caller.clone();
        let is_acquire = matches!(request, Request::Acquire(_));
        let (tell, mut waits) = watch::channel(None);
        let answering = service.answer(&caller, request, &tell);
        tokio::pin!(answering);
        loop {
            tokio::select! {
                reply = &mut answering => return Some(reply),
                Ok(()) = waits.changed() => {
                    let waiting = waits.borrow_and_update().clone();
                    if let Some(waiting) = waiting
                        && !self.send(Reply::Waiting(waiting)).await
                    {
                        break;
                    }
                }
                next = self.frames.next(), if self.may_come_ahead() => match next {
                    Some(Ok(came)) => self.ahead.push(came),
                    Some(Err(_)) | None => break,
                },
            }
        }
        if is_acquire {
            // What the driver has not heard of does not begin; the rest it undoes when it hears of
            // the session's end; or it was granted before that, and its answer says what is to be
            // given back.
            caller.hung_up.cancel();
            self.service.driver.gone(caller.session).await;
            let unread = fresh(&answering.await);
            let _ = self.service.driver.release_all(unread).await;
        }
        None
    }

    fn may_come_ahead(&self) -> bool {
        let bytes: usize = self.ahead.iter().map(|came| came.length).sum();
        self.ahead.len() < AHEAD_MAX && bytes < AHEAD_BYTES_MAX
    }

    /// The caller's whole state, then each change, until the client closes or lags behind; the
    /// whole state once more each time that it is asked for.
    async fn stream(&mut self) -> Ended {
        let mut begins = None;
        loop {
            match self.stream_once(begins).await {
                Some(ended) => return ended,
                None => begins = Some(Event::Anew),
            }
        }
    }

    /// Ends with nothing when the whole state is asked for.
    async fn stream_once(&mut self, begins: Option<Event>) -> Option<Ended> {
        let subscribed = self.service.driver.subscribe(self.arrived.caller.who.uid).await;
        let (state, mut changes) = match subscribed {
            Ok(subscribed) => subscribed,
            Err(stopping) => {
                self.send(Reply::Refused(Refusal::from(stopping))).await;
                return Some(Ended::Stopping);
            }
        };
        let state = state.iter().map(|view| Event::Lease(self.service.told(view)));
        let first: Vec<Event> = begins.into_iter().chain(state).chain([Event::Caught]).collect();
        for event in first {
            if !self.send(Reply::Event(event)).await {
                return Some(Ended::Closed);
            }
        }
        if !self.ahead.is_empty() {
            let asked = self.ahead.remove(0).request;
            return (asked != Request::Subscribe).then_some(Ended::Closed);
        }
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                asked = whole(&mut self.frames) => return match asked {
                    Some(Ok(Came { request: Request::Subscribe, .. })) => None,
                    // A stream takes no other question; other connections do.
                    Some(_) | None => Some(Ended::Closed),
                },
                _ = self.stopping.wait_for(|stops| *stops) => return Some(Ended::Stopping),
            };
            let Some(view) = change else { return Some(Ended::Closed) };
            let event = Event::Lease(self.service.told(&view));
            if !self.send(Reply::Event(event)).await {
                return Some(Ended::Closed);
            }
        }
    }

    async fn send(&mut self, reply: Reply) -> bool {
        matches!(timeout(WRITE_PATIENCE, self.frames.send(reply)).await, Ok(Ok(())))
    }

    async fn flush(&mut self) -> bool {
        let flushing = SinkExt::<Reply>::flush(&mut self.frames);
        matches!(timeout(WRITE_PATIENCE, flushing).await, Ok(Ok(())))
    }

    /// The connection is over. A client that was gone before it could read that it has a lease does
    /// not know of it, and nobody would release it.
    async fn end(self, ended: Ended) {
        let driver = &self.service.driver;
        match ended {
            Ended::Stopping => return,
            Ended::Unread => {
                let _ = driver.release_all(self.fresh).await;
            }
            Ended::Closed => {}
        }
        driver.gone(self.arrived.caller.session).await;
    }
}

/// Bytes of what a prompt sends; more than that is something else.
pub(super) const GLANCE_MAX: usize = 64;

/// True when what came is all that a prompt sends.
pub(super) fn is_glance(came: &[u8]) -> bool {
    let Some((_, frame)) = came.split_first_chunk::<HELLO_LEN>() else { return false };
    let Ok(Some(body)) = frame::split(frame) else { return false };
    let is_all = frame.len() == frame::HEADER_LEN + body.len();
    is_all && matches!(frame::decode(body), Ok(Request::Glance))
}

/// True for a question whose reply names leases that nobody else knows of, or that nobody's end
/// ends: of any other, the asker had them before and knows.
fn gives(request: &Request) -> bool {
    let to_nobody = |attach: &Attach| *attach == Attach::Detached;
    match request {
        Request::Acquire(_) => true,
        Request::Attach { attach, .. } => to_nobody(attach),
        _ => false,
    }
}

/// What a reply gives.
fn fresh(reply: &Reply) -> Vec<LeaseId> {
    match reply {
        Reply::Acquired(leases) => leases.iter().map(|lease| lease.lease).collect(),
        _ => Vec::new(),
    }
}

/// Frames on an async stream; the bytes are [`frame`]'s.
#[derive(Debug)]
struct Codec;

/// Why a conversation cannot go on.
#[derive(Debug, thiserror::Error)]
enum CodecError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Decoder for Codec {
    type Item = Came;
    type Error = CodecError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Came>, CodecError> {
        let Some(body) = frame::split(bytes)? else { return Ok(None) };
        let length = frame::HEADER_LEN + body.len();
        let request = frame::decode(body)?;
        bytes.advance(length);
        Ok(Some(Came { request, length }))
    }
}

impl Encoder<Reply> for Codec {
    type Error = CodecError;

    fn encode(&mut self, reply: Reply, into: &mut BytesMut) -> Result<(), CodecError> {
        into.extend_from_slice(&frame::encode(&reply)?);
        Ok(())
    }
}
