//! Our agents and the Python tool on one real store: the same locks, the same command line, never
//! two holders.
//!
//! `STORMLOCK_SEED` repeats a random run, `STORMLOCK_ROUNDS` makes the contention longer.

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/dice.rs"]
mod dice;
#[path = "../support/dynamo.rs"]
mod dynamo_server;
#[path = "../support/etcd.rs"]
mod etcd_server;
#[path = "../support/postgres.rs"]
mod postgres_server;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/python.rs"]
mod python;
#[path = "../support/redis.rs"]
mod redis_server;

mod command_line;
mod contention;
mod expiry;
mod interleaving;
mod on_dynamodb;
mod on_etcd;
mod on_postgres;
mod on_redis;
mod stores;
mod waiting;

use std::time::Duration;

use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{Acquire, Attach, Code, Hold, Lease, Lock, Wait};
use stormlock_protocol::name::{Resource, Ttl};

/// What has not come by then never will: an agent reads a lease back every quarter of it.
const UNTIL_MAX_MS: u64 = 60_000;
/// How often it is asked for meanwhile.
const UNTIL_EVERY: Duration = Duration::from_millis(10);

/// What one of our agents says to an acquire.
enum Taken {
    Granted(Box<Lease>),
    /// Another has it; who, where the agent knows it.
    Held(Option<Box<Lock>>),
}

fn resource(name: &str) -> Resource {
    Resource::new(name).expect("a resource")
}

/// Asks one of our agents for a lease that nobody renews. Any other no than "held" fails the test.
fn acquire(client: &mut Client, name: &str, ttl_secs: u32) -> Taken {
    let taken = attempt(client, name, ttl_secs);
    taken.unwrap_or_else(|no| panic!("acquire of {name} is neither granted nor held: {no:?}"))
}

/// The same, with any other no for the test to judge.
fn attempt(client: &mut Client, name: &str, ttl_secs: u32) -> Result<Taken, ClientError> {
    let ask = Acquire {
        resources: vec![resource(name)],
        ttl: Some(Ttl::from_secs(ttl_secs.into()).expect("a ttl")),
        hold: Hold::No,
        reason: None,
        attach: Attach::Detached,
        wait: Wait::No,
        terminal: None,
    };
    match client.acquire(ask) {
        Ok(mut leases) => Ok(Taken::Granted(Box::new(leases.remove(0)))),
        Err(ClientError::Refused(no)) if no.code == Code::Held => Ok(Taken::Held(no.holder)),
        Err(other) => Err(other),
    }
}

/// Asks again and again for what must come.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = dice::now_ms() + UNTIL_MAX_MS;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(dice::now_ms() < end, "it does not come that {what}");
        // A pause without a sleep: a wait for a word that never comes.
        let (_tell, told) = std::sync::mpsc::channel::<()>();
        let _ = told.recv_timeout(UNTIL_EVERY);
    }
}
