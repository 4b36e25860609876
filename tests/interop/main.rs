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
mod contention_dynamodb;
mod contention_etcd;
mod contention_postgres;
mod expiry;
mod interleaving;

use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{Acquire, Attach, Code, Hold, Lease, Lock, Wait};
use stormlock_protocol::name::{Resource, Ttl};

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
    let ask = Acquire {
        resources: vec![resource(name)],
        ttl: Some(Ttl::from_secs(ttl_secs.into()).expect("a ttl")),
        hold: Hold::No,
        reason: None,
        attach: Attach::Detached,
        wait: Wait::No,
    };
    match client.acquire(ask) {
        Ok(mut leases) if leases.len() == 1 => Taken::Granted(Box::new(leases.remove(0))),
        Err(ClientError::Refused(no)) if no.code == Code::Held => Taken::Held(no.holder),
        other => panic!("acquire of {name} is neither granted nor held: {other:?}"),
    }
}
