//! What once went wrong, or nearly did: one scenario each, named for what must be true instead.

use std::time::Duration;

use stormlock_protocol::name::Ttl;

use super::play::{Play, T0, granted, lease, ours, secs};
use super::store::Store;
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

/// A play whose store is the agent's own journal.
fn in_journal() -> Play {
    let mut dice = Dice(9);
    let table = LeaseTable::new(BTreeSet::from([backend()]), move || dice.next());
    Play { table, ..Play::new() }
}

fn attached(ticket: u64, session: u64, to: u64) -> Input {
    let Input::Acquire(mut asked) = ask(ticket, session, vec![claim(1, "infra", 60)], Hold::Keep)
    else {
        panic!("an ask")
    };
    asked.attach = Attach::Session(SessionId(to));
    Input::Acquire(asked)
}

#[test]
fn a_crash_between_the_grants_of_one_ask_leaves_none_of_them() {
    let mut play = Play::new();
    play.input(ask(1, 1, vec![claim(1, "infra", 60), claim(2, "other", 60)], Hold::Keep));
    play.synced(true);
    play.settle(granted(10, 60));
    play.synced(true);
    assert!(matches!(play.call(), Call::Acquire(claim) if claim.lease == lease(2)));
    let mut next = Play::new();
    next.input(Input::Recover(Box::new(play.memory())));
    assert_eq!(next.calls.len(), 2);
    assert!(next.calls.iter().all(|(_, call)| matches!(call, Call::Cancel(..))));
    // Without the crash both count together.
    play.settle(granted(11, 60));
    assert!(play.answers.is_empty());
    play.synced(true);
    assert!(matches!(play.answers.as_slice(), [Answer::Acquired(views)] if views.len() == 2));
    let stages: Vec<Stage> = play.memory().leases.into_values().map(|known| known.stage).collect();
    assert_eq!(stages, [Stage::Held, Stage::Held]);
}

#[test]
fn a_grant_that_was_refused_is_cancelled_by_the_next_start_until_that_is_acknowledged() {
    let mut before = Play::holding(Hold::No);
    before.input(Input::Release { ticket: Ticket(2), lease: lease(1) });
    before.settle(CallResult::Done);
    before.input(ask(3, 1, vec![claim(2, "infra", 86_400)], Hold::No));
    before.synced(true);
    before.settle(granted(9, 86_400));
    assert!(matches!(before.answers.last(), Some(Answer::No(No::Fence(..)))));
    let mut play = Play::new();
    play.input(Input::Recover(Box::new(before.memory())));
    let cancels = |play: &Play| {
        let mine = |call: &Call| matches!(call, Call::Cancel(_, id) if *id == lease(2));
        play.calls.iter().any(|(_, call)| mine(call))
    };
    while play.now < T0 + secs(80_000) {
        assert!(cancels(&play) || play.calls.is_empty(), "{:?}", play.calls);
        play.synced(true);
        while !play.calls.is_empty() {
            play.settle(CallResult::Unknown);
        }
        play.now = play.table.next_wakeup().expect("it must not give up");
        play.input(Input::Tick);
    }
    assert!(cancels(&play));
}

#[test]
fn a_release_of_a_short_lease_does_not_hammer_a_store_that_is_down() {
    let mut play = Play::new();
    play.input(ask(1, 1, vec![claim(1, "infra", 1)], Hold::No));
    play.synced(true);
    let mut calls = 0;
    while play.now < T0 + secs(600) {
        while !play.calls.is_empty() {
            calls += 1;
            play.settle(CallResult::Unknown);
        }
        play.now = play.table.next_wakeup().expect("a cancel is never given up");
        play.input(Input::Tick);
    }
    assert!((20..100).contains(&calls), "{calls} calls in ten minutes");
}

#[test]
fn whoever_asks_again_for_a_release_is_answered_by_a_try_of_now() {
    let mut play = Play::holding(Hold::Keep);
    play.input(Input::Release { ticket: Ticket(2), lease: lease(1) });
    play.settle(CallResult::Unknown);
    assert!(matches!(
        play.answers.pop(),
        Some(Answer::No(No::Store { after: After::Releasing, .. }))
    ));
    assert!(play.calls.is_empty());
    play.input(Input::Release { ticket: Ticket(3), lease: lease(1) });
    play.settle(CallResult::Done);
    assert_eq!(play.answers, [Answer::Released]);
}

#[test]
fn a_release_in_the_journals_own_store_is_told_once_it_is_on_disk() {
    let mut play = in_journal();
    play.input(ask(1, 1, vec![claim(1, "infra", 60)], Hold::Keep));
    play.settle(granted(10, 60));
    play.synced(true);
    play.answers.clear();
    play.input(Input::Release { ticket: Ticket(2), lease: lease(1) });
    play.settle(CallResult::Done);
    assert!(play.answers.is_empty(), "a crash now would bring it back");
    play.synced(true);
    assert_eq!(play.answers, [Answer::Released]);
    assert!(play.table.is_empty());
}

#[test]
fn a_store_that_is_no_longer_the_journal_itself_hears_of_an_intent_once_that_is_on_disk() {
    let mut play = in_journal();
    play.table.set_in_journal(BTreeSet::new());
    play.input(ask(1, 1, vec![claim(1, "infra", 60)], Hold::Keep));
    assert!(play.calls.is_empty(), "a crash now would leave a lock that nobody knows");
    play.synced(true);
    assert!(matches!(play.call(), Call::Acquire(_)));
}

#[test]
fn a_lease_in_the_journals_own_store_waits_between_its_tries_while_the_journal_fails() {
    let mut before = in_journal();
    before.input(ask(1, 1, vec![claim(1, "infra", 60)], Hold::Keep));
    before.settle(granted(10, 60));
    before.synced(true);
    let mut play = in_journal();
    play.input(Input::Recover(Box::new(before.memory())));
    let mut calls = 0;
    while play.now < T0 + secs(50) {
        assert_eq!(play.view().state, State::Unknown);
        while !play.calls.is_empty() || !play.syncs.is_empty() {
            calls += play.calls.len();
            while !play.calls.is_empty() {
                play.settle(ours(60));
            }
            play.synced(false);
            assert!(calls < 1000, "a loop without a pause");
        }
        play.now = play.table.next_wakeup().expect("it goes on");
        play.input(Input::Tick);
    }
    play.synced(true);
    while play.view().state == State::Unknown {
        play.go_on();
        play.settle(ours(60));
        play.synced(true);
    }
    assert_eq!(play.view().state, State::Held, "the journal is its store: nothing else to ask");
}

#[test]
fn a_stop_answers_every_question_and_releases_nothing_that_is_held() {
    let mut play = Play::holding(Hold::Keep);
    // One acquire waits between two tries, two renewals wait for the mark and for each other.
    play.input(ask(2, 1, vec![claim(2, "other", 60)], Hold::No));
    play.synced(true);
    play.settle(CallResult::Unknown);
    play.input(renew(3, None));
    play.input(renew(4, None));
    play.input(Input::Stop);
    assert_eq!(play.answers, [Answer::No(No::Stopping), Answer::No(No::Stopping)]);
    play.synced(true);
    for (call, what) in std::mem::take(&mut play.calls) {
        let result = match what {
            Call::Renew { .. } => ours(60),
            Call::Cancel(..) => CallResult::Done,
            other => panic!("{other:?}"),
        };
        play.input(Input::Settled { call, result });
    }
    play.synced(true);
    assert!(matches!(play.answers.last(), Some(Answer::Renewed(_))));
    assert!(play.table.is_quiet());
    assert_eq!((play.answers.len(), play.view().state), (3, State::Held));
    // The connections end because the agent stops: that releases nothing.
    play.input(Input::Gone(SessionId(1)));
    play.input(renew(5, None));
    assert_eq!(play.answers.last(), Some(&Answer::No(No::Stopping)));
    assert!(play.calls.is_empty());
}

#[test]
fn an_acquire_for_a_process_that_ended_meanwhile_takes_nothing() {
    let mut play = Play::new();
    play.input(attached(1, 1, 77));
    play.synced(true);
    play.input(Input::Gone(SessionId(77)));
    assert_eq!(play.answers, [Answer::No(No::NotHeld)]);
    play.settle(granted(10, 60));
    assert!(matches!(play.call(), Call::Cancel(..)));
}

#[test]
fn one_resource_twice_in_one_ask_is_refused_before_anything_leaves() {
    let mut play = Play::new();
    play.input(ask(1, 1, vec![claim(1, "infra", 60), claim(2, "infra", 60)], Hold::No));
    let [Answer::No(No::Held(on, Some(holder)))] = play.answers.as_slice() else {
        panic!("{:?}", play.answers)
    };
    assert_eq!((on, &holder.host), (&resource("infra"), &Some("bastion2".to_owned())));
    assert!(play.table.is_empty() && play.records.is_empty());
}

#[test]
fn a_resource_of_ours_is_held_by_us_and_the_first_lease_stays() {
    let mut play = Play::holding(Hold::Keep);
    play.input(ask(2, 1, vec![claim(2, "infra", 60)], Hold::No));
    play.synced(true);
    let mut store = Store::default();
    let first = claim(1, "infra", 60);
    assert!(matches!(store.acquire(1, &first, 0), Attempt::Granted(_)));
    let Call::Acquire(second) = play.call().clone() else { panic!("{:?}", play.calls) };
    play.settle(CallResult::Attempted(store.acquire(2, &second, store.counter(&first.resource))));
    let [Answer::No(No::Held(_, Some(holder)))] = play.answers.as_slice() else {
        panic!("{:?}", play.answers)
    };
    assert_eq!((holder.lease, &holder.principal), (lease(1), &first.principal));
    assert_eq!((play.view().state, play.table.len()), (State::Held, 1));
}

#[test]
fn an_attached_lease_ends_after_a_restart_unless_its_holder_comes_back() {
    let mut before = Play::new();
    before.input(attached(1, 1, 1));
    before.synced(true);
    before.settle(granted(10, 60));
    before.synced(true);
    let start = || {
        let mut play = Play::new();
        play.input(Input::Recover(Box::new(before.memory())));
        play.synced(true);
        play.settle(ours(60));
        assert_eq!(play.view().state, State::Held);
        play
    };
    let mut play = start();
    play.at(secs(31));
    assert_eq!(play.view().state, State::Releasing);

    let mut play = start();
    let session = SessionId(5);
    play.input(Input::Attach {
        ticket: Ticket(9),
        lease: lease(1),
        attach: Attach::Session(session),
    });
    assert!(
        matches!(play.answers.as_slice(), [Answer::Renewed(view)] if view.state == State::Held)
    );
    play.at(secs(31));
    assert!(matches!(play.view().state, State::Held | State::AtRisk));
    play.input(Input::Gone(session));
    assert_eq!(play.view().state, State::Releasing);
}

#[test]
fn a_reboot_lengthens_no_lease() {
    let mut memory = Play::holding(Hold::No).memory();
    // It was granted at moment 1000 s of a boot that began at 0 s of the wall clock.
    memory = [Record::Boot { id: [1; 16], wall_at_boot: UnixMs(0) }]
        .into_iter()
        .chain(memory.records())
        .chain([Record::Boot { id: [2; 16], wall_at_boot: UnixMs(1_040_000) }])
        .fold(Memory::default(), |mut memory, record| {
            memory.apply(record);
            memory
        });
    let (sent, remaining) = memory.leases[&lease(1)].proven.expect("it was granted");
    assert_eq!(sent + remaining, Moment::BOOT + secs(20));
}

#[test]
fn a_restart_renews_a_lease_without_a_hold_for_what_the_store_says_is_left() {
    let before = Play::holding(Hold::No);
    let mut play = Play::new();
    play.now = T0 + secs(20);
    play.input(Input::Recover(Box::new(before.memory())));
    assert!(matches!(play.call(), Call::Verify(_)));
    // The grant took its time: the store keeps it for longer than the journal says, and the agent
    // before us had read that back and told it.
    play.at(secs(22));
    play.settle(ours(43));
    play.synced(true);
    assert_eq!(play.view().state, State::Unknown, "a read proves nothing");
    let Call::Renew { ttl: asked, .. } = play.call() else { panic!("{:?}", play.calls) };
    assert!(*asked > ttl(43) && *asked < ttl(50), "{asked:?}");
    play.settle(ours(45));
    assert_eq!(play.view().state, State::Held);
}

#[test]
fn a_longer_end_is_told_when_the_journal_has_it_and_not_before() {
    let mut play = Play::holding(Hold::Keep);
    play.input(renew(2, Some(3600)));
    play.synced(true);
    play.settle(ours(3600));
    let minute = T0 + secs(60);
    assert!(play.changes.iter().all(|view| view.deadline < minute), "a crash would take it back");
    play.synced(true);
    assert!(matches!(play.answers.as_slice(), [Answer::Renewed(view)] if view.deadline > minute));
}

#[test]
fn an_answer_that_comes_after_the_end_brings_nothing_back() {
    let mut play = Play::holding(Hold::Keep);
    play.at(secs(21));
    play.synced(true);
    // Asleep: no timer rang. Whoever looks first is told that it is over, and that stands.
    play.now = T0 + secs(61);
    assert_eq!(play.view().state, State::Lost(Loss::Expired));
    play.settle(ours(60));
    assert_eq!(play.view().state, State::Lost(Loss::Expired));
    let told = play.changes.iter().filter(|view| matches!(view.state, State::Lost(_))).count();
    assert_eq!(told, 1);
}

#[test]
fn a_release_shuts_out_the_late_copy_of_an_attempt_that_had_no_answer() {
    let mut store = Store::default();
    let mut play = Play::new();
    play.input(ask(1, 1, vec![claim(1, "infra", 60)], Hold::Keep));
    play.synced(true);
    // The first attempt was granted and its answer lost; the second is stuck half way, with the
    // counter that it read; the third finds the grant.
    let wanted = claim(1, "infra", 60);
    store.acquire(1, &wanted, 0);
    play.settle(CallResult::Unknown);
    play.go_on();
    let stuck = store.counter(&wanted.resource);
    play.settle(CallResult::Unknown);
    play.go_on();
    play.settle(CallResult::Attempted(store.acquire(2, &wanted, stuck)));
    play.synced(true);
    assert!(matches!(play.answers.pop(), Some(Answer::Acquired(_))));
    play.input(Input::Release { ticket: Ticket(2), lease: lease(1) });
    while !play.calls.is_empty() {
        let result = store.does(3, &play.call().clone());
        play.settle(result);
    }
    assert_eq!(play.answers, [Answer::Released]);
    assert!(play.table.is_empty());
    assert_eq!(store.acquire(4, &wanted, stuck), Attempt::Moved, "nobody would know of it");
}

#[test]
fn a_loss_shuts_out_the_late_copy_of_an_attempt_that_had_no_answer() {
    let mut play = Play::new();
    play.input(ask(1, 1, vec![claim(1, "infra", 2)], Hold::No));
    play.synced(true);
    play.settle(CallResult::Unknown);
    play.go_on();
    play.settle(granted(10, 2));
    play.synced(true);
    play.at(secs(2));
    assert_eq!(play.view().state, State::Lost(Loss::Expired));
    assert!(matches!(play.call(), Call::Release(_)));
    play.settle(CallResult::Done);
    assert!(matches!(play.call(), Call::Cancel(..)));
    play.settle(CallResult::Done);
    assert!(play.calls.is_empty() && play.view().state == State::Lost(Loss::Expired));
}

#[test]
fn a_hold_that_ends_is_told_and_gives_the_lease_back_also_while_a_renewal_is_out() {
    let mut play = Play::holding(Hold::Until(T0 + secs(30)));
    play.at(secs(21));
    play.synced(true);
    assert!(matches!(play.call(), Call::Renew { .. }));
    play.at(secs(30));
    assert_eq!(play.changes.last().map(|view| view.state.clone()), Some(State::Releasing));
    play.settle(ours(60));
    assert_eq!(play.view().state, State::Releasing, "whatever the renewal says");
    assert!(matches!(play.call(), Call::Release(proof) if proof.nonces.len() == 2));
    play.settle(CallResult::Done);
    assert!(play.table.is_empty());
    assert!(play.changes.iter().all(|view| !matches!(view.state, State::Lost(_))));
}

#[test]
fn a_release_is_answered_when_a_crash_of_the_agent_cannot_turn_it_into_a_loss() {
    let mut play = Play::holding(Hold::Keep);
    play.input(Input::Release { ticket: Ticket(2), lease: lease(1) });
    let (call, _) = play.calls.remove(0);
    play.hand_in(Input::Settled { call, result: CallResult::Done });
    assert!(play.answers.is_empty(), "the end of the lease is in nobody's hands yet");
    let sync = play.writes.pop().expect("it is to be written");
    // A crash now: the next start gives it back once more, and loses nothing.
    let mut next = Play::new();
    next.input(Input::Recover(Box::new(play.memory())));
    assert!(matches!(next.call(), Call::Release(_)));
    // A journal that cannot take it is no reason to say that the store did not let go.
    play.hand_in(Input::Synced { sync, durable: false });
    assert_eq!(play.answers, [Answer::Released]);
}

#[test]
fn a_lease_that_another_writer_touched_is_set_again_at_once_and_it_is_said() {
    for (left, touch) in [(30, Touch::Cut), (500, Touch::Lengthened)] {
        let mut play = Play::new();
        play.input(ask(1, 1, vec![claim(1, "infra", 300)], Hold::Keep));
        play.synced(true);
        play.settle(granted(10, 300));
        play.synced(true);
        play.at(secs(15));
        assert!(matches!(play.call(), Call::Verify(_)));
        play.settle(ours(left));
        assert_eq!(play.touches, [touch]);
        assert!(play.view().deadline <= play.now + secs(left).min(secs(300)));
        play.synced(true);
        assert!(matches!(play.call(), Call::Renew { .. }), "{:?}", play.calls);
        play.settle(ours(300));
        play.synced(true);
        play.at(secs(30));
        play.settle(ours(285));
        assert_eq!(play.touches, [touch], "said once");
    }
}

#[test]
fn a_lease_that_nobody_wants_renewed_ends_where_another_writer_put_its_end() {
    let mut play = Play::holding(Hold::No);
    play.at(secs(15));
    play.settle(ours(20));
    assert_eq!(play.touches, [Touch::Cut]);
    assert!(play.view().deadline <= T0 + secs(35));
    assert!(play.calls.is_empty(), "{:?}", play.calls);
}

#[test]
fn what_a_renewal_of_ours_may_have_done_is_no_other_writer_s_doing() {
    let mut play = Play::holding(Hold::No);
    play.input(renew(2, Some(20)));
    play.synced(true);
    play.at(secs(5));
    play.settle(CallResult::Unknown);
    play.at(secs(15));
    play.settle(ours(8));
    assert_eq!(play.touches, []);
}

#[test]
fn what_ended_by_itself_is_given_back_for_a_store_may_keep_what_is_over() {
    let mut play = Play::holding(Hold::No);
    while play.view().state == State::Held {
        play.go_on();
        // That its end comes near is told, and asks for nothing.
        let Some((_, call)) = play.calls.first() else { continue };
        match call {
            Call::Verify(_) => {
                let remaining = (T0 + secs(60)).max(play.now);
                let remaining = play.now.until(remaining);
                play.settle(CallResult::Stands(Standing::Ours { remaining }));
            }
            Call::Release(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(play.view().state, State::Lost(Loss::Expired));
    assert!(matches!(play.call(), Call::Release(_)), "{:?}", play.calls);
    play.settle(CallResult::Done);
    assert!(play.calls.is_empty(), "once is enough: {:?}", play.calls);
}

#[test]
fn a_store_that_is_back_hears_at_once_what_it_missed() {
    let mut play = Play::holding(Hold::Keep);
    play.input(Input::Release { ticket: Ticket(2), lease: lease(1) });
    // Long enough for the pauses to grow.
    for _ in 0..12 {
        play.settle(CallResult::Refused(RefusedKind::Unreachable));
        play.go_on();
    }
    play.settle(CallResult::Refused(RefusedKind::Unreachable));
    assert!(play.calls.is_empty());
    play.now = play.now + schedule::BACK_GAP;
    play.input(Input::Suspect(backend()));
    assert!(matches!(play.call(), Call::Release(_)), "{:?}", play.calls);
}

#[test]
fn a_store_that_comes_and_goes_is_not_asked_each_time() {
    for releases in [false, true] {
        let mut play = Play::holding(Hold::Keep);
        if releases {
            play.input(Input::Release { ticket: Ticket(2), lease: lease(1) });
            play.settle(CallResult::Refused(RefusedKind::Unreachable));
        }
        let mut calls = 0;
        for round in 1..=100 {
            play.at(Duration::from_millis(100) * round);
            play.input(Input::Suspect(backend()));
            calls += play.calls.len();
            while !play.calls.is_empty() {
                play.settle(CallResult::Refused(RefusedKind::Unreachable));
            }
        }
        assert!((5..=15).contains(&calls), "{calls} calls in ten seconds, releases: {releases}");
    }
}

#[test]
fn a_store_that_is_back_is_not_asked_about_all_leases_at_once() {
    let mut play = Play::new();
    let claims: Vec<Claim> = (1..=40).map(|at| claim(at, &format!("prod/{at}"), 900)).collect();
    play.input(ask(1, 1, claims, Hold::Keep));
    play.synced(true);
    for at in 1..=40 {
        play.settle(granted(at, 900));
        play.synced(true);
    }
    assert!(play.calls.is_empty(), "{:?}", play.calls);
    play.at(Duration::from_secs(2));
    play.input(Input::Suspect(backend()));
    let mut asked = Vec::new();
    for tenth in 20..50 {
        play.at(Duration::from_millis(100) * tenth);
        asked.push(play.calls.len());
        while !play.calls.is_empty() {
            play.settle(ours(898));
        }
    }
    assert_eq!(asked.iter().sum::<usize>(), 40, "each once: {asked:?}");
    assert!(asked[0] >= 8 && asked[0] <= 10, "{asked:?}");
    assert!(asked[1..].iter().all(|calls| *calls <= 3), "{asked:?}");
}

#[test]
fn after_a_restart_what_is_held_is_proven_at_once_and_what_is_over_one_after_the_other() {
    let mut play = Play::new();
    let claims: Vec<Claim> = (1..=40).map(|at| claim(at, &format!("prod/{at}"), 900)).collect();
    play.input(ask(1, 1, claims, Hold::Keep));
    play.synced(true);
    for at in 1..=40 {
        play.settle(granted(at, 900));
        play.synced(true);
    }
    for at in 1..=20 {
        play.input(Input::Release { ticket: Ticket(100 + at), lease: lease(at) });
    }
    let memory = play.memory();
    let mut play = Play::new();
    play.input(Input::Recover(Box::new(memory)));
    play.synced(true);
    let count = |play: &Play| {
        let is_end = |call: &&(CallId, Call)| matches!(call.1, Call::Release(_) | Call::Cancel(..));
        let ends = play.calls.iter().filter(is_end).count();
        (play.calls.len() - ends, ends)
    };
    assert_eq!(count(&play), (20, 8));
    play.at(schedule::BACK_PACE * 20);
    assert_eq!(count(&play), (20, 20));
}
