//! The tables: their layout, what others write into them, and `setup`.

use super::*;

#[tokio::test]
async fn a_lock_is_stored_as_the_python_tool_stores_it() {
    let server = ready();
    let store = open(&server.url());
    let mut claim = claim(&Resource::new("prod/db").unwrap(), 60);
    claim.created = UnixMs(1_700_000_000_005);
    let grant = granted(&store, &claim).await;
    let row = server.sql(
        "SELECT resource, replace(lease::text, '-', ''), principal, extract(epoch FROM created), \
         expires > now() + interval '50 s', expires < now() + interval '61 s' FROM stormlock",
    );
    let lease = uuid(claim.lease);
    assert_eq!(row, format!("prod/db|{lease}|maria@bastion2|1700000000.005000|t|t"));
    let ours = server.sql("SELECT counter, fence, host, reason IS NULL, nonce FROM stormlock_ext");
    let (fence, nonce) = (grant.fence, mark(claim.nonce));
    assert_eq!(ours, format!("{fence}|{fence}|bastion2|t|{nonce}"));
    store.release(&proof(&claim)).await.unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM stormlock"), "0");
}

#[tokio::test]
async fn fences_are_at_least_the_server_s_time_in_microseconds() {
    let server = ready();
    let store = open(&server.url());
    let first = claim(&resource("time"), 60);
    let now_us = u64::try_from(clock::wall().0).unwrap() * 1000;
    let fence = granted(&store, &first).await.fence;
    assert!(fence.0.abs_diff(now_us) < 60_000_000, "{fence:?} at {now_us}");
    // A counter from the future is counted on.
    store.release(&proof(&first)).await.unwrap();
    for ahead in [1_u64 << 53, 9_000_000_000_000_000_000] {
        server.sql(&format!("UPDATE stormlock_ext SET counter = {ahead}"));
        let next = claim(&first.resource, 60);
        assert_eq!(granted(&store, &next).await.fence, Fence(ahead + 1));
        store.release(&proof(&next)).await.unwrap();
    }
    // One that cannot rise any more is no reason to give a fence twice, nor is the server at fault.
    server.sql("UPDATE stormlock_ext SET counter = 9223372036854775807");
    assert_eq!(outcome(store.acquire(&claim(&first.resource, 60)).await), "Foreign");
}

#[tokio::test]
async fn a_cancel_of_another_s_acquire_leaves_a_held_lease_its_fence() {
    let server = ready();
    let store = open(&server.url());
    let held = claim(&resource("held"), 60);
    let fence = granted(&store, &held).await.fence;
    store.cancel(&held.resource, lease()).await.unwrap();
    assert_eq!(granted(&store, &held).await.fence, fence);
    store.release(&proof(&held)).await.unwrap();
    assert!(granted(&store, &claim(&held.resource, 60)).await.fence > fence);
}

#[tokio::test]
async fn the_same_claim_after_its_end_is_a_new_grant() {
    let server = ready();
    let store = open(&server.url());
    let claim = claim(&resource("again"), 60);
    let fence = granted(&store, &claim).await.fence;
    server.sql("UPDATE stormlock SET expires = now() - interval '1 s'");
    assert_eq!(store.holder(&claim.resource).await.unwrap(), None);
    assert!(granted(&store, &claim).await.fence > fence);
}

#[tokio::test]
async fn what_the_python_tool_took_over_shows_nothing_of_ours() {
    let site = Real::start();
    let store = open(&site.server.url());
    let mut ours = claim(&resource("python"), 60);
    ours.reason = Some(stormlock_protocol::name::Reason::new("why").unwrap());
    granted(&store, &ours).await;
    let theirs = lease();
    Others::lock(&site, &ours.resource, theirs, Some(ttl(60))).await.unwrap();
    let holder = store.holder(&ours.resource).await.unwrap().unwrap();
    assert_eq!(holder.lease, theirs);
    assert_eq!((holder.host, holder.reason, holder.fence), (None, None, None));
    let standing = store.renew(&proof(&ours), ttl(60), nonce()).await.unwrap();
    assert!(matches!(standing, Standing::NotOurs(Some(_))), "{standing:?}");
}

#[tokio::test]
async fn a_list_leaves_out_what_ended_and_names_that_are_none_of_ours() {
    let server = ready();
    let store = open(&server.url());
    let insert = "INSERT INTO stormlock (resource, lease, principal, expires) VALUES";
    for name in ["ok", "sp ace", "-dash", "ümlaut", "a%b"] {
        let id = "'00000000-0000-0000-0000-000000000007'";
        server.sql(&format!("{insert} ('{name}', {id}, E'a\\nb', now() + interval '1 h')"));
        server.sql(&format!("{insert} ('{name}ended', {id}, 'x', now() - interval '1 s')"));
    }
    let locks = store.list(None, 100).await.unwrap();
    assert_eq!(locks.iter().map(|lock| lock.resource.as_str()).collect::<Vec<_>>(), ["ok"]);
    assert_eq!(locks[0].principal.as_str(), "a\u{fffd}b");
    assert_eq!(store.list(None, 1).await.unwrap().len(), 1, "past those that are left out");
}

#[tokio::test]
async fn setup_makes_what_is_missing_and_says_what_it_did() {
    let server = PostgresServer::start();
    let options = options(&server.url());
    let said = setup(&options, false).await.unwrap();
    let made = [
        "made the table \"stormlock\"",
        "made the table \"stormlock_ext\"",
        "made the triggers of \"stormlock\" that wake those who wait",
    ];
    assert_eq!(said, made);
    let claim = claim(&resource("setup"), 60);
    granted(&open(&server.url()), &claim).await;
    let said = setup(&options, true).await.unwrap();
    let there = [
        "the table \"stormlock\" is there",
        "the table \"stormlock_ext\" is there",
        "the triggers of \"stormlock\" are there",
    ];
    assert_eq!(said, there);
    assert!(open(&server.url()).holder(&claim.resource).await.unwrap().is_some());
    // A user without the right to make tables finds them there.
    let poor = Options { username: "poor".to_owned(), ..options };
    server.sql("CREATE ROLE poor LOGIN");
    assert_eq!(setup(&poor, false).await.unwrap(), there);
}

#[tokio::test]
async fn setup_converts_times_without_a_zone_and_no_lease_ends_by_it() {
    let server = PostgresServer::start_with(&["timezone=America/New_York"], server::TRUST);
    server.sql_as(USER, PYTHON_TABLE);
    let options = options(&server.url());
    let said = setup(&options, false).await.unwrap();
    let naive =
        "created and expires of \"stormlock\" have no time zone: convert them with --migrate";
    assert_eq!(said[1], naive);
    let store = open(&server.url());
    let claim = claim(&resource("migrate"), 600);
    granted(&store, &claim).await;
    let said = setup(&options, true).await.unwrap();
    let converted = "converted created and expires of \"stormlock\" from America/New_York to \
                     timestamp with time zone";
    assert_eq!(said[1], converted);
    let Standing::Ours { remaining } = store.verify(&proof(&claim)).await.unwrap() else {
        panic!("lost by a conversion")
    };
    assert!(remaining > Duration::from_secs(500), "{remaining:?}");
}

#[tokio::test]
async fn the_table_of_another_program_is_left_alone() {
    let server = PostgresServer::start();
    server.sql_as(USER, "CREATE TABLE stormlock (resource text PRIMARY KEY, lease text)");
    let Err(BackendError::Refused { kind: RefusedKind::Foreign, why }) =
        setup(&options(&server.url()), true).await
    else {
        panic!("took another program's table")
    };
    assert!(why.contains("column lease is text, not uuid"), "{why}");
    assert_eq!(server.sql("SELECT to_regclass('stormlock_ext') IS NULL"), "t");
    let store = open(&server.url());
    assert_eq!(outcome(store.acquire(&claim(&resource("x"), 60)).await), "NotSetUp(NoTable)");
    server.sql_as(USER, "CREATE TABLE stormlock_ext (resource text PRIMARY KEY, x int)");
    assert_eq!(outcome(store.acquire(&claim(&resource("x"), 60)).await), "NotSetUp(OtherTable)");
}

#[tokio::test]
async fn a_table_in_a_schema_has_its_side_table_beside_it() {
    let server = PostgresServer::start();
    server.sql("CREATE SCHEMA ops AUTHORIZATION stormlock");
    let options = Options { table: "Ops.Locks".to_owned(), ..options(&server.url()) };
    setup(&options, false).await.unwrap();
    granted(&Postgres::new(&options).unwrap(), &claim(&resource("schema"), 60)).await;
    assert_eq!(server.sql("SELECT count(*) FROM ops.locks JOIN ops.locks_ext USING (lease)"), "1");
}

#[test]
fn a_table_has_a_plain_name() {
    for (text, expected) in [
        ("stormlock", Some("\"stormlock\"")),
        ("Ops.Locks_2", Some("\"ops\".\"locks_2\"")),
        ("a.b.c", None),
        ("", None),
        ("a.", None),
        ("2a", None),
        ("a\"; DROP TABLE x; --", None),
        (&"x".repeat(60), None),
    ] {
        let read = Table::parse(text).ok().map(|table| table.main);
        assert_eq!(read.as_deref(), expected, "{text}");
    }
}

#[tokio::test]
async fn setups_of_several_hosts_at_once_all_succeed() {
    let server = PostgresServer::start();
    for round in 0..5 {
        server.sql("DROP TABLE IF EXISTS stormlock, stormlock_ext CASCADE");
        let stores: Vec<_> = (0..6).map(|_| open(&server.url())).collect();
        let made = stores.iter().map(|store| store.setup().expect("it has a setup"));
        for said in futures_util::future::join_all(made).await {
            said.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        granted(&stores[0], &claim(&resource("made"), 60)).await;
    }
}

#[tokio::test]
async fn what_is_to_be_run_by_hand_is_enough_in_a_schema_of_its_own() {
    let server = PostgresServer::start();
    server.sql("CREATE ROLE maria LOGIN; CREATE SCHEMA lk");
    let options = Options {
        username: "maria".to_owned(),
        table: "lk.stormlock".to_owned(),
        ..options(&server.url())
    };
    let store = Postgres::new(&options).unwrap();
    server.sql(&store.setup_by_hand().expect("it has one"));
    granted(&store, &claim(&resource("schema"), 60)).await;
}
