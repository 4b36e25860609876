//! Stores that are up and say no: to one resource, which is no outage of theirs, or because the
//! place for locks is missing, which is said in words that mend it.

use stormlock_protocol::message::{Health, Hold, State};

use crate::agent::Agent;
use crate::day::{ok, says};
use crate::etcd_server::EtcdServer;
use crate::postgres_server::PostgresServer;
use crate::redis_server::RedisServer;
use crate::{acquire, leases, wish};

const CONFIG: i32 = 78;

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
