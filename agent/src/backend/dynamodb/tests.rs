//! The suite of every store on an emulator of DynamoDB, then what only this store has: its layout,
//! its time, its errors, and a network that loses, holds and cuts.

#[allow(clippy::duplicate_mod, reason = "each store tests with its own")]
#[path = "../../../../tests/support/certs.rs"]
mod certs;
#[allow(clippy::duplicate_mod, reason = "each store tests with its own")]
#[path = "../../../../tests/support/proxy.rs"]
mod proxy;
#[path = "../../../../tests/support/dynamo.rs"]
mod server;

mod doctor;
mod network;
mod rights;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use stormlock_protocol::message::Level;
use stormlock_protocol::name::{Fence, UnixMs};

use super::super::contract::{self, Others, Site, claim, granted, proof, resource, ttl};
use super::*;
use crate::clock;
use crate::lease::Moment;
use server::{DynamoServer, ROOT};

struct Real(DynamoServer);

impl Site for Real {
    fn open(&self) -> Arc<dyn Backend> {
        Arc::new(open(&self.0.url()))
    }

    fn others(&self) -> Option<&dyn Others> {
        Some(self)
    }
}

impl Others for Real {
    fn lock<'a>(&'a self, on: &'a Resource, lease: LeaseId, ttl: Option<Ttl>) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut item = python(on, lease);
            if let Some(ttl) = ttl {
                let expires = clock::wall().0 / 1000 + i64::from(ttl.as_secs());
                item["expires"] = json!({"N": expires.to_string()});
            }
            self.0.put(&item);
            Ok(())
        })
    }

    fn litter<'a>(&'a self, on: &'a [Resource]) -> Pending<'a, ()> {
        Box::pin(async move {
            let lease = "a".repeat(32);
            let items = [
                json!({}),
                json!({"name": {"S": "x"}}),
                json!({"lease": {"S": "short"}, "expires": {"N": "9999999999"}}),
                json!({"lease": {"N": "7"}, "expires": {"N": "9999999999"}}),
                json!({"lease": {"S": lease}, "expires": {"S": "soon"}}),
                json!({"lease": {"S": lease.to_uppercase()}, "expires": {"N": "9999999999"}}),
            ];
            assert_eq!(items.len(), on.len());
            for (mut item, on) in items.into_iter().zip(on) {
                item["resource"] = json!({"S": on.as_str()});
                self.0.put(&item);
            }
            Ok(())
        })
    }

    fn dump<'a>(&'a self, on: &'a Resource) -> Pending<'a, String> {
        Box::pin(async move { Ok(self.0.item(on.as_str()).to_string()) })
    }
}

/// What the Python tool writes, without an end.
fn python(on: &Resource, lease: LeaseId) -> Value {
    json!({
        "resource": {"S": on.as_str()},
        "principal": {"S": "py@other"},
        "created": {"N": (clock::wall().0 / 1000).to_string()},
        "lease": {"S": hex(lease)},
    })
}

fn options(url: &str) -> Options {
    Options {
        table: TABLE.to_owned(),
        region: Some("us-east-1".to_owned()),
        endpoint_url: Some(url.to_owned()),
        profile: None,
        keys: Some((ROOT.to_owned(), SecretString::from("secret"))),
        takeover_margin: Duration::ZERO,
        ca_file: None,
        client_cert: None,
    }
}

fn open(url: &str) -> DynamoDb {
    DynamoDb::new(&options(url), clock::now).unwrap()
}

contract::contract!(Real(DynamoServer::start()));
contract::contract_with_others!(Real(DynamoServer::start()));
contract::contract_of_wide_ids!(Real(DynamoServer::start()));

/// The suite once more on an emulator of other authors: what both do, DynamoDB is likelier to do.
/// Not there: users and their rights, which it does not have, and what one test has seen of the
/// line (`network.rs`), which is no matter of the emulator.
mod on_another_emulator {
    use super::*;

    fn other() -> Real {
        Real(DynamoServer::start_on(server::Emulator::Dynoxide))
    }

    contract::contract!(other());
    contract::contract_with_others!(other());
    contract::contract_of_wide_ids!(other());
}

/// What a call said, in a word.
fn outcome<T: std::fmt::Debug>(answer: Result<T, BackendError>) -> String {
    match answer {
        Ok(value) => format!("{value:?}"),
        Err(BackendError::Unknown { .. }) => "Unknown".to_owned(),
        Err(BackendError::Refused { kind, .. }) => format!("{kind:?}"),
    }
}

fn n(item: &Value, attribute: &str) -> i64 {
    let digits = item[attribute]["N"].as_str().unwrap_or_else(|| panic!("{attribute} of {item}"));
    digits.parse().expect("a number")
}

fn now_secs() -> i64 {
    clock::wall().0 / 1000
}

#[tokio::test]
async fn a_lock_is_stored_as_the_python_tool_stores_it() {
    let server = DynamoServer::start();
    let store = open(&server.url());
    let mut claim = claim(&Resource::new("prod/db").unwrap(), 60);
    claim.created = UnixMs(1_700_000_000_005);
    let before = now_secs();
    let grant = granted(&store, &claim).await;
    let item = server.item("prod/db");
    assert_eq!(item["lease"]["S"], hex(claim.lease));
    assert_eq!(item["principal"]["S"], "maria@bastion2");
    assert_eq!(n(&item, "created"), 1_700_000_000);
    // Rounded up, from the latest time that it can be.
    let expires = n(&item, "expires");
    assert!((before + 60..=now_secs() + 64).contains(&expires), "{expires} at {before}");
    assert_eq!(n(&item, "fence").to_string(), grant.fence.0.to_string());
    assert_eq!(n(&item, "ttl"), 60);
    assert_eq!(item["host"]["S"], "bastion2");
    assert_eq!(item["mark"]["S"], format!("{:016x}", claim.nonce.0));
    assert_eq!(item["reason"], Value::Null);
    let counter = server.item("stormlock/fence/prod/db");
    assert_eq!(n(&counter, "fence"), n(&item, "fence"));
    assert_eq!(counter["expires"], Value::Null, "a counter is never swept");
    // Nothing is left for the Python tool to stumble over.
    store.release(&proof(&claim)).await.unwrap();
    assert_eq!(server.item("prod/db"), Value::Null);
}

#[tokio::test]
async fn fences_are_at_least_the_region_s_time_in_microseconds() {
    let server = DynamoServer::start();
    let store = open(&server.url());
    let first = claim(&resource("time"), 60);
    let now_us = u64::try_from(clock::wall().0).unwrap() * 1000;
    let fence = granted(&store, &first).await.fence;
    assert!(fence.0.abs_diff(now_us) < 60_000_000, "{fence:?} at {now_us}");
    store.release(&proof(&first)).await.unwrap();
    // A counter from the future is counted on; the far future is exact as well.
    for ahead in [1_u64 << 52, (1 << 53) + 1, 9_000_000_000_000_000_000, u64::MAX - 1] {
        let counter = format!("stormlock/fence/{}", first.resource);
        server.set(&counter, "fence", &json!({"N": ahead.to_string()}));
        let next = claim(&first.resource, 60);
        assert_eq!(granted(&store, &next).await.fence, Fence(ahead + 1));
        store.release(&proof(&next)).await.unwrap();
    }
}

#[tokio::test]
async fn the_counters_are_no_resource() {
    let server = DynamoServer::start();
    let store = open(&server.url());
    let on = Resource::new("stormlock/fence/a").unwrap();
    let claim = claim(&on, 60);
    assert_eq!(outcome(store.acquire(&claim).await), "Foreign");
    assert_eq!(outcome(store.cancel(&on, claim.lease).await), "Foreign");
    assert_eq!(outcome(store.holder(&on).await), "Foreign");
    assert_eq!(outcome(store.renew(&proof(&claim), ttl(9), claim.nonce).await), "Foreign");
    assert_eq!(outcome(store.release(&proof(&claim)).await), "Foreign");
    assert_eq!(server.item(on.as_str()), Value::Null);
}

#[tokio::test]
async fn counters_that_are_none_of_ours_are_left_alone() {
    let server = DynamoServer::start();
    let store = open(&server.url());
    let key = "stormlock/fence/a";
    let claim = claim(&Resource::new("a").unwrap(), 60);
    for fence in [json!({"S": "7"}), json!({"N": "1.5"}), json!({"N": u64::MAX.to_string()})] {
        server.put(&json!({"resource": {"S": key}, "fence": fence, "name": {"S": "x"}}));
        let before = server.item(key);
        assert_eq!(outcome(store.acquire(&claim).await), "Foreign", "{fence}");
        assert_eq!(server.item(key), before);
        assert_eq!(server.item("a"), Value::Null);
    }
    server.put(&json!({"resource": {"S": key}, "lease": {"S": "x"}}));
    let before = server.item(key);
    assert_eq!(outcome(store.acquire(&claim).await), "Foreign");
    assert_eq!(outcome(store.cancel(&claim.resource, claim.lease).await), "Foreign");
    assert_eq!(server.item(key), before);
}

#[tokio::test]
async fn a_dead_lock_is_taken_only_after_the_margin() {
    let server = DynamoServer::start();
    let takeover_margin = Duration::from_secs(1000);
    let patient = Options { takeover_margin, ..options(&server.url()) };
    let patient = DynamoDb::new(&patient, clock::now).unwrap();
    let on = resource("margin");
    let mut item = python(&on, contract::lease());
    for (age, is_over) in [(900, false), (1100, true)] {
        item["expires"] = json!({"N": (now_secs() - age).to_string()});
        server.put(&item);
        let holder = patient.holder(&on).await.unwrap();
        assert_eq!(holder.is_none(), is_over, "{age}");
        if let Some(holder) = holder {
            assert_eq!(holder.remaining, Some(Duration::ZERO));
        }
        let attempt = patient.acquire(&claim(&on, 60)).await.unwrap();
        assert_eq!(matches!(attempt, Attempt::Granted(_)), is_over, "{age}: {attempt:?}");
    }
}

#[tokio::test]
async fn a_lock_that_was_renewed_meanwhile_is_not_taken_over() {
    let server = DynamoServer::start();
    let proxy = proxy::Proxy::start(server.port());
    let store = open(&format!("http://127.0.0.1:{}", proxy.port()));
    let on = resource("revived");
    let mut item = python(&on, contract::lease());
    item["expires"] = json!({"N": (now_secs() - 5).to_string()});
    server.put(&item);
    granted(&store, &claim(&resource("warm"), 60)).await;
    proxy.when("TransactWriteItems", proxy::Fault::HoldRequest);
    let taking = claim(&on, 60);
    let mut take = store.acquire(&taking);
    network::polled_until(&mut take, || proxy.hits() == 1).await;
    // The Python tool renews a lock that has ended, if nobody took it.
    server.set(on.as_str(), "expires", &json!({"N": (now_secs() + 500).to_string()}));
    proxy.deliver();
    let Attempt::Held(Some(holder)) = take.await.unwrap() else { panic!("taken over") };
    assert!(holder.remaining.unwrap() > Duration::from_secs(400), "{holder:?}");
}

#[tokio::test]
async fn a_dead_lock_of_ours_is_taken_away_when_it_is_seen() {
    let server = DynamoServer::start();
    let store = open(&server.url());
    let past = json!({"N": (now_secs() - 100).to_string()});
    let dead: Vec<_> = (0..2).map(|_| claim(&resource("dead"), 60)).collect();
    for claim in &dead {
        granted(&store, claim).await;
        server.set(claim.resource.as_str(), "expires", &past);
    }
    assert_eq!(store.holder(&dead[0].resource).await.unwrap(), None);
    assert_eq!(server.item(dead[0].resource.as_str()), Value::Null);
    // A lock of the Python tool's stays for it, dead or not.
    let (on, lease) = (resource("python"), contract::lease());
    let mut item = python(&on, lease);
    item["expires"] = past;
    server.put(&item);
    assert_eq!(store.holder(&on).await.unwrap(), None);
    assert_eq!(store.list(None, 100).await.unwrap(), []);
    assert_eq!(server.item(on.as_str()), item);
    assert_eq!(server.item(dead[1].resource.as_str()), Value::Null);
}

#[tokio::test]
async fn a_lease_of_ours_that_another_writer_ended_is_taken_away_when_its_agent_sees_it() {
    let server = DynamoServer::start();
    let store = open(&server.url());
    let ended: Vec<_> = (0..2).map(|_| claim(&resource("ended"), 600)).collect();
    for claim in &ended {
        granted(&store, claim).await;
        let past = json!({"N": (now_secs() - 100).to_string()});
        server.set(claim.resource.as_str(), "expires", &past);
    }
    let gone = Standing::NotOurs(None);
    assert_eq!(store.verify(&proof(&ended[0])).await.unwrap(), gone);
    assert_eq!(store.renew(&proof(&ended[1]), ttl(600), contract::nonce()).await.unwrap(), gone);
    for claim in &ended {
        assert_eq!(server.item(claim.resource.as_str()), Value::Null);
    }
}

#[tokio::test]
async fn a_lease_that_another_writer_cut_says_so_when_it_is_read_back() {
    let server = DynamoServer::start();
    let store = open(&server.url());
    let claim = claim(&resource("cut"), 86_400);
    granted(&store, &claim).await;
    // The Python tool's renew names no lease: it sets `expires` of whoever has the lock.
    server.set(claim.resource.as_str(), "expires", &json!({"N": (now_secs() + 5).to_string()}));
    let read = store.verify(&proof(&claim)).await.unwrap();
    let Standing::Ours { remaining } = read else { panic!("{read:?}") };
    assert!(remaining <= Duration::from_secs(5), "{remaining:?}");
    let again = granted(&store, &claim).await;
    assert!(again.remaining <= Duration::from_secs(5), "{again:?}");
    // The next renewal sets it again.
    let next = contract::nonce();
    let renewed = store.renew(&proof(&claim), ttl(86_400), next).await.unwrap();
    assert_eq!(renewed, Standing::Ours { remaining: Duration::from_secs(86_400) });
    assert!(n(&server.item(claim.resource.as_str()), "expires") >= now_secs() + 86_399);
}

#[tokio::test]
async fn a_host_whose_clock_stood_still_believes_the_answer_and_not_itself() {
    static AHEAD_SECS: AtomicU64 = AtomicU64::new(3600);
    fn clock_of_the_host() -> Moment {
        clock::now() + Duration::from_secs(AHEAD_SECS.load(Ordering::SeqCst))
    }
    let server = DynamoServer::start();
    let store = DynamoDb::new(&options(&server.url()), clock_of_the_host).unwrap();
    let claim = claim(&resource("paused"), 60);
    granted(&store, &claim).await;
    // An hour passes that this host does not see: its machine was paused.
    AHEAD_SECS.store(0, Ordering::SeqCst);
    let known = proof(&claim);
    let renewed = store.renew(&known, ttl(60), claim.nonce).await.unwrap();
    assert_eq!(renewed, Standing::Ours { remaining: Duration::ZERO });
    let renewed = store.renew(&known, ttl(60), claim.nonce).await.unwrap();
    assert_eq!(renewed, Standing::Ours { remaining: Duration::from_secs(60) });
    assert!(n(&server.item(claim.resource.as_str()), "expires") >= now_secs() + 59);
}

#[tokio::test]
async fn a_list_leaves_out_counters_and_names_that_are_none_of_ours() {
    let server = DynamoServer::start();
    let store = open(&server.url());
    for key in ["ok", "sp ace", "-dash", "ümlaut", "stormlock/fence/x"] {
        server.put(&json!({
            "resource": {"S": key}, "lease": {"S": "7".repeat(32)}, "created": {"N": "1.5"},
        }));
    }
    let locks = store.list(None, 100).await.unwrap();
    assert_eq!(locks.iter().map(|lock| lock.resource.as_str()).collect::<Vec<_>>(), ["ok"]);
    assert_eq!((locks[0].since, locks[0].remaining), (UnixMs(1500), None));
}

#[tokio::test]
async fn a_list_reads_all_pages_of_a_scan() {
    let server = DynamoServer::start();
    let store = open(&server.url());
    // A page has one megabyte; an item at most 400 kilobytes.
    let bulk = "x".repeat(300_000);
    for name in 0..8 {
        let on = Resource::new(format!("bulk/{name}")).unwrap();
        let mut item = python(&on, contract::lease());
        item["bulk"] = json!({"S": bulk});
        server.put(&item);
    }
    let locks = store.list(None, 100).await.unwrap();
    assert_eq!(locks.len(), 8);
}

#[tokio::test]
async fn what_strangers_wrote_is_tamed() {
    let server = DynamoServer::start();
    let store = open(&server.url());
    let on = resource("tamed");
    server.put(&json!({
        "resource": {"S": on.as_str()},
        "lease": {"S": "7".repeat(32)},
        "principal": {"S": "\u{1b}[31m"},
        "created": {"S": "soon"},
        "fence": {"N": "-1"},
        "host": {"S": ""},
        "reason": {"S": "a\nb"},
        "mark": {"N": "1"},
    }));
    let holder = store.holder(&on).await.unwrap().unwrap();
    assert_eq!(holder.principal.as_str(), "\u{fffd}[31m");
    assert_eq!(holder.reason.unwrap().as_str(), "a\u{fffd}b");
    assert_eq!((holder.host, holder.fence, holder.since), (None, None, UnixMs(0)));
}

#[tokio::test]
async fn another_table_under_the_same_name_has_another_identity() {
    let mut server = DynamoServer::start();
    let store = open(&server.url());
    assert_eq!(store.identity(), None);
    store.holder(&resource("any")).await.unwrap();
    let before = store.identity().expect("a table's id");
    server.kill();
    assert_eq!(outcome(store.holder(&resource("any")).await), "Unreachable");
    server.start_again();
    store.holder(&resource("any")).await.unwrap();
    assert_ne!(store.identity().expect("a table's id"), before);
}

#[tokio::test]
async fn setup_makes_the_table_once_and_says_what_it_did() {
    let server = DynamoServer::start_with(&[]);
    let store = open(&server.url());
    let claim = claim(&resource("setup"), 60);
    assert_eq!(outcome(store.acquire(&claim).await), "NotSetUp(NoTable)");
    let said = store.setup().unwrap().await.unwrap();
    assert_eq!(said, ["table stormlock is created", "its TTL is turned on, by expires"]);
    let said = store.setup().unwrap().await.unwrap();
    assert_eq!(said, ["table stormlock is there already", "its TTL is on expires already"]);
    granted(&store, &claim).await;
    let by_hand = store.setup_by_hand().unwrap();
    let place =
        format!("--region us-east-1 --endpoint-url {} --table-name stormlock", server.url());
    for command in ["create-table", "wait table-exists", "update-time-to-live"] {
        assert!(by_hand.contains(&format!("{command} {place}")), "{by_hand}");
    }
}

#[tokio::test]
async fn setup_leaves_a_table_alone_that_is_none_of_ours() {
    let server = DynamoServer::start_with(&[]);
    server.run(
        "CreateTable",
        &json!({
            "TableName": "stormlock",
            "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
            "BillingMode": "PAY_PER_REQUEST",
        }),
    );
    let store = open(&server.url());
    assert_eq!(outcome(store.setup().unwrap().await), "Foreign");
    assert_eq!(outcome(store.acquire(&claim(&resource("x"), 60)).await), "NotWritable");
}

#[test]
fn options_that_differ_in_anything_are_not_the_same() {
    let base = || options("http://a");
    assert!(base().same(&base()));
    let secret = |secret: &str| Some(("id".to_owned(), SecretString::from(secret)));
    for other in [
        Options { table: "x".to_owned(), ..base() },
        Options { region: None, ..base() },
        Options { endpoint_url: None, ..base() },
        Options { profile: Some("x".to_owned()), ..base() },
        Options { keys: None, ..base() },
        Options { keys: secret("x"), ..base() },
        Options { takeover_margin: Duration::from_secs(1), ..base() },
        Options { ca_file: Some("/ca".into()), ..base() },
        Options { client_cert: Some(("/a".into(), "/b".into())), ..base() },
    ] {
        assert!(!base().same(&other), "{other:?}");
    }
    let (one, other) =
        (Options { keys: secret("a"), ..base() }, Options { keys: secret("b"), ..base() });
    assert!(!one.same(&other));
    assert!(!format!("{other:?}").contains("\"b\""));
}
