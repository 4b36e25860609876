//! One user asks as much as the agent takes from one user, of each kind of question.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use stormlock_protocol::message::{
    Acquire, Attach, Break, Event, Hold, IsHeld, List, Log, Release, Renew, Reply, Request, Target,
    Wait,
};
use stormlock_protocol::name::Reason;
use stormlock_protocol::process::Process;

use super::crowd::{MEMORY_OF_ONE_KB, memory_kb};
use super::victim::Victim;
use super::{EVE, SESSIONS_OF_ONE, connect, open_to_all, receive, reply, send, shared, welcomed};
use crate::agent::Agent;
use crate::dice::now_ms;
use crate::meanwhile::Meanwhile;
use crate::redis_server::RedisServer;
use crate::{locks, resource, until, wish};

/// How many of its connections a flooding user serves with one thread.
const OF_ONE_THREAD: usize = 16;

/// Changes that streams are told of which nobody reads: more than wait for any of them.
const UNREAD: usize = 3000;

/// What the session of this number asks in one go.
pub(super) type Asks = Box<dyn Fn(usize) -> Vec<Request> + Sync>;

/// Questions in a loop over all the sessions that one user may have, each with one reply.
pub(super) fn flood(agent: &Agent, victim: &Victim, what: &str, asks: &Asks) {
    let (ends, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut sessions = all_sessions(agent);
    std::thread::scope(|scope| {
        let meanwhile = Meanwhile(&ends);
        for (part, sessions) in sessions.chunks_mut(OF_ONE_THREAD).enumerate() {
            let (ends, count) = (&ends, &count);
            scope.spawn(move || {
                // However slow those are whom they ask: all of them have asked again.
                let is_short = || count.load(Ordering::Relaxed) <= SESSIONS_OF_ONE;
                while !ends.load(Ordering::Relaxed) || is_short() {
                    // All of them ask, and only then does anybody read.
                    for (number, session) in sessions.iter_mut().enumerate() {
                        for request in asks(part * OF_ONE_THREAD + number) {
                            send(session, &request);
                        }
                    }
                    for (number, session) in sessions.iter_mut().enumerate() {
                        for _ in asks(part * OF_ONE_THREAD + number) {
                            receive(session);
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let measure = victim.during(what, || {});
        drop(meanwhile);
        measure.is_undisturbed();
    });
    let count = count.into_inner();
    println!("limits: {what}: {count} answers");
}

/// All the sessions that one user may have. Those of an earlier flood end a moment later.
fn all_sessions(agent: &Agent) -> Vec<UnixStream> {
    (0..SESSIONS_OF_ONE)
        .map(|_| until("a session is free", || super::greet(agent, EVE).ok()))
        .collect()
}

pub(super) fn target(name: &str) -> Target {
    Target { resource: resource(name), lease: None }
}

/// Every question that has one reply; the dear ones ask a store, the disk or for every lock.
fn questions(agent: &Agent) -> Vec<(&'static str, Asks)> {
    let held = locks(&mut agent.client().expect("the agent answers"));
    let seen = held.iter().find(|it| it.resource.as_str() == "prod/0").expect("it is held").lease;
    let theirs = Target { resource: resource("prod/0"), lease: Some(seen) };
    let (renewed, released) = (theirs.clone(), theirs.clone());
    let this = Process::look(std::process::id(), false).expect("this process");
    let all = || List { glob: None, mine: false, after: None };
    let log = || Log { resource: Some(resource("prod/0")), since: None, before: None, limit: 24 };
    let held = || IsHeld { resource: resource("store/prod/0"), lease: None, by_me: true };
    let cycle = |name: String| {
        let release = Request::Release(Release::These(vec![target(&name)]));
        vec![Request::Acquire(wish(&name, Hold::Keep)), release]
    };
    let patterns = ["*a".repeat(64), "*".repeat(128), format!("{}b", "?*".repeat(60))];
    vec![
        ("status", Box::new(|_| vec![Request::Status { after: None }; 8])),
        ("current", Box::new(|_| vec![Request::Current(resource("prod/0")); 8])),
        ("current in the store", Box::new(|_| vec![Request::Current(resource("store/prod/0")); 8])),
        ("is-held in the store", Box::new(move |_| vec![Request::IsHeld(held()); 8])),
        ("list", Box::new(move |_| vec![Request::List(all()); 4])),
        (
            "list with patterns that are long to match",
            Box::new(move |_| {
                let one = |glob: &String| List { glob: Some(glob.clone()), ..all() };
                patterns.iter().map(|glob| Request::List(one(glob))).collect()
            }),
        ),
        ("log", Box::new(move |_| vec![Request::Log(log()); 2])),
        ("metrics", Box::new(|_| vec![Request::Metrics; 4])),
        ("doctor", Box::new(|_| vec![Request::Doctor; 2])),
        ("acquire and release", Box::new(move |number| cycle(format!("free/{number}")))),
        (
            "acquire and release in the store",
            Box::new(move |number| cycle(format!("store/free/{number}"))),
        ),
        (
            "an acquire that is denied",
            Box::new(|_| vec![Request::Acquire(wish("prod/9", Hold::Keep)); 8]),
        ),
        (
            "a renewal and a release of another's lease",
            Box::new(move |_| {
                let renew = Renew { target: renewed.clone(), ttl: None, hold: None };
                let release = Release::These(vec![released.clone()]);
                vec![
                    Request::Renew(renew),
                    Request::Release(release),
                    Request::Release(Release::All),
                ]
            }),
        ),
        (
            "another's lease, to be attached and shared",
            Box::new(move |_| {
                let leases = vec![theirs.clone()];
                let attach = Attach::Session;
                vec![
                    Request::Attach { leases: leases.clone(), attach },
                    Request::Share { leases, process: this },
                ]
            }),
        ),
        (
            "a break that is denied",
            Box::new(move |_| {
                let reason = Reason::new("mine now").expect("a reason");
                let on = resource("prod/0");
                vec![Request::Break(Break { resource: on, lease: seen, reason, now: true }); 8]
            }),
        ),
    ]
}

#[test]
fn a_flood_of_any_question_of_another_user_delays_no_renewal() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    victim.during("nobody asks anything", || {}).is_undisturbed();
    for (what, asks) in questions(&agent) {
        flood(&agent, &victim, what, &asks);
    }
    let held = locks(&mut agent.client().expect("the agent answers"));
    let kept = held.iter().filter(|it| it.resource.as_str().contains("prod/")).count();
    assert_eq!(kept, 8, "{held:?}");
}

#[test]
fn a_flood_of_connections_of_another_user_delays_no_renewal_and_fills_no_log() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    let socket = agent.socket();
    let mut connections = 0;
    let measure = victim.during("connections that hang up at once", || {
        connections += super::as_user(EVE, || {
            (0..200).filter(|_| UnixStream::connect(&socket).is_ok()).count()
        });
    });
    measure.is_undisturbed();
    println!("limits: {connections} connections");
    let sessions = all_sessions(&agent);
    let mut turned_away = 0;
    let measure = victim.during("connections that are one too many", || {
        for _ in 0..100 {
            let mut one_more = connect(&agent, EVE);
            assert_eq!(super::welcome(&mut one_more), stormlock_protocol::frame::Verdict::TooMany);
            turned_away += 1;
        }
    });
    measure.is_undisturbed();
    drop(sessions);
    let said = agent.log().lines().filter(|line| line.contains("turned away")).count();
    println!("limits: {turned_away} turned away, {said} lines of log");
    assert!(said > 0, "somebody should know");
    assert!(said <= 60, "{said} lines for {turned_away} connections fill a disk");
}

/// Who connects over and over at once.
const CONNECTORS: usize = 3;
/// How often somebody else asks something meanwhile.
const ASKED: usize = 100;

#[test]
fn a_flood_of_connections_of_another_user_keeps_nobody_from_theirs() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    let (is_over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let socket = agent.socket();
    let flooded = std::thread::scope(|scope| {
        let meanwhile = Meanwhile(&is_over);
        for _ in 0..CONNECTORS {
            scope.spawn(|| {
                super::as_user(EVE, || {
                    while !is_over.load(Ordering::Relaxed) {
                        count.fetch_add(
                            usize::from(UnixStream::connect(&socket).is_ok()),
                            Ordering::Relaxed,
                        );
                    }
                });
            });
        }
        let began = now_ms();
        let asked = (0..ASKED).map(|_| agent.client()?.status(None).map(drop));
        let asked: Vec<_> = asked.filter_map(Result::err).collect();
        let took = (now_ms() - began) / ASKED as u64;
        println!("limits: somebody else waits {took} ms for an answer meanwhile");
        let measure = victim.during("connections without end", || {});
        drop(meanwhile);
        measure.is_undisturbed();
        asked
    });
    println!("limits: {} connections", count.into_inner());
    assert!(flooded.is_empty(), "{} of {ASKED}: {:?}", flooded.len(), flooded.first());
}

#[test]
fn streams_that_are_asked_anew_and_waits_of_another_user_delay_no_renewal() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    let mut sessions = all_sessions(&agent);
    for session in &mut sessions {
        send(session, &Request::Subscribe);
    }
    let measure = victim.during("streams, asked anew", || {
        for session in &mut sessions {
            send(session, &Request::Subscribe);
        }
        for session in &mut sessions {
            while !matches!(reply(session), Reply::Event(Event::Anew)) {}
        }
    });
    measure.is_undisturbed();
    drop(sessions);

    let mut sessions = all_sessions(&agent);
    for (number, session) in sessions.iter_mut().enumerate() {
        let on = ["prod/0", "store/prod/0"][number % 2];
        send(
            session,
            &match number % 4 {
                0 | 1 => Request::Wait { resource: resource(on), wait: Wait::Forever },
                _ => {
                    let free = format!("{}free/0", &on[..on.len() - "prod/0".len()]);
                    Request::Acquire(Acquire { wait: Wait::Forever, ..wish(&free, Hold::Keep) })
                }
            },
        );
    }
    victim.during("waits for what the victim has", || {}).is_undisturbed();
    for session in &sessions {
        let _ = session.shutdown(Shutdown::Both);
    }
    drop(sessions);
    victim.during("waiters that are all gone at once", || {}).is_undisturbed();
    welcomed(&agent, EVE);
}

/// Each change of a user's leases goes to all streams of that user, read or not.
#[test]
fn streams_that_are_never_read_cost_nobody_else_anything() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    let before = memory_kb(&agent);
    let mut sessions = all_sessions(&agent);
    let mut busy = sessions.pop().expect("there are many");
    for session in &mut sessions {
        send(session, &Request::Subscribe);
    }
    super::ask(&mut busy, &Request::Acquire(wish("free/0", Hold::Keep)));
    let mut changes = 0;
    let mut change = || {
        let ttl = Some(crate::ttl(60 + changes % 2));
        let renew = Renew { target: target("free/0"), ttl, hold: None };
        super::ask(&mut busy, &Request::Renew(renew));
        changes += 1;
    };
    victim.during("streams that nobody reads", &mut change).is_undisturbed();
    (0..UNREAD).for_each(|_| change());
    victim.during("the same, cut off", &mut change).is_undisturbed();
    let grown = memory_kb(&agent).saturating_sub(before);
    println!("limits: {changes} changes, told to {} streams: {grown} KiB", sessions.len());
    assert!(grown < MEMORY_OF_ONE_KB, "{grown} KiB for the streams of one user");
}
