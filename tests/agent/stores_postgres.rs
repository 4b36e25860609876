//! An operator's day on a real PostgreSQL, an agent that is killed at its work there, and `setup`.

use std::process::Command;
use std::time::Duration;

use crate::agent::{Agent, program};
use crate::day::{a_day, all_or_nothing, an_expired_lease_is_lost, ok, says};
use crate::kill::kill_again_and_again;
use crate::postgres_server::{PostgresServer, TRUST};
use crate::program::{Ran, run};

const HELD: i32 = 75;
const UNAVAILABLE: i32 = 69;
const CONFIG: i32 = 78;
/// Fewer than on Redis: each commit waits for a disk.
const KILLS: usize = 20;

/// What `setup` says of what it made before.
const THERE: &str = "the table \"stormlock\" is there\nthe table \"stormlock_ext\" is there\n\
    the triggers of \"stormlock\" are there\n";

/// `stormlockd setup ARGS` with the agent's configuration.
fn setup(agent: &Agent, args: &[&str]) -> Ran {
    let mut command = Command::new(program("stormlockd"));
    command.arg("setup").args(args).arg("--config").arg(agent.file("stormlockd.toml"));
    run(&mut command, Duration::from_secs(60))
}

/// A server that keeps every promise, with the tables, and an agent of a host on it.
fn ready() -> (PostgresServer, Agent) {
    let store = PostgresServer::start_with(&["fsync=on"], TRUST);
    let agent = Agent::on_postgres("alpha", &store.url());
    ok(setup(&agent, &["main"]));
    (store, agent)
}

#[test]
fn an_operator_takes_sees_renews_and_gives_back_on_postgres() {
    let (_store, agent) = ready();
    a_day(&agent);
    all_or_nothing(&agent);
    an_expired_lease_is_lost(&agent);
    assert!(!agent.ctl(&["acquire", "x"]).stderr.contains("this host only"));
}

#[test]
fn another_host_is_told_who_has_it_on_postgres() {
    let (store, alpha) = ready();
    let beta = Agent::on_postgres("beta", &store.url());
    ok(alpha.ctl(&["acquire", "prod/db", "-m", "migration 42"]));
    let refused = beta.ctl(&["acquire", "prod/db"]);
    says(&refused, HELD, &["@alpha", "alpha", "migration 42", "fence", "stormctl current prod/db"]);
    assert!(ok(beta.ctl(&["list"])).contains("alpha"));
    ok(alpha.ctl(&["release", "prod/db"]));
    ok(beta.ctl(&["acquire", "prod/db"]));
}

#[test]
fn kill_9_twenty_times_loses_no_lease_and_leaves_no_orphan_on_postgres() {
    let (_store, agent) = ready();
    kill_again_and_again(agent, "kill_on_postgres", KILLS);
}

#[test]
fn setup_makes_the_tables_and_says_what_it_did() {
    let store = PostgresServer::start();
    let agent = Agent::on_postgres("alpha", &store.url());
    says(&agent.ctl(&["acquire", "prod/db"]), CONFIG, &["prod/db", "stormlockd setup main"]);
    let printed = ok(setup(&agent, &["main", "--print"]));
    assert!(printed.starts_with("CREATE TABLE IF NOT EXISTS \"stormlock\""), "{printed}");
    assert!(printed.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON"), "{printed}");
    let made = ok(setup(&agent, &["main"]));
    assert_eq!(
        made,
        "made the table \"stormlock\"\nmade the table \"stormlock_ext\"\n\
         made the triggers of \"stormlock\" that wake those who wait\n"
    );
    ok(agent.ctl(&["acquire", "prod/db"]));
    let there = ok(setup(&agent, &["main", "--migrate"]));
    assert_eq!(there, THERE);
    // What it prints can be run again, and by an administrator.
    store.sql(&printed);
    ok(agent.ctl(&["release", "prod/db"]));
    says(&setup(&agent, &["elsewhere"]), CONFIG, &["there are: main"]);
}

/// The tables of a database, column by column, and who may do what with them.
fn schema(store: &PostgresServer) -> String {
    store.sql(
        "SELECT table_name, ordinal_position, column_name, data_type, is_nullable, column_default \
         FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2; \
         SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint \
         WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2; \
         SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1; \
         SELECT pg_get_functiondef('stormlock_tell'::regproc)",
    )
}

#[test]
fn a_setup_without_the_right_to_it_prints_what_to_hand_to_who_has_it() {
    let store = PostgresServer::start();
    store.sql("CREATE ROLE poor LOGIN");
    let table = "kind = \"postgres\"\nusername = \"poor\"";
    let agent = Agent::prepare(&format!(
        "[backend.main]\n{table}\nurl = \"{}\"\n[[rule]]\nwho = [\"everyone\"]\n\
         may = [\"acquire\"]\n",
        store.url()
    ));
    let refused = setup(&agent, &["main"]);
    says(
        &refused,
        UNAVAILABLE,
        &[
            "backend main",
            "permission denied for schema public",
            "a new table needs CREATE on its schema",
            "whoever has the rights can run this instead:",
        ],
    );
    let printed = ok(setup(&agent, &["main", "--print"]));
    assert!(refused.stderr.contains(&printed), "{refused:?}");
    // A database administrator does, by hand.
    store.sql(&printed);
    assert_eq!(ok(setup(&agent, &["main"])), THERE);
    let mut agent = agent;
    agent.restart();
    ok(agent.ctl(&["acquire", "prod/db"]));
    ok(agent.ctl(&["release", "prod/db"]));

    let other = PostgresServer::start();
    let of_other = Agent::on_postgres("alpha", &other.url());
    ok(setup(&of_other, &["main"]));
    assert_eq!(schema(&store), schema(&other), "by hand and by itself it is the same");
}
