//! What `doctor` finds from its own side of the socket, and what of it is left when it is quiet.

use std::process::{Command, Stdio};

use stormlock_protocol::message::{Agent, Finding, Level, Reply, Status};

use crate::fake::{Fake, Run, status};
use crate::output::terminal;

fn finding(level: Level, text: &str) -> Finding {
    let mend = (level != Level::Good).then(|| "turn it on".to_owned());
    Finding { level, about: "backend main".into(), text: text.into(), mend }
}

fn fake(agent: Agent, findings: Vec<Finding>) -> Fake {
    let status = Status { agent, ..status(vec![]) };
    Fake::replying(vec![Reply::Status(status), Reply::Findings(findings)])
}

#[test]
fn an_agent_of_another_version_is_told_and_how_to_mend_it() {
    let agent = Agent { version: "9.8.7".into(), ..status(vec![]).agent };
    let run = fake(agent, vec![]).run(&["doctor"]);
    assert_eq!(run.code, 0, "{run:?}");
    let client = env!("CARGO_PKG_VERSION");
    for part in [
        &format!("note     versions  client {client}, agent 9.8.7: they understand each other"),
        "mend: after an update restart the agent: `systemctl restart stormlockd`",
    ] {
        assert!(run.stdout.contains(part), "no {part:?} in {}", run.stdout);
    }
}

#[test]
fn a_socket_in_the_environment_that_does_not_count_is_told() {
    let fake = fake(status(vec![]).agent, vec![]);
    let doctor = |words: &[&str]| {
        // Python changes one of its user ids alone, which needs the rights of the administrator.
        let mut command = Command::new("python3");
        command
            .args(["-c", "import os, sys; eval(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"]);
        command.args(words).arg(env!("CARGO_BIN_EXE_stormctl"));
        command.arg("--socket").arg(fake.socket()).arg("doctor");
        command.env("STORMLOCK_SOCKET", "/tmp/planted");
        Run::of(command)
    };
    let told = "$STORMLOCK_SOCKET is ignored: this process has other rights than its caller";
    let run = doctor(&["os.setresuid(65534, -1, -1)"]);
    assert!(run.stdout.contains(told), "{run:?}");
}

#[test]
fn a_quiet_doctor_tells_of_problems_only() {
    let findings = || {
        vec![
            finding(Level::Good, "all is well"),
            finding(Level::Note, "it has replicas"),
            finding(Level::Warning, "it forgets"),
            finding(Level::Bad, "it is full"),
        ]
    };
    let run = fake(status(vec![]).agent, findings()).run(&["-q", "doctor"]);
    let expected = "warning  backend main  it forgets\n                       mend: turn it on\n\
                    bad      backend main  it is full\n                       mend: turn it on\n";
    assert_eq!((run.code, run.stdout.as_str()), (1, expected));
    let run = fake(status(vec![]).agent, findings()[..1].to_vec()).run(&["-q", "doctor"]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""));
}

/// The client's parent is this shell, if that is not the last of what it does.
fn doctor_in_a_shell(before: &str, standard_error: Stdio) -> String {
    let fake = fake(status(vec![]).agent, vec![]);
    let mut bash = Command::new("bash");
    bash.args(["--noprofile", "--norc", "-c"]).arg(format!("{before} \"$@\"; exit"));
    bash.args(["-", env!("CARGO_BIN_EXE_stormctl"), "doctor"]);
    bash.env("STORMLOCK_SOCKET", fake.socket()).stdout(Stdio::piped()).stderr(standard_error);
    let run = bash.output().expect("bash");
    assert!(run.status.success(), "{run:?}");
    String::from_utf8_lossy(&run.stdout).into_owned()
}

#[test]
fn a_shell_is_told_whether_its_prompt_shows_locks() {
    let hooked = doctor_in_a_shell("STORMLOCK_SHELL=$$", Stdio::null());
    assert!(
        hooked.contains("good     shell     the prompt of this bash shows locks\n"),
        "{hooked}"
    );
    // Of another shell above this one.
    let (_ours, theirs) = terminal(80);
    let bare = doctor_in_a_shell("STORMLOCK_SHELL=1", theirs.into());
    let told = "note     shell     the prompt of this bash shows no locks\n                   \
                mend: put `eval \"$(stormctl init bash)\"` into ~/.bashrc\n";
    assert!(bare.contains(told), "{bare}");
    let script = doctor_in_a_shell("", Stdio::null());
    assert!(!script.contains("shell"), "{script}");
}
