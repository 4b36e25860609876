//! The same contention on a table of DynamoDB.

use crate::agent::Agent;
use crate::contention::one_wins_each_round;
use crate::dynamo_server::DynamoServer;
use crate::python::{PythonTool, Said};

const ROUNDS: usize = 200;
/// Most questions that the Python tool asks before its try: each takes it as long as an agent's
/// write to a disk.
const HANDICAP_MAX: usize = 6;

#[test]
fn of_two_agents_and_the_python_tool_exactly_one_wins_each_round_on_dynamodb() {
    let store = DynamoServer::start();
    let agents = ["alpha", "beta"].map(|host| Agent::start(&store.agent_config(host)));
    let tool = PythonTool::on("dynamodb", &store.python_config(), "peer@elsewhere");
    one_wins_each_round(&agents, tool, HANDICAP_MAX, ROUNDS);
}

#[test]
fn agent_and_python_tool_see_each_other_s_locks_on_dynamodb() {
    let store = DynamoServer::start();
    let agent = Agent::start(&store.agent_config("alpha"));
    let tool = PythonTool::on("dynamodb", &store.python_config(), "peer@elsewhere");
    let mut python = tool.peer();
    let ours = agent.ctl(&["acquire", "prod/db", "-m", "ours"]).stdout.trim().to_owned();
    let Said::Held { lease, principal } = python.acquire("prod/db", 60) else { panic!("taken") };
    assert_eq!(lease, ours);
    assert!(principal.ends_with("@alpha"), "{principal}");
    assert_eq!(agent.ctl(&["release", "prod/db"]).code, Some(0));
    // Nothing is left behind that the tool could not take.
    let Said::Granted(theirs) = python.acquire("prod/db", 60) else { panic!("not free") };
    let refused = agent.ctl(&["acquire", "prod/db"]);
    assert_eq!(refused.code, Some(75), "{refused:?}");
    assert!(refused.stderr.contains("peer@elsewhere"), "{refused:?}");
    // It renews by the id that a person has, and so does the agent.
    assert_eq!(python.renew("prod/db", &theirs, 120), Said::Done);
    assert_eq!(agent.ctl(&["renew", "prod/db", &theirs]).code, Some(0));
    assert_eq!(python.release("prod/db", &theirs), Said::Done);
    assert_eq!(python.current("prod/db"), Said::Free);
    assert_eq!(agent.ctl(&["acquire", "prod/db"]).code, Some(0));
}
