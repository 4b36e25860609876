//! `stormctl run --exec`: the command is the very process that was started, and what stays behind
//! keeps its deadline.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};

use rustix::process::{Pid, Signal, kill_process};
use stormlock_protocol::process::Stat;

use super::hold::Supervisor;
use super::{Job, all_is_free, wait_for_file};
use crate::agent::Agent;
use crate::dice::now_ms;
use crate::redis_server::RedisServer;
use crate::{leases, local, until};

/// What a guardian is called with.
const GUARDS: &[u8] = b"--stormlock-guard-the-command";
/// For a shell: goes on until it is killed.
const FOR_EVER: &str = "while :; do sleep 0.05; done";

fn path(agent: &Agent, name: &str) -> String {
    agent.file(name).to_str().expect("a path in UTF-8").to_owned()
}

/// The command leads a group, as a unit's or a job's of a shell does.
fn leads(agent: &Agent, args: &[&str]) -> Job {
    let args = [&["run", "--exec", "prod/db"], args].concat();
    Job::start_with(agent, &args, |command| {
        command.process_group(0);
    })
}

/// The guardian of a job.
fn guardian(job: &Job) -> Option<u32> {
    let charge = format!("\"pid\":{},", job.child.id());
    let guards = |one: &Stat| {
        let line = fs::read(format!("/proc/{}/cmdline", one.pid)).unwrap_or_default();
        let has = |what: &[u8]| line.windows(what.len()).any(|part| part == what);
        has(GUARDS) && has(charge.as_bytes())
    };
    Stat::all().into_iter().filter(|one| !one.is_dead).find(guards).map(|one| one.pid)
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a number");
    kill_process(pid, Signal::KILL).expect("it is there");
}

/// Ends without a guardian or a lease left.
fn leaves_nothing(agent: &Agent, job: &Job) {
    all_is_free(agent);
    until("the guardian has ended", || guardian(job).is_none().then_some(()));
}

#[test]
fn the_command_is_the_process_that_was_started_and_finds_nothing_of_ours() {
    let agent = Agent::start(&local());
    let end = path(&agent, "end");
    let line = format!(
        "echo pid $$; echo children $(cat /proc/$$/task/$$/children); env | grep ^STORMLOCK_; \
         until [ -e {end} ]; do sleep 0.02; done; exit 5"
    );
    for is_leader in [true, false] {
        let _ = fs::remove_file(&end);
        let job = match is_leader {
            true => leads(&agent, &["-c", &line]),
            false => Job::start(&agent, &["run", "--exec", "prod/db", "-c", &line]),
        };
        until("it runs", || job.said().contains("STORMLOCK_SOCKET").then_some(()));
        let said = job.said();
        assert!(said.contains(&format!("pid {}\n", job.child.id())), "{said}");
        // The shell that reads them is one.
        let children = said.lines().find_map(|line| line.strip_prefix("children "));
        assert!(children.is_none_or(|pids| pids.split(' ').count() <= 1), "{said}");
        assert!(said.contains("STORMLOCK_RESOURCES=prod/db\n"), "{said}");
        let guards = guardian(&job).expect("a guardian");
        let stat = Stat::of(guards).expect("it is there");
        assert_ne!(stat.session, Stat::of(job.child.id()).expect("it runs").session);
        assert_ne!(stat.parent, job.child.id());
        let held = leases(&mut agent.client().expect("it answers"));
        let process = held[0].attach.process().expect("attached");
        assert_eq!((process.pid, process.group), (job.child.id(), is_leader));
        fs::write(&end, "").expect("a file");
        let mut job = job;
        job.wait();
        until("the guardian has ended", || guardian(&job).is_none().then_some(()));
        assert!(leases(&mut agent.client().expect("it answers")).is_empty(), "it gives back");
        let ran = job.ends();
        assert_eq!(ran.code, Some(5));
        assert!(!ran.stderr.contains("goes on"), "{ran:?}");
    }
}

#[test]
fn a_guardian_holds_nothing_open_of_what_the_command_was_given() {
    let agent = Agent::start(&local());
    let (given, _theirs) = std::os::unix::net::UnixStream::pair().expect("two sockets");
    // Not closed by an exec, as what a supervisor passes.
    let given = rustix::io::fcntl_dupfd_cloexec(&given, 20).expect("another number");
    rustix::io::fcntl_setfd(&given, rustix::io::FdFlags::empty()).expect("a flag");
    let files = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files");
        files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).collect::<Vec<_>>()
    };
    let job = leads(&agent, &["-c", &format!("echo runs; {FOR_EVER}")]);
    until("it runs", || job.said().contains("runs").then_some(()));
    let passed = fs::read_link(format!("/proc/self/fd/{}", given.as_raw_fd())).expect("a socket");
    assert!(files(job.child.id()).contains(&passed), "the command has it");
    let stdout = fs::read_link(format!("/proc/{}/fd/1", job.child.id())).expect("its stdout");
    let kept = files(guardian(&job).expect("a guardian"));
    assert!(!kept.contains(&passed) && !kept.contains(&stdout), "{kept:?}");
    job.signal(Signal::KILL);
    leaves_nothing(&agent, &job);
    job.ends();
}

#[test]
fn a_killed_guardian_leaves_the_lease_to_the_command_and_to_nobody_after_it() {
    let agent = Agent::start(&local());
    let job = leads(&agent, &["-c", &format!("echo runs; {FOR_EVER}")]);
    until("it runs", || job.said().contains("runs").then_some(()));
    kill(guardian(&job).expect("a guardian"));
    until("the guardian is gone", || guardian(&job).is_none().then_some(()));
    let refused = agent.ctl(&["release", "prod/db"]);
    assert_eq!(refused.code, Some(75), "a command goes on under it: {refused:?}");
    assert_eq!(agent.ctl(&["is-held", "prod/db", "--by", "me"]).code, Some(0));
    job.signal(Signal::KILL);
    let mut job = job;
    job.wait();
    all_is_free(&agent);
}

#[test]
fn a_signal_to_a_guardian_is_none_to_the_command() {
    let agent = Agent::start(&local());
    let mut job = leads(&agent, &["-c", &format!("echo runs; {FOR_EVER}")]);
    until("it runs", || job.said().contains("runs").then_some(()));
    let guards = guardian(&job).expect("a guardian");
    let guards = i32::try_from(guards).ok().and_then(Pid::from_raw).expect("a number");
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        kill_process(guards, signal).expect("it is there");
    }
    let began = now_ms();
    until("a second is over", || (now_ms() - began > 1_000).then_some(()));
    assert!(job.is_running() && guardian(&job).is_some(), "{}", job.said());
    job.signal(Signal::KILL);
    leaves_nothing(&agent, &job);
    job.ends();
}

#[test]
fn without_a_renewal_the_command_is_asked_then_killed_before_the_deadline() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    let (asked, away) = (path(&agent, "asked"), path(&agent, "away"));
    // What left its group and its session has to end, too.
    let line = format!(
        "setsid sh -c 'echo $$ >{away}; {FOR_EVER}' & trap 'echo asked >{asked}' TERM; \
         echo runs; {FOR_EVER}"
    );
    let mut job = leads(&agent, &["--ttl", "15s", "--kill-after", "3s", "-c", &line]);
    wait_for_file(&agent, "away", "\n");
    until("it runs", || job.said().contains("runs").then_some(()));
    agent.pause();
    let paused = now_ms();
    job.wait();
    let killed = now_ms();
    agent.resume();
    let status = job.child.wait().expect("our own child");
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status:?}: {}", job.said());
    assert!(killed - paused < 15_000, "it outlived its lease");
    assert_eq!(fs::read_to_string(&asked).expect("it was asked before"), "asked\n");
    let away: u32 = fs::read_to_string(&away).expect("a number").trim().parse().expect("a number");
    until("all of it has ended", || Stat::of(away).is_err().then_some(()));
    assert!(job.said().contains("was not renewed in time"), "{}", job.said());
    leaves_nothing(&agent, &job);
}

#[test]
fn a_loss_asks_the_command_as_it_was_said_and_its_exit_status_is_its_own() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    let line = format!("trap 'echo asked; exit 9' HUP; echo runs; {FOR_EVER}");
    let job = leads(&agent, &["--ttl", "20s", "--on-lost", "hup", "-c", &line]);
    until("it runs", || job.said().contains("runs").then_some(()));
    store.run("DEL prod/db");
    until("it is told why", || job.said().contains("the store no longer has it").then_some(()));
    let ran = job.ends();
    assert_eq!(ran.code, Some(9), "{ran:?}");
    assert!(ran.stdout.contains("asked"), "{ran:?}");
    all_is_free(&agent);
}

#[test]
fn what_cannot_be_run_or_taken_is_told_by_the_usual_codes() {
    let agent = Agent::start(&local());
    for (command, code) in [("/does/not/exist", 127), ("/etc/passwd", 126)] {
        let ran = Job::start(&agent, &["run", "--exec", "prod/db", "--", command]).ends();
        assert_eq!(ran.code, Some(code), "{ran:?}");
        all_is_free(&agent);
    }
    assert_eq!(agent.ctl(&["acquire", "prod/db", "--keep"]).code, Some(0));
    let ran = Job::start(&agent, &["run", "--exec", "prod/db", "-E", "33", "--", "true"]).ends();
    assert_eq!(ran.code, Some(33), "{ran:?}");
}

#[test]
fn within_another_run_it_shares_its_lease_and_nothing_is_left_to_name() {
    let agent = Agent::start(&local());
    let stormctl = crate::agent::program("stormctl");
    let stormctl = stormctl.to_str().expect("a path in UTF-8");
    for inner in ["prod/db", "prod/other"] {
        let args = ["run", "prod/db", "--", stormctl, "run", "--exec", inner, "-c", "exit 3"];
        let ran = Job::start(&agent, &args).ends();
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(!ran.stderr.contains("goes on"), "{ran:?}");
        all_is_free(&agent);
    }
}

#[test]
fn a_unit_whose_command_waits_for_its_lock_asks_for_time() {
    let agent = Agent::start(&local());
    assert_eq!(agent.ctl(&["acquire", "prod/db", "--keep"]).code, Some(0));
    let systemd = Supervisor::start(&agent);
    let args = ["run", "--exec", "prod/db", "--wait", "-c", "echo $NOTIFY_SOCKET; exit 6"];
    let job = Job::start_with(&agent, &args, |command| {
        command.env("NOTIFY_SOCKET", agent.file("notify"));
    });
    systemd.hears("EXTEND_TIMEOUT_USEC=");
    assert_eq!(agent.ctl(&["release", "prod/db"]).code, Some(0));
    let ran = job.ends();
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(ran.stdout.contains(&path(&agent, "notify")), "it is the command's: {ran:?}");
}

#[test]
fn the_agent_may_restart_under_it() {
    let mut agent = Agent::start(&local());
    let end = path(&agent, "end");
    let line = format!("echo runs; until [ -e {end} ]; do sleep 0.02; done; exit 5");
    let mut job = leads(&agent, &["-c", &line]);
    until("it runs", || job.said().contains("runs").then_some(()));
    for _ in 0..3 {
        agent.kill();
        agent.restart();
        assert!(job.is_running(), "{}", job.said());
    }
    let held = agent.ctl(&["is-held", "prod/db", "--by", "me"]);
    assert_eq!(held.code, Some(0), "{held:?}");
    agent.kill();
    fs::write(&end, "").expect("a file");
    assert_eq!(job.ends().code, Some(5));
    agent.restart();
    all_is_free(&agent);
}
