//! Everything that goes wrong, counted: a fault is counted when a request has met it, not when it
//! was wished for.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use crate::course::{Course, Pulse};
use crate::dice::{Dice, now_us};
use crate::proxy::Fault;
use crate::stores::Store;
use crate::users::{HASTY_PREFIX, PREFIX};
use crate::{HOSTS, Node};

/// How often each fault of a line is met, per store.
const LINE_FAULTS: usize = 25;
/// How often the store is killed, and how often an agent's packets vanish.
const KILLS: usize = 10;
const PARTITIONS: usize = 10;
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
    Kill,
    Partition,
}

impl Trouble {
    pub(crate) const ALL: [(Trouble, usize); 7] = [
        (Trouble::Cut, LINE_FAULTS),
        (Trouble::HalfOpen, LINE_FAULTS),
        (Trouble::Late, LINE_FAULTS),
        (Trouble::HeldUntilGone, LINE_FAULTS),
        (Trouble::ResetAfter, LINE_FAULTS),
        (Trouble::Kill, KILLS),
        (Trouble::Partition, PARTITIONS),
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
            Trouble::Kill | Trouble::Partition => None,
        }
    }
}

/// How often each trouble was met, and when each part of the run began and ended.
#[derive(Debug, Default)]
pub(crate) struct Met {
    pub(crate) times: BTreeMap<Trouble, usize>,
    pub(crate) parts: Vec<(&'static str, u64, u64)>,
}

impl Met {
    pub(crate) fn are_all_there(&self) {
        for (trouble, wanted) in Trouble::ALL {
            assert_eq!(self.times.get(&trouble), Some(&wanted), "{trouble:?}");
        }
    }
}

/// All of it: first the lines, then the store, then the packets; the users are at work meanwhile.
pub(crate) fn all(
    store: &mut Store,
    nodes: &[Node],
    pulses: &[Pulse],
    course: &Course,
    dice: &mut Dice,
) -> Met {
    let mut met = Met::default();
    let begun = now_us();
    let shares = shares(dice);
    let hits: usize = thread::scope(|scope| {
        let lines = nodes.iter().zip(shares.clone());
        let lines = lines.map(|(node, share)| {
            let dice = dice.split();
            scope.spawn(move || on_a_line(node, share, course, dice))
        });
        let lines: Vec<_> = lines.collect();
        lines.into_iter().map(|line| line.join().expect("see above")).sum()
    });
    for trouble in shares.into_iter().flatten() {
        *met.times.entry(trouble).or_default() += 1;
    }
    assert_eq!(hits, met.times.values().sum::<usize>(), "the lines counted otherwise");
    all_are_well(pulses);
    met.parts.push(("lines", begun, now_us()));

    let begun = now_us();
    for _ in 0..KILLS {
        course.pause(200 + dice.below(1000));
        store.crash(nodes);
        all_are_well(pulses);
        *met.times.entry(Trouble::Kill).or_default() += 1;
    }
    met.parts.push(("kill -9", begun, now_us()));

    let begun = now_us();
    let dark: usize = thread::scope(|scope| {
        let agents = nodes.iter().zip(pulses).enumerate().map(|(at, (node, pulse))| {
            let (times, dice) = ((at..PARTITIONS).step_by(HOSTS.len()).len(), dice.split());
            scope.spawn(move || in_the_dark(node, pulse, times, course, dice))
        });
        let agents: Vec<_> = agents.collect();
        agents.into_iter().map(|agent| agent.join().expect("see above")).sum()
    });
    met.times.insert(Trouble::Partition, dark);
    all_are_well(pulses);
    met.parts.push(("partition", begun, now_us()));
    met
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
