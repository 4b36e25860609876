//! The user whose leases have to be renewed whatever the others do, and how late that happens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use stormlock_protocol::client::Client;
use stormlock_protocol::frame;
use stormlock_protocol::message::{Acquire, Event, Hold, Lease, Reply, Request, State};

use super::{send, try_receive, welcomed};
use crate::agent::Agent;
use crate::dice::now_ms;
use crate::{acquire, ttl, until_right, wish};

/// Short enough that a renewal is due every two seconds, long enough that a store on a busy machine
/// answers in the tenth of it that one call may take.
const TTL_SECS: u64 = 6;
/// A renewal is due when a third of the ttl has passed, at the latest.
const DUE_MS: u64 = TTL_SECS * 1000 / 3;
/// What a proof is worth less than the renewal before it when nothing was renewed: clocks are read
/// at two places.
const SAME_END_MS: u64 = 200;
/// Leases in each store: their times of renewal differ.
const LEASES: usize = 4;
/// What the names of leases in the agent's journal and in the Redis begin with.
const BOTH: [&str; 2] = ["prod", "store/prod"];

/// One user's leases in both stores, and somebody who hears of each of their renewals.
pub(super) struct Victim {
    leases: usize,
    stream: UnixStream,
    heard: Arc<Mutex<Heard>>,
    hears: Option<JoinHandle<()>>,
    _client: Client,
}

/// What was heard so far.
#[derive(Default)]
struct Heard {
    /// Those that count; what else the same user takes does not.
    names: BTreeSet<String>,
    /// When each is known to end, and when that was heard.
    ends: BTreeMap<String, (u64, u64)>,
    /// Since the measure began.
    renewals: BTreeMap<String, usize>,
    latest_ms: u64,
    least_left_ms: u64,
    wrong: Vec<String>,
}

/// How the leases fared.
#[derive(Debug)]
pub(super) struct Measure {
    /// How many renewals were seen.
    pub(super) renewals: usize,
    /// By how much the latest of them missed its time.
    pub(super) latest_ms: u64,
    /// What was left of the belief when it was renewed, at the least.
    pub(super) least_left_ms: u64,
    /// All that was neither held nor renewed.
    pub(super) wrong: Vec<String>,
}

impl Victim {
    /// Takes leases in both stores, to be kept.
    pub(super) fn of(agent: &Agent) -> Victim {
        Victim::with(agent, &BOTH)
    }

    /// Takes leases in the Redis alone, to be kept: without a disk those in the journal have no
    /// store.
    pub(super) fn in_store(agent: &Agent) -> Victim {
        Victim::with(agent, &BOTH[1..])
    }

    fn with(agent: &Agent, prefixes: &[&str]) -> Victim {
        let own = rustix::process::geteuid().as_raw();
        let mut client = agent.client().expect("the agent answers");
        let numbered = |number| prefixes.iter().map(move |prefix| format!("{prefix}/{number}"));
        let names: BTreeSet<String> = (0..LEASES).flat_map(numbered).collect();
        for name in &names {
            let short = Acquire { ttl: Some(ttl(TTL_SECS)), ..wish(name, Hold::Keep) };
            acquire(&mut client, short);
        }
        let mut stream = welcomed(agent, own);
        stream.set_read_timeout(None).expect("no timeout");
        send(&mut stream, &Request::Subscribe);
        let heard = Arc::new(Mutex::new(Heard { names, ..Heard::default() }));
        let (mut events, hearing) = (stream.try_clone().expect("its other end"), heard.clone());
        let hears = std::thread::spawn(move || while hear(&mut events, &hearing) {});
        let leases = LEASES * prefixes.len();
        let victim = Victim { leases, stream, heard, hears: Some(hears), _client: client };
        until_right("its leases are heard of", || match victim.heard().ends.len() {
            count if count == leases => Ok(()),
            count => Err(format!("{count}")),
        });
        victim
    }

    /// How its leases fare during something, until each was renewed once more after that began.
    pub(super) fn during<T>(&self, what: &str, mut step: impl FnMut() -> T) -> Measure {
        self.begin();
        until_right("all leases are renewed", || {
            step();
            let heard = self.heard();
            match heard.renewals.values().filter(|times| **times > 0).count() {
                count if count == self.leases => Ok(()),
                _ => Err(format!("{what}: {:?} {:?}", heard.renewals, heard.wrong)),
            }
        });
        self.end(what)
    }

    /// Counts from now on.
    pub(super) fn begin(&self) {
        let mut heard = self.heard();
        heard.renewals.clear();
        heard.wrong.clear();
        heard.latest_ms = 0;
        heard.least_left_ms = u64::MAX;
    }

    /// What was counted, printed too.
    pub(super) fn end(&self, what: &str) -> Measure {
        let mut heard = self.heard();
        // Those that are overdue now count as well.
        let now = now_ms();
        let overdue = heard.ends.values().map(|(at, _)| (now - at).saturating_sub(DUE_MS)).max();
        let measure = Measure {
            renewals: heard.renewals.values().sum(),
            latest_ms: heard.latest_ms.max(overdue.unwrap_or(0)),
            least_left_ms: heard.least_left_ms,
            wrong: std::mem::take(&mut heard.wrong),
        };
        println!(
            "limits: {what}: {} renewals, at most {} ms late, at least {} of {} ms left",
            measure.renewals,
            measure.latest_ms,
            measure.least_left_ms,
            TTL_SECS * 1000
        );
        measure
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("nobody panicked with it")
    }
}

impl Measure {
    /// Never at risk, never lost.
    pub(super) fn is_undisturbed(&self) {
        assert!(self.wrong.is_empty(), "{self:?}");
    }

    /// Never lost; told as at risk as long as the journal cannot be written.
    pub(super) fn lost_none(&self) {
        assert!(self.wrong.iter().all(|state| state.ends_with("AtRisk")), "{self:?}");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(hears) = self.hears.take() {
            let _ = hears.join();
        }
    }
}

/// Hears one event; false at the end of the stream.
fn hear(events: &mut UnixStream, heard: &Mutex<Heard>) -> bool {
    // The end of the connection is the end of the test, or of the agent, which others notice.
    let Ok(body) = try_receive(events) else { return false };
    let now = now_ms();
    if let Ok(Reply::Event(Event::Lease(lease))) = frame::decode::<Reply>(&body) {
        heard.lock().expect("nobody panicked with it").hear(now, &lease);
    }
    true
}

impl Heard {
    fn hear(&mut self, now: u64, lease: &Lease) {
        let name = lease.resource.to_string();
        if !self.names.contains(&name) {
            return;
        }
        if lease.state != State::Held {
            self.wrong.push(format!("{name}: {:?}", lease.state));
        }
        let end = now + lease.left_ms;
        let Some((at, ended)) = self.ends.get(&name).copied() else {
            self.ends.insert(name, (now, end));
            return;
        };
        if end > ended + SAME_END_MS {
            *self.renewals.entry(name.clone()).or_default() += 1;
            self.latest_ms = self.latest_ms.max((now - at).saturating_sub(DUE_MS));
            self.least_left_ms = self.least_left_ms.min(ended.saturating_sub(now));
            self.ends.insert(name, (now, end));
        }
    }
}
