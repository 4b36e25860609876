//! Who hears of changes: the owner's subscribers, and the log.

use std::collections::BTreeMap;

use stormlock_protocol::name::LeaseId;
use tokio::sync::mpsc;

use crate::audit::Audit;
use crate::lease::{State, Touch, Uid, View};

/// Changes that wait for a subscriber to read them; one that lags further is cut off, and may
/// subscribe again to hear the whole state.
const LAG_MAX: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Watchers {
    subscribers: Vec<(Uid, mpsc::Sender<View>)>,
    /// The state that the log heard last of each lease that is not over.
    logged: BTreeMap<LeaseId, State>,
}

impl Watchers {
    pub(super) fn add(&mut self, owner: Uid) -> mpsc::Receiver<View> {
        let (sender, receiver) = mpsc::channel(LAG_MAX);
        self.subscribers.retain(|(_, subscriber)| !subscriber.is_closed());
        self.subscribers.push((owner, sender));
        receiver
    }

    pub(super) fn tell(&mut self, view: &View, audit: &Audit) {
        // Those who listen know already that nobody holds it.
        let is_known = self.logged.get(&view.claim.lease) == Some(&State::Releasing)
            && matches!(view.state, State::Releasing | State::Released);
        self.log(view, audit);
        if is_known {
            return;
        }
        self.subscribers.retain(|(owner, subscriber)| {
            *owner != view.owner || subscriber.try_send(view.clone()).is_ok()
        });
    }

    /// Each transition once; that a deadline moved is none. Who has what is for the audit to say,
    /// how well it is kept stands in the log alone.
    fn log(&mut self, view: &View, audit: &Audit) {
        let lease = view.claim.lease;
        let is_over = matches!(view.state, State::Lost(_) | State::Released);
        let before = if is_over {
            self.logged.remove(&lease)
        } else {
            self.logged.insert(lease, view.state.clone())
        };
        if before.as_ref() == Some(&view.state) {
            return;
        }
        audit.changed(view, before.as_ref());
        let resource = view.claim.resource.as_str();
        let principal = view.claim.principal.as_str();
        let backend = view.claim.backend.as_str();
        let fence = view.fence.map(|fence| fence.0);
        match &view.state {
            State::Held if before == Some(State::AtRisk) => {
                tracing::info!(resource, %lease, principal, fence, backend, "lease is safe again");
            }
            State::AtRisk => {
                tracing::warn!(resource, %lease, principal, fence, backend, "lease is at risk");
            }
            State::Unknown => {
                tracing::info!(resource, %lease, principal, fence, backend, "lease is unproven");
            }
            State::Lingering => {
                tracing::info!(
                    resource, %lease, principal, fence, backend,
                    "the holder has ended: the lease stays for those it held it for"
                );
            }
            State::Held | State::Releasing | State::Released | State::Lost(_) | State::Asking => {}
        }
    }
}

/// Says that another writer moved a lease's end. One that is kept is being set again.
pub(super) fn warn_of(view: &View, touch: Touch) {
    let lease = view.claim.lease;
    let resource = view.claim.resource.as_str();
    let backend = view.claim.backend.as_str();
    match touch {
        Touch::Cut => {
            tracing::warn!(resource, %lease, backend, "another writer cut the lease short");
        }
        Touch::Lengthened => {
            tracing::warn!(resource, %lease, backend, "another writer made the lease last longer");
        }
    }
}
