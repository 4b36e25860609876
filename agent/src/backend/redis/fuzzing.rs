//! A way in for `tests/fuzz`; no other build has it.

use stormlock_protocol::name::Resource;

use super::script::Said;
use crate::lease::Holder;

/// What is read in the bytes that a server answers to one of our scripts: `None` if no script
/// answers that, else the holder that it tells of.
#[must_use]
pub fn read(answer: &[u8], on: &Resource) -> Option<Option<Holder>> {
    let answer = redis::parse_redis_value(answer).ok()?;
    match Said::read(&answer, on)? {
        Said::Held(holder) => Some(Some(*holder)),
        Said::Free(_)
        | Said::Ours(..)
        | Said::Gone
        | Said::Moved
        | Said::Cloned
        | Said::Done
        | Said::Foreign(_) => Some(None),
    }
}
