//! What becomes the command: stormctl once more, in a group of its own, which waits for the word to
//! go and then gives its place to the command.
//!
//! So the agent can be told whose end ends the lease before the command does anything, and at no
//! instant does the command run under a lease that nobody would give back. If the wrapper dies
//! before its word, this ends too. The word brings the command's stdin with it; until then stdin is
//! the socket on which the word comes, so that nothing is left open for the command.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio, id};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use stormlock_protocol::cause::plain;

use super::Work;
use crate::render::say;

/// What its first argument is; nobody types that by accident.
const NAME: &str = "--stormlock-become-the-command";
/// What the command is asked with when the wrapper is killed: nobody keeps its deadline then. The
/// lease stays for as long as something of its group goes on.
const ORPHAN_SIGNAL: Signal = Signal::TERM;
/// The codes of a shell for a command that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;
/// The word itself says nothing: what counts is the file descriptor beside it.
const WORD: [u8; 1] = [1];

/// A command that waits for its word.
pub(crate) struct Shim {
    pub(crate) child: Child,
    socket: OwnedFd,
}

impl Shim {
    /// Starts it, in a process group of its own.
    pub(crate) fn start(work: &Work, variables: &[(&str, OsString)]) -> io::Result<Shim> {
        let flags = SocketFlags::CLOEXEC;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // Through /proc it is this very program, also if its file was replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("stormctl").arg(NAME).arg(id().to_string()).args(&work.argv);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let child = command.stdin(Stdio::from(theirs)).process_group(0).spawn()?;
        Ok(Shim { child, socket })
    }

    /// Gives the word, with our own stdin.
    pub(crate) fn go(&self) -> io::Result<()> {
        let stdin = io::stdin();
        let files = [stdin.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        beside.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg(&self.socket, &[IoSlice::new(&WORD)], &mut beside, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// What was called for, when this is a shim: the wrapper's number and the command.
pub(crate) fn is_called(argv: &[OsString]) -> Option<&[OsString]> {
    match argv {
        [_, first, rest @ ..] if first == NAME => Some(rest),
        _ => None,
    }
}

/// Waits and becomes the command; comes back only if that cannot be.
pub(crate) fn run(args: &[OsString]) -> u8 {
    let [wrapper, name, args @ ..] = args else { return NOT_RUN };
    match wait(wrapper) {
        Ok(true) => {}
        Ok(false) => return NOT_RUN,
        Err(error) => {
            say(&plain(&format!("running {}: {error}", name.display())));
            return NOT_RUN;
        }
    }
    become_it(Command::new(name).args(args))
}

/// Becomes the command; comes back with a shell's code for it only if that cannot be.
pub(super) fn become_it(command: &mut Command) -> u8 {
    let error = command.exec();
    say(&plain(&format!("running {}: {error}", command.get_program().display())));
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN }
}

/// True when the word came; false when the wrapper is gone.
fn wait(wrapper: &OsStr) -> io::Result<bool> {
    let mut word = [0; WORD.len()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut word)];
    let read = loop {
        match recvmsg(io::stdin(), &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            read => break read?,
        }
    };
    let stdin = beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    let (true, Some(stdin)) = (read.bytes > 0, stdin) else { return Ok(false) };
    rustix::stdio::dup2_stdin(&stdin)?;
    set_parent_process_death_signal(Some(ORPHAN_SIGNAL))?;
    // It may have died just before it was asked to tell.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    Ok(parent.is_some_and(|parent| wrapper == OsStr::new(&parent)))
}
