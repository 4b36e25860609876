//! What a command or a holder of the same user left behind, and how long it is waited for.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process, test_kill_process_group};
use stormlock_protocol::client::Client;
use stormlock_protocol::message::{Attach, Refusal, State};
use stormlock_protocol::process::Process;

use super::take::leases;
use crate::render::say;
use crate::time;

/// How long the lease of a command that is gone is waited for: the agent looks four times a second
/// whether it is, and then tells the store.
const LEFTOVER_SECS: u32 = 10;

/// For how long to wait after a refusal because of a lease of ours whose process is gone already:
/// it is being given back, so the agent does not call it ours any more. What others counted on
/// whose holder was killed is given back when they have had their time to end.
pub(super) fn wait_secs(client: &mut Client, refusal: &Refusal) -> Option<u32> {
    let holder = refusal.holder.as_ref()?;
    let status = client.status(None).ok()?;
    let leases = leases(client).ok()?;
    let own = leases.iter().find(|lease| lease.lease == holder.lease);
    match own.map(|lease| lease.attach) {
        Some(Attach::Process(process)) => has_ended(&process).then_some(LEFTOVER_SECS),
        Some(Attach::Holder { process, grace_secs }) if has_ended(&process) => {
            let lingers = own.filter(|lease| lease.state == State::Lingering);
            let left = lingers.and_then(|lease| u32::try_from(lease.left_ms / 1_000).ok());
            let secs = LEFTOVER_SECS.saturating_add(left.unwrap_or(grace_secs));
            say(&format!(
                "{} was held by process {} of yours, which was killed: what counted on that has \
                 its time to end; this waits for it, {} at most",
                holder.resource,
                process.pid,
                time::exact(secs.into())
            ));
            Some(secs)
        }
        Some(Attach::Holder { .. } | Attach::Detached | Attach::Session) => None,
        // Given back between the two questions, if it was this agent's at all.
        None => {
            let is_mine = holder.principal == status.agent.you
                && holder.host.as_deref() == Some(status.agent.host.as_str());
            is_mine.then_some(LEFTOVER_SECS)
        }
    }
}

fn has_ended(process: &Process) -> bool {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let has_group = || pid.is_some_and(|pid| test_kill_process_group(pid) != Err(Errno::SRCH));
    let exists = || pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH));
    match process.is_there() {
        Some(true) => false,
        // The kernel gives a number to nobody else while a group has it.
        Some(false) => true,
        None => !exists() && (!process.group || !has_group()),
    }
}
