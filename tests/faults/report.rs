//! What a run was, in numbers, and what was wrong with it, in the words of those who were told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;

use stormlock_protocol::message::LostReason;
use stormlock_protocol::name::LeaseId;

use crate::check::{self, Wrong};
use crate::history::{Events, Told, What};
use crate::stores::Store;
use crate::trouble::{Met, Trouble};

/// Most breaches that are explained.
const EXPLAINED_MAX: usize = 5;
/// Most lines of a lease's history that are shown.
const SHOWN_MAX: usize = 60;

/// Prints the numbers past the test's capture: they are worth reading when all is well too.
pub(crate) fn print(store: &Store, seed: u64, met: &Met, events: &Events, longest: (u64, &str)) {
    let Events { told, outages, hung_up, blind, .. } = events;
    let mut text = format!("\nfaults on {}: STORMLOCK_SEED={seed}\n", store.name());
    for (trouble, _) in Trouble::ALL {
        let times = met.times.get(&trouble).copied().unwrap_or_default();
        let _ = writeln!(text, "  {times:4} x {trouble:?}");
    }
    for (point, times) in &met.points {
        let _ = writeln!(text, "       {times:4} x {point}");
    }
    let _ = writeln!(text, "  {:<9} {:>7} {:>7}  losses", "part", "seconds", "grants");
    for (part, from, to) in &met.parts {
        let within = |it: &&Told| (*from..*to).contains(&it.answered);
        let grants = told.iter().filter(within);
        let grants = grants.filter(|it| matches!(it.what, What::Granted { .. })).count();
        let mut losses: BTreeMap<&str, usize> = BTreeMap::new();
        for lost in told.iter().filter(within) {
            if let What::EventLost(reason) = &lost.what {
                *losses.entry(name(reason)).or_default() += 1;
            }
        }
        let secs = (to - from) / 1_000_000;
        let _ = writeln!(text, "  {part:<9} {secs:>7} {grants:>7}  {losses:?}");
    }
    let (us, what) = longest;
    let _ = writeln!(text, "  longest wait: {} ms, for {what}", us / 1000);
    let counts = [("answers and events", told.len()), ("outages", outages.len())];
    let told_of = |what: &What| told.iter().filter(|it| it.what == *what).count();
    let more = [
        ("acquires without an answer", hung_up.len()),
        ("starts without a store", blind.len()),
        ("answers that it is not known yet", told_of(&What::Unproven)),
        ("leases found and given back that nobody was told of", found(told)),
        ("leases kept through the calm", check::seen_in_calm(events)),
    ];
    for (what, count) in counts.into_iter().chain(more) {
        let _ = writeln!(text, "  {count} {what}");
    }
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Leases whose asker did not hear of them, because the agent was killed, and found them later.
fn found(told: &[Told]) -> usize {
    let of = |is: fn(&What) -> bool| -> BTreeSet<LeaseId> {
        told.iter().filter(|it| is(&it.what)).map(|it| it.lease).collect()
    };
    let given_back = of(|what| *what == What::Released);
    let granted = of(|what| matches!(what, What::Granted { .. }));
    given_back.difference(&granted).count()
}

fn name(reason: &LostReason) -> &'static str {
    match reason {
        LostReason::Expired => "expired",
        LostReason::TakenBy(_) => "taken_by",
        LostReason::BrokenBy { .. } => "broken_by",
        LostReason::StoreLostIt => "store_lost_it",
        LostReason::Clone => "clone",
        LostReason::Revoked => "revoked",
    }
}

/// The first breaches, each with what was told of the leases in it.
pub(crate) fn explain(wrong: &[Wrong], told: &[Told]) -> String {
    let mut text = String::new();
    for breach in wrong.iter().take(EXPLAINED_MAX) {
        let _ = writeln!(text, "\n{breach:?}");
        for lease in breach.leases() {
            let of_it: Vec<&Told> = told.iter().filter(|it| it.lease == lease).collect();
            for it in of_it.iter().take(SHOWN_MAX) {
                let Told { agent, life, resource, asked, answered, what, .. } = it;
                let _ = writeln!(
                    text,
                    "  {agent}.{life} {resource} {lease} {asked} {answered} {what:?}"
                );
            }
        }
    }
    text
}

impl Wrong {
    fn leases(&self) -> Vec<LeaseId> {
        match self {
            Wrong::TwoBelievers { leases, .. } => leases.to_vec(),
            Wrong::AnotherStood { stood, believed, .. } => vec![*stood, *believed],
            Wrong::FenceFell { lease, .. }
            | Wrong::FenceChanged { lease, .. }
            | Wrong::Revived { lease, .. }
            | Wrong::NobodyWasTold { lease, .. }
            | Wrong::Ends { lease, .. }
            | Wrong::GivenAway { lease, .. }
            | Wrong::RanOut { lease, .. }
            | Wrong::BelievedBeforeRenewed { lease, .. }
            | Wrong::Forgotten { lease, .. }
            | Wrong::Lingers { lease, .. }
            | Wrong::Outstays { lease, .. }
            | Wrong::NotRenewed { lease, .. } => vec![*lease],
        }
    }
}
