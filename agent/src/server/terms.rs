//! The terms of a lease: how long it may live and be held, and the numbers it is given.

use std::time::Duration;

use stormlock_protocol::duration::format_secs;
use stormlock_protocol::message::{self, Code, Refusal};
use stormlock_protocol::name::{LeaseId, Resource, Ttl};

use super::service::Answered;
use crate::clock;
use crate::lease::{self, Hold};
use crate::policy::Permit;

/// Whether the ttl is within what is allowed.
pub(super) fn check_ttl(permit: &Permit, ttl: Ttl, on: &Resource) -> Answered<()> {
    match permit.max_ttl {
        Some(max) if ttl > max => {
            let (asked, max) = (format_secs(secs(ttl)), format_secs(secs(max)));
            let by = permit.ttl_by;
            let why = format!("a ttl of {asked} for {on} is over the {max} that {by} allows");
            Err(Refusal::new(Code::Denied, why).about(on))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_hold(permit: &Permit, hold: message::Hold, on: &Resource) -> Answered<()> {
    let Some(max) = permit.max_hold_secs else { return Ok(()) };
    let asked = match hold {
        message::Hold::No | message::Hold::Usual => return Ok(()),
        message::Hold::For(secs) => Some(i64::from(secs)),
        message::Hold::Until(end) => Some(end.0.saturating_sub(clock::wall().0) / 1000),
        message::Hold::Keep => None,
    };
    if asked.is_some_and(|secs| secs <= i64::from(max)) {
        return Ok(());
    }
    let max = format_secs(max.into());
    let by = permit.hold_by;
    let why = format!("{on} may be held for at most {max}, says {by}; say --for {max}");
    Err(Refusal::new(Code::Denied, why).about(on))
}

/// What a resource's usual hold is for somebody who may hold it for no longer than that.
pub(super) fn unasked_hold(permit: &Permit, usual: message::Hold) -> message::Hold {
    permit.max_hold_secs.map_or(usual, |max| shorter(usual, message::Hold::For(max)))
}

/// Of two holds, neither of them until a time of the day, the one that ends first.
pub(super) fn shorter(one: message::Hold, other: message::Hold) -> message::Hold {
    let length = |hold| match hold {
        message::Hold::No | message::Hold::Usual => 0,
        message::Hold::For(secs) => u64::from(secs),
        message::Hold::Until(_) | message::Hold::Keep => u64::MAX,
    };
    if length(other) < length(one) { other } else { one }
}

fn secs(ttl: Ttl) -> u64 {
    ttl.as_secs().into()
}

/// A person's hold on the boot clock.
pub(super) fn hold_from_now(hold: message::Hold) -> Answered<Hold> {
    let left = match hold {
        message::Hold::No | message::Hold::Usual => return Ok(Hold::No),
        message::Hold::Keep => return Ok(Hold::Keep),
        message::Hold::For(secs) => Duration::from_secs(secs.into()),
        message::Hold::Until(end) => {
            let left = end.0.saturating_sub(clock::wall().0);
            Duration::from_millis(u64::try_from(left).unwrap_or(0))
        }
    };
    if left.is_zero() {
        return Err(Refusal::new(Code::BadRequest, "the hold would be over before it begins"));
    }
    Ok(Hold::Until(clock::now() + left))
}

/// A fresh lease id.
pub(super) fn mint(narrow: bool) -> Answered<LeaseId> {
    Ok(lease::mint(narrow, random()?, random()?))
}

pub(super) fn random() -> Answered<u64> {
    getrandom::u64().map_err(|_| Refusal::new(Code::Internal, "the kernel gives no random numbers"))
}
