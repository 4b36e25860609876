//! What is written down: one change of hands, or somebody's try that policy refused, and who did
//! it. Not here: how it becomes bytes (`line`).

use std::sync::Arc;

use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource};

use crate::lease::{BackendName, Holder, Loss, Uid, View};

/// One event. Fill in what is known; nothing is made up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What was done, or happened.
    pub deed: Deed,
    /// What came of it.
    pub outcome: Outcome,
    /// The resource.
    pub resource: Option<Resource>,
    /// The lease that it was done to.
    pub lease: Option<LeaseId>,
    /// Its fence.
    pub fence: Option<Fence>,
    /// The store.
    pub backend: Option<BackendName>,
    /// Whose lease it is or was.
    pub principal: Option<Principal>,
    /// The user of this host whose lease it is or was.
    pub owner: Option<Uid>,
    /// Who did it.
    pub by: By,
    /// Why, as somebody said who did it, or took the lease.
    pub reason: Option<Reason>,
    /// More about the outcome, in words, without secrets.
    pub why: Option<String>,
}

/// What can be done to a lease, and what can happen to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// Somebody took a resource.
    Acquire,
    /// It was given back, or its time was over.
    Release,
    /// Somebody moved the end of another's lease.
    Renew,
    /// Somebody wanted another end to end a lease.
    Attach,
    /// Somebody took a lease away from its holder.
    Break,
    /// A lease of this host was lost.
    Lost,
    /// The agent started, and keeps a lease that an earlier one had.
    Resume,
    /// Events before this one could not be written.
    Gap,
}

impl Deed {
    /// As it stands in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Deed::Acquire => "acquire",
            Deed::Release => "release",
            Deed::Renew => "renew",
            Deed::Attach => "attach",
            Deed::Break => "break",
            Deed::Lost => "lost",
            Deed::Resume => "resume",
            Deed::Gap => "gap",
        }
    }
}

/// What came of a deed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It is about to be done; what came of it follows, if the agent lives on.
    Begun,
    /// Policy says no.
    Denied,
    /// It came to nothing, or nobody knows.
    Failed,
    /// Lost: its time ran out.
    Expired,
    /// Lost: another has it.
    TakenBy,
    /// Lost: somebody broke it.
    BrokenBy,
    /// Lost: the store no longer has it.
    StoreLostIt,
    /// Lost: a copy of this host renewed it.
    Clone,
    /// Lost: policy took it away.
    Revoked,
}

impl Outcome {
    /// As it stands in the file, and in the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Done => "ok",
            Outcome::Begun => "begun",
            Outcome::Denied => "denied",
            Outcome::Failed => "failed",
            Outcome::Expired => "expired",
            Outcome::TakenBy => "taken_by",
            Outcome::BrokenBy => "broken_by",
            Outcome::StoreLostIt => "store_lost_it",
            Outcome::Clone => "clone",
            Outcome::Revoked => "revoked",
        }
    }
}

impl From<&Loss> for Outcome {
    fn from(loss: &Loss) -> Outcome {
        match loss {
            Loss::Expired => Outcome::Expired,
            Loss::TakenBy(_) => Outcome::TakenBy,
            Loss::BrokenBy { .. } => Outcome::BrokenBy,
            Loss::StoreLostIt => Outcome::StoreLostIt,
            Loss::Clone => Outcome::Clone,
            Loss::Revoked => Outcome::Revoked,
        }
    }
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The agent by itself: an end of a hold, of a process, of a connection; or a store.
    Agent,
    /// Somebody who asked for it.
    Caller(Arc<Facts>),
}

/// Who is at the other end of a connection: the kernel's word when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What they are called in the stores.
    pub principal: Principal,
    /// The user.
    pub uid: Uid,
    /// The user's name; the number as text when there is none.
    pub user: String,
    /// Who logged in, where the kernel knows.
    pub login: Option<Login>,
    /// The process; `None` for one of another namespace.
    pub pid: Option<u32>,
    /// The systemd unit of the process.
    pub unit: Option<String>,
}

/// The user of a login (`/proc/PID/loginuid`): whoever became root after it keeps it. A hint, and
/// no ground for any right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The number.
    pub uid: Uid,
    /// The name; the number as text when there is none.
    pub user: String,
}

impl Event {
    /// An event of which no more is known yet.
    #[must_use]
    pub fn new(deed: Deed, outcome: Outcome, by: By) -> Event {
        Event {
            deed,
            outcome,
            resource: None,
            lease: None,
            fence: None,
            backend: None,
            principal: None,
            owner: None,
            by,
            reason: None,
            why: None,
        }
    }

    /// An event about a lease of this agent.
    #[must_use]
    pub fn of_view(deed: Deed, outcome: Outcome, by: By, view: &View) -> Event {
        let claim = &view.claim;
        Event {
            resource: Some(claim.resource.clone()),
            lease: Some(claim.lease),
            fence: view.fence,
            backend: Some(claim.backend.clone()),
            principal: Some(claim.principal.clone()),
            owner: Some(view.owner),
            reason: claim.reason.clone(),
            ..Event::new(deed, outcome, by)
        }
    }

    /// An event about a lease as its store shows it, whoever took it.
    #[must_use]
    pub fn of_holder(
        deed: Deed,
        outcome: Outcome,
        by: By,
        (backend, holder): (&BackendName, &Holder),
    ) -> Event {
        Event {
            resource: Some(holder.resource.clone()),
            lease: Some(holder.lease),
            fence: holder.fence,
            backend: Some(backend.clone()),
            principal: Some(holder.principal.clone()),
            reason: holder.reason.clone(),
            ..Event::new(deed, outcome, by)
        }
    }

    /// The same with the reason of whoever does it, in place of the lease's own.
    #[must_use]
    pub fn because(self, reason: Option<Reason>) -> Event {
        Event { reason, ..self }
    }

    /// The same with more about the outcome.
    #[must_use]
    pub fn explained(self, why: impl Into<String>) -> Event {
        Event { why: Some(why.into()), ..self }
    }
}
