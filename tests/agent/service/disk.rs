//! A full disk under the journal: nothing new is promised, what is held is kept, and it mends
//! itself.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use stormlock_protocol::message::{Acquire, Hold, Release, State};
use stormlock_protocol::name::Reason;

use super::{UNAVAILABLE, ok, on_redis, path, says};
use crate::agent::Agent;
use crate::dice::now_ms;
use crate::limits::{CROWD, as_user, open_to_all};
use crate::redis_server::{Answer, RedisServer};
use crate::{acquire, leases, local, resource, ttl, until_right, wish};

const TTL_SECS: u64 = 3;
/// So often one user takes and gives back 32 leases without being slowed down.
const ROUNDS_OF_ONE: u32 = 20;
/// A state directory of 64 KiB, that only the agent sees.
const SMALL_DISK: &str = "
    mount -t tmpfs -o size=64k,mode=0700 stormlock-test \"$0\"
    exec \"$@\"";

/// The state directory as the agent sees it.
fn disk(agent: &Agent) -> PathBuf {
    let state = agent.state();
    let inside = state.strip_prefix("/").expect("a whole path");
    PathBuf::from(format!("/proc/{}/root", agent.pid())).join(inside)
}

fn fill(agent: &Agent) {
    let mut filler = File::create(disk(agent).join("filler")).expect("a file");
    let full = std::iter::repeat_with(|| filler.write_all(&[0xaa; 512])).find_map(Result::err);
    assert_eq!(full.expect("an end").kind(), ErrorKind::StorageFull);
}

#[test]
fn on_a_full_disk_nothing_new_is_taken_renewals_go_on_and_space_mends_it() {
    let store = RedisServer::start();
    let mut agent = Agent::prepare(&on_redis(store.port()));
    let state = agent.state();
    let small = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", SMALL_DISK];
    agent.restart_under(&[&small[..], &[path(&state)]].concat(), |_| {});
    let mut client = agent.client().expect("the agent answers");
    let short = Acquire { ttl: Some(ttl(TTL_SECS)), ..wish("prod/db", Hold::Keep) };
    let held = acquire(&mut client, short);
    fill(&agent);

    // The journal's last page may have room for a few more.
    let refused = until_right("no new lease is taken", || {
        let ran = agent.ctl(&["acquire", "new"]);
        match ran.code {
            Some(0) => Err(format!("{:?}", ok(agent.ctl(&["release", "new"])))),
            _ => Ok(ran),
        }
    });
    says(&refused, UNAVAILABLE, &["cannot write its journal", "stormctl doctor"]);
    assert_eq!(store.run("EXISTS new"), Answer::Int(0), "taken in the store");
    let doctor = agent.ctl(&["doctor"]);
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
    for said in [doctor.stdout, agent.log()] {
        assert!(said.contains("cannot be written") && said.contains("No space left"), "{said}");
    }
    let began = now_ms();
    until_right("it lives longer than its ttl", || {
        let all = leases(&mut client);
        assert!(matches!(all[0].state, State::Held | State::AtRisk), "{all:?}");
        if now_ms() - began > 2000 * TTL_SECS { Ok(()) } else { Err(String::new()) }
    });
    assert_eq!(store.run("EXISTS prod/db"), Answer::Int(1));

    fs::remove_file(disk(&agent).join("filler")).expect("it is there");
    until_right("new leases are taken again", || {
        let ran = agent.ctl(&["acquire", "new"]);
        if ran.code == Some(0) { Ok(()) } else { Err(ran.stderr) }
    });
    assert_eq!(agent.ctl(&["doctor"]).code, Some(0));
    let all = leases(&mut client);
    assert!(all.iter().any(|it| it.lease == held.lease && it.state == State::Held), "{all:?}");
    ok(agent.ctl(&["release", "prod/db"]));
    assert_eq!(store.run("EXISTS prod/db"), Answer::Int(0));
}

#[test]
fn what_was_wrong_with_the_journal_at_the_start_is_told_with_a_remedy() {
    let mut agent = Agent::start(&local());
    agent.stop();
    for file in fs::read_dir(agent.state()).expect("its journal").map_while(Result::ok) {
        if file.file_name().to_string_lossy().starts_with("journal") {
            fs::remove_file(file.path()).expect("the journal goes");
        }
    }
    agent.restart();
    let doctor = agent.ctl(&["doctor"]);
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    for words in ["warning  journal", "is missing though an agent ran here", "mend: see `stormctl"]
    {
        assert!(doctor.stdout.contains(words), "{words}: {doctor:?}");
    }
}

#[test]
fn a_journal_that_cannot_be_written_anew_grows_and_is_told() {
    let everybody = "[[rule]]\nwho = [\"everyone\"]\nmay = [\"acquire\"]\n";
    let agent = Agent::start(&format!("{}{everybody}", local()));
    open_to_all(&agent);
    // Where the agent would write the next one.
    let next = agent.state().join("journal.new");
    fs::create_dir(&next).expect("a folder in the way");
    let name = |number| resource(&format!("{number}{}", "x".repeat(120)));
    let reason = Some(Reason::new("y".repeat(256)).expect("a reason"));
    let take = Acquire { resources: (0..32).map(name).collect(), reason, ..wish("x", Hold::Keep) };
    let mut rounds = 0;
    let mut change = || {
        // One user who did all of it would be slowed down.
        let mut client = as_user(CROWD + rounds / ROUNDS_OF_ONE, || agent.client()).expect("it");
        rounds += 1;
        client.acquire(take.clone()).expect("they are free");
        client.release(Release::All).expect("they are given back");
    };
    let told = until_right("it is told", || {
        change();
        let doctor = ok(agent.ctl(&["doctor"]));
        if doctor.contains("warning  journal") { Ok(doctor) } else { Err(doctor) }
    });
    for words in ["grows and cannot be written anew: ", "mend: free space on, or remount"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    // It goes on with the old one, and has a new one as soon as it can.
    fs::remove_dir(&next).expect("it is empty");
    until_right("it is well again", || {
        change();
        let doctor = ok(agent.ctl(&["doctor"]));
        if doctor.contains("good     journal") { Ok(()) } else { Err(doctor) }
    });
}
