//! Lock stores behind one trait. The caller brings retries, timers and logs; a store brings one
//! atomic operation for each verb.
//!
//! A store that no build has can be a program ([`exec`]). To build one in:
//!
//! 1. `backend/KIND/`: a `KIND`, `Options`, and the type that is a [`Backend`]. Its header answers
//!    whose clock expires a lease, what the fence is, which single atomic operation decides, and
//!    what is not guaranteed. Its client crate is named in this folder only (`STORE_CLIENTS` in
//!    `tests/tidy/rules.rs`).
//! 2. Here: its `mod`, a variant of [`Options`], and an arm in `kind`, `same` and [`open`].
//! 3. `config/KIND.rs` reads and checks its table; `config/file.rs` (`KINDS`, `Kind`) and
//!    `config/check.rs` know that; `config/stormlock.toml` shows each key.
//! 4. Tests: `contract!` and, where others write into the store too, `contract_with_others!`, and
//!    `contract_of_notices!` where it tells when something stirs, against a real server from
//!    `tests/support`, which `tests/run` installs. Then, of its own: that a late copy of a
//!    cancelled acquire fails, on a line that holds it back; each error and its kind; a server that
//!    is down, mute, or another; `tests/agent/stores_KIND.rs`.
//! 5. README: its row among the promises, its set-up with the least rights.

#[cfg(feature = "dynamodb")]
pub mod asker;
pub mod dynamodb;
pub mod etcd;
pub mod exec;
mod line;
pub mod local;
pub mod postgres;
pub mod redis;
mod socket;
pub(crate) mod tls;

#[cfg(test)]
#[path = "../../../tests/support/certs.rs"]
mod certs;
#[cfg(test)]
pub(crate) mod contract;
#[cfg(test)]
#[path = "../../../tests/support/proxy.rs"]
mod proxy;
#[cfg(test)]
#[path = "../../../tests/support/readme.rs"]
mod readme;
#[cfg(test)]
#[path = "../../../tests/support/refusing.rs"]
mod refusing;
#[cfg(test)]
#[path = "../../../tests/support/relay.rs"]
mod relay;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use stormlock_protocol::name::{LeaseId, Resource, Ttl, is_invisible};
use tokio::sync::Notify;

pub use crate::lease::{Attempt, RefusedKind, Released, Standing, Unfit};
use crate::lease::{Claim, Holder, Moment, Nonce, Proof, Remembered};

/// One lock store. Each call is one attempt: no retry, no timer, no cache, no log. Connections are
/// made when a call needs one, in a bounded time, and kept; a store that is down is an error of
/// each call, never of the start. Many calls run at once, of one lease too.
///
/// **Cancel safety.** A call may be dropped at any point (the caller's timer); then, as after
/// [`BackendError::Unknown`], it may or may not have happened, or may happen later. An acquire is
/// dropped before it is cancelled: one that is still running may begin after the cancel. Nothing
/// happens before the first poll. A connection with an abandoned call on it must not deliver that
/// call late where it can be helped: it is reset, not closed.
///
/// **Errors.** [`BackendError::Refused`] only if it is certain that nothing happened and never
/// will: nothing was sent, or the store said no. Else `Unknown`. That somebody else has the
/// resource, or that the lease is gone, is no error but an answer.
///
/// **Time.** A store counts by its own clock, and tells what remains as a duration: the caller
/// counts it from the moment at which its question left. Late is safe, early is not.
///
/// **Comparing.** The lease id and the end are compared in one condition with what is changed, by
/// the store. A record whose end is over counts as absent everywhere.
pub trait Backend: Send + Sync + fmt::Debug {
    /// What this store can do and how it counts. Cheap, and known without asking.
    fn traits(&self) -> Traits;

    /// Takes up what the agent's own journal says of the leases in this store, before any call;
    /// only a store that lives in that journal (`local`) has to. `floor` is no less than any fence
    /// it ever gave.
    fn recall(&self, floor: u64, leases: &[&Remembered]) {
        let _ = (floor, leases);
    }

    /// Takes the claim if nobody holds the resource. Idempotent on the lease id: the same claim
    /// again says [`Attempt::Granted`] with the same fence and what remains, and renews nothing.
    /// [`Attempt::Held`] comes with the holder from the same atomic operation. Compares the
    /// resource's counter with the one it read first, so that a late copy fails after a grant or a
    /// cancel has moved it; [`Attempt::Moved`] then, and nothing is done. Each grant's fence is
    /// greater than any before it on the resource, whatever happened between.
    ///
    /// A claim [`Claim::over`] a lease takes the resource from exactly that lease, in the same one
    /// atomic step and with a fence as any other: [`Attempt::Held`] if another has it,
    /// [`Attempt::Gone`] if nobody has, and nothing is done. The record of the broken lease, marks
    /// and all, is no more: its renewal and its release find another's. It lasts for its ttl, and
    /// no less long than the broken lease would have in that step: its holder may believe in it for
    /// so long (law 7). Where the end cannot be had in that step, the step compares that it is the
    /// one that was read.
    fn acquire<'a>(&'a self, claim: &'a Claim) -> Pending<'a, Attempt>;

    /// Starts the lease's time again with `ttl`, if the store still has exactly this lease under
    /// one of the proof's marks, and replaces the mark by `next` (unless the proof has none).
    /// A vanished record is never made again.
    fn renew<'a>(&'a self, proof: &'a Proof, ttl: Ttl, next: Nonce) -> Pending<'a, Standing>;

    /// Reads the lease back and changes nothing, but may take away what has ended. What it says
    /// remains is as durable as what a renewal says; a store that cannot promise this writes.
    fn verify<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Standing>;

    /// Gives the lease back if the store still has exactly this lease under one of the proof's
    /// marks (any mark, if the proof has none). What is gone, or another's, is success: nothing is
    /// touched, and [`Released::NotThere`] says so. A late copy of a release that an agent forgot
    /// in a crash so does no harm to the lease that its next start renewed.
    fn release<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Released>;

    /// Ends an acquire of unknown outcome for good: moves the resource's counter first, then
    /// deletes the lease if it is there; in one atomic step where the store has one for that, else
    /// in this order. After `Ok` no late copy of that acquire can succeed.
    fn cancel<'a>(&'a self, resource: &'a Resource, lease: LeaseId) -> Pending<'a, ()>;

    /// Who holds the resource now. To be shown: nothing is decided by it. Something that is no lock
    /// is refused as [`RefusedKind::Foreign`], by [`Backend::acquire`] as well, and never touched.
    fn holder<'a>(&'a self, resource: &'a Resource) -> Pending<'a, Option<Holder>>;

    /// Every lock in the store, in the order of resources (by bytes), those after `after` and at
    /// most `limit`; an empty answer is the end. Records of others that are no locks are left out.
    fn list<'a>(&'a self, after: Option<&'a Resource>, limit: usize) -> Pending<'a, Vec<Holder>>;

    /// What can be said about the store's fitness, for `doctor`. A store that cannot be reached is
    /// an error, not a remark.
    fn examine(&self) -> Pending<'_, Vec<Remark>>;

    /// Makes what the store needs before the first lock, once; harmless again. In words, what was
    /// done; `None` for a store that needs nothing.
    fn setup(&self) -> Option<Pending<'_, Vec<String>>> {
        None
    }

    /// The same to be done by hand, by whoever has the rights; `None` for a store that needs
    /// nothing.
    fn setup_by_hand(&self) -> Option<String> {
        None
    }

    /// Does what [`Backend::setup`] does, and converts what it finds and would only complain of;
    /// `None` for a store that has nothing to convert.
    fn migrate(&self) -> Option<Pending<'_, Vec<String>>> {
        None
    }

    /// Tells on `stirs` when something may have changed at a resource, whoever changed it: once as
    /// soon as it would tell, and then each time. These are hints, about which nothing is promised
    /// but that they save waiting: whoever hears one asks. Runs until it cannot tell any more;
    /// `None` for a store that tells nothing.
    fn watch<'a>(&'a self, resource: &'a Resource, stirs: Stirs) -> Option<Pending<'a, ()>> {
        let _ = (resource, stirs);
        None
    }

    /// Which store it is, as it named itself when it was last connected to; `None` before that, or
    /// when it has no name. Cheap: it asks nobody. The driver looks after each call, and a name
    /// that changed means that this store may not be the one that gave the leases.
    fn identity(&self) -> Option<String> {
        None
    }
}

/// How to open a store, as the configuration says.
#[derive(Debug, Clone)]
pub enum Options {
    /// Among the users of this host, kept by the agent itself.
    Local,
    /// A Redis.
    Redis(Box<redis::Options>),
    /// An etcd.
    Etcd(Box<etcd::Options>),
    /// A PostgreSQL.
    Postgres(Box<postgres::Options>),
    /// A program of the site's own.
    Exec(Box<exec::Options>),
    /// A table of DynamoDB.
    #[cfg(feature = "dynamodb")]
    DynamoDb(Box<dynamodb::Options>),
}

impl Options {
    /// `local`, `redis`, ...: as `kind` in the configuration.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Options::Local => local::KIND,
            Options::Redis(_) => redis::KIND,
            Options::Etcd(_) => etcd::KIND,
            Options::Postgres(_) => postgres::KIND,
            Options::Exec(_) => exec::KIND,
            #[cfg(feature = "dynamodb")]
            Options::DynamoDb(_) => dynamodb::KIND,
        }
    }

    /// True when a store opened with `other` is as good as one opened with these options, so that
    /// a changed configuration needs no new connection.
    #[must_use]
    pub fn same(&self, other: &Options) -> bool {
        match (self, other) {
            (Options::Local, Options::Local) => true,
            (Options::Redis(these), Options::Redis(those)) => these.same(those),
            (Options::Etcd(these), Options::Etcd(those)) => these.same(those),
            (Options::Postgres(these), Options::Postgres(those)) => these.same(those),
            (Options::Exec(these), Options::Exec(those)) => these.same(those),
            #[cfg(feature = "dynamodb")]
            (Options::DynamoDb(these), Options::DynamoDb(those)) => these.same(those),
            // Of two kinds.
            _ => false,
        }
    }
}

/// Opens a store. Nothing is connected yet: a store that is down is no reason not to start. Calls
/// must be made inside a tokio runtime with its timers and IO enabled.
///
/// # Errors
/// [`OpenError`] when the options cannot work whatever the store says.
pub fn open(options: &Options, clock: Clock) -> Result<Arc<dyn Backend>, OpenError> {
    match options {
        Options::Local => Ok(Arc::new(local::Local::new(clock))),
        Options::Redis(options) => Ok(Arc::new(redis::Redis::new(options)?)),
        Options::Etcd(options) => Ok(Arc::new(etcd::Etcd::new(options)?)),
        Options::Postgres(options) => Ok(Arc::new(postgres::Postgres::new(options)?)),
        Options::Exec(options) => Ok(Arc::new(exec::Exec::new(options)?)),
        #[cfg(feature = "dynamodb")]
        Options::DynamoDb(options) => Ok(Arc::new(dynamodb::DynamoDb::new(options, clock)?)),
    }
}

/// How a store without a clock of its own tells the time; the agent's is [`crate::clock::now`].
pub type Clock = fn() -> Moment;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting that no store could be reached by.
    #[error("{0}")]
    Setting(String),
}

/// A call under way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// How a store says that something stirred. Clones say the same.
#[derive(Debug, Clone)]
pub struct Stirs(Arc<Notify>);

/// The other end of [`Stirs`].
#[derive(Debug)]
pub struct Stirred(Arc<Notify>);

impl Stirs {
    /// A pair of ends.
    #[must_use]
    pub fn new() -> (Stirs, Stirred) {
        let bell = Arc::new(Notify::new());
        (Stirs(Arc::clone(&bell)), Stirred(bell))
    }

    /// Something stirred; what nobody heard yet is heard once.
    pub fn tell(&self) {
        self.0.notify_one();
    }
}

impl Stirred {
    /// Waits until something stirs.
    pub async fn heard(&mut self) {
        self.0.notified().await;
    }
}

/// What a store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// `redis`, `local`, ...: as `kind` in the configuration.
    pub kind: &'static str,
    /// True when its locks count on this host only.
    pub this_host_only: bool,
    /// True for a store whose lease ids have 63 bits (etcd).
    pub narrow_ids: bool,
}

/// Something worth saying about a store, for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// How bad it is.
    pub level: stormlock_protocol::message::Level,
    /// What was seen and what it means.
    pub text: String,
    /// How to mend it.
    pub mend: Option<String>,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The call certainly changed nothing and never will: the store could not be reached before
    /// anything was sent, or it said no.
    #[error("{}", tame(why, WHY_MAX))]
    Refused {
        /// What kind of no.
        kind: RefusedKind,
        /// What the store said, without secrets; for the agent's log and `doctor`.
        why: String,
    },
    /// It may or may not have happened, or may yet happen (law 3: unknown is not no).
    #[error("{}", tame(why, WHY_MAX))]
    Unknown {
        /// What was seen, without secrets; for the agent's log.
        why: String,
    },
}

/// Longest reason of a failed call that is shown, in characters.
const WHY_MAX: usize = 1000;

/// What another program wrote, fit for a terminal and a log: what cannot be seen becomes U+FFFD,
/// and what is too long is cut.
fn tame(text: &str, max: usize) -> String {
    let seen = |c: char| if is_invisible(c) { char::REPLACEMENT_CHARACTER } else { c };
    let mut chars = text.trim().chars();
    let mut tamed: String = chars.by_ref().take(max).map(seen).collect();
    if chars.next().is_some() {
        tamed.push('…');
    }
    tamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_says_forges_no_line_of_a_log_and_moves_no_cursor() {
        let why = "no\n2026-11-26T01:39:58Z ERROR forged \u{1b}[2J\u{202e}".to_owned();
        let error = BackendError::Unknown { why: why.clone() };
        let refused = BackendError::Refused { kind: RefusedKind::NotWritable, why };
        for shown in [error.to_string(), refused.to_string()] {
            assert!(shown.starts_with("no\u{fffd}2026"), "{shown:?}");
            assert!(!shown.contains(['\n', '\u{1b}', '\u{202e}']), "{shown:?}");
        }
        let long = BackendError::Unknown { why: "x".repeat(1_000_000) }.to_string();
        assert!(long.ends_with('…') && long.chars().count() == WHY_MAX + 1);
    }
}
