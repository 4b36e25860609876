//! `stormctl run --exec`: the command is the very process that was started, and what stays behind
//! keeps its deadline.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

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
    // By the shell alone, which blocks them while it starts another.
    let own = "while read -r line; do echo \"$line\"; done </proc/self/status";
    let mut job = leads(&agent, &["-c", &format!("{own}; echo runs; {FOR_EVER}")]);
    until("it runs", || job.said().contains("runs").then_some(()));
    // What whoever started it had is the command's, whatever the guardian does with its own.
    let given = fs::read_to_string("/proc/thread-self/status").expect("this thread's");
    let said = job.said();
    let blocked = |text: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix("SigBlk:").map(|mask| mask.trim().to_owned()))
    };
    assert_eq!(blocked(&said), blocked(&given), "{said}");
    let guards = guardian(&job).expect("a guardian");
    // KillSignal= may be any, and WatchdogSec= sends SIGABRT to all of a unit. The C library keeps
    // two, and SIGKILL and SIGSTOP are nobody's.
    let kept = [9, 19, 32, 33];
    for signal in (1..=64).filter(|signal| !kept.contains(signal)) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(guards.to_string()).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "{signal}");
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

/// From all but root and its group.
const HIDE: &str = "mount -t proc -o hidepid=2 proc /proc";

/// What is done before stormctl, as root: everything of another's is hidden, as by
/// `ProtectProc=invisible`, and what the kernel does not let anybody trace, as a server with
/// capabilities of its own. `sh` is such a shell: nobody but root may read it.
fn hidden(agent: &mut Agent) -> String {
    let dir = path(agent, "");
    let stormctl = crate::agent::program("stormctl");
    let make = format!(
        "cp \"$0\" {dir}/agent; cp {} {dir}/stormctl; cp /bin/sh {dir}/sh; chown -R 64999 {dir}; \
         chown root {dir}/sh; chmod 711 {dir}/sh; \
         exec setpriv --reuid 64999 --clear-groups {dir}/agent \"$@\"",
        stormctl.to_str().expect("a path in UTF-8")
    );
    assert!(agent.stop().success());
    let config = fs::read_to_string(agent.file("stormlockd.toml")).expect("its configuration");
    agent.configure(&config.replace("uid:0", "uid:64999\", \"uid:0"));
    agent.restart_under(&["sh", "-c", &make], |_| {});
    format!("{HIDE} && exec setpriv --reuid 64999 --regid 64999 --clear-groups")
}

/// Leads a group, after what `before` has done, which becomes its arguments.
fn leads_after(agent: &Agent, before: &str, args: &[&str]) -> Job {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{before} \"$@\""), "sh"]);
    let stormctl = match before.contains("setpriv --reuid") {
        true => agent.file("stormctl"),
        false => crate::agent::program("stormctl"),
    };
    command.arg(stormctl);
    Job::start_by(command, agent, args, |command| {
        command.process_group(0);
    })
}

#[test]
fn a_command_that_cannot_be_seen_is_asked_and_killed_like_any() {
    let is_hidden = |is_hidden: bool| {
        let store = RedisServer::start();
        let mut agent = Agent::on_redis("alpha", &store.url());
        let few_files = "ulimit -n 8; exec".to_owned();
        let before = if is_hidden { hidden(&mut agent) } else { few_files };
        let shell = if is_hidden { path(&agent, "sh") } else { "/bin/sh".to_owned() };
        let line = format!("trap 'echo asked' TERM; echo runs; {FOR_EVER}");
        let args = ["run", "--exec", "prod/db", "--ttl", "15s", "--kill-after", "3s", "--"];
        let args = [&args[..], &[&shell, "-c", &line]].concat();
        let mut job = leads_after(&agent, &before, &args);
        until("it runs", || job.said().contains("runs").then_some(()));
        agent.pause();
        let paused = now_ms();
        until("it is killed", || (!job.is_running()).then_some(()));
        let killed = now_ms();
        agent.resume();
        let status = job.child.wait().expect("our own child");
        let said = job.said();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status:?}: {said}");
        assert!(killed - paused < 15_000, "it outlived its lease: {said}");
        assert_eq!(said.matches("asked").count(), 1, "before, and once: {said}");
        leaves_nothing(&agent, &job);
        assert!(job.said().contains("does not show every process"), "{}", job.said());
    };
    std::thread::scope(|scope| {
        for flavour in [true, false] {
            scope.spawn(move || is_hidden(flavour));
        }
    });
}

/// The guardian is root, but for what lets it signal and see others.
#[test]
fn a_command_that_cannot_be_killed_is_named_and_not_said_to_have_ended() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    let bounds = "--regid 64999 --clear-groups --bounding-set=-kill,-sys_ptrace";
    let before = format!("{HIDE} && exec setpriv {bounds}");
    let line = format!("echo runs; {FOR_EVER}");
    let args = ["run", "--exec", "prod/db", "--ttl", "15s", "--kill-after", "1s", "--"];
    let user = ["setpriv", "--reuid", "64999", "--clear-groups", "sh", "-c", &line];
    let mut job = leads_after(&agent, &before, &[&args[..], &user].concat());
    until("it runs", || job.said().contains("runs").then_some(()));
    store.run("DEL prod/db");
    let named = format!("could not kill {}: end them by hand", job.child.id());
    until("it is told that it goes on", || job.said().contains(&named).then_some(()));
    assert!(job.is_running(), "{}", job.said());
    job.signal(Signal::KILL);
    job.ends();
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
    // Not before the store has confirmed it (law 12).
    let is_mine = || agent.ctl(&["is-held", "prod/db", "--by", "me"]).code == Some(0);
    until("it is held again", || is_mine().then_some(()));
    agent.kill();
    fs::write(&end, "").expect("a file");
    assert_eq!(job.ends().code, Some(5));
    agent.restart();
    all_is_free(&agent);
}
