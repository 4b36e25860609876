//! An operator's day on a real etcd, and an agent that is killed at its work there.

use crate::agent::Agent;
use crate::day::{a_day, all_or_nothing, an_expired_lease_is_lost, ok, says};
use crate::etcd_server::EtcdServer;
use crate::kill::kill_again_and_again;

const HELD: i32 = 75;
/// Fewer than on Redis: each write of etcd is agreed on first.
const KILLS: usize = 20;

#[test]
fn an_operator_takes_sees_renews_and_gives_back_on_etcd() {
    let store = EtcdServer::start();
    let agent = Agent::on_etcd("alpha", &store.url());
    a_day(&agent);
    all_or_nothing(&agent);
    an_expired_lease_is_lost(&agent);
    assert!(!agent.ctl(&["acquire", "x"]).stderr.contains("this host only"));
}

#[test]
fn another_host_is_told_who_has_it_on_etcd_and_ids_are_as_etcd_writes_them() {
    let store = EtcdServer::start();
    let (alpha, beta) =
        (Agent::on_etcd("alpha", &store.url()), Agent::on_etcd("beta", &store.url()));
    let lease = ok(alpha.ctl(&["acquire", "prod/db", "-m", "migration 42"]));
    assert_eq!(store.run("get --print-value-only /prod/db/id"), lease);
    let refused = beta.ctl(&["acquire", "prod/db"]);
    says(&refused, HELD, &["@alpha", "alpha", "migration 42", "fence", "stormctl current prod/db"]);
    assert!(ok(beta.ctl(&["list"])).contains("alpha"));
    let found = beta.ctl(&["doctor"]);
    assert!(found.stdout.contains("it has a leader and lets us write"), "{found:?}");
    ok(alpha.ctl(&["release", "prod/db"]));
    ok(beta.ctl(&["acquire", "prod/db"]));
}

#[test]
fn kill_9_loses_no_lease_and_leaves_no_orphan_on_etcd() {
    let store = EtcdServer::start();
    let agent = Agent::on_etcd("alpha", &store.url());
    kill_again_and_again(agent, "kill_on_etcd", KILLS);
}
