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
    Told { agent: 0, resource: db(), lease: lease(id), asked, answered, what }
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
    Events { told: told.to_vec(), outages: outages.to_vec(), hung_up: Vec::new() }
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
        check(&[told(1, (10, 11), what)], std::slice::from_ref(&nobody));
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
