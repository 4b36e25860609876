//! What happens to the agents themselves.

use std::time::Duration;

use stormlock_protocol::message::{Lease, State};

use super::{GIVE_UP, There};
use crate::dice::{Dice, now_us};
use crate::history::Blind;
use crate::node::Node;
use crate::users::steady;

/// Every point at which an agent is killed, in this order, and the n of the passing is at most this
/// one. One that ends an acquire leaves what the next start has to cancel.
pub(super) const POINTS: [(&str, usize); 20] = [
    ("intent", 4),
    ("acquire-call", 4),
    ("cancel-call", 1),
    ("acquire-answer", 4),
    ("cancel-answer", 1),
    ("acquire-tell", 4),
    ("recover", 1),
    ("renew-call", 1),
    ("recovered", 1),
    ("renew-answer", 1),
    ("marking", 4),
    ("renew-call", 4),
    ("renew-answer", 4),
    ("renewed", 4),
    ("renew-tell", 2),
    ("ending", 4),
    ("release-call", 4),
    ("release-answer", 4),
    ("release-tell", 4),
    ("lost", 1),
];

/// A point that nobody passes by then is none: some wait until chance has somebody let a lease end.
const POINT_MAX: Duration = Duration::from_secs(180);
/// One start of so many cannot reach the store for a while.
const BLIND_ONE_IN: usize = 4;
/// For so long, in milliseconds.
const BLIND_MS: usize = 300;
/// An agent stands still for longer than the short leases last, and shorter than a steady one.
const STOP_MS: usize = 5200;
/// Nothing happens for longer than a steady lease lasts.
const CALM_MS: usize = 21_000;

/// An agent is killed at any moment, again and again, and starts on what it had written down.
pub(super) fn are_killed(there: There<'_>, at: usize, times: usize, mut dice: Dice) -> usize {
    let node = &there.nodes[at];
    for _ in 0..times {
        there.course.pause(dice.below(1000));
        node.kill();
        if dice.below(BLIND_ONE_IN) == 0 {
            starts_blind(there, at);
        } else {
            assert!(node.begins(None), "it ended at once");
        }
    }
    times
}

/// It starts while its line refuses it: whatever it says of its leases then, no store told it.
fn starts_blind(there: There<'_>, at: usize) {
    let node = &there.nodes[at];
    node.line.refuse(true);
    let from = now_us();
    assert!(node.begins(None), "it ended at once");
    there.course.pause(BLIND_MS);
    let to = now_us();
    there.history.was_blind(Blind { agent: at, from, to });
    node.line.refuse(false);
}

/// An agent is killed at each point, and starts with the next one before it.
pub(super) fn are_killed_at_points(there: There<'_>, at: usize, mut dice: Dice) -> usize {
    let node = &there.nodes[at];
    for (point, most) in POINTS {
        node.kill();
        let setting = format!("{point}:{}", 1 + dice.below(most));
        let is_met = !node.begins(Some(&setting)) || node.ends_within(POINT_MAX);
        assert!(is_met, "nobody met {setting}");
    }
    begins_again(node);
    POINTS.len()
}

fn begins_again(node: &Node) {
    node.kill();
    assert!(node.begins(None), "it ended at once");
}

/// An agent stands still while its short leases end and others take what it had.
pub(super) fn stand_still(there: There<'_>, at: usize, times: usize, mut dice: Dice) -> usize {
    let node = &there.nodes[at];
    for _ in 0..times {
        there.course.pause(500 + dice.below(2000));
        node.pause();
        there.course.pause(STOP_MS + dice.below(1500));
        node.resume();
        let is_well = there.pulses[at].beats_after(now_us(), GIVE_UP);
        assert!(is_well, "the store is not found again");
    }
    times
}

/// Nothing happens, and what is kept is kept.
pub(super) fn are_left_alone(there: There<'_>) {
    for (at, node) in there.nodes.iter().enumerate() {
        let began = now_us();
        while !has_its_steady_lease(there, at, node) {
            let waited = u128::from(now_us() - began);
            assert!(waited < GIVE_UP.as_micros(), "agent {at} does not get what nobody else wants");
            there.course.pause(100);
        }
    }
    let from = now_us();
    there.course.pause(CALM_MS);
    there.history.was_calm(from, now_us());
}

/// And somebody was told so: what is held and not yet written down is nothing that can be checked.
fn has_its_steady_lease(there: There<'_>, at: usize, node: &Node) -> bool {
    let leases = node.connect().leases().expect("the agent answers");
    let is_held = |it: &&Lease| it.resource == steady(at) && it.state == State::Held;
    leases.iter().find(is_held).is_some_and(|it| there.history.was_told_held(it.lease))
}
