//! Breaking a lease: what was seen and nothing else, for a reason, by whoever may.

use std::sync::Arc;
use std::time::Duration;

use stormlock_protocol::message::{self, Code, Refusal, Reply};
use stormlock_protocol::name::Ttl;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::service::{Answered, Caller, Service};
use super::terms::{mint, random};
use super::told;
use crate::audit::{By, Deed, Event, Outcome};
use crate::clock;
use crate::driver::Wish;
use crate::lease::{
    After, Answer, Attach, BackendName, Claim, Hold, Holder, No, Nonce, SessionId, State, Uid,
    View, broken_in, covering, epitaph,
};
use crate::policy::Act;

/// What stands in the place of a broken lease lasts so much longer than that would have: its agent
/// notices within this time that it is broken, by whom and why.
const BEYOND: Duration = Duration::from_secs(60);

impl Service {
    /// Whether anybody waits for the answer or not: what was begun is done, and written down.
    pub(super) async fn break_to_its_end(
        &self,
        caller: &Caller,
        ask: message::Break,
    ) -> Answered<Reply> {
        self.permit(&self.config(), caller, Act::Break, Some(&ask.resource))?;
        // Who hangs up before it is begun wants no break any more.
        self.audit.turn(caller.who.uid).await;
        let (service, mut caller) = (self.clone(), caller.clone());
        // From here on the end of the connection is none of the break's.
        caller.session = SessionId::NOBODY;
        caller.hung_up = CancellationToken::new();
        let done = tokio::spawn(async move { service.break_lease(&caller, ask).await });
        done.await.unwrap_or_else(|_| Err(told::bug("a break")))
    }

    async fn break_lease(&self, caller: &Caller, ask: message::Break) -> Answered<Reply> {
        let on = &ask.resource;
        let config = self.config();
        self.permit(&config, caller, Act::Break, Some(on))?;
        let (backend, holder) = self.seen_by(caller, &ask).await?;
        let broken = self.lock(caller, &backend, Some(holder.clone())).await?;
        let Some(broken) = broken else { return Err(told::bug("a look at a lock")) };
        let event = |outcome| {
            let by = By::Caller(Arc::clone(&caller.facts));
            let event = Event::of_holder(Deed::Break, outcome, by, (&backend, &holder));
            event.because(Some(ask.reason.clone()))
        };
        // It stands on disk before anything is done, so that no crash leaves a break that nobody
        // did.
        if let Err(error) = self.audit.durable(&event(Outcome::Begun)).await {
            let why = format!(
                "nothing was done: what is to be broken is written down first, and the audit file \
                 cannot be written: \
                 {error}; see `stormctl doctor`"
            );
            return Err(Refusal::new(Code::Unavailable, why).about(on));
        }
        // Those who count on what its holder left have no longer than that.
        let lingers = self.driver.view(ask.lease).await?;
        let lingers = lingers.filter(|view| view.state == State::Lingering);
        let view = match self.put_instead(caller, &ask, (backend.clone(), &holder)).await {
            Ok(view) => view,
            Err(refusal) => {
                self.audit.record(&event(Outcome::Failed).explained(&*refusal.message));
                return Err(refusal);
            }
        };
        self.audit.record(&event(Outcome::Done));
        let end = lingers.map_or(view.deadline, |known| known.deadline.min(view.deadline));
        let mut left = clock::now().until(end);
        if ask.now {
            let answers = self.driver.release_all(vec![view.claim.lease]).await?;
            if answers.first() == Some(&Answer::Released) {
                left = Duration::ZERO;
            }
        }
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        Ok(Reply::Broken(message::Broken { broken, left_ms }))
    }

    /// The lease that is to be broken, if it is still the one that was seen.
    async fn seen_by(
        &self,
        caller: &Caller,
        ask: &message::Break,
    ) -> Answered<(BackendName, Holder)> {
        let on = &ask.resource;
        // One of ours may be held where the resource belonged before the configuration changed.
        let ours = self.driver.view(ask.lease).await?.filter(|view| view.claim.resource == *on);
        let backend =
            ours.map_or_else(|| self.config().defaults(on).backend, |view| view.claim.backend);
        match self.holder(caller, &backend, on).await? {
            Some(holder) if holder.lease == ask.lease => Ok((backend, holder)),
            Some(another) => Err(self.another(&backend, another).await),
            None => Err(told::over(on, ask.lease)),
        }
    }

    /// Somebody else has it than was seen.
    async fn another(&self, backend: &BackendName, holder: Holder) -> Refusal {
        let on = holder.resource.clone();
        let lock = told::lock(backend, self.this_host_only(backend), holder);
        let why = format!(
            "{on} is held under another lease by now, {} of {}",
            lock.lease, lock.principal
        );
        let mut refusal = Refusal::new(Code::Held, why).about(&on);
        refusal.holder = Some(Box::new(lock));
        refusal
    }

    async fn put_instead(
        &self,
        caller: &Caller,
        ask: &message::Break,
        (backend, seen): (BackendName, &Holder),
    ) -> Answered<View> {
        let on = &ask.resource;
        let Some(reason) = epitaph(ask.lease, seen.reason.as_ref(), &ask.reason) else {
            let why = "the reason is too long to be kept with the id of the broken lease; say it \
                       shorter";
            return Err(Refusal::new(Code::BadRequest, why).about(on));
        };
        let traits = self.stores.traits(&backend).ok_or_else(|| told::no_store(&backend))?;
        let config = self.config();
        let claim = Claim {
            resource: on.clone(),
            lease: mint(traits.narrow_ids)?,
            backend: backend.clone(),
            principal: config.principal(&caller.who),
            host: config.host.clone(),
            reason: Some(reason),
            ttl: grace(seen, config.defaults(on).ttl),
            created: clock::wall(),
            nonce: Nonce(random()?),
            over: Some(ask.lease),
        };
        let wish = Wish {
            session: caller.session,
            claims: vec![claim],
            owner: Uid::NOBODY,
            hold: Hold::No,
            attach: Attach::Detached,
            terminal: None,
            leases_max: usize::MAX,
            until: None,
            hold_for: None,
            by: Arc::clone(&caller.facts),
            hung_up: caller.hung_up.clone(),
        };
        let (waits, _) = watch::channel(None);
        match self.driver.acquire(wish, waits).await? {
            Answer::Acquired(views) => views.into_iter().next().ok_or_else(|| told::bug("a break")),
            Answer::No(No::NotHeld) => Err(told::over(on, ask.lease)),
            Answer::No(No::Held(_, Some(holder))) if holder.lease == ask.lease => {
                let why = format!("the program of backend {backend} cannot break a lock");
                Err(Refusal::new(Code::Config, why).about(on))
            }
            Answer::No(No::Held(_, Some(holder))) => Err(self.another(&backend, *holder).await),
            Answer::No(No::Store { backend, after: After::Cancelling, .. }) => {
                let why = format!(
                    "backend {backend} did not answer in time: {on} may be broken, or may be yet; \
                     look who holds it, and break it again if need be"
                );
                Err(Refusal::new(Code::Unavailable, why).about(on))
            }
            Answer::No(no) => Err(self.refusal(caller, no).await),
            Answer::Renewed(_) | Answer::Released => Err(told::bug("a break")),
        }
    }
}

/// How long whoever relied on a lease may go on doing so: no longer than the store keeps it. One
/// that has no end there counts as one of the usual length. If it was renewed since it was looked
/// at, the store makes it as long as that needs.
fn grace(seen: &Holder, unasked: Ttl) -> Ttl {
    let again = seen.reason.as_ref().and_then(broken_in).is_some();
    let usual = Duration::from_secs(unasked.as_secs().into());
    let left = seen.remaining.unwrap_or(usual);
    covering(if again { left } else { left + BEYOND })
}
