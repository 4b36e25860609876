//! What the agent tells systemd (sd_notify). Each function does nothing where nobody listens, and
//! none of them can fail the agent: a supervisor that is deaf is its own trouble.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// How long a supervisor whose queue is full is waited for: leases are renewed on the same thread.
const PATIENCE: Duration = Duration::from_millis(100);

/// The variables by which systemd talks to one process; they are not for its children.
pub const VARIABLES: [&str; 6] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// The socket answers.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload that systemd asked for begins (`Type=notify-reload` wants the time with it);
/// [`ready`] ends it, whatever came of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no time to tell systemd of the reload"),
    }
}

/// The agent goes.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    // A newline would begin another field of the message.
    tell(&[NotifyState::Status(&line.replace('\n', " "))]);
}

/// How often to call [`watchdog`]: twice in the time that systemd allows. `None` without a
/// watchdog.
#[must_use]
pub fn watchdog_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// The agent's loop still turns.
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(state: &[NotifyState]) {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(state, &place) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// As sd_notify(3) does it, but that waits for as long as the other side does not read.
fn send(state: &[NotifyState], place: &OsStr) -> io::Result<()> {
    let address = match place.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(place)?,
    };
    let text: String = state.iter().map(|word| format!("{word}\n")).collect();
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}
