//! A store of one's own: a program that the site wrote, which speaks JSON lines on its stdin and
//! stdout. `agent/examples/README.md` is the protocol; an example stands beside it.
//!
//! - Whose clock expires a lease: the program's store's, as the protocol asks. The agent believes
//!   the durations that the program says.
//! - The fence: the program's; the protocol asks for a counter of each resource that only rises,
//!   and that a grant and a cancel move.
//! - What decides: the program's one atomic step for each question. An acquire is two questions:
//!   the first reads the counter (or finds a holder), the second names it, so that a copy that is
//!   late anywhere (in a pipe, in the program, in a run that outlived its agent, in a network
//!   behind it) fails after a grant or a cancel has moved it. One over a lease names that as well,
//!   and a program that does not know of breaking says who holds it. Marks do the same as the
//!   counter for renewals and releases. So no order of questions matters, and killing a program is
//!   always safe.
//! - Not guaranteed: what the program does not do. `contract!` can be run against it.
//!
//! One process serves all calls; it is started by the first, and again after it ended. No shell, no
//! environment but the configured one. What it writes to stderr becomes part of the reason when a
//! call fails.

mod asked;
#[cfg(fuzzing)]
pub mod fuzzing;
mod life;
mod mask;
mod open;
mod program;
mod said;
mod seat;
mod tail;
mod trouble;

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use stormlock_protocol::message::Level;
use stormlock_protocol::name::{LeaseId, Resource, Ttl};

use super::tame;
use super::{
    Attempt, Backend, BackendError, OpenError, Pending, Released, Remark, Standing, Traits,
};
use crate::lease::{Claim, Holder, Nonce, Proof};
use asked::Question;
use said::{Looked, Ready, Said};
use seat::Seat;
use trouble::Trouble;

/// As `kind` in the configuration.
pub(super) const KIND: &str = "exec";
/// Most locks that are asked for at once: with the longest texts they fit a line.
const PAGE_MAX: usize = 200;
/// Longest name of a program's kind or store that is shown, in characters.
const NAME_MAX: usize = 120;

/// Which program to start.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its full path, and its arguments.
    pub command: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Told to it in its greeting, for whatever it connects to.
    pub password: Option<SecretString>,
}

impl Options {
    /// See [`super::Options::same`].
    pub(super) fn same(&self, other: &Options) -> bool {
        // Every field by name: a new one must be thought of here.
        let Options { command, env, password } = self;
        let secret = |of: &Option<SecretString>| of.as_ref().map(|s| s.expose_secret().to_owned());
        *command == other.command
            && *env == other.env
            && secret(password) == secret(&other.password)
    }
}

/// A program as a store.
#[derive(Debug)]
pub struct Exec {
    seat: Seat,
}

impl Exec {
    /// A program that nobody has started yet.
    ///
    /// # Errors
    /// [`OpenError`] when there is no program to start.
    pub fn new(options: &Options) -> Result<Exec, OpenError> {
        match options.command.first() {
            Some(path) if path.starts_with('/') => Ok(Exec { seat: Seat::new(options.clone()) }),
            Some(path) => Err(OpenError::Setting(format!("{path:?} is not a full path"))),
            None => Err(OpenError::Setting("there is no program to start".to_owned())),
        }
    }

    /// Who has the resource, and the counter that an acquire must name.
    async fn look(&self, on: &Resource) -> Result<Looked, BackendError> {
        let said = self.seat.ask(&Question::Look { resource: on.as_str() }).await;
        // It changes nothing, so whatever went wrong, nothing happened.
        Ok(said.and_then(|said| said.looked(on)).map_err(Trouble::of_reading)?)
    }

    async fn try_acquire(&self, claim: &Claim) -> Result<Attempt, BackendError> {
        let counter = match self.look(&claim.resource).await? {
            Looked::Free(_) if claim.over.is_some() => return Ok(Attempt::Gone),
            Looked::Free(counter) => counter,
            // Its own grant is told by the acquire, whatever the counter is.
            Looked::Held(Some(holder), _) if holder.lease == claim.lease => 0,
            // Without a counter it is a program that breaks nothing.
            Looked::Held(Some(holder), Some(counter)) if claim.over == Some(holder.lease) => {
                counter
            }
            Looked::Held(holder, _) => return Ok(Attempt::Held(holder.map(Box::new))),
        };
        Ok(self.seat.ask(&Question::acquire(claim, counter)).await?.attempt(claim)?)
    }

    async fn stands(
        &self,
        question: Question<'_>,
        on: &Resource,
    ) -> Result<Standing, BackendError> {
        Ok(self.seat.ask(&question).await?.standing(on)?)
    }

    async fn done(&self, question: Question<'_>) -> Result<(), BackendError> {
        self.seat.ask(&question).await?.done()?;
        Ok(())
    }

    async fn locks(
        &self,
        after: Option<&Resource>,
        limit: usize,
    ) -> Result<Vec<Holder>, BackendError> {
        let limit = limit.min(PAGE_MAX);
        let question = Question::List { after: after.map(Resource::as_str), limit };
        let found = self.seat.ask(&question).await?.locks()?;
        if found.len() > limit {
            return Err(Trouble::strange(format!("{} locks of {limit}", found.len())).into());
        }
        // Out of order, the same page could come again and again.
        let mut last = after;
        for lock in &found {
            if last.is_some_and(|last| *last >= lock.resource) {
                let why = format!("its list is not in order at {}", lock.resource);
                return Err(Trouble::strange(why).into());
            }
            last = Some(&lock.resource);
        }
        Ok(found)
    }

    async fn remarks(&self) -> Result<Vec<Remark>, BackendError> {
        let said = self.seat.ask(&Question::Examine).await?.remarks()?;
        let remark = |level, text| Remark { level, text, mend: None };
        let mut remarks = vec![remark(Level::Good, self.name())];
        match said {
            Some(said) => remarks.extend(said),
            None => {
                let text = "the program says nothing of its store's fitness".to_owned();
                remarks.push(remark(Level::Note, text));
            }
        }
        if let Some(words) = self.seat.last_words() {
            remarks.push(remark(Level::Note, format!("the program wrote to stderr: {words}")));
        }
        Ok(remarks)
    }

    fn name(&self) -> String {
        let Some(Ready { kind, store, .. }) = self.seat.ready() else {
            return "the program answers".to_owned();
        };
        let store = store.map(|store| format!(", {}", tame(&store, NAME_MAX)));
        format!("the program answers: {}{}", tame(&kind, NAME_MAX), store.unwrap_or_default())
    }
}

impl Backend for Exec {
    fn traits(&self) -> Traits {
        // Known from its greeting on; a lock is shown after one.
        let this_host_only = self.seat.ready().is_some_and(|ready| ready.this_host_only);
        Traits { kind: KIND, this_host_only, narrow_ids: false }
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Pending<'a, Attempt> {
        Box::pin(self.try_acquire(claim))
    }

    fn renew<'a>(&'a self, proof: &'a Proof, ttl: Ttl, next: Nonce) -> Pending<'a, Standing> {
        Box::pin(self.stands(Question::renew(proof, ttl, next), &proof.resource))
    }

    fn verify<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Standing> {
        Box::pin(self.stands(Question::verify(proof), &proof.resource))
    }

    fn release<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Released> {
        Box::pin(async move { Ok(self.seat.ask(&Question::release(proof)).await?.released()?) })
    }

    fn cancel<'a>(&'a self, resource: &'a Resource, lease: LeaseId) -> Pending<'a, ()> {
        Box::pin(self.done(Question::cancel(resource, lease)))
    }

    fn holder<'a>(&'a self, resource: &'a Resource) -> Pending<'a, Option<Holder>> {
        Box::pin(async move {
            match self.look(resource).await? {
                Looked::Free(_) => Ok(None),
                Looked::Held(holder, _) => Ok(holder),
            }
        })
    }

    fn list<'a>(&'a self, after: Option<&'a Resource>, limit: usize) -> Pending<'a, Vec<Holder>> {
        Box::pin(self.locks(after, limit))
    }

    fn examine(&self) -> Pending<'_, Vec<Remark>> {
        Box::pin(self.remarks())
    }

    fn setup(&self) -> Option<Pending<'_, Vec<String>>> {
        Some(Box::pin(async {
            match self.seat.ask(&Question::Setup).await? {
                Said::Unsupported => Ok(vec!["the program needs no setup".to_owned()]),
                said => Ok(said.done()?),
            }
        }))
    }

    fn identity(&self) -> Option<String> {
        self.seat.ready().and_then(|ready| ready.store)
    }
}

#[cfg(test)]
mod contract;
#[cfg(test)]
#[path = "../../../../tests/support/exec.rs"]
mod server;
#[cfg(test)]
mod tests;
