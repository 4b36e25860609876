//! A network that loses, holds and cuts, a server that dies, and standbys.

use super::*;

/// What only the request of an acquire has.
const ACQUIRE: &str = "WITH got AS";

pub(super) fn through(proxy: &Proxy) -> Postgres {
    open(&format!("postgres://127.0.0.1:{}/locks", proxy.port()))
}

/// Lets `call` run until `until` holds, then drops it, as the driver does when patience ends.
pub(super) async fn dropped_when<T: std::fmt::Debug>(
    mut call: Pending<'_, T>,
    until: impl Fn() -> bool,
) {
    let end = clock::now() + Duration::from_secs(60);
    while !until() {
        assert!(clock::now() < end, "it does not come to that");
        std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(answer) = call.as_mut().poll(cx) {
                panic!("it has an answer: {}", outcome(answer));
            }
            std::task::Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
    }
}

/// How many sessions of agents the server has.
pub(super) fn sessions(server: &PostgresServer) -> usize {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stormlockd'";
    server.sql(count).parse().expect("a number")
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_the_same_claim_finds_its_fence() {
    let server = ready();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("lost"), 60);
    proxy.when(ACQUIRE, Fault::CutAfter);
    assert_eq!(outcome(store.acquire(&claim).await), "Unknown");
    assert_eq!(proxy.hits(), 1);
    let fence = format!("SELECT fence FROM stormlock_ext WHERE resource = '{}'", claim.resource);
    comes_true("it does not arrive", || !server.sql(&fence).is_empty()).await;
    let again = granted(&store, &claim).await;
    assert_eq!(again.fence.0.to_string(), server.sql(&fence));
}

#[tokio::test]
async fn a_request_that_broke_off_is_unknown_and_did_not_happen() {
    let server = ready();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("cut"), 60);
    proxy.when(ACQUIRE, Fault::CutBefore);
    assert_eq!(outcome(store.acquire(&claim).await), "Unknown");
    assert_eq!(store.holder(&claim.resource).await.unwrap(), None);
}

#[tokio::test]
async fn a_late_copy_of_a_cancelled_acquire_fails() {
    let server = ready();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    for round in 0..10 {
        let claim = claim(&resource("late"), 60);
        proxy.when(ACQUIRE, Fault::HoldRequest);
        dropped_when(store.acquire(&claim), || proxy.hits() == round + 1).await;
        other.cancel(&claim.resource, claim.lease).await.unwrap();
        let before = sessions(&server);
        proxy.deliver();
        // Its session ends once it has done everything that was sent.
        comes_true("it does not arrive", || sessions(&server) < before).await;
        assert_eq!(other.holder(&claim.resource).await.unwrap(), None, "an orphan");
    }
}

#[tokio::test]
async fn without_a_cancel_that_late_copy_would_have_succeeded() {
    let server = ready();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    let claim = claim(&resource("late"), 60);
    proxy.when(ACQUIRE, Fault::HoldRequest);
    dropped_when(store.acquire(&claim), || proxy.hits() == 1).await;
    let before = sessions(&server);
    proxy.deliver();
    comes_true("it does not arrive", || sessions(&server) < before).await;
    let holder = other.holder(&claim.resource).await.unwrap().expect("the late copy's lock");
    assert_eq!(holder.lease, claim.lease);
}

#[tokio::test]
async fn an_abandoned_call_closes_its_connection_by_a_reset() {
    let server = ready();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("reset"), 60);
    proxy.when(ACQUIRE, Fault::LoseAnswer);
    dropped_when(store.acquire(&claim), || proxy.hits() == 1).await;
    comes_true("no reset", || proxy.resets() > 0).await;
    // The next call has a connection of its own.
    store.holder(&claim.resource).await.unwrap();
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn a_server_that_is_down_is_a_definite_no() {
    let mut server = ready();
    let store = open(&server.url());
    let claim = claim(&resource("down"), 60);
    granted(&store, &claim).await;
    server.kill();
    // An answer to the first may be owed; from then on nothing is sent.
    let first = outcome(store.acquire(&claim).await);
    assert!(first == "Unknown" || first == "Unreachable", "{first}");
    assert_eq!(outcome(store.acquire(&claim).await), "Unreachable");
    assert_eq!(outcome(store.holder(&claim.resource).await), "Unreachable");
    assert_eq!(outcome(store.examine().await), "Unreachable");
    server.start_again();
    granted(&store, &claim).await;
}

#[tokio::test]
async fn a_server_that_swallows_everything_is_a_definite_no_in_bounded_time() {
    let server = ready();
    let proxy = Proxy::start(server.port());
    proxy.freeze();
    let store = through(&proxy);
    let began = clock::now();
    let claim = claim(&resource("mute"), 60);
    let (one, two) = tokio::join!(store.acquire(&claim), store.acquire(&claim));
    assert_eq!((outcome(one).as_str(), outcome(two).as_str()), ("Unreachable", "Unreachable"));
    assert!(began.until(clock::now()) < Duration::from_secs(10));
    proxy.thaw();
    granted(&store, &claim).await;
}

#[tokio::test]
async fn more_calls_than_connections_all_get_their_answer() {
    let server = ready();
    let proxy = Proxy::start(server.port());
    let store = Arc::new(through(&proxy));
    let on: Vec<_> = (0..40).map(|n| resource(&format!("many{n}"))).collect();
    let calls = on.into_iter().map(|on| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { granted(&*store, &claim(&on, 60)).await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert!(sessions(&server) <= 4, "{} sessions", sessions(&server));
}

#[tokio::test]
async fn a_row_that_somebody_keeps_locked_is_a_definite_no_in_bounded_time() {
    let server = ready();
    let store = open(&server.url());
    let claim = claim(&resource("locked"), 60);
    granted(&store, &claim).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/locks", server.port());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("BEGIN; SELECT FROM stormlock FOR UPDATE").await.unwrap();
    assert_eq!(outcome(store.verify(&proof(&claim)).await), "Blocked");
    assert_eq!(outcome(store.release(&proof(&claim)).await), "Blocked");
    client.batch_execute("COMMIT").await.unwrap();
    store.release(&proof(&claim)).await.unwrap();
}

#[tokio::test]
async fn a_commit_that_the_server_refuses_did_not_happen() {
    let server = ready();
    server.sql(
        "CREATE TABLE allowed (resource text PRIMARY KEY); \
         ALTER TABLE stormlock ADD FOREIGN KEY (resource) REFERENCES allowed \
         DEFERRABLE INITIALLY DEFERRED; GRANT ALL ON allowed TO stormlock",
    );
    let store = open(&server.url());
    let claim = claim(&resource("refused"), 60);
    assert_eq!(outcome(store.acquire(&claim).await), "NotWritable");
    assert_eq!(store.holder(&claim.resource).await.unwrap(), None);
}

#[tokio::test]
async fn a_commit_that_no_standby_has_is_unknown_and_a_read_back_is_no_proof() {
    let server = ready();
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    server.sql("SELECT pg_reload_conf()");
    comes_true("no reload", || server.sql("SHOW synchronous_standby_names") == "nobody").await;
    let store = Arc::new(open(&server.url()));
    let claim = claim(&resource("alone"), 60);
    let waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let acquiring = {
        let (store, claim) = (Arc::clone(&store), claim.clone());
        tokio::spawn(async move { outcome(store.acquire(&claim).await) })
    };
    comes_true("it does not wait", || !server.sql(waits).is_empty()).await;
    let cancel = format!("SELECT pg_cancel_backend(pid) FROM ({waits}) waiting");
    server.sql(&cancel);
    assert_eq!(acquiring.await.unwrap(), "Unknown");
    // It is there for all to read, and still proves nothing.
    assert!(store.holder(&claim.resource).await.unwrap().is_some());
    let reading = {
        let (store, proof) = (Arc::clone(&store), proof(&claim));
        tokio::spawn(async move { outcome(store.verify(&proof).await) })
    };
    comes_true("it does not wait", || !server.sql(waits).is_empty()).await;
    server.sql(&cancel);
    assert_eq!(reading.await.unwrap(), "Unknown");
}

#[tokio::test]
async fn a_server_that_commits_carelessly_is_made_careful_for_us() {
    let server = PostgresServer::start_with(&["synchronous_commit=off"], server::TRUST);
    made(&server);
    server.sql(
        "CREATE FUNCTION careful() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF current_setting('synchronous_commit') <> 'on' THEN RAISE 'careless'; END IF; \
         RETURN new; END $$; CREATE TRIGGER careful BEFORE INSERT OR UPDATE ON stormlock \
         FOR EACH ROW EXECUTE FUNCTION careful()",
    );
    granted(&open(&server.url()), &claim(&resource("careful"), 60)).await;
}

#[tokio::test]
async fn of_several_hosts_the_primary_is_found_also_after_a_failover() {
    let mut primary = ready();
    let standby = PostgresServer::standby_of(&primary, "one");
    let alone = open(&standby.url());
    let on = resource("failover");
    let Err(BackendError::Refused { kind: RefusedKind::NotWritable, why }) =
        alone.acquire(&claim(&on, 60)).await
    else {
        panic!("a standby took a lock")
    };
    assert!(why.contains("standby") && why.contains(&standby.port().to_string()), "{why}");

    let (dead, first) = (server::free_port(), standby.port());
    let hosts = format!("127.0.0.1:{dead},127.0.0.1:{first},127.0.0.1:{}", primary.port());
    let store = open(&format!("postgres://{hosts}/locks"));
    assert_eq!(store.identity(), None);
    let held = claim(&on, 600);
    granted(&store, &held).await;
    let before = store.identity().expect("a name");

    // What the standby has by now survives the failover.
    let there = "SELECT count(*) FROM stormlock";
    comes_true("it does not follow", || standby.sql(there) == "1").await;
    primary.kill();
    standby.sql("SELECT pg_promote()");
    let standing = loop {
        // The first may find the dead connection.
        if let Ok(standing) = store.verify(&proof(&held)).await {
            break standing;
        }
    };
    assert!(matches!(standing, Standing::Ours { .. }), "{standing:?}");
    assert_ne!(store.identity().expect("a name"), before);
}

#[tokio::test]
async fn a_server_keeps_its_identity_when_it_starts_again() {
    let mut server = ready();
    let store = open(&server.url());
    let on = resource("identity");
    store.holder(&on).await.unwrap();
    let first = store.identity().expect("a name");
    server.kill();
    server.start_again();
    while store.holder(&on).await.is_err() {}
    assert_eq!(store.identity().expect("a name"), first);
}

/// The order of a cancel's two statements decides here: a delete sees nothing of what is not yet
/// committed, and does not wait for it.
#[tokio::test]
async fn a_cancel_waits_for_an_acquire_that_is_about_to_commit_and_ends_it() {
    let server = ready();
    let store = Arc::new(open(&server.url()));
    let claim = claim(&resource("between"), 60);
    let url = format!("postgres://stormlock@127.0.0.1:{}/locks", server.port());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let (on, lease) = (claim.resource.as_str(), uuid(claim.lease));
    client.batch_execute("BEGIN").await.unwrap();
    let compare: &[talk::Parameter<'_>] = &[(&on, Type::TEXT), (&0_i64, Type::INT8)];
    client.query_typed(&store.sql.compare, compare).await.unwrap();
    let acquire: &[talk::Parameter<'_>] = &[
        (&on, Type::TEXT),
        (&lease, Type::TEXT),
        (&60.0_f64, Type::FLOAT8),
        (&"maria", Type::TEXT),
        (&0_i64, Type::INT8),
        (&"host", Type::TEXT),
        (&None::<&str>, Type::TEXT),
        (&7_i64, Type::INT8),
    ];
    client.query_typed(&store.sql.acquire, acquire).await.unwrap();
    let cancelling = {
        let (store, claim) = (Arc::clone(&store), claim.clone());
        tokio::spawn(async move { store.cancel(&claim.resource, claim.lease).await })
    };
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    comes_true("it does not wait", || server.sql(waits) == "1").await;
    client.batch_execute("COMMIT").await.unwrap();
    cancelling.await.unwrap().unwrap();
    assert_eq!(store.holder(&claim.resource).await.unwrap(), None, "an orphan");
}
