//! The rules of the house that no compiler knows. Each has a test that it holds, and one that a
//! breach of it is seen.
//!
//! Not here: what rustfmt, clippy (`.clippy.toml`) and cargo-deny (`.deny.toml`) already say.

#[path = "tidy/arrows.rs"]
mod arrows;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use arrows::{Arrows, wrong_arrows};
use source::{Source, project, project_root};

/// The agent's map: each module, and what it may name. Arrows run down only.
const AGENT: &Arrows = &[
    ("main", &["cli", "lib"]),
    ("cli", &["lib", "protocol"]),
    ("lib", &["*"]),
    (
        "server",
        &[
            "driver", "stores", "policy", "config", "lease", "clock", "audit", "fd", "others",
            "turns", "protocol",
        ],
    ),
    (
        "driver",
        &["stores", "backend", "lease", "journal", "clock", "fd", "audit", "systemd", "protocol"],
    ),
    ("stores", &["backend", "lease", "clock", "protocol"]),
    ("config", &["backend", "policy", "lease", "others", "protocol"]),
    ("place", &["journal", "clock", "protocol::name"]),
    ("journal", &["lease", "clock", "fd", "protocol::name"]),
    ("audit", &["lease", "clock", "fd", "others", "protocol"]),
    ("backend", &["lease", "clock", "fd", "others", "turns", "protocol"]),
    ("policy", &["lease", "protocol::name"]),
    ("clock", &["lease", "fd", "protocol::name"]),
    ("reload", &["config", "clock", "systemd"]),
    ("turns", &["lease", "clock"]),
    ("systemd", &[]),
    ("fd", &[]),
    ("others", &["lease"]),
    ("lease", &["protocol::name"]),
];

/// The protocol's map.
const PROTOCOL: &Arrows = &[
    ("lib", &["*"]),
    ("client", &["frame", "message", "name", "process"]),
    ("process", &[]),
    ("message", &["name", "process"]),
    ("frame", &[]),
    ("cause", &[]),
    ("duration", &["name"]),
    ("name", &[]),
];

/// All that the protocol may depend on: it is built into every client.
const PROTOCOL_DEPENDENCIES: [&str; 4] = ["bincode", "interprocess", "rustix", "thiserror"];

/// What the client never depends on: runtimes, stores, the agent.
const NOT_IN_CTL: [&str; 12] = [
    "tokio",
    "tokio-util",
    "async-std",
    "smol",
    "futures",
    "redis",
    "etcd-client",
    "aws-config",
    "aws-sdk-dynamodb",
    "tokio-postgres",
    "rustls",
    "stormlock-agent",
];

/// What may stand at the top, besides dotfiles.
const TOP: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "CHANGELOG.md",
    "README.md",
    "agent",
    "ctl",
    "shell",
    "systemd",
    "tests",
];

/// Dotfiles that tools need, and what git itself ignores.
const TOP_FOR_TOOLS: [&str; 10] = [
    ".ci",
    ".clippy.toml",
    ".deny.toml",
    ".editorconfig",
    ".git",
    ".gitattributes",
    ".gitignore",
    ".rustfmt.toml",
    "artefacts",
    "target",
];

/// The closed list of refusals, in wire order, as the design has it.
const CODES: [&str; 11] = [
    "held",
    "lost",
    "not_held",
    "denied",
    "unavailable",
    "bad_request",
    "too_many",
    "timeout",
    "stopping",
    "config",
    "internal",
];

/// How often `tests/run` tries the readers of foreign bytes, in all.
const TRIES: u64 = 1_000_000;

/// Most bytes of seeds for one reader: what people can look through.
const CORPUS_MAX: u64 = 8 * 1024;

type Rule = fn(&Source) -> Vec<String>;

fn keeps(rule: Rule) {
    let wrong: Vec<String> = project().iter().flat_map(rule).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Each snippet, as the file of that name, must break the rule; the file before it must not.
fn catches(rule: Rule, path: &str, good: &str, bad: &[&str]) {
    let at_good = rule(&Source::new(path, good));
    assert!(at_good.is_empty(), "a false alarm in {good:?}: {at_good:?}");
    for snippet in bad {
        assert!(!rule(&Source::new(path, snippet)).is_empty(), "not seen in {path}: {snippet:?}");
    }
}

fn agent_arrows(source: &Source) -> Vec<String> {
    let is_ours = source.is_rust() && source.path.starts_with("agent/src/");
    if is_ours { wrong_arrows(source, AGENT) } else { Vec::new() }
}

fn protocol_arrows(source: &Source) -> Vec<String> {
    let is_ours = source.is_rust() && source.path.starts_with("agent/protocol/src/");
    if is_ours { wrong_arrows(source, PROTOCOL) } else { Vec::new() }
}

#[test]
fn imports_run_down_only() {
    keeps(agent_arrows);
    keeps(protocol_arrows);
}

#[test]
fn an_import_that_runs_up_is_seen() {
    let good =
        "use std::fmt;\nuse crate::lease::{Claim, Moment};\nuse super::Clock;\n// crate::driver\n";
    catches(
        agent_arrows,
        "agent/src/backend/redis.rs",
        good,
        &[
            "use crate::driver::Driver;",
            "use crate::{lease::Claim, server::{self, Peer}};",
            "fn f() { crate::journal::Journal::open() }",
            "pub(crate) use super::super::config;",
            "const S: &str = \"}\\\"\"; fn f(x: crate::audit::Line) {}",
        ],
    );
    catches(
        agent_arrows,
        "agent/src/lease/mod.rs",
        "use stormlock_protocol::name::Ttl;",
        &[
            "use stormlock_protocol::message::Reply;",
            "use stormlock_protocol::{name::Ttl, message::Lease as Shown};",
            "use super::clock;",
        ],
    );
    catches(
        agent_arrows,
        "agent/src/main.rs",
        "fn main() { stormlock_agent::run() }",
        &["use crate::lease::Claim;"],
    );
    catches(agent_arrows, "agent/src/journal.rs", "", &["use crate::backend::Clock;"]);
    assert!(!agent_arrows(&Source::new("agent/src/gossip.rs", "")).is_empty(), "a new module");
    catches(
        protocol_arrows,
        "agent/protocol/src/name.rs",
        "use std::fmt;",
        &["use crate::message::Reply;"],
    );
}

#[test]
fn files_and_functions_are_small() {
    keeps(rules::sizes);
}

#[test]
fn a_long_function_and_a_long_file_are_seen() {
    let function = |lines| format!("fn f(x: [u8; 4]) {{\n{}}}\n", "    g('{');\n".repeat(lines));
    let good = function(68) + "// a comment is free\n\n";
    catches(rules::sizes, "agent/src/lib.rs", &good, &[&function(69)]);
    let file = |lines| "const A: u8 = 1;\n".repeat(lines);
    let tested = file(400) + "#[cfg(test)]\nmod tests {\n" + &file(100) + "}\n";
    catches(rules::sizes, "agent/src/lib.rs", &tested, &[&file(401)]);
    let tests = file(401) + &function(148);
    catches(rules::sizes, "tests/agent/main.rs", &tests, &[&file(801), &function(149)]);
}

#[test]
fn lines_fit_a_screen() {
    keeps(rules::lines);
}

#[test]
fn a_long_line_is_seen() {
    let wide = |n| "ä".repeat(n);
    catches(rules::lines, "agent/src/lib.rs", &wide(100), &[&wide(101)]);
    catches(rules::lines, "tests/run", &wide(100), &[&wide(101)]);
}

#[test]
fn names_say_what_a_thing_is() {
    keeps(rules::words);
}

#[test]
fn an_empty_word_is_seen() {
    let good = "use std::task::Context; struct Driver; // a Manager\nstruct Contextual;";
    catches(
        rules::words,
        "agent/src/driver.rs",
        good,
        &[
            "struct LockManager;",
            "pub enum CommonError {}",
            "mod utils;",
            "trait SessionHandler {}",
            "type Ctx = (); struct CallContext;",
        ],
    );
    catches(rules::words, "tests/support/agent.rs", "", &[]);
    assert!(
        !rules::words(&Source::new("tests/support/helpers.rs", "")).is_empty(),
        "a file's name"
    );
}

#[test]
fn only_the_clock_reads_a_clock() {
    keeps(rules::clocks);
}

#[test]
fn a_second_reader_of_the_clock_is_seen() {
    let good = "fn f() { clock::now() } // Instant::now()\nconst S: &str = \"SystemTime::now\";";
    catches(
        rules::clocks,
        "agent/src/driver.rs",
        good,
        &[
            "fn f() { std::time::Instant::now(); }",
            "fn f() { SystemTime::now(); }",
            "use rustix::time::{ClockId, clock_gettime};",
            "fn f() { jiff::Timestamp::now(); }",
        ],
    );
}

#[test]
fn a_store_is_named_in_its_own_file_only() {
    keeps(rules::stores);
}

#[test]
fn a_store_client_outside_its_file_is_seen() {
    let good = "use crate::backend::{Options, redis};\nfn f(o: redis::Options) {}";
    catches(
        rules::stores,
        "agent/src/config/mod.rs",
        good,
        &[
            "use redis::Client;",
            "fn f() -> redis::RedisResult<()> {}",
            "use ::redis::aio::Connection;",
            "use tokio_postgres::Config;",
            "fn f(status: tonic::Status) {}",
        ],
    );
    catches(rules::stores, "agent/src/backend/redis/script.rs", "use redis::Script;", &[]);
}

#[test]
fn the_core_and_the_policy_are_pure() {
    keeps(rules::purity);
}

#[test]
fn io_in_the_core_is_seen() {
    let good = "use std::time::Duration;\n/// std::fs\nfn f() {}";
    catches(
        rules::purity,
        "agent/src/lease/entry.rs",
        good,
        &[
            "use std::{fmt, fs};",
            "use std::time::{Duration, Instant};",
            "fn f() { tracing::info!(\"x\") }",
            "async fn f() {}",
            "use std::io::Read;",
        ],
    );
}

#[test]
fn tests_are_run_and_wait_for_the_thing_itself() {
    keeps(rules::tests);
}

#[test]
fn a_sleeping_an_ignored_or_a_nameless_test_is_seen() {
    let good = "#[test]\nfn a_lease_ends() {}\n#[test]\nfn $name() {}\n\
                // #[ignore] thread::sleep\n#[expect(dead_code)]\n\
                #![allow(dead_code, reason = \"each binary uses its part\")]";
    catches(
        rules::tests,
        "tests/agent/main.rs",
        good,
        &[
            "#[test]\n#[ignore = \"slow\"]\nfn a_lease_ends() {}",
            "fn f() { std::thread::sleep(SECOND) }",
            "async fn f() { tokio::time::sleep(SECOND).await }",
            "#[allow(dead_code)] fn f() {}",
            "#![allow(dead_code)]",
            "#[test]\nfn works() {}",
            "#[tokio::test]\nasync fn test_lease() {}",
        ],
    );
    catches(rules::tests, "tests/shell/prompt.sh", "wait \"$pid\"", &["  sleep 1"]);
}

#[test]
fn nothing_is_left_unfinished_or_tied_to_one_machine() {
    keeps(rules::text);
}

#[test]
fn unfinished_work_and_foreign_places_are_seen() {
    catches(
        rules::text,
        "README.md",
        "cargo test; pip install stormlock",
        &[
            concat!("// TO", "DO later"),
            concat!("# FIX", "ME"),
            concat!("see https://crates", ".io/x"),
            concat!("cd /wo", "rk/main"),
        ],
    );
}

#[test]
fn unsafe_code_says_why_it_is_sound() {
    keeps(rules::safety);
    let blocks = |source: &Source| source.tokens().iter().filter(|t| t.text == "unsafe").count();
    let files = project();
    let unsafe_files: Vec<_> = files.iter().filter(|f| f.is_rust() && blocks(f) > 0).collect();
    let names: Vec<_> = unsafe_files.iter().map(|file| &file.path).collect();
    // Files that clients send along, which no crate refuses or gives to a process; and a caller's
    // groups, which no crate reads. Last, the place before main.
    let known = ["agent/src/server/burial.rs", "agent/src/server/peer.rs", "ctl/src/early.rs"];
    assert_eq!(names, known.each_ref(), "no other file may have any");
}

#[test]
fn unsafe_code_without_a_reason_is_seen() {
    let good = "// SAFETY: only async-signal-safe calls\nunsafe { f() } // and\n";
    catches(rules::safety, "ctl/src/run.rs", good, &["fn f() { unsafe { g() } }"]);
}

#[test]
fn what_is_tried_is_what_runs() {
    keeps(rules::ways_in);
}

#[test]
fn code_that_knows_it_is_being_tried_is_seen() {
    catches(
        rules::ways_in,
        "agent/src/journal/mod.rs",
        "mod frame;\n#[cfg(fuzzing)]\npub mod fuzzing;\nmod part;\n// fuzzing\n",
        &[
            "#[cfg(not(fuzzing))]\nfn f() {}",
            "fn f() -> bool { cfg!(fuzzing) }",
            "pub mod fuzzing;\n",
            "#[cfg(fuzzing)]\npub use frame::split;\n",
        ],
    );
}

/// The entries of `fuzz_runs=(...)`, by name.
fn fuzz_runs(run: &str) -> BTreeMap<String, u64> {
    let (_, rest) = run.split_once("fuzz_runs=(").expect("tests/run has the runs");
    let (inside, _) = rest.split_once(')').expect("the list ends");
    let pairs = inside.split_whitespace().filter_map(|entry| entry.split_once(':'));
    pairs.map(|(name, runs)| (name.to_owned(), runs.parse().expect("a number"))).collect()
}

#[test]
fn every_reader_that_can_be_tried_is_tried_from_a_small_corpus() {
    let read = |path: &str| fs::read_to_string(project_root().join(path)).expect("a text");
    let entries = |path: &str| {
        let entries = fs::read_dir(project_root().join(path)).expect("a folder");
        entries.map(|entry| entry.expect("an entry")).collect::<Vec<_>>()
    };
    let name = |file: &fs::DirEntry| file.file_name().into_string().expect("a name in UTF-8");
    let targets = entries("tests/fuzz/targets");
    let targets = targets.iter().map(|file| name(file).trim_end_matches(".rs").to_owned());
    let targets: BTreeSet<String> = targets.filter(|name| name != "any").collect();
    assert!(targets.len() > 10, "{targets:?}");
    let corpora: BTreeSet<String> = entries("tests/fuzz/corpus").iter().map(name).collect();
    assert_eq!(corpora, targets);
    let runs = fuzz_runs(&read("tests/run"));
    assert_eq!(runs.keys().cloned().collect::<BTreeSet<_>>(), targets);
    assert!(runs.values().sum::<u64>() >= TRIES, "{runs:?}");
    let (manifest, library) = (read("tests/fuzz/Cargo.toml"), read("tests/fuzz/src/lib.rs"));
    for target in &targets {
        assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target}");
        assert!(library.contains(&format!("(\"{target}\", ")), "{target}");
        let seeds = entries(&format!("tests/fuzz/corpus/{target}"));
        let sizes = seeds.iter().map(|seed| seed.metadata().expect("a seed").len());
        let size: u64 = sizes.sum();
        assert!((1..CORPUS_MAX).contains(&size), "{target} has {size} bytes");
    }
}

#[test]
fn the_top_of_the_house_is_closed() {
    let entries = fs::read_dir(project_root()).expect("the project's top can be read");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
    let names: BTreeSet<String> = names.map(|name| name.expect("a name in UTF-8")).collect();
    assert!(names.contains("Cargo.toml"), "this is the top: {names:?}");
    let known = |name: &&String| TOP.iter().chain(&TOP_FOR_TOOLS).any(|known| known == name);
    let strangers: Vec<_> = names.iter().filter(|name| !known(name)).collect();
    assert!(strangers.is_empty(), "not in the plan of the house: {strangers:?}");
}

/// The keys of a section like `[dependencies]`, and the names of `[dependencies.NAME]`.
fn section(manifest: &str, wanted: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_inside = name == wanted;
            found.extend(name.strip_prefix(&format!("{wanted}.")).map(str::to_owned));
        } else if is_inside && let Some((key, _)) = line.split_once(['=', '.', ' ']) {
            found.push(key.to_owned());
        }
    }
    found.retain(|key| !key.starts_with('#'));
    found
}

#[test]
fn the_clients_side_stays_light() {
    let read = |path: &str| fs::read_to_string(project_root().join(path)).expect("a manifest");
    let protocol = section(&read("agent/protocol/Cargo.toml"), "dependencies");
    assert_eq!(protocol, PROTOCOL_DEPENDENCIES, "the protocol is built into every client");
    let ctl = section(&read("ctl/Cargo.toml"), "dependencies");
    assert!(ctl.contains(&"stormlock-protocol".to_owned()), "{ctl:?}");
    let heavy: Vec<_> = ctl.iter().filter(|name| NOT_IN_CTL.contains(&name.as_str())).collect();
    assert!(heavy.is_empty(), "not in a client that prints a prompt: {heavy:?}");
}

/// The calls of std that a list for clippy forbids.
fn forbidden(list: &str) -> BTreeSet<&str> {
    let paths = list.split("path = \"").skip(1).filter_map(|rest| rest.split('"').next());
    paths.filter(|path| path.starts_with("std::")).collect()
}

/// Clippy takes the nearest list alone.
#[test]
fn what_the_house_forbids_the_client_forbids_too() {
    let read = |path: &str| fs::read_to_string(project_root().join(path)).expect("a list");
    let (house, client) = (read(".clippy.toml"), read("ctl/clippy.toml"));
    assert!(forbidden(&house).contains("std::thread::sleep"), "{house}");
    assert_eq!(forbidden(&house).difference(&forbidden(&client)).next(), None);
}

#[test]
fn a_manifest_is_read_in_each_of_its_spellings() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# why\na.workspace = true\nb = \"1\"\n\
                    [dependencies.tokio]\nversion = \"1\"\n[dev-dependencies]\nc = \"1\"\n";
    assert_eq!(section(manifest, "dependencies"), ["a", "b", "tokio"]);
}

/// The variants of `pub enum Code` that have a doc comment, in snake_case.
fn documented_codes(message_rs: &str) -> Vec<String> {
    let (_, rest) = message_rs.split_once("pub enum Code {").expect("message.rs has the codes");
    let (body, _) = rest.split_once("\n}").expect("the enum ends");
    let lines: Vec<&str> = body.lines().map(str::trim).collect();
    let documented = lines.windows(2).filter(|pair| {
        pair[0].starts_with("/// ") && pair[1].ends_with(',') && !pair[1].starts_with("//")
    });
    let snake = |name: &str| {
        let parts = name.char_indices().flat_map(|(at, c)| {
            let gap = (at > 0 && c.is_uppercase()).then_some('_');
            gap.into_iter().chain(c.to_lowercase())
        });
        parts.collect::<String>()
    };
    documented.map(|pair| snake(pair[1].trim_end_matches(','))).collect()
}

#[test]
fn every_code_is_documented_and_in_the_order_of_the_design() {
    let path = project_root().join("agent/protocol/src/message.rs");
    let text = fs::read_to_string(path).expect("the protocol's messages");
    assert_eq!(documented_codes(&text), CODES);
    let spoken: Vec<_> = stormlock_protocol::message::Code::ALL.map(|code| code.as_str()).into();
    assert_eq!(spoken, CODES);
}

#[test]
fn a_code_without_a_word_about_it_is_seen() {
    let text =
        "pub enum Code {\n    /// One.\n    Held,\n    NotHeld,\n    /// T.\n    TooMany,\n}\n";
    assert_eq!(documented_codes(text), ["held", "too_many"]);
}

#[test]
fn comments_and_strings_are_no_code() {
    let text =
        "a /* b /* c */ d */ e \"f \\\" g\" 'h' '\\'' 'i \nr#\"j \" k\"# br\"l\" m r#type // n";
    let words: Vec<String> =
        Source::new("x.rs", text).tokens().into_iter().map(|t| t.text).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|w| *w != "\"").collect();
    assert_eq!(words, ["a", "e", "'", "i", "b", "m", "r", "#", "type"]);
}
