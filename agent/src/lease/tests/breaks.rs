//! A broken lease: who hears of it, and when what stands in its place makes room.

use stormlock_protocol::name::Reason;

use super::play::{Play, T0, granted, lease, ours, secs};
use super::*;

/// The lease that breaks lease 1.
const OVER: u64 = 9;
const VERIFY: u64 = 16;

fn why() -> Reason {
    Reason::new("bob left").expect("a reason")
}

/// A question that breaks lease 1 on `infra`.
fn breaks(ticket: u64, grace_secs: u64) -> Input {
    let mut claim = claim(OVER, "infra", grace_secs);
    claim.principal = Principal::new("bob@bastion1").expect("a name");
    (claim.over, claim.reason) = (Some(lease(1)), epitaph(lease(1), None, &why()));
    let Input::Acquire(mut ask) = ask(ticket, 2, vec![claim], Hold::No) else { unreachable!() };
    ask.owner = Uid::NOBODY;
    Input::Acquire(ask)
}

/// What the store says of lease 1 since another agent broke it.
fn broken() -> CallResult {
    CallResult::Stands(Standing::NotOurs(Some(Box::new(holder()))))
}

fn holder() -> Holder {
    Holder {
        resource: resource("infra"),
        lease: lease(OVER),
        principal: Principal::new("bob@bastion1").expect("a name"),
        host: None,
        reason: epitaph(lease(1), None, &why()),
        fence: None,
        since: UnixMs(0),
        remaining: None,
    }
}

fn by_bob() -> State {
    let who = Principal::new("bob@bastion1").expect("a name");
    State::Lost(Loss::BrokenBy { who, why: Some(why()) })
}

fn command() -> ProcessId {
    ProcessId { pid: 7, started: 1, group: true }
}

/// Lease 1 is held, and read back after another agent broke it.
fn noticed(attach: Attach) -> Play {
    let mut play = Play::holding(Hold::Keep);
    play.input(Input::Attach { ticket: Ticket(5), lease: lease(1), attach });
    play.at(secs(VERIFY));
    assert!(matches!(play.call(), Call::Verify(_)));
    play.settle(broken());
    assert_eq!(play.view().state, by_bob());
    play
}

fn of(number: u64) -> Proof {
    Proof { resource: resource("infra"), lease: lease(number), nonces: Vec::new() }
}

/// What stands in the place of lease 1 is looked for and given back, and nothing else happens.
fn frees(play: &mut Play) {
    assert_eq!(*play.call(), Call::Verify(of(1)));
    play.settle(broken());
    assert_eq!(*play.call(), Call::Release(of(OVER)));
    play.settle(CallResult::Done);
    assert!(play.calls.is_empty());
}

#[test]
fn whoever_is_not_a_command_has_half_a_minute_to_stop_what_relies_on_it() {
    let mut play = noticed(Attach::Detached);
    play.at(secs(VERIFY + 29));
    assert!(play.calls.is_empty());
    play.at(secs(VERIFY + 30));
    frees(&mut play);
    play.at(secs(VERIFY + 1000));
    assert!(play.calls.is_empty(), "once");
    assert_eq!(play.view().state, by_bob(), "its holder has not acknowledged that");
}

#[test]
fn whoever_acknowledges_that_it_is_broken_relies_on_it_no_more() {
    let mut play = noticed(Attach::Detached);
    play.input(Input::Release { ticket: Ticket(6), lease: lease(1) });
    frees(&mut play);
    assert!(play.table.is_empty());
}

#[test]
fn a_command_relies_on_it_until_it_has_ended() {
    let mut play = noticed(Attach::Process(command()));
    let other = ProcessId { pid: 8, ..command() };
    play.at(secs(VERIFY + 1000));
    assert!(play.calls.is_empty());
    // Somebody's word is no end of a command.
    let mut again = noticed(Attach::Process(command()));
    again.input(Input::Release { ticket: Ticket(6), lease: lease(1) });
    assert!(again.calls.is_empty());
    play.input(Input::Ended(other));
    assert!(play.calls.is_empty());
    play.input(Input::Ended(command()));
    // Its wrapper may have others to kill, and does not say that it has none.
    play.at(secs(VERIFY + 1029));
    assert!(play.calls.is_empty());
    play.at(secs(VERIFY + 1030));
    frees(&mut play);
    assert!(play.table.is_empty());
    again.input(Input::Ended(command()));
    frees(&mut again);
    assert!(again.table.is_empty());
}

#[test]
fn whoever_only_held_it_leaves_those_their_time_whom_it_told_to_end() {
    let holder = ProcessId { group: false, ..command() };
    let mut play = noticed(Attach::Process(holder));
    play.at(secs(VERIFY + 1));
    play.input(Input::Ended(holder));
    play.at(secs(VERIFY + 29));
    assert!(play.calls.is_empty());
    play.at(secs(VERIFY + 30));
    frees(&mut play);
    assert!(play.table.is_empty(), "nobody is left who could acknowledge it");
}

#[test]
fn a_command_that_only_shares_it_relies_on_it_until_it_has_ended() {
    for is_acknowledged in [false, true] {
        let mut play = Play::holding(Hold::Keep);
        play.input(Input::Share { ticket: Ticket(5), lease: lease(1), process: command() });
        play.at(secs(VERIFY));
        play.settle(broken());
        play.at(secs(VERIFY + 1000));
        if is_acknowledged {
            play.input(Input::Release { ticket: Ticket(6), lease: lease(1) });
        }
        assert!(play.calls.is_empty());
        play.input(Input::Ended(command()));
        if !is_acknowledged {
            assert!(play.calls.is_empty());
            play.at(secs(VERIFY + 1030));
        }
        frees(&mut play);
    }
}

#[test]
fn one_broken_by_its_own_agent_is_told_at_once_and_makes_room_there() {
    let mut play = Play::holding(Hold::Keep);
    play.input(breaks(2, 600));
    play.synced(true);
    play.settle(granted(11, 600));
    assert_eq!(play.view().state, by_bob());
    assert!(play.answers.is_empty(), "not before it is written down");
    play.synced(true);
    assert!(matches!(play.answers.pop(), Some(Answer::Acquired(_))));
    play.at(secs(29));
    while let Some((_, Call::Verify(_))) = play.calls.first() {
        play.settle(ours(570));
    }
    play.at(secs(30));
    assert_eq!(*play.call(), Call::Verify(of(1)));
    play.settle(broken());
    assert!(matches!(play.call(), Call::Release(of) if of.lease == lease(OVER)));
    play.settle(CallResult::Done);
    assert!(play.table.view(play.now, lease(OVER)).is_none());
}

#[test]
fn room_is_made_again_and_again_until_the_store_answers() {
    let mut play = noticed(Attach::Detached);
    play.at(secs(VERIFY + 30));
    for result in [CallResult::Unknown, CallResult::Refused(RefusedKind::Unreachable)] {
        assert_eq!(*play.call(), Call::Verify(of(1)));
        play.settle(result);
        play.go_on();
        assert_eq!(*play.call(), Call::Verify(of(1)));
        play.settle(broken());
        assert_eq!(*play.call(), Call::Release(of(OVER)));
        play.settle(CallResult::Unknown);
        play.go_on();
    }
    frees(&mut play);
    play.at(secs(VERIFY + 10_000));
    assert!(play.calls.is_empty(), "once");
}

#[test]
fn a_store_that_never_answers_is_not_asked_for_ever() {
    let mut play = noticed(Attach::Detached);
    play.at(secs(VERIFY + 30));
    let mut asked = 0;
    while play.table.next_wakeup().is_some() || !play.calls.is_empty() {
        play.go_on();
        if !play.calls.is_empty() {
            asked += 1;
            play.settle(CallResult::Unknown);
        }
        assert!(play.now < T0 + secs(10_000), "{asked}");
    }
    assert!(asked > 5);
}

#[test]
fn what_another_took_meanwhile_is_left_alone() {
    for standing in [
        Standing::NotOurs(None),
        Standing::Cloned,
        Standing::NotOurs(Some(Box::new(Holder { reason: Some(why()), ..holder() }))),
    ] {
        let mut play = noticed(Attach::Detached);
        play.at(secs(VERIFY + 30));
        play.settle(CallResult::Stands(standing));
        play.at(secs(VERIFY + 10_000));
        assert!(play.calls.is_empty());
    }
}

#[test]
fn a_start_that_finds_it_broken_makes_room_as_the_one_before_would_have() {
    let mut play = Play::new();
    play.input(Input::Recover(Box::new(noticed(Attach::Detached).memory())));
    assert_eq!(play.view().state, by_bob());
    assert!(play.calls.is_empty());
    play.at(secs(31));
    frees(&mut play);

    let mut play = Play::new();
    let memory = noticed(Attach::Process(command())).memory();
    play.input(Input::Recover(Box::new(memory)));
    play.at(secs(1000));
    assert!(play.calls.is_empty());
    play.input(Input::Ended(command()));
    play.at(secs(1031));
    frees(&mut play);
    assert!(play.table.is_empty());
}

#[test]
fn whoever_gives_back_what_was_broken_and_does_not_know_hears_so_and_makes_room() {
    let mut play = Play::holding(Hold::Keep);
    play.input(Input::Release { ticket: Ticket(6), lease: lease(1) });
    assert!(matches!(play.call(), Call::Release(_)));
    play.settle(CallResult::NotThere);
    assert!(matches!(play.call(), Call::Verify(_)), "the store says who was quicker");
    play.settle(broken());
    let State::Lost(loss) = by_bob() else { unreachable!() };
    assert_eq!(play.answers, [Answer::No(No::Lost(loss))]);
    assert_eq!(*play.call(), Call::Release(of(OVER)));
    play.settle(CallResult::Done);
    assert!(play.calls.is_empty());
    ended_as(&play, &by_bob());
    assert!(play.table.is_empty());
}

/// Lease 1 is given back, and its store says that it is not there.
fn gone_at_release() -> Play {
    let mut play = Play::holding(Hold::Keep);
    play.input(Input::Release { ticket: Ticket(6), lease: lease(1) });
    play.settle(CallResult::NotThere);
    play
}

/// Everybody else hears at once that nobody holds it, and when the store has answered, once, how.
fn ended_as(play: &Play, end: &State) {
    let told: Vec<&State> = play.changes.iter().map(|view| &view.state).collect();
    assert_eq!(told, [&State::Releasing, end]);
}

#[test]
fn whoever_gives_back_what_was_taken_away_hears_that_it_was_lost() {
    let another = Holder { reason: None, lease: lease(77), ..holder() };
    let taken = Loss::TakenBy(another.principal.clone());
    for (result, loss) in [
        (CallResult::Stands(Standing::NotOurs(Some(Box::new(another)))), taken),
        (CallResult::Stands(Standing::NotOurs(None)), Loss::StoreLostIt),
        (CallResult::Stands(Standing::Cloned), Loss::Clone),
        // What is sure already does not wait for why.
        (CallResult::Unknown, Loss::StoreLostIt),
    ] {
        let mut play = gone_at_release();
        play.settle(result);
        play.synced(true);
        assert_eq!(play.answers, [Answer::No(No::Lost(loss.clone()))]);
        ended_as(&play, &State::Lost(loss));
        assert!(play.table.is_empty(), "who asked has acknowledged it");
    }
}

#[test]
fn what_an_earlier_try_may_have_given_back_is_given_back() {
    let mut play = Play::holding(Hold::Keep);
    play.input(Input::Release { ticket: Ticket(6), lease: lease(1) });
    play.settle(CallResult::Unknown);
    assert!(matches!(play.answers.pop(), Some(Answer::No(No::Store { .. }))));
    play.input(Input::Release { ticket: Ticket(7), lease: lease(1) });
    play.settle(CallResult::NotThere);
    play.settle(CallResult::Stands(Standing::NotOurs(None)));
    play.synced(true);
    assert_eq!(play.answers, [Answer::Released]);
    ended_as(&play, &State::Released);
    assert!(play.calls.is_empty());
}

#[test]
fn what_may_have_ended_by_itself_while_it_was_given_back_is_given_back() {
    let mut play = Play::holding(Hold::No);
    play.at(secs(59));
    while !play.calls.is_empty() {
        play.settle(CallResult::Unknown);
    }
    play.input(Input::Release { ticket: Ticket(6), lease: lease(1) });
    play.now = T0 + secs(60);
    play.settle(CallResult::NotThere);
    play.settle(CallResult::Stands(Standing::NotOurs(None)));
    play.synced(true);
    assert_eq!(play.answers, [Answer::Released]);
    assert_eq!(play.changes.last().map(|view| &view.state), Some(&State::Released));
}

#[test]
fn a_command_that_ends_under_what_was_taken_away_is_told_when_its_wrapper_asks() {
    let mut play = Play::holding(Hold::Keep);
    let attach = Attach::Process(command());
    play.input(Input::Attach { ticket: Ticket(5), lease: lease(1), attach });
    play.changes.clear();
    play.answers.clear();
    play.input(Input::Ended(command()));
    play.settle(CallResult::NotThere);
    play.settle(CallResult::Stands(Standing::NotOurs(None)));
    ended_as(&play, &State::Lost(Loss::StoreLostIt));
    play.input(Input::Release { ticket: Ticket(6), lease: lease(1) });
    assert_eq!(play.answers, [Answer::No(No::Lost(Loss::StoreLostIt))]);
    assert!(play.table.is_empty());
}

#[test]
fn what_was_taken_from_a_hold_that_ended_stays_lost_until_its_holder_knows() {
    let mut play = Play::holding(Hold::Until(T0 + secs(10)));
    play.at(secs(10));
    play.settle(CallResult::NotThere);
    play.settle(CallResult::Stands(Standing::NotOurs(None)));
    ended_as(&play, &State::Lost(Loss::StoreLostIt));
    play.at(secs(1000));
    assert_eq!(play.view().state, State::Lost(Loss::StoreLostIt));
    play.input(Input::Release { ticket: Ticket(6), lease: lease(1) });
    assert!(play.table.is_empty());
}

#[test]
fn a_command_that_ends_before_anybody_noticed_makes_room() {
    let mut play = Play::holding(Hold::Keep);
    let attach = Attach::Process(command());
    play.input(Input::Attach { ticket: Ticket(5), lease: lease(1), attach });
    play.input(Input::Ended(command()));
    play.settle(CallResult::NotThere);
    // Nobody waits for an answer, and the store does not give one at once.
    play.settle(CallResult::Unknown);
    play.go_on();
    frees(&mut play);
    // Its wrapper may yet ask what became of it.
    play.go_on();
    assert!(play.table.is_empty());
}

#[test]
fn a_break_lasts_as_long_as_the_store_says() {
    let mut play = Play::new();
    play.input(breaks(2, 60));
    play.synced(true);
    play.settle(granted(11, 600));
    play.synced(true);
    let Some(Answer::Acquired(views)) = play.answers.pop() else { panic!("no answer") };
    assert!(T0.until(views[0].deadline) > secs(590), "{views:?}");
    assert_eq!(play.memory().leases[&lease(OVER)].intent.claim.ttl.as_secs(), 600);
    // The next start neither ends it earlier nor makes it shorter.
    let mut after = Play::new();
    after.input(Input::Recover(Box::new(play.memory())));
    after.go_on();
    assert!(matches!(after.call(), Call::Verify(_)));
    after.settle(ours(590));
    after.synced(true);
    let Call::Renew { ttl, .. } = after.call() else { panic!("{:?}", after.call()) };
    assert!(ttl.as_secs() >= 590, "{ttl:?}");
}

#[test]
fn a_break_of_unknown_outcome_is_not_undone_before_its_grace_is_over() {
    let mut play = Play::new();
    play.input(breaks(2, 600));
    play.synced(true);
    while play.answers.is_empty() {
        play.go_on();
        play.settle(CallResult::Unknown);
    }
    assert!(matches!(play.answers.pop(), Some(Answer::No(No::Store { .. }))));
    assert!(play.calls.is_empty());
    let told = play.now;
    is_undone_when_over(&mut play, told);
}

/// It is looked whether the store kept it for longer, as long as it did.
fn is_undone_when_over(play: &mut Play, told: Moment) {
    play.go_on();
    assert!(told.until(play.now) >= secs(600));
    assert!(matches!(play.call(), Call::Verify(of) if of.lease == lease(OVER)));
    play.settle(ours(50));
    play.go_on();
    assert!(told.until(play.now) >= secs(650));
    assert!(matches!(play.call(), Call::Verify(of) if of.lease == lease(OVER)));
    play.settle(CallResult::Unknown);
    play.go_on();
    play.settle(CallResult::Stands(Standing::NotOurs(None)));
    assert!(matches!(play.call(), Call::Cancel(_, of) if *of == lease(OVER)));
    play.settle(CallResult::Done);
    assert!(play.table.is_empty());
}

#[test]
fn a_break_that_a_crash_left_open_is_not_undone_before_its_grace_is_over() {
    let mut before = Play::new();
    before.input(breaks(2, 600));
    before.synced(true);
    let mut play = Play::new();
    play.input(Input::Recover(Box::new(before.memory())));
    assert!(play.calls.is_empty());
    is_undone_when_over(&mut play, T0);
}

#[test]
fn a_break_that_was_not_written_down_is_not_undone_before_its_grace_is_over() {
    let mut before = Play::new();
    before.input(breaks(2, 600));
    before.synced(true);
    before.settle(granted(11, 600));
    before.synced(false);
    assert_eq!(before.answers, [Answer::No(No::Journal)]);
    assert!(before.calls.is_empty());
    let mut play = Play::new();
    play.input(Input::Recover(Box::new(before.memory())));
    assert!(matches!(play.call(), Call::Verify(of) if of.lease == lease(OVER)));
    play.settle(ours(580));
    play.go_on();
    assert!(T0.until(play.now) >= secs(580));
    play.settle(CallResult::Stands(Standing::NotOurs(None)));
    assert!(matches!(play.call(), Call::Release(of) if of.lease == lease(OVER)));
}

#[test]
fn what_stands_in_the_place_of_a_broken_lease_ends_without_a_word() {
    let mut play = Play::new();
    play.input(breaks(2, 60));
    play.synced(true);
    play.settle(granted(11, 60));
    play.synced(true);
    play.changes.clear();
    play.at(secs(VERIFY));
    play.settle(CallResult::Stands(Standing::NotOurs(None)));
    play.go_on();
    play.settle(CallResult::NotThere);
    assert!(play.table.is_empty());
    let lost = play.changes.iter().any(|view| matches!(view.state, State::Lost(_)));
    assert!(!lost, "{:?}", play.changes);
}

#[test]
fn whoever_is_gone_or_was_another_is_not_broken() {
    let another = Holder {
        resource: resource("infra"),
        lease: lease(3),
        principal: Principal::new("eve@bastion3").expect("a name"),
        host: None,
        reason: None,
        fence: None,
        since: UnixMs(0),
        remaining: None,
    };
    for (attempt, expected) in [
        (Attempt::Gone, No::NotHeld),
        (
            Attempt::Held(Some(Box::new(another.clone()))),
            No::Held(resource("infra"), Some(Box::new(another))),
        ),
    ] {
        let mut play = Play::new();
        play.input(breaks(2, 60));
        play.synced(true);
        play.settle(CallResult::Attempted(attempt));
        assert_eq!(play.answers, [Answer::No(expected)]);
        assert!(play.calls.is_empty() && play.table.is_empty());
    }
}

/// A lease that others count on for fifteen seconds more.
fn lingering() -> Play {
    let mut play = Play::killed_holder();
    play.changes.clear();
    play.answers.clear();
    play
}

#[test]
fn what_lingers_is_lost_when_it_is_broken_and_its_place_is_free_no_later_than_before() {
    let mut play = lingering();
    play.at(secs(VERIFY));
    assert_eq!(play.view().state, State::Lingering);
    play.settle(broken());
    assert_eq!(play.view().state, by_bob());
    assert_eq!(play.changes.len(), 1, "{:?}", play.changes);
    play.at(secs(24));
    assert!(play.calls.is_empty());
    play.at(secs(25));
    frees(&mut play);
    assert!(play.table.is_empty(), "nobody is left to acknowledge it");
    assert_eq!(play.changes.len(), 1, "{:?}", play.changes);
}

#[test]
fn what_lingers_and_is_there_yet_is_given_back_when_it_is_time() {
    let mut play = lingering();
    play.at(secs(VERIFY));
    play.settle(ours(45));
    assert!(play.changes.is_empty(), "{:?}", play.changes);
    play.at(secs(25));
    assert!(matches!(play.call(), Call::Release(_)), "{:?}", play.calls);
}

#[test]
fn whoever_would_move_the_end_of_what_lingers_hears_what_it_is() {
    let mut play = lingering();
    let lingers = Answer::No(No::Lingers(resource("infra")));
    play.input(Input::Renew { ticket: Ticket(3), lease: lease(1), ttl: None, hold: None });
    let attach = Attach::Detached;
    play.input(Input::Attach { ticket: Ticket(4), lease: lease(1), attach });
    assert_eq!(play.answers, [lingers.clone(), lingers]);
}

#[test]
fn whoever_gives_back_what_lingers_hears_that_another_has_it() {
    let mut play = lingering();
    play.at(secs(VERIFY));
    play.input(Input::Release { ticket: Ticket(3), lease: lease(1) });
    let another = Holder { reason: None, lease: lease(77), ..holder() };
    let who = another.principal.clone();
    play.settle(CallResult::Stands(Standing::NotOurs(Some(Box::new(another)))));
    let lost = Loss::TakenBy(who);
    assert!(matches!(play.answers.pop(), Some(Answer::No(No::Lost(loss))) if loss == lost));
    assert_eq!(play.changes.pop().map(|it| it.state), Some(State::Lost(lost)));
    assert!(play.table.is_empty());
}
