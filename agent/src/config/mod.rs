//! The configuration: valid by construction.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stormlock_protocol::name::{Principal, Resource, Ttl};

use crate::backend::Options;
use crate::lease::BackendName;
use crate::policy::{Policy, Who};

/// Whom an agent serves; it decides the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All users of the host.
    System,
    /// The user that started it.
    User,
    /// A private agent of one command or shell.
    Dev,
}

/// What passed.
#[derive(Debug, Clone)]
pub struct Config {
    /// This host, as written into the stores.
    pub host: String,
    /// The stores, by name; never empty.
    pub backends: BTreeMap<BackendName, Options>,
    /// Who may do what.
    pub policy: Policy,
}

/// What a resource gets that its acquire does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Where its lock lives.
    pub backend: BackendName,
    /// Its ttl.
    pub ttl: Ttl,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, line, key and what to do.
    pub fn load(path: &Path, mode: Mode) -> Result<Config, ConfigError> {
        let _ = mode;
        Err(ConfigError::Read {
            path: path.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }

    /// What a resource gets that its acquire does not say.
    #[must_use]
    pub fn defaults(&self, on: &Resource) -> Option<Defaults> {
        let _ = on;
        None
    }

    /// What `who` is called in the stores.
    #[must_use]
    pub fn principal(&self, who: &Who) -> Principal {
        Principal::foreign(&who.user)
    }
}
