//! Programs that misbehave, each in its own way, and what only this store has: late answers, a
//! process that must not be left behind, and the protocol's text.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use stormlock_protocol::name::Fence;

use super::super::RefusedKind;
use super::super::asker::Asker;
use super::super::contract::{self, Others, Site, claim, granted, nonce, proof, resource, ttl};
use super::asked::Asking;
use super::open::Open;
use super::said::Answer;
use super::server::ExecStore;
use super::*;
use crate::clock;
use crate::lease::Uid;

/// Longer than any test waits for a program.
const PATIENCE: Duration = Duration::from_secs(60);

/// The example, and others who write into its file.
struct Shared(ExecStore);

impl Shared {
    fn start() -> Shared {
        Shared(ExecStore::start())
    }

    fn exec(&self) -> Exec {
        Exec::new(&Options { command: self.0.command(), ..Options::default() }).unwrap()
    }
}

impl Site for Shared {
    fn open(&self) -> Arc<dyn Backend> {
        Arc::new(self.exec())
    }

    fn others(&self) -> Option<&dyn Others> {
        Some(self)
    }
}

impl Others for Shared {
    fn lock<'a>(&'a self, on: &'a Resource, lease: LeaseId, ttl: Option<Ttl>) -> Pending<'a, ()> {
        Box::pin(async move {
            // Whoever opens it first makes the tables.
            self.exec().holder(on).await?;
            let id = u128::from_be_bytes(*lease.as_bytes());
            let now = clock::now().as_nanos() / 1_000_000;
            let ends = ttl.map(|ttl| now + u64::from(ttl.as_secs()) * 1000);
            let ends = ends.map_or("NULL".to_owned(), |ends| ends.to_string());
            let since = clock::wall().0;
            self.0.sql(&format!(
                "INSERT OR REPLACE INTO locks (resource, lease, principal, since_ms, ends_ms) \
                 VALUES ('{on}', '{id:032x}', 'python@elsewhere', {since}, {ends})"
            ));
            Ok(())
        })
    }

    fn litter<'a>(&'a self, on: &'a [Resource]) -> Pending<'a, ()> {
        Box::pin(async move {
            self.exec().list(None, 1).await?;
            let id = "0123456789abcdef0123456789abcdef";
            let litter = [
                ("NULL".to_owned(), "'p'"),
                ("'short'".to_owned(), "'p'"),
                (format!("'{}'", id.to_uppercase()), "'p'"),
                (format!("'{id}'"), "NULL"),
                (format!("'{id}'"), "''"),
                ("12345678901234567890".to_owned(), "'p'"),
            ];
            assert_eq!(litter.len(), on.len());
            for ((lease, principal), on) in litter.iter().zip(on) {
                let values = format!("('{on}', {lease}, {principal})");
                self.0.sql(&format!(
                    "INSERT INTO locks (resource, lease, principal) VALUES {values}"
                ));
            }
            Ok(())
        })
    }

    fn dump<'a>(&'a self, on: &'a Resource) -> Pending<'a, String> {
        Box::pin(
            async move { Ok(self.0.sql(&format!("SELECT * FROM locks WHERE resource = '{on}'"))) },
        )
    }
}

mod others {
    use super::*;

    contract::contract_with_others!(Shared::start());
}

/// A program that misbehaves, and the directory where it writes what it does.
struct Odd {
    dir: tempfile::TempDir,
    exec: Exec,
}

impl Odd {
    fn new(how: &str) -> Odd {
        Odd::with(how, |_| {})
    }

    fn with(how: &str, change: impl FnOnce(&mut Options)) -> Odd {
        let dir = tempfile::tempdir().expect("a directory");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/odd_backend.py");
        let words = [program.to_str().unwrap(), how, dir.path().to_str().unwrap()];
        let command = words.map(str::to_owned).to_vec();
        let mut options = Options { command, ..Options::default() };
        change(&mut options);
        Odd { exec: Exec::new(&options).unwrap(), dir }
    }

    fn noted(&self, name: &str) -> Vec<String> {
        let noted = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        noted.lines().map(str::to_owned).collect()
    }

    /// The processes that it ever started, itself included.
    fn pids(&self) -> Vec<i32> {
        self.noted("pids").iter().map(|pid| pid.parse().expect("a number")).collect()
    }

    /// A release: a question that changes something.
    async fn release(&self) -> Result<Released, BackendError> {
        self.exec.release(&proof(&claim(&resource("odd"), 60))).await
    }

    async fn acquire(&self) -> Result<Attempt, BackendError> {
        self.exec.acquire(&claim(&resource("odd"), 60)).await
    }
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = clock::now() + PATIENCE;
    while !is_so() {
        assert!(clock::now() < end, "{what}: not in time");
        tokio::task::yield_now().await;
    }
}

/// True for a process that runs; one that ended and that nobody waited for does not.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

#[track_caller]
fn check_refused<T: std::fmt::Debug>(
    answer: Result<T, BackendError>,
    expected: RefusedKind,
    words: &[&str],
) {
    let Err(BackendError::Refused { kind, why }) = answer else { panic!("{answer:?}") };
    assert_eq!(kind, expected, "{why}");
    check_why(&why, words);
}

#[track_caller]
fn check_unknown<T: std::fmt::Debug>(answer: Result<T, BackendError>, words: &[&str]) {
    let Err(BackendError::Unknown { why }) = answer else { panic!("{answer:?}") };
    check_why(&why, words);
}

#[track_caller]
fn check_why(why: &str, words: &[&str]) {
    for word in words {
        assert!(why.contains(word), "{word:?} is missing: {why}");
    }
    assert!(!why.chars().any(stormlock_protocol::name::is_invisible), "{why:?}");
    assert!(why.chars().count() < 1200, "{} characters: {why}", why.chars().count());
}

#[tokio::test]
async fn what_cannot_be_started_is_unreachable_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, mode| {
        let path: PathBuf = dir.path().join(name);
        fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (path, words) in [
        ("/nonexistent/own".to_owned(), ["/nonexistent/own", "No such file"]),
        (file("plain", 0o644), ["plain", "Permission denied"]),
        (file("open", 0o777), ["everyone can change it", "chmod o-w"]),
        (dir.path().to_str().unwrap().to_owned(), ["starting", "Permission denied"]),
    ] {
        let options = Options { command: vec![path], ..Options::default() };
        let exec = Exec::new(&options).unwrap();
        let released = exec.release(&proof(&claim(&resource("none"), 60))).await;
        check_refused(released, RefusedKind::Unreachable, &words);
    }
    for command in [vec![], vec!["own".to_owned()]] {
        assert!(Exec::new(&Options { command, ..Options::default() }).is_err());
    }
}

#[tokio::test]
async fn a_program_that_never_worked_was_never_asked() {
    for (how, words) in [
        ("dies", ["exit status: 3", "it wrote: no such database"]),
        ("newer", ["it speaks protocol 2, this agent 1", "update one"]),
    ] {
        let odd = Odd::new(how);
        check_refused(odd.release().await, RefusedKind::Unreachable, &words);
        check_refused(odd.acquire().await, RefusedKind::Unreachable, &[words[0], "in a second"]);
    }
}

#[tokio::test]
async fn a_program_that_does_not_greet_is_killed() {
    let odd = Odd::new("deaf");
    check_refused(odd.release().await, RefusedKind::Unreachable, &["did not greet within 10 s"]);
    until("it is killed", || !runs(odd.pids()[0])).await;
}

#[tokio::test]
async fn each_misbehaviour_leaves_a_write_unknown_and_a_look_without_effect() {
    for (how, word) in [
        ("exit", "exit status: 7"),
        ("exit", "the disk is full"),
        ("garbage", "it wrote what is no answer: here \u{fffd}[31mis\u{fffd} no answer"),
        ("bytes", "no text"),
        ("endless", "a line of more than 1048576 bytes"),
        ("stranger", "which is not open"),
        ("closes", "it closed its input or output"),
        ("orphan", "exit status: 0"),
        ("twice", "does not belong to its question"),
        ("wrong", ""),
        ("unsure", "its own store is mute"),
    ] {
        let odd = Odd::new(how);
        match how {
            // This is what it says to everything.
            "wrong" => assert_eq!(odd.release().await.unwrap(), Released::Done),
            _ => check_unknown(odd.release().await, &[word]),
        }
        let odd = Odd::new(how);
        if how == "twice" {
            assert_eq!(odd.exec.holder(&resource("odd")).await.unwrap(), None, "its first answer");
        } else {
            check_refused(odd.acquire().await, RefusedKind::Unreachable, &[word]);
        }
    }
    let odd = Odd::new("foreign");
    check_refused(odd.release().await, RefusedKind::Foreign, &["a \u{fffd}[1mtable"]);
    check_refused(odd.acquire().await, RefusedKind::Foreign, &["table"]);
    let renewed = Odd::new("wrong");
    let known = proof(&claim(&resource("odd"), 60));
    check_unknown(renewed.exec.renew(&known, ttl(60), nonce()).await, &["does not belong"]);
    check_unknown(Odd::new("disorder").exec.list(None, 9).await, &["not in order at a"]);
    let elsewhere = Odd::new("elsewhere").exec.holder(&resource("odd")).await;
    check_refused(elsewhere, RefusedKind::Unreachable, &["it told of elsewhere"]);
}

#[tokio::test]
async fn a_program_that_does_not_know_of_breaking_breaks_nothing() {
    // Before a counter came with `held`, and after that of one that forgets the rest.
    for (how, asks) in [("before", 0), ("forgets", 1)] {
        let odd = Odd::new(how);
        let over = Some(LeaseId::from_bytes([0; 16]));
        let breaker = Claim { over, ..claim(&resource("odd"), 60) };
        let answer = odd.exec.acquire(&breaker).await.unwrap();
        let Attempt::Held(Some(holder)) = answer else { panic!("{how}: {answer:?}") };
        assert_eq!(Some(holder.lease), over);
        assert_eq!(odd.noted("asked").len(), asks, "{how}");
    }
    // Nobody has it, whatever the program knows.
    let breaker = Claim { over: Some(contract::lease()), ..claim(&resource("odd"), 60) };
    assert_eq!(Odd::new("wrong").exec.acquire(&breaker).await.map_err(drop), Err(()));
    assert_eq!(Odd::new("late").exec.acquire(&breaker).await.unwrap(), Attempt::Gone);
    // And nothing is gone that was not to be broken.
    let odd = Odd::new("gone");
    check_unknown(odd.exec.acquire(&claim(&resource("odd"), 60)).await, &["does not belong"]);
}

#[tokio::test]
async fn a_second_answer_to_one_question_ends_the_program() {
    let odd = Odd::new("twice");
    assert_eq!(odd.exec.holder(&resource("odd")).await.unwrap(), None);
    until("it is killed", || !runs(odd.pids()[0])).await;
}

#[tokio::test]
async fn what_a_program_started_goes_with_it() {
    let odd = Odd::new("orphan");
    check_unknown(odd.release().await, &["exit status: 0"]);
    let pids = odd.pids();
    assert_eq!(pids.len(), 2);
    until("its child is killed", || !pids.iter().any(|pid| runs(*pid))).await;

    let odd = Odd::new("stubborn");
    assert!(odd.exec.holder(&resource("odd")).await.is_ok());
    let pids = odd.pids();
    assert!(pids.len() == 2 && pids.iter().all(|pid| runs(*pid)));
    drop(odd.exec);
    until("it and its child are killed", || !pids.iter().any(|pid| runs(*pid))).await;
}

#[tokio::test]
async fn a_mute_program_is_killed_and_started_again() {
    let odd = Odd::new("mute");
    let began = clock::now();
    let end = began + PATIENCE;
    while odd.pids().len() < 2 {
        assert!(clock::now() < end, "it is never started again: {:?}", odd.pids());
        // As the driver does when its patience ends.
        let _ = tokio::time::timeout(Duration::from_millis(100), odd.release()).await;
    }
    assert!(began.until(clock::now()) >= Duration::from_secs(10), "killed before it was mute");
    let pids = odd.pids();
    let is_there = |pid: &i32| Path::new(&format!("/proc/{pid}")).exists();
    // Waited for as well: such must not pile up.
    until("the first one is killed", || !is_there(&pids[0])).await;
}

#[tokio::test]
async fn a_program_that_dies_at_once_is_started_at_a_bounded_pace() {
    let odd = Odd::new("dies");
    let began = clock::now();
    let mut asked = 0;
    while odd.pids().len() < 4 {
        check_refused(odd.release().await, RefusedKind::Unreachable, &["no such database"]);
        asked += 1;
        assert!(clock::now() < began + PATIENCE);
    }
    assert!(began.until(clock::now()) >= Duration::from_secs(3), "{asked} questions");
}

#[tokio::test]
async fn answers_come_in_any_order() {
    let odd = Odd::new("reversed");
    let resources: Vec<_> = (0..4).map(|n| Resource::new(n.to_string()).unwrap()).collect();
    let looks = futures_util::future::join_all(resources.iter().map(|on| odd.exec.look(on))).await;
    for (n, look) in looks.into_iter().enumerate() {
        assert_eq!(look.unwrap(), Looked::Free(u64::try_from(n).unwrap()));
    }
}

#[tokio::test]
async fn a_renewal_waits_for_few_questions_of_a_flood() {
    let odd = Odd::new("busy");
    let one = resource("odd");
    let looks = futures_util::future::join_all((0..200).map(|_| odd.exec.look(&one)));
    let proof = proof(&claim(&one, 60));
    let renewals = async {
        until("the program is busy", || !odd.noted("asked").is_empty()).await;
        while let Ok(Standing::Ours { .. }) = odd.exec.renew(&proof, ttl(60), nonce()).await {}
    };
    let looks = tokio::select! {
        looks = looks => looks,
        () = renewals => panic!("it is not renewed"),
    };
    assert!(looks.into_iter().all(|look| look.unwrap() == Looked::Free(1)));
    let asked = odd.noted("asked");
    let before = asked.iter().position(|what| what == "renew").unwrap();
    assert!(before <= 4, "{before} questions went before the first renewal");
}

/// How many of another user's questions go before one's own, when that user asks without end.
async fn before_mine<T: std::fmt::Debug>(
    odd: &Odd,
    each: usize,
    ask: impl AsyncFn(&Resource) -> Result<T, BackendError>,
) -> usize {
    let [theirs, mine] = ["theirs", "mine"].map(resource);
    let [them, me] = [1, 2].map(|uid| Asker::new(Some(Uid(uid))));
    let many = (0..50).map(|_| them.asks(ask(&theirs)));
    let mut flood = std::pin::pin!(futures_util::future::join_all(many));
    let mut is_busy =
        std::pin::pin!(until("as many wait as may", || { odd.noted("asked").len() >= each }));
    tokio::select! {
        _ = &mut flood => panic!("it hoards no answer"),
        () = &mut is_busy => {}
    }
    assert!(them.is_waiting(), "the others of them have not left");
    let mine = async {
        loop {
            me.asks(ask(&mine)).await.unwrap();
            assert!(!me.is_waiting());
        }
    };
    tokio::select! {
        answers = flood => assert!(answers.iter().all(Result::is_ok), "{answers:?}"),
        () = mine => {}
    }
    odd.noted("asked").iter().position(|of| of.ends_with("mine")).unwrap()
}

#[tokio::test]
async fn one_users_questions_wait_for_few_of_anothers() {
    let odd = Odd::new("hoards");
    let renew =
        async |on: &Resource| odd.exec.renew(&proof(&claim(on, 60)), ttl(60), nonce()).await;
    let before = before_mine(&odd, 2, renew).await;
    assert_eq!(before, 2, "renewals of another before the first of one's own");
    let odd = Odd::new("hoards");
    let before = before_mine(&odd, 2, async |on: &Resource| odd.exec.look(on).await).await;
    assert_eq!(before, 2, "other questions of another before the first of one's own");
}

#[tokio::test]
async fn a_late_answer_to_an_abandoned_acquire_is_nobody_s() {
    let odd = Odd::new("late");
    let claim = claim(&resource("late"), 60);
    {
        let mut call = odd.exec.acquire(&claim);
        until("it was asked", || {
            assert!(poll_once(&mut call).is_none());
            !odd.noted("asked").is_empty()
        })
        .await;
    }
    odd.exec.cancel(&claim.resource, claim.lease).await.unwrap();
    // Its late answer stands before this one's.
    for _ in 0..3 {
        assert_eq!(odd.exec.look(&claim.resource).await.unwrap(), Looked::Free(1));
    }
    assert_eq!(odd.pids().len(), 1, "a late answer is no misbehaviour");
}

fn poll_once<T>(call: &mut Pending<'_, T>) -> Option<Result<T, BackendError>> {
    let waker = std::task::Waker::noop();
    match call.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// The process of the example that serves this backend: the one whose parent is this test.
fn only_child(of: &ExecStore) -> i32 {
    let file = of.file().display().to_string();
    let is_it = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).split('\0').any(|word| word == file)
    };
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok().filter(is_it));
    let pids: Vec<i32> = pids.collect();
    assert_eq!(pids.len(), 1, "{pids:?}");
    pids[0]
}

#[tokio::test]
async fn an_abandoned_acquire_that_the_program_finishes_later_leaves_no_orphan() {
    let site = Shared::start();
    let one = site.exec();
    let claim = claim(&resource("orphan"), 600);
    let Looked::Free(counter) = one.look(&claim.resource).await.unwrap() else {
        panic!("not free")
    };
    let pid = Pid::from_raw(only_child(&site.0)).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    {
        let question = Question::acquire(&claim, counter);
        let mut call: Pending<'_, Said> = Box::pin(async { Ok(one.seat.ask(&question).await?) });
        // It is in the pipe after the writer's turn.
        for _ in 0..100 {
            assert!(poll_once(&mut call).is_none());
            tokio::task::yield_now().await;
        }
    }
    let two = site.exec();
    two.cancel(&claim.resource, claim.lease).await.unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    // It answers in order: by now it did what it was asked before.
    assert_eq!(one.holder(&claim.resource).await.unwrap(), None);
    assert_eq!(two.holder(&claim.resource).await.unwrap(), None);
    let rows = site.0.sql("SELECT count(*) FROM locks");
    assert_eq!(rows.trim(), "(0,)");
    granted(&two, &self::claim(&claim.resource, 60)).await;
}

#[tokio::test]
async fn a_program_without_its_agent_does_what_it_was_asked_and_leaves_no_orphan() {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    let site = Shared::start();
    let agent = site.exec();
    let (lost, kept) = (claim(&resource("lost"), 600), claim(&resource("kept"), 600));
    for on in [&lost, &kept] {
        assert_eq!(agent.look(&on.resource).await.unwrap(), Looked::Free(0));
    }
    // What an agent wrote that was killed at once.
    let command = site.0.command();
    let mut program = Command::new(&command[0]);
    program.args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = program.spawn().unwrap();
    agent.cancel(&lost.resource, lost.lease).await.unwrap();
    let mut stdin = program.stdin.take().unwrap();
    for claim in [&lost, &kept] {
        let question = Question::acquire(claim, 0);
        writeln!(
            stdin,
            "{}",
            serde_json::to_string(&Asking { id: 1, question: &question }).unwrap()
        )
        .unwrap();
    }
    drop(stdin);
    let mut said = String::new();
    program.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(program.wait().unwrap().success(), "it goes when its input ends");
    assert!(said.contains("moved") && said.contains("granted"), "{said}");
    assert_eq!(agent.holder(&lost.resource).await.unwrap(), None);
    assert_eq!(agent.holder(&kept.resource).await.unwrap().unwrap().lease, kept.lease);
    agent.cancel(&kept.resource, kept.lease).await.unwrap();
    assert_eq!(agent.holder(&kept.resource).await.unwrap(), None);
}

#[tokio::test]
async fn a_flood_on_stderr_is_bounded_and_seen_by_doctor() {
    let odd = Odd::new("flood");
    assert_eq!(odd.exec.look(&resource("odd")).await.unwrap(), Looked::Free(1));
    // It never answers; meanwhile this thread must have its turns.
    let patience = Duration::from_secs(3);
    assert!(tokio::time::timeout(patience, odd.release()).await.is_err());
    let words = odd.exec.seat.last_words().expect("something was written");
    check_why(&words, &["no end of it", "\u{fffd}[2J"]);
}

#[tokio::test]
async fn a_program_inherits_what_the_configuration_says_and_nothing_else() {
    let odd = Odd::with("plain", |options| {
        options.env.insert("LANG".to_owned(), "C.UTF-8".to_owned());
        options.command.push("a b; $HOME".to_owned());
    });
    let _open = (std::net::TcpListener::bind("127.0.0.1:0"), fs::File::open("/dev/null"));
    let said = odd.exec.examine().await.unwrap();
    let said: BTreeSet<&str> = said.iter().map(|remark| remark.text.as_str()).collect();
    let passed_on = passed_on();
    let listing = (0..).find(|fd| !passed_on.contains(fd)).expect("a free number");
    let mut fds: Vec<String> = passed_on.iter().chain([&listing]).map(u32::to_string).collect();
    fds.sort();
    let fds = format!("fds {}", fds.join(" "));
    let expected = ["the program answers: odd", &fds, "env LANG", "cwd /", "args a b; $HOME"];
    assert_eq!(said, BTreeSet::from(expected));
}

/// What every program that this process starts has open: the three, and what whoever started this
/// process passed on to all below it. Nothing of ours.
fn passed_on() -> BTreeSet<u32> {
    const CLOSED_AT_EXEC: u32 = 0o2_000_000;
    let entries = fs::read_dir("/proc/self/fdinfo").expect("our descriptors");
    let all = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_passed_on = |fd: &u32| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & CLOSED_AT_EXEC == 0)
    };
    all.filter(is_passed_on).chain(0..3).collect()
}

#[tokio::test]
async fn a_password_stands_in_the_greeting_and_nowhere_else() {
    let odd = Odd::with("plain", |options| options.password = Some(SecretString::from("hunter2")));
    assert!(odd.exec.holder(&resource("odd")).await.unwrap().is_none());
    let hello = &odd.noted("hello")[0];
    let hello: Value = serde_json::from_str(hello).unwrap();
    assert_eq!((&hello["password"], &hello["protocol"]), (&Value::from("hunter2"), &1.into()));
    let pid = odd.pids()[0];
    for file in ["environ", "cmdline"] {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"));
    }
    assert!(!format!("{:?}", odd.exec).contains("hunter2"));
}

#[tokio::test]
async fn a_password_that_the_program_repeats_is_taken_out() {
    let password = "hunt\"er2";
    let odd = Odd::with("tells", |options| options.password = Some(SecretString::from(password)));
    let hidden = |text: &str| {
        assert!(text.contains("[password]") && !text.contains("hunt"), "{text}");
    };
    let released = odd.release().await;
    hidden(&released.as_ref().unwrap_err().to_string());
    check_refused(released, RefusedKind::Denied, &["no [password]"]);
    until("it is read", || odd.exec.seat.last_words().is_some()).await;
    hidden(&odd.exec.seat.last_words().unwrap());
    hidden(&format!("{:?}", odd.exec.examine().await.unwrap().last()));
    // A line that is no answer and repeats the greeting.
    let garbage = odd.exec.seat.ask(&Question::acquire(&claim(&resource("odd"), 60), 1)).await;
    hidden(&BackendError::from(garbage.map(drop).unwrap_err()).to_string());
    let mask = mask::Mask::new(Some(&SecretString::from(password)));
    assert_eq!(mask.hide_end("agent:hunt".to_owned()), "agent:");
}

#[tokio::test]
async fn a_program_that_says_nothing_of_its_store_is_told() {
    let remarks = Odd::new("terse").exec.examine().await.unwrap();
    let told: Vec<_> = remarks.iter().map(|it| (it.level, it.text.as_str())).collect();
    let nothing = "the program says nothing of its store's fitness";
    assert_eq!(told, [(Level::Good, "the program answers: odd"), (Level::Note, nothing)]);
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_named_once() {
    let options = Options { command: vec!["/no/such/program".to_owned()], ..Options::default() };
    let released = Exec::new(&options).unwrap().release(&proof(&claim(&resource("x"), 60))).await;
    let why = released.unwrap_err().to_string();
    assert_eq!(why, "starting /no/such/program: No such file or directory (os error 2)");
}

#[tokio::test]
async fn the_example_says_what_it_is() {
    let site = Shared::start();
    let exec = site.exec();
    assert!(!exec.traits().this_host_only, "nobody has asked it yet");
    let remarks = exec.examine().await.unwrap();
    assert!(remarks[0].text.starts_with("the program answers: sqlite, /"), "{remarks:?}");
    assert!(exec.traits().this_host_only);
    assert_eq!(exec.identity().as_deref(), site.0.file().to_str());
    assert_eq!(exec.setup().unwrap().await.unwrap(), ["the program needs no setup"]);
}

#[tokio::test]
async fn fences_outlive_the_locks_and_the_file() {
    let site = Shared::start();
    let on = resource("fences");
    let first = granted(&site.exec(), &claim(&on, 600)).await.fence;
    fs::remove_file(site.0.file()).unwrap();
    let second = granted(&site.exec(), &claim(&on, 600)).await.fence;
    assert!(second > first && first > Fence(0), "{first} then {second}");
}

#[test]
fn questions_and_lost_answers_are_bounded() {
    let open = Open::new();
    let ask = || {
        let (tell, told) = tokio::sync::oneshot::channel();
        (open.add(tell, None), told)
    };
    let waiting: Vec<_> = (0..1024).map(|_| ask()).collect();
    let refused: BackendError = ask().0.unwrap_err().into();
    check_refused(Err::<(), _>(refused), RefusedKind::Unreachable, &["1024 questions"]);
    for (sent, (id, _)) in waiting.iter().enumerate() {
        let id = id.as_ref().copied().unwrap();
        assert_eq!(open.fault(clock::now()), None);
        // Every fourth had left before its caller did; the rest never does.
        assert!(sent % 4 != 0 || open.leaves(id));
        open.abandon(id);
        if sent % 4 != 0 {
            assert!(!open.leaves(id));
        }
        if sent / 4 >= 255 {
            break;
        }
    }
    // Slow is not forgetful: whoever asked may be gone long before a busy host's program answers.
    assert_eq!(open.fault(clock::now()), None);
    let later = clock::now() + Duration::from_secs(61);
    assert!(open.fault(later).is_some_and(|why| why.contains("owes 256 answers, most for 60 s")));
    open.end("it is over");
    assert!(ask().0.is_err());
}

/// The lines of the protocol's text that begin with `mark`, as JSON.
fn lines_of_the_text(mark: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/README.md");
    let text = fs::read_to_string(path).expect("the protocol's text");
    let lines = text.lines().filter_map(|line| line.strip_prefix(mark));
    lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn the_protocol_s_text_has_each_question_as_the_agent_writes_it() {
    let claim = claim(&resource("text"), 60);
    let breaker = Claim { over: Some(contract::lease()), ..claim.clone() };
    let (on, known) = (claim.resource.as_str(), proof(&claim));
    let questions = [
        Question::Hello { protocol: asked::PROTOCOL, agent: "0", password: None },
        Question::Look { resource: on },
        Question::acquire(&claim, 1),
        Question::acquire(&breaker, 1),
        Question::cancel(&claim.resource, claim.lease),
        Question::verify(&known),
        Question::renew(&known, ttl(60), nonce()),
        Question::release(&known),
        Question::List { after: None, limit: PAGE_MAX },
        Question::Examine,
        Question::Setup,
    ];
    let written = lines_of_the_text("> ");
    assert_eq!(written.len(), questions.len());
    let shape = |value: &Value| -> HashSet<(String, std::mem::Discriminant<Value>)> {
        let keys = value.as_object().expect("an object").iter();
        keys.filter(|(key, _)| *key != "reason")
            .map(|(key, value)| (key.clone(), std::mem::discriminant(value)))
            .collect()
    };
    for (question, written) in questions.iter().zip(&written) {
        let ours = serde_json::to_value(Asking { id: 1, question }).unwrap();
        assert_eq!((&ours["do"], shape(&ours)), (&written["do"], shape(written)));
        for (key, digits) in [("lease", 32), ("over", 32), ("mark", 16), ("next", 16)] {
            if let Some(text) = ours[key].as_str() {
                assert_eq!((text.len(), written[key].as_str().unwrap().len()), (digits, digits));
            }
        }
    }
}

#[test]
fn the_protocol_s_text_has_answers_that_the_agent_understands() {
    let answers = lines_of_the_text("< ");
    assert!(answers.len() > 15, "{}", answers.len());
    let mut kinds = BTreeSet::new();
    for answer in answers {
        kinds.insert(answer["is"].as_str().unwrap().to_owned());
        let read: Answer = serde_json::from_value(answer.clone()).expect("an answer");
        assert_eq!(answer["id"], read.id);
    }
    let all = "cloned done free gone granted held locks moved not_ours ours ready refused remarks \
               unknown unsupported";
    assert_eq!(kinds.into_iter().collect::<Vec<_>>().join(" "), all);
}

#[test]
fn what_is_no_answer_is_refused_by_every_reader() {
    for odd in [
        "",
        "{}",
        "[]",
        "{\"id\":1}",
        "{\"is\":\"done\"}",
        "{\"id\":-1,\"is\":\"done\"}",
        "{\"id\":1,\"is\":\"perhaps\"}",
        "{\"id\":1,\"is\":\"granted\",\"remaining_ms\":1}",
        "{\"id\":1,\"is\":\"granted\",\"fence\":1.5,\"remaining_ms\":1}",
        "{\"id\":1,\"is\":\"granted\",\"fence\":\"1\",\"remaining_ms\":1}",
        "{\"id\":1,\"is\":\"ours\",\"remaining_ms\":-1}",
        "{\"id\":1,\"is\":\"refused\",\"kind\":\"tired\",\"why\":\"\"}",
        "{\"id\":1,\"is\":\"done\"} {}",
    ] {
        assert!(serde_json::from_str::<Answer>(odd).is_err(), "{odd}");
    }
    let asked = claim(&resource("answers"), 60);
    for lock in [
        "{\"resource\":\"/\",\"lease\":\"1\",\"principal\":\"p\"}",
        "{\"resource\":\"a\",\"lease\":\"x\",\"principal\":\"p\"}",
    ] {
        let line = format!("{{\"id\":1,\"is\":\"held\",\"holder\":{lock}}}");
        let Answer { said, .. } = serde_json::from_str(&line).unwrap();
        assert!(said.attempt(&asked).is_err(), "{lock}");
    }
}
