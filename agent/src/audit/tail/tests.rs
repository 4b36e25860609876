use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use stormlock_protocol::frame;
use stormlock_protocol::message::Reply;
use stormlock_protocol::name::Principal;
use tempfile::TempDir;

use super::super::event::{By, Deed, Event, Facts, Login, Outcome};
use super::super::line;
use super::*;

/// The time of the first line, in milliseconds; each next one is a second later.
const START_MS: i64 = 1_764_100_000_000;
const EVERYTHING: Search =
    Search { resource: None, since: None, before: None, limit: PAGE, reader: Uid(0) };

fn resource(name: &str) -> Resource {
    Resource::new(name).unwrap()
}

fn writer() -> line::Writer {
    line::Writer { host: "alpha".to_owned(), boot: "0b4b0f2e".to_owned() }
}

fn facts(uid: u32) -> Facts {
    Facts {
        principal: Principal::new("maria@alpha").unwrap(),
        uid: Uid(uid),
        user: "maria".to_owned(),
        login: Some(Login { uid: Uid(7), user: "alice".to_owned() }),
        pid: Some(42),
        unit: Some("session-3.scope".to_owned()),
    }
}

fn line(number: i64, on: &str, uid: u32) -> String {
    let by = By::Caller(facts(uid).into());
    let event =
        Event { resource: Some(resource(on)), ..Event::new(Deed::Acquire, Outcome::Done, by) };
    Line::new(&event, UnixMs(START_MS + number * 1_000), &writer()).encode()
}

fn file(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    (dir, path)
}

/// All pages; each must move on.
fn all(path: &Path, search: &Search, may: impl Fn(&Resource) -> bool) -> Vec<Logged> {
    let mut search = search.clone();
    let mut events = Vec::new();
    loop {
        let (page, next) = page(path, &search, &may).unwrap();
        events.extend(page);
        let Some(next) = next else { return events };
        assert!(search.before.is_none_or(|before| next.end < before.end), "{next:?}");
        search.before = Some(next);
    }
}

fn seconds(events: &[Logged]) -> Vec<i64> {
    events.iter().map(|event| (event.at.0 - START_MS) / 1_000).collect()
}

#[test]
fn pages_go_back_from_the_end_and_leave_nothing_out() {
    let text: String = (0..100).map(|number| line(number, "prod/db", 1000)).collect();
    let (_dir, path) = file(&text);
    let (first, next) = page(&path, &EVERYTHING, |_| true).unwrap();
    assert_eq!(seconds(&first), (76..100).rev().collect::<Vec<_>>());
    assert!(next.is_some());
    for limit in [1, 7, PAGE, 1_000] {
        let search = Search { limit, ..EVERYTHING };
        let events = all(&path, &search, |_| true);
        assert_eq!(seconds(&events), (0..100).rev().collect::<Vec<_>>(), "{limit}");
    }
    assert_eq!(all(Path::new("/nowhere/audit.jsonl"), &EVERYTHING, |_| true), []);
    assert_eq!(all(&file("").1, &EVERYTHING, |_| true), []);
}

#[test]
fn lines_that_are_none_are_passed_over_wherever_they_stand() {
    let torn = &line(0, "prod/db", 1000)[..40];
    let long = "x".repeat(3 * LOOKED_AT_MAX);
    let (one, two) = (line(1, "prod/db", 1000), line(2, "prod/db", 1000));
    let (three, odd) = (line(3, "prod/db", 1000), "{\"time\":\"?\",\"event\":\"E\u{1b}\"}\n");
    let text = format!("{torn}\n{one}\n\n{long}\n{two}{odd}\u{0}\u{0}\n[]\n{three}{torn}");
    let (_dir, path) = file(&text);
    assert_eq!(seconds(&all(&path, &EVERYTHING, |_| true)), [3, 2, 1]);
    let only_long = file(&long);
    assert_eq!(all(&only_long.1, &EVERYTHING, |_| true), []);
}

#[test]
fn only_what_is_asked_for_and_may_be_seen_is_told() {
    let names = ["prod/db", "prod/web", "test/db"];
    let text: String =
        (0..30).zip(names.iter().cycle()).map(|(number, on)| line(number, on, 1000)).collect();
    let (_dir, path) = file(&text);
    let prod = |on: &Resource| on.as_str().starts_with("prod/");
    let on = |name| Search { resource: Some(resource(name)), ..EVERYTHING };
    assert_eq!(seconds(&all(&path, &on("prod/web"), prod)), [28, 25, 22, 19, 16, 13, 10, 7, 4, 1]);
    assert_eq!(all(&path, &on("test/db"), prod), []);
    assert_eq!(all(&path, &EVERYTHING, prod).len(), 20);
    let since = Search { since: Some(UnixMs(START_MS + 27_000)), ..EVERYTHING };
    assert_eq!(seconds(&all(&path, &since, |_| true)), [29, 28, 27]);
}

#[test]
fn a_clock_that_was_set_back_hides_nothing_and_what_is_far_too_old_ends_the_search() {
    let at = |secs: i64| line(secs, "a", 0);
    let text = [at(-7_200), at(50), at(10), at(60)].concat();
    let (_dir, path) = file(&text);
    let since = Search { since: Some(UnixMs(START_MS + 40_000)), ..EVERYTHING };
    let (events, next) = page(&path, &since, |_| true).unwrap();
    assert_eq!((seconds(&events), next), (vec![60, 50], None));
}

#[test]
fn what_the_kernel_said_of_somebody_is_for_them_and_for_root() {
    let (_dir, path) = file(&line(0, "prod/db", 1000));
    for (reader, sees) in [(0, true), (1000, true), (1001, false)] {
        let search = Search { reader: Uid(reader), ..EVERYTHING };
        let events = all(&path, &search, |_| true);
        let origin = events[0].origin.as_ref();
        assert_eq!(origin.is_some(), sees, "{reader}");
        assert!(origin.is_none_or(|it| it.login.as_deref() == Some("alice")));
        assert_eq!(events[0].by.as_ref().map(Principal::as_str), Some("maria@alpha"));
    }
}

#[test]
fn a_file_that_was_put_away_between_two_pages_ends_them() {
    let text: String = (0..100).map(|number| line(number, "a", 0)).collect();
    let (_dir, path) = file(&text);
    let (_, next) = page(&path, &EVERYTHING, |_| true).unwrap();
    let old = path.with_extension("1");
    fs::rename(&path, &old).unwrap();
    fs::copy(&old, &path).unwrap();
    let search = Search { before: next, ..EVERYTHING };
    assert_eq!(page(&path, &search, |_| true).unwrap(), (vec![], None));
    let beyond = LogCursor { file: fs_ino(&path), end: u64::MAX };
    let search = Search { before: Some(beyond), ..EVERYTHING };
    assert_eq!(page(&path, &search, |_| true).unwrap().0.len(), PAGE);
}

fn fs_ino(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().ino()
}

#[test]
fn the_longest_page_fits_a_frame() {
    let long = |len: usize| "é".repeat(len / 2);
    let by = Facts {
        principal: Principal::new(long(128)).unwrap(),
        user: long(4_000),
        login: Some(Login { uid: Uid(7), user: long(4_000) }),
        unit: Some(long(4_000)),
        ..facts(0)
    };
    let event = Event {
        resource: Some(resource(&"r".repeat(128))),
        lease: Some(stormlock_protocol::name::LeaseId::from_bytes([255; 16])),
        fence: Some(stormlock_protocol::name::Fence(u64::MAX)),
        backend: Some(crate::lease::BackendName::new(&"b".repeat(32))),
        principal: Some(Principal::new(long(128)).unwrap()),
        reason: Some(stormlock_protocol::name::Reason::new(long(256)).unwrap()),
        why: Some(long(4_000)),
        ..Event::new(Deed::Acquire, Outcome::StoreLostIt, By::Caller(by.into()))
    };
    let line = Line::new(&event, UnixMs(START_MS), &writer()).encode();
    assert!(line.len() < LINE_MAX, "{}", line.len());
    let (_dir, path) = file(&line.repeat(PAGE));
    let (events, next) = page(&path, &EVERYTHING, |_| true).unwrap();
    assert_eq!(events.len(), PAGE);
    frame::encode(&Reply::Log { events, next }).unwrap();
}
