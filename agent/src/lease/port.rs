//! What goes into the core and what comes out: a run is a list of `(Moment, Input)`, so it can be
//! generated, written down and played again.

use std::time::Duration;

use stormlock_protocol::name::{Fence, LeaseId, Resource, Ttl};

use super::{
    Attach, Attempt, BackendName, Claim, Hold, Holder, Loss, Memory, Moment, Nonce, ProcessId,
    Proof, Record, RefusedKind, SessionId, Standing, Terminal, Uid,
};

/// One question of a session; its answer names it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One call to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// One wait for the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncId(pub u64);

/// What the core is told.
#[derive(Debug, Clone)]
pub enum Input {
    /// What the journal remembers, once, before anything else.
    Recover(Box<Memory>),
    /// Take resources, all or none.
    Acquire(Box<Ask>),
    /// Give a lease back, or acknowledge that it was lost.
    Release {
        /// The question.
        ticket: Ticket,
        /// Which lease.
        lease: LeaseId,
    },
    /// Move a lease's end.
    Renew {
        /// The question.
        ticket: Ticket,
        /// Which lease.
        lease: LeaseId,
        /// A new ttl; `None` keeps it.
        ttl: Option<Ttl>,
        /// A new hold; `None` keeps it.
        hold: Option<Hold>,
    },
    /// From now on another end ends this lease; also how the holder of an attached one comes back
    /// after a restart of the agent. Answered by [`Answer::Renewed`] with the lease as it is.
    Attach {
        /// The question.
        ticket: Ticket,
        /// Which lease.
        lease: LeaseId,
        /// Whose end ends it.
        attach: Attach,
    },
    /// A lease that ends with a process ends with the last of several from now on. Answered as
    /// [`Input::Attach`] is.
    Share {
        /// The question.
        ticket: Ticket,
        /// Which lease.
        lease: LeaseId,
        /// Whose end has to come, too.
        process: ProcessId,
    },
    /// A session ended.
    Gone(SessionId),
    /// A process ended that [`Effect::Guard`] named.
    Ended(ProcessId),
    /// A call came back, or its patience ended.
    Settled {
        /// Which.
        call: CallId,
        /// With what.
        result: CallResult,
    },
    /// Everything recorded before the wait began is on disk, or could not be brought there.
    Synced {
        /// Which wait.
        sync: SyncId,
        /// On disk.
        durable: bool,
    },
    /// The journal broke, or works again.
    Journal {
        /// It can be written.
        works: bool,
    },
    /// A store says that something stirred at a resource that is watched, or that it will say so
    /// from now on, or will not.
    Stirred {
        /// The store.
        backend: BackendName,
        /// The resource.
        resource: Resource,
        /// It will say so.
        tells: bool,
    },
    /// This store may not be the one it was (another identity after a reconnect).
    Suspect(BackendName),
    /// The wall clock and the boot clock moved apart: a suspend, a restored machine, a step.
    ClockJumped,
    /// Take nothing new: the agent is stopping.
    Stop,
    /// Time has passed.
    Tick,
}

/// Several claims of one user, all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The question.
    pub ticket: Ticket,
    /// Who waits for the answer.
    pub session: SessionId,
    /// The claims, in the order to be taken; never empty.
    pub claims: Vec<Claim>,
    /// The kernel's uid of who asks.
    pub owner: Uid,
    /// How long they are renewed.
    pub hold: Hold,
    /// Whose end ends them.
    pub attach: Attach,
    /// Where their owner wants to hear of them.
    pub terminal: Option<Terminal>,
    /// Most leases that `owner` may have, these included.
    pub leases_max: usize,
    /// Wait for what others hold, until then at most.
    pub until: Option<Moment>,
    /// `hold` is this long, from the grant on.
    pub hold_for: Option<Duration>,
}

/// What the core wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write this down.
    Record(Record),
    /// Say when all records so far are on disk.
    Sync(SyncId),
    /// Say when all records so far are in the kernel's hands: they survive a crash of the agent,
    /// though not one of the host. It costs no wait for the disk.
    Write(SyncId),
    /// Ask a store; its answer comes back as [`Input::Settled`].
    Call {
        /// Which.
        id: CallId,
        /// The store.
        backend: BackendName,
        /// The question.
        call: Call,
        /// Give up waiting after this long: the outcome is then [`CallResult::Unknown`].
        patience: Duration,
    },
    /// The answer to a question.
    Answer {
        /// The question.
        ticket: Ticket,
        /// The answer.
        answer: Answer,
    },
    /// A lease changed its state, or the end of belief in it moved, or something else that a
    /// [`View`] of it shows.
    Changed(Box<View>),
    /// Say when this process has ended, at once if there is none any more.
    Guard(ProcessId),
    /// Somebody waits for a resource: say when something stirs there, as [`Input::Stirred`].
    Watch {
        /// The store.
        backend: BackendName,
        /// The resource.
        resource: Resource,
    },
    /// Nobody waits for it any more.
    Unwatch {
        /// The store.
        backend: BackendName,
        /// The resource.
        resource: Resource,
    },
    /// An acquire waits; its answer is still to come.
    Waiting {
        /// The question.
        ticket: Ticket,
        /// The store.
        backend: BackendName,
        /// What it waits for.
        resource: Resource,
        /// Who has it, as far as is known.
        holder: Option<Box<Holder>>,
        /// Its place among those who wait on this host: 1 is next.
        place: u32,
        /// How many there are.
        of: u32,
    },
    /// Reading back showed that somebody else moved the end of a lease in its store.
    Touched(Box<View>, Touch),
}

/// What another writer did to a lease of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// It ends sooner than we had made it.
    Cut,
    /// It ends later.
    Lengthened,
}

/// A question to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Take it.
    Acquire(Claim),
    /// Start its time again.
    Renew {
        /// Which lease.
        proof: Proof,
        /// For how long.
        ttl: Ttl,
        /// Its mark from then on.
        next: Nonce,
    },
    /// Read it back.
    Verify(Proof),
    /// Give it back.
    Release(Proof),
    /// End an acquire of unknown outcome for good (law 5).
    Cancel(Resource, LeaseId),
}

impl Call {
    /// The lease that it is about.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        match self {
            Call::Acquire(claim) => claim.lease,
            Call::Renew { proof, .. } | Call::Verify(proof) | Call::Release(proof) => proof.lease,
            Call::Cancel(_, lease) => *lease,
        }
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallResult {
    /// Of an acquire.
    Attempted(Attempt),
    /// Of a renewal or a read-back.
    Stands(Standing),
    /// Of a release or a cancel: it is so.
    Done,
    /// Of a release: it is so, for the lease was not there, or not under one of the marks.
    NotThere,
    /// Nothing happened and never will.
    Refused(RefusedKind),
    /// It may or may not have happened, or may yet happen (law 3).
    Unknown,
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All are taken, in the order of the claims.
    Acquired(Vec<View>),
    /// Its end was moved.
    Renewed(Box<View>),
    /// It is given back.
    Released,
    /// No.
    No(No),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum No {
    /// A command that was started under the lease goes on, in the process group of this number. The
    /// driver says so; processes are nothing that the core looks at.
    AtWork(Resource, u32),
    /// The same, of a shorter ttl than that command was let go under, which is this.
    TooShort(Resource, u32, Ttl),
    /// As many commands share the lease as may: [`super::SHARERS_MAX`].
    TooManySharers(Resource),
    /// As many commands share the owner's leases as may: [`super::SHARERS_OF_ONE_MAX`].
    TooManyShared,
    /// Another has the resource; who, where the store could say.
    Held(Resource, Option<Box<Holder>>),
    /// Another has it still, and the time to wait for it is over.
    WaitedOut(Resource, Option<Box<Holder>>),
    /// The time to wait is over, and for so long nothing was heard but this.
    WaitedInVain(Duration, Box<No>),
    /// The lease was lost.
    Lost(Loss),
    /// There is no such lease here.
    NotHeld,
    /// Its holder has ended: it stays for those they held it for, and nobody moves its end.
    Lingers(Resource),
    /// The owner has too many leases.
    TooMany(usize),
    /// The store did not do it.
    Store {
        /// The store.
        backend: BackendName,
        /// The resource.
        resource: Resource,
        /// A definite no of this kind, or nothing is known.
        kind: Option<RefusedKind>,
        /// What the agent goes on doing about it.
        after: After,
    },
    /// The journal cannot be written.
    Journal,
    /// The store gave a fence that does not rise (law 8): it lost its memory.
    Fence(Resource, Fence),
    /// The store's answer came too late to be believed.
    TooLate(Resource),
    /// The agent is stopping.
    Stopping,
}

/// What the agent goes on doing after it said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nothing is left to do.
    Nothing,
    /// It cancels until the store acknowledges.
    Cancelling,
    /// It gives back until the store acknowledges.
    Releasing,
}

/// A lease as the core knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// What was asked for; `ttl` is the latest.
    pub claim: Claim,
    /// Who may renew and release it.
    pub owner: Uid,
    /// Its fence, once granted.
    pub fence: Option<Fence>,
    /// What may be believed of it.
    pub state: State,
    /// When belief in it ends.
    pub deadline: Moment,
    /// How long it is renewed.
    pub hold: Hold,
    /// Whose end ends it.
    pub attach: Attach,
    /// The processes that have to end, too, before the end of that one ends it.
    pub sharers: Vec<ProcessId>,
    /// The greatest ttl under which a command was let go.
    pub command_ttl: Option<Ttl>,
    /// Where its owner wants to hear of it.
    pub terminal: Option<Terminal>,
    /// How many on this host wait for the resource.
    pub waiters: u32,
    /// Its hold, or its time if nobody renews it, is about to end.
    pub ends_soon: bool,
}

/// What may be believed of a lease, at one Moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Asked for.
    Asking,
    /// Proven until its deadline.
    Held,
    /// Proven until its deadline, but something went wrong.
    AtRisk,
    /// Not proven (law 12): treat as not held.
    Unknown,
    /// Over, and not by the holder's wish.
    Lost(Loss),
    /// Being given back: nobody holds it, and whether it was lost before the store is to say.
    Releasing,
    /// Given back, as far as its holder is concerned.
    Released,
    /// Its holder has ended, those it held it for may not have: nobody else can have it yet.
    Lingering,
}
