//! Holding leases while a command runs, so that the command never outlives them.
//!
//! This process keeps the deadline by itself, from the last proof that the agent told; it works
//! with an agent that hangs or is dead. Not here: the command lines ([`crate::command`]).

pub(crate) mod around;
pub(crate) mod deadline;
pub(crate) mod events;
mod group;
pub(crate) mod shim;
pub(crate) mod signals;
pub(crate) mod take;
mod terminal;
pub(crate) mod told;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use stormlock_protocol::cause::plain;
use stormlock_protocol::message::{Attach, Code, Hold, Lease, Release, State};
use stormlock_protocol::process::Process;

use crate::clock::{Alarm, Moment};
use crate::exit::{Exit, Failure};
use crate::render::say;
use crate::time;
use deadline::{Deadline, Due, Kept, Proof, Why};
use events::{Events, Heard, News};
use group::Group;
use shim::Shim;
use signals::{Came, Signals, stand_still};
use take::{target, wait_for};
use terminal::Terminal;
use told::{go_on, late, lost, not_released, soon, unheard, words};

/// What the command is told: the resources, and beside each its lease and fence, in that order.
pub(crate) const RESOURCES: &str = "STORMLOCK_RESOURCES";
pub(crate) const LEASES: &str = "STORMLOCK_LEASES";
const FENCES: &str = "STORMLOCK_FENCES";

/// How long an agent may take to hear whose end ends the leases, and to give them back.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an agent that restarts is waited for, to give the leases back: it does that by itself.
const RETURN_MAX: Duration = Duration::from_secs(2);
/// How long the first word of an agent is waited for.
const HEAR_MAX: Duration = Duration::from_secs(1);
/// How often a group is looked at whose leader has ended: its others may be nobody's children
/// here.
const GROUP_EVERY: Duration = Duration::from_millis(250);
/// The end of a hold is told by the wall clock, what is left by the boot clock: so much later is
/// the same.
const ROUNDING: Duration = Duration::from_secs(1);
/// The signals by which a job is stopped that wants a terminal which it has not.
const WANTS_TERMINAL: [Signal; 2] = [Signal::TTIN, Signal::TTOU];

/// What is to be run, and how it ends.
#[derive(Debug)]
pub(crate) struct Work {
    /// The command and its arguments; never empty.
    pub(crate) argv: Vec<OsString>,
    /// From the first signal to the last.
    pub(crate) grace: Duration,
    /// What a command is told that has to end; `None`: only its user is told.
    pub(crate) on_lost: Option<Signal>,
}

/// Leases, as a question found them.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) leases: Vec<Lease>,
    /// When that question left.
    pub(crate) asked: Moment,
}

/// The leases that it runs under.
#[derive(Debug)]
pub(crate) struct Under {
    /// Taken for it, and given back after it.
    pub(crate) own: Answered,
    /// Another run's, which this one is part of.
    pub(crate) shared: Answered,
    /// When the command's own time under `shared` is over.
    pub(crate) limit: Moment,
    /// What the command is told of, in that order; may be more than it was asked for.
    pub(crate) told: Vec<Lease>,
    pub(crate) socket: PathBuf,
}

impl Under {
    /// What it runs under, and until when each counts.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&Lease, Kept)> {
        let all = [(&self.own, Moment::NEVER), (&self.shared, self.limit)].into_iter();
        all.flat_map(|(of, limit)| {
            of.leases.iter().map(move |lease| (lease, Kept { limit, ..kept(lease, of.asked) }))
        })
    }
}

/// Runs the command to its end and says with what code.
pub(crate) fn run(work: &Work, under: Under) -> Result<u8, Failure> {
    let doing = format!("running {}", work.argv[0].display());
    let failed = |error: io::Error| {
        let told = plain(&format!("{doing}: {error}"));
        Failure::new(Exit::Software, Code::Internal.as_str(), told)
    };
    let others = Group::prepare().map_err(failed)?;
    let shim = Shim::start(work, &variables(&under)).map_err(failed)?;
    let group = Group::new(&shim.child, others);
    let signals = Signals::block().map_err(failed)?;
    attach(&shim, &under)?;
    let kept: Vec<Kept> = under.kept().map(|(_, kept)| kept).collect();
    let ids: BTreeSet<_> = kept.iter().map(|kept| kept.lease).collect();
    let mut guard = Guard {
        work,
        group,
        deadline: Deadline::new(kept, work.grace),
        terminal: Terminal::find(),
        signals,
        alarm: Alarm::new().map_err(failed)?,
        events: Events::listen(under.socket.clone(), ids).map_err(failed)?,
        is_lost: false,
        has_lent: false,
        left: Vec::new(),
    };
    match guard.begin().map_err(failed)? {
        Begin::Go => {
            if Terminal::is_wanted() {
                guard.lend();
            }
            shim.go().map_err(failed)?;
        }
        Begin::End => {}
        Begin::Unheard => return Err(unheard(&doing)),
    }
    guard.watch().map_err(failed)?;
    Ok(guard.end(&under))
}

/// From here on the leases end with the command's group, and those of another run not before it.
fn attach(shim: &Shim, under: &Under) -> Result<(), Failure> {
    let doing = "attaching the lease to the command";
    let process = Process::look(shim.child.id(), true).map_err(|error| {
        Failure::new(Exit::Software, Code::Internal.as_str(), plain(&format!("{doing}: {error}")))
    })?;
    let targets = |leases: &[Lease]| leases.iter().map(target).collect::<Vec<_>>();
    take::again(&under.socket, PATIENCE, take::RETURN_MAX, |client| {
        if !under.own.leases.is_empty() {
            client.attach(targets(&under.own.leases), Attach::Process(process))?;
        }
        if !under.shared.leases.is_empty() {
            client.share(targets(&under.shared.leases), process)?;
        }
        Ok(())
    })
    .map_err(|error| crate::connect::explain_change(error, doing))
}

/// A lease as its deadline is kept: it answers a question that left then.
pub(crate) fn kept(lease: &Lease, asked: Moment) -> Kept {
    Kept {
        lease: lease.lease,
        resource: lease.resource.clone(),
        ttl: Duration::from_secs(lease.ttl.as_secs().into()),
        until: proof(lease, asked),
        limit: Moment::NEVER,
    }
}

/// Law 1: what is left counts from before the question.
fn proof(lease: &Lease, asked: Moment) -> Proof {
    let hold_end = match lease.hold {
        Hold::Until(end) => {
            let left = end.0.saturating_sub(time::now().timestamp().as_millisecond());
            Moment::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0))
        }
        Hold::No | Hold::For(_) | Hold::Keep | Hold::Usual => Moment::NEVER,
    };
    let proven = asked + Duration::from_millis(lease.left_ms);
    if hold_end <= proven + ROUNDING {
        // The agent counts no further than that either: no renewal moves it.
        return Proof { proven: Moment::NEVER, hold_end: hold_end.min(proven) };
    }
    Proof { proven, hold_end }
}

/// What the command is told.
fn variables(under: &Under) -> Vec<(&'static str, OsString)> {
    let list =
        |word: fn(&Lease) -> String| under.told.iter().map(word).collect::<Vec<_>>().join(" ");
    let first = |list: &str| list.split(' ').next().unwrap_or_default().to_owned();
    let resources = list(|lease| lease.resource.to_string());
    let leases = list(|lease| lease.lease.to_string());
    let fences =
        list(|lease| lease.fence.map_or_else(|| "0".to_owned(), |fence| fence.to_string()));
    let ends = under.kept().map(|(_, kept)| kept.until.proven.min(kept.time_over()));
    let left = Moment::now().until(ends.fold(Moment::NEVER, Moment::min));
    let left = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    let deadline = time::now().timestamp().as_second().saturating_add(left);
    vec![
        ("STORMLOCK_RESOURCE", first(&resources).into()),
        ("STORMLOCK_LEASE", first(&leases).into()),
        ("STORMLOCK_FENCE", first(&fences).into()),
        (RESOURCES, resources.into()),
        (LEASES, leases.into()),
        (FENCES, fences.into()),
        ("STORMLOCK_DEADLINE", deadline.to_string().into()),
        ("STORMLOCK_SOCKET", under.socket.clone().into()),
    ]
}

/// What becomes of a command that has not begun.
enum Begin {
    Go,
    /// It had to end before, or was ended.
    End,
    /// No renewal would be heard of.
    Unheard,
}

/// A command at work.
struct Guard<'a> {
    work: &'a Work,
    group: Group,
    deadline: Deadline,
    terminal: Option<Terminal>,
    signals: Signals,
    alarm: Alarm,
    events: Events,
    /// The command had to end.
    is_lost: bool,
    /// It has or had the terminal, and gets it again when it goes on.
    has_lent: bool,
    /// What could not be killed.
    left: Vec<u32>,
}

impl Guard<'_> {
    /// The agent tells of the leases from here on. If it hangs that is no reason not to begin; if
    /// it has no session to spare the command would be ended for nothing.
    fn begin(&mut self) -> io::Result<Begin> {
        let began = Moment::now();
        loop {
            self.judge();
            while let Some(came) = self.signals.next() {
                self.pass_on(came);
            }
            if let Some(signal) = self.group.reap() {
                self.stopped(signal)?;
                continue;
            }
            if self.is_lost || self.group.is_gone() {
                return Ok(Begin::End);
            }
            let (until, then) = match self.events.heard() {
                Heard::Yes => return Ok(Begin::Go),
                Heard::NotYet => (began + HEAR_MAX, Begin::Go),
                Heard::Full => (began + PATIENCE, Begin::Unheard),
            };
            if until <= Moment::now() {
                return Ok(then);
            }
            self.alarm.set(until.min(self.deadline.next()))?;
            wait_for(&[&self.signals, &self.alarm, &self.events], None);
        }
    }

    /// Until nothing of the group is left.
    fn watch(&mut self) -> io::Result<()> {
        loop {
            // First of all: this process may have stood still, or the host slept.
            self.judge();
            while let Some(came) = self.signals.next() {
                self.pass_on(came);
            }
            if let Some(signal) = self.group.reap() {
                self.stopped(signal)?;
                continue;
            }
            if self.is_over() {
                return Ok(());
            }
            self.alarm.set(self.deadline.next())?;
            let pause = self.group.ended().map(|_| GROUP_EVERY);
            wait_for(&[&self.signals, &self.alarm, &self.events], pause);
        }
    }

    /// Nothing is left that is waited for. What left the group is no part of the command, unless
    /// that had to end.
    fn is_over(&self) -> bool {
        let is_gone = self.group.is_gone() && (!self.is_lost || self.group.is_alone());
        is_gone || !self.left.is_empty()
    }

    /// Hears what the agent said, and does what is due.
    fn judge(&mut self) {
        for news in self.events.take() {
            hear(news, &mut self.deadline);
        }
        loop {
            match self.deadline.due(Moment::now()) {
                Due::Nothing => return,
                Due::Late(on) => say(&late(&on, &self.deadline)),
                Due::EndsSoon(what) => {
                    let left = Moment::now().until(self.deadline.asks_at()).as_secs();
                    let left = time::words(left);
                    say(&format!("{}: the command has {left} left", soon(&what)));
                }
                // The agent looks by itself whether the group is gone, and gives back then: it may
                // have seen that first.
                Due::Ask(_) | Due::Kill(_) if !self.is_lost && self.group.is_found_gone() => return,
                Due::Ask(why) => self.ask(&why),
                Due::Kill(why) => self.kill(&why),
            }
        }
    }

    fn ask(&mut self, why: &Why) {
        let why = words(why);
        let Some(signal) = self.work.on_lost else {
            return say(&format!("{why}; the command goes on, as --on-lost warn wants it"));
        };
        self.is_lost = true;
        let left = self.deadline.grace_left(Moment::now());
        // Less than a second is as good as one to whoever reads it.
        let grace = time::words(left.as_secs().max(1));
        self.group.signal_all(signal);
        // One that stands still would not hear it.
        self.group.signal_all(Signal::CONT);
        say(&format!("{why}: the command has to end, or is killed in {grace}"));
    }

    fn kill(&mut self, why: &Why) {
        if self.work.on_lost.is_none() {
            return;
        }
        say(&if self.is_lost {
            "the command has not ended in time: it is killed".to_owned()
        } else {
            format!("{}: the command is killed", words(why))
        });
        self.is_lost = true;
        self.left = self.group.kill();
    }

    fn pass_on(&mut self, came: Came) {
        match came {
            Came::Forward(signal) => self.group.signal(signal),
            Came::Stop => self.group.signal(Signal::TSTP),
            Came::Continue => {
                if self.has_lent {
                    self.lend();
                }
                self.group.signal(Signal::CONT);
            }
            Came::Other => {}
        }
    }

    /// Takes every signal that came. Whether this job is to stand still or to go on is told, if it
    /// is either: the kernel forgets the one when the other comes.
    fn spend(&mut self) -> Option<Came> {
        let mut job = None;
        while let Some(came) = self.signals.next() {
            match came {
                Came::Stop | Came::Continue => job = Some(came),
                Came::Forward(_) | Came::Other => self.pass_on(came),
            }
        }
        job
    }

    fn lend(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.lend(self.group.leader());
            self.has_lent = true;
        }
    }

    /// The command was stopped: so is the job that its user sees, which is this process.
    fn stopped(&mut self, signal: i32) -> io::Result<()> {
        let Some(terminal) = &mut self.terminal else { return Ok(()) };
        let wants_it = WANTS_TERMINAL.iter().any(|one| one.as_raw() == signal);
        if wants_it && terminal.is_ours() {
            self.lend();
            self.group.signal(Signal::CONT);
            return Ok(());
        }
        terminal.take_back(self.group.leader());
        // Spent here: passed on once more it could undo the next Ctrl-Z.
        let is_continued = loop {
            stand_still()?;
            match self.spend() {
                Some(Came::Stop) => {}
                came => break came == Some(Came::Continue),
            }
        };
        self.judge();
        let is_ours = self.terminal.as_ref().is_some_and(Terminal::is_ours);
        if wants_it && !is_ours && !is_continued {
            // It would only stop again, and nobody stopped this process that could continue it.
            return Ok(());
        }
        if self.has_lent {
            self.lend();
        }
        self.group.signal(Signal::CONT);
        Ok(())
    }

    /// The group is gone: puts everything away and says with what code.
    fn end(mut self, under: &Under) -> u8 {
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back(self.group.leader());
            if self.is_lost {
                terminal.mend();
            }
        }
        if self.is_lost {
            if !self.left.is_empty() {
                let pids: Vec<String> = self.left.iter().map(ToString::to_string).collect();
                say(&format!("could not kill {}: end them by hand", pids.join(", ")));
            }
            // The agent gives back what is left, for the group is gone.
            return Exit::Lost.code();
        }
        release(&under.own.leases, &under.socket);
        if let Some(told) = go_on(&self.group.that_go_on(), &under.own.leases) {
            say(&told);
        }
        self.group.ended().map_or(Exit::Software.code(), group::code)
    }
}

/// Takes note of what the agent said.
pub(crate) fn hear(news: News, deadline: &mut Deadline) {
    match news {
        News::Full => {}
        News::Unknown(lease) => {
            deadline.lose(lease, format!("the agent does not know of lease {lease} any more"));
        }
        News::State(lease, asked) => match &lease.state {
            State::Held | State::AtRisk => {
                if deadline.prove(Moment::now(), lease.lease, proof(&lease, asked)) {
                    say(&format!("{} is renewed again", lease.resource));
                }
            }
            // What was proven before still is, until then.
            State::Asking | State::Unknown => {}
            State::Lost(why) => {
                deadline.lose(lease.lease, format!("{} is lost: {}", lease.resource, lost(why)));
            }
            State::Released => {
                deadline.lose(lease.lease, format!("{} was given back meanwhile", lease.resource));
            }
        },
    }
}

/// Gives leases back. What fails is said: the command has done its work, and the agent knows whose
/// end ends them.
pub(crate) fn release(leases: &[Lease], socket: &Path) {
    if leases.is_empty() {
        return;
    }
    let targets: Vec<_> = leases.iter().map(target).collect();
    let released = take::again(socket, PATIENCE, RETURN_MAX, |client| {
        client.release(Release::These(targets.clone()))
    });
    match released {
        Ok(outcomes) => outcomes.iter().filter_map(not_released).for_each(|told| say(&told)),
        Err(error) => {
            let failure = crate::connect::explain_change(error, "releasing");
            say(&format!("{}; the agent gives it back once it can", failure.message));
        }
    }
}
