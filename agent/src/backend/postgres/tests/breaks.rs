//! What only PostgreSQL shows of a break: a late copy of it, on both ways.

use super::*;

/// What only the statement that breaks a lease holds, on each way.
const TAKE_OVER: &str = "lease = $9::uuid";
pub(super) const BARE_TAKE_OVER: &str = "xmin::text = $6";

#[tokio::test]
async fn a_late_copy_of_a_break_fails_after_its_cancel_and_only_then() {
    let site = Real::start();
    let proxy = Proxy::start(site.server.port());
    let store = network::through(&proxy);
    check_late_copies(&site, &proxy, &store, &open(&site.server.url()), TAKE_OVER).await;
}

/// Also when the victim was renewed in between; and what the Python tool took in between stays its.
pub(super) async fn check_late_copies(
    site: &Real,
    proxy: &Proxy,
    store: &Postgres,
    other: &dyn Backend,
    needle: &str,
) {
    let server = &site.server;
    for round in 0..12 {
        let (is_cancelled, is_over) = (round % 2 == 0, round % 6 == 5);
        let victim = claim(&resource("late"), 60);
        granted(other, &victim).await;
        let breaker = Claim { over: Some(victim.lease), ..claim(&victim.resource, 60) };
        proxy.when(needle, Fault::HoldRequest);
        network::dropped_when(store.acquire(&breaker), || proxy.hits() == round + 1).await;
        if is_cancelled {
            other.cancel(&breaker.resource, breaker.lease).await.unwrap();
        }
        let python = contract::lease();
        if is_over {
            other.release(&proof(&victim)).await.unwrap();
            site.lock(&victim.resource, python, Some(ttl(60))).await.unwrap();
        } else if round % 4 == 0 {
            other.renew(&proof(&victim), ttl(60), victim.nonce).await.unwrap();
        }
        let before = network::sessions(server);
        proxy.deliver();
        // Its session ends once it has done everything that was sent.
        comes_true("it does not arrive", || network::sessions(server) < before).await;
        let holder = other.holder(&victim.resource).await.unwrap().expect("somebody");
        let expected = match (is_cancelled, is_over) {
            (_, true) => python,
            (true, false) => victim.lease,
            (false, false) => breaker.lease,
        };
        assert_eq!(holder.lease, expected, "round {round}");
    }
}
