//! The four stores that our agents and the Python tool share, each ready for both.

use crate::agent::Agent;
use crate::dynamo_server::DynamoServer;
use crate::etcd_server::EtcdServer;
use crate::postgres_server::{PostgresServer, TRUST};
use crate::python::PythonTool;
use crate::redis_server::RedisServer;

/// The tables as `setup --print` makes them; the first one also as the Python tool's instructions
/// have it, without a time zone.
pub(crate) const TABLES: [&str; 2] = [
    "CREATE TABLE stormlock (resource text PRIMARY KEY, lease uuid NOT NULL, principal text, \
     created timestamptz NOT NULL DEFAULT current_timestamp, expires timestamptz NOT NULL);",
    "CREATE TABLE stormlock (resource text PRIMARY KEY, lease uuid, principal text, \
     created timestamp DEFAULT current_timestamp, expires timestamp);",
];
const SIDE_TABLE: &str = "CREATE TABLE stormlock_ext (resource text PRIMARY KEY, \
    counter bigint NOT NULL, lease uuid, fence bigint, host text, reason text, nonce bigint);";

/// A real store of a test's own.
pub(crate) enum Store {
    Redis(RedisServer),
    Etcd(EtcdServer),
    Postgres(PostgresServer),
    Dynamo(DynamoServer),
}

impl Store {
    pub(crate) fn redis() -> Store {
        Store::Redis(RedisServer::start())
    }

    pub(crate) fn etcd() -> Store {
        Store::Etcd(EtcdServer::start())
    }

    /// With the tables as `setup` makes them.
    pub(crate) fn postgres() -> Store {
        Store::Postgres(postgres(TABLES[0]))
    }

    pub(crate) fn dynamo() -> Store {
        Store::Dynamo(DynamoServer::start_unswept())
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Store::Redis(_) => "redis",
            Store::Etcd(_) => "etcd",
            Store::Postgres(_) => "postgres",
            Store::Dynamo(_) => "dynamodb",
        }
    }

    /// An agent of another host, where the user of this test may do all.
    pub(crate) fn agent(&self, host: &str) -> Agent {
        match self {
            Store::Redis(server) => Agent::on_redis(host, &server.url()),
            Store::Etcd(server) => Agent::on_etcd(host, &server.url()),
            Store::Postgres(server) => Agent::on_postgres(host, &server.url()),
            Store::Dynamo(server) => Agent::start(&server.agent_config(host)),
        }
    }

    /// The Python tool.
    pub(crate) fn tool(&self) -> PythonTool {
        match self {
            Store::Redis(server) => PythonTool::new(&server.url(), "peer@elsewhere"),
            Store::Etcd(server) => {
                let section =
                    format!("[backend.etcd]\nhost = 127.0.0.1\nport = {}\n", server.port());
                PythonTool::on("etcd", &section, "peer@elsewhere")
            }
            Store::Postgres(server) => postgres_tool(server),
            Store::Dynamo(server) => {
                PythonTool::on("dynamodb", &server.python_config(), "peer@elsewhere")
            }
        }
    }
}

/// A PostgreSQL with this table and ours beside it, in a zone that is not UTC.
pub(crate) fn postgres(table: &str) -> PostgresServer {
    let server = PostgresServer::start_with(&["timezone=Asia/Kolkata"], TRUST);
    with_tables(&server, table);
    server
}

/// Makes this table and ours beside it.
pub(crate) fn with_tables(server: &PostgresServer, table: &str) {
    server.sql_as("stormlock", &format!("{table} {SIDE_TABLE}"));
}

/// The Python tool on a PostgreSQL.
pub(crate) fn postgres_tool(server: &PostgresServer) -> PythonTool {
    let port = server.port();
    let section = format!(
        "[backend.postgresql]\nconnection = host=127.0.0.1 port={port} dbname=locks \
         user=stormlock\n"
    );
    PythonTool::on("postgresql", &section, "peer@elsewhere")
}

/// A lease id as our agents write it: PostgreSQL's driver shows a `uuid` with dashes.
pub(crate) fn plain(lease: &str) -> String {
    lease.replace('-', "")
}
