//! Files that the agent reads.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};
use stormlock_agent::audit;
use stormlock_agent::config::import::import as of_python;
use stormlock_agent::config::{Config, Mode, Outside, Purpose};
use stormlock_agent::journal::{self, Place};
use stormlock_agent::lease::{Memory, Record, Uid};
use stormlock_protocol::FRAME_MAX;
use stormlock_protocol::frame;
use stormlock_protocol::message::Reply;
use stormlock_protocol::name::{LeaseId, Resource, UnixMs};

use crate::{assert_quotes, assert_visible};

/// A configuration. No file that it names is read.
pub(crate) fn config(bytes: &[u8]) -> bool {
    let outside = Outside {
        mode: Mode::System,
        uid: Uid(1000),
        nodename: "bastion2".to_owned(),
        others_may_read: false,
        purpose: Purpose::Show,
        env: |_| None,
    };
    match Config::parse(bytes, Path::new("stormlock.toml"), &outside) {
        Ok(config) => {
            let defaults = config.defaults(&Resource::new("prod/db").expect("a resource"));
            assert!(config.backends.contains_key(&defaults.backend), "{defaults:?}");
            true
        }
        Err(error) => {
            assert_quotes(&error.to_string());
            false
        }
    }
}

/// The Python tool's configuration. What is made of it is TOML, whatever its values are.
pub(crate) fn import(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    match of_python(text) {
        Ok(imported) => {
            let parsed = toml::de::DeTable::parse(&imported.toml);
            assert!(parsed.is_ok(), "{parsed:?} of {:?}", imported.toml);
            imported.notes.iter().for_each(|note| assert_quotes(note));
            true
        }
        Err(error) => {
            assert_quotes(&error.to_string());
            false
        }
    }
}

/// How many events of an audit file go into one frame, at the least.
const PAGE: usize = 24;

/// An audit file, read backwards.
pub(crate) fn log(bytes: &[u8]) -> bool {
    let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).expect("memory"));
    file.write_all_at(bytes, 0).expect("memory");
    let lines = audit::fuzzing::backwards(&file);
    let forwards = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    assert!(lines.iter().map(Vec::as_slice).eq(forwards.rev()), "{lines:?}");
    let mut is_line = false;
    for line in lines {
        let Some((logged, again)) = audit::fuzzing::read(&line, Uid(0)) else { continue };
        assert_visible(again.strip_suffix('\n').expect("a whole line"));
        let same = audit::fuzzing::read(again.trim_end().as_bytes(), Uid(0));
        assert_eq!(same.as_ref(), Some(&(logged.clone(), again)));
        let Some(logged) = logged else { continue };
        is_line = true;
        let reply = Reply::Log { events: vec![logged], next: None };
        let frame = frame::encode(&reply).expect("an event fits a frame");
        assert!(frame.len() * PAGE <= FRAME_MAX, "{}", frame.len());
    }
    is_line
}

/// How often a journal is damaged for each input.
const DAMAGES: u32 = 4;

/// A journal: whole bytes, or the lines of one without the frames around them.
pub(crate) fn journal(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"stormlock journal") {
        return journal::fuzzing::read(bytes, &place()).is_some();
    }
    let lines: Vec<&[u8]> =
        bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let mut intents = BTreeSet::new();
    let mut is_sound = true;
    for line in &lines {
        let Some((written, intent)) = journal::fuzzing::again(line) else {
            is_sound = false;
            continue;
        };
        assert_eq!(journal::fuzzing::again(&written), Some((written.clone(), intent)));
        intents.extend(intent);
    }
    let whole = journal::fuzzing::write(lines.iter().copied());
    let Some((memory, _)) = journal::fuzzing::read(&whole, &place()) else { return false };
    assert_known(&memory, &intents);
    again(memory);
    let dice = (0..DAMAGES).scan(crc(&whole), |state, _| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(*state)
    });
    for roll in dice {
        let at = usize::try_from(roll >> 8).expect("24 bits fit") % whole.len();
        // Where a part is bad already, a bad end is no crash's.
        if is_sound {
            cut(&lines, &whole, at);
        }
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (roll % 8);
        if let Some((memory, _)) = journal::fuzzing::read(&flipped, &place()) {
            assert_known(&memory, &intents);
        }
    }
    true
}

/// No lease comes of a journal into which it was not written.
fn assert_known(memory: &Memory, intents: &BTreeSet<LeaseId>) {
    let strange: Vec<_> = memory.leases.keys().filter(|lease| !intents.contains(lease)).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

/// A start writes what it remembers anew, and the next one remembers the same.
fn again(mut memory: Memory) {
    let Place { boot: id, wall_at_boot, .. } = place();
    memory.apply(Record::Boot { id, wall_at_boot });
    let anew = journal::fuzzing::write_anew(&memory, &place());
    let (mut same, notes) = journal::fuzzing::read(&anew, &place()).expect("ours");
    assert_eq!(notes, Vec::<String>::new());
    assert!(same.leases.keys().eq(memory.leases.keys()), "{same:?} {memory:?}");
    // Without its grant no agent writes a renewal: damage takes a grant away, and then it is lost.
    for lease in memory.leases.values().filter(|it| it.fence.is_some() != it.proven.is_some()) {
        same.leases.insert(lease.intent.claim.lease, lease.clone());
    }
    assert_eq!(same, memory);
}

/// A journal that was cut is the one that was there before its last lines.
fn cut(lines: &[&[u8]], whole: &[u8], at: usize) {
    let before = |count: usize| journal::fuzzing::write(lines.iter().copied().take(count));
    let count = (0..=lines.len()).rev().find(|count| before(*count).len() <= at);
    let Some(count) = count else { return };
    let read = |bytes: &[u8]| journal::fuzzing::read(bytes, &place()).map(|(memory, _)| memory);
    assert_eq!(read(&whole[..at]), read(&before(count)), "cut at {at}");
}

fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum: u32, byte| sum.rotate_left(5) ^ u32::from(*byte))
}

fn place() -> Place {
    Place {
        machine: Some("0123456789abcdef0123456789abcdef".to_owned()),
        boot: [0xab; 16],
        wall_at_boot: UnixMs(1_700_000_000_000),
    }
}
