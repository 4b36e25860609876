//! A bad network: a TCP proxy on this host that loses, holds, delays, cuts and resets as a test
//! tells it. Shared by path between test binaries, so it needs std and rustix only.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

/// How long a server keeps a connection whose client is gone: one that sees its end together with
/// the request may drop the request (HTTP/2 does).
const KEPT: Duration = Duration::from_secs(1);

/// How long a server has to answer what a client sent that is gone.
const FOLLOWS: Duration = Duration::from_secs(5);

/// What happens to a request that a test named, and from then on to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It arrives, and no answer comes back any more.
    LoseAnswer,
    /// It stays on its way until [`Proxy::deliver`], even if its sender is gone by then.
    HoldRequest,
    /// It arrives, and the connection breaks before its answer.
    CutAfter,
    /// It does not arrive: the connection breaks before.
    CutBefore,
    /// It does not arrive, nothing passes any more in either direction, and nothing is closed.
    HalfOpen,
    /// It and what follows arrive so much later.
    Late(Duration),
    /// It arrives; its answer and what follows come back so much later.
    LateAnswer(Duration),
    /// It stays on its way until its sender has given up, and arrives then.
    HoldUntilGone,
    /// It arrives, and its sender sees a reset instead of an answer.
    ResetAfter,
}

impl Fault {
    /// True when its connection passes nothing after the request.
    fn is_the_end(self) -> bool {
        matches!(self, Fault::CutAfter | Fault::ResetAfter | Fault::HoldUntilGone)
    }
}

/// The proxy. Dropping it breaks all its connections.
pub(crate) struct Proxy {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: u16,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The next request that contains these bytes meets this fault.
    plan: Option<(Vec<u8>, Fault)>,
    hits: usize,
    resets: usize,
    given_up: usize,
    connections: usize,
    delivers: bool,
    frozen: bool,
    refuses: bool,
    stops: bool,
    /// Both ends of each connection, for as long as anybody passes something on.
    open: Vec<(Weak<Back>, [TcpStream; 2])>,
}

impl Proxy {
    /// A proxy in front of a port of this host; nothing happens to what passes.
    pub(crate) fn start(upstream: u16) -> Proxy {
        Proxy::on(TcpListener::bind("127.0.0.1:0").expect("a port"), upstream)
    }

    /// The same behind a listener that the test made.
    pub(crate) fn on(listener: TcpListener, upstream: u16) -> Proxy {
        let accepting = listener.try_clone().expect("the same socket");
        let state = Mutex::new(State { delivers: true, ..State::default() });
        let shared = Arc::new(Shared { upstream, state, changed: Condvar::new() });
        let served = shared.clone();
        std::thread::spawn(move || {
            for client in accepting.incoming().map_while(Result::ok) {
                if served.lock().stops {
                    return;
                }
                served.serve(client);
            }
        });
        Proxy { listener, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().expect("its address").port()
    }

    /// The next request that contains `needle` meets `fault`; once.
    pub(crate) fn when(&self, needle: impl AsRef<[u8]>, fault: Fault) {
        let mut state = self.shared.lock();
        state.plan = Some((needle.as_ref().to_vec(), fault));
        state.delivers = false;
    }

    /// How many requests met a fault.
    pub(crate) fn hits(&self) -> usize {
        self.shared.lock().hits
    }

    /// Waits until more than `before` requests met a fault; false when none did within `limit`.
    pub(crate) fn is_hit_after(&self, before: usize, limit: Duration) -> bool {
        self.becomes(limit, |state| state.hits > before)
    }

    /// How many clients gave a request up that was swallowed, or held until then.
    pub(crate) fn given_up(&self) -> usize {
        self.shared.lock().given_up
    }

    /// Waits until more than `before` of them gave up; false when none did within `limit`.
    pub(crate) fn is_given_up_after(&self, before: usize, limit: Duration) -> bool {
        self.becomes(limit, |state| state.given_up > before)
    }

    /// How many clients closed by a reset.
    pub(crate) fn resets(&self) -> usize {
        self.shared.lock().resets
    }

    /// How many connections were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// Lets held requests arrive now.
    pub(crate) fn deliver(&self) {
        self.change(|state| state.delivers = true);
    }

    /// From now on nothing passes in either direction, and nothing is closed.
    pub(crate) fn freeze(&self) {
        self.change(|state| state.frozen = true);
    }

    /// What was frozen goes on.
    pub(crate) fn thaw(&self) {
        self.change(|state| state.frozen = false);
    }

    /// New connections are closed at once, or are not.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.change(|state| state.refuses = refuses);
    }

    /// Breaks all connections.
    pub(crate) fn cut(&self) {
        self.change(|state| {
            for stream in state.open.drain(..).flat_map(|(_, ends)| ends) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }

    fn becomes(&self, limit: Duration, is_so: impl Fn(&State) -> bool) -> bool {
        let state = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(state, limit, |state| !is_so(state));
        !waited.expect("no panic in the proxy").1.timed_out()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|state| {
            state.stops = true;
            state.frozen = false;
            state.delivers = true;
        });
        self.cut();
        // Whatever waits in accept wakes up, in whichever network namespace the socket is.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// What a connection's requests have decided about its answers.
#[derive(Default)]
struct Back {
    mute: AtomicBool,
    /// The server says nothing more.
    over: AtomicBool,
    delay_ms: AtomicU64,
}

impl Back {
    fn mute(&self) {
        self.mute.store(true, Ordering::SeqCst);
    }

    fn is_mute(&self) -> bool {
        self.mute.load(Ordering::SeqCst)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The next answer comes so much later.
    fn delay(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).expect("a short delay");
        self.delay_ms.store(ms, Ordering::SeqCst);
    }

    fn take_delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.swap(0, Ordering::SeqCst))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic in the proxy")
    }

    fn serve(self: &Arc<Shared>, client: TcpStream) {
        let mut state = self.lock();
        state.connections += 1;
        if state.refuses {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.upstream)) else { return };
        let clone = |stream: &TcpStream| stream.try_clone().expect("the same socket");
        let back = Arc::new(Back::default());
        // Else a test with very many connections would run out of files.
        state.open.retain(|(back, _)| back.strong_count() > 0);
        state.open.push((Arc::downgrade(&back), [clone(&client), clone(&server)]));
        drop(state);
        let (shared, from, to) = (self.clone(), clone(&client), clone(&server));
        let told = back.clone();
        std::thread::spawn(move || shared.requests(from, to, &told));
        let shared = self.clone();
        std::thread::spawn(move || shared.answers(server, client, &back));
    }

    fn requests(&self, mut client: TcpStream, mut server: TcpStream, back: &Back) {
        let mut bytes = [0; 65_536];
        let mut last = None;
        while let Some(length) = self.hear(&mut client, &mut bytes) {
            let mut request = bytes[..length].to_vec();
            last = self.fault(&request);
            match last {
                Some(Fault::CutBefore) => break,
                Some(Fault::HoldRequest) => self.wait(|state| state.delivers),
                Some(Fault::LoseAnswer | Fault::CutAfter) => back.mute(),
                Some(Fault::Late(delay)) => self.rest(delay),
                Some(Fault::LateAnswer(delay)) => back.delay(delay),
                Some(Fault::HalfOpen) => {
                    back.mute();
                    while self.hear(&mut client, &mut bytes).is_some() {}
                    self.note_given_up();
                    break;
                }
                Some(Fault::HoldUntilGone) => {
                    while let Some(length) = self.hear(&mut client, &mut bytes) {
                        request.extend_from_slice(&bytes[..length]);
                    }
                }
                Some(Fault::ResetAfter) | None => {}
            }
            self.wait(|state| !state.frozen);
            let sent = server.write_all(&request);
            match last {
                Some(Fault::ResetAfter) => {
                    let _ = rustix::net::connect_unspec(&client);
                }
                Some(Fault::HoldUntilGone) => self.note_given_up(),
                _ => {}
            }
            if sent.is_err() || last.is_some_and(Fault::is_the_end) {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        if last.is_some_and(Fault::is_the_end) {
            self.rest(KEPT);
        }
        // What was sent shall arrive: only this half is closed, the other follows by itself.
        let _ = server.shutdown(Shutdown::Write);
        drop(client);
        // A server that does not follow would keep its connection, and ours, for ever.
        let follows = |state: &mut State| !state.stops && !back.is_over();
        drop(self.changed.wait_timeout_while(self.lock(), FOLLOWS, follows));
        let _ = server.shutdown(Shutdown::Both);
    }

    /// What a client says next; `None` when it is gone.
    fn hear(&self, client: &mut TcpStream, into: &mut [u8]) -> Option<usize> {
        match client.read(into) {
            Ok(0) => None,
            Ok(length) => Some(length),
            Err(error) => {
                self.note_reset(&error);
                None
            }
        }
    }

    fn answers(&self, mut server: TcpStream, mut client: TcpStream, back: &Back) {
        let mut bytes = [0; 65_536];
        while let Ok(length @ 1..) = server.read(&mut bytes) {
            self.wait(|state| !state.frozen);
            self.rest(back.take_delay());
            if !back.is_mute() {
                // A client that is gone hears nothing; the server is heard out.
                if let Err(error) = client.write_all(&bytes[..length]) {
                    self.note_reset(&error);
                }
            }
        }
        // On a line that is half open nothing is closed: its client has to find out.
        if !back.is_mute() {
            let _ = client.shutdown(Shutdown::Both);
        }
        let _state = self.lock();
        back.over.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// The kernel tells of a reset once: to whichever of the two threads uses the socket first.
    fn note_reset(&self, error: &std::io::Error) {
        if error.kind() == ErrorKind::ConnectionReset {
            self.lock().resets += 1;
        }
    }

    /// The fault that this request meets.
    fn fault(&self, request: &[u8]) -> Option<Fault> {
        let mut state = self.lock();
        let (needle, fault) = state.plan.as_ref()?;
        let fault = *fault;
        if !request.windows(needle.len()).any(|window| window == needle) {
            return None;
        }
        state.plan = None;
        state.hits += 1;
        drop(state);
        self.changed.notify_all();
        Some(fault)
    }

    fn note_given_up(&self) {
        self.lock().given_up += 1;
        self.changed.notify_all();
    }

    /// Lets time pass, but not longer than the proxy lives.
    fn rest(&self, time: Duration) {
        let state = self.changed.wait_timeout_while(self.lock(), time, |state| !state.stops);
        drop(state.expect("no panic in the proxy"));
    }

    fn wait(&self, until: impl Fn(&State) -> bool) {
        let state = self.lock();
        let state = self.changed.wait_while(state, |state| !until(state));
        drop(state.expect("no panic in the proxy"));
    }
}
