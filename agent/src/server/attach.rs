//! Whose end ends a lease: of a connection, of a process, of the last of several.

use stormlock_protocol::RESOURCES_MAX;
use stormlock_protocol::message::{self, Code, Refusal, Reply, Target};
use stormlock_protocol::process::{self, Process};

use super::service::{Answered, Caller, Found, Service};
use super::told;
use crate::driver::is_there;
use crate::lease::{Answer, Attach, ProcessId, Terminal, View};

impl Service {
    pub(super) async fn attach(
        &self,
        caller: &Caller,
        leases: Vec<Target>,
        to: message::Attach,
    ) -> Answered<Reply> {
        let to = attach(caller, to)?;
        let found = self.owned(caller, leases).await?;
        let mut attached = Vec::with_capacity(found.len());
        for view in found {
            let answer = self.driver.attach(view.claim.lease, to).await?;
            attached.push(self.as_it_is(caller, &view, answer).await?);
        }
        Ok(Reply::Acquired(attached))
    }

    pub(super) async fn share(
        &self,
        caller: &Caller,
        leases: Vec<Target>,
        with: Process,
    ) -> Answered<Reply> {
        let with = process(with)?;
        let found = self.owned(caller, leases).await?;
        let mut shared = Vec::with_capacity(found.len());
        for view in found {
            let answer = self.driver.share(view.claim.lease, with).await?;
            shared.push(self.as_it_is(caller, &view, answer).await?);
        }
        Ok(Reply::Acquired(shared))
    }

    /// The leases that a caller means, all their own and taken by this agent.
    async fn owned(&self, caller: &Caller, leases: Vec<Target>) -> Answered<Vec<View>> {
        if leases.is_empty() || leases.len() > RESOURCES_MAX {
            let why = format!("name 1 to {RESOURCES_MAX} leases, not {}", leases.len());
            return Err(Refusal::new(Code::BadRequest, why));
        }
        let mut found = Vec::with_capacity(leases.len());
        for target in &leases {
            match self.find(caller, target).await? {
                Found::Here(view) if view.owner == caller.who.uid => found.push(*view),
                Found::Here(_) | Found::Elsewhere(..) => {
                    return Err(told::not_yours(&target.resource));
                }
            }
        }
        Ok(found)
    }

    /// A lease as it is after another end was given to it.
    async fn as_it_is(
        &self,
        caller: &Caller,
        of: &View,
        answer: Answer,
    ) -> Answered<message::Lease> {
        match answer {
            Answer::Renewed(view) => Ok(self.told(&view)),
            Answer::No(no) => Err(self.refusal(caller, no).await.about(&of.claim.resource)),
            Answer::Acquired(_) | Answer::Released => Err(told::bug("an attach")),
        }
    }
}

/// Whose end a caller wants to end a lease.
pub(super) fn attach(caller: &Caller, asked: message::Attach) -> Answered<Attach> {
    Ok(match asked {
        message::Attach::Detached => Attach::Detached,
        message::Attach::Session => Attach::Session(caller.session),
        message::Attach::Process(asked) => Attach::Process(process(asked)?),
    })
}

/// A process that is there.
fn process(asked: Process) -> Answered<ProcessId> {
    let process = named(asked);
    if !is_there(process) {
        let why = format!(
            "there is no process {} that began when you say, or this agent cannot see it (another \
             namespace, a hidden /proc)",
            asked.pid
        );
        return Err(Refusal::new(Code::BadRequest, why));
    }
    Ok(process)
}

fn named(Process { pid, started, group }: Process) -> ProcessId {
    ProcessId { pid, started, group }
}

/// A terminal of the caller, by its word: what is written there is checked then.
pub(super) fn terminal(asked: process::Terminal) -> Terminal {
    Terminal { device: asked.device, session: named(asked.session) }
}
