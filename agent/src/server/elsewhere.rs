//! What another writer took is ended and renewed in its store at once, by its id, as the Python
//! tool lets anybody do; here only whoever policy lets, and it is written down who it was.

use stormlock_protocol::message::Reply;
use stormlock_protocol::name::Ttl;

use super::service::{Answered, Caller, QUESTION_PATIENCE, Service};
use super::terms::random;
use super::told;
use crate::audit::{By, Deed, Event, Outcome};
use crate::lease::{BackendName, Holder, Nonce, Proof, Standing};

impl Service {
    /// Renews it.
    pub(super) async fn renew_elsewhere(
        &self,
        caller: &Caller,
        backend: &BackendName,
        holder: Holder,
        ttl: Ttl,
    ) -> Answered<Reply> {
        self.audit.turn(caller.who.uid).await;
        let proof = foreign(&holder);
        let store = self.stores.get(backend).ok_or_else(|| told::no_store(backend))?;
        let _turn = self.asking.of(caller.who.uid).await;
        let by = Some(caller.who.uid);
        let renewing = store.renew(&proof, ttl, Nonce(random()?));
        let renewed = self.stores.within(backend, QUESTION_PATIENCE, renewing, by).await;
        // Without an answer it may have happened.
        let outcome = if renewed.is_ok() { Outcome::Done } else { Outcome::Failed };
        let standing = renewed.map_err(|error| told::no_answer(backend, &holder.resource, &error));
        if !matches!(standing, Ok(Standing::NotOurs(_) | Standing::Cloned)) {
            self.note_elsewhere(Deed::Renew, outcome, caller, (backend, &holder));
        }
        match standing? {
            Standing::Ours { remaining } => {
                Ok(Reply::Renewed(told::foreign_lease(backend, &holder, ttl, remaining)))
            }
            Standing::NotOurs(_) | Standing::Cloned => Err(told::not_current(&holder)),
        }
    }

    /// Gives it back.
    pub(super) async fn release_elsewhere(
        &self,
        caller: &Caller,
        backend: &BackendName,
        holder: &Holder,
    ) -> Answered<()> {
        let proof = foreign(holder);
        let store = self.stores.get(backend).ok_or_else(|| told::no_store(backend))?;
        let _turn = self.asking.of(caller.who.uid).await;
        let by = Some(caller.who.uid);
        let releasing = store.release(&proof);
        let released = self.stores.within(backend, QUESTION_PATIENCE, releasing, by).await;
        let outcome = if released.is_ok() { Outcome::Done } else { Outcome::Failed };
        self.note_elsewhere(Deed::Release, outcome, caller, (backend, holder));
        released.map(|_| ()).map_err(|error| told::no_answer(backend, &holder.resource, &error))
    }

    fn note_elsewhere(
        &self,
        deed: Deed,
        outcome: Outcome,
        caller: &Caller,
        on: (&BackendName, &Holder),
    ) {
        let by = By::Caller(caller.facts.clone());
        self.audit.record(&Event::of_holder(deed, outcome, by, on));
    }
}

/// How a lease that another writer took names itself.
fn foreign(holder: &Holder) -> Proof {
    Proof { resource: holder.resource.clone(), lease: holder.lease, nonces: Vec::new() }
}
