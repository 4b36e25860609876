//! `hold`: hold resources in the foreground, for units. It ends by SIGTERM and its like, or with
//! what it holds.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::Signal;
use stormlock_protocol::message::{self, Code, Hold, Lease, Wait};

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
use crate::run::events::Events;
use crate::run::signals::{Came, Signals, stand_still, thread_without};
use crate::run::take::{Taken, take, to_this_process, wait_for};
use crate::run::told::{late, soon, words};
use crate::run::{hear, kept, release};
use crate::time;

/// The shortest ttl of which a renewal on time finds more than the second that is kept at its end.
const TTL_MIN: Duration = Duration::from_secs(3);
/// How often systemd is told that the wait goes on, and for how much longer than that it is asked.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
const EXTEND_BY: Duration = Duration::from_secs(60);

/// Runs the command.
pub(crate) fn run(args: &args::Hold, mut link: Link, view: &View) -> Result<Answer, Failure> {
    each_once(&args.resources)?;
    check_ttl(args)?;
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
    let failed = |error: io::Error| {
        let told = stormlock_protocol::cause::plain(&format!("holding {names}: {error}"));
        Failure::new(Exit::Software, Code::Internal.as_str(), told)
    };
    let ids: BTreeSet<_> = leases.iter().map(|lease| lease.lease).collect();
    let holding = Holding {
        signals: Signals::block().map_err(failed)?,
        alarm: Alarm::new().map_err(failed)?,
        events: Events::listen(socket.clone(), ids).map_err(failed)?,
        deadline: Deadline::new(leases.iter().map(|it| kept(it, asked)).collect(), Duration::ZERO),
        dog: notify::watchdog_every().map(|every| (every, Moment::now())),
    };
    if !view.is_quiet {
        leases.iter().for_each(|lease| say(&told_end(lease, view)));
        scope(&leases, view).iter().for_each(|told| say(told));
    }
    notify::ready(&format!("holds {names}"));
    let ended = holding.watch().map_err(failed)?;
    finish(ended, &leases, &socket)
}

/// A lease that is given up before it could be renewed holds nothing.
fn check_ttl(args: &args::Hold) -> Result<(), Failure> {
    let Some(ttl) = args.take.ttl.map(|ttl| u64::from(ttl.as_secs())) else { return Ok(()) };
    if ttl >= TTL_MIN.as_secs() {
        return Ok(());
    }
    let (min, ttl) = (time::exact(TTL_MIN.as_secs()), time::exact(ttl));
    Err(Failure::usage(format!(
        "a ttl of {ttl} is too short to hold: it would be given up at once"
    ))
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
    fn watch(mut self) -> io::Result<Ended> {
        loop {
            for news in self.events.take() {
                hear(news, &mut self.deadline);
            }
            match self.deadline.due(Moment::now()) {
                Due::Ask(why) | Due::Kill(why) => return Ok(Ended::Over(why)),
                Due::Late(on) => {
                    let told = late(&on, &self.deadline);
                    say(&told);
                    notify::status(&told);
                    continue;
                }
                Due::EndsSoon(what) => {
                    say(&soon(&what));
                    continue;
                }
                Due::Nothing => {}
            }
            while let Some(came) = self.signals.next() {
                match came {
                    Came::Forward(Signal::USR1 | Signal::USR2 | Signal::WINCH) => {}
                    Came::Forward(_) => return Ok(Ended::Told),
                    Came::Stop => stand_still()?,
                    Came::Continue | Came::Other => {}
                }
            }
            let next = self.deadline.next().min(self.feed());
            self.alarm.set(next)?;
            wait_for(&[&self.signals, &self.alarm, &self.events], None);
        }
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
        Ended::Told => release(leases, socket),
        Ended::Over(Why::HoldOver(on)) => {
            say(&words(&Why::HoldOver(on)));
            release(leases, socket);
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
