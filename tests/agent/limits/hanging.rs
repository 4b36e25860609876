//! File systems that hang under what the agent reads and runs.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::victim::Victim;
use super::{PATIENCE, open_to_all, shared};
use crate::agent::Agent;
use crate::exec_store::{ExecStore, example};
use crate::program::run;
use crate::redis_server::RedisServer;
use crate::{resource, until_right};

/// Covers a file with itself on a file system of its own and becomes the rest of its arguments. A
/// child answers for the file system until it is told to hang, and tells how many questions wait
/// for it then.
const COVERED: &str = "
import ctypes, os, select, signal, socket, struct, sys
covered, control, command = sys.argv[1], sys.argv[2], sys.argv[3:]
GETATTR, OPEN, READ, FLUSH, RELEASE, INIT = 3, 14, 15, 25, 18, 26
FORGET, INTERRUPT, FORGET_ALL, ENOSYS, PR_SET_PDEATHSIG = 2, 36, 42, 38, 1
with open(covered, 'rb') as file:
    content = file.read()
mode, libc = os.stat(covered).st_mode, ctypes.CDLL(None, use_errno=True)
dev = os.open('/dev/fuse', os.O_RDWR)
options = f'fd={dev},rootmode={mode:o},user_id=0,group_id=0,allow_other,default_permissions'
if libc.mount(b'test', covered.encode(), b'fuse', 0, options.encode()):
    raise OSError(ctypes.get_errno(), 'mount')
listener = socket.socket(socket.AF_UNIX)
listener.bind(control)
listener.listen()
if os.fork():
    os.execvp(command[0], command)
libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

def answer(opcode, rest):
    if opcode == INIT:
        return struct.pack('<4I2H2I', 7, 31, 4096, 0, 9, 9, 4096, 1) + bytes(36)
    if opcode == GETATTR:
        sizes, times = (1, len(content), 8), (0, 0, 0)
        what = struct.pack('<6Q10I', *sizes, *times, *times, mode, 1, 0, 0, 0, 4096, 0)
        return struct.pack('<Q2I', 0, 0, 0) + what
    if opcode == READ:
        _, begins, length = struct.unpack_from('<2QI', rest)
        return content[begins:begins + length]
    return bytes(16) if opcode == OPEN else b''

def reply(unique, opcode, rest):
    known = opcode in (INIT, GETATTR, OPEN, READ, FLUSH, RELEASE)
    said = answer(opcode, rest) if known else b''
    try:
        os.write(dev, struct.pack('<IiQ', 16 + len(said), 0 if known else -ENOSYS, unique) + said)
    except FileNotFoundError:
        pass

hangs, waiting = False, []
while True:
    ready, _, _ = select.select([dev, listener], [], [])
    if listener in ready:
        asks, _ = listener.accept()
        asked = asks.recv(16)
        hangs = hangs if asked == b'?' else asked == b'hang'
        if not hangs:
            for question in waiting:
                reply(*question)
            waiting.clear()
        asks.sendall(b'%d' % len(waiting))
        asks.close()
    if dev in ready:
        question = os.read(dev, 1 << 17)
        _, opcode, unique = struct.unpack_from('<2IQ', question)
        if opcode == INTERRUPT:
            given_up, = struct.unpack_from('<Q', question, 40)
            waiting = [one for one in waiting if one[0] != given_up]
        elif opcode in (FORGET, FORGET_ALL):
            pass
        elif hangs:
            waiting.append((unique, opcode, question[40:]))
        else:
            reply(unique, opcode, question[40:])
";

/// A file system with one file, of an agent that was started with it.
struct FileSystem {
    control: PathBuf,
}

impl FileSystem {
    /// Starts the agent with this one of its files on such a file system.
    fn under(agent: &mut Agent, file: &Path) -> FileSystem {
        let control = agent.file("control");
        let mut words = vec!["unshare", "--mount", "--propagation", "private", "python3", "-c"];
        let (file, at) = (file.display().to_string(), control.display().to_string());
        words.extend([COVERED, &file, &at]);
        agent.restart_under(&words, |_| {});
        open_to_all(agent);
        FileSystem { control }
    }

    fn hangs(&self) {
        self.ask("hang");
    }

    /// Answers again, also what was asked meanwhile.
    fn is_back(&self) {
        self.ask("go on");
    }

    /// Returns once somebody waits for it.
    fn is_waited_for(&self) {
        until_right("the file system is asked", || match self.ask("?") {
            0 => Err("by nobody".to_owned()),
            many => Ok(many),
        });
    }

    fn ask(&self, what: &str) -> usize {
        let mut asks = UnixStream::connect(&self.control).expect("its program is there");
        asks.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        asks.write_all(what.as_bytes()).expect("it listens");
        let mut said = String::new();
        BufReader::new(asks).read_line(&mut said).expect("it answers");
        said.parse().expect("a number")
    }
}

#[test]
fn a_file_system_that_hangs_under_the_configuration_delays_no_renewal() {
    let store = RedisServer::start();
    let mut agent = Agent::prepare(&shared(store.port()));
    let file = agent.file("stormlockd.toml");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("our own file");
    let under = FileSystem::under(&mut agent, &file);
    let victim = Victim::of(&agent);
    victim.during("the configuration can be read", || {}).is_undisturbed();
    under.hangs();
    agent.signal(Signal::HUP);
    under.is_waited_for();
    victim.during("the configuration cannot be read", || {}).is_undisturbed();
    assert!(under.ask("?") > 0, "nobody waited for it to the end");
    assert!(!agent.log().contains("is read again"), "{}", agent.log());
    under.is_back();
    until_right("the configuration is read again", || match agent.log() {
        log if log.contains("is read again") => Ok(()),
        log => Err(log),
    });
}

/// The child of this agent's that was started with this argument.
fn started_with(agent: &Agent, argument: &Path) -> Option<Pid> {
    let mut ps = Command::new("ps");
    let ran = run(ps.args(["-o", "pid=,args=", "--ppid", &agent.pid().to_string()]), PATIENCE);
    let line = ran.stdout.lines().find(|line| line.contains(&argument.display().to_string()))?;
    Pid::from_raw(line.split_whitespace().next()?.parse().ok()?)
}

#[test]
fn a_file_system_that_hangs_under_a_stores_program_delays_no_renewal_elsewhere() {
    let (store, redis) = (ExecStore::start(), RedisServer::start());
    let mut agent = Agent::prepare("");
    let file = agent.file("program");
    fs::copy(example(), &file).expect("a program of our own");
    fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("our own file");
    let command = [&file, &store.file()].map(|path| format!("{:?}", path.display().to_string()));
    agent.configure(&format!(
        "{}[backend.other]\nkind = \"exec\"\ncommand = [{}]\n\
         [[resource]]\nnames = [\"other/*\"]\nbackend = \"other\"\n",
        shared(redis.port()),
        command.join(", ")
    ));
    let under = FileSystem::under(&mut agent, &file);
    let victim = Victim::of(&agent);
    let ask = || agent.client().expect("the agent answers").current(resource("other/x"));
    assert_eq!(ask().expect("it runs"), None);
    victim.during("the program can be started", || {}).is_undisturbed();
    under.hangs();
    let program = started_with(&agent, &store.file()).expect("it runs");
    kill_process(program, Signal::KILL).expect("a child of our child");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| [ask(), ask(), ask()]);
        under.is_waited_for();
        victim.during("the program cannot be started", || {}).is_undisturbed();
        assert!(under.ask("?") > 0, "nobody waited for it to the end");
        let asked = asked.join().expect("all are answered");
        assert!(asked.iter().all(Result::is_err), "{asked:?}");
    });
    under.is_back();
    until_right("the program is started again", || ask().map_err(|error| error.to_string()));
}
