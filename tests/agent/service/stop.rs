//! SIGTERM: the agent goes at once, and no lease goes with it.

use rustix::process::Signal;
use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{Acquire, Attach, Event, Hold, Lease, State};

use super::on_redis;
use crate::agent::Agent;
use crate::dice::now_ms;
use crate::proxy::{Fault, Proxy};
use crate::redis_server::{Answer, RedisServer};
use crate::{acquire, leases, local, locks, until, until_right, wish};

/// A stop that has nothing to wait for takes no longer.
const AT_ONCE_MS: u64 = 3000;

fn stop_at_once(agent: &mut Agent) {
    let began = now_ms();
    let status = agent.stop();
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert!(now_ms() - began < AT_ONCE_MS, "it took {} ms", now_ms() - began);
    assert!(!agent.socket().exists(), "the socket stays behind");
}

/// The lease as the agent has it once all is confirmed.
fn settled(client: &mut Client, lease: &Lease) -> Lease {
    until_right("the lease is held again", || {
        let all = leases(client);
        let found = all.iter().find(|it| it.lease == lease.lease && it.state == State::Held);
        found.cloned().ok_or_else(|| format!("{all:?}"))
    })
}

fn a_lease_outlives_the_stop(mut agent: Agent) {
    let mut client = agent.client().expect("the agent answers");
    let kept = acquire(&mut client, wish("kept", Hold::Keep));
    let brief = acquire(&mut client, wish("brief", Hold::No));
    drop(client);
    for _ in 0..3 {
        stop_at_once(&mut agent);
        agent.restart();
        let mut client = agent.client().expect("the agent answers");
        for before in [&kept, &brief] {
            let after = settled(&mut client, before);
            assert_eq!((after.fence, after.since), (before.fence, before.since));
            assert_eq!((after.hold, &after.principal), (before.hold, &before.principal));
        }
        assert_eq!(locks(&mut client).len(), 2);
    }
}

#[test]
fn a_stopped_agent_leaves_its_leases_to_the_next_one_on_the_local_backend() {
    a_lease_outlives_the_stop(Agent::start(&local()));
}

#[test]
fn a_stopped_agent_leaves_its_leases_to_the_next_one_on_redis() {
    let store = RedisServer::start();
    a_lease_outlives_the_stop(Agent::start(&on_redis(store.port())));
}

#[test]
fn a_stop_ends_sessions_and_gives_nothing_back_that_hung_on_them() {
    let store = RedisServer::start();
    let mut agent = Agent::start(&on_redis(store.port()));
    let mut holder = agent.client().expect("the agent answers");
    let ask = Acquire { attach: Attach::Session, ..wish("attached", Hold::Keep) };
    let attached = acquire(&mut holder, ask);
    let mut stream = agent.client().expect("the agent answers");
    stream.subscribe().expect("a stream");
    while stream.next_event(None).expect("an event") != Event::Caught {}
    let waits = std::thread::spawn(move || stream.next_event(None));
    stop_at_once(&mut agent);
    let ended = waits.join().expect("no panic").expect_err("no event: nothing is lost or ended");
    assert!(matches!(ended, ClientError::Closed), "{ended:?}");
    holder.status(None).expect_err("the session is over");
    assert_eq!(store.run("EXISTS attached"), Answer::Int(1), "the stop gave it back");
    agent.restart();
    let mut client = agent.client().expect("the agent answers");
    assert_eq!(settled(&mut client, &attached).fence, attached.fence);
}

#[test]
fn sigint_stops_as_sigterm_does_and_a_second_one_does_not_wait() {
    let store = RedisServer::start();
    let proxy = Proxy::start(store.port());
    let mut agent = Agent::start(&on_redis(proxy.port()));
    agent.signal(Signal::INT);
    assert_eq!(agent.wait().code(), Some(0));
    agent.restart();
    // A question that no answer comes to keeps the first signal waiting.
    proxy.when("prod/db", Fault::HoldRequest);
    let mut client = agent.client().expect("the agent answers");
    let asks = std::thread::spawn(move || client.acquire(wish("prod/db", Hold::No)));
    until("the question is on its way", || (proxy.hits() > 0).then_some(()));
    let began = now_ms();
    agent.signal(Signal::TERM);
    // The first word of this is from the agent before; two signals at once would count as one.
    until("it stops", || (agent.log().matches("stopping; leases").count() == 2).then_some(()));
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(0));
    assert!(now_ms() - began < AT_ONCE_MS, "it took {} ms", now_ms() - began);
    asks.join().expect("no panic").expect_err("nothing was granted");
}
