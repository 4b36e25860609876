//! What takes long to close, and a store that answers one question after the other.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt::set_socket_linger,
};
use rustix::process::Signal;
use stormlock_protocol::frame::{self, Hello};
use stormlock_protocol::message::{Acquire, Hold, Release, Reply, Request};

use super::flood::{Asks, flood, target};
use super::victim::Victim;
use super::{EVE, MALLORY, as_member, connect, open_to_all, reply, send, shared, welcomed};
use crate::agent::Agent;
use crate::exec_store::{ExecStore, example};
use crate::meanwhile::Meanwhile;
use crate::program::run;
use crate::redis_server::RedisServer;
use crate::{acquire, resource, ttl, until_right, wish};

/// Many times what a lease of the victim has.
const LINGER: Duration = Duration::from_secs(600);

/// A file that waits so long when its last owner closes it, and what keeps it waiting.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut near = TcpStream::connect(listener.local_addr().expect("it")).expect("itself");
    let (far, _) = listener.accept().expect("itself");
    near.set_nonblocking(true).expect("a socket");
    while near.write(&[0; 65_536]).is_ok() {}
    set_socket_linger(&near, Some(LINGER)).expect("a socket");
    (near, far)
}

/// Leaves the last of a file to whoever reads these bytes; what keeps it waiting.
fn leave(session: &UnixStream, bytes: &[u8], flags: SendFlags) -> TcpStream {
    let (near, far) = lingering();
    send_along(session, bytes, near, flags).expect("it is sent");
    far
}

/// Sends the last of a file along with these bytes.
fn send_along(
    session: &UnixStream,
    bytes: &[u8],
    file: impl AsFd,
    flags: SendFlags,
) -> rustix::io::Result<usize> {
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    assert!(along.push(SendAncillaryMessage::ScmRights(&files)));
    sendmsg(session, &[IoSlice::new(bytes)], &mut along, flags)
}

/// Has the agent's listening socket let files through again, as it does on a kernel before 6.16:
/// opened once more by way of its process (`pidfd_getfd`, `SO_PASSRIGHTS`).
const LET_FILES_IN: &str = "
import ctypes, os, socket, sys
PIDFD_GETFD, SO_PASSRIGHTS = 438, 83
agent = int(sys.argv[1])
pidfd, libc = os.pidfd_open(agent), ctypes.CDLL(None, use_errno=True)
for number in os.listdir(f'/proc/{agent}/fd'):
    if not os.readlink(f'/proc/{agent}/fd/{number}').startswith('socket:'):
        continue
    fd = libc.syscall(PIDFD_GETFD, pidfd, int(number), 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), 'pidfd_getfd')
    one = socket.socket(fileno=fd)
    if one.family == socket.AF_UNIX and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        try:
            print(one.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS))
            one.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 1)
        except OSError:
            print('always')";

pub(super) fn let_files_in(agent: &Agent) {
    let mut python = Command::new("python3");
    python.args(["-c", LET_FILES_IN, &agent.pid().to_string()]);
    let ran = run(&mut python, LINGER);
    assert!(["0\n", "always\n"].contains(&ran.stdout.as_str()), "{ran:?}");
}

#[test]
fn files_that_take_minutes_to_close_delay_no_renewal() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let_files_in(&agent);
    let victim = Victim::of(&agent);
    victim.during("nobody sends a file", || {}).is_undisturbed();
    let hello = Hello::OURS.encode();
    let request = frame::encode(&Request::Metrics).expect("a request");
    let mut kept = Vec::new();
    victim
        .during("files that linger are sent along", || {
            let (fresh, mut behind) = (connect(&agent, EVE), welcomed(&agent, MALLORY));
            let [asking, urgent] = [EVE, MALLORY].map(|uid| welcomed(&agent, uid));
            // It stands still until nobody else has the files: this test would wait for them then.
            agent.pause();
            kept.push(leave(&fresh, &hello, SendFlags::empty()));
            kept.push(leave(&asking, &request, SendFlags::empty()));
            kept.push(leave(&urgent, b"!", SendFlags::OOB));
            behind.write_all(&request.repeat(20)).expect("it is sent");
            kept.push(leave(&behind, b"!", SendFlags::empty()));
            agent.resume();
        })
        .is_undisturbed();
    println!("limits: {} files that linger {} s each", kept.len(), LINGER.as_secs());
    assert!(kept.len() >= 4);
}

/// Sends an agent files that never close, as another user: those of a FUSE file system with pages
/// to be written, whose program never says that they are. Each lies in the queue of a socket, so
/// that its sender has not to close it, and they go with this process.
const NEVER_CLOSING: &str = "
import ctypes, os, socket, struct, sys, threading
where, agent, uid, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
LOOKUP, GETATTR, SETATTR, OPEN, WRITE, RELEASE, INIT = 1, 3, 4, 14, 16, 18, 26
FORGET, INTERRUPT, FORGET_ALL, ENOSYS, WRITEBACK_CACHE = 2, 36, 42, 38, 1 << 16
dev = os.open('/dev/fuse', os.O_RDWR)
options = f'fd={dev},rootmode=40000,user_id=0,group_id=0'
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b'test', where.encode(), b'fuse', 0, options.encode()):
    raise OSError(ctypes.get_errno(), 'mount')

def attributes(node):
    mode = 0o40755 if node == 1 else 0o100666
    sizes, times = (node, 4096, 8), (0, 0, 0)
    return struct.pack('<6Q10I', *sizes, *times, *times, mode, 1, 0, 0, 0, 4096, 0)

def answer(opcode, node):
    if opcode == INIT:
        return struct.pack('<4I2H2I', 7, 31, 4096, WRITEBACK_CACHE, 9, 9, 4096, 1) + bytes(36)
    if opcode == LOOKUP:
        return struct.pack('<4Q2I', 2, 0, 1000, 1000, 0, 0) + attributes(2)
    if opcode == GETATTR:
        return struct.pack('<Q2I', 1000, 0, 0) + attributes(node)
    return bytes(16) if opcode == OPEN else b''

def serve():
    while True:
        try:
            _, opcode, unique, node = struct.unpack_from('<2I2Q', os.read(dev, 1 << 17))
        except OSError:
            return
        if opcode in (WRITE, SETATTR, FORGET, INTERRUPT, FORGET_ALL):
            continue
        known = opcode in (INIT, LOOKUP, GETATTR, OPEN, RELEASE)
        said = answer(opcode, node)
        os.write(dev, struct.pack('<IiQ', 16 + len(said), 0 if known else -ENOSYS, unique) + said)

threading.Thread(target=serve, daemon=True).start()
dirty = os.open(where + '/file', os.O_RDWR)
queues = []
for _ in range(count):
    near, far = socket.socketpair()
    file = os.open(where + '/file', os.O_RDWR)
    socket.send_fds(far, [b'x'], [file])
    os.close(file)
    queues.append(near)
os.pwrite(dirty, bytes(4096), 0)
os.setegid(uid)
os.seteuid(uid)

def send():
    for queue in queues:
        to = socket.socket(socket.AF_UNIX)
        try:
            to.connect(agent)
            socket.send_fds(to, [b'STRMLOCK'], [queue.fileno()])
            queue.close()
        except OSError:
            pass
    print('sent', flush=True)

# It may have to wait for its turn.
threading.Thread(target=send, daemon=True).start()
sys.stdin.read()
# By force (MNT_FORCE), since not even this process could close its file.
os.seteuid(0)
libc.umount2(where.encode(), 1)
";

/// Whoever sends them, until [`NeverClosing::end`].
pub(super) struct NeverClosing(Child);

impl NeverClosing {
    /// So many, one after the other.
    pub(super) fn send(agent: &Agent, count: usize) -> NeverClosing {
        let mounted = agent.file("mounted");
        std::fs::create_dir(&mounted).expect("a folder");
        let mut python = Command::new("unshare");
        python.args(["--mount", "--propagation", "private", "python3", "-c", NEVER_CLOSING]);
        python.arg(&mounted).arg(agent.socket()).args([EVE.to_string(), count.to_string()]);
        let python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        NeverClosing(python.expect("python3"))
    }

    /// Waits until all are sent; what it says then.
    pub(super) fn sent(&mut self) -> Option<String> {
        let said = self.0.stdout.take().expect("it is asked once");
        BufReader::new(said).lines().next().and_then(Result::ok)
    }

    /// Nothing waits for them any more.
    pub(super) fn end(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("it ends");
    }
}

/// Files that never close, many times what one user may have of sessions.
const NEVER: usize = 200;
/// Processes that may be kept by them by then: a second for the first, two for the next.
const KEPT_MAX: usize = 5;
/// How soon an agent stops that nobody holds up.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

/// The processes of an agent that nothing ends.
fn kept(agent: &Agent) -> usize {
    let mut ps = Command::new("ps");
    let ran = run(ps.args(["-o", "stat=,args=", "--ppid", &agent.pid().to_string()]), LINGER);
    let is_kept = |line: &&str| line.starts_with('D') || line.starts_with('Z');
    ran.stdout.lines().filter(is_kept).count()
}

#[test]
fn files_that_never_close_keep_neither_a_renewal_nor_the_agents_own_end() {
    let store = RedisServer::start();
    let mut agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let_files_in(&agent);
    let victim = Victim::of(&agent);
    let mut eve = NeverClosing::send(&agent, NEVER);
    let said = eve.sent();
    let measure = victim.during("files that never close are sent along", || {});
    let kept = kept(&agent);
    println!(
        "limits: {NEVER} files that never close keep {kept} processes, none of them the agent"
    );
    drop(victim);
    agent.signal(Signal::TERM);
    let stops = agent.ends_within(STOPS_WITHIN);
    // Whatever was seen.
    eve.end();
    assert_eq!(said.as_deref(), Some("sent"));
    measure.is_undisturbed();
    assert!((1..=KEPT_MAX).contains(&kept), "{kept}");
    assert!(stops, "{}", agent.log());
    agent.wait();
}

/// An agent that may open few files, of which a flood of connections with files in them would take
/// all.
const FEW: [&str; 2] = ["prlimit", "--nofile=256:256"];
/// Who sends them at once.
const SENDERS: usize = 3;

#[test]
fn a_flood_of_files_leaves_others_the_descriptors_that_they_need() {
    let store = RedisServer::start();
    let mut agent = Agent::prepare(&shared(store.port()));
    agent.restart_under(&FEW, |_| {});
    open_to_all(&agent);
    let_files_in(&agent);
    let victim = Victim::of(&agent);
    let (is_over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let socket = agent.socket();
    std::thread::scope(|scope| {
        let meanwhile = Meanwhile(&is_over);
        for _ in 0..SENDERS {
            scope.spawn(|| {
                as_member(EVE, &[], || {
                    while !is_over.load(Ordering::Relaxed) {
                        let file = File::open("/dev/null").expect("it is there");
                        let session = UnixStream::connect(&socket).expect("the agent listens");
                        // It may be turned away before.
                        let _ = send_along(&session, b"STRMLOCK", file, SendFlags::empty());
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        let measure = victim.during("connections with files in them", || {});
        drop(meanwhile);
        measure.is_undisturbed();
    });
    println!("limits: {} connections with a file in each", sent.into_inner());
    until_right("others are served", || match agent.client() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    assert!(!agent.log().contains("accepting a connection"), "{}", agent.log());
}

/// The example program, but each answer of which takes its time.
const SLOW: &str = "import importlib.util, sys, time\n\
                    spec = importlib.util.spec_from_file_location('example', sys.argv[1])\n\
                    example = importlib.util.module_from_spec(spec)\n\
                    spec.loader.exec_module(example)\n\
                    answer = example.Store.answer\n\
                    def slowly(store, question):\n    \
                    time.sleep(0.05)\n    \
                    return answer(store, question)\n\
                    example.Store.answer = slowly\n\
                    sys.argv = sys.argv[1:]\n\
                    example.main()\n";

/// The agent of a host whose store is that program.
fn slow(store: &ExecStore, redis: &RedisServer) -> Agent {
    let command = [example(), store.file()].map(|path| format!("{:?}", path.display().to_string()));
    let python = format!("[\"/usr/bin/python3\", \"-c\", {SLOW:?}, {}]", command.join(", "));
    let config = shared(redis.port()).replace(
        &format!("kind = \"redis\"\nurl = \"redis://127.0.0.1:{}\"", redis.port()),
        &format!("kind = \"exec\"\ncommand = {python}"),
    );
    let agent = Agent::start(&config);
    open_to_all(&agent);
    agent
}

/// More leases than the program can renew: with them alone it is asked 24 times a second.
const TOO_MANY: usize = 40;
/// How often all of the victim's leases are renewed while the other's are being lost.
const ROUNDS: usize = 4;

#[test]
fn more_leases_than_a_slow_program_can_renew_are_lost_by_whoever_has_them() {
    let (store, redis) = (ExecStore::start(), RedisServer::start());
    let agent = slow(&store, &redis);
    let victim = Victim::in_store(&agent);
    let mut eve = welcomed(&agent, EVE);
    victim.begin();
    let mut granted = 0;
    for number in 0..TOO_MANY {
        let name = format!("store/free/{number}");
        let short = Acquire { ttl: Some(ttl(5)), ..wish(&name, Hold::Keep) };
        send(&mut eve, &Request::Acquire(short));
        granted += usize::from(matches!(reply(&mut eve), Reply::Acquired(_)));
    }
    println!("limits: another has {granted} leases of a slow program");
    victim.end("another takes leases of a slow program").is_undisturbed();
    assert!(granted > TOO_MANY / 2, "{granted}");
    for round in 1..=ROUNDS {
        let what = format!("another has too many leases of a slow program, round {round}");
        victim.during(&what, || {}).is_undisturbed();
    }
}

#[test]
fn a_flood_of_questions_to_a_program_that_answers_one_at_a_time_keeps_nobody_from_theirs() {
    let (store, redis) = (ExecStore::start(), RedisServer::start());
    let agent = slow(&store, &redis);
    let victim = Victim::in_store(&agent);
    victim.during("nobody asks the program", || {}).is_undisturbed();
    let questions: [(&str, Asks); 2] = [
        ("who holds it", Box::new(|_| vec![Request::Current(resource("store/free/x"))])),
        (
            "to have it and to give it back",
            Box::new(|number| {
                let name = format!("store/free/{number}");
                let release = Request::Release(Release::These(vec![target(&name)]));
                vec![Request::Acquire(wish(&name, Hold::Keep)), release]
            }),
        ),
    ];
    for (what, asks) in &questions {
        let (is_over, taken) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let _meanwhile = Meanwhile(&is_over);
            scope.spawn(|| {
                let mut client = agent.client().expect("the agent answers");
                while !is_over.load(Ordering::Relaxed) {
                    acquire(&mut client, wish("store/own", Hold::Keep));
                    let released = client.release(Release::These(vec![target("store/own")]));
                    assert!(released.expect("an answer").iter().all(|it| it.refusal.is_none()));
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            });
            flood(&agent, &victim, &format!("a slow program is asked: {what}"), asks);
        });
        let taken = taken.into_inner();
        println!("limits: meanwhile {taken} locks were taken and given back by somebody else");
        assert!(taken > 0);
    }
}
