//! People of the host by their names and groups, under rules, behind sudo and in user namespaces:
//! who somebody is the kernel says, and every limit of a rule is met by those whom it names.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::access::{EVE, MARIA, open_folder, open_socket};
use super::{NO_PERMISSION, ok, path, run_it, says};
use crate::agent::Agent;
use crate::program::Ran;
use crate::until;

const NO: i32 = 1;
const TEMP_FAIL: i32 = 75;
/// The group of those who may do more.
const OPS: u32 = 70_101;
/// A host with these people. Which groups somebody is in is for the kernel to say: eve was put into
/// ops, and has not logged in since.
const PEOPLE: [(&str, &str); 3] = [
    ("passwd", "maria:x:70001:70001::/:/bin/sh\neve:x:70002:70002::/:/bin/sh\n"),
    ("group", "maria:x:70001:\neve:x:70002:\nops:x:70101:eve\n"),
    ("shadow", "maria:*:19000:0:99999:7:::\neve:*:19000:0:99999:7:::\n"),
];
/// Maria may become anybody.
const SUDOERS: &str = "root ALL=(ALL) ALL\nmaria ALL=(ALL:ALL) NOPASSWD: ALL\n";
/// Puts these in the place of the host's, for one command and what it starts.
const WITH_PEOPLE: &str = "
    for file in passwd group shadow sudoers; do mount --bind \"$0/$file\" \"/etc/$file\"; done
    exec \"$@\"";
/// What each may, and how much of it.
const RULES: &str = "host = \"alpha\"\n[backend.here]\nkind = \"local\"\n
[[rule]]\nwho = [\"user:maria\"]\nresources = [\"prod/*\"]\nmay = [\"acquire\"]
max_ttl = \"1m\"\nmax_hold = \"1h\"\nmax_leases = 2\nrequire_reason = true
[[rule]]\nwho = [\"group:ops\"]\nresources = [\"stage/*\"]\nmay = [\"acquire\", \"break\"]
[[rule]]\nwho = [\"root\"]\nmay = [\"acquire\", \"release-any\"]\n";

/// Words before a command that has these people around it.
fn with_people(agent: &Agent) -> Vec<String> {
    let folder = agent.file("etc");
    if !folder.exists() {
        fs::create_dir(&folder).expect("a folder");
        for (file, more) in PEOPLE {
            let known = fs::read_to_string(format!("/etc/{file}")).expect("a host's own file");
            write(agent, file, &format!("{}\n{more}", known.trim_end()), 0o644);
        }
        write(agent, "sudoers", SUDOERS, 0o440);
    }
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", WITH_PEOPLE];
    words.into_iter().chain([path(&folder)]).map(str::to_owned).collect()
}

fn write(agent: &Agent, file: &str, text: &str, mode: u32) {
    let file = agent.file("etc").join(file);
    fs::write(&file, text).expect("its folder is ours");
    fs::set_permissions(&file, Permissions::from_mode(mode)).expect("its mode");
}

fn start(before: &[&str]) -> Agent {
    let mut agent = Agent::prepare(RULES);
    open_folder(&agent);
    let around = with_people(&agent);
    let words: Vec<&str> =
        around.iter().map(String::as_str).chain(before.iter().copied()).collect();
    agent.restart_under(&words, |_| {});
    open_socket(&agent);
    agent
}

/// `BEFORE stormctl ARGS` by a user with these groups besides their own.
fn by(agent: &Agent, uid: u32, groups: &[u32], before: &[&str], args: &[&str]) -> Ran {
    run_it(&mut command(agent, uid, groups, before, args))
}

fn command(agent: &Agent, uid: u32, groups: &[u32], before: &[&str], args: &[&str]) -> Command {
    let around = with_people(agent);
    let mut command = Command::new(&around[0]);
    command.args(&around[1..]).args([
        "setpriv",
        &format!("--reuid={uid}"),
        &format!("--regid={uid}"),
    ]);
    match groups {
        [] => command.arg("--clear-groups"),
        some => {
            let groups: Vec<String> = some.iter().map(u32::to_string).collect();
            command.arg(format!("--groups={}", groups.join(",")))
        }
    };
    command.args(before).arg(agent.file("ctl")).arg("--socket").arg(agent.socket()).args(args);
    command
}

#[test]
fn each_limit_of_a_rule_is_met_and_its_refusal_names_the_rule() {
    let agent = start(&[]);
    let maria = |args: &[&str]| by(&agent, MARIA, &[], &[], args);
    let rule = "rule 1 (line 5 of the configuration)";
    let no = |args: &[&str], words: &[&str]| says(&maria(args), NO_PERMISSION, words);
    no(&["acquire", "prod/db"], &["with a reason only", rule, "--reason"]);
    // What looks empty says nothing.
    no(&["acquire", "prod/db", "-m", "\u{2800}-"], &["with a reason only", rule, "--reason"]);
    no(&["acquire", "prod/db", "-m", "x", "--ttl", "2m"], &["ttl of 2m", "1m", rule]);
    no(&["acquire", "prod/db", "-m", "x", "--keep"], &["at most 1h", rule, "--for 1h"]);
    no(&["acquire", "prod/db", "-m", "x", "--for", "2h"], &["at most 1h", rule]);
    no(&["run", "prod/db", "-m", "x", "--for", "2h", "--", "true"], &["at most 1h", rule]);
    no(&["acquire", "stage/db", "-m", "x"], &["maria may not acquire stage/db", "no rule"]);
    // Whoever names no ttl gets what is allowed.
    let lease = ok(maria(&["acquire", "prod/db", "-m", "x"]));
    assert!(ok(maria(&["status"])).contains("59s"), "less than the usual quarter of an hour");
    ok(maria(&["acquire", "prod/other", "-m", "x", "--for", "30m"]));
    let third = maria(&["acquire", "prod/third", "-m", "x"]);
    says(&third, TEMP_FAIL, &["may have 2 leases at once", rule, "release some first"]);
    // A lease grows beyond none of it afterwards.
    no(&["renew", "prod/other", "--for", "2h"], &["at most 1h", rule]);
    no(&["renew", "prod/other", "--ttl", "2m"], &["ttl of 2m", rule]);
    no(&["break", "prod/db", "-m", "x", "--yes"], &["may not break prod/db", rule]);
    // The others under their rules.
    let ops = |args: &[&str]| by(&agent, EVE, &[OPS], &[], args);
    ok(ops(&["acquire", "stage/db", "--keep"]));
    says(&ops(&["current", "prod/db"]), NO_PERMISSION, &["eve may not see prod/db", "no rule"]);
    says(&ops(&["release", "prod/db", lease.trim()]), NO_PERMISSION, &["no rule"]);
    ok(ops(&["break", "stage/db", "-m", "x", "--yes", "--now"]));
    ok(agent.ctl(&["release", "prod/db", lease.trim()]));
    says(&agent.ctl(&["break", "prod/other", "-m", "x", "--yes"]), NO_PERMISSION, &["rule 3"]);
    assert!(ok(maria(&["list"])).contains("prod/other"));
    assert!(!ok(ops(&["list"])).contains("prod/"), "what one may not see is not listed");
}

#[test]
fn doctor_says_what_you_may_do_on_what_and_by_which_rule() {
    let agent = start(&[]);
    let maria = ok(by(&agent, MARIA, &[], &[], &["doctor"]));
    let limits = "prod/*: read, acquire, with a reason, ttl up to 1m, held up to 1h, 2 leases at \
                  once; rule 1 (line 5 of the configuration)";
    assert!(maria.contains(limits) && !maria.contains("rule 2"), "{maria}");
    let ops = ok(by(&agent, EVE, &[OPS], &[], &["doctor"]));
    assert!(ops.contains("stage/*: read, acquire, break; rule 2"), "{ops}");
    // Who may see nothing learns nothing of the agent's stores and files, and asks none of them.
    assert!(ops.contains("backend here") && ops.contains("audit"), "{ops}");
    let status = ok(by(&agent, EVE, &[], &[], &["status"]));
    assert!(!status.contains("backend"), "{status}");
    let eve = ok(by(&agent, EVE, &[], &[], &["doctor"]));
    assert!(!eve.contains("backend") && !eve.contains("audit"), "{eve}");
    assert!(eve.contains("eve@alpha may nothing") && !eve.contains("; rule"), "{eve}");
    assert!(eve.contains("ask an administrator for a rule"), "{eve}");
}

#[test]
fn behind_sudo_somebody_is_whom_they_became_and_nothing_that_sudo_says_of_them_counts() {
    let agent = start(&[]);
    let maria = |before: &[&str], args: &[&str]| by(&agent, MARIA, &[], before, args);
    let you = |ran: Ran| ok(ran).lines().find(|it| it.starts_with("you ")).unwrap().to_owned();
    assert!(you(maria(&[], &["status"])).ends_with("maria@alpha"));
    assert!(you(maria(&["sudo", "-n"], &["status"])).ends_with("root@alpha"));
    assert!(you(maria(&["sudo", "-n", "-u", "eve"], &["status"])).ends_with("eve@alpha"));
    // sudo gives a new process the groups of the group file, as a login does.
    ok(maria(&["sudo", "-n", "-u", "eve"], &["acquire", "stage/db", "--keep"]));
    assert_eq!(maria(&[], &["release", "stage/db"]).code, Some(NO));
    let as_if = ["env", "SUDO_USER=eve", "SUDO_UID=70002", "USER=eve", "LOGNAME=eve"];
    assert_eq!(maria(&as_if, &["release", "stage/db"]).code, Some(NO));
    says(&maria(&as_if, &["acquire", "stage/x"]), NO_PERMISSION, &["maria may not"]);
    // Root's lease is root's, whoever became root to take it.
    ok(maria(&["sudo", "-n"], &["acquire", "prod/db", "--keep"]));
    assert_eq!(maria(&[], &["release", "prod/db"]).code, Some(NO));
    ok(maria(&["sudo", "-n"], &["release", "prod/db"]));
    ok(maria(&["sudo", "-n", "-u", "eve"], &["release", "stage/db"]));
}

#[test]
fn root_of_a_user_namespace_is_whoever_made_it() {
    let agent = start(&[]);
    let as_root = ["unshare", "--user", "--map-root-user"];
    let inside = by(&agent, MARIA, &[], &as_root, &["status"]);
    assert!(ok(inside).contains("maria@alpha"), "not root");
    let ran = by(&agent, MARIA, &[], &as_root, &["acquire", "dev/db"]);
    says(&ran, NO_PERMISSION, &["maria may not acquire dev/db"]);
    // What it is in there is no member of what the agent's host calls so either.
    let ran = by(&agent, EVE, &[], &as_root, &["acquire", "stage/db"]);
    says(&ran, NO_PERMISSION, &["eve may not acquire stage/db"]);
    ok(by(&agent, EVE, &[OPS], &as_root, &["acquire", "stage/db"]));
}

#[test]
fn an_agent_in_a_user_namespace_serves_nobody_whom_it_cannot_tell_from_others() {
    let agent = start(&["unshare", "--user", "--map-root-user"]);
    ok(agent.ctl(&["acquire", "dev/db", "--keep"]));
    for (uid, groups) in [(EVE, &[OPS][..]), (MARIA, &[])] {
        let ran = by(&agent, uid, groups, &[], &["list"]);
        says(&ran, NO_PERMISSION, &["does not accept who you are"]);
    }
    assert!(agent.log().contains("uid 65534 stands for every user"), "{}", agent.log());
}

#[test]
fn whoever_waited_under_other_rules_is_under_those_of_now() {
    let agent = start(&[]);
    ok(by(&agent, EVE, &[OPS], &[], &["acquire", "stage/db", "--keep"]));
    let mut wait = command(&agent, EVE, &[OPS], &[], &["acquire", "stage/db", "-w", "--keep"]);
    let waiting = wait.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    until("it waits", || {
        let status = ok(by(&agent, EVE, &[OPS], &[], &["status", "-o", "json"]));
        status.contains("\"waiters\": 1").then_some(())
    });
    agent.configure(&RULES.replace("[\"acquire\", \"break\"]", "[\"read\"]"));
    agent.signal(rustix::process::Signal::HUP);
    until("it is in force", || {
        (by(&agent, EVE, &[OPS], &[], &["acquire", "stage/x"]).code == Some(NO_PERMISSION))
            .then_some(())
    });
    ok(by(&agent, EVE, &[OPS], &[], &["release", "stage/db"]));
    let ended = waiting.wait_with_output().expect("its end");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(NO_PERMISSION), "{told}");
    assert!(told.contains("rule 2") && ended.stdout.is_empty(), "{told}");
    until("it is free", || {
        (by(&agent, EVE, &[OPS], &[], &["is-held", "stage/db"]).code == Some(NO)).then_some(())
    });
}
