//! A directory for one private agent, gone with it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};

use super::exit::Failure;

/// Where there is always room for a short path.
const SHORT: &str = "/tmp";
/// Longer bases leave too little of the kernel's 107 bytes for the socket's path.
const BASE_MAX: usize = 64;
/// Names that may be taken before it is no coincidence.
const TRIES: usize = 16;
const MODE: u32 = 0o700;

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct PrivateDir {
    path: PathBuf,
    /// systemd-tmpfiles leaves alone what is locked, however old it is.
    _lock: File,
}

impl PrivateDir {
    pub(crate) fn new() -> Result<PrivateDir, Failure> {
        let base = std::env::temp_dir();
        let is_short = base.is_absolute() && base.as_os_str().as_bytes().len() <= BASE_MAX;
        let base = if is_short { base } else { PathBuf::from(SHORT) };
        PrivateDir::below(&base)
            .with_context(|| format!("making a private directory in {}", base.display()))
            .map_err(Failure::unavailable)
    }

    fn below(base: &Path) -> io::Result<PrivateDir> {
        let mut tries = 0;
        let path = loop {
            let random = getrandom::u64().map_err(io::Error::other)?;
            let path = base.join(format!("stormlock-{random:016x}"));
            tries += 1;
            match DirBuilder::new().mode(MODE).create(&path) {
                Ok(()) => break path,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => {}
                Err(e) => return Err(e),
            }
        };
        let lock = File::open(&path)?;
        flock(&lock, FlockOperation::NonBlockingLockShared)?;
        Ok(PrivateDir { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("stormlockd.sock")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state")
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(dir = %self.path.display(), %error, "the directory stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_private_directory_is_its_owners_alone_and_goes_with_what_is_in_it() {
        let base = tempfile::tempdir().unwrap();
        let private = PrivateDir::below(base.path()).unwrap();
        let path = private.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        fs::create_dir(private.state()).unwrap();
        fs::write(private.state().join("journal"), "x").unwrap();
        drop(private);
        assert!(!path.exists());
    }
}
