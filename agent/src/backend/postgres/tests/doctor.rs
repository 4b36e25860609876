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

/// What the server says of itself to the agent's role, as another would.
const OTHERWISE: &str = "CREATE SCHEMA otherwise; GRANT USAGE ON SCHEMA otherwise TO stormlock; \
    CREATE FUNCTION otherwise.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS \
    $$ SELECT pg_catalog.clock_timestamp() + interval '1 hour' $$; \
    CREATE VIEW otherwise.pg_settings AS SELECT name, CASE name WHEN 'server_version_num' \
    THEN '110022' WHEN 'server_version' THEN '11.22' ELSE setting END AS setting \
    FROM pg_catalog.pg_settings; GRANT SELECT ON otherwise.pg_settings TO stormlock; \
    ALTER ROLE stormlock SET search_path = otherwise, pg_catalog, public";

#[tokio::test]
async fn a_server_that_is_too_old_or_whose_clock_is_off_is_told() {
    let server = ready();
    server.sql(OTHERWISE);
    let remarks = examined(&open(&server.url())).await;
    check_says(&remarks, "Bad: postgres 11.22 is older than 12");
    let off = remarks.iter().find(|it| it.starts_with("Note: its clock and this host's are "));
    let off = off.unwrap_or_else(|| panic!("{remarks:#?}"));
    assert!(off.contains(" 3600 s apart") || off.contains(" 3599 s apart"), "{off}");
    let means = "no lease depends on it, but fences and times shown to people do";
    assert!(off.ends_with(means), "{off}");
}

#[tokio::test]
async fn a_setup_without_rights_says_which_are_missing_and_changes_nothing() {
    let server = PostgresServer::start();
    server.sql("CREATE ROLE poor LOGIN");
    let poor = Options { username: "poor".to_owned(), ..options(&server.url()) };
    let Err(BackendError::Refused { kind: RefusedKind::Credentials, why }) =
        setup(&poor, false).await
    else {
        panic!("made without the right to it")
    };
    assert!(why.contains("permission denied for schema public"), "{why}");
    assert!(why.contains("a new table needs CREATE on its schema"), "{why}");
    assert_eq!(server.sql("SELECT to_regclass('stormlock') IS NULL"), "t");
}
