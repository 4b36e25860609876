//! The second name of our client beside the tool whose name it is: the same lines typed to both,
//! the same exit codes and output.
//!
//! Allowed to differ, and how: ids, times and principals; the wording on stderr, but not the Python
//! tool's own one-line messages; and a refused acquire, whose holder's id stands on stdout there,
//! where a script takes it for its own, and on stderr here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::agent::Agent;
use crate::program::Ran;
use crate::python::PythonTool;
use crate::redis_server::{Answer, RedisServer};

/// How far apart the ends of the same two leases may be: the seconds between the two runs.
const LEFT_MS_APART: u64 = 8_000;

/// What is typed after `stormlock`. `> NAME` keeps the id on stdout, `$NAME` types it; `! RESOURCE`
/// compares how long the lock lives, in the store.
const LINES: &[&str] = &[
    // nothing there
    "current db",
    "current -f id db",
    "current -f json db",
    "is-held db 00112233445566778899aabbccddeeff",
    "release db 00112233445566778899aabbccddeeff",
    "renew db 00112233445566778899aabbccddeeff",
    // taken, and shown in each format
    "acquire db > A",
    "! db",
    "current db",
    "current --format rows db",
    "current -f id db",
    "current --id-only db",
    "current -f oneline db",
    "current -f lines db",
    "current -f cols db",
    "current --format=json db",
    "current db -f json",
    "is-held db $A",
    "is-held db 00112233445566778899aabbccddeeff",
    "is-held other $A",
    // held by another lease
    "acquire db",
    "acquire -t 1h db",
    "renew db 00112233445566778899aabbccddeeff",
    "release db 00112233445566778899aabbccddeeff",
    "is-held db $A",
    // renewed, in each form of a ttl
    "renew db $A",
    "! db",
    "renew -t 4seconds db $A",
    "renew -t 2m db $A",
    "! db",
    "renew db $A --ttl 30minutes",
    "! db",
    "renew --ttl=1h db $A",
    "! db",
    "renew -t 2d db $A",
    "! db",
    "renew -t \"1 days\" db $A",
    "! db",
    "renew -t \"90   s\" db $A",
    "! db",
    // ttls that are none
    "renew -t 1.5h db $A",
    "renew -t five db $A",
    "renew -t 5 db $A",
    "renew -t 1\u{a0}day db $A",
    "renew -t -5s db $A",
    "renew -t \"10 weeks\" db $A",
    "renew -t 5S db $A",
    "renew -t \"\" db $A",
    "is-held db $A",
    // given back
    "release db $A",
    "release db $A",
    "is-held db $A",
    "renew db $A",
    "current db",
    "acquire --ttl \"4 h\" db > B",
    "! db",
    "is-held db $A",
    "is-held db $B",
    "release db $A",
    "is-held db $B",
    "release db $B",
    // other names
    "acquire -t 1m prod/db:main@eu-1 > C",
    "current -f id prod/db:main@eu-1",
    "current -f id prod/db",
    "release prod/db:main@eu-1 $C",
    // what cannot be meant
    "",
    "frobnicate db",
    "acquire",
    "acquire db web",
    "acquire -t",
    "acquire --frob db",
    "release db",
    "renew db",
    "is-held db",
    "current",
    "current -f xml db",
    "current -f",
    "release -t 1m db 00112233445566778899aabbccddeeff",
    "is-held db nonsense",
    "release db nonsense",
    "renew db nonsense",
    "--help",
    "acquire --help",
];

/// The words of a line; double quotes keep blanks together.
fn words(line: &str, ids: &BTreeMap<String, String>) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('"').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split(' ').filter(|word| !word.is_empty()).map(str::to_owned));
        }
    }
    for word in &mut words {
        if let Some(name) = word.strip_prefix('$') {
            *word = ids.get(name).expect("the id was kept before").clone();
        }
    }
    words
}

/// Types all lines to one tool; gives what it said to each, or what the store says of a lock.
fn type_all(run: &dyn Fn(&[&str]) -> Ran, left_ms: &dyn Fn(&str) -> Option<u64>) -> Vec<Said> {
    let mut ids = BTreeMap::new();
    let mut all = Vec::new();
    for line in LINES {
        if let Some(resource) = line.strip_prefix("! ") {
            all.push(Said::Left(left_ms(resource)));
            continue;
        }
        let (line, keep) = line.split_once(" > ").map_or((*line, None), |(l, n)| (l, Some(n)));
        let typed = words(line, &ids);
        let ran = run(&typed.iter().map(String::as_str).collect::<Vec<_>>());
        if let Some(name) = keep {
            ids.insert(name.to_owned(), ran.stdout.trim().to_owned());
        }
        all.push(Said::Ran(ran));
    }
    all
}

/// How long a lock still lives in a store; `None` when it is not there, or would live for ever.
fn left_ms(store: &RedisServer, resource: &str) -> Option<u64> {
    match store.command(&["PTTL", resource]) {
        Answer::Int(ms) => u64::try_from(ms).ok(),
        other => panic!("PTTL of {resource}: {other:?}"),
    }
}

enum Said {
    Ran(Ran),
    Left(Option<u64>),
}

impl Said {
    fn code(&self) -> Option<i32> {
        match self {
            Said::Ran(ran) => ran.code,
            Said::Left(_) => None,
        }
    }
}

/// The same text with each lease id, time and principal replaced by what it is.
fn shape(text: &str, principal: &str) -> String {
    let text = text.replace(principal, "WHO");
    let mut shape = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() || "-:.".contains(c) {
            word.push(c);
            continue;
        }
        shape.push_str(kind(&word));
        shape.push(c);
        word.clear();
    }
    shape.pop();
    // The columns of the tool are as wide as its principal: their blanks say nothing.
    let blanks = shape.split("  ").map(str::trim).filter(|part| !part.is_empty());
    let squeezed = blanks.collect::<Vec<_>>().join("  ");
    if shape.contains("    ") { squeezed } else { shape }
}

fn kind(word: &str) -> &str {
    let is_id = word.len() == 32 && word.chars().all(|c| c.is_ascii_hexdigit());
    let time = word.char_indices().all(|(at, c)| match at {
        4 | 7 => c == '-',
        10 => c == 'T',
        13 | 16 => c == ':',
        19 => c == '.',
        _ => c.is_ascii_digit(),
    });
    match word {
        _ if is_id => "ID",
        _ if time && word.len() == "2026-01-02T03:04:05.678".len() => "TIME",
        word => word,
    }
}

/// A message of the tool's own: one line, neither usage nor the trace of a crash.
fn message(stderr: &str) -> Option<&str> {
    let line = stderr.trim_end();
    let is_talk = line.starts_with("usage:") || line.starts_with("Traceback");
    (!line.is_empty() && !is_talk && !line.contains('\n')).then_some(line)
}

/// What is wrong with our answer to a line, given the Python tool's.
fn differs(theirs: &Ran, ours: &Ran, (them, us): (&str, &str)) -> Option<String> {
    let mut wrong = String::new();
    if theirs.code != ours.code {
        let _ = write!(wrong, "exit code {:?}, not {:?}; ", ours.code, theirs.code);
    }
    let is_refused_acquire = theirs.code == Some(2) && message(&theirs.stderr) == Some("Lock held");
    let is_help = theirs.stdout.starts_with("usage:");
    if is_refused_acquire {
        if !ours.stdout.is_empty() || !shape(&ours.stderr, us).contains("ID") {
            wrong.push_str("the holder's id belongs on stderr alone; ");
        }
    } else if is_help {
        if ours.stdout.is_empty() {
            wrong.push_str("no help on stdout; ");
        }
    } else if shape(&theirs.stdout, them) != shape(&ours.stdout, us) {
        wrong.push_str("another stdout; ");
    }
    match message(&theirs.stderr) {
        Some(said) if !ours.stderr.contains(said) => {
            let _ = write!(wrong, "stderr does not say {said:?}; ");
        }
        None if theirs.stderr.is_empty() != ours.stderr.is_empty() => {
            wrong.push_str("one stderr is empty; ");
        }
        _ => {}
    }
    (!wrong.is_empty()).then(|| format!("{wrong}\n  theirs: {theirs:?}\n  ours:   {ours:?}"))
}

#[test]
fn our_stormlock_answers_as_the_python_tool_does() {
    let (their_store, our_store) = (RedisServer::start(), RedisServer::start());
    let them = "peer@elsewhere";
    let tool = PythonTool::new(&their_store.url(), them);
    let theirs = type_all(&|args| tool.run(args), &|name| left_ms(&their_store, name));
    let codes: BTreeSet<_> = theirs.iter().filter_map(Said::code).collect();
    assert_eq!(codes, BTreeSet::from([0, 1, 2, 3]), "the lines reach every exit code of the tool");
    let agent = Agent::on_redis("alpha", &our_store.url());
    let status = agent.client().and_then(|mut client| client.status(None));
    let us = status.expect("the agent answers").agent.you.to_string();
    let config = tool.config().to_str().expect("a path in UTF-8");
    let ours = |args: &[&str]| agent.stormlock(&[&["-c", config], args].concat());
    let ours = type_all(&ours, &|name| left_ms(&our_store, name));

    let mut wrong = Vec::new();
    for ((line, theirs), ours) in LINES.iter().zip(&theirs).zip(&ours) {
        let difference = match (theirs, ours) {
            (Said::Ran(theirs), Said::Ran(ours)) => differs(theirs, ours, (them, &us)),
            (Said::Left(Some(theirs)), Said::Left(Some(ours))) => {
                let is_far = theirs.abs_diff(*ours) > LEFT_MS_APART;
                is_far.then(|| format!("lives for {ours} ms, not {theirs}"))
            }
            (Said::Left(theirs), Said::Left(ours)) => Some(format!("{ours:?}, not {theirs:?}")),
            _ => Some("the two scripts went apart".to_owned()),
        };
        wrong.extend(difference.map(|difference| format!("stormlock {line}\n  {difference}")));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), LINES.len(), wrong.join("\n"));
}

#[test]
fn a_difference_between_two_answers_is_seen() {
    let id = "0af1c2d3e4f50617283940515263748f";
    let other = "1af1c2d3e4f50617283940515263748f";
    let ran = |code, stdout: &str, stderr: &str| Ran {
        code: Some(code),
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
    };
    let differs = |theirs: &Ran, ours: &Ran| differs(theirs, ours, ("a@b", "root@alpha")).is_some();
    let oneline = |who: &str, id: &str, ms: u32| format!("{who}\t2026-01-02T03:04:05.{ms}\t{id}\n");
    let theirs = ran(0, &oneline("a@b", id, 123), "");
    assert!(!differs(&theirs, &ran(0, &oneline("root@alpha", other, 456), "")));
    assert!(
        differs(&theirs, &ran(0, &oneline("root@alpha", other, 4560), "")),
        "another precision"
    );
    assert!(differs(&theirs, &ran(0, &oneline("somebody", other, 456), "")), "another principal");
    assert!(differs(&theirs, &ran(1, &oneline("root@alpha", other, 456), "")), "another code");
    assert!(differs(&theirs, &ran(0, &oneline("root@alpha", other, 456), "so")), "talk");
    let held = ran(2, &format!("{id}\n"), "Lock held\n");
    assert!(!differs(&held, &ran(2, "", &format!("Lock held\n{other}\n"))));
    assert!(differs(&held, &ran(2, &format!("{other}\n"), "Lock held\n")), "an id on stdout");
    assert!(differs(&ran(3, "", "Lock expired\n"), &ran(3, "", "gone\n")), "another message");
}
