//! The log under systemd: entries with fields, by the journal's native protocol. The fields stand in
//! the message too, for `journalctl` shows nothing else unless it is asked; and a journal that hangs
//! loses lines instead of holding up a renewal. The crate for this does neither.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::syslog::severity;

const SOCKET: &str = "/run/systemd/journal/socket";
/// Before the names of our fields, as in `journalctl STORMLOCK_RESOURCE=prod/db`.
const PREFIX: &str = "STORMLOCK_";
/// The field in which tracing passes the message.
const MESSAGE: &str = "message";

/// Sends each event as one entry.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Fails where there is no journal.
    pub(crate) fn open() -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // The journal throws away what is empty.
        socket.send_to(&[], SOCKET)?;
        Ok(Journal { socket })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        // There is nowhere to say that the log cannot be written.
        let _ = self.socket.send_to(&entry.encode(severity(*event.metadata().level())), SOCKET);
    }
}

#[derive(Debug, Default)]
struct Entry {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Entry {
    fn add(&mut self, field: &Field, value: String) {
        if field.name() == MESSAGE {
            self.message = value;
        } else {
            self.fields.push((field.name(), value));
        }
    }

    fn encode(&self, severity: u8) -> Vec<u8> {
        let mut line = self.message.clone();
        for (name, value) in &self.fields {
            // Writing to a String cannot fail.
            let _ = write!(line, " {name}={value}");
        }
        let mut bytes = Vec::new();
        append(&mut bytes, "MESSAGE", &line);
        append(&mut bytes, "PRIORITY", &severity.to_string());
        append(&mut bytes, "SYSLOG_IDENTIFIER", "stormlockd");
        for (name, value) in &self.fields {
            append(&mut bytes, &field_name(name), value);
        }
        bytes
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

/// The journal takes capitals, digits and underscores only.
fn field_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    PREFIX.chars().chain(name.chars().map(plain)).collect()
}

/// `NAME=value`, or with a length in front of what has several lines, so that no value can begin
/// another field.
fn append(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        let len = u64::try_from(value.len()).unwrap_or(u64::MAX);
        bytes.extend_from_slice(&len.to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, fields: &[(&'static str, &str)], expected: &[u8]) {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let entry = Entry { message: message.to_owned(), fields };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&entry.encode(6)), text(expected));
    }

    #[test]
    fn an_entry_has_its_fields_in_the_message_and_on_their_own() {
        check(
            "held",
            &[("resource", "prod/db"), ("call.id", "7")],
            b"MESSAGE=held resource=prod/db call.id=7\nPRIORITY=6\nSYSLOG_IDENTIFIER=stormlockd\n\
              STORMLOCK_RESOURCE=prod/db\nSTORMLOCK_CALL_ID=7\n",
        );
    }

    #[test]
    fn a_value_of_several_lines_cannot_begin_another_field() {
        check(
            "a\nPRIORITY=0",
            &[],
            b"MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\nPRIORITY=6\nSYSLOG_IDENTIFIER=stormlockd\n",
        );
    }
}
