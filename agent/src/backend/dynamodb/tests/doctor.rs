//! What doctor says of tables.

use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};

use super::super::super::relay::{relay, write_after};
use super::*;

async fn examined(store: &DynamoDb) -> Vec<String> {
    let remarks = store.examine().await.unwrap();
    remarks.into_iter().map(|remark| format!("{:?} {}", remark.level, remark.text)).collect()
}

#[track_caller]
fn check_says(remarks: &[String], starts: &str) {
    assert!(remarks.iter().any(|remark| remark.starts_with(starts)), "{starts}: {remarks:#?}");
}

#[tokio::test]
async fn a_table_as_setup_makes_it_is_good() {
    let server = DynamoServer::start();
    let options = Options { takeover_margin: TAKEOVER_MARGIN, ..options(&server.url()) };
    let store = DynamoDb::new(&options, clock::now).unwrap();
    let remarks = examined(&store).await;
    assert!(remarks.iter().all(|remark| remark.starts_with("Good ")), "{remarks:#?}");
    check_says(&remarks, "Good it lets us write");
    check_says(&remarks, "Good its key is");
    check_says(&remarks, "Good its TTL sweeps");
    let scanned = server.run("Scan", &json!({"TableName": "stormlock"}));
    assert_eq!(scanned["Count"], 0, "doctor changes nothing");
}

#[tokio::test]
async fn each_promise_that_a_table_does_not_keep_is_told() {
    let server = DynamoServer::start_with(&[]);
    server.run(
        "CreateTable",
        &json!({
            "TableName": "stormlock",
            "AttributeDefinitions": [
                {"AttributeName": "resource", "AttributeType": "S"},
                {"AttributeName": "created", "AttributeType": "N"},
            ],
            "KeySchema": [
                {"AttributeName": "resource", "KeyType": "HASH"},
                {"AttributeName": "created", "KeyType": "RANGE"},
            ],
            "BillingMode": "PAY_PER_REQUEST",
        }),
    );
    let store = open(&server.url());
    let remarks = examined(&store).await;
    check_says(&remarks, "Bad its key is not the text `resource` alone");
    check_says(&remarks, "Warning its TTL is off");
    check_says(&remarks, "Warning takeover_margin is 0 s");
    check_says(&remarks, "Note the table may be deleted by one command");
    server.run(
        "UpdateTimeToLive",
        &json!({
            "TableName": "stormlock",
            "TimeToLiveSpecification": {"Enabled": true, "AttributeName": "created"},
        }),
    );
    check_says(&examined(&store).await, "Bad its TTL is by the attribute \"created\"");
}

#[tokio::test]
async fn a_table_that_is_not_there_is_an_error_that_says_what_to_do() {
    let server = DynamoServer::start_with(&[]);
    let error = open(&server.url()).examine().await.unwrap_err().to_string();
    assert!(error.contains("stormlockd setup"), "{error}");
}

/// A store whose answers are dated so many seconds after they were given.
fn dated(server: &DynamoServer, off_secs: i64) -> DynamoDb {
    let port = relay(server.port(), move |answer| {
        let date = DateTime::from_secs(now_secs() + off_secs).fmt(DateTimeFormat::HttpDate);
        let date = date.expect("a date");
        for mark in [b"\r\nDate: ", b"\r\ndate: "] {
            write_after(answer, mark, date.as_bytes());
        }
    });
    open(&format!("http://127.0.0.1:{port}"))
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_before_requests_are_refused_for_it() {
    let server = DynamoServer::start();
    for (off_secs, level) in [(90, "Note"), (-90, "Note"), (400, "Bad"), (-400, "Bad")] {
        let remarks = examined(&dated(&server, off_secs)).await;
        check_says(&remarks, &format!("{level} the region's clock and this host's are "));
        let means = "no lease depends on it, but from five minutes on the service refuses every \
                     request";
        assert!(remarks.iter().any(|it| it.ends_with(means)), "{remarks:#?}");
    }
    let remarks = examined(&dated(&server, 0)).await;
    assert!(!remarks.iter().any(|it| it.contains("clock and this host's")), "{remarks:#?}");
}

#[tokio::test]
async fn a_table_that_takes_no_locks_yet_is_told() {
    let server = DynamoServer::start();
    let port = relay(server.port(), |answer| {
        for mark in [b"\"TableStatus\":\"".as_slice(), b"\"TableStatus\": \""] {
            write_after(answer, mark, b"CLOSED");
        }
    });
    let remarks = examined(&open(&format!("http://127.0.0.1:{port}"))).await;
    check_says(&remarks, "Bad the table is CLOSED: it takes no locks");
}

#[tokio::test]
async fn rights_to_some_names_only_are_no_fault_of_the_table() {
    const SAID: &[u8] = b"TransactionCanceledException";
    // As many bytes: what follows a colon is no part of the name.
    const DENIED: &[u8] = b"AccessDeniedException:denied";
    let server = DynamoServer::start();
    // No emulator knows policies that name keys: the first transaction of each trial is refused.
    let tries = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&tries);
    let port = relay(server.port(), move |answer| {
        let Some(at) = answer.windows(SAID.len()).position(|it| it == SAID) else { return };
        // Its head names the error, and counts more than the body.
        if answer.starts_with(b"HTTP/") && counted.fetch_add(1, Ordering::Relaxed) == 0 {
            answer[at..at + SAID.len()].copy_from_slice(DENIED);
        }
    });
    let store = open(&format!("http://127.0.0.1:{port}"));
    let remarks = store.examine().await.unwrap();
    let Remark { level: Level::Bad, text, mend: Some(mend) } = &remarks[0] else {
        panic!("{remarks:#?}")
    };
    assert!(text.starts_with("dynamodb answered AccessDeniedException"), "{text}");
    assert!(mend.contains("if the policy names keys (dynamodb:LeadingKeys)"), "{mend}");

    let taken = claim(&resource("permitted"), 60);
    granted(&store, &taken).await;
    tries.store(0, Ordering::Relaxed);
    let remarks = examined(&store).await;
    let told =
        "Note its rights cover some names only: not -stormlock.doctor/..., but one of a lock";
    check_says(&remarks, told);
    let on = taken.resource;
    assert!(remarks.iter().all(|remark| !remark.contains(on.as_str())), "{remarks:?}");
    assert_eq!(tries.load(Ordering::Relaxed), 2, "one name that is refused, one that is not");
}

#[tokio::test]
async fn an_endpoint_elsewhere_without_tls_is_told() {
    let server = DynamoServer::start();
    // An address of this host that does not say so.
    let remarks = examined(&open(&format!("http://0.0.0.0:{}", server.port()))).await;
    check_says(&remarks, "Bad endpoint_url is without TLS: whoever is on the way can change");
}

#[tokio::test]
async fn a_global_table_is_told() {
    let server = DynamoServer::start();
    // No emulator has replicas: they stand in its answer where the table's name for IAM stood.
    let port = relay(server.port(), |answer| {
        let written = b"\"Replicas\": [{\"RegionName\": \"eu-west-1\"}]";
        let Some(at) = answer.windows(10).position(|it| it == b"\"TableArn\"") else { return };
        let arn = &mut answer[at..];
        let end = arn.iter().position(|byte| *byte == b',').expect("more follows");
        arn[..end].fill(b' ');
        arn[..written.len()].copy_from_slice(written);
    });
    let remarks = examined(&open(&format!("http://127.0.0.1:{port}"))).await;
    check_says(&remarks, "Warning it is a global table: regions hear of each other's locks later");
    assert!(!examined(&open(&server.url())).await.iter().any(|it| it.contains("global table")));
}
