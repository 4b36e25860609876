//! The real agent and the real client, as users, crashes and strangers meet them.
//!
//! `STORMLOCK_SEED` repeats a random run.

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/dice.rs"]
mod dice;
#[path = "../support/dynamo.rs"]
mod dynamo_server;
#[path = "../support/etcd.rs"]
mod etcd_server;
#[path = "../support/exec.rs"]
mod exec_store;
#[path = "../support/meanwhile.rs"]
mod meanwhile;
#[path = "../support/postgres.rs"]
mod postgres_server;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/readme.rs"]
mod readme;
#[path = "../support/redis.rs"]
mod redis_server;

mod audit;
mod breaks;
mod day;
mod files;
mod kill;
mod limits;
mod notice;
mod outage;
mod refused;
mod restart;
mod run;
mod secrets;
mod service;
mod stores_all;
mod stores_dynamodb;
mod stores_etcd;
mod stores_exec;
mod stores_postgres;
mod strangers;
mod strings;
mod waiting;
mod waiting_stores;

use rustix::event::Timespec;
use stormlock_protocol::client::Client;
use stormlock_protocol::message::{Acquire, Attach, Hold, Lease, List, Lock, Wait};
use stormlock_protocol::name::{Resource, Ttl};

use dice::now_ms;

/// Something that takes longer than this never happens.
const GIVE_UP_MS: u64 = 60_000;

/// Between two looks at something that is waited for.
const LOOK_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// A configuration of the local backend alone, where the user of this test may do all.
fn local() -> String {
    let uid = rustix::process::geteuid().as_raw();
    format!(
        "host = \"alpha\"\n[backend.here]\nkind = \"local\"\n[[rule]]\nwho = [\"uid:{uid}\"]\n\
         may = [\"acquire\", \"break\", \"read\", \"release-any\"]\n"
    )
}

fn resource(name: &str) -> Resource {
    Resource::new(name).expect("a resource")
}

fn ttl(secs: u64) -> Ttl {
    Ttl::from_secs(secs).expect("a ttl")
}

/// An acquire of one resource, for a minute each time.
fn wish(name: &str, hold: Hold) -> Acquire {
    Acquire {
        resources: vec![resource(name)],
        ttl: Some(ttl(60)),
        hold,
        reason: None,
        attach: Attach::Detached,
        wait: Wait::No,
        terminal: None,
    }
}

fn acquire(client: &mut Client, ask: Acquire) -> Lease {
    let mut leases = client.acquire(ask).expect("a free resource is granted");
    leases.pop().expect("one lease for one resource")
}

/// Asks until there is an answer.
fn until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    until_right(what, || answer().ok_or_else(String::new))
}

/// Looks until it is right; at the end, says what was wrong last.
fn until_right<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let began = now_ms();
    loop {
        match look() {
            Ok(right) => return right,
            Err(wrong) if now_ms() - began > GIVE_UP_MS => {
                panic!("{what}: not within {GIVE_UP_MS} ms; {wrong}")
            }
            // Whoever is waited for needs the processor too.
            Err(_) => drop(rustix::event::poll(&mut [], Some(&LOOK_PAUSE))),
        }
    }
}

/// Every lock in the agent's stores.
fn locks(client: &mut Client) -> Vec<Lock> {
    let mut locks = Vec::new();
    let mut after = None;
    loop {
        let page = client.list(List { glob: None, mine: false, after }).expect("locks are listed");
        assert!(page.unread.is_empty(), "{:?}", page.unread);
        locks.extend(page.locks);
        match page.next {
            Some(next) => after = Some(next),
            None => return locks,
        }
    }
}

/// Every lease of the caller.
fn leases(client: &mut Client) -> Vec<Lease> {
    let mut leases = Vec::new();
    let mut after = None;
    loop {
        let page = client.status(after).expect("the agent answers");
        leases.extend(page.leases);
        match page.next {
            Some(next) => after = Some(next),
            None => return leases,
        }
    }
}
