//! What passes between the agent and systemd: the socket that is handed in, and the words that are
//! told back. Both protocols are spoken by the test itself.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use stormlock_protocol::message::{Acquire, Hold, Release};
use tempfile::TempDir;

use super::{UNAVAILABLE, path, run_it, says, stormlockd};
use crate::agent::{Agent, program};
use crate::dice::now_ms;
use crate::{acquire, leases, local, until, wish};

/// Becomes the agent, with sockets in the places where systemd puts them.
const ACTIVATE: &str = "
import os, socket, sys
kinds, place, command = sys.argv[1].split(','), sys.argv[2], sys.argv[3:]
sockets = []
for number, kind in enumerate(kinds):
    stream = kind != 'datagram'
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    start = '\\0' if kind == 'abstract' else ''
    one.bind(start + place + str(number or ''))
    if kind in ('listens', 'abstract'):
        one.listen()
    sockets.append(os.dup(one.fileno()))
for number, fd in enumerate(sockets):
    os.dup2(fd, 3 + number, inheritable=True)
os.environ['LISTEN_FDS'] = str(len(kinds))
os.environ['LISTEN_PID'] = str(os.getpid())
os.environ['LISTEN_FDNAMES'] = ':'.join(kinds)
os.execv(command[0], command)";
/// A word to systemd that is this late is none.
const PATIENCE: Duration = Duration::from_secs(20);
const WATCHDOG: Duration = Duration::from_secs(2);

fn activate(agent: &mut Agent) {
    let socket = agent.socket();
    agent.restart_under(&["python3", "-c", ACTIVATE, "listens", path(&socket)], |_| {});
}

#[test]
fn a_socket_that_systemd_passes_is_served_and_stays_when_the_agent_stops() {
    let mut agent = Agent::prepare(&local());
    activate(&mut agent);
    let inode = |path: &Path| fs::metadata(path).expect("the socket").ino();
    let before = inode(&agent.socket());
    let mut client = agent.client().expect("the agent answers");
    let held = acquire(&mut client, wish("prod/db", Hold::Keep));
    let status = agent.ctl(&["status"]);
    assert!(status.stdout.contains("prod/db"), "{status:?}");
    assert_eq!(agent.stop().code(), Some(0));
    assert_eq!(inode(&agent.socket()), before, "the socket is systemd's");
    fs::remove_file(agent.socket()).expect("it is there");
    activate(&mut agent);
    let mut client = agent.client().expect("the agent answers");
    assert_eq!(leases(&mut client)[0].lease, held.lease);
}

#[test]
fn what_systemd_passes_wrongly_is_refused_in_words() {
    for (kinds, words) in [
        ("listens,listens", "expected one socket, not 2"),
        ("mute", "it does not listen"),
        ("datagram", "LISTEN_FDS"),
        ("abstract", "it has no path"),
    ] {
        let agent = Agent::prepare(&local());
        let (socket, state) = (agent.file("passed"), agent.state());
        let mut command = std::process::Command::new("python3");
        command.args(["-c", ACTIVATE, kinds, path(&socket)]).arg(program("stormlockd"));
        command.arg("--config").arg(agent.file("stormlockd.toml")).arg("--state").arg(state);
        says(&run_it(&mut command), UNAVAILABLE, &["the socket that systemd passed", words]);
    }
}

#[test]
fn a_socket_that_was_passed_to_another_process_is_not_taken() {
    let mut agent = Agent::prepare(&local());
    agent.restart_with(|command| {
        command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    });
    assert_eq!(agent.stop().code(), Some(0));
    assert!(!agent.socket().exists(), "it was the agent's own");
}

/// The other end of `NOTIFY_SOCKET`.
struct Supervisor {
    dir: TempDir,
    socket: UnixDatagram,
}

impl Supervisor {
    fn new() -> Supervisor {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
        Supervisor { dir, socket }
    }

    fn start(&self, agent: &mut Agent, watchdog: Option<Duration>) {
        agent.restart_with(|command| {
            command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
            if let Some(limit) = watchdog {
                command.env("WATCHDOG_USEC", limit.as_micros().to_string());
            }
        });
    }

    /// The next message, if it comes in time.
    fn hear(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).expect("a limit");
        let mut bytes = [0; 4096];
        match self.socket.recv(&mut bytes) {
            Ok(length) => Some(String::from_utf8(bytes[..length].to_vec()).expect("text")),
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            Err(e) => panic!("{e}"),
        }
    }

    /// The lines of the next message.
    fn hear_lines(&self) -> Vec<String> {
        let said = self.hear(PATIENCE).expect("nothing is said");
        said.lines().map(str::to_owned).collect()
    }
}

#[test]
fn systemd_hears_when_the_agent_is_ready_reloads_and_stops() {
    let supervisor = Supervisor::new();
    let mut agent = Agent::prepare(&local());
    supervisor.start(&mut agent, None);
    assert_eq!(supervisor.hear_lines(), ["READY=1"]);
    let mut client = agent.client().expect("it answers when it says so");
    for secs in [61, 62, 63] {
        agent.configure(&format!("default_ttl = \"{secs}s\"\n{}", local()));
        agent.signal(Signal::HUP);
        let begun = supervisor.hear_lines();
        assert_eq!(begun[0], "RELOADING=1");
        let since = begun[1].strip_prefix("MONOTONIC_USEC=").expect("the time belongs to it");
        assert!(since.parse::<u64>().expect("a number") > 0);
        assert_eq!(supervisor.hear_lines(), ["READY=1"]);
        // Not some time later: `systemctl reload` has returned.
        let lease = acquire(&mut client, Acquire { ttl: None, ..wish("probe", Hold::No) });
        assert_eq!(lease.ttl.as_secs(), secs, "said before it was in force");
        client.release(Release::All).expect("given back");
    }
    // A refused file ends a reload too, or systemd would wait for ever.
    agent.configure("host = [broken\n");
    agent.signal(Signal::HUP);
    assert_eq!(supervisor.hear_lines()[0], "RELOADING=1");
    assert_eq!(supervisor.hear_lines(), ["READY=1"]);
    drop(client);
    assert_eq!(agent.stop().code(), Some(0));
    assert_eq!(supervisor.hear_lines(), ["STOPPING=1"]);
}

#[test]
fn the_watchdog_is_fed_in_time_and_is_not_when_the_agent_hangs() {
    let supervisor = Supervisor::new();
    let mut agent = Agent::prepare(&local());
    supervisor.start(&mut agent, Some(WATCHDOG));
    assert_eq!(supervisor.hear(PATIENCE).as_deref().map(str::trim), Some("READY=1"));
    for round in 0..4 {
        let fed = supervisor.hear(WATCHDOG);
        assert_eq!(fed.as_deref().map(str::trim), Some("WATCHDOG=1"), "round {round}");
    }
    agent.pause();
    while supervisor.hear(WATCHDOG).is_some() {}
    agent.resume();
    assert!(supervisor.hear(WATCHDOG).is_some(), "it goes on");
}

#[test]
fn a_supervisor_that_does_not_listen_holds_nothing_up() {
    let mut agent = Agent::prepare(&local());
    agent.restart_with(|command| {
        command.env("NOTIFY_SOCKET", "/nowhere/notify").env("WATCHDOG_USEC", "1000000");
    });
    assert_eq!(agent.stop().code(), Some(0));

    let supervisor = Supervisor::new();
    let stuffing = UnixDatagram::unbound().expect("a socket");
    stuffing.set_nonblocking(true).expect("a full queue is said");
    let place = supervisor.dir.path().join("notify");
    while stuffing.send_to(b"X=1", &place).is_ok() {}
    supervisor.start(&mut agent, Some(WATCHDOG / 2));
    let began = now_ms();
    let mut client = agent.client().expect("the agent answers");
    let limit = u64::try_from(WATCHDOG.as_millis()).expect("a number");
    until("it missed some words", || {
        client.status(None).expect("an answer");
        (now_ms() - began > limit).then_some(())
    });
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn a_supervisor_without_a_file_is_told_as_well() {
    use std::os::linux::net::SocketAddrExt;
    let mut agent = Agent::prepare(&local());
    let name = format!("stormlock-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let socket = UnixDatagram::bind_addr(&address).expect("a socket");
    agent.restart_with(|command| {
        command.env("NOTIFY_SOCKET", format!("@{name}"));
    });
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut bytes = [0; 64];
    let length = socket.recv(&mut bytes).expect("it is told");
    assert_eq!(&bytes[..length], b"READY=1\n");
}

#[test]
fn the_variables_of_systemd_are_not_for_the_command_of_dev() {
    let supervisor = Supervisor::new();
    let mut command = stormlockd(&["dev", "--", "env"]);
    command.env("NOTIFY_SOCKET", supervisor.dir.path().join("notify"));
    command
        .env("WATCHDOG_USEC", "1000000")
        .env("LISTEN_FDS", "0")
        .env("CREDENTIALS_DIRECTORY", "/c");
    let said = super::ok(run_it(&mut command));
    for variable in ["NOTIFY_", "WATCHDOG_", "LISTEN_", "CREDENTIALS_"] {
        assert!(!said.contains(variable), "{variable}: {said}");
    }
    assert!(said.contains("STORMLOCK_SOCKET="), "{said}");
}
