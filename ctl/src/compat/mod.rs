//! `stormlock`: the Python tool's command line, with its formats and exit codes, served by the
//! agent.
//!
//! What differs on purpose: the holder of a refused acquire is told on stderr, where the original
//! prints it as if it were the lease that was asked for; and releasing a lease that is held and not
//! the caller's to release fails instead of looking like success.

mod args;
mod config;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use stormlock_protocol::cause::plain;
use stormlock_protocol::message::{
    Acquire, Attach, Code, Hold, IsHeld, Lease, Release, Released, Renew, Target, Wait,
};
use stormlock_protocol::name::{LeaseId, Resource, Ttl};
use stormlock_protocol::process::Terminal;

use self::args::{Asked, Call, Verb};
use crate::command::{current, told_scope};
use crate::connect::{Link, PATIENCE, if_about};
use crate::exit::Failure;
use crate::render::text::visible;
use crate::render::{Colour, Format, View};
use crate::time;

/// The name that makes the client the Python tool.
const NAME: &str = "stormlock";

/// The Python tool's exit codes. Held and usage are both 2 there.
const OK: u8 = 0;
const NO_OR_FAILED: u8 = 1;
const HELD: u8 = 2;
const USAGE: u8 = 2;
const EXPIRED: u8 = 3;

/// Whether the process was called by the Python tool's name.
pub(crate) fn is_called(program: Option<&OsString>) -> bool {
    program.and_then(|path| Path::new(path).file_name()).is_some_and(|name| name == NAME)
}

/// Runs one command line and says what the process returns.
pub(crate) fn run(argv: Vec<OsString>) -> u8 {
    let words = argv.into_iter().skip(1).map(|word| word.to_string_lossy().into_owned());
    match args::parse(&words.collect::<Vec<_>>()) {
        Ok(Asked::Help(text)) => print(&text, OK),
        Ok(Asked::Call(call)) => serve(&call).unwrap_or_else(|end| end),
        Err(usage) => {
            let _ = io::stderr().write_all(usage.as_bytes());
            USAGE
        }
    }
}

/// `Err` is an exit code as well: that of a command which ended before its answer.
fn serve(call: &Call) -> Result<u8, u8> {
    let resource = Resource::new(call.resource.as_str())
        .map_err(|error| fail(&format!("resource {:?}: {error}", call.resource)))?;
    let lease = lease(&call.lease)?;
    match call.verb {
        Verb::Acquire => acquire(resource, ttl(call)?),
        Verb::Renew => renew(resource, lease, ttl(call)?),
        Verb::Release => release(resource, lease),
        Verb::Current => show(&resource, call),
        Verb::IsHeld => is_held(resource, lease),
    }
}

/// The lease that is meant; none for hex digits that no lease can have, and for nothing at all,
/// which there is the id of no lease either. A word that is no hex was never printed by an acquire:
/// it fails in every verb.
fn lease(word: &str) -> Result<Option<LeaseId>, u8> {
    match word.parse() {
        Ok(lease) => Ok(Some(lease)),
        Err(_) if word.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(None),
        Err(error) => Err(fail(&format!("lease id {word:?}: {error}"))),
    }
}

/// As there, the file's ttl is also that of a renewal, and an option wins over it.
fn ttl(call: &Call) -> Result<Option<Ttl>, u8> {
    let in_file =
        config::ttl_secs(call.config.as_deref(), &call.resource).map_err(|e| fail(&plain(&e)))?;
    let secs = call.ttl_secs.or(in_file);
    secs.map(Ttl::from_secs).transpose().map_err(|error| fail(&format!("ttl: {error}")))
}

fn acquire(resource: Resource, ttl: Option<Ttl>) -> Result<u8, u8> {
    let doing = format!("acquiring {resource}");
    let wanted = [resource.clone()];
    let resources = vec![resource];
    let (hold, attach) = (Hold::No, Attach::Detached);
    let (reason, wait, terminal) = (None, Wait::No, Terminal::of_this_process());
    let ask = Acquire { resources, ttl, hold, reason, attach, wait, terminal };
    let is_ours =
        |leases: &Vec<Lease>| leases.iter().map(|lease| &lease.resource).eq(wanted.iter());
    let taken = open()?
        .change(&doing, |client| client.acquire(ask).and_then(|leases| if_about(leases, is_ours)));
    match taken {
        Ok(leases) => {
            let local = leases.iter().find(|lease| lease.this_host_only);
            local.iter().for_each(|l| say(&told_scope(&[l.resource.to_string()], &l.backend)));
            let ids: String = leases.iter().map(|lease| format!("{}\n", lease.lease)).collect();
            Ok(print(&ids, OK))
        }
        Err(failure) if refused_with(&failure, &[Code::Held]) => {
            let holder = failure.refusals.first().and_then(|refusal| refusal.holder.as_ref());
            let second = match holder {
                Some(lock) => lock.lease.to_string(),
                None => "Held lock not found, try again?".to_owned(),
            };
            tell(&format!("Lock held\n{second}"));
            Ok(HELD)
        }
        Err(failure) => Err(failed(&failure)),
    }
}

fn renew(resource: Resource, lease: Option<LeaseId>, ttl: Option<Ttl>) -> Result<u8, u8> {
    let expired = || {
        tell("Lock expired");
        EXPIRED
    };
    let Some(lease) = lease else {
        // No lease has such an id.
        return Ok(expired());
    };
    let doing = format!("renewing {resource}");
    let ask = Renew { target: Target { resource, lease: Some(lease) }, ttl, hold: None };
    let is_ours = |renewed: &Lease| renewed.lease == lease;
    let renewed = open()?
        .change(&doing, |client| client.renew(ask).and_then(|lease| if_about(lease, is_ours)));
    match renewed {
        Ok(_) => Ok(OK),
        Err(failure) if refused_with(&failure, &[Code::NotHeld, Code::Lost]) => Ok(expired()),
        Err(failure) => Err(failed(&failure)),
    }
}

/// Releasing what is not held is success there, with whatever id.
fn release(resource: Resource, lease: Option<LeaseId>) -> Result<u8, u8> {
    let Some(lease) = lease else {
        return Ok(OK);
    };
    let doing = format!("releasing {resource}");
    let ask = Release::These(vec![Target { resource, lease: Some(lease) }]);
    let gone = [Code::NotHeld, Code::Lost];
    let is_one = |outcomes: &Vec<Released>| outcomes.len() == 1;
    let released = open()?
        .change(&doing, |client| client.release(ask).and_then(|done| if_about(done, is_one)));
    match released {
        Ok(outcomes) => {
            let mut refusals = outcomes.into_iter().filter_map(|outcome| outcome.refusal);
            match refusals.find(|refusal| !gone.contains(&refusal.code)) {
                Some(refusal) => Err(fail(&format!("{doing}: {}", refusal.message))),
                None => Ok(OK),
            }
        }
        Err(failure) if refused_with(&failure, &gone) => Ok(OK),
        Err(failure) => Err(failed(&failure)),
    }
}

fn show(resource: &Resource, call: &Call) -> Result<u8, u8> {
    let doing = format!("asking who holds {resource}");
    match current::ask(resource, &doing, &mut open()?) {
        Ok(Some(lock)) => {
            if lock.this_host_only {
                say(&told_scope(&[lock.resource.to_string()], &lock.backend));
            }
            let view = View::new(Format::Human, Colour::Never, time::now());
            Ok(print(&current::laid_out(&lock, call.layout, &view), OK))
        }
        Ok(None) => {
            tell("no lock held");
            Ok(NO_OR_FAILED)
        }
        Err(failure) => Err(failed(&failure)),
    }
}

fn is_held(resource: Resource, lease: Option<LeaseId>) -> Result<u8, u8> {
    if lease.is_none() {
        return Ok(NO_OR_FAILED);
    }
    let doing = format!("asking whether {resource} is held");
    let ask = IsHeld { resource, lease, by_me: false };
    match open()?.read(&doing, |client| client.is_held(ask.clone())) {
        Ok((held, _)) => Ok(if held { OK } else { NO_OR_FAILED }),
        Err(failure) => Err(failed(&failure)),
    }
}

fn open() -> Result<Link, u8> {
    Link::open(None, PATIENCE).map_err(|failure| failed(&failure))
}

fn refused_with(failure: &Failure, codes: &[Code]) -> bool {
    failure.refusals.first().is_some_and(|refusal| codes.contains(&refusal.code))
}

fn failed(failure: &Failure) -> u8 {
    fail(&failure.message);
    if let Some(advice) = &failure.advice {
        tell(&format!("  {advice}"));
    }
    NO_OR_FAILED
}

fn fail(message: &str) -> u8 {
    say(message);
    NO_OR_FAILED
}

fn say(sentence: &str) {
    tell(&format!("{NAME}: {}", visible(sentence)));
}

/// Lines for stderr, as they are.
fn tell(lines: &str) {
    let _ = writeln!(io::stderr(), "{lines}");
}

/// A reader that went away is no failure.
fn print(data: &str, exit: u8) -> u8 {
    match crate::stdout::write(data.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(&plain(&format!("writing to stdout: {error}")))
        }
        _ => exit,
    }
}
