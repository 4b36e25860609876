//! The promise of `run`: no process of the command is alive when its lease could be another's,
//! whatever the command is and however the agent fails.
//!
//! Every command writes the boot clock into a file, each millisecond, in all of its processes. When
//! the store forgets its lease is asked of the store itself, behind the agent's back.
//! `STORMLOCK_ROUNDS` says how many are to be shown.

use std::fs;

use super::{Job, all_is_free, full_pipe};
use crate::agent::Agent;
use crate::dice::{now_ms, now_us};
use crate::proxy::Proxy;
use crate::redis_server::{Answer, RedisServer};
use crate::until;

/// How many rounds there are unless `STORMLOCK_ROUNDS` says so.
const ROUNDS: usize = 45;
/// How many commands run side by side.
const BESIDE: usize = 15;
/// Short ones, for a test that has to see them end, and still long enough for a busy host to renew.
const TTLS: [u64; 2] = [10, 12];

/// The commands. Each is called with the name of a file to stamp.
const NASTY: [(&str, &str); 5] = [
    ("ignores every signal that can be ignored", "stamp()"),
    (
        "forks twice into sessions of their own",
        "
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setpgid(0, 0)
    stamp()
stamp()",
    ),
    (
        "stops itself",
        "
if os.fork() == 0:
    stamp()
stamp(100)
os.kill(os.getpid(), signal.SIGSTOP)
stamp()",
    ),
    (
        "is always another process",
        "
if os.fork() == 0:
    os.setsid()
    while True:
        stamp(10)
        if os.fork() > 0:
            os._exit(0)
stamp()",
    ),
    (
        "starts others when it is asked to end",
        "
def more(*_):
    for n in range(3):
        if os.fork() == 0:
            os.setsid()
            stamp()
signal.signal(signal.SIGTERM, more)
stamp()",
    ),
];

/// What all of them begin with.
const PRELUDE: &str = "
import os, signal, sys, time
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(name, signal.SIG_IGN)
def stamp(times=None):
    while times is None or times > 0:
        os.write(out, time.clock_gettime_ns(time.CLOCK_BOOTTIME).to_bytes(8, 'little'))
        time.sleep(0.001)
        times = times and times - 1
";

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The agent stands still.
    Stopped,
    /// The agent is dead.
    Killed,
    /// The agent's store is not to be reached.
    Partitioned,
}

/// One command at work.
struct Round {
    kind: &'static str,
    resource: String,
    stamps: String,
    job: Job,
}

/// Who reads what the wrapper says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Somebody,
    /// Its stderr is full, and nobody makes room.
    Nobody,
}

fn begin(agent: &Agent, number: usize, reader: Reader) -> Round {
    let (kind, program) = NASTY[number % NASTY.len()];
    let resource = format!("prod/{number}");
    let stamps = agent.file(&format!("stamps{number}"));
    let stamps = stamps.to_str().expect("a path in UTF-8").to_owned();
    let ttl = format!("{}s", TTLS[number % TTLS.len()]);
    let program = format!("{PRELUDE}{program}");
    let args = ["run", &resource, "--ttl", &ttl, "--", "python3", "-c", &program, &stamps];
    let job = Job::start_with(agent, &args, |command| {
        if reader == Reader::Nobody {
            command.stderr(full_pipe());
        }
    });
    Round { kind, resource, stamps, job }
}

/// The last time that a process of the command was alive, in microseconds.
fn last(stamps: &str) -> u64 {
    let bytes = fs::read(stamps).unwrap_or_default();
    let all = bytes.as_chunks().0.iter().map(|stamp| u64::from_le_bytes(*stamp));
    all.max().unwrap_or(0) / 1_000
}

/// When the store forgets a lease, in microseconds.
fn forgets(store: &RedisServer, resource: &str) -> u64 {
    let asked = now_us();
    match store.run(&format!("PTTL {resource}")) {
        Answer::Int(ms) => asked + u64::try_from(ms).expect("it is held") * 1_000,
        other => panic!("{resource}: {other:?}"),
    }
}

/// As many commands as run side by side, under one fault; how long before the store forgot the
/// latest of them was dead, in milliseconds.
fn batch(fault: Fault, reader: Reader) -> u64 {
    let store = RedisServer::start();
    let proxy = Proxy::start(store.port());
    let mut agent = Agent::on_redis("alpha", &format!("redis://127.0.0.1:{}", proxy.port()));
    let mut rounds: Vec<Round> = (0..BESIDE).map(|number| begin(&agent, number, reader)).collect();
    for round in &mut rounds {
        until("it stamps", || {
            assert!(round.job.is_running(), "{}: {}", round.kind, round.job.said());
            (last(&round.stamps) > 0).then_some(())
        });
    }
    match fault {
        Fault::Stopped => agent.pause(),
        Fault::Killed => agent.kill(),
        Fault::Partitioned => proxy.freeze(),
    }
    let began = now_us();
    let mut spare = u64::MAX;
    let ends: Vec<u64> = rounds.iter().map(|it| forgets(&store, &it.resource)).collect();
    for (Round { kind, resource, stamps, job }, end) in rounds.into_iter().zip(ends) {
        let ran = job.ends();
        let last = last(&stamps);
        assert_eq!(ran.code, Some(79), "{fault:?}, {kind}: {ran:?}");
        assert!(last > began, "{kind}: it was dead before the fault: nothing was shown");
        assert!(last < end, "{fault:?}, {kind}: alive {} us after the end: {ran:?}", last - end);
        assert!(now_us() > last, "{resource}");
        spare = spare.min((end - last) / 1_000);
    }
    match fault {
        Fault::Stopped => agent.resume(),
        Fault::Killed => agent.restart(),
        Fault::Partitioned => proxy.thaw(),
    }
    all_is_over(&agent);
    spare
}

/// Nothing is believed any more, and the store has nothing.
fn all_is_over(agent: &Agent) {
    until("the store has nothing", || {
        let listed = agent.ctl(&["list", "-o", "tsv"]);
        (listed.code == Some(0) && listed.stdout.is_empty()).then_some(())
    });
    let _ = agent.ctl(&["release", "--all"]);
    all_is_free(agent);
}

#[test]
fn no_process_of_a_command_outlives_its_lease() {
    let rounds = match std::env::var("STORMLOCK_ROUNDS") {
        Ok(text) => text.parse().expect("STORMLOCK_ROUNDS is a number"),
        Err(_) => ROUNDS,
    };
    let began = now_ms();
    let faults = [Fault::Stopped, Fault::Killed, Fault::Partitioned];
    let mut shown = 0;
    while shown < rounds {
        let fault = faults[shown / BESIDE % faults.len()];
        let spare = batch(fault, Reader::Somebody);
        shown += BESIDE;
        println!("{fault:?}: {BESIDE} commands dead {spare} ms or more before their leases");
    }
    println!("{shown} of {shown} rounds in {} ms", now_ms() - began);
}

#[test]
fn no_process_of_a_command_outlives_its_lease_when_nobody_reads_what_is_said_of_it() {
    let spare = batch(Fault::Stopped, Reader::Nobody);
    println!("{BESIDE} commands dead {spare} ms or more before their leases");
}

/// The end of a hold is the agent's to keep: what it gives back is nobody's from then on.
#[test]
fn no_process_of_a_command_outlives_its_hold_when_nobody_reads_what_is_said_of_it() {
    let store = RedisServer::start();
    let agent = Agent::on_redis("alpha", &store.url());
    let stamps = agent.file("stamps");
    let stamps = stamps.to_str().expect("a path in UTF-8");
    let program = format!("{PRELUDE}stamp()");
    let args = ["run", "prod/db", "--for", "8s", "--", "python3", "-c", &program, stamps];
    let job = Job::start_with(&agent, &args, |command| {
        command.stderr(full_pipe());
    });
    until("it stamps", || (last(stamps) > 0).then_some(()));
    until("the store has nothing", || {
        (store.run("EXISTS prod/db") == Answer::Int(0)).then_some(())
    });
    let free = now_us();
    let ran = job.ends();
    assert_eq!(ran.code, Some(79), "{ran:?}");
    let last = last(stamps);
    assert!(last < free, "alive {} us after the end", last - free);
}
