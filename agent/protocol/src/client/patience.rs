//! How long a client waits.

use std::time::{Duration, Instant};

use super::ClientError;

/// How much longer one exchange may take: a peer that trickles bytes gets no extension.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    from: Instant,
    pub(super) limit: Duration,
}

#[expect(clippy::disallowed_methods, reason = "how long a person waits, not a lease's time")]
impl Patience {
    pub(super) fn new(limit: Duration) -> Patience {
        Patience { from: Instant::now(), limit }
    }

    pub(super) fn left(&self) -> Result<Duration, ClientError> {
        match self.limit.checked_sub(self.from.elapsed()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(ClientError::Mute(self.limit)),
        }
    }
}
