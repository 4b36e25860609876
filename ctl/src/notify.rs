//! What a unit's command tells systemd (sd_notify). Each function does nothing where nobody
//! listens.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::run::signals::thread_without;

/// How long a supervisor whose queue is full is waited for.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often systemd is told that a wait goes on, and for how much longer than that it is asked.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
const EXTEND_BY: Duration = Duration::from_secs(60);

/// The work can begin.
pub(crate) fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={}", line(status)));
}

/// One line for `systemctl status`.
pub(crate) fn status(status: &str) {
    tell(&format!("STATUS={}", line(status)));
}

/// It is ending.
pub(crate) fn stopping() {
    tell("STOPPING=1");
}

/// All is well.
pub(crate) fn watchdog() {
    tell("WATCHDOG=1");
}

/// It takes so much longer, counted from now.
pub(crate) fn extend(by: Duration) {
    tell(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
}

/// Keeps systemd from giving up the start while it waits; until what it gives is dropped.
pub(crate) fn extend_while_waiting(names: &str) -> Sender<()> {
    let (until, ends) = channel();
    status(&format!("waits for {names}"));
    let extend = move || {
        loop {
            extend(EXTEND_BY);
            if ends.recv_timeout(EXTEND_EVERY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    // Without it a wait may be too long for systemd, which says so.
    let _ = thread_without("extend", extend);
    until
}

/// How often to call [`watchdog`]: twice in the time that systemd allows. `None` without one, or
/// where it watches another process.
pub(crate) fn watchdog_every() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let limit = number("WATCHDOG_USEC").filter(|limit| is_ours && *limit > 0)?;
    Some(Duration::from_micros(limit) / 2)
}

/// A newline would begin another field of the message.
fn line(text: &str) -> String {
    text.replace('\n', " ")
}

fn tell(state: &str) {
    if let Some(place) = env::var_os("NOTIFY_SOCKET") {
        // A supervisor that is deaf is its own trouble.
        let _ = send(state, &place);
    }
}

fn send(state: &str, place: &OsStr) -> io::Result<()> {
    let address = match place.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}
