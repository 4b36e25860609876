//! Waiting for a descriptor that tokio has no type for: timers and pidfds.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

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
