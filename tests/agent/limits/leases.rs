//! One user takes as many leases as one user may have, to be renewed as often as any can be.

use std::net::Shutdown;
use std::os::unix::process::CommandExt;
use std::process::Command;

use stormlock_protocol::message::{Acquire, Attach, Code, Hold, Release, Reply, Request, Target};
use stormlock_protocol::process::Process;

use super::victim::Victim;
use super::{EVE, MALLORY, ask, open_to_all, refusal, shared, welcomed};
use crate::agent::Agent;
use crate::redis_server::RedisServer;
use crate::{resource, ttl, until, wish};

/// The agent's limit of leases of one user, and how many one request may ask for.
const LEASES_OF_ONE: usize = 256;
const AT_ONCE: usize = 32;

/// So many resources, with the shortest ttl that there is.
fn take(prefix: &str, from: usize, count: usize) -> Request {
    let name = |number| resource(&format!("{prefix}/{number}"));
    Request::Acquire(Acquire {
        resources: (from..from + count).map(name).collect(),
        ttl: Some(ttl(1)),
        ..wish(prefix, Hold::Keep)
    })
}

#[test]
fn as_many_leases_as_one_user_may_have_delay_nobodys_renewal_and_are_one_users_limit() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    let mut eve = welcomed(&agent, EVE);
    for from in (0..LEASES_OF_ONE).step_by(AT_ONCE) {
        let prefix = ["free", "store/free"][from / AT_ONCE % 2];
        let taken = ask(&mut eve, &take(prefix, from, AT_ONCE));
        assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
    }
    let measure = victim.during("256 leases of the shortest ttl", || {
        let no = refusal(&mut eve, &take("free", LEASES_OF_ONE, 1));
        assert_eq!(no.code, Code::TooMany, "{no:?}");
        assert!(no.message.contains("256"), "{no:?}");
    });
    measure.is_undisturbed();
    // Nobody else has fewer for that.
    let mut mallory = welcomed(&agent, MALLORY);
    let taken = ask(&mut mallory, &take("free", 2 * LEASES_OF_ONE, AT_ONCE));
    assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
    // All of the store's locks go at once, with everybody who was told of them.
    let _ = eve.shutdown(Shutdown::Both);
    victim.during("256 leases go on alone", || {}).is_undisturbed();
}

#[test]
fn a_limit_that_one_user_reached_is_free_again_with_each_lease_that_is_given_back() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let mut eve = welcomed(&agent, EVE);
    for from in (0..LEASES_OF_ONE).step_by(AT_ONCE) {
        let taken = ask(&mut eve, &take("free", from, AT_ONCE));
        assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
    }
    assert_eq!(refusal(&mut eve, &take("free", LEASES_OF_ONE, 1)).code, Code::TooMany);
    until("all is given back", || {
        let all = Request::Release(stormlock_protocol::message::Release::All);
        matches!(ask(&mut eve, &all), Reply::Released(these) if these.is_empty()).then_some(())
    });
    let taken = ask(&mut eve, &take("free", LEASES_OF_ONE, AT_ONCE));
    assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
}

/// While a command's group goes on nobody may end the lease under it, and whoever would is told to
/// end the group first.
#[test]
fn a_group_that_is_another_users_or_everybodys_is_nobodys_command() {
    let agent = Agent::start(&shared(RedisServer::start().port()));
    open_to_all(&agent);
    let mut eve = welcomed(&agent, EVE);
    let mut sleep = Command::new("sleep").arg("1000").process_group(0).spawn().expect("a process");
    for pid in [sleep.id(), 1] {
        let group = Process::look(pid, true).expect("it is there");
        let on = wish("free/db", Hold::Keep);
        let with = Acquire { attach: Attach::Process(group), ..on.clone() };
        let no = refusal(&mut eve, &Request::Acquire(with));
        assert!(no.code == Code::BadRequest && no.message.contains("none of yours"), "{no:?}");
        let taken = ask(&mut eve, &Request::Acquire(on));
        let Reply::Acquired(taken) = taken else { panic!("{taken:?}") };
        let leases = vec![Target { resource: resource("free/db"), lease: Some(taken[0].lease) }];
        let attach = Attach::Process(group);
        for request in [
            Request::Attach { leases: leases.clone(), attach },
            Request::Share { leases: leases.clone(), process: group },
        ] {
            assert_eq!(refusal(&mut eve, &request).code, Code::BadRequest);
        }
        // What it only ends with may be anybody's.
        let process = Process { group: false, ..group };
        let attach = Attach::Process(process);
        let attached = ask(&mut eve, &Request::Attach { leases: leases.clone(), attach });
        assert!(matches!(attached, Reply::Acquired(_)), "{attached:?}");
        let released = ask(&mut eve, &Request::Release(Release::These(leases)));
        assert!(matches!(released, Reply::Released(_)), "{released:?}");
    }
    sleep.kill().expect("our own child");
    sleep.wait().expect("our own child");
}
