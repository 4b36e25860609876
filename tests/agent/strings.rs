//! What others wrote: whatever stands in a store, in no output of ours it moves a cursor, forges a
//! line or hides; and none of it gets into a store through us.

use std::fmt::Write as _;
use std::fs;
use std::thread;

use serde_json::{Value, json};
use stormlock_protocol::message::Hold;
use stormlock_protocol::name::is_invisible;

use crate::agent::Agent;
use crate::program::Ran;
use crate::stores_all::Stores;
use crate::{acquire, local, locks, wish};

/// What somebody wrote as their name, host and reason. The longest is what each store takes in one
/// value.
const NASTY: [&str; 6] = [
    "\u{1b}[2J\u{1b}]0;gone\u{7}\u{9b}31m",
    "you\u{202e}gnp.exe\u{2066}\u{200b}\u{feff}",
    "maria\nfree\tyes\r0\u{85}\u{2028}",
    "$(touch /tmp/x)`id`%F{red}%n\\[\\e[31m\\]\\u@\\h!!",
    "\u{1b}\u{1b}\u{1b}",
    "LONG",
];
/// A million characters; of DynamoDB an item is 400 KB at most.
const LONG: usize = 1_000_000;
const LONG_IN_DYNAMODB: usize = 100_000;
/// More than anybody wants to read about one lock.
const OUTPUT_MAX: usize = 8_000;
/// A lease that nobody of ours has.
const LEASE: &str = "77777777-7777-7777-7777-777777777777";
/// The end of a lock that does not end here: of the year 2100.
const FAR_AWAY: &str = "4102444800";
const STORES: [&str; 4] = ["redis", "etcd", "postgres", "dynamodb"];

/// Another writer's lock, with the same text in all that it says.
fn writes(stores: &Stores, store: &str, on: &str, text: &str) {
    match store {
        "redis" => {
            let id = [0x77; 16];
            let words: [&[u8]; 12] = [
                b"HSET",
                on.as_bytes(),
                b"id",
                &id,
                b"p",
                text.as_bytes(),
                b"c",
                text.as_bytes(),
                b"h",
                text.as_bytes(),
                b"r",
                text.as_bytes(),
            ];
            stores.redis.command(&words);
            stores.redis.run("PING");
        }
        "etcd" => {
            for (part, value) in
                [("id", "7777"), ("p", text), ("c", "8 bytes."), ("h", text), ("r", text)]
            {
                stores.etcd.run_with(&format!("put /{on}/{part}"), value);
            }
        }
        "postgres" => {
            let quoted = |text: &str| text.replace('\'', "''");
            let (on, text) = (quoted(on), quoted(text));
            stores.postgres.sql_as(
                "stormlock",
                &format!(
                    "INSERT INTO stormlock VALUES ('{on}', '{LEASE}', '{text}', now(), \
                     now() + interval '1 hour'); INSERT INTO stormlock_ext VALUES \
                     ('{on}', 1, '{LEASE}', 1, '{text}', '{text}', 1)"
                ),
            );
        }
        _ => stores.dynamo.put(&json!({
            "resource": {"S": on},
            "lease": {"S": LEASE.replace('-', "")},
            "principal": {"S": text},
            "created": {"S": text},
            "expires": {"N": FAR_AWAY},
            "host": {"S": text},
            "reason": {"S": text},
        })),
    }
}

/// Nothing in it moves a cursor, hides or goes on for ever; each line is one of ours.
fn check_tame(what: &str, ran: &Ran, columns: bool) {
    for (stream, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        let is_bad = |c: &char| *c != '\n' && !(columns && *c == '\t') && is_invisible(*c);
        let bad = text.chars().find(is_bad);
        assert_eq!(bad, None, "{what}: {stream}: {:?}", text.chars().take(500).collect::<String>());
        assert!(text.len() <= OUTPUT_MAX * NASTY.len(), "{what}: {} bytes on {stream}", text.len());
    }
}

fn check(agent: &Agent, code: i32, args: &[&str]) -> Ran {
    let ran = agent.ctl(args);
    assert_eq!(ran.code, Some(code), "{args:?}: {}", shown(&ran));
    // These put tabs between what they print.
    let is_columns = |it: &&str| ["tsv", "rows", "oneline", "lines", "cols"].contains(it);
    check_tame(&args.join(" "), &ran, args.iter().any(is_columns));
    ran
}

fn shown(ran: &Ran) -> String {
    format!("{ran:?}").chars().take(2_000).collect()
}

/// Everything that shows one lock.
fn check_one(agent: &Agent, on: &str) {
    for format in ["rows", "oneline", "lines", "cols", "json"] {
        let ran = check(agent, 0, &["current", on, "-f", format]);
        assert!(ran.stdout.len() <= OUTPUT_MAX, "{on}: {} bytes", ran.stdout.len());
    }
    check(agent, 0, &["current", on, "-o", "tsv"]);
    check(agent, 0, &["is-held", on]);
    check(agent, 75, &["acquire", on]);
    let refused = check(agent, 75, &["acquire", on, "-o", "json"]);
    assert_eq!(refused.stdout, "");
    check(agent, 75, &["run", on, "--", "true"]);
    check(agent, 75, &["wait", on, "--timeout", "1s"]);
    check(agent, 1, &["release", on]);
    let ran = agent.stormlock(&["-c", agent.file("none").to_str().unwrap(), "current", on]);
    check_tame("stormlock current", &ran, false);
}

fn check_all(agent: &Agent) {
    check(agent, 0, &["list"]);
    let tsv = check(agent, 0, &["list", "-o", "tsv"]);
    let columns: Vec<usize> = tsv.stdout.lines().map(|line| line.split('\t').count()).collect();
    assert_eq!(columns.len(), STORES.len() * NASTY.len(), "{}", shown(&tsv));
    assert!(columns.iter().all(|count| *count == columns[0]), "{columns:?}");
    let json: Value =
        serde_json::from_str(&check(agent, 0, &["list", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["locks"].as_array().unwrap().len(), columns.len());
    check(agent, 0, &["status"]);
}

#[test]
fn what_strangers_wrote_into_a_store_is_tame_wherever_it_is_shown() {
    let stores = Stores::start();
    let agent = stores.agent();
    thread::scope(|scope| {
        for store in STORES {
            let (agent, stores) = (&agent, &stores);
            let mut client = agent.client().expect("it answers");
            scope.spawn(move || {
                acquire(&mut client, wish(&format!("{store}/ours"), Hold::No));
                agent.ctl(&["release", &format!("{store}/ours")]);
                for (number, text) in NASTY.iter().enumerate() {
                    let long = if store == "dynamodb" { LONG_IN_DYNAMODB } else { LONG };
                    let text = text.replace("LONG", &"x".repeat(long));
                    let on = format!("{store}/nasty{number}");
                    writes(stores, store, &on, &text);
                    check_one(agent, &on);
                }
                // What no resource is called is no lock.
                for text in &NASTY[..3] {
                    let text = text.replace(' ', "");
                    writes(stores, store, &format!("{store}/{text}"), "otto");
                }
            });
        }
    });
    check_all(&agent);
    for store in STORES {
        for number in 0..NASTY.len() {
            let on = format!("{store}/nasty{number}");
            check(&agent, 0, &["break", &on, "-m", "it is nasty", "--yes", "--now"]);
        }
    }
    for format in ["human", "tsv", "json", "jsonl"] {
        let ran = agent.ctl(&["log", "-n", "1000", "-o", format]);
        assert_eq!(ran.code, Some(0), "{}", shown(&ran));
        check_log(format, &ran.stdout);
    }
    check_log("the agent's own", &agent.log());
    let audit = fs::read_to_string(agent.state().join("audit.jsonl")).expect("the audit");
    for line in audit.lines() {
        let _: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
    check_log("audit.jsonl", &audit);
    assert_eq!(locks(&mut agent.client().expect("it answers")), []);
}

fn check_log(what: &str, text: &str) {
    let bad = text.chars().find(|c| !matches!(c, '\n' | '\t') && is_invisible(*c));
    assert_eq!(bad, None, "{what}");
    let longest = text.lines().map(str::len).max().unwrap_or_default();
    assert!(longest <= OUTPUT_MAX || what == "json", "{what}: a line of {longest} bytes");
}

#[test]
fn nothing_nasty_gets_into_a_store_through_us() {
    let agent = Agent::start(&local());
    let mut long = String::new();
    let _ = write!(long, "{}", "x".repeat(100_000));
    for text in NASTY.iter().copied().filter(|it| *it != "LONG").chain([&*long, " ", ""]) {
        let ran = agent.ctl(&["acquire", text]);
        assert_eq!(ran.code, Some(64), "{}", shown(&ran));
        check_tame("acquire", &ran, false);
        // Shell syntax is text like any other in a reason.
        let is_plain = !text.trim().is_empty() && text.len() <= 256 && !text.contains(is_invisible);
        let ran = agent.ctl(&["acquire", "prod/db", "-m", text]);
        assert_eq!(ran.code, Some(if is_plain { 0 } else { 64 }), "{}", shown(&ran));
        check_tame("acquire -m", &ran, false);
        if is_plain {
            let json = agent.ctl(&["current", "prod/db", "-o", "json"]).stdout;
            let json: Value = serde_json::from_str(&json).expect("JSON");
            assert_eq!(json["lock"]["reason"], text, "{json}");
            assert_eq!(agent.ctl(&["release", "prod/db"]).code, Some(0));
        }
        for args in [&["break", "prod/db", "--yes", "-m", text][..], &["current", text]] {
            let ran = agent.ctl(args);
            assert!(ran.code != Some(0) && ran.stdout.is_empty(), "{}", shown(&ran));
            check_tame(args[0], &ran, false);
        }
    }
    assert_eq!(agent.ctl(&["list"]).stdout.matches("prod/db").count(), 0);
}
