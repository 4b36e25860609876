//! Each verb: what it asks, and what it prints when all is well.

use std::process::Command;

use stormlock_protocol::frame;
use stormlock_protocol::message::{
    Acquire, Attach, Backend, Code, Cursor, Finding, Health, Hold, IsHeld, Lease, Level, List,
    Lock, LostReason, Refusal, Release, Released, Renew, Reply, Request, State, Status, Target,
    Unread, Wait, Waiting,
};
use stormlock_protocol::name::{Principal, Reason, Ttl, UnixMs};
use stormlock_protocol::process::Process;

use crate::fake::{
    Act, Fake, ID, Run, SINCE, held_by, id, lease, lock, resource, status, stormctl,
};

const OTHER_ID: &str = "1af1c2d3e4f50617283940515263748f";

fn target(name: &str, lease: Option<&str>) -> Target {
    Target { resource: resource(name), lease: lease.map(id) }
}

fn released(name: &str, refusal: Option<Refusal>) -> Released {
    Released { resource: resource(name), lease: Some(id(ID)), refusal, lost: None }
}

/// What it waits for then is its own, and about to be given back.
#[test]
fn a_run_that_was_not_told_to_wait_says_nothing_of_waiting_for_its_own_leftover() {
    let gone = Process { pid: std::process::id(), started: 1, group: false };
    let left = Lease { attach: Attach::Process(gone), ..lease("prod/db", ID) };
    let waiting =
        Waiting { resource: resource("prod/db"), holder: Some(Box::new(lock())), place: 1, of: 1 };
    let then = Refusal::new(Code::Timeout, "waited in vain");
    let both: Vec<u8> = [Reply::Waiting(waiting), Reply::Refused(then)]
        .iter()
        .flat_map(|reply| frame::encode(reply).unwrap())
        .collect();
    let acts = vec![
        Act::Reply(Reply::Refused(held_by(lock()))),
        Act::Reply(Reply::Status(status(vec![left.clone()]))),
        Act::Reply(Reply::Status(status(vec![left]))),
        Act::Bytes(both),
    ];
    let run = Fake::new(acts).run(&["run", "prod/db", "--", "true"]);
    run.fails(75, &["waited in vain"]);
    assert!(!run.stderr.contains("waiting for"), "{}", run.stderr);
}

#[test]
fn acquire_prints_the_ids_alone_in_the_order_asked() {
    let leases = vec![lease("prod/db", ID), lease("a", OTHER_ID)];
    let fake = Fake::replying(vec![Reply::Acquired(leases)]);
    let run = fake.run(&["acquire", "prod/db", "a", "-m", "why not", "--ttl", "5m"]);
    run.succeeds(&format!("{ID}\n{OTHER_ID}\n"));
    assert!(run.stderr.contains("prod/db is yours until"), "{}", run.stderr);
    assert!(run.stderr.contains("4 minutes 30 seconds), not renewed"), "{}", run.stderr);
    let asked = Acquire {
        resources: vec![resource("prod/db"), resource("a")],
        ttl: Some(Ttl::from_secs(300).unwrap()),
        hold: Hold::Usual,
        reason: Some("why not".parse().unwrap()),
        attach: Attach::Detached,
        wait: Wait::No,
        terminal: None,
    };
    assert_eq!(fake.asked(), Request::Acquire(asked));
}

#[test]
fn acquire_takes_each_kind_of_hold() {
    let hold = |args: &[&str]| {
        let fake = Fake::replying(vec![Reply::Acquired(vec![lease("a", ID)])]);
        fake.run(&[&["-q", "acquire", "a"], args].concat()).succeeds(&format!("{ID}\n"));
        match fake.asked() {
            Request::Acquire(ask) => ask.hold,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(hold(&["--for", "2h30m"]), Hold::For(9_000));
    assert_eq!(hold(&["--keep"]), Hold::Keep);
    let far = UnixMs(4_102_444_800_000);
    assert_eq!(hold(&["--until", "2100-01-01T00:00"]), Hold::Until(far));
}

#[test]
fn a_lock_of_this_host_only_is_never_taken_for_a_fleet_lock() {
    let local = || {
        let mut local = lease("a", ID);
        (local.this_host_only, local.backend) = (true, "local".into());
        local
    };
    let run = Fake::replying(vec![Reply::Acquired(vec![local()])]).run(&["acquire", "a"]);
    run.succeeds(&format!("{ID}\n"));
    assert!(run.stderr.contains("a counts on this host only"), "{}", run.stderr);
    let run = Fake::replying(vec![Reply::Acquired(vec![local()])]).run(&["--json", "acquire", "a"]);
    assert_eq!(run.json()["leases"][0]["this_host_only"], true);
    // A long reason takes no room from the mark.
    let reason = Some(Reason::new("r".repeat(200)).unwrap());
    let wordy = Lease { hold: Hold::Until(UnixMs(4_102_444_800_000)), reason, ..local() };
    let fake = Fake::replying(vec![Reply::Status(status(vec![wordy]))]);
    let mut command = fake.command(&["status"]);
    command.env("COLUMNS", "80");
    let run = Run::of(command);
    assert!(run.stdout.contains("local*") && run.stdout.contains("* this host only"));
    let lock = Lock { this_host_only: true, ..lock() };
    let run = Fake::replying(vec![Reply::Current(Some(lock.clone()))]).run(&["current", "prod/db"]);
    assert!(run.stderr.contains("this host only"), "{}", run.stderr);
    let locks = Reply::Locks { locks: vec![lock], next: None, unread: vec![] };
    let run = Fake::replying(vec![locks]).run(&["list"]);
    assert!(run.stdout.contains("main*") && run.stdout.contains("* this host only"));
}

#[test]
fn quiet_means_data_only() {
    let run =
        Fake::replying(vec![Reply::Acquired(vec![lease("a", ID)])]).run(&["acquire", "-q", "a"]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (format!("{ID}\n").as_str(), ""));
}

#[test]
fn a_lease_that_is_over_when_it_is_answered_is_lost() {
    let over = [(State::Held, 0), (State::Unknown, 9), (State::Lost(LostReason::Expired), 0)];
    for (state, left_ms) in over {
        let mut lease = lease("a", ID);
        (lease.state, lease.left_ms) = (state, left_ms);
        let fake = Fake::replying(vec![Reply::Acquired(vec![lease.clone()])]);
        fake.run(&["acquire", "a"]).fails(79, &["the lease on a has ended already"]);
        let fake = Fake::replying(vec![Reply::Renewed(lease)]);
        fake.run(&["renew", "a"]).fails(79, &["the lease on a has ended already"]);
    }
}

#[test]
fn renew_tells_the_new_end_and_prints_no_data() {
    let fake = Fake::replying(vec![Reply::Renewed(lease("a", ID))]);
    let run = fake.run(&["renew", "a", ID, "--ttl", "5m", "--for", "1h"]);
    run.succeeds("");
    assert!(run.stderr.contains("a is yours until"), "{}", run.stderr);
    let asked = Renew {
        target: target("a", Some(ID)),
        ttl: Some(Ttl::from_secs(300).unwrap()),
        hold: Some(Hold::For(3_600)),
    };
    assert_eq!(fake.asked(), Request::Renew(asked));
}

#[test]
fn release_of_one_with_its_lease_releases_only_that_lease() {
    for (args, questions) in [(&["release", "a", ID][..], 2), (&["release", "a", "--lease", ID], 1)]
    {
        let mut replies = vec![Reply::Status(status(vec![lease("a", ID)]))];
        replies.push(Reply::Released(vec![released("a", None)]));
        let fake = Fake::replying(replies.split_off(2 - questions));
        let run = fake.run(args);
        run.succeeds("");
        assert!(run.stderr.contains("a is released"), "{}", run.stderr);
        if questions == 2 {
            assert_eq!(fake.asked(), Request::Status { after: None });
        }
        let these = Release::These(vec![target("a", Some(ID))]);
        assert_eq!(fake.asked(), Request::Release(these));
    }
}

/// `db1` and `a` are hex, and so could be etcd's lease ids.
#[test]
fn release_of_two_resources_works_when_the_second_could_be_a_lease_id() {
    let held = vec![lease("prod/db", ID), lease("db1", OTHER_ID)];
    let both = vec![released("prod/db", None), released("db1", None)];
    let fake = Fake::replying(vec![Reply::Status(status(held)), Reply::Released(both)]);
    fake.run(&["release", "prod/db", "db1"]).succeeds("");
    assert_eq!(fake.asked(), Request::Status { after: None });
    let these = Release::These(vec![target("prod/db", None), target("db1", None)]);
    assert_eq!(fake.asked(), Request::Release(these));
}

/// Nothing is released by a wrong guess: the agent compares the lease.
#[test]
fn a_word_taken_for_a_lease_id_is_told() {
    let not_held = Refusal::new(Code::NotHeld, "not your lease on it");
    let outcome = released("prod/db", Some(not_held));
    let held = Reply::Status(status(vec![lease("prod/db", ID)]));
    let fake = Fake::replying(vec![held, Reply::Released(vec![outcome])]);
    let run = fake.run(&["release", "prod/db", "deadbeef01"]);
    run.fails(1, &["deadbeef01 was read as a lease id"]);
    assert_eq!(fake.asked(), Request::Status { after: None });
    let these = Release::These(vec![target("prod/db", Some("deadbeef01"))]);
    assert_eq!(fake.asked(), Request::Release(these));
}

#[test]
fn release_never_guesses_when_a_word_is_both_a_resource_and_the_lease() {
    let held = vec![lease("prod/db", "db1"), lease("db1", OTHER_ID)];
    let fake = Fake::replying(vec![Reply::Status(status(held))]);
    fake.run(&["release", "prod/db", "db1"]).fails(64, &["db1", "--lease ID"]);
    assert_eq!(fake.asked(), Request::Status { after: None });
    assert!(fake.was_asked_nothing_more());
}

#[test]
fn release_of_many_refuses_a_lease_id_among_them() {
    let fake = Fake::replying(vec![Reply::Status(status(vec![lease("a", ID)]))]);
    fake.run(&["release", "a", "b", ID]).fails(64, &["looks like a lease id"]);
    fake.run(&["release", "a", "b", "--lease", ID]).fails(64, &["exactly one resource"]);
    fake.run(&["release"]).fails(64, &["RESOURCE"]);
    fake.run(&["release", "a", "--all"]).fails(64, &["--all"]);
    assert_eq!(fake.asked(), Request::Status { after: None });
    assert!(fake.was_asked_nothing_more());
}

#[test]
fn release_all_names_nothing_and_needs_nothing() {
    let fake = Fake::replying(vec![Reply::Released(vec![])]);
    let run = fake.run(&["release", "--all"]);
    run.succeeds("");
    assert!(run.stderr.contains("nothing was held"), "{}", run.stderr);
    assert_eq!(fake.asked(), Request::Release(Release::All));
}

#[test]
fn release_if_held_forgives_only_what_is_not_held() {
    let with =
        |code| Released { lease: None, ..released("a", Some(Refusal::new(code, "because"))) };
    for (code, exit) in [(Code::NotHeld, 0), (Code::Lost, 0), (Code::Unavailable, 69)] {
        let fake = Fake::replying(vec![Reply::Released(vec![with(code)])]);
        assert_eq!(fake.run(&["release", "a", "--if-held"]).code, exit, "{code:?}");
    }
    let fake = Fake::replying(vec![Reply::Released(vec![with(Code::NotHeld)])]);
    fake.run(&["release", "a"]).fails(1, &["releasing a: because"]);
}

#[test]
fn a_release_that_half_works_says_which_half() {
    let unreachable = Refusal::new(Code::Unavailable, "redis does not answer");
    let not_held = Refusal::new(Code::NotHeld, "not yours");
    let outcomes =
        vec![released("x", None), released("y", Some(not_held)), released("z", Some(unreachable))];
    let fake = Fake::replying(vec![Reply::Released(outcomes)]);
    fake.run(&["release", "x", "y", "z"]).fails(
        69,
        &["releasing z: redis does not answer", "y: not yours", "released: x; not released: y, z"],
    );
}

#[test]
fn current_prints_as_the_python_tool_unless_told_otherwise() {
    let run = |args: &[&str]| {
        let fake = Fake::replying(vec![Reply::Current(Some(lock()))]);
        let run = fake.run(&[&["current", "prod/db"], args].concat());
        assert_eq!(run.code, 0, "{run:?}");
        run.stdout
    };
    let rows = format!("Principal: otto@bastion3\nCreated: 2026-11-25T14:02:31.000\nId: {ID}\n");
    assert_eq!(run(&[]), rows);
    assert_eq!(run(&["--id-only"]), format!("{ID}\n"));
    assert_eq!(run(&["-o", "id"]), format!("{ID}\n"));
    assert_eq!(run(&["-f", "oneline"]), format!("otto@bastion3\t2026-11-25T14:02:31.000\t{ID}\n"));
    let tsv = run(&["-o", "tsv"]);
    assert_eq!(tsv.trim_end_matches('\n').split('\t').count(), 11, "{tsv}");
}

#[test]
fn nobody_is_an_answer_and_no_data() {
    let fake = Fake::replying(vec![Reply::Current(None)]);
    let run = fake.run(&["current", "prod/db"]);
    run.fails(1, &["no lock held"]);
    let fake = Fake::replying(vec![Reply::Current(None)]);
    let run = fake.run(&["current", "prod/db", "--json"]);
    assert_eq!(run.code, 1);
    assert_eq!(run.json()["lock"], serde_json::Value::Null);
}

#[test]
fn is_held_answers_by_its_exit_code() {
    let verdict = |held| vec![Reply::Verdict { held, lock: held.then(lock) }];
    let fake = Fake::replying(verdict(true));
    let run = fake.run(&["is-held", "prod/db", ID, "--by", "me"]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""));
    let asked = IsHeld { resource: resource("prod/db"), lease: Some(id(ID)), by_me: true };
    assert_eq!(fake.asked(), Request::IsHeld(asked));
    let run = Fake::replying(verdict(false)).run(&["is-held", "prod/db"]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (1, "", ""));
    let run = Fake::replying(verdict(false)).run(&["is-held", "prod/db", "--json"]);
    assert_eq!((run.code, run.json()["held"].as_bool()), (1, Some(false)));
    assert_eq!(run.json()["resource"], "prod/db");
}

#[test]
fn list_reads_all_pages_and_fits_the_screen() {
    let cursor = Cursor { backend: "main".into(), resource: resource("prod/db") };
    let second = Lock { resource: resource("zoo"), host: None, left_ms: None, ..lock() };
    let fake = Fake::replying(vec![
        Reply::Locks { locks: vec![lock()], next: Some(cursor.clone()), unread: vec![] },
        Reply::Locks { locks: vec![second], next: None, unread: vec![] },
    ]);
    let run = fake.run(&["list", "*o*", "--mine"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines[0].starts_with("RESOURCE  HOLDER         HOST      SINCE"), "{}", run.stdout);
    assert!(lines[1].starts_with("prod/db   otto@bastion3  bastion3"), "{}", run.stdout);
    assert!(lines[1].contains("4m30s   main") && lines[2].contains("no end"), "{}", run.stdout);
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{}", run.stdout);
    let ask = |after| List { glob: Some("*o*".into()), mine: true, after };
    assert_eq!(fake.asked(), Request::List(ask(None)));
    assert_eq!(fake.asked(), Request::List(ask(Some(cursor))));
}

#[test]
fn list_of_a_backend_that_cannot_be_read_is_incomplete_and_says_so() {
    let reply = || Reply::Locks {
        locks: vec![lock()],
        next: None,
        unread: vec![Unread { backend: "spare".into(), why: "connection refused".into() }],
    };
    let run = Fake::replying(vec![reply()]).run(&["-q", "list", "-o", "id"]);
    assert_eq!((run.code, run.stdout), (69, format!("{ID}\n")));
    assert!(run.stderr.contains("backend spare could not be read: connection refused"));
    let json = Fake::replying(vec![reply()]).run(&["list", "--json"]).json();
    assert_eq!(json["unread"][0]["backend"], "spare");
}

#[test]
fn list_says_that_there_is_no_lock_only_when_it_could_see_all() {
    let reply = |unread| Reply::Locks { locks: vec![], next: None, unread };
    let unread = vec![Unread { backend: "spare".into(), why: "connection refused".into() }];
    let run = Fake::replying(vec![reply(unread)]).run(&["list"]);
    let told = "stormctl: backend spare could not be read: connection refused\n";
    assert_eq!((run.code, run.stderr.as_str()), (69, told));
    let run = Fake::replying(vec![reply(vec![])]).run(&["list", "dev/*"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, "stormctl: no lock matches dev/*\n"));
}

#[test]
fn list_of_a_host_shows_only_that_host() {
    let reply = Reply::Locks { locks: vec![lock()], next: None, unread: vec![] };
    let run = Fake::replying(vec![reply]).run(&["list", "--host", "elsewhere"]);
    run.succeeds("");
    assert!(run.stderr.contains("no locks"));
}

#[test]
fn status_shows_state_time_left_and_backends() {
    let lost = State::Lost(LostReason::TakenBy(Principal::new("otto@bastion3").unwrap()));
    let mut over = lease("old", OTHER_ID);
    (over.state, over.left_ms) = (lost, 0);
    let backend =
        |health| Backend { name: "main".into(), kind: "redis".into(), health, since: Some(SINCE) };
    let first = Status { next: Some(id(ID)), ..status(vec![lease("prod/db", ID)]) };
    let second = Status { backends: vec![backend(Health::Down)], ..status(vec![over]) };
    let fake = Fake::replying(vec![Reply::Status(first), Reply::Status(second)]);
    let run = fake.run(&["status", "--color", "always"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    for part in [
        "you      maria@bastion2",
        "backend  main (redis) \u{1b}[31mcannot be used, see `stormctl doctor`\u{1b}[0m",
        "\u{1b}[32mheld\u{1b}[0m",
        "\u{1b}[31mlost: taken by otto@bastion3\u{1b}[0m",
        "4m30s",
        "schema migration",
    ] {
        assert!(run.stdout.contains(part), "no {part:?} in {}", run.stdout);
    }
}

#[test]
fn doctor_finds_a_missing_agent_and_is_then_not_well() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = stormctl();
    command.arg("--socket").arg(dir.path().join("none")).args(["doctor", "--json"]);
    let run = Run::of(command);
    assert_eq!(run.code, 1);
    let finding = &run.json()["findings"][0];
    assert_eq!((&finding["level"], &finding["about"]), (&"bad".into(), &"socket".into()));
    assert!(finding["mend"].as_str().unwrap().contains("systemctl start stormlockd"));
}

#[test]
fn doctor_adds_its_own_findings_to_the_agents() {
    let finding = |level| Finding {
        level,
        about: "backend main".into(),
        text: "redis forgets on restart".into(),
        mend: Some("turn on appendonly".into()),
    };
    for (level, exit) in [(Level::Warning, 0), (Level::Bad, 1)] {
        let fake = Fake::replying(vec![
            Reply::Status(status(vec![])),
            Reply::Findings(vec![finding(level)]),
        ]);
        let run = fake.run(&["doctor"]);
        assert_eq!(run.code, exit, "{run:?}");
        for part in ["an agent answers on", "you are maria@bastion2", "mend: turn on appendonly"] {
            assert!(run.stdout.contains(part), "no {part:?} in {}", run.stdout);
        }
    }
}

#[test]
fn version_tells_both_sides() {
    let fake = Fake::replying(vec![Reply::Status(status(vec![]))]);
    let run = fake.run(&["-V"]);
    let version = env!("CARGO_PKG_VERSION");
    let socket = fake.socket().display().to_string();
    run.succeeds(&format!(
        "stormctl {version} (protocol 1)\nstormlockd {version} (protocol 1, listens on {socket})\n"
    ));
}

#[test]
fn version_never_fails() {
    let mut command = stormctl();
    command.args(["--socket", "/nowhere/at.all", "-V"]);
    let run = Run::of(command);
    run.succeeds(&format!("stormctl {} (protocol 1)\n", env!("CARGO_PKG_VERSION")));
    assert!(run.stderr.contains("no agent listens"), "{}", run.stderr);
    let run = Fake::new(vec![Act::Mute]).run(&["-V", "--json"]);
    assert_eq!((run.code, run.json()["agent"]["protocol_max"].as_u64()), (0, Some(1)));
}

#[test]
fn completions_are_scripts_that_ask_for_every_verb() {
    let known = ["acquire", "release", "renew", "current", "is-held", "list", "doctor", "prompt"];
    for shell in ["bash", "zsh", "fish"] {
        let mut command = stormctl();
        command.args(["completions", shell]);
        let run = Run::of(command);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        assert!(run.stdout.replace('"', "").contains(&format!("COMPLETE={shell} ")), "{run:?}");
        // As that script asks, when a first word is begun.
        let mut command = stormctl();
        command.env("COMPLETE", shell).env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_INDEX", "1");
        command.args(["--", "stormctl", ""]);
        let run = Run::of(command);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        // zsh and fish tell beside each what it does.
        let verbs = run.stdout.lines().map(|line| line.split([':', '\t']).next().unwrap_or(""));
        for verb in known {
            assert!(verbs.clone().any(|told| told == verb), "no {verb} for {shell}: {run:?}");
        }
    }
    let mut bash = Command::new("bash");
    bash.args(["-euc", "source <(\"$0\" completions bash); complete -p stormctl"]);
    bash.arg(env!("CARGO_BIN_EXE_stormctl"));
    assert!(Run::of(bash).stdout.contains("stormctl"));
    let mut command = stormctl();
    command.args(["completions", "powershell"]);
    Run::of(command).fails(64, &["powershell"]);
}
