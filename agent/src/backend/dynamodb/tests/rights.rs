//! Who may do what, on an emulator that checks signatures and policies.

use super::super::super::readme;
use super::*;

/// What the README grants, without `dynamodb:`.
fn rights() -> Vec<String> {
    let statement: Value = serde_json::from_str(&readme::block("dynamodb:GetItem")).expect("JSON");
    assert_eq!(statement["Effect"], "Allow");
    let actions = statement["Action"].as_array().expect("actions");
    let action = |it: &Value| it.as_str()?.strip_prefix("dynamodb:").map(str::to_owned);
    actions.iter().map(|it| action(it).expect("an action")).collect()
}

const NONE: [&str; 0] = [];

fn strict() -> DynamoServer {
    let server = DynamoServer::start_with(&[("AUTH", "true")]);
    server.create_table(TABLE);
    server
}

/// A user with these rights on the table, and its keys.
fn user(server: &DynamoServer, rights: &[impl AsRef<str>]) -> (String, SecretString) {
    let action = |right: &str| format!("dynamodb:{right}");
    let actions: Vec<_> = rights.iter().map(|right| action(right.as_ref())).collect();
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Action": actions,
            "Resource": "arn:aws:dynamodb:us-east-1:000000000000:table/stormlock",
        }],
    });
    let name = format!("u{}", contract::nonce().0);
    server.iam(&format!("Action=CreateUser&UserName={name}&Version=2010-05-08"));
    if !rights.is_empty() {
        let policy: String = policy.to_string().bytes().map(|b| format!("%{b:02X}")).collect();
        server.iam(&format!(
            "Action=PutUserPolicy&UserName={name}&PolicyName=p&PolicyDocument={policy}\
             &Version=2010-05-08"
        ));
    }
    let made = server.iam(&format!("Action=CreateAccessKey&UserName={name}&Version=2010-05-08"));
    let field = |tag: &str| {
        let (_, after) = made.split_once(&format!("<{tag}>")).expect(tag);
        after.split_once('<').expect("its end").0.to_owned()
    };
    (field("AccessKeyId"), SecretString::from(field("SecretAccessKey")))
}

fn with_keys(server: &DynamoServer, keys: (String, SecretString)) -> DynamoDb {
    let options = Options { keys: Some(keys), ..options(&server.url()) };
    DynamoDb::new(&options, clock::now).unwrap()
}

#[tokio::test]
async fn the_rights_in_the_readme_are_enough() {
    let server = strict();
    let store = with_keys(&server, user(&server, &rights()));
    let claim = claim(&resource("rights"), 60);
    granted(&store, &claim).await;
    assert!(store.identity().is_some());
    let next = contract::nonce();
    store.renew(&proof(&claim), ttl(60), next).await.unwrap();
    let now = Proof { nonces: vec![next], ..proof(&claim) };
    assert!(matches!(store.verify(&now).await.unwrap(), Standing::Ours { .. }));
    assert_eq!(store.list(None, 9).await.unwrap().len(), 1);
    store.release(&now).await.unwrap();
    store.cancel(&claim.resource, claim.lease).await.unwrap();
    let remarks = store.examine().await.unwrap();
    assert!(remarks.iter().all(|remark| remark.level != Level::Bad), "{remarks:?}");
    let unseen = "DescribeTimeToLive has no answer";
    assert!(remarks.iter().any(|remark| remark.text.starts_with(unseen)), "{remarks:?}");
}

#[tokio::test]
async fn none_of_the_rights_in_the_readme_is_too_many() {
    let server = strict();
    for without in rights() {
        let fewer: Vec<_> = rights().into_iter().filter(|right| *right != without).collect();
        let store = with_keys(&server, user(&server, &fewer));
        assert!(everything(&store).await.is_none(), "{without} is not needed");
    }
    assert!(everything(&with_keys(&server, user(&server, &rights()))).await.is_some());
}

/// Everything that an agent asks of a table; `None` once something is refused.
async fn everything(store: &DynamoDb) -> Option<()> {
    let claim = claim(&resource("rights"), 60);
    let Attempt::Granted(_) = store.acquire(&claim).await.ok()? else { return None };
    let next = contract::nonce();
    store.renew(&proof(&claim), ttl(60), next).await.ok()?;
    let now = Proof { nonces: vec![next], ..proof(&claim) };
    store.verify(&now).await.ok()?;
    store.holder(&claim.resource).await.ok()?;
    store.list(None, 9).await.ok()?;
    store.release(&now).await.ok()?;
    store.cancel(&claim.resource, claim.lease).await.ok()?;
    store.identity().map(drop)
}

#[tokio::test]
async fn a_setup_without_rights_says_which_is_missing() {
    let server = DynamoServer::start_with(&[("AUTH", "true")]);
    let store = with_keys(&server, user(&server, &["DescribeTable"]));
    let Some(making) = store.setup() else { panic!("it needs one") };
    let error = making.await.unwrap_err();
    let BackendError::Refused { kind: RefusedKind::Denied, why } = &error else {
        panic!("{error:?}")
    };
    assert!(why.contains("CreateTable"), "{why}");
}

#[tokio::test]
async fn without_describe_table_locks_are_taken_all_the_same() {
    let server = strict();
    let store = with_keys(&server, user(&server, &rights()[..6]));
    granted(&store, &claim(&resource("rights"), 60)).await;
    assert_eq!(store.identity(), None);
    let remarks = store.examine().await.unwrap();
    assert!(
        remarks.iter().any(|it| it.text.starts_with("DescribeTable has no answer")),
        "{remarks:?}"
    );
}

#[tokio::test]
async fn a_user_without_rights_is_told_so_and_changes_nothing() {
    let server = strict();
    let store = with_keys(&server, user(&server, &NONE));
    let claim = claim(&resource("rights"), 60);
    assert_eq!(outcome(store.acquire(&claim).await), "Denied");
    assert_eq!(outcome(store.cancel(&claim.resource, claim.lease).await), "Denied");
    assert_eq!(outcome(store.renew(&proof(&claim), ttl(60), claim.nonce).await), "Denied");
    assert_eq!(outcome(store.list(None, 9).await), "Denied");
    assert_eq!(server.item(claim.resource.as_str()), Value::Null);
    let reader = with_keys(&server, user(&server, &["GetItem", "BatchGetItem"]));
    assert_eq!(outcome(reader.acquire(&claim).await), "Denied");
    let remarks = reader.examine().await.unwrap();
    assert_eq!(remarks[0].level, Level::Bad, "{remarks:?}");
    assert_eq!(server.item(claim.resource.as_str()), Value::Null);
}

#[tokio::test]
async fn wrong_keys_are_said_without_repeating_the_secret() {
    let server = strict();
    let (id, _) = user(&server, &rights());
    let wrong = "hunter2";
    for keys in [(id, SecretString::from(wrong)), ("AKIANOBODY".to_owned(), wrong.into())] {
        let store = with_keys(&server, keys);
        let error = store.acquire(&claim(&resource("keys"), 60)).await.unwrap_err();
        let BackendError::Refused { kind: RefusedKind::Credentials, why } = &error else {
            panic!("{error:?}")
        };
        assert!(!why.contains(wrong) && !format!("{store:?}").contains(wrong), "{why}");
    }
}

#[tokio::test]
async fn a_profile_that_is_nowhere_is_a_definite_no() {
    let server = DynamoServer::start();
    let profile = Some("stormlock-has-no-such-profile".to_owned());
    let store = Options { keys: None, profile, ..options(&server.url()) };
    let store = DynamoDb::new(&store, clock::now).unwrap();
    let error = store.acquire(&claim(&resource("profile"), 60)).await.unwrap_err();
    let BackendError::Refused { kind: RefusedKind::Credentials, why } = &error else {
        panic!("{error:?}")
    };
    assert!(why.starts_with("no credentials: "), "{why}");
}
