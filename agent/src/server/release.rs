//! Giving back: what this agent took is the driver's to end, what another writer took is ended in
//! its store at once.

use stormlock_protocol::message::{Code, LostReason, Refusal, Release, Released, Reply, Target};
use stormlock_protocol::name::{LeaseId, Resource};
use stormlock_protocol::{RELEASED_MAX, RESOURCES_MAX};

use super::service::{Answered, Caller, Found, Service};
use super::told;
use crate::driver::at_work;
use crate::lease::{Answer, Claim, No, State, View};

impl Service {
    pub(super) async fn release(&self, caller: &Caller, ask: Release) -> Answered<Reply> {
        let targets = match ask {
            Release::These(targets) if targets.len() > RESOURCES_MAX => {
                let why = format!("at most {RESOURCES_MAX} leases at once");
                return Err(Refusal::new(Code::TooMany, why));
            }
            Release::These(targets) => targets,
            Release::All => return self.release_all(caller).await,
        };
        let mut begun = Vec::with_capacity(targets.len());
        for target in targets {
            begun.push((self.begin_release(caller, &target).await, target));
        }
        let here: Vec<LeaseId> =
            begun.iter().filter_map(|(begun, _)| begun.as_ref().ok()?.here()).collect();
        self.audit.releasing(&here, &caller.facts);
        let mut answers = self.driver.release_all(here).await?.into_iter();
        let mut outcomes = Vec::with_capacity(begun.len());
        for (begun, Target { resource, lease }) in begun {
            let lease = lease.or(begun.as_ref().ok().and_then(Begun::here));
            let mut lost = None;
            let released = match begun {
                Ok(Begun::Here(lease)) => {
                    let answer = answers.next().ok_or_else(|| told::bug("a release"))?;
                    lost = lost_before(&answer);
                    self.released(caller, &resource, lease, answer).await
                }
                Ok(Begun::Done(lease)) => Ok(lease),
                Err(refusal) => Err(refusal),
            };
            outcomes.push(match released {
                Ok(lease) => Released { resource, lease: Some(lease), refusal: None, lost },
                Err(refusal) => Released { resource, lease, refusal: Some(refusal), lost },
            });
        }
        Ok(Reply::Released(outcomes))
    }

    /// As many of the caller's leases as one reply has room for.
    async fn release_all(&self, caller: &Caller) -> Answered<Reply> {
        let mut owned = self.driver.owned(caller.who.uid, None, usize::MAX).await?;
        owned.retain(is_to_give_back);
        // What a command counts on comes last: it stays, and must not fill reply after reply.
        owned.sort_by_key(|view| at_work(view).is_some());
        owned.truncate(RELEASED_MAX);
        let leases: Vec<LeaseId> = owned.iter().map(|view| view.claim.lease).collect();
        self.audit.releasing(&leases, &caller.facts);
        let answers = self.driver.release_all(leases).await?;
        let mut outcomes = Vec::with_capacity(owned.len());
        for (view, answer) in owned.into_iter().zip(answers) {
            let Claim { resource, lease, .. } = view.claim;
            let lost = lost_before(&answer);
            let refusal = self.released(caller, &resource, lease, answer).await.err();
            outcomes.push(Released { resource, lease: Some(lease), refusal, lost });
        }
        Ok(Reply::Released(outcomes))
    }

    /// Finds what is to be given back; what this agent did not take is given back at once.
    async fn begin_release(&self, caller: &Caller, target: &Target) -> Answered<Begun> {
        let (backend, holder) = match self.find(caller, target).await? {
            Found::Here(view) => return Ok(Begun::Here(view.claim.lease)),
            Found::Elsewhere(backend, holder) => (backend, holder),
        };
        self.release_elsewhere(caller, &backend, &holder).await?;
        Ok(Begun::Done(holder.lease))
    }

    async fn released(
        &self,
        caller: &Caller,
        on: &Resource,
        lease: LeaseId,
        answer: Answer,
    ) -> Answered<LeaseId> {
        match answer {
            Answer::Released => Ok(lease),
            Answer::No(no) => {
                self.audit.not_released(lease);
                Err(self.refusal(caller, no).await.about(on))
            }
            Answer::Acquired(_) | Answer::Renewed(_) => Err(told::bug("a release")),
        }
    }
}

/// Why what was to be given back was lost before, if it was.
fn lost_before(answer: &Answer) -> Option<LostReason> {
    match answer {
        Answer::No(No::Lost(loss)) => Some(told::lost(loss)),
        Answer::No(_) | Answer::Released | Answer::Acquired(_) | Answer::Renewed(_) => None,
    }
}

/// True for what its owner can end: also for what stays after its holder, and for what was lost
/// and its owner has not acknowledged.
fn is_to_give_back(view: &View) -> bool {
    use State::{AtRisk, Held, Lingering, Lost, Unknown};
    matches!(view.state, Held | AtRisk | Unknown | Lingering | Lost(_))
}

/// How far a release has come.
enum Begun {
    /// The driver is to give this one back.
    Here(LeaseId),
    /// Its store let go.
    Done(LeaseId),
}

impl Begun {
    fn here(&self) -> Option<LeaseId> {
        match self {
            Begun::Here(lease) => Some(*lease),
            Begun::Done(_) => None,
        }
    }
}
