//! The `run` around this process, if there is one: what that holds is shared with it, and never
//! waited for.

use std::path::Path;
use std::time::Duration;

use stormlock_protocol::message::{Code, Lease, State};
use stormlock_protocol::name::{LeaseId, Resource};

use super::Answered;
use super::take::{LOOK_EVERY, RETURN_MAX, again, as_they_are, is_away, leases, may_pass, pause};
use crate::clock::Moment;
use crate::connect::{Link, connect, explain_question};
use crate::exit::{Exit, Failure};

/// What is being done, for whoever reads that it failed.
const DOING: &str = "asking for the leases of the run around this one";

/// The leases that this process was started under by another `run`, as its environment says and the
/// agent confirms. One that restarts, or has no session to spare, is asked again for a while: that
/// it says nothing is no sign that there are none.
pub(crate) fn inherited(link: &mut Link) -> Result<Answered, Failure> {
    let named = named();
    let until = Moment::now() + RETURN_MAX;
    loop {
        let asked = Moment::now();
        if named.is_empty() {
            return Ok(Answered { leases: Vec::new(), asked });
        }
        match leases(&mut link.client) {
            Ok(all) => {
                let is_named = |lease: &&Lease| {
                    named.iter().any(|(on, id)| *on == lease.resource && *id == lease.lease)
                };
                let mine = || all.iter().filter(is_named);
                // An agent that restarted just now proves them anew.
                let unproven = mine().find(|lease| lease.state == State::Unknown);
                match unproven {
                    None => {
                        let is_held =
                            |lease: &&Lease| matches!(lease.state, State::Held | State::AtRisk);
                        let leases = mine().filter(is_held).cloned().collect();
                        return Ok(Answered { leases, asked });
                    }
                    Some(lease) if asked >= until => return Err(not_proven(&lease.resource)),
                    Some(_) => pause(LOOK_EVERY),
                }
            }
            Err(error) if (may_pass(&error) || is_away(&error)) && asked < until => {
                pause(LOOK_EVERY);
                if let Ok(client) = connect(&link.socket, link.patience) {
                    link.client = client;
                }
            }
            Err(error) => return Err(explain_question(error, DOING)),
        }
    }
}

/// The same leases as they are by now.
pub(crate) fn still(
    known: &Answered,
    socket: &Path,
    patience: Duration,
) -> Result<Answered, Failure> {
    let ask = |client: &mut _| as_they_are(client, &known.leases);
    match again(socket, patience, RETURN_MAX, ask) {
        Ok((leases, asked)) => Ok(Answered { leases, asked }),
        Err(error) => Err(explain_question(error, DOING)),
    }
}

/// Refuses to wait for what is held around this process: it would wait for its own end.
pub(crate) fn not_awaited(resources: &[Resource], link: &mut Link) -> Result<(), Failure> {
    let around = inherited(link)?.leases;
    match around.iter().find(|lease| resources.contains(&lease.resource)) {
        None => Ok(()),
        Some(lease) => {
            let told = format!("{} would be waited for without end", lease.resource);
            Err(Failure::new(Exit::TempFail, Code::Held.as_str(), told)
                .advise(is_around(lease.lease)))
        }
    }
}

/// What is said of a lease that this process runs under.
pub(crate) fn is_around(lease: LeaseId) -> String {
    format!(
        "the `stormctl run` around this command holds it (STORMLOCK_LEASES names lease {lease}) \
         and gives it back at its end: what runs here is under it already"
    )
}

/// The lease on a resource that the environment names.
pub(crate) fn named_on(on: &Resource) -> Option<LeaseId> {
    named().into_iter().find(|(resource, _)| resource == on).map(|(_, lease)| lease)
}

fn named() -> Vec<(Resource, LeaseId)> {
    let words = |name| std::env::var(name).unwrap_or_default();
    let (resources, ids) = (words(super::RESOURCES), words(super::LEASES));
    resources
        .split_ascii_whitespace()
        .zip(ids.split_ascii_whitespace())
        .filter_map(|(resource, id)| Some((Resource::new(resource).ok()?, id.parse().ok()?)))
        .collect()
}

fn not_proven(on: &Resource) -> Failure {
    let told = format!(
        "the lease on {on}, which the run around this one holds, is not proven again since the \
         agent restarted"
    );
    Failure::new(Exit::Unavailable, Code::Unavailable.as_str(), told)
        .advise("what keeps the agent from it: `stormctl doctor`")
}
