//! The suite of every store on a real etcd, then what only etcd has: its layout, its leases, its
//! errors, and a network that loses, holds and cuts.

mod breaks;
#[allow(clippy::duplicate_mod, reason = "each store tests with its own")]
#[path = "../../../../tests/support/certs.rs"]
mod certs;
mod doctor;
mod notices;
#[path = "../../../../tests/support/etcd.rs"]
mod server;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, PutOptions};
use stormlock_protocol::message::Level;
use stormlock_protocol::name::UnixMs;

use super::super::contract::{self, Others, Site, claim, granted, proof, resource, ttl};
use super::super::proxy::{Fault, Proxy};
use super::keys::LOCK;
use super::*;
use crate::clock;
use certs::Certificates;
use server::EtcdServer;

struct Real {
    server: EtcdServer,
    prefix: &'static str,
}

impl Real {
    fn start(prefix: &'static str) -> Real {
        Real { server: EtcdServer::start(), prefix }
    }

    fn key(&self, on: &Resource, ending: &str) -> String {
        format!("{}{on}{ending}", self.prefix)
    }

    async fn put(&self, key: String, value: impl Into<Vec<u8>>, lease: i64) {
        let options = (lease != 0).then(|| PutOptions::new().with_lease(lease));
        raw(&self.server).await.kv_client().put(key, value, options).await.expect("a put");
    }
}

impl Site for Real {
    fn open(&self) -> Arc<dyn Backend> {
        let key_prefix = self.prefix.to_owned();
        Arc::new(Etcd::new(&Options { key_prefix, ..options(&self.server.url()) }).unwrap())
    }

    fn others(&self) -> Option<&dyn Others> {
        Some(self)
    }
}

impl Others for Real {
    fn lock<'a>(&'a self, on: &'a Resource, lease: LeaseId, ttl: Option<Ttl>) -> Pending<'a, ()> {
        Box::pin(async move {
            let number = keys::number(lease).expect("a narrow id");
            let mut hangs_on = 0;
            if let Some(ttl) = ttl {
                let options = Some(LeaseGrantOptions::new().with_id(number));
                let secs = i64::from(ttl.as_secs());
                let mut client = raw(&self.server).await.lease_client();
                client.grant(secs, options).await.expect("a lease");
                hangs_on = number;
            }
            self.put(self.key(on, "/id"), keys::hex(number), hangs_on).await;
            self.put(self.key(on, "/p"), "py@other", hangs_on).await;
            self.put(self.key(on, "/c"), keys::created(clock::wall()), hangs_on).await;
            Ok(())
        })
    }

    fn litter<'a>(&'a self, on: &'a [Resource]) -> Pending<'a, ()> {
        Box::pin(async move {
            let litter: [&[(&str, &[u8])]; 6] = [
                &[("/id", b"x")],
                &[("/id", b""), ("/p", b"maria"), ("/c", &[0; 8])],
                &[("/id", b"00ff"), ("/p", b"maria"), ("/c", &[0; 8])],
                &[("/id", b"ff"), ("/c", &[0; 8])],
                &[("/id", b"ff"), ("/p", b"maria"), ("/c", b"soon")],
                &[("/r", b"somebody's")],
            ];
            assert_eq!(litter.len(), on.len());
            for (keys, on) in litter.iter().zip(on) {
                for (ending, value) in *keys {
                    self.put(self.key(on, ending), *value, 0).await;
                }
            }
            Ok(())
        })
    }

    fn dump<'a>(&'a self, on: &'a Resource) -> Pending<'a, String> {
        Box::pin(async move {
            let keys = Keys::new(self.prefix, on);
            let mut client = raw(&self.server).await.kv_client();
            let mut dump = String::new();
            for part in LOCK {
                let found = client.get(keys.of(part), None).await.expect("a get");
                dump.push_str(&format!("{:?}\n", found.kvs()));
            }
            Ok(dump)
        })
    }
}

/// The server without our backend in between.
async fn raw(server: &EtcdServer) -> Client {
    Client::connect([server.url()], None).await.expect("the server")
}

fn options(url: &str) -> Options {
    Options {
        endpoints: vec![url.to_owned()],
        login: None,
        key_prefix: PREFIX.to_owned(),
        ca_file: None,
        client_cert: None,
    }
}

fn open(url: &str) -> Etcd {
    Etcd::new(&options(url)).unwrap()
}

fn through(proxy: &Proxy) -> Etcd {
    open(&format!("http://127.0.0.1:{}", proxy.port()))
}

contract::contract!(Real::start(PREFIX));
contract::contract_with_others!(Real::start(PREFIX));

mod without_a_prefix {
    use super::*;

    contract::contract!(Real::start(""));
    contract::contract_with_others!(Real::start(""));
}

/// What a call said, in a word.
fn outcome<T: std::fmt::Debug>(answer: Result<T, BackendError>) -> String {
    match answer {
        Ok(value) => format!("{value:?}"),
        Err(BackendError::Unknown { .. }) => "Unknown".to_owned(),
        Err(BackendError::Refused { kind, .. }) => format!("{kind:?}"),
    }
}

/// Lets `call` run until `until` holds, then drops it, as the driver does when patience ends.
async fn dropped_when<T: std::fmt::Debug>(mut call: Pending<'_, T>, until: impl Fn() -> bool) {
    runs_until(&mut call, until).await;
}

/// Lets `call` run until `until` holds.
async fn runs_until<T: std::fmt::Debug>(call: &mut Pending<'_, T>, until: impl Fn() -> bool) {
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

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let end = clock::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(clock::now() < end, "{what}");
        tokio::task::yield_now().await;
    }
}

/// What only the transaction of an acquire or a cancel holds: the id as it is stored.
fn needle(claim: &Claim) -> String {
    keys::hex(keys::number(claim.lease).unwrap())
}

#[tokio::test]
async fn a_lock_is_stored_as_the_python_tool_stores_it() {
    let server = EtcdServer::start();
    let store = open(&server.url());
    let mut claim = claim(&Resource::new("prod/db").unwrap(), 60);
    claim.created = UnixMs(1_700_000_000_500);
    let grant = granted(&store, &claim).await;
    let id = keys::number(claim.lease).unwrap();
    let mut client = raw(&server).await.kv_client();
    for (ending, value) in [
        ("/id", format!("{id:x}").into_bytes()),
        ("/p", b"maria@bastion2".to_vec()),
        ("/c", vec![0, 0, 0x20, 0x40, 0xfc, 0x54, 0xd9, 0x41]),
        ("/h", b"bastion2".to_vec()),
        ("/n", format!("{:016x}", claim.nonce.0).into_bytes()),
    ] {
        let found = client.get(format!("/prod/db{ending}"), None).await.unwrap();
        let [kv] = found.kvs() else { panic!("{ending}: {found:?}") };
        assert_eq!(kv.value(), value, "{ending}");
        assert_eq!(kv.lease(), id, "{ending}");
        assert_eq!(kv.create_revision().unsigned_abs(), grant.fence.0, "{ending}");
    }
    assert_eq!(client.get("/prod/db/r", None).await.unwrap().count(), 0);
    let counter = client.get("/prod/db/f", None).await.unwrap();
    assert_eq!(counter.kvs()[0].lease(), 0, "the counter outlives the lock");
}

#[tokio::test]
async fn a_late_copy_of_a_cancelled_acquire_fails_though_its_lease_is_granted_again() {
    let server = EtcdServer::start();
    let (store, other) = (open(&server.url()), open(&server.url()));
    for is_cancelled in [true, false] {
        let claim = claim(&resource("late"), 60);
        let keys = store.keys(&claim.resource);
        let id = keys::number(claim.lease).unwrap();
        // As far as an acquire gets before its transaction.
        let counter = store.look(&keys).await.unwrap().counter.unwrap();
        assert!(store.grant(id, claim.ttl).await.unwrap().is_some());
        if is_cancelled {
            other.cancel(&claim.resource, claim.lease).await.unwrap();
            // The lease is gone, and a late copy of its grant makes it again: etcd allows that.
            assert!(store.grant(id, claim.ttl).await.unwrap().is_some());
        }
        let late = store.transact(verbs::hang(&keys, &claim, id, counter)).await.unwrap();
        // Without the cancel it succeeds: so the test can fail.
        assert_eq!(late.succeeded(), !is_cancelled);
        let holder = other.holder(&claim.resource).await.unwrap();
        assert_eq!(holder.is_some(), !is_cancelled, "{holder:?}");
    }
}

#[tokio::test]
async fn a_late_copy_of_an_acquire_that_was_granted_and_given_back_fails() {
    let server = EtcdServer::start();
    let store = open(&server.url());
    let claim = claim(&resource("late"), 60);
    let keys = store.keys(&claim.resource);
    let id = keys::number(claim.lease).unwrap();
    let counter = store.look(&keys).await.unwrap().counter.unwrap();
    granted(&store, &claim).await;
    store.release(&proof(&claim)).await.unwrap();
    assert!(store.grant(id, claim.ttl).await.unwrap().is_some());
    let late = store.transact(verbs::hang(&keys, &claim, id, counter)).await.unwrap();
    assert!(!late.succeeded());
}

#[tokio::test]
async fn an_acquire_that_the_network_held_back_fails_after_its_cancel() {
    let server = EtcdServer::start();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    for round in 0..20 {
        let is_cancelled = round % 2 == 0;
        let claim = claim(&resource("late"), 60);
        proxy.when(needle(&claim), Fault::HoldRequest);
        // It is not dropped: etcd does not finish what a client that is gone had asked for.
        let mut call = store.acquire(&claim);
        runs_until(&mut call, || proxy.hits() == round + 1).await;
        if is_cancelled {
            other.cancel(&claim.resource, claim.lease).await.unwrap();
        }
        proxy.deliver();
        let answer = call.await.unwrap();
        // Without the cancel it succeeds: so the test can fail.
        assert_eq!(matches!(answer, Attempt::Granted(_)), !is_cancelled, "{answer:?}");
        let holder = other.holder(&claim.resource).await.unwrap();
        assert_eq!(holder.is_some(), !is_cancelled, "{holder:?}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_the_same_claim_finds_its_fence() {
    let server = EtcdServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("lost"), 60);
    proxy.when(needle(&claim), Fault::LoseAnswer);
    let key = format!("get /{}/id", claim.resource);
    dropped_when(store.acquire(&claim), || !server.run(&key).is_empty()).await;
    let other = open(&server.url());
    let fence = other.holder(&claim.resource).await.unwrap().unwrap().fence;
    assert_eq!(Some(granted(&store, &claim).await.fence), fence);
}

#[tokio::test]
async fn a_request_that_broke_off_is_unknown_and_did_not_happen() {
    let server = EtcdServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("cut"), 60);
    proxy.when(needle(&claim), Fault::CutBefore);
    assert_eq!(outcome(store.acquire(&claim).await), "Unknown");
    assert_eq!(store.holder(&claim.resource).await.unwrap(), None);
    // What is left is a lease that no key hangs on; the same claim takes it up.
    let grant = granted(&store, &claim).await;
    assert!(grant.remaining <= Duration::from_secs(60), "{grant:?}");
}

#[tokio::test]
async fn an_abandoned_call_closes_its_connection_by_a_reset() {
    let server = EtcdServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("reset"), 60);
    proxy.when(needle(&claim), Fault::LoseAnswer);
    dropped_when(store.acquire(&claim), || proxy.hits() == 1).await;
    until("no reset", async || proxy.resets() > 0).await;
    // The next call has a connection of its own.
    store.holder(&claim.resource).await.unwrap();
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn a_call_that_waits_beside_an_abandoned_one_still_hears_its_answer() {
    let server = EtcdServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    let (one, two) = (claim(&resource("one"), 60), claim(&resource("two"), 60));
    granted(&store, &one).await;
    granted(&store, &two).await;
    proxy.freeze();
    let polls = std::cell::Cell::new(0);
    let mut waits = store.holder(&one.resource);
    std::future::poll_fn(|cx| {
        assert!(waits.as_mut().poll(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    dropped_when(store.holder(&two.resource), || polls.replace(polls.get() + 1) == 50).await;
    proxy.thaw();
    assert!(waits.await.unwrap().is_some());
    assert!(store.holder(&one.resource).await.unwrap().is_some());
}

#[tokio::test]
async fn a_server_that_is_down_is_a_definite_no_and_the_next_endpoint_is_asked() {
    let mut server = EtcdServer::start();
    let dead = format!("http://127.0.0.1:{}", server::free_port());
    let endpoints = vec![dead, server.url()];
    let both = Etcd::new(&Options { endpoints, ..options("") }).unwrap();
    let store = open(&server.url());
    let claim = claim(&resource("down"), 60);
    granted(&store, &claim).await;
    granted(&both, &claim).await;
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
    let server = EtcdServer::start();
    let proxy = Proxy::start(server.port());
    proxy.freeze();
    let store = through(&proxy);
    let began = clock::now();
    let claim = claim(&resource("mute"), 60);
    let (one, two) = tokio::join!(store.acquire(&claim), store.acquire(&claim));
    assert_eq!((outcome(one).as_str(), outcome(two).as_str()), ("Unreachable", "Unreachable"));
    assert!(began.until(clock::now()) < Duration::from_secs(10));
    assert_eq!(proxy.connections(), 1, "one connection attempt for both");
    proxy.thaw();
    granted(&store, &claim).await;
}

#[tokio::test]
async fn a_cluster_that_forgot_everything_has_another_identity() {
    let mut server = EtcdServer::start();
    let store = open(&server.url());
    assert_eq!(store.identity(), None);
    let on = resource("identity");
    granted(&store, &claim(&on, 60)).await;
    let first = store.identity().expect("a name");
    server.kill();
    server.start_again();
    until("it is back", async || store.holder(&on).await.is_ok()).await;
    assert_eq!(store.identity().as_ref(), Some(&first), "a restart forgets nothing");
    // The same members by the same token make a cluster of the same id.
    server.kill();
    server.wipe();
    server.start_again();
    until("it is back", async || store.holder(&on).await.is_ok()).await;
    assert_ne!(store.identity().expect("a name"), first);
}

#[tokio::test]
async fn a_renewal_for_another_length_moves_the_lock_to_another_etcd_lease() {
    let server = EtcdServer::start();
    let store = open(&server.url());
    let mut claim = claim(&resource("length"), 60);
    claim.reason = Some(stormlock_protocol::name::Reason::new("why").unwrap());
    let grant = granted(&store, &claim).await;
    let before = store.holder(&claim.resource).await.unwrap().unwrap();
    store.renew(&proof(&claim), ttl(90), claim.nonce).await.unwrap();
    let after = store.holder(&claim.resource).await.unwrap().unwrap();
    assert!(after.remaining > Some(Duration::from_secs(80)), "{after:?}");
    assert_eq!(after.fence, Some(grant.fence));
    assert_eq!(Holder { remaining: None, ..after }, Holder { remaining: None, ..before });
    // Its first lease is gone; who frees it by that (the Python tool) is told so and frees nothing.
    let id = keys::number(claim.lease).unwrap();
    assert!(raw(&server).await.lease_client().revoke(id).await.is_err());
    assert!(store.holder(&claim.resource).await.unwrap().is_some());
    // A renewal for the same length stays where it is.
    let keys = store.keys(&claim.resource);
    let hangs_on = store.look(&keys).await.unwrap().lock().unwrap().hangs_on;
    store.renew(&proof(&claim), ttl(90), claim.nonce).await.unwrap();
    assert_eq!(store.look(&keys).await.unwrap().lock().unwrap().hangs_on, hangs_on);
    store.release(&proof(&claim)).await.unwrap();
    let left = raw(&server).await.lease_client().leases().await.unwrap();
    assert!(left.leases().is_empty(), "{left:?}");
}

#[tokio::test]
async fn nothing_that_was_refused_or_given_back_leaves_an_etcd_lease_behind() {
    let server = EtcdServer::start();
    let store = open(&server.url());
    let on = resource("tidy");
    let (ours, late) = (claim(&on, 60), claim(&on, 60));
    // A contender that loses after it looked.
    let keys = store.keys(&on);
    let counter = store.look(&keys).await.unwrap().counter.unwrap();
    granted(&store, &ours).await;
    let number = keys::number(late.lease).unwrap();
    store.grant(number, late.ttl).await.unwrap();
    assert!(!store.transact(verbs::hang(&keys, &late, number, counter)).await.unwrap().succeeded());
    store.cancel(&on, late.lease).await.unwrap();
    assert!(matches!(store.acquire(&late).await.unwrap(), Attempt::Held(Some(_))));
    store.release(&proof(&ours)).await.unwrap();
    let left = raw(&server).await.lease_client().leases().await.unwrap();
    assert!(left.leases().is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_lease_of_another_system_is_never_revoked() {
    let server = EtcdServer::start();
    let store = open(&server.url());
    let on = resource("shared");
    let client = raw(&server).await;
    let theirs = client.lease_client().grant(60, None).await.unwrap().id();
    let put = async |key: &str, value: &[u8]| {
        let options = Some(PutOptions::new().with_lease(theirs));
        client.kv_client().put(key, value, options).await.unwrap();
    };
    put("theirs", b"x").await;
    // A lock of a writer that hangs it on a lease for many things.
    put(&format!("/{on}/id"), b"abc").await;
    put(&format!("/{on}/p"), b"other").await;
    put(&format!("/{on}/c"), &[0; 8]).await;
    let named = Proof { resource: on.clone(), lease: "abc".parse().unwrap(), nonces: Vec::new() };
    store.release(&named).await.unwrap();
    assert_eq!(store.holder(&on).await.unwrap(), None);
    assert_eq!(client.kv_client().get("theirs", None).await.unwrap().count(), 1);
}

#[tokio::test]
async fn resources_below_one_another_do_not_touch() {
    let server = EtcdServer::start();
    let store = open(&server.url());
    let names = ["a", "a/b", "a/id", "a/f", "a/p"];
    let claims: Vec<_> = names.map(|name| claim(&Resource::new(name).unwrap(), 60)).into();
    for claim in &claims {
        granted(&store, claim).await;
    }
    let listed = store.list(None, 10).await.unwrap();
    let found: Vec<_> = listed.iter().map(|lock| lock.resource.as_str()).collect();
    assert_eq!(found, ["a", "a/b", "a/f", "a/id", "a/p"]);
    store.release(&proof(&claims[0])).await.unwrap();
    store.cancel(&claims[0].resource, claims[0].lease).await.unwrap();
    for claim in &claims[1..] {
        assert!(matches!(store.verify(&proof(claim)).await.unwrap(), Standing::Ours { .. }));
    }
}

#[tokio::test]
async fn a_counter_that_is_none_of_ours_is_left_alone() {
    let server = EtcdServer::start();
    let store = open(&server.url());
    server.run("put /a/f somebody's");
    let claim = claim(&Resource::new("a").unwrap(), 60);
    assert_eq!(outcome(store.acquire(&claim).await), "Foreign");
    assert_eq!(outcome(store.cancel(&claim.resource, claim.lease).await), "Foreign");
    assert_eq!(server.run("get /a/f"), "/a/f\nsomebody's\n");
    assert_eq!(store.holder(&claim.resource).await.unwrap(), None);
}

#[tokio::test]
async fn a_lease_id_that_etcd_cannot_hold_is_nobody_s() {
    let server = EtcdServer::start();
    let store = open(&server.url());
    let mut claim = claim(&resource("wide"), 60);
    claim.lease = LeaseId::from_bytes([7; 16]);
    assert_eq!(outcome(store.acquire(&claim).await), "Foreign");
    assert_eq!(store.verify(&proof(&claim)).await.unwrap(), Standing::NotOurs(None));
    store.cancel(&claim.resource, claim.lease).await.unwrap();
    store.release(&proof(&claim)).await.unwrap();
}

#[tokio::test]
async fn what_strangers_wrote_is_tamed_and_their_extras_are_no_part_of_it() {
    let server = EtcdServer::start();
    let store = open(&server.url());
    let client = raw(&server).await;
    let lease = client.lease_client().grant(60, None).await.unwrap().id();
    let options = || Some(PutOptions::new().with_lease(lease));
    for (ending, value) in
        [("id", &b"7"[..]), ("p", b"\xff\x1b[31m"), ("c", &f64::NAN.to_le_bytes()), ("r", b"a\nb")]
    {
        client.kv_client().put(format!("/tamed/{ending}"), value, options()).await.unwrap();
    }
    // Left behind by somebody else: it hangs on nothing.
    client.kv_client().put("/tamed/h", "elsewhere", None).await.unwrap();
    let holder = store.holder(&Resource::new("tamed").unwrap()).await.unwrap().unwrap();
    assert_eq!(holder.principal.as_str(), "\u{fffd}\u{fffd}[31m");
    assert_eq!(holder.reason.unwrap().as_str(), "a\u{fffd}b");
    assert_eq!((holder.host, holder.fence, holder.since), (None, None, UnixMs(0)));
}

#[tokio::test]
async fn a_list_finds_the_locks_among_many_other_keys() {
    let server = EtcdServer::start();
    let store = open(&server.url());
    let mut client = raw(&server).await.kv_client();
    for batch in 0..100 {
        let puts: Vec<_> =
            (0..120).map(|n| TxnOp::put(format!("/other{batch:03}/{n}"), "x", None)).collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
    server.run("put /no\tname/id x");
    let mut expected = Vec::new();
    for n in 0..40 {
        let claim = claim(&Resource::new(format!("other{n:03}/lock")).unwrap(), 60);
        granted(&store, &claim).await;
        expected.push(claim.resource);
    }
    let listed = store.list(None, 1000).await.unwrap();
    let found: Vec<_> = listed.into_iter().map(|lock| lock.resource).collect();
    assert_eq!(found, expected);
}

/// A cluster with users, where `maria` may do `rights` to what begins with `/site/`.
fn with_users(args: &[&str], rights: &str) -> EtcdServer {
    let server = EtcdServer::start_with(args);
    for words in [
        "user add root:rootpw",
        "user grant-role root root",
        "user add maria:hunter2",
        "role add locks",
        &format!("role grant-permission locks --prefix=true {rights} /site/"),
        "user grant-role maria locks",
        "auth enable",
    ] {
        server.run(words);
    }
    server
}

fn as_user(server: &EtcdServer, user: &str, password: &str, key_prefix: &str) -> Etcd {
    let login = Some((user.to_owned(), SecretString::from(password)));
    let key_prefix = key_prefix.to_owned();
    Etcd::new(&Options { login, key_prefix, ..options(&server.url()) }).unwrap()
}

#[tokio::test]
async fn a_wrong_password_is_said_without_repeating_it() {
    let server = with_users(&[], "readwrite");
    let on = resource("password");
    for user in ["maria", "nobody"] {
        let store = as_user(&server, user, "hunter3", "/site/");
        assert!(!format!("{store:?}").contains("hunter3"));
        let Err(BackendError::Refused { kind: RefusedKind::Credentials, why }) =
            store.holder(&on).await
        else {
            panic!("let in as {user:?}")
        };
        assert!(!why.contains("hunter"), "{why}");
    }
    // Without a user at all.
    let store = open(&server.url());
    assert_eq!(outcome(store.acquire(&claim(&on, 60)).await), "Credentials");
}

#[tokio::test]
async fn the_rights_that_the_header_names_are_enough_and_fewer_are_not() {
    let server = with_users(&[], "readwrite");
    let store = as_user(&server, "maria", "hunter2", "/site/");
    let taken = claim(&resource("rights"), 60);
    granted(&store, &taken).await;
    store.renew(&proof(&taken), ttl(60), taken.nonce).await.unwrap();
    store.renew(&proof(&taken), ttl(90), taken.nonce).await.unwrap();
    store.verify(&proof(&taken)).await.unwrap();
    assert_eq!(store.list(None, 10).await.unwrap().len(), 1);
    store.release(&proof(&taken)).await.unwrap();
    store.cancel(&taken.resource, taken.lease).await.unwrap();
    assert_eq!(examined(&store).await.iter().filter(|it| it.starts_with("Bad")).count(), 0);

    let elsewhere = as_user(&server, "maria", "hunter2", "/other/");
    assert_eq!(outcome(elsewhere.acquire(&taken).await), "Denied");
    let server = with_users(&[], "read");
    let reader = as_user(&server, "maria", "hunter2", "/site/");
    assert_eq!(outcome(reader.acquire(&taken).await), "Denied");
    check_says(&examined(&reader).await, "Bad: etcd answered: etcdserver: permission denied");
    let mend = reader.examine().await.unwrap()[0].mend.clone().unwrap();
    assert!(mend.starts_with("give the user readwrite on the prefix"), "{mend}");
}

#[tokio::test]
async fn a_token_that_ran_out_is_replaced_in_the_same_call() {
    // Tokens of etcd live for five minutes of disuse; a restarted server knows none.
    let mut server = with_users(&[], "readwrite");
    let proxy = Proxy::start(server.port());
    let login = Some(("maria".to_owned(), SecretString::from("hunter2")));
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let key_prefix = "/site/".to_owned();
    let store = Etcd::new(&Options { login, key_prefix, ..options(&url) }).unwrap();
    let taken = claim(&resource("token"), 60);
    granted(&store, &taken).await;
    server.kill();
    server.start_again();
    until("it is back", async || store.holder(&taken.resource).await.is_ok()).await;
    // A changed user base makes every token old.
    for words in ["user add paul:x", "user delete paul"] {
        server.run(&format!("--user root:rootpw {words}"));
    }
    let answers = [store.verify(&proof(&taken)).await, store.verify(&proof(&taken)).await];
    assert!(answers.iter().any(|it| matches!(it, Ok(Standing::Ours { .. }))), "{answers:?}");
}

#[tokio::test]
async fn a_full_cluster_takes_no_new_lock_and_gives_up_old_ones() {
    let server = EtcdServer::start_with(&["--quota-backend-bytes=2000000"]);
    let store = open(&server.url());
    let (held, given_back) = (claim(&resource("held"), 60), claim(&resource("back"), 60));
    granted(&store, &held).await;
    granted(&store, &given_back).await;
    let mut client = raw(&server).await.kv_client();
    while client.put("filler", vec![0; 100_000], None).await.is_ok() {}
    let fresh = claim(&resource("fresh"), 60);
    assert_eq!(outcome(store.acquire(&fresh).await), "NotWritable");
    assert_eq!(outcome(store.cancel(&fresh.resource, fresh.lease).await), "NotWritable");
    let renewed = store.renew(&proof(&held), ttl(60), contract::nonce()).await;
    assert_eq!(outcome(renewed), "NotWritable");
    assert!(matches!(store.verify(&proof(&held)).await.unwrap(), Standing::Ours { .. }));
    store.release(&proof(&given_back)).await.unwrap();
    assert_eq!(store.holder(&given_back.resource).await.unwrap(), None);
    let remarks = examined(&store).await;
    check_says(&remarks, "Bad: etcd answered: etcdserver: mvcc: database space exceeded");
    check_says(&remarks, "Bad: a member raises an alarm: ");
    let mend = store.examine().await.unwrap()[0].mend.clone().unwrap();
    assert!(mend.ends_with("the members' logs"), "no matter of rights: {mend}");
}

#[tokio::test]
async fn options_that_differ_in_anything_are_not_the_same() {
    let base = options("http://a");
    assert!(base.same(&base.clone()));
    let path = || Some(PathBuf::from("x"));
    let login = |password: &str| Some(("u".to_owned(), SecretString::from(password)));
    let known = Options { login: login("x"), ..base.clone() };
    assert!(known.same(&known.clone()));
    assert!(!known.same(&Options { login: login("y"), ..base.clone() }));
    for other in [
        Options { endpoints: vec!["http://b".to_owned()], ..base.clone() },
        known,
        Options { key_prefix: "x".to_owned(), ..base.clone() },
        Options { ca_file: path(), ..base.clone() },
        Options { client_cert: path().zip(path()), ..base.clone() },
    ] {
        assert!(!base.same(&other), "{other:?}");
    }
}

/// A server that speaks TLS only, and its certificates.
fn tls_server(wants_client_certificates: bool) -> (EtcdServer, Certificates) {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let settings = [
        format!("--cert-file={}", path("server.pem")),
        format!("--key-file={}", path("server.key")),
        format!("--trusted-ca-file={}", path("ca.pem")),
    ];
    // An authority for clients makes etcd ask them for a certificate.
    let count = if wants_client_certificates { 3 } else { 2 };
    let all: Vec<&str> = settings.iter().take(count).map(String::as_str).collect();
    (EtcdServer::start_in(dir, &all), certificates)
}

fn tls_options(port: u16, host: &str, ca: PathBuf) -> Options {
    Options { ca_file: Some(ca), ..options(&format!("https://{host}:{port}")) }
}

#[tokio::test]
async fn a_lock_is_taken_by_tls_from_whom_the_authority_vouches_for() {
    let (server, certificates) = tls_server(false);
    let on = resource("tls");
    for host in ["127.0.0.1", "localhost"] {
        let store = Etcd::new(&tls_options(server.port(), host, certificates.ca())).unwrap();
        let taken = claim(&on, 60);
        granted(&store, &taken).await;
        store.release(&proof(&taken)).await.unwrap();
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let others = Certificates::make(elsewhere.path());
    let stranger = Etcd::new(&tls_options(server.port(), "127.0.0.1", others.ca())).unwrap();
    let Err(BackendError::Refused { kind: RefusedKind::Unreachable, why }) =
        stranger.holder(&on).await
    else {
        panic!("a stranger was trusted")
    };
    assert!(why.contains("certificate"), "{why}");
    // 127.0.0.2 is this host too, and not in the certificate.
    let misnamed = Etcd::new(&tls_options(server.port(), "127.0.0.2", certificates.ca())).unwrap();
    assert_eq!(outcome(misnamed.holder(&on).await), "Unreachable");
    // TLS is expected, and not spoken.
    let plain = open(&format!("http://127.0.0.1:{}", server.port()));
    assert_eq!(outcome(plain.holder(&on).await), "Unreachable");
}

#[tokio::test]
async fn a_server_that_wants_client_certificates_gets_ours() {
    let (server, certificates) = tls_server(true);
    let bare = tls_options(server.port(), "127.0.0.1", certificates.ca());
    let store = Etcd::new(&bare).unwrap();
    assert_eq!(outcome(store.holder(&resource("tls")).await), "Unreachable");
    let known = Options { client_cert: Some(certificates.pair("client")), ..bare };
    let store = Etcd::new(&known).unwrap();
    granted(&store, &claim(&resource("tls"), 60)).await;
    let remarks = examined(&store).await;
    assert!(!remarks.iter().any(|it| it.contains("asks for no password")), "{remarks:#?}");
}

#[tokio::test]
async fn an_abandoned_call_over_tls_is_reset_as_well() {
    let (server, certificates) = tls_server(false);
    let proxy = Proxy::start(server.port());
    let store = Etcd::new(&tls_options(proxy.port(), "127.0.0.1", certificates.ca())).unwrap();
    let on = resource("tls");
    store.holder(&on).await.unwrap();
    proxy.freeze();
    let polls = std::cell::Cell::new(0);
    dropped_when(store.holder(&on), || polls.replace(polls.get() + 1) == 50).await;
    proxy.thaw();
    until("no reset", async || proxy.resets() > 0).await;
}

#[test]
fn options_that_cannot_work_are_refused_when_the_store_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(dir.path());
    let (client, _) = certificates.pair("client");
    let (_, server_key) = certificates.pair("server");
    let tls = || options("https://a");
    let mixed = vec!["http://a".to_owned(), "https://a".to_owned()];
    for (wrong, word) in [
        (options("http://:hunter2@a"), "password"),
        (Options { endpoints: Vec::new(), ..tls() }, "no endpoint"),
        (Options { endpoints: mixed, ..tls() }, "alike"),
        (Options { ca_file: Some("ca.pem".into()), ..options("http://a") }, "https"),
        (Options { ca_file: Some("/nowhere/ca.pem".into()), ..tls() }, "/nowhere/ca.pem"),
        (Options { client_cert: Some((client, server_key)), ..tls() }, "fit its key"),
    ] {
        let OpenError::Setting(why) = Etcd::new(&wrong).unwrap_err();
        assert!(why.contains(word) && !why.contains("hunter2"), "{wrong:?}: {why}");
    }
}

/// What doctor would say, as `Level: text`.
async fn examined(store: &Etcd) -> Vec<String> {
    let remarks = store.examine().await.unwrap();
    for remark in &remarks {
        assert_eq!(remark.mend.is_none(), remark.level == Level::Good, "{remark:?}");
    }
    remarks.iter().map(|remark| format!("{:?}: {}", remark.level, remark.text)).collect()
}

#[track_caller]
fn check_says(remarks: &[String], starts: &str) {
    assert!(remarks.iter().any(|remark| remark.starts_with(starts)), "{starts}: {remarks:#?}");
}

#[tokio::test]
async fn doctor_says_what_a_cluster_promises_and_writes_nothing() {
    let server = EtcdServer::start_with(&["--quota-backend-bytes=9000000"]);
    let store = open(&server.url());
    let before = raw(&server).await.kv_client().get("x", None).await.unwrap();
    let remarks = examined(&store).await;
    check_says(&remarks, "Good: it has a leader and lets us write");
    check_says(&remarks, "Note: it has 1 voting member: without it nobody");
    check_says(&remarks, "Note: it asks for no password");
    assert!(remarks.iter().any(|it| it.contains(": etcd 3.")), "{remarks:#?}");
    let after = raw(&server).await.kv_client().get("x", None).await.unwrap();
    let revision = |it: &etcd_client::GetResponse| it.header().unwrap().revision();
    assert_eq!(revision(&before), revision(&after));
    let login = Some(("maria".to_owned(), SecretString::from("hunter2")));
    let idle = Etcd::new(&Options { login, ..options(&server.url()) }).unwrap();
    check_says(&examined(&idle).await, "Warning: a user is configured, but the cluster has");
    granted(&idle, &claim(&resource("idle"), 60)).await;
}

#[tokio::test]
async fn a_lock_outlives_the_leader_and_without_a_majority_nothing_is_granted() {
    let mut members = EtcdServer::cluster();
    let endpoints: Vec<_> = members.iter().map(EtcdServer::url).collect();
    let store = Etcd::new(&Options { endpoints, ..options("") }).unwrap();
    let taken = claim(&resource("leader"), 60);
    let grant = granted(&store, &taken).await;
    check_says(&examined(&store).await, "Good: it has 3 voting members");

    let mut leader = None;
    for (at, member) in members.iter().enumerate() {
        let status = raw(member).await.maintenance_client().status().await.unwrap();
        if status.header().unwrap().member_id() == status.leader() {
            leader = Some(at);
        }
    }
    members[leader.expect("a leader")].kill();
    let known = proof(&taken);
    until("the others go on", async || {
        let renewed = store.renew(&known, ttl(60), taken.nonce).await;
        matches!(renewed, Ok(Standing::Ours { .. }))
    })
    .await;
    let holder = store.holder(&taken.resource).await.unwrap().expect("it is still there");
    assert_eq!(holder.fence, Some(grant.fence));
    store.release(&known).await.unwrap();
    let next = claim(&taken.resource, 60);
    assert!(granted(&store, &next).await.fence > grant.fence);

    members[(leader.unwrap() + 1) % 3].kill();
    let fresh = claim(&resource("minority"), 60);
    for _ in 0..5 {
        let asked = [
            tokio::time::timeout(Duration::from_secs(2), store.acquire(&fresh)).await.map(outcome),
            tokio::time::timeout(Duration::from_secs(2), store.verify(&proof(&next)))
                .await
                .map(outcome),
        ];
        for said in asked.into_iter().flatten() {
            assert!(["Unknown", "NotWritable", "Unreachable"].contains(&&*said), "{said}");
        }
    }
}
