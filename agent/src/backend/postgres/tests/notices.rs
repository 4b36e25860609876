//! What a server tells those who wait.

use super::super::super::contract::{Telling, Watch};
use super::doctor::{check_says, examined};
use super::*;

impl Telling for Real {
    fn give_back<'a>(&'a self, on: &'a Resource, lease: LeaseId) -> Pending<'a, ()> {
        Box::pin(async move {
            let (table, lease) = (self.table, uuid(lease));
            self.server
                .sql(&format!("DELETE FROM {table} WHERE resource = '{on}' AND lease = '{lease}'"));
            Ok(())
        })
    }
}

contract::contract_of_notices!(*site());

mod on_the_python_table {
    use super::*;

    contract::contract_of_notices!(*python_site());
}

fn telling(store: Postgres) -> Arc<dyn Backend> {
    Arc::new(store)
}

fn through(proxy: &Proxy) -> Arc<dyn Backend> {
    telling(open(&format!("postgres://127.0.0.1:{}/locks", proxy.port())))
}

#[tokio::test]
async fn an_abandoned_call_and_a_watch_leave_each_other_alone() {
    let server = ready();
    let proxy = Proxy::start(server.port());
    let (store, other) = (through(&proxy), open(&server.url()));
    let needle = |_: &Claim| b"WITH got AS".to_vec();
    contract::an_abandoned_call_and_a_watch_leave_each_other_alone(store, &other, &proxy, needle)
        .await;
}

#[tokio::test]
async fn a_watch_ends_with_its_server() {
    let mut server = ready();
    let store = telling(open(&server.url()));
    contract::a_watch_ends_with_its_server(store, || server.kill()).await;
}

#[tokio::test]
async fn a_renewal_is_not_told() {
    let server = ready();
    let store = telling(open(&server.url()));
    let claim = claim(&resource("renewed"), 60);
    granted(&*store, &claim).await;
    let mut watch = Watch::start(&store, &claim.resource);
    watch.heard("that it works").await;
    store.renew(&proof(&claim), ttl(600), claim.nonce).await.unwrap();
    store.verify(&proof(&claim)).await.unwrap();
    // What is told comes in the order of the commits.
    let beside = resource("beside");
    let mut other = Watch::start(&store, &beside);
    other.heard("that it works").await;
    granted(&*store, &contract::claim(&beside, 60)).await;
    other.heard("of a grant").await;
    assert!(watch.is_quiet().await, "it tells of a renewal");
}

#[tokio::test]
async fn nothing_is_promised_while_a_notice_of_our_own_does_not_come_back() {
    let server = ready();
    let proxy = Proxy::start(server.port());
    let (store, on) = (through(&proxy), resource("pooler"));
    // As a pooler that shares out its connections: what is asked for does not come.
    proxy.when("pg_notify", Fault::HoldRequest);
    let mut watch = Watch::start(&store, &on);
    let end = clock::now() + Duration::from_secs(60);
    while !watch.is_over() {
        assert!(clock::now() < end, "it does not end");
        assert!(watch.is_quiet().await, "it promises to tell");
        tokio::task::yield_now().await;
    }
    let why = watch.ends().await.to_string();
    assert!(why.contains("a notice of our own did not come back"), "{why}");
    Watch::start(&store, &on).heard("that it works").await;
}

#[tokio::test]
async fn without_the_triggers_a_watch_ends_doctor_says_so_and_setup_makes_them() {
    let made = "made the triggers of \"stormlock\" that wake those who wait";
    let server = ready();
    let options = options(&server.url());
    server.sql("DROP FUNCTION stormlock_tell CASCADE");
    let store = telling(open(&server.url()));
    let on = resource("triggers");
    let why = Watch::start(&store, &on).ends().await.to_string();
    assert!(why.contains("no triggers"), "{why}");
    check_says(&examined(&open(&server.url())).await, "Note: those who wait look every 2 s");
    assert_eq!(setup(&options, false).await.unwrap()[2], made);
    Watch::start(&store, &on).heard("that it works").await;
    server.sql("ALTER TABLE stormlock DISABLE TRIGGER stormlock_tell");
    Watch::start(&store, &on).ends().await;
    check_says(&examined(&open(&server.url())).await, "Note: those who wait look every 2 s");

    server.sql("DROP FUNCTION stormlock_tell CASCADE; DROP TABLE stormlock_ext");
    let bare = Options { side_table: false, ..options };
    assert_eq!(setup(&bare, false).await.unwrap()[2], made);
    let store = telling(Postgres::new(&bare).unwrap());
    let claim = claim(&on, 60);
    granted(&*store, &claim).await;
    let mut watch = Watch::start(&store, &on);
    watch.heard("that it works").await;
    store.release(&proof(&claim)).await.unwrap();
    watch.heard("of a release without a side table").await;
}

#[tokio::test]
async fn a_setup_that_may_make_no_triggers_says_so_and_goes_on() {
    let server = PostgresServer::start();
    server.sql_as(USER, PYTHON_TABLE);
    server.sql("CREATE ROLE maker LOGIN; GRANT CREATE ON SCHEMA public TO maker");
    let maker = Options { username: "maker".to_owned(), ..options(&server.url()) };
    let said = setup(&maker, false).await.unwrap();
    assert_eq!(said[2], "made the table \"stormlock_ext\"");
    let no = "made no triggers of \"stormlock\", so those who wait look every 2 s: postgres \
              answered 42501";
    assert!(said[3].starts_with(no), "{said:?}");
    assert_eq!(server.sql("SELECT to_regclass('stormlock_ext') IS NULL"), "f");
    assert_eq!(server.sql("SELECT count(*) FROM pg_proc WHERE proname = 'stormlock_tell'"), "0");
}

#[tokio::test]
async fn no_name_is_too_long_for_the_triggers() {
    let server = PostgresServer::start();
    let name = "x".repeat(59);
    let options = Options { table: name.clone(), ..options(&server.url()) };
    setup(&options, false).await.unwrap();
    server.sql(&format!(
        "INSERT INTO {name} (resource, lease, principal, expires) SELECT repeat(c, 9000), \
         '00000000-0000-0000-0000-000000000007', 'x', now() \
         FROM unnest(ARRAY['a', '\u{1f512}']) c"
    ));
    assert_eq!(server.sql(&format!("SELECT min(length(resource)) FROM {name}")), "9000");
    let longest = Resource::new("a".repeat(128)).unwrap();
    let store = telling(Postgres::new(&options).unwrap());
    let mut watch = Watch::start(&store, &longest);
    watch.heard("that it works").await;
    granted(&*store, &claim(&longest, 60)).await;
    watch.heard("of a grant").await;
}
