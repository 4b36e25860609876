//! `renew`: move the end of a lease.

use std::slice;

use stormlock_protocol::message::{self, Code, Lease, Target};

use super::{lease_row, proven, scope, told_end};
use crate::args;
use crate::connect::{Link, if_about};
use crate::exit::{Answer, Exit, Failure};
use crate::render::json::{Document, LeaseJson, Line};
use crate::render::{Format, View, tsv};

#[derive(serde::Serialize)]
struct One<'a> {
    lease: LeaseJson<'a>,
}

/// Runs the command.
pub(crate) fn run(args: &args::Renew, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let ask = message::Renew {
        target: Target { resource: args.resource.clone(), lease: args.lease },
        ttl: args.ttl,
        hold: args.hold.hold(),
    };
    let doing = format!("renewing {}", args.resource);
    let is_ours = |renewed: &Lease| {
        renewed.resource == args.resource && args.lease.is_none_or(|id| id == renewed.lease)
    };
    let lease = link
        .change(&doing, |client| client.renew(ask).and_then(|lease| if_about(lease, is_ours)))
        .map_err(|failure| ended(failure, args))?;
    proven(&doing, slice::from_ref(&lease))?;
    let as_json = LeaseJson::new(&lease, &view.now);
    let data = match view.format {
        Format::Human => String::new(),
        Format::Id => format!("{}\n", lease.lease),
        Format::Tsv => tsv([lease_row(&lease, view)]),
        Format::Json => view.document(&Document::new(One { lease: as_json }))?,
        Format::Jsonl => view.document(&Line::Lease(as_json).document())?,
    };
    let mut talk = vec![told_end(&lease, view)];
    talk.extend(scope(slice::from_ref(&lease), view));
    Ok(Answer { data, talk, ..Answer::default() })
}

/// Who names a lease had it once: not to hold it any more means that it is lost.
fn ended(mut failure: Failure, args: &args::Renew) -> Failure {
    let code = failure.refusals.first().map(|refusal| refusal.code);
    if code == Some(Code::NotHeld) && args.lease.is_some() {
        failure.exit = Exit::Lost;
    }
    if matches!(code, Some(Code::NotHeld | Code::Lost)) {
        let resource = &args.resource;
        return failure
            .then_type(format!("stormctl current {resource}"), "who holds it now")
            .then_type(format!("stormctl acquire {resource}"), "take it again");
    }
    failure
}
