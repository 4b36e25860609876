//! What the process sets for itself before it does anything else.

use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder};

use anyhow::Context;
use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

use super::exit::Failure;

/// More than an agent begins until it is ready.
const THREADS: usize = 8;

/// What to do where the system lets nothing begin.
pub(crate) const NO_PROCESSES: &str = "its user, its unit or the host has as many processes as \
     it may (LimitNPROC= and TasksMax= in systemd): end some, or allow more, and start it again";

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

/// An agent that gets no thread says so: libraries that want one for the log or to wait in would
/// panic.
pub(crate) fn ensure_threads() -> Result<(), Failure> {
    let door = Mutex::new(());
    let closed = door.lock();
    let all_at_once = thread::scope(|scope| {
        let wait = || drop(door.lock().unwrap_or_else(PoisonError::into_inner));
        let begun =
            (0..THREADS).try_for_each(|_| Builder::new().spawn_scoped(scope, wait).map(drop));
        drop(closed);
        begun
    });
    let failed = |error| Failure::unavailable(error).advise(Some(NO_PROCESSES));
    all_at_once.context("beginning the threads that an agent needs").map_err(failed)
}
