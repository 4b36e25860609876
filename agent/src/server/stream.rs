//! One client's connection, which carries bytes and nothing else.
//!
//! Whoever sends a file along (`SCM_RIGHTS`, unix(7)) leaves it to the reader to close, and that
//! can take as long as the sender likes: a TCP socket with `SO_LINGER` and unsent data waits for
//! its own peer (socket(7)). A plain read throws such a file away, and so does closing a socket
//! that has one unread in it: on the thread that renews everybody's leases.
//!
//! A kernel from 6.16 on keeps such files with their sender ([`take_no_files`]). For the others,
//! what comes is looked at before it is taken, no file is ever taken, and a socket that has one in
//! it is closed where nobody waits. There a file of a FUSE file system whose program answers no
//! more keeps one thread for ever, which is little for each and has no end.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, ready};
use std::thread::Builder;

use interprocess::local_socket::tokio::Stream as LocalStream;
use nix::libc;
use rustix::net::{self, RecvAncillaryBuffer, RecvFlags, ReturnFlags, sockopt};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// Bytes thrown away at once: what is left unread is seldom more than a request.
const LEFT: usize = 4096;
/// Of a thread that calls the kernel twice.
const STACK: usize = 64 << 10;

/// `SO_PASSRIGHTS` of the kernel's `asm-generic/socket.h`, which no library knows yet.
const PASS_RIGHTS: libc::c_int = 83;

/// Whoever connects to it from now on is refused with `EPERM` when a file comes along; false where
/// the kernel does not know how, as those before 6.16.
#[expect(unsafe_code, reason = "no library sets this option yet")]
pub(super) fn take_no_files(listener: BorrowedFd<'_>) -> bool {
    let no: libc::c_int = 0;
    let size = libc::socklen_t::try_from(size_of_val(&no)).expect("four bytes");
    // SAFETY: the kernel reads so many bytes, of a number that outlives the call.
    let answer = unsafe {
        let (fd, value) = (listener.as_raw_fd(), (&raw const no).cast());
        libc::setsockopt(fd, libc::SOL_SOCKET, PASS_RIGHTS, value, size)
    };
    answer == 0
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Stream {
    /// `None` only while it is dropped.
    inner: Option<LocalStream>,
}

impl Stream {
    /// Takes a connection over before anything is read from it.
    pub(super) fn new(inner: LocalStream) -> Stream {
        let stream = Stream { inner: Some(inner) };
        // An urgent byte can have a file with it too, and is thrown away unseen unless it is taken
        // for one of the others. Where the kernel knows no such bytes, it sends none.
        let _ = sockopt::set_socket_oobinline(stream.unix(), true);
        stream
    }

    /// What has come by now and is still to be read, `most` bytes of it; nothing when there is more
    /// than bytes.
    pub(super) fn ahead(&self, most: usize) -> Vec<u8> {
        let mut room = vec![0; most];
        let seen = peek(self.as_fd(), &mut room).unwrap_or(0);
        room.truncate(seen);
        room
    }

    pub(super) fn local(&self) -> &LocalStream {
        self.inner.as_ref().expect("it is there until it is dropped")
    }

    fn unix(&self) -> &UnixStream {
        let LocalStream::UdSocket(stream) = self.local();
        stream.inner()
    }

    fn unix_mut(&mut self) -> Pin<&mut UnixStream> {
        let inner = self.inner.as_mut().expect("it is there until it is dropped");
        let LocalStream::UdSocket(stream) = inner;
        Pin::new(stream.inner_mut())
    }
}

/// Copies what a read would take, and leaves it there: with a file ahead it is an error.
fn peek(socket: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    let mut ahead = [IoSliceMut::new(room)];
    let nothing_else = &mut RecvAncillaryBuffer::default();
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let seen = net::recvmsg(socket, &mut ahead, nothing_else, flags)?;
    if seen.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it sent more than bytes"));
    }
    Ok(seen.bytes)
}

/// Reads what a plain read would, but for files: with one ahead it is an error, and stays one.
fn read(socket: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    let seen = peek(socket, room)?;
    // No more than was seen: what came since may have a file with it.
    let room = room.get_mut(..seen).unwrap_or_default();
    if room.is_empty() {
        return Ok(0);
    }
    let (taken, _) = net::recv(socket, room, RecvFlags::DONTWAIT)?;
    Ok(taken)
}

/// Whether a socket that nobody can send to any more has a file in it; all else in it is gone then.
fn has_file(socket: BorrowedFd<'_>) -> bool {
    let mut left = [0; LEFT];
    loop {
        match read(socket, &mut left) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::InvalidData,
        }
    }
}

/// Closes what may take any time to close, while nobody waits: the kernel does not linger for a
/// process, or a thread with open files of its own, that is at its end.
pub(super) fn bury(fd: OwnedFd) {
    let helper = Builder::new().stack_size(STACK).name("close".to_owned());
    let (give, given) = mpsc::channel::<OwnedFd>();
    let begun = helper.spawn(move || {
        let Ok(fd) = given.recv() else { return };
        let (shares, shared) = mpsc::channel();
        let (closes, closed) = mpsc::channel::<()>();
        let last = Builder::new().stack_size(STACK).name("close".to_owned()).spawn(move || {
            if keep_own_files().is_ok() && shares.send(()).is_ok() {
                let _ = closed.recv();
            }
        });
        let is_shared = shared.recv().is_ok();
        // Not the last of it, unless the kernel refused.
        drop(fd);
        drop(closes);
        drop(last);
        if !is_shared {
            tracing::warn!("this process may not unshare its files: closing one may have waited");
        }
    });
    match begun {
        Ok(_) => drop(give.send(fd)),
        // One file that stays open costs less than renewals that wait.
        Err(error) => {
            tracing::warn!(%error, "there is no thread to close a file on: it stays open");
            std::mem::forget(fd);
        }
    }
}

#[expect(unsafe_code, reason = "a thread's own table of files is the way to close without waiting")]
fn keep_own_files() -> rustix::io::Result<()> {
    // SAFETY: only the table of this thread is split off, and it uses no file afterwards.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The other side hears the end of it, and can send nothing that is not looked at below.
        let _ = net::shutdown(self.unix(), net::Shutdown::Both);
        if has_file(self.as_fd())
            && let Some(LocalStream::UdSocket(inner)) = self.inner.take()
            && let Ok(inner) = UnixStream::from(inner).into_std()
        {
            bury(inner.into());
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.unix().as_fd()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.unix();
        let room = buffer.initialize_unfilled();
        loop {
            let took = socket.try_io(Interest::READABLE, || read(socket.as_fd(), room));
            match took {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_read_ready(context))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unix_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unix_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unix_mut().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
