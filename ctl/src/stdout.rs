//! What goes to stdout, and whether it arrived. One that was closed (`>&-`) is /dev/null by now:
//! the runtime opens that in its place before `main`, and only unsafe code could look before it.
//! For a prompt of glibc, which is written earlier (`early`), it counts as written all the same.

use std::io::{self, Write};

/// Writes all of it, or says why not.
pub(crate) fn write(data: &[u8]) -> io::Result<()> {
    // What could not be written before is not tried again for it.
    if data.is_empty() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(data).and_then(|()| stdout.flush())
}
