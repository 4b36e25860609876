//! Who may do what: pure. Facts about a caller come from the kernel (`server::peer`), rules from the
//! configuration; nothing here asks anybody.

use stormlock_protocol::name::{Resource, Ttl};

use crate::lease::Uid;

/// Who asks, as the kernel knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The user.
    pub uid: Uid,
    /// The user's name; the number as text when there is none.
    pub user: String,
    /// The names of the groups; numbers as text where there is none.
    pub groups: Vec<String>,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// See locks.
    Read,
    /// Take a lock, and renew and release one's own.
    Acquire,
    /// Renew or release by id what another took.
    ReleaseAny,
    /// Take a lock away from its holder.
    Break,
}

/// What an allowed request has to keep to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// Longest ttl.
    pub max_ttl: Option<Ttl>,
    /// Longest hold, in seconds; with one, `--keep` is refused.
    pub max_hold_secs: Option<u32>,
    /// Most leases at once.
    pub max_leases: usize,
    /// A reason must be given.
    pub require_reason: bool,
}

/// Why not: which rule said so, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denial(pub String);

/// The rules; the first that matches decides.
#[derive(Debug, Clone)]
pub struct Policy {}

impl Policy {
    /// Whether `who` may do `act`; `on` is `None` for questions about no resource in particular.
    ///
    /// # Errors
    /// [`Denial`] says which rule, or that none, allows it.
    pub fn judge(&self, who: &Who, act: Act, on: Option<&Resource>) -> Result<Permit, Denial> {
        let _ = (who, act, on);
        Err(Denial("no rule".to_owned()))
    }
}
