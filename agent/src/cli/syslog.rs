//! The log of a daemon on a host without systemd: datagrams to syslog, as syslog(3) writes them.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use stormlock_agent::clock;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

const SOCKET: &str = "/dev/log";
/// `LOG_DAEMON`, in its place above the three bits of the severity.
const DAEMON: u8 = 3 << 3;
const ERROR: u8 = 3;
const WARNING: u8 = 4;
const INFO: u8 = 6;
const DEBUG: u8 = 7;

/// Writes each event as one datagram.
#[derive(Debug, Clone)]
pub(crate) struct Syslog {
    socket: Arc<UnixDatagram>,
    zone: TimeZone,
}

impl Syslog {
    /// Fails where no syslog takes datagrams.
    pub(crate) fn open() -> io::Result<Syslog> {
        let socket = UnixDatagram::unbound()?;
        // A syslog that hangs loses lines; it must not hold up a renewal.
        socket.set_nonblocking(true)?;
        let syslog = Syslog { socket: Arc::new(socket), zone: TimeZone::system() };
        syslog.send(INFO, "the log begins")?;
        Ok(syslog)
    }

    /// To the path each time: a syslog that was restarted has another socket there.
    fn send(&self, severity: u8, text: &str) -> io::Result<usize> {
        let now = Timestamp::from_millisecond(clock::wall().0).unwrap_or_default();
        let now = now.to_zoned(self.zone.clone());
        let line = datagram(severity, &now.strftime("%b %e %H:%M:%S").to_string(), text);
        self.socket.send_to(line.as_bytes(), SOCKET)
    }
}

fn datagram(severity: u8, time: &str, text: &str) -> String {
    let priority = DAEMON | severity;
    format!("<{priority}>{time} stormlockd[{}]: {}", std::process::id(), text.trim())
}

/// A level as syslog and the journal count it.
pub(crate) fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => WARNING,
        Level::INFO => INFO,
        Level::DEBUG | Level::TRACE => DEBUG,
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { syslog: self, severity: INFO }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        Line { syslog: self, severity: severity(*event.level()) }
    }
}

/// One event; the formatter writes it in one piece.
pub(crate) struct Line<'a> {
    syslog: &'a Syslog,
    severity: u8,
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.syslog.send(self.severity, &String::from_utf8_lossy(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_begins_with_facility_and_severity_and_is_one_line() {
        let line = datagram(ERROR, "Jan  2 03:04:05", "store gone\n");
        let expected =
            format!("<27>Jan  2 03:04:05 stormlockd[{}]: store gone", std::process::id());
        assert_eq!(line, expected);
    }
}
