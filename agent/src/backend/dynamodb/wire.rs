//! The HTTP client below the SDK: HTTP/1.1 on our own sockets, one request at a time on each.
//!
//! It is here and not the SDK's own because that one cannot say whether a request was sent, closes
//! politely (an abandoned request then arrives late), and knows no client certificates. An
//! abandoned call closes its socket by a reset (SO_LINGER 0). No retries and no timers here, but
//! the bound on connecting; no HTTP proxy either.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::config::http::{HttpRequest, HttpResponse};
use aws_sdk_dynamodb::error::ConnectorError;
use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_types::body::SdkBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{DATE, HOST, HeaderValue};
use hyper::http::uri::{Scheme, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use super::super::Clock;
use super::super::socket::tcp;
use super::super::tls::Tls;
use super::time::AwsTime;
use crate::lease::Moment;

/// Longest time to connect and greet: below the longest attempt, so that an endpoint that swallows
/// everything is still told from one that may have done something.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Idle connections are not used after that: a server, or something on the way, may have given
/// them up, and a request into the void is of unknown outcome.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Idle connections that are kept: more calls at once are rare.
const IDLE_COUNT_MAX: usize = 16;
/// Longest answer, in bytes: a page of a scan has at most one megabyte of data.
const ANSWER_MAX: usize = 16 << 20;

/// What became of a request without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Not a byte of it left.
    NotSent(String),
    /// It left, or may have.
    Silence(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NotSent(why) | Trouble::Silence(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Trouble {}

/// Connections to wherever the SDK wants to go. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    shared: Arc<Shared>,
    /// Longest time to connect and greet.
    connect_max: Duration,
    /// Longest wait for an answer, where the SDK has a reason for one: it looks for credentials in
    /// several places, one after the other.
    answer_max: Option<Duration>,
}

#[derive(Debug)]
struct Shared {
    /// `None`: nobody to trust.
    tls: Option<Tls>,
    clock: Clock,
    /// Told what each answer is dated.
    time: Option<Arc<AwsTime>>,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    place: Place,
    link: Link,
    since: Moment,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    tls: bool,
    host: String,
    port: u16,
}

/// One connection. Dropping it drops the socket with whatever is unsent or unanswered.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("is_closed", &self.sender.is_closed()).finish()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Wire {
    pub(super) fn new(tls: Option<Tls>, clock: Clock, time: Option<Arc<AwsTime>>) -> Wire {
        let shared = Arc::new(Shared { tls, clock, time, idle: Mutex::default() });
        Wire { shared, connect_max: CONNECT_MAX, answer_max: None }
    }

    /// As the SDK takes it.
    pub(super) fn client(self) -> SharedHttpClient {
        http_client_fn(move |settings, _| {
            let connect_max = settings.connect_timeout().unwrap_or(CONNECT_MAX).min(CONNECT_MAX);
            let answer_max = settings.read_timeout();
            SharedHttpConnector::new(Wire { connect_max, answer_max, ..self.clone() })
        })
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Wire { shared, connect_max, answer_max } = self.clone();
        HttpConnectorFuture::new(async move {
            let asked = shared.ask(request, connect_max);
            let answer = match answer_max {
                None => asked.await,
                Some(most) => tokio::time::timeout(most, asked).await.unwrap_or_else(|_| {
                    let ms = most.as_millis();
                    Err(Trouble::Silence(format!("no answer within {ms} ms")))
                }),
            };
            answer.map_err(|trouble| ConnectorError::io(Box::new(trouble)))
        })
    }
}

impl Shared {
    async fn ask(
        &self,
        request: HttpRequest,
        connect_max: Duration,
    ) -> Result<HttpResponse, Trouble> {
        let (place, mut request) = prepare(request)?;
        loop {
            let kept = self.kept(&place);
            let was_kept = kept.is_some();
            let mut link = match kept {
                Some(link) => link,
                None => self.connect(&place, connect_max).await?,
            };
            let sent = (self.clock)();
            match link.sender.try_send_request(request).await {
                Ok(response) => return self.take(place, link, sent, response).await,
                Err(mut error) => match error.take_message() {
                    // Given up by the other side meanwhile, and nothing of this call was sent.
                    Some(unsent) if was_kept => request = unsent,
                    Some(_) => return Err(Trouble::NotSent(said(&place, error.error()))),
                    None => return Err(Trouble::Silence(said(&place, error.error()))),
                },
            }
        }
    }

    async fn take(
        &self,
        place: Place,
        mut link: Link,
        sent: Moment,
        response: hyper::Response<hyper::body::Incoming>,
    ) -> Result<HttpResponse, Trouble> {
        let received = (self.clock)();
        if let (Some(time), Some(date)) = (&self.time, date(&response)) {
            time.observe(sent, received, date);
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|error| Trouble::Silence(said(&place, &*error)))?;
        if link.sender.ready().await.is_ok() {
            self.keep(place, link);
        }
        let response = hyper::Response::from_parts(head, SdkBody::from(body.to_bytes().to_vec()));
        HttpResponse::try_from(response).map_err(|error| Trouble::Silence(error.to_string()))
    }

    fn kept(&self, place: &Place) -> Option<Link> {
        let now = (self.clock)();
        let mut idle = self.idle();
        idle.retain(|idle| idle.since.until(now) < IDLE_MAX && !idle.link.sender.is_closed());
        // The one that was used last, so that the others may grow old.
        let at = idle.iter().rposition(|idle| idle.place == *place)?;
        Some(idle.remove(at).link)
    }

    fn keep(&self, place: Place, link: Link) {
        let since = (self.clock)();
        let mut idle = self.idle();
        idle.push(Idle { place, link, since });
        if idle.len() > IDLE_COUNT_MAX {
            idle.remove(0);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, place: &Place, most: Duration) -> Result<Link, Trouble> {
        match tokio::time::timeout(most, self.greet(place)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(Trouble::NotSent(format!("connecting to {place}: {error}"))),
            Err(_) => {
                let ms = most.as_millis();
                let why = format!("connecting to {place}: no greeting within {ms} ms");
                Err(Trouble::NotSent(why))
            }
        }
    }

    async fn greet(&self, place: &Place) -> io::Result<Link> {
        let stream = tcp(&place.host, place.port).await?;
        if !place.tls {
            return link(stream).await;
        }
        let nobody = || io::Error::other("this system has no certificate authorities to trust");
        let tls = self.tls.as_ref().ok_or_else(nobody)?;
        link(tls.over(stream, &place.host).await?).await
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

async fn link(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<Link> {
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // How it ended is told to whoever waits for an answer.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Link { sender, driver })
}

/// The request as a server takes it, and whose that is.
fn prepare(request: HttpRequest) -> Result<(Place, Request<Full<Bytes>>), Trouble> {
    let not_sent = |what: &str| Trouble::NotSent(format!("making the request: {what}"));
    let request = request.try_into_http1x().map_err(|error| not_sent(&error.to_string()))?;
    let (mut head, body) = request.into_parts();
    let bytes = body.bytes().ok_or_else(|| not_sent("its body is a stream"))?;
    let body = Full::new(Bytes::copy_from_slice(bytes));
    let host = head.uri.host().ok_or_else(|| not_sent("it goes to no host"))?;
    let tls = head.uri.scheme() == Some(&Scheme::HTTPS);
    let port = head.uri.port_u16();
    let authority = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let place = Place {
        tls,
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: port.unwrap_or(if tls { 443 } else { 80 }),
    };
    if !head.headers.contains_key(HOST) {
        let name = HeaderValue::from_str(&authority).map_err(|error| not_sent(&error.to_string()));
        head.headers.insert(HOST, name?);
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse::<Uri>().map_err(|error| not_sent(&error.to_string()))?;
    Ok((place, Request::from_parts(head, body)))
}

fn said(place: &Place, error: &dyn std::error::Error) -> String {
    let mut text = format!("asking {place}: {error}");
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(&format!(": {error}"));
        next = error.source();
    }
    text
}

/// The answer's Date, in seconds since 1970.
fn date<T>(response: &hyper::Response<T>) -> Option<i64> {
    let date = response.headers().get(DATE)?.to_str().ok()?;
    DateTime::from_str(date, DateTimeFormat::HttpDate).ok().map(|date| date.secs())
}
