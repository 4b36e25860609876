//! A process group's number that is another's soon after: where numbers are few or processes many,
//! between two looks of the agent.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::{EVE, MALLORY, open_to_all, shared};
use crate::agent::{Agent, program};
use crate::redis_server::RedisServer;
use crate::{locks, until_right};

/// Runs a command under a lock as one user, kills its stormctl and the leader of its group, and
/// says the group's number. Told to go on it ends that group and has another user make one of the
/// same number at once, that has no leader either; told again, it says whether that one is there.
const REUSE: &str = "
import ctypes, os, signal, struct, subprocess, sys
stormctl, socket, eve, mallory = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
CLONE3, PR_SET_CHILD_SUBREAPER = 435, 36
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

def become(uid):
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)

def is_group(number):
    try:
        os.killpg(number, 0)
        return True
    except ProcessLookupError:
        return False

def forks_as(number):
    tids = (ctypes.c_int * 1)(number)
    where = ctypes.addressof(tids)
    args = struct.pack('<11Q', 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, where, 1, 0)
    forked = libc.syscall(CLONE3, args, len(args))
    if forked < 0:
        raise OSError(ctypes.get_errno(), f'clone3 as {number}')
    return forked

job = subprocess.Popen(
    [stormctl, '--socket', socket, 'run', 'free/job', '--ttl', '6s', '--',
     'sh', '-c', 'sleep 1000 & echo $$ $!; wait'],
    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
    preexec_fn=lambda: become(eve))
group, sleeper = map(int, job.stdout.readline().split())
job.kill()
job.wait()
os.kill(group, signal.SIGKILL)
os.waitpid(group, 0)
print(group, flush=True)
sys.stdin.readline()
os.kill(sleeper, signal.SIGKILL)
os.waitpid(sleeper, 0)
if forks_as(group) == 0:
    os.setsid()
    become(mallory)
    if os.fork():
        os._exit(0)
    signal.pause()
os.waitpid(group, 0)
try:
    print(group, flush=True)
    sys.stdin.readline()
    print(group if is_group(group) else 'gone', flush=True)
    sys.stdin.read()
finally:
    os.killpg(group, signal.SIGKILL)
";

/// The process that does so, and the number that it said first.
struct Reuse {
    child: Child,
    says: BufReader<ChildStdout>,
    group: String,
}

impl Reuse {
    fn on(agent: &Agent) -> Reuse {
        // Where the project is built others may have no way.
        let client = agent.file("ctl");
        fs::copy(program("stormctl"), &client).expect("a copy");
        let mut python = Command::new("python3");
        python.args(["-c", REUSE]).arg(client).arg(agent.socket());
        python.args([EVE.to_string(), MALLORY.to_string()]);
        let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it");
        let says = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut reuse = Reuse { child, says, group: String::new() };
        reuse.group = reuse.hear();
        assert!(reuse.group.parse::<u32>().is_ok(), "{}", reuse.group);
        reuse
    }

    fn go_on(&mut self) -> String {
        self.child.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("it listens");
        self.hear()
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("it speaks");
        line.trim().to_owned()
    }
}

fn all_told(command: &mut Command) {
    command.env("STORMLOCK_LOG", "debug");
}

/// What keeps a lease is the group of the command that was started under it, and none that comes
/// after it, whether or not the agent was there all the time.
fn anothers_group_keeps_no_lease(restarts: bool) {
    let store = RedisServer::start();
    let mut agent = Agent::prepare(&shared(store.port()));
    agent.restart_with(all_told);
    open_to_all(&agent);
    let mut reuse = Reuse::on(&agent);
    let held = |agent: &Agent| locks(&mut agent.client().expect("the agent answers")).len();
    if restarts {
        agent.kill();
        agent.restart_with(all_told);
        open_to_all(&agent);
        until_right("the group is seen", || match agent.log() {
            log if log.contains("a group without its leader is known from now on") => Ok(()),
            log => Err(log),
        });
    }
    assert_eq!(held(&agent), 1, "its group is there still: {}", agent.log());
    // Between two looks.
    agent.pause();
    assert_eq!(reuse.go_on(), reuse.group);
    agent.resume();
    until_right("the lease is given back", || match held(&agent) {
        0 => Ok(()),
        held => Err(format!("{held}: {}", agent.log())),
    });
    assert_eq!(reuse.go_on(), reuse.group, "the other group went before the lease");
    drop(reuse.child.stdin.take());
    assert!(reuse.child.wait().expect("it ends").success());
}

#[test]
fn the_number_of_a_group_that_is_anothers_keeps_no_lease() {
    anothers_group_keeps_no_lease(false);
}

#[test]
fn the_number_of_a_group_that_is_anothers_keeps_no_lease_after_a_restart() {
    anothers_group_keeps_no_lease(true);
}
