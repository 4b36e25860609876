//! State directories that can hold little, or nothing any more: another user cannot fill a small
//! disk through the agent, and when it cannot be written, whoever filled or broke it, renewals go
//! on.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::Command;

use stormlock_protocol::message::{
    Acquire, Code, Hold, Level, Release, Reply, Request, State, Target,
};
use stormlock_protocol::name::{Reason, Resource};

use super::victim::Victim;
use super::{CROWD, EVE, ask, open_to_all, refusal, shared, welcomed};
use crate::agent::Agent;
use crate::dice::now_ms;
use crate::redis_server::RedisServer;
use crate::{acquire, leases, resource, until_right, wish};

/// A disk of 1 MB that only the agent sees: a loop device with a file on a memory file system.
/// `$0` is the state directory, `$1` what it does at its first error. Where the host has no loop
/// devices, or no mke2fs, a memory file system of that size has to do, which can only be full.
const DISK: &str = "
    at_errors=$1
    shift
    mkdir -p \"$0.host\"
    mount -t tmpfs -o size=2m,mode=0700 stormlock-host \"$0.host\"
    truncate -s 1M \"$0.host/image\"
    make='mke2fs -q -F -t ext4 -O ^has_journal,^flex_bg -N 32'
    if ! $make \"$0.host/image\" ||
        ! mount -o \"loop,errors=$at_errors\" \"$0.host/image\" \"$0\"; then
        mount -t tmpfs -o size=1m stormlock-test \"$0\"
    fi
    chmod 0700 \"$0\"
    exec \"$@\"";
/// The disk, and what is left of it when it breaks: its own tables, and nothing for files.
const WHOLE: u64 = 1 << 20;
const BROKEN: u64 = 34 << 10;
/// Requests of the one who would fill it. Each is 32 leases, taken and given back: some hundred
/// bytes each in the journal and in the audit.
const ROUNDS: usize = 150;
/// So many of them one user does without being slowed down.
const ROUNDS_OF_ONE: usize = 20;
const AT_ONCE: usize = 32;
/// How long leases have to be renewed without a disk: several times.
const BROKEN_MS: u64 = 4_500;

/// How a disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failing {
    /// No space is left.
    Full,
    /// It turns itself read-only, for good.
    ReadOnly,
    /// No sync succeeds.
    Broken,
}

/// An agent on a small disk.
struct Small {
    agent: Agent,
}

impl Small {
    fn start(store: &RedisServer, how: Failing) -> Small {
        let mut agent = Agent::prepare(&shared(store.port()));
        let state = agent.state();
        let state = state.to_str().expect("a plain path");
        let at_errors = if how == Failing::ReadOnly { "remount-ro" } else { "continue" };
        let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", DISK];
        agent.restart_under(&[&unshare[..], &[state, at_errors]].concat(), |_| {});
        open_to_all(&agent);
        let small = Small { agent };
        println!(
            "limits: the state directory is on {}",
            small.device().as_deref().unwrap_or("tmpfs")
        );
        small
    }

    /// A path as the agent sees it.
    fn seen(&self, path: &str) -> PathBuf {
        let path = format!("{}{path}", self.agent.state().display());
        let inside = path.strip_prefix('/').expect("a whole path");
        PathBuf::from(format!("/proc/{}/root", self.agent.pid())).join(inside)
    }

    /// The loop device under the state directory; `None` where it had to be a memory file system.
    fn device(&self) -> Option<String> {
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", self.agent.pid()));
        let (state, mounts) = (self.agent.state(), mounts.expect("its mounts"));
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == state.to_str())?;
        Some(line.split(' ').next()?.strip_prefix("/dev/")?.to_owned())
    }

    /// Makes the disk fail, and gives the words by which the agent tells.
    fn fail(&self, how: Failing) -> &'static str {
        match (how, self.device()) {
            (Failing::Full, _) | (_, None) => {
                let mut filler = File::create(self.seen("/filler")).expect("a file");
                let mut writes = std::iter::repeat_with(|| filler.write_all(&[0xaa; 512]));
                let full = writes.find_map(Result::err);
                assert_eq!(full.expect("an end").kind(), ErrorKind::StorageFull);
                "No space left"
            }
            (Failing::ReadOnly, Some(device)) => {
                let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
                fs::write(trigger, "a test of stormlock").expect("an error that the disk notices");
                "Read-only file system"
            }
            (Failing::Broken, Some(device)) => {
                self.resize(&device, BROKEN);
                "Input/output error"
            }
        }
    }

    /// False when nothing but another start would help.
    fn mend(&self, how: Failing) -> bool {
        match (how, self.device()) {
            (Failing::Full, _) | (_, None) => {
                fs::remove_file(self.seen("/filler")).expect("it is there");
                true
            }
            (Failing::ReadOnly, Some(_)) => false,
            (Failing::Broken, Some(device)) => {
                self.resize(&device, WHOLE);
                true
            }
        }
    }

    fn resize(&self, device: &str, len: u64) {
        let image = File::options().write(true).open(self.seen(".host/image")).expect("the image");
        image.set_len(len).expect("another length");
        let device = format!("/dev/{device}");
        let told = Command::new("losetup").args(["-c", &device]).status().expect("losetup");
        assert!(told.success());
    }
}

fn user_of(round: usize) -> u32 {
    CROWD + u32::try_from(round / ROUNDS_OF_ONE).expect("a number")
}

fn many(round: usize) -> Acquire {
    let name = |number| resource(&format!("free/{round}/{number}/{}", "x".repeat(80)));
    Acquire {
        resources: (0..AT_ONCE).map(name).collect(),
        reason: Some(Reason::new("y".repeat(200)).expect("a reason")),
        ..wish("free", Hold::Keep)
    }
}

/// What gives back all that was asked for.
pub(super) fn these(ask_for: &Acquire) -> Release {
    let target = |resource: &Resource| Target { resource: resource.clone(), lease: None };
    Release::These(ask_for.resources.iter().map(target).collect())
}

#[test]
fn other_users_fill_no_small_disk_by_taking_and_giving_back() {
    let store = RedisServer::start();
    let small = Small::start(&store, Failing::Full);
    let agent = &small.agent;
    let victim = Victim::of(agent);
    let mut root = agent.client().expect("the agent answers");
    let mut round = 0;
    let mut cycle = || {
        round += 1;
        // One user who did all of it would be slowed down.
        let mut eve = welcomed(agent, user_of(round));
        let ask_for = many(round);
        let give_back = these(&ask_for);
        let taken = ask(&mut eve, &Request::Acquire(ask_for));
        assert!(matches!(taken, Reply::Acquired(_)), "round {round}: {taken:?}");
        let given = ask(&mut eve, &Request::Release(give_back));
        assert!(matches!(given, Reply::Released(_)), "round {round}: {given:?}");
        // And others find room for theirs.
        let another = wish("prod/another", Hold::Keep);
        acquire(&mut root, another.clone());
        root.release(these(&another)).expect("it is given back");
    };
    let measure = victim.during("a small disk, and somebody who would fill it", &mut cycle);
    measure.is_undisturbed();
    (0..ROUNDS).for_each(|_| cycle());
    victim.during("the same disk afterwards", || {}).is_undisturbed();
    let findings = root.doctor().expect("it answers");
    let journal = findings.iter().find(|it| it.about == "journal").expect("it says so");
    assert_eq!(journal.level, Level::Good, "{journal:?}");
}

/// Nothing new is taken, what is held is renewed on time, and the disk mends itself.
fn check(how: Failing) {
    let store = RedisServer::start();
    let small = Small::start(&store, how);
    let agent = &small.agent;
    let victim = Victim::in_store(agent);
    let mut root = agent.client().expect("the agent answers");
    assert_eq!(leases(&mut root).len(), 4);
    let mut eve = welcomed(agent, EVE);
    victim.during(&format!("{how:?}, before"), || {}).is_undisturbed();
    let words = small.fail(how);
    let take = |number| Request::Acquire(wish(&format!("free/{number}"), Hold::Keep));
    let mut number = 0;
    let no = until_right("nothing new is taken", || {
        number += 1;
        match ask(&mut eve, &take(number)) {
            Reply::Refused(no) => Ok(no),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(no.code, Code::Unavailable, "{no:?}");
    let began = now_ms();
    victim.begin();
    until_right("several renewals have passed", || {
        let no = refusal(&mut eve, &take(0));
        assert_eq!(no.code, Code::Unavailable, "{no:?}");
        if now_ms() - began > BROKEN_MS { Ok(()) } else { Err(String::new()) }
    });
    let measure = victim.end(&format!("{how:?}"));
    measure.lost_none();
    assert!(measure.renewals > 0, "{measure:?}");
    let findings = root.doctor().expect("it answers");
    let journal = findings.iter().find(|it| it.about == "journal").expect("it says so");
    assert_eq!(journal.level, Level::Bad, "{journal:?}");
    assert!(journal.text.contains(words), "{journal:?}");

    if !small.mend(how) {
        return;
    }
    until_right("new leases are taken again", || match ask(&mut eve, &take(0)) {
        Reply::Acquired(_) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    victim.during(&format!("{how:?}, mended"), || {}).lost_none();
    let held = leases(&mut root);
    assert_eq!(held.len(), 4, "{held:?}");
    assert!(held.iter().all(|it| it.state == State::Held), "{held:?}");
}

#[test]
fn on_a_full_disk_of_one_megabyte_renewals_are_on_time() {
    check(Failing::Full);
}

#[test]
fn on_a_disk_that_turned_read_only_renewals_are_on_time() {
    check(Failing::ReadOnly);
}

#[test]
fn on_a_disk_that_fails_every_sync_renewals_are_on_time() {
    check(Failing::Broken);
}
