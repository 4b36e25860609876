//! What doctor says.

use super::*;

/// What doctor would say, as `Level: text`.
pub(super) async fn examined(store: &Postgres) -> Vec<String> {
    let remarks = store.examine().await.unwrap();
    for remark in &remarks {
        assert_eq!(remark.mend.is_none(), remark.level == Level::Good, "{remark:?}");
    }
    remarks.iter().map(|remark| format!("{:?}: {}", remark.level, remark.text)).collect()
}

#[track_caller]
pub(super) fn check_says(remarks: &[String], starts: &str) {
    assert!(remarks.iter().any(|remark| remark.starts_with(starts)), "{starts}: {remarks:#?}");
}

#[tokio::test]
async fn a_server_that_keeps_every_promise_is_good() {
    let server = PostgresServer::start_with(&["fsync=on"], server::TRUST);
    made(&server);
    let remarks = examined(&open(&server.url())).await;
    assert!(remarks.len() >= 4, "{remarks:#?}");
    assert!(remarks.iter().all(|remark| remark.starts_with("Good: ")), "{remarks:#?}");
    assert_eq!(server.sql("SELECT count(*) FROM stormlock_ext"), "0");
}

#[tokio::test]
async fn each_promise_that_a_server_does_not_keep_is_told() {
    let careless = ["synchronous_commit=off"];
    let server = PostgresServer::start_with(&careless, server::TRUST);
    let store = open(&server.url());
    let missing = "Bad: postgres answered 42P01 relation \"stormlock_ext\" does not exist; make";
    check_says(&examined(&store).await, missing);
    made(&server);
    let remarks = examined(&store).await;
    check_says(&remarks, "Bad: fsync is off");
    check_says(&remarks, "Note: synchronous_commit is off");
    server.sql("ALTER TABLE stormlock_ext SET UNLOGGED");
    check_says(&examined(&store).await, "Bad: a table is unlogged");
    server.sql("ALTER ROLE stormlock SET default_transaction_read_only = on");
    let read_only = open(&server.url());
    assert_eq!(outcome(read_only.examine().await), "NotWritable");
}

#[tokio::test]
async fn a_careless_disk_is_told() {
    let settings = ["fsync=on", "full_page_writes=off"];
    let server = PostgresServer::start_with(&settings, server::TRUST);
    made(&server);
    check_says(&examined(&open(&server.url())).await, "Warning: full_page_writes is off");
}

#[tokio::test]
async fn standbys_are_told_by_what_they_are_worth() {
    let server = ready();
    let _standby = PostgresServer::standby_of(&server, "one");
    let store = open(&server.url());
    let follows = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    comes_true("it does not follow", || server.sql(follows) == "1").await;
    check_says(&examined(&store).await, "Note: its standbys are asynchronous");
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'one'");
    server.sql("SELECT pg_reload_conf()");
    comes_true("no reload", || server.sql("SHOW synchronous_standby_names") == "one").await;
    check_says(&examined(&open(&server.url())).await, "Good: it has synchronous standbys");
}

#[tokio::test]
async fn times_without_a_zone_are_told_until_they_are_converted() {
    for (zone, says) in [
        ("Europe/Berlin", "Bad: its times have no time zone, and Europe/Berlin has summer time"),
        ("UTC", "Warning: its times have no time zone: right only while every client's is UTC"),
    ] {
        let setting = format!("timezone={zone}");
        let server = PostgresServer::start_with(&[&setting], server::TRUST);
        server.sql_as(USER, PYTHON_TABLE);
        made(&server);
        let store = open(&server.url());
        check_says(&examined(&store).await, says);
        setup(&options(&server.url()), true).await.unwrap();
        check_says(&examined(&store).await, "Good: its times have a time zone");
    }
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_name_is_told() {
    let server = PostgresServer::start();
    server.sql(
        "CREATE DATABASE latin OWNER stormlock ENCODING 'LATIN1' TEMPLATE template0 \
         LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    let url = format!("postgres://127.0.0.1:{}/latin", server.port());
    setup(&options(&url), false).await.unwrap();
    let store = open(&url);
    check_says(&examined(&store).await, "Warning: the database is not in UTF8");
    let mut claim = claim(&resource("latin"), 60);
    claim.host = "日本語".to_owned();
    assert_eq!(outcome(store.acquire(&claim).await), "NotWritable");
}
