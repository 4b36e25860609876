//! Locks on the Python tool's table alone, by a user who may make no other and delete nothing.

use super::*;

/// What only the request of an acquire has.
const TAKE: &str = "created = greatest";
/// Races of an abandoned acquire with its cancel, beside those of the suite.
const RACES: usize = 1000;

/// The Python tool's table and nothing beside it.
struct Bare(Real);

impl Bare {
    fn start() -> Bare {
        let server = PostgresServer::start_with(&["timezone=Asia/Kolkata"], server::TRUST);
        server.sql(&format!("{PYTHON_TABLE}; CREATE ROLE agent LOGIN"));
        server.sql("REVOKE CREATE ON SCHEMA public FROM public");
        server.sql("GRANT SELECT, INSERT, UPDATE ON stormlock TO agent");
        Bare(Real { server, table: TABLE })
    }

    fn store(&self, port: u16) -> Postgres {
        bare(&format!("postgres://127.0.0.1:{port}/locks"))
    }
}

impl Site for Bare {
    fn open(&self) -> Arc<dyn Backend> {
        Arc::new(self.store(self.0.server.port()))
    }

    fn others(&self) -> Option<&dyn Others> {
        Some(&self.0)
    }

    fn has_extras(&self) -> bool {
        false
    }
}

fn bare(url: &str) -> Postgres {
    let username = "agent".to_owned();
    Postgres::new(&Options { side_table: false, username, ..options(url) }).unwrap()
}

fn site() -> Arc<Bare> {
    static RUNNING: Mutex<Weak<Bare>> = Mutex::new(Weak::new());
    shared(&RUNNING, Bare::start)
}

// All but that marks are compared: see `a_copy_of_this_machine_is_not_told_from_it`.
contract::contract!(*site();
    of_fifty_contenders_one_wins_each_round
    the_same_claim_again_is_the_same_grant
    a_held_resource_says_who_holds_it
    a_cancel_ends_an_acquire_for_good
    every_write_compares_the_lease
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
contract::contract_with_others!(*site());
contract::contract_of_wide_ids!(*site());

/// An acquire whose deciding request is on its way, at a proxy that keeps it back.
async fn held_back(proxy: &Proxy, store: &Postgres, claim: &Claim) {
    let hits = proxy.hits();
    proxy.when(TAKE, Fault::HoldRequest);
    network::dropped_when(store.acquire(claim), || proxy.hits() > hits).await;
}

#[tokio::test]
async fn a_late_copy_fails_after_a_cancel_whatever_others_did_in_between() {
    let site = Bare::start();
    let server = &site.0.server;
    let proxy = Proxy::start(server.port());
    let (store, other) = (site.store(proxy.port()), site.open());
    let python = |on: &Resource, lease: LeaseId| {
        let others: &dyn Others = &site.0;
        let on = on.clone();
        async move { others.lock(&on, lease, Some(ttl(60))).await.unwrap() }
    };
    for round in 0..8 {
        let claim = claim(&resource("late"), 60);
        if round % 2 == 0 {
            // Where a row has ended, and where there was none.
            let before = contract::claim(&claim.resource, 60);
            granted(&*other, &before).await;
            other.release(&proof(&before)).await.unwrap();
        }
        held_back(&proxy, &store, &claim).await;
        other.cancel(&claim.resource, claim.lease).await.unwrap();
        // The Python tool takes it and gives it back, which deletes the row; or one of ours does.
        if round % 4 < 2 {
            python(&claim.resource, contract::lease()).await;
            server.sql(&format!("DELETE FROM stormlock WHERE resource = '{}'", claim.resource));
        } else {
            let between = contract::claim(&claim.resource, 60);
            granted(&*other, &between).await;
            other.release(&proof(&between)).await.unwrap();
        }
        let before = network::sessions(server);
        proxy.deliver();
        comes_true("it does not arrive", || network::sessions(server) < before).await;
        let holder = other.holder(&claim.resource).await.unwrap();
        assert_eq!(holder, None, "an orphan in round {round}");
    }
}

#[tokio::test]
async fn without_a_cancel_that_late_copy_would_have_succeeded() {
    let site = Bare::start();
    let proxy = Proxy::start(site.0.server.port());
    let (store, other) = (site.store(proxy.port()), site.open());
    let claim = claim(&resource("late"), 60);
    held_back(&proxy, &store, &claim).await;
    let before = network::sessions(&site.0.server);
    proxy.deliver();
    comes_true("it does not arrive", || network::sessions(&site.0.server) < before).await;
    let holder = other.holder(&claim.resource).await.unwrap().expect("the late copy's lock");
    assert_eq!(holder.lease, claim.lease);
}

#[tokio::test]
async fn a_late_copy_of_a_break_fails_after_its_cancel_and_only_then() {
    let site = Bare::start();
    let proxy = Proxy::start(site.0.server.port());
    let (store, other) = (site.store(proxy.port()), site.open());
    let needle = breaks::BARE_TAKE_OVER;
    breaks::check_late_copies(&site.0, &proxy, &store, &*other, needle).await;
}

#[tokio::test]
async fn of_a_thousand_acquires_cut_short_a_cancel_leaves_none() {
    let site = site();
    let (store, other) = (site.open(), site.open());
    let mut claims = Vec::with_capacity(RACES);
    let (mut taken, names) = (0, resource("races"));
    for race in 0..RACES {
        // Four resources of one row each, or a new one without a row.
        let stem = if race % 2 == 0 { race % 8 } else { race };
        let on = Resource::new(format!("{names}/{stem}")).unwrap();
        let claim = claim(&on, 600);
        let task = {
            let (store, claim) = (Arc::clone(&store), claim.clone());
            tokio::spawn(async move { store.acquire(&claim).await.map(drop) })
        };
        for _ in 0..(race % 50) * 8 {
            tokio::task::yield_now().await;
        }
        task.abort();
        taken += usize::from(task.await.is_ok());
        other.cancel(&claim.resource, claim.lease).await.unwrap();
        claims.push(claim);
    }
    // What an abandoned call had sent has arrived when its session is gone.
    drop(store);
    for claim in &claims {
        let holder = other.holder(&claim.resource).await.unwrap();
        assert!(holder.is_none(), "an orphan: {holder:?}");
    }
    println!("{RACES} races, {taken} had an answer, no orphan");
}

#[tokio::test]
async fn a_copy_of_this_machine_is_not_told_from_it() {
    let store = site().open();
    let claim = claim(&resource("copy"), 60);
    granted(&*store, &claim).await;
    let copy = Proof { nonces: vec![nonce()], ..proof(&claim) };
    let standing = store.verify(&copy).await.unwrap();
    assert!(matches!(standing, Standing::Ours { .. }), "{standing:?}");
}

#[tokio::test]
async fn a_row_that_is_kept_makes_fences_rise_also_when_the_clock_was_ahead() {
    let site = site();
    let store = site.open();
    let on = resource("ahead");
    let first = claim(&on, 60);
    granted(&*store, &first).await;
    let ahead = "created = now() + interval '1 day'";
    site.0.server.sql(&format!("UPDATE stormlock SET {ahead} WHERE resource = '{on}'"));
    let fence = granted(&*store, &first).await.fence;
    store.release(&proof(&first)).await.unwrap();
    assert!(granted(&*store, &claim(&on, 60)).await.fence > fence);
}

#[tokio::test]
async fn the_two_ways_are_not_mixed_on_one_table() {
    let server = PostgresServer::start();
    server.sql_as(USER, PYTHON_TABLE);
    let store = Postgres::new(&Options { side_table: false, ..options(&server.url()) }).unwrap();
    let claim = claim(&resource("mixed"), 60);
    granted(&store, &claim).await;
    made(&server);
    let Err(BackendError::Refused { kind: RefusedKind::NotSetUp(_), why }) =
        store.acquire(&claim).await
    else {
        panic!("fences of two ways")
    };
    assert!(why.contains("remove that line on every host"), "{why}");
    // What is held goes on, and is given back.
    let standing = store.renew(&proof(&claim), ttl(60), nonce()).await.unwrap();
    assert!(matches!(standing, Standing::Ours { .. }), "{standing:?}");
    store.release(&proof(&claim)).await.unwrap();
    granted(&open(&server.url()), &claim).await;
}

#[tokio::test]
async fn doctor_says_what_is_given_up_and_when_the_two_ways_meet() {
    let site = Bare::start();
    let store = site.store(site.0.server.port());
    let remarks = doctor::examined(&store).await;
    doctor::check_says(&remarks, "Good: it is a primary, and its table is there");
    doctor::check_says(&remarks, "Note: it has no side table: others see no host");
    assert!(!remarks.iter().any(|it| it.contains("may not")), "{remarks:#?}");
    made_by_root(&site.0.server);
    let remarks = doctor::examined(&store).await;
    doctor::check_says(&remarks, "Bad: side_table is false, but there is a table");
    site.0.server.sql("REVOKE INSERT ON stormlock FROM agent");
    let missing = "Bad: the user may not: INSERT on \"stormlock\"";
    doctor::check_says(&doctor::examined(&store).await, missing);
}

fn made_by_root(server: &PostgresServer) {
    server.sql(&open(&server.url()).setup_by_hand().expect("statements"));
}

#[tokio::test]
async fn setup_makes_no_side_table_and_the_rights_that_it_prints_are_enough() {
    let server = PostgresServer::start();
    server.sql("CREATE ROLE agent LOGIN");
    let store = bare(&server.url());
    server.sql(&store.setup_by_hand().unwrap());
    let said = store.make(false).await.unwrap();
    assert_eq!(said[0], "the table \"stormlock\" is there");
    assert_eq!(said[1], "side_table is false: there is no second table to make");
    let claim = claim(&resource("rights"), 60);
    granted(&store, &claim).await;
    store.renew(&proof(&claim), ttl(60), claim.nonce).await.unwrap();
    store.release(&proof(&claim)).await.unwrap();
    store.cancel(&claim.resource, claim.lease).await.unwrap();
    made_by_root(&server);
    let Err(BackendError::Refused { why, .. }) = store.make(false).await else {
        panic!("two ways")
    };
    assert!(why.contains("side_table = false"), "{why}");
}
