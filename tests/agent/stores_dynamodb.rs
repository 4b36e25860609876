//! DynamoDB, as operators and crashes meet it.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use stormlock_protocol::message::Hold;

use crate::agent::{Agent, program};
use crate::dynamo_server::DynamoServer;
use crate::program::{Ran, run};
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

fn setup(agent: &Agent, args: &[&str]) -> Ran {
    let mut command = Command::new(program("stormlockd"));
    command.arg("setup").args(args).arg("--config").arg(agent.file("stormlockd.toml"));
    run(&mut command, Duration::from_secs(60))
}

#[test]
fn setup_creates_the_table_and_says_what_it_did() {
    let store = DynamoServer::start_with(&[]);
    let agent = Agent::prepare(&store.agent_config("alpha"));
    let printed = setup(&agent, &["main", "--print"]);
    assert!(printed.stdout.starts_with("aws dynamodb create-table"), "{printed:?}");
    let made = setup(&agent, &["main"]);
    assert_eq!(made.stdout, "table stormlock is created\nits TTL is turned on, by expires\n");
    let again = setup(&agent, &["main"]);
    assert_eq!(again.stdout, "table stormlock is there already\nits TTL is on expires already\n");
    let nobody = setup(&agent, &["elsewhere"]);
    assert_eq!(nobody.code, Some(78), "{nobody:?}");
    assert!(nobody.stderr.contains("there are: main"), "{nobody:?}");

    let by_hand = DynamoServer::start_with(&[]);
    as_the_aws_tools(&by_hand, &printed.stdout);
    assert_eq!(described(&by_hand), described(&store), "by hand and by itself it is the same");
    let agent = Agent::prepare(&by_hand.agent_config("alpha"));
    assert_eq!(setup(&agent, &["main"]).stdout, again.stdout);
}

/// What matters of a table.
fn described(store: &DynamoServer) -> Vec<Value> {
    let ask = json!({"TableName": "stormlock"});
    let table = &store.run("DescribeTable", &ask)["Table"];
    let keys = ["AttributeDefinitions", "KeySchema", "DeletionProtectionEnabled", "TableStatus"];
    let mut described: Vec<Value> = keys.iter().map(|key| table[*key].clone()).collect();
    described.push(table["BillingModeSummary"]["BillingMode"].clone());
    described.push(store.run("DescribeTimeToLive", &ask));
    described
}

/// Does what commands of the AWS tools do: each option is a field of the request.
fn as_the_aws_tools(store: &DynamoServer, commands: &str) {
    let camel = |words: &str| -> String {
        let word = |word: &str| word[..1].to_uppercase() + &word[1..];
        words.split('-').map(word).collect()
    };
    for command in commands.replace("\\\n", "").lines() {
        let words: Vec<&str> = command.split_whitespace().collect();
        let ["aws", "dynamodb", operation, options @ ..] = &words[..] else {
            panic!("no command of the AWS tools: {command}")
        };
        let mut body = serde_json::Map::new();
        let mut options = options.iter().peekable();
        while let Some(option) = options.next() {
            let Some(option) = option.strip_prefix("--") else { continue };
            let value = options.next_if(|value| !value.starts_with("--")).copied();
            let pair = |pair: &str| {
                let (key, value) = pair.split_once('=').expect("KEY=VALUE");
                let value = if value == "true" { json!(true) } else { json!(value) };
                (key.to_owned(), value)
            };
            let value = match (option, value) {
                ("region", _) => continue,
                (_, None) => json!(true),
                ("attribute-definitions" | "key-schema", Some(value)) => {
                    json!([value.split(',').map(pair).collect::<serde_json::Map<_, _>>()])
                }
                (_, Some(value)) if value.contains('=') => {
                    Value::Object(value.split(',').map(pair).collect())
                }
                (_, Some(value)) => json!(value),
            };
            body.insert(camel(option), value);
        }
        match *operation {
            "wait" => {}
            operation => drop(store.run(&camel(operation), &Value::Object(body))),
        }
    }
}
