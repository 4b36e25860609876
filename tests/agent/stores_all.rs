//! One agent with every kind of store: one list of all locks, and outages of all stores at once.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use stormlock_protocol::client::Client;
use stormlock_protocol::message::{Acquire, Hold, Lease, State};

use crate::agent::{Agent, program};
use crate::day::ok;
use crate::dice::now_ms;
use crate::dynamo_server::DynamoServer;
use crate::etcd_server::EtcdServer;
use crate::postgres_server::PostgresServer;
use crate::program::run;
use crate::proxy::Proxy;
use crate::redis_server::RedisServer;
use crate::{acquire, leases, ttl, until_right, wish};

/// The names of the stores, as a list has them.
const NAMES: [&str; 5] = ["dynamodb", "etcd", "local", "postgres", "redis"];
/// How long all stores are away.
const AWAY_MS: u64 = 5_000;
/// A ttl that allows that, by far: on a busy machine no renewal is so late.
const TTL_SECS: u64 = 30;

/// A server of each kind, each behind a proxy.
pub(crate) struct Stores {
    pub(crate) redis: RedisServer,
    pub(crate) etcd: EtcdServer,
    pub(crate) postgres: PostgresServer,
    pub(crate) dynamo: DynamoServer,
    proxies: [Proxy; 4],
}

impl Stores {
    pub(crate) fn start() -> Stores {
        // The slow ones start beside each other.
        let (dynamo, postgres, etcd, redis) = std::thread::scope(|scope| {
            let dynamo = scope.spawn(DynamoServer::start);
            let postgres = scope.spawn(PostgresServer::start);
            let etcd = scope.spawn(EtcdServer::start);
            let redis = RedisServer::start();
            let join = "a server";
            (
                dynamo.join().expect(join),
                postgres.join().expect(join),
                etcd.join().expect(join),
                redis,
            )
        });
        postgres.sql_as(
            "stormlock",
            "CREATE TABLE stormlock (resource text PRIMARY KEY, lease uuid NOT NULL, \
             principal text NOT NULL, created timestamptz NOT NULL DEFAULT current_timestamp, \
             expires timestamptz NOT NULL); \
             CREATE TABLE stormlock_ext (resource text PRIMARY KEY, counter bigint NOT NULL, \
             lease uuid, fence bigint, host text, reason text, nonce bigint)",
        );
        let ports = [redis.port(), etcd.port(), postgres.port(), dynamo.port()];
        let proxies = ports.map(Proxy::start);
        Stores { redis, etcd, postgres, dynamo, proxies }
    }

    /// An agent with all of them, where the first part of a resource names its store.
    pub(crate) fn agent(&self) -> Agent {
        let [redis, etcd, postgres, dynamo] = self.proxies.each_ref().map(Proxy::port);
        let resources: String = NAMES
            .iter()
            .map(|name| format!("[[resource]]\nnames = [\"{name}/*\"]\nbackend = \"{name}\"\n"))
            .collect();
        Agent::start(&format!(
            "host = \"alpha\"\ndefault_backend = \"local\"\n\
             [backend.local]\nkind = \"local\"\n\
             [backend.redis]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{redis}\"\n\
             [backend.etcd]\nkind = \"etcd\"\nendpoints = [\"http://127.0.0.1:{etcd}\"]\n\
             [backend.postgres]\nkind = \"postgres\"\n\
             url = \"postgres://127.0.0.1:{postgres}/locks\"\n\
             [backend.dynamodb]\nkind = \"dynamodb\"\nregion = \"us-east-1\"\n\
             endpoint_url = \"http://127.0.0.1:{dynamo}\"\naccess_key_id = \"test\"\n\
             secret_access_key = \"canary-5f1e\"\n{resources}\
             [[rule]]\nwho = [\"everyone\"]\nmay = [\"acquire\", \"break\"]\n"
        ))
    }
}

#[test]
fn a_list_shows_the_locks_of_all_stores_in_one_table() {
    let stores = Stores::start();
    let agent = stores.agent();
    for name in NAMES {
        for resource in ["db", "web"] {
            let why = format!("why {name}");
            ok(agent.ctl(&["acquire", &format!("{name}/{resource}"), "-m", &why]));
        }
    }
    let human = ok(agent.ctl(&["list"]));
    let lines: Vec<&str> = human.lines().collect();
    assert!(lines[0].starts_with("RESOURCE"), "{human}");
    let tsv = ok(agent.ctl(&["list", "-o", "tsv"]));
    let rows: Vec<Vec<&str>> = tsv.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.len(), 2 * NAMES.len(), "{tsv}");
    let json: serde_json::Value =
        serde_json::from_str(&ok(agent.ctl(&["list", "-o", "json"]))).expect("JSON");
    let locks = json["locks"].as_array().expect("locks");
    assert_eq!(locks.len(), rows.len());
    for (at, name) in NAMES.iter().enumerate() {
        for (row, resource) in ["db", "web"].iter().enumerate() {
            let (at, on) = (2 * at + row, format!("{name}/{resource}"));
            assert!(lines[1 + at].starts_with(&on), "{human}");
            assert!(lines[1 + at].contains(&format!("why {name}")), "{human}");
            assert_eq!((rows[at][0], rows[at][6]), (&*on, *name), "{tsv}");
            assert!(rows[at][9].parse::<u64>().is_ok(), "a fence: {tsv}");
            assert_eq!(locks[at]["resource"], on);
            assert_eq!(locks[at]["backend"], *name);
            assert_eq!(locks[at]["host"], "alpha");
        }
    }
    assert!(ok(agent.ctl(&["list", "etcd/*"])).lines().count() == 3);
}

/// Waits until the outage has lasted; every lease is believed all the while.
fn away(client: &mut Client, count: usize) {
    let began = now_ms();
    while now_ms() - began < AWAY_MS {
        let leases = leases(client);
        let is_lost = |lease: &&Lease| !matches!(lease.state, State::Held | State::AtRisk);
        assert_eq!(leases.iter().find(is_lost), None);
        assert_eq!(leases.len(), count);
    }
}

/// Waits until each lease was renewed after the outage, and is the one that it was.
fn renewed(client: &mut Client, before: &BTreeMap<String, Lease>) {
    let ended = now_ms();
    until_right("every lease is renewed", || {
        // At most so much was left before: more than that is a new proof.
        let old_max = (TTL_SECS * 1000).saturating_sub(AWAY_MS + (now_ms() - ended));
        for lease in leases(client) {
            let was = &before[lease.resource.as_str()];
            assert_eq!((was.lease, was.fence), (lease.lease, lease.fence));
            if lease.state != State::Held || lease.left_ms <= old_max {
                return Err(format!("{lease:?}"));
            }
        }
        Ok(())
    });
}

#[test]
fn stores_that_come_back_after_five_seconds_cost_no_lease_whose_ttl_allows_it() {
    let stores = Stores::start();
    let agent = stores.agent();
    let mut client = agent.client().expect("the agent answers");
    let mut before = BTreeMap::new();
    for name in NAMES.into_iter().filter(|name| *name != "local") {
        let on = format!("{name}/db");
        let ask = Acquire { ttl: Some(ttl(TTL_SECS)), ..wish(&on, Hold::Keep) };
        before.insert(on, acquire(&mut client, ask));
    }
    // Down: connections break and are refused.
    for proxy in &stores.proxies {
        proxy.refuse(true);
        proxy.cut();
    }
    away(&mut client, before.len());
    stores.proxies.iter().for_each(|proxy| proxy.refuse(false));
    renewed(&mut client, &before);
    // Mute: connections stay, and nothing passes.
    stores.proxies.iter().for_each(Proxy::freeze);
    away(&mut client, before.len());
    stores.proxies.iter().for_each(Proxy::thaw);
    renewed(&mut client, &before);
}

#[test]
fn a_store_that_needs_no_setup_says_so() {
    for (kind, keys) in [
        ("redis", "url = \"redis://127.0.0.1:1\""),
        ("etcd", "endpoints = [\"http://127.0.0.1:1\"]"),
        ("local", ""),
    ] {
        let agent = Agent::prepare(&format!("[backend.main]\nkind = \"{kind}\"\n{keys}\n"));
        for args in [&["main"][..], &["main", "--migrate"], &["main", "--print"]] {
            let mut command = Command::new(program("stormlockd"));
            command.arg("setup").args(args).arg("--config").arg(agent.file("stormlockd.toml"));
            let said = ok(run(&mut command, Duration::from_secs(60)));
            assert!(said.ends_with(&format!("{kind} needs no setup\n")), "{said}");
        }
    }
}
