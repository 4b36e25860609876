//! A way in for `tests/fuzz`; no other build has it.
//!
//! Nobody but the client makes a row, so a row is what the client reads from a server: one that
//! says its piece whatever it is asked.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use stormlock_protocol::name::{LeaseId, Resource};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::types::Type;
use tokio_postgres::{Config, NoTls, Row};

use super::sql::{Record, State};
use crate::lease::{Holder, Nonce, Proof};

/// The columns of a row as our statements ask for them.
const COLUMNS: [(&str, Type); 12] = [
    ("resource", Type::TEXT),
    ("lease", Type::BYTEA),
    ("principal", Type::TEXT),
    ("endless", Type::BOOL),
    ("alive", Type::BOOL),
    ("created_ms", Type::INT8),
    ("left_us", Type::INT8),
    ("fence", Type::INT8),
    ("host", Type::TEXT),
    ("reason", Type::TEXT),
    ("nonce", Type::INT8),
    ("counter", Type::INT8),
];

/// What is read in a row, which is given as COPY writes it: fields between tabs, `\N` for NULL.
/// `None` if the client or we refuse it, else the holder that it tells of.
#[must_use]
pub fn read(line: &[u8], on: &Resource) -> Option<Option<Holder>> {
    let rows = rows(row(line))?;
    let record = Record::read(rows.first()?, on).ok()?;
    // What is made of it further on.
    let (lease, nonces) = (LeaseId::from_bytes([7; 16]), vec![Nonce(1)]);
    let _ = super::standing(&rows, &Proof { resource: on.clone(), lease, nonces }, &[1]);
    match record.state {
        State::Held(holder, _) => Some(Some(*holder)),
        State::Free | State::Foreign => Some(None),
    }
}

/// The rows that a client reads when a server sends this one.
fn rows(row: Vec<u8>) -> Option<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
    runtime.block_on(async {
        let server = Server { says: answers(&row).into(), unread: VecDeque::new(), reader: None };
        let (client, connection) =
            Config::new().user("stormlock").connect_raw(server, NoTls).await.ok()?;
        let asking = async move { client.query_typed("SELECT", &[]).await };
        // The client goes when it has its answer, and then the connection ends.
        let (rows, _) = tokio::join!(asking, connection);
        rows.ok()
    })
}

/// To the greeting and to the one question.
fn answers(row: &[u8]) -> [Vec<u8>; 2] {
    let mut described = count(COLUMNS.len());
    for (name, kind) in COLUMNS {
        described.extend(name.as_bytes());
        // The name ends; table, column, type, its size, its modifier, binary.
        described.extend([0; 7]);
        described.extend(kind.oid().to_be_bytes());
        described.extend([0, 0, 0xff, 0xff, 0xff, 0xff, 0, 1]);
    }
    let ready = message(b'Z', b"I");
    let greeted = [message(b'R', &[0; 4]), ready.clone()].concat();
    let asked = [
        message(b'1', b""),
        message(b'2', b""),
        message(b'T', &described),
        message(b'D', row),
        message(b'C', b"SELECT 1\0"),
        ready,
    ];
    [greeted, asked.concat()]
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[tag], &len.to_be_bytes()[..], body].concat()
}

fn row(line: &[u8]) -> Vec<u8> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b'\t').collect();
    let mut row = count(fields.len());
    for (at, field) in fields.into_iter().enumerate() {
        let value = if field == br"\N" { None } else { Some(value(at, field)) };
        let len = value.as_ref().map(|value| i32::try_from(value.len()).unwrap_or(i32::MAX));
        row.extend(len.unwrap_or(-1).to_be_bytes());
        row.extend(value.into_iter().flatten());
    }
    row
}

/// A field as the protocol has it; one that is not of its column's type goes as it is.
fn value(at: usize, field: &[u8]) -> Vec<u8> {
    let text = str::from_utf8(field).unwrap_or_default();
    let read = match COLUMNS.get(at).map(|(_, kind)| kind) {
        Some(&Type::BYTEA) => text.parse().ok().map(|lease: LeaseId| lease.as_bytes().to_vec()),
        Some(&Type::BOOL) => ["f", "t"].iter().position(|it| *it == text).map(|is| vec![is as u8]),
        Some(&Type::INT8) => text.parse().ok().map(|number: i64| number.to_be_bytes().to_vec()),
        _ => None,
    };
    read.unwrap_or_else(|| field.to_vec())
}

fn count(of: usize) -> Vec<u8> {
    u16::try_from(of).unwrap_or(u16::MAX).to_be_bytes().to_vec()
}

/// Says the next of its answers whenever it is written to, and hangs up after the last.
struct Server {
    says: VecDeque<Vec<u8>>,
    unread: VecDeque<u8>,
    reader: Option<Waker>,
}

impl AsyncRead for Server {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() && !self.says.is_empty() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let some = self.unread.len().min(into.remaining());
        let some: Vec<u8> = self.unread.drain(..some).collect();
        into.put_slice(&some);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let said = self.says.pop_front().unwrap_or_default();
        self.unread.extend(said);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
