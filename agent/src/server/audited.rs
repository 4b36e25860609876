//! What of a request is for the audit besides what becomes of leases: what policy refused, and who
//! renewed another's lease.

use std::sync::Arc;

use stormlock_protocol::message::{Code, Refusal, Reply, Request, Target};
use stormlock_protocol::name::Resource;

use super::service::{Caller, Service};
use crate::audit::{By, Deed, Event, Outcome};
use crate::lease::View;

/// What somebody wants to do to whose lease. Nothing is remembered of a question that changes
/// nothing, whatever came of it.
pub(super) struct Asked(Option<(Deed, Vec<Target>)>);

impl Asked {
    pub(super) fn of(request: &Request) -> Asked {
        let named = |resources: &[Resource]| -> Vec<Target> {
            let target = |resource: &Resource| Target { resource: resource.clone(), lease: None };
            resources.iter().map(target).collect()
        };
        Asked(match request {
            Request::Acquire(ask) => Some((Deed::Acquire, named(&ask.resources))),
            // Each of several has a word of its own in the reply.
            Request::Release(_) => Some((Deed::Release, Vec::new())),
            Request::Renew(ask) => Some((Deed::Renew, vec![ask.target.clone()])),
            Request::Break(ask) => {
                let (resource, lease) = (ask.resource.clone(), Some(ask.lease));
                Some((Deed::Break, vec![Target { resource, lease }]))
            }
            Request::Attach { leases, .. } | Request::Share { leases, .. } => {
                Some((Deed::Attach, leases.clone()))
            }
            Request::Current(_)
            | Request::IsHeld(_)
            | Request::List(_)
            | Request::Status { .. }
            | Request::Doctor
            | Request::Subscribe
            | Request::Wait { .. }
            | Request::Log(_)
            | Request::Metrics
            | Request::Glance => None,
        })
    }
}

impl Service {
    /// Writes down what policy refused.
    pub(super) fn note_refusals(&self, caller: &Caller, asked: Asked, reply: &Reply) {
        let Some((deed, targets)) = asked.0 else { return };
        match reply {
            Reply::Refused(refusal) => {
                // A refusal names the one that it is about; without that it is about the only one.
                let about = match (&refusal.resource, targets.as_slice()) {
                    (Some(on), targets) => targets.iter().find(|target| target.resource == *on),
                    (None, [only]) => Some(only),
                    (None, _) => None,
                };
                self.note_refusal(caller, deed, about, refusal);
            }
            Reply::Released(outcomes) => {
                for outcome in outcomes {
                    let Some(refusal) = &outcome.refusal else { continue };
                    let (resource, lease) = (outcome.resource.clone(), outcome.lease);
                    self.note_refusal(caller, deed, Some(&Target { resource, lease }), refusal);
                }
            }
            _ => {}
        }
    }

    fn note_refusal(&self, caller: &Caller, deed: Deed, about: Option<&Target>, refusal: &Refusal) {
        if refusal.code != Code::Denied {
            return;
        }
        let by = By::Caller(Arc::clone(&caller.facts));
        let event = Event {
            resource: refusal.resource.clone().or(about.map(|about| about.resource.clone())),
            lease: about.and_then(|about| about.lease),
            ..Event::new(deed, Outcome::Denied, by)
        };
        self.audit.refused(event.explained(&*refusal.message), &caller.facts);
    }

    /// Writes down who moved the end of another's lease. One's own is one's own business.
    pub(super) fn note_renewal(&self, caller: &Caller, view: &View) {
        if view.owner != caller.who.uid {
            let by = By::Caller(Arc::clone(&caller.facts));
            self.audit.record(&Event::of_view(Deed::Renew, Outcome::Done, by, view));
        }
    }
}
