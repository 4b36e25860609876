//! One agent with its network, its line to the store, and its lives: it is killed and started again
//! on what it had written down, and whoever was connected finds it again.

use std::os::unix::process::ExitStatusExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use rustix::process::Signal;
use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::Lease;

use crate::agent::Agent;
use crate::netns::Namespace;
use crate::proxy::Proxy;
use crate::stores::Store;

/// Longest that anybody waits for an answer: three tries of one acquire with the pauses between
/// them take half of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// An agent that is not started again by then never will be.
const REBIRTH_MAX: Duration = Duration::from_secs(120);

/// One agent, in a network of its own, and its line to the store.
pub(crate) struct Node {
    agent: RwLock<Agent>,
    pub(crate) line: Proxy,
    pub(crate) network: Namespace,
    /// How often it was started and answered.
    lives: Mutex<u32>,
    born: Condvar,
}

/// A connection to an agent in one of its lives.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) life: u32,
}

impl Node {
    pub(crate) fn start(host: &str, store: &Store) -> Node {
        let network = Namespace::new();
        let line = Proxy::on(network.listen(), store.port());
        let agent = RwLock::new(Agent::prepare(&store.config(host, line.port())));
        let node = Node { agent, line, network, lives: Mutex::new(0), born: Condvar::new() };
        assert!(node.begins(None), "it ended at once");
        node
    }

    /// A connection to it as it is now.
    pub(crate) fn connect(&self) -> Connection {
        self.connect_after(0)
    }

    /// A connection to it in a later life than that one, once there is one.
    pub(crate) fn connect_after(&self, mut before: u32) -> Connection {
        loop {
            let lives = self.lives();
            let waited = self.born.wait_timeout_while(lives, REBIRTH_MAX, |lives| *lives <= before);
            let timed_out = waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
            assert!(!timed_out, "an agent hung up on somebody, and was not killed");
            let agent = self.agent();
            let life = *self.lives();
            // Greeted at once: an agent sends away who connects and then says nothing for long.
            let greeted = Client::connect(&agent.socket(), PATIENCE)
                .and_then(|mut client| client.status(None).map(|_| client));
            match greeted {
                Ok(client) => return Connection { client, life },
                // It ended itself, and nobody has started it again yet.
                Err(ClientError::NoAgent { .. }) => before = life,
                Err(error) if is_broken(&error) => before = life,
                Err(error) => panic!("an agent cannot be asked: {error:?}"),
            }
        }
    }

    /// `kill -9`, if it has not ended itself: then that was a SIGKILL too.
    pub(crate) fn kill(&self) {
        let mut agent = self.agent.write().unwrap_or_else(PoisonError::into_inner);
        if !agent.is_started() {
            return;
        }
        if agent.ends_within(Duration::ZERO) {
            assert_eq!(agent.wait().signal(), Some(Signal::KILL.as_raw()), "{}", agent.log());
        } else {
            agent.kill();
        }
    }

    /// Starts it again on what it had written down, to be killed at a point if one is given; false
    /// when it was before it answered.
    pub(crate) fn begins(&self, point: Option<&str>) -> bool {
        let words = self.network.words();
        let mut agent = self.agent.write().unwrap_or_else(PoisonError::into_inner);
        let ended = agent.starts_under(&words.each_ref().map(String::as_str), |command| {
            if let Some(point) = point {
                command.env("STORMLOCK_FAILPOINT", point);
            }
        });
        if let Some(ended) = ended {
            let is_killed = ended.signal() == Some(Signal::KILL.as_raw());
            assert!(is_killed && point.is_some(), "it ended at once: {ended:?}\n{}", agent.log());
            return false;
        }
        *self.lives() += 1;
        self.born.notify_all();
        true
    }

    /// True as soon as it has ended by itself.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        self.agent().ends_within(limit)
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        self.agent().pause();
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.agent().resume();
    }

    fn agent(&self) -> RwLockReadGuard<'_, Agent> {
        self.agent.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lives(&self) -> MutexGuard<'_, u32> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// All leases that the agent has.
    pub(crate) fn leases(&mut self) -> Result<Vec<Lease>, ClientError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.client.status(after)?;
            all.extend(page.leases);
            after = page.next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }
}

/// True for what somebody hears whose agent is killed meanwhile.
pub(crate) fn is_broken(error: &ClientError) -> bool {
    matches!(error, ClientError::Closed | ClientError::Io(_))
}
