//! What only Redis shows of a break: its record, and a late copy of it.

use super::*;

#[tokio::test]
async fn nothing_of_a_broken_lock_stays_in_its_hash() {
    let server = RedisServer::start();
    let store = open(&server.url());
    let victim = claim(&resource("broken"), 60);
    granted(&store, &victim).await;
    let key = victim.resource.as_str();
    server.command(&["HSET", key, "r", "a reason", "x", "another's field"]);
    let breaker = Claim { over: Some(victim.lease), ..claim(&victim.resource, 60) };
    granted(&store, &breaker).await;
    let Answer::Array(fields) = server.command(&["HKEYS", key]) else { panic!("no hash") };
    let mut fields: Vec<_> = fields.iter().map(Answer::text).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["c", "f", "h", "id", "n", "p"]);
}

#[tokio::test]
async fn a_late_copy_of_a_break_fails_after_its_cancel_and_only_then() {
    let site = Real::start("");
    let server = &site.server;
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    for round in 0..20 {
        let is_cancelled = round % 2 == 0;
        let victim = claim(&resource("late"), 60);
        granted(&other, &victim).await;
        let breaker = Claim { over: Some(victim.lease), ..claim(&victim.resource, 60) };
        held_back(&proxy, &store, &breaker).await;
        if is_cancelled {
            other.cancel(&breaker.resource, breaker.lease).await.unwrap();
        }
        let before = script_calls(server);
        proxy.deliver();
        arrived(server, &before).await;
        let holder = other.holder(&victim.resource).await.unwrap().expect("somebody");
        assert_eq!(holder.lease, if is_cancelled { victim.lease } else { breaker.lease });
    }
}

#[tokio::test]
async fn a_late_break_leaves_alone_what_the_python_tool_took_meanwhile() {
    let site = Real::start("");
    let server = &site.server;
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    let victim = claim(&resource("heir"), 60);
    granted(&other, &victim).await;
    let breaker = Claim { over: Some(victim.lease), ..claim(&victim.resource, 60) };
    held_back(&proxy, &store, &breaker).await;
    other.release(&proof(&victim)).await.unwrap();
    let python = contract::lease();
    site.lock(&victim.resource, python, Some(ttl(60))).await.unwrap();
    let before = script_calls(server);
    proxy.deliver();
    arrived(server, &before).await;
    // The counter is as it was: that tool moves none.
    assert_eq!(other.holder(&victim.resource).await.unwrap().expect("one").lease, python);
}

/// A break whose deciding script is on its way, at a proxy that keeps it back.
async fn held_back(proxy: &Proxy, store: &Redis, breaker: &Claim) {
    let hits = proxy.hits();
    proxy.when(script::ACQUIRE.sha1.as_str(), Fault::HoldRequest);
    dropped_when(store.acquire(breaker), || proxy.hits() == hits + 1).await;
}
