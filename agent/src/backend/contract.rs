//! What every store must do, as one suite: `contract!(make)` in a store's tests runs it, and
//! `contract_with_others!(make)` what concerns other writers.
//!
//! `make` is an expression that starts a store and gives a [`Site`]. Nothing here knows which store
//! it is; resources have names of their own, so a shared server will do. Not here: what only one
//! store has (its layout, its errors), and its network: that a late copy of a cancelled acquire
//! fails must be shown by each store on a line that holds requests back (`tests/support/proxy.rs`),
//! since on this host nothing overtakes.

mod breaks;

use std::fmt::Debug;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, Ttl, UnixMs};
use tokio::task::JoinHandle;

use super::proxy::{Fault, Proxy};
use super::{
    Attempt, Backend, BackendError, Pending, RefusedKind, Released, Standing, Stirred, Stirs,
};
use crate::clock;
use crate::lease::{BackendName, Claim, Grant, Holder, Nonce, Proof};
pub(crate) use breaks::*;

/// One running store, and what the suite needs of it besides the trait.
pub(crate) trait Site: Send + Sync {
    /// One more agent's way to the store, with connections of its own where it has any.
    fn open(&self) -> Arc<dyn Backend>;

    /// The other writers of the store; `None` where there are none.
    fn others(&self) -> Option<&dyn Others>;

    /// False for a store that has no room for what the Python tool does not write: a holder is
    /// told without host, reason and fence, and since the store's time of the grant.
    fn has_extras(&self) -> bool {
        true
    }
}

/// What others write into the same store, by its own means.
pub(crate) trait Others: Send + Sync {
    /// Takes a lock as the Python tool does, without looking who has it; without a ttl as that
    /// tool does when it dies in between, where the store's layout allows that.
    fn lock<'a>(&'a self, on: &'a Resource, lease: LeaseId, ttl: Option<Ttl>) -> Pending<'a, ()>;

    /// Puts things that are no locks under resources, one kind under each.
    fn litter<'a>(&'a self, on: &'a [Resource]) -> Pending<'a, ()>;

    /// Everything that stands under a resource, to compare.
    fn dump<'a>(&'a self, on: &'a Resource) -> Pending<'a, String>;
}

/// A store that tells when something stirs, and whose other writers give back what they took.
pub(crate) trait Telling: Site {
    /// Gives back a lock as the Python tool does.
    fn give_back<'a>(&'a self, on: &'a Resource, lease: LeaseId) -> Pending<'a, ()>;
}

/// Runs the whole suite on the stores that `$make` starts, one for each test.
macro_rules! contract {
    ($make:expr) => {
        $crate::backend::contract::contract!($make;
            of_fifty_contenders_one_wins_each_round
            the_same_claim_again_is_the_same_grant
            a_held_resource_says_who_holds_it
            a_cancel_ends_an_acquire_for_good
            every_write_compares_the_lease
            every_write_compares_the_mark
            a_proof_without_marks_is_not_compared_by_mark
            fences_rise_whatever_happened_between
            a_lease_ends_by_the_store_s_clock
            what_remains_is_a_duration_that_shrinks
            a_vanished_record_is_never_made_again
            a_release_of_what_is_gone_is_success
            the_list_is_in_order_and_in_pages
            texts_come_back_as_they_were
            a_break_takes_the_lease_that_was_seen_with_a_greater_fence
            a_break_ends_no_earlier_than_what_it_breaks
            a_break_ends_no_earlier_than_what_was_renewed_meanwhile
            a_break_of_a_lease_that_is_not_there_does_nothing
            a_break_of_another_s_lease_does_nothing
            the_same_break_again_is_the_same_grant
            the_victim_of_a_break_finds_another_s_lease
            of_fifty_breakers_of_one_lease_one_wins_each_round
            a_cancel_ends_a_break_for_good
            a_break_never_takes_the_lease_that_came_after
        );
    };
    ($make:expr; $($test:ident)*) => {$(
        #[tokio::test]
        async fn $test() {
            $crate::backend::contract::$test(&$make).await;
        }
    )*};
}
pub(crate) use contract;

/// The part of the suite for stores that others write into as well.
macro_rules! contract_with_others {
    ($make:expr) => {
        $crate::backend::contract::contract!($make;
            what_others_hold_is_held
            what_is_no_lock_is_left_alone
            what_others_hold_can_be_broken
        );
    };
}
pub(crate) use contract_with_others;

/// The part of the suite for stores with ids of 128 bits.
macro_rules! contract_of_wide_ids {
    ($make:expr) => {
        $crate::backend::contract::contract!($make;
            an_id_of_128_bits_is_kept_whole
            a_break_compares_all_128_bits
        );
    };
}
pub(crate) use contract_of_wide_ids;

/// The part of the suite for stores that tell when something stirs.
macro_rules! contract_of_notices {
    ($make:expr) => {
        $crate::backend::contract::contract!($make;
            a_watch_tells_that_it_works_and_then_of_each_change_whoever_made_it
            a_watch_tells_of_a_lock_that_was_taken_over
            a_watch_tells_of_its_own_resource
            a_watch_tells_of_a_break
        );
    };
}
pub(crate) use contract_of_notices;

/// Contenders for one resource.
const CONTENDERS: usize = 50;
/// Times that they contend.
const ROUNDS: usize = 12;
/// Races of an abandoned acquire with its cancel.
const RACES: u64 = 300;
/// Longer than any test's wait for a store.
const PATIENCE: Duration = Duration::from_secs(20);
/// A ttl that no test outlives.
const LONG: u64 = 600;

pub(crate) async fn of_fifty_contenders_one_wins_each_round(site: &dyn Site) {
    let on = resource("contended");
    let agents: Vec<_> = (0..5).map(|_| site.open()).collect();
    let mut last = Fence(0);
    for round in 0..ROUNDS {
        let claims: Vec<_> = (0..CONTENDERS).map(|_| claim(&on, LONG)).collect();
        let tasks: Vec<_> = claims
            .iter()
            .cloned()
            .zip(agents.iter().cloned().cycle())
            .map(|(claim, agent)| tokio::spawn(async move { contend(&*agent, &claim).await }))
            .collect();
        let mut winners = Vec::new();
        for (task, claim) in tasks.into_iter().zip(&claims) {
            if let Attempt::Granted(grant) = task.await.expect("a contender") {
                winners.push((claim, grant));
            }
        }
        let [(winner, grant)] = winners[..] else { panic!("round {round}: {winners:?}") };
        assert!(grant.fence > last, "round {round}: {grant:?} after {last:?}");
        last = grant.fence;
        agents[round % 5].release(&proof(winner)).await.expect("a release");
    }
}

/// Asks until there is an answer.
async fn contend(agent: &dyn Backend, claim: &Claim) -> Attempt {
    let until = clock::now() + PATIENCE;
    while clock::now() < until {
        match agent.acquire(claim).await.expect("an acquire") {
            Attempt::Moved | Attempt::Held(None) => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
    panic!("no answer for {claim:?}")
}

pub(crate) async fn the_same_claim_again_is_the_same_grant(site: &dyn Site) {
    let (one, two) = (site.open(), site.open());
    let claim = claim(&resource("again"), LONG);
    let first = granted(&*one, &claim).await;
    for agent in [&one, &two] {
        let again = granted(&**agent, &claim).await;
        assert_eq!(again.fence, first.fence);
        assert!(again.remaining <= first.remaining, "{again:?} after {first:?}");
    }
}

pub(crate) async fn a_held_resource_says_who_holds_it(site: &dyn Site) {
    let (one, two) = (site.open(), site.open());
    let mut ours = claim(&resource("held"), LONG);
    ours.reason = Some(Reason::new("schema change").unwrap());
    let grant = granted(&*one, &ours).await;
    let other = claim(&ours.resource, LONG);
    let Attempt::Held(Some(holder)) = two.acquire(&other).await.expect("an acquire") else {
        panic!("not held");
    };
    check_holder(site, &holder, &ours, grant);
    let holder = two.holder(&ours.resource).await.expect("a holder").expect("somebody");
    check_holder(site, &holder, &ours, grant);
    assert_eq!(two.holder(&resource("free")).await.expect("a holder"), None);
}

fn check_holder(site: &dyn Site, holder: &Holder, claim: &Claim, grant: Grant) {
    let remaining = holder.remaining.expect("an end");
    assert!(remaining <= grant.remaining && remaining > grant.remaining / 2, "{remaining:?}");
    let has = site.has_extras();
    let apart_max_ms = if has { 1 } else { PATIENCE.as_millis() };
    let apart_ms = holder.since.0.abs_diff(claim.created.0);
    assert!(u128::from(apart_ms) <= apart_max_ms, "{holder:?} of {claim:?}");
    let expected = Holder {
        resource: claim.resource.clone(),
        lease: claim.lease,
        principal: claim.principal.clone(),
        host: has.then(|| claim.host.clone()),
        reason: claim.reason.clone().filter(|_| has),
        fence: has.then_some(grant.fence),
        since: holder.since,
        remaining: holder.remaining,
    };
    assert_eq!(*holder, expected);
}

pub(crate) async fn a_cancel_ends_an_acquire_for_good(site: &dyn Site) {
    let seed = crate::seed();
    let (one, two) = (site.open(), site.open());
    let mut cut = 0;
    let resources: Vec<_> = (0..4).map(|n| resource(&format!("race{n}"))).collect();
    for race in 0..RACES {
        let claim = claim(&resources[usize::try_from(race).unwrap() % resources.len()], LONG);
        let roll = mix(seed ^ race);
        let mut call = one.acquire(&claim);
        cut += u64::from(polled(&mut call, roll % 24).await.is_none());
        // The driver drops it before; what is on its way may go on all the same.
        let dropped_first = roll >> 32 & 1 == 0;
        let still = if dropped_first {
            drop(call);
            None
        } else {
            Some(call)
        };
        cancel(&*two, &claim).await;
        drop(still);
        let holder = two.holder(&claim.resource).await.expect("a holder");
        assert!(holder.is_none(), "race {race}: {holder:?}");
    }
    // Whatever an abandoned call had sent has arrived by the time that a whole call has.
    let late = granted(&*one, &claim(&resource("after"), LONG)).await;
    assert!(late.remaining > Duration::ZERO);
    for on in &resources {
        let holder = two.holder(on).await.expect("a holder");
        assert!(holder.is_none(), "an orphan: {holder:?}");
    }
    println!("{RACES} races, {cut} acquires cut short");
}

/// Polls a call a few times; its answer, if it had one by then.
async fn polled<T>(call: &mut Pending<'_, T>, times: u64) -> Option<Result<T, BackendError>> {
    for _ in 0..times {
        let poll = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx)));
        if let Poll::Ready(answer) = poll.await {
            return Some(answer);
        }
        tokio::task::yield_now().await;
    }
    None
}

async fn cancel(agent: &dyn Backend, claim: &Claim) {
    agent.cancel(&claim.resource, claim.lease).await.expect("a cancel");
}

pub(crate) async fn every_write_compares_the_lease(site: &dyn Site) {
    let (one, two) = (site.open(), site.open());
    let claim = claim(&resource("compare"), LONG);
    let grant = granted(&*one, &claim).await;
    let stranger = Proof { lease: lease(), ..proof(&claim) };
    for known in [stranger.clone(), Proof { nonces: Vec::new(), ..stranger }] {
        let renewed = two.renew(&known, ttl(5), nonce()).await.expect("a renewal");
        check_not_ours(&renewed, &claim);
        check_not_ours(&two.verify(&known).await.expect("a read-back"), &claim);
        two.release(&known).await.expect("a release");
        two.cancel(&claim.resource, known.lease).await.expect("a cancel");
    }
    let holder = two.holder(&claim.resource).await.expect("a holder").expect("somebody");
    check_holder(site, &holder, &claim, grant);
    check_ours(&one.verify(&proof(&claim)).await.expect("a read-back"), LONG);
}

fn check_not_ours(standing: &Standing, holder: &Claim) {
    let Standing::NotOurs(Some(found)) = standing else { panic!("{standing:?}") };
    assert_eq!(found.lease, holder.lease);
}

#[track_caller]
fn check_ours(standing: &Standing, at_most: u64) -> Duration {
    let Standing::Ours { remaining } = *standing else { panic!("{standing:?}") };
    assert!(remaining <= Duration::from_secs(at_most), "{remaining:?}");
    assert!(remaining > Duration::ZERO);
    remaining
}

pub(crate) async fn every_write_compares_the_mark(site: &dyn Site) {
    let agent = site.open();
    let claim = claim(&resource("mark"), LONG);
    granted(&*agent, &claim).await;
    let (first, second, third) = (claim.nonce, nonce(), nonce());
    let marked = |marks: &[Nonce]| Proof { nonces: marks.to_vec(), ..proof(&claim) };

    let renewed = agent.renew(&marked(&[first]), ttl(LONG), second).await.expect("a renewal");
    check_ours(&renewed, LONG);
    // A repeat of that renewal is no copy of us; and a renewal names all the marks there may be.
    let repeated = agent.renew(&marked(&[first]), ttl(LONG), second).await.expect("a renewal");
    check_ours(&repeated, LONG);
    let known = marked(&[first, second]);
    check_ours(&agent.renew(&known, ttl(LONG), third).await.expect("a renewal"), LONG);

    // Late copies and clones know older marks only.
    let late = agent.renew(&marked(&[first]), ttl(5), second).await.expect("a renewal");
    assert_eq!(late, Standing::Cloned);
    let read = agent.verify(&marked(&[first, second])).await.expect("a read-back");
    assert_eq!(read, Standing::Cloned);
    agent.release(&marked(&[first, second])).await.expect("a release");
    let read = agent.verify(&marked(&[third])).await.expect("a read-back");
    assert!(check_ours(&read, LONG) > Duration::from_secs(5), "cut by a late copy");

    agent.release(&marked(&[second, third])).await.expect("a release");
    assert_eq!(agent.holder(&claim.resource).await.expect("a holder"), None);
}

pub(crate) async fn a_proof_without_marks_is_not_compared_by_mark(site: &dyn Site) {
    let agent = site.open();
    let claim = claim(&resource("markless"), LONG);
    granted(&*agent, &claim).await;
    let bare = Proof { nonces: Vec::new(), ..proof(&claim) };
    check_ours(&agent.verify(&bare).await.expect("a read-back"), LONG);
    check_ours(&agent.renew(&bare, ttl(LONG), nonce()).await.expect("a renewal"), LONG);
    // The mark is still its owner's.
    check_ours(&agent.verify(&proof(&claim)).await.expect("a read-back"), LONG);
    agent.release(&bare).await.expect("a release");
    assert_eq!(agent.holder(&claim.resource).await.expect("a holder"), None);
}

pub(crate) async fn fences_rise_whatever_happened_between(site: &dyn Site) {
    let (one, two) = (site.open(), site.open());
    let on = resource("fence");
    let mut fences = Vec::new();
    for _ in 0..3 {
        let claim = claim(&on, LONG);
        fences.push(granted(&*one, &claim).await.fence);
        one.release(&proof(&claim)).await.expect("a release");
    }
    for _ in 0..3 {
        let claim = claim(&on, LONG);
        fences.push(granted(&*two, &claim).await.fence);
        cancel(&*one, &claim).await;
        cancel(&*one, &claim).await;
    }
    let short = claim(&on, 1);
    fences.push(granted(&*two, &short).await.fence);
    gone(&*one, &on).await;
    fences.push(granted(&*one, &claim(&on, 1)).await.fence);
    gone(&*one, &on).await;
    if let Some(others) = site.others() {
        let python = lease();
        others.lock(&on, python, Some(ttl(LONG))).await.expect("a lock");
        cancel(&*one, &claim(&on, LONG)).await;
        let bare = Proof { resource: on.clone(), lease: python, nonces: Vec::new() };
        one.release(&bare).await.expect("a release");
    }
    fences.push(granted(&*site.open(), &claim(&on, LONG)).await.fence);
    assert!(fences.is_sorted_by(|before, after| before < after), "{fences:?}");
}

pub(crate) async fn a_lease_ends_by_the_store_s_clock(site: &dyn Site) {
    let agent = site.open();
    let claim = claim(&resource("expiry"), 1);
    let sent = clock::now();
    let grant = granted(&*agent, &claim).await;
    assert!(grant.remaining >= Duration::from_millis(900), "{grant:?}");
    // The store may end it late, but never before what it said.
    let answered = sent + grant.remaining;
    let gone_at = gone(&*agent, &claim.resource).await;
    assert!(gone_at >= answered - Duration::from_millis(2), "{gone_at:?} < {answered:?}");
    let standing = agent.verify(&proof(&claim)).await.expect("a read-back");
    assert_eq!(standing, Standing::NotOurs(None));
    granted(&*agent, &self::claim(&claim.resource, LONG)).await;
}

pub(crate) async fn what_remains_is_a_duration_that_shrinks(site: &dyn Site) {
    let (one, two) = (site.open(), site.open());
    let claim = claim(&resource("remaining"), 100);
    granted(&*one, &claim).await;
    let first = check_ours(&one.verify(&proof(&claim)).await.expect("a read-back"), 100);
    let until = clock::now() + PATIENCE;
    loop {
        let later = check_ours(&two.verify(&proof(&claim)).await.expect("a read-back"), 100);
        assert!(later <= first);
        if later < first {
            break;
        }
        assert!(clock::now() < until, "it does not shrink");
        tokio::task::yield_now().await;
    }
    let longer = two.renew(&proof(&claim), ttl(200), claim.nonce).await.expect("a renewal");
    assert!(check_ours(&longer, 200) > Duration::from_secs(150));
    let shorter = two.renew(&proof(&claim), ttl(50), claim.nonce).await.expect("a renewal");
    assert!(check_ours(&shorter, 50) > Duration::from_secs(40));
    let again = granted(&*two, &claim).await;
    assert!(again.remaining <= Duration::from_secs(50), "an acquire renews nothing: {again:?}");
}

pub(crate) async fn a_vanished_record_is_never_made_again(site: &dyn Site) {
    let agent = site.open();
    let (short, given_back) = (claim(&resource("expired"), 1), claim(&resource("released"), LONG));
    granted(&*agent, &short).await;
    granted(&*agent, &given_back).await;
    agent.release(&proof(&given_back)).await.expect("a release");
    gone(&*agent, &short.resource).await;
    for claim in [&short, &given_back, &claim(&resource("never"), LONG)] {
        for known in [proof(claim), Proof { nonces: Vec::new(), ..proof(claim) }] {
            let standing = agent.renew(&known, ttl(LONG), nonce()).await.expect("a renewal");
            assert_eq!(standing, Standing::NotOurs(None));
            let standing = agent.verify(&known).await.expect("a read-back");
            assert_eq!(standing, Standing::NotOurs(None));
        }
        cancel(&*agent, claim).await;
        assert_eq!(agent.holder(&claim.resource).await.expect("a holder"), None);
    }
}

pub(crate) async fn a_release_of_what_is_gone_is_success(site: &dyn Site) {
    let agent = site.open();
    let claim = claim(&resource("gone"), LONG);
    let release = async || agent.release(&proof(&claim)).await.expect("a release");
    assert_eq!(release().await, Released::NotThere);
    granted(&*agent, &claim).await;
    assert_eq!(release().await, Released::Done);
    assert_eq!(release().await, Released::NotThere);
    granted(&*agent, &self::claim(&claim.resource, LONG)).await;
}

pub(crate) async fn what_others_hold_is_held(site: &dyn Site) {
    let others = site.others().expect("a store with other writers");
    let agent = site.open();
    for ttl in [Some(ttl(LONG)), None] {
        let (on, python) = (resource("python"), lease());
        others.lock(&on, python, ttl).await.expect("a lock");
        let claim = claim(&on, LONG);
        let Attempt::Held(Some(holder)) = agent.acquire(&claim).await.expect("an acquire") else {
            panic!("not held");
        };
        assert_eq!(holder.lease, python);
        assert_eq!(holder.remaining.is_some(), ttl.is_some());
        assert_eq!((&holder.host, &holder.reason, holder.fence), (&None, &None, None));
        assert!((holder.since.0 - clock::wall().0).abs() < 60_000, "{holder:?}");
        let before = others.dump(&on).await.expect("a dump");
        check_not_holding(&*agent, &claim, python).await;
        assert_eq!(others.dump(&on).await.expect("a dump"), before);
        // A person may name it by its id.
        let named = Proof { resource: on.clone(), lease: python, nonces: Vec::new() };
        let renewed = agent.renew(&named, self::ttl(LONG), nonce()).await.expect("a renewal");
        check_ours(&renewed, LONG);
        agent.release(&named).await.expect("a release");
        assert_eq!(agent.holder(&on).await.expect("a holder"), None);
    }
}

async fn check_not_holding(agent: &dyn Backend, claim: &Claim, holder: LeaseId) {
    let known = proof(claim);
    for standing in [
        agent.renew(&known, ttl(LONG), nonce()).await.expect("a renewal"),
        agent.verify(&known).await.expect("a read-back"),
    ] {
        let Standing::NotOurs(Some(found)) = standing else { panic!("{standing:?}") };
        assert_eq!(found.lease, holder);
    }
    agent.release(&known).await.expect("a release");
    cancel(agent, claim).await;
}

pub(crate) async fn what_is_no_lock_is_left_alone(site: &dyn Site) {
    let others = site.others().expect("a store with other writers");
    let agent = site.open();
    let stem = resource("litter");
    let resources: Vec<_> = (0..6).map(|n| Resource::new(format!("{stem}/{n}")).unwrap()).collect();
    others.litter(&resources).await.expect("litter");
    for on in &resources {
        let before = others.dump(on).await.expect("a dump");
        let claim = claim(on, LONG);
        let breaker = Claim { over: Some(lease()), ..self::claim(on, LONG) };
        for _ in 0..2 {
            check_foreign(&agent.acquire(&claim).await, on);
            check_foreign(&agent.acquire(&breaker).await, on);
            let known = proof(&claim);
            let renewed = agent.renew(&known, ttl(LONG), nonce()).await.expect("a renewal");
            assert_eq!(renewed, Standing::NotOurs(None), "{on}");
            let read = agent.verify(&known).await.expect("a read-back");
            assert_eq!(read, Standing::NotOurs(None), "{on}");
            agent.release(&known).await.expect("a release");
            cancel(&*agent, &claim).await;
        }
        check_foreign(&agent.holder(on).await, on);
        assert_eq!(others.dump(on).await.expect("a dump"), before);
    }
    let listed = agent.list(None, 10_000).await.expect("a list");
    assert!(listed.iter().all(|lock| !resources.contains(&lock.resource)), "{listed:?}");
}

#[track_caller]
fn check_foreign<T: Debug>(answer: &Result<T, BackendError>, on: &Resource) {
    let Err(BackendError::Refused { kind: RefusedKind::Foreign, why }) = answer else {
        panic!("{on}: {answer:?}")
    };
    assert!(!why.is_empty());
}

pub(crate) async fn the_list_is_in_order_and_in_pages(site: &dyn Site) {
    /// More than one page of any store's own.
    const LOCKS: usize = 23;
    let agent = site.open();
    let stem = resource("list");
    // `-` sorts before `/` and that before letters: bytes, not a language's order.
    let mut names: Vec<_> = (0..LOCKS - 3).map(|n| format!("{stem}/{n}")).collect();
    names.extend([format!("{stem}-x"), format!("{stem}/A"), format!("{stem}/a")]);
    let mut expected: Vec<_> = names.iter().map(|n| Resource::new(n.as_str()).unwrap()).collect();
    for on in &expected {
        granted(&*agent, &claim(on, LONG)).await;
    }
    let given_back = claim(&Resource::new(format!("{stem}/4x")).unwrap(), LONG);
    granted(&*agent, &given_back).await;
    agent.release(&proof(&given_back)).await.expect("a release");
    expected.sort();

    for limit in [1, 7, LOCKS, 1000] {
        let mut found = Vec::new();
        let mut after: Option<Resource> = None;
        loop {
            let page = agent.list(after.as_ref(), limit).await.expect("a list");
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(last.resource.clone());
            found.extend(page.into_iter().map(|lock| lock.resource));
        }
        assert!(found.is_sorted_by(|a, b| a < b), "limit {limit}: {found:?}");
        found.retain(|on| on.as_str().starts_with(stem.as_str()));
        assert_eq!(found, expected, "limit {limit}");
    }
    let first = &agent.list(None, 1000).await.expect("a list")[0];
    let alone = agent.holder(&first.resource).await.expect("a holder").expect("somebody");
    assert_eq!((alone.lease, alone.since, alone.fence), (first.lease, first.since, first.fence));
}

pub(crate) async fn texts_come_back_as_they_were(site: &dyn Site) {
    let agent = site.open();
    for text in [
        "maria@bastion2",
        "o'brien \"the dba\"; DROP TABLE x; --",
        "日本語 🔒 é",
        "a\\b%c_d{e}[f]*?$1 ?",
        " leading and trailing ",
        "0",
    ] {
        let mut claim = claim(&resource("text"), LONG);
        claim.principal = Principal::new(text).unwrap();
        claim.reason = Some(Reason::new(text).unwrap());
        claim.host = text.to_owned();
        let grant = granted(&*agent, &claim).await;
        let holder = agent.holder(&claim.resource).await.expect("a holder").expect("somebody");
        check_holder(site, &holder, &claim, grant);
    }
    let mut odd = claim(&resource("a.b_c/d:e@f+g-h"), LONG);
    odd.reason = Some(Reason::new("é".repeat(128)).unwrap());
    odd.principal = Principal::new("p".repeat(128)).unwrap();
    let grant = granted(&*agent, &odd).await;
    let holder = agent.holder(&odd.resource).await.expect("a holder").expect("somebody");
    check_holder(site, &holder, &odd, grant);
}

/// For stores whose ids are not narrow: the suite's others are.
pub(crate) async fn an_id_of_128_bits_is_kept_whole(site: &dyn Site) {
    let agent = site.open();
    assert!(!agent.traits().narrow_ids);
    for id in [u128::MAX, u128::MAX - 1, 1 << 127, (u128::from(random()) << 64) | 1] {
        let wide = LeaseId::from_bytes(id.to_be_bytes());
        let claim = Claim { lease: wide, ..claim(&resource("wide"), LONG) };
        let grant = granted(&*agent, &claim).await;
        assert_eq!(granted(&*agent, &claim).await.fence, grant.fence);
        let holder = agent.holder(&claim.resource).await.expect("a holder").expect("somebody");
        check_holder(site, &holder, &claim, grant);
        // Another that has the same 64 bits at either end.
        for near in [id ^ (1 << 64), id ^ (1 << 63)] {
            let other = Proof { lease: LeaseId::from_bytes(near.to_be_bytes()), ..proof(&claim) };
            let renewed = agent.renew(&other, ttl(5), nonce()).await.expect("a renewal");
            check_not_ours(&renewed, &claim);
            agent.release(&other).await.expect("a release");
            agent.cancel(&claim.resource, other.lease).await.expect("a cancel");
        }
        let renewed = agent.renew(&proof(&claim), ttl(LONG), claim.nonce).await;
        check_ours(&renewed.expect("a renewal"), LONG);
        let listed = agent.list(None, 10_000).await.expect("a list");
        assert!(listed.iter().any(|lock| lock.lease == wide), "{listed:?}");
        agent.release(&proof(&claim)).await.expect("a release");
        cancel(&*agent, &claim).await;
        assert_eq!(agent.holder(&claim.resource).await.expect("a holder"), None);
    }
}

pub(crate) async fn a_watch_tells_that_it_works_and_then_of_each_change_whoever_made_it(
    site: &dyn Telling,
) {
    let (store, other) = (site.open(), site.open());
    let on = resource("watched");
    let mut watch = Watch::start(&store, &on);
    watch.heard("that it works").await;
    let claims = [claim(&on, LONG), claim(&on, LONG)];
    for (agent, claim) in [&store, &other].into_iter().zip(&claims) {
        granted(&**agent, claim).await;
        watch.heard("of a grant").await;
        agent.release(&proof(claim)).await.expect("a release");
        watch.heard("of a release").await;
    }
    let theirs = lease();
    let others = site.others().expect("other writers");
    others.lock(&on, theirs, Some(ttl(LONG))).await.expect("a lock");
    watch.heard("of another's lock").await;
    site.give_back(&on, theirs).await.expect("a release");
    watch.heard("of another's release").await;
    assert!(watch.is_quiet().await, "it tells of nothing");
}

pub(crate) async fn a_watch_tells_of_a_lock_that_was_taken_over(site: &dyn Telling) {
    let (store, other) = (site.open(), site.open());
    let on = resource("taken");
    let others = site.others().expect("other writers");
    others.lock(&on, lease(), Some(ttl(1))).await.expect("a lock");
    gone(&*other, &on).await;
    let mut watch = Watch::start(&store, &on);
    watch.heard("that it works").await;
    let claim = claim(&on, LONG);
    assert!(matches!(contend(&*other, &claim).await, Attempt::Granted(_)));
    watch.heard("of a new holder").await;
}

pub(crate) async fn a_watch_tells_of_its_own_resource(site: &dyn Telling) {
    let (store, other) = (site.open(), site.open());
    let on = resource("one");
    // A name that begins like the other.
    let beside = Resource::new(format!("{on}/below")).expect("a resource");
    let mut watches = [Watch::start(&store, &on), Watch::start(&store, &beside)];
    for watch in &mut watches {
        watch.heard("that it works").await;
    }
    granted(&*other, &claim(&beside, LONG)).await;
    watches[1].heard("of a grant").await;
    assert!(watches[0].is_quiet().await, "it tells of another resource");
}

/// On a line whose every request passes `proxy`: neither spoils the other's connection. What
/// `needle` finds is the request that decides an acquire.
pub(crate) async fn an_abandoned_call_and_a_watch_leave_each_other_alone(
    store: Arc<dyn Backend>,
    other: &dyn Backend,
    proxy: &Proxy,
    needle: impl Fn(&Claim) -> Vec<u8>,
) {
    granted(&*store, &claim(&resource("warm"), LONG)).await;
    let connections = proxy.connections();
    let on = resource("watched");
    let mut watches = [Watch::start(&store, &on), Watch::start(&store, &resource("beside"))];
    for watch in &mut watches {
        watch.heard("that it works").await;
    }
    assert_eq!(proxy.connections(), connections + 1, "one for all watches");
    let lost = claim(&resource("lost"), LONG);
    proxy.when(needle(&lost), Fault::LoseAnswer);
    let call = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.acquire(&lost).await.map(|_| ()) }
    });
    comes("the call under way", || proxy.hits() == 1).await;
    call.abort();
    comes("a reset of the call's connection", || proxy.resets() == 1).await;
    granted(other, &claim(&on, LONG)).await;
    watches[0].heard("of a grant, after a call was abandoned").await;
    store.holder(&on).await.expect("a call");
    let connections = connections + 2;
    assert_eq!(proxy.connections(), connections, "the next call has a connection of its own");
    let [first, last] = watches;
    drop(first);
    drop(last);
    comes("an end of the watches' connection", || proxy.resets() == 2).await;
    store.holder(&on).await.expect("a call");
    assert_eq!(proxy.connections(), connections, "the calls' connection is as it was");
}

/// A server that dies, by `kill`, ends a watch.
pub(crate) async fn a_watch_ends_with_its_server(store: Arc<dyn Backend>, kill: impl FnOnce()) {
    let mut watch = Watch::start(&store, &resource("watched"));
    watch.heard("that it works").await;
    kill();
    watch.ends().await;
}

/// A watch under way. It ends with this value.
pub(crate) struct Watch {
    stirred: Stirred,
    task: JoinHandle<Result<(), BackendError>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    pub(crate) fn start(store: &Arc<dyn Backend>, on: &Resource) -> Watch {
        let (stirs, stirred) = Stirs::new();
        let (store, on) = (Arc::clone(store), on.clone());
        let task =
            tokio::spawn(async move { store.watch(&on, stirs).expect("a store that tells").await });
        Watch { stirred, task }
    }

    /// Waits until it tells.
    pub(crate) async fn heard(&mut self, what: &str) {
        tokio::select! {
            heard = tokio::time::timeout(PATIENCE, self.stirred.heard()) => {
                assert!(heard.is_ok(), "not told: {what}");
            }
            ended = &mut self.task => panic!("not told: {what}; it ended: {ended:?}"),
        }
    }

    /// Waits until it tells no more; why.
    pub(crate) async fn ends(mut self) -> BackendError {
        let ended = tokio::time::timeout(PATIENCE, &mut self.task).await.expect("it ends");
        ended.expect("no panic").expect_err("a reason")
    }

    /// True once it tells no more.
    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// True when it has told nothing that was not heard.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::ZERO, self.stirred.heard()).await.is_err()
    }
}

async fn comes(what: &str, mut is_there: impl FnMut() -> bool) {
    let until = clock::now() + PATIENCE;
    while !is_there() {
        assert!(clock::now() < until, "{what}: it does not come");
        tokio::task::yield_now().await;
    }
}

/// A resource of its own, whatever else the store has.
pub(crate) fn resource(stem: &str) -> Resource {
    Resource::new(format!("t{:016x}/{stem}", random())).unwrap()
}

/// A claim with an id and a mark of its own.
pub(crate) fn claim(on: &Resource, secs: u64) -> Claim {
    Claim {
        resource: on.clone(),
        lease: lease(),
        backend: BackendName::new("main"),
        principal: Principal::new("maria@bastion2").unwrap(),
        host: "bastion2".to_owned(),
        reason: None,
        ttl: ttl(secs),
        created: UnixMs(clock::wall().0),
        nonce: nonce(),
        over: None,
    }
}

/// The claim's proof, as long as it was not renewed.
pub(crate) fn proof(claim: &Claim) -> Proof {
    Proof { resource: claim.resource.clone(), lease: claim.lease, nonces: vec![claim.nonce] }
}

/// Acquires what nobody has.
pub(crate) async fn granted(agent: &dyn Backend, claim: &Claim) -> Grant {
    match agent.acquire(claim).await.expect("an acquire") {
        Attempt::Granted(grant) => {
            let asked = Duration::from_secs(u64::from(claim.ttl.as_secs()));
            assert!(grant.remaining <= asked || claim.over.is_some(), "{grant:?} of {claim:?}");
            grant
        }
        other => panic!("{other:?}"),
    }
}

/// Asks the store until nobody holds the resource.
async fn gone(agent: &dyn Backend, on: &Resource) -> crate::lease::Moment {
    let until = clock::now() + PATIENCE;
    loop {
        if agent.holder(on).await.expect("a holder").is_none() {
            return clock::now();
        }
        assert!(clock::now() < until, "{on} does not end");
        tokio::task::yield_now().await;
    }
}

pub(crate) fn ttl(secs: u64) -> Ttl {
    Ttl::from_secs(secs).unwrap()
}

/// An id that every store can hold: one of 63 bits. Stores with wider ones try those themselves.
pub(crate) fn lease() -> LeaseId {
    LeaseId::from_bytes(u128::from(random() >> 1).to_be_bytes())
}

pub(crate) fn nonce() -> Nonce {
    Nonce(random())
}

fn random() -> u64 {
    getrandom::u64().expect("the system's randomness")
}

/// Spreads a seed over all bits (splitmix64's last step).
fn mix(seed: u64) -> u64 {
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}
