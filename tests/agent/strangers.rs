//! Whoever else connects: garbage, huge lengths, clients that say nothing or never read. Each gets
//! a clear refusal or a close; nobody else is disturbed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::frame::{self, HELLO_LEN, Hello, Verdict, WELCOME_LEN, Welcome};
use stormlock_protocol::message::{
    Acquire, Attach, Code, Event, Hold, Reply, Request, State, Target, Wait,
};
use stormlock_protocol::process::Process;

use crate::agent::Agent;
use crate::dice::{Dice, now_ms};
use crate::{acquire, leases, local, locks, resource, ttl, until, until_right, wish};

/// Longer than anything the agent waits for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The agent's limit of sessions for one user.
const SESSIONS_OF_ONE: usize = 64;
/// Clients that go while they are answered: a race that one in fifty meets is then not missed.
const GOING: usize = 500;

/// Acquires that wait for what another holds, of clients that hang up in the same breath.
#[test]
fn nobody_waits_for_a_client_that_was_gone_before_it_was_heard() {
    let agent = Agent::start(&local());
    let mut client = agent.client().expect("the agent answers");
    acquire(&mut client, wish("prod/db", Hold::Keep));
    let ask = Request::Acquire(Acquire { wait: Wait::Forever, ..wish("prod/db", Hold::Keep) });
    let ask = frame::encode(&ask).expect("a request");
    for number in 0..GOING {
        let mut stream = connect(&agent);
        let hello = [&Hello::OURS.encode()[..], &ask].concat();
        stream.write_all(&hello).expect("it is taken");
        if number % 2 == 0 {
            // Or after the greeting.
            read_welcome(&mut stream).expect("a welcome");
        }
    }
    until_right("all waiters are gone", || {
        let metrics = client.metrics().expect("numbers");
        let of = |name: &str| metrics.lines().any(|line| line == name);
        match of("stormlock_waiters 0") && of("stormlock_sessions 1") {
            true => Ok(()),
            false => Err(metrics),
        }
    });
}

fn connect(agent: &Agent) -> UnixStream {
    let stream = UnixStream::connect(agent.socket()).expect("the agent listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn greet(agent: &Agent) -> UnixStream {
    let mut stream = connect(agent);
    stream.write_all(&Hello::OURS.encode()).expect("a hello is taken");
    let welcome = read_welcome(&mut stream).expect("a welcome");
    assert!(matches!(welcome.verdict, Verdict::Speak(1)), "{welcome:?}");
    stream
}

fn read_welcome(stream: &mut UnixStream) -> Option<Welcome> {
    let mut bytes = [0; WELCOME_LEN];
    stream.read_exact(&mut bytes).ok()?;
    Some(Welcome::decode(&bytes).expect("a welcome"))
}

/// True when the other side closed; whatever came before that is passed over.
fn is_closed(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn read_reply(stream: &mut UnixStream) -> Reply {
    let mut header = [0; frame::HEADER_LEN];
    stream.read_exact(&mut header).expect("a header");
    let mut body = vec![0; frame::body_len(header).expect("a length")];
    stream.read_exact(&mut body).expect("a body");
    frame::decode(&body).expect("a reply")
}

fn answers(agent: &Agent) {
    let mut client = agent.client().expect("the agent answers");
    client.status(None).expect("the agent answers others");
}

#[test]
fn a_greeting_that_is_none_is_refused_and_one_of_another_age_says_which_side_is_old() {
    let agent = Agent::start(&local());
    let mut dice = Dice::seeded("garbage");
    for _ in 0..50 {
        let garbage: Vec<u8> =
            (0..dice.below(64)).map(|_| u8::try_from(dice.below(256)).expect("a byte")).collect();
        let mut stream = connect(&agent);
        // It may be closed before all of it was taken.
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        match read_welcome(&mut stream) {
            Some(welcome) => assert_eq!(welcome.verdict, Verdict::Garbage),
            None => assert!(garbage.len() < HELLO_LEN, "closed without a word: {garbage:?}"),
        }
        assert!(is_closed(&mut stream));
    }
    for (hello, expected) in [
        (Hello { min: 0, max: 0 }, Verdict::ClientTooOld),
        (Hello { min: 98, max: 99 }, Verdict::AgentTooOld),
    ] {
        let mut stream = connect(&agent);
        stream.write_all(&hello.encode()).expect("a hello is taken");
        assert_eq!(read_welcome(&mut stream).expect("a refusal").verdict, expected);
        assert!(is_closed(&mut stream));
    }
    answers(&agent);
}

#[test]
fn a_huge_length_and_a_body_of_garbage_close_that_connection_only() {
    let agent = Agent::start(&local());
    let mut dice = Dice::seeded("frames");
    let mut other = agent.client().expect("the agent answers");
    let held = acquire(&mut other, wish("prod/db", Hold::Keep));
    for length in [u32::MAX, 65_537, 1 << 31] {
        let mut stream = greet(&agent);
        stream.write_all(&length.to_le_bytes()).expect("a header is taken");
        assert!(is_closed(&mut stream), "{length}");
    }
    for _ in 0..200 {
        let mut stream = greet(&agent);
        let body: Vec<u8> =
            (0..dice.below(40)).map(|_| u8::try_from(dice.below(256)).expect("a byte")).collect();
        if frame::decode::<Request>(&body).is_ok() {
            continue;
        }
        let length = u32::try_from(body.len()).expect("a short body");
        let _ = stream.write_all(&length.to_le_bytes());
        let _ = stream.write_all(&body);
        assert!(is_closed(&mut stream), "{body:?}");
    }
    assert_eq!(leases(&mut other).first().map(|it| it.lease), Some(held.lease));
}

#[test]
fn a_request_that_comes_byte_by_byte_is_answered() {
    let agent = Agent::start(&local());
    let mut stream = connect(&agent);
    let mut bytes = Hello::OURS.encode().to_vec();
    bytes.extend(frame::encode(&Request::Current(resource("prod/db"))).expect("a request"));
    for byte in bytes {
        stream.write_all(&[byte]).expect("a byte is taken");
    }
    read_welcome(&mut stream).expect("a welcome");
    assert_eq!(read_reply(&mut stream), Reply::Current(None));
}

#[test]
fn a_client_that_says_nothing_is_dropped_and_holds_nobody_up() {
    let agent = Agent::start(&local());
    let began = now_ms();
    let mut mute: Vec<UnixStream> = (0..20).map(|_| connect(&agent)).collect();
    answers(&agent);
    assert!(now_ms() - began < 4000, "others waited for a mute client");
    let welcome = read_welcome(&mut mute[0]).expect("a refusal");
    assert_eq!(welcome.verdict, Verdict::Slow);
    assert!(mute.iter_mut().all(is_closed));
    assert!(now_ms() - began >= 5000, "a hello has five seconds");
}

#[test]
fn a_client_that_says_half_a_request_is_dropped_and_holds_nobody_up() {
    let agent = Agent::start(&local());
    let request = frame::encode(&Request::Metrics).expect("a request");
    let (mut silent, mut half, mut subscribed) = (greet(&agent), greet(&agent), greet(&agent));
    subscribed.write_all(&frame::encode(&Request::Subscribe).expect("a request")).expect("taken");
    assert_eq!(read_reply(&mut subscribed), Reply::Event(Event::Caught));
    let began = now_ms();
    for half in [&mut half, &mut subscribed] {
        half.write_all(&request[..request.len() - 1]).expect("it is taken");
    }
    answers(&agent);
    assert!(now_ms() - began < 4000, "others waited for half a request");
    assert!(is_closed(&mut half) && is_closed(&mut subscribed));
    assert!(now_ms() - began >= 5000, "the rest has five seconds");
    silent.write_all(&request).expect("whoever says nothing is left alone");
    assert!(matches!(read_reply(&mut silent), Reply::Metrics(_)));
}

#[test]
fn a_client_that_never_reads_is_dropped_and_holds_nobody_up() {
    let agent = Agent::start(&local());
    let mut deaf = greet(&agent);
    let question = frame::encode(&Request::Doctor).expect("a request");
    let began = now_ms();
    // As many questions as the kernel takes; the answers fill the other direction.
    while deaf.write_all(&question).is_ok() {
        assert!(now_ms() - began < 60_000, "it was never dropped");
    }
    answers(&agent);
}

#[test]
fn one_user_has_no_more_than_so_many_sessions_and_gets_them_back() {
    let agent = Agent::start(&local());
    let mut sessions: Vec<UnixStream> = Vec::new();
    // The agent notices an end a moment later, also that of the test's own first question.
    until("all sessions are free", || {
        sessions.clear();
        sessions.extend((0..SESSIONS_OF_ONE).map(|_| connect(&agent)));
        for session in &mut sessions {
            let _ = session.write_all(&Hello::OURS.encode());
        }
        let spoke = |welcome: Option<Welcome>| {
            welcome.is_some_and(|it| matches!(it.verdict, Verdict::Speak(_)))
        };
        sessions.iter_mut().all(|session| spoke(read_welcome(session))).then_some(())
    });
    let mut client = agent.client().expect("the socket listens");
    let refused = client.status(None).expect_err("one too many");
    let ClientError::Greeting(welcome) = refused else { panic!("{refused:?}") };
    assert_eq!(welcome.verdict, Verdict::TooMany);
    drop(sessions);
    until("a seat is free again", || agent.client().ok()?.status(None).ok());
}

#[test]
fn what_is_attached_ends_with_its_connection_and_what_is_not_stays() {
    let agent = Agent::start(&local());
    let mut holder = agent.client().expect("the agent answers");
    acquire(&mut holder, Acquire { attach: Attach::Session, ..wish("attached", Hold::Keep) });
    acquire(&mut holder, wish("detached", Hold::Keep));
    let mut other = agent.client().expect("the agent answers");
    assert_eq!(locks(&mut other).len(), 2);
    drop(holder);
    until("what was attached is free", || (locks(&mut other).len() == 1).then_some(()));
    assert_eq!(locks(&mut other)[0].resource.as_str(), "detached");
}

#[test]
fn a_client_that_was_gone_before_it_could_read_its_lease_does_not_keep_it() {
    let agent = Agent::start(&local());
    let mut other = agent.client().expect("the agent answers");
    for round in 0..50 {
        let mut stream = greet(&agent);
        let name = format!("res{round}");
        let ask = frame::encode(&Request::Acquire(wish(&name, Hold::Keep))).expect("a request");
        stream.write_all(&ask).expect("a request is taken");
        if round % 2 == 0 {
            // The answer is on its way, or was written already.
            let mut first = [0];
            stream.read_exact(&mut first).expect("the answer comes");
        }
        drop(stream);
    }
    until("nobody's leases are given back", || locks(&mut other).is_empty().then_some(()));
}

#[test]
fn a_client_that_was_gone_before_it_could_read_that_it_shares_a_lease_ends_none() {
    let agent = Agent::start(&local());
    let mut client = agent.client().expect("the agent answers");
    let lease = acquire(&mut client, wish("shared", Hold::Keep));
    let target = Target { resource: lease.resource, lease: Some(lease.lease) };
    let process = Process::look(std::process::id(), false).expect("this process");
    let share = Request::Share { leases: vec![target.clone()], process };
    let attach = Request::Attach { leases: vec![target], attach: Attach::Process(process) };
    for request in [attach, share] {
        let mut stream = greet(&agent);
        let ask = frame::encode(&request).expect("a request");
        stream.write_all(&ask).expect("a request is taken");
        stream.read_exact(&mut [0]).expect("the answer comes");
        drop(stream);
    }
    // The agent has heard of both ends when it has answered and closed one more.
    let asks = frame::encode(&Request::Acquire(wish("unread", Hold::Keep))).expect("a request");
    let mut stream = greet(&agent);
    stream.write_all(&asks).expect("a request is taken");
    stream.read_exact(&mut [0]).expect("the answer comes");
    drop(stream);
    until("what was not read is given back", || (locks(&mut client).len() == 1).then_some(()));
    assert_eq!(locks(&mut client)[0].resource.as_str(), "shared");
}

#[test]
fn a_client_that_goes_at_the_instant_of_its_grant_does_not_keep_its_lease() {
    let agent = Agent::start(&local());
    let mut dice = Dice::seeded("instant of the grant");
    // It goes after a random while that is moved until half of the answers come before its end.
    let (mut longest, mut answered) = (10_000, 0);
    for round in 0..GOING {
        let mut stream = greet(&agent);
        let name = format!("res{round}");
        let ask = frame::encode(&Request::Acquire(wish(&name, Hold::Keep))).expect("a request");
        stream.write_all(&ask).expect("a request is taken");
        for _ in 0..dice.below(longest) {
            std::hint::spin_loop();
        }
        stream.set_nonblocking(true).expect("a stream that does not wait");
        if stream.read(&mut [0]).is_ok() {
            answered += 1;
            longest -= longest / 50;
        } else {
            longest += longest / 50 + 1;
        }
    }
    println!("{answered} of {GOING} were answered before they went");
    assert!(answered > GOING / 5 && answered < GOING - GOING / 5, "the instant was not met");
    let mut other = agent.client().expect("the agent answers");
    until("nobody's leases are given back", || leases(&mut other).is_empty().then_some(()));
}

#[test]
fn a_stream_tells_the_whole_state_first_and_then_each_change() {
    let agent = Agent::start(&local());
    let mut client = agent.client().expect("the agent answers");
    let first = acquire(&mut client, wish("first", Hold::Keep));
    let mut stream: Client = agent.client().expect("the agent answers");
    let Event::Lease(told) = stream.subscribe().expect("a stream") else { panic!("state first") };
    assert_eq!((told.lease, told.state), (first.lease, State::Held));
    assert_eq!(stream.next_event(Some(PATIENCE)).expect("an event"), Event::Caught);
    let second = acquire(&mut client, wish("second", Hold::No));
    let Event::Lease(told) = stream.next_event(Some(PATIENCE)).expect("an event") else {
        panic!("a change")
    };
    assert_eq!((told.lease, told.state), (second.lease, State::Held));
    client.release(stormlock_protocol::message::Release::All).expect("given back");
    for _ in 0..2 {
        let Event::Lease(told) = stream.next_event(Some(PATIENCE)).expect("an event") else {
            panic!("a change")
        };
        assert_eq!(told.state, State::Released);
    }
}

#[test]
fn a_stream_tells_the_whole_state_anew_each_time_that_it_is_asked_to() {
    let agent = Agent::start(&local());
    let mut client = agent.client().expect("the agent answers");
    acquire(&mut client, wish("first", Hold::Keep));
    let mut stream = connect(&agent);
    let mut bytes = Hello::OURS.encode().to_vec();
    // All at once, and before anything of it was read.
    for request in [Request::Status { after: None }, Request::Subscribe, Request::Subscribe] {
        bytes.extend(frame::encode(&request).expect("a frame"));
    }
    stream.write_all(&bytes).expect("they are taken");
    assert!(read_welcome(&mut stream).is_some());
    assert!(matches!(read_reply(&mut stream), Reply::Status(_)));
    for anew in [false, true] {
        if anew {
            assert_eq!(read_reply(&mut stream), Reply::Event(Event::Anew));
        }
        assert!(matches!(read_reply(&mut stream), Reply::Event(Event::Lease(_))));
        assert_eq!(read_reply(&mut stream), Reply::Event(Event::Caught));
    }
}

#[test]
fn what_one_user_may_have_does_not_count_what_was_lost() {
    let agent = Agent::start(&format!("{}max_leases = 1\n", local()));
    let mut client = agent.client().expect("the agent answers");
    acquire(&mut client, Acquire { ttl: Some(ttl(1)), ..wish("a", Hold::No) });
    until("its time runs out", || {
        let all = leases(&mut client);
        matches!(all.first()?.state, State::Lost(_)).then_some(())
    });
    acquire(&mut client, wish("b", Hold::No));
}

#[test]
fn too_many_leases_of_one_user_are_refused_and_nothing_is_taken() {
    let agent = Agent::start(&format!("{}max_leases = 3\n", local()));
    let mut client = agent.client().expect("the agent answers");
    for name in ["a", "b"] {
        acquire(&mut client, wish(name, Hold::Keep));
    }
    let two = Acquire { resources: vec![resource("c"), resource("d")], ..wish("c", Hold::No) };
    let refused = client.acquire(two).expect_err("four are too many");
    let ClientError::Refused(no) = refused else { panic!("{refused:?}") };
    assert_eq!(no.code, Code::TooMany);
    assert_eq!(locks(&mut client).len(), 2);
    acquire(&mut client, wish("c", Hold::No));
}
