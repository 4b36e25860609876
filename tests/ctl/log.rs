//! `log` and `metrics`: how pages become a list that is read from the top, and what is left of text
//! that somebody else wrote.

use stormlock_protocol::message::{Log, LogCursor, Logged, Origin, Reply, Request, UnixMs};
use stormlock_protocol::name::{LeaseId, Principal, Resource};

use crate::fake::{Fake, ID, SINCE};

fn event(secs: i64, event: &str, result: &str) -> Logged {
    Logged {
        at: UnixMs(SINCE.0 + secs * 1_000),
        event: event.to_owned(),
        result: result.to_owned(),
        resource: Some(Resource::new("prod/db").unwrap()),
        lease: Some(ID.parse::<LeaseId>().unwrap()),
        fence: None,
        backend: Some("main".to_owned()),
        principal: Some(Principal::new("maria@bastion2").unwrap()),
        by: None,
        reason: None,
        why: None,
        missing: 0,
        origin: None,
    }
}

fn page(events: Vec<Logged>, next: Option<u64>) -> Reply {
    Reply::Log { events, next: next.map(|end| LogCursor { file: 17, end }) }
}

fn ask(before: Option<u64>, limit: u32) -> Request {
    let before = before.map(|end| LogCursor { file: 17, end });
    Request::Log(Log { resource: None, since: None, before, limit })
}

#[test]
fn pages_are_joined_and_the_newest_event_is_last() {
    let first = page(vec![event(3, "lost", "expired"), event(2, "resume", "ok")], Some(900));
    let fake = Fake::replying(vec![
        first,
        page(vec![], Some(500)),
        page(vec![event(1, "acquire", "ok")], None),
    ]);
    let run = fake.run(&["log", "-n", "5", "-o", "tsv"]);
    assert_eq!(run.code, 0, "{run:?}");
    let words: Vec<&str> = run.stdout.lines().filter_map(|line| line.split('\t').nth(1)).collect();
    assert_eq!(words, ["acquire", "resume", "lost"]);
    assert!(run.stdout.starts_with("2026-11-25T14:02:32Z\tacquire\tok\tprod/db\t"), "{run:?}");
    assert_eq!(fake.asked(), ask(None, 5));
    assert_eq!(fake.asked(), ask(Some(900), 3));
    assert_eq!(fake.asked(), ask(Some(500), 3));
}

#[test]
fn no_more_is_asked_for_or_shown_than_was_wanted() {
    let many = (0..4).rev().map(|secs| event(secs, "acquire", "ok")).collect();
    let run = Fake::replying(vec![page(many, Some(900))]).run(&["log", "-n", "2", "-o", "id"]);
    assert_eq!(run.stdout, format!("{ID}\n{ID}\n"));
}

#[test]
fn an_agent_that_sends_the_same_page_again_is_not_asked_for_ever() {
    let again = || page(vec![event(0, "acquire", "ok")], Some(900));
    let run = Fake::replying(vec![again(), again(), again()]).run(&["log"]);
    assert_eq!((run.code, run.stdout.as_str()), (70, ""), "{run:?}");
}

#[test]
fn people_read_who_did_it_and_who_they_were_before() {
    let root = Some(Principal::new("root@bastion2").unwrap());
    let origin = Origin {
        uid: 0,
        user: "root".to_owned(),
        login: Some("alice".to_owned()),
        pid: Some(1),
        unit: None,
    };
    let released = Logged { by: root, origin: Some(origin), ..event(1, "release", "ok") };
    let ended = event(0, "release", "ok");
    let gap = Logged { resource: None, principal: None, missing: 3, ..event(2, "gap", "failed") };
    let run = Fake::replying(vec![page(vec![gap, released, ended], None)]).run(&["log"]);
    let rows: Vec<&str> = run.stdout.lines().collect();
    assert!(rows[1].contains("ended") && rows[1].contains("maria@bastion2"), "{run:?}");
    assert!(rows[2].contains("released") && rows[2].contains("root@bastion2 (login alice)"));
    assert!(rows[2].contains("lease of maria@bastion2"), "{run:?}");
    assert!(rows[3].contains("gap") && rows[3].contains("3 events are missing"), "{run:?}");
}

#[test]
fn nothing_that_the_agent_tells_moves_the_cursor() {
    let nasty = "a\u{1b}[31m\n\u{202e}b".to_owned();
    let event = Logged {
        backend: Some(nasty.clone()),
        why: Some(nasty.clone()),
        event: nasty.clone(),
        ..event(0, "acquire", "denied")
    };
    for format in ["human", "json", "jsonl", "tsv"] {
        let run = Fake::replying(vec![page(vec![event.clone()], None)]).run(&["log", "-o", format]);
        assert!(!run.stdout.contains(['\u{1b}', '\u{202e}']), "{format}: {run:?}");
        assert!(run.stdout.contains("[31m"), "{format}: {run:?}");
    }
    let metrics = Reply::Metrics(format!("stormlock_sessions 3\n{nasty}\n"));
    let run = Fake::replying(vec![metrics]).run(&["metrics"]);
    assert!(run.stdout.starts_with("stormlock_sessions 3\n"), "{run:?}");
    assert!(!run.stdout.contains(['\u{1b}', '\u{202e}']), "{run:?}");
}
