//! One client's connection, which carries bytes and nothing else.
//!
//! Whoever sends a file along leaves it to the reader to close, which can take for ever. A plain
//! read throws such a file away, and so does closing a socket that has one unread in it: on the
//! thread that renews everybody's leases. So what comes is looked at before it is taken, no file is
//! ever taken, and a socket that has one in it is closed elsewhere ([`super::burial`]).

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use interprocess::local_socket::tokio::Stream as LocalStream;
use rustix::net::{self, RecvAncillaryBuffer, RecvFlags, ReturnFlags, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

use super::burial::bury;

/// Bytes thrown away at once: what is left unread is seldom more than a request.
const LEFT: usize = 4096;

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
