//! Locks among the users of this one host.

use super::Clock;

/// The local store. What it must remember stands in the agent's journal.
#[derive(Debug)]
pub struct Local {}

impl Local {
    /// An empty store.
    #[must_use]
    pub fn new(clock: Clock) -> Local {
        let _ = clock;
        Local {}
    }
}
