//! Redis: one persistent primary.
//!
//! - Whose clock expires a lease: the server's. The key's TTL ends it, and PTTL tells what remains.
//! - The fence: `max(counter + 1, server time in microseconds)`. The counters are the fields of one
//!   hash, `stormlock:fences`, under the full key of each lock: so two agents that spell a key with
//!   different prefixes still share its counter. The hash itself is never prefixed, never expires,
//!   and its key is no resource.
//! - What decides: one Lua script for each verb. An acquire is two: the first reads the counter (or
//!   finds a holder), the second compares it, so that a late copy fails after a grant or a cancel
//!   has moved it. One over a lease differs in who must be there, which both compare. Every script
//!   but `holder` passes a write that changes nothing first, which a replica refuses: what is read
//!   after it is the primary's.
//! - Not guaranteed: anything across a failover (replication is asynchronous), after a crash
//!   without `appendfsync always`, or with an eviction policy that may take a lock. `examine` says
//!   which of these hold. Fences rise across all of them as long as the servers' clocks do.
//!
//! A lock is a hash at `prefix + resource`: `id` (16 raw bytes), `p` principal, `c` created (unix
//! seconds as text), as the Python tool writes it, and `f` fence, `h` host, `r` reason, `n` mark,
//! which it does not read. Names outside our alphabet are no resources of ours: lists leave their
//! locks out. An ACL user needs `~PREFIX* ~stormlock:fences +@read +@write +@scripting +time`,
//! `+info` so that another server under the same address is noticed, and `+client|tracking` so that
//! those who wait are woken.

mod examine;
#[cfg(fuzzing)]
pub mod fuzzing;
mod link;
mod list;
mod notices;
mod place;
mod refusal;
mod script;
mod sentinel;

use std::path::PathBuf;
use std::sync::Arc;

use redis::Value;
use secrecy::{ExposeSecret, SecretString};
use stormlock_protocol::name::{LeaseId, Resource, Ttl};

use super::tls::Tls;
use super::{
    Attempt, Backend, BackendError, OpenError, Pending, RefusedKind, Released, Remark, Standing,
    Stirs, Traits,
};
use crate::lease::{Claim, Grant, Holder, Nonce, Proof};
use link::{Line, Purpose, Server, Target};
use place::{Place, Url};
use script::{Said, Script};
use sentinel::Sentinels;

/// As `kind` in the configuration.
pub(super) const KIND: &str = "redis";
/// The key of the counters of all locks in a database.
const FENCES: &str = "stormlock:fences";

/// How to reach a Redis and what to write there.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where: `redis://HOST:PORT/DB`, `rediss://...` or `redis+unix:///PATH?db=DB`; never with a
    /// user or a password.
    pub url: String,
    /// ACL user; `None` for the default user.
    pub username: Option<String>,
    /// Password.
    pub password: Option<SecretString>,
    /// Before each resource; empty as in the Python tool.
    pub key_prefix: String,
    /// Certificates of authorities to trust, PEM; `None` for the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and its key, PEM.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Ask sentinels for the primary instead of connecting to `url`'s host.
    pub sentinel: Option<Sentinel>,
}

/// A set of sentinels. They are spoken to as the URL says (`rediss://`: by TLS, with the same
/// certificates), and without a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinel {
    /// `HOST:PORT` of each.
    pub nodes: Vec<String>,
    /// The name of the primary they watch.
    pub service: String,
}

impl Options {
    /// See [`super::Options::same`].
    pub(super) fn same(&self, other: &Options) -> bool {
        // Every field by name: a new one must be thought of here.
        let Options { url, username, password, key_prefix, ca_file, client_cert, sentinel } = self;
        let secret = |of: &Option<SecretString>| of.as_ref().map(|s| s.expose_secret().to_owned());
        *url == other.url
            && *username == other.username
            && secret(password) == secret(&other.password)
            && *key_prefix == other.key_prefix
            && *ca_file == other.ca_file
            && *client_cert == other.client_cert
            && *sentinel == other.sentinel
    }
}

/// A Redis.
#[derive(Debug)]
pub struct Redis {
    line: Line,
    /// For what is told without being asked: an abandoned call does not end it.
    ears: Line,
    prefix: String,
}

impl Redis {
    /// A Redis that nobody has connected to yet.
    ///
    /// # Errors
    /// [`OpenError`] when the options cannot work whatever the server says.
    pub fn new(options: &Options) -> Result<Redis, OpenError> {
        let Url { place, db, tls } = Url::parse(&options.url)?;
        let sentinels = options.sentinel.as_ref().map(Sentinels::new).transpose()?;
        if options.username.is_some() && options.password.is_none() {
            return Err(setting(
                "there is a redis user without a password: give both, or none for the default \
                 user",
            ));
        }
        let certificates = options.ca_file.is_some() || options.client_cert.is_some();
        if certificates && !tls {
            return Err(setting(
                "there are certificates, but the url does not ask for TLS: it begins with \
                 rediss:// then",
            ));
        }
        if sentinels.is_some() && matches!(place, Place::Unix(_)) {
            return Err(setting("sentinels tell network addresses: the url cannot be a socket's"));
        }
        let (ca_file, client_cert) = (options.ca_file.clone(), options.client_cert.clone());
        let tls = tls.then(|| Tls::new(ca_file, client_cert)).transpose()?;
        let (username, password) = (options.username.clone(), options.password.clone());
        let target = Arc::new(Target { place, tls, sentinels, db, username, password });
        let line = Line::new(Server::new(Arc::clone(&target), Purpose::Calls));
        let ears = Line::new(Server::new(target, Purpose::Notices));
        Ok(Redis { line, ears, prefix: options.key_prefix.clone() })
    }

    fn key(&self, on: &Resource) -> String {
        format!("{}{on}", self.prefix)
    }

    /// Runs a script about one resource.
    async fn run(
        &self,
        script: &Script,
        on: &Resource,
        arguments: &[&[u8]],
    ) -> Result<Said, BackendError> {
        let key = self.key(on);
        if key == FENCES {
            return Err(foreign("the counters of all locks stand under this name"));
        }
        let answer = self.eval(script, &[&key, FENCES], arguments).await?;
        match Said::read(&answer, on) {
            Some(Said::Foreign(what)) => Err(foreign(&format!("there is a {what} at key {key:?}"))),
            Some(said) => Ok(said),
            None => Err(strange(&answer)),
        }
    }

    async fn eval(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Value, BackendError> {
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
            command
        };
        match self.line.ask(&command("EVALSHA", &script.sha1)).await {
            // Not known there, so not run: a restart or SCRIPT FLUSH forgets them.
            Err(trouble) if trouble.is_no_script() => {
                Ok(self.line.ask(&command("EVAL", script.text)).await?)
            }
            answer => Ok(answer?),
        }
    }
}

impl Backend for Redis {
    fn traits(&self) -> Traits {
        Traits { kind: KIND, this_host_only: false, narrow_ids: false }
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Pending<'a, Attempt> {
        Box::pin(async move {
            let on = &claim.resource;
            let id = claim.lease.as_bytes().as_slice();
            let over = claim.over.as_ref().map_or(&[][..], |over| over.as_bytes().as_slice());
            let counter = match self.run(&script::LOOK, on, &[id, over]).await? {
                Said::Free(counter) => counter,
                said => return attempt(said),
            };
            let ttl_ms = ttl_ms(claim.ttl);
            let created = script::created(claim.created);
            let arguments = [
                id,
                over,
                &counter,
                ttl_ms.as_bytes(),
                claim.principal.as_str().as_bytes(),
                created.as_bytes(),
                claim.host.as_bytes(),
                claim.reason.as_ref().map_or("", |reason| reason.as_str()).as_bytes(),
                &mark(claim.nonce),
            ];
            attempt(self.run(&script::ACQUIRE, on, &arguments).await?)
        })
    }

    fn renew<'a>(&'a self, proof: &'a Proof, ttl: Ttl, next: Nonce) -> Pending<'a, Standing> {
        Box::pin(async move {
            // A repeat of a renewal finds the mark that the first copy left: so it is a fit.
            let next = (!proof.nonces.is_empty()).then_some(next);
            let known = Known::new(proof, next);
            let ttl_ms = ttl_ms(ttl);
            let mut arguments = known.arguments();
            arguments.push(ttl_ms.as_bytes());
            standing(self.run(&script::RENEW, &proof.resource, &arguments).await?)
        })
    }

    fn verify<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Standing> {
        Box::pin(async move {
            let known = Known::new(proof, None);
            let said = self.run(&script::VERIFY, &proof.resource, &known.arguments()).await?;
            standing(said)
        })
    }

    fn release<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Released> {
        Box::pin(async move {
            let known = Known::new(proof, None);
            match self.run(&script::RELEASE, &proof.resource, &known.arguments()).await? {
                Said::Done => Ok(Released::Done),
                Said::Gone => Ok(Released::NotThere),
                said => Err(strange(&said)),
            }
        })
    }

    fn cancel<'a>(&'a self, resource: &'a Resource, lease: LeaseId) -> Pending<'a, ()> {
        Box::pin(
            async move { done(&self.run(&script::CANCEL, resource, &[lease.as_bytes()]).await?) },
        )
    }

    fn holder<'a>(&'a self, resource: &'a Resource) -> Pending<'a, Option<Holder>> {
        Box::pin(async move {
            match self.run(&script::HOLDER, resource, &[]).await? {
                Said::Held(holder) => Ok(Some(*holder)),
                Said::Gone => Ok(None),
                said => Err(strange(&said)),
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

/// How a proof names itself to the scripts.
struct Known<'a> {
    lease: &'a LeaseId,
    count: String,
    marks: Vec<[u8; 16]>,
}

impl<'a> Known<'a> {
    fn new(proof: &'a Proof, next: Option<Nonce>) -> Known<'a> {
        let marks: Vec<_> = proof.nonces.iter().copied().chain(next).map(mark).collect();
        Known { lease: &proof.lease, count: marks.len().to_string(), marks }
    }

    fn arguments(&self) -> Vec<&[u8]> {
        let mut arguments = vec![self.lease.as_bytes().as_slice(), self.count.as_bytes()];
        arguments.extend(self.marks.iter().map(<[u8; 16]>::as_slice));
        arguments
    }
}

/// A mark as it is stored: 16 hex digits.
fn mark(nonce: Nonce) -> [u8; 16] {
    let mut digits = [0; 16];
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        let value = (nonce.0 >> (4 * place)) & 0xf;
        *digit = b"0123456789abcdef"[value as usize];
    }
    digits
}

fn ttl_ms(ttl: Ttl) -> String {
    (u64::from(ttl.as_secs()) * 1000).to_string()
}

fn attempt(said: Said) -> Result<Attempt, BackendError> {
    match said {
        Said::Ours(remaining, Some(fence)) => Ok(Attempt::Granted(Grant { fence, remaining })),
        Said::Held(holder) => Ok(Attempt::Held(Some(holder))),
        Said::Moved => Ok(Attempt::Moved),
        Said::Gone => Ok(Attempt::Gone),
        said => Err(strange(&said)),
    }
}

fn standing(said: Said) -> Result<Standing, BackendError> {
    match said {
        Said::Ours(remaining, None) => Ok(Standing::Ours { remaining }),
        Said::Held(holder) => Ok(Standing::NotOurs(Some(holder))),
        Said::Gone => Ok(Standing::NotOurs(None)),
        Said::Cloned => Ok(Standing::Cloned),
        said => Err(strange(&said)),
    }
}

fn done(said: &Said) -> Result<(), BackendError> {
    match said {
        Said::Done => Ok(()),
        said => Err(strange(said)),
    }
}

fn setting(why: &str) -> OpenError {
    OpenError::Setting(why.to_owned())
}

fn foreign(why: &str) -> BackendError {
    BackendError::Refused { kind: RefusedKind::Foreign, why: why.to_owned() }
}

/// An answer that no script of ours gives: whatever it is, it is no proof of anything.
fn strange(answer: &dyn std::fmt::Debug) -> BackendError {
    let answer: String = format!("{answer:?}").chars().take(STRANGE_MAX).collect();
    BackendError::Unknown { why: format!("redis gave an answer that is none of ours: {answer}") }
}

/// Characters of a strange answer that are told: one line of a log.
const STRANGE_MAX: usize = 200;

#[cfg(test)]
mod tests;
