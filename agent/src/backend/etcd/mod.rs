//! etcd: a cluster that agrees.
//!
//! - Whose clock expires a lease: the leader's, by etcd leases. A member tells what remains in
//!   whole seconds, rounded down. A new leader starts every lease's time again, so one may end
//!   late.
//! - The fence: the revision of the transaction that took the resource. Revisions are one counter
//!   for the whole cluster. It is that at which `/p` was written, which only a grant writes, and a
//!   move to another etcd lease: `/g` says it after that.
//! - What decides: one transaction for each verb. It compares what was read just before by the
//!   revisions of the keys. An acquire reads, grants the etcd lease under the id that the agent
//!   minted, and hangs the keys on it if nobody has the resource and its counter has not moved.
//!   Every grant and every cancel moves the counter, which hangs on no lease: so a late copy of
//!   the transaction fails whatever came of its lease meanwhile, and a late copy of the grant
//!   leaves a lease without keys, which ends by itself. A claim over a lease compares that lease
//!   in place of nobody, writes over its keys, and revokes its etcd lease when that is done.
//! - Not guaranteed: anything after a restore from a backup or a wipe (revisions fall; a fall is
//!   noticed), or on versions older than `examine` asks for. A cluster whose database is full takes
//!   no renewal either. How long a holder still has it is asked right after who it is, not with it.
//!   A keepalive and a time to live are answered by whoever thinks to be the leader: they count
//!   only if a transaction after them is of the same raft term, which a gateway that spreads one
//!   connection over several members would spoil.
//!
//! A lock is `/id` (lease id in hex), `/p` principal, `/c` created (8 bytes), below
//! `prefix + resource`, as the Python tool writes it; `/h` host, `/r` reason, `/n` mark and `/g`
//! fence, which it does not read, and the counter `/f`, which stays. An etcd lease has one length
//! for life: a renewal for another one hangs the keys on a new etcd lease, and `/id` stays as it
//! is; the Python tool then sees such a lock, but cannot renew or release it by its id. Names
//! outside our alphabet are no resources of ours. A user needs `readwrite` on the prefix.

mod examine;
#[cfg(fuzzing)]
pub mod fuzzing;
mod keys;
mod link;
mod list;
mod notices;
mod place;
mod refusal;
mod socket;
mod verbs;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{LeaseGrantOptions, LeaseTimeToLiveOptions, Txn, TxnOp, TxnResponse};
use secrecy::{ExposeSecret, SecretString};
use stormlock_protocol::name::{LeaseId, Resource, Ttl};

use super::tls::Tls;
use super::{
    Attempt, Backend, BackendError, OpenError, Pending, RefusedKind, Released, Remark, Standing,
    Stirs, Traits,
};
use crate::lease::{Claim, Holder, Nonce, Proof};
use keys::{Found, Keys, Lock, Seen};
use link::{Line, Members, Target};
use place::{Place, setting};
use refusal::Trouble;

/// As `kind` in the configuration.
pub(super) const KIND: &str = "etcd";
/// Before each resource, if nothing else is configured: the Python tool's.
pub const PREFIX: &str = "/";

/// How to reach an etcd and what to write there.
#[derive(Debug, Clone)]
pub struct Options {
    /// Members of one cluster, `http://HOST:PORT` or `https://HOST:PORT`, all alike; never with a
    /// user or a password.
    pub endpoints: Vec<String>,
    /// User and password.
    pub login: Option<(String, SecretString)>,
    /// Before each resource.
    pub key_prefix: String,
    /// Certificates of authorities to trust, PEM; `None` for the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and its key, PEM.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

impl Options {
    /// See [`super::Options::same`].
    pub(super) fn same(&self, other: &Options) -> bool {
        // Every field by name: a new one must be thought of here.
        let Options { endpoints, login, key_prefix, ca_file, client_cert } = self;
        let plain = |of: &Option<(String, SecretString)>| {
            of.as_ref().map(|(user, password)| (user.clone(), password.expose_secret().to_owned()))
        };
        *endpoints == other.endpoints
            && plain(login) == plain(&other.login)
            && *key_prefix == other.key_prefix
            && *ca_file == other.ca_file
            && *client_cert == other.client_cert
    }
}

/// An etcd.
pub struct Etcd {
    line: Line,
    /// For what is told without being asked: an abandoned call does not end it.
    ears: Line,
    prefix: String,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Etcd {
    /// An etcd that nobody has connected to yet.
    ///
    /// # Errors
    /// [`OpenError`] when the options cannot work whatever the cluster says.
    pub fn new(options: &Options) -> Result<Etcd, OpenError> {
        let places = options.endpoints.iter().map(|url| Place::parse(url));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let Some(first) = places.first() else {
            return Err(setting("there is no endpoint: give at least one"));
        };
        let is_tls = first.tls;
        if places.iter().any(|place| place.tls != is_tls) {
            return Err(setting(
                "some endpoints begin with https:// and some with http://: make them alike",
            ));
        }
        let certificates = options.ca_file.is_some() || options.client_cert.is_some();
        if certificates && !is_tls {
            return Err(setting(
                "there are certificates, but the endpoints do not ask for TLS: they begin with \
                 https:// then",
            ));
        }
        let (ca_file, client_cert) = (options.ca_file.clone(), options.client_cert.clone());
        let tls = is_tls.then(|| Tls::new(ca_file, client_cert)).transpose()?;
        let target = Arc::new(Target { places, tls, login: options.login.clone() });
        let line = Line::new(Members::new(Arc::clone(&target)));
        let ears = Line::new(Members::new(target));
        Ok(Etcd { line, ears, prefix: options.key_prefix.clone() })
    }

    fn keys(&self, on: &Resource) -> Keys {
        Keys::new(&self.prefix, on)
    }

    /// All keys of a resource, as the cluster agreed on them.
    async fn look(&self, keys: &Keys) -> Result<Seen, Trouble> {
        let response = self.transact(Txn::new().and_then(keys.read())).await?;
        answer_to(response, keys)
    }

    /// Writes if everything is as it was; what is there otherwise.
    async fn transact(&self, txn: Txn) -> Result<TxnResponse, Trouble> {
        let before = self.line.revision();
        let asked = self.line.ask(async |client| client.kv_client().txn(txn).await);
        let response = asked.await?;
        if let Some(header) = response.header() {
            self.line.saw(before, header);
        }
        Ok(response)
    }

    /// Makes an etcd lease; `None` when there is one of that id. The length may be a little more
    /// than asked for: a member has a least one.
    async fn grant(&self, id: i64, ttl: Ttl) -> Result<Option<i64>, Trouble> {
        let secs = i64::from(ttl.as_secs());
        let asked = self.line.ask(async |client| {
            let options = LeaseGrantOptions::new().with_id(id);
            client.lease_client().grant(secs, Some(options)).await
        });
        match asked.await {
            Ok(response) => Ok(Some(response.ttl())),
            Err(trouble) if trouble.is_lease_exists() => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// Ends an etcd lease that no key hangs on any more; there may be none of that id.
    async fn revoke(&self, id: i64) -> Result<(), Trouble> {
        match self.line.ask(async |client| client.lease_client().revoke(id).await).await {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.is_no_lease() => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// The same for an id that is never used again: it is no more than tidy, since the lease would
    /// end by itself.
    async fn tidy(&self, id: i64) {
        let _ = self.revoke(id).await;
    }

    /// Ends the etcd lease of a lock that was broken, where an earlier copy of the break did not
    /// come to that: the Python tool would go on renewing it and believe that it has the lock. One
    /// that a key hangs on is not the lock's alone.
    async fn tidy_broken(&self, over: LeaseId) {
        let Some(id) = keys::number(over) else { return };
        let asked = self.line.ask(async |client| {
            let options = LeaseTimeToLiveOptions::new().with_keys();
            client.lease_client().time_to_live(id, Some(options)).await
        });
        if asked.await.is_ok_and(|answer| answer.keys().is_empty()) {
            self.tidy(id).await;
        }
    }

    /// Starts an etcd lease's time again; its length, and the term of the member that did it.
    /// `None` when there is no such lease.
    async fn keep_alive(&self, id: i64) -> Result<Option<(i64, u64)>, Trouble> {
        let asked = self.line.ask(async |client| {
            // The library keeps the first answer for itself.
            let (mut keeper, mut answers) = client.lease_client().keep_alive(id).await?;
            keeper.keep_alive().await?;
            answers.message().await
        });
        match asked.await {
            Ok(Some(answer)) if answer.ttl() > 0 => {
                let term = answer.header().map_or(0, |header| header.raft_term());
                Ok(Some((answer.ttl(), term)))
            }
            Ok(Some(_)) => Ok(None),
            Ok(None) => Err(Trouble::Silence("etcd closed a keepalive without an answer".into())),
            Err(trouble) if trouble.is_no_lease() => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    async fn time_to_live(&self, id: i64) -> Result<Option<Life>, Trouble> {
        time_to_live(&self.line, id).await
    }

    /// The holder with what remains; `None` when the lock has ended meanwhile.
    async fn holder_of(&self, on: &Resource, lock: &Lock) -> Result<Option<Holder>, Trouble> {
        if lock.hangs_on == 0 {
            return Ok(Some(lock.holder(on, None)));
        }
        let left = self.time_to_live(lock.hangs_on).await?;
        Ok(left.map(|life| lock.holder(on, Some(life.left))))
    }
}

impl Backend for Etcd {
    fn traits(&self) -> Traits {
        Traits { kind: KIND, this_host_only: false, narrow_ids: true }
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Pending<'a, Attempt> {
        Box::pin(self.take(claim))
    }

    fn renew<'a>(&'a self, proof: &'a Proof, ttl: Ttl, next: Nonce) -> Pending<'a, Standing> {
        // A repeat of a renewal finds the mark that the first copy left: so it is a fit.
        let next = (!proof.nonces.is_empty()).then_some(next);
        Box::pin(self.start_again(proof, ttl, next))
    }

    fn verify<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Standing> {
        Box::pin(self.read_back(proof))
    }

    fn release<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Released> {
        Box::pin(self.give_back(proof))
    }

    fn cancel<'a>(&'a self, resource: &'a Resource, lease: LeaseId) -> Pending<'a, ()> {
        Box::pin(self.end_for_good(resource, lease))
    }

    fn holder<'a>(&'a self, resource: &'a Resource) -> Pending<'a, Option<Holder>> {
        Box::pin(async move {
            let seen = self.look(&self.keys(resource)).await?;
            match &seen.found {
                Found::Free => Ok(None),
                Found::Foreign(what) => Err(foreign(what)),
                Found::Lock(lock) => Ok(self.holder_of(resource, lock).await?),
            }
        })
    }

    fn list<'a>(&'a self, after: Option<&'a Resource>, limit: usize) -> Pending<'a, Vec<Holder>> {
        Box::pin(self.locks(after, limit))
    }

    fn examine(&self) -> Pending<'_, Vec<Remark>> {
        Box::pin(self.remarks())
    }

    fn watch<'a>(&'a self, resource: &'a Resource, stirs: Stirs) -> Option<Pending<'a, ()>> {
        Some(Box::pin(self.listen(resource, stirs)))
    }

    fn identity(&self) -> Option<String> {
        self.line.identity()
    }
}

/// What remains of an etcd lease, and the term of the member that said so; `None` when there is no
/// such lease.
/// An etcd lease as a member sees it.
#[derive(Debug, Clone, Copy)]
struct Life {
    left: Duration,
    /// What a renewal makes of that.
    whole: Duration,
    /// The term of that member.
    term: u64,
}

/// `None` when there is no such lease.
async fn time_to_live(line: &Line, id: i64) -> Result<Option<Life>, Trouble> {
    let asked = line.ask(async |client| client.lease_client().time_to_live(id, None).await);
    let answer = asked.await?;
    let term = answer.header().map_or(0, |header| header.raft_term());
    // -1 for no lease; it may be 0 for a while before its keys go.
    let secs = u64::try_from(answer.ttl()).ok();
    let whole = Duration::from_secs(u64::try_from(answer.granted_ttl()).unwrap_or(0));
    Ok(secs.map(|secs| Life { left: Duration::from_secs(secs), whole, term }))
}

/// Nothing but reads, so that whoever loses learns who was first.
fn otherwise(keys: &Keys) -> Vec<TxnOp> {
    keys.read()
}

fn answer_to(response: TxnResponse, keys: &Keys) -> Result<Seen, Trouble> {
    let strange = || Trouble::Silence("etcd gave an answer to another question".to_owned());
    Seen::read(response, keys).ok_or_else(strange)
}

fn foreign(what: &str) -> BackendError {
    BackendError::Refused { kind: RefusedKind::Foreign, why: what.to_owned() }
}

fn unknown(why: &str) -> BackendError {
    BackendError::Unknown { why: why.to_owned() }
}

#[cfg(test)]
mod tests;
