//! The questions a client may ask, the agent's replies, and the events it tells.
//!
//! Enums are append-only. Not here: how messages become bytes ([`crate::frame`]).

mod log;

use bincode::{Decode, Encode};

pub use self::log::{Log, LogCursor, Logged, Origin};
pub use crate::name::UnixMs;
use crate::name::{Fence, LeaseId, Principal, Reason, Resource, Ttl};
use crate::process::{Process, Terminal};

/// One question. The agent answers each with one [`Reply`], in order.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Take resources, all or none: [`Reply::Acquired`], after any number of [`Reply::Waiting`] if
    /// it may wait.
    Acquire(Acquire),
    /// Give back: [`Reply::Released`].
    Release(Release),
    /// Move the end of a lease: [`Reply::Renewed`].
    Renew(Renew),
    /// Who holds a resource now, asked of the store: [`Reply::Current`].
    Current(Resource),
    /// Whether a resource is held: [`Reply::Verdict`].
    IsHeld(IsHeld),
    /// All locks in the backends, by pages: [`Reply::Locks`].
    List(List),
    /// The leases this agent holds for the caller, by pages, and the backends: [`Reply::Status`].
    Status {
        /// Only leases after this one; `None` for the first page.
        after: Option<LeaseId>,
    },
    /// Findings about the agent and its backends: [`Reply::Findings`].
    Doctor,
    /// Become an event stream of the caller's leases: [`Reply::Event`] until one side closes. Asked
    /// again on a stream, which takes no other question: the whole state once more, behind
    /// [`Event::Anew`].
    Subscribe,
    /// Wait until nobody holds a resource, and take nothing: any number of [`Reply::Waiting`], then
    /// [`Reply::Current`] with nothing in it.
    Wait {
        /// The resource.
        resource: Resource,
        /// For how long at most.
        wait: Wait,
    },
    /// Let other ends end the caller's leases than did so far: [`Reply::Acquired`] with them as
    /// they are. All or none.
    Attach {
        /// 1 to [`crate::RESOURCES_MAX`] leases.
        leases: Vec<Target>,
        /// Whose end ends them from now on.
        attach: Attach,
    },
    /// Another command goes on under leases of the caller's that end with a process: from now on
    /// they end with the last of those. [`Reply::Acquired`] with them as they are; a refusal of one
    /// leaves the others shared, which ends with the process.
    Share {
        /// 1 to [`crate::RESOURCES_MAX`] leases.
        leases: Vec<Target>,
        /// Whose end has to come, too.
        process: Process,
    },
    /// What the agent's audit file says, by pages, the latest first: [`Reply::Log`].
    Log(Log),
    /// The agent in numbers: [`Reply::Metrics`].
    Metrics,
    /// Take a resource away from the lease that was seen on it: [`Reply::Broken`].
    Break(Break),
    /// What a prompt shows of the caller's leases: [`Reply::Glance`].
    Glance,
}

/// Take one or more resources.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Acquire {
    /// 1 to [`crate::RESOURCES_MAX`] names, taken in sorted order, all or none.
    pub resources: Vec<Resource>,
    /// How long each lease lives without a renewal; `None` for the agent's default.
    pub ttl: Option<Ttl>,
    /// How long the agent renews it.
    pub hold: Hold,
    /// Why, for others to read.
    pub reason: Option<Reason>,
    /// Whose end ends it.
    pub attach: Attach,
    /// Whether to wait while others hold them, and for how long.
    pub wait: Wait,
    /// Where to say that the end is near, and what went wrong: a terminal of the caller's own that
    /// takes messages (`mesg y`). Nothing is said on any other.
    pub terminal: Option<Terminal>,
}

/// Whether to wait for what others hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Wait {
    /// Not at all.
    No,
    /// At most this many seconds.
    For(u32),
    /// As long as it takes.
    Forever,
}

/// How long the agent keeps renewing a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Hold {
    /// Not at all: the lease ends after its ttl.
    No,
    /// For this many seconds from now.
    For(u32),
    /// Until this time of the wall clock.
    Until(UnixMs),
    /// Until it is released.
    Keep,
    /// As the agent's configuration says of the resource. It never appears in a [`Lease`].
    Usual,
}

/// Whose end ends a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Attach {
    /// Nobody's: it ends by release, hold or ttl.
    Detached,
    /// It ends with the connection that took it.
    Session,
    /// It ends with a process of the caller.
    Process(Process),
    /// The same, of one that holds it for others, who hear of its end only when that has come:
    /// unless it was given back before, they have some time to end, too.
    Holder {
        /// Whose end ends it.
        process: Process,
        /// For how many seconds nobody else can have it then. It is not renewed meanwhile, so it
        /// ends earlier where less was left. No longer than a third of the ttl, and than
        /// [`crate::name::LINGER_SECS_MAX`].
        grace_secs: u32,
    },
}

impl Attach {
    /// The process whose end ends it.
    #[must_use]
    pub fn process(&self) -> Option<Process> {
        match self {
            Attach::Process(process) | Attach::Holder { process, .. } => Some(*process),
            Attach::Detached | Attach::Session => None,
        }
    }
}

/// A lease, by resource and, where the caller knows it, by id.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Target {
    /// The resource.
    pub resource: Resource,
    /// The lease; `None` means the caller's own lease on that resource.
    pub lease: Option<LeaseId>,
}

/// Give back leases.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Release {
    /// These, each on its own: one failure does not stop the others.
    These(Vec<Target>),
    /// All that the caller holds through this agent; what was lost is acknowledged with it.
    All,
}

/// Move the end of a lease. With neither a ttl nor a hold it starts its ttl again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Renew {
    /// Which lease.
    pub target: Target,
    /// A new ttl; `None` keeps it.
    pub ttl: Option<Ttl>,
    /// A new hold; `None` keeps it.
    pub hold: Option<Hold>,
}

/// Take a resource away from its holder.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Break {
    /// The resource.
    pub resource: Resource,
    /// The lease that was seen: no other is broken.
    pub lease: LeaseId,
    /// Why, for its holder and everybody else to read.
    pub reason: Reason,
    /// Leave no time for whoever relied on it to end.
    pub now: bool,
}

/// What was broken.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Broken {
    /// As it was.
    pub broken: Lock,
    /// How much longer nobody can take the resource, at most: until then whoever relied on the
    /// lease may not have ended.
    pub left_ms: u64,
}

/// Ask whether a resource is held, at all or by one lease or by the caller.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct IsHeld {
    /// The resource.
    pub resource: Resource,
    /// Only by this lease.
    pub lease: Option<LeaseId>,
    /// Only by the caller, through this agent.
    pub by_me: bool,
}

/// Ask for one page of all locks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct List {
    /// Only resources that this glob matches (`*` and `?`); `None` for all.
    pub glob: Option<String>,
    /// Only the caller's own, through this agent.
    pub mine: bool,
    /// Where the last page ended.
    pub after: Option<Cursor>,
}

/// Where a page of [`Reply::Locks`] ended. Pages are sorted by backend, then resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Cursor {
    /// The backend's name in the agent's configuration.
    pub backend: String,
    /// The last resource of the page.
    pub resource: Resource,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// The resources are the caller's, in the order asked for.
    Acquired(Vec<Lease>),
    /// One outcome per lease that was to be released.
    Released(Vec<Released>),
    /// The lease with its new end.
    Renewed(Lease),
    /// The lock on the resource, if there is one.
    Current(Option<Lock>),
    /// The answer to a predicate.
    Verdict {
        /// Yes or no.
        held: bool,
        /// The lock that the answer is about.
        lock: Option<Lock>,
    },
    /// A page of locks.
    Locks {
        /// Sorted by backend, then resource.
        locks: Vec<Lock>,
        /// Where the next page begins; `None` after the last.
        next: Option<Cursor>,
        /// Backends that could not be read: the list is incomplete.
        unread: Vec<Unread>,
    },
    /// A page of the caller's leases.
    Status(Status),
    /// What a doctor would say.
    Findings(Vec<Finding>),
    /// One event of a stream.
    Event(Event),
    /// No.
    Refused(Refusal),
    /// Not yet: the reply is still to come.
    Waiting(Waiting),
    /// A page of the audit file. It may be short or empty and yet have a next one.
    Log {
        /// The latest first.
        events: Vec<Logged>,
        /// Where the next page begins; `None` after the last.
        next: Option<LogCursor>,
    },
    /// Numbers in the text format of Prometheus.
    Metrics(String),
    /// It is broken.
    Broken(Broken),
    /// What a prompt shows.
    Glance(Glance),
}

/// What a waiting caller waits for. Told when it begins to wait and whenever that changes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Waiting {
    /// The resource.
    pub resource: Resource,
    /// Who holds it, as the store said last; `None` while it is being asked.
    pub holder: Option<Box<Lock>>,
    /// The caller's place among those who wait on this host: 1 is next.
    pub place: u32,
    /// How many wait on this host.
    pub of: u32,
}

/// The lease that matters most now: one that is lost before one at risk, and that before the one
/// that ends first.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Glance {
    /// The lease; `None` when the caller has none, nor lost one since.
    pub lease: Option<Lease>,
    /// How many more there are.
    pub more: u32,
}

/// A lease that this agent holds, or held, for the caller.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Lease {
    /// The resource.
    pub resource: Resource,
    /// The lease id.
    pub lease: LeaseId,
    /// The fence; `None` before the grant.
    pub fence: Option<Fence>,
    /// The backend's name in the agent's configuration.
    pub backend: String,
    /// True when the lock counts on this host only (the `local` backend).
    pub this_host_only: bool,
    /// What the agent knows of it now.
    pub state: State,
    /// The principal written into the store.
    pub principal: Principal,
    /// Why, as given at the acquire.
    pub reason: Option<Reason>,
    /// When it was taken.
    pub since: UnixMs,
    /// Milliseconds until the agent stops believing in it, at the time of the reply.
    pub left_ms: u64,
    /// Its ttl.
    pub ttl: Ttl,
    /// Until when the agent renews it; `Hold::For` never appears here.
    pub hold: Hold,
    /// Whose end ends it.
    pub attach: Attach,
    /// How many on this host wait for the resource.
    pub waiters: u32,
    /// True when its hold, or a lease that nobody renews, is about to end.
    pub ends_soon: bool,
}

/// What the agent knows of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum State {
    /// Asked for, not yet answered.
    Asking,
    /// Proven until its deadline.
    Held,
    /// Proven until its deadline, but something went wrong.
    AtRisk,
    /// Not proven: unresolved since a restart or a failed call. Treat as not held.
    Unknown,
    /// Over, and not by the holder's wish. It never becomes held again.
    Lost(LostReason),
    /// Given back.
    Released,
    /// Its holder has ended; those it held it for have until its end to do so, too, while nobody
    /// else can have it ([`Attach::Holder`]). It never becomes held again.
    Lingering,
}

/// Why a lease was lost.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum LostReason {
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

/// A lock as a store shows it, whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Lock {
    /// The resource.
    pub resource: Resource,
    /// The backend's name in the agent's configuration.
    pub backend: String,
    /// True when the lock counts on this host only.
    pub this_host_only: bool,
    /// Who holds it.
    pub principal: Principal,
    /// The holder's host; unknown for other writers (the Python tool).
    pub host: Option<String>,
    /// The lease.
    pub lease: LeaseId,
    /// The fence; unknown for other writers.
    pub fence: Option<Fence>,
    /// Why.
    pub reason: Option<Reason>,
    /// Since when, by the writer's clock.
    pub since: UnixMs,
    /// Milliseconds until the store ends it, at the time of the reply; `None`: it never ends.
    pub left_ms: Option<u64>,
    /// True when this agent holds it for the caller.
    pub mine: bool,
    /// How many on this host wait for it.
    pub waiters: u32,
    /// The process whose end ends it. Told to the caller whose it is, and to nobody else.
    pub process: Option<Process>,
}

impl Lock {
    /// True for what stands in the place of a broken lease: nobody holds it, and its principal is
    /// who broke that.
    #[must_use]
    pub fn is_in_place_of_broken(&self) -> bool {
        self.reason.as_ref().is_some_and(|reason| reason.broken().is_some())
    }
}

/// What became of one lease that was to be released.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Released {
    /// The resource.
    pub resource: Resource,
    /// The lease, where one was found.
    pub lease: Option<LeaseId>,
    /// `None`: it is given back.
    pub refusal: Option<Refusal>,
    /// Why, when it was lost before: one that was broken nobody else has had yet, of any other that
    /// is not sure.
    pub lost: Option<LostReason>,
}

/// A page of [`Request::Status`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Status {
    /// About the agent.
    pub agent: Agent,
    /// The caller's leases, by id.
    pub leases: Vec<Lease>,
    /// Ask again with this; `None` after the last page.
    pub next: Option<LeaseId>,
    /// The agent's backends, by name.
    pub backends: Vec<Backend>,
}

/// About the agent that answers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Agent {
    /// Its version.
    pub version: String,
    /// Its host, as written into the stores.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub since: UnixMs,
    /// What the caller is called in the stores.
    pub you: Principal,
    /// False when the journal cannot be written: no new lease is taken.
    pub journal_works: bool,
}

/// One lock store as the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Backend {
    /// Its name in the configuration.
    pub name: String,
    /// Its kind: `local`, `redis`, ...
    pub kind: String,
    /// What the last call to it told.
    pub health: Health,
    /// Since when it has been in this health; `None` before the first call.
    pub since: Option<UnixMs>,
}

/// Whether a backend answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Health {
    /// Not called yet.
    Unused,
    /// The last call was answered.
    Up,
    /// The last call failed or timed out.
    Down,
}

/// A backend that a list could not read.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Unread {
    /// Its name.
    pub backend: String,
    /// Why, without secrets.
    pub why: String,
}

/// One thing that `doctor` looked at.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is about: `socket`, `journal`, `backend main`, ...
    pub about: String,
    /// What was seen and what it means.
    pub text: String,
    /// How to mend it.
    pub mend: Option<String>,
}

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Works, and promises less than it could.
    Warning,
    /// Does not work.
    Bad,
}

/// A change of one of the caller's leases.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are leases, and none is kept")]
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Event {
    /// The lease is now like this. The first events of a stream are the whole state.
    Lease(Lease),
    /// The whole state has been told; what follows are changes.
    Caught,
    /// The whole state follows once more, as was asked for: what came before is older than that
    /// question.
    Anew,
}

/// A clear no.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people: lower case, no full stop, no secrets.
    pub message: String,
    /// The resource the refusal is about, where it is about one.
    pub resource: Option<Resource>,
    /// Who holds it, for [`Code::Held`], from the same atomic operation that refused.
    pub holder: Option<Box<Lock>>,
}

/// The closed list of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Code {
    /// Another has it.
    Held,
    /// The lease is lost, or cannot be proven any more.
    Lost,
    /// The caller does not hold it.
    NotHeld,
    /// Policy says no.
    Denied,
    /// A backend or the journal cannot be reached: the state is unknown, treat it as not held.
    Unavailable,
    /// The question makes no sense.
    BadRequest,
    /// A limit is reached.
    TooMany,
    /// The time allowed for it ran out.
    Timeout,
    /// The agent is stopping.
    Stopping,
    /// Asking again will not help before somebody changes something: the agent's configuration does
    /// not allow it, or a store that is up is not set up for locks, gives the agent's user no right
    /// to this name, or has something under it that is no lock.
    Config,
    /// A bug of ours.
    Internal,
}

impl Code {
    /// Every code, in wire order.
    pub const ALL: [Code; 11] = [
        Code::Held,
        Code::Lost,
        Code::NotHeld,
        Code::Denied,
        Code::Unavailable,
        Code::BadRequest,
        Code::TooMany,
        Code::Timeout,
        Code::Stopping,
        Code::Config,
        Code::Internal,
    ];

    /// The code as programs read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::Held => "held",
            Code::Lost => "lost",
            Code::NotHeld => "not_held",
            Code::Denied => "denied",
            Code::Unavailable => "unavailable",
            Code::BadRequest => "bad_request",
            Code::TooMany => "too_many",
            Code::Timeout => "timeout",
            Code::Stopping => "stopping",
            Code::Config => "config",
            Code::Internal => "internal",
        }
    }
}

impl Refusal {
    /// A refusal with a code and a sentence, about nothing in particular.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), resource: None, holder: None }
    }

    /// The same about a resource.
    #[must_use]
    pub fn about(mut self, resource: &Resource) -> Refusal {
        self.resource = Some(resource.clone());
        self
    }
}
