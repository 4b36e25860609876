//! What the agent tells systemd (sd_notify). Each function does nothing where nobody listens, and
//! none of them can fail the agent: a supervisor that is deaf is its own trouble.

use std::time::Duration;

use sd_notify::NotifyState;

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
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}
