//! `hold`: hold resources in the foreground, for units. It ends by SIGTERM and its like, or with
//! what it holds.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::Signal;
use stormlock_protocol::message::{self, Code, Hold, Lease, Wait};
use stormlock_protocol::name::Ttl;

use super::run::untold;
use super::{each_once, scope, told_end};
use crate::args;
use crate::clock::{Alarm, Moment};
use crate::connect::Link;
use crate::exit::{Answer, Exit, Failure};
use crate::notify;
use crate::render::{View, say, voice};
use crate::run::around;
use crate::run::deadline::{Deadline, Due, Why};
use crate::run::events::{Events, Ready};
use crate::run::signals::{Came, Signals, stand_still, thread_without};
use crate::run::take::{Taken, take, to_this_process, wait_for};
use crate::run::told::{late, soon, unheard, words};
use crate::run::{catch_up, hear, kept, release};
use crate::time;

/// The shortest ttl, in seconds, that leaves room for a renewal that is late.
const TTL_MIN_SECS: u32 = 3;
/// Who finds its deadline so long past stood still, or the host slept, and the agent may have
/// renewed meanwhile.
const STOOD_STILL: Duration = Duration::from_millis(500);
/// How often systemd is told that the wait goes on, and for how much longer than that it is asked.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
const EXTEND_BY: Duration = Duration::from_secs(60);

/// Runs the command.
pub(crate) fn run(args: &args::Hold, mut link: Link, view: &View) -> Result<Answer, Failure> {
    each_once(&args.resources)?;
    args.take.ttl.map_or(Ok(()), check_ttl)?;
    voice::of_its_own().map_err(|error| untold(&error))?;
    if args.take.wait.wait() != Wait::No {
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
        attach: to_this_process()?,
        wait: args.take.wait.wait(),
        // It says itself what happens.
        terminal: None,
    };
    let names: Vec<&str> = args.resources.iter().map(|resource| resource.as_str()).collect();
    let names = names.join(", ");
    let extends = extend_while_waiting(&names);
    let taken = take(&ask, link, view);
    drop(extends);
    let Taken { leases, asked, socket } = taken?;
    // It may have waited.
    let view = &view.renewed();
    // What the agent's configuration says may be too short, too; it ends with this process.
    leases.iter().try_for_each(|lease| check_ttl(lease.ttl))?;
    let failed = |error: io::Error| {
        let told = stormlock_protocol::cause::plain(&format!("holding {names}: {error}"));
        Failure::new(Exit::Software, Code::Internal.as_str(), told)
    };
    let ids: BTreeSet<_> = leases.iter().map(|lease| lease.lease).collect();
    let mut holding = Holding {
        signals: Signals::block().map_err(failed)?,
        alarm: Alarm::new().map_err(failed)?,
        events: Events::listen(socket.clone(), ids).map_err(failed)?,
        deadline: Deadline::of_holder(leases.iter().map(|it| kept(it, asked)).collect()),
        dog: notify::watchdog_every().map(|every| (every, Moment::now())),
    };
    if let Some(ended) = holding.begin().map_err(failed)? {
        return finish(ended, &leases, &socket);
    }
    if !view.is_quiet {
        leases.iter().for_each(|lease| say(&told_end(lease, view)));
        scope(&leases, view).iter().for_each(|told| say(told));
    }
    notify::ready(&format!("holds {names}"));
    let ended = holding.watch().map_err(failed)?;
    finish(ended, &leases, &socket)
}

/// A lease that is given up before it could be renewed holds nothing.
fn check_ttl(ttl: Ttl) -> Result<(), Failure> {
    if ttl.as_secs() >= TTL_MIN_SECS {
        return Ok(());
    }
    let (min, ttl) = (time::exact(TTL_MIN_SECS.into()), time::exact(ttl.as_secs().into()));
    Err(Failure::usage(format!("a ttl of {ttl} is too short to hold: it would be given up soon"))
        .advise(format!("--ttl {min} is the shortest")))
}

/// Keeps systemd from giving up the start while it waits; until it is dropped.
fn extend_while_waiting(names: &str) -> Sender<()> {
    let (until, ends) = channel();
    notify::status(&format!("waits for {names}"));
    let extend = move || {
        loop {
            notify::extend(EXTEND_BY);
            if ends.recv_timeout(EXTEND_EVERY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    // Without it a wait may be too long for systemd, which says so.
    let _ = thread_without("extend", extend);
    until
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
        if self.deadline.kills_at() + STOOD_STILL < Moment::now() {
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

fn finish(ended: Ended, leases: &[Lease], socket: &std::path::Path) -> Result<Answer, Failure> {
    notify::stopping();
    match ended {
        Ended::Told => {
            release(leases, socket);
        }
        Ended::Over(Why::HoldOver(on)) => {
            say(&words(&Why::HoldOver(on)));
            release(leases, socket);
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
