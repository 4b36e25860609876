//! `stormctl hold`, as a unit of systemd runs it.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use super::{Job, all_is_free, full_pipe};
use crate::agent::Agent;
use crate::{acquire, leases, local, until, wish};

/// What systemd hears.
struct Supervisor(UnixDatagram);

impl Supervisor {
    fn start(agent: &Agent) -> Supervisor {
        let socket = UnixDatagram::bind(agent.file("notify")).expect("a socket");
        socket.set_read_timeout(Some(super::GIVE_UP)).expect("a limit");
        Supervisor(socket)
    }

    fn hold(agent: &Agent, args: &[&str]) -> Job {
        Job::start_with(agent, &[&["hold"], args].concat(), |command| {
            command.env("NOTIFY_SOCKET", agent.file("notify"));
            command.env("WATCHDOG_USEC", Duration::from_secs(1).as_micros().to_string());
            command.env_remove("WATCHDOG_PID");
        })
    }

    /// The next message that has this in it.
    fn hears(&self, what: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            let length = self.0.recv(&mut bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
            let told = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if told.contains(what) {
                return told;
            }
        }
    }

    /// Forgets all that it was told so far.
    fn forgets(&self) {
        self.0.set_nonblocking(true).expect("a socket");
        while self.0.recv(&mut [0; 4096]).is_ok() {}
        self.0.set_nonblocking(false).expect("a socket");
    }
}

#[test]
fn a_unit_is_ready_when_it_holds_and_gives_back_when_it_is_stopped() {
    let mut agent = Agent::start(&local());
    let systemd = Supervisor::start(&agent);
    let mut job = Supervisor::hold(&agent, &["prod/a", "prod/b"]);
    let ready = systemd.hears("READY=1");
    assert!(ready.contains("STATUS=holds prod/a, prod/b"), "{ready}");
    let before = leases(&mut agent.client().expect("it answers"));
    assert_eq!(before.len(), 2);
    systemd.hears("WATCHDOG=1");
    for _ in 0..3 {
        agent.kill();
        systemd.forgets();
        systemd.hears("WATCHDOG=1");
        agent.restart();
        systemd.forgets();
        systemd.hears("WATCHDOG=1");
        assert!(job.is_running(), "{}", job.said());
    }
    let ids = |all: &[stormlock_protocol::message::Lease]| {
        all.iter().map(|lease| lease.lease).collect::<Vec<_>>()
    };
    assert_eq!(ids(&leases(&mut agent.client().expect("it answers"))), ids(&before));
    job.signal(Signal::TERM);
    systemd.hears("STOPPING=1");
    let ran = job.ends();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(leases(&mut agent.client().expect("it answers")).is_empty());
}

#[test]
fn a_unit_that_waits_asks_for_time_and_one_that_loses_says_so() {
    let agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", crate::Hold::Keep));
    let systemd = Supervisor::start(&agent);
    let job = Supervisor::hold(&agent, &["prod/db", "--wait"]);
    let waits = systemd.hears("STATUS=");
    assert!(waits.contains("waits for prod/db"), "{waits}");
    systemd.hears("EXTEND_TIMEOUT_USEC=");
    until("it waits", || {
        let seen = agent.ctl(&["acquire", "prod/db"]);
        seen.stderr.contains("waiting 1 on this host").then_some(())
    });
    assert_eq!(agent.ctl(&["release", "prod/db"]).code, Some(0));
    systemd.hears("READY=1");
    assert_eq!(agent.ctl(&["release", "prod/db"]).code, Some(0));
    let ran = job.ends();
    assert_eq!(ran.code, Some(79), "{ran:?}");
    assert!(ran.stderr.contains("prod/db was given back"), "{ran:?}");
    all_is_free(&agent);
}

#[test]
fn a_killed_holder_holds_nothing() {
    let agent = Agent::start(&local());
    let systemd = Supervisor::start(&agent);
    let mut job = Supervisor::hold(&agent, &["prod/db", "--for", "2h"]);
    systemd.hears("READY=1");
    let shorter = agent.ctl(&["renew", "prod/db", "--ttl", "2s"]);
    assert_eq!(shorter.code, Some(0), "{shorter:?}");
    systemd.forgets();
    // Twice a second.
    for _ in 0..6 {
        systemd.hears("WATCHDOG=1");
    }
    assert!(job.is_running(), "{}", job.said());
    job.signal(Signal::KILL);
    job.wait();
    all_is_free(&agent);
}

#[test]
fn one_whose_words_nobody_reads_ends_in_time() {
    let agent = Agent::start(&local());
    let systemd = Supervisor::start(&agent);
    let hold = |args: &[&str]| {
        Job::start_with(&agent, &[&["hold"], args].concat(), |command| {
            command.env("NOTIFY_SOCKET", agent.file("notify")).stderr(full_pipe());
        })
    };
    let ran = hold(&["prod/db", "--for", "8s"]).ends();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told = agent.ctl(&["is-held", "prod/db"]);
    assert_eq!(told.code, Some(1), "it was given back: {told:?}");
    systemd.forgets();
    let job = hold(&["prod/db", "--ttl", "10s"]);
    systemd.hears("READY=1");
    agent.pause();
    let ran = job.ends();
    agent.resume();
    assert_eq!(ran.code, Some(79), "{ran:?}");
}
