//! `stormctl hold`, as a unit of systemd runs it.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use super::{Job, all_is_free, full_pipe};
use crate::agent::Agent;
use crate::dice::now_ms;
use crate::proxy::Proxy;
use crate::redis_server::RedisServer;
use crate::{acquire, leases, local, until, wish};

/// What systemd hears.
pub(super) struct Supervisor(UnixDatagram);

impl Supervisor {
    pub(super) fn start(agent: &Agent) -> Supervisor {
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
    pub(super) fn hears(&self, what: &str) -> String {
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
fn what_depends_on_a_killed_holder_has_its_grace() {
    const GRACE: u64 = 5_000;
    let store = RedisServer::start();
    let mut agent = Agent::on_redis("alpha", &store.url());
    let other = Agent::on_redis("beta", &store.url());
    let systemd = Supervisor::start(&agent);
    let mut job = Supervisor::hold(&agent, &["prod/db", "--ttl", "15m", "--grace", "5s"]);
    systemd.hears("READY=1");
    let killed = now_ms();
    job.signal(Signal::KILL);
    job.wait();
    // The restart of an agent shortens nothing.
    agent.kill();
    let waits = Job::start(&other, &["acquire", "prod/db", "--timeout", "80s"]);
    agent.restart();
    let ran = waits.ends();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(now_ms() - killed >= GRACE, "it was another's before those had their time");
    assert_eq!(other.ctl(&["release", "prod/db"]).code, Some(0));

    // The next holder of the same user waits for it, without being told to.
    let mut job = Supervisor::hold(&agent, &["prod/db", "--grace", "5s"]);
    systemd.hears("READY=1");
    let killed = now_ms();
    job.signal(Signal::KILL);
    job.wait();
    systemd.forgets();
    let next = Supervisor::hold(&agent, &["prod/db"]);
    systemd.hears("READY=1");
    assert!(now_ms() - killed >= GRACE, "it took away what others count on");
    assert!(next.said().contains("which was killed"), "{}", next.said());
    next.signal(Signal::TERM);
    assert_eq!(next.ends().code, Some(0));
    let free = agent.ctl(&["is-held", "prod/db"]);
    assert_eq!(free.code, Some(1), "whoever gives it back needs no grace: {free:?}");
}

#[test]
fn a_holder_that_waits_does_so_for_an_agent_and_a_store_that_come_later() {
    let store = RedisServer::start();
    let proxy = Proxy::start(store.port());
    let mut agent = Agent::on_redis("alpha", &format!("redis://127.0.0.1:{}", proxy.port()));
    let systemd = Supervisor::start(&agent);
    agent.kill();
    proxy.refuse(true);
    proxy.cut();
    let ran = Job::start(&agent, &["hold", "prod/db", "--timeout", "1s"]).ends();
    assert_eq!(ran.code, Some(69), "{ran:?}");
    assert!(ran.stderr.contains("no agent listens"), "{ran:?}");
    let job = Supervisor::hold(&agent, &["prod/db", "--wait"]);
    systemd.hears("EXTEND_TIMEOUT_USEC=");
    until("it waits", || job.said().contains("the wait goes on").then_some(()));
    agent.restart();
    until("it waits for the store", || job.said().contains("backend main").then_some(()));
    proxy.refuse(false);
    systemd.hears("READY=1");
    job.signal(Signal::TERM);
    assert_eq!(job.ends().code, Some(0));
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
    all_is_free(&agent);
    systemd.forgets();
    let job = hold(&["prod/db", "--ttl", "10s"]);
    systemd.hears("READY=1");
    agent.pause();
    let ran = job.ends();
    agent.resume();
    assert_eq!(ran.code, Some(79), "{ran:?}");
}

/// Nobody is kept from what was theirs: they see why it is not free yet, and can say that it is.
#[test]
fn what_a_killed_holder_leaves_is_seen_and_can_be_given_back() {
    let agent = Agent::start(&local());
    let systemd = Supervisor::start(&agent);
    let left = |on: &str| {
        let mut job = Supervisor::hold(&agent, &[on, "--ttl", "1h", "--grace", "15m"]);
        systemd.hears("READY=1");
        job.signal(Signal::KILL);
        job.wait();
        until("it is told", || {
            let status = agent.ctl(&["status", "-o", "jsonl"]).stdout;
            status.contains("\"state\":\"lingering\"").then_some(())
        });
    };
    let releases = || {
        let log = agent.ctl(&["log", "-o", "jsonl"]).stdout;
        let is_it = |line: &&str| line.contains("\"event\":\"release\"");
        log.lines().filter(is_it).map(str::to_owned).collect::<Vec<String>>()
    };
    left("prod/db");
    let shown = agent.ctl(&["status"]).stdout;
    assert!(shown.contains("its holder has ended  14m"), "{shown}");
    assert_eq!(agent.ctl(&["is-held", "prod/db"]).code, Some(0), "nobody else can have it");
    let free = agent.ctl(&["acquire", "prod/db"]);
    assert_eq!(free.code, Some(75), "others count on it: {free:?}");
    assert_eq!(releases(), Vec::<String>::new());
    let renewed = agent.ctl(&["renew", "prod/db"]);
    assert_eq!(renewed.code, Some(1), "{renewed:?}");
    let told = "the holder of prod/db has ended, and it stays a while for those it was held for: \
                `stormctl release prod/db` frees it at once";
    assert!(renewed.stderr.contains(told), "{renewed:?}");
    let given_back = agent.ctl(&["release", "prod/db"]);
    assert_eq!(given_back.code, Some(0), "{given_back:?}");
    let told = releases();
    assert!(told.len() == 1 && told[0].contains("\"by\":\"root@alpha\""), "{told:?}");

    left("prod/cache");
    assert_eq!(agent.ctl(&["release", "--all"]).code, Some(0));
    assert_eq!(releases().len(), 2);
    all_is_free(&agent);

    left("prod/web");
    let broken = agent.ctl(&["break", "prod/web", "-m", "it is on fire", "--yes", "--json"]);
    assert_eq!(broken.code, Some(0), "{broken:?}");
    let json: serde_json::Value = serde_json::from_str(&broken.stdout).expect("JSON");
    let free = json["free_in_secs"].as_u64().expect("a number");
    assert!(free <= 15 * 60, "those it was held for have no longer than they had: {free}");
}
