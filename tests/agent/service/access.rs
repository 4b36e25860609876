//! Other users of the host: what they may do is decided by the kernel's word on who they are, and
//! nobody ends another's lease by knowing its id.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use stormlock_protocol::message::Hold;

use super::{NO_PERMISSION, mode, ok, path, run_it, says, stormlockd};
use crate::agent::{Agent, program};
use crate::program::Ran;
use crate::{acquire, locks, wish};

/// Users and groups without names; 65534 is the kernel's word for a stranger.
pub(super) const MARIA: u32 = 70_001;
pub(super) const EVE: u32 = 70_002;
const GROUP: u32 = 70_100;

/// A host with the group `stormlock`, whatever groups this one has.
const WITH_GROUP: &str = "
    { grep -v ^stormlock: /etc/group || true; echo stormlock:x:70100:; } >\"$0\"
    mount --bind \"$0\" /etc/group
    exec \"$@\"";
/// A host without it.
const WITHOUT_GROUP: &str = "
    { grep -v ^stormlock: /etc/group || true; } >\"$0\"
    mount --bind \"$0\" /etc/group
    exec \"$@\"";
/// No rules: what is built in.
const NO_RULES: &str = "host = \"alpha\"\n[backend.here]\nkind = \"local\"\n";

/// Lets other users into the agent's folder, and makes the client theirs to run.
pub(super) fn open_folder(agent: &Agent) {
    let folder = agent.file("");
    fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("its mode");
    fs::copy(program("stormctl"), agent.file("ctl")).expect("a copy");
}

fn start(config: &str, host: &str) -> Agent {
    let mut agent = Agent::prepare(config);
    open_folder(&agent);
    let group = agent.file("group");
    let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", host];
    agent.restart_under(&[&unshare[..], &[path(&group)]].concat(), |_| {});
    agent
}

/// The socket as an administrator's .socket unit may make it: for everybody.
pub(super) fn open_socket(agent: &Agent) {
    let everybody = Permissions::from_mode(0o666);
    fs::set_permissions(agent.socket(), everybody).expect("its mode");
}

/// `stormctl ARGS` by another user.
fn by(agent: &Agent, uid: u32, groups: &str, args: &[&str]) -> Ran {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={uid}"));
    command.arg(match groups {
        "" => "--clear-groups".to_owned(),
        some => format!("--groups={some}"),
    });
    command.arg("--").arg(agent.file("ctl")).arg("--socket").arg(agent.socket()).args(args);
    run_it(&mut command)
}

#[test]
fn without_rules_everybody_sees_and_only_the_group_and_root_take() {
    let agent = start(NO_RULES, WITH_GROUP);
    open_socket(&agent);
    let group = GROUP.to_string();
    let lease = ok(by(&agent, MARIA, &group, &["acquire", "prod/db", "-m", "mine", "--keep"]));
    let lease = lease.trim();

    assert!(ok(by(&agent, EVE, "", &["current", "prod/db"])).contains("70001@alpha"));
    let listed = ok(by(&agent, EVE, "", &["list"]));
    assert!(listed.contains("70001@alpha") && listed.contains("mine"), "{listed}");
    ok(by(&agent, EVE, "", &["is-held", "prod/db"]));
    assert!(!ok(by(&agent, EVE, "", &["status"])).contains("prod/db"), "it is not hers");
    let refused = by(&agent, EVE, "", &["acquire", "free"]);
    says(&refused, NO_PERMISSION, &["70002 may not acquire free", "group `stormlock`", "usermod"]);
    let doctor = by(&agent, EVE, "", &["doctor"]);
    assert!(doctor.stdout.contains("70002@alpha may see locks only"), "{doctor:?}");
    assert_eq!(by(&agent, EVE, &group, &["acquire", "free"]).code, Some(0), "now in the group");

    // Knowing the id of a lease is no right to it, whatever group one is in.
    for verb in ["release", "renew"] {
        let refused = by(&agent, EVE, &group, &[verb, "prod/db", lease]);
        says(&refused, NO_PERMISSION, &["may not release or renew", "root may"]);
        says(&by(&agent, EVE, &group, &[verb, "prod/db"]), 1, &["prod/db"]);
    }
    ok(by(&agent, MARIA, &group, &["renew", "prod/db", lease]));
    // Who has left the group keeps what is held, to give it back.
    ok(by(&agent, MARIA, "", &["is-held", "prod/db", lease, "--by", "me"]));
    says(&by(&agent, MARIA, "", &["renew", "prod/db", lease]), NO_PERMISSION, &["may not acquire"]);
    ok(agent.ctl(&["release", "prod/db", lease]));
    assert!(!ok(agent.ctl(&["list"])).contains("prod/db"), "root may end it by its id");
    ok(by(&agent, EVE, "", &["release", "free"]));
}

#[test]
fn the_socket_is_the_groups_where_there_is_one_and_else_the_agents_own() {
    let agent = start(NO_RULES, WITH_GROUP);
    assert_eq!(mode(&agent.socket()), 0o660);
    ok(by(&agent, MARIA, &GROUP.to_string(), &["acquire", "prod/db"]));
    let refused = by(&agent, EVE, "", &["acquire", "prod/db"]);
    says(&refused, NO_PERMISSION, &["may not use the agent's socket", "usermod -aG stormlock"]);

    let agent = start(NO_RULES, WITHOUT_GROUP);
    assert_eq!(mode(&agent.socket()), 0o600);
    assert!(agent.log().contains("groupadd --system stormlock"), "{}", agent.log());
    says(&by(&agent, EVE, "", &["status"]), NO_PERMISSION, &["may not use the agent's socket"]);
}

#[test]
fn rules_go_by_the_kernels_uid_and_groups_and_the_first_that_matches_decides() {
    let rules = format!(
        "{NO_RULES}[[rule]]\nwho = [\"uid:{EVE}\"]\nresources = [\"prod/*\"]\nmay = []\n\
         [[rule]]\nwho = [\"group:stormlock\"]\nmay = [\"acquire\"]\n\
         [[rule]]\nwho = [\"root\"]\nmay = [\"acquire\", \"release-any\"]\n"
    );
    let agent = start(&rules, WITH_GROUP);
    open_socket(&agent);
    let group = GROUP.to_string();
    let by_eve = |args: &[&str]| by(&agent, EVE, &group, args);
    says(&by_eve(&["acquire", "prod/db"]), NO_PERMISSION, &["rule 1", "allows nothing"]);
    says(&by_eve(&["current", "prod/db"]), NO_PERMISSION, &["rule 1"]);
    ok(by_eve(&["acquire", "dev/db"]));
    let lease = ok(by(&agent, MARIA, &group, &["acquire", "prod/db"]));
    assert!(!ok(by_eve(&["list"])).contains("prod/db"), "what one may not see is not listed");
    says(&by_eve(&["release", "prod/db", lease.trim()]), NO_PERMISSION, &["rule 1"]);
    says(&by(&agent, MARIA, "", &["list"]), NO_PERMISSION, &["no rule"]);
    ok(agent.ctl(&["release", "prod/db", lease.trim()]));
    // The environment counts for nothing.
    let mut lies = Command::new("setpriv");
    lies.args(["--reuid=70002", "--regid=70002", "--clear-groups", "--"]);
    lies.arg(agent.file("ctl")).arg("--socket").arg(agent.socket()).args(["acquire", "lied"]);
    lies.env("USER", "root").env("SUDO_USER", "root").env("LOGNAME", "root");
    says(&run_it(&mut lies), NO_PERMISSION, &["70002 may not acquire"]);
}

#[test]
fn a_user_from_nowhere_is_turned_away() {
    let agent = start(NO_RULES, WITH_GROUP);
    open_socket(&agent);
    says(&by(&agent, 65_534, "", &["list"]), NO_PERMISSION, &["does not accept who you are"]);
    assert!(agent.log().contains("uid 65534 stands for every user"), "{}", agent.log());
}

#[test]
fn a_private_agent_serves_nobody_else_also_not_through_an_open_door() {
    let base = tempfile::tempdir().expect("a folder");
    fs::set_permissions(base.path(), Permissions::from_mode(0o755)).expect("its mode");
    fs::copy(program("stormctl"), base.path().join("ctl")).expect("a copy");
    let script = "
        dir=$(dirname \"$STORMLOCK_SOCKET\")
        as_eve() {
            setpriv --reuid=70002 --regid=70002 --groups=70100 -- \"$TMPDIR/ctl\" \"$@\"
        }
        lease=$(stormctl acquire prod/db --keep)
        as_eve status && exit 41 || test $? = 77
        chmod 755 \"$dir\"
        chmod 666 \"$STORMLOCK_SOCKET\"
        for ask in 'acquire free' 'current prod/db' list \"release prod/db $lease\"; do
            as_eve $ask && exit 42 || test $? = 77
        done
        stormctl is-held prod/db \"$lease\" --by me";
    let mut command = stormlockd(&["dev", "--", "sh", "-euc", script]);
    let ran = run_it(command.env("TMPDIR", base.path()));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("this agent serves only the user with uid 0"), "{ran:?}");
}

#[test]
fn all_leases_and_the_lease_on_a_resource_are_ones_own() {
    let agent = start(NO_RULES, WITH_GROUP);
    open_socket(&agent);
    let mut root = agent.client().expect("the agent answers");
    let held = acquire(&mut root, wish("prod/db", Hold::Keep));
    let group = GROUP.to_string();
    assert_eq!(by(&agent, EVE, &group, &["release", "--all"]).code, Some(0));
    assert_eq!(by(&agent, EVE, &group, &["release", "--if-held", "prod/db"]).code, Some(0));
    assert_eq!(locks(&mut root)[0].lease, held.lease, "another's lease was given back");
}
