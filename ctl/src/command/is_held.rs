//! `is-held`: a predicate; the exit code is the answer.

use stormlock_protocol::message;

use crate::args::{self, By};
use crate::connect::Link;
use crate::exit::{Answer, Exit, Failure};
use crate::render::json::LockJson;
use crate::render::{Format, View, tsv};

#[derive(serde::Serialize)]
struct Verdict<'a> {
    resource: &'a str,
    held: bool,
    lock: Option<LockJson<'a>>,
}

/// Runs the command.
pub(crate) fn run(args: &args::IsHeld, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let ask = message::IsHeld {
        resource: args.resource.clone(),
        lease: args.lease,
        by_me: args.by == Some(By::Me),
    };
    let doing = format!("asking whether {} is held", args.resource);
    let (held, lock) = link.read(&doing, |client| client.is_held(ask.clone()))?;
    let as_json = || {
        let lock = lock.as_ref().map(|lock| LockJson::new(lock, &view.now));
        Verdict { resource: args.resource.as_str(), held, lock }
    };
    let data = match view.format {
        Format::Human => String::new(),
        Format::Id => {
            lock.iter().filter(|_| held).map(|lock| format!("{}\n", lock.lease)).collect()
        }
        Format::Tsv => tsv([[args.resource.to_string(), held.to_string()]]),
        Format::Json | Format::Jsonl => view.one("held", as_json())?,
    };
    let exit = if held { None } else { Some(Exit::No) };
    Ok(Answer { data, exit, ..Answer::default() })
}
