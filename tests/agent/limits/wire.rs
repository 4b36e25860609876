//! What one message may say, over the real socket: anything else closes that connection or is
//! refused in words, and nothing of it reaches a store.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use stormlock_protocol::FRAME_MAX;
use stormlock_protocol::frame::{self, HEADER_LEN};
use stormlock_protocol::message::{Acquire, Code, Hold, List, Reply, Request};
use stormlock_protocol::name::{REASON_MAX, RESOURCE_MAX, Reason};

use super::{EVE, ask, open_to_all, refusal, shared, welcomed};
use crate::agent::Agent;
use crate::redis_server::RedisServer;
use crate::{locks, resource, wish};

/// What no name may have in it; the last are a letter of two bytes, and no UTF-8.
const NO_NAMES: [&[u8]; 12] = [
    b"",
    b" ",
    b"a b",
    b"a\n",
    b"a\x1b[31m",
    b"a$(id)",
    b"a'",
    b"a\\",
    b"-a",
    b".a",
    "a\u{e9}".as_bytes(),
    b"a\xff",
];
/// What no reason may have in it: controls, what turns the line around, what nobody sees.
const NO_REASONS: [&str; 6] =
    ["a\nb", "a\x1b[31mb", "a\u{202e}b", "a\u{200b}b", "a\0b", "a\u{9b}b"];

/// A frame with this body, as bincode would write it.
fn framed(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("a short body").to_le_bytes();
    [&len[..], body].concat()
}

/// `request` with the text `from` in it replaced by one that no client of ours could encode.
fn forged(request: &Request, from: &str, to: &[u8]) -> Vec<u8> {
    let bytes = frame::encode(request).expect("a request");
    let body = &bytes[HEADER_LEN..];
    // A text is its length, one byte below 251, and its bytes.
    let written = [&[u8::try_from(from.len()).expect("a short text")], from.as_bytes()].concat();
    let at = body.windows(written.len()).position(|it| it == written).expect("it is in there");
    let len = match u8::try_from(to.len()) {
        Ok(len) if len < 251 => vec![len],
        _ => [&[251], &u16::try_from(to.len()).expect("a text").to_le_bytes()[..]].concat(),
    };
    framed(&[&body[..at], &len, to, &body[at + written.len()..]].concat())
}

/// What comes back until the other side closes.
fn answered(mut stream: UnixStream, bytes: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(bytes);
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => rest,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => rest,
        Err(error) => panic!("it was not closed: {error}"),
    }
}

#[test]
fn a_name_or_reason_that_nobody_may_have_closes_that_connection_and_takes_nothing() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let long = "a".repeat(RESOURCE_MAX);
    let mut fits = welcomed(&agent, EVE);
    for name in ["free/x", &format!("free/{}", &long[5..])] {
        let taken = ask(&mut fits, &Request::Acquire(wish(name, Hold::Keep)));
        assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
    }
    let take = |name| Request::Acquire(wish(name, Hold::Keep));
    let (longer, million) = ("a".repeat(RESOURCE_MAX + 1), "a".repeat(FRAME_MAX / 2));
    for name in NO_NAMES.into_iter().chain([longer.as_bytes(), million.as_bytes()]) {
        for request in [take("free/y"), Request::Current(resource("free/y"))] {
            let answer = answered(welcomed(&agent, EVE), &forged(&request, "free/y", name));
            assert!(answer.is_empty(), "{name:?}: {answer:?}");
        }
    }
    let reasoned = |text: &str| {
        let reason = Some(Reason::new(text).expect("a reason"));
        Request::Acquire(Acquire { reason, ..wish("free/z", Hold::Keep) })
    };
    let longer = "a".repeat(REASON_MAX + 1);
    for reason in NO_REASONS.into_iter().chain([longer.as_str()]) {
        let answer =
            answered(welcomed(&agent, EVE), &forged(&reasoned("why"), "why", reason.as_bytes()));
        assert!(answer.is_empty(), "{reason:?}: {answer:?}");
    }
    let taken = ask(&mut fits, &reasoned(&"r".repeat(REASON_MAX)));
    assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
    let held = locks(&mut agent.client().expect("the agent answers"));
    assert_eq!(held.len(), 3, "{held:?}");
}

#[test]
fn a_frame_of_the_longest_length_is_read_and_one_byte_more_is_not() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let longest = vec![0xff; FRAME_MAX];
    for len in [FRAME_MAX, FRAME_MAX + 1] {
        let len = u32::try_from(len).expect("a length").to_le_bytes();
        let mut stream = welcomed(&agent, EVE);
        stream.write_all(&len).expect("a header is taken");
        if len == u32::try_from(FRAME_MAX).expect("a length").to_le_bytes() {
            stream.write_all(&longest[..FRAME_MAX - 1]).expect("it is waited for");
            stream.write_all(&longest[..1]).expect("it is waited for");
        }
        assert!(answered(stream, &[]).is_empty());
    }
}

/// A pattern is tried on every lock of a page, on the thread that renews.
#[test]
fn a_pattern_longer_than_any_name_could_need_is_refused() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let mut eve = welcomed(&agent, EVE);
    let list = |glob: String| Request::List(List { glob: Some(glob), mine: false, after: None });
    let no = refusal(&mut eve, &list("*".repeat(FRAME_MAX - 64)));
    assert_eq!(no.code, Code::BadRequest, "{no:?}");
    assert!(no.message.contains("pattern"), "{no:?}");
    assert!(no.message.len() < 256, "it is not said again");
    let fits = ask(&mut eve, &list("*".repeat(RESOURCE_MAX)));
    assert!(matches!(fits, Reply::Locks { .. }), "{fits:?}");
}
