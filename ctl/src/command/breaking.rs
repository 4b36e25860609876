//! `break`: take a lock away from its holder, after a look at what that is.

use std::io::{self, BufRead, IsTerminal};

use rustix::termios::{QueueSelector, tcflush};
use stormlock_protocol::message::{self, Broken, Code, Lock};

use super::current;
use crate::args;
use crate::connect::{Link, if_about};
use crate::exit::{Answer, Exit, Failure};
use crate::render::failure::description;
use crate::render::json::{Document, Line, LockJson};
use crate::render::{Format, View, say, tsv};
use crate::run::around;
use crate::time;

/// What has to be typed: nobody types that by accident.
const YES: &str = "yes";

#[derive(serde::Serialize)]
struct One<'a> {
    broken: LockJson<'a>,
    /// When nobody relies on the broken lease any more, at the latest.
    free_in_secs: u64,
}

/// Runs the command.
pub(crate) fn run(args: &args::Break, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let on = &args.resource;
    let doing = format!("breaking {on}");
    let Some(lock) = current::ask(on, &doing, link)? else {
        let told = format!("{doing}: nobody holds it");
        return Err(Failure::new(Exit::No, Code::NotHeld.as_str(), told)
            .then_type(format!("stormctl acquire {on}"), "take it"));
    };
    if let Some(lease) = args.lease.filter(|lease| *lease != lock.lease) {
        let told = format!("{doing}: it is not held under lease {lease}, but {}", lock.lease);
        return Err(Failure::new(Exit::TempFail, Code::Held.as_str(), told)
            .then_type(format!("stormctl current {on}"), "who holds it now"));
    }
    if around::named_on(on) == Some(lock.lease) {
        return Err(Failure::usage(format!(
            "{doing}: what this runs under would be ended, and this with it, before it has an \
             answer"
        ))
        .advise(around::is_around(lock.lease)));
    }
    if !args.yes {
        confirm(&lock, args, view)?;
    }
    let ask = message::Break {
        resource: on.clone(),
        lease: lock.lease,
        reason: args.reason.clone(),
        now: args.now,
    };
    let broken = link.change(&doing, |client| {
        client.break_lease(ask).and_then(|it| if_about(it, |it| it.broken.lease == lock.lease))
    });
    let broken = broken.map_err(|failure| match failure.exit {
        Exit::Unavailable => failure
            .advise("unless it says that nothing was done, it may be broken, or be so yet")
            .then_type(format!("stormctl current {on}"), "who holds it now"),
        _ => failure,
    })?;
    Ok(Answer { data: data(&broken, view)?, talk: talk(&broken, args, view), ..Answer::default() })
}

/// Shows what is about to be broken and waits for the word.
fn confirm(lock: &Lock, args: &args::Break, view: &View) -> Result<(), Failure> {
    let on = &lock.resource;
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(format!("breaking {on}: there is no terminal to ask on"))
            .advise("--yes breaks it unasked; --lease ID lets only that lease be broken"));
    }
    description(lock, &view.now).iter().for_each(|line| say(line));
    if args.now {
        say("--now: whoever relies on it goes on while somebody else may take it");
    }
    // What was typed before is no answer to this; what is typed once it can be read is one.
    let _ = tcflush(io::stdin(), QueueSelector::IFlush);
    say(&format!("type {YES} to break it: {}", args.reason));
    let mut word = String::new();
    // What cannot be read is no yes.
    let read = io::stdin().lock().read_line(&mut word).unwrap_or(0);
    if read > 0 && word.trim() == YES {
        return Ok(());
    }
    Err(Failure::new(Exit::No, Code::Held.as_str(), format!("{on} is left as it is")))
}

fn data(broken: &Broken, view: &View) -> Result<String, Failure> {
    let Broken { broken: lock, left_ms } = broken;
    let left = left_ms.div_ceil(1_000);
    let as_json = || One { broken: LockJson::new(lock, &view.now), free_in_secs: left };
    match view.format {
        Format::Human => Ok(String::new()),
        Format::Id => Ok(format!("{}\n", lock.lease)),
        Format::Tsv => Ok(tsv([[
            lock.resource.to_string(),
            lock.lease.to_string(),
            lock.principal.to_string(),
            left.to_string(),
        ]])),
        Format::Json => view.document(&Document::new(as_json())),
        Format::Jsonl => {
            view.document(&Line::Broken { broken: as_json().broken, free_in_secs: left }.document())
        }
    }
}

fn talk(broken: &Broken, args: &args::Break, view: &View) -> Vec<String> {
    let Broken { broken: lock, left_ms } = broken;
    let on = &lock.resource;
    let mut talk = vec![format!("lease {} of {} on {on} is broken", lock.lease, lock.principal)];
    if *left_ms == 0 {
        talk.push(format!(
            "{on} is free; until its holder's agent has noticed (15 s) nothing but the fence keeps \
             what relied on it apart from whoever takes it"
        ));
    } else {
        let (left, at) = (time::words(left_ms / 1_000), time::end(*left_ms, &view.now));
        talk.push(format!(
            "{on} is free when whoever relied on it has ended, in {left} ({}) at the latest",
            time::clock(at, &view.now)
        ));
        if args.now {
            talk.push("its store did not let go at once: the agent goes on trying".to_owned());
        }
        talk.push(format!("to take it then: stormctl acquire {on} --wait"));
    }
    talk
}
