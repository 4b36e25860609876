//! Waiting: what those are told who wait to take something, and the wait of those who take nothing.

use std::convert::Infallible;
use std::time::Duration;

use stormlock_protocol::message::{self, Code, Refusal, Reply, Waiting};
use stormlock_protocol::name::Resource;
use tokio::sync::watch;

use super::service::{Answered, Caller, QUESTION_PATIENCE, Service};
use super::told;
use crate::clock::{self, Alarm};
use crate::driver::Waits;
use crate::lease::{Holder, Moment, RefusedKind, look_alone};
use crate::policy::Act;
use crate::stores::AskError;

/// Where those who wait are told what for.
pub(super) type Tell = watch::Sender<Option<Waiting>>;

/// When a wait is over; `None` when nobody waits.
pub(super) fn until(wait: message::Wait) -> Option<Moment> {
    match wait {
        message::Wait::No => None,
        message::Wait::For(secs) => Some(clock::now() + Duration::from_secs(secs.into())),
        message::Wait::Forever => Some(Moment::NEVER),
    }
}

impl Service {
    /// Passes on what the driver says of a wait, for ever.
    pub(super) async fn tell_waits(
        &self,
        caller: &Caller,
        mut waits: watch::Receiver<Option<Waits>>,
        tell: &Tell,
    ) -> Infallible {
        while waits.changed().await.is_ok() {
            let Some(waits) = waits.borrow_and_update().clone() else { continue };
            let Waits { backend, resource, holder, place, of } = waits;
            let holder = holder.map(|holder| *holder);
            // A driver that stops says so in the answer.
            let Ok(lock) = self.lock(caller, &backend, holder).await else { continue };
            let holder = lock.map(Box::new);
            tell.send_replace(Some(Waiting { resource, holder, place, of }));
        }
        std::future::pending().await
    }

    /// Waits until nobody holds a resource.
    pub(super) async fn wait(
        &self,
        caller: &Caller,
        on: &Resource,
        wait: message::Wait,
        tell: &Tell,
    ) -> Answered<Reply> {
        let config = self.config();
        self.permit(&config, caller, Act::Read, Some(on))?;
        let backend = config.defaults(on).backend;
        let until = until(wait).unwrap_or_else(clock::now);
        let mut looking = self.driver.look(backend.clone(), on.clone()).await?;
        let mut known: Option<Holder> = None;
        let mut silent: Option<(Moment, Refusal)> = None;
        let mut late = 0;
        loop {
            looking.stirs.borrow_and_update();
            let began = clock::now();
            let store = self.stores.get(&backend).ok_or_else(|| told::no_store(&backend))?;
            let turn = self.asking.of(caller.who.uid).await;
            let (by, question) = (Some(caller.who.uid), store.holder(on));
            let asked = self.stores.within(&backend, QUESTION_PATIENCE, question, by).await;
            drop(turn);
            let holder = match asked {
                Ok(None) => return Ok(Reply::Current(None)),
                Ok(Some(holder)) => {
                    silent = None;
                    holder
                }
                // A store that goes away later may come back before the wait is over.
                Err(error) => match known.take() {
                    Some(holder) if may_pass(&error) => {
                        let no = told::no_answer(&backend, on, &error);
                        let since = silent.take().map_or(began, |(since, _)| since);
                        silent = Some((since, no));
                        holder
                    }
                    _ => return Err(told::no_answer(&backend, on, &error)),
                },
            };
            let same = known.as_ref().is_some_and(|known| known.lease == holder.lease);
            late = if same { late + 1 } else { 0 };
            let lock = self.lock(caller, &backend, Some(holder.clone())).await?;
            if clock::now() >= until {
                return Err(match silent {
                    Some((since, no)) => told::waited_in_vain(since.until(clock::now()), no),
                    None => told::waited_out(on, lock),
                });
            }
            if !same {
                let (place, of) = (looking.waiters + 1, looking.waiters + 1);
                let holder = lock.map(Box::new);
                tell.send_replace(Some(Waiting { resource: on.clone(), holder, place, of }));
            }
            let tells = *looking.stirs.borrow();
            let next = clock::now() + look_alone(holder.remaining, tells, late);
            known = Some(holder);
            rest(next.min(until), &mut looking.stirs).await?;
        }
    }
}

/// Until then, or until something stirs.
async fn rest(until: Moment, stirs: &mut watch::Receiver<bool>) -> Answered<()> {
    let no_timer = |_| Refusal::new(Code::Internal, "the kernel gives no timers");
    let mut alarm = Alarm::new().map_err(no_timer)?;
    alarm.set(Some(until));
    tokio::select! {
        () = alarm.rings() => Ok(()),
        stirred = stirs.changed() => match stirred {
            Ok(()) => Ok(()),
            Err(_) => Err(crate::driver::Stopping.into()),
        },
    }
}

fn may_pass(error: &AskError) -> bool {
    error.kind().is_none_or(RefusedKind::may_pass)
}
