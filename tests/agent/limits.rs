//! Other users of the host who mean ill: each limit of the agent is reached by them, and meanwhile
//! the leases of one user are renewed on time, which is measured and printed.
//!
//! Not here: clients that break the protocol (`strangers`), and what is planted in the file system
//! (`files`).

mod crowd;
mod descriptors;
mod disk;
mod flood;
mod hanging;
mod kept;
mod leases;
mod much;
mod numbers;
mod stuck;
mod victim;
mod wire;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use stormlock_protocol::frame::{self, HEADER_LEN, Hello, Verdict, WELCOME_LEN, Welcome};
use stormlock_protocol::message::{Refusal, Reply, Request};

use crate::agent::Agent;

/// Who means ill: users without names.
const EVE: u32 = 70_101;
const MALLORY: u32 = 70_102;
/// The first of many.
pub(crate) const CROWD: u32 = 71_000;
/// The agent's limits of sessions: of one user, and of all.
const SESSIONS_OF_ONE: usize = 64;
const SESSIONS: usize = 1024;
/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two stores: `store/*` is in a real Redis, the rest in the agent's journal. The user of this test
/// may do all, everyone else may see everything and take what is called `free`.
fn shared(redis: u16) -> String {
    let uid = rustix::process::geteuid().as_raw();
    format!(
        "host = \"alpha\"\ndefault_backend = \"here\"\n\
         [backend.here]\nkind = \"local\"\n\
         [backend.main]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{redis}\"\n\
         [[resource]]\nnames = [\"store/*\"]\nbackend = \"main\"\n\
         [[rule]]\nwho = [\"uid:{uid}\"]\n\
         may = [\"acquire\", \"break\", \"read\", \"release-any\"]\n\
         [[rule]]\nwho = [\"everyone\"]\nresources = [\"free/*\", \"store/free/*\"]\n\
         may = [\"acquire\"]\n\
         [[rule]]\nwho = [\"everyone\"]\nmay = [\"read\"]\n"
    )
}

/// Lets everybody on the agent's socket.
pub(crate) fn open_to_all(agent: &Agent) {
    let open = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own files");
    };
    open(&agent.file(""), 0o711);
    open(&agent.socket(), 0o666);
}

/// Does something on a thread that is another user's: to the kernel, who connects is a thread.
pub(crate) fn as_user<T: Send>(uid: u32, what: impl FnOnce() -> T + Send) -> T {
    as_member(uid, &[], what)
}

/// The same of somebody in these groups.
fn as_member<T: Send>(uid: u32, groups: &[u32], what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (user, group) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(uid));
            let groups: Vec<_> = groups.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
            set_thread_groups(&groups).expect("tests run as root");
            set_thread_res_gid(group, group, group).expect("tests run as root");
            set_thread_res_uid(user, user, user).expect("tests run as root");
            what()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A connection of another user, who has said nothing yet.
fn connect(agent: &Agent, uid: u32) -> UnixStream {
    connect_as(agent, uid, &[])
}

/// The same of somebody in these groups.
fn connect_as(agent: &Agent, uid: u32, groups: &[u32]) -> UnixStream {
    let socket = agent.socket();
    let connected = as_member(uid, groups, || UnixStream::connect(socket));
    let stream = connected.expect("the agent listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// One that was welcomed, or what it heard instead.
fn greet(agent: &Agent, uid: u32) -> Result<UnixStream, Verdict> {
    said_hello(connect(agent, uid))
}

fn said_hello(mut stream: UnixStream) -> Result<UnixStream, Verdict> {
    // It may be turned away before it has said anything.
    let _ = stream.write_all(&Hello::OURS.encode());
    match welcome(&mut stream) {
        Verdict::Speak(_) => Ok(stream),
        no => Err(no),
    }
}

fn welcome(stream: &mut UnixStream) -> Verdict {
    let mut bytes = [0; WELCOME_LEN];
    stream.read_exact(&mut bytes).expect("a welcome, or words of refusal");
    Welcome::decode(&bytes).expect("a welcome").verdict
}

fn welcomed(agent: &Agent, uid: u32) -> UnixStream {
    greet(agent, uid).unwrap_or_else(|no| panic!("uid {uid} is turned away: {no:?}"))
}

fn send(stream: &mut UnixStream, request: &Request) {
    let bytes = frame::encode(request).expect("a request");
    stream.write_all(&bytes).expect("a request is taken");
}

/// The bytes of one reply, unless the agent closes.
fn try_receive(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header)?;
    let mut body = vec![0; frame::body_len(header).expect("a length")];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn receive(stream: &mut UnixStream) -> Vec<u8> {
    try_receive(stream).expect("a reply")
}

fn reply(stream: &mut UnixStream) -> Reply {
    frame::decode(&receive(stream)).expect("a reply")
}

fn ask(stream: &mut UnixStream, request: &Request) -> Reply {
    send(stream, request);
    reply(stream)
}

fn refusal(stream: &mut UnixStream, request: &Request) -> Refusal {
    match ask(stream, request) {
        Reply::Refused(refusal) => refusal,
        other => panic!("{request:?} was not refused: {other:?}"),
    }
}
