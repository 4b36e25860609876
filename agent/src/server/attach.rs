//! Whose end ends a lease: of a connection, of a process, of the last of several.

use std::os::unix::fs::MetadataExt;

use stormlock_protocol::RESOURCES_MAX;
use stormlock_protocol::message::{self, Code, Refusal, Reply, Target};
use stormlock_protocol::name::LINGER_SECS_MAX;
use stormlock_protocol::process::{self, Process};

use super::service::{Answered, Caller, Found, Service};
use super::told;
use crate::driver::is_there;
use crate::lease::{Answer, Attach, ProcessId, Terminal, View};

/// What starts all others of a host or a container; a signal to its group would be one to all.
const FIRST_PROCESS: u32 = 1;

impl Service {
    pub(super) async fn attach(
        &self,
        caller: &Caller,
        leases: Vec<Target>,
        to: message::Attach,
    ) -> Answered<Reply> {
        let found = self.owned(caller, leases).await?;
        let to = attach(caller, to, &found)?;
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
        let found = self.owned(caller, leases).await?;
        let with = process(caller, with, &found)?;
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

/// Whose end a caller wants to end these leases, or one that is not there yet.
pub(super) fn attach(caller: &Caller, asked: message::Attach, of: &[View]) -> Answered<Attach> {
    Ok(match asked {
        message::Attach::Detached => Attach::Detached,
        message::Attach::Session => Attach::Session(caller.session),
        message::Attach::Process(asked) => Attach::Process(process(caller, asked, of)?),
        message::Attach::Holder { process: asked, grace_secs } => {
            Attach::Holder(process(caller, asked, of)?, grace_secs.min(LINGER_SECS_MAX))
        }
    })
}

/// A process that is there. A group is one of the caller's own: while it goes on nobody else gets
/// what the lease is on, and whoever may end the lease is told to end the group. (One that these
/// leases have already was the caller's, and may have become another's by `sudo`.)
fn process(caller: &Caller, asked: Process, of: &[View]) -> Answered<ProcessId> {
    let process = named(asked);
    let has =
        |view: &View| view.attach.process() == Some(process) || view.sharers.contains(&process);
    if asked.group && !of.iter().any(has) && is_of_another(caller, asked.pid) {
        let why = format!(
            "process group {} is none of yours: name one that your own process leads, or the \
             process alone, whose end ends the lease too",
            asked.pid
        );
        return Err(Refusal::new(Code::BadRequest, why));
    }
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

/// True of what no command of anybody can be, and when `/proc` says that a process is another
/// user's. Root's commands are whose root wants.
fn is_of_another(caller: &Caller, pid: u32) -> bool {
    let own = caller.who.uid.0;
    let owner = std::fs::metadata(format!("/proc/{pid}")).map(|found| found.uid());
    pid <= FIRST_PROCESS || own != 0 && owner.is_ok_and(|owner| owner != own)
}

fn named(Process { pid, started, group }: Process) -> ProcessId {
    ProcessId { pid, started, group }
}

/// A terminal of the caller, by its word: what is written there is checked then.
pub(super) fn terminal(asked: process::Terminal) -> Terminal {
    Terminal { device: asked.device, session: named(asked.session) }
}
