//! What the agent says of the leases meanwhile, heard by a thread of its own: an agent that hangs
//! or is gone holds up nobody.
//!
//! An event that is pushed may be old when it is read, so it says only that something changed; the
//! whole state is asked for then, and counts from before the question left (law 1). It is asked for
//! on the same connection: another user of many sessions could take the place of one given up.

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
/// How long the first word of an agent is waited for by whoever begins.
pub(crate) const HEAR_MAX: Duration = Duration::from_secs(1);
/// The same of one that has no session to spare.
const FULL_MAX: Duration = Duration::from_secs(10);
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
enum Heard {
    NotYet,
    Full,
    Yes,
}

/// Whether something may begin that would be ended if no renewal were heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    Yes,
    No,
    /// Not known yet; ask again when something is heard, or then.
    Until(Moment),
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

    /// Whether what has been about to begin since then may. An agent that hangs is no reason not
    /// to; of one that has no session to spare no renewal would be heard.
    pub(crate) fn ready(&self, since: Moment) -> Ready {
        let (until, then) = match self.heard.get() {
            Heard::Yes => return Ready::Yes,
            Heard::NotYet => (since + HEAR_MAX, Ready::Yes),
            Heard::Full => (since + FULL_MAX, Ready::No),
        };
        if until <= Moment::now() { then } else { Ready::Until(until) }
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
            match self.connect() {
                Ok((agent, first, asked)) => {
                    // Whatever ends it, it is looked for again.
                    let _ = self.hear(agent, first, asked);
                    wait = RETRY_FIRST;
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

    fn connect(&self) -> Result<(Client, Event, Moment), ClientError> {
        let asked = Moment::now();
        let mut agent = Client::connect(&self.socket, PATIENCE)?;
        let first = agent.subscribe()?;
        Ok((agent, first, asked))
    }

    /// Hears the whole state, and once more whenever it has changed, until all leases are over.
    fn hear(&mut self, mut agent: Client, first: Event, asked: Moment) -> Result<(), ClientError> {
        let (mut event, mut asked) = (first, asked);
        loop {
            self.hear_state(&mut agent, event, asked)?;
            if self.leases.is_empty() {
                return Ok(());
            }
            self.hear_change(&mut agent, asked)?;
            asked = Moment::now();
            event = agent.subscribe_anew()?;
        }
    }

    fn hear_state(
        &mut self,
        agent: &mut Client,
        first: Event,
        asked: Moment,
    ) -> Result<(), ClientError> {
        let mut event = first;
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
        Ok(())
    }

    /// Comes back when one of the leases has changed.
    fn hear_change(&mut self, agent: &mut Client, asked: Moment) -> Result<(), ClientError> {
        loop {
            match agent.next_event(None)? {
                Event::Lease(lease) if self.leases.contains(&lease.lease) => {
                    // That it is over is true however old it is; so nobody waits for more.
                    if is_over(&lease.state) {
                        self.tell(lease, asked);
                    }
                    return Ok(());
                }
                Event::Lease(_) | Event::Caught | Event::Anew => {}
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
        State::Lost(_) | State::Released | State::Lingering => true,
        State::Asking | State::Held | State::AtRisk | State::Unknown => false,
    }
}
