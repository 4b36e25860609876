//! What a prompt shows: the one lease of the caller's that matters most now, and how many more.

use stormlock_protocol::message::{Glance, Hold, Lease, Reply, State};
use stormlock_protocol::name::UnixMs;

use super::service::{Answered, Caller, Service};
use crate::clock;

impl Service {
    pub(super) async fn glance(&self, caller: &Caller) -> Answered<Reply> {
        let owned = self.driver.owned(caller.who.uid, None, usize::MAX).await?;
        let leases = owned.iter().map(|view| self.told(view));
        Ok(Reply::Glance(glance(leases, clock::wall())))
    }
}

fn glance(leases: impl Iterator<Item = Lease>, now: UnixMs) -> Glance {
    let mut shown: Vec<Lease> = leases.filter(|lease| trouble(lease).is_some()).collect();
    shown.sort_by_cached_key(|lease| (trouble(lease), left_ms(lease, now), lease.since));
    let more = u32::try_from(shown.len().saturating_sub(1)).unwrap_or(u32::MAX);
    Glance { lease: shown.into_iter().next(), more }
}

/// How bad it is, the worst first; `None` for what nobody has yet, or any more.
fn trouble(lease: &Lease) -> Option<u8> {
    match lease.state {
        State::Lost(_) => Some(0),
        State::Unknown | State::AtRisk => Some(1),
        State::Held if lease.ends_soon => Some(2),
        State::Lingering => Some(2),
        State::Held => Some(3),
        State::Asking | State::Released => None,
    }
}

/// How much longer it is held if nobody does anything. One that is kept has no end.
fn left_ms(lease: &Lease, now: UnixMs) -> u64 {
    if lease.state == State::Lingering {
        return lease.left_ms;
    }
    match lease.hold {
        Hold::Until(end) => u64::try_from(end.0.saturating_sub(now.0)).unwrap_or(0),
        Hold::No | Hold::Usual => lease.left_ms,
        Hold::For(_) | Hold::Keep => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use stormlock_protocol::message::{Attach, LostReason};
    use stormlock_protocol::name::{LeaseId, Principal, Resource, Ttl};

    use super::*;

    const NOW: UnixMs = UnixMs(1_764_100_000_000);

    fn lease(name: &str, state: State, hold: Hold) -> Lease {
        Lease {
            resource: Resource::new(name).unwrap(),
            lease: LeaseId::from_bytes([7; 16]),
            fence: None,
            backend: "main".to_owned(),
            this_host_only: false,
            state,
            principal: Principal::new("maria@alpha").unwrap(),
            reason: None,
            since: NOW,
            left_ms: 60_000,
            ttl: Ttl::from_secs(60).unwrap(),
            hold,
            attach: Attach::Detached,
            waiters: 0,
            ends_soon: false,
        }
    }

    #[test]
    fn what_is_lost_comes_before_what_is_at_risk_and_that_before_what_ends_first() {
        let until = |secs: i64| Hold::Until(UnixMs(NOW.0 + secs * 1000));
        let soon = Lease { ends_soon: true, ..lease("soon", State::Held, until(90)) };
        let all = [
            lease("lost", State::Lost(LostReason::Expired), Hold::Keep),
            lease("risk", State::AtRisk, Hold::Keep),
            soon,
            Lease { left_ms: 95_000, ..lease("lingers", State::Lingering, Hold::Keep) },
            lease("first", State::Held, until(30)),
            lease("ttl", State::Held, Hold::No),
            lease("later", State::Held, until(9_000)),
            lease("kept", State::Held, Hold::Keep),
        ];
        let asked = lease("asked", State::Asking, Hold::Keep);
        let given = lease("given", State::Released, Hold::Keep);
        for worst in 0..all.len() {
            // Wherever it stands among the others.
            let rest = all[worst..].iter().rev().cloned();
            let seen = glance(rest.chain([asked.clone(), given.clone()]), NOW);
            let resource = seen.lease.expect("one").resource;
            assert_eq!(resource, all[worst].resource);
            assert_eq!(usize::try_from(seen.more).unwrap(), all.len() - worst - 1);
        }
        assert_eq!(glance([asked, given].into_iter(), NOW), Glance { lease: None, more: 0 });
    }
}
