//! Who only looks: at what an agent says of all its leases, at its events, and at whether it
//! reaches its store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stormlock_protocol::client::ClientError;
use stormlock_protocol::message::{Attach, Code, Event, Hold, Lease, State};
use stormlock_protocol::name::{LeaseId, Resource};

use crate::course::{Course, Pulse};
use crate::dice::now_us;
use crate::history::{History, Outage, Told, What};
use crate::node::{Connection, Node, is_broken};
use crate::users::belief;

/// How often the leases and the store are asked for, in milliseconds.
const EVERY_MS: usize = 100;
/// How long a stream is silent before it has nothing left to tell.
const SILENCE: Duration = Duration::from_secs(3);

/// A stream of an agent's events, and the first of them.
pub(crate) struct Stream {
    connection: Connection,
    first: Result<Event, ClientError>,
}

/// The stream in a life of the agent after that one.
pub(crate) fn subscribe(node: &Node, before: u32) -> Stream {
    let mut connection = node.connect_after(before);
    let first = connection.client.subscribe();
    Stream { connection, first }
}

/// Writes down every event, to the last, over all lives of the agent.
pub(crate) fn events(
    at: usize,
    node: &Node,
    mut stream: Stream,
    (history, course): (&History, &Course),
) {
    let mut known = Known::default();
    // The last life is the one in which the run ends.
    while let Some(before) = reads(at, stream, &mut known, (history, course)) {
        stream = subscribe(node, before);
    }
}

/// What the streams so far told.
#[derive(Default)]
struct Known {
    /// Those that were held and of whose end nobody told, and whether they were to be kept.
    open: BTreeMap<LeaseId, (Resource, bool)>,
    over: BTreeSet<LeaseId>,
}

/// Reads one stream. Gives the life that it ended with, or nothing when the run is over.
fn reads(
    at: usize,
    stream: Stream,
    known: &mut Known,
    (history, course): (&History, &Course),
) -> Option<u32> {
    let Stream { connection: Connection { mut client, life }, first: mut next } = stream;
    let (mut is_state, mut there) = (true, BTreeSet::new());
    loop {
        match next {
            Ok(Event::Lease(lease)) => {
                there.insert(lease.lease);
                // What was told once is still part of the state.
                if !is_state || !known.over.contains(&lease.lease) {
                    note((at, life), &lease, known, history);
                }
            }
            Ok(Event::Caught) => {
                is_state = false;
                let open = std::mem::take(&mut known.open);
                let (open, gone) = open.into_iter().partition(|(lease, _)| there.contains(lease));
                known.open = open;
                for (lease, (resource, was_kept)) in gone {
                    let (asked, what) = (now_us(), What::EventGone { was_kept });
                    let (agent, answered) = (at, asked);
                    history.add(Told { agent, life, resource, lease, asked, answered, what });
                    known.over.insert(lease);
                }
            }
            // Nobody asked for it.
            Ok(Event::Anew) => panic!("a stream begins anew by itself"),
            Err(ClientError::Mute(_)) if course.is_over() => return None,
            Err(ClientError::Mute(_)) => {}
            Err(error) if is_broken(&error) => return Some(life),
            Err(error) => panic!("a stream of events breaks: {error:?}"),
        }
        next = client.next_event(Some(SILENCE));
    }
}

/// Writes one event down.
fn note(who: (usize, u32), lease: &Lease, known: &mut Known, history: &History) {
    let what = match &lease.state {
        State::Held | State::AtRisk => {
            let is_kept = lease.hold == Hold::Keep && lease.attach == Attach::Detached;
            known.open.insert(lease.lease, (lease.resource.clone(), is_kept));
            What::EventHeld(lease.fence.expect("a held lease has a fence"))
        }
        State::Released => What::EventReleased,
        State::Lost(reason) => What::EventLost(reason.clone()),
        State::Asking | State::Unknown | State::Lingering => return,
    };
    if matches!(lease.state, State::Released | State::Lost(_)) {
        known.open.remove(&lease.lease);
        known.over.insert(lease.lease);
    }
    let now = now_us();
    history.add(told(who, lease, (now, now), what));
}

/// Writes down what the agent believes, again and again: its deadlines as exactly as can be.
pub(crate) fn beliefs(at: usize, node: &Node, (history, course): (&History, &Course)) {
    let mut connection = node.connect();
    let mut over = BTreeSet::new();
    while !course.is_over() {
        let asked = now_us();
        let leases = match connection.leases() {
            Ok(leases) => leases,
            Err(error) if is_broken(&error) => {
                connection = node.connect_after(connection.life);
                over.clear();
                continue;
            }
            Err(error) => panic!("the agent does not answer: {error:?}"),
        };
        let times = (asked, now_us());
        for lease in leases {
            let end = match &lease.state {
                State::Lost(_) => Some(What::Lost),
                State::Released | State::Lingering => Some(What::Leaving),
                State::Unknown => Some(What::Unproven),
                State::Asking | State::Held | State::AtRisk => None,
            };
            let what = match (end, belief(&lease)) {
                (Some(What::Unproven), _) => Some(What::Unproven),
                (Some(end), _) => over.insert(lease.lease).then_some(end),
                (None, belief) => belief.map(What::Held),
            };
            if let Some(what) = what {
                history.add(told((at, connection.life), &lease, times, what));
            }
        }
        course.pause(EVERY_MS);
    }
}

/// Asks the store for something, again and again, and writes down when that did not work.
pub(crate) fn pulse(at: usize, node: &Node, (history, course): (&History, &Course), pulse: &Pulse) {
    let mut connection = node.connect();
    let (mut last, mut is_away) = (now_us(), false);
    while !course.is_over() {
        let asked = now_us();
        let answer = connection.client.current(Resource::new("pulse").expect("a name"));
        let answered = now_us();
        history.waited(answered - asked, "current");
        match answer {
            Ok(lock) => {
                assert_eq!(lock, None, "nobody takes that");
                if is_away {
                    history.add_outage(Outage { agent: at, from: last, to: answered });
                }
                (last, is_away) = (answered, false);
                pulse.beat(asked);
            }
            Err(ClientError::Refused(no)) if no.code == Code::Unavailable => is_away = true,
            Err(error) if is_broken(&error) => {
                is_away = true;
                connection = node.connect_after(connection.life);
            }
            Err(error) => panic!("the agent does not answer: {error:?}"),
        }
        course.pause(EVERY_MS);
    }
}

fn told(
    (agent, life): (usize, u32),
    lease: &Lease,
    (asked, answered): (u64, u64),
    what: What,
) -> Told {
    let (resource, lease) = (lease.resource.clone(), lease.lease);
    Told { agent, life, resource, lease, asked, answered, what }
}
