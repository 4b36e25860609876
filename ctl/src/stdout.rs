//! Whether there is a stdout at all. The runtime opens /dev/null in place of one that was closed
//! (`>&-`) before `main` begins, and what is written there is lost without an error: so the look is
//! taken before that.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, fcntl_getfd};

static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Called by the loader with the program's first steps.
#[used]
#[expect(unsafe_code, reason = "nothing of ours runs earlier, and std has no word for it")]
// SAFETY: the section holds functions of the C ABI, which the loader calls once each; this one
// allocates nothing and needs nothing of std's runtime.
#[unsafe(link_section = ".init_array")]
static LOOK_FIRST: extern "C" fn() = look;

extern "C" fn look() {
    let is_closed = fcntl_getfd(rustix::stdio::stdout()) == Err(Errno::BADF);
    IS_CLOSED.store(is_closed, Ordering::Relaxed);
}

/// Writes all of it, or says why not.
pub(crate) fn write(data: &[u8]) -> io::Result<()> {
    if !data.is_empty() && IS_CLOSED.load(Ordering::Relaxed) {
        return Err(Errno::BADF.into());
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(data).and_then(|()| stdout.flush())
}
