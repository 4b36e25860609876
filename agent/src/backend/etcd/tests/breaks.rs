//! What only etcd shows of a break: its keys, its leases, and a late copy of it.

use super::keys::Part;
use super::*;

fn breaking(victim: &Claim) -> Claim {
    Claim { over: Some(victim.lease), ..claim(&victim.resource, 60) }
}

#[tokio::test]
async fn what_is_left_of_a_break_is_one_lock_and_one_etcd_lease() {
    let server = EtcdServer::start();
    let store = open(&server.url());
    let mut victim = claim(&resource("broken"), 60);
    victim.reason = Some(stormlock_protocol::name::Reason::new("why").unwrap());
    granted(&store, &victim).await;
    // It has the fence's key then, and an etcd lease that has not its name.
    store.renew(&proof(&victim), ttl(90), victim.nonce).await.unwrap();
    let keys = store.keys(&victim.resource);
    let client = raw(&server).await;
    let left = async |part| client.kv_client().get(keys.of(part), None).await.unwrap().count();
    assert_eq!((left(Part::Fence).await, left(Part::Reason).await), (1, 1));
    let breaker = breaking(&victim);
    granted(&store, &breaker).await;
    assert_eq!((left(Part::Fence).await, left(Part::Reason).await), (0, 0));
    let id = keys::number(breaker.lease).unwrap();
    for part in [Part::Id, Part::Principal, Part::Created, Part::Host, Part::Mark] {
        let found = client.kv_client().get(keys.of(part), None).await.unwrap();
        assert_eq!(found.kvs()[0].lease(), id, "{part:?}");
    }
    let leases = client.lease_client().leases().await.unwrap();
    let leases: Vec<_> = leases.leases().iter().map(|lease| lease.id()).collect();
    assert_eq!(leases, [id]);
    store.release(&proof(&breaker)).await.unwrap();
    assert!(client.lease_client().leases().await.unwrap().leases().is_empty());
}

#[tokio::test]
async fn a_break_that_was_cut_off_ends_its_victim_s_etcd_lease_when_it_is_asked_again() {
    let site = Real::start(PREFIX);
    let store = open(&site.server.url());
    let client = raw(&site.server).await;
    // Also where an etcd lease of that number has keys: so it is not the lock's alone.
    for is_shared in [false, true] {
        let (on, python) = (resource("cut"), contract::lease());
        site.lock(&on, python, Some(ttl(60))).await.unwrap();
        let theirs = keys::number(python).unwrap();
        if is_shared {
            let options = Some(PutOptions::new().with_lease(theirs));
            client.kv_client().put("theirs", "x", options).await.unwrap();
        }
        let breaker = Claim { over: Some(python), ..claim(&on, 60) };
        let id = keys::number(breaker.lease).unwrap();
        let keys = store.keys(&on);
        let seen = store.look(&keys).await.unwrap();
        assert!(store.grant(id, breaker.ttl).await.unwrap().is_some());
        let (counter, lock) = (seen.counter.unwrap(), seen.lock().unwrap());
        let cut = verbs::take_over(&keys, &breaker, id, counter, lock);
        assert!(store.transact(cut).await.unwrap().succeeded());
        assert!(store.keep_alive(theirs).await.unwrap().is_some(), "it renews what it lost");
        granted(&store, &breaker).await;
        assert_eq!(store.keep_alive(theirs).await.unwrap().is_some(), is_shared);
    }
}

#[tokio::test]
async fn a_break_leaves_alone_a_lease_that_is_not_certainly_the_lock_s() {
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
    put(&format!("/{on}/id"), b"abc").await;
    put(&format!("/{on}/p"), b"other").await;
    put(&format!("/{on}/c"), &[0; 8]).await;
    let breaker = Claim { over: Some("abc".parse().unwrap()), ..claim(&on, 60) };
    granted(&store, &breaker).await;
    assert_eq!(client.kv_client().get("theirs", None).await.unwrap().count(), 1);
    // Nor does their end end what is ours now.
    client.lease_client().revoke(theirs).await.unwrap();
    assert_eq!(store.holder(&on).await.unwrap().expect("somebody").lease, breaker.lease);
}

#[tokio::test]
async fn a_break_that_the_network_held_back_fails_after_its_cancel_and_only_then() {
    let server = EtcdServer::start();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    granted(&store, &claim(&resource("warm"), 60)).await;
    for round in 0..20 {
        let is_cancelled = round % 2 == 0;
        let victim = claim(&resource("late"), 60);
        granted(&other, &victim).await;
        let breaker = breaking(&victim);
        proxy.when(needle(&breaker), Fault::HoldRequest);
        // It is not dropped: etcd does not finish what a client that is gone had asked for.
        let mut call = store.acquire(&breaker);
        runs_until(&mut call, || proxy.hits() == round + 1).await;
        if is_cancelled {
            other.cancel(&breaker.resource, breaker.lease).await.unwrap();
        }
        proxy.deliver();
        let answer = call.await.unwrap();
        assert_eq!(matches!(answer, Attempt::Granted(_)), !is_cancelled, "{answer:?}");
        let holder = other.holder(&victim.resource).await.unwrap().expect("somebody");
        assert_eq!(holder.lease, if is_cancelled { victim.lease } else { breaker.lease });
    }
}

#[tokio::test]
async fn a_late_copy_of_a_cancelled_break_fails_though_its_lease_is_granted_again() {
    let server = EtcdServer::start();
    let (store, other) = (open(&server.url()), open(&server.url()));
    for is_cancelled in [true, false] {
        let victim = claim(&resource("late"), 60);
        granted(&other, &victim).await;
        let breaker = breaking(&victim);
        let keys = store.keys(&breaker.resource);
        let id = keys::number(breaker.lease).unwrap();
        // As far as a break gets before its transaction.
        let seen = store.look(&keys).await.unwrap();
        if is_cancelled {
            other.cancel(&breaker.resource, breaker.lease).await.unwrap();
        }
        assert!(store.grant(id, breaker.ttl).await.unwrap().is_some());
        let (counter, lock) = (seen.counter.unwrap(), seen.lock().unwrap());
        let late = verbs::take_over(&keys, &breaker, id, counter, lock);
        let late = store.transact(late).await.unwrap();
        assert_eq!(late.succeeded(), !is_cancelled);
    }
}

#[tokio::test]
async fn a_late_break_leaves_alone_what_the_python_tool_took_meanwhile() {
    let site = Real::start(PREFIX);
    let store = open(&site.server.url());
    let victim = claim(&resource("heir"), 60);
    granted(&store, &victim).await;
    let breaker = breaking(&victim);
    let keys = store.keys(&breaker.resource);
    let id = keys::number(breaker.lease).unwrap();
    let seen = store.look(&keys).await.unwrap();
    store.release(&proof(&victim)).await.unwrap();
    let python = contract::lease();
    site.lock(&victim.resource, python, Some(ttl(60))).await.unwrap();
    assert!(store.grant(id, breaker.ttl).await.unwrap().is_some());
    // The counter is as it was: that tool moves none.
    let (counter, lock) = (seen.counter.unwrap(), seen.lock().unwrap());
    let late = verbs::take_over(&keys, &breaker, id, counter, lock);
    assert!(!store.transact(late).await.unwrap().succeeded());
    assert_eq!(store.holder(&victim.resource).await.unwrap().expect("one").lease, python);
}

#[tokio::test]
async fn a_renewal_under_way_when_its_lease_is_broken_says_who_has_it() {
    let server = EtcdServer::start();
    let (proxy, other) = (Proxy::start(server.port()), open(&server.url()));
    let store = through(&proxy);
    let victim = claim(&resource("under-way"), 60);
    granted(&store, &victim).await;
    let breaker = breaking(&victim);
    // Held back is what comes after its look: the keepalive, whose one field is the lease.
    let mut rest = keys::number(victim.lease).unwrap();
    let mut keepalive = vec![0x08];
    while rest > 0x7f {
        keepalive.push(0x80 | u8::try_from(rest & 0x7f).unwrap());
        rest >>= 7;
    }
    keepalive.push(u8::try_from(rest).unwrap());
    proxy.when(keepalive, Fault::HoldRequest);
    let known = proof(&victim);
    let mut call = store.renew(&known, ttl(60), contract::nonce());
    runs_until(&mut call, || proxy.hits() == 1).await;
    granted(&other, &breaker).await;
    proxy.deliver();
    let standing = call.await.unwrap();
    let Standing::NotOurs(Some(holder)) = standing else { panic!("{standing:?}") };
    assert_eq!(holder.lease, breaker.lease);
}
