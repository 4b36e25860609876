//! Histories that no agent should ever make, and what the checker says of each.

use super::*;

const SECOND: u64 = 1_000_000;

fn lease(id: u8) -> LeaseId {
    LeaseId::from_bytes([id; 16])
}

fn db() -> Resource {
    Resource::new("db").expect("a resource")
}

/// Something told by agent 0 about `db`, asked and answered at these seconds.
fn told(id: u8, (asked, answered): (u64, u64), what: What) -> Told {
    let (asked, answered) = (asked * SECOND, answered * SECOND);
    Told { agent: 0, life: 1, resource: db(), lease: lease(id), asked, answered, what }
}

fn belief(fence: u64, left: u64) -> Belief {
    Belief { fence: Fence(fence), left_us: left * SECOND }
}

/// A kept lease of a minute.
fn granted(id: u8, times: (u64, u64), fence: u64, left: u64) -> Told {
    let belief = belief(fence, left);
    told(id, times, What::Granted { belief, ttl_secs: 60, is_kept: true })
}

/// It is given back, and its stream says so.
fn given_back(id: u8, times: (u64, u64)) -> [Told; 3] {
    [What::Leaves, What::Released, What::EventReleased].map(|what| told(id, times, what))
}

fn events(told: &[Told], outages: &[Outage]) -> Events {
    Events { told: told.to_vec(), outages: outages.to_vec(), ..Events::default() }
}

fn check(history: &[Told], expected: &[Wrong]) {
    assert_eq!(wrong(&events(history, &[])), expected);
}

#[test]
fn leases_one_after_the_other_are_right() {
    let mut history = vec![granted(1, (10, 11), 7, 60)];
    history.push(told(1, (12, 13), What::HeldInStore));
    history.push(told(1, (13, 14), What::Held(belief(7, 58))));
    history.extend(given_back(1, (20, 21)));
    history.push(granted(2, (20, 21), 8, 60));
    history.extend(given_back(2, (30, 31)));
    check(&history, &[]);
}

#[test]
fn a_second_lease_before_the_deadline_that_was_told_is_seen() {
    let mut history = vec![granted(1, (10, 11), 7, 60), granted(2, (50, 51), 8, 60)];
    history.extend([1, 2].into_iter().flat_map(|id| given_back(id, (90, 91))));
    let two = |at| Wrong::TwoBelievers { resource: db(), leases: [lease(1), lease(2)], at };
    check(&history, &[two(51 * SECOND)]);
    // A deadline counts from the question: how long the answer took is no time to believe in.
    history[1] = granted(2, (68, 70), 8, 60);
    check(&history, &[]);
    history[1] = granted(2, (68, 69), 8, 60);
    check(&history, &[two(69 * SECOND)]);
    // On another resource it is another lock.
    for told in history.iter_mut().filter(|told| told.lease == lease(2)) {
        told.resource = Resource::new("web").expect("a resource");
    }
    check(&history, &[]);
}

#[test]
fn a_longer_belief_that_an_answer_tells_counts_too() {
    let mut history = vec![granted(1, (10, 11), 7, 3), granted(2, (20, 21), 8, 2)];
    history.extend([told(1, (12, 13), What::Held(belief(7, 30)))]);
    history.extend([1, 2].into_iter().flat_map(|id| given_back(id, (50, 51))));
    let leases = [lease(1), lease(2)];
    check(&history, &[Wrong::TwoBelievers { resource: db(), leases, at: 21 * SECOND }]);
}

#[test]
fn belief_ends_when_its_holder_lets_go_or_hears_of_the_loss() {
    let base = [granted(1, (10, 11), 7, 60), granted(2, (30, 31), 8, 60)];
    let mut history = base.to_vec();
    history.extend(given_back(1, (29, 40)));
    history.extend(given_back(2, (50, 51)));
    check(&history, &[]);
    // A loss that is told after the next grant is told too late.
    let mut history = base.to_vec();
    history.push(told(1, (35, 35), What::EventLost(LostReason::Expired)));
    history.extend(given_back(2, (50, 51)));
    let leases = [lease(1), lease(2)];
    let late = Wrong::TwoBelievers { resource: db(), leases, at: 31 * SECOND };
    let ran_out = Wrong::RanOut { lease: lease(1), ttl_us: 60 * SECOND, outages_us: 0 };
    check(&history, &[ran_out, late]);
}

#[test]
fn a_store_that_shows_another_lease_than_the_believed_one_is_seen() {
    let mut history = vec![granted(1, (10, 11), 7, 60)];
    history.push(told(2, (20, 21), What::Stands));
    history.extend(given_back(1, (50, 51)));
    let (stood, believed) = (lease(2), lease(1));
    let at = 20 * SECOND;
    check(&history, &[Wrong::AnotherStood { resource: db(), stood, believed, at }]);
    // It may have been looked at before the grant was answered, or after the end.
    for times in [(10, 12), (49, 51)] {
        history[1] = told(2, times, What::Stands);
        check(&history, &[]);
    }
}

#[test]
fn a_fence_that_does_not_rise_is_seen() {
    for fence in [7, 6] {
        let mut history = vec![granted(1, (10, 11), 7, 5), granted(2, (30, 31), fence, 5)];
        history.extend(given_back(1, (14, 15)));
        history.extend(given_back(2, (34, 35)));
        let (before, fence) = (Fence(7), Fence(fence));
        check(&history, &[Wrong::FenceFell { resource: db(), lease: lease(2), before, fence }]);
    }
    // Of two that were asked for at one time, the order is not known; but no two are alike.
    for (fence, is_right) in [(6, true), (7, false)] {
        let mut history = vec![granted(1, (10, 15), 7, 0), granted(2, (11, 15), fence, 0)];
        history.extend(given_back(1, (20, 21)));
        history.extend(given_back(2, (20, 21)));
        assert_eq!(wrong(&events(&history, &[])).is_empty(), is_right, "{fence}");
    }
}

#[test]
fn a_lease_with_two_fences_is_seen() {
    let mut history = vec![granted(1, (10, 11), 7, 60)];
    history.push(told(1, (12, 12), What::EventHeld(Fence(8))));
    history.extend(given_back(1, (50, 51)));
    let fences = [Fence(7), Fence(8)];
    check(&history, &[Wrong::FenceChanged { lease: lease(1), fences }]);
}

#[test]
fn a_lease_that_is_held_again_after_its_end_is_seen() {
    let again = [
        told(1, (52, 53), What::Held(belief(7, 60))),
        told(1, (52, 53), What::HeldInStore),
        told(1, (52, 52), What::EventHeld(Fence(7))),
    ];
    for again in again {
        let mut history = vec![granted(1, (10, 11), 7, 60)];
        history.extend(given_back(1, (50, 51)));
        history.push(again);
        let (over, again) = (51 * SECOND, 52 * SECOND);
        check(&history, &[Wrong::Revived { lease: lease(1), over, again }]);
    }
    // An answer that was made before the end may be read after it.
    let mut history = vec![granted(1, (10, 11), 7, 60)];
    history.extend(given_back(1, (50, 51)));
    history.push(told(1, (49, 52), What::Held(belief(7, 60))));
    check(&history, &[]);
}

#[test]
fn a_lease_that_nobody_was_granted_is_seen() {
    let nobody = Wrong::NobodyWasTold { resource: db(), lease: lease(1) };
    for what in [What::Held(belief(7, 1)), What::HeldInStore, What::EventHeld(Fence(7))] {
        let history = [told(1, (10, 11), what), told(1, (12, 12), What::EventReleased)];
        check(&history, std::slice::from_ref(&nobody));
    }
    // Its asker had hung up: then it only has to end.
    let history =
        [told(1, (10, 11), What::EventHeld(Fence(7))), told(1, (12, 12), What::EventReleased)];
    let hung_up = |asked| HungUp { agent: 0, resource: db(), asked: asked * SECOND };
    for (told, asked, expected) in [
        (&history[..], 9, vec![]),
        (&history[..1], 9, vec![Wrong::Ends { lease: lease(1), told: 0 }]),
        (&history[..], 12, vec![nobody]),
    ] {
        let events = Events { hung_up: vec![hung_up(asked)], ..events(told, &[]) };
        assert_eq!(wrong(&events), expected);
    }
    // Each accounts for one lease only.
    let mut twice = history.to_vec();
    twice.extend(history.iter().cloned().map(|it| Told { lease: lease(2), ..it }));
    let events = Events { hung_up: vec![hung_up(9)], ..events(&twice, &[]) };
    assert_eq!(wrong(&events), [Wrong::NobodyWasTold { resource: db(), lease: lease(2) }]);
    // That the store shows it for a while is no belief: it is being cancelled.
    check(&[told(1, (10, 11), What::Stands)], &[]);
}

#[test]
fn a_lease_that_ends_twice_or_never_is_seen() {
    let history = [granted(1, (10, 11), 7, 60)];
    check(&history, &[Wrong::Ends { lease: lease(1), told: 0 }]);
    let mut history = history.to_vec();
    history.extend(given_back(1, (50, 51)));
    history.push(told(1, (52, 52), What::EventReleased));
    check(&history, &[Wrong::Ends { lease: lease(1), told: 2 }]);
}

#[test]
fn a_lease_that_the_store_gave_away_is_seen() {
    let history =
        [granted(1, (10, 11), 7, 60), told(1, (20, 20), What::EventLost(LostReason::StoreLostIt))];
    let reason = LostReason::StoreLostIt;
    check(&history, &[Wrong::GivenAway { lease: lease(1), reason }]);
    // Not what its holder had let go of by then; later is too late for that.
    let [granted, lost] = history;
    let leaves = |at| told(1, (at, at), What::Leaves);
    check(&[granted.clone(), leaves(15), lost.clone()], &[]);
    let reason = LostReason::StoreLostIt;
    let wrong = Wrong::GivenAway { lease: lease(1), reason };
    check(&[granted, lost, leaves(25)], &[wrong]);
}

#[test]
fn a_kept_lease_runs_out_only_while_its_store_is_away() {
    let mut history =
        vec![granted(1, (10, 11), 7, 60), told(1, (70, 70), What::EventLost(LostReason::Expired))];
    let outage = |agent, from, to| Outage { agent, from: from * SECOND, to: to * SECOND };
    let excused = |outages: &[Outage]| wrong(&events(&history, outages)).is_empty();
    assert!(excused(&[outage(0, 20, 50)]));
    assert!(excused(&[outage(0, 20, 40), outage(0, 60, 90)]));
    assert!(!excused(&[]));
    assert!(!excused(&[outage(0, 20, 49)]));
    assert!(!excused(&[outage(0, 0, 39)]), "before it could matter");
    assert!(!excused(&[outage(1, 20, 50)]), "another agent's");
    // One that nobody asked to keep ends so, and a short one has bad luck enough.
    for (ttl_secs, is_kept) in [(60, false), (5, true)] {
        history[0].what = What::Granted { belief: belief(7, 60), ttl_secs, is_kept };
        check(&history, &[]);
    }
}

/// The same in a later life of the agent.
fn later(told: Told) -> Told {
    Told { life: 2, ..told }
}

#[test]
fn an_end_that_was_told_for_ever_is_for_ever_over_a_death_too() {
    for (end, is_for_ever) in [
        (What::Released, true),
        (What::Lost, true),
        (What::Leaving, false),
        (What::EventLost(LostReason::StoreLostIt), true),
        (What::EventReleased, false),
    ] {
        for again in [What::Held(belief(7, 60)), What::EventHeld(Fence(7))] {
            let is_event = |what: &What| format!("{what:?}").starts_with("Event");
            if is_event(&end) != is_event(&again) {
                continue;
            }
            let history = [
                granted(1, (10, 11), 7, 60),
                told(1, (20, 21), end.clone()),
                later(told(1, (30, 31), again)),
            ];
            let is_seen = |it: &Wrong| matches!(it, Wrong::Revived { .. });
            let seen = wrong(&events(&history, &[])).iter().any(is_seen);
            assert_eq!(seen, is_for_ever, "{end:?}");
        }
    }
}

#[test]
fn an_end_that_came_with_a_death_is_one() {
    let history = [granted(1, (10, 11), 7, 60), told(1, (20, 21), What::Leaves)];
    let gone = |was_kept| later(told(1, (30, 30), What::EventGone { was_kept }));
    for was_kept in [true, false] {
        let mut history = history.to_vec();
        history.push(gone(was_kept));
        check(&history, &[]);
    }
    // What was to be kept, and nobody had let go of, is forgotten.
    let forgotten = |at| Wrong::Forgotten { lease: lease(1), at: at * SECOND };
    check(&[history[0].clone(), gone(true)], &[forgotten(30)]);
    check(&[history[0].clone(), gone(false)], &[]);
    // Its holder may be the first to hear of it.
    let mut history = vec![history[0].clone(), later(told(1, (25, 26), What::NotThere))];
    history.push(later(told(1, (30, 30), What::EventReleased)));
    check(&history, &[forgotten(25)]);
    history[2].what = What::EventLost(LostReason::StoreLostIt);
    let reason = LostReason::StoreLostIt;
    check(&history, &[Wrong::GivenAway { lease: lease(1), reason }]);
}

#[test]
fn a_second_end_is_one_only_over_a_death() {
    let mut history = vec![granted(1, (10, 11), 7, 60)];
    history.extend(given_back(1, (50, 51)));
    history.push(later(told(1, (52, 52), What::EventReleased)));
    check(&history, &[]);
    history.push(later(told(1, (53, 53), What::EventReleased)));
    check(&history, &[Wrong::Ends { lease: lease(1), told: 2 }]);
}

#[test]
fn a_belief_that_no_store_can_have_confirmed_is_seen() {
    let blind = |agent, from, to| Blind { agent, from: from * SECOND, to: to * SECOND };
    for held in [What::Held(belief(7, 30)), What::HeldInStore] {
        let mut history = vec![granted(1, (10, 11), 7, 60)];
        history.push(later(told(1, (21, 22), held)));
        history.extend(given_back(1, (50, 51)).map(later));
        for (blind, is_seen) in [
            (blind(0, 20, 23), true),
            (blind(0, 22, 25), false),
            (blind(0, 18, 21), false),
            (blind(1, 20, 23), false),
        ] {
            let events = Events { blind: vec![blind], ..events(&history, &[]) };
            let at = 21 * SECOND;
            let seen = Wrong::BelievedBeforeRenewed { lease: lease(1), at };
            assert_eq!(wrong(&events).contains(&seen), is_seen, "{blind:?}");
        }
    }
}

#[test]
fn a_lease_that_nobody_was_granted_and_the_store_goes_on_showing_is_seen() {
    let stands = |at| told(1, (at, at), What::Stands);
    check(&[stands(10), stands(70)], &[]);
    let us = 61 * SECOND;
    check(&[stands(10), stands(71)], &[Wrong::Lingers { lease: lease(1), us }]);
    let mut history = vec![granted(1, (8, 9), 7, 60), stands(10), stands(71)];
    history.extend(given_back(1, (80, 81)));
    check(&history, &[]);
}

#[test]
fn a_lease_that_stands_for_longer_than_anybody_renewed_it_is_seen() {
    let belief = belief(7, 5);
    let grant = told(1, (8, 10), What::Granted { belief, ttl_secs: 5, is_kept: false });
    let stands = |at| told(1, (at, at + 1), What::Stands);
    let ended = told(1, (50, 50), What::EventReleased);
    let check = |told: &[Told], us: Option<u64>| {
        let expected = us.map(|us| Wrong::Outstays { lease: lease(1), us: us * SECOND });
        check(told, expected.as_slice());
    };
    check(&[grant.clone(), stands(35), ended.clone()], None);
    check(&[grant.clone(), stands(36), ended.clone()], Some(1));
    let tried = told(1, (11, 12), What::Tried);
    check(&[grant.clone(), tried, stands(36), ended.clone()], None);
    let kept = granted(1, (8, 10), 7, 5);
    check(&[kept, stands(49), ended], None);
}

#[test]
fn a_lease_that_stands_after_it_was_given_back_is_seen() {
    let mut history = vec![granted(1, (10, 11), 7, 60), told(1, (21, 22), What::Stands)];
    history.extend(given_back(1, (20, 21)));
    check(&history, &[]);
    history.push(told(1, (23, 24), What::Stands));
    check(&history, &[Wrong::Outstays { lease: lease(1), us: 2 * SECOND }]);
}

#[test]
fn a_kept_lease_whose_end_does_not_move_in_a_calm_is_seen() {
    let held = |at, left| told(1, (at, at), What::Held(belief(7, left)));
    let calm = |history: &[Told]| Events {
        calm: Some((100 * SECOND, 121 * SECOND)),
        ..events(history, &[])
    };
    let grant = |ttl_secs, is_kept| {
        let belief = belief(7, 20);
        told(1, (94, 95), What::Granted { belief, ttl_secs, is_kept })
    };
    let given_back = given_back(1, (130, 131));
    let check = |ttl, is_kept, held: &[Told], expected: Option<(u64, u64)>| {
        let mut history = vec![grant(ttl, is_kept)];
        history.extend_from_slice(held);
        history.extend(given_back.iter().cloned());
        let events = calm(&history);
        let expected: Vec<Wrong> = expected
            .map(|(from, to)| (from * SECOND, to * SECOND))
            .map(|(from, to)| Wrong::NotRenewed { lease: lease(1), from, to })
            .into_iter()
            .collect();
        assert_eq!(wrong(&events), expected);
        seen_in_calm(&events)
    };
    // A third of the ttl, and ten seconds.
    assert_eq!(check(18, true, &[held(101, 18), held(107, 18), held(113, 18)], None), 1);
    assert_eq!(
        check(18, true, &[held(101, 18), held(107, 12), held(118, 18)], Some((101, 118))),
        1
    );
    assert_eq!(check(18, true, &[held(101, 18)], Some((101, 121))), 1);
    assert_eq!(check(18, true, &[], Some((100, 121))), 1);
    // Of these nothing is to be seen.
    assert_eq!(check(60, true, &[], None), 0);
    assert_eq!(check(18, false, &[], None), 0);
}
