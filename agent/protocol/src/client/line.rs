//! The connection itself: bytes out and bytes in, within a patience.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use interprocess::ConnectWaitMode;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, Stream, prelude::*};

use super::ClientError;
use super::patience::Patience;
use crate::SOCKET_PATH_MAX;

/// What is read at once: any usual answer, with the welcome before it.
const READ_LEN: usize = 1_024;
/// So long the first answer is looked for again and again before anybody sleeps: an agent that has
/// nothing else to do answers a prompt in less, even woken on a processor that slept, and to fall
/// asleep and be woken costs a tenth of all that a prompt takes. Between two looks the processor is
/// anybody's.
const EAGER: Duration = Duration::from_micros(500);

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    stream: Stream,
    /// Nobody has slept for want of bytes yet: until then the stream does not block.
    is_eager: bool,
    /// What has come and was not passed: a wait may end in the midst of a reply, and more than one
    /// may come at once.
    arrived: Vec<u8>,
    pub(super) slow: Option<Slow>,
}

/// Who is told, once, that an answer takes longer than this.
#[derive(Debug)]
pub(super) struct Slow {
    pub(super) after: Duration,
    pub(super) socket: PathBuf,
    pub(super) tell: fn(&Path),
}

impl Line {
    /// As [`super::Client::connect`].
    pub(super) fn connect(path: &Path, patience: Duration) -> Result<Line, ClientError> {
        if path.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(ClientError::LongPath(path.to_owned()));
        }
        let name = path.to_fs_name::<GenericFilePath>().map_err(ClientError::Io)?;
        let connected = ConnectOptions::new()
            .name(name)
            .wait_mode(ConnectWaitMode::Timeout(patience))
            .nonblocking_stream(true)
            .connect_sync();
        let stream = connected.map_err(|source| connect_error(path, patience, source))?;
        Ok(Line { stream, is_eager: true, arrived: Vec::new(), slow: None })
    }

    /// The next so many bytes, when they are there; they stay the next ones.
    pub(super) fn look(
        &mut self,
        count: usize,
        within: Option<&Patience>,
    ) -> Result<&[u8], ClientError> {
        while self.arrived.len() < count {
            let had = self.arrived.len();
            self.arrived.resize(had + (count - had).max(READ_LEN), 0);
            let length = self.read_some(had, within);
            self.arrived.truncate(had + length.as_ref().map_or(0, |length| *length));
            length?;
        }
        Ok(&self.arrived[..count])
    }

    /// Done with so many bytes that were looked at.
    pub(super) fn pass(&mut self, count: usize) {
        self.arrived.drain(..count);
    }

    /// Reads what there is, at least one byte, behind what there was before.
    fn read_some(&mut self, had: usize, within: Option<&Patience>) -> Result<usize, ClientError> {
        let eager = Patience::new(EAGER);
        loop {
            let left = within.map(|patience| self.next_look(patience)).transpose()?;
            if !self.is_eager {
                self.stream.set_recv_timeout(left).map_err(ClientError::Io)?;
            }
            match self.stream.read(&mut self.arrived[had..]) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(length) => return Ok(length),
                Err(e) if !is_pause(&e) => return Err(io_error(e)),
                Err(_) if self.is_eager && eager.left().is_ok() => thread::yield_now(),
                Err(_) => self.sleep_from_now_on()?,
            }
        }
    }

    /// How long to wait before the next look at what is left of the patience.
    fn next_look(&mut self, patience: &Patience) -> Result<Duration, ClientError> {
        let left = patience.left()?;
        let Some(slow) = self.slow.take() else { return Ok(left) };
        let passed = patience.limit.saturating_sub(left);
        match slow.after.checked_sub(passed) {
            Some(rest) if !rest.is_zero() => {
                self.slow = Some(slow);
                Ok(left.min(rest))
            }
            _ => {
                (slow.tell)(&slow.socket);
                Ok(left)
            }
        }
    }

    /// Sends all of it.
    pub(super) fn write(&mut self, mut bytes: &[u8], within: &Patience) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let left = within.left()?;
            if !self.is_eager {
                self.stream.set_send_timeout(Some(left)).map_err(ClientError::Io)?;
            }
            match self.stream.write(bytes) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => bytes = &bytes[count..],
                Err(e) if is_pause(&e) => self.sleep_from_now_on()?,
                Err(e) => return Err(io_error(e)),
            }
        }
        Ok(())
    }

    fn sleep_from_now_on(&mut self) -> Result<(), ClientError> {
        if self.is_eager {
            self.stream.set_nonblocking(false).map_err(ClientError::Io)?;
            self.is_eager = false;
        }
        Ok(())
    }
}

fn connect_error(path: &Path, patience: Duration, source: io::Error) -> ClientError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NoAgent { path, source }
        }
        io::ErrorKind::PermissionDenied => ClientError::NoAccess { path, source },
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ClientError::Mute(patience),
        _ => ClientError::Io(source),
    }
}

fn is_pause(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

fn io_error(error: io::Error) -> ClientError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error.kind() {
        BrokenPipe | ConnectionReset => ClientError::Closed,
        _ => ClientError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::super::Client;
    use super::*;
    use crate::frame;
    use crate::message::{Event, Reply};

    /// Long enough for what is there, short enough to wait for what is not.
    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn what_came_with_an_event_is_kept_for_those_after_it() {
        let path = std::env::temp_dir().join(format!("stormlock-together-{}", std::process::id()));
        let listener = UnixListener::bind(&path).expect("a socket");
        let mut client = Client::connect(&path, LONG).expect("somebody listens");
        let (mut agent, _) = listener.accept().expect("the client");
        std::fs::remove_file(&path).expect("its file");
        // Together they are more than is read at once, so that one is cut wherever that ends.
        let pair = [Event::Caught, Event::Anew];
        let events: Vec<Event> = pair.into_iter().cycle().take(READ_LEN).collect();
        let frames = events.iter().map(|event| frame::encode(&Reply::Event(event.clone())));
        let bytes: Vec<u8> = frames.flat_map(|frame| frame.expect("a frame")).collect();
        agent.write_all(&bytes).expect("it listens");
        for event in events {
            assert_eq!(client.next_event(Some(LONG)).expect("an event"), event);
        }
        assert!(matches!(client.next_event(Some(SHORT)), Err(ClientError::Mute(_))));
        drop(agent);
        assert!(matches!(client.next_event(None), Err(ClientError::Closed)));
    }

    #[test]
    fn an_event_that_comes_in_pieces_is_whole_when_the_first_wait_for_it_ended_between_them() {
        let path = std::env::temp_dir().join(format!("stormlock-client-{}", std::process::id()));
        let listener = UnixListener::bind(&path).expect("a socket");
        let mut client = Client::connect(&path, LONG).expect("somebody listens");
        let (mut agent, _) = listener.accept().expect("the client");
        std::fs::remove_file(&path).expect("its file");
        let event = frame::encode(&Reply::Event(Event::Caught)).expect("a frame");
        let (go_on, waits) = channel();
        let served = thread::spawn(move || {
            for at in 1..event.len() {
                for piece in [&event[..at], &event[at..]] {
                    agent.write_all(piece).expect("it listens");
                    waits.recv().expect("it goes on");
                }
            }
            agent
        });
        for _ in 1..frame::encode(&Reply::Event(Event::Caught)).expect("a frame").len() {
            assert!(matches!(client.next_event(Some(SHORT)), Err(ClientError::Mute(_))));
            go_on.send(()).expect("the agent is there");
            assert_eq!(client.next_event(Some(LONG)).expect("an event"), Event::Caught);
            go_on.send(()).expect("the agent is there");
        }
        drop(served.join().expect("it wrote all"));
    }
}
