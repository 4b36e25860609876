//! The laws, one scenario each; random sequences of inputs; and a simulated world of agents.

mod breaks;
mod check;
mod laws;
mod play;
mod scenarios;
mod sequences;
mod store;
mod waiting;
mod world;

use std::collections::BTreeSet;

use stormlock_protocol::name::{LeaseId, Principal, Resource, Ttl, UnixMs};

use super::law::Law;
use super::*;

/// A generator of numbers that gives the same ones for the same seed (splitmix64).
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True `parts` times of a thousand.
    fn chance(&mut self, parts: u64) -> bool {
        self.below(1000) < parts
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(from.len() as u64)).expect("a small number");
        &from[index]
    }
}

const STORE: &str = "main";

fn backend() -> BackendName {
    BackendName::new(STORE)
}

fn resource(name: &str) -> Resource {
    Resource::new(name).expect("a name of a test")
}

fn ttl(secs: u64) -> Ttl {
    Ttl::from_secs(secs).expect("a ttl of a test")
}

/// A claim; the number names the lease.
fn claim(number: u64, on: &str, ttl_secs: u64) -> Claim {
    let mut id = [0xee; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    Claim {
        resource: resource(on),
        lease: LeaseId::from_bytes(id),
        backend: backend(),
        principal: Principal::new("maria@bastion2").expect("a name of a test"),
        host: "bastion2".to_owned(),
        reason: None,
        ttl: ttl(ttl_secs),
        created: UnixMs(0),
        nonce: Nonce(number << 32),
        over: None,
    }
}

fn ask(ticket: u64, session: u64, claims: Vec<Claim>, hold: Hold) -> Input {
    let attach = Attach::Detached;
    let (ticket, session, owner) = (Ticket(ticket), SessionId(session), Uid(1000));
    let (leases_max, until, hold_for) = (256, None, None);
    Input::Acquire(Box::new(Ask {
        ticket,
        session,
        claims,
        owner,
        hold,
        attach,
        terminal: None,
        leases_max,
        until,
        hold_for,
    }))
}

fn table(off: Option<Law>, seed: u64) -> LeaseTable {
    let mut dice = Dice(seed);
    let mut table = LeaseTable::new(BTreeSet::new(), move || dice.next());
    table.off = off;
    table
}
