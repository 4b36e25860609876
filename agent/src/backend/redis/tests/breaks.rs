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
    let server = RedisServer::start();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    for round in 0..20 {
        let is_cancelled = round % 2 == 0;
        let victim = claim(&resource("late"), 60);
        granted(&other, &victim).await;
        let breaker = Claim { over: Some(victim.lease), ..claim(&victim.resource, 60) };
        proxy.when(script::ACQUIRE.sha1.as_str(), Fault::HoldRequest);
        dropped_when(store.acquire(&breaker), || proxy.hits() == round + 1).await;
        if is_cancelled {
            other.cancel(&breaker.resource, breaker.lease).await.unwrap();
        }
        let before = script_calls(&server);
        proxy.deliver();
        arrived(&server, &before).await;
        let holder = other.holder(&victim.resource).await.unwrap().expect("somebody");
        assert_eq!(holder.lease, if is_cancelled { victim.lease } else { breaker.lease });
    }
}
