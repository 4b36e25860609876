//! Everything that goes wrong, counted: a fault is counted when a request has met it, not when it
//! was wished for.

mod agents;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use crate::HOSTS;
use crate::course::{Course, Pulse};
use crate::dice::{Dice, now_us};
use crate::history::History;
use crate::node::Node;
use crate::proxy::Fault;
use crate::stores::Store;
use crate::users::{HASTY_PREFIX, PREFIX};

/// How often each fault of a line is met, per store.
const LINE_FAULTS: usize = 25;
/// How often the store is killed, how often started anew, and how often an agent's packets vanish.
const STORE_KILLS: usize = 10;
const STORE_RESTARTS: usize = 10;
const PARTITIONS: usize = 10;
/// How often an agent is killed at any moment, and how often it stands still.
const KILLS: usize = 100;
const STOPS: usize = 10;
/// Longer than the agent waits for any answer of a store.
const TOO_LATE: Duration = Duration::from_millis(5500);
/// What takes longer than this never happens.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    Cut,
    HalfOpen,
    Late,
    HeldUntilGone,
    ResetAfter,
    StoreKill,
    StoreRestart,
    Partition,
    Kill,
    Failpoint,
    Stop,
}

/// Whom things happen to, and who watches.
#[derive(Clone, Copy)]
pub(crate) struct There<'a> {
    pub(crate) nodes: &'a [Node],
    pub(crate) pulses: &'a [Pulse],
    pub(crate) course: &'a Course,
    pub(crate) history: &'a History,
}

impl Trouble {
    pub(crate) const ALL: [(Trouble, usize); 11] = [
        (Trouble::Cut, LINE_FAULTS),
        (Trouble::HalfOpen, LINE_FAULTS),
        (Trouble::Late, LINE_FAULTS),
        (Trouble::HeldUntilGone, LINE_FAULTS),
        (Trouble::ResetAfter, LINE_FAULTS),
        (Trouble::StoreKill, STORE_KILLS),
        (Trouble::StoreRestart, STORE_RESTARTS),
        (Trouble::Partition, PARTITIONS),
        (Trouble::Kill, KILLS),
        (Trouble::Failpoint, agents::POINTS.len() * HOSTS.len()),
        (Trouble::Stop, STOPS),
    ];

    /// What the line does then; nothing for what does not happen to a line.
    fn fault(self, dice: &mut Dice) -> Option<Fault> {
        let either = |dice: &mut Dice, one, other| if dice.below(2) == 0 { one } else { other };
        match self {
            Trouble::Cut => Some(either(dice, Fault::CutBefore, Fault::CutAfter)),
            Trouble::HalfOpen => Some(Fault::HalfOpen),
            Trouble::Late => Some(either(dice, Fault::Late(TOO_LATE), Fault::LateAnswer(TOO_LATE))),
            Trouble::HeldUntilGone => Some(Fault::HoldUntilGone),
            Trouble::ResetAfter => Some(Fault::ResetAfter),
            Trouble::StoreKill
            | Trouble::StoreRestart
            | Trouble::Partition
            | Trouble::Kill
            | Trouble::Failpoint
            | Trouble::Stop => None,
        }
    }
}

/// How often each trouble was met, and when each part of the run began and ended.
#[derive(Debug, Default)]
pub(crate) struct Met {
    pub(crate) times: BTreeMap<Trouble, usize>,
    /// At which points agents were killed.
    pub(crate) points: BTreeMap<&'static str, usize>,
    pub(crate) parts: Vec<(&'static str, u64, u64)>,
}

impl Met {
    pub(crate) fn are_all_there(&self, store: &Store) {
        for (trouble, wanted) in Trouble::ALL {
            let wanted = match trouble {
                Trouble::StoreRestart => store.restarts(wanted),
                _ => wanted,
            };
            let met = self.times.get(&trouble).copied().unwrap_or_default();
            assert_eq!(met, wanted, "{trouble:?}");
        }
    }
}

/// All of it: first the lines, then the store, then the packets, then the agents; and at last a
/// while in which nothing happens. The users are at work meanwhile.
pub(crate) fn all(store: &mut Store, there: There<'_>, dice: &mut Dice) -> Met {
    let mut met = Met::default();
    let part = |name, met: &mut Met, happens: &mut dyn FnMut(&mut Met)| {
        let begun = now_us();
        happens(met);
        all_are_well(there.pulses);
        met.parts.push((name, begun, now_us()));
    };
    part("lines", &mut met, &mut |met| on_the_lines(there, met, dice));
    part("store", &mut met, &mut |met| to_the_store(store, there, met, dice));
    part("partition", &mut met, &mut |met| {
        let dark = to_each(there, dice, PARTITIONS, |at, times, dice| {
            in_the_dark(&there.nodes[at], &there.pulses[at], times, there.course, dice)
        });
        met.times.insert(Trouble::Partition, dark);
    });
    part("kill -9", &mut met, &mut |met| {
        let killed = to_each(there, dice, KILLS, |at, times, dice| {
            agents::are_killed(there, at, times, dice)
        });
        met.times.insert(Trouble::Kill, killed);
    });
    part("points", &mut met, &mut |met| {
        let killed = to_each(there, dice, HOSTS.len(), |at, _, dice| {
            agents::are_killed_at_points(there, at, dice)
        });
        met.times.insert(Trouble::Failpoint, killed);
        for (point, _) in agents::POINTS {
            *met.points.entry(point).or_default() += there.nodes.len();
        }
    });
    part("stop", &mut met, &mut |met| {
        let stopped = to_each(there, dice, STOPS, |at, times, dice| {
            agents::stand_still(there, at, times, dice)
        });
        met.times.insert(Trouble::Stop, stopped);
    });
    part("calm", &mut met, &mut |_| agents::are_left_alone(there));
    met
}

/// Something happens to all agents at once, to each its share of so many times, and each gives how
/// often.
fn to_each(
    there: There<'_>,
    dice: &mut Dice,
    times: usize,
    happens: impl Fn(usize, usize, Dice) -> usize + Sync,
) -> usize {
    thread::scope(|scope| {
        let agents = (0..there.nodes.len()).map(|at| {
            let (share, dice) = ((at..times).step_by(HOSTS.len()).len(), dice.split());
            let happens = &happens;
            scope.spawn(move || happens(at, share, dice))
        });
        let agents: Vec<_> = agents.collect();
        agents.into_iter().map(|agent| agent.join().expect("see above")).sum()
    })
}

fn on_the_lines(there: There<'_>, met: &mut Met, dice: &mut Dice) {
    let shares = shares(dice);
    let hits = to_each(there, dice, HOSTS.len(), |at, _, dice| {
        on_a_line(&there.nodes[at], shares[at].clone(), there.course, dice)
    });
    for trouble in shares.iter().flatten() {
        *met.times.entry(*trouble).or_default() += 1;
    }
    assert_eq!(hits, met.times.values().sum::<usize>(), "the lines counted otherwise");
}

fn to_the_store(store: &mut Store, there: There<'_>, met: &mut Met, dice: &mut Dice) {
    let restarts = store.restarts(STORE_RESTARTS);
    let mut happens = |trouble: Trouble, to_it: &mut dyn FnMut(&mut Store)| {
        there.course.pause(200 + dice.below(1000));
        to_it(store);
        all_are_well(there.pulses);
        *met.times.entry(trouble).or_default() += 1;
    };
    for time in 0..STORE_KILLS.max(restarts) {
        if time < STORE_KILLS {
            happens(Trouble::StoreKill, &mut |store| store.crash(there.nodes));
        }
        if time < restarts {
            happens(Trouble::StoreRestart, &mut |store| store.restart());
        }
    }
}

/// The faults of each line, shuffled.
fn shares(dice: &mut Dice) -> [Vec<Trouble>; HOSTS.len()] {
    let mut shares = HOSTS.map(|_| Vec::new());
    for (at, (trouble, times)) in Trouble::ALL.into_iter().enumerate() {
        if trouble.fault(dice).is_some() {
            for time in 0..times {
                shares[(time + at) % HOSTS.len()].push(trouble);
            }
        }
    }
    for share in &mut shares {
        for at in (1..share.len()).rev() {
            share.swap(at, dice.below(at + 1));
        }
    }
    shares
}

/// One fault after the other, each met before the next. Gives how many the line counted.
fn on_a_line(node: &Node, share: Vec<Trouble>, course: &Course, mut dice: Dice) -> usize {
    let (before, given_up) = (node.line.hits(), node.line.given_up());
    let mut dead = 0;
    for trouble in share {
        let hits = node.line.hits();
        let fault = trouble.fault(&mut dice).expect("a fault of a line");
        // Half of them meet an acquire that somebody hangs up on, or its undoing.
        node.line.when([PREFIX, HASTY_PREFIX][dice.below(2)], fault);
        assert!(node.line.is_hit_after(hits, GIVE_UP), "no request met {fault:?}");
        dead += usize::from(matches!(fault, Fault::HalfOpen | Fault::HoldUntilGone));
        course.pause(dice.below(1000));
    }
    // Nobody but the agent ends a connection on which nothing comes back.
    let is_over = node.line.is_given_up_after(given_up + dead - 1, GIVE_UP);
    assert!(is_over, "the agent waits on a dead line for ever");
    node.line.hits() - before
}

/// An agent's packets vanish, for as long as short leases last and longer, and come through again.
fn in_the_dark(node: &Node, pulse: &Pulse, times: usize, course: &Course, mut dice: Dice) -> usize {
    for _ in 0..times {
        course.pause(dice.below(1500));
        node.network.darken();
        course.pause(300 + dice.below(5000));
        node.network.lighten();
        assert!(pulse.beats_after(now_us(), GIVE_UP), "the store is not found again");
    }
    times
}

fn all_are_well(pulses: &[Pulse]) {
    let now = now_us();
    for pulse in pulses {
        assert!(pulse.beats_after(now, GIVE_UP), "the store is not found again");
    }
}
