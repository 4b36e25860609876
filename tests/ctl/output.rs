//! Streams, formats, colour: stdout is data, stderr is talk, a broken pipe is success.

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use stormlock_protocol::RESOURCES_MAX;
use stormlock_protocol::message::{Lease, Lock, Reply, State};
use stormlock_protocol::name::Reason;

use crate::fake::{Fake, ID, Run, lease, lock, status, stormctl};

#[test]
fn a_broken_pipe_is_success() {
    let commands = [
        (&["acquire", "a"][..], Reply::Acquired(vec![lease("a", ID)])),
        (&["status"], Reply::Status(status(vec![]))),
    ];
    for (args, reply) in commands {
        let fake = Fake::replying(vec![reply]);
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        let mut command = fake.command(args);
        command.stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
        let ended = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{stderr}");
        assert!(!stderr.contains("ipe"), "{stderr}");
    }
}

#[test]
fn data_that_cannot_be_written_is_no_success() {
    let fake = Fake::replying(vec![Reply::Acquired(vec![lease("a", ID)])]);
    let mut command = fake.command(&["acquire", "a"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ended = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let ended = ended.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(70));
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(told.contains("writing the answer to stdout"), "{told}");
    assert!(told.contains(&format!("`stormctl release a {ID}` gives it back")), "{told}");
}

#[test]
fn a_lease_that_is_still_in_the_store_is_not_told_as_released() {
    let leaving = Lease { state: State::Released, ..lease("a", ID) };
    let run = Fake::replying(vec![Reply::Status(status(vec![leaving]))]).run(&["status"]);
    assert!(run.stdout.contains("being released"), "{}", run.stdout);
}

#[test]
fn colour_needs_a_terminal_or_always() {
    let coloured = |args: &[&str], vars: &[(&str, &str)]| {
        let fake = Fake::replying(vec![Reply::Status(status(vec![lease("a", ID)]))]);
        let mut command = fake.command(&[&["status"], args].concat());
        command.envs(vars.iter().copied());
        Run::of(command).stdout.contains('\u{1b}')
    };
    assert!(!coloured(&[], &[]));
    assert!(coloured(&["--color", "always"], &[("NO_COLOR", "1"), ("TERM", "dumb")]));
}

#[test]
fn a_terminal_gets_colour_unless_it_or_the_user_wants_none() {
    let coloured = |args: &[&str], vars: &[(&str, &str)]| {
        let fake = Fake::replying(vec![Reply::Status(status(vec![lease("a", ID)]))]);
        let mut command = fake.command(&[&["status"], args].concat());
        command.env("TERM", "xterm").envs(vars.iter().copied());
        let shown = on_terminal(command, 120);
        assert!(shown.contains("maria@bastion2"), "{shown}");
        shown.contains('\u{1b}')
    };
    assert!(coloured(&[], &[]));
    assert!(coloured(&[], &[("NO_COLOR", "")]));
    assert!(!coloured(&[], &[("NO_COLOR", "1")]));
    assert!(!coloured(&[], &[("TERM", "dumb")]));
    assert!(!coloured(&["--color", "never"], &[]));
}

#[test]
fn a_wide_terminal_shows_more_of_a_reason() {
    let long = "long ".repeat(12).trim_end().to_owned();
    let wordy = Lock { reason: Some(Reason::new(&*long).unwrap()), ..lock() };
    let shown = |columns| {
        let reply = Reply::Locks { locks: vec![wordy.clone()], next: None, unread: vec![] };
        let fake = Fake::replying(vec![reply]);
        on_terminal(fake.command(&["list"]), columns)
    };
    assert!(shown(200).contains(&long));
    let narrow = shown(70);
    assert!(narrow.lines().all(|line| line.trim_end().chars().count() <= 70), "{narrow}");
}

/// The two ends of a terminal of this width: ours, and a program's.
pub(crate) fn terminal(columns: u16) -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&ours, size).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (File::from(ours), theirs)
}

/// What the client writes to a terminal of this width.
fn on_terminal(mut command: Command, columns: u16) -> String {
    let (mut ours, theirs) = terminal(columns);
    let mut child = command.stdout(theirs).spawn().unwrap();
    // The last handle on the other end goes with the child: then reading ends, with EIO.
    drop(command);
    let (mut shown, mut part) = (Vec::new(), [0; 4_096]);
    while let Ok(count @ 1..) = ours.read(&mut part) {
        shown.extend_from_slice(&part[..count]);
    }
    assert!(child.wait().unwrap().success());
    String::from_utf8(shown).unwrap()
}

#[test]
fn json_is_stable() {
    let fake = Fake::replying(vec![Reply::Acquired(vec![lease("prod/db", ID)])]);
    let mut json = fake.run(&["acquire", "prod/db", "-o", "json"]).json();
    let until = json["leases"][0]["until"].take();
    assert!(until.as_str().is_some_and(|until| until.ends_with('Z')), "{until}");
    let expected = serde_json::json!({
        "schema": 1,
        "leases": [{
            "resource": "prod/db",
            "lease": ID,
            "fence": 41,
            "backend": "main",
            "this_host_only": false,
            "state": "held",
            "lost_reason": null,
            "lost_to": null, "lost_why": null,
            "principal": "maria@bastion2",
            "reason": "schema migration",
            "since": "2026-11-25T14:02:31Z",
            "until": null,
            "left_secs": 270,
            "ttl_secs": 300,
            "hold": "no",
            "hold_until": null,
            "attach": "detached",
            "pid": null,
            "waiters": 0,
            "ends_soon": false,
        }],
    });
    assert_eq!(json, expected);
}

#[test]
fn json_lines_are_one_document_each_that_says_what_it_is() {
    let fake = Fake::replying(vec![Reply::Status(status(vec![lease("a", ID)]))]);
    let run = fake.run(&["status", "-o", "jsonl"]);
    let lines: Vec<serde_json::Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = lines.iter().map(|line| (line["schema"].clone(), line["type"].clone()));
    let expected = [(1.into(), "agent".into()), (1.into(), "lease".into())];
    assert_eq!(told.collect::<Vec<(serde_json::Value, serde_json::Value)>>(), expected);
    for (args, reply, what) in [
        (&["is-held", "prod/db"][..], Reply::Verdict { held: true, lock: Some(lock()) }, "held"),
        (&["current", "prod/db"], Reply::Current(Some(lock())), "lock"),
    ] {
        let lines = |format| {
            let run = Fake::replying(vec![reply.clone()]).run(&[args, &["-o", format]].concat());
            run.stdout
        };
        let line: serde_json::Value = serde_json::from_str(&lines("jsonl")).unwrap();
        assert_eq!(line["type"], what, "{args:?}");
        let whole: serde_json::Value = serde_json::from_str(&lines("json")).unwrap();
        assert!(whole["type"].is_null(), "{args:?}");
    }
}

#[test]
fn tsv_has_one_line_per_lock_whatever_it_contains() {
    let tricky = Lock { host: Some("a\tb\nc".into()), ..lock() };
    let reply = Reply::Locks { locks: vec![tricky], next: None, unread: vec![] };
    let run = Fake::replying(vec![reply]).run(&["list", "-o", "tsv"]);
    assert_eq!(run.stdout.lines().count(), 1);
    let fields: Vec<&str> = run.stdout.trim_end().split('\t').collect();
    assert_eq!((fields.len(), fields[2], fields[8]), (11, "a\\tb\\nc", ID));
}

#[test]
fn a_long_reason_is_cut_to_the_columns_and_whole_in_a_pipe_and_for_programs() {
    let long = "long ".repeat(40).trim_end().to_owned();
    let wordy = Lock { reason: Some(Reason::new(&*long).unwrap()), ..lock() };
    let reply = || Reply::Locks { locks: vec![wordy.clone()], next: None, unread: vec![] };
    let fake = Fake::replying(vec![reply()]);
    let mut command = fake.command(&["list"]);
    command.env("COLUMNS", "80");
    let run = Run::of(command);
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 80), "{}", run.stdout);
    assert!(run.stdout.contains('…'));
    let run = Fake::replying(vec![reply()]).run(&["list"]);
    assert!(run.stdout.contains(&long), "{}", run.stdout);
    for format in ["json", "jsonl", "tsv"] {
        let run = Fake::replying(vec![reply()]).run(&["list", "-o", format]);
        assert!(run.stdout.contains(&long), "{format}");
    }
}

#[test]
fn times_for_people_are_local_and_times_for_programs_are_not() {
    let shown = |args: &[&str]| {
        let fake = Fake::replying(vec![Reply::Current(Some(lock()))]);
        let mut command = fake.command(&[&["current", "prod/db"], args].concat());
        command.env("TZ", "CET-1");
        Run::of(command).stdout
    };
    assert!(shown(&[]).contains("Created: 2026-11-25T15:02:31.000\n"));
    assert!(shown(&["--json"]).contains("\"2026-11-25T14:02:31Z\""));
}

#[test]
fn a_usage_error_shows_what_is_invisible_in_an_argument() {
    let mut command = stormctl();
    command.args(["acquire", "a", "-m", "x\u{202e}y\u{7}"]);
    let run = Run::of(command);
    assert_eq!(run.code, 64);
    assert!(run.stderr.contains("'x\\u{202e}y"), "{}", run.stderr);
    assert!(!run.stderr.contains(['\u{202e}', '\u{7}']), "{}", run.stderr);
}

#[test]
fn verbose_says_which_agent_is_asked() {
    let fake = Fake::replying(vec![Reply::Current(Some(lock()))]);
    let run = fake.run(&["-v", "current", "prod/db", "--id-only"]);
    run.succeeds(&format!("{ID}\n"));
    assert!(run.stderr.contains(fake.socket().to_str().unwrap()), "{}", run.stderr);
}

#[test]
fn help_is_data_and_shows_the_exit_codes_once() {
    let help = |args: &[&str]| {
        let mut command = stormctl();
        command.args(args);
        let run = Run::of(command);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        run.stdout
    };
    assert_eq!(help(&["--help"]).matches("75  tempfail").count(), 1);
    assert!(help(&["acquire", "--help"]).contains("Examples:"));
}

#[test]
fn how_many_resources_one_command_takes_is_in_its_help_and_in_its_refusal() {
    let names: Vec<String> = (0..=RESOURCES_MAX).map(|n| format!("r{n}")).collect();
    let told = format!("one command takes at most {RESOURCES_MAX} resources, not {}", names.len());
    for verb in ["acquire", "release", "run", "hold"] {
        let mut command = stormctl();
        command.arg(verb).args(&names);
        Run::of(command).fails(64, &[&told]);
        let mut command = stormctl();
        command.args([verb, "--help"]);
        let help = Run::of(command);
        assert!(help.stdout.contains(&format!("at most {RESOURCES_MAX}")), "{help:?}");
    }
}
