//! `stormlock`, the client's second name: the Python tool's arguments, streams and exit codes.

use std::fs;

use stormlock_protocol::message::{Code, Lock, Refusal, Release, Released, Reply, Request, Target};

use crate::fake::{Act, Fake, ID, Run, held_by, id, lease, lock, resource};

fn taken(name: &str) -> Fake {
    Fake::replying(vec![Reply::Acquired(vec![lease(name, ID)])])
}

#[track_caller]
fn ttl_asked(fake: &Fake) -> Option<u32> {
    let ttl = match fake.asked() {
        Request::Acquire(ask) => ask.ttl,
        Request::Renew(ask) => ask.ttl,
        other => panic!("{other:?}"),
    };
    ttl.map(|ttl| ttl.as_secs())
}

#[test]
fn acquire_prints_the_id_and_nothing_else() {
    let fake = taken("a");
    let run = fake.run_stormlock(&["acquire", "a", "-t", "4 seconds"]);
    assert_eq!((run.code, run.stdout, run.stderr), (0, format!("{ID}\n"), String::new()));
    assert_eq!(ttl_asked(&fake), Some(4));
}

#[test]
fn a_held_lock_is_exit_code_two_and_the_holder_is_told_on_stderr() {
    let run = Fake::refusing(held_by(lock())).run_stormlock(&["acquire", "prod/db"]);
    run.fails(2, &[]);
    assert_eq!(run.stderr, format!("Lock held\n{ID}\n"));
    let nobody = Refusal { holder: None, ..held_by(lock()) };
    let run = Fake::refusing(nobody).run_stormlock(&["acquire", "prod/db"]);
    run.fails(2, &["Lock held\nHeld lock not found, try again?\n"]);
}

#[test]
fn an_expired_lease_is_exit_code_three() {
    for code in [Code::NotHeld, Code::Lost] {
        let fake = Fake::refusing(Refusal::new(code, "gone"));
        let run = fake.run_stormlock(&["renew", "a", ID]);
        run.fails(3, &[]);
        assert_eq!(run.stderr, "Lock expired\n");
    }
    let no_lease_has_it = "0123456789abcdef01";
    Fake::new(vec![]).run_stormlock(&["renew", "a", no_lease_has_it]).fails(3, &["Lock expired"]);
    let fake = Fake::replying(vec![Reply::Renewed(lease("a", ID))]);
    fake.run_stormlock(&["renew", "-t", "1 days", "a", ID]).succeeds("");
    assert_eq!(ttl_asked(&fake), Some(86_400));
}

#[test]
fn release_succeeds_whether_or_not_it_was_held() {
    let outcome = |refusal| {
        let resource = resource("a");
        Reply::Released(vec![Released { resource, lease: None, refusal, lost: None }])
    };
    for refusal in [None, Some(Code::NotHeld), Some(Code::Lost)] {
        let refusal = refusal.map(|code| Refusal::new(code, "gone"));
        let fake = Fake::replying(vec![outcome(refusal)]);
        fake.run_stormlock(&["release", "a", ID]).succeeds("");
        let target = Target { resource: resource("a"), lease: Some(id(ID)) };
        assert_eq!(fake.asked(), Request::Release(Release::These(vec![target])));
    }
    let fake = Fake::new(vec![]);
    fake.run_stormlock(&["release", "a", ""]).succeeds("");
    assert!(fake.was_asked_nothing_more());
}

#[test]
fn a_word_that_no_acquire_can_have_printed_fails_in_every_verb() {
    for verb in ["renew", "release", "is-held"] {
        let fake = Fake::new(vec![]);
        fake.run_stormlock(&[verb, "a", "nonsense"]).fails(1, &["\"nonsense\"", "lease id"]);
        assert!(fake.was_asked_nothing_more());
    }
}

#[test]
fn a_release_that_leaves_the_lock_held_is_no_success() {
    let denied = Refusal::new(Code::Denied, "it is otto's");
    let outcome =
        Released { resource: resource("a"), lease: None, refusal: Some(denied), lost: None };
    let fake = Fake::replying(vec![Reply::Released(vec![outcome])]);
    fake.run_stormlock(&["release", "a", ID]).fails(1, &["stormlock: releasing a: it is otto's"]);
    Fake::new(vec![Act::Close]).run_stormlock(&["release", "a", ID]).fails(1, &["not held"]);
}

#[test]
fn current_and_is_held_answer_as_there() {
    let fake = Fake::replying(vec![Reply::Current(Some(lock()))]);
    let run = fake.run_stormlock(&["current", "prod/db", "-f", "oneline"]);
    run.succeeds(&format!("otto@bastion3\t2026-11-25T14:02:31.000\t{ID}\n"));
    let run = Fake::replying(vec![Reply::Current(None)]).run_stormlock(&["current", "prod/db"]);
    run.fails(1, &[]);
    assert_eq!(run.stderr, "no lock held\n");
    for (held, code) in [(true, 0), (false, 1)] {
        let fake = Fake::replying(vec![Reply::Verdict { held, lock: None }]);
        let run = fake.run_stormlock(&["is-held", "a", ID]);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (code, "", ""));
    }
    Fake::new(vec![]).run_stormlock(&["is-held", "a", "no such id"]).fails(1, &[]);
}

#[test]
fn a_lock_of_this_host_only_is_told_as_one() {
    let local = Lock { this_host_only: true, ..lock() };
    let fake = Fake::replying(vec![Reply::Current(Some(local))]);
    let run = fake.run_stormlock(&["current", "prod/db", "--id-only"]);
    run.succeeds(&format!("{ID}\n"));
    assert!(run.stderr.contains("this host only"));
}

#[test]
fn the_config_file_gives_the_ttl_and_nothing_else() {
    let config = "[default]\nttl = 1 days\nbackend = etcd\n[b]\nttl = 30 minutes\n";
    for (name, secs) in [("a", 86_400), ("b", 1_800)] {
        let fake = taken(name);
        fs::write(fake.dir().join(".stormlock.cfg"), config).unwrap();
        fake.run_stormlock(&["acquire", name]).succeeds(&format!("{ID}\n"));
        assert_eq!(ttl_asked(&fake), Some(secs));
    }
    let fake = taken("a");
    fs::write(fake.dir().join("other.cfg"), config).unwrap();
    let mut command = fake.stormlock(&["acquire", "a", "-t", "5s"]);
    command.env("STORMLOCK_CONFIG", "other.cfg");
    Run::of(command).succeeds(&format!("{ID}\n"));
    assert_eq!(ttl_asked(&fake), Some(5));
    let fake = taken("a");
    let mut command = fake.stormlock(&["acquire", "a"]);
    command.env("STORMLOCK_CONFIG", "gone.cfg");
    Run::of(command).succeeds(&format!("{ID}\n"));
    assert_eq!(ttl_asked(&fake), None);
    let fake = taken("a");
    fake.run_stormlock(&["acquire", "a"]).succeeds(&format!("{ID}\n"));
    assert_eq!(ttl_asked(&fake), None);
}

#[test]
fn a_config_file_that_was_named_must_be_there_and_right() {
    let fake = Fake::new(vec![]);
    fake.run_stormlock(&["-c", "none.cfg", "acquire", "a"]).fails(1, &["reading none.cfg: "]);
    fs::write(fake.dir().join("bad.cfg"), "[default]\nttl = soon\n").unwrap();
    fake.run_stormlock(&["-c", "bad.cfg", "acquire", "a"]).fails(1, &["bad.cfg: ttl \"soon\""]);
    assert!(fake.was_asked_nothing_more());
}

#[test]
fn a_resource_that_no_agent_takes_is_told_clearly() {
    let run = Fake::new(vec![]).run_stormlock(&["acquire", "a b"]);
    run.fails(1, &["stormlock: resource \"a b\": ' ' is not allowed in it (allowed: letters,"]);
}

#[test]
fn usage_is_exit_code_two_and_help_is_data() {
    let fake = Fake::new(vec![]);
    fake.run_stormlock(&["acquire"]).fails(2, &["usage: stormlock acquire", "required: resource"]);
    fake.run_stormlock(&[]).fails(2, &["usage: stormlock [-h]"]);
    // A verb of the client's other name.
    fake.run_stormlock(&["prompt"]).fails(2, &["usage: stormlock [-h]"]);
    let run = fake.run_stormlock(&["-h"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert!(run.stdout.contains("attempt to acquire a lock"));
}

#[test]
fn any_other_failure_is_exit_code_one() {
    for code in [Code::Denied, Code::Unavailable, Code::Config, Code::Internal] {
        let fake = Fake::refusing(Refusal::new(code, "because"));
        fake.run_stormlock(&["acquire", "a"]).fails(1, &["stormlock: acquiring a: because"]);
    }
    let fake = Fake::new(vec![]);
    let mut command = fake.stormlock(&["acquire", "a"]);
    command.env("STORMLOCK_SOCKET", "/nowhere/at.all");
    Run::of(command).fails(1, &["no agent listens on", "systemctl start stormlockd"]);
}

#[test]
fn the_manual_page_has_every_verb_and_option() {
    let page = include_str!("../../ctl/manuals/stormlock.1").replace('\\', "");
    let verbs = ["acquire", "release", "renew", "current", "is-held"];
    for line in verbs.map(|verb| vec![verb, "-h"]).into_iter().chain([vec!["-h"]]) {
        let run = Fake::new(vec![]).run_stormlock(&line);
        assert_eq!(run.code, 0, "{line:?}");
        let words = run.stdout.split([' ', ',', '=', '\n', '[', ']', '{', '}']);
        for word in words.filter(|word| word.starts_with('-') || verbs.contains(word)) {
            assert!(page.contains(word), "{word} of {line:?}");
        }
    }
}
