//! Bytes to messages and back: the greeting by hand, frames by bincode, both bounded.
//!
//! No IO here: the agent's codec and the blocking client share this one decoder.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};

use crate::{FRAME_MAX, PROTOCOL_MAX, PROTOCOL_MIN};

/// The first eight bytes on every connection, in both directions.
pub const MAGIC: [u8; 8] = *b"STRMLOCK";
/// Bytes of a [`Hello`].
pub const HELLO_LEN: usize = 12;
/// Bytes of a [`Welcome`].
pub const WELCOME_LEN: usize = 16;
/// Bytes of a frame's length.
pub const HEADER_LEN: usize = 4;

const ENCODING: Configuration<LittleEndian, Varint, Limit<FRAME_MAX>> =
    bincode::config::standard().with_limit::<FRAME_MAX>();

/// Why bytes are not a message. The connection cannot go on after any of these.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A frame longer than [`FRAME_MAX`].
    #[error("a frame of {0} bytes is over the limit of {FRAME_MAX}")]
    TooLong(usize),
    /// The body is no message of this protocol.
    #[error("a frame that is no message of this protocol")]
    Body(#[source] bincode::error::DecodeError),
    /// Bytes left over after the message: a different layout, or garbage.
    #[error("a frame with {0} bytes left over")]
    Trailing(usize),
    /// A message that cannot be encoded, or not within [`FRAME_MAX`].
    #[error("a message that does not fit a frame")]
    Encode(#[source] bincode::error::EncodeError),
    /// The first bytes are not [`MAGIC`].
    #[error("the other side does not speak the stormlock protocol")]
    Magic,
}

/// What a client says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol the client speaks.
    pub min: u16,
    /// Newest protocol the client speaks.
    pub max: u16,
}

impl Hello {
    /// The hello of this build.
    pub const OURS: Hello = Hello { min: PROTOCOL_MIN, max: PROTOCOL_MAX };

    /// Magic, then both numbers little-endian.
    #[must_use]
    pub fn encode(self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.min.to_le_bytes());
        bytes[10..].copy_from_slice(&self.max.to_le_bytes());
        bytes
    }

    /// Reads a hello.
    ///
    /// # Errors
    /// [`FrameError::Magic`] when the first eight bytes are not [`MAGIC`].
    pub fn decode(bytes: &[u8; HELLO_LEN]) -> Result<Hello, FrameError> {
        let [magic @ .., a, b, c, d] = *bytes;
        if magic != MAGIC {
            return Err(FrameError::Magic);
        }
        Ok(Hello { min: u16::from_le_bytes([a, b]), max: u16::from_le_bytes([c, d]) })
    }

    /// What an agent of this build answers to this hello.
    #[must_use]
    pub fn answer(self) -> Welcome {
        let verdict = if self.max < PROTOCOL_MIN || self.min > self.max {
            Verdict::ClientTooOld
        } else if self.min > PROTOCOL_MAX {
            Verdict::AgentTooOld
        } else {
            Verdict::Speak(self.max.min(PROTOCOL_MAX))
        };
        Welcome { min: PROTOCOL_MIN, max: PROTOCOL_MAX, verdict }
    }
}

/// What the agent answers to a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// Oldest protocol the agent speaks.
    pub min: u16,
    /// Newest protocol the agent speaks.
    pub max: u16,
    /// Whether and how the conversation goes on.
    pub verdict: Verdict,
}

/// The agent's answer to a greeting; everything but [`Verdict::Speak`] is followed by a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on in this protocol.
    Speak(u16),
    /// The client's newest protocol is older than the agent's oldest: update the client.
    ClientTooOld,
    /// The client's oldest protocol is newer than the agent's newest: restart or update the agent.
    AgentTooOld,
    /// Too many sessions, in all or of this user.
    TooMany,
    /// The kernel's credentials of the client are not acceptable.
    Denied,
    /// The agent is stopping.
    Stopping,
    /// The greeting was no greeting.
    Garbage,
    /// The greeting did not come in time.
    Slow,
    /// A code from a newer agent than this client knows.
    Unknown(u16),
}

impl Welcome {
    /// A refusal by an agent of this build.
    #[must_use]
    pub fn refusal(verdict: Verdict) -> Welcome {
        Welcome { min: PROTOCOL_MIN, max: PROTOCOL_MAX, verdict }
    }

    /// Magic, range, protocol chosen (0: none), refusal code (0: none); all little-endian.
    #[must_use]
    pub fn encode(self) -> [u8; WELCOME_LEN] {
        let (chosen, code): (u16, u16) = match self.verdict {
            Verdict::Speak(protocol) => (protocol, 0),
            Verdict::ClientTooOld => (0, 1),
            Verdict::AgentTooOld => (0, 2),
            Verdict::TooMany => (0, 3),
            Verdict::Denied => (0, 4),
            Verdict::Stopping => (0, 5),
            Verdict::Garbage => (0, 6),
            Verdict::Slow => (0, 7),
            Verdict::Unknown(code) => (0, code),
        };
        let mut bytes = [0; WELCOME_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        for (at, number) in [(8, self.min), (10, self.max), (12, chosen), (14, code)] {
            bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Reads a welcome.
    ///
    /// # Errors
    /// [`FrameError::Magic`] when the first eight bytes are not [`MAGIC`].
    pub fn decode(bytes: &[u8; WELCOME_LEN]) -> Result<Welcome, FrameError> {
        let [magic @ .., a, b, c, d, e, f, g, h] = *bytes;
        if magic != MAGIC {
            return Err(FrameError::Magic);
        }
        let chosen = u16::from_le_bytes([e, f]);
        let verdict = match u16::from_le_bytes([g, h]) {
            0 => Verdict::Speak(chosen),
            1 => Verdict::ClientTooOld,
            2 => Verdict::AgentTooOld,
            3 => Verdict::TooMany,
            4 => Verdict::Denied,
            5 => Verdict::Stopping,
            6 => Verdict::Garbage,
            7 => Verdict::Slow,
            code => Verdict::Unknown(code),
        };
        let (min, max) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        Ok(Welcome { min, max, verdict })
    }
}

/// A message as one frame: its length, then its body.
///
/// # Errors
/// [`FrameError::Encode`] or [`FrameError::TooLong`] when it does not fit.
pub fn encode<T: Encode>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER_LEN];
    let len = bincode::encode_into_std_write(message, &mut frame, ENCODING)
        .map_err(FrameError::Encode)?;
    if len > FRAME_MAX {
        return Err(FrameError::TooLong(len));
    }
    let header = u32::try_from(len).map_err(|_| FrameError::TooLong(len))?;
    frame[..HEADER_LEN].copy_from_slice(&header.to_le_bytes());
    Ok(frame)
}

/// The length of the body that follows this header.
///
/// # Errors
/// [`FrameError::TooLong`] over [`FRAME_MAX`]; nothing has been allocated yet.
pub fn body_len(header: [u8; HEADER_LEN]) -> Result<usize, FrameError> {
    let len = u32::from_le_bytes(header);
    match usize::try_from(len) {
        Ok(fits) if fits <= FRAME_MAX => Ok(fits),
        _ => Err(FrameError::TooLong(len as usize)),
    }
}

/// The first whole frame's body in `bytes`, or `None` when more must be read. The frame takes
/// [`HEADER_LEN`] bytes more than its body.
///
/// # Errors
/// [`FrameError::TooLong`] as soon as the header is there.
pub fn split(bytes: &[u8]) -> Result<Option<&[u8]>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    Ok(rest.get(..body_len(*header)?))
}

/// A message from a frame's body; every byte must belong to it.
///
/// # Errors
/// [`FrameError::Body`] or [`FrameError::Trailing`].
pub fn decode<T: Decode<()>>(body: &[u8]) -> Result<T, FrameError> {
    let (message, used) = bincode::decode_from_slice(body, ENCODING).map_err(FrameError::Body)?;
    if used == body.len() { Ok(message) } else { Err(FrameError::Trailing(body.len() - used)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_never_changes() {
        assert_eq!(Hello { min: 1, max: 0x0203 }.encode(), *b"STRMLOCK\x01\0\x03\x02");
        let welcome = Welcome { min: 1, max: 2, verdict: Verdict::Speak(2) };
        assert_eq!(welcome.encode(), *b"STRMLOCK\x01\0\x02\0\x02\0\0\0");
        let refusal = Welcome { min: 1, max: 2, verdict: Verdict::AgentTooOld };
        assert_eq!(refusal.encode(), *b"STRMLOCK\x01\0\x02\0\0\0\x02\0");
        for code in 0..=9 {
            let mut bytes = welcome.encode();
            bytes[14] = code;
            bytes[12] = if code == 0 { 2 } else { 0 };
            assert_eq!(Welcome::decode(&bytes).unwrap().encode(), bytes);
        }
    }

    #[test]
    fn a_refused_greeting_says_which_side_is_old() {
        let verdict = |min, max| Hello { min, max }.answer().verdict;
        assert_eq!(verdict(1, 1), Verdict::Speak(1));
        assert_eq!(verdict(1, 99), Verdict::Speak(PROTOCOL_MAX));
        assert_eq!(verdict(0, 0), Verdict::ClientTooOld);
        assert_eq!(verdict(98, 99), Verdict::AgentTooOld);
        assert_eq!(verdict(9, 1), Verdict::ClientTooOld);
    }

    #[test]
    fn a_frame_is_found_at_every_split() {
        let frame = encode(&("prod/db".to_owned(), 7_u64)).unwrap();
        for at in 0..frame.len() {
            assert!(split(&frame[..at]).unwrap().is_none(), "{at}");
        }
        let body = split(&frame).unwrap().unwrap();
        assert_eq!(decode::<(String, u64)>(body).unwrap(), ("prod/db".to_owned(), 7));
    }

    #[test]
    fn a_length_of_four_gibibytes_is_refused_before_anything_is_allocated() {
        assert!(matches!(split(&[0xff; 4]), Err(FrameError::TooLong(0xffff_ffff))));
        assert!(matches!(body_len(65_537_u32.to_le_bytes()), Err(FrameError::TooLong(65_537))));
        assert_eq!(body_len(65_536_u32.to_le_bytes()).unwrap(), FRAME_MAX);
    }

    #[test]
    fn a_body_that_claims_a_huge_vector_is_refused() {
        let mut body = vec![0xfd];
        body.extend((1_u64 << 40).to_le_bytes());
        assert!(matches!(decode::<Vec<u64>>(&body), Err(FrameError::Body(_))));
        assert!(matches!(decode::<u8>(&[1, 2]), Err(FrameError::Trailing(1))));
    }

    #[test]
    fn a_message_over_the_limit_is_not_sent() {
        assert!(encode(&vec![0_u8; FRAME_MAX - 5]).is_ok());
        assert!(encode(&vec![0_u8; FRAME_MAX + 1]).is_err());
    }
}
