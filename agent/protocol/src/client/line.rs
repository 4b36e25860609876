//! The connection itself: bytes out and bytes in, within a patience.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use interprocess::local_socket::{Stream, prelude::*};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, recv, socket_with,
};

use super::ClientError;
use super::patience::Patience;
use crate::SOCKET_PATH_MAX;

/// What is read at once: any usual answer, with the welcome before it.
const READ_LEN: usize = 1_024;
/// So long what comes is looked for again and again before anybody sleeps once: an agent that has
/// nothing else to do answers a prompt in less, even woken on a processor that slept, and to fall
/// asleep and be woken costs a tenth of all that a prompt takes. Between two looks the processor is
/// anybody's.
const EAGER: Duration = Duration::from_micros(500);

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    stream: Stream,
    /// Nobody has slept for want of bytes yet.
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
        let stream = Stream::UdSocket(connect(path, patience)?.into());
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
            // One that trickles gets no more time for it.
            if self.arrived.len() < count
                && let Some(patience) = within
            {
                patience.left()?;
            }
        }
        Ok(&self.arrived[..count])
    }

    /// Done with so many bytes that were looked at.
    pub(super) fn pass(&mut self, count: usize) {
        self.arrived.drain(..count);
    }

    /// Reads what there is, at least one byte, behind what there was before. What has come is taken
    /// before anybody looks at the time: whoever did not run until that was over has it still.
    fn read_some(&mut self, had: usize, within: Option<&Patience>) -> Result<usize, ClientError> {
        let eager = Patience::new(EAGER);
        loop {
            let Stream::UdSocket(stream) = &self.stream;
            match recv(stream, &mut self.arrived[had..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(ClientError::Closed),
                Ok((length, _)) => return Ok(length),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(io_error(errno.into())),
            }
            let left = within.map(|patience| self.next_look(patience)).transpose()?;
            self.is_eager &= eager.left().is_ok();
            if self.is_eager {
                thread::yield_now();
            } else {
                self.wait(left)?;
            }
        }
    }

    /// Sleeps until something has come, at most so long; a signal may end it before. By `poll`,
    /// which keeps the time: a socket's own is rounded up to the kernel's next tick, 10 ms on some
    /// hosts.
    fn wait(&self, left: Option<Duration>) -> Result<(), ClientError> {
        let Stream::UdSocket(stream) = &self.stream;
        // Longer than any that can be said is without end.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(stream, PollFlags::IN)], left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(io_error(errno.into())),
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
            self.stream.set_send_timeout(Some(within.left()?)).map_err(ClientError::Io)?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => bytes = &bytes[count..],
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(io_error(e)),
            }
        }
        Ok(())
    }
}

/// Waits in the kernel for room among those that the agent has not accepted yet, where all wait in
/// turn. `interprocess` asks for a connection without waiting and takes `EAGAIN`, which is the want
/// of that room (unix(7)), for one that is under way: its stream is connected to nobody then.
fn connect(path: &Path, patience: Duration) -> Result<OwnedFd, ClientError> {
    let failed = |errno: Errno| connect_error(path, patience, errno.into());
    let within = Patience::new(patience);
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
    loop {
        set_socket_timeout(&socket, Timeout::Send, Some(within.left()?)).map_err(failed)?;
        match rustix::net::connect(&socket, &address) {
            Err(Errno::INTR) => {}
            connected => return connected.map(|()| socket).map_err(failed),
        }
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
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::mpsc::channel;
    use std::thread;

    use super::super::Client;
    use super::*;
    use rustix::net::listen;

    use crate::frame::{self, Verdict, Welcome};
    use crate::message::{Event, Reply};

    /// Long enough for what is there, short enough to wait for what is not.
    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(30);

    /// Both ends of a connection that has said nothing yet.
    fn connected(test: &str) -> (Client, UnixStream) {
        let path = std::env::temp_dir().join(format!("stormlock-{test}-{}", std::process::id()));
        let listener = UnixListener::bind(&path).expect("a socket");
        let client = Client::connect(&path, LONG).expect("somebody listens");
        let (agent, _) = listener.accept().expect("the client");
        std::fs::remove_file(&path).expect("its file");
        (client, agent)
    }

    #[test]
    fn whoever_finds_no_room_waits_for_their_turn_and_no_longer_than_they_may() {
        let path = std::env::temp_dir().join(format!("stormlock-queue-{}", std::process::id()));
        let listener = UnixListener::bind(&path).expect("a socket");
        // The least that there is: one waits.
        listen(&listener, 0).expect("a shorter queue");
        let first = Line::connect(&path, SHORT).expect("there is room for one");
        assert!(matches!(Line::connect(&path, SHORT), Err(ClientError::Mute(SHORT))));
        thread::scope(|scope| {
            let second = scope.spawn(|| Client::connect(&path, LONG)?.subscribe());
            drop(listener.accept().expect("the first"));
            let (mut served, _) = listener.accept().expect("the second, which waited");
            let welcome = Welcome { verdict: Verdict::Speak(1), min: 1, max: 1 }.encode();
            served.write_all(&welcome).expect("it listens");
            let event = frame::encode(&Reply::Event(Event::Caught)).expect("a frame");
            served.write_all(&event).expect("it listens");
            assert_eq!(second.join().expect("no panic").expect("an event"), Event::Caught);
        });
        std::fs::remove_file(&path).expect("its file");
        drop(first);
    }

    #[test]
    fn what_came_with_an_event_is_kept_for_those_after_it() {
        let (mut client, mut agent) = connected("together");
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
    fn what_has_come_is_heard_though_the_time_is_over_and_what_has_not_is_not() {
        let (mut client, mut agent) = connected("late");
        let event = frame::encode(&Reply::Event(Event::Caught)).expect("a frame");
        let no_time = Some(Duration::ZERO);
        agent.write_all(&event).expect("it listens");
        assert_eq!(client.next_event(no_time).expect("an event"), Event::Caught);
        assert!(matches!(client.next_event(no_time), Err(ClientError::Mute(_))));
        agent.write_all(&event[..1]).expect("it listens");
        assert!(matches!(client.next_event(no_time), Err(ClientError::Mute(_))));
        agent.write_all(&event[1..]).expect("it listens");
        assert_eq!(client.next_event(no_time).expect("an event"), Event::Caught);
    }

    #[test]
    fn an_event_that_comes_in_pieces_is_whole_when_the_first_wait_for_it_ended_between_them() {
        let (mut client, mut agent) = connected("client");
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
