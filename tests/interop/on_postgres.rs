//! The same contention on a PostgreSQL, and what the two sides see of each other there.

use crate::agent::Agent;
use crate::contention::one_wins_each_round;
use crate::postgres_server::PostgresServer;
use crate::python::{PythonTool, Said};

const ROUNDS: usize = 200;
/// Most questions that the Python tool asks before its try: each takes it as long as an agent's
/// write to a disk or one of its round trips to the store.
const HANDICAP_MAX: usize = 40;
/// The tables as `setup --print` makes them; the first one also as the Python tool's instructions
/// have it, without a time zone.
const TABLES: [&str; 2] = [
    "CREATE TABLE stormlock (resource text PRIMARY KEY, lease uuid NOT NULL, principal text, \
     created timestamptz NOT NULL DEFAULT current_timestamp, expires timestamptz NOT NULL);",
    "CREATE TABLE stormlock (resource text PRIMARY KEY, lease uuid, principal text, \
     created timestamp DEFAULT current_timestamp, expires timestamp);",
];
const SIDE_TABLE: &str = "CREATE TABLE stormlock_ext (resource text PRIMARY KEY, \
    counter bigint NOT NULL, lease uuid, fence bigint, host text, reason text, nonce bigint);";

/// A server with the tables, in a zone that is not UTC.
fn store(table: &str) -> PostgresServer {
    let zone = ["timezone=Asia/Kolkata"];
    let store = PostgresServer::start_with(&zone, crate::postgres_server::TRUST);
    store.sql_as("stormlock", &format!("{table} {SIDE_TABLE}"));
    store
}

fn tool(store: &PostgresServer) -> PythonTool {
    let port = store.port();
    let section = format!(
        "[backend.postgresql]\nconnection = host=127.0.0.1 port={port} dbname=locks \
         user=stormlock\n"
    );
    PythonTool::on("postgresql", &section, "peer@elsewhere")
}

#[test]
fn of_two_agents_and_the_python_tool_exactly_one_wins_each_round_on_postgres() {
    let store = store(TABLES[0]);
    let agents = ["alpha", "beta"].map(|host| Agent::on_postgres(host, &store.url()));
    one_wins_each_round(&agents, tool(&store), HANDICAP_MAX, ROUNDS);
}

#[test]
fn agent_and_python_tool_see_renew_and_release_each_other_s_locks_on_postgres() {
    for table in TABLES {
        let store = store(table);
        let agent = Agent::on_postgres("alpha", &store.url());
        let mut python = tool(&store).peer();
        let ours = agent.ctl(&["acquire", "prod/db", "-m", "ours"]).stdout.trim().to_owned();
        let Said::Held { lease, principal } = python.acquire("prod/db", 60) else {
            panic!("taken")
        };
        assert_eq!(lease.replace('-', ""), ours);
        assert!(principal.ends_with("@alpha"), "{principal}");
        assert_eq!(python.renew("prod/db", &ours, 60), Said::Done);
        assert_eq!(agent.ctl(&["release", "prod/db"]).code, Some(0));
        assert_eq!(python.current("prod/db"), Said::Free);

        let Said::Granted(theirs) = python.acquire("prod/db", 60) else { panic!("not free") };
        let refused = agent.ctl(&["acquire", "prod/db"]);
        assert_eq!(refused.code, Some(75), "{refused:?}");
        assert!(refused.stderr.contains("peer@elsewhere"), "{refused:?}");
        let shown = agent.ctl(&["current", "--id-only", "prod/db"]);
        assert_eq!(shown.stdout.trim(), theirs.replace('-', ""));
        assert_eq!(python.renew("prod/db", &theirs, 60), Said::Done);
        assert_eq!(python.release("prod/db", &theirs), Said::Done);
        // Python frees one of ours by its id: the agent's holder hears that it is lost.
        let ours = agent.ctl(&["acquire", "prod/db"]).stdout.trim().to_owned();
        assert_eq!(python.release("prod/db", &ours), Said::Done);
        assert_eq!(python.current("prod/db"), Said::Free);
        assert_eq!(agent.ctl(&["renew", "prod/db", &ours]).code, Some(79), "it is lost");
    }
}
