//! What a prompt shows, of whatever agent there is.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use stormlock_protocol::frame::{Verdict, Welcome};
use stormlock_protocol::message::{
    Code, Glance, Hold, Lease, LostReason, Refusal, Reply, Request, State,
};
use stormlock_protocol::name::{Principal, Reason, UnixMs};

use crate::fake::{self, Act, Fake, Greet, ID, Run, stormctl};

/// Longer than the limit of 50 ms by all that a busy machine may be slow; a client that waited for
/// the agent would not be back before the agent is.
const BACK_WITHIN: Duration = Duration::from_secs(20);

#[expect(clippy::disallowed_methods, reason = "what the client reads too, to compare with")]
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn lease() -> Lease {
    fake::lease("prod/db", ID)
}

/// One that is held for so many more seconds of an hour.
fn held(left_secs: i64) -> Lease {
    let end = now_ms() + left_secs * 1_000 + 500;
    let since = UnixMs(end - 3_600_000);
    Lease { hold: Hold::Until(UnixMs(end)), since, ..lease() }
}

fn shown_by(surface: &str, vars: &[(&str, &str)], lease: Option<Lease>, more: u32) -> String {
    let fake = Fake::replying(vec![Reply::Glance(Glance { lease, more })]);
    let mut command = stormctl();
    command.env("STORMLOCK_SOCKET", fake.socket()).env("LANG", "C.UTF-8").args(["prompt", surface]);
    command.envs(vars.iter().copied());
    let run = Run::of(command);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run:?}");
    assert_eq!(fake.asked(), Request::Glance);
    run.stdout
}

fn shown(lease: Lease) -> String {
    shown_by("plain", &[], Some(lease), 0)
}

#[test]
fn each_state_of_a_lease_has_its_words() {
    let is = |lease: Lease, text: &str| assert_eq!(shown(lease), text);
    is(held(1_800), "\u{25c6} prod/db 30m ");
    is(Lease { hold: Hold::Keep, ..lease() }, "\u{25c6} prod/db kept ");
    is(Lease { hold: Hold::No, left_ms: 59_900, ..lease() }, "\u{25c6} prod/db 59s ");
    // Less than 15 % is left.
    is(held(500), "\u{25b2} prod/db 8m20s ");
    is(Lease { ends_soon: true, ..held(1_800) }, "\u{25b2} prod/db 30m ");
    let at_risk = Lease { state: State::AtRisk, hold: Hold::Keep, left_ms: 90_000, ..lease() };
    is(at_risk, "\u{25b2} prod/db at risk, 1m30s ");
    let lingers = Lease { state: State::Lingering, hold: Hold::Keep, left_ms: 25_000, ..lease() };
    is(lingers, "\u{25b2} prod/db ends, 25s ");
    is(Lease { state: State::Unknown, ..lease() }, "\u{25b2} prod/db unknown ");
    is(Lease { waiters: 1, ..held(1_800) }, "\u{25c6} prod/db 30m, 1 waits ");
    is(Lease { waiters: 3, ..held(1_800) }, "\u{25c6} prod/db 30m, 3 wait ");
    let here = Lease { this_host_only: true, ..held(1_800) };
    is(here, "\u{25c6} prod/db 30m (this host) ");
    is(Lease { state: State::Lost(LostReason::Expired), ..lease() }, "\u{2716} prod/db lost ");
    let more = shown_by("plain", &[], Some(held(1_800)), 2);
    assert_eq!(more, "\u{25c6} prod/db 30m +2 ");
    assert_eq!(shown_by("plain", &[], None, 0), "");
}

#[test]
fn colours_are_written_as_each_surface_has_them() {
    let lost = || {
        let state = State::Lost(LostReason::StoreLostIt);
        Some(Lease { resource: fake::resource("a"), state, ..lease() })
    };
    for (surface, text) in [
        ("bash", "\u{1}\u{1b}[31m\u{2}\u{2716} a lost\u{1}\u{1b}[0m\u{2} "),
        ("zsh", "%F{red}\u{2716} a lost%f "),
        ("fish", "\u{1b}[31m\u{2716} a lost\u{1b}[0m "),
        ("tmux", "#[fg=red]\u{2716} a lost#[default] "),
        ("plain", "\u{2716} a lost "),
    ] {
        assert_eq!(shown_by(surface, &[("TERM", "xterm")], lost(), 0), text);
        assert_eq!(shown_by(surface, &[("NO_COLOR", "1")], lost(), 0), "\u{2716} a lost ");
        assert_eq!(shown_by(surface, &[("TERM", "dumb")], lost(), 0), "x a lost ");
        let ascii = [("LC_ALL", "C"), ("NO_COLOR", "1")];
        assert_eq!(shown_by(surface, &ascii, lost(), 0), "x a lost ");
    }
}

/// Who breaks a lock says why; that is for `status`, not for what a shell expands.
#[test]
fn nothing_that_another_wrote_is_shown() {
    let hostile = "$(touch /tmp/x) %F{red} \\w #[bg=red]";
    let by = LostReason::BrokenBy {
        who: Principal::foreign(hostile),
        why: Some(Reason::foreign(hostile)),
    };
    let lost = Lease {
        state: State::Lost(by),
        principal: Principal::foreign(hostile),
        reason: Some(Reason::foreign(hostile)),
        backend: hostile.to_owned(),
        ..lease()
    };
    for surface in ["bash", "zsh", "fish", "tmux", "plain"] {
        let shown = shown_by(surface, &[("NO_COLOR", "1")], Some(lost.clone()), 0);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._/:@+- \u{2716}".contains(c);
        assert!(shown.chars().all(is_plain), "{shown:?}");
    }
}

#[expect(clippy::disallowed_methods, reason = "how long somebody waits, not a lease's time")]
fn in_doubt(fake: &Fake) {
    let began = Instant::now();
    let mut command = stormctl();
    command.env("STORMLOCK_SOCKET", fake.socket()).args(["prompt", "bash"]).env("NO_COLOR", "1");
    let run = Run::of(command);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "? ", ""), "{run:?}");
    assert!(began.elapsed() < BACK_WITHIN, "{:?}", began.elapsed());
}

#[test]
fn an_agent_that_gives_no_answer_leaves_a_doubt_and_holds_up_nothing() {
    let no = Refusal::new(Code::Internal, "no");
    for act in [
        Act::Mute,
        Act::Close,
        Act::Part(vec![0xff, 0, 0, 0, 7]),
        Act::Bytes(vec![0xff; 100_000]),
        Act::Bytes(b"\x10\x00\x00\x00".repeat(10_000)),
        Act::Reply(Reply::Current(None)),
        Act::Reply(Reply::Refused(no)),
    ] {
        in_doubt(&Fake::new(vec![act]));
    }
    for greet in [
        Greet::With(Welcome::refusal(Verdict::AgentTooOld)),
        Greet::With(Welcome::refusal(Verdict::TooMany)),
        Greet::Bytes(Vec::new()),
        Greet::Bytes(vec![b'x'; 1_000_000]),
    ] {
        in_doubt(&Fake::greeting(greet, vec![]));
    }
}

#[test]
fn a_pipe_that_nobody_reads_any_more_is_no_failure() {
    let fake = Fake::replying(vec![Reply::Glance(Glance { lease: Some(lease()), more: 0 })]);
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    drop(ours);
    let mut command = stormctl();
    command.env("STORMLOCK_SOCKET", fake.socket()).arg("prompt");
    let ended = command.stdout(OwnedFd::from(theirs)).output().expect("a client");
    assert_eq!((ended.status.code(), ended.stderr), (Some(0), vec![]));
    assert_eq!(fake.asked(), Request::Glance);
}

#[test]
fn what_cannot_be_written_is_no_failure() {
    for args in [&["prompt"][..], &["prompt", "plain", "--socket"]] {
        let fake = Fake::replying(vec![Reply::Glance(Glance { lease: Some(lease()), more: 0 })]);
        let mut command = stormctl();
        command.env("STORMLOCK_SOCKET", fake.socket()).args(args);
        if args.len() > 2 {
            command.arg(fake.socket());
        }
        let full = File::options().write(true).open("/dev/full").expect("a full device");
        let ended = command.stdout(full).output().expect("a client");
        assert_eq!((ended.status.code(), ended.stderr), (Some(0), vec![]), "{args:?}");
        assert_eq!(fake.asked(), Request::Glance);
    }
}

#[test]
fn without_an_agent_nothing_is_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    let dead = dir.path().join("dead");
    // Its listener is gone at once.
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("a socket"));
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    for socket in [dead, file, dir.path().join("none"), "x".repeat(200).into()] {
        let mut command = stormctl();
        command.env("STORMLOCK_SOCKET", &socket).arg("prompt");
        let run = Run::of(command);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""), "{run:?}");
    }
}

#[test]
fn one_that_follows_says_each_change_once_and_ends_when_nothing_is_left() {
    let kept = || Some(Lease { hold: Hold::Keep, ..lease() });
    let lost = Some(Lease { state: State::Lost(LostReason::Expired), ..lease() });
    let replies = [kept(), kept(), lost, None];
    let replies = replies.map(|lease| Reply::Glance(Glance { lease, more: 0 }));
    let fake = Fake::replying(replies.into());
    let mut command = fake.command(&["prompt", "--follow"]);
    command.env("LANG", "C.UTF-8");
    Run::of(command).succeeds("\u{25c6} prod/db kept \n\u{2716} prod/db lost \n\n");
}

/// A prompt may take many processes to draw: not each second.
#[test]
fn that_time_passes_is_no_change() {
    let replies = [Some(held(3_000)), Some(held(2_000)), None];
    let replies = replies.map(|lease| Reply::Glance(Glance { lease, more: 0 }));
    let fake = Fake::replying(replies.into());
    let mut command = fake.command(&["prompt", "--follow"]);
    command.env("LANG", "C.UTF-8");
    Run::of(command).succeeds("\u{25c6} prod/db 50m \n\n");
}

#[test]
fn an_agent_that_is_for_others_shows_nothing() {
    let fake = Fake::greeting(Greet::With(Welcome::refusal(Verdict::Denied)), vec![]);
    fake.run(&["prompt"]).succeeds("");
}

/// What a process that stands for a shell does, and whether it is there yet.
fn shell(script: &str) -> (Child, BufReader<ChildStdout>) {
    let mut shell = Command::new("bash");
    shell.args(["--noprofile", "--norc", "-c", script]);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash");
    let mut told = BufReader::new(shell.stdout.take().expect("its words"));
    assert_eq!(next(&mut told), "ready");
    (shell, told)
}

fn next(told: &mut impl BufRead) -> String {
    let mut line = String::new();
    told.read_line(&mut line).expect("a line");
    line.trim_end().to_owned()
}

fn telling(shell: &Child, replies: usize) -> Run {
    let kept = || Reply::Glance(Glance { lease: Some(lease()), more: 0 });
    let none = Reply::Glance(Glance { lease: None, more: 0 });
    let fake = Fake::replying((0..replies).map(|_| kept()).chain([none]).collect());
    Run::of(fake.command(&["prompt", "fish", "--tell", &shell.id().to_string()]))
}

#[test]
fn a_shell_is_told_by_a_signal_and_asks_by_itself() {
    let (mut shell, mut told) =
        shell("trap 'echo told' USR1; echo ready; until read -r line; do :; done");
    telling(&shell, 1).succeeds("");
    assert_eq!(next(&mut told), "told");
    shell.kill().expect("it is there");
    shell.wait().expect("its end");
}

/// The signal would end it.
#[test]
fn a_shell_that_became_another_program_is_not_signalled() {
    let (mut shell, _told) = shell("echo ready; exec cat");
    telling(&shell, 1).succeeds("");
    drop(shell.stdin.take());
    let end = shell.wait().expect("its end");
    assert!(end.success(), "{end}");
}
