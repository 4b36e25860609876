//! `run --exec`: this process becomes the command, and a guardian stays behind, which keeps the
//! deadline as the process around a command does, and gives back when the command has ended.
//!
//! The guardian is stormctl once more, of a session of its own and nobody's child here: the command
//! finds no child that it did not start, and no terminal's signal reaches the guardian. What it is
//! told stands in its arguments; its answer is one byte, before which nothing begins. It holds
//! nothing of the command's open: neither stdin nor stdout, nor a socket that a supervisor passed.
//!
//! If it is killed nobody keeps the deadline. The leases follow the command all the same, for it is
//! the command's end that ends them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, setrlimit, setsid};
use serde::{Deserialize, Serialize};
use stormlock_protocol::cause::plain;
use stormlock_protocol::message::{Code, Lease};
use stormlock_protocol::process::Process;

use super::group::Group;
use super::guard::{Begin, Guard};
use super::outside::Outside;
use super::shim::become_it;
use super::signals::Signals;
use super::take::{again, as_they_are, leases, never_began, this_process};
use super::told::{not_begun, unheard};
use super::{Answered, PATIENCE, RETURN_MAX, Under, Work, attach, variables};
use crate::clock::Moment;
use crate::command::proven;
use crate::exit::{Exit, Failure};
use crate::render::{Colour, Format, View, failure, voice};
use crate::time;

/// What its first argument is; nobody types that by accident.
const NAME: &str = "--stormlock-guard-the-command";
/// Room for its name and that.
const OWN_WORDS_MAX: usize = 64;
/// The two lives of a guardian: in the first it leaves the session, in the second the family.
const LEAVE: &str = "leave";
const GUARD: &str = "guard";
/// The word by which the command begins; any other is the code that this process ends with.
const GO: u8 = 0;
/// The first file that is not one of the three that every program has.
const FIRST_FILE: i32 = 3;

/// What a guardian is told.
#[derive(Debug, Serialize, Deserialize)]
struct Charge {
    /// The command's name, for people.
    name: String,
    pid: u32,
    started: u64,
    grace_ms: u64,
    /// The number of a signal.
    on_lost: Option<i32>,
    /// Since boot.
    limit_ms: Option<u64>,
    own: Vec<String>,
    shared: Vec<String>,
}

/// Becomes the command; comes back only if that cannot be, or may not.
pub(crate) fn exec(work: &Work, under: &Under) -> Result<u8, Failure> {
    let failed = |error: io::Error| {
        let told = plain(&format!("starting a guardian for {}: {error}", work.argv[0].display()));
        Failure::new(Exit::Software, Code::Internal.as_str(), told)
    };
    let guardian = start(work, under, this_process()?).map_err(failed)?;
    match word(&guardian).map_err(failed)? {
        Some(GO) => {}
        // It has said why.
        Some(code) => return Ok(code),
        None => return Err(failed(io::Error::other("it ended at once"))),
    }
    voice::finish();
    let variables = variables(under);
    let mut command = Command::new(&work.argv[0]);
    command.args(&work.argv[1..]);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    Ok(become_it(&mut command))
}

fn start(work: &Work, under: &Under, me: Process) -> io::Result<OwnedFd> {
    let millis = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let ids = |of: &Answered| of.leases.iter().map(|lease| lease.lease.to_string()).collect();
    let charge = Charge {
        name: work.argv[0].display().to_string(),
        pid: me.pid,
        started: me.started,
        grace_ms: millis(work.grace),
        on_lost: work.on_lost.map(Signal::as_raw),
        limit_ms: (under.limit != Moment::NEVER).then(|| millis(Moment::BOOT.until(under.limit))),
        own: ids(&under.own),
        shared: ids(&under.shared),
    };
    let charge = serde_json::to_string(&charge)?;
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let mut first = next(LEAVE, charge.as_ref(), under.socket.as_os_str());
    let mut first = first.stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
    // Who ignores its children's ends cannot wait for them; the word says whether it worked.
    let _ = first.wait();
    Ok(ours)
}

/// Through /proc it is this very program, also if its file was replaced meanwhile.
fn next(life: &str, charge: &OsStr, socket: &OsStr) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("stormctl").arg(NAME).args([OsStr::new(life), charge, socket]);
    command
}

/// What the guardian says, or nothing if it has ended.
fn word(guardian: &OwnedFd) -> io::Result<Option<u8>> {
    let mut word = [0; 1];
    loop {
        match rustix::io::read(guardian, &mut word) {
            Err(Errno::INTR) => {}
            read => return Ok((read? > 0).then_some(word[0])),
        }
    }
}

/// What was called for, when this is a guardian.
pub(crate) fn is_called(argv: &[OsString]) -> Option<&[OsString]> {
    match argv {
        [_, first, rest @ ..] if first == NAME => Some(rest),
        _ => None,
    }
}

/// True for a process that is a guardian, and for one that has just ended.
pub(super) fn is_one(pid: u32) -> bool {
    // In one read: a process that ends between two has no more words.
    let mut line = [0; OWN_WORDS_MAX];
    let Ok(mut file) = fs::File::open(format!("/proc/{pid}/cmdline")) else { return true };
    let length = file.read(&mut line).unwrap_or(0);
    length == 0 || line.split(|byte| *byte == 0).nth(1) == Some(NAME.as_bytes())
}

/// Guards the command to its end.
pub(crate) fn run(args: &[OsString]) -> u8 {
    let done = match args {
        [life, charge, socket] if life == LEAVE => leave(charge, socket),
        [life, charge, socket] if life == GUARD => guard(charge, socket),
        _ => return Exit::Usage.code(),
    };
    let code = done.unwrap_or_else(|failed| {
        let view = View::new(Format::Human, Colour::Auto, time::now());
        failure::failure(&failed, &view).code()
    });
    voice::finish();
    // Whoever waits for it hears why before that it is so; who has gone on does not wait.
    let _ = rustix::io::write(io::stdin(), &[code.max(1)]);
    code
}

/// Leaves the session, and lets another life of this leave the family.
fn leave(charge: &OsStr, socket: &OsStr) -> Result<u8, Failure> {
    close_what_was_passed();
    // It leads no group: whoever started it does, if anybody.
    let left = setsid().map_err(io::Error::from);
    let second = left.and_then(|_| {
        let mut second = next(GUARD, charge, socket);
        second.current_dir("/").stdout(Stdio::null()).spawn()
    });
    match second {
        Ok(_) => {
            // The answer is the other's.
            let nobody = fs::File::open("/dev/null");
            let _ = nobody.map(|nobody| rustix::stdio::dup2_stdin(&nobody));
            Ok(Exit::Ok.code())
        }
        Err(error) => Err(internal(&format!("starting a guardian: {error}"))),
    }
}

/// A socket that a supervisor passed to the command would be open for as long as this is there.
fn close_what_was_passed() {
    let Ok(files) = fs::read_dir("/proc/self/fd") else { return };
    let numbers = files.filter_map(|file| file.ok()?.file_name().to_str()?.parse::<i32>().ok());
    // The list itself is one of them, and closed by then.
    let numbers: Vec<i32> = numbers.filter(|number| *number >= FIRST_FILE).collect();
    for number in numbers {
        let _ = nix::unistd::close(number);
    }
}

fn guard(charge: &OsStr, socket: &OsStr) -> Result<u8, Failure> {
    let failed = |error: io::Error| internal(&format!("guarding the command: {error}"));
    let charge = charge.to_str().ok_or_else(|| internal("reading what to guard"))?;
    let charge: Charge = serde_json::from_str(charge)
        .map_err(|error| internal(&format!("reading what to guard: {error}")))?;
    // Who stops a unit asks everything in it to end, and by whatever signal: this ends after the
    // command.
    let signals = Signals::block_all().map_err(failed)?;
    open_as_many_files_as_may_be();
    voice::of_its_own().map_err(failed)?;
    let outside = Outside::open(charge.pid, charge.started).map_err(failed)?;
    let process = outside.process();
    let leader = i32::try_from(charge.pid).ok().and_then(Pid::from_raw);
    let leader = leader.ok_or_else(|| internal("reading what to guard"))?;
    let under = under(&charge, socket.into())?;
    let work = Work {
        argv: vec![charge.name.into()],
        grace: Duration::from_millis(charge.grace_ms),
        on_lost: charge.on_lost.and_then(Signal::from_named_raw),
    };
    attach(Ok(process), &under)?;
    let group = Group::outside(leader, outside);
    let mut guard = Guard::new(&work, group, signals, &under).map_err(failed)?;
    match guard.begin().map_err(failed)? {
        Begin::Go => guard.lets_go(),
        Begin::End => return Err(not_begun(&work)),
        Begin::Unheard => {
            return Err(unheard(&format!("running {}", work.argv[0].display())));
        }
    }
    rustix::io::write(io::stdin(), &[GO]).map_err(|error| failed(error.into()))?;
    // From here on nothing but the command's end may end this: nobody else keeps its deadline.
    let _ = let_go_of_files();
    if let Err(error) = guard.watch() {
        guard.gives_up();
        return Err(failed(error));
    }
    guard.end(&under)
}

/// The leases by their ids, as they are now.
fn under(charge: &Charge, socket: PathBuf) -> Result<Under, Failure> {
    let doing = "guarding the command";
    let ask = |ids: &[String]| {
        let found = again(&socket, PATIENCE, RETURN_MAX, |client| {
            let mut known = leases(client)?;
            known.retain(|lease| ids.contains(&lease.lease.to_string()));
            as_they_are(client, &known)
        });
        let (leases, asked) =
            found.map_err(|error| crate::connect::explain_question(error, doing))?;
        proven(doing, &leases).map_err(never_began)?;
        if leases.len() != ids.len() {
            let told = format!("{doing}: the agent does not know of its lease any more");
            return Err(Failure::new(Exit::TempFail, Code::Lost.as_str(), told));
        }
        Ok(Answered { leases, asked })
    };
    let limit = charge
        .limit_ms
        .map_or(Moment::NEVER, |millis| Moment::BOOT + Duration::from_millis(millis));
    let (own, shared) = (ask(&charge.own)?, ask(&charge.shared)?);
    let told = Vec::<Lease>::new();
    Ok(Under { own, shared, limit, told, socket })
}

/// Those of a whole host are read one by one. The command has its own limit.
fn open_as_many_files_as_may_be() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current < maximum || maximum.is_none() {
        // It does with less, too.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// Whoever reads what the command writes sees its end, not that of this. A terminal and the
/// journal of the system are no pipes, and still hear why a command has to end.
fn let_go_of_files() -> io::Result<()> {
    let nobody = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nobody)?;
    let stderr = rustix::fs::fstat(io::stderr().as_fd())?;
    if FileType::from_raw_mode(stderr.st_mode) == FileType::Fifo {
        rustix::stdio::dup2_stderr(&nobody)?;
    }
    Ok(())
}

fn internal(told: &str) -> Failure {
    Failure::new(Exit::Software, Code::Internal.as_str(), plain(told))
}
