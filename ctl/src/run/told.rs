//! What is said of a command and of what it runs under. Nothing is decided here.

use stormlock_protocol::message::{Code, Lease, LostReason, Released};
use stormlock_protocol::name::Resource;

use super::Work;
use super::deadline::{Deadline, Why};
use crate::clock::Moment;
use crate::exit::{Exit, Failure};
use crate::time;

/// How many processes are named that go on after the command.
const NAMED_MAX: usize = 5;

/// That a renewal is late, and what comes of it.
pub(crate) fn late(on: &Resource, deadline: &Deadline) -> String {
    let left = time::words(Moment::now().until(deadline.asks_at()).as_secs().max(1));
    format!("{on} has not been renewed for half its ttl; unless it is within {left}, it is lost")
}

pub(crate) fn lost(why: &LostReason) -> String {
    match why {
        LostReason::Expired => "its time ran out".to_owned(),
        LostReason::TakenBy(principal) => format!("{principal} has it"),
        LostReason::BrokenBy { who, why: None } => format!("{who} broke it"),
        LostReason::BrokenBy { who, why: Some(why) } => format!("{who} broke it: {why}"),
        LostReason::StoreLostIt => "the store no longer has it".to_owned(),
        LostReason::Clone => "a copy of this host renewed it".to_owned(),
        LostReason::Revoked => "policy took it away".to_owned(),
    }
}

/// Why the leases may not be counted on any longer.
pub(crate) fn words(why: &Why) -> String {
    match why {
        Why::Lost(told) => told.clone(),
        Why::Unproven(on) => format!("{on} was not renewed in time"),
        Why::HoldOver(on) => format!("the hold on {on} is at its end"),
        Why::LimitOver(on) => {
            format!("the command's own time under {on} is at its end (--for, --until)")
        }
    }
}

/// The same to the user of a command that goes on all the same.
pub(crate) fn warned(why: &Why) -> String {
    let told = format!("{}; the command goes on, as --on-lost warn wants it", words(why));
    match why {
        Why::HoldOver(on) => format!("{told}, and {on} stays locked until it ends"),
        Why::Lost(_) | Why::Unproven(_) | Why::LimitOver(_) => told,
    }
}

/// That something is about to be over.
pub(crate) fn soon(what: &Why) -> String {
    match what {
        Why::HoldOver(on) => format!("the hold on {on} is about to end"),
        Why::LimitOver(on) => format!("the command's own time under {on} is about to end"),
        Why::Lost(_) | Why::Unproven(_) => words(what),
    }
}

/// That something left the group and goes on, under nothing that was taken for it.
pub(crate) fn go_on(pids: &[u32], without: &[&Lease]) -> Option<String> {
    if pids.is_empty() || without.is_empty() {
        return None;
    }
    let named: Vec<String> = pids.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = pids.len() - named.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let (noun, verb) = if pids.len() == 1 { ("process", "goes") } else { ("processes", "go") };
    let without: Vec<&str> = without.iter().map(|lease| lease.resource.as_str()).collect();
    let (named, without) = (named.join(", "), without.join(", "));
    Some(format!("{noun} {named}{more} of the command {verb} on without {without}"))
}

/// That a command was not begun, for no renewal would be heard of.
pub(crate) fn unheard(doing: &str) -> Failure {
    let told = format!(
        "{doing}: the agent has too many sessions, in all or of yours, to tell whether the lease \
         is renewed"
    );
    Failure::new(Exit::TempFail, Code::TooMany.as_str(), told)
        .advise("end some of yours, or try again later")
}

/// That a command was not begun, for its lease ended before.
pub(crate) fn not_begun(work: &Work) -> Failure {
    let told = format!("{} was not run: its time was over before", work.argv[0].display());
    Failure::new(Exit::TempFail, Code::Timeout.as_str(), told)
}

/// What is said of a lease that was not given back, if that is news.
pub(crate) fn not_released(outcome: &Released) -> Option<String> {
    let refusal = outcome.refusal.as_ref()?;
    let on = &outcome.resource;
    match refusal.code {
        // The agent saw the end of the group before we asked.
        Code::NotHeld => None,
        Code::Lost => {
            let why = outcome.lost.as_ref().map(|why| format!(": {}", lost(why)));
            Some(format!("{on} was lost before the command ended{}", why.unwrap_or_default()))
        }
        // A run within this one left its group, and goes on.
        Code::Held => Some(refusal.message.clone()),
        _ => Some(format!("releasing {on}: {}; the agent tries it again", refusal.message)),
    }
}
