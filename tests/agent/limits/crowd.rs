//! Many users at once: as many sessions as there may be, slow ones among them, and more memory
//! wanted than anybody gets.

use std::io::Write;
use std::os::unix::net::UnixStream;

use stormlock_protocol::FRAME_MAX;
use stormlock_protocol::frame::{self, Verdict};
use stormlock_protocol::message::{Acquire, Hold, List, Request, Wait};

use super::victim::Victim;
use super::{
    CROWD, EVE, SESSIONS, SESSIONS_OF_ONE, as_user, connect, greet, open_to_all, send, shared,
    welcomed,
};
use crate::agent::Agent;
use crate::redis_server::RedisServer;
use crate::{until, wish};

/// Connections of the crowd that say nothing more, and of those that are slow.
const IDLE: usize = 1000;
const SLOW: usize = 64;
/// Most memory that all sessions of one user may cost, in KiB: some for each, beside two frames.
pub(super) const MEMORY_OF_ONE_KB: u64 = 40 * 1024;

#[test]
fn a_thousand_idle_clients_and_as_many_slow_ones_as_one_user_may_have_delay_no_renewal() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    victim.during("no crowd", || {}).is_undisturbed();
    // Slow from the first byte on, and slow to read.
    let mut drips: Vec<(UnixStream, Vec<u8>)> = (0..SLOW)
        .map(|number| {
            let request = frame::encode(&Request::Doctor).expect("a request");
            match number % 2 {
                0 => (connect(&agent, EVE), frame::encode(&Request::Metrics).expect("a request")),
                _ => (welcomed(&agent, EVE), request),
            }
        })
        .collect();
    let mut idle = Vec::new();
    for number in 0..IDLE {
        let uid = CROWD + u32::try_from(number / (SESSIONS_OF_ONE - 1)).expect("a number");
        match greet(&agent, uid) {
            Ok(session) => idle.push(session),
            // The slow, the victim and its ear have seats too.
            Err(no) => {
                assert_eq!((no, idle.len() + SLOW + 2 >= SESSIONS), (Verdict::TooMany, true))
            }
        }
    }
    println!("limits: {} idle and {SLOW} slow clients", idle.len());
    let mut at = 0;
    let measure = victim.during("1,000 idle and 64 slow clients", || {
        for (drip, bytes) in &mut drips {
            // Those that were too slow for their hello have been dropped.
            let _ = drip.write_all(&bytes[at % bytes.len()..][..1]);
        }
        at += 1;
        let _ = rustix::event::poll(&mut [], Some(&SECOND));
    });
    measure.is_undisturbed();

    // As many as there may be at all: nobody gets in any more, and everybody is told.
    let full = until("every seat is taken", || {
        let uid = CROWD + 1000 + u32::try_from(idle.len()).expect("a number");
        match greet(&agent, uid) {
            Ok(session) => {
                idle.push(session);
                None
            }
            Err(no) => Some(no),
        }
    });
    assert_eq!(full, Verdict::TooMany);
    victim.during("every seat is taken", || {}).is_undisturbed();
    drop(idle);
    until("there is room again", || greet(&agent, EVE + 1).ok());
}

/// Between two bytes of a slow client.
const SECOND: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };

/// Longer requests than any client of ours sends, ahead of an answer that does not come.
#[test]
fn what_one_user_sends_ahead_of_answers_costs_the_agent_little_memory() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    let before = memory_kb(&agent);
    let long = "*".repeat(FRAME_MAX - 64);
    let list = List { glob: Some(long), mine: false, after: None };
    let bytes = frame::encode(&Request::List(list)).expect("a request");
    let mut sessions: Vec<UnixStream> = as_user(EVE, || {
        let socket = agent.socket();
        (0..SESSIONS_OF_ONE).map(|_| UnixStream::connect(&socket).expect("it listens")).collect()
    });
    for session in &mut sessions {
        session.write_all(&stormlock_protocol::frame::Hello::OURS.encode()).expect("it is taken");
        assert!(matches!(super::welcome(session), Verdict::Speak(_)));
    }
    let mut holder = welcomed(&agent, EVE + 1);
    super::ask(&mut holder, &Request::Acquire(wish("free/0", Hold::Keep)));
    for session in &mut sessions {
        let wait = Acquire { wait: Wait::Forever, ..wish("free/0", Hold::Keep) };
        send(session, &Request::Acquire(wait));
        session.set_nonblocking(true).expect("a stream that does not wait");
    }
    let mut rest = vec![bytes.repeat(17); sessions.len()];
    let measure = victim.during("requests ahead of answers", || {
        for (session, rest) in sessions.iter_mut().zip(&mut rest) {
            while let Ok(sent @ 1..) = session.write(rest) {
                rest.drain(..sent);
            }
        }
    });
    measure.is_undisturbed();
    let grown = memory_kb(&agent).saturating_sub(before);
    println!("limits: {grown} KiB for what is ahead of answers");
    assert!(grown < MEMORY_OF_ONE_KB, "{grown} KiB for the sessions of one user");
}

/// What the agent has in memory.
pub(super) fn memory_kb(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
