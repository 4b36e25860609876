//! The verbs, one file each, and what they share: how a lease is told.

pub(crate) mod acquire;
pub(crate) mod breaking;
pub(crate) mod completions;
pub(crate) mod current;
pub(crate) mod doctor;
pub(crate) mod hold;
pub(crate) mod init;
pub(crate) mod is_held;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod release;
pub(crate) mod renew;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod version;
pub(crate) mod wait;
pub(crate) mod watch;
mod words;

use std::collections::HashSet;

use stormlock_protocol::message::{Code, Hold, Lease, State};
use stormlock_protocol::name::Resource;

use crate::exit::{Exit, Failure};
use crate::render::{Format, View, or_empty};
use crate::time;

/// Refuses a resource that is named twice: more likely a slip than a wish.
fn each_once(resources: &[Resource]) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    match resources.iter().find(|resource| !seen.insert(*resource)) {
        Some(twice) => Err(Failure::usage(format!("{twice} is named twice"))),
        None => Ok(()),
    }
}

/// A lease as a row of `-o tsv`.
fn lease_row(lease: &Lease, view: &View) -> [String; 10] {
    [
        lease.resource.to_string(),
        lease.lease.to_string(),
        or_empty(lease.fence),
        crate::render::json::state_word(&lease.state).to_owned(),
        lease.backend.clone(),
        lease.this_host_only.to_string(),
        or_empty(time::rfc3339(time::end(lease.left_ms, &view.now))),
        (lease.left_ms / 1_000).to_string(),
        lease.principal.to_string(),
        or_empty(lease.reason.as_ref()),
    ]
}

/// Until when a lease that was just taken or renewed lasts, in a sentence.
fn told_end(lease: &Lease, view: &View) -> String {
    let left_secs = lease.left_ms / 1_000;
    let deadline = time::clock(time::end(lease.left_ms, &view.now), &view.now);
    let resource = &lease.resource;
    match lease.hold {
        Hold::No | Hold::Usual => format!(
            "{resource} is yours until {deadline} ({}), not renewed",
            time::words(left_secs)
        ),
        Hold::Keep => format!("{resource} is yours and renewed until you release it"),
        Hold::For(secs) => {
            let end = time::end(u64::from(secs) * 1_000, &view.now);
            format!("{resource} is yours until {}, renewed till then", time::clock(end, &view.now))
        }
        Hold::Until(at) => {
            format!("{resource} is yours until {}, renewed till then", time::clock(at, &view.now))
        }
    }
}

/// Refuses leases that ended while the answer was on its way: what is printed is held.
pub(crate) fn proven(doing: &str, leases: &[Lease]) -> Result<(), Failure> {
    let is_over =
        |lease: &&Lease| lease.left_ms == 0 || !matches!(lease.state, State::Held | State::AtRisk);
    match leases.iter().find(is_over) {
        Some(lease) => {
            let told = format!("{doing}: the lease on {} has ended already", lease.resource);
            Err(Failure::new(Exit::Lost, Code::Lost.as_str(), told)
                .advise("a longer --ttl leaves more time"))
        }
        None => Ok(()),
    }
}

/// What people are told of leases that count on this host only. Machines read `this_host_only`,
/// and with `-q` nobody wants to be told.
fn scope(leases: &[Lease], view: &View) -> Vec<String> {
    let is_for_people = !view.is_quiet && view.format == Format::Human;
    let local: Vec<&Lease> = leases.iter().filter(|lease| lease.this_host_only).collect();
    match local.first() {
        Some(first) if is_for_people => {
            let names: Vec<String> = local.iter().map(|lease| lease.resource.to_string()).collect();
            vec![told_scope(&names, &first.backend)]
        }
        _ => Vec::new(),
    }
}

/// The name of a backend in a table, with a mark if other hosts do not share it: short, so that it
/// is never cut away.
fn marked(backend: &str, this_host_only: bool) -> String {
    if this_host_only { format!("{backend}*") } else { backend.to_owned() }
}

/// What the mark of [`marked`] means, below a table that has one.
fn footnote(has_mark: bool) -> &'static str {
    if has_mark { "* this host only\n" } else { "" }
}

/// The warning that belongs to a lock which other hosts do not see.
pub(crate) fn told_scope(resources: &[String], backend: &str) -> String {
    let verb = if resources.len() == 1 { "counts" } else { "count" };
    format!(
        "{} {verb} on this host only: backend {backend} is shared with no other host",
        resources.join(", ")
    )
}
