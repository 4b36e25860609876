//! What the core and the backends say to each other: claims, proofs, grants, holders.
//!
//! The port belongs to the core; backends import it and nothing else of the core.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use stormlock_protocol::name::{
    Fence, LeaseId, Principal, Reason, Resource, TTL_MAX_SECS, TTL_MIN_SECS, Ttl, UnixMs,
};

use super::Moment;

/// A backend's name in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendName(Arc<str>);

impl BackendName {
    /// A name; the configuration has checked it.
    #[must_use]
    pub fn new(name: &str) -> BackendName {
        BackendName(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A random mark that each renewal replaces in the store. A renewal names every mark that the
/// store may have; so a late copy of an older renewal, or a clone of this host, changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub u64);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({:016x})", self.0)
    }
}

/// What we ask a store for. The id is minted, and made durable, before the first try (law 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What is to be protected.
    pub resource: Resource,
    /// The lease it shall become.
    pub lease: LeaseId,
    /// The store that is asked.
    pub backend: BackendName,
    /// Who asks, for others to read.
    pub principal: Principal,
    /// The host that asks, for others to read.
    pub host: String,
    /// Why, for others to read.
    pub reason: Option<Reason>,
    /// How long it lives without a renewal.
    pub ttl: Ttl,
    /// When it was asked for, by this host's wall clock: for people only.
    pub created: UnixMs,
    /// The lease's first mark.
    pub nonce: Nonce,
    /// It breaks this lease: it takes the resource from exactly that one and from nobody else.
    /// Nobody holds such a lease: while it stands the resource is nobody's, so that whoever relied
    /// on the broken one has time to notice (law 10).
    pub over: Option<LeaseId>,
}

impl Claim {
    /// The same for no less than so long, as far as a ttl may go.
    #[must_use]
    pub fn no_shorter_than(&self, least: Duration) -> Claim {
        Claim { ttl: self.ttl.max(covering(least)), ..self.clone() }
    }
}

/// The shortest ttl that is no shorter, or the longest there is.
#[must_use]
pub fn covering(length: Duration) -> Ttl {
    let secs = length.as_secs() + u64::from(length.subsec_nanos() > 0);
    match Ttl::from_secs(secs.clamp(TTL_MIN_SECS.into(), TTL_MAX_SECS.into())) {
        Ok(ttl) => ttl,
        Err(_) => unreachable!("it was clamped"),
    }
}

/// What came of a release: nobody has the lease any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// Because of it.
    Done,
    /// For it was not there, or not under one of the proof's marks: nothing was touched.
    NotThere,
}

/// What a store gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Greater than any fence before it on that resource.
    pub fence: Fence,
    /// How long the store keeps it from the moment it answered: a duration, never an instant of
    /// its clock.
    pub remaining: Duration,
}

/// A lease id of two random numbers. One with an empty upper half is for a store whose ids are
/// narrow.
#[must_use]
pub fn mint(narrow: bool, high: u64, low: u64) -> LeaseId {
    let number = match narrow {
        true => u128::from(low & u64::MAX >> 1),
        false => u128::from(high | 1 << 63) << 64 | u128::from(low),
    };
    LeaseId::from_bytes(number.to_be_bytes())
}

/// True for one that [`mint`] made for a store with narrow ids.
pub(super) fn is_narrow(lease: LeaseId) -> bool {
    u128::from_be_bytes(*lease.as_bytes()) >> 64 == 0
}

/// How a lease names itself to the store: law 10, every write compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The resource.
    pub resource: Resource,
    /// The lease.
    pub lease: LeaseId,
    /// Every mark that the store may have for it; empty when we never knew (a lease that another
    /// writer made and a person names by id), which the store then does not compare.
    pub nonces: Vec<Nonce>,
}

/// A lock as a store shows it, whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The resource.
    pub resource: Resource,
    /// The lease.
    pub lease: LeaseId,
    /// Who, tamed by [`Principal::foreign`].
    pub principal: Principal,
    /// The holder's host; other writers leave none.
    pub host: Option<String>,
    /// Why; other writers leave none.
    pub reason: Option<Reason>,
    /// The fence; other writers leave none.
    pub fence: Option<Fence>,
    /// Since when, by the writer's wall clock.
    pub since: UnixMs,
    /// How long the store still keeps it; `None`: for ever.
    pub remaining: Option<Duration>,
}

/// A user as the kernel knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub u32);

impl Uid {
    /// Nobody connects as this one: it has what nobody holds.
    pub const NOBODY: Uid = Uid(u32::MAX);
}

/// One client connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    /// No connection has this number: that of a lease whose connection an earlier agent had.
    pub const NOBODY: SessionId = SessionId(u64::MAX);
}

/// A process of this host. Numbers are used again; a number with its start is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in the kernel's clock ticks since boot.
    pub started: u64,
    /// True when its end is the end of the last process in the group that it leads.
    pub group: bool,
}

/// A terminal, for as long as the session goes on that it controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// The kernel's number of its device.
    pub device: u32,
    /// The leader of that session.
    pub session: ProcessId,
}

/// How long the agent keeps renewing a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Not at all: it ends after its ttl.
    No,
    /// Until then, when it is given back.
    Until(Moment),
    /// Until it is released.
    Keep,
}

/// Whose end ends a lease (law 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// Nobody's: it ends by release, hold or ttl.
    Detached,
    /// It ends with this connection. After a restart of the agent no connection has this number
    /// any more, and the lease waits a while for its holder to come back.
    Session(SessionId),
    /// It ends with this process, whoever is connected.
    Process(ProcessId),
    /// The same, of a process that only holds it: others count on it, and hear of an end of that
    /// process only when it has come. Unless it was given back they have so many seconds from then.
    Holder(ProcessId, u32),
}

impl Attach {
    /// The process whose end ends it.
    #[must_use]
    pub fn process(self) -> Option<ProcessId> {
        match self {
            Attach::Process(process) | Attach::Holder(process, _) => Some(process),
            Attach::Detached | Attach::Session(_) => None,
        }
    }

    /// True when this is the end that ends it.
    pub(super) fn ends_with(self, end: Attach) -> bool {
        self == end || self.process().is_some_and(|process| end == Attach::Process(process))
    }

    /// The same with another process in the place of the one that has ended.
    pub(super) fn passed_on(self, next: ProcessId) -> Attach {
        match self {
            Attach::Holder(_, grace_secs) => Attach::Holder(next, grace_secs),
            Attach::Process(_) | Attach::Session(_) | Attach::Detached => Attach::Process(next),
        }
    }

    /// How long others may count on it after that end.
    pub(super) fn grace(self) -> Duration {
        match self {
            Attach::Holder(_, secs) => Duration::from_secs(secs.into()),
            Attach::Process(_) | Attach::Session(_) | Attach::Detached => Duration::ZERO,
        }
    }

    /// True for a command of `run`: it alone is a group.
    pub(super) fn is_command(self) -> bool {
        self.process().is_some_and(|process| process.group)
    }

    /// The greatest ttl under which a command was let go, when a lease has these ends now, and one
    /// began or ended: how long a command may take to end follows from the ttl of then.
    pub(super) fn command_ttl(
        self,
        sharers: &[ProcessId],
        before: Option<Ttl>,
        begins: Option<Ttl>,
    ) -> Option<Ttl> {
        let is_at_work = self.is_command() || sharers.iter().any(|process| process.group);
        before.max(begins).filter(|_| is_at_work)
    }
}

/// Most processes that may share a lease with the one it is attached to.
pub const SHARERS_MAX: usize = 64;
/// Most of them on all leases of one user: as many as there may be leases. Each of their groups is
/// looked at again and again.
pub const SHARERS_OF_ONE_MAX: usize = 256;

/// Why a lease was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Its time ran out.
    Expired,
    /// Another holder has it.
    TakenBy(Principal),
    /// Somebody took it away on purpose.
    BrokenBy {
        /// Who.
        who: Principal,
        /// Why, as they said.
        why: Option<Reason>,
    },
    /// The store no longer has it.
    StoreLostIt,
    /// A copy of this host's journal renewed it.
    Clone,
    /// Policy took it away.
    Revoked,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Expired => f.write_str("its time ran out"),
            Loss::TakenBy(who) => write!(f, "{who} has it"),
            Loss::BrokenBy { who, why: None } => write!(f, "{who} broke it"),
            Loss::BrokenBy { who, why: Some(why) } => write!(f, "{who} broke it: {why}"),
            Loss::StoreLostIt => f.write_str("the store no longer has it"),
            Loss::Clone => f.write_str("a copy of this host's journal renewed it"),
            Loss::Revoked => f.write_str("policy took it away"),
        }
    }
}

/// What came of an acquire. Contention is a value, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It is ours.
    Granted(Grant),
    /// Another has it, from the same atomic operation; `None` when it went away meanwhile.
    Held(Option<Box<Holder>>),
    /// Nothing was done: the resource's counter moved under us. Ask again.
    Moved,
    /// Nothing was done: nobody has the resource, so the lease to be broken is over.
    Gone,
}

/// What the store says of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is ours, for so long from the moment of the answer.
    Ours {
        /// How long.
        remaining: Duration,
    },
    /// It is not: another has the resource, or nobody.
    NotOurs(Option<Box<Holder>>),
    /// The store has our lease under a mark that we never wrote: somebody runs a copy of us.
    Cloned,
}

/// The kinds of a definite no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedKind {
    /// Nobody answers there: not connected, so nothing was sent.
    Unreachable,
    /// The store is up and cannot write (read-only replica, loading, out of memory).
    NotWritable,
    /// Wrong password, missing rights.
    Credentials,
    /// It knows the agent's user and does not let it at what was asked for; nothing is said of
    /// other resources.
    Denied,
    /// Somebody else there keeps locked what was asked for, for now.
    Blocked,
    /// It is up, and what locks are kept in is not as it has to be.
    NotSetUp(Unfit),
    /// It answers one question after the other, and the same user has enough there already: this
    /// one was not asked.
    Busy,
    /// Something that is no lock of ours stands under the name.
    Foreign,
}

/// What is wrong with the place for locks in a store that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// There is no such database.
    NoDatabase,
    /// A table is not there.
    NoTable,
    /// A table under that name is of another shape.
    OtherTable,
    /// It has a side table, and the configuration says that there is none.
    TwoWays,
}

impl RefusedKind {
    /// True when the no is about what was asked: the store itself answers, and other calls may
    /// succeed all the while.
    #[must_use]
    pub fn is_about_the_question(self) -> bool {
        match self {
            RefusedKind::Denied
            | RefusedKind::Blocked
            | RefusedKind::Busy
            | RefusedKind::NotSetUp(Unfit::TwoWays)
            | RefusedKind::Foreign => true,
            RefusedKind::Unreachable
            | RefusedKind::NotWritable
            | RefusedKind::Credentials
            | RefusedKind::NotSetUp(Unfit::NoDatabase | Unfit::NoTable | Unfit::OtherTable) => {
                false
            }
        }
    }

    /// True when it may be over soon without anybody's help: who waits, waits on.
    #[must_use]
    pub fn may_pass(self) -> bool {
        match self {
            RefusedKind::Unreachable
            | RefusedKind::NotWritable
            | RefusedKind::Blocked
            | RefusedKind::Busy => true,
            RefusedKind::Credentials
            | RefusedKind::Denied
            | RefusedKind::NotSetUp(_)
            | RefusedKind::Foreign => false,
        }
    }
}
