//! Files that clients send along: refused where the kernel can, and else closed by a process that
//! does nothing else.
//!
//! What is sent along (`SCM_RIGHTS`, unix(7)) is its reader's to close, and that can take as long
//! as its sender likes. A TCP socket with `SO_LINGER` keeps whoever closes it last waiting for its
//! own peer (socket(7)); a file of a FUSE file system whose program answers no more does so for
//! ever. A thread that waits so cannot be killed, and the process that it belongs to does not end.
//!
//! So a socket with such a file in it goes to another process of this program (`stormlockd
//! close-files`), which has nothing else and ends as soon as nobody else has it: the kernel does
//! not linger for a process at its end, and one that is kept at its end for ever keeps neither the
//! agent nor its stop (`KillMode=process` in its unit). Each takes all there is, and the next
//! begins the later the more of them are kept already: 400 after a day. Only where an eighth of the
//! files that the agent may open waits for that does it begin at once, which leaves nobody without
//! a descriptor: 12,000 connections a second left 4.7 processes a second with 20,000 files, so one
//! in five seconds with the limit of its unit. Where half of the processes that may begin are such
//! ones, no further is begun: renewals need the other half, and so does the agent's next start.
//! Then such files wait, and in the end new clients with them, until their program ends.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use nix::libc;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Resource, getrlimit};
use tokio::sync::Notify;

use crate::clock;
use crate::lease::Moment;

mod room;

/// `SO_PASSRIGHTS` of the kernel's `asm-generic/socket.h`, which no library knows yet.
const PASS_RIGHTS: libc::c_int = 83;

/// What closes files: a program that ends at the end of its input, and calls itself by this name.
#[cfg(not(test))]
const CLOSER: [&str; 3] = ["/proc/self/exe", "stormlockd", CLOSER_NAME];
/// See proc_pid_comm(5).
pub const CLOSER_NAME: &str = "close-files";
/// The program of these tests is no agent.
#[cfg(test)]
const CLOSER: [&str; 3] = ["cat", "cat", "-"];

/// Between two such processes: whoever sends many files has them closed together.
const PAUSE: Duration = Duration::from_millis(100);
/// And for each that is still at it. They are also looked after that often.
const PAUSE_EACH: Duration = Duration::from_secs(1);
/// The part of the files that this process may have open that may wait for the end of a pause: one
/// in so many. Twice as many may wait at all.
const FILES_PART: u64 = 8;
/// How long a process that ends gives its last files away.
const PATIENCE: Duration = Duration::from_secs(2);

static UNDERTAKER: Mutex<Option<Sender<Task>>> = Mutex::new(None);
/// How many files wait.
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// Fewer wait than before.
static FEWER: Notify = Notify::const_new();
/// Most that wait for the end of a pause.
static MOST: LazyLock<usize> = LazyLock::new(|| {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / FILES_PART;
    usize::try_from(files).unwrap_or(usize::MAX)
});

enum Task {
    Close(OwnedFd),
    /// Everything at once; the answer is that nobody can answer any more.
    Settle(Sender<()>),
}

/// Whoever connects to it from now on gets `EPERM` when they send a file along, unless the kernel
/// does not know how: those before 6.16.
#[expect(unsafe_code, reason = "no library sets this option yet")]
pub(super) fn refuse_files(listener: BorrowedFd<'_>) {
    let no: libc::c_int = 0;
    let size = libc::socklen_t::try_from(size_of_val(&no)).expect("four bytes");
    // SAFETY: the kernel reads so many bytes, of a number that outlives the call.
    unsafe {
        let (fd, value) = (listener.as_raw_fd(), (&raw const no).cast());
        libc::setsockopt(fd, libc::SOL_SOCKET, PASS_RIGHTS, value, size);
    }
}

/// Has a file closed that may take any time to close, while nobody here waits.
pub(super) fn bury(file: OwnedFd) {
    let mut undertaker = UNDERTAKER.lock().unwrap_or_else(PoisonError::into_inner);
    if undertaker.is_none() {
        *undertaker = begin().inspect_err(told("there is no thread to see to it")).ok();
    }
    WAITING.fetch_add(1, Ordering::Relaxed);
    let sent = match undertaker.as_ref() {
        Some(undertaker) => undertaker.send(Task::Close(file)).map_err(|unsent| unsent.0),
        None => Err(Task::Close(file)),
    };
    // One file that stays open costs less than renewals that wait.
    let _ = sent.map_err(mem::forget);
}

/// Returns once not too many files wait: what else is accepted until then might be one more, and
/// without a descriptor none of them can be closed. For one caller at a time.
pub(super) async fn has_room() {
    while WAITING.load(Ordering::Relaxed) >= MOST.saturating_mul(2) {
        FEWER.notified().await;
    }
}

/// The last word of a process that is about to end: what still waits to be closed is given away, or
/// this end would have to wait for it.
pub fn settle() {
    let undertaker = UNDERTAKER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(undertaker) = undertaker.as_ref() {
        let (done, is_done) = mpsc::channel();
        let _ = undertaker.send(Task::Settle(done));
        let _ = is_done.recv_timeout(PATIENCE);
    }
}

fn begin() -> io::Result<Sender<Task>> {
    let (give, given) = mpsc::channel();
    Builder::new().name("undertaker".to_owned()).spawn(move || Undertaker::new().work(&given))?;
    Ok(give)
}

fn told(why: &str) -> impl Fn(&io::Error) {
    move |error| tracing::warn!(%error, "files that clients sent along stay open: {why}")
}

/// The processes that may begin.
enum Room {
    /// As many as may be kept.
    OfClosers,
    /// Also those that the agent needs for itself, whose end this is.
    All,
}

struct Undertaker {
    waiting: Vec<OwnedFd>,
    /// Processes that were not at their end yet.
    closers: Vec<Child>,
    last: Option<Moment>,
    /// The last of them could not be begun.
    has_failed: bool,
}

impl Undertaker {
    fn new() -> Undertaker {
        let (waiting, closers) = (Vec::new(), Vec::new());
        Undertaker { waiting, closers, last: None, has_failed: false }
    }

    fn work(mut self, given: &Receiver<Task>) {
        loop {
            let task = match self.rest() {
                Some(rest) => given.recv_timeout(rest),
                None => given.recv().map_err(RecvTimeoutError::from),
            };
            match task {
                Ok(Task::Close(file)) => self.waiting.push(file),
                Ok(Task::Settle(_done)) => self.close(Room::All),
                Err(RecvTimeoutError::Timeout) => self.count(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.is_due() {
                self.close(Room::OfClosers);
            }
        }
    }

    /// How long there is nothing to do unless somebody comes; `None` for ever.
    fn rest(&self) -> Option<Duration> {
        match (self.waiting.is_empty(), self.closers.is_empty()) {
            (false, _) => Some(self.pause_left()),
            (true, false) => Some(PAUSE_EACH),
            (true, true) => None,
        }
    }

    fn is_due(&self) -> bool {
        let are_many = self.waiting.len() >= *MOST && !self.has_failed;
        !self.waiting.is_empty() && (are_many || self.pause_left().is_zero())
    }

    fn pause_left(&self) -> Duration {
        let kept = u32::try_from(self.closers.len()).unwrap_or(u32::MAX);
        let pause = match self.has_failed {
            // There may be room again as soon as one of them has come to its end.
            true => PAUSE_EACH,
            false => PAUSE + PAUSE_EACH.saturating_mul(kept),
        };
        self.last.map_or(Duration::ZERO, |last| clock::now().until(last + pause))
    }

    /// Forgets those that came to their end.
    fn count(&mut self) {
        self.closers.retain_mut(|closer| matches!(closer.try_wait(), Ok(None)));
    }

    /// Gives away what there is.
    fn close(&mut self, room: Room) {
        if self.waiting.is_empty() {
            return;
        }
        self.count();
        self.last = Some(clock::now());
        let files = Arc::new(mem::take(&mut self.waiting));
        let has_room = match room {
            Room::OfClosers => room::for_another(CLOSER_NAME, self.closers.len()),
            Room::All => Ok(()),
        };
        let begun = has_room.and_then(|()| begin_closer(&files));
        let had_failed = mem::replace(&mut self.has_failed, begun.is_err());
        match begun {
            Ok(mut closer) => {
                // Not the last of them: that is what its input says when it ends.
                WAITING.fetch_sub(files.len(), Ordering::Relaxed);
                drop(files);
                drop(closer.stdin.take());
                self.closers.push(closer);
                FEWER.notify_one();
            }
            Err(error) => {
                if !had_failed {
                    told("there is no process to close them in")(&error);
                }
                self.waiting = Arc::into_inner(files).unwrap_or_default();
            }
        }
    }
}

/// A process that has these files as well, and nothing else of this one.
#[expect(unsafe_code, reason = "std gives a process no more files than three")]
fn begin_closer(files: &Arc<Vec<OwnedFd>>) -> io::Result<Child> {
    let [program, name, argument] = CLOSER;
    let mut command = Command::new(program);
    command.arg0(name).arg(argument).env_clear().current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let files = Arc::clone(files);
    let leave_open = move || {
        let open = |file| fcntl_setfd(file, FdFlags::empty());
        Ok(files.iter().try_for_each(open)?)
    };
    // SAFETY: between fork and exec it makes one system call for each file, and takes no memory.
    unsafe { command.pre_exec(leave_open) };
    command.spawn()
}
