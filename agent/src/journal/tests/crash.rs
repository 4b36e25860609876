//! The process: killed at any instant, it leaves what it acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const DIR: &str = "STORMLOCK_TEST_CRASH";
const KILLS: u64 = 50;
/// Records for each wait: enough that a run of a hundred waits writes the file anew.
const AT_ONCE: u64 = 100;
/// Most waits that a run is let to have.
const WAITS_MAX: u64 = 200;

/// The record with this number; a few leases come, are renewed and go.
fn nth(number: u64) -> Record {
    let lease = number / 10 % 5;
    match number % 10 {
        0 => intent(lease, Hold::Keep, Attach::Detached),
        1 => granted(lease, number, number),
        9 if number % 20 == 19 => gone(lease),
        _ => renewed(lease, number, number),
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_at_any_instant() {
    if let Some(dir) = std::env::var_os(DIR) {
        return write_until_killed(Path::new(&dir));
    }
    let dir = state_dir();
    let seed = crate::seed();
    let mut memory = sum(&[boot(7, place().wall_at_boot.0)]);
    let mut compacted = 0;
    for round in 0..KILLS {
        let waits =
            1 + (seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(29) % WAITS_MAX;
        let acknowledged = kill_after(dir.path(), waits);
        let (journal, recovered, _said) = open(dir.path());
        assert!(!recovered.damaged, "round {round}: {:?}", recovered.notes);
        // It is a state that was, and none before the last one that was acknowledged.
        let (mut number, mut state) = (0, memory);
        while number < acknowledged || state != recovered.memory {
            assert!(number <= acknowledged + (1 << 20), "round {round}: {acknowledged} are lost");
            state.apply(nth(number));
            number += 1;
        }
        compacted += u64::from(acknowledged > 10_000);
        memory = recovered.memory;
        drop(journal);
    }
    println!("{KILLS} kills, about {compacted} of them after a file was written anew");
}

/// Lets a child write until it has acknowledged so many waits, kills it wherever it then is, and
/// says how many records it had acknowledged.
fn kill_after(dir: &Path, waits: u64) -> u64 {
    let name = "journal::tests::crash::what_was_acknowledged_is_there_after_a_kill_at_any_instant";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut heard = 0;
    let mut acknowledged = 0;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(Ok(line)) = lines.next() {
        // What it had written before it was killed comes too.
        let Some((_, number)) = line.split_once("acknowledged ") else { continue };
        let Ok(number) = number.parse() else { continue };
        (acknowledged, heard) = (number, heard + 1);
        if heard == waits {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(heard >= waits, "it ended by itself after {heard} of {waits} waits");
    acknowledged
}

fn write_until_killed(dir: &Path) {
    let (journal, _, said) = open(dir);
    let mut stdout = std::io::stdout();
    let mut number = 0;
    // One wait is always under way while the next records are written, as in the agent.
    loop {
        for _ in 0..AT_ONCE {
            journal.record(nth(number));
            number += 1;
        }
        journal.sync(SyncId(number));
        if number == AT_ONCE {
            continue;
        }
        let Ok(Said::Synced { sync, durable: true }) = said.recv_timeout(PATIENCE) else {
            panic!("not durable")
        };
        // One write, so that a kill cannot cut a number into a smaller one.
        stdout.write_all(format!("acknowledged {}\n", sync.0).as_bytes()).unwrap();
        stdout.flush().unwrap();
    }
}
