//! `release`: give back, and never the wrong thing.

use stormlock_protocol::message::{self, Code, Refusal, Released, Target};

use crate::args;
use crate::connect::{Link, if_about, refused};
use crate::exit::{Answer, Exit, Failure};
use crate::render::failure::told;
use crate::render::json::{Document, Line, ReleasedJson};
use crate::render::{Format, View, or_empty, tsv};

use crate::run::around::{self, is_around};

use super::status::all_leases;
use super::{each_once, words};

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
        return Err(hint(failure(&refused, &done), args, &asked));
    }
    Ok(Answer { data: data(&done, view)?, talk: talk(&done), ..Answer::default() })
}

fn targets(args: &args::Release, link: &mut Link) -> Result<Vec<Target>, Failure> {
    each_once(&args.words)?;
    match (args.words.as_slice(), args.lease) {
        ([resource], Some(lease)) => {
            Ok(vec![Target { resource: resource.clone(), lease: Some(lease) }])
        }
        (_, Some(_)) => Err(Failure::usage("--lease goes with exactly one resource")),
        (words, None) if words::are_ambiguous(words) => {
            words::targets(words, &all_leases(link, "asking what is yours")?.leases)
        }
        (words, None) => words::targets(words, &[]),
    }
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
    let is_elsewhere = worst.code == Code::NotHeld;
    let mut failure = refused(worst, &doing);
    failure.refusals.extend(rest);
    if let ([only], true) = (outcomes, is_elsewhere) {
        let command = format!("stormctl current {}", only.resource);
        failure = failure.then_type(command, "who holds it");
    }
    let done: Vec<&Released> = done.iter().filter(|it| it.refusal.is_none()).copied().collect();
    if done.is_empty() {
        return failure;
    }
    let names = |outcomes: &[&Released]| {
        outcomes.iter().map(|it| it.resource.as_str()).collect::<Vec<_>>().join(", ")
    };
    failure.advise(format!("released: {}; not released: {}", names(&done), names(outcomes)))
}

/// Perhaps two resources were meant, and the second was taken for a lease id.
fn hint(failure: Failure, args: &args::Release, asked: &message::Release) -> Failure {
    match (args.words.as_slice(), asked) {
        ([_, last], message::Release::These(targets)) if targets.len() == 1 => failure.advise(
            format!("{last} was read as a lease id, for you hold no resource of that name"),
        ),
        _ => failure,
    }
}

fn about(outcome: &Released) -> Option<Refusal> {
    let mut refusal = outcome.refusal.clone()?;
    // Whose own command asks for it would end itself by doing what others are advised to.
    if refusal.code == Code::Held
        && let Some(lease) = around::named_on(&outcome.resource)
        && outcome.lease == Some(lease)
    {
        refusal.message =
            format!("{} is not given back under it: {}", outcome.resource, is_around(lease));
    }
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
    let sentences = done.iter().map(|outcome| match about(outcome) {
        None => format!("{} is released", outcome.resource),
        Some(refusal) => told(&refusal),
    });
    sentences.collect()
}
