//! Our agents and the Python tool on a table of DynamoDB: what each sees of the other there, and
//! the two holes of that tool: a renew that names no lease, and no acquire of what has ended.

use stormlock_protocol::client::Client;
use stormlock_protocol::message::{Acquire, Attach, Hold, Lease, State, Wait};
use stormlock_protocol::name::Ttl;

use crate::agent::Agent;
use crate::dice::now_ms;
use crate::dynamo_server::DynamoServer;
use crate::python::{Peer, PythonTool, Said};
use crate::{Taken, acquire, resource, until};

fn python(store: &DynamoServer) -> Peer {
    PythonTool::on("dynamodb", &store.python_config(), "peer@elsewhere").peer()
}

#[test]
fn agent_and_python_tool_see_each_other_s_locks_on_dynamodb() {
    let store = DynamoServer::start_unswept();
    let agent = Agent::start(&store.agent_config("alpha"));
    let mut python = python(&store);
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

/// An id that no lease has.
const NOBODYS: &str = "00112233445566778899aabbccddeeff";
/// The ttl of a lease that is not to end in here.
const LONG_SECS: u32 = 600;
/// Most seconds that an end is rounded up by, or a read-back late.
const SLACK_SECS: i64 = 10;

/// So much before its end an agent stops believing in what lasts two seconds, and gives it back.
const BEFORE_MS: u64 = 260;

/// An agent that takes over only what has ended so many seconds ago.
fn agent(store: &DynamoServer, host: &str, margin_secs: u32) -> Agent {
    let usual = "takeover_margin = \"0s\"";
    let config = store.agent_config(host);
    assert!(config.contains(usual), "{config}");
    Agent::start(&config.replace(usual, &format!("takeover_margin = \"{margin_secs}s\"")))
}

/// Takes a lease that is kept, or one that nobody renews.
fn take(client: &mut Client, on: &str, ttl_secs: u32, hold: Hold) -> String {
    let ask = Acquire {
        resources: vec![resource(on)],
        ttl: Some(Ttl::from_secs(ttl_secs.into()).expect("a ttl")),
        hold,
        reason: None,
        attach: Attach::Detached,
        wait: Wait::No,
        terminal: None,
    };
    client.acquire(ask).expect("it is free").remove(0).lease.to_string()
}

/// When what stands there ends.
fn ends(store: &DynamoServer, on: &str) -> Option<i64> {
    store.item(on)["expires"]["N"].as_str().map(|secs| secs.parse().expect("seconds"))
}

/// How long an agent still believes in a lease, in milliseconds; `None`: not at all.
fn left_ms(client: &mut Client, lease: &str) -> Option<u64> {
    let status = client.status(None).expect("the agent answers");
    let mut known = status.leases.into_iter().filter(|known| known.lease.to_string() == lease);
    let believed = |known: &Lease| matches!(known.state, State::Held | State::AtRisk);
    known.find(believed).map(|known| known.left_ms)
}

#[test]
fn a_stray_renew_of_the_python_tool_is_said_and_mended() {
    let store = DynamoServer::start_unswept();
    let agent = agent(&store, "alpha", 60);
    let mut client = agent.client().expect("the agent answers");
    let mut python = python(&store);
    let kept = ["cut", "lengthened"].map(|on| take(&mut client, on, LONG_SECS, Hold::Keep));
    let left_alone = take(&mut client, "left-alone", LONG_SECS, Hold::No);
    let usual = ends(&store, "cut").expect("a lock");
    let other_end = [("cut", 45), ("lengthened", 86_400), ("left-alone", 45)];
    for (on, secs) in other_end {
        assert_eq!(python.renew(on, NOBODYS, secs), Said::Done, "it asks for the id now");
        let moved = ends(&store, on).expect("a lock") - usual + i64::from(LONG_SECS);
        assert!((moved - i64::from(secs)).abs() < SLACK_SECS, "{on}: {moved}");
    }
    for on in ["cut", "lengthened"] {
        until("it is mended", || {
            ends(&store, on).filter(|end| (0..2 * SLACK_SECS + 15).contains(&(end - usual)))
        });
    }
    // Nobody renews this one: what is believed of it is what the store says.
    until("it is noticed", || left_ms(&mut client, &left_alone).filter(|ms| *ms < 45_000));
    for lease in kept {
        assert!(left_ms(&mut client, &lease).is_some_and(|ms| ms > 500_000), "{}", agent.log());
    }
    let log = agent.log();
    for said in ["another writer cut the lease short", "another writer made the lease last longer"]
    {
        assert!(log.contains(said), "{log}");
    }
    assert!(!log.contains("lease is lost"), "{log}");
}

#[test]
fn a_stale_holder_of_the_python_tool_takes_nothing_back_after_our_takeover() {
    let store = DynamoServer::start_unswept();
    let agent = agent(&store, "alpha", 0);
    let mut client = agent.client().expect("the agent answers");
    let mut python = python(&store);
    let Said::Granted(theirs) = python.acquire("prod/db", 1) else { panic!("not free") };
    until("it has ended", || {
        client.current(resource("prod/db")).expect("current is answered").is_none().then_some(())
    });
    let ours = take(&mut client, "prod/db", LONG_SECS, Hold::Keep);
    let usual = ends(&store, "prod/db").expect("a lock");
    // It thinks that it still has it: its renew says so.
    assert_eq!(python.renew("prod/db", &theirs, 45), Said::Done);
    assert!(ends(&store, "prod/db").is_some_and(|end| end < usual - 400));
    assert!(matches!(python.acquire("prod/db", 60), Said::Held { lease, .. } if lease == ours));
    until("it is mended", || ends(&store, "prod/db").filter(|end| *end >= usual));
    assert_eq!(python.release("prod/db", &theirs), Said::Done);
    assert!(matches!(python.current("prod/db"), Said::Held { lease, .. } if lease == ours));
    assert!(left_ms(&mut client, &ours).is_some(), "{}", agent.log());
    assert!(agent.log().contains("another writer cut the lease short"), "{}", agent.log());
}

#[test]
fn a_lease_cut_to_nothing_is_lost_before_another_has_it_and_nothing_dead_stays() {
    // With a margin no agent takes it at once; without one the agent itself sees it ended.
    for margin_secs in [60, 0] {
        let store = DynamoServer::start_unswept();
        let (holder, other) = (agent(&store, "alpha", margin_secs), agent(&store, "beta", 60));
        let mut client = holder.client().expect("the agent answers");
        let mut other = other.client().expect("the agent answers");
        let mut python = python(&store);
        let ours = take(&mut client, "prod/db", LONG_SECS, Hold::Keep);
        assert_eq!(python.renew("prod/db", NOBODYS, 1), Said::Done);
        let next = until("the other agent or the Python tool has it", || {
            if margin_secs > 0
                && let Taken::Granted(lease) = acquire(&mut other, "prod/db", 60)
            {
                return Some(lease.lease.to_string());
            }
            match python.acquire("prod/db", 60) {
                Said::Granted(lease) => Some(lease),
                _ => None,
            }
        });
        assert_eq!(left_ms(&mut client, &ours), None, "two holders: {}", holder.log());
        assert!(holder.log().contains("lease is lost"), "{}", holder.log());
        assert!(matches!(python.current("prod/db"), Said::Held { lease, .. } if lease == next));
    }
}

#[test]
fn what_ended_of_ours_is_deleted_so_that_the_python_tool_can_take_it() {
    let store = DynamoServer::start_unswept();
    let (mut alpha, beta) = (agent(&store, "alpha", 0), agent(&store, "beta", 0));
    let mut client = alpha.client().expect("the agent answers");
    let mut python = python(&store);
    // Its own agent deletes it when it has ended.
    let begun = now_ms();
    let ours = take(&mut client, "ended", 2, Hold::No);
    until("the Python tool has it", || match python.acquire("ended", 60) {
        Said::Granted(_) => Some(()),
        Said::Held { lease, .. } => {
            assert_eq!(lease, ours);
            None
        }
        _ => None,
    });
    let took_ms = now_ms() - begun;
    assert!(took_ms >= 2000 - BEFORE_MS, "it was free after {took_ms} ms");
    assert_eq!(left_ms(&mut client, &ours), None);
    // Of an agent that is gone another one does, when it sees it.
    take(&mut client, "orphan", 2, Hold::No);
    alpha.kill();
    until("it has ended", || (python.current("orphan") == Said::Free).then_some(()));
    assert_eq!(python.acquire("orphan", 60), Said::Free, "it takes what has ended now");
    assert!(ends(&store, "orphan").is_some());
    until("an agent sees that it has ended", || {
        let seen = beta.ctl(&["current", "--id-only", "orphan"]);
        seen.stdout.trim().is_empty().then_some(())
    });
    assert_eq!(ends(&store, "orphan"), None, "nothing is left");
    assert!(matches!(python.acquire("orphan", 60), Said::Granted(_)));
    // And a release leaves nothing.
    let ours = beta.ctl(&["acquire", "given-back"]).stdout;
    assert_eq!(beta.ctl(&["release", "given-back", ours.trim()]).code, Some(0));
    assert!(store.item("given-back").is_null());
    assert!(matches!(python.acquire("given-back", 60), Said::Granted(_)));
}

#[test]
fn an_expired_item_of_the_python_tool_is_ours_after_the_margin_and_not_before() {
    const MARGIN_SECS: u32 = 5;
    let store = DynamoServer::start_unswept();
    let agent = agent(&store, "alpha", MARGIN_SECS);
    let mut client = agent.client().expect("the agent answers");
    let mut python = python(&store);
    let begun = now_ms();
    let Said::Granted(theirs) = python.acquire("prod/db", 2) else { panic!("not free") };
    let mut ended = 0;
    until("it is ours", || match acquire(&mut client, "prod/db", 60) {
        Taken::Granted(_) => Some(()),
        Taken::Held(lock) => {
            let lock = lock.expect("the store says who has it");
            assert_eq!(lock.lease.to_string(), theirs);
            // Its own tool says that nobody has it, and takes it no more.
            if python.current("prod/db") == Said::Free {
                assert_eq!(python.acquire("prod/db", 60), Said::Free);
                ended += 1;
            }
            None
        }
    });
    // It cuts its ends to whole seconds.
    let least_ms = u64::from(2 + MARGIN_SECS - 1) * 1000;
    assert!(now_ms() - begun >= least_ms, "it was ours after {} ms", now_ms() - begun);
    assert!(ended > 0, "the margin was no time at all");
    assert_eq!(python.release("prod/db", &theirs), Said::Done);
    assert!(matches!(python.current("prod/db"), Said::Held { lease, .. } if lease != theirs));
}
