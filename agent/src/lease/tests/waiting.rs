//! Waiting: who is served when, what is held meanwhile, and what is left of a wait that ends.

use std::time::Duration;

use stormlock_protocol::name::UnixMs;

use super::play::{Play, T0, granted, lease, secs};
use super::*;

/// An acquire that waits, for `waits` at most.
fn asks(ticket: u64, names: &[&str], waits: Option<Duration>) -> Input {
    let claims = (0..).zip(names).map(|(n, name)| claim(ticket * 10 + n, name, 60)).collect();
    let Input::Acquire(mut ask) = ask(ticket, ticket, claims, Hold::Keep) else { unreachable!() };
    ask.until = Some(waits.map_or(Moment::NEVER, |waits| T0 + waits));
    Input::Acquire(ask)
}

/// Another host has it, for so long.
fn held(secs: u64) -> CallResult {
    let holder = Holder {
        resource: resource("infra"),
        lease: lease(777),
        principal: Principal::new("jens@bastion1").expect("a name of a test"),
        host: None,
        reason: None,
        fence: None,
        since: UnixMs(0),
        remaining: Some(Duration::from_secs(secs)),
    };
    CallResult::Attempted(Attempt::Held(Some(Box::new(holder))))
}

fn stirred(on: &str, tells: bool) -> Input {
    Input::Stirred { backend: backend(), resource: resource(on), tells }
}

/// A play in which question 1 waits for `infra`.
fn waiting() -> Play {
    let mut play = Play::new();
    play.input(asks(1, &["infra"], None));
    play.synced(true);
    play.settle(held(3600));
    play
}

fn acquired(play: &Play) -> Vec<LeaseId> {
    match play.answers.last() {
        Some(Answer::Acquired(views)) => views.iter().map(|view| view.claim.lease).collect(),
        other => panic!("not acquired: {other:?}"),
    }
}

#[test]
fn whoever_waits_is_told_so_and_asks_again_when_something_stirs() {
    let mut play = waiting();
    assert_eq!(play.waits, [(1, 1, 1)]);
    assert_eq!(play.watched, [resource("infra")]);
    assert!(play.answers.is_empty() && play.calls.is_empty());
    play.at(secs(1));
    play.input(stirred("infra", true));
    assert!(matches!(play.call(), Call::Acquire(claim) if claim.lease == lease(10)));
    play.settle(granted(5, 60));
    play.synced(true);
    assert_eq!(acquired(&play), [lease(10)]);
    assert!(play.watched.is_empty(), "nobody waits any more");
}

#[test]
fn a_store_that_tells_nothing_is_asked_every_two_seconds_and_one_that_tells_rarely() {
    for (tells, range) in [(false, 1..=2), (true, 22..=30)] {
        let mut play = waiting();
        play.at(secs(1));
        play.input(stirred("infra", tells));
        play.settle(held(3600));
        let asked = play.now;
        play.go_on();
        let waited = asked.until(play.now).as_millis().div_ceil(1000);
        assert!(range.contains(&waited), "tells {tells}: {waited} s");
    }
}

#[test]
fn a_lock_that_ends_by_itself_is_asked_for_when_it_does() {
    let mut play = waiting();
    play.at(secs(1));
    play.input(stirred("infra", true));
    play.settle(held(5));
    let asked = play.now;
    play.go_on();
    assert_eq!(asked.until(play.now), secs(5));
    // It outlasts its end (a margin, a store that is late): less and less often.
    let mut waits = Vec::new();
    for _ in 0..8 {
        play.settle(held(0));
        let asked = play.now;
        play.go_on();
        waits.push(asked.until(play.now));
    }
    assert!(waits.is_sorted() && waits[0] <= secs(1) && waits[7] > secs(5), "{waits:?}");
}

#[test]
fn whoever_came_first_is_served_first_and_only_the_first_asks() {
    let mut play = waiting();
    for ticket in [2, 3] {
        play.input(asks(ticket, &["infra"], None));
        // The first looks whether it is free by now; the new one only takes its place.
        play.go_on();
        assert_eq!(play.calls.len(), 1);
        assert!(matches!(play.call(), Call::Acquire(claim) if claim.lease == lease(10)));
        play.settle(held(3600));
    }
    assert_eq!(play.waits.last(), Some(&(3, 3, 3)));
    play.now = play.now + secs(1);
    play.input(stirred("infra", true));
    play.settle(granted(5, 60));
    play.synced(true);
    assert_eq!(acquired(&play), [lease(10)]);
    assert_eq!(play.waits[play.waits.len() - 2..], [(2, 1, 2), (3, 2, 2)]);
    // Its release is the next one's turn.
    play.now = play.now + secs(1);
    play.input(Input::Tick);
    play.synced(true);
    play.settle(held(60));
    play.input(Input::Release { ticket: Ticket(9), lease: lease(10) });
    assert!(matches!(play.call(), Call::Release(_)));
    play.settle(CallResult::Done);
    play.go_on();
    assert!(matches!(play.call(), Call::Acquire(claim) if claim.lease == lease(20)));
}

#[test]
fn what_stirs_while_the_first_asks_is_not_lost() {
    let mut play = waiting();
    play.at(secs(1));
    play.input(stirred("infra", true));
    play.input(stirred("infra", true));
    play.settle(held(3600));
    let asked = play.now;
    play.go_on();
    assert!(asked.until(play.now) <= Duration::from_millis(50));
    assert!(matches!(play.call(), Call::Acquire(_)));
}

#[test]
fn a_wait_that_is_over_says_who_has_it_still_and_leaves_nothing() {
    let mut play = Play::new();
    play.input(asks(1, &["infra"], Some(secs(10))));
    play.synced(true);
    play.settle(held(3600));
    while play.answers.is_empty() {
        play.go_on();
        if !play.calls.is_empty() {
            play.settle(held(3600));
        }
    }
    let Some(Answer::No(No::WaitedOut(on, Some(holder)))) = play.answers.last() else {
        panic!("{:?}", play.answers);
    };
    assert_eq!((on, holder.lease), (&resource("infra"), lease(777)));
    assert_eq!(T0.until(play.now), secs(10));
    assert!(play.table.is_empty() && play.watched.is_empty());
    assert!(play.memory().leases.is_empty(), "the next start has nothing to do");
}

#[test]
fn a_wait_that_is_over_while_it_asks_is_cancelled() {
    let mut play = Play::new();
    play.input(asks(1, &["infra"], Some(secs(10))));
    play.synced(true);
    play.settle(held(10));
    play.at(secs(9));
    play.input(stirred("infra", true));
    play.at(secs(10));
    assert!(matches!(play.answers.last(), Some(Answer::No(No::WaitedOut(..)))));
    play.settle(granted(5, 60));
    assert!(matches!(play.call(), Call::Cancel(..)), "{:?}", play.calls);
}

#[test]
fn a_group_gives_back_what_it_has_before_it_waits_and_takes_all_anew() {
    let mut play = Play::new();
    play.input(asks(1, &["app", "infra"], None));
    play.synced(true);
    play.settle(granted(5, 60));
    play.settle(held(3600));
    assert!(matches!(play.call(), Call::Release(proof) if proof.lease == lease(10)));
    play.settle(CallResult::Done);
    play.now = play.now + secs(1);
    play.input(stirred("infra", true));
    assert!(play.calls.is_empty(), "law 4: the new claim is not on disk");
    play.synced(true);
    let Call::Acquire(claim) = play.call().clone() else { panic!("{:?}", play.calls) };
    assert_eq!(claim.resource, resource("app"));
    assert_ne!(claim.lease, lease(10), "an id that was given back is never used again");
    play.settle(granted(6, 60));
    play.settle(granted(7, 60));
    play.synced(true);
    assert_eq!(acquired(&play), [claim.lease, lease(11)]);
}

#[test]
fn whoever_is_gone_waits_no_more_and_the_next_asks() {
    let mut play = waiting();
    play.input(asks(2, &["infra"], None));
    play.go_on();
    assert!(matches!(play.call(), Call::Acquire(claim) if claim.lease == lease(10)));
    play.input(Input::Gone(SessionId(1)));
    play.settle(held(3600));
    assert!(matches!(play.call(), Call::Cancel(_, id) if *id == lease(10)));
    play.settle(CallResult::Done);
    play.go_on();
    play.synced(true);
    assert!(matches!(play.call(), Call::Acquire(claim) if claim.lease == lease(20)));
    play.settle(held(3600));
    play.input(Input::Gone(SessionId(2)));
    assert!(play.table.is_empty() && play.watched.is_empty(), "Ctrl-C leaves no trace");
}

#[test]
fn whoever_does_not_wait_asks_behind_the_first_who_does() {
    let mut play = waiting();
    play.input(ask(2, 2, vec![claim(20, "infra", 60)], Hold::Keep));
    play.synced(true);
    play.go_on();
    assert_eq!(play.calls.len(), 1);
    assert!(matches!(play.call(), Call::Acquire(claim) if claim.lease == lease(10)));
    play.settle(granted(5, 60));
    play.synced(true);
    assert_eq!(acquired(&play), [lease(10)]);
    play.settle(held(60));
    assert!(matches!(play.answers.last(), Some(Answer::No(No::Held(..)))));
}

#[test]
fn an_outage_does_not_send_away_who_waits_but_a_first_try_is_answered() {
    let mut play = Play::new();
    play.input(asks(1, &["infra"], None));
    play.synced(true);
    play.settle(CallResult::Refused(RefusedKind::Unreachable));
    assert!(matches!(play.answers.last(), Some(Answer::No(No::Store { .. }))));

    let mut play = waiting();
    for result in [CallResult::Refused(RefusedKind::Unreachable), CallResult::Unknown] {
        for _ in 0..3 {
            play.go_on();
            if matches!(play.call(), Call::Acquire(_)) {
                play.settle(result.clone());
            }
        }
    }
    assert!(play.answers.is_empty(), "{:?}", play.answers);
    // What may have come through under the old id is cancelled; the wait goes on under another.
    let cancel = play.calls.iter().position(|(_, call)| matches!(call, Call::Cancel(..)));
    let (id, _) = play.calls.remove(cancel.expect("a cancel"));
    play.input(Input::Settled { call: id, result: CallResult::Done });
    if play.syncs.is_empty() {
        play.go_on();
    }
    play.synced(true);
    assert!(matches!(play.call(), Call::Acquire(claim) if claim.lease != lease(10)));
    play.settle(granted(5, 60));
    play.synced(true);
    assert_eq!(acquired(&play).len(), 1);
}

/// The last answer of a play, to a wait that ended without a word of the store: for how long.
fn in_vain(play: &Play) -> Duration {
    match play.answers.last() {
        Some(Answer::No(No::WaitedInVain(time, no))) if matches!(**no, No::Store { .. }) => *time,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wait_that_ends_before_the_store_ever_answered_says_so_to_all_who_wait() {
    let mut play = Play::new();
    play.input(asks(1, &["infra"], Some(secs(10))));
    play.synced(true);
    play.at(secs(2));
    play.input(asks(2, &["infra"], Some(secs(10))));
    play.synced(true);
    play.settle(CallResult::Unknown);
    play.at(secs(10));
    assert_eq!(play.answers.len(), 2, "{:?}", play.answers);
    play.answers.pop();
    assert_eq!(in_vain(&play), secs(10));
}

#[test]
fn a_wait_that_ends_while_the_store_is_away_does_not_name_who_had_it_before() {
    let mut play = Play::new();
    play.input(asks(1, &["infra"], Some(secs(60))));
    play.synced(true);
    play.settle(held(3600));
    play.at(secs(10));
    let mut outage = |until: Duration, result: &dyn Fn() -> CallResult| {
        while play.answers.is_empty() && T0.until(play.now) < until {
            play.go_on();
            match play.calls.first() {
                Some((_, Call::Acquire(_))) => play.settle(result()),
                Some(_) => play.settle(CallResult::Done),
                None => {}
            }
            play.synced(true);
        }
        play.answers.last().cloned()
    };
    let away = || CallResult::Refused(RefusedKind::Unreachable);
    assert_eq!(outage(secs(20), &away), None);
    assert_eq!(outage(secs(30), &|| held(3600)), None);
    let answer = outage(secs(60), &away);
    let Some(Answer::No(No::WaitedInVain(time, _))) = answer else { panic!("{answer:?}") };
    assert!(secs(25) < time && time <= secs(30), "since it was away for the second time: {time:?}");
}

#[test]
fn what_another_of_its_resources_meets_is_no_trouble_of_those_who_wait_for_this_one() {
    let mut play = Play::new();
    play.input(asks(1, &["infra", "other"], None));
    play.synced(true);
    play.settle(held(3600));
    play.synced(true);
    play.input(asks(2, &["infra"], Some(secs(60))));
    play.synced(true);
    let (mut fence, mut refused) = (9, 0);
    while play.answers.is_empty() {
        play.go_on();
        match play.calls.first() {
            Some((_, Call::Acquire(claim))) if claim.resource == resource("infra") => {
                fence += 1;
                play.settle(granted(fence, 3600));
            }
            Some((_, Call::Acquire(_))) => {
                refused += 1;
                play.settle(CallResult::Refused(RefusedKind::Unreachable));
            }
            Some(_) => play.settle(CallResult::Done),
            None => {}
        }
        play.synced(true);
    }
    assert!(refused > 0, "its second resource was never asked for");
    let answer = play.answers.last();
    assert!(matches!(answer, Some(Answer::No(No::WaitedOut(..)))), "{answer:?}");
}

#[test]
fn a_wait_that_ends_while_nothing_can_be_written_down_says_so() {
    let mut play = Play::new();
    play.input(asks(1, &["infra"], Some(secs(60))));
    play.synced(true);
    play.settle(held(3600));
    play.synced(true);
    play.at(secs(10));
    while !play.calls.is_empty() {
        play.settle(held(3600));
        play.synced(true);
    }
    play.input(Input::Journal { works: false });
    (11..=60).for_each(|at| play.at(secs(at)));
    let answer = play.answers.last();
    let Some(Answer::No(No::WaitedInVain(_, no))) = answer else { panic!("{answer:?}") };
    assert_eq!(**no, No::Journal);
}

#[test]
fn a_hold_counts_from_the_grant_also_after_a_restart() {
    let mut play = Play::new();
    let Input::Acquire(mut wish) = asks(1, &["infra"], None) else { unreachable!() };
    wish.hold = Hold::Until(T0 + secs(600));
    wish.hold_for = Some(secs(600));
    play.input(Input::Acquire(wish));
    play.synced(true);
    play.settle(held(3600));
    play.at(secs(1000));
    play.settle(granted(5, 60));
    play.synced(true);
    let end = Hold::Until(T0 + secs(1600));
    let Some(Answer::Acquired(views)) = play.answers.last() else { panic!("{:?}", play.answers) };
    assert_eq!(views[0].hold, end);
    assert_eq!(views[0].claim.created, UnixMs(1_000_000), "since now, not since it was asked for");
    assert_eq!(play.memory().leases[&lease(10)].intent.hold, end);
}

#[test]
fn the_holder_hears_how_many_wait() {
    let mut play = Play::holding(Hold::Keep);
    play.input(asks(2, &["infra"], None));
    play.synced(true);
    play.settle(held(60));
    assert_eq!(play.changes.last().map(|view| view.waiters), Some(1));
    play.input(Input::Gone(SessionId(2)));
    assert_eq!(play.changes.last().map(|view| view.waiters), Some(0));
}

#[test]
fn an_end_that_comes_near_is_told_once() {
    let mut play = Play::holding(Hold::Until(T0 + secs(1000)));
    while T0.until(play.now) < secs(999) {
        play.go_on();
        if !play.calls.is_empty() {
            play.settle(play::ours(60));
        }
        play.synced(true);
    }
    let held = |view: &&View| matches!(view.state, State::Held | State::AtRisk);
    let news: Vec<bool> = play.changes.iter().filter(held).map(|view| view.ends_soon).collect();
    let first = play.changes.iter().find(|view| view.ends_soon).expect("it was told");
    assert!(news.is_sorted(), "{news:?}");
    assert!(first.deadline <= T0 + secs(1000));
    let mut keeps = Play::holding(Hold::Keep);
    keeps.at(secs(20));
    assert!(!keeps.view().ends_soon);
}

#[test]
fn a_lease_ends_with_its_process_whoever_is_connected_also_after_a_restart() {
    let process = ProcessId { pid: 4711, started: 9, group: true };
    let mut play = Play::holding(Hold::Keep);
    let attach = Attach::Process(process);
    play.input(Input::Attach { ticket: Ticket(5), lease: lease(1), attach });
    assert!(matches!(play.answers.last(), Some(Answer::Renewed(view)) if view.attach == attach));
    assert_eq!(play.guarded, [process]);
    play.input(Input::Gone(SessionId(1)));
    assert!(matches!(play.view().state, State::Held | State::AtRisk));

    let mut next = Play::new();
    next.input(Input::Recover(Box::new(play.memory())));
    assert_eq!(next.guarded, [process]);
    next.synced(true);
    next.settle(play::ours(60));
    next.at(secs(31));
    assert!(matches!(next.view().state, State::Held | State::AtRisk), "it waits for no connection");
    next.input(Input::Ended(process));
    assert_eq!(next.view().state, State::Releasing);
}

#[test]
fn a_shared_lease_ends_with_the_last_of_its_processes_also_after_a_restart() {
    let [outer, inner, other] = [1, 2, 3].map(|pid| ProcessId { pid, started: 9, group: true });
    let mut play = Play::holding(Hold::Keep);
    let attach = Attach::Process(outer);
    play.input(Input::Attach { ticket: Ticket(5), lease: lease(1), attach });
    for (ticket, process) in [(6, inner), (7, other), (8, inner)] {
        play.input(Input::Share { ticket: Ticket(ticket), lease: lease(1), process });
    }
    let shared = |answer: &Answer| matches!(answer, Answer::Renewed(view) if view.attach == attach);
    assert!(play.answers[1..].iter().all(shared), "{:?}", play.answers);
    assert_eq!(play.view().sharers, [inner, other]);
    let is_held = |play: &Play| matches!(play.view().state, State::Held | State::AtRisk);

    // The one that it was taken for may go first, or last.
    play.input(Input::Ended(other));
    play.input(Input::Ended(outer));
    assert!(is_held(&play));
    assert_eq!(play.view().attach, Attach::Process(inner));
    let memory = play.memory();
    let known = &memory.leases[&lease(1)];
    assert_eq!((known.intent.attach, known.sharers.as_slice()), (Attach::Process(inner), &[][..]));
    play.input(Input::Ended(inner));
    assert_eq!(play.view().state, State::Releasing);

    let mut next = Play::new();
    next.input(Input::Recover(Box::new(memory)));
    next.synced(true);
    next.settle(play::ours(60));
    assert_eq!(next.guarded, [inner]);
    next.input(Input::Ended(inner));
    assert_eq!(next.view().state, State::Releasing);
}

#[test]
fn a_hold_that_is_over_gives_nothing_back_under_a_command_that_goes_on() {
    let process = |group| Attach::Process(ProcessId { pid: 4711, started: 9, group });
    let holds = |attach| {
        let mut play = Play::holding(Hold::Until(T0 + secs(100)));
        play.input(Input::Attach { ticket: Ticket(5), lease: lease(1), attach });
        while T0.until(play.now) < secs(300) && play.view().state != State::Released {
            play.go_on();
            while !play.calls.is_empty() {
                play.settle(play::ours(60));
            }
            play.synced(true);
        }
        play
    };
    assert!(T0.until(holds(process(false)).now) <= secs(101), "whoever is bound may outlive it");
    let mut play = holds(process(true));
    assert!(matches!(play.view().state, State::Held | State::AtRisk));
    assert_eq!(play.view().hold, Hold::Until(T0 + secs(100)), "its wrapper ends it by that");
    play.input(Input::Ended(ProcessId { pid: 4711, started: 9, group: true }));
    assert_eq!(play.view().state, State::Releasing);
}

#[test]
fn a_hold_that_is_over_gives_nothing_back_under_a_command_that_only_shares_it() {
    let sharer = ProcessId { pid: 4711, started: 9, group: true };
    let mut play = Play::holding(Hold::Until(T0 + secs(100)));
    play.input(Input::Share { ticket: Ticket(5), lease: lease(1), process: sharer });
    while T0.until(play.now) < secs(300) {
        assert!(matches!(play.view().state, State::Held | State::AtRisk), "{:?}", play.view());
        play.go_on();
        while !play.calls.is_empty() {
            play.settle(play::ours(60));
        }
        play.synced(true);
    }
    play.input(Input::Ended(sharer));
    assert_eq!(play.view().state, State::Releasing, "its hold was over long ago");
    // What was out when it ended comes first.
    if !matches!(play.call(), Call::Release(_)) {
        play.settle(play::ours(60));
        play.synced(true);
    }
    assert!(matches!(play.call(), Call::Release(_)), "{:?}", play.calls);
}

#[test]
fn so_many_share_a_lease_and_no_more() {
    let process = |pid| ProcessId { pid, started: 9, group: true };
    let mut play = Play::holding(Hold::Keep);
    let mut share = |pid| {
        let ticket = Ticket(u64::from(pid));
        play.input(Input::Share { ticket, lease: lease(1), process: process(pid) });
        play.answers.last().cloned()
    };
    let most = u32::try_from(SHARERS_MAX).unwrap();
    for pid in 100..100 + most {
        assert!(matches!(share(pid), Some(Answer::Renewed(_))), "{pid}");
    }
    let refused = Some(Answer::No(No::TooManySharers(resource("infra"))));
    assert_eq!(share(99), refused);
    assert!(matches!(share(100), Some(Answer::Renewed(_))), "one of them again");
    play.input(Input::Ended(process(100)));
    let shared = Input::Share { ticket: Ticket(9), lease: lease(1), process: process(99) };
    play.input(shared);
    assert!(matches!(play.answers.last(), Some(Answer::Renewed(_))), "there is room again");
}

#[test]
fn so_many_share_the_leases_of_one_user_and_no_more() {
    let process = |pid| ProcessId { pid, started: 9, group: true };
    let mut play = Play::new();
    let share = |play: &mut Play, on, pid| {
        let ticket = Ticket(u64::from(pid));
        play.input(Input::Share { ticket, lease: lease(on), process: process(pid) });
        play.answers.last().cloned()
    };
    let fills = SHARERS_OF_ONE_MAX / SHARERS_MAX;
    for number in 1..=u64::try_from(fills).unwrap() + 2 {
        let owner = if number == 1 { Uid(7) } else { Uid(8) };
        let claims = vec![claim(number, &format!("res{number}"), 60)];
        let Input::Acquire(mut ask) = ask(number, 1, claims, Hold::Keep) else { unreachable!() };
        ask.owner = owner;
        play.input(Input::Acquire(ask));
        play.synced(true);
        play.settle(granted(10, 60));
        play.synced(true);
    }
    for pid in 0..u32::try_from(SHARERS_OF_ONE_MAX).unwrap() {
        let on = 2 + u64::from(pid) / u64::try_from(SHARERS_MAX).unwrap();
        assert!(matches!(share(&mut play, on, 100 + pid), Some(Answer::Renewed(_))), "{pid}");
    }
    let last = u64::try_from(fills).unwrap() + 2;
    assert_eq!(share(&mut play, last, 99), Some(Answer::No(No::TooManyShared)));
    assert!(matches!(share(&mut play, 1, 99), Some(Answer::Renewed(_))), "another user's");
    play.input(Input::Ended(process(100)));
    assert!(matches!(share(&mut play, last, 98), Some(Answer::Renewed(_))), "there is room again");
}
