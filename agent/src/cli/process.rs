//! What the process sets for itself before it does anything else.

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

/// Nothing that the agent makes is for others, unless it says so itself.
const PRIVATE: Mode = Mode::from_raw_mode(0o077);

/// Keeps passwords from other processes of the same user and from core dumps, and chooses the one
/// TLS provider before anything asks for one.
pub(crate) fn protect_secrets() {
    // It fails where the kernel is older than the call, and when a provider is chosen already.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// For an agent that serves: as many connections as the host allows, and private files. Not for
/// `dev`, whose child would inherit both.
pub(crate) fn prepare_to_serve() {
    umask(PRIVATE);
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, files) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
