//! A bad network: a TCP proxy on this host that loses, holds and cuts as a test tells it. Shared by
//! path between test binaries, so it needs std only.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

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
}

/// The proxy. Dropping it breaks all its connections.
pub(crate) struct Proxy {
    port: u16,
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
    connections: usize,
    delivers: bool,
    frozen: bool,
    refuses: bool,
    stops: bool,
    open: Vec<TcpStream>,
}

impl Proxy {
    /// A proxy in front of a port of this host; nothing happens to what passes.
    pub(crate) fn start(upstream: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let state = Mutex::new(State { delivers: true, ..State::default() });
        let shared = Arc::new(Shared { upstream, state, changed: Condvar::new() });
        let served = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if served.lock().stops {
                    return;
                }
                served.serve(client);
            }
        });
        Proxy { port, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
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
            for stream in state.open.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
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
        let _ = TcpStream::connect(("127.0.0.1", self.port));
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
        state.open.extend([clone(&client), clone(&server)]);
        drop(state);
        let mute = Arc::new(AtomicBool::new(false));
        let (shared, from, to) = (self.clone(), clone(&client), clone(&server));
        let muted = mute.clone();
        std::thread::spawn(move || shared.requests(from, to, &muted));
        let shared = self.clone();
        std::thread::spawn(move || shared.answers(server, client, &mute));
    }

    fn requests(&self, mut client: TcpStream, mut server: TcpStream, mute: &AtomicBool) {
        let mut bytes = [0; 65_536];
        loop {
            let length = match client.read(&mut bytes) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) => {
                    self.note_reset(&error);
                    break;
                }
            };
            let request = &bytes[..length];
            let fault = self.fault(request);
            match fault {
                Some(Fault::CutBefore) => break,
                Some(Fault::HoldRequest) => self.wait(|state| state.delivers),
                Some(Fault::LoseAnswer | Fault::CutAfter) => mute.store(true, Ordering::SeqCst),
                None => {}
            }
            self.wait(|state| !state.frozen);
            if server.write_all(request).is_err() || fault == Some(Fault::CutAfter) {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        // What was sent shall arrive: only this half is closed, the other follows by itself.
        let _ = server.shutdown(Shutdown::Write);
    }

    fn answers(&self, mut server: TcpStream, mut client: TcpStream, mute: &AtomicBool) {
        let mut bytes = [0; 65_536];
        while let Ok(length @ 1..) = server.read(&mut bytes) {
            self.wait(|state| !state.frozen);
            if !mute.load(Ordering::SeqCst) {
                // A client that is gone hears nothing; the server is heard out.
                if let Err(error) = client.write_all(&bytes[..length]) {
                    self.note_reset(&error);
                }
            }
        }
        let _ = client.shutdown(Shutdown::Both);
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
        Some(fault)
    }

    fn wait(&self, until: impl Fn(&State) -> bool) {
        let state = self.lock();
        let state = self.changed.wait_while(state, |state| !until(state));
        drop(state.expect("no panic in the proxy"));
    }
}
