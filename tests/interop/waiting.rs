//! The Python tool gives back what one of our agents waits for: the store tells the agent.

use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use stormlock_protocol::message::{Acquire, Attach, Hold, Release, Target, Wait};
use stormlock_protocol::name::Ttl;

use crate::agent::program;
use crate::dice::now_us;
use crate::program::run;
use crate::python::Said;
use crate::resource;
use crate::stores::Store;

const RESOURCE: &str = "prod/db";
const TTL_SECS: u32 = 3600;
const ROUNDS: usize = 9;
/// By then a waiter has looked, and does not look again before it is told.
const WAITED: Duration = Duration::from_millis(150);
/// Well below the time after which a waiter that is told nothing looks by itself (1.5 s, and once
/// 1 s after the store turned out to tell nothing), and so long that a busy machine does not take
/// it in most rounds.
const TOLD_MAX_US: u64 = 500_000;

fn a_release_is_told(store: &Store) {
    let agent = store.agent("alpha");
    if let Store::Postgres(_) = store {
        let mut setup = Command::new(program("stormlockd"));
        setup.args(["setup", "main", "--config"]).arg(agent.file("stormlockd.toml"));
        let made = run(&mut setup, Duration::from_secs(60));
        assert!(made.stdout.contains("made the triggers"), "{made:?}");
    }
    let mut python = store.tool().peer();
    let mut client = agent.client().expect("the agent answers");
    // Whoever connects and says nothing for a while is cut off.
    client.status(None).expect("the agent answers");
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let Said::Granted(theirs) = python.acquire(RESOURCE, TTL_SECS) else { panic!("not free") };
        let (tell, waits) = channel();
        let client = &mut client;
        std::thread::scope(|scope| {
            let waiter = scope.spawn(move || {
                let ask = Acquire {
                    resources: vec![resource(RESOURCE)],
                    ttl: Some(Ttl::from_secs(TTL_SECS.into()).expect("a ttl")),
                    hold: Hold::No,
                    reason: None,
                    attach: Attach::Detached,
                    wait: Wait::Forever,
                    terminal: None,
                };
                let granted = client.acquire_waiting(ask, |_| tell.send(()).expect("it listens"));
                let at = now_us();
                granted.expect("it is granted");
                let target = Target { resource: resource(RESOURCE), lease: None };
                client.release(Release::These(vec![target])).expect("a release");
                at
            });
            waits.recv().expect("it waits");
            // A wait for a word that never comes.
            let (_tell, told) = channel::<()>();
            let _ = told.recv_timeout(WAITED);
            assert_eq!(python.release(RESOURCE, &theirs), Said::Done);
            let released = now_us();
            times.push(waiter.join().expect("it ends").saturating_sub(released));
        });
    }
    times.sort_unstable();
    let (median, longest) = (times[ROUNDS / 2], times[ROUNDS - 1]);
    println!(
        "{}: granted {median} us after the Python tool's release (median of {ROUNDS}), {longest} \
         us at most",
        store.name()
    );
    assert!(median < TOLD_MAX_US, "{times:?}");
}

#[test]
fn a_waiter_is_told_of_the_python_tool_s_release_on_redis() {
    a_release_is_told(&Store::redis());
}

#[test]
fn a_waiter_is_told_of_the_python_tool_s_release_on_etcd() {
    a_release_is_told(&Store::etcd());
}

#[test]
fn a_waiter_is_told_of_the_python_tool_s_release_on_postgres() {
    a_release_is_told(&Store::postgres());
}
