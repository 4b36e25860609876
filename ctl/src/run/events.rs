//! What the agent says of the leases meanwhile, heard by a thread of its own: an agent that hangs
//! or is gone holds up nobody.
//!
//! An event that is pushed may be old when it is read, so it says only that something changed; the
//! whole state is asked for then, and counts from before the question left (law 1).

use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::frame::{Verdict, Welcome};
use stormlock_protocol::message::{Event, Lease, State};
use stormlock_protocol::name::LeaseId;

use crate::clock::Moment;

/// How long an agent may take for the whole state; no store is asked for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an agent that does not answer is left in peace, at first; it doubles with each time.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Something that the agent said.
#[derive(Debug)]
pub(crate) enum News {
    /// A lease is like this, by a question that left then.
    State(Box<Lease>, Moment),
    /// The agent does not know this lease.
    Unknown(LeaseId),
    /// The agent has no session to spare, and tells nothing.
    Full,
}

/// Whether the agent is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    NotYet,
    Full,
    Yes,
}

/// What is heard. It can be waited for.
#[derive(Debug)]
pub(crate) struct Events {
    news: Receiver<News>,
    heard: Cell<Heard>,
    rings: Arc<OwnedFd>,
    /// Dropped with this: then the thread ends.
    _listens: Sender<()>,
}

impl Events {
    /// Listens to the agent at a socket for news of these leases.
    pub(crate) fn listen(socket: PathBuf, leases: BTreeSet<LeaseId>) -> std::io::Result<Events> {
        let (tell, news) = channel();
        let (listens, ends) = channel();
        let rings = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let ear = Ear { socket, leases, tell, rings: Arc::clone(&rings) };
        thread::Builder::new().name("events".to_owned()).spawn(move || ear.listen(&ends))?;
        Ok(Events { news, heard: Cell::new(Heard::NotYet), rings, _listens: listens })
    }

    /// Everything that came since.
    pub(crate) fn take(&self) -> Vec<News> {
        let _ = rustix::io::read(&self.rings, &mut [0; 8]);
        let news: Vec<News> = self.news.try_iter().collect();
        if let Some(last) = news.last() {
            self.heard.set(match last {
                News::State(..) | News::Unknown(_) => Heard::Yes,
                News::Full => Heard::Full,
            });
        }
        news
    }

    /// What became of the last try to hear it.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.get()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rings.as_fd()
    }
}

struct Ear {
    socket: PathBuf,
    leases: BTreeSet<LeaseId>,
    tell: Sender<News>,
    rings: Arc<OwnedFd>,
}

impl Ear {
    fn listen(mut self, ends: &Receiver<()>) {
        let mut wait = RETRY_FIRST;
        while !self.leases.is_empty() {
            match self.hear() {
                Ok(()) => {
                    wait = RETRY_FIRST;
                    continue;
                }
                Err(ClientError::Greeting(Welcome { verdict: Verdict::TooMany, .. })) => {
                    self.say(News::Full);
                }
                Err(_) => {}
            }
            match ends.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => wait = (wait * 2).min(RETRY_MAX),
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Hears the whole state, and comes back when it has changed.
    fn hear(&mut self) -> Result<(), ClientError> {
        let asked = Moment::now();
        let mut agent = Client::connect(&self.socket, PATIENCE)?;
        let mut event = agent.subscribe()?;
        let mut missing = self.leases.clone();
        while let Event::Lease(lease) = event {
            if missing.remove(&lease.lease) {
                self.tell(lease, asked);
            }
            event = agent.next_event(Some(PATIENCE))?;
        }
        for lease in missing {
            self.leases.remove(&lease);
            self.say(News::Unknown(lease));
        }
        loop {
            match agent.next_event(None)? {
                Event::Lease(lease) if self.leases.contains(&lease.lease) => {
                    // That it is over is true however old it is; so nobody waits for more.
                    if is_over(&lease.state) {
                        self.tell(lease, asked);
                    }
                    return Ok(());
                }
                Event::Lease(_) | Event::Caught => {}
            }
        }
    }

    fn tell(&mut self, lease: Lease, asked: Moment) {
        if is_over(&lease.state) {
            self.leases.remove(&lease.lease);
        }
        self.say(News::State(Box::new(lease), asked));
    }

    fn say(&self, news: News) {
        // Nobody listens any more: the command has ended.
        if self.tell.send(news).is_ok() {
            let _ = rustix::io::write(&self.rings, &1_u64.to_ne_bytes());
        }
    }
}

/// True for what never becomes held again.
pub(crate) fn is_over(state: &State) -> bool {
    match state {
        State::Lost(_) | State::Released => true,
        State::Asking | State::Held | State::AtRisk | State::Unknown => false,
    }
}
