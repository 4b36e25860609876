//! DynamoDB, as operators and crashes meet it.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use stormlock_protocol::message::Hold;

use crate::agent::{Agent, program};
use crate::dynamo_server::DynamoServer;
use crate::program::run;
use crate::{acquire, day, kill, ttl, until, wish};

/// Fewer than on the other stores: the emulator takes its time.
const KILLS: usize = 20;

#[test]
fn an_operator_takes_sees_renews_and_gives_back_on_dynamodb() {
    let store = DynamoServer::start();
    let agent = Agent::start(&store.agent_config("alpha"));
    day::a_day(&agent);
    day::all_or_nothing(&agent);
    day::an_expired_lease_is_lost(&agent);
    assert!(!agent.ctl(&["acquire", "x"]).stderr.contains("this host only"));
}

#[test]
fn kill_9_twenty_times_loses_no_lease_and_leaves_no_orphan_on_dynamodb() {
    let store = DynamoServer::start();
    let agent = Agent::start(&store.agent_config("alpha"));
    kill::kill_again_and_again(agent, "kill_on_dynamodb", KILLS);
}

#[test]
fn a_lease_that_the_python_tool_cut_is_mended_before_it_ends() {
    let store = DynamoServer::start();
    let agent = Agent::start(&store.agent_config("alpha"));
    let mut client = agent.client().expect("the agent answers");
    // Its own renewal would come after minutes; it is read back every quarter of one.
    let ask =
        stormlock_protocol::message::Acquire { ttl: Some(ttl(600)), ..wish("prod/db", Hold::Keep) };
    acquire(&mut client, ask);
    let ends = |item: &Value| item["expires"]["N"].as_str().map(|it| it.parse::<i64>().unwrap());
    let cut = ends(&store.item("prod/db")).expect("a lock") - 600 + 18;
    store.set("prod/db", "expires", &json!({"N": cut.to_string()}));
    until("the lease is mended", || ends(&store.item("prod/db")).filter(|end| *end > cut + 400));
}

#[test]
fn setup_creates_the_table_and_says_what_it_did() {
    let store = DynamoServer::start_with(&[]);
    let agent = Agent::prepare(&store.agent_config("alpha"));
    let setup = |args: &[&str]| {
        let mut command = Command::new(program("stormlockd"));
        command.arg("setup").args(args).arg("--config").arg(agent.file("stormlockd.toml"));
        run(&mut command, Duration::from_secs(60))
    };
    let printed = setup(&["main", "--print"]);
    assert!(printed.stdout.starts_with("aws dynamodb create-table"), "{printed:?}");
    let made = setup(&["main"]);
    assert_eq!(made.stdout, "table stormlock is created\nits TTL is turned on, by expires\n");
    let again = setup(&["main"]);
    assert_eq!(again.stdout, "table stormlock is there already\nits TTL is on expires already\n");
    let nobody = setup(&["elsewhere"]);
    assert_eq!(nobody.code, Some(78), "{nobody:?}");
    assert!(nobody.stderr.contains("there are: main"), "{nobody:?}");
}
