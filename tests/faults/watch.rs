//! Who only looks: at what an agent says of all its leases, at its events, and at whether it
//! reaches its store.

use std::collections::BTreeSet;
use std::time::Duration;

use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{Code, Event, Lease, State};
use stormlock_protocol::name::Resource;

use crate::Node;
use crate::course::{Course, Pulse};
use crate::dice::now_us;
use crate::history::{History, Outage, Told, What};
use crate::users::{belief, connect};

/// How often the leases and the store are asked for, in milliseconds.
const EVERY_MS: usize = 100;
/// How long a stream is silent before it has nothing left to tell.
const SILENCE: Duration = Duration::from_secs(3);

/// A stream of an agent's events, from its beginning.
pub(crate) fn subscribe(node: &Node) -> Client {
    let mut events = connect(&node.agent);
    assert_eq!(events.subscribe().expect("a stream"), Event::Caught, "it has no lease yet");
    events
}

/// Writes down every event, to the last.
pub(crate) fn events(at: usize, mut events: Client, (history, course): (&History, &Course)) {
    loop {
        let lease = match events.next_event(Some(SILENCE)) {
            Ok(Event::Lease(lease)) => lease,
            Ok(Event::Caught) => continue,
            Err(ClientError::Mute(_)) if course.is_over() => return,
            Err(ClientError::Mute(_)) => continue,
            Err(error) => panic!("a stream of events breaks: {error:?}"),
        };
        let what = match &lease.state {
            State::Held | State::AtRisk => {
                What::EventHeld(lease.fence.expect("a held lease has a fence"))
            }
            State::Released => What::EventReleased,
            State::Lost(reason) => What::EventLost(reason.clone()),
            State::Asking | State::Unknown => continue,
        };
        let now = now_us();
        history.add(told(at, &lease, (now, now), what));
    }
}

/// Writes down what the agent believes, again and again: its deadlines as exactly as can be.
pub(crate) fn beliefs(at: usize, node: &Node, (history, course): (&History, &Course)) {
    let mut client = connect(&node.agent);
    let mut over = BTreeSet::new();
    while !course.is_over() {
        let mut after = None;
        loop {
            let asked = now_us();
            let page = client.status(after).expect("the agent answers");
            let times = (asked, now_us());
            for lease in page.leases {
                let what = match &lease.state {
                    State::Lost(_) => Some(What::Lost),
                    State::Released => Some(What::Released),
                    _ => None,
                };
                let what = match (what, belief(&lease)) {
                    (Some(end), _) => over.insert(lease.lease).then_some(end),
                    (None, belief) => belief.map(What::Held),
                };
                if let Some(what) = what {
                    history.add(told(at, &lease, times, what));
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        course.pause(EVERY_MS);
    }
}

/// Asks the store for something, again and again, and writes down when that did not work.
pub(crate) fn pulse(at: usize, node: &Node, (history, course): (&History, &Course), pulse: &Pulse) {
    let mut client = connect(&node.agent);
    let (mut last, mut is_away) = (now_us(), false);
    while !course.is_over() {
        let asked = now_us();
        let answer = client.current(Resource::new("pulse").expect("a name"));
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
            Err(error) => panic!("the agent does not answer: {error:?}"),
        }
        course.pause(EVERY_MS);
    }
}

fn told(agent: usize, lease: &Lease, (asked, answered): (u64, u64), what: What) -> Told {
    Told { agent, resource: lease.resource.clone(), lease: lease.lease, asked, answered, what }
}
