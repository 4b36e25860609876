//! `hold`: hold resources in the foreground, for units. It ends by SIGTERM and its like, or with
//! what it holds.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use rustix::process::Signal;
use stormlock_protocol::message::{self, Attach, Code, Hold, Lease};
use stormlock_protocol::name::{LINGER_SECS_MAX, Ttl};

use super::run::{fits_ttl, length, untold};
use super::{each_once, scope, told_end};
use crate::args;
use crate::clock::{Alarm, Moment};
use crate::connect::Link;
use crate::exit::{Answer, Exit, Failure};
use crate::notify;
use crate::render::{View, say, voice};
use crate::run::around;
use crate::run::deadline::{Deadline, Due, TTL_MIN, Why, fits_hold, grace_of_hold, usual_grace};
use crate::run::events::{Events, Ready};
use crate::run::signals::{Came, Signals, stand_still};
use crate::run::take::{
    RETRY_EVERY, Taken, end, pause, rest, take, this_process, to_this_process, wait_for,
};
use crate::run::told::{late, soon, unheard, words};
use crate::run::{attach_to, catch_up, hear, kept, release};
use crate::time;

/// What those who depend on it are given to end, where the ttl leaves room for so much.
const GRACE: Duration = Duration::from_secs(30);
/// The shortest ttl, in seconds, that leaves room for a renewal that is late.
const TTL_MIN_SECS: u32 = 3;
/// Who finds its deadline so long past stood still, or the host slept, and the agent may have
/// renewed meanwhile.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// Runs the command.
pub(crate) fn run(
    args: &args::Hold,
    open: impl Fn() -> Result<Link, Failure>,
    view: &View,
) -> Result<Answer, Failure> {
    each_once(&args.resources)?;
    args.take.ttl.map_or(Ok(()), |ttl| check(args, ttl))?;
    check_hold(args)?;
    voice::of_its_own().map_err(|error| untold(&error))?;
    let names: Vec<&str> = args.resources.iter().map(|resource| resource.as_str()).collect();
    let names = names.join(", ");
    let extends = notify::extend_while_waiting(&names);
    let taken = acquire(args, open, view);
    drop(extends);
    let Taken { leases, asked, socket } = taken?;
    // It may have waited.
    let view = &view.renewed();
    // What the agent's configuration says may be too short, too; it ends with this process.
    leases.iter().try_for_each(|lease| check(args, lease.ttl))?;
    let failed = |error: io::Error| {
        let told = stormlock_protocol::cause::plain(&format!("holding {names}: {error}"));
        Failure::new(Exit::Software, Code::Internal.as_str(), told)
    };
    // Whoever is stopped from here on gives it back.
    let signals = Signals::block().map_err(failed)?;
    let grace = grace(args, &leases, asked);
    if !grace.is_zero() {
        let (process, grace_secs) = (this_process()?, u32::try_from(grace.as_secs()).unwrap_or(0));
        attach_to(&leases, &socket, Attach::Holder { process, grace_secs })?;
    }
    let ids: BTreeSet<_> = leases.iter().map(|lease| lease.lease).collect();
    let mut holding = Holding {
        signals,
        alarm: Alarm::new().map_err(failed)?,
        events: Events::listen(socket.clone(), ids).map_err(failed)?,
        deadline: Deadline::of_holder(leases.iter().map(|it| kept(it, asked)).collect(), grace),
        dog: notify::watchdog_every().map(|every| (every, Moment::now())),
    };
    if let Some(ended) = holding.begin().map_err(failed)? {
        // Nobody was told to count on it.
        return finish(ended, &leases, &socket, Duration::ZERO);
    }
    if !view.is_quiet {
        leases.iter().for_each(|lease| say(&told_end(lease, view)));
        scope(&leases, view).iter().for_each(|told| say(told));
    }
    notify::ready(&format!("holds {names}"));
    let ended = holding.watch().map_err(failed)?;
    finish(ended, &leases, &socket, grace)
}

/// Takes what it is to hold. An agent that is not there, or its store, is no end of a wait: at the
/// boot of a host both may come later.
fn acquire(
    args: &args::Hold,
    open: impl Fn() -> Result<Link, Failure>,
    view: &View,
) -> Result<Taken, Failure> {
    let until = end(args.take.wait.wait());
    let mut is_told = false;
    let mut link = loop {
        match open() {
            Err(failure) if failure.exit == Exit::Unavailable && goes_on(until) => {
                if !std::mem::replace(&mut is_told, true) && !view.is_quiet {
                    say(&format!("{}; the wait goes on, and asks again", failure.message));
                }
                pause(until.map_or(RETRY_EVERY, |end| RETRY_EVERY.min(Moment::now().until(end))));
            }
            opened => break opened?,
        }
    };
    if until.is_some() {
        around::not_awaited(&args.resources, &mut link)?;
    }
    let hold = match args.take.hold.hold() {
        Hold::Usual => Hold::Keep,
        said => said,
    };
    let ask = message::Acquire {
        resources: args.resources.clone(),
        ttl: args.take.ttl,
        hold,
        reason: args.take.reason.clone(),
        // Until others count on it.
        attach: to_this_process()?,
        wait: rest(until),
        // It says itself what happens.
        terminal: None,
    };
    take(&ask, link, view)
}

fn goes_on(until: Option<Moment>) -> bool {
    until.is_some_and(|until| Moment::now() < until)
}

/// A lease that is given up before it could be renewed holds nothing.
fn check(args: &args::Hold, ttl: Ttl) -> Result<(), Failure> {
    let length = Duration::from_secs(ttl.as_secs().into());
    if ttl.as_secs() < TTL_MIN_SECS {
        let (min, ttl) = (time::exact(TTL_MIN_SECS.into()), time::exact(length.as_secs()));
        let told = format!("a ttl of {ttl} is too short to hold: it would be given up soon");
        return Err(Failure::usage(told).advise(format!("--ttl {min} is the shortest")));
    }
    match args.grace {
        Some(asked) if asked.as_secs() > LINGER_SECS_MAX.into() => {
            let (asked, max) = (time::exact(asked.as_secs()), time::exact(LINGER_SECS_MAX.into()));
            let told = format!("--grace {asked} is too long: nobody else could have it meanwhile");
            Err(Failure::usage(told).advise(format!("{max} is the longest")))
        }
        Some(_) if length < TTL_MIN => {
            let told = format!("a ttl of {} leaves no grace", time::exact(length.as_secs()));
            let min = time::exact(TTL_MIN.as_secs());
            Err(Failure::usage(told).advise(format!("--ttl {min} is the shortest that does")))
        }
        Some(asked) => fits_ttl("--grace", asked, length),
        None => Ok(()),
    }
}

/// A hold that was asked for is longer than what it leaves to those who depend on it.
fn check_hold(args: &args::Hold) -> Result<(), Failure> {
    let (Some((flag, length)), Some(asked)) = (length(&args.take), args.grace) else {
        return Ok(());
    };
    if fits_hold(asked, length) {
        return Ok(());
    }
    let told = format!(
        "--grace {} does not fit into a hold of {} ({flag}): it would be given up at once",
        time::exact(asked.as_secs()),
        time::exact(length.as_secs())
    );
    let fits = time::exact(grace_of_hold(length).as_secs());
    Err(Failure::usage(told).advise(format!("say --grace {fits} or less, or a longer {flag}")))
}

/// How long those who depend on it have to end, in whole seconds.
fn grace(args: &args::Hold, leases: &[Lease], asked: Moment) -> Duration {
    let grace = leases.iter().map(|lease| {
        let ttl = Duration::from_secs(lease.ttl.as_secs().into());
        let of_ttl = args.grace.unwrap_or_else(|| usual_grace(GRACE, ttl));
        let left = Moment::now().until(kept(lease, asked).until.hold_end);
        of_ttl.min(grace_of_hold(left))
    });
    Duration::from_secs(grace.min().unwrap_or_default().as_secs())
}

/// Why it ended.
enum Ended {
    Told,
    Over(Why),
    /// No renewal would be heard of.
    Unheard,
}

struct Holding {
    signals: Signals,
    alarm: Alarm,
    events: Events,
    deadline: Deadline,
    /// How often systemd's dog is fed, and when next.
    dog: Option<(Duration, Moment)>,
}

impl Holding {
    /// Nobody is told that it holds before it would hear of its renewals.
    fn begin(&mut self) -> io::Result<Option<Ended>> {
        let began = Moment::now();
        catch_up(&mut self.deadline, &self.events, &self.alarm)?;
        loop {
            if let Some(ended) = self.look()? {
                return Ok(Some(ended));
            }
            match self.events.ready(began) {
                Ready::Yes => return Ok(None),
                Ready::No => return Ok(Some(Ended::Unheard)),
                Ready::Until(until) => self.rest(until)?,
            }
        }
    }

    fn watch(mut self) -> io::Result<Ended> {
        loop {
            if let Some(ended) = self.look()? {
                return Ok(ended);
            }
            let fed = self.feed();
            self.rest(fed)?;
        }
    }

    /// Does whatever is to be done by now.
    fn look(&mut self) -> io::Result<Option<Ended>> {
        if self.deadline.asks_at() + STOOD_STILL < Moment::now() {
            catch_up(&mut self.deadline, &self.events, &self.alarm)?;
        }
        loop {
            for news in self.events.take() {
                hear(news, &mut self.deadline);
            }
            match self.deadline.due(Moment::now()) {
                Due::Ask(why) | Due::Kill(why) => return Ok(Some(Ended::Over(why))),
                Due::Late(on) => {
                    let told = late(&on, &self.deadline);
                    say(&told);
                    notify::status(&told);
                }
                Due::EndsSoon(what) => say(&soon(&what)),
                Due::Nothing => break,
            }
        }
        while let Some(came) = self.signals.next() {
            match came {
                Came::Forward(Signal::USR1 | Signal::USR2 | Signal::WINCH) => {}
                Came::Forward(_) => return Ok(Some(Ended::Told)),
                Came::Stop => stand_still()?,
                Came::Continue | Came::Other => {}
            }
        }
        Ok(None)
    }

    fn rest(&self, until: Moment) -> io::Result<()> {
        self.alarm.set(until.min(self.deadline.next()))?;
        wait_for(&[&self.signals, &self.alarm, &self.events], None);
        Ok(())
    }

    /// Only what is proven is well.
    fn feed(&mut self) -> Moment {
        let Some((every, next)) = &mut self.dog else { return Moment::NEVER };
        let now = Moment::now();
        if *next <= now {
            notify::watchdog();
            *next = now + *every;
        }
        *next
    }
}

/// What it does not give back stays for `grace` after its end.
fn finish(
    ended: Ended,
    leases: &[Lease],
    socket: &std::path::Path,
    grace: Duration,
) -> Result<Answer, Failure> {
    notify::stopping();
    match ended {
        Ended::Told => {
            if release(leases, socket).is_lost {
                let told = "what was held was lost before it was given back";
                return Err(Failure::new(Exit::Lost, Code::Lost.as_str(), told));
            }
        }
        Ended::Over(Why::HoldOver(on)) => {
            say(&words(&Why::HoldOver(on)));
            if grace.is_zero() {
                release(leases, socket);
            }
        }
        Ended::Unheard => {
            let names: Vec<&str> = leases.iter().map(|lease| lease.resource.as_str()).collect();
            release(leases, socket);
            return Err(unheard(&format!("holding {}", names.join(", "))));
        }
        Ended::Over(why) => {
            let told = words(&why);
            notify::status(&told);
            // What is left of several ends with this process.
            return Err(Failure::new(Exit::Lost, Code::Lost.as_str(), told));
        }
    }
    Ok(Answer::default())
}
