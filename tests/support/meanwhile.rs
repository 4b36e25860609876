//! Threads that go on while something else is done.

use std::sync::atomic::{AtomicBool, Ordering};

/// Ends those that look at the flag when it is dropped, so also when what they go on for has
/// failed: its panic would wait for them without end.
pub(crate) struct Meanwhile<'a>(pub(crate) &'a AtomicBool);

impl Drop for Meanwhile<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
