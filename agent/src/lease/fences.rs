//! The fences that this agent saw of late, to notice one that does not rise (law 8).

use std::collections::BTreeMap;

use stormlock_protocol::name::{Fence, Resource};

use super::BackendName;

/// Resources whose fence is kept; what was seen the longest ago is forgotten first.
pub(super) const FENCES_MAX: usize = 4096;

/// The greatest fence of each resource.
#[derive(Debug, Default)]
pub(super) struct Fences {
    /// With the rank in which it was seen.
    known: BTreeMap<(BackendName, Resource), (Fence, u64)>,
    last_rank: u64,
}

impl Fences {
    pub(super) fn of(&self, key: &(BackendName, Resource)) -> Option<Fence> {
        self.known.get(key).map(|(fence, _)| *fence)
    }

    pub(super) fn remember(&mut self, key: (BackendName, Resource), fence: Fence) {
        if self.known.len() >= FENCES_MAX && !self.known.contains_key(&key) {
            let oldest = self.known.iter().min_by_key(|(_, (_, rank))| *rank);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.known.remove(&oldest);
            }
        }
        self.last_rank += 1;
        let (known, rank) = self.known.entry(key).or_insert((fence, 0));
        *known = (*known).max(fence);
        *rank = self.last_rank;
    }
}
