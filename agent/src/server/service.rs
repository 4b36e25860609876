//! What a request means: policy first, then the driver or the store, then words for people.
//!
//! Not here: bytes and connections (`session`), what a lease is (`lease`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use stormlock_protocol::RESOURCES_MAX;
use stormlock_protocol::message::{
    self, Acquire, Code, IsHeld, Refusal, Renew, Reply, Request, Target,
};
use stormlock_protocol::name::{Reason, Resource, Ttl, UnixMs};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::attach::{attach, terminal};
use super::audited::Asked;
use super::peer::Names;
use super::terms::{check_hold, check_ttl, hold_from_now, mint, random, shorter, unasked_hold};
use super::wait::{self, Tell};
use super::{Guests, told};
use crate::audit::{Audit, Facts};
use crate::config::Config;
use crate::driver::{Handle, Stopping, Wish};
use crate::lease::{
    Answer, BackendName, Claim, Hold, Holder, No, Nonce, SessionId, View, broken_in,
};
use crate::policy::{Act, Permit, Who};
use crate::stores::{AskError, Stores};
use crate::turns::Turns;
use crate::{clock, fd};

/// How long a question to a store may take that is about no lease of ours. No longer than a call of
/// the core, and a person waits.
pub(super) const QUESTION_PATIENCE: Duration = Duration::from_secs(5);

/// Everything that an answer needs; one for all sessions.
#[derive(Debug, Clone)]
pub struct Service {
    pub(super) config: watch::Receiver<Arc<Config>>,
    pub(super) stores: Arc<Stores>,
    pub(super) driver: Handle,
    pub(super) audit: Audit,
    pub(super) about: About,
    pub(super) guests: Arc<Guests>,
    /// Who asks for what takes a store long.
    pub(super) turns: Arc<Turns>,
    /// The same for what takes it not so long.
    pub(super) asking: Arc<Turns>,
    /// The same for what takes the audit file long.
    pub(super) readings: Arc<Turns>,
    pub(super) names: Arc<Names>,
}

/// About this agent.
#[derive(Debug, Clone)]
pub struct About {
    /// When it started.
    pub since: UnixMs,
    /// What its start found wrong with the journal.
    pub notes: Vec<String>,
}

/// Who asks, through which connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The kernel's word.
    pub who: Who,
    /// The connection.
    pub session: SessionId,
    /// It is over.
    pub hung_up: CancellationToken,
    /// For the audit.
    pub facts: Arc<Facts>,
}

/// An answer, or the refusal that is one.
pub(super) type Answered<T> = Result<T, Refusal>;

impl Service {
    /// A service for all sessions of an agent.
    #[must_use]
    pub fn new(
        config: watch::Receiver<Arc<Config>>,
        stores: Arc<Stores>,
        driver: Handle,
        audit: Audit,
        about: About,
    ) -> Service {
        let guests = Arc::new(Guests::new(fd::most()));
        let turns = Arc::new(Turns::of_stores());
        let names = Arc::new(Names::new());
        let readings = Arc::new(Turns::of_stores());
        let asking = Arc::new(Turns::of_one_lock());
        Service { config, stores, driver, audit, about, guests, turns, asking, readings, names }
    }

    /// Answers one request, and tells meanwhile what it waits for; [`Request::Subscribe`] is the
    /// session's own business.
    pub(super) async fn answer(&self, caller: &Caller, request: Request, tell: &Tell) -> Reply {
        let asked = Asked::of(&request);
        let caller = &self.known(caller, &self.config()).await;
        let answered = match request {
            Request::Acquire(ask) => self.acquire(caller, ask, tell).await,
            Request::Release(ask) => self.release(caller, ask).await,
            Request::Renew(ask) => self.renew(caller, ask).await,
            Request::Current(on) => self.current(caller, &on).await,
            Request::IsHeld(ask) => self.is_held(caller, ask).await,
            Request::List(ask) => self.list(caller, ask).await,
            Request::Status { after } => self.status(caller, after).await,
            Request::Doctor => self.doctor(caller).await,
            Request::Wait { resource, wait } => self.wait(caller, &resource, wait, tell).await,
            Request::Attach { leases, attach } => self.attach(caller, leases, attach).await,
            Request::Share { leases, process } => self.share(caller, leases, process).await,
            Request::Break(ask) => self.break_to_its_end(caller, ask).await,
            Request::Log(ask) => self.log(caller, ask).await,
            Request::Metrics => self.metrics(caller).await,
            Request::Glance => self.glance(caller).await,
            Request::Subscribe => Err(Refusal::new(Code::Internal, "no stream begins here")),
        };
        let reply = answered.unwrap_or_else(Reply::Refused);
        self.note_refusals(caller, asked, &reply);
        reply
    }

    /// The caller as this configuration's rules can judge them.
    async fn known(&self, caller: &Caller, config: &Config) -> Caller {
        let groups = self.names.groups(&config.policy).await;
        Caller { who: Who { groups, ..caller.who.clone() }, ..caller.clone() }
    }

    async fn acquire(&self, caller: &Caller, ask: Acquire, tell: &Tell) -> Answered<Reply> {
        if caller.hung_up.run_until_cancelled(self.audit.turn(caller.who.uid)).await.is_none() {
            return Err(Refusal::new(Code::Stopping, "nobody waits for it any more"));
        }
        let config = self.config();
        let wish = self.wish(&config, caller, &ask)?;
        let (waits, told) = watch::channel(None);
        let answer = tokio::select! {
            answer = self.driver.acquire(wish, waits) => answer?,
            never = self.tell_waits(caller, told, tell) => match never {},
        };
        match answer {
            Answer::Acquired(views) => {
                self.is_still_allowed(&config, caller, &ask, &views).await?;
                let in_order = |on: &Resource| views.iter().find(|view| view.claim.resource == *on);
                let taken = ask.resources.iter().filter_map(in_order);
                Ok(Reply::Acquired(taken.map(|view| self.told(view)).collect()))
            }
            Answer::No(No::TooMany(max)) => Err(too_many(&config, caller, &ask.resources, max)),
            Answer::No(no) => Err(self.refusal(caller, no).await),
            Answer::Renewed(_) | Answer::Released => Err(told::bug("an acquire")),
        }
    }

    /// Who waited may be under other rules by the time that the wait is over.
    async fn is_still_allowed(
        &self,
        before: &Arc<Config>,
        caller: &Caller,
        ask: &Acquire,
        views: &[View],
    ) -> Answered<()> {
        let config = self.config();
        if Arc::ptr_eq(before, &config) {
            return Ok(());
        }
        let caller = self.known(caller, &config).await;
        let Err(refusal) = self.wish(&config, &caller, ask) else { return Ok(()) };
        self.driver.release_all(views.iter().map(|view| view.claim.lease).collect()).await?;
        Err(refusal)
    }

    /// What the driver is asked for: every rule of policy and configuration applied.
    fn wish(&self, config: &Config, caller: &Caller, ask: &Acquire) -> Answered<Wish> {
        let sorted: BTreeSet<&Resource> = ask.resources.iter().collect();
        if sorted.is_empty() || sorted.len() > RESOURCES_MAX {
            let why = format!("name 1 to {RESOURCES_MAX} resources, not {}", sorted.len());
            return Err(Refusal::new(Code::BadRequest, why));
        }
        if sorted.len() < ask.resources.len() {
            return Err(Refusal::new(Code::BadRequest, "a resource is named twice"));
        }
        if ask.reason.as_ref().and_then(broken_in).is_some() {
            // The agent of that lease would take it for a break, and give this one back.
            let why = "the reason begins as what a break leaves does; say it in other words";
            return Err(Refusal::new(Code::BadRequest, why));
        }
        let mut claims = Vec::with_capacity(sorted.len());
        let mut leases_max = usize::MAX;
        let mut hold = None;
        for on in sorted {
            let permit = self.permit(config, caller, Act::Acquire, Some(on))?;
            leases_max = leases_max.min(permit.max_leases);
            if permit.require_reason && !ask.reason.as_ref().is_some_and(says_something) {
                let by = permit.by;
                let why =
                    format!("{on} is taken with a reason only, says {by}; say why with --reason");
                return Err(Refusal::new(Code::Denied, why).about(on));
            }
            let defaults = config.defaults(on);
            let ttl = ask.ttl.unwrap_or_else(|| permit.unasked_ttl(defaults.ttl));
            check_ttl(&permit, ttl, on)?;
            let asked = match ask.hold {
                message::Hold::Usual => unasked_hold(&permit, defaults.hold),
                asked => check_hold(&permit, asked, on).map(|()| asked)?,
            };
            hold = Some(hold.map_or(asked, |before| shorter(before, asked)));
            claims.push(self.claim(config, caller, ask, on, (defaults.backend, ttl))?);
        }
        let hold = hold.unwrap_or(message::Hold::No);
        let held = hold_from_now(hold)?;
        // What would end before it begins is not waited for.
        let until = wait::until(ask.wait).map(|until| match (hold, held) {
            (message::Hold::Until(_), Hold::Until(end)) => until.min(end),
            _ => until,
        });
        Ok(Wish {
            session: caller.session,
            claims,
            owner: caller.who.uid,
            hold: held,
            attach: attach(caller, ask.attach, &[])?,
            terminal: ask.terminal.map(terminal),
            leases_max,
            until,
            by: Arc::clone(&caller.facts),
            hung_up: caller.hung_up.clone(),
            hold_for: match hold {
                message::Hold::For(secs) => Some(Duration::from_secs(secs.into())),
                _ => None,
            },
        })
    }

    fn claim(
        &self,
        config: &Config,
        caller: &Caller,
        ask: &Acquire,
        on: &Resource,
        (backend, ttl): (BackendName, Ttl),
    ) -> Answered<Claim> {
        let Some(traits) = self.stores.traits(&backend) else {
            let why = format!("{on} belongs to backend {backend}, which is not configured");
            return Err(Refusal::new(Code::Config, why).about(on));
        };
        Ok(Claim {
            resource: on.clone(),
            lease: mint(traits.narrow_ids)?,
            backend,
            principal: config.principal(&caller.who),
            host: config.host.clone(),
            reason: ask.reason.clone(),
            ttl,
            created: clock::wall(),
            nonce: Nonce(random()?),
            over: None,
        })
    }

    async fn renew(&self, caller: &Caller, ask: Renew) -> Answered<Reply> {
        let on = &ask.target.resource;
        let config = self.config();
        let found = self.find(caller, &ask.target).await?;
        let permit = self.permit(&config, caller, Act::Acquire, Some(on))?;
        if let Some(ttl) = ask.ttl {
            check_ttl(&permit, ttl, on)?;
        }
        let hold = ask.hold.map(|hold| check_hold(&permit, hold, on).map(|()| hold)).transpose()?;
        let hold = hold.map(hold_from_now).transpose()?;
        let view = match found {
            Found::Here(view) => view,
            Found::Elsewhere(backend, holder) => {
                if hold.is_some_and(|hold| hold != Hold::No) {
                    let why = "a lease that this agent did not take can be renewed, not held";
                    return Err(Refusal::new(Code::BadRequest, why).about(on));
                }
                let ttl = ask.ttl.unwrap_or_else(|| permit.unasked_ttl(config.defaults(on).ttl));
                return self.renew_elsewhere(caller, &backend, *holder, ttl).await;
            }
        };
        if view.owner != caller.who.uid {
            self.audit.turn(caller.who.uid).await;
        }
        match self.driver.renew(view.claim.lease, ask.ttl, hold).await? {
            Answer::Renewed(view) => {
                self.note_renewal(caller, &view);
                Ok(Reply::Renewed(self.told(&view)))
            }
            Answer::No(no) => Err(self.refusal(caller, no).await.about(on)),
            Answer::Acquired(_) | Answer::Released => Err(told::bug("a renewal")),
        }
    }

    /// The lease that a caller means, if the caller may end or renew it.
    pub(super) async fn find(&self, caller: &Caller, target: &Target) -> Answered<Found> {
        let on = &target.resource;
        let config = self.config();
        let Some(lease) = target.lease else {
            return match self.driver.find(caller.who.uid, on.clone()).await? {
                Some(view) => Ok(Found::Here(Box::new(view))),
                None => Err(told::not_yours(on)),
            };
        };
        if let Some(view) = self.driver.view(lease).await?
            && view.claim.resource == *on
        {
            if view.owner != caller.who.uid {
                self.permit(&config, caller, Act::ReleaseAny, Some(on))?;
            }
            if view.claim.over.is_some() {
                return Err(told::in_place_of_broken(on));
            }
            return Ok(Found::Here(Box::new(view)));
        }
        // Nobody learns here what stands in the store without the right to read it.
        self.permit(&config, caller, Act::Read, Some(on))?;
        let backend = config.defaults(on).backend;
        match self.holder(caller, &backend, on).await? {
            Some(holder) if holder.lease == lease => {
                self.permit(&config, caller, Act::ReleaseAny, Some(on))?;
                if holder.reason.as_ref().and_then(broken_in).is_some() {
                    return Err(told::in_place_of_broken(on));
                }
                Ok(Found::Elsewhere(backend, Box::new(holder)))
            }
            _ => Err(told::no_such_lease(on, lease)),
        }
    }

    async fn current(&self, caller: &Caller, on: &Resource) -> Answered<Reply> {
        let config = self.config();
        self.permit(&config, caller, Act::Read, Some(on))?;
        let backend = config.defaults(on).backend;
        let holder = self.holder(caller, &backend, on).await?;
        Ok(Reply::Current(self.lock(caller, &backend, holder).await?))
    }

    async fn is_held(&self, caller: &Caller, ask: IsHeld) -> Answered<Reply> {
        let config = self.config();
        self.permit(&config, caller, Act::Read, Some(&ask.resource))?;
        let backend = config.defaults(&ask.resource).backend;
        let holder = self.holder(caller, &backend, &ask.resource).await?;
        let lock = self.lock(caller, &backend, holder).await?;
        let held = lock.as_ref().is_some_and(|lock| {
            ask.lease.is_none_or(|lease| lease == lock.lease) && (!ask.by_me || lock.mine)
        });
        Ok(Reply::Verdict { held, lock })
    }

    pub(super) async fn holder(
        &self,
        caller: &Caller,
        backend: &BackendName,
        on: &Resource,
    ) -> Answered<Option<Holder>> {
        let store = self.stores.get(backend).ok_or_else(|| told::no_store(backend))?;
        let _turn = self.asking.of(caller.who.uid).await;
        let (by, question) = (Some(caller.who.uid), store.holder(on));
        let asked = self.stores.within(backend, QUESTION_PATIENCE, question, by).await;
        asked.map_err(|error: AskError| told::no_answer(backend, on, &error))
    }

    /// A lock for `caller`, who is told whether it is their own.
    pub(super) async fn lock(
        &self,
        caller: &Caller,
        backend: &BackendName,
        holder: Option<Holder>,
    ) -> Answered<Option<message::Lock>> {
        let Some(holder) = holder else { return Ok(None) };
        let view = self.driver.view(holder.lease).await?;
        // An id that somebody copied in the store to another resource is nobody's there.
        let view = view.filter(|view| view.claim.resource == holder.resource);
        let mine = view.filter(|view| is_mine(caller, view));
        let process = mine.as_ref().and_then(told::process);
        let mine = mine.is_some();
        let waiters = self.driver.waiters(backend.clone(), holder.resource.clone()).await?;
        let this_host_only = self.this_host_only(backend);
        let lock = told::lock(backend, this_host_only, holder);
        Ok(Some(message::Lock { mine, waiters, process, ..lock }))
    }

    /// The words for a no of the core.
    pub(super) async fn refusal(&self, caller: &Caller, no: No) -> Refusal {
        let (on, holder, words): (_, _, fn(&Resource, Option<message::Lock>) -> Refusal) = match no
        {
            No::Held(on, Some(holder)) => (on, holder, told::held),
            No::WaitedOut(on, Some(holder)) => (on, holder, told::waited_out),
            no => return told::refusal(no),
        };
        // One of ours may be held where the resource belonged before the configuration changed.
        let ours = match self.driver.view(holder.lease).await {
            Ok(ours) => ours,
            Err(stopping) => return stopping.into(),
        };
        let backend =
            ours.map_or_else(|| self.config().defaults(&on).backend, |it| it.claim.backend);
        match self.lock(caller, &backend, Some(*holder)).await {
            Ok(lock) => words(&on, lock),
            Err(stopping) => stopping,
        }
    }

    /// What policy says.
    pub(super) fn permit(
        &self,
        config: &Config,
        caller: &Caller,
        act: Act,
        on: Option<&Resource>,
    ) -> Answered<Permit> {
        config.policy.judge(&caller.who, act, on).map_err(|denial| {
            let refusal = Refusal::new(Code::Denied, denial.to_string());
            match on {
                Some(on) => refusal.about(on),
                None => refusal,
            }
        })
    }

    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    pub(super) fn this_host_only(&self, backend: &BackendName) -> bool {
        self.stores.traits(backend).is_some_and(|traits| traits.this_host_only)
    }

    /// A lease as the wire tells it.
    pub(super) fn told(&self, view: &View) -> message::Lease {
        told::lease(view, self.this_host_only(&view.claim.backend))
    }
}

/// Where the lease is that a caller means.
pub(super) enum Found {
    Here(Box<View>),
    /// In the store, taken by another writer; the caller may nevertheless.
    Elsewhere(BackendName, Box<Holder>),
}

impl From<Stopping> for Refusal {
    fn from(stopping: Stopping) -> Refusal {
        Refusal::new(Code::Stopping, format!("{stopping}; try again in a moment"))
    }
}

/// True when this agent believes for `caller` that the lease is held.
pub(super) fn is_mine(caller: &Caller, view: &View) -> bool {
    use crate::lease::State;
    view.owner == caller.who.uid && matches!(view.state, State::Held | State::AtRisk)
}

/// What looks empty on a screen gives no reason, whatever it is made of.
fn says_something(reason: &Reason) -> bool {
    reason.as_str().chars().any(char::is_alphanumeric)
}

/// One of these resources lets its taker have no more leases than that at once.
fn too_many(config: &Config, caller: &Caller, on: &[Resource], max: usize) -> Refusal {
    let permits = on.iter().map(|on| config.policy.judge(&caller.who, Act::Acquire, Some(on)));
    let by = permits.flatten().find(|permit| permit.max_leases == max).map(|permit| permit.by);
    let by = by.unwrap_or_default();
    let why = format!("you may have {max} leases at once, says {by}; release some first");
    Refusal::new(Code::TooMany, why)
}
