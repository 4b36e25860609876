//! One scenario for each law of the design's section 3, under its number and name.

use std::time::Duration;

use stormlock_protocol::name::Fence;

use super::play::{Play, T0, granted, lease, ours, secs};
use super::store::Store;
use super::*;

/// What is believed of a ttl of a minute: less 0.2 % and a quarter of a second.
const MINUTE: Duration = Duration::from_millis(59_880 - 250);

#[test]
fn law_1_count_from_departure() {
    let mut play = Play::new();
    play.input(ask(1, 1, vec![claim(1, "infra", 60)], Hold::No));
    play.synced(true);
    play.at(secs(4));
    play.settle(granted(1, 60));
    play.synced(true);
    assert_eq!(play.view().deadline, T0 + MINUTE, "the four seconds of the answer count");

    play.input(Input::Renew { ticket: Ticket(2), lease: lease(1), ttl: None, hold: None });
    play.synced(true);
    play.at(secs(7));
    play.settle(ours(60));
    play.synced(true);
    assert_eq!(play.view().deadline, T0 + secs(4) + MINUTE, "a renewal counts alike");
}

#[test]
fn law_2_boot_clock_a_jump_reads_every_lease_back_at_once() {
    let mut play = Play::holding(Hold::Keep);
    assert!(play.calls.is_empty());
    play.input(Input::ClockJumped);
    assert!(matches!(play.call(), Call::Verify(_)));
    // The host slept past the deadline: the first look after it says so, though no timer rang.
    play.now = T0 + secs(3600);
    assert_eq!(play.view().state, State::Lost(Loss::Expired));
}

#[test]
fn law_3_unknown_is_not_no_an_acquire_is_cancelled_until_that_is_acknowledged() {
    let mut play = Play::new();
    play.input(ask(1, 1, vec![claim(1, "infra", 60)], Hold::No));
    play.synced(true);
    for _ in 0..3 {
        assert!(matches!(play.call(), Call::Acquire(_)));
        play.settle(CallResult::Unknown);
        play.go_on();
    }
    assert!(matches!(
        play.answers.as_slice(),
        [Answer::No(No::Store { after: After::Cancelling, .. })]
    ));
    for _ in 0..20 {
        assert!(matches!(play.call(), Call::Cancel(..)));
        play.settle(CallResult::Unknown);
        play.go_on();
    }
    play.settle(CallResult::Done);
    assert!(play.table.is_empty());
}

#[test]
fn law_3_unknown_is_not_no_a_renewal_keeps_the_old_deadline() {
    let mut play = Play::holding(Hold::Keep);
    play.at(secs(21));
    play.synced(true);
    assert!(matches!(play.call(), Call::Renew { .. }));
    play.settle(CallResult::Unknown);
    assert_eq!(play.view().deadline, T0 + MINUTE);
    assert_eq!(play.view().state, State::AtRisk);
}

#[test]
fn law_4_intent_before_action() {
    let mut play = Play::new();
    play.input(ask(1, 1, vec![claim(1, "infra", 60), claim(2, "other", 60)], Hold::No));
    assert!(matches!(play.records.as_slice(), [Record::Intent(_), Record::Intent(_)]));
    assert!(play.calls.is_empty(), "nothing leaves before the intents are on disk");
    play.synced(true);
    assert_eq!(play.calls.len(), 1);
    // A crash at this instant leaves what the next start cancels.
    let mut next = Play::new();
    next.input(Input::Recover(Box::new(play.memory())));
    assert!(next.calls.iter().all(|(_, call)| matches!(call, Call::Cancel(..))));
    assert_eq!(next.calls.len(), 2);
}

#[test]
fn law_4_intent_before_action_without_a_journal_nothing_leaves() {
    let mut play = Play::new();
    play.input(ask(1, 1, vec![claim(1, "infra", 60)], Hold::No));
    play.synced(false);
    assert!(play.calls.is_empty() && play.table.is_empty());
    assert_eq!(play.answers, [Answer::No(No::Journal)]);
}

#[test]
fn law_5_cancel_is_definitive() {
    let mut store = Store::default();
    let claim = claim(1, "infra", 60);
    let expected = store.counter(&claim.resource);
    let cancel = Call::Cancel(claim.resource.clone(), claim.lease);
    assert_eq!(store.does(1, &cancel), CallResult::Done);
    assert_eq!(store.acquire(2, &claim, expected), Attempt::Moved, "the late copy");
    assert!(store.row(3, &claim.resource).is_none());
}

#[test]
fn law_6_check_at_use() {
    let mut play = Play::holding(Hold::No);
    // No tick, no timer: only the question's own time.
    play.now = T0 + MINUTE - Duration::from_nanos(1);
    assert_eq!(play.view().state, State::Held);
    play.now = T0 + MINUTE;
    assert_eq!(play.view().state, State::Lost(Loss::Expired));
}

#[test]
fn law_7_say_lost_early_once() {
    let mut play = Play::holding(Hold::Keep);
    play.at(secs(21));
    play.synced(true);
    play.at(MINUTE);
    let lost: Vec<&View> =
        play.changes.iter().filter(|view| view.state == State::Lost(Loss::Expired)).collect();
    assert_eq!(lost.len(), 1, "a quarter of a second before the store may give it away");
    // The renewal comes through after all.
    play.settle(ours(60));
    play.at(MINUTE + secs(1));
    assert_eq!(play.view().state, State::Lost(Loss::Expired), "whatever the store says");
    let told = play.changes.iter().filter(|view| matches!(view.state, State::Lost(_))).count();
    assert_eq!(told, 1);
    // What that renewal kept in the store is let go.
    assert!(matches!(play.call(), Call::Release(_)));
}

#[test]
fn law_7_say_lost_early_once_and_no_other_end_after_it() {
    let mut play = Play::holding(Hold::Keep);
    play.at(secs(21));
    play.synced(true);
    play.at(MINUTE);
    // Its holder has heard of it, while a renewal that may have come through is still cleared away.
    play.input(Input::Release { ticket: Ticket(2), lease: lease(1) });
    assert_eq!(play.answers, [Answer::No(No::Lost(Loss::Expired))]);
    play.settle(ours(60));
    assert!(matches!(play.call(), Call::Release(_)));
    play.settle(CallResult::Done);
    assert!(play.table.is_empty());
    let is_end = |view: &&View| matches!(view.state, State::Lost(_) | State::Released);
    let told: Vec<&State> = play.changes.iter().filter(is_end).map(|view| &view.state).collect();
    assert_eq!(told, [&State::Lost(Loss::Expired)]);
}

#[test]
fn law_7_say_lost_early_once_a_shorter_end_is_told_before_it_is_asked_for() {
    let mut play = Play::holding(Hold::No);
    play.at(secs(1));
    let ttl = Some(ttl(10));
    play.input(Input::Renew { ticket: Ticket(2), lease: lease(1), ttl, hold: None });
    assert!(play.calls.is_empty(), "the mark is not on disk yet");
    let end = T0 + secs(1) + secs(10);
    assert!(play.changes.last().is_some_and(|view| view.deadline < end));
    // A crash now: the next start believes no longer either.
    let mut next = Play::new();
    next.now = T0 + secs(12);
    next.input(Input::Recover(Box::new(play.memory())));
    assert_eq!(next.view().state, State::Lost(Loss::Expired));
}

#[test]
fn law_8_each_grant_carries_a_greater_fence() {
    let mut play = Play::holding(Hold::No);
    play.input(Input::Release { ticket: Ticket(2), lease: lease(1) });
    play.settle(CallResult::Done);
    play.answers.clear();
    play.input(ask(3, 1, vec![claim(2, "infra", 60)], Hold::No));
    play.synced(true);
    play.settle(granted(10, 60));
    assert_eq!(play.answers, [Answer::No(No::Fence(resource("infra"), Fence(10)))]);
    assert!(matches!(play.call(), Call::Release(_)), "what was refused is given back");
}

#[test]
fn law_8_fences_that_nobody_saw_for_the_longest_are_forgotten_first() {
    let mut play = Play::new();
    let mut take = |number: u64, name: &str, fence| {
        play.input(ask(number, 1, vec![claim(number, name, 60)], Hold::No));
        play.synced(true);
        play.settle(granted(fence, 60));
        play.synced(true);
        let taken = matches!(play.answers.last(), Some(Answer::Acquired(_)));
        play.input(Input::Release { ticket: Ticket(0), lease: lease(number) });
        play.settle(CallResult::Done);
        play.synced(true);
        taken
    };
    let most = u64::try_from(fences::FENCES_MAX).unwrap();
    // By name it is the first of all.
    assert!(take(1, "a", 10));
    assert!((2..=most).all(|number| take(number, &format!("res{number}"), 10)));
    assert!(take(most + 1, "a", 11));
    assert!(take(most + 2, "another", 10));
    assert!(!take(most + 3, "a", 11), "it is remembered");
    assert!(!take(most + 4, "res3", 10), "it is remembered");
    assert!(take(most + 5, "res2", 10), "it is forgotten");
}

#[test]
fn law_8_a_greater_fence_of_our_own_ends_the_older_lease() {
    let mut play = Play::holding(Hold::No);
    play.input(ask(2, 1, vec![claim(2, "infra", 60)], Hold::No));
    play.synced(true);
    play.settle(granted(11, 60));
    assert!(matches!(play.view().state, State::Lost(Loss::TakenBy(_))));
}

#[test]
fn law_9_whose_end_ends_what_is_written_down() {
    let mut play = Play::new();
    for (number, attach) in [(1, Attach::Session(SessionId(5))), (2, Attach::Detached)] {
        let (ticket, session, owner) = (Ticket(number), SessionId(5), Uid(1000));
        let claims = vec![claim(number, &format!("res{number}"), 60)];
        let (leases_max, until, hold_for, hold) = (9, None, None, Hold::No);
        let terminal = None;
        let ask = Ask {
            ticket,
            session,
            claims,
            owner,
            hold,
            attach,
            terminal,
            leases_max,
            until,
            hold_for,
        };
        play.input(Input::Acquire(Box::new(ask)));
        play.synced(true);
        play.settle(granted(1, 60));
        play.synced(true);
    }
    let attach = |number: u64| play.memory().leases[&lease(number)].intent.attach;
    assert_eq!(attach(1), Attach::Session(SessionId(5)));
    assert_eq!(attach(2), Attach::Detached);
    play.input(Input::Gone(SessionId(5)));
    assert!(matches!(play.call(), Call::Release(proof) if proof.lease == lease(1)));
    assert_eq!(play.calls.len(), 1, "what is detached stays");
}

#[test]
fn law_9_a_killed_holder_leaves_those_it_held_for_their_grace() {
    let mut play = Play::killed_holder();
    assert_eq!(play.view().state, State::Lingering, "nobody believes in it any more");
    assert_eq!(play.view().deadline, T0 + secs(25));
    play.at(secs(24));
    assert!(matches!(play.call(), Call::Verify(_)), "whether it is there is looked at");
    play.settle(ours(36));
    assert!(play.calls.is_empty(), "nor is it renewed or given back: {:?}", play.calls);
    play.at(secs(25));
    assert!(matches!(play.call(), Call::Release(_)));
    play.settle(CallResult::Done);
    assert!(play.table.is_empty());

    // One that stands still does not end before its hold does, as it should.
    let mut play = Play::holding(Hold::Until(T0 + secs(30)));
    let attach = Attach::Holder(ProcessId { pid: 7, started: 1, group: false }, 15);
    play.input(Input::Attach { ticket: Ticket(2), lease: lease(1), attach });
    play.synced(true);
    while play.now < T0 + secs(45) {
        assert!(!play.calls.iter().any(|(_, call)| matches!(call, Call::Release(_))));
        play.now = play.table.next_wakeup().expect("it goes on");
        play.input(Input::Tick);
        play.synced(true);
        while matches!(play.calls.first(), Some((_, Call::Renew { .. } | Call::Verify(_)))) {
            play.settle(ours(60));
            play.synced(true);
        }
    }
    assert!(matches!(play.call(), Call::Release(_)));

    // Of a lease for a day that is an hour, whatever was asked for.
    let mut play = Play::new();
    play.input(ask(1, 1, vec![claim(1, "infra", 24 * 3600)], Hold::Keep));
    play.synced(true);
    play.settle(granted(10, 24 * 3600));
    play.synced(true);
    let holder = ProcessId { pid: 7, started: 1, group: false };
    let attach = Attach::Holder(holder, u32::MAX);
    play.input(Input::Attach { ticket: Ticket(2), lease: lease(1), attach });
    play.input(Input::Ended(holder));
    assert_eq!(play.view().deadline, play.now + secs(3600));

    // Whoever says that nobody counts on it any more is believed.
    let mut play = Play::killed_holder();
    play.input(Input::Release { ticket: Ticket(3), lease: lease(1) });
    assert!(matches!(play.call(), Call::Release(_)));
}

#[test]
fn law_9_a_killed_holder_is_one_for_the_next_start_too() {
    let memory = Play::killed_holder().memory();
    let next = |memory: Memory| {
        let mut next = Play::new();
        next.now = T0 + secs(12);
        next.input(Input::Recover(Box::new(memory)));
        next
    };
    let mut same = next(memory.clone());
    same.at(secs(26));
    assert!(matches!(same.call(), Call::Verify(_)), "whether it is there is looked at");
    same.settle(ours(34));
    assert!(same.calls.is_empty(), "how much of the grace was over is not known");
    same.at(secs(27));
    assert!(matches!(same.call(), Call::Release(_)));
    let mut other = memory;
    other.apply(Record::Boot { id: [7; 16], wall_at_boot: UnixMs(0) });
    other.apply(Record::Boot { id: [8; 16], wall_at_boot: UnixMs(0) });
    let other = next(other);
    assert!(matches!(other.call(), Call::Release(_)), "nobody survives a boot");
}

#[test]
fn law_9_others_wait_for_what_lingers() {
    let mut play = Play::killed_holder();
    play.answers.clear();
    play.input(ask(3, 1, vec![claim(2, "infra", 60)], Hold::Keep));
    play.synced(true);
    assert!(matches!(play.call(), Call::Acquire(_)), "the store decides: {:?}", play.calls);
}

#[test]
fn law_10_compare_always() {
    let mut play = Play::holding(Hold::Keep);
    let mark = claim(1, "infra", 60).nonce;
    play.at(secs(15));
    assert!(matches!(play.call(), Call::Verify(proof) if proof.nonces == [mark]));
    play.settle(ours(45));
    play.at(secs(21));
    play.synced(true);
    let Call::Renew { proof, next, .. } = play.call() else { panic!("it is time to renew") };
    assert_eq!(proof.lease, lease(1));
    assert_eq!(proof.nonces, [mark, *next], "a repeat of the renewal fits, an older copy does not");
    play.settle(CallResult::Stands(Standing::NotOurs(None)));
    assert_eq!(play.view().state, State::Lost(Loss::StoreLostIt));
    play.at(secs(300));
    assert!(play.calls.is_empty(), "a vanished record is never made again: {:?}", play.calls);
}

#[test]
fn law_11_renew_early_verify_often() {
    let mut play = Play::holding(Hold::Keep);
    let (mut renewals, mut reads) = (Vec::new(), Vec::new());
    let mut ends = T0 + secs(60);
    while play.now < T0 + secs(600) {
        play.now = play.table.next_wakeup().expect("a held lease has its next renewal");
        play.input(Input::Tick);
        play.synced(true);
        while let Some((_, call)) = play.calls.first() {
            match call {
                Call::Renew { .. } => {
                    renewals.push(play.now);
                    ends = play.now + secs(60);
                }
                Call::Verify(_) => reads.push(play.now),
                other => panic!("{other:?}"),
            }
            let remaining = play.now.until(ends);
            play.settle(CallResult::Stands(Standing::Ours { remaining }));
        }
    }
    let gaps = |of: &[Moment]| of.windows(2).map(|two| two[0].until(two[1])).max();
    assert!(renewals.len() >= 30, "every third of the ttl: {}", renewals.len());
    assert!(gaps(&renewals) <= Some(secs(20)));
    let mut looks = [renewals, reads].concat();
    looks.sort_unstable();
    assert!(gaps(&looks) <= Some(secs(15)), "a break is noticed within the verify interval");
    assert!(play.changes.iter().all(|view| view.state == State::Held));
}

#[test]
fn law_11_renewals_are_tried_until_the_deadline() {
    let mut play = Play::holding(Hold::Keep);
    let mut tries = 0;
    while matches!(play.view().state, State::Held | State::AtRisk) {
        play.now = play.table.next_wakeup().expect("it goes on");
        play.input(Input::Tick);
        play.synced(true);
        while let Some((_, call)) = play.calls.first() {
            tries += u32::from(matches!(call, Call::Renew { .. }));
            play.settle(CallResult::Refused(RefusedKind::Unreachable));
        }
    }
    assert_eq!(play.now, T0 + MINUTE);
    assert!((10..1000).contains(&tries), "{tries} tries within two thirds of a minute");
}

/// A store that is away for five minutes, from just before the first renewal of eight minutes.
#[test]
fn law_11_a_store_that_is_back_is_asked_to_renew_within_seconds() {
    const AWAY: Duration = secs(300);
    let mut slowest = Duration::ZERO;
    for seed in 0..300 {
        let mut play = Play { table: table(None, seed), ..Play::new() };
        play.input(ask(1, 1, vec![claim(1, "infra", 480)], Hold::Keep));
        play.synced(true);
        play.settle(granted(10, 480));
        play.synced(true);
        let (mut gone_at, mut renewed_at) = (None, None);
        while renewed_at.is_none() {
            play.now = play.table.next_wakeup().expect("it goes on");
            play.input(Input::Tick);
            play.synced(true);
            while let Some((_, call)) = play.calls.first() {
                let renews = matches!(call, Call::Renew { .. });
                if renews {
                    gone_at = gone_at.or(Some(play.now));
                }
                let is_away = gone_at.is_some_and(|at| at.until(play.now) < AWAY);
                let left = play.now.until(T0 + secs(480));
                play.settle(match (is_away, renews) {
                    (true, _) => CallResult::Unknown,
                    (false, true) => {
                        renewed_at = Some(play.now);
                        ours(480)
                    }
                    (false, false) => CallResult::Stands(Standing::Ours { remaining: left }),
                });
                play.synced(true);
            }
            assert!(!matches!(play.view().state, State::Lost(_)), "lost with seed {seed}");
        }
        assert_eq!(play.view().state, State::Held);
        let back_at = gone_at.expect("a renewal") + AWAY;
        slowest = slowest.max(back_at.until(renewed_at.expect("a renewal")));
    }
    assert!(slowest < secs(6), "{slowest:?} after it was back");
}

#[test]
fn law_12_restart_renews_before_it_believes() {
    let before = Play::holding(Hold::Keep);
    let mut play = Play::new();
    play.now = T0 + secs(5);
    play.input(Input::Recover(Box::new(before.memory())));
    assert_eq!(play.view().state, State::Unknown);
    play.synced(true);
    assert!(matches!(play.call(), Call::Renew { .. }), "reading it back would not do");
    play.settle(ours(60));
    assert_eq!(play.view().state, State::Held);
    assert_eq!(play.view().deadline, T0 + secs(5) + MINUTE);
}

#[test]
fn law_12_restart_renews_before_it_believes_also_without_a_journal() {
    let before = Play::holding(Hold::Keep);
    let mut play = Play::new();
    play.input(Input::Recover(Box::new(before.memory())));
    play.synced(false);
    play.settle(ours(60));
    assert_eq!(play.view().state, State::Unknown, "an old mark proves nothing to a new agent");
    while matches!(play.view().state, State::Unknown) {
        play.now = play.table.next_wakeup().expect("it goes on");
        play.input(Input::Tick);
        play.synced(true);
        while !play.calls.is_empty() {
            play.settle(ours(60));
        }
    }
    assert_eq!(play.view().state, State::Held);
}
