//! What the agent knows, in the words of the wire: leases, locks, and refusals that say what to do.

use std::time::Duration;

use stormlock_protocol::message::{self, Code, LostReason, Refusal};
use stormlock_protocol::name::{LeaseId, Principal, Resource, Ttl, UnixMs};
use stormlock_protocol::process::Process;

use crate::clock;
use crate::lease::{
    After, Attach, BackendName, Hold, Holder, Loss, Moment, No, ProcessId, RefusedKind,
    SHARERS_MAX, SHARERS_OF_ONE_MAX, State, Unfit, View,
};
use crate::stores::AskError;

/// Longest host name that is passed on, in bytes: another writer may have put anything there.
const HOST_MAX: usize = 64;

/// A lease of this agent.
pub(super) fn lease(view: &View, this_host_only: bool) -> message::Lease {
    let now = clock::now();
    let claim = &view.claim;
    message::Lease {
        resource: claim.resource.clone(),
        lease: claim.lease,
        fence: view.fence,
        backend: claim.backend.to_string(),
        this_host_only,
        state: state(&view.state),
        principal: claim.principal.clone(),
        reason: claim.reason.clone(),
        since: claim.created,
        left_ms: millis(now.until(view.deadline)),
        ttl: claim.ttl,
        hold: match view.hold {
            Hold::No => message::Hold::No,
            Hold::Keep => message::Hold::Keep,
            Hold::Until(end) => message::Hold::Until(on_the_wall(now, end)),
        },
        attach: match view.attach {
            Attach::Detached => message::Attach::Detached,
            Attach::Session(_) => message::Attach::Session,
            Attach::Process(process) => message::Attach::Process(as_told(process)),
            Attach::Holder(process, grace_secs) => {
                message::Attach::Holder { process: as_told(process), grace_secs }
            }
        },
        waiters: view.waiters,
        ends_soon: view.ends_soon,
    }
}

/// A lease of another writer that was renewed by its id.
pub(super) fn foreign_lease(
    backend: &BackendName,
    holder: &Holder,
    ttl: Ttl,
    remaining: Duration,
) -> message::Lease {
    message::Lease {
        resource: holder.resource.clone(),
        lease: holder.lease,
        fence: holder.fence,
        backend: backend.to_string(),
        this_host_only: false,
        state: message::State::Held,
        principal: holder.principal.clone(),
        reason: holder.reason.clone(),
        since: holder.since,
        left_ms: millis(remaining),
        ttl,
        hold: message::Hold::No,
        attach: message::Attach::Detached,
        waiters: 0,
        ends_soon: false,
    }
}

/// A lock as the store shows it; whose it is and who waits for it is not known here.
pub(super) fn lock(backend: &BackendName, this_host_only: bool, holder: Holder) -> message::Lock {
    message::Lock {
        resource: holder.resource,
        backend: backend.to_string(),
        this_host_only,
        principal: holder.principal,
        host: holder.host.map(tame_host),
        lease: holder.lease,
        fence: holder.fence,
        reason: holder.reason,
        since: holder.since,
        left_ms: holder.remaining.map(millis),
        mine: false,
        waiters: 0,
        process: None,
    }
}

/// The process whose end ends a lease.
pub(super) fn process(view: &View) -> Option<Process> {
    view.attach.process().map(as_told)
}

fn as_told(ProcessId { pid, started, group }: ProcessId) -> Process {
    Process { pid, started, group }
}

/// Another has it.
pub(super) fn held(on: &Resource, lock: Option<message::Lock>) -> Refusal {
    let why = match &lock {
        Some(lock) if lock.mine => format!("you hold {on} already, as lease {}", lock.lease),
        Some(lock) if lock.is_in_place_of_broken() => {
            format!("nobody holds {on} yet: {} broke its lease", lock.principal)
        }
        Some(lock) => format!("{on} is held by {}", lock.principal),
        None => format!("{on} changes hands too fast; try again"),
    };
    let mut refusal = Refusal::new(Code::Held, why).about(on);
    refusal.holder = lock.map(Box::new);
    refusal
}

/// Another has it still.
pub(super) fn waited_out(on: &Resource, lock: Option<message::Lock>) -> Refusal {
    let mut refusal = held(on, lock);
    refusal.code = Code::Timeout;
    refusal.message = format!("waited in vain: {}", refusal.message);
    refusal
}

/// The store had not said for so long who has it.
pub(super) fn waited_in_vain(time: Duration, mut refusal: Refusal) -> Refusal {
    let secs = time.as_secs().max(1);
    refusal.message =
        format!("waited in vain, the last {secs} s without an answer: {}", refusal.message);
    refusal
}

/// The words for a no of the core.
pub(super) fn refusal(no: No) -> Refusal {
    match no {
        No::Held(on, _) => held(&on, None),
        No::WaitedOut(on, _) => waited_out(&on, None),
        No::WaitedInVain(time, no) => waited_in_vain(time, refusal(*no)),
        No::Lost(loss) => Refusal::new(Code::Lost, format!("the lease is lost: {loss}")),
        No::NotHeld => Refusal::new(Code::NotHeld, "there is no such lease"),
        No::Lingers(on) => {
            let why = format!(
                "the holder of {on} has ended, and it stays a while for those it was held for: \
                 `stormctl release {on}` frees it at once"
            );
            Refusal::new(Code::NotHeld, why).about(&on)
        }
        No::TooMany(max) => {
            Refusal::new(Code::TooMany, format!("there may be {max} leases at once"))
        }
        No::Store { backend, resource, kind, after } => {
            let what = describe(&backend, kind);
            let then = match after {
                After::Nothing => "",
                After::Cancelling => {
                    "; it may have been taken: the agent goes on until that is undone"
                }
                After::Releasing => "; the agent goes on giving it back",
            };
            let why = format!("backend {backend} {what} ({resource}){then}");
            Refusal::new(code(kind), why).about(&resource)
        }
        No::Journal => {
            let why = "the agent cannot write its journal, so nothing new can be promised; \
                       see `stormctl doctor`";
            Refusal::new(Code::Unavailable, why)
        }
        No::Fence(on, fence) => {
            let why = format!(
                "the store gave fence {fence} for {on}, which is no greater than one before it: \
                 it lost its memory, and {on} was given back"
            );
            Refusal::new(Code::Unavailable, why).about(&on)
        }
        No::TooLate(on) => {
            let why = format!("the answer for {on} came too late to be believed; try again");
            Refusal::new(Code::Unavailable, why).about(&on)
        }
        No::AtWork(on, group) => at_work(&on, group),
        No::TooShort(on, group, least) => {
            let why = format!(
                "the command in process group {group} counts on a ttl of {} s on {on}: a shorter \
                 one would end it; leave out the ttl, or end the command first",
                least.as_secs()
            );
            Refusal::new(Code::BadRequest, why).about(&on)
        }
        No::TooManySharers(on) => {
            let why = format!(
                "{SHARERS_MAX} commands share the lease on {on} already: wait for one to end"
            );
            Refusal::new(Code::TooMany, why).about(&on)
        }
        No::TooManyShared => {
            let why = format!(
                "{SHARERS_OF_ONE_MAX} commands share your leases already: wait for one to end"
            );
            Refusal::new(Code::TooMany, why)
        }
        No::Stopping => Refusal::from(crate::driver::Stopping),
    }
}

/// A store did not answer a question about a resource.
pub(super) fn no_answer(backend: &BackendName, on: &Resource, error: &AskError) -> Refusal {
    let why = format!("backend {backend} {} ({on})", describe_error(backend, error));
    Refusal::new(code(error.kind()), why).about(on)
}

/// What a store's failure means; its own text stays in the agent's log.
pub(super) fn describe_error(backend: &BackendName, error: &AskError) -> String {
    match error {
        AskError::Busy => "is read by many now; try again in a moment, or ask for one lock by its \
                           name (`stormctl current`)"
            .to_owned(),
        error => describe(backend, error.kind()),
    }
}

/// A configuration that names no such store.
pub(super) fn no_store(backend: &BackendName) -> Refusal {
    Refusal::new(Code::Config, format!("no backend is called {backend}"))
}

/// A command of `run` goes on under it.
fn at_work(on: &Resource, group: u32) -> Refusal {
    let why = format!(
        "{on} is held for a command that goes on, process group {group}: end that, and the agent \
         gives it back (`kill -TERM -- -{group}`)"
    );
    Refusal::new(Code::Held, why).about(on)
}

/// Nothing of the caller's is there.
pub(super) fn not_yours(on: &Resource) -> Refusal {
    Refusal::new(Code::NotHeld, format!("you do not hold {on} through this agent")).about(on)
}

/// A lease id that nobody has on this resource.
pub(super) fn no_such_lease(on: &Resource, lease: LeaseId) -> Refusal {
    let why = format!("lease {lease} is not the current one on {on}");
    Refusal::new(Code::NotHeld, why).about(on)
}

/// That a lease is nobody's to give back or to renew.
pub(super) fn in_place_of_broken(on: &Resource) -> Refusal {
    let why = format!(
        "the lease on {on} stands in the place of a broken one until whoever relied on that has \
         ended: `stormctl break {on} --now` ends it at once"
    );
    Refusal::new(Code::Held, why).about(on)
}

/// A lease that was seen and is there no more, nor any other.
pub(super) fn over(on: &Resource, lease: LeaseId) -> Refusal {
    let why = format!("lease {lease} on {on} is over, and nobody holds that by now");
    Refusal::new(Code::NotHeld, why).about(on)
}

/// Another writer's lease that ended while it was being renewed.
pub(super) fn not_current(holder: &Holder) -> Refusal {
    let why = format!("lease {} on {} is over", holder.lease, holder.resource);
    Refusal::new(Code::Lost, why).about(&holder.resource)
}

/// The driver answered another question than was asked.
pub(super) fn bug(what: &str) -> Refusal {
    Refusal::new(Code::Internal, format!("{what} was answered with something else: a bug"))
}

fn code(kind: Option<RefusedKind>) -> Code {
    match kind {
        Some(RefusedKind::Denied | RefusedKind::NotSetUp(_) | RefusedKind::Foreign) => Code::Config,
        Some(
            RefusedKind::Unreachable
            | RefusedKind::NotWritable
            | RefusedKind::Credentials
            | RefusedKind::Blocked
            | RefusedKind::Busy,
        )
        | None => Code::Unavailable,
    }
}

fn describe(backend: &BackendName, kind: Option<RefusedKind>) -> String {
    let Some(kind) = kind else { return "did not answer in time".to_owned() };
    let what = match kind {
        RefusedKind::Unreachable => "cannot be reached",
        RefusedKind::NotWritable => "is up and takes no writes (it is a replica, or full)",
        RefusedKind::Credentials => "refuses the agent's credentials",
        RefusedKind::Denied => {
            "is up and gives the agent's user no right to that: grant it there, or take a name \
             that it may lock"
        }
        RefusedKind::Blocked => "is up, and somebody else there keeps that locked; try again",
        RefusedKind::Busy => {
            "answers one question after the other and has enough of yours to answer; nothing was \
             done: try again in a moment"
        }
        RefusedKind::NotSetUp(Unfit::NoDatabase) => {
            return format!(
                "is up and has no such database: create it there, then run `stormlockd setup \
                 {backend}`"
            );
        }
        RefusedKind::NotSetUp(Unfit::NoTable) => {
            return format!(
                "is up and has no table for locks yet: run `stormlockd setup {backend}`, or have \
                 it made as `stormlockd setup {backend} --print` says"
            );
        }
        RefusedKind::NotSetUp(Unfit::OtherTable) => {
            return format!(
                "has a table of another shape under that name: compare it with `stormlockd setup \
                 {backend} --print`, or name another table in the configuration"
            );
        }
        RefusedKind::NotSetUp(Unfit::TwoWays) => {
            "has a side table, and the configuration says side_table = false: remove that line on \
             every host, or the side table"
        }
        RefusedKind::Foreign => "has something under that name that is no lock",
    };
    what.to_owned()
}

fn state(state: &State) -> message::State {
    match state {
        State::Asking => message::State::Asking,
        State::Held => message::State::Held,
        State::AtRisk => message::State::AtRisk,
        State::Unknown => message::State::Unknown,
        State::Releasing | State::Released => message::State::Released,
        State::Lingering => message::State::Lingering,
        State::Lost(loss) => message::State::Lost(lost(loss)),
    }
}

/// Why a lease was lost.
pub(super) fn lost(loss: &Loss) -> LostReason {
    match loss {
        Loss::Expired => LostReason::Expired,
        Loss::TakenBy(who) => LostReason::TakenBy(who.clone()),
        Loss::BrokenBy { who, why } => LostReason::BrokenBy { who: who.clone(), why: why.clone() },
        Loss::StoreLostIt => LostReason::StoreLostIt,
        Loss::Clone => LostReason::Clone,
        Loss::Revoked => LostReason::Revoked,
    }
}

/// The end of a person's hold; they write it in whole seconds.
fn on_the_wall(now: Moment, then: Moment) -> UnixMs {
    let ahead = i64::try_from(millis(now.until(then))).unwrap_or(i64::MAX);
    UnixMs(to_second(clock::wall().0.saturating_add(ahead)))
}

/// The way to the boot clock and back costs a moment: 9:00 would be shown as 8:59.
fn to_second(wall_ms: i64) -> i64 {
    wall_ms.saturating_add(500).div_euclid(1_000).saturating_mul(1_000)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn tame_host(host: String) -> String {
    let mut tamed = Principal::foreign(&host).as_str().to_owned();
    while tamed.len() > HOST_MAX {
        tamed.pop();
    }
    tamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_until_nine_is_shown_as_nine() {
        for (ms, expected) in [(32_399_999, 32_400_000), (32_400_499, 32_400_000), (-1, 0)] {
            assert_eq!(to_second(ms), expected);
        }
        assert_eq!(to_second(i64::MAX), i64::MAX / 1_000 * 1_000);
    }
}
