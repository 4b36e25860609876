//! Hosts that allow an agent few open files: others' connections and processes leave enough of them
//! to reach a store and to write the journal, and what cannot be opened ends no lease.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use stormlock_protocol::frame::Verdict;
use stormlock_protocol::message::{Acquire, Attach, Hold, Reply, Request, State};
use stormlock_protocol::process::Process;

use super::disk::these;
use super::victim::Victim;
use super::{CROWD, EVE, ask, greet, open_to_all, shared, welcomed};
use crate::agent::Agent;
use crate::dice::now_ms;
use crate::redis_server::{Answer, RedisServer};
use crate::{acquire, leases, until, until_right, wish};

/// Few, and not more for anybody.
const FEW: [&str; 2] = ["prlimit", "--nofile=128:128"];
/// What an agent burns of one processor in a second, at most, while nobody can come in: in
/// hundredths. It renews meanwhile, and a build for tests is slow.
const BURNT_MAX: u64 = 60;
/// How long it is watched for that.
const WATCHED_MS: u64 = 2_000;

/// Where the kernel keeps how long a process has worked, in hundredths of a second.
fn worked(agent: &Agent) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid())).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("its name");
    let field = |number: usize| {
        let field = rest.split_ascii_whitespace().nth(number - 3).expect("a field");
        field.parse::<u64>().expect("a number")
    };
    field(14) + field(15)
}

/// Files that a process has open.
pub(super) fn open_files(agent: &Agent) -> usize {
    fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("it runs").count()
}

/// Allows a running agent no file more than it has.
fn no_more_files(agent: &Agent) {
    let limit = format!("--nofile={0}:{0}", open_files(agent));
    let pid = agent.pid().to_string();
    let done = Command::new("prlimit").args(["--pid", &pid, &limit]).status().expect("prlimit");
    assert!(done.success());
}

/// A process of the test's that does nothing.
struct Idle(Child);

impl Idle {
    fn start() -> Idle {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn();
        Idle(child.expect("a process"))
    }

    fn process(&self) -> Process {
        Process::look(self.0.id(), false).expect("it is there")
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Users come until nobody is let in.
fn crowd(agent: &Agent) -> Vec<UnixStream> {
    let mut crowd = Vec::new();
    let full = until("nobody is let in any more", || {
        let uid = CROWD + u32::try_from(crowd.len() / 4).expect("a number");
        match greet(agent, uid) {
            Ok(session) => {
                crowd.push(session);
                None
            }
            Err(no) => Some(no),
        }
    });
    assert_eq!(full, Verdict::TooMany);
    crowd
}

#[test]
fn a_crowd_that_takes_every_seat_leaves_files_for_the_store_and_the_journal() {
    let store = RedisServer::start();
    let mut agent = Agent::prepare(&shared(store.port()));
    agent.restart_under(&FEW, |_| {});
    open_to_all(&agent);
    let log = agent.log();
    assert!(log.contains("LimitNOFILE") && log.contains("clients at once"), "{log}");
    let victim = Victim::of(&agent);
    let mut root = agent.client().expect("the agent answers");
    acquire(&mut root, wish("asked/before", Hold::No));
    let crowd = crowd(&agent);
    println!("limits: {} clients of an agent that may open 128 files", crowd.len());
    victim.during("few files and a crowd", || {}).is_undisturbed();

    // The store is reached anew, and the journal is written anew.
    let renewed = victim.during("few files, a crowd, and a store that hangs up", || {
        let closed = store.run("CLIENT KILL TYPE normal SKIPME yes");
        assert!(matches!(closed, Answer::Int(_)), "{closed:?}");
        let _ = rustix::event::poll(&mut [], Some(&SECOND));
    });
    renewed.lost_none();
    let journal = agent.state().join("journal");
    let inode = |path: &std::path::Path| {
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("the journal"))
    };
    let before = inode(&journal);
    let names: Vec<_> =
        (0..32).map(|n| crate::resource(&format!("{n}{}", "x".repeat(120)))).collect();
    let many = Acquire { resources: names, ..wish("x", Hold::No) };
    until_right("the journal is written anew", || {
        root.acquire(many.clone()).expect("they are free");
        root.release(these(&many)).expect("they are given back");
        if inode(&journal) == before { Err(open_files(&agent).to_string()) } else { Ok(()) }
    });
    let trouble = root.doctor().expect("it answers");
    let journal = trouble.iter().find(|it| it.about == "journal").expect("it says so");
    assert_eq!(journal.text, "can be written");
}

/// Between two times that all connections of the store are closed.
const SECOND: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };

#[test]
fn an_agent_that_can_accept_nobody_waits_without_burning_the_processor() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    no_more_files(&agent);
    // They stand in the kernel's queue.
    let waiting: Vec<UnixStream> = (0..20).map(|_| super::connect(&agent, EVE)).collect();
    let (began, before) = (now_ms(), worked(&agent));
    let measure = victim.during("no file is left", || {
        until("it was watched for a while", || (now_ms() - began > WATCHED_MS).then_some(()));
    });
    measure.is_undisturbed();
    let burnt = (worked(&agent) - before) * 1000 / (now_ms() - began);
    println!("limits: {burnt} % of one processor while nobody can be accepted");
    assert!(burnt < BURNT_MAX, "{burnt} %");
    let said = agent.log().lines().filter(|line| line.contains("accepting a connection")).count();
    assert!((1..100).contains(&said), "{said} lines");
    drop(waiting);
}

#[test]
fn a_lease_that_ends_with_a_process_stays_when_the_kernel_gives_no_file_to_watch_it() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let mut root = agent.client().expect("the agent answers");
    leases(&mut root);
    let mut idle = Idle::start();
    no_more_files(&agent);
    for (name, group) in [("alone", false), ("group", true)] {
        let process = Process { group, ..idle.process() };
        acquire(&mut root, Acquire { attach: Attach::Process(process), ..wish(name, Hold::Keep) });
    }
    let began = now_ms();
    until_right("both are held for a while", || {
        let all = leases(&mut root);
        assert!(all.iter().all(|it| it.state == State::Held) && all.len() == 2, "{all:?}");
        if now_ms() - began > WATCHED_MS { Ok(()) } else { Err(String::new()) }
    });
    idle.end();
    until_right("they end with it", || match leases(&mut root) {
        all if all.is_empty() => Ok(()),
        all => Err(format!("{all:?}")),
    });
}

#[test]
fn processes_of_another_user_take_only_a_part_of_the_files_to_be_watched() {
    let store = RedisServer::start();
    let mut agent = Agent::prepare(&shared(store.port()));
    agent.restart_under(&FEW, |_| {});
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    let mut eve = welcomed(&agent, EVE);
    let mut processes: Vec<Idle> = (0..120).map(|_| Idle::start()).collect();
    for (number, idle) in processes.iter().enumerate() {
        let attach = Attach::Process(idle.process());
        let ask_for = Acquire { attach, ..wish(&format!("free/{number}"), Hold::Keep) };
        let taken = ask(&mut eve, &Request::Acquire(ask_for));
        assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
    }
    println!("limits: {} files for 120 watched processes", open_files(&agent));
    let measure = victim.during("many watched processes, and a store that hangs up", || {
        store.run("CLIENT KILL TYPE normal SKIPME yes");
        let _ = rustix::event::poll(&mut [], Some(&SECOND));
    });
    measure.lost_none();
    let mut root = agent.client().expect("others are let in");
    assert_eq!(leases(&mut root).len(), 8);
    // Each ends with its process all the same.
    processes.clear();
    until_right("all end with their processes", || {
        let held = crate::locks(&mut root).len();
        if held == 8 { Ok(()) } else { Err(held.to_string()) }
    });
}
