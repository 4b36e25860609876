//! A socket to a store, of the same make for all of them: it is closed by a reset (SO_LINGER 0), so
//! that what a silent network still holds of an abandoned call never arrives (a polite close would
//! deliver it late), and a dead peer is noticed while nothing is asked.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// An idle connection is probed after this long, then every [`KEEPALIVE_EVERY`], and is dead after
/// [`KEEPALIVE_TRIES`]: well before the next renewal of a usual lease finds it out.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

/// What a connection runs over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Connects to `host`; the caller bounds the time.
pub(super) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = Box::pin(TcpStream::connect((host, port))).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_TRIES)?;
    Ok(stream)
}
