//! `acquire`: take resources, all or none.

use stormlock_protocol::cause::plain;
use stormlock_protocol::message::{self, Attach, Code, Lease, Lock, Wait};
use stormlock_protocol::process::{Process, Stat, Terminal};

use super::{each_once, lease_row, proven, scope, told_end};
use crate::args;
use crate::connect::{Link, if_about};
use crate::exit::{Answer, Failure};
use crate::render::json::{Document, LeaseJson, Line};
use crate::render::progress::Progress;
use crate::render::{Format, View, tsv};
use crate::run::around;
use crate::run::take::wait_and_take;

#[derive(serde::Serialize)]
struct Leases<'a> {
    leases: Vec<LeaseJson<'a>>,
}

/// Runs the command.
pub(crate) fn run(args: &args::Acquire, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let doing = check(args)?;
    if args.take.wait.wait() != Wait::No {
        around::not_awaited(&args.resources, link)?;
    }
    let ask = message::Acquire {
        resources: args.resources.clone(),
        ttl: args.take.ttl,
        hold: args.take.hold.hold(),
        reason: args.take.reason.clone(),
        attach: attach(args)?,
        wait: args.take.wait.wait(),
        terminal: Terminal::of_this_process().filter(|_| !view.is_quiet),
    };
    let is_ours =
        |leases: &Vec<Lease>| leases.iter().map(|lease| &lease.resource).eq(args.resources.iter());
    let progress = Progress::new(view);
    // Bound to a process it is so from the first: what that process is has to be known before.
    let taken = if ask.wait != Wait::No && ask.attach == Attach::Detached {
        wait_and_take(&ask, &doing, link, &progress)
    } else {
        let waits = |waiting| progress.show(waiting);
        link.change(&doing, |client| {
            client.acquire_waiting(ask, waits).and_then(|leases| if_about(leases, is_ours))
        })
    };
    drop(progress);
    // It may have waited.
    let view = &view.renewed();
    let again = |resource: &str| format!("stormctl acquire {resource} --wait");
    let leases = taken.map_err(|failure| with_next(failure, args.resources.len(), again))?;
    proven(&doing, &leases)?;
    let talk = leases.iter().map(|lease| told_end(lease, view)).collect();
    let (warnings, unwritten) = (scope(&leases, view), leases.iter().map(unwritten).collect());
    Ok(Answer { data: data(&leases, view)?, talk, warnings, unwritten, exit: None })
}

/// Whose end ends what is taken.
fn attach(args: &args::Acquire) -> Result<Attach, Failure> {
    let Some(pid) = args.bind else { return Ok(Attach::Detached) };
    let unfit = |why: &str| {
        Failure::usage(format!("binding the lease to process {pid}: {why}"))
            .advise("--bind takes the number of a running process: $$ is this shell")
    };
    let found = Stat::of(pid).map_err(|error| unfit(&plain(&error.to_string())))?;
    if found.is_dead {
        return Err(unfit("that process has ended"));
    }
    Ok(Attach::Process(Process { pid, started: found.started, group: false }))
}

/// Says what is done, if the arguments make sense together.
fn check(args: &args::Acquire) -> Result<String, Failure> {
    each_once(&args.resources)?;
    let names: Vec<&str> = args.resources.iter().map(|resource| resource.as_str()).collect();
    Ok(format!("acquiring {}", names.join(", ")))
}

/// A lease that nobody was told of would be held by nobody who knows.
fn unwritten(taken: &Lease) -> String {
    let Lease { resource, lease, .. } = taken;
    format!(
        "{resource} is taken, as lease {lease}: `stormctl release {resource} {lease}` gives it back"
    )
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

/// True for what this command runs under: to release it here would end what is around it.
fn is_around(lock: &Lock) -> bool {
    let named = std::env::var(crate::run::LEASES).unwrap_or_default();
    lock.mine && named.split_ascii_whitespace().any(|id| id.parse() == Ok(lock.lease))
}

/// What to type after a refusal: `again` is the same once more, for those who wait.
pub(crate) fn with_next(failure: Failure, asked: usize, again: impl Fn(&str) -> String) -> Failure {
    let is_held = |code| matches!(code, Code::Held | Code::Timeout);
    let Some(refusal) = failure.refusals.first().filter(|refusal| is_held(refusal.code)) else {
        return failure;
    };
    let about = refusal.resource.as_ref().or(refusal.holder.as_ref().map(|lock| &lock.resource));
    let Some(resource) = about.map(ToString::to_string) else {
        return failure;
    };
    let is_mine = refusal.holder.as_ref().is_some_and(|lock| lock.mine);
    let process = refusal.holder.as_ref().and_then(|lock| lock.process);
    if let Some(lock) = refusal.holder.as_ref().filter(|lock| is_around(lock)) {
        let told = around::is_around(lock.lease);
        return failure.advise(told);
    }
    // Who waited in vain needs not be told that one can wait.
    let may_wait = process.is_some_and(|it| it.group) && refusal.code == Code::Held;
    let waits = may_wait.then_some("with --wait you get it when that command has ended");
    let none = (asked > 1).then_some("so none was taken");
    let advice: Vec<&str> = none.into_iter().chain(waits).collect();
    let failure = if advice.is_empty() { failure } else { failure.advise(advice.join("; ")) };
    if let Some(Process { pid, group: true, .. }) = process {
        // The agent would not release it: that command counts on it.
        failure.then_type(format!("kill -TERM -- -{pid}"), "end the command that it is held for")
    } else if is_mine {
        failure
            .then_type(format!("stormctl renew {resource}"), "keep it longer")
            .then_type(format!("stormctl release {resource}"), "give it back")
    } else {
        failure
            .then_type(format!("stormctl current {resource}"), "who holds it then")
            .then_type(again(&resource), "wait for your turn")
    }
}
