//! Taking what is to be held, attached to this very process: whatever happens to it or to the
//! agent, nothing stays behind.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::poll;
use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::frame::Verdict;
use stormlock_protocol::message::{Acquire, Attach, Code, Lease, Release, State, Target, Wait};
use stormlock_protocol::name::Resource;
use stormlock_protocol::process::Process;

use super::leftover;
use crate::clock::Moment;
use crate::command::acquire::with_next;
use crate::command::proven;
use crate::connect::{Link, connect, explain_change, if_about};
use crate::exit::{Exit, Failure};
use crate::render::View;
use crate::render::progress::Progress;

/// How long an agent that was there is waited for when it went away in the midst of a question: as
/// long as a restart takes.
pub(super) const RETURN_MAX: Duration = Duration::from_secs(30);
/// How much longer than the end of a wait it is looked for, when nothing depends on that.
const LATE: Duration = Duration::from_secs(2);
/// How often it is looked for.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often an agent is asked again by somebody who waits, when its store is away: each time that
/// it refuses is work that it has to undo.
pub(crate) const RETRY_EVERY: Duration = Duration::from_secs(2);
/// What is taken.
#[derive(Debug)]
pub(crate) struct Taken {
    /// In the order asked for.
    pub(crate) leases: Vec<Lease>,
    /// When the question left that they answer.
    pub(crate) asked: Moment,
    pub(crate) socket: PathBuf,
}

/// Takes what `ask` says, whose attachment is this process's.
pub(crate) fn take(ask: &Acquire, link: Link, view: &View) -> Result<Taken, Failure> {
    let names: Vec<&str> = ask.resources.iter().map(|resource| resource.as_str()).collect();
    let doing = format!("acquiring {}", names.join(", "));
    let Link { client, socket, patience, .. } = link;
    let progress = Progress::new(view);
    let mut taking = Taking::new(ask, &socket, patience);
    let taken = taking.take(client, &progress);
    drop(progress);
    let again = |resource: &str| format!("stormctl run {resource} --wait -- COMMAND");
    let (leases, asked) = taken
        .map_err(|error| with_next(explain_change(error, &doing), ask.resources.len(), again))?;
    proven(&doing, &leases).map_err(never_began)?;
    Ok(Taken { leases, asked, socket })
}

/// What was over before anything began under it is no loss.
pub(crate) fn never_began(over: Failure) -> Failure {
    let code = Code::Timeout.as_str();
    Failure { exit: Exit::TempFail, code, ..over }.advise("a longer --ttl or hold leaves more time")
}

/// When a wait is over.
pub(crate) fn end(wait: Wait) -> Option<Moment> {
    match wait {
        Wait::No => None,
        Wait::For(secs) => Some(Moment::now() + Duration::from_secs(secs.into())),
        Wait::Forever => Some(Moment::NEVER),
    }
}

struct Taking<'a> {
    ask: &'a Acquire,
    socket: &'a Path,
    patience: Duration,
    until: Option<Moment>,
    /// When the agent went away first.
    left_at: Option<Moment>,
}

impl Taking<'_> {
    fn new<'a>(ask: &'a Acquire, socket: &'a Path, patience: Duration) -> Taking<'a> {
        Taking { ask, socket, patience, until: end(ask.wait), left_at: None }
    }

    fn take(
        &mut self,
        first: Client,
        progress: &Progress,
    ) -> Result<(Vec<Lease>, Moment), ClientError> {
        let mut client = first;
        let mut is_leftover_waited_for = false;
        loop {
            let asked = Moment::now();
            let tried = self.try_once(&mut client, progress);
            let error = match (tried, self.until) {
                (Ok(leases), None) => return Ok((leases, asked)),
                // How long it waited is no part of what is left.
                (Ok(leases), Some(_)) => match as_they_are(&mut client, &leases) {
                    Ok(fresh) => return Ok(fresh),
                    Err(error) => error,
                },
                (Err(error), _) => error,
            };
            if self.until.is_none()
                && !is_leftover_waited_for
                && let ClientError::Refused(refusal) = &error
                && let Some(secs) = leftover::wait_secs(&mut client, refusal)
            {
                is_leftover_waited_for = true;
                self.until = end(Wait::For(secs));
            } else if may_pass(&error) || self.goes_on(&error) {
                client = self.come_back(error, progress)?;
            } else {
                return Err(error);
            }
        }
    }

    /// Somebody who waits goes on waiting while the store is away, also when it was so from the
    /// first.
    fn goes_on(&self, error: &ClientError) -> bool {
        let is_over = self.until.is_none_or(|until| until <= Moment::now());
        is_unavailable(error) && !is_over
    }

    fn try_once(
        &mut self,
        client: &mut Client,
        progress: &Progress,
    ) -> Result<Vec<Lease>, ClientError> {
        let ask = Acquire { wait: rest(self.until), ..self.ask.clone() };
        // Nobody else is waited for while a leftover of our own is given back.
        let is_told = self.ask.wait != Wait::No;
        let tell = |waiting| {
            if is_told {
                progress.show(waiting)
            }
        };
        let leases = client.acquire_waiting(ask, tell)?;
        let wanted = &self.ask.resources;
        if_about(leases, |leases| leases.iter().map(|lease| &lease.resource).eq(wanted))
    }

    /// An agent that came back, and holds nothing for us of an earlier try: its answer may have
    /// been lost after the grant.
    fn come_back(
        &mut self,
        error: ClientError,
        progress: &Progress,
    ) -> Result<Client, ClientError> {
        // What an earlier try may have left is given back also when the wait is over.
        let at_least = match self.ask.attach {
            Attach::Process(_) | Attach::Holder { .. } => RETURN_MAX.min(self.patience),
            Attach::Detached | Attach::Session => LATE,
        };
        let left_at = *self.left_at.get_or_insert_with(Moment::now);
        let until = (self.until.unwrap_or(left_at), at_least);
        let (socket, patience) = (self.socket, self.patience);
        let mut error = error;
        loop {
            if is_unavailable(&error) {
                progress.away(&error.to_string());
            }
            match come_back(socket, patience, until, error, |client| self.give_back(client)) {
                Err(again) if self.goes_on(&again) => error = again,
                answered => return answered,
            }
        }
    }

    fn give_back(&self, client: &mut Client) -> Result<(), ClientError> {
        let is_ours = |lease: &Lease| {
            let is_open = matches!(lease.state, State::Held | State::AtRisk | State::Unknown);
            // Of another connection nobody knows whose it was; the agent gives it back by itself.
            let is_named = self.ask.attach != Attach::Session;
            is_open && is_named && lease.attach == self.ask.attach
        };
        let mine = leases(client)?.into_iter().filter(is_ours);
        let targets: Vec<Target> = mine.map(|lease| target(&lease)).collect();
        if targets.is_empty() {
            return Ok(());
        }
        let outcomes = client.release(Release::These(targets))?;
        let is_gone = |code| matches!(code, Code::NotHeld | Code::Lost);
        match outcomes.into_iter().find_map(|one| one.refusal.filter(|no| !is_gone(no.code))) {
            Some(refusal) => Err(ClientError::Refused(refusal)),
            None => Ok(()),
        }
    }
}

/// Takes what `ask` says after a wait, and attaches it as that says. An agent may restart
/// meanwhile: until it is attached it ends with the connection, so that what was granted and not
/// answered does not stay behind.
pub(crate) fn wait_and_take(
    ask: &Acquire,
    doing: &str,
    link: &mut Link,
    progress: &Progress,
) -> Result<Vec<Lease>, Failure> {
    let passing = Acquire { attach: Attach::Session, ..ask.clone() };
    let (socket, patience) = (link.socket.clone(), link.patience);
    let mut taking = Taking::new(&passing, &socket, patience);
    let taken = loop {
        match taking.try_once(&mut link.client, progress) {
            Ok(leases) => break taking.keep(&mut link.client, &leases, ask.attach),
            Err(error) if may_pass(&error) || taking.goes_on(&error) => {
                match taking.come_back(error, progress) {
                    Ok(client) => link.client = client,
                    Err(error) => break Err(error),
                }
            }
            Err(error) => break Err(error),
        }
    };
    taken.map_err(|error| explain_change(error, doing))
}

impl Taking<'_> {
    /// Lets other ends end these leases than that of the connection: a question that may be asked
    /// twice.
    fn keep(
        &self,
        client: &mut Client,
        leases: &[Lease],
        to: Attach,
    ) -> Result<Vec<Lease>, ClientError> {
        let targets: Vec<Target> = leases.iter().map(target).collect();
        let kept = match client.attach(targets.clone(), to) {
            Err(error) if may_pass(&error) => {
                again(self.socket, self.patience, RETURN_MAX, |client| {
                    client.attach(targets.clone(), to)?;
                    as_they_are(client, leases).map(|(fresh, _)| fresh)
                })
            }
            answered => answered,
        };
        let wanted = &self.ask.resources;
        kept.and_then(|kept| {
            if_about(kept, |kept| kept.iter().map(|lease| &lease.resource).eq(wanted))
        })
    }
}

/// Waits until nobody has a resource, also while the agent restarts.
pub(crate) fn wait_until_free(
    on: &Resource,
    wait: Wait,
    link: &mut Link,
    progress: &Progress,
) -> Result<(), ClientError> {
    let (until, asked) = (end(wait), Moment::now());
    loop {
        let waits = |waiting| progress.show(waiting);
        let waited = link.client.wait(on.clone(), rest(until), waits);
        let is_over = until.is_none_or(|until| until <= Moment::now());
        match waited {
            Err(error) if may_pass(&error) || is_unavailable(&error) && !is_over => {
                if is_unavailable(&error) {
                    progress.away(&error.to_string());
                }
                let is_up = |client: &mut Client| client.status(None).map(drop);
                let until = (until.unwrap_or(asked), LATE);
                link.client = come_back(&link.socket, link.patience, until, error, is_up)?;
            }
            answered => return answered,
        }
    }
}

/// What is left of a wait. One that is over is still tried once.
pub(crate) fn rest(until: Option<Moment>) -> Wait {
    match until {
        None => Wait::No,
        Some(Moment::NEVER) => Wait::Forever,
        Some(until) => {
            let left = Moment::now().until(until).as_millis().div_ceil(1_000);
            u32::try_from(left.max(1)).map_or(Wait::Forever, Wait::For)
        }
    }
}

/// An agent that came back and is ready. It is looked for as long as a restart takes and somebody
/// waits, but for so long at least; one that goes away each time it is asked, no longer than that.
fn come_back(
    socket: &Path,
    patience: Duration,
    (until, at_least): (Moment, Duration),
    mut error: ClientError,
    mut is_ready: impl FnMut(&mut Client) -> Result<(), ClientError>,
) -> Result<Client, ClientError> {
    let now = Moment::now();
    if now > until + at_least {
        return Err(error);
    }
    let until = until.min(now + RETURN_MAX).max(now + at_least);
    loop {
        pause(if is_unavailable(&error) { RETRY_EVERY } else { LOOK_EVERY });
        let back = connect(socket, patience).and_then(|mut client| {
            is_ready(&mut client)?;
            Ok(client)
        });
        match back {
            Ok(client) => return Ok(client),
            Err(again) if may_pass(&again) || is_away(&again) => {
                if Moment::now() >= until {
                    return Err(error);
                }
                error = again;
            }
            Err(other) => return Err(other),
        }
    }
}

/// All leases of the caller.
pub(crate) fn leases(client: &mut Client) -> Result<Vec<Lease>, ClientError> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = client.status(after)?;
        all.extend(page.leases);
        match page.next {
            // A page that leads back would never end.
            Some(next) if Some(next) > after => after = Some(next),
            Some(_) | None => return Ok(all),
        }
    }
}

/// These leases as they are now, and when that was asked.
pub(super) fn as_they_are(
    client: &mut Client,
    granted: &[Lease],
) -> Result<(Vec<Lease>, Moment), ClientError> {
    let until = Moment::now() + RETURN_MAX;
    loop {
        let asked = Moment::now();
        let all = leases(client)?;
        let fresh = |lease: &Lease| {
            let fresh = all.iter().find(|fresh| fresh.lease == lease.lease).cloned();
            fresh.unwrap_or_else(|| Lease { left_ms: 0, ..lease.clone() })
        };
        let fresh: Vec<Lease> = granted.iter().map(fresh).collect();
        // An agent that restarted just now proves them anew.
        let is_open = fresh.iter().any(|lease| lease.state == State::Unknown);
        if !is_open || asked > until {
            return Ok((fresh, asked));
        }
        pause(LOOK_EVERY);
    }
}

/// A lease as what a request is about.
pub(crate) fn target(lease: &Lease) -> Target {
    Target { resource: lease.resource.clone(), lease: Some(lease.lease) }
}

/// The agent went away in the midst of it, or is about to.
pub(crate) fn may_pass(error: &ClientError) -> bool {
    match error {
        ClientError::Closed | ClientError::Io(_) => true,
        ClientError::Refused(refusal) => refusal.code == Code::Stopping,
        ClientError::NoAgent { .. }
        | ClientError::NoAccess { .. }
        | ClientError::LongPath(_)
        | ClientError::Mute(_)
        | ClientError::Greeting(_)
        | ClientError::Frame(_)
        | ClientError::WrongReply => false,
    }
}

/// It has not come back yet.
pub(crate) fn is_away(error: &ClientError) -> bool {
    match error {
        ClientError::NoAgent { .. } => true,
        ClientError::Greeting(welcome) => {
            matches!(welcome.verdict, Verdict::Stopping | Verdict::TooMany | Verdict::Slow)
        }
        other => is_unavailable(other),
    }
}

fn is_unavailable(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(refusal) if refusal.code == Code::Unavailable)
}

/// Asks a question that may be asked twice, until it is answered: an agent may restart meanwhile.
pub(super) fn again<T>(
    socket: &Path,
    patience: Duration,
    return_max: Duration,
    mut ask: impl FnMut(&mut Client) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let until = Moment::now() + return_max;
    loop {
        match Client::connect(socket, patience).and_then(|mut client| ask(&mut client)) {
            Err(error) if (may_pass(&error) || is_away(&error)) && Moment::now() < until => {
                pause(LOOK_EVERY);
            }
            answered => return answered,
        }
    }
}

pub(crate) fn pause(length: Duration) {
    if let Ok(length) = length.try_into() {
        let _ = poll(&mut [], Some(&length));
    }
}

/// The attachment to this process.
pub(crate) fn to_this_process() -> Result<Attach, Failure> {
    this_process().map(Attach::Process)
}

pub(crate) fn this_process() -> Result<Process, Failure> {
    Process::look(std::process::id(), false).map_err(|error| {
        let why = stormlock_protocol::cause::plain(&error.to_string());
        Failure::new(
            Exit::Software,
            Code::Internal.as_str(),
            format!("looking at this process in /proc: {why}"),
        )
    })
}

/// Waits for the first of several to become readable.
pub(crate) fn wait_for(files: &[&dyn AsFd], at_most: Option<Duration>) {
    use rustix::event::{PollFd, PollFlags};
    let mut polled: Vec<PollFd<'_>> =
        files.iter().map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)).collect();
    let at_most = at_most.and_then(|length| length.try_into().ok());
    // Whatever it is woken by, everything is looked at then.
    let _ = poll(&mut polled, at_most.as_ref());
}
