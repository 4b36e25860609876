//! `release`: give back, and never the wrong thing.

use stormlock_protocol::message::{self, Code, Lease, Refusal, Released, Target};
use stormlock_protocol::name::{LeaseId, Resource};

use crate::args;
use crate::connect::{Link, if_about, refused};
use crate::exit::{Answer, Exit, Failure};
use crate::render::json::{Document, Line, ReleasedJson};
use crate::render::{Format, View, or_empty, tsv};

use super::each_once;
use super::status::all_leases;

/// Digits of a lease id that is certainly meant as one; shorter hex may well be a resource (`db1`).
const WIDE_ID_DIGITS: usize = 32;

#[derive(serde::Serialize)]
struct Outcomes<'a> {
    released: Vec<ReleasedJson<'a>>,
}

/// Runs the command.
pub(crate) fn run(args: &args::Release, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let (ask, doing) = if args.all {
        (message::Release::All, "releasing all".to_owned())
    } else {
        let targets = targets(args, link)?;
        let names: Vec<&str> = targets.iter().map(|target| target.resource.as_str()).collect();
        let doing = format!("releasing {}", names.join(", "));
        (message::Release::These(targets), doing)
    };
    let asked = ask.clone();
    let is_whole = |outcomes: &Vec<Released>| match &asked {
        message::Release::All => true,
        message::Release::These(targets) => {
            let covers = |t: &Target| outcomes.iter().any(|o| o.resource == t.resource);
            outcomes.len() == targets.len() && targets.iter().all(covers)
        }
    };
    let outcomes = link.change(&doing, |client| {
        client.release(ask).and_then(|outcomes| if_about(outcomes, is_whole))
    })?;
    let (refused, done): (Vec<&Released>, Vec<&Released>) =
        outcomes.iter().partition(|outcome| counts_as_failure(outcome, args));
    if !refused.is_empty() {
        return Err(hint(failure(&refused, &done), args));
    }
    Ok(Answer { data: data(&done, view)?, talk: talk(&done), ..Answer::default() })
}

fn targets(args: &args::Release, link: &mut Link) -> Result<Vec<Target>, Failure> {
    let own = |resource: &Resource| Target { resource: resource.clone(), lease: None };
    let exactly = |resource: &Resource, lease| {
        vec![Target { resource: resource.clone(), lease: Some(lease) }]
    };
    each_once(&args.words)?;
    match (args.words.as_slice(), args.lease) {
        ([resource], Some(lease)) => Ok(exactly(resource, lease)),
        (_, Some(_)) => Err(Failure::usage("--lease goes with exactly one resource")),
        ([resource, last], None) => match last.as_str().parse::<LeaseId>() {
            Ok(lease) if !is_held_by_caller(last, resource, lease, link)? => {
                Ok(exactly(resource, lease))
            }
            _ => Ok(vec![own(resource), own(last)]),
        },
        (words, None) => match words.last() {
            Some(last) if words.len() > 2 && is_wide_id(last) => Err(Failure::usage(format!(
                "{last} looks like a lease id, which goes with exactly one resource"
            ))
            .advise("release them one by one, or put a resource of that name first")),
            _ => Ok(words.iter().map(own).collect()),
        },
    }
}

/// Whether the last of two words is a resource that the caller holds, so that it is not a lease id.
/// A word that is both cannot be released by guessing.
fn is_held_by_caller(
    word: &Resource,
    resource: &Resource,
    lease: LeaseId,
    link: &mut Link,
) -> Result<bool, Failure> {
    let mine: Vec<Lease> = all_leases(link, "asking what is yours")?.leases;
    let is_resource = mine.iter().any(|held| held.resource == *word);
    let is_lease = mine.iter().any(|held| held.resource == *resource && held.lease == lease);
    if is_resource && is_lease {
        return Err(Failure::usage(format!(
            "{word} is a resource that you hold and also the lease id of {resource}"
        ))
        .advise("say which: `--lease ID` for the lease, one command per resource else"));
    }
    Ok(is_resource)
}

fn is_wide_id(word: &Resource) -> bool {
    word.as_str().len() >= WIDE_ID_DIGITS && word.as_str().parse::<LeaseId>().is_ok()
}

/// With `--if-held`, what is not held any more is as good as given back.
fn counts_as_failure(outcome: &Released, args: &args::Release) -> bool {
    match &outcome.refusal {
        None => false,
        Some(refusal) => !(args.if_held && matches!(refusal.code, Code::NotHeld | Code::Lost)),
    }
}

/// The most telling of several refusals decides the exit code: anything beats "not held".
fn failure(outcomes: &[&Released], done: &[&Released]) -> Failure {
    let mut refusals: Vec<Refusal> = outcomes.iter().filter_map(|o| about(o)).collect();
    refusals.sort_by_key(|refusal| std::cmp::Reverse(Exit::of(refusal.code)));
    let mut rest = refusals.into_iter();
    let Some(worst) = rest.next() else {
        // Only refused outcomes come here, and each has its refusal.
        return Failure::new(Exit::Software, Code::Internal.as_str(), "a refusal without a reason");
    };
    let doing = match &worst.resource {
        Some(resource) => format!("releasing {resource}"),
        None => "releasing".to_owned(),
    };
    let mut failure = refused(worst, &doing);
    failure.refusals.extend(rest);
    let done: Vec<&str> = done.iter().map(|outcome| outcome.resource.as_str()).collect();
    if done.is_empty() { failure } else { failure.advise(format!("released: {}", done.join(", "))) }
}

/// Two resources of which the second was taken for a lease id.
fn hint(failure: Failure, args: &args::Release) -> Failure {
    match args.words.as_slice() {
        [_, last] if failure.exit == Exit::No && last.as_str().parse::<LeaseId>().is_ok() => {
            failure.advise(format!(
                "{last} was read as a lease id, for you hold no resource of that name"
            ))
        }
        _ => failure,
    }
}

fn about(outcome: &Released) -> Option<Refusal> {
    let refusal = outcome.refusal.clone()?;
    Some(Refusal { resource: Some(outcome.resource.clone()), ..refusal })
}

fn data(done: &[&Released], view: &View) -> Result<String, Failure> {
    let released = done.iter().filter(|outcome| outcome.refusal.is_none());
    match view.format {
        Format::Human => Ok(String::new()),
        Format::Id => {
            Ok(released.filter_map(|outcome| outcome.lease).map(|id| format!("{id}\n")).collect())
        }
        Format::Tsv => {
            Ok(tsv(released.map(|outcome| [outcome.resource.to_string(), or_empty(outcome.lease)])))
        }
        Format::Json => {
            let released = done.iter().map(|outcome| ReleasedJson::new(outcome)).collect();
            view.document(&Document::new(Outcomes { released }))
        }
        Format::Jsonl => view.documents(
            done.iter().map(|outcome| Line::Released(ReleasedJson::new(outcome)).document()),
        ),
    }
}

fn talk(done: &[&Released]) -> Vec<String> {
    if done.is_empty() {
        return vec!["nothing was held".to_owned()];
    }
    let told = done.iter().map(|outcome| match &outcome.refusal {
        None => format!("{} is released", outcome.resource),
        Some(refusal) => format!("{}: {}", outcome.resource, refusal.message),
    });
    told.collect()
}
