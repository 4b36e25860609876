//! An operator's day on a program of the site's own, two agents that contend there, and an agent
//! and a program that are killed at their work.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use stormlock_protocol::client::ClientError;
use stormlock_protocol::message::{Code, Hold, Release, State};
use stormlock_protocol::name::Fence;

use crate::agent::{Agent, program};
use crate::day::{a_day, all_or_nothing, an_expired_lease_is_lost, ok, says};
use crate::exec_store::ExecStore;
use crate::kill::kill_again_and_again;
use crate::program::{Ran, run};
use crate::{leases, locks, until, until_right, wish};

const HELD: i32 = 75;
const CONFIG: i32 = 78;
/// Fewer than on Redis: each commit waits for a disk.
const KILLS: usize = 20;
/// Times that two agents contend.
const ROUNDS: usize = 60;

/// `stormlockd ARGS` with the agent's configuration behind them.
fn stormlockd(agent: &Agent, args: &[&str]) -> Ran {
    let mut command = Command::new(program("stormlockd"));
    command.args(args).arg(agent.file("stormlockd.toml"));
    run(&mut command, Duration::from_secs(60))
}

/// The programs that run on this store for this agent.
fn programs(store: &ExecStore, agent: &Agent) -> Vec<Pid> {
    let (file, parent) = (store.file().display().to_string(), format!(" {} ", agent.pid()));
    let is_it = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ours = stat.rsplit_once(')').is_some_and(|(_, rest)| rest[2..].starts_with(&parent));
        ours && String::from_utf8_lossy(&words).split('\0').any(|word| word == file)
    };
    let entries = fs::read_dir("/proc").expect("the processes");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(is_it).filter_map(Pid::from_raw).collect()
}

#[test]
fn an_operator_takes_sees_renews_and_gives_back_on_a_program_of_ones_own() {
    let store = ExecStore::start();
    let agent = Agent::on_exec("alpha", &store.command());
    a_day(&agent);
    all_or_nothing(&agent);
    an_expired_lease_is_lost(&agent);
    let said = agent.ctl(&["acquire", "x"]);
    assert!(said.stderr.contains("this host only"), "its locks do not reach further: {said:?}");
    let found = agent.ctl(&["doctor"]);
    assert!(found.stdout.contains("the program answers: sqlite"), "{found:?}");
    assert!(ok(stormlockd(&agent, &["setup", "main", "--config"])).contains("needs no setup"));
    ok(stormlockd(&agent, &["check"]));
}

#[test]
fn a_command_that_cannot_be_one_is_refused_with_its_line() {
    let agent = Agent::prepare("[backend.main]\nkind = \"exec\"\ncommand = [\"own\"]\n");
    let refused = stormlockd(&agent, &["check"]);
    says(&refused, CONFIG, &["stormlockd.toml:3: key `backend.main.command`: is not a full path"]);
}

#[test]
fn two_agents_on_one_file_never_both_win_and_fences_rise() {
    let store = ExecStore::start();
    let (alpha, beta) =
        (Agent::on_exec("alpha", &store.command()), Agent::on_exec("beta", &store.command()));
    ok(alpha.ctl(&["acquire", "prod/db", "-m", "migration 42"]));
    let refused = beta.ctl(&["acquire", "prod/db"]);
    says(&refused, HELD, &["@alpha", "alpha", "migration 42", "fence", "stormctl current prod/db"]);
    assert!(ok(beta.ctl(&["list"])).contains("alpha"));
    ok(alpha.ctl(&["release", "prod/db"]));

    let (mut last, mut wins) = (Fence(0), [0, 0]);
    for round in 0..ROUNDS {
        let contend = |agent: &Agent| {
            let mut client = agent.client().expect("the agent answers");
            match client.acquire(wish("contended", Hold::No)) {
                Ok(leases) => leases.into_iter().next(),
                Err(ClientError::Refused(no)) if no.code == Code::Held => None,
                Err(other) => panic!("round {round}: {other:?}"),
            }
        };
        let won = thread::scope(|scope| {
            let racing = [&alpha, &beta].map(|agent| scope.spawn(move || contend(agent)));
            racing.map(|one| one.join().expect("a contender"))
        });
        let winner = match &won {
            [Some(_), None] => 0,
            [None, Some(_)] => 1,
            _ => panic!("round {round}: {won:?}"),
        };
        let fence = won[winner].as_ref().and_then(|lease| lease.fence).expect("a fence");
        assert!(fence > last, "round {round}: {fence:?} after {last:?}");
        (last, wins[winner]) = (fence, wins[winner] + 1);
        let mut client = [&alpha, &beta][winner].client().expect("the agent answers");
        client.release(Release::All).expect("it is given back");
    }
    println!("{ROUNDS} rounds: alpha {}, beta {}", wins[0], wins[1]);
}

#[test]
fn a_program_that_is_killed_costs_no_lease() {
    let store = ExecStore::start();
    let agent = Agent::on_exec("alpha", &store.command());
    let mut client = agent.client().expect("the agent answers");
    let lease = crate::acquire(&mut client, wish("kept", Hold::Keep));
    for _ in 0..3 {
        let running = programs(&store, &agent);
        assert_eq!(running.len(), 1, "{running:?}");
        kill_process(running[0], Signal::KILL).expect("it is killed");
        until_right("another program serves the same lease", || {
            let renewed = agent.ctl(&["renew", "kept"]);
            let now = programs(&store, &agent);
            let is_new = now.len() == 1 && now != running;
            if renewed.code == Some(0) && is_new { Ok(()) } else { Err(format!("{renewed:?}")) }
        });
    }
    // It is read back once more, a second after the last call.
    until("all is well", || (leases(&mut client)[0].state == State::Held).then_some(()));
    let known = leases(&mut client);
    assert!(known.len() == 1 && known[0].lease == lease.lease, "{known:?}");
    assert_eq!(known[0].fence, lease.fence);
}

#[test]
fn a_program_goes_with_its_agent_and_with_its_configuration() {
    let (store, other) = (ExecStore::start(), ExecStore::start());
    let mut agent = Agent::on_exec("alpha", &store.command());
    ok(agent.ctl(&["acquire", "moved"]));
    ok(agent.ctl(&["release", "moved"]));
    assert_eq!(programs(&store, &agent).len(), 1);
    let path = agent.file("stormlockd.toml");
    let config = fs::read_to_string(path).expect("its configuration");
    let (old, new) = (store.file(), other.file());
    let config = config.replace(old.to_str().unwrap(), new.to_str().unwrap());
    agent.configure(&config);
    until("the old program is gone and the new one serves", || {
        ok(agent.ctl(&["list"]));
        let (before, now) = (programs(&store, &agent), programs(&other, &agent));
        (before.is_empty() && now.len() == 1).then_some(())
    });
    let program = programs(&other, &agent)[0];
    agent.kill();
    until("the program sees that its agent is gone", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", program.as_raw_nonzero()));
        stat.map_or(true, |stat| stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn kill_9_loses_no_lease_and_leaves_no_orphan_on_a_program_of_ones_own() {
    let store = ExecStore::start();
    let agent = Agent::on_exec("alpha", &store.command());
    kill_again_and_again(agent, "kill_on_exec", KILLS);
    assert!(locks(&mut Agent::on_exec("beta", &store.command()).client().unwrap()).is_empty());
}
