//! Our agents and the Python tool on one real Redis: the same locks, the same command line, never
//! two holders.
//!
//! `STORMLOCK_SEED` repeats a random run, `STORMLOCK_ROUNDS` makes the contention longer.

#[path = "../support/agent.rs"]
mod agent;
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

use rustix::time::{ClockId, clock_gettime};
use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{Acquire, Attach, Code, Hold, Lease, Lock};
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
    };
    match client.acquire(ask) {
        Ok(mut leases) if leases.len() == 1 => Taken::Granted(Box::new(leases.remove(0))),
        Err(ClientError::Refused(no)) if no.code == Code::Held => Taken::Held(no.holder),
        other => panic!("acquire of {name} is neither granted nor held: {other:?}"),
    }
}

/// Milliseconds since boot.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let ms = now.tv_sec * 1000 + now.tv_nsec / 1_000_000;
    u64::try_from(ms).expect("the boot clock is not negative")
}

/// A small generator whose seed is printed: xorshift64*.
struct Dice(u64);

impl Dice {
    fn seeded(test: &str) -> Dice {
        let seed = match std::env::var("STORMLOCK_SEED") {
            Ok(text) => text.parse().expect("STORMLOCK_SEED is a number"),
            Err(_) => now_ms(),
        };
        println!("{test}: STORMLOCK_SEED={seed}");
        // A state of nought would stay nought.
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let rolled = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(rolled).expect("31 bits fit") % end
    }
}
