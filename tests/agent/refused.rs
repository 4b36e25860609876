//! Stores that are up and say no: to one resource, which is no outage of theirs, or because the
//! place for locks is missing, which is said in words that mend it.

use stormlock_protocol::message::{Health, Hold, State};

use crate::agent::Agent;
use crate::day::{ok, says};
use crate::dice::now_ms;
use crate::etcd_server::EtcdServer;
use crate::postgres_server::PostgresServer;
use crate::redis_server::RedisServer;
use crate::{acquire, leases, wish};

const CONFIG: i32 = 78;
const UNAVAILABLE: i32 = 69;
/// What a person waits for before they take it that something hangs.
const PATIENCE_MS: u64 = 15_000;

fn agent(store: &str) -> Agent {
    Agent::start(&format!(
        "host = \"alpha\"\n[backend.main]\n{store}\n[[rule]]\nwho = [\"everyone\"]\n\
         may = [\"acquire\", \"break\", \"read\"]\n"
    ))
}

/// Who may lock below `site/` only is refused elsewhere, again and again; meanwhile nothing is said
/// of the store, and nothing happens to the lease there.
fn one_no_is_no_outage(agent: &Agent) {
    let mut client = agent.client().expect("the agent answers");
    let held = acquire(&mut client, wish("site/a", Hold::Keep));
    let before = client.status(None).expect("a status").backends;
    assert_eq!(before[0].health, Health::Up);
    for _ in 0..3 {
        let refused = agent.ctl(&["acquire", "other/x"]);
        says(&refused, CONFIG, &["main is up and gives the agent's user no right", "(other/x)"]);
        let current = agent.ctl(&["current", "other/x"]);
        assert!(current.stderr.contains("no right to that"), "{current:?}");
        assert_eq!(client.status(None).expect("a status").backends, before);
        ok(agent.ctl(&["acquire", "site/b"]));
        ok(agent.ctl(&["release", "site/b"]));
        assert_eq!(client.status(None).expect("a status").backends, before);
        let all = leases(&mut client);
        assert_eq!((all[0].lease, &all[0].state), (held.lease, &State::Held), "{all:?}");
    }
    let log = agent.log();
    assert!(!log.contains("backend is down") && !log.contains("answers again"), "{log}");
}

#[test]
fn a_redis_user_with_narrow_rights_on_keys_makes_no_outage() {
    let server = RedisServer::start();
    server.run("ACL SETUSER narrow on >canary-5f1e ~site/* ~stormlock:fences +@all");
    one_no_is_no_outage(&agent(&format!(
        "kind = \"redis\"\nurl = \"{}\"\nusername = \"narrow\"\npassword = \"canary-5f1e\"",
        server.url()
    )));
}

/// Also where it is the first thing that a store says to an agent, and the first after an outage.
#[test]
fn a_no_is_neither_an_outage_nor_the_second_half_of_one() {
    let mut server = RedisServer::start();
    let agent = agent(&format!("kind = \"redis\"\nurl = \"{}\"", server.url()));
    let is_refused = |server: &RedisServer| {
        server.run("SET b something");
        says(&agent.ctl(&["acquire", "b"]), CONFIG, &["b"]);
        let mut client = agent.client().expect("the agent answers");
        assert_eq!(client.status(None).expect("a status").backends[0].health, Health::Up);
    };
    is_refused(&server);
    assert!(!agent.log().contains("backend is down"), "{}", agent.log());
    server.kill();
    says(&agent.ctl(&["acquire", "b"]), UNAVAILABLE, &["reached"]);
    server.start_again();
    is_refused(&server);
    let log = agent.log();
    assert_eq!(log.matches("backend is down").count(), 1, "{log}");
    assert_eq!(log.matches("backend answers again").count(), 1, "{log}");
}

/// A replica, a full server, a password or rights that are wrong, a line that speaks no TLS.
#[test]
fn a_redis_that_takes_no_lock_is_told_in_bounded_time() {
    let server = RedisServer::start();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", "1"]);
    let full = RedisServer::start_with(&["--maxmemory", "1"]);
    server.run("ACL SETUSER nobody on >canary-5f1e ~* -@all");
    let plain = |server: &RedisServer| format!("url = \"{}\"", server.url());
    let user = |name: &str| {
        format!("{}\nusername = \"{name}\"\npassword = \"canary-5f1e\"", plain(&server))
    };
    let tls = plain(&server).replace("redis://", "rediss://");
    for (store, code, why) in [
        (plain(&replica), UNAVAILABLE, "takes no writes"),
        (plain(&full), UNAVAILABLE, "takes no writes"),
        (user("stranger"), UNAVAILABLE, "credentials"),
        (user("nobody"), UNAVAILABLE, ""),
        (tls, UNAVAILABLE, "reached"),
    ] {
        let agent = agent(&format!("kind = \"redis\"\n{store}"));
        let began = now_ms();
        let ran = agent.ctl(&["acquire", "x"]);
        let took = now_ms() - began;
        says(&ran, code, &["main", why, "`stormctl doctor`"]);
        assert_eq!(ran.stderr.matches("`stormctl doctor`").count(), 1, "{ran:?}");
        assert!(took < PATIENCE_MS, "{took} ms: {ran:?}");
    }
}

#[test]
fn an_etcd_user_with_narrow_rights_on_keys_makes_no_outage() {
    let server = EtcdServer::start();
    for words in [
        "user add root:rootpw",
        "user grant-role root root",
        "role add narrow",
        "role grant-permission narrow --prefix=true readwrite /site/",
        "role grant-permission narrow --prefix=true readwrite /stormlock",
        "user add narrow:canary-5f1e",
        "user grant-role narrow narrow",
        "auth enable",
    ] {
        server.run(words);
    }
    one_no_is_no_outage(&agent(&format!(
        "kind = \"etcd\"\nendpoints = [\"{}\"]\nusername = \"narrow\"\npassword = \"canary-5f1e\"",
        server.url()
    )));
}

#[test]
fn what_is_missing_in_a_postgres_is_said_with_what_to_type() {
    let server = PostgresServer::start();
    let keys = |url: &str| format!("kind = \"postgres\"\nurl = \"{url}\"");
    let nowhere = agent(&keys(&server.url().replace("/locks", "/nowhere")));
    let words = ["has no such database", "`stormlockd setup main`"];
    says(&nowhere.ctl(&["acquire", "x"]), CONFIG, &words);
    let status = ok(nowhere.ctl(&["status"]));
    assert!(status.contains("cannot be used, see `stormctl doctor`"), "{status}");
    let empty = agent(&keys(&server.url()));
    let words = ["has no table for locks yet", "`stormlockd setup main`", "--print"];
    says(&empty.ctl(&["acquire", "x"]), CONFIG, &words);

    // As the Python tool has it; and then as somebody set it up for other agents.
    let main = "CREATE TABLE stormlock (resource text PRIMARY KEY, lease uuid NOT NULL, principal \
                text NOT NULL, created timestamptz NOT NULL, expires timestamptz NOT NULL)";
    server.sql_as("stormlock", main);
    let bare = agent(&format!("{}\nside_table = false", keys(&server.url())));
    ok(bare.ctl(&["acquire", "held", "--keep"]));
    server.sql_as("stormlock", "CREATE TABLE stormlock_ext (resource text PRIMARY KEY)");
    let words = ["has a side table", "side_table = false", "on every host"];
    says(&bare.ctl(&["acquire", "x"]), CONFIG, &words);
    let status = bare.client().expect("an agent").status(None).expect("a status");
    assert_eq!(status.backends[0].health, Health::Up, "what is held goes on");
    let shape = ["has a table of another shape", "`stormlockd setup main --print`"];
    says(&empty.ctl(&["acquire", "x"]), CONFIG, &shape);
}
