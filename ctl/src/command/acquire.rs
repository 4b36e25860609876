//! `acquire`: take resources, all or none.

use stormlock_protocol::message::{self, Attach, Code, Lease, Wait};

use super::{each_once, lease_row, proven, scope, told_end};
use crate::args;
use crate::connect::{Link, if_about};
use crate::exit::{Answer, Failure};
use crate::render::json::{Document, LeaseJson, Line};
use crate::render::{Format, View, tsv};

#[derive(serde::Serialize)]
struct Leases<'a> {
    leases: Vec<LeaseJson<'a>>,
}

/// Runs the command.
pub(crate) fn run(args: &args::Acquire, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let doing = check(args)?;
    let ask = message::Acquire {
        resources: args.resources.clone(),
        ttl: args.ttl,
        hold: args.hold.hold(),
        reason: args.reason.clone(),
        attach: Attach::Detached,
        wait: Wait::No,
    };
    let is_ours =
        |leases: &Vec<Lease>| leases.iter().map(|lease| &lease.resource).eq(args.resources.iter());
    let leases = link
        .change(&doing, |client| client.acquire(ask).and_then(|leases| if_about(leases, is_ours)))
        .map_err(|failure| with_next(failure, args.resources.len()))?;
    proven(&doing, &leases)?;
    let talk = leases.iter().map(|lease| told_end(lease, view)).collect();
    Ok(Answer { data: data(&leases, view)?, talk, warnings: scope(&leases, view), exit: None })
}

/// Says what is done, if the arguments make sense together.
fn check(args: &args::Acquire) -> Result<String, Failure> {
    each_once(&args.resources)?;
    let names: Vec<&str> = args.resources.iter().map(|resource| resource.as_str()).collect();
    Ok(format!("acquiring {}", names.join(", ")))
}

fn data(leases: &[Lease], view: &View) -> Result<String, Failure> {
    let as_json = |lease| LeaseJson::new(lease, &view.now);
    match view.format {
        Format::Human | Format::Id => {
            Ok(leases.iter().map(|lease| format!("{}\n", lease.lease)).collect())
        }
        Format::Tsv => Ok(tsv(leases.iter().map(|lease| lease_row(lease, view)))),
        Format::Json => {
            view.document(&Document::new(Leases { leases: leases.iter().map(as_json).collect() }))
        }
        Format::Jsonl => {
            view.documents(leases.iter().map(|lease| Line::Lease(as_json(lease)).document()))
        }
    }
}

/// What to type after a refusal.
fn with_next(failure: Failure, asked: usize) -> Failure {
    let Some(refusal) = failure.refusals.first().filter(|refusal| refusal.code == Code::Held)
    else {
        return failure;
    };
    let about = refusal.resource.as_ref().or(refusal.holder.as_ref().map(|lock| &lock.resource));
    let Some(resource) = about.map(ToString::to_string) else {
        return failure;
    };
    let is_mine = refusal.holder.as_ref().is_some_and(|lock| lock.mine);
    let failure = if asked > 1 { failure.advise("so none was taken") } else { failure };
    if is_mine {
        failure
            .then_type(format!("stormctl renew {resource}"), "keep it longer")
            .then_type(format!("stormctl release {resource}"), "give it back")
    } else {
        failure
            .then_type(format!("stormctl current {resource}"), "who holds it then")
            .then_type(format!("stormctl is-held {resource}"), "exit code 1 when it is free")
    }
}
