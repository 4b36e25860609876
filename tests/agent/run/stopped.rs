//! Ctrl-Z, and what it leaves standing and going on.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::terminal::{PROMPT, Shell};
use crate::agent::Agent;
use crate::dice::now_ms;
use crate::{acquire, leases, local, until, wish};

/// Waits for so long.
fn over(ms: u64) {
    let began = now_ms();
    until("a while is over", || (now_ms() - began > ms).then_some(()));
}

fn length(agent: &Agent, name: &str) -> u64 {
    fs::metadata(agent.file(name)).map_or(0, |of| of.len())
}

fn grows(agent: &Agent, name: &str) {
    let before = length(agent, name);
    until(&format!("{name} grows"), || (length(agent, name) > before).then_some(()));
}

/// It does not within half a second.
fn stands_still(agent: &Agent, name: &str) {
    let before = length(agent, name);
    over(500);
    assert_eq!(length(agent, name), before, "{name} goes on while nobody keeps its deadline");
}

#[test]
fn nothing_of_a_job_goes_on_while_its_wrapper_stands_still() {
    let agent = Agent::start(&local());
    let mut shell = Shell::start(&agent);
    let stamps = |name: &str| format!("until [ -e over ]; do echo >>{name}; sleep 0.02; done");
    fs::write(
        agent.file("job"),
        format!(
            "sh -c 'trap \"\" TSTP; {}' &\nsetsid sh -c '{}' &\necho $$ >leader; echo be''gun; \
             until [ -e over ]; do sleep 0.1; done\n",
            stamps("ignores"),
            stamps("elsewhere")
        ),
    )
    .expect("a file");
    // Not by dash: it starts programs by vfork, and one that is stopped between that and its exec
    // leaves the leader waiting in the kernel, where nobody sees it stop.
    shell.types("$CTL run -q prod/db --ttl 5s -- bash job\n");
    shell.sees("begun");
    for stop in ["the terminal", "somebody"] {
        for name in ["ignores", "elsewhere"] {
            grows(&agent, name);
        }
        if stop == "the terminal" {
            shell.types("\x1a");
        } else {
            let leader = fs::read_to_string(agent.file("leader")).expect("its number");
            let leader = leader.trim().parse().ok().and_then(Pid::from_raw).expect("a number");
            kill_process(leader, Signal::STOP).expect("it is ours");
        }
        shell.sees("Stopped");
        shell.sees(PROMPT);
        for name in ["ignores", "elsewhere"] {
            stands_still(&agent, name);
        }
        shell.types("fg\n");
        shell.sees("bash job");
    }
    for name in ["ignores", "elsewhere"] {
        grows(&agent, name);
    }
    fs::write(agent.file("over"), "").expect("a file");
    shell.code(0);
    let left = leases(&mut agent.client().expect("it answers"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_hold_that_was_lengthened_while_the_job_stood_still_is_longer() {
    let agent = Agent::start(&local());
    let mut shell = Shell::start(&agent);
    shell.types("$CTL run -q prod/db --for 6s --ttl 60s -c 'echo be''gun; exec cat'\n");
    shell.sees("begun");
    let mut holder = Shell::start(&agent);
    holder.types("$CTL hold prod/app --for 6s --ttl 60s\n");
    holder.sees("is yours");
    for shell in [&mut shell, &mut holder] {
        shell.types("\x1a");
        shell.sees("Stopped");
        shell.sees(PROMPT);
    }
    for name in ["prod/db", "prod/app"] {
        let renewed = agent.ctl(&["renew", name, "--for", "10m"]);
        assert_eq!(renewed.code, Some(0), "{renewed:?}");
    }
    over(7_000);
    shell.types("fg\n");
    shell.sees("exec cat");
    shell.reads("one");
    holder.types("fg\n");
    holder.sees("--ttl 60s");
    over(1_500);
    for name in ["prod/db", "prod/app"] {
        assert_eq!(agent.ctl(&["is-held", name, "--by", "me"]).code, Some(0), "{name}");
    }
    shell.types("\x04");
    shell.code(0);
    holder.types("\x03");
    holder.code(0);
}

#[test]
fn a_hold_that_ended_while_its_holder_stood_still_has_ended_as_it_was_to() {
    let agent = Agent::start(&local());
    let mut shell = Shell::start(&agent);
    shell.types("$CTL hold prod/db --ttl 5s --for 8s\n");
    shell.sees("is yours");
    shell.types("\x1a");
    shell.sees("Stopped");
    until("it is given back", || {
        (agent.ctl(&["is-held", "prod/db"]).code == Some(1)).then_some(())
    });
    shell.types("fg\n");
    shell.sees("the hold on prod/db is at its end");
    shell.code(0);
}

#[test]
fn a_wait_whose_grant_was_over_before_it_was_seen_has_the_code_of_one_in_vain() {
    let agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", crate::Hold::Keep));
    for (args, code) in [("run", 75), ("run -E 33", 33), ("hold", 75)] {
        let mut shell = Shell::start(&agent);
        let command = if args == "hold" { "" } else { "-- touch ran" };
        shell.types(&format!("$CTL {args} prod/db -w --for 5s {command}\n"));
        shell.sees("waiting");
        shell.types("\x1a");
        shell.sees("Stopped");
        shell.sees(PROMPT);
        assert_eq!(agent.ctl(&["release", "prod/db"]).code, Some(0));
        until("it was granted and is over", || {
            (agent.ctl(&["acquire", "prod/db", "--keep"]).code == Some(0)).then_some(())
        });
        shell.types("fg\n");
        shell.sees("ended already");
        shell.code(code);
    }
    assert!(!agent.file("ran").exists());
}
