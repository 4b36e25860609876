//! What somebody planted where the agent has its files: links, pipes, devices, directories, files
//! of another user, directories where everybody may write. The agent says what is there and what to
//! do, follows nothing, waits for nothing, and writes through no name that another could give.
//!
//! Not here: sockets of live and dead agents (`service/second`).

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use stormlock_protocol::message::{Hold, State};

use crate::agent::{Agent, program};
use crate::day::ok;
use crate::program::{Ran, run};
use crate::{acquire, leases, local, locks, until, wish};

const UNAVAILABLE: i32 = 69;
const CONFIG: i32 = 78;
/// A user without a name.
const EVE: u32 = 70_101;
/// Longest time for a refusal; whoever waits for a pipe takes longer.
const AT_ONCE: Duration = Duration::from_secs(60);
/// What nobody may write to.
const PRECIOUS: &str = "precious\n";

/// What stands in the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    /// A symbolic link to a file of root's that others rely on.
    Link,
    /// A symbolic link to nothing.
    Dangling,
    /// Another name of that file.
    HardLink,
    Fifo,
    Device,
    Directory,
    /// A file of another user's.
    Foreign,
    /// A socket that nobody listens on.
    Socket,
}

use Planted::{Dangling, Device, Directory, Fifo, Foreign, HardLink, Link, Socket};

/// Puts it there, instead of what was.
fn plant(what: Planted, at: &Path) {
    let precious = beside(at, "precious");
    fs::write(&precious, PRECIOUS).expect("a file");
    fs::set_permissions(&precious, Permissions::from_mode(0o600)).expect("its mode");
    match what {
        Link => symlink(&precious, at).expect("a link"),
        Dangling => symlink(beside(at, "nowhere"), at).expect("a link"),
        HardLink => fs::hard_link(&precious, at).expect("a second name"),
        Fifo => node(at, &["p"]),
        // Reading it never ends.
        Device => node(at, &["c", "1", "5"]),
        Directory => fs::create_dir(at).expect("a directory"),
        Foreign => {
            fs::write(at, PRECIOUS).expect("a file");
            fs::set_permissions(at, Permissions::from_mode(0o600)).expect("its mode");
            chown(at, Some(EVE), Some(EVE)).expect("tests run as root");
        }
        Socket => drop(UnixListener::bind(at).expect("a socket")),
    }
}

fn node(at: &Path, kind: &[&str]) {
    let made = Command::new("mknod").args(["-m", "600"]).arg(at).args(kind).status();
    assert!(made.expect("mknod").success());
}

/// Takes it away again; it has to be there yet, and what it led to as it was.
fn is_untouched(what: Planted, at: &Path) {
    let kind = fs::symlink_metadata(at).unwrap_or_else(|e| panic!("{what:?}: {e}")).file_type();
    let is_it = match what {
        Link | Dangling => kind.is_symlink(),
        HardLink | Foreign => kind.is_file(),
        Fifo => kind.is_fifo(),
        Device => kind.is_char_device(),
        Directory => kind.is_dir(),
        Socket => kind.is_socket(),
    };
    assert!(is_it, "{what:?} was replaced");
    assert!(!beside(at, "nowhere").exists(), "a file was made where a link leads");
    let precious = beside(at, "precious");
    assert_eq!(fs::read_to_string(&precious).expect("it is there"), PRECIOUS, "{what:?}");
    match what {
        Directory => fs::remove_dir(at).expect("it is empty"),
        _ => fs::remove_file(at).expect("it is there"),
    }
    fs::remove_file(precious).expect("it is there");
}

fn beside(at: &Path, name: &str) -> PathBuf {
    at.with_file_name(name)
}

fn mode(at: &Path, mode: u32) {
    fs::set_permissions(at, Permissions::from_mode(mode)).expect("its mode");
}

fn stormlockd(agent: &Agent, more: &[&str]) -> Ran {
    let mut command = Command::new(program("stormlockd"));
    command.arg("--config").arg(agent.file("stormlockd.toml"));
    command.arg("--socket").arg(agent.socket()).arg("--state").arg(agent.state());
    run(command.args(more), AT_ONCE)
}

/// It does not start, and says so in these words.
fn refuses(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    let said = ran.stderr.lines().rfind(|line| line.starts_with("stormlockd: "));
    let said = said.unwrap_or_else(|| panic!("{ran:?}"));
    for word in words {
        assert!(said.contains(word), "{word} is missing: {said}");
    }
}

/// It starts, answers, and stops.
fn serves(agent: &mut Agent) {
    agent.restart();
    assert!(agent.stop().success(), "{}", agent.log());
}

#[test]
fn a_configuration_that_another_user_could_change_or_that_is_no_file_is_refused() {
    let mut agent = Agent::prepare(&local());
    let file = agent.file("stormlockd.toml");
    let text = fs::read_to_string(&file).expect("it is there");
    fs::remove_file(&file).expect("it is there");
    for (what, words) in [
        (Dangling, "no such file"),
        (Fifo, "it is a pipe"),
        (Device, "it is a device"),
        (Directory, "is a directory"),
        (Foreign, "belongs to uid 70101, run: chown root"),
        (Socket, "no such device or address"),
    ] {
        plant(what, &file);
        refuses(&stormlockd(&agent, &[]), CONFIG, &["stormlockd.toml", words]);
        is_untouched(what, &file);
    }

    // What is in somebody's directory they can swap for an older one.
    fs::remove_file(&file).ok();
    fs::remove_dir(&file).ok();
    let theirs = agent.file("theirs");
    fs::create_dir(&theirs).expect("a folder");
    fs::write(theirs.join("stormlockd.toml"), &text).expect("a file");
    symlink(theirs.join("stormlockd.toml"), &file).expect("a link");
    lchown(&theirs, Some(EVE), None).expect("tests run as root");
    refuses(&stormlockd(&agent, &[]), CONFIG, &["can replace it, run: chown root"]);
    fs::remove_file(&file).expect("it is there");

    // As configuration managers have it; but not by anybody's hand.
    let managed = agent.file("managed.toml");
    fs::write(&managed, &text).expect("a file");
    symlink(&managed, &file).expect("a link");
    serves(&mut agent);
    lchown(&file, Some(EVE), Some(EVE)).expect("tests run as root");
    let words = ["uid 70101, whose symbolic link", "chown -h root"];
    refuses(&stormlockd(&agent, &[]), CONFIG, &words);
    fs::remove_file(&file).expect("it is there");
    fs::hard_link(&managed, &file).expect("a second name");
    serves(&mut agent);

    for (bits, words) in [(0o777, "everyone can replace it, run: chmod o-w"), (0o1777, "")] {
        let dir = agent.file("");
        mode(&dir, bits);
        if words.is_empty() {
            mode(&agent.state(), 0o700);
            serves(&mut agent);
        } else {
            refuses(&stormlockd(&agent, &[]), CONFIG, &[words]);
        }
        mode(&dir, 0o700);
    }
}

#[test]
fn what_takes_the_place_of_the_configuration_of_a_running_agent_changes_nothing() {
    let agent = Agent::start(&local());
    let mut client = agent.client().expect("it answers");
    let held = acquire(&mut client, wish("prod/db", Hold::Keep));
    let file = agent.file("stormlockd.toml");
    let text = fs::read_to_string(&file).expect("it is there");
    for what in [Dangling, Fifo, Device, Directory, Foreign] {
        fs::remove_file(&file).expect("it is there");
        let refused = || agent.log().matches("is refused and the old one stays").count();
        let before = refused();
        plant(what, &file);
        agent.signal(Signal::HUP);
        until("it is refused", || (refused() > before).then_some(()));
        assert_eq!(leases(&mut client)[0].lease, held.lease, "{what:?}");
        is_untouched(what, &file);
        agent.configure(&text);
    }
    assert_eq!(ok(agent.ctl(&["acquire", "another"])).trim().len(), 32);
}

#[test]
fn a_password_is_read_from_a_file_and_nothing_else_and_waited_for_nowhere() {
    let agent = Agent::prepare(&local());
    let secret = agent.file("secret");
    agent.configure(&format!(
        "host = \"alpha\"\n[backend.main]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:1\"\n\
         password_file = \"{}\"\n",
        secret.display()
    ));
    for (what, words) in [
        (Dangling, "no such file"),
        (Fifo, "it is a pipe"),
        (Device, "it is a device"),
        (Directory, "is a directory"),
        (Socket, "no such device or address"),
    ] {
        plant(what, &secret);
        let ran = stormlockd(&agent, &[]);
        refuses(&ran, CONFIG, &["password_file", "secret", words]);
        assert!(!ran.stderr.contains("precious"), "{ran:?}");
        is_untouched(what, &secret);
    }
}

#[test]
fn where_the_socket_or_its_lock_should_be_nothing_is_followed_waited_for_or_removed() {
    let mut agent = Agent::prepare(&local());
    let (socket, lock) = (agent.socket(), agent.file("socket.lock"));
    for (what, words) in [
        (Link, "a symbolic link is there"),
        (Dangling, "a symbolic link is there"),
        (HardLink, "it is no socket"),
        (Fifo, "it is no socket"),
        (Device, "it is no socket"),
        (Directory, "it is no socket"),
        (Foreign, "it is no socket"),
    ] {
        plant(what, &socket);
        refuses(&stormlockd(&agent, &[]), UNAVAILABLE, &["will not listen on", words]);
        is_untouched(what, &socket);
    }
    fs::remove_file(&lock).expect("an earlier start made it");
    for (what, words) in [
        (Link, "symbolic link"),
        (Dangling, "symbolic link"),
        (Fifo, "a file of the agent's own"),
        (Device, "a file of the agent's own"),
        (Directory, "directory"),
        (Foreign, "a file of the agent's own, and something of uid 70101 is there"),
        (Socket, "no such device or address"),
    ] {
        plant(what, &lock);
        refuses(&stormlockd(&agent, &[]), UNAVAILABLE, &["socket.lock", words]);
        is_untouched(what, &lock);
    }
    // In /tmp anybody may make names, and nobody takes another's away.
    mode(&agent.file(""), 0o1777);
    serves(&mut agent);
    mode(&agent.file(""), 0o700);
}

#[test]
fn a_state_directory_that_is_none_of_the_agents_own_is_refused() {
    let mut agent = Agent::prepare(&local());
    let state = agent.state();
    fs::remove_dir(&state).expect("it is empty");
    for (what, words) in [
        (Dangling, "file exists"),
        (Fifo, "file exists"),
        (Device, "file exists"),
        (HardLink, "file exists"),
        (Foreign, "file exists"),
        (Socket, "file exists"),
    ] {
        plant(what, &state);
        refuses(&stormlockd(&agent, &[]), UNAVAILABLE, &["the state directory", words]);
        is_untouched(what, &state);
    }
    let real = agent.file("real");
    fs::create_dir(&real).expect("a directory");
    mode(&real, 0o700);
    symlink(&real, &state).expect("a link");
    refuses(&stormlockd(&agent, &[]), UNAVAILABLE, &["it is a symbolic link"]);
    assert_eq!(fs::read_dir(&real).expect("it is there").count(), 0, "it was followed");
    fs::remove_file(&state).expect("it is there");

    fs::create_dir(&state).expect("a directory");
    chown(&state, Some(EVE), Some(EVE)).expect("tests run as root");
    refuses(&stormlockd(&agent, &[]), UNAVAILABLE, &["belongs to uid 70101", "chown"]);
    chown(&state, Some(0), Some(0)).expect("tests run as root");
    for (bits, words) in [(0o770, "chmod go-w"), (0o755, "mode 0700")] {
        mode(&state, bits);
        refuses(&stormlockd(&agent, &[]), UNAVAILABLE, &[words]);
    }
    mode(&state, 0o700);
    // Whoever could move it away could have the agent begin without its leases.
    let above = agent.file("above");
    fs::create_dir(&above).expect("a directory");
    let inside = above.join("state");
    fs::create_dir(&inside).expect("a directory");
    mode(&inside, 0o700);
    mode(&above, 0o777);
    let inside = inside.to_str().expect("a plain path").to_owned();
    let mut command = Command::new(program("stormlockd"));
    command.arg("--config").arg(agent.file("stormlockd.toml"));
    command.arg("--socket").arg(agent.socket()).args(["--state", &inside]);
    let words = ["everyone could put something else in the place of", "chmod o-w"];
    refuses(&run(&mut command, AT_ONCE), UNAVAILABLE, &words);
    serves(&mut agent);
}

#[test]
fn a_journal_or_its_lock_that_somebody_else_put_there_is_refused_as_it_is() {
    let mut agent = Agent::prepare(&local());
    for name in ["journal", "lock"] {
        for (what, words) in [
            (Link, "it is a symbolic link"),
            (Dangling, "it is a symbolic link"),
            (Fifo, "it is something else"),
            (Device, "it is something else"),
            (Directory, "something else"),
            (Foreign, "it belongs to uid 70101"),
            (Socket, "no such device or address"),
        ] {
            let at = agent.state().join(name);
            plant(what, &at);
            let ran = stormlockd(&agent, &[]);
            // A directory cannot be opened as a lock is.
            let words = if (name, what) == ("lock", Directory) { "directory" } else { words };
            refuses(&ran, UNAVAILABLE, &[at.to_str().expect("a plain path"), words]);
            is_untouched(what, &at);
            fs::remove_dir_all(agent.state()).expect("it is there");
            fs::create_dir(agent.state()).expect("a directory");
            mode(&agent.state(), 0o700);
        }
    }
    // The next journal is made anew, whatever stands there.
    for what in [Link, Dangling, Fifo, Device, Foreign, HardLink, Socket] {
        let at = agent.state().join("journal.new");
        plant(what, &at);
        serves(&mut agent);
        assert!(!at.exists() && !at.is_symlink(), "{what:?}");
        let precious = beside(&at, "precious");
        assert_eq!(fs::read_to_string(&precious).expect("it is there"), PRECIOUS, "{what:?}");
        assert!(!beside(&at, "nowhere").exists(), "{what:?}");
        fs::remove_file(precious).expect("it is there");
    }
}

#[test]
fn nothing_is_written_where_an_audit_file_could_be_anybodys() {
    let agent = Agent::prepare(&local());
    let open = agent.file("open");
    fs::create_dir(&open).expect("a directory");
    let file = open.join("audit.jsonl");
    agent.configure(&format!("{}\n[audit]\nfile = \"{}\"\n", local(), file.display()));
    let mut agent = agent;
    mode(&open, 0o777);
    let words_of = |agent: &Agent| agent.ctl(&["doctor"]).stdout;
    agent.restart();
    ok(agent.ctl(&["acquire", "prod/db"]));
    let said = words_of(&agent);
    assert!(said.contains("everyone can take it away there"), "{said}");
    assert!(!file.exists());
    mode(&open, 0o1777);
    for (what, words) in [
        (Link, "symbolic link"),
        (Dangling, "symbolic link"),
        (HardLink, "hard link"),
        (Fifo, "no plain file"),
        (Device, "no plain file"),
        (Foreign, "belongs to uid 70101"),
    ] {
        if file.exists() {
            fs::remove_file(&file).expect("the agent's own");
        }
        plant(what, &file);
        ok(agent.ctl(&["acquire", &format!("{what:?}")]));
        let said = words_of(&agent);
        assert!(said.contains(words), "{what:?}: {said}");
        is_untouched(what, &file);
    }
    ok(agent.ctl(&["release", "--all"]));
    assert!(words_of(&agent).contains("can be written again"));
}

#[test]
fn a_pidfile_is_the_agents_own_or_there_is_no_daemon() {
    let agent = Agent::prepare(&local());
    let open = agent.file("open");
    fs::create_dir(&open).expect("a directory");
    let pidfile = open.join("pid");
    let pid = pidfile.to_str().expect("a plain path");
    let daemon = || {
        let ran = stormlockd(&agent, &["--daemonize", "--pidfile", pid]);
        if ran.code == Some(0) {
            // Nobody else would end it.
            let number = agent.client().and_then(|mut client| client.status(None));
            let number = i32::try_from(number.expect("it answers").agent.pid).expect("a number");
            let daemon = Pid::from_raw(number).expect("a process");
            kill_process(daemon, Signal::KILL).expect("it is ours");
        }
        ran
    };
    mode(&open, 0o777);
    refuses(&daemon(), UNAVAILABLE, &["everyone could put something else in the place of", pid]);
    mode(&open, 0o1777);
    for (what, words) in [
        (Link, "symbolic link"),
        (Dangling, "symbolic link"),
        (HardLink, "no file of uid 0 with one name"),
        (Fifo, "no file of uid 0"),
        (Device, "no file of uid 0"),
        (Directory, "directory"),
        (Foreign, "no file of uid 0"),
        (Socket, "no such device or address"),
    ] {
        plant(what, &pidfile);
        refuses(&daemon(), UNAVAILABLE, &[pid, words]);
        is_untouched(what, &pidfile);
    }
}

#[test]
fn the_second_of_two_agents_on_one_state_directory_says_which_process_the_first_is() {
    let agent = Agent::start(&local());
    let mut client = agent.client().expect("it answers");
    let held = acquire(&mut client, wish("prod/db", Hold::Keep));
    let pid = format!("(process {})", agent.pid());
    let second = |socket: &str, state: &Path| {
        let mut command = Command::new(program("stormlockd"));
        command.arg("--config").arg(agent.file("stormlockd.toml"));
        command.arg("--socket").arg(agent.file(socket)).arg("--state").arg(state);
        run(&mut command, AT_ONCE)
    };
    let state = agent.state();
    let shown = state.to_str().expect("a plain path");
    let words = ["another agent uses", shown, &pid];
    refuses(&second("other", &state), UNAVAILABLE, &words);
    refuses(&second("socket", &agent.file("other-state")), UNAVAILABLE, &["listens on", &pid]);
    // Under another name of the same directory, too.
    let bound = agent.file("bound");
    fs::create_dir(&bound).expect("a directory");
    let script = "mount --bind \"$1\" \"$2\" && shift && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh"]);
    command.arg(&state).arg(&bound).arg(program("stormlockd"));
    command.arg("--config").arg(agent.file("stormlockd.toml"));
    command.arg("--socket").arg(agent.file("other")).arg("--state").arg(&bound);
    refuses(&run(&mut command, AT_ONCE), UNAVAILABLE, &["another agent", &pid]);
    assert_eq!(locks(&mut client)[0].lease, held.lease);
    assert_eq!(leases(&mut client)[0].state, State::Held);
}
