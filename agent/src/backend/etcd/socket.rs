//! One socket to a member of an etcd, which can be ended from outside.
//!
//! The gRPC library closes a connection politely: it says goodbye first, and what a silent network
//! still holds then arrives later all the same. Ended from outside, this one is closed by a reset
//! (SO_LINGER 0), and what was on its way never arrives. (Members cut off clients that ping them by
//! HTTP/2 while idle: TCP's own probes are used, as for the other stores.)

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::super::socket::{Stream, tcp};
use super::super::tls::Tls;
use super::place::Place;

/// The one protocol that gRPC speaks.
const ALPN: &[u8] = b"h2";

/// A connected socket, for the library to speak over.
pub(super) struct Socket {
    stream: Box<dyn Stream>,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    open: Arc<AtomicBool>,
}

/// The other end of a [`Socket`]: dropping it ends the connection.
pub(super) struct Hold {
    end: CancellationToken,
    open: Arc<AtomicBool>,
}

impl Hold {
    /// False once the library has let go of the socket: it broke, or the member hung up.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("is_open", &self.is_open()).finish()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.open.store(false, Ordering::Release);
    }
}

impl Socket {
    pub(super) async fn connect(place: &Place, tls: Option<&Tls>) -> io::Result<(Socket, Hold)> {
        let stream = tcp(&place.host, place.port).await?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = place.host.clone().try_into().map_err(io::Error::other)?;
                let mut config = tls.fresh().await?;
                config.alpn_protocols = vec![ALPN.to_vec()];
                Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
            }
        };
        let (end, open) = (CancellationToken::new(), Arc::new(AtomicBool::new(true)));
        let ended = Box::pin(end.clone().cancelled_owned());
        Ok((Socket { stream, end: ended, open: open.clone() }, Hold { end, open }))
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
