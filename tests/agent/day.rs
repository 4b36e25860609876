//! An operator's day: take, see, renew, give back; on the local backend and on a real Redis alike.

use stormlock_protocol::message::Hold;

use crate::agent::Agent;
use crate::program::Ran;
use crate::redis_server::RedisServer;
use crate::{acquire, local, locks, until, wish};

const HELD: i32 = 75;
const LOST: i32 = 79;

/// What a command printed, which succeeded.
pub(crate) fn ok(ran: Ran) -> String {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.stdout
}

pub(crate) fn says(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert_eq!(ran.stdout, "", "nothing on stdout when a command fails");
    for word in words {
        assert!(ran.stderr.contains(word), "{word} is missing: {}", ran.stderr);
    }
}

/// Every backend must show the same day.
pub(crate) fn a_day(agent: &Agent) {
    let lease = ok(agent.ctl(&["acquire", "prod/db", "-m", "migration 42", "--for", "2h"]));
    let lease = lease.trim();
    let is_id = !lease.is_empty() && lease.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(is_id, "the lease id alone, for $(…): {lease:?}");

    let refused = agent.ctl(&["acquire", "prod/db"]);
    says(&refused, HELD, &["migration 42", "alpha", "stormctl release prod/db"]);
    let other = agent.ctl(&["-o", "json", "acquire", "prod/db"]);
    says(&other, HELD, &["\"schema\":1", "\"migration 42\"", lease]);

    let current = ok(agent.ctl(&["current", "prod/db"]));
    assert!(current.starts_with("Principal: ") && current.contains(&format!("Id: {lease}")));
    assert_eq!(ok(agent.ctl(&["current", "--id-only", "prod/db"])).trim(), lease);
    ok(agent.ctl(&["is-held", "prod/db"]));
    ok(agent.ctl(&["is-held", "prod/db", lease, "--by", "me"]));
    assert_eq!(agent.ctl(&["is-held", "prod/db", &"0".repeat(32)]).code, Some(1));

    for shown in [agent.ctl(&["status"]), agent.ctl(&["list"]), agent.ctl(&["list", "prod/*"])] {
        let shown = ok(shown);
        assert!(shown.contains("prod/db") && shown.contains("migration 42"), "{shown}");
    }
    assert!(!ok(agent.ctl(&["list", "dev/*"])).contains("prod/db"));

    ok(agent.ctl(&["renew", "prod/db", "--ttl", "30 minutes", "--for", "3h"]));
    ok(agent.ctl(&["renew", "prod/db", lease]));
    ok(agent.ctl(&["release", "prod/db"]));
    assert_eq!(agent.ctl(&["is-held", "prod/db"]).code, Some(1));
    says(&agent.ctl(&["current", "prod/db"]), 1, &["no lock held"]);
    says(&agent.ctl(&["release", "prod/db"]), 1, &["prod/db"]);
    ok(agent.ctl(&["release", "--if-held", "prod/db"]));
    ok(agent.ctl(&["doctor"]));
}

/// A bad argument must lose nothing and take nothing.
pub(crate) fn all_or_nothing(agent: &Agent) {
    ok(agent.ctl(&["acquire", "b"]));
    says(&agent.ctl(&["acquire", "c", "a", "b"]), HELD, &["b"]);
    let mut client = agent.client().expect("the agent answers");
    until("what was taken of the three is given back", || {
        let names: Vec<String> =
            locks(&mut client).iter().map(|lock| lock.resource.to_string()).collect();
        (names == ["b"]).then_some(())
    });
    let taken = ok(agent.ctl(&["acquire", "c", "a"]));
    assert_eq!(taken.lines().count(), 2);
    ok(agent.ctl(&["release", "--all"]));
    assert!(locks(&mut client).is_empty());
    assert_eq!(agent.ctl(&["acquire", "a", "a"]).code, Some(64));
    assert_eq!(agent.ctl(&["acquire", "no spaces"]).code, Some(64));
}

pub(crate) fn an_expired_lease_is_lost(agent: &Agent) {
    ok(agent.ctl(&["acquire", "brief", "--ttl", "1s"]));
    let mut client = agent.client().expect("the agent answers");
    until("a lease of a second ends", || locks(&mut client).is_empty().then_some(()));
    says(&agent.ctl(&["renew", "brief"]), LOST, &["lost"]);
    // A new one says that its holder knows.
    let again = acquire(&mut client, wish("brief", Hold::No));
    assert!(agent.ctl(&["release", "brief", &again.lease.to_string()]).code == Some(0));
}

#[test]
fn an_operator_takes_sees_renews_and_gives_back_on_the_local_backend() {
    let agent = Agent::start(&local());
    a_day(&agent);
    all_or_nothing(&agent);
    an_expired_lease_is_lost(&agent);
    let said = agent.ctl(&["acquire", "x"]);
    assert!(said.stderr.contains("this host only"), "a local lock says so: {said:?}");
    assert!(ok(agent.ctl(&["list"])).contains("this host only"));
    let told = "its locks count among the users of this host only";
    assert!(ok(agent.ctl(&["doctor"])).contains(told), "a local store says so too");
}

#[test]
fn an_operator_takes_sees_renews_and_gives_back_on_redis() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    a_day(&agent);
    all_or_nothing(&agent);
    an_expired_lease_is_lost(&agent);
    assert!(!agent.ctl(&["acquire", "x"]).stderr.contains("this host only"));
}

#[test]
fn another_host_is_told_who_has_it_and_why() {
    let store = RedisServer::start();
    let (alpha, beta) =
        (Agent::on_redis("alpha", &store.url()), Agent::on_redis("beta", &store.url()));
    ok(alpha.ctl(&["acquire", "prod/db", "-m", "migration 42"]));
    let refused = beta.ctl(&["acquire", "prod/db"]);
    says(&refused, HELD, &["@alpha", "alpha", "migration 42", "fence", "stormctl current prod/db"]);
    assert!(!refused.stderr.contains("already yours"));
    says(&beta.ctl(&["release", "prod/db"]), 1, &["prod/db"]);
    assert!(ok(beta.ctl(&["list"])).contains("alpha"));
    ok(alpha.ctl(&["release", "prod/db"]));
    ok(beta.ctl(&["acquire", "prod/db"]));
}
