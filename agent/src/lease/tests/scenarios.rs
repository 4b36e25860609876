//! What once went wrong, or nearly did: one scenario each, named for what must be true instead.

use stormlock_protocol::name::Ttl;

use super::play::{Play, T0, lease, ours, secs};
use super::*;

fn renew(ticket: u64, secs: Option<u64>) -> Input {
    let ttl = secs.map(ttl);
    Input::Renew { ticket: Ticket(ticket), lease: lease(1), ttl, hold: None }
}

/// The mark and the ttl of the renewal that leaves next; what is read back until then stands.
fn next_renewal(play: &mut Play) -> (Nonce, Ttl) {
    loop {
        play.go_on();
        match play.call() {
            Call::Renew { next, ttl, .. } => return (*next, *ttl),
            Call::Verify(_) => play.settle(ours(5)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_shorter_end_that_the_journal_could_not_take_changes_nothing() {
    let mut play = Play::holding(Hold::No);
    let before = play.view().deadline;
    play.input(renew(2, Some(2)));
    play.synced(false);
    assert_eq!(play.answers, [Answer::No(No::Journal)]);
    assert_eq!((play.view().state, play.view().deadline), (State::Held, before));
    assert!(play.calls.is_empty(), "nobody wanted this lease renewed but for that");
}

#[test]
fn a_shorter_end_that_the_store_refused_changes_nothing() {
    let mut play = Play::holding(Hold::No);
    let before = play.view().deadline;
    play.input(renew(2, Some(2)));
    play.synced(true);
    assert!(play.view().deadline < before);
    play.settle(CallResult::Refused(RefusedKind::Unreachable));
    assert_eq!((play.view().state, play.view().deadline), (State::Held, before));
}

#[test]
fn reading_back_does_not_hide_a_shorter_renewal_that_may_come_late() {
    let mut play = Play::holding(Hold::No);
    play.input(renew(2, Some(20)));
    play.synced(true);
    play.at(secs(5));
    play.settle(CallResult::Unknown);
    play.at(secs(15));
    assert!(matches!(play.call(), Call::Verify(_)));
    play.settle(ours(45));
    // A copy that comes now ends the lease in twenty seconds, and nobody would hear of it.
    assert!(play.view().deadline <= T0 + secs(15) + secs(20), "{:?}", play.view().deadline);
}

#[test]
fn a_lease_cut_short_by_its_holder_does_not_stay_in_the_store() {
    let mut play = Play::holding(Hold::No);
    play.input(renew(2, Some(1)));
    // The disk is slow: the renewal has not left when the second is over.
    play.at(secs(2));
    assert_eq!(play.view().state, State::Lost(Loss::Expired));
    assert!(matches!(play.call(), Call::Release(_)), "the store would keep it for a minute");
}

#[test]
fn without_a_journal_a_renewal_in_doubt_is_repeated_and_no_older_mark_comes_back() {
    let mut play = Play::holding(Hold::Keep);
    play.at(secs(21));
    play.synced(true);
    let Call::Renew { next: doubtful, ttl: asked, .. } = play.call().clone() else {
        panic!("it is time to renew")
    };
    play.settle(CallResult::Unknown);
    play.input(Input::Journal { works: false });
    let (next, ttl) = next_renewal(&mut play);
    assert_eq!((next, ttl), (doubtful, asked));
}

#[test]
fn without_a_journal_a_mark_is_never_renewed_for_longer_than_before() {
    let mut play = Play::holding(Hold::Keep);
    play.input(renew(2, Some(10)));
    play.synced(true);
    play.settle(ours(10));
    // The store has the ten seconds; the journal could not take the promise.
    play.synced(false);
    assert_eq!(play.answers, [Answer::No(No::Journal)]);
    play.input(Input::Journal { works: false });
    let (_, asked) = next_renewal(&mut play);
    assert_eq!(asked, ttl(10), "a late copy of the first would cut anything longer");
}

#[test]
fn a_wish_is_refused_when_the_journal_broke_while_it_waited() {
    let mut play = Play::holding(Hold::Keep);
    play.at(secs(15));
    assert!(matches!(play.call(), Call::Verify(_)));
    play.input(renew(2, Some(600)));
    play.input(Input::Journal { works: false });
    play.settle(ours(45));
    assert_eq!(play.answers, [Answer::No(No::Journal)]);
    assert!(play.calls.is_empty());
}

#[test]
fn a_store_that_gives_less_than_asked_is_renewed_in_time() {
    let mut play = Play::holding(Hold::Keep);
    play.input(renew(2, Some(600)));
    play.synced(true);
    play.settle(ours(30));
    play.synced(true);
    assert!(matches!(play.answers.as_slice(), [Answer::Renewed(_)]));
    play.at(secs(11));
    play.synced(true);
    assert!(matches!(play.call(), Call::Renew { .. }), "thirty seconds are what there is");
}

#[test]
fn a_lease_kept_without_a_journal_is_tried_less_and_less_often() {
    let before = Play::holding(Hold::Keep);
    let mut play = Play::new();
    play.input(Input::Recover(Box::new(before.memory())));
    play.input(Input::Journal { works: false });
    let mut calls = 0;
    while play.now < T0 + secs(600) {
        play.synced(false);
        while !play.calls.is_empty() {
            calls += 1;
            play.settle(ours(60));
        }
        play.now = play.table.next_wakeup().expect("it goes on");
        play.input(Input::Tick);
    }
    assert!((100..500).contains(&calls), "{calls} calls in ten minutes");
}

#[test]
fn a_release_goes_on_for_as_long_as_a_renewal_in_doubt_can_have_asked_for() {
    let mut before = Play::holding(Hold::Keep);
    before.input(renew(2, Some(86_400)));
    before.synced(true);
    // A crash while the renewal is out: the store may keep the lease for a day.
    let mut play = Play::new();
    play.now = T0 + secs(5);
    play.input(Input::Recover(Box::new(before.memory())));
    play.input(Input::Release { ticket: Ticket(3), lease: lease(1) });
    play.synced(true);
    while play.now < T0 + secs(80_000) {
        while !play.calls.is_empty() {
            play.settle(CallResult::Unknown);
        }
        play.now = play.table.next_wakeup().expect("it must not give up");
        play.input(Input::Tick);
    }
    assert!(matches!(play.call(), Call::Release(_)));
}

#[test]
fn a_doubt_about_the_store_outlives_the_call_that_left_before_it() {
    let mut play = Play::holding(Hold::No);
    play.at(secs(15));
    assert!(matches!(play.call(), Call::Verify(_)));
    play.now = T0 + secs(16);
    play.input(Input::Suspect(backend()));
    assert_eq!(play.view().state, State::AtRisk, "with or without a hold");
    play.settle(ours(45));
    assert_eq!(play.view().state, State::AtRisk, "that answer is the old store's");
    assert!(matches!(play.call(), Call::Verify(_)), "asked again, at once");
    play.settle(ours(44));
    assert_eq!(play.view().state, State::Held);
}
