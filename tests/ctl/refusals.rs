//! The agent says no: exit codes, and what a person and a program are told.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use stormlock_protocol::frame::{self, Verdict, Welcome};
use stormlock_protocol::message::{Code, Lock, Refusal, Reply, Waiting};
use stormlock_protocol::name::Reason;
use stormlock_protocol::process::Process;

use crate::fake::{Act, Fake, Greet, ID, Run, held_by, id, lease, lock, resource, stormctl};

#[test]
fn every_refusal_has_its_exit_code_and_nothing_on_stdout() {
    let exits = [75, 79, 1, 77, 69, 64, 75, 75, 69, 78, 70];
    let words = "the agent's words";
    for (code, exit) in Code::ALL.into_iter().zip(exits) {
        // As often as anything is asked.
        let refusing = || Fake::replying(vec![Reply::Refused(Refusal::new(code, words)); 3]);
        for verb in ["acquire", "release", "renew", "current", "is-held"] {
            let run = refusing().run(&[verb, "prod/db"]);
            run.fails(exit, &["prod/db", ": the agent's words"]);
        }
        refusing().run(&["list"]).fails(exit, &[words]);
        refusing().run(&["status"]).fails(exit, &[words]);
        let run = refusing().run(&["--json", "acquire", "a"]);
        assert_eq!((run.code, &run.error_json()["code"]), (exit, &code.as_str().into()));
    }
}

#[test]
fn a_refused_acquire_says_who_where_why_since_until_and_what_to_type() {
    let run = Fake::refusing(held_by(lock())).run(&["acquire", "prod/db"]);
    run.fails(
        75,
        &[
            "stormctl: prod/db is held by otto@bastion3\n",
            "host    bastion3",
            "why     schema migration",
            "ago (",
            "until   in 4 minutes 30 seconds (",
            "fence   41",
            ID,
            "stormctl current prod/db ",
            "stormctl acquire prod/db --wait ",
        ],
    );
    assert!(!run.stderr.contains("break"), "{}", run.stderr);
    let run = Fake::refusing(held_by(lock())).run(&["run", "prod/db", "--", "true"]);
    run.fails(75, &["stormctl run prod/db --wait -- COMMAND  # wait for your turn"]);
    let quiet = Fake::refusing(held_by(lock())).run(&["-q", "acquire", "prod/db"]);
    quiet.fails(75, &[]);
    assert_eq!(quiet.stderr, "stormctl: prod/db is held by otto@bastion3\n");
}

#[test]
fn a_refused_acquire_is_one_line_of_json_for_programs() {
    let error = Fake::refusing(held_by(lock())).run(&["acquire", "prod/db", "--json"]).error_json();
    assert_eq!((&error["code"], &error["resource"]), (&"held".into(), &"prod/db".into()));
    let holder = &error["holder"];
    assert_eq!(holder["principal"], "otto@bastion3");
    assert_eq!(holder["since"], "2026-11-25T14:02:31Z");
    assert_eq!(holder["left_secs"], 270);
    assert_eq!(holder["fence"], 41);
    let until = holder["until"].as_str().unwrap();
    assert!(until.len() == 20 && until.ends_with('Z'), "{until}");
    assert_eq!(error["next"][0], "stormctl current prod/db");
}

#[test]
fn a_refused_acquire_of_several_says_that_none_was_taken() {
    let run = Fake::refusing(held_by(lock())).run(&["acquire", "a", "prod/db"]);
    run.fails(75, &["prod/db is held by otto@bastion3", "so none was taken"]);
}

#[test]
fn your_own_lock_is_told_as_yours() {
    let mine = Lock { mine: true, ..lock() };
    let run = Fake::refusing(held_by(mine)).run(&["acquire", "prod/db"]);
    run.fails(
        75,
        &["prod/db is already yours", "stormctl renew prod/db ", "stormctl release prod/db "],
    );
}

#[test]
fn what_stands_in_the_place_of_a_broken_lease_is_nobodys() {
    let reason = Reason::of_a_break(id(ID), &Reason::new("bob left").unwrap());
    let broken = || Lock { reason: reason.clone(), ..lock() };
    let run = Fake::refusing(held_by(broken())).run(&["acquire", "prod/db"]);
    let free = "free    when whoever relied on it has ended, in 4 minutes 30 seconds (";
    let nobody = "stormctl: nobody holds prod/db yet: otto@bastion3 broke its lease\n";
    run.fails(75, &[nobody, free, "stormctl acquire prod/db --wait "]);
    assert!(!run.stderr.contains("unless it is renewed"), "{}", run.stderr);
    let run = Fake::replying(vec![Reply::Current(Some(broken()))]).run(&["current", "prod/db"]);
    assert_eq!(run.code, 0);
    let told = "nobody holds prod/db: otto@bastion3 broke its lease; free when whoever relied";
    assert!(run.stdout.contains("Principal: otto@bastion3") && run.stderr.contains(told));
    let locks = Reply::Locks { locks: vec![broken()], next: None, unread: Vec::new() };
    let run = Fake::replying(vec![locks]).run(&["list"]);
    assert!(run.stdout.contains(" nobody (otto"), "{}", run.stdout);
}

#[test]
fn whoever_waits_for_a_lease_of_their_own_is_told() {
    let on = resource("prod/db");
    for (process, told) in [
        (None, "yours already (lease "),
        (None, "`stormctl release prod/db` gives it back"),
        (Some(Process { pid: 4711, started: 1, group: true }), "yours until process 4711 has"),
    ] {
        for verb in [&["wait", "prod/db"][..], &["acquire", "prod/db", "--wait"]] {
            let holder = Some(Box::new(Lock { mine: true, process, ..lock() }));
            let waiting = Waiting { resource: on.clone(), holder, place: 1, of: 1 };
            let then = Refusal::new(Code::Denied, "no");
            let both = [Reply::Waiting(waiting), Reply::Refused(then)];
            let both = both.iter().flat_map(|reply| frame::encode(reply).unwrap()).collect();
            Fake::new(vec![Act::Bytes(both)]).run(verb).fails(77, &["waiting for prod/db, ", told]);
        }
    }
}

#[test]
fn what_another_run_of_yours_holds_is_waited_for_rather_than_ended() {
    let process = Process { pid: 4711, started: 1, group: true };
    let mine = || Lock { mine: true, process: Some(process), ..lock() };
    let run = Fake::refusing(held_by(mine())).run(&["acquire", "prod/db"]);
    run.fails(75, &["--wait", "kill -TERM -- -4711"]);
    let at = |what| run.stderr.find(what);
    assert!(at("--wait") < at("kill -TERM"), "{}", run.stderr);
    let waited = Refusal { code: Code::Timeout, ..held_by(mine()) };
    let run = Fake::refusing(waited).run(&["acquire", "prod/db", "--timeout", "1s"]);
    run.fails(75, &["stormctl: waited in vain: prod/db is already yours", "kill -TERM"]);
    assert!(!run.stderr.contains("--wait"), "{}", run.stderr);
    let waited = Refusal { code: Code::Timeout, ..held_by(lock()) };
    let run = Fake::refusing(waited).run(&["wait", "prod/db", "--timeout", "1s"]);
    run.fails(75, &["stormctl: waited in vain: prod/db is held by otto@bastion3"]);
}

#[test]
fn what_a_run_around_it_holds_is_not_to_be_released_in_it() {
    let mine = Lock { mine: true, ..lock() };
    let fake = Fake::refusing(held_by(mine.clone()));
    let mut command = fake.command(&["acquire", "prod/db"]);
    command.env("STORMLOCK_LEASES", format!("77 {ID}"));
    let run = Run::of(command);
    run.fails(75, &["prod/db is already yours", "the `stormctl run` around this command holds it"]);
    assert!(!run.stderr.contains("release prod/db"), "{}", run.stderr);
    let fake = Fake::refusing(held_by(mine));
    let mut command = fake.command(&["acquire", "prod/db"]);
    command.env("STORMLOCK_LEASES", "77 78");
    Run::of(command).fails(75, &["stormctl release prod/db "]);
}

#[test]
fn what_another_writer_left_out_is_told_as_unknown() {
    let sparse = Lock { host: None, fence: None, reason: None, left_ms: None, ..lock() };
    let run = Fake::refusing(held_by(sparse)).run(&["acquire", "prod/db"]);
    run.fails(75, &["no reason given", "not told by its writer", "no end of its own"]);
    let mut nobody = held_by(lock());
    nobody.holder = None;
    let run = Fake::refusing(nobody).run(&["acquire", "prod/db"]);
    run.fails(75, &["acquiring prod/db: held by another", "stormctl current prod/db"]);
}

#[test]
fn what_a_store_says_cannot_forge_a_line() {
    let forged = Lock { host: Some("x\n\u{1b}[2Kok\u{202e}".into()), ..lock() };
    let run = Fake::refusing(held_by(forged.clone())).run(&["acquire", "prod/db"]);
    run.fails(75, &["host    x\\u{a}\\u{1b}[2Kok\\u{202e}\n"]);
    let run =
        Fake::replying(vec![Reply::Current(Some(forged))]).run(&["current", "prod/db", "--json"]);
    assert!(run.stdout.contains(r"ok\u202e"), "{}", run.stdout);
    assert_eq!(run.json()["lock"]["host"], "x\n\u{1b}[2Kok\u{202e}");
}

#[test]
fn renew_of_a_dead_lease_is_lost() {
    let gone = || Refusal::new(Code::NotHeld, "not held");
    Fake::refusing(gone()).run(&["renew", "prod/db", ID]).fails(79, &["stormctl current prod/db"]);
    Fake::refusing(gone()).run(&["renew", "prod/db"]).fails(1, &["stormctl acquire prod/db"]);
}

#[test]
fn a_missing_agent_is_told_with_the_command_that_starts_one() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["acquire", "a"][..], &["release", "a"], &["is-held", "a"], &["list"]] {
        let mut command = stormctl();
        command.env("STORMLOCK_SOCKET", dir.path().join("none")).args(args);
        Run::of(command).fails(69, &["no agent listens on", "systemctl start stormlockd"]);
    }
}

#[test]
fn a_dead_socket_is_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut command = stormctl();
    command.arg("--socket").arg(&path).args(["status", "--json"]);
    let run = Run::of(command);
    assert_eq!((run.code, &run.error_json()["code"]), (69, &"unavailable".into()));
}

#[test]
fn what_is_no_socket_is_told_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.as_path(), dir.path(), "/dev/null".as_ref()] {
        let mut command = stormctl();
        command.arg("--socket").arg(path).arg("status");
        let run = Run::of(command);
        run.fails(69, &["is no socket", "leave out --socket"]);
        assert!(!run.stderr.contains("systemctl start"), "{}", run.stderr);
    }
}

#[test]
fn a_greeting_refused_says_which_side_to_update() {
    let welcome = |verdict| Welcome { min: 7, max: 9, verdict };
    for (verdict, exit, told) in [
        (Verdict::ClientTooOld, 76, "update stormctl"),
        (Verdict::AgentTooOld, 76, "systemctl restart stormlockd"),
        (Verdict::Unknown(99), 76, "code 99"),
        (Verdict::Speak(9), 76, "chose protocol 9"),
        (Verdict::Garbage, 76, "did not understand"),
        (Verdict::TooMany, 75, "too many sessions"),
        (Verdict::Denied, 77, "journalctl -u stormlockd"),
        (Verdict::Stopping, 69, "is stopping"),
        (Verdict::Slow, 69, "too late"),
    ] {
        let fake = Fake::greeting(Greet::With(welcome(verdict)), vec![]);
        let run = fake.run(&["acquire", "a"]);
        run.fails(exit, &[told]);
        assert!(!run.stderr.contains("may have happened"), "{}", run.stderr);
    }
    let fake = Fake::greeting(Greet::With(welcome(Verdict::ClientTooOld)), vec![]);
    let run = fake.run(&["-V"]);
    assert!(run.stdout.contains("stormlockd (unknown version) (protocol 7 to 9"), "{run:?}");
}

#[test]
fn bad_arguments_are_told_before_anything_is_asked() {
    let fake = Fake::new(vec![]);
    Run::of(stormctl()).fails(64, &["Usage: stormctl", "75  tempfail"]);
    fake.run(&["-q"]).fails(64, &["no command is given"]);
    fake.run(&["acquire", "a", "b", "a"]).fails(64, &["a is named twice"]);
    fake.run(&["release", "a", "b", "a"]).fails(64, &["a is named twice"]);
    fake.run(&["stael", "a"]).fails(64, &["stormctl: unrecognized subcommand 'stael'"]);
    let tip = |verb: &str| format!("tip: a similar subcommand exists: '{verb}'");
    fake.run(&["lock", "a"]).fails(64, &["'lock'", &tip("acquire")]);
    fake.run(&["unlock", "a"]).fails(64, &["'unlock'", &tip("release")]);
    fake.run(&["lst"]).fails(64, &["'lst'", &tip("list")]);
    fake.run(&["acquire", "/a"]).fails(64, &["begins with a letter or a digit"]);
    fake.run(&["acquire", "a b"]).fails(64, &["allowed: letters, digits and . _ / : @ + -"]);
    fake.run(&["acquire", "a", "--until", "2001-01-01T00:00"]).fails(64, &["in the past"]);
    fake.run(&["acquire", "a", "--ttl", "90"]).fails(64, &["90 has no unit"]);
    fake.run(&["renew", "a", "nonsense!"]).fails(64, &["it is not a lease id"]);
    assert!(fake.was_asked_nothing_more());
}

#[test]
fn a_misspelt_option_is_not_offered_as_a_value() {
    let fake = Fake::new(vec![]);
    for args in [&["acquire", "a", "--fr", "5s"][..], &["acquire", "a", "--forr", "5s"]] {
        let run = fake.run(args);
        run.fails(64, &["unexpected argument '--f"]);
        assert!(!run.stderr.contains("as a value"), "{}", run.stderr);
    }
    fake.run(&["acquire", "a", "--forr", "5s"]).fails(64, &["a similar argument exists: '--for'"]);
}

#[test]
fn a_renewal_for_ever_is_told_how_a_longer_one_is_asked_for() {
    let fake = Fake::new(vec![]);
    fake.run(&["renew", "a", "--keep"]).fails(64, &["'--for DUR' or '--until TIME'"]);
    let run = fake.run(&["renew", "a", "--for", "60000d"]);
    run.fails(64, &["too long"]);
    assert!(!run.stderr.contains("--keep"), "{}", run.stderr);
}

#[test]
fn a_grace_that_a_hold_has_no_room_for_is_told_with_one_that_it_has() {
    let fake = Fake::new(vec![]);
    let grace = ["--kill-after", "20s", "--", "true"];
    let run = |hold: &[&str]| fake.run(&[&["run", "a"], hold, &grace].concat());
    run(&["--for", "20s"]).fails(64, &["--kill-after 20s", "(--for)", "say --kill-after 9s"]);
    run(&["--until", "+20s"]).fails(64, &["--kill-after 20s", "(--until)", "say --kill-after "]);
    fake.run(&["run", "a", "--for", "3s", "--", "true"]).fails(64, &["--for", "4s at least"]);
    let hold = ["hold", "a", "--ttl", "1d", "--grace", "61m"];
    fake.run(&hold).fails(64, &["--grace 1h1m is too long", "1h is the longest"]);
    assert!(fake.was_asked_nothing_more());
}

#[test]
fn a_command_without_its_dashes_is_no_resource() {
    let fake = Fake::new(vec![]);
    let dir = tempfile::tempdir().unwrap();
    let tool = dir.path().join("migrate");
    std::fs::write(&tool, "").unwrap();
    let run = |args: &[&str]| {
        let mut command = fake.command(&[&["run"], args].concat());
        command.env("PATH", dir.path()).current_dir(dir.path());
        Run::of(command)
    };
    std::fs::set_permissions(&tool, Permissions::from_mode(0o755)).unwrap();
    let dashes = "put -- before the command";
    let fix = "stormctl run prod/db r2 -- migrate all ";
    run(&["prod/db", "r2", "migrate", "all"]).fails(64, &["migrate is a program", dashes, fix]);
    run(&["r1", "./migrate"]).fails(64, &[dashes]);
    run(&["r1", "migrate", "-v"]).fails(64, &[dashes]);
    assert!(fake.was_asked_nothing_more());
}

#[test]
fn a_process_that_has_ended_and_was_not_waited_for_is_nothing_to_bind_to() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let of = rustix::process::Pid::from_child(&child);
    let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::Pid(of), ended).unwrap();
    let fake = Fake::new(vec![]);
    let pid = child.id().to_string();
    let run = fake.run(&["acquire", "prod/db", "--bind", &pid]);
    run.fails(64, &[&format!("process {pid}: that process has ended"), "$$ is this shell"]);
    assert!(fake.was_asked_nothing_more());
    child.wait().unwrap();
}

#[test]
fn a_ttl_that_no_renewal_could_keep_is_not_held() {
    for ttl in ["1s", "2s"] {
        let fake = Fake::new(vec![]);
        fake.run(&["hold", "prod/db", "--ttl", ttl]).fails(64, &["too short", "--ttl 3s"]);
        assert!(fake.was_asked_nothing_more());
    }
}

#[test]
fn whoever_wants_more_time_to_end_in_is_told_of_a_longer_ttl() {
    let args = ["run", "prod/db", "--ttl", "5s", "--kill-after", "2s", "--", "true"];
    Fake::new(vec![]).run(&args).fails(64, &["say --ttl 6s or a longer one"]);
}

/// It would hear of no renewal, and end its command for nothing.
#[test]
fn a_run_that_the_agent_has_no_session_for_runs_nothing() {
    let taken = || Act::Reply(Reply::Acquired(vec![lease("prod/db", ID)]));
    let fake = Fake::greeting(Greet::Only(2), vec![taken(), taken()]);
    let file = fake.dir().join("touched");
    let run = fake.run(&["run", "prod/db", "--", "touch", file.to_str().unwrap()]);
    run.fails(75, &["running touch: ", "too many sessions"]);
    assert!(!file.exists());
}

#[test]
fn a_question_is_asked_again_of_the_agent_that_comes_after_one_that_stopped() {
    let stopping = || Act::Reply(Reply::Refused(Refusal::new(Code::Stopping, "it stops")));
    let held = || Act::Reply(Reply::Verdict { held: true, lock: None });
    for first in [|| Act::Close, stopping] {
        let fake = Fake::new(vec![first(), first(), held()]);
        let run = fake.run(&["is-held", "a"]);
        assert_eq!(run.code, 0, "{run:?}");
        // One that always stops is told of.
        let fake = Fake::new(vec![first(), first(), first(), held()]);
        fake.run(&["is-held", "a"]).fails(69, &["asking whether a is held"]);
        // What changes something may have been done.
        let fake = Fake::new(vec![first(), held()]);
        fake.run(&["release", "a"]).fails(69, &["releasing a"]);
    }
}
