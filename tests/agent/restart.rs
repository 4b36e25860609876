//! What a restart keeps: a loss until its holder knows of it, and one believer where a host was
//! copied.

use std::fs;

use stormlock_protocol::message::{Hold, LostReason, State};

use crate::agent::Agent;
use crate::redis_server::RedisServer;
use crate::{acquire, leases, local, ttl, until, wish};

#[test]
fn a_loss_is_told_after_restarts_too_until_its_holder_knows_of_it() {
    let mut agent = Agent::start(&local());
    let ask = wish("prod/db", Hold::No);
    let ask = stormlock_protocol::message::Acquire { ttl: Some(ttl(2)), ..ask };
    acquire(&mut agent.client().expect("it answers"), ask);
    let lost = State::Lost(LostReason::Expired);
    until("it is lost", || {
        let found = leases(&mut agent.client().expect("it answers"));
        (found.len() == 1 && found[0].state == lost).then_some(())
    });
    for _ in 0..2 {
        agent.kill();
        agent.restart();
        let found = leases(&mut agent.client().expect("it answers"));
        assert!(found.len() == 1 && found[0].state == lost, "{found:?}");
        let held = agent.ctl(&["is-held", "prod/db", "--by", "me"]);
        assert_eq!(held.code, Some(1), "{held:?}");
    }
    let told = agent.ctl(&["release", "prod/db"]);
    assert_eq!(told.code, Some(79), "{told:?}");
    assert!(told.stderr.contains("time ran out"), "{told:?}");
    for restarts in [false, true] {
        if restarts {
            agent.kill();
            agent.restart();
        }
        assert!(leases(&mut agent.client().expect("it answers")).is_empty());
    }
}

#[test]
fn of_two_copies_of_a_host_one_goes_on_and_the_other_says_that_it_is_one() {
    let store = RedisServer::start();
    let mut first = Agent::on_redis("alpha", &store.url());
    acquire(&mut first.client().expect("it answers"), wish("prod/db", Hold::Keep));
    first.stop();
    let mut copy = Agent::prepare("");
    for name in ["stormlockd.toml", "state/journal"] {
        fs::copy(first.file(name), copy.file(name)).expect("a file of the agent");
    }
    first.restart();
    copy.restart();
    let state = |agent: &Agent| {
        let found = leases(&mut agent.client().expect("it answers"));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].state.clone()
    };
    let lost = State::Lost(LostReason::Clone);
    until("one of them knows better", || {
        let states = [state(&first), state(&copy)];
        let one = |wanted: &State| states.iter().filter(|it| *it == wanted).count() == 1;
        (one(&State::Held) && one(&lost)).then_some(())
    });
}
