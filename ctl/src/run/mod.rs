//! Holding leases while a command runs, so that the command never outlives them.
//!
//! This process keeps the deadline by itself, from the last proof that the agent told; it works
//! with an agent that hangs or is dead. Not here: the command lines ([`crate::command`]).

pub(crate) mod around;
pub(crate) mod deadline;
pub(crate) mod events;
mod group;
mod guard;
pub(crate) mod guardian;
mod leftover;
mod outside;
pub(crate) mod shim;
pub(crate) mod signals;
pub(crate) mod take;
mod terminal;
pub(crate) mod told;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use stormlock_protocol::cause::plain;
use stormlock_protocol::client::Client;
use stormlock_protocol::message::{
    Attach, Code, Hold, Lease, LostReason, Release, Released, State,
};
use stormlock_protocol::process::Process;

use crate::clock::{Alarm, Moment};
use crate::exit::{Exit, Failure};
use crate::render::say;
use crate::time;
use deadline::{Deadline, Kept, Proof, ROUNDING};
use events::{Events, HEAR_MAX, News};
use group::Group;
use guard::{Begin, Guard};
use shim::Shim;
use signals::Signals;
use take::target;
use terminal::Terminal;
use told::{lost, not_released, unheard};

/// What the command is told: the resources, and beside each its lease and fence, in that order.
pub(crate) const RESOURCES: &str = "STORMLOCK_RESOURCES";
pub(crate) const LEASES: &str = "STORMLOCK_LEASES";
const FENCES: &str = "STORMLOCK_FENCES";

/// How long an agent may take to hear whose end ends the leases, and to give them back.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an agent may take to hear that nothing is left of a command.
const TELL_MAX: Duration = Duration::from_secs(1);
/// How long an agent that restarts is waited for, to give the leases back: it does that by itself.
const RETURN_MAX: Duration = Duration::from_secs(2);

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
    attach(Process::look(shim.child.id(), true), &under)?;
    let mut guard = Guard::new(work, group, signals, &under).map_err(failed)?;
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
    guard.end(&under)
}

/// From here on the leases end with the command's group, and those of another run not before it.
fn attach(process: io::Result<Process>, under: &Under) -> Result<(), Failure> {
    let doing = "attaching the lease to the command";
    let process = process.map_err(|error| {
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

/// From here on these leases end with another end.
pub(crate) fn attach_to(leases: &[Lease], socket: &Path, to: Attach) -> Result<(), Failure> {
    let targets: Vec<_> = leases.iter().map(target).collect();
    take::again(socket, PATIENCE, take::RETURN_MAX, |client| {
        client.attach(targets.clone(), to).map(drop)
    })
    .map_err(|error| crate::connect::explain_change(error, "attaching the lease to this process"))
}

/// A lease as its deadline is kept: it answers a question that left then.
pub(crate) fn kept(lease: &Lease, asked: Moment) -> Kept {
    Kept {
        lease: lease.lease,
        resource: lease.resource.clone(),
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
    let ttl = Duration::from_secs(lease.ttl.as_secs().into());
    let proven = asked + Duration::from_millis(lease.left_ms);
    if hold_end <= proven + ROUNDING {
        // The agent counts no further than that either: no renewal moves it.
        return Proof { ttl, proven: Moment::NEVER, hold_end: hold_end.min(proven) };
    }
    Proof { ttl, proven, hold_end }
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

/// Takes note of what the agent said.
pub(crate) fn hear(news: News, deadline: &mut Deadline) {
    match news {
        News::Full => {}
        News::Unknown(lease) => {
            let told = format!("the agent does not know of lease {lease} any more");
            deadline.given_back(Moment::now(), lease, told);
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
            State::Released | State::Lingering => {
                let told = format!("{} was given back meanwhile", lease.resource);
                deadline.given_back(Moment::now(), lease.lease, told);
            }
        },
    }
}

/// Hears first what the agent has to say, after this process stood still together with all that
/// counts on the leases: it may have renewed them meanwhile. That is no reason to wait past the
/// last signal, if the time for that has not come.
pub(crate) fn catch_up(deadline: &mut Deadline, events: &Events, alarm: &Alarm) -> io::Result<()> {
    let woke = Moment::now();
    let last = deadline.kills_at();
    let until = if last > woke { last.min(woke + HEAR_MAX) } else { woke + HEAR_MAX };
    loop {
        for news in events.take() {
            hear(news, deadline);
        }
        let now = Moment::now();
        if now >= until || !deadline.is_late(now) {
            return Ok(());
        }
        alarm.set(until)?;
        take::wait_for(&[alarm, events], None);
    }
}

/// Tells the agent that nothing is left of a command which had to end: only then somebody else may
/// have what was taken away from it. The agent finds that out later by itself.
pub(crate) fn nothing_relies_on(leases: &[Lease], socket: &Path) {
    let told = Client::connect(socket, TELL_MAX).and_then(|mut agent| {
        let targets = leases.iter().map(target).collect();
        agent.release(Release::These(targets))
    });
    // What it answers is known: they are lost.
    drop(told);
}

/// What became of leases that were to be given back.
#[derive(Debug, Default)]
pub(crate) struct GivenBack<'a> {
    /// They are not there any more.
    pub(crate) leases: Vec<&'a Lease>,
    /// One of them was lost before, and somebody else may have had its resource meanwhile.
    pub(crate) is_lost: bool,
}

/// Gives leases back. What fails is said: the command has done its work, and the agent knows whose
/// end ends them.
pub(crate) fn release<'a>(leases: &'a [Lease], socket: &Path) -> GivenBack<'a> {
    if leases.is_empty() {
        return GivenBack::default();
    }
    let targets: Vec<_> = leases.iter().map(target).collect();
    let released = take::again(socket, PATIENCE, RETURN_MAX, |client| {
        client.release(Release::These(targets.clone()))
    });
    match released {
        Ok(outcomes) => {
            outcomes.iter().filter_map(not_released).for_each(|told| say(&told));
            let is_kept =
                |one: &Released| one.refusal.as_ref().is_some_and(|no| no.code == Code::Held);
            let kept = |lease: &&Lease| {
                outcomes.iter().any(|one| one.lease == Some(lease.lease) && is_kept(one))
            };
            // In the place of a broken one nobody was yet.
            let is_loss = |one: &Released| match &one.lost {
                None | Some(LostReason::BrokenBy { .. }) => false,
                Some(_) => true,
            };
            GivenBack {
                leases: leases.iter().filter(|lease| !kept(lease)).collect(),
                is_lost: outcomes.iter().any(is_loss),
            }
        }
        Err(error) => {
            let failure = crate::connect::explain_change(error, "releasing");
            say(&format!("{}; the agent gives it back once it can", failure.message));
            GivenBack { leases: leases.iter().collect(), is_lost: false }
        }
    }
}
