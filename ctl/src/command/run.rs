//! `run`: hold resources while a command runs; the command never outlives them.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use stormlock_protocol::cause::plain;
use stormlock_protocol::message::{self, Code, Hold, Lease};
use stormlock_protocol::name::{Resource, Ttl};

use super::{each_once, proven, scope};
use crate::args::{self, OnLost};
use crate::clock::Moment;
use crate::connect::Link;
use crate::exit::{Exit, Failure};
use crate::notify;
use crate::render::{View, failure, say, voice};
use crate::run::around::{inherited, still};
use crate::run::deadline::{TTL_MIN, fits_hold, grace_max, grace_of_hold, usual_grace};
use crate::run::take::{Taken, never_began, take, to_this_process};
use crate::run::{self, Answered, Under, Work};
use crate::time;

/// What a command is given between the two signals, where the ttl leaves room for so much.
const GRACE: Duration = Duration::from_secs(30);
/// The shortest hold that leaves a command a second to end in and as much for its work.
const HOLD_MIN: Duration = Duration::from_secs(4);
/// What a hold has lost of its length by the time that it is looked at, at most: that is no news.
const ROUNDING: Duration = Duration::from_secs(1);
/// The shell of a line, and of people without one of their own.
const SHELL: &str = "/bin/sh";

/// Runs the command and says with what code.
pub(crate) fn run(
    args: &args::Run,
    open: impl FnOnce() -> Result<Link, Failure>,
    view: &View,
) -> Result<u8, Failure> {
    voice::of_its_own().map_err(|error| untold(&error))?;
    match prepare(args, open, view).and_then(|(work, under)| {
        if args.exec { run::guardian::exec(&work, &under) } else { run::run(&work, under) }
    }) {
        // Not begun, and its guardian has said why.
        Ok(code) if args.exec && code == Exit::TempFail.code() => {
            Ok(args.conflict_exit_code.unwrap_or(code))
        }
        Ok(code) => Ok(code),
        Err(failed) => match args.conflict_exit_code {
            Some(code) if failed.exit == Exit::TempFail => {
                failure::failure(&failed, &view.renewed());
                Ok(code)
            }
            _ => Err(failed),
        },
    }
}

/// Without its own thread a word could hold up the deadline.
pub(crate) fn untold(error: &io::Error) -> Failure {
    let told = plain(&format!("starting a thread: {error}"));
    Failure::new(Exit::Software, Code::Internal.as_str(), told)
}

fn prepare(
    args: &args::Run,
    open: impl FnOnce() -> Result<Link, Failure>,
    view: &View,
) -> Result<(Work, Under), Failure> {
    each_once(&args.resources)?;
    has_its_dashes(args)?;
    if let Some(ttl) = args.take.ttl {
        grace(args, ttl)?;
    }
    check_hold(args)?;
    let attach = to_this_process()?;
    let mut link = open()?;
    let socket = std::path::absolute(&link.socket).unwrap_or_else(|_| link.socket.clone());
    link.socket = socket.clone();
    let mut known = inherited(&mut link)?;
    let is_known = |on: &&_| known.leases.iter().any(|lease| lease.resource == **on);
    let resources: Vec<_> = args.resources.iter().filter(|on| !is_known(on)).cloned().collect();
    let taken = if resources.is_empty() {
        Taken { leases: Vec::new(), asked: known.asked, socket }
    } else {
        let patience = link.patience;
        let hold = match args.take.hold.hold() {
            Hold::Usual => Hold::Keep,
            said => said,
        };
        let (ttl, reason) = (args.take.ttl, args.take.reason.clone());
        let wait = args.take.wait.wait();
        // It says itself what happens.
        let terminal = None;
        let ask = message::Acquire { resources, ttl, hold, reason, attach, wait, terminal };
        // Systemd waits for the command, which this becomes.
        let extends = args.exec.then(|| notify::extend_while_waiting(&names(args)));
        let taken = take(&ask, link, view)?;
        drop(extends);
        if !known.leases.is_empty() {
            // It may have waited for longer than these were proven for.
            known = still(&known, &socket, patience)?;
        }
        taken
    };
    scope(&taken.leases, view).iter().for_each(|told| say(told));
    let under = under(args, taken, &known);
    inapplicable(args, &under.shared.leases).iter().for_each(|told| say(told));
    proven("sharing what the run around this one holds", &under.shared.leases)
        .map_err(never_began)?;
    let mut ttls = under.kept().map(|(lease, _)| lease.ttl);
    let shortest = ttls.next().map(|first| ttls.fold(first, Ttl::min));
    let grace = shortest.map_or(Ok(GRACE), |ttl| grace(args, ttl))?;
    let grace = within_hold(args, grace, &under)?;
    let argv = argv(args);
    if args.command.is_empty() && args.line.is_none() && !view.is_quiet {
        say(&format!("{} is yours until you leave this shell", names(args)));
    }
    Ok((Work { argv, grace, on_lost: args.on_lost.signal() }, under))
}

fn names(args: &args::Run) -> String {
    let names: Vec<&str> = args.resources.iter().map(|on| on.as_str()).collect();
    names.join(", ")
}

/// A command without the dashes before it would be taken for resources, and a shell run under them.
/// Whoever means that says so.
fn has_its_dashes(args: &args::Run) -> Result<(), Failure> {
    if args.line.is_some() || !args.command.is_empty() {
        return Ok(());
    }
    let words: Vec<&str> = args.resources.iter().map(|on| on.as_str()).collect();
    let Some(at) = (1..words.len()).find(|at| is_program(words[*at])) else { return Ok(()) };
    let (resources, command) = (words[..at].join(" "), words[at..].join(" "));
    let told = format!("{} is a program, and stands here as a resource", words[at]);
    Err(Failure::usage(told)
        .advise("put -- before the command, and all options before that")
        .then_type(format!("stormctl run {resources} -- {command}"), "run it")
        .then_type(
            format!("stormctl run {} -- \"$SHELL\"", words.join(" ")),
            "a shell under all of them",
        ))
}

/// True for what a shell would run by that name.
fn is_program(word: &str) -> bool {
    const SOMEBODY_RUNS: u32 = 0o111;
    let runs = |path: &Path| {
        path.metadata().is_ok_and(|it| it.is_file() && it.mode() & SOMEBODY_RUNS != 0)
    };
    if word.contains('/') {
        return runs(Path::new(word));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.is_absolute() && runs(&dir.join(word)))
}

/// What is told to the command first is what it was asked to run under, in that order; then what it
/// was started under already.
fn under(args: &args::Run, taken: Taken, known: &Answered) -> Under {
    let Taken { leases: own, asked, socket } = taken;
    let is_asked = |lease: &&Lease| args.resources.contains(&lease.resource);
    let shared: Vec<Lease> = known.leases.iter().filter(is_asked).cloned().collect();
    let mut told: Vec<Lease> = own.iter().chain(&shared).cloned().collect();
    let place = |lease: &Lease| args.resources.iter().position(|on| *on == lease.resource);
    told.sort_by_key(place);
    told.extend(known.leases.iter().filter(|lease| !is_asked(lease)).cloned());
    let own = Answered { leases: own, asked };
    let shared = Answered { leases: shared, asked: known.asked };
    let limit = length(&args.take).map_or(Moment::NEVER, |(_, length)| Moment::now() + length);
    Under { own, shared, limit, told, socket }
}

/// That some of what was asked for is the business of the run around this one.
fn inapplicable(args: &args::Run, shared: &[Lease]) -> Option<String> {
    let options = [("--ttl", args.take.ttl.is_some()), ("-m", args.take.reason.is_some())];
    let said: Vec<&str> = options.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
    if said.is_empty() || shared.is_empty() {
        return None;
    }
    let names: Vec<&str> = shared.iter().map(|lease| lease.resource.as_str()).collect();
    let verb = if said.len() == 1 { "does" } else { "do" };
    let (names, said) = (names.join(", "), said.join(" and "));
    Some(format!("{said} {verb} not apply to {names}, which the run around this one holds"))
}

/// From the first signal to the last. What was asked for and does not fit is refused: the lease
/// would have to be given up again and again.
fn grace(args: &args::Run, ttl: Ttl) -> Result<Duration, Failure> {
    let length = Duration::from_secs(ttl.as_secs().into());
    if length < TTL_MIN {
        let min = time::exact(TTL_MIN.as_secs());
        let told = format!("a ttl of {} is too short to run under", time::exact(length.as_secs()));
        return Err(Failure::usage(told).advise(format!("--ttl {min} is the shortest")));
    }
    let Some(asked) = args.kill_after else { return Ok(usual_grace(GRACE, length)) };
    fits_ttl("--kill-after", asked, length).map(|()| asked)
}

/// A time to end in that was asked for fits into a ttl, or is refused.
pub(super) fn fits_ttl(flag: &str, asked: Duration, ttl: Duration) -> Result<(), Failure> {
    if asked <= grace_max(ttl) {
        return Ok(());
    }
    let (asked, ttl) = (asked.as_secs(), ttl.as_secs());
    let told = format!(
        "{flag} {} does not fit into a ttl of {}, of which it may be a third",
        time::exact(asked),
        time::exact(ttl)
    );
    Err(Failure::usage(told).advise(format!(
        "say --ttl {} or a longer one, or a shorter {flag}",
        time::exact(asked * 3)
    )))
}

/// What was asked for of a hold's length, and by which option.
pub(super) fn length(args: &args::Take) -> Option<(&'static str, Duration)> {
    match (args.hold.for_secs, args.hold.until) {
        (Some(secs), _) => Some(("--for", Duration::from_secs(secs.into()))),
        (None, Some(at)) => {
            let left = at.0.saturating_sub(time::now().timestamp().as_millisecond());
            Some(("--until", Duration::from_millis(u64::try_from(left).unwrap_or(0))))
        }
        (None, None) => None,
    }
}

/// A hold that was asked for leaves the command time for its work, or nothing is taken.
fn check_hold(args: &args::Run) -> Result<(), Failure> {
    let Some((flag, length)) = length(&args.take) else { return Ok(()) };
    let told = time::exact(length.as_secs());
    if length < HOLD_MIN {
        let min = time::exact(HOLD_MIN.as_secs());
        return Err(Failure::usage(format!("a hold of {told} is too short to run under"))
            .advise(format!("{flag} has to leave {min} at least")));
    }
    let Some(asked) = args.kill_after.filter(|asked| !fits_hold(*asked, length)) else {
        return Ok(());
    };
    let (asked, fits) = (asked.as_secs(), grace_of_hold(length).as_secs());
    let told = format!(
        "--kill-after {} does not fit into a hold of {told} ({flag}): the command would be asked \
         to end as soon as it runs",
        time::exact(asked)
    );
    let advice = format!("say --kill-after {} or less, or a longer {flag}", time::exact(fits));
    Err(Failure::usage(told).advise(advice))
}

/// What is left of the hold by now may be less than was asked for, after a wait, or of a `run`
/// around this one: the command is given less time to end then, and none to run in vain.
fn within_hold(args: &args::Run, grace: Duration, under: &Under) -> Result<Duration, Failure> {
    let ends = under.kept().map(|(lease, kept)| {
        let proven = if lease.hold == Hold::No { kept.until.proven } else { Moment::NEVER };
        (kept.time_over().min(proven), &lease.resource)
    });
    let Some((end, on)) = ends.min_by_key(|(end, _)| *end) else { return Ok(grace) };
    let left = Moment::now().until(end);
    let fits = grace_of_hold(left);
    let Some(asked) = args.kill_after else {
        return match fits.is_zero() {
            false => Ok(grace.min(fits)),
            true => Err(no_time(on)),
        };
    };
    if fits_hold(asked, left + ROUNDING) {
        return Ok(grace);
    }
    if fits.is_zero() {
        return Err(no_time(on));
    }
    let fits = Duration::from_secs(fits.as_secs().max(1));
    say(&format!(
        "the hold on {on} ends in {}: the command has {} to end, not --kill-after {}",
        time::words(left.as_secs()),
        time::words(fits.as_secs()),
        time::exact(asked.as_secs())
    ));
    Ok(fits)
}

fn no_time(on: &Resource) -> Failure {
    let told = format!("the hold on {on} is about to end: nothing is run under it any more");
    Failure::new(Exit::TempFail, Code::Timeout.as_str(), told)
        .advise("a longer hold leaves more time")
}

fn argv(args: &args::Run) -> Vec<OsString> {
    if let Some(line) = &args.line {
        return vec![SHELL.into(), "-c".into(), line.clone()];
    }
    if args.command.is_empty() {
        let own = env::var_os("SHELL").filter(|shell| !shell.is_empty());
        return vec![own.unwrap_or_else(|| SHELL.into())];
    }
    args.command.clone()
}

impl OnLost {
    fn signal(self) -> Option<rustix::process::Signal> {
        use rustix::process::Signal;
        match self {
            OnLost::Term => Some(Signal::TERM),
            OnLost::Int => Some(Signal::INT),
            OnLost::Hup => Some(Signal::HUP),
            OnLost::Warn => None,
        }
    }
}
