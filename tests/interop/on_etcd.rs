//! The same contention on an etcd, and what the two sides see of each other there.

use crate::agent::Agent;
use crate::contention::one_wins_each_round;
use crate::etcd_server::EtcdServer;
use crate::python::{PythonTool, Said};

const ROUNDS: usize = 200;
/// Most questions that the Python tool asks before its try: each takes it as long as an agent's
/// write to a disk or one of its three questions to the store.
const HANDICAP_MAX: usize = 40;

/// The tool for this etcd, with the prefix that both sides have.
fn tool(store: &EtcdServer) -> PythonTool {
    let section = format!("[backend.etcd]\nhost = 127.0.0.1\nport = {}\n", store.port());
    PythonTool::on("etcd", &section, "peer@elsewhere")
}

#[test]
fn of_two_agents_and_the_python_tool_exactly_one_wins_each_round_on_etcd() {
    let store = EtcdServer::start();
    let agents = ["alpha", "beta"].map(|host| Agent::on_etcd(host, &store.url()));
    one_wins_each_round(&agents, tool(&store), HANDICAP_MAX, ROUNDS);
}

#[test]
fn agent_and_python_tool_see_renew_and_release_each_other_s_locks_on_etcd() {
    let store = EtcdServer::start();
    let agent = Agent::on_etcd("alpha", &store.url());
    let mut python = tool(&store).peer();
    let ours = agent.ctl(&["acquire", "prod/db", "-m", "ours"]).stdout.trim().to_owned();
    let Said::Held { lease, principal } = python.acquire("prod/db", 60) else { panic!("taken") };
    assert_eq!(lease, ours);
    assert!(principal.ends_with("@alpha"), "{principal}");
    assert_eq!(python.renew("prod/db", &ours, 60), Said::Done);
    assert_eq!(agent.ctl(&["release", "prod/db"]).code, Some(0));
    assert_eq!(python.current("prod/db"), Said::Free);

    let Said::Granted(theirs) = python.acquire("prod/db", 60) else { panic!("not free") };
    let refused = agent.ctl(&["acquire", "prod/db"]);
    assert_eq!(refused.code, Some(75), "{refused:?}");
    assert!(refused.stderr.contains("peer@elsewhere"), "{refused:?}");
    let shown = agent.ctl(&["current", "--id-only", "prod/db"]);
    assert_eq!(shown.stdout.trim(), theirs);
    assert_eq!(python.renew("prod/db", &theirs, 60), Said::Done);
    assert_eq!(python.release("prod/db", &theirs), Said::Done);
    // Python frees one of ours by its id: the agent's holder hears that it is lost.
    let ours = agent.ctl(&["acquire", "prod/db"]).stdout.trim().to_owned();
    assert_eq!(python.release("prod/db", &ours), Said::Done);
    assert_eq!(python.current("prod/db"), Said::Free);
    assert_eq!(agent.ctl(&["renew", "prod/db", &ours]).code, Some(79), "it is lost");
}
