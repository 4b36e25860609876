//! How long it takes from a release on one host until somebody who waits on another has it, on each
//! store, beside the time of a plain acquire and release there. Stores that tell must be far below
//! the time after which a waiter looks by itself: a notice that does not come so fails the test.

use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use stormlock_protocol::client::Client;
use stormlock_protocol::message::{Acquire, Hold, Release, Target, Wait};

use crate::agent::{Agent, program};
use crate::day::ok;
use crate::dice::now_us;
use crate::dynamo_server::DynamoServer;
use crate::etcd_server::EtcdServer;
use crate::postgres_server::PostgresServer;
use crate::program::run;
use crate::redis_server::RedisServer;
use crate::{acquire, local, resource, wish};

const RESOURCE: &str = "prod/db";
/// Rounds on a store that tells, and on one that does not.
const ROUNDS: usize = 50;
const POLLED_ROUNDS: usize = 5;
/// Between the beginning of a wait and the release: a waiter has looked by then, and does not look
/// again before it is told. (It never looks twice within 50 ms.)
const WAITED: Duration = Duration::from_millis(150);
/// Well below the time after which a waiter that is told nothing looks by itself (1.5 s, and once
/// 1 s after the store turned out to tell nothing), and so long that a busy machine does not take
/// it in most rounds.
const TOLD_MAX_US: u64 = 500_000;
/// The same by polling every 2 s, on a busy machine.
const POLLED_MAX_US: u64 = 15_000_000;

/// Somebody on a host who waits, has it, and gives it back, once for each word.
struct Waiter {
    go: Option<Sender<()>>,
    waits: Receiver<()>,
    granted: Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

impl Waiter {
    fn on(agent: &Agent, name: &'static str) -> Waiter {
        let mut client = agent.client().expect("it answers");
        // Whoever connects and says nothing for a while is cut off.
        client.status(None).expect("it answers");
        let ((go, word), (tell, waits), (grant, granted)) = (channel(), channel(), channel());
        let thread = std::thread::spawn(move || {
            while word.recv().is_ok() {
                let ask = Acquire { wait: Wait::Forever, ..wish(name, Hold::Keep) };
                let granted = client.acquire_waiting(ask, |_| tell.send(()).expect("it listens"));
                let at = now_us();
                // An agent that was stopped meanwhile: the test is over.
                if granted.is_err() {
                    return;
                }
                give_back(&mut client, name);
                grant.send(at).expect("it listens");
            }
        });
        Waiter { go: Some(go), waits, granted, thread: Some(thread) }
    }

    /// Waits from now on; returns once it is known that it does.
    fn waits(&self) {
        self.go.as_ref().expect("it is there").send(()).expect("it listens");
        self.waits.recv().expect("it waits");
    }

    /// When it had it.
    fn had_it_at(&self) -> u64 {
        let at = self.granted.recv().expect("it is granted");
        while self.waits.try_recv().is_ok() {}
        at
    }
}

fn give_back(client: &mut Client, name: &str) {
    let target = Target { resource: resource(name), lease: None };
    client.release(Release::These(vec![target])).expect("a release");
}

/// A wait for a word that never comes.
fn pause(time: Duration) {
    let (_tell, told) = channel::<()>();
    let _ = told.recv_timeout(time);
}

/// Median and longest of some times.
fn middle(mut times: Vec<u64>) -> (u64, u64) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// From the answer to a release until the other has it; the median.
fn measure(store: &str, rounds: usize, holds: &Agent, waits: &Agent) -> u64 {
    let mut holder = holds.client().expect("it answers");
    let mut plain = Vec::new();
    for _ in 0..rounds {
        let began = now_us();
        acquire(&mut holder, wish(RESOURCE, Hold::Keep));
        give_back(&mut holder, RESOURCE);
        plain.push(now_us() - began);
    }
    // One more waits there all the while, so that what is measured is no connecting.
    acquire(&mut holder, wish("prod/other", Hold::Keep));
    let other = Waiter::on(waits, "prod/other");
    other.waits();
    let waiter = Waiter::on(waits, RESOURCE);
    let mut waited = Vec::new();
    for _ in 0..rounds {
        acquire(&mut holder, wish(RESOURCE, Hold::Keep));
        waiter.waits();
        pause(WAITED);
        give_back(&mut holder, RESOURCE);
        let released = now_us();
        waited.push(waiter.had_it_at().saturating_sub(released));
    }
    give_back(&mut holder, "prod/other");
    other.had_it_at();
    for mut waiter in [other, waiter] {
        waiter.go = None;
        waiter.thread.take().expect("it runs").join().expect("it ends");
    }
    let ((plain, _), (waited, longest)) = (middle(plain), middle(waited));
    println!(
        "{store}: {rounds} waits, granted {waited} us after the release (median), {longest} us at \
         most; a plain acquire and release takes {plain} us: {:.1} of it",
        f64::from(u32::try_from(waited).expect("short"))
            / f64::from(u32::try_from(plain).expect("short"))
    );
    waited
}

#[test]
fn a_waiter_is_told_of_a_release_on_redis() {
    let store = RedisServer::start();
    let [holds, waits] = ["alpha", "beta"].map(|host| Agent::on_redis(host, &store.url()));
    assert!(measure("redis", ROUNDS, &holds, &waits) < TOLD_MAX_US);
}

#[test]
fn a_waiter_is_told_of_a_release_on_etcd() {
    let store = EtcdServer::start();
    let [holds, waits] = ["alpha", "beta"].map(|host| Agent::on_etcd(host, &store.url()));
    assert!(measure("etcd", ROUNDS, &holds, &waits) < TOLD_MAX_US);
}

#[test]
fn a_waiter_is_told_of_a_release_on_postgres_once_it_was_set_up() {
    let store = PostgresServer::start();
    let [holds, waits] = ["alpha", "beta"].map(|host| Agent::on_postgres(host, &store.url()));
    let mut setup = Command::new(program("stormlockd"));
    setup.args(["setup", "main", "--config"]).arg(holds.file("stormlockd.toml"));
    ok(run(&mut setup, Duration::from_secs(60)));
    assert!(measure("postgres", ROUNDS, &holds, &waits) < TOLD_MAX_US);
    // Without what setup made for it, it looks by itself.
    store.sql("DROP FUNCTION stormlock_tell CASCADE");
    let polled = measure("postgres, not told", POLLED_ROUNDS, &holds, &waits);
    assert!(polled < POLLED_MAX_US);
}

#[test]
fn a_waiter_looks_by_itself_on_dynamodb() {
    let store = DynamoServer::start();
    let [holds, waits] = ["alpha", "beta"].map(|host| Agent::start(&store.agent_config(host)));
    assert!(measure("dynamodb", POLLED_ROUNDS, &holds, &waits) < POLLED_MAX_US);
}

#[test]
fn a_waiter_is_told_of_a_release_on_its_own_host() {
    let agent = Agent::start(&local());
    assert!(measure("local", ROUNDS, &agent, &agent) < TOLD_MAX_US);
}
