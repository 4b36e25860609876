//! An agent whose user may begin few processes, and files that never close: each keeps one.

use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::stuck::{NeverClosing, let_files_in};
use super::victim::Victim;
use super::{open_to_all, shared};
use crate::agent::Agent;
use crate::program::run;
use crate::redis_server::RedisServer;
use crate::until_right;

/// The agent's user in each test, who has nothing else on this host.
const KEEPERS: [u32; 3] = [70_104, 70_105, 70_106];
/// What that user may have of processes and threads.
const TASKS: usize = 32;
/// The half that is left to the agent.
const KEPT: usize = TASKS / 2;
/// More than enough for all of them: each process takes those that wait, an eighth of the files
/// that the agent may open.
const NEVER: usize = 800;
const FILES: usize = 256;
/// What is not there.
const NO_PROCESS: &str = "there is no process to close them in";

/// Starts an agent of such a user, who may have so many processes; how it ended if it did.
fn start(agent: &mut Agent, keeper: u32, tasks: usize, more: &[&str]) -> Option<ExitStatus> {
    let dir = agent.file("");
    let dir = dir.to_str().expect("a path in UTF-8");
    let become_keeper = format!(
        "cp -f \"$0\" {dir}/agent && chown -R {keeper} {dir} && \
         exec setpriv --reuid {keeper} --regid {keeper} --clear-groups \
         prlimit --nproc={tasks}:{tasks} --nofile={FILES}:{FILES} {dir}/agent \"$@\""
    );
    agent.starts_under(&["sh", "-c", &become_keeper], |command| {
        command.args(more);
    })
}

/// The processes of that user that are neither the agent nor to be ended.
fn kept(keeper: u32) -> usize {
    let mut ps = Command::new("ps");
    let ran = run(ps.args(["-o", "comm=", "-u", &keeper.to_string()]), Duration::from_secs(60));
    ran.stdout.lines().filter(|name| name.trim() == "close-files").count()
}

/// An agent of that user that everybody may connect to, and its store.
fn served(keeper: u32) -> (RedisServer, Agent) {
    let store = RedisServer::start();
    let mut agent = Agent::prepare(&shared(store.port()));
    assert_eq!(start(&mut agent, keeper, TASKS, &[]), None, "{}", agent.log());
    open_to_all(&agent);
    (store, agent)
}

/// Sends such files until no further process is begun.
fn fill(agent: &Agent, keeper: u32) -> NeverClosing {
    let_files_in(agent);
    let eve = NeverClosing::send(agent, NEVER);
    until_right("no further process is begun", || match agent.log().contains(NO_PROCESS) {
        true => Ok(()),
        false => Err(format!("{} are kept", kept(keeper))),
    });
    eve
}

#[test]
fn whoever_waited_for_files_that_never_close_is_served_once_their_program_has_ended() {
    let (_store, agent) = served(KEEPERS[0]);
    fill(&agent, KEEPERS[0]).end();
    until_right("others are served", || match agent.client() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    until_right("nobody is kept", || match kept(KEEPERS[0]) {
        0 => Ok(()),
        kept => Err(format!("{kept} are")),
    });
}

#[test]
fn files_that_never_close_leave_the_agent_the_processes_that_its_next_start_needs() {
    let (_store, mut agent) = served(KEEPERS[1]);
    let victim = Victim::of(&agent);
    let eve = fill(&agent, KEEPERS[1]);
    let measure = victim.during("no process may begin", || {});
    drop(victim);
    let before = kept(KEEPERS[1]);
    let stopped = agent.stop();
    let restarted = start(&mut agent, KEEPERS[1], TASKS, &[]);
    let after = kept(KEEPERS[1]);
    println!("limits: {before} processes of {TASKS} are kept, {after} after a restart");
    // Whatever was seen: nothing of it is to be left on this host.
    eve.end();
    measure.is_undisturbed();
    assert!(stopped.success() && restarted.is_none(), "{stopped} {restarted:?}: {}", agent.log());
    // One more where the last of the agent had to give away what waited.
    assert!(before == KEPT && (KEPT..=KEPT + 1).contains(&after), "{before} {after}");
}

#[test]
fn an_agent_that_gets_no_thread_says_so_and_what_to_do() {
    let mut agent = Agent::prepare("host = \"alpha\"\n[backend.main]\nkind = \"local\"\n");
    let (threads, fork) = ("beginning the threads that an agent needs", "unable to fork");
    for (more, why) in [(&[][..], threads), (&["--daemonize"], fork)] {
        let before = agent.log().len();
        let ended = start(&mut agent, KEEPERS[2], 1, more).expect("it cannot start");
        let log = agent.log().split_off(before);
        assert_eq!(ended.code(), Some(69), "{log}");
        assert!(log.contains(why) && log.contains("LimitNPROC"), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
    assert_eq!(start(&mut agent, KEEPERS[2], TASKS, &[]), None, "{}", agent.log());
}
