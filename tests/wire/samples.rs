//! One message of each kind that the wire knows: every variant of every enum, and each optional
//! part once there and once not. Sorted by type, then by name.

use stormlock_protocol::frame::{self, FrameError, Hello, Verdict, Welcome};
use stormlock_protocol::message::{
    Acquire, Agent, Attach, Backend, Break, Broken, Code, Cursor, Event, Finding, Glance, Health,
    Hold, IsHeld, Lease, Level, List, Lock, Log, LogCursor, Logged, LostReason, Origin, Refusal,
    Release, Released, Renew, Reply, Request, State, Status, Target, UnixMs, Unread, Wait, Waiting,
};
use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, Ttl};
use stormlock_protocol::process::{Process, Terminal};

/// A message and its bytes.
pub(crate) struct Sample {
    /// `Type::Variant`, and after a space what is special about it.
    pub(crate) name: String,
    /// As it goes over the wire, length and all.
    pub(crate) bytes: Vec<u8>,
    /// Reads a frame's body as this type and writes it again.
    pub(crate) again: fn(&[u8]) -> Result<Vec<u8>, FrameError>,
}

fn sample<T: bincode::Encode + bincode::Decode<()>>(name: &str, message: &T) -> Sample {
    let bytes = frame::encode(message).expect("a sample fits a frame");
    Sample { name: name.to_owned(), bytes, again: again::<T> }
}

fn again<T: bincode::Encode + bincode::Decode<()>>(body: &[u8]) -> Result<Vec<u8>, FrameError> {
    frame::encode(&frame::decode::<T>(body)?)
}

pub(crate) fn samples() -> Vec<Sample> {
    let mut all = greetings();
    all.extend(requests());
    all.extend(replies());
    all.extend(small_enums());
    all
}

/// The greetings are encoded by hand; they have no length and no decoder of bincode's.
fn greetings() -> Vec<Sample> {
    let hello = Hello { min: 1, max: 0x0203 };
    let again_hello = |bytes: &[u8]| {
        let bytes = bytes.try_into().map_err(|_| FrameError::Magic)?;
        Ok(Hello::decode(bytes)?.encode().to_vec())
    };
    let again_welcome = |bytes: &[u8]| {
        let bytes = bytes.try_into().map_err(|_| FrameError::Magic)?;
        Ok(Welcome::decode(bytes)?.encode().to_vec())
    };
    let mut all = vec![Sample {
        name: "Hello".to_owned(),
        bytes: hello.encode().to_vec(),
        again: again_hello,
    }];
    let verdicts = [
        Verdict::Speak(1),
        Verdict::ClientTooOld,
        Verdict::AgentTooOld,
        Verdict::TooMany,
        Verdict::Denied,
        Verdict::Stopping,
        Verdict::Garbage,
        Verdict::Slow,
        Verdict::Unknown(0x1234),
    ];
    all.extend(verdicts.map(|verdict| Sample {
        name: format!("Welcome::{verdict:?}"),
        bytes: Welcome { min: 1, max: 0x0203, verdict }.encode().to_vec(),
        again: again_welcome,
    }));
    all
}

fn requests() -> Vec<Sample> {
    let named = Target { resource: resource("prod/db"), lease: Some(id()) };
    let unnamed = Target { resource: resource("prod/db"), lease: None };
    let acquire = Acquire {
        resources: vec![resource("prod/db"), resource("prod/web")],
        ttl: Some(ttl(900)),
        hold: Hold::For(28_800),
        reason: Some(reason()),
        attach: Attach::Session,
        wait: Wait::For(600),
        terminal: Some(Terminal { device: 0x8803, session: process() }),
    };
    let least = Acquire {
        resources: vec![resource("a")],
        ttl: None,
        hold: Hold::No,
        reason: None,
        attach: Attach::Detached,
        wait: Wait::No,
        terminal: None,
    };
    let attach =
        Request::Attach { leases: vec![named.clone(), unnamed.clone()], attach: Attach::Session };
    let share = Request::Share { leases: vec![named.clone()], process: process() };
    let wait = Request::Wait { resource: resource("prod/db"), wait: Wait::Forever };
    let these = Release::These(vec![named.clone(), unnamed.clone()]);
    let renew = Renew { target: named, ttl: Some(ttl(60)), hold: Some(Hold::Keep) };
    let is_held = IsHeld { resource: resource("prod/db"), lease: Some(id()), by_me: true };
    let any = IsHeld { resource: resource("prod/db"), lease: None, by_me: false };
    let list = List { glob: Some("prod/*".to_owned()), mine: true, after: Some(cursor()) };
    let log = Log {
        resource: Some(resource("prod/db")),
        since: Some(UnixMs(1_764_100_000_000)),
        before: Some(LogCursor { file: 17, end: 4_096 }),
        limit: 20,
    };
    let whole_log = Log { resource: None, since: None, before: None, limit: 0 };
    vec![
        sample("Request::Acquire", &Request::Acquire(acquire)),
        sample("Request::Acquire least", &Request::Acquire(least)),
        sample("Request::Release these", &Request::Release(these)),
        sample("Request::Release all", &Request::Release(Release::All)),
        sample("Request::Renew", &Request::Renew(renew)),
        sample(
            "Request::Renew least",
            &Request::Renew(Renew { target: unnamed, ttl: None, hold: None }),
        ),
        sample("Request::Current", &Request::Current(resource("prod/db"))),
        sample("Request::IsHeld", &Request::IsHeld(is_held)),
        sample("Request::IsHeld least", &Request::IsHeld(any)),
        sample("Request::List", &Request::List(list)),
        sample(
            "Request::List least",
            &Request::List(List { glob: None, mine: false, after: None }),
        ),
        sample("Request::Status", &Request::Status { after: Some(id()) }),
        sample("Request::Status first", &Request::Status { after: None }),
        sample("Request::Doctor", &Request::Doctor),
        sample("Request::Subscribe", &Request::Subscribe),
        sample("Request::Wait", &wait),
        sample("Request::Attach", &attach),
        sample("Request::Share", &share),
        sample("Request::Log", &Request::Log(log)),
        sample("Request::Log least", &Request::Log(whole_log)),
        sample("Request::Metrics", &Request::Metrics),
        sample("Request::Glance", &Request::Glance),
        sample(
            "Request::Break",
            &Request::Break(Break {
                resource: resource("prod/db"),
                lease: id(),
                reason: reason(),
                now: true,
            }),
        ),
    ]
}

fn replies() -> Vec<Sample> {
    let given =
        Released { resource: resource("prod/db"), lease: Some(id()), refusal: None, lost: None };
    let kept = Released {
        resource: resource("prod/web"),
        lease: None,
        refusal: Some(Refusal::new(Code::NotHeld, "you do not hold prod/web")),
        lost: None,
    };
    let locks = Reply::Locks {
        locks: vec![lock(), foreign_lock()],
        next: Some(cursor()),
        unread: vec![Unread { backend: "main".to_owned(), why: "no answer".to_owned() }],
    };
    let end = Reply::Locks { locks: vec![], next: None, unread: vec![] };
    let held = Refusal {
        code: Code::Held,
        message: "prod/db is held by maria@bastion2".to_owned(),
        resource: Some(resource("prod/db")),
        holder: Some(Box::new(lock())),
    };
    let bad = Finding {
        level: Level::Bad,
        about: "backend main".to_owned(),
        text: "it evicts".to_owned(),
        mend: Some("set noeviction".to_owned()),
    };
    let good = Finding { level: Level::Good, mend: None, ..bad.clone() };
    let no = Refusal::new(Code::Denied, "no rule allows it");
    let holder = Some(Box::new(lock()));
    let waiting = Waiting { resource: resource("prod/db"), holder, place: 2, of: 3 };
    let at_first = Waiting { holder: None, place: 1, of: 1, ..waiting.clone() };
    let next = Some(LogCursor { file: 17, end: 4_096 });
    vec![
        sample("Reply::Acquired", &Reply::Acquired(vec![lease(), asked()])),
        sample("Reply::Released", &Reply::Released(vec![given, kept])),
        sample("Reply::Renewed", &Reply::Renewed(lease())),
        sample("Reply::Current", &Reply::Current(Some(lock()))),
        sample("Reply::Current foreign", &Reply::Current(Some(foreign_lock()))),
        sample("Reply::Current free", &Reply::Current(None)),
        sample("Reply::Verdict", &Reply::Verdict { held: true, lock: Some(lock()) }),
        sample("Reply::Verdict no", &Reply::Verdict { held: false, lock: None }),
        sample("Reply::Locks", &locks),
        sample("Reply::Locks end", &end),
        sample("Reply::Status", &Reply::Status(status())),
        sample("Reply::Findings", &Reply::Findings(vec![bad, good])),
        sample("Reply::Event", &Reply::Event(Event::Lease(lease()))),
        sample("Reply::Refused held", &Reply::Refused(held)),
        sample("Reply::Refused", &Reply::Refused(no)),
        sample("Reply::Waiting", &Reply::Waiting(waiting)),
        sample("Reply::Waiting at first", &Reply::Waiting(at_first)),
        sample("Reply::Log", &Reply::Log { events: vec![logged(), gap()], next }),
        sample("Reply::Log end", &Reply::Log { events: vec![], next: None }),
        sample("Reply::Metrics", &Reply::Metrics("stormlock_sessions 3\n".to_owned())),
        sample("Reply::Glance", &Reply::Glance(Glance { lease: Some(lease()), more: 2 })),
        sample("Reply::Glance of nothing", &Reply::Glance(Glance { lease: None, more: 0 })),
        sample("Reply::Broken", &Reply::Broken(Broken { broken: lock(), left_ms: 844_250 })),
    ]
}

fn logged() -> Logged {
    Logged {
        at: UnixMs(1_764_100_000_000),
        event: "release".to_owned(),
        result: "ok".to_owned(),
        resource: Some(resource("prod/db")),
        lease: Some(id()),
        fence: Some(Fence(1_764_100_000_000_123)),
        backend: Some("main".to_owned()),
        principal: Some(Principal::new("maria@bastion2").expect("a principal")),
        by: Some(Principal::new("root@bastion2").expect("a principal")),
        reason: Some(reason()),
        why: Some("the agent stopped".to_owned()),
        missing: 0,
        origin: Some(Origin {
            uid: 0,
            user: "root".to_owned(),
            login: Some("alice".to_owned()),
            pid: Some(4711),
            unit: Some("session-3.scope".to_owned()),
        }),
    }
}

fn gap() -> Logged {
    let (resource, lease, fence, backend, principal) = (None, None, None, None, None);
    let (by, reason, why, origin) = (None, None, None, None);
    let (event, result) = ("gap".to_owned(), "failed".to_owned());
    let (at, missing) = (UnixMs(1_764_100_000_000), 12);
    Logged {
        at,
        event,
        result,
        resource,
        lease,
        fence,
        backend,
        principal,
        by,
        reason,
        why,
        missing,
        origin,
    }
}

fn small_enums() -> Vec<Sample> {
    let who = || Principal::new("maria@bastion2").expect("a principal");
    let mut all = vec![
        sample("Hold::No", &Hold::No),
        sample("Hold::For", &Hold::For(28_800)),
        sample("Hold::Until", &Hold::Until(UnixMs(1_764_100_000_000))),
        sample("Hold::Until before 1970", &Hold::Until(UnixMs(-1))),
        sample("Hold::Keep", &Hold::Keep),
        sample("Hold::Usual", &Hold::Usual),
        sample("Wait::No", &Wait::No),
        sample("Wait::For", &Wait::For(600)),
        sample("Wait::Forever", &Wait::Forever),
        sample("Attach::Detached", &Attach::Detached),
        sample("Attach::Session", &Attach::Session),
        sample("Attach::Process", &Attach::Process(process())),
        sample("Attach::Holder", &Attach::Holder { process: process(), grace_secs: 30 }),
        sample("Release::These none", &Release::These(vec![])),
        sample("Release::All", &Release::All),
        sample("State::Asking", &State::Asking),
        sample("State::Held", &State::Held),
        sample("State::AtRisk", &State::AtRisk),
        sample("State::Unknown", &State::Unknown),
        sample("State::Lost", &State::Lost(LostReason::Expired)),
        sample("State::Released", &State::Released),
        sample("State::Lingering", &State::Lingering),
        sample("LostReason::Expired", &LostReason::Expired),
        sample("LostReason::TakenBy", &LostReason::TakenBy(who())),
        sample("LostReason::BrokenBy", &LostReason::BrokenBy { who: who(), why: Some(reason()) }),
        sample("LostReason::StoreLostIt", &LostReason::StoreLostIt),
        sample("LostReason::Clone", &LostReason::Clone),
        sample("LostReason::Revoked", &LostReason::Revoked),
        sample("Health::Unused", &Health::Unused),
        sample("Health::Up", &Health::Up),
        sample("Health::Down", &Health::Down),
        sample("Level::Good", &Level::Good),
        sample("Level::Note", &Level::Note),
        sample("Level::Warning", &Level::Warning),
        sample("Level::Bad", &Level::Bad),
        sample("Event::Lease", &Event::Lease(lease())),
        sample("Event::Caught", &Event::Caught),
        sample("Event::Anew", &Event::Anew),
    ];
    all.extend(Code::ALL.map(|code| sample(&format!("Code::{code:?}"), &code)));
    all
}

fn process() -> Process {
    Process { pid: 4711, started: 123_456_789, group: true }
}

fn lease() -> Lease {
    Lease {
        resource: resource("prod/db"),
        lease: id(),
        fence: Some(Fence(1_764_100_000_000_123)),
        backend: "main".to_owned(),
        this_host_only: false,
        state: State::Held,
        principal: Principal::new("maria@bastion2").expect("a principal"),
        reason: Some(reason()),
        since: UnixMs(1_764_100_000_000),
        left_ms: 898_250,
        ttl: ttl(900),
        hold: Hold::Until(UnixMs(1_764_128_800_000)),
        attach: Attach::Session,
        waiters: 2,
        ends_soon: true,
    }
}

fn asked() -> Lease {
    Lease {
        fence: None,
        this_host_only: true,
        state: State::Asking,
        reason: None,
        left_ms: 0,
        hold: Hold::No,
        attach: Attach::Detached,
        waiters: 0,
        ends_soon: false,
        ..lease()
    }
}

fn lock() -> Lock {
    Lock {
        resource: resource("prod/db"),
        backend: "main".to_owned(),
        this_host_only: false,
        principal: Principal::new("maria@bastion2").expect("a principal"),
        host: Some("bastion2".to_owned()),
        lease: id(),
        fence: Some(Fence(7)),
        reason: Some(reason()),
        since: UnixMs(1_764_100_000_000),
        left_ms: Some(898_250),
        mine: true,
        waiters: 2,
        process: Some(process()),
    }
}

/// As the Python tool writes one, without a ttl.
fn foreign_lock() -> Lock {
    let lease = "70d5f".parse().expect("a lease id of etcd's");
    let (mine, process) = (false, None);
    Lock { host: None, lease, fence: None, reason: None, left_ms: None, mine, process, ..lock() }
}

fn status() -> Status {
    let backend = |name: &str, health, since| Backend {
        name: name.to_owned(),
        kind: "redis".to_owned(),
        health,
        since,
    };
    Status {
        agent: Agent {
            version: "0.1.0".to_owned(),
            host: "bastion2".to_owned(),
            pid: 4711,
            since: UnixMs(1_764_000_000_000),
            you: Principal::new("maria@bastion2").expect("a principal"),
            journal_works: true,
        },
        leases: vec![lease()],
        next: Some(id()),
        backends: vec![
            backend("main", Health::Up, Some(UnixMs(1_764_000_000_001))),
            backend("spare", Health::Unused, None),
        ],
    }
}

fn cursor() -> Cursor {
    Cursor { backend: "main".to_owned(), resource: resource("prod/db") }
}

fn id() -> LeaseId {
    "0af1c2d3e4f50617283940515263748f".parse().expect("a lease id")
}

fn resource(name: &str) -> Resource {
    Resource::new(name).expect("a resource")
}

fn reason() -> Reason {
    Reason::new("schema 42 (ü)").expect("a reason")
}

fn ttl(secs: u64) -> Ttl {
    Ttl::from_secs(secs).expect("a ttl")
}
