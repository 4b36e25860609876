//! An agent that is broken, mute or somebody else: always an error in bounded time, never success.

use std::thread;

use stormlock_protocol::frame;
use stormlock_protocol::message::{Cursor, Reply, Waiting};

use crate::fake::{Act, Fake, Greet, id, lease, lock, resource, status};

const DOUBT: &str = "treat it as not held; `stormctl status`";

#[test]
fn after_a_lost_answer_to_a_change_the_outcome_is_unknown() {
    for verb in ["acquire", "release", "renew"] {
        let run = Fake::new(vec![Act::Close]).run(&[verb, "a"]);
        run.fails(69, &["closed the connection before it answered", DOUBT]);
    }
    let run = Fake::new(vec![Act::Close]).run(&["current", "a"]);
    run.fails(69, &["closed the connection"]);
    assert!(!run.stderr.contains("may have happened"), "{}", run.stderr);
}

#[test]
fn an_answer_cut_in_the_middle_is_no_answer() {
    let whole = frame::encode(&Reply::Acquired(vec![lease("a", "1")])).unwrap();
    for end in [1, 4, 5, whole.len() - 1] {
        let cut = Act::Bytes(whole[..end].to_vec());
        Fake::new(vec![cut]).run(&["acquire", "a"]).fails(69, &[DOUBT]);
    }
}

#[test]
fn garbage_is_told_as_garbage() {
    let four_gib = Act::Bytes(vec![0xff; 4]);
    Fake::new(vec![four_gib]).run(&["acquire", "a"]).fails(76, &["over the limit", DOUBT]);
    let no_message = Act::Bytes(vec![3, 0, 0, 0, 0xff, 0xff, 0xff]);
    Fake::new(vec![no_message]).run(&["current", "a"]).fails(76, &["no message", "stormctl -V"]);
    let mut left_over = frame::encode(&Reply::Current(None)).unwrap();
    left_over.push(0);
    left_over[0] += 1;
    Fake::new(vec![Act::Bytes(left_over)]).run(&["current", "a"]).fails(76, &["left over"]);
    let foreign = Greet::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let run = Fake::greeting(foreign, vec![]).run(&["acquire", "a"]);
    run.fails(76, &["does not speak the stormlock protocol", "something else listens"]);
}

#[test]
fn an_answer_to_another_question_is_a_bug_not_a_success() {
    for args in [&["acquire", "a"][..], &["release", "a"], &["renew", "a"], &["is-held", "a"]] {
        let run = Fake::replying(vec![Reply::Current(Some(lock()))]).run(args);
        run.fails(70, &["another question"]);
    }
}

#[test]
fn a_mute_agent_is_given_up_on() {
    for args in [&["acquire", "a"][..], &["current", "a"], &["status"]] {
        let run = Fake::new(vec![Act::Mute]).run(&[&["--patience", "1s"], args].concat());
        run.fails(69, &["did not answer within 1000 ms"]);
    }
    let run = Fake::new(vec![Act::Mute]).run(&["doctor"]);
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("did not answer"), "{}", run.stdout);
}

#[test]
fn a_mute_agent_is_told_of_before_it_is_given_up_on() {
    let told = |fake: &Fake| {
        format!(
            "stormctl: waiting for the agent on {}, which has not answered for 2 s",
            fake.socket().display()
        )
    };
    let fake = Fake::new(vec![Act::Mute]);
    let run = fake.run(&["--patience", "4s", "status"]);
    run.fails(69, &[&told(&fake), "systemctl status stormlockd", "Ctrl-C", "within 4000 ms"]);
    let quiet = Fake::new(vec![Act::Mute]).run(&["-q", "--patience", "4s", "status"]);
    assert_eq!((quiet.code, quiet.stderr.lines().count()), (69, 1), "{quiet:?}");
}

#[test]
fn a_wait_is_not_much_longer_than_it_was_to_be_whatever_the_agent_does() {
    let waiting = Waiting { resource: resource("a"), holder: None, place: 1, of: 1 };
    let waiting = || frame::encode(&Reply::Waiting(waiting.clone())).unwrap();
    thread::scope(|scope| {
        for verb in ["acquire", "wait"] {
            for acts in [vec![Act::Mute], vec![Act::Part(waiting())]] {
                scope.spawn(move || {
                    let run = Fake::new(acts).run(&[verb, "a", "--timeout", "1s"]);
                    run.fails(69, &["did not answer within 8000 ms"]);
                });
            }
        }
    });
}

#[test]
fn an_agent_that_goes_away_each_time_it_is_asked_is_not_asked_for_ever() {
    thread::scope(|scope| {
        for args in [["acquire", "a", "--timeout", "1s"], ["wait", "a", "--timeout", "1s"]] {
            scope.spawn(move || {
                let acts = (0..1000).map(|_| Reply::Status(status(vec![])));
                let acts = acts.flat_map(|status| [Act::Close, Act::Reply(status)]);
                let fake = Fake::new(acts.collect());
                fake.run(&args).fails(69, &["closed the connection before it answered"]);
                let asked = std::iter::from_fn(|| (!fake.was_asked_nothing_more()).then_some(()));
                assert!(asked.take(100).count() < 100, "it was asked without a pause");
            });
        }
    });
}

#[test]
fn an_agent_that_repeats_a_page_does_not_keep_us() {
    let cursor = || Some(Cursor { backend: "main".into(), resource: resource("a") });
    let page = || Reply::Locks { locks: vec![lock()], next: cursor(), unread: vec![] };
    Fake::replying(vec![page(), page()]).run(&["list"]).fails(70, &["same page twice"]);
    let page = || {
        let mut page = status(vec![]);
        page.next = Some(id("7"));
        Reply::Status(page)
    };
    Fake::replying(vec![page(), page()]).run(&["status"]).fails(70, &["same page twice"]);
}

/// An acquire that names other resources than were asked is not ours to print.
#[test]
fn an_acquire_answered_for_other_resources_is_no_success() {
    for leases in [vec![], vec![lease("b", "1")], vec![lease("a", "1"), lease("b", "2")]] {
        let run = Fake::replying(vec![Reply::Acquired(leases)]).run(&["acquire", "a"]);
        run.fails(70, &["another question"]);
    }
}
