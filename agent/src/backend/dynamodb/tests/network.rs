//! A network that loses, holds and cuts.

use std::task::Poll;

use super::super::wire::CONNECT_MAX;
use super::proxy::{Fault, Proxy};
use super::*;

fn through(proxy: &Proxy) -> DynamoDb {
    open(&format!("http://127.0.0.1:{}", proxy.port()))
}

/// Lets `call` run until `until` holds, and no further.
pub(super) async fn polled_until<T: std::fmt::Debug>(
    call: &mut Pending<'_, T>,
    until: impl Fn() -> bool,
) {
    let end = clock::now() + Duration::from_secs(60);
    while !until() {
        assert!(clock::now() < end, "it does not come to that");
        std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = call.as_mut().poll(cx) {
                panic!("it has an answer: {}", outcome(answer));
            }
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
    }
}

/// The same, then drops it, as the driver does when patience ends.
pub(super) async fn dropped_when<T: std::fmt::Debug>(
    mut call: Pending<'_, T>,
    until: impl Fn() -> bool,
) {
    polled_until(&mut call, until).await;
}

pub(super) async fn comes_true(what: &str, is_true: impl Fn() -> bool) {
    let end = clock::now() + Duration::from_secs(60);
    while !is_true() {
        assert!(clock::now() < end, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_the_same_claim_finds_its_fence() {
    let server = DynamoServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("lost"), 60);
    proxy.when("TransactWriteItems", Fault::CutAfter);
    assert_eq!(outcome(store.acquire(&claim).await), "Unknown");
    assert_eq!(proxy.hits(), 1);
    comes_true("it does not arrive", || server.item(claim.resource.as_str()) != Value::Null).await;
    let counter = server.item(&format!("stormlock/fence/{}", claim.resource));
    let again = granted(&store, &claim).await;
    assert_eq!(again.fence.0.to_string(), n(&counter, "fence").to_string());
}

#[tokio::test]
async fn a_request_that_broke_off_is_unknown_and_did_not_happen() {
    let server = DynamoServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("cut"), 60);
    proxy.when("TransactWriteItems", Fault::CutBefore);
    assert_eq!(outcome(store.acquire(&claim).await), "Unknown");
    assert_eq!(store.holder(&claim.resource).await.unwrap(), None);
}

#[tokio::test]
async fn a_read_that_broke_off_changed_nothing() {
    let server = DynamoServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    proxy.when("BatchGetItem", Fault::CutAfter);
    assert_eq!(outcome(store.acquire(&claim(&resource("read"), 60)).await), "Unreachable");
}

#[tokio::test]
async fn a_late_copy_of_a_cancelled_acquire_fails() {
    let server = DynamoServer::start();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    for round in 0..20 {
        let claim = claim(&resource("late"), 60);
        proxy.when("TransactWriteItems", Fault::HoldRequest);
        dropped_when(store.acquire(&claim), || proxy.hits() == round + 1).await;
        other.cancel(&claim.resource, claim.lease).await.unwrap();
        proxy.deliver();
        // The proxy delivers on the connection before it hears that the client is gone; a whole
        // call through the same server comes after it.
        comes_true("no reset", || proxy.resets() > round).await;
        granted(&other, &contract::claim(&resource("after"), 60)).await;
        assert_eq!(other.holder(&claim.resource).await.unwrap(), None, "an orphan");
    }
}

#[tokio::test]
async fn without_a_cancel_that_late_copy_would_have_succeeded() {
    let server = DynamoServer::start();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("late"), 60);
    proxy.when("TransactWriteItems", Fault::HoldRequest);
    dropped_when(store.acquire(&claim), || proxy.hits() == 1).await;
    proxy.deliver();
    comes_true("the late copy", || server.item(claim.resource.as_str()) != Value::Null).await;
    let holder = other.holder(&claim.resource).await.unwrap().expect("the late copy's lock");
    assert_eq!(holder.lease, claim.lease);
}

#[tokio::test]
async fn a_late_copy_of_a_break_fails_after_its_cancel_and_only_then() {
    let server = DynamoServer::start();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    for round in 0..10 {
        let is_cancelled = round % 2 == 0;
        let victim = claim(&resource("late"), 60);
        granted(&other, &victim).await;
        let breaker = Claim { over: Some(victim.lease), ..claim(&victim.resource, 60) };
        proxy.when("TransactWriteItems", Fault::HoldRequest);
        dropped_when(store.acquire(&breaker), || proxy.hits() == round + 1).await;
        if is_cancelled {
            other.cancel(&breaker.resource, breaker.lease).await.unwrap();
        }
        proxy.deliver();
        let holder = async || other.holder(&victim.resource).await.unwrap().expect("one").lease;
        if is_cancelled {
            comes_true("no reset", || proxy.resets() > round).await;
            granted(&other, &contract::claim(&resource("after"), 60)).await;
            assert_eq!(holder().await, victim.lease);
        } else {
            let lease = || server.item(victim.resource.as_str())["lease"].clone();
            let broken = Value::from(super::hex(breaker.lease));
            let broken = serde_json::json!({ "S": broken });
            comes_true("the late copy", || lease() == broken).await;
            assert_eq!(holder().await, breaker.lease);
        }
    }
}

#[tokio::test]
async fn a_late_break_leaves_alone_what_the_python_tool_took_meanwhile() {
    let site = Real(DynamoServer::start());
    let (proxy, other) = (Proxy::start(site.0.port()), open(&site.0.url()));
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let victim = claim(&resource("heir"), 60);
    granted(&other, &victim).await;
    let breaker = Claim { over: Some(victim.lease), ..claim(&victim.resource, 60) };
    proxy.when("TransactWriteItems", Fault::HoldRequest);
    let mut call = store.acquire(&breaker);
    polled_until(&mut call, || proxy.hits() == 1).await;
    other.release(&proof(&victim)).await.unwrap();
    let python = contract::lease();
    site.lock(&victim.resource, python, Some(ttl(60))).await.unwrap();
    proxy.deliver();
    // The counter is as it was: that tool moves none.
    let answer = call.await.unwrap();
    let Attempt::Held(Some(holder)) = answer else { panic!("{answer:?}") };
    assert_eq!(holder.lease, python);
    assert_eq!(other.holder(&victim.resource).await.unwrap().expect("one").lease, python);
}

#[tokio::test]
async fn a_late_copy_of_an_older_renewal_changes_nothing() {
    let server = DynamoServer::start();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    let claim = claim(&resource("renewed"), 600);
    granted(&store, &claim).await;
    proxy.when("UpdateItem", Fault::HoldRequest);
    let known = proof(&claim);
    let late = contract::nonce();
    dropped_when(store.renew(&known, ttl(5), late), || proxy.hits() == 1).await;
    let next = contract::nonce();
    let both = Proof { nonces: vec![claim.nonce, late], ..proof(&claim) };
    assert!(matches!(other.renew(&both, ttl(600), next).await.unwrap(), Standing::Ours { .. }));
    proxy.deliver();
    comes_true("no reset", || proxy.resets() > 0).await;
    let now = Proof { nonces: vec![next], ..proof(&claim) };
    let Standing::Ours { remaining } = other.verify(&now).await.unwrap() else { panic!("lost") };
    assert!(remaining > Duration::from_secs(500), "{remaining:?}");
}

#[tokio::test]
async fn an_abandoned_call_closes_its_connection_by_a_reset() {
    let server = DynamoServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let claim = claim(&resource("reset"), 60);
    proxy.when("TransactWriteItems", Fault::LoseAnswer);
    dropped_when(store.acquire(&claim), || proxy.hits() == 1).await;
    comes_true("no reset", || proxy.resets() > 0).await;
    // The next call has a connection of its own.
    assert!(store.holder(&claim.resource).await.unwrap().is_some());
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn calls_share_connections_and_survive_that_one_is_closed() {
    let server = DynamoServer::start();
    let proxy = Proxy::start(server.port());
    let store = through(&proxy);
    let claim = claim(&resource("kept"), 60);
    granted(&store, &claim).await;
    for _ in 0..5 {
        store.verify(&proof(&claim)).await.unwrap();
    }
    assert_eq!(proxy.connections(), 1);
    proxy.cut();
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        outcomes.push(outcome(store.verify(&proof(&claim)).await));
    }
    assert!(outcomes[1].starts_with("Ours"), "{outcomes:?}");
}

#[tokio::test]
async fn a_server_that_is_down_is_a_definite_no() {
    let mut server = DynamoServer::start();
    let store = open(&server.url());
    let claim = claim(&resource("down"), 60);
    granted(&store, &claim).await;
    server.kill();
    assert_eq!(outcome(store.acquire(&claim).await), "Unreachable");
    let first = outcome(store.renew(&proof(&claim), ttl(60), claim.nonce).await);
    assert_eq!(first, "Unreachable");
    assert_eq!(outcome(store.release(&proof(&claim)).await), "Unreachable");
    assert_eq!(outcome(store.cancel(&claim.resource, claim.lease).await), "Unreachable");
    assert_eq!(outcome(store.holder(&claim.resource).await), "Unreachable");
    server.start_again();
    granted(&store, &claim).await;
}

#[tokio::test]
async fn a_server_that_swallows_everything_is_a_definite_no_in_bounded_time() {
    let server = DynamoServer::start();
    let proxy = Proxy::start(server.port());
    proxy.freeze();
    let store = through(&proxy);
    let began = clock::now();
    let claim = claim(&resource("mute"), 60);
    let (one, two) = tokio::join!(store.acquire(&claim), store.acquire(&claim));
    assert_eq!((outcome(one).as_str(), outcome(two).as_str()), ("Unreachable", "Unreachable"));
    assert!(began.until(clock::now()) < CONNECT_MAX + Duration::from_secs(7));
    proxy.thaw();
    granted(&store, &claim).await;
}
