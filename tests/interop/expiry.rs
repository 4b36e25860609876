//! What ends by itself is free for the other side, and not before.

use stormlock_protocol::message::{State, Status};

use crate::agent::Agent;
use crate::dice::now_ms;
use crate::python::{PythonTool, Said};
use crate::redis_server::RedisServer;
use crate::{Taken, acquire};

/// Short enough to be waited for by asking.
const TTL_SECS: u32 = 2;
/// A lease may end late, but so late that something is wrong: the test gives up.
const GIVE_UP_MS: u64 = 10_000;

fn believes(status: &Status) -> bool {
    status.leases.iter().any(|lease| matches!(lease.state, State::Held | State::AtRisk))
}

#[test]
fn an_expired_lease_of_the_python_tool_is_ours_to_take_and_not_before() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    let mut client = agent.client().expect("the agent answers");
    let mut peer = PythonTool::new(&store.url(), "peer@elsewhere").peer();
    let asked = now_ms();
    let Said::Granted(theirs) = peer.acquire("prod/db", TTL_SECS) else {
        panic!("a free resource is granted");
    };
    let mut refused = 0;
    let ours = loop {
        match acquire(&mut client, "prod/db", 60) {
            Taken::Granted(lease) => break lease,
            Taken::Held(holder) => {
                let holder = holder.expect("the store says who holds it");
                assert_eq!(holder.lease.to_string(), theirs);
                assert_eq!(holder.principal.as_str(), "peer@elsewhere");
                refused += 1;
            }
        }
        assert!(now_ms() - asked < GIVE_UP_MS, "the lease never ended: {}", agent.log());
    };
    let waited = now_ms() - asked;
    println!("expiry: {refused} refusals, then granted after {waited} ms");
    assert!(waited >= u64::from(TTL_SECS) * 1000, "granted after {waited} ms");
    assert!(refused > 0, "it was never held");
    assert_eq!(peer.renew("prod/db", &theirs, 60), Said::Expired);
    assert_eq!(peer.release("prod/db", &theirs), Said::Done);
    let Said::Held { lease, .. } = peer.current("prod/db") else {
        panic!("a late release of the old holder freed the new one's lock");
    };
    assert_eq!(lease, ours.lease.to_string());
}

#[test]
fn our_agent_says_lost_before_the_python_tool_is_granted() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    let mut client = agent.client().expect("the agent answers");
    let mut peer = PythonTool::new(&store.url(), "peer@elsewhere").peer();
    let Taken::Granted(ours) = acquire(&mut client, "prod/db", TTL_SECS) else {
        panic!("a free resource is granted");
    };
    assert!(believes(&client.status(None).expect("the agent answers")), "it holds it now");
    let asked = now_ms();
    let mut refused = 0;
    while let Said::Held { lease, .. } = peer.acquire("prod/db", 60) {
        assert_eq!(lease, ours.lease.to_string());
        refused += 1;
        assert!(now_ms() - asked < GIVE_UP_MS, "the lease never ended: {}", agent.log());
    }
    let status = client.status(None).expect("the agent answers");
    println!("expiry: {refused} refusals of the Python tool");
    assert!(refused > 0, "it was never held");
    assert!(!believes(&status), "two holders: {:?}\n{}", status.leases, agent.log());
}
