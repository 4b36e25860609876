//! Descriptors: how many there may be, and waiting for one that tokio has no type for (timers and
//! pidfds).

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Resource, getrlimit};
use tokio::io::unix::AsyncFd;

/// How many this process may have open. What users can make it open gets a part of them each, so
/// that there is always one left to reach a store or to write the journal anew.
#[must_use]
pub fn most() -> usize {
    let most = getrlimit(Resource::Nofile).current;
    most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

/// Lets the runtime wait for `fd`, which has to be non-blocking if it is read. Call it inside a
/// runtime.
///
/// # Errors
/// When the kernel or the runtime cannot watch it.
#[expect(
    deprecated,
    reason = "an OwnedFd keeps its number for as long as it lives, which is all that the unsafe \
              replacement asks for"
)]
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
