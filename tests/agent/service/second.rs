//! Two agents on one socket or one journal: the second goes, and the first does not notice.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use stormlock_protocol::client::Client;
use stormlock_protocol::message::Hold;

use super::{UNAVAILABLE, path, run_it, says, stormlockd};
use crate::agent::Agent;
use crate::program::Ran;
use crate::{acquire, leases, local, wish};

fn second(agent: &Agent, socket: &Path, state: &Path) -> Ran {
    let config = agent.file("stormlockd.toml");
    let args = ["--config", path(&config), "--socket", path(socket), "--state", path(state)];
    run_it(&mut stormlockd(&args))
}

/// The last of its words: a log line may stand before it.
fn refuses(ran: &Ran, words: &[&str]) {
    says(ran, UNAVAILABLE, words);
    let last = ran.stderr.lines().rfind(|line| line.starts_with("stormlockd: "));
    assert!(last.is_some(), "{ran:?}");
}

#[test]
fn a_second_agent_on_the_socket_or_on_the_journal_of_the_first_ends_at_once() {
    let agent = Agent::start(&local());
    let mut client = agent.client().expect("the agent answers");
    let held = acquire(&mut client, wish("prod/db", Hold::Keep));
    let inode = fs::metadata(agent.socket()).expect("the socket").ino();
    let (other_socket, other_state) = (agent.file("other"), agent.file("other-state"));

    let on_socket = second(&agent, &agent.socket(), &other_state);
    refuses(&on_socket, &["another agent listens on", path(&agent.socket()), "--socket"]);
    let on_state = second(&agent, &other_socket, &agent.state());
    refuses(&on_state, &[path(&agent.state()), "another agent"]);
    assert!(!other_socket.exists(), "the second one's socket stays behind");
    refuses(&second(&agent, &agent.socket(), &agent.state()), &["another agent"]);

    assert_eq!(fs::metadata(agent.socket()).expect("the socket").ino(), inode);
    for mut client in [client, agent.client().expect("the agent answers")] {
        assert_eq!(leases(&mut client)[0].lease, held.lease);
    }
}

#[test]
fn the_socket_of_an_agent_that_was_killed_is_taken_over() {
    let mut agent = Agent::start(&local());
    let mut client = agent.client().expect("the agent answers");
    let held = acquire(&mut client, wish("prod/db", Hold::Keep));
    agent.kill();
    assert!(agent.socket().exists(), "a crash tidies nothing");
    agent.restart();
    let mut client = agent.client().expect("the agent answers");
    assert_eq!(leases(&mut client)[0].lease, held.lease);
}

#[test]
fn what_is_no_socket_of_ours_is_left_alone() {
    let agent = Agent::prepare(&local());
    let (place, state) = (agent.file("place"), agent.state());
    let starts = || second(&agent, &place, &state);

    fs::write(&place, "precious").expect("a file");
    refuses(&starts(), &["will not listen on", "it is no socket"]);
    assert_eq!(fs::read_to_string(&place).expect("it is there"), "precious");
    fs::remove_file(&place).expect("it is there");

    // Where the link leads, a dead socket would be ours to remove.
    let target = agent.file("target");
    drop(UnixListener::bind(&target).expect("a socket"));
    symlink(&target, &place).expect("a link");
    refuses(&starts(), &["will not listen on", "a symbolic link is there"]);
    assert!(target.exists() && place.is_symlink());
    fs::remove_file(&place).expect("it is there");

    fs::create_dir(&place).expect("a folder");
    refuses(&starts(), &["will not listen on", "it is no socket"]);
    fs::remove_dir(&place).expect("it is there");

    drop(UnixListener::bind(&place).expect("a socket"));
    std::os::unix::fs::lchown(&place, Some(12_345), None).expect("tests run as root");
    refuses(&starts(), &["a socket of uid 12345 is there"]);
    assert!(place.exists());
    fs::remove_file(&place).expect("it is there");

    let stranger = UnixListener::bind(&place).expect("a socket");
    refuses(&starts(), &["another agent listens on"]);
    drop(stranger);
    assert!(Client::connect(&place, std::time::Duration::from_secs(1)).is_err());
}
