//! The four stores, as they keep what they promised over a `kill -9`.

use std::process::Command;
use std::time::Duration;

use crate::agent::{Agent, program};
use crate::dynamo_server::DynamoServer;
use crate::etcd_server::EtcdServer;
use crate::node::Node;
use crate::postgres_server::{PostgresServer, TRUST};
use crate::program::run;
use crate::redis_server::RedisServer;

/// How long `stormlockd setup` may take.
const SETUP_MAX: Duration = Duration::from_secs(60);

/// Starts one.
pub(crate) type Start = fn() -> Store;

/// A real store.
pub(crate) enum Store {
    Redis(RedisServer),
    Etcd(EtcdServer),
    Postgres(PostgresServer),
    DynamoDb(DynamoServer),
}

impl Store {
    /// All of them, by name, and how each is started.
    pub(crate) const ALL: [(&str, Start); 4] = [
        ("redis", Store::redis),
        ("etcd", Store::etcd),
        ("postgres", Store::postgres),
        ("dynamodb", Store::dynamodb),
    ];

    /// Every write is on disk before it is answered.
    fn redis() -> Store {
        let keeps = ["--appendonly", "yes", "--appendfsync", "always"];
        Store::Redis(RedisServer::start_with(&keeps))
    }

    fn etcd() -> Store {
        Store::Etcd(EtcdServer::start())
    }

    fn postgres() -> Store {
        let server = PostgresServer::start_with(&["fsync=on"], TRUST);
        let port = server.port();
        let store = Store::Postgres(server);
        let agent = Agent::prepare(&store.config("setup", port));
        let mut setup = Command::new(program("stormlockd"));
        setup.args(["setup", "main", "--config"]).arg(agent.file("stormlockd.toml"));
        let ran = run(&mut setup, SETUP_MAX);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        store
    }

    fn dynamodb() -> Store {
        Store::DynamoDb(DynamoServer::start())
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Store::Redis(_) => "redis",
            Store::Etcd(_) => "etcd",
            Store::Postgres(_) => "postgres",
            Store::DynamoDb(_) => "dynamodb",
        }
    }

    pub(crate) fn port(&self) -> u16 {
        match self {
            Store::Redis(server) => server.port(),
            Store::Etcd(server) => server.port(),
            Store::Postgres(server) => server.port(),
            Store::DynamoDb(server) => server.port(),
        }
    }

    /// The configuration of an agent called `host` that finds this store on a port of its own.
    pub(crate) fn config(&self, host: &str, port: u16) -> String {
        let backend = match self {
            Store::Redis(_) => format!("kind = \"redis\"\nurl = \"redis://127.0.0.1:{port}\""),
            Store::Etcd(_) => {
                format!("kind = \"etcd\"\nendpoints = [\"http://127.0.0.1:{port}\"]")
            }
            Store::Postgres(_) => {
                format!("kind = \"postgres\"\nurl = \"postgres://127.0.0.1:{port}/locks\"")
            }
            Store::DynamoDb(server) => {
                let there = format!("http://127.0.0.1:{port}");
                return server.agent_config(host).replace(&server.url(), &there);
            }
        };
        let uid = rustix::process::geteuid().as_raw();
        format!(
            "host = \"{host}\"\n\n[backend.main]\n{backend}\n\n[[rule]]\nwho = [\"uid:{uid}\"]\n\
             may = [\"acquire\", \"break\", \"read\", \"release-any\"]\n"
        )
    }

    /// `kill -9` in the midst of whatever it does, and a start on what it had stored.
    pub(crate) fn crash(&mut self, nodes: &[Node]) {
        match self {
            Store::Redis(server) => {
                server.kill();
                server.start_again();
            }
            Store::Etcd(server) => {
                server.kill();
                server.start_again();
            }
            Store::Postgres(server) => {
                server.kill_9();
                server.start_again();
            }
            Store::DynamoDb(server) => crash_emulator(server, nodes),
        }
    }

    /// How often it is started anew after an end in its own time, of so many. The emulator stores
    /// nothing: there it would be no other than a crash.
    pub(crate) fn restarts(&self, wanted: usize) -> usize {
        match self {
            Store::Redis(_) | Store::Etcd(_) | Store::Postgres(_) => wanted,
            Store::DynamoDb(_) => 0,
        }
    }

    /// An end in its own time, and a start on what it had stored.
    pub(crate) fn restart(&mut self) {
        match self {
            Store::Redis(server) => {
                server.stop();
                server.start_again();
            }
            Store::Etcd(server) => {
                server.stop();
                server.start_again();
            }
            Store::Postgres(server) => {
                server.stop();
                server.start_again();
            }
            Store::DynamoDb(_) => {}
        }
    }
}

/// DynamoDB never forgets what it acknowledged; its emulator has no disk and forgets everything. So
/// its table is read out before the kill and put back after it. What it acknowledges between the
/// reading and the kill is no promise that it breaks: no line passes an answer from before until
/// every connection is broken. Not shown by this: a kill in the midst of a write.
fn crash_emulator(server: &mut DynamoServer, nodes: &[Node]) {
    for node in nodes {
        node.line.freeze();
    }
    let kept = server.items();
    server.kill();
    server.start_again();
    for item in &kept {
        server.put(item);
    }
    for node in nodes {
        node.line.cut();
        node.line.thaw();
    }
}
