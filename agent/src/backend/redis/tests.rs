//! The suite of every store on a real redis-server, then what only Redis has: its layout, its
//! errors, and a network that loses, holds and cuts.

mod breaks;
mod doctor;
mod notices;
#[path = "../../../../tests/support/redis.rs"]
mod server;

use std::sync::Arc;
use std::time::Duration;

use stormlock_protocol::message::Level;
use stormlock_protocol::name::{Fence, UnixMs};

use super::super::certs::Certificates;
use super::super::contract::{self, Others, Site, claim, granted, proof, resource, ttl};
use super::super::proxy::{Fault, Proxy};
use super::*;
use crate::clock;
use server::{Answer, RedisServer};

/// What the Python tool runs to take a lock (stormlock 0.4.1), but for the question who has it.
const PYTHON_LOCK: &str = "redis.call('hmset', KEYS[1], 'id', ARGV[1], 'p', ARGV[2], 'c', ARGV[3])
    if ARGV[4] then redis.call('expire', KEYS[1], ARGV[4]) end";

struct Real {
    server: RedisServer,
    prefix: &'static str,
}

impl Real {
    fn start(prefix: &'static str) -> Real {
        Real { server: RedisServer::start(), prefix }
    }

    fn key(&self, on: &Resource) -> String {
        format!("{}{on}", self.prefix)
    }
}

impl Site for Real {
    fn open(&self) -> Arc<dyn Backend> {
        let key_prefix = self.prefix.to_owned();
        Arc::new(Redis::new(&Options { key_prefix, ..options(&self.server.url()) }).unwrap())
    }

    fn others(&self) -> Option<&dyn Others> {
        Some(self)
    }
}

impl Others for Real {
    fn lock<'a>(&'a self, on: &'a Resource, lease: LeaseId, ttl: Option<Ttl>) -> Pending<'a, ()> {
        Box::pin(async move {
            let now = clock::wall().0;
            let created = format!("{}.{:03}4567", now / 1000, now % 1000);
            let ttl = ttl.map(|ttl| ttl.as_secs().to_string());
            let key = self.key(on);
            let mut words: Vec<&[u8]> = vec![b"EVAL", PYTHON_LOCK.as_bytes(), b"1"];
            words.extend([key.as_bytes(), lease.as_bytes(), b"py@other", created.as_bytes()]);
            words.extend(ttl.as_ref().map(String::as_bytes));
            assert_eq!(self.server.command(&words), Answer::Bulk(None));
            Ok(())
        })
    }

    fn litter<'a>(&'a self, on: &'a [Resource]) -> Pending<'a, ()> {
        Box::pin(async move {
            let commands = [
                "SET {key} x",
                "RPUSH {key} x",
                "SADD {key} x",
                "ZADD {key} 1 x",
                "HSET {key} name x",
                "HSET {key} id 42 p maria c 0",
            ];
            assert_eq!(commands.len(), on.len());
            for (command, on) in commands.iter().zip(on) {
                self.server.run(&command.replace("{key}", &self.key(on)));
            }
            Ok(())
        })
    }

    fn dump<'a>(&'a self, on: &'a Resource) -> Pending<'a, String> {
        Box::pin(async move {
            let key = self.key(on);
            let whole = self.server.command(&["DUMP", &key]);
            let ends = matches!(self.server.run(&format!("PTTL {key}")), Answer::Int(0..));
            Ok(format!("{whole:?} {ends}"))
        })
    }
}

fn options(url: &str) -> Options {
    Options {
        url: url.to_owned(),
        username: None,
        password: None,
        key_prefix: String::new(),
        ca_file: None,
        client_cert: None,
        sentinel: None,
    }
}

fn open(url: &str) -> Redis {
    Redis::new(&options(url)).unwrap()
}

fn through(proxy: &Proxy) -> Redis {
    open(&format!("redis://127.0.0.1:{}", proxy.port()))
}

contract::contract!(Real::start(""));
contract::contract_with_others!(Real::start(""));
contract::contract_of_wide_ids!(Real::start(""));

mod with_a_prefix {
    use super::*;

    contract::contract!(Real::start("site[1]*/"));
    contract::contract_with_others!(Real::start("site[1]*/"));
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

#[tokio::test]
async fn a_lock_is_stored_as_the_python_tool_stores_it() {
    let server = RedisServer::start();
    let store = open(&server.url());
    let mut claim = claim(&Resource::new("prod/db").unwrap(), 60);
    claim.created = UnixMs(1_700_000_000_005);
    let grant = granted(&store, &claim).await;
    let field = |name: &str| server.command(&["HGET", "prod/db", name]);
    assert_eq!(field("id"), Answer::Bulk(Some(claim.lease.as_bytes().to_vec())));
    assert_eq!(field("p").text(), "maria@bastion2");
    assert_eq!(field("c").text(), "1700000000.005");
    assert_eq!(field("f").text(), grant.fence.0.to_string());
    assert_eq!(field("h").text(), "bastion2");
    assert_eq!(field("r"), Answer::Bulk(None));
    assert_eq!(field("n").text(), format!("{:016x}", claim.nonce.0));
    let counter = server.run("HGET stormlock:fences prod/db");
    assert_eq!(counter.text(), grant.fence.0.to_string());
    assert_eq!(server.run("PTTL stormlock:fences"), Answer::Int(-1));
}

#[tokio::test]
async fn fences_are_at_least_the_server_s_time_in_microseconds() {
    let server = RedisServer::start();
    let store = open(&server.url());
    let first = claim(&resource("time"), 60);
    let now_us = u64::try_from(clock::wall().0).unwrap() * 1000;
    let fence = granted(&store, &first).await.fence;
    assert!(fence.0.abs_diff(now_us) < 60_000_000, "{fence:?} at {now_us}");
    // A counter from the future is counted on; the far future is exact as well.
    store.release(&proof(&first)).await.unwrap();
    for ahead in [1_u64 << 52, (1 << 53) + 1, 900_000_000_000_000_000] {
        server.run(&format!("HSET stormlock:fences {} {ahead}", first.resource));
        let next = claim(&first.resource, 60);
        assert_eq!(granted(&store, &next).await.fence, Fence(ahead + 1));
        store.release(&proof(&next)).await.unwrap();
    }
}

#[tokio::test]
async fn agents_that_spell_a_key_differently_share_its_counter() {
    let server = RedisServer::start();
    let whole = open(&server.url());
    let key_prefix = "a/".to_owned();
    let parted = Redis::new(&Options { key_prefix, ..options(&server.url()) }).unwrap();
    let (ours, theirs) = (Resource::new("a/b").unwrap(), Resource::new("b").unwrap());
    let first = claim(&ours, 60);
    granted(&whole, &first).await;
    let held = parted.acquire(&claim(&theirs, 60)).await.unwrap();
    assert!(matches!(held, Attempt::Held(Some(_))), "{held:?}");
    whole.release(&proof(&first)).await.unwrap();
    server.run("HSET stormlock:fences a/b 900000000000000000");
    let fence = granted(&parted, &claim(&theirs, 60)).await.fence;
    assert_eq!(fence, Fence(900_000_000_000_000_001));
}

#[tokio::test]
async fn the_counters_are_no_resource() {
    let server = RedisServer::start();
    let store = open(&server.url());
    let on = Resource::new("stormlock:fences").unwrap();
    let claim = claim(&on, 60);
    assert_eq!(outcome(store.acquire(&claim).await), "Foreign");
    assert_eq!(outcome(store.cancel(&on, claim.lease).await), "Foreign");
    assert_eq!(outcome(store.holder(&on).await), "Foreign");
    assert_eq!(server.run("DBSIZE"), Answer::Int(0));
    let key_prefix = "stormlock:".to_owned();
    let prefixed = Redis::new(&Options { key_prefix, ..options(&server.url()) }).unwrap();
    let fences = contract::claim(&Resource::new("fences").unwrap(), 60);
    assert_eq!(outcome(prefixed.acquire(&fences).await), "Foreign");
}

#[tokio::test]
async fn counters_that_are_none_of_ours_are_left_alone() {
    for (made, shown) in [
        ("SET stormlock:fences x", "GET stormlock:fences"),
        ("HSET stormlock:fences a x", "HGETALL stormlock:fences"),
        ("HSET stormlock:fences a 9223372036854775807", "HGETALL stormlock:fences"),
    ] {
        let server = RedisServer::start();
        server.run(made);
        let before = server.run(shown);
        let store = open(&server.url());
        let claim = claim(&Resource::new("a").unwrap(), 60);
        assert_eq!(outcome(store.acquire(&claim).await), "Foreign", "{made}");
        assert_eq!(outcome(store.cancel(&claim.resource, claim.lease).await), "Foreign", "{made}");
        assert_eq!(server.run(shown), before);
        assert_eq!(server.run("EXISTS a"), Answer::Int(0));
    }
}

#[tokio::test]
async fn forgotten_scripts_are_sent_again() {
    let server = RedisServer::start();
    let store = open(&server.url());
    for _ in 0..2 {
        let claim = claim(&resource("flush"), 60);
        granted(&store, &claim).await;
        server.run("SCRIPT FLUSH SYNC");
        store.release(&proof(&claim)).await.unwrap();
        server.run("SCRIPT FLUSH SYNC");
    }
}

#[tokio::test]
async fn a_list_leaves_out_names_that_are_none_of_ours() {
    let server = RedisServer::start();
    let store = open(&server.url());
    for key in ["ok", "sp ace", "-dash", "ümlaut", "b\u{1}"] {
        let id: &[u8] = &[7; 16];
        server.command(&[b"HSET", key.as_bytes(), b"id", id, b"p", b"py", b"c", b"1.5"]);
    }
    let locks = store.list(None, 100).await.unwrap();
    assert_eq!(locks.iter().map(|lock| lock.resource.as_str()).collect::<Vec<_>>(), ["ok"]);
    assert_eq!((locks[0].since, locks[0].remaining), (UnixMs(1500), None));
}

#[tokio::test]
async fn a_list_finds_the_locks_among_many_other_keys() {
    let server = RedisServer::start();
    let store = open(&server.url());
    let script = "for n = 0, 9999 do
            redis.call('HSET', string.format('a%05d', n), 'name', 'x')
            redis.call('SET', 'b' .. n, 'x')
        end
        for n = 0, 699 do redis.call('HSET', string.format('lock%03d', n), 'id', ARGV[1]) end";
    server.command(&["EVAL", script, "0", "sixteen raw bytes".get(..16).unwrap()]);
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(after.as_ref(), 500).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.resource.clone());
        names.extend(page.into_iter().map(|lock| lock.resource.as_str().to_owned()));
    }
    let expected: Vec<_> = (0..700).map(|n| format!("lock{n:03}")).collect();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn what_strangers_wrote_is_tamed() {
    let server = RedisServer::start();
    let store = open(&server.url());
    let on = resource("tamed");
    let id: &[u8] = &[7; 16];
    let key = on.as_str().as_bytes();
    server.command(&[
        b"HSET",
        key,
        b"id",
        id,
        b"p",
        b"\xff\x1b[31m",
        b"c",
        b"soon",
        b"f",
        b"-1",
        b"h",
        b"",
        b"r",
        b"a\nb",
    ]);
    let holder = store.holder(&on).await.unwrap().unwrap();
    assert_eq!(holder.principal.as_str(), "\u{fffd}\u{fffd}[31m");
    assert_eq!(holder.reason.unwrap().as_str(), "a\u{fffd}b");
    assert_eq!((holder.host, holder.fence, holder.since), (None, None, UnixMs(0)));
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_the_same_claim_finds_its_fence() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("lost"), 60);
    proxy.when(script::ACQUIRE.sha1.as_str(), Fault::CutAfter);
    assert_eq!(outcome(store.acquire(&claim).await), "Unknown");
    assert_eq!(proxy.hits(), 1);
    let counter = server.run(&format!("HGET stormlock:fences {}", claim.resource)).text();
    let again = granted(&store, &claim).await;
    assert_eq!(again.fence.0.to_string(), counter);
}

#[tokio::test]
async fn a_request_that_broke_off_is_unknown_and_did_not_happen() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("cut"), 60);
    proxy.when(script::ACQUIRE.sha1.as_str(), Fault::CutBefore);
    assert_eq!(outcome(store.acquire(&claim).await), "Unknown");
    assert_eq!(store.holder(&claim.resource).await.unwrap(), None);
}

#[tokio::test]
async fn a_late_copy_of_a_cancelled_acquire_fails() {
    let server = RedisServer::start();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    for round in 0..20 {
        let claim = claim(&resource("late"), 60);
        proxy.when(script::ACQUIRE.sha1.as_str(), Fault::HoldRequest);
        dropped_when(store.acquire(&claim), || proxy.hits() == round + 1).await;
        other.cancel(&claim.resource, claim.lease).await.unwrap();
        let before = script_calls(&server);
        proxy.deliver();
        arrived(&server, &before).await;
        assert_eq!(other.holder(&claim.resource).await.unwrap(), None, "an orphan");
    }
}

#[tokio::test]
async fn without_a_cancel_that_late_copy_would_have_succeeded() {
    let server = RedisServer::start();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("late"), 60);
    proxy.when(script::ACQUIRE.sha1.as_str(), Fault::HoldRequest);
    dropped_when(store.acquire(&claim), || proxy.hits() == 1).await;
    let before = script_calls(&server);
    proxy.deliver();
    arrived(&server, &before).await;
    let holder = other.holder(&claim.resource).await.unwrap().expect("the late copy's lock");
    assert_eq!(holder.lease, claim.lease);
}

/// How many scripts the server ran.
fn script_calls(server: &RedisServer) -> String {
    let info = server.run("INFO commandstats").text();
    let line = info.lines().find(|line| line.starts_with("cmdstat_evalsha:"));
    line.and_then(|line| line.split(',').next()).unwrap_or("").to_owned()
}

async fn arrived(server: &RedisServer, before: &str) {
    let end = clock::now() + Duration::from_secs(60);
    while script_calls(server) == before {
        assert!(clock::now() < end, "it does not arrive");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_abandoned_call_closes_its_connection_by_a_reset() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("reset"), 60);
    proxy.when(script::ACQUIRE.sha1.as_str(), Fault::LoseAnswer);
    dropped_when(store.acquire(&claim), || proxy.hits() == 1).await;
    let end = clock::now() + Duration::from_secs(60);
    while proxy.resets() == 0 {
        assert!(clock::now() < end, "no reset");
        tokio::task::yield_now().await;
    }
    // The next call has a connection of its own.
    assert!(store.holder(&claim.resource).await.unwrap().is_some());
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn a_call_that_waits_beside_an_abandoned_one_still_hears_its_answer() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    let (one, two) = (claim(&resource("one"), 60), claim(&resource("two"), 60));
    granted(&store, &one).await;
    granted(&store, &two).await;
    proxy.freeze();
    let (first, second) = (proof(&one), proof(&two));
    let mut waits = store.verify(&first);
    dropped_when(store.verify(&second), {
        let polls = std::cell::Cell::new(0);
        move || polls.replace(polls.get() + 1) == 50
    })
    .await;
    assert!(
        std::future::poll_fn(|cx| { std::task::Poll::Ready(waits.as_mut().poll(cx).is_pending()) })
            .await
    );
    proxy.thaw();
    assert!(matches!(waits.await.unwrap(), Standing::Ours { .. }));
    assert!(store.holder(&one.resource).await.unwrap().is_some());
}

#[tokio::test]
async fn a_server_that_is_down_is_a_definite_no() {
    let mut server = RedisServer::start();
    let store = open(&server.url());
    let claim = claim(&resource("down"), 60);
    granted(&store, &claim).await;
    server.kill();
    // An answer to the first may be owed; from then on nothing is sent.
    let first = outcome(store.acquire(&claim).await);
    assert!(first == "Unknown" || first == "Unreachable", "{first}");
    assert_eq!(outcome(store.acquire(&claim).await), "Unreachable");
    assert_eq!(outcome(store.holder(&claim.resource).await), "Unreachable");
    server.start_again();
    granted(&store, &claim).await;
}

#[tokio::test]
async fn a_server_that_swallows_everything_is_a_definite_no_in_bounded_time() {
    let server = RedisServer::start();
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
async fn another_run_of_the_server_has_another_identity() {
    let mut server = RedisServer::start();
    let store = open(&server.url());
    assert_eq!(store.identity(), None);
    let on = resource("identity");
    store.holder(&on).await.unwrap();
    let first = store.identity().expect("a name");
    assert!(server.run("INFO server").text().contains(&first));
    store.holder(&on).await.unwrap();
    assert_eq!(store.identity().as_ref(), Some(&first));
    server.kill();
    server.start_again();
    while store.holder(&on).await.is_err() {}
    assert_ne!(store.identity().expect("a name"), first);
}

#[tokio::test]
async fn a_replica_takes_no_lock_and_tells_none() {
    let primary = RedisServer::start();
    let address = primary.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &address]);
    let store = open(&replica.url());
    let claim = claim(&resource("replica"), 60);
    let Err(BackendError::Refused { kind: RefusedKind::NotWritable, why }) =
        store.acquire(&claim).await
    else {
        panic!("a replica took a lock")
    };
    assert!(why.contains(&format!("replica of 127.0.0.1:{address}")), "{why}");
    assert_eq!(outcome(store.holder(&claim.resource).await), "NotWritable");
}

#[tokio::test]
async fn a_primary_that_became_a_replica_proves_nothing_any_more() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let store = open(&server.url());
    let claim = claim(&resource("demoted"), 60);
    granted(&store, &claim).await;
    server.run(&format!("REPLICAOF 127.0.0.1 {}", other.port()));
    assert_eq!(outcome(store.verify(&proof(&claim)).await), "NotWritable");
    assert_eq!(outcome(store.release(&proof(&claim)).await), "NotWritable");
    server.run("REPLICAOF NO ONE");
    assert_eq!(outcome(store.cancel(&claim.resource, claim.lease).await), "()");
}

#[tokio::test]
async fn a_full_server_takes_no_new_lock_and_keeps_the_old_ones() {
    let server = RedisServer::start();
    let store = open(&server.url());
    let (held, given_back) = (claim(&resource("held"), 60), claim(&resource("back"), 60));
    granted(&store, &held).await;
    granted(&store, &given_back).await;
    server.run("CONFIG SET maxmemory 1");
    let fresh = claim(&resource("fresh"), 60);
    assert_eq!(outcome(store.acquire(&fresh).await), "NotWritable");
    assert_eq!(server.run(&format!("HEXISTS stormlock:fences {}", fresh.resource)), Answer::Int(0));
    let renewed = store.renew(&proof(&held), ttl(120), contract::nonce()).await.unwrap();
    assert_eq!(renewed, Standing::Ours { remaining: Duration::from_secs(120) });
    assert_eq!(outcome(store.cancel(&fresh.resource, fresh.lease).await), "()");
    assert_eq!(server.run(&format!("HEXISTS stormlock:fences {}", fresh.resource)), Answer::Int(1));
    store.release(&proof(&given_back)).await.unwrap();
    assert_eq!(store.holder(&given_back.resource).await.unwrap(), None);
}

#[tokio::test]
async fn a_wrong_password_is_said_without_repeating_it() {
    let server = RedisServer::start_with(&["--requirepass", "hunter2"]);
    let on = resource("password");
    for (user, password) in
        [(None, None), (None, Some("hunter3")), (Some("maria"), Some("hunter3"))]
    {
        let options = Options {
            username: user.map(str::to_owned),
            password: password.map(SecretString::from),
            ..options(&server.url())
        };
        assert!(!format!("{options:?}").contains("hunter3"));
        let store = Redis::new(&options).unwrap();
        assert!(!format!("{store:?}").contains("hunter3"));
        let Err(BackendError::Refused { kind: RefusedKind::Credentials, why }) =
            store.holder(&on).await
        else {
            panic!("let in as {user:?} with {password:?}")
        };
        assert!(!why.contains("hunter"), "{why}");
    }
    let password = Some(SecretString::from("hunter2"));
    let store = Redis::new(&Options { password, ..options(&server.url()) }).unwrap();
    granted(&store, &claim(&on, 60)).await;
}

fn as_user(server: &RedisServer, rights: &str) -> Redis {
    server.run(&format!("ACL SETUSER maria reset on >secret {rights}"));
    let (username, password) = (Some("maria".to_owned()), Some(SecretString::from("secret")));
    Redis::new(&Options { username, password, ..options(&server.url()) }).unwrap()
}

#[tokio::test]
async fn a_user_without_rights_is_told_so_and_changes_nothing() {
    let server = RedisServer::start();
    let on = Resource::new("site/a").unwrap();
    for rights in [
        "~* +info",
        "~* +@all -evalsha -eval",
        "~other/* ~stormlock:fences +@all",
        "~site/* +@all",
        "~* +@all -@write",
        "~* +@all -hincrby",
        "~* +@all -time",
    ] {
        let store = as_user(&server, rights);
        let claim = claim(&on, 60);
        // What is said of keys says nothing of other keys.
        let expected = if rights.contains("~*") { "Credentials" } else { "Denied" };
        assert_eq!(outcome(store.acquire(&claim).await), expected, "{rights}");
        assert_eq!(server.run("DBSIZE"), Answer::Int(0), "{rights}");
    }
}

#[tokio::test]
async fn the_rights_that_the_header_names_are_enough() {
    let server = RedisServer::start();
    let rights = "~site/* ~stormlock:fences +@read +@write +@scripting +time";
    let nameless = as_user(&server, rights);
    let claim = claim(&Resource::new("site/a").unwrap(), 60);
    granted(&nameless, &claim).await;
    assert_eq!(nameless.identity(), None);
    let store = as_user(&server, &format!("{rights} +info"));
    store.renew(&proof(&claim), ttl(60), claim.nonce).await.unwrap();
    store.verify(&proof(&claim)).await.unwrap();
    assert_eq!(store.list(None, 10).await.unwrap().len(), 1);
    store.release(&proof(&claim)).await.unwrap();
    store.cancel(&claim.resource, claim.lease).await.unwrap();
    assert!(store.identity().is_some());
}

#[tokio::test]
async fn a_unix_socket_and_a_database_are_reached() {
    let server = RedisServer::start();
    let url = format!("redis+unix://{}?db=3", server.socket().display());
    let claim = claim(&resource("unix"), 60);
    granted(&open(&url), &claim).await;
    assert_eq!(server.run("DBSIZE"), Answer::Int(0));
    let third = open(&format!("{}/3", server.url()));
    assert!(third.holder(&claim.resource).await.unwrap().is_some());
    let missing = open("redis+unix:///nowhere/redis.sock");
    assert_eq!(outcome(missing.holder(&claim.resource).await), "Unreachable");
    let beyond = open(&format!("{}/999", server.url()));
    assert_eq!(outcome(beyond.holder(&claim.resource).await), "Unreachable");
}

#[tokio::test]
async fn options_that_differ_in_anything_are_not_the_same() {
    let base = options("redis://a");
    assert!(base.same(&base.clone()));
    let path = || Some(PathBuf::from("x"));
    for other in [
        Options { url: "redis://b".to_owned(), ..base.clone() },
        Options { username: Some("x".to_owned()), ..base.clone() },
        Options { password: Some(SecretString::from("x")), ..base.clone() },
        Options { key_prefix: "x".to_owned(), ..base.clone() },
        Options { ca_file: path(), ..base.clone() },
        Options { client_cert: path().zip(path()), ..base.clone() },
        Options {
            sentinel: Some(Sentinel { nodes: vec![], service: "x".to_owned() }),
            ..base.clone()
        },
    ] {
        assert!(!base.same(&other), "{other:?}");
    }
}

/// A server that speaks TLS only, and its certificates.
fn tls_server(clients: &str) -> (RedisServer, Certificates) {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(dir.path());
    let args = ["--port", "0", "--tls-port", "{port}", "--tls-cert-file", "{dir}/server.pem"];
    let more = ["--tls-key-file", "{dir}/server.key", "--tls-ca-cert-file", "{dir}/ca.pem"];
    let args = [&args[..], &more, &["--tls-auth-clients", clients]].concat();
    (RedisServer::start_in(dir, &args), certificates)
}

fn tls_options(port: u16, host: &str, ca: PathBuf) -> Options {
    Options { ca_file: Some(ca), ..options(&format!("rediss://{host}:{port}")) }
}

#[tokio::test]
async fn a_port_without_tls_is_told_from_one_that_does_not_answer() {
    let plain = RedisServer::start();
    // What answers a greeting at once, and not by TLS.
    let chatty = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let chatty_port = chatty.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in chatty.incoming().map_while(Result::ok) {
            use std::io::{Read, Write};
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"-ERR Protocol error\r\n");
        }
    });
    let (_server, certificates) = tls_server("no");
    for port in [plain.port(), chatty_port] {
        let store = Redis::new(&tls_options(port, "127.0.0.1", certificates.ca())).unwrap();
        let why = store.holder(&resource("tls")).await.unwrap_err().to_string();
        assert!(why.contains("if that port speaks none, write redis://"), "{why}");
    }
}

#[tokio::test]
async fn a_lock_is_taken_by_tls_from_whom_the_authority_vouches_for() {
    let (server, certificates) = tls_server("no");
    for host in ["127.0.0.1", "localhost"] {
        let store = Redis::new(&tls_options(server.port(), host, certificates.ca())).unwrap();
        granted(&store, &claim(&resource("tls"), 60)).await;
    }
}

#[tokio::test]
async fn a_server_that_the_authority_does_not_vouch_for_is_refused() {
    let (server, _) = tls_server("no");
    let elsewhere = tempfile::tempdir().unwrap();
    let others = Certificates::make(elsewhere.path());
    let on = resource("tls");
    let stranger = Redis::new(&tls_options(server.port(), "127.0.0.1", others.ca())).unwrap();
    let Err(BackendError::Refused { kind: RefusedKind::Unreachable, why }) =
        stranger.holder(&on).await
    else {
        panic!("a stranger was trusted")
    };
    assert!(why.contains("certificate"), "{why}");
    // Nor do the system's authorities vouch for it, if there are any here.
    let url = format!("rediss://127.0.0.1:{}", server.port());
    if let Ok(store) = Redis::new(&options(&url)) {
        assert_eq!(outcome(store.holder(&on).await), "Unreachable");
    }
}

#[tokio::test]
async fn a_server_under_another_name_is_refused() {
    let (server, certificates) = tls_server("no");
    let proxy = Proxy::start(server.port());
    // 127.0.0.2 is this host too, and not in the certificate.
    let store = Redis::new(&tls_options(server.port(), "127.0.0.2", certificates.ca())).unwrap();
    assert_eq!(outcome(store.holder(&resource("tls")).await), "Unreachable");
    let named = Redis::new(&tls_options(proxy.port(), "127.0.0.1", certificates.ca())).unwrap();
    granted(&named, &claim(&resource("tls"), 60)).await;
}

#[tokio::test]
async fn a_server_that_wants_client_certificates_gets_ours() {
    let (server, certificates) = tls_server("yes");
    let bare = tls_options(server.port(), "127.0.0.1", certificates.ca());
    let store = Redis::new(&bare).unwrap();
    assert_eq!(outcome(store.holder(&resource("tls")).await), "Unreachable");
    let known = Options { client_cert: Some(certificates.pair("client")), ..bare };
    let store = Redis::new(&known).unwrap();
    granted(&store, &claim(&resource("tls"), 60)).await;
}

#[tokio::test]
async fn an_abandoned_call_over_tls_is_reset_as_well() {
    let (server, certificates) = tls_server("no");
    let proxy = Proxy::start(server.port());
    let store = Redis::new(&tls_options(proxy.port(), "127.0.0.1", certificates.ca())).unwrap();
    let on = resource("tls");
    store.holder(&on).await.unwrap();
    proxy.freeze();
    dropped_when(store.holder(&on), {
        let polls = std::cell::Cell::new(0);
        move || polls.replace(polls.get() + 1) == 50
    })
    .await;
    proxy.thaw();
    let end = clock::now() + Duration::from_secs(60);
    while proxy.resets() == 0 {
        assert!(clock::now() < end, "no reset");
        tokio::task::yield_now().await;
    }
}

#[test]
fn options_that_cannot_work_are_refused_when_the_store_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(dir.path());
    let (client, _) = certificates.pair("client");
    let (_, server_key) = certificates.pair("server");
    let tls = || options("rediss://a");
    let sentinel = |nodes: &[&str], service: &str| {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        Some(Sentinel { nodes, service: service.to_owned() })
    };
    for (wrong, word) in [
        (options("redis://:hunter2@a"), "password"),
        (Options { username: Some("maria".to_owned()), ..options("redis://a") }, "password"),
        (Options { ca_file: Some("ca.pem".into()), ..options("redis://a") }, "rediss"),
        (Options { ca_file: Some("/nowhere/ca.pem".into()), ..tls() }, "/nowhere/ca.pem"),
        (Options { ca_file: Some(server_key.clone()), ..tls() }, "no PEM certificate"),
        (Options { client_cert: Some((client.clone(), server_key)), ..tls() }, "fit its key"),
        (Options { client_cert: Some((client.clone(), client)), ..tls() }, "client.pem"),
        (Options { sentinel: sentinel(&[], "main"), ..options("redis://a") }, "sentinels"),
        (Options { sentinel: sentinel(&["a"], ""), ..options("redis://a") }, "sentinels"),
        (Options { sentinel: sentinel(&["a"], "x"), ..options("redis+unix:///a") }, "sentinels"),
    ] {
        let OpenError::Setting(why) = Redis::new(&wrong).unwrap_err();
        assert!(why.contains(word) && !why.contains("hunter2"), "{wrong:?}: {why}");
    }
}

/// A sentinel that watches `primary` under the name `main`.
fn sentinel_for(primary: u16) -> RedisServer {
    let dir = tempfile::tempdir().unwrap();
    let watch = format!("sentinel monitor main 127.0.0.1 {primary} 1\n");
    let file = dir.path().join("sentinel.conf");
    std::fs::write(&file, watch).unwrap();
    RedisServer::sentinel_in(dir, &file)
}

fn by_sentinels(nodes: Vec<String>, service: &str) -> Redis {
    let sentinel = Some(Sentinel { nodes, service: service.to_owned() });
    Redis::new(&Options { sentinel, ..options("redis://ignored") }).unwrap()
}

#[tokio::test]
async fn the_primary_is_the_one_that_a_sentinel_names() {
    let primary = RedisServer::start();
    let sentinel = sentinel_for(primary.port());
    let dead = format!("127.0.0.1:{}", server::free_port());
    let node = format!("127.0.0.1:{}", sentinel.port());
    let claim = claim(&resource("sentinel"), 60);
    let store = by_sentinels(vec![dead.clone(), node.clone()], "main");
    granted(&store, &claim).await;
    assert!(open(&primary.url()).holder(&claim.resource).await.unwrap().is_some());

    let Err(BackendError::Refused { kind: RefusedKind::Unreachable, why }) =
        by_sentinels(vec![dead.clone(), node], "other").holder(&claim.resource).await
    else {
        panic!("found a primary that nobody watches")
    };
    assert!(why.contains(&dead) && why.contains("no primary named \"other\""), "{why}");
}

#[tokio::test]
async fn a_sentinel_that_names_a_replica_is_not_believed() {
    let primary = RedisServer::start();
    let sentinel = sentinel_for(primary.port());
    let other = RedisServer::start();
    let store = by_sentinels(vec![format!("127.0.0.1:{}", sentinel.port())], "main");
    let claim = claim(&resource("sentinel"), 60);
    granted(&store, &claim).await;
    primary.run(&format!("REPLICAOF 127.0.0.1 {}", other.port()));
    assert_eq!(outcome(store.verify(&proof(&claim)).await), "NotWritable");
    assert_eq!(outcome(store.verify(&proof(&claim)).await), "NotWritable");
}

/// What doctor would say, as `Level: text`.
async fn examined(store: &Redis) -> Vec<String> {
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
async fn a_server_that_keeps_every_promise_is_good() {
    let server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let remarks = examined(&open(&server.url())).await;
    assert!(remarks.len() >= 4, "{remarks:#?}");
    assert!(remarks.iter().all(|remark| remark.starts_with("Good: ")), "{remarks:#?}");
    assert_eq!(server.run("DBSIZE"), Answer::Int(0));
}

#[tokio::test]
async fn each_promise_that_a_server_does_not_keep_is_told() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "volatile-lru"]);
    let store = open(&server.url());
    let remarks = examined(&store).await;
    check_says(&remarks, "Bad: maxmemory-policy is volatile-lru");
    check_says(&remarks, "Warning: nothing is saved");
    server.run("CONFIG SET maxmemory 1");
    check_says(&examined(&store).await, "Warning: its memory is");
    server.run("CONFIG SET maxmemory 0");
    server.command(&["CONFIG", "SET", "save", "60 1"]);
    check_says(&examined(&store).await, "Warning: appendonly is no");
    server.run("CONFIG SET appendonly yes");
    check_says(&examined(&store).await, "Warning: appendfsync is everysec");
    server.run("CONFIG SET min-replicas-to-write 1");
    check_says(&examined(&store).await, "Bad: redis answered NOREPLICAS");
    let mend = store.examine().await.unwrap()[0].mend.clone().unwrap();
    assert!(mend.ends_with("the server's log"), "no matter of rights: {mend}");
}

#[tokio::test]
async fn what_may_not_be_read_is_said() {
    let server = RedisServer::start();
    let rights = "~* +@read +@write +@scripting +time";
    let remarks = examined(&as_user(&server, rights)).await;
    check_says(&remarks, "Good: it is a primary");
    check_says(&remarks, "Note: INFO may not be read");
    check_says(&remarks, "Note: CONFIG GET may not be read");
    let elsewhere = as_user(&server, "~other +@all");
    check_says(&examined(&elsewhere).await, "Bad: ");
    let mend = elsewhere.examine().await.unwrap()[0].mend.clone().unwrap();
    assert!(mend.contains("one who may lock some names only"), "{mend}");
}

#[tokio::test]
async fn a_server_that_is_down_is_no_remark() {
    let store = open(&format!("redis://127.0.0.1:{}", server::free_port()));
    assert_eq!(outcome(store.examine().await), "Unreachable");
}
