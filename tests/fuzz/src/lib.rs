//! What reads bytes that somebody else wrote, tried with any bytes at all: one function for each
//! such reader. It panics when the reader panics and when a law of its is broken, and says whether
//! the bytes made sense.
//!
//! `tests/run` tries each from its corpus, a fixed number of times. To look for longer, with
//! cargo-fuzz (`--sanitizer none` does without a nightly toolchain):
//!
//! ```sh
//! cargo fuzz run --fuzz-dir tests/fuzz --features targets --sanitizer none journal \
//!     "$(mktemp -d)" tests/fuzz/corpus/journal
//! ```
//!
//! `corpus/NAME` has real things, small ones; only those called `odd-…` make no sense to the
//! reader. A crash that was mended goes there as well, under either kind of name. They are from:
//!
//! - `hello`, `frame`: `tests/wire/golden.txt`, which has each message.
//! - `journal`: the lines of a file that an agent wrote, without the frames around them.
//! - `config`, `import`, `duration`, `until`: the README, `agent/src/config/stormlock.toml`, the
//!   Python tool's own README, what people type.
//! - `log`: an agent's audit file.
//! - `redis`, `etcd`: what Redis 7 and etcd 3.4 answered about locks of the Python tool 0.4.1 and
//!   of ours, to the byte (`etcdctl txn --write-out=protobuf`).
//! - `dynamodb`: items of both, in the JSON of the store's protocol.
//! - `postgres`: rows of both, as COPY writes them.
//! - `exec`: `agent/examples/README.md`.
//!
//! Nothing here knows a socket or a store, and no file is read but the seeds.

#![cfg(fuzzing)]

mod files;
mod people;
mod stores;
mod wire;

use stormlock_protocol::name::is_invisible;

/// Tries one reader: true when the bytes made sense to it.
pub type Run = fn(&[u8]) -> bool;

/// Every reader, by its name.
pub const TARGETS: [(&str, Run); 13] = [
    ("config", files::config),
    ("duration", people::duration),
    ("dynamodb", stores::dynamodb),
    ("etcd", stores::etcd),
    ("exec", stores::exec),
    ("frame", wire::frame),
    ("hello", wire::hello),
    ("import", files::import),
    ("journal", files::journal),
    ("log", files::log),
    ("postgres", stores::postgres),
    ("redis", stores::redis),
    ("until", people::until),
];

/// The reader of that name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn target(name: &str) -> Run {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("there is no target {name:?}: {TARGETS:?}")).1
}

/// What was tamed has nothing in it that cannot be seen.
#[track_caller]
fn assert_visible(text: &str) {
    let bad = text.chars().find(|c| is_invisible(*c));
    assert_eq!(bad, None, "in {text:?}");
}

/// A complaint may quote, but moves no cursor and forges no line.
#[track_caller]
fn assert_quotes(complaint: &str) {
    let turns = ['\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2066}'..='\u{2069}'];
    let bad = complaint.chars().find(|c| c.is_control() || turns.iter().any(|it| it.contains(c)));
    assert_eq!(bad, None, "in {complaint:?}");
}
