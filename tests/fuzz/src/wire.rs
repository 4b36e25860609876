//! What comes over the agent's socket, either way.

use std::fmt::Debug;

use bincode::{Decode, Encode};
use stormlock_protocol::frame::{self, HEADER_LEN, Hello, Verdict, Welcome};
use stormlock_protocol::message::{Reply, Request};
use stormlock_protocol::{PROTOCOL_MAX, PROTOCOL_MIN};

/// Frames, one after the other; each body is read as either side would.
pub(crate) fn frame(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut is_message = false;
    while let Ok(Some(body)) = frame::split(rest) {
        is_message |= message::<Request>(body) | message::<Reply>(body);
        rest = &rest[HEADER_LEN + body.len()..];
    }
    is_message
}

/// What is a message is sent on as the same one.
fn message<T: Decode<()> + Encode + PartialEq + Debug>(body: &[u8]) -> bool {
    let Ok(message) = frame::decode::<T>(body) else { return false };
    let frame = frame::encode(&message).expect("what came in a frame fits one");
    let body = frame::split(&frame).expect("a length of ours").expect("a whole frame");
    assert_eq!(frame::decode::<T>(body).expect("a message of ours"), message);
    true
}

/// Greetings: the client's, and the agent's.
pub(crate) fn hello(bytes: &[u8]) -> bool {
    let mut is_greeting = false;
    if let Some(first) = bytes.first_chunk()
        && let Ok(hello) = Hello::decode(first)
    {
        is_greeting = true;
        assert_eq!(hello.encode(), *first);
        let welcome = hello.answer();
        assert_eq!(Welcome::decode(&welcome.encode()).expect("ours"), welcome);
        if let Verdict::Speak(protocol) = welcome.verdict {
            assert!((hello.min..=hello.max).contains(&protocol), "{hello:?} {protocol}");
            assert!((PROTOCOL_MIN..=PROTOCOL_MAX).contains(&protocol), "{hello:?} {protocol}");
        }
    }
    if let Some(first) = bytes.first_chunk()
        && let Ok(welcome) = Welcome::decode(first)
    {
        is_greeting = true;
        assert_eq!(Welcome::decode(&welcome.encode()).expect("ours"), welcome);
    }
    is_greeting
}
