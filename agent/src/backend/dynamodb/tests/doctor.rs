//! What doctor says of tables.

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

#[test]
fn a_global_table_is_told() {
    use aws_sdk_dynamodb::types::{ReplicaDescription, TableDescription};
    let table = |table: TableDescription| {
        let remarks = examine::table(&table);
        remarks.iter().any(|remark| remark.text.contains("global table"))
    };
    assert!(!table(TableDescription::builder().build()));
    let replica = ReplicaDescription::builder().region_name("eu-west-1").build();
    assert!(table(TableDescription::builder().replicas(replica).build()));
}
