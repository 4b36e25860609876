//! Redis.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

/// As `kind` in the configuration.
pub(super) const KIND: &str = "redis";

/// How to reach a Redis and what to write there.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where: `redis://HOST:PORT/DB`, `rediss://...` or `redis+unix:///PATH`; never with a password.
    pub url: String,
    /// ACL user; `None` for the default user.
    pub username: Option<String>,
    /// Password.
    pub password: Option<SecretString>,
    /// Before each resource; empty as in the Python tool.
    pub key_prefix: String,
    /// Certificates of authorities to trust, PEM; `None` for the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and its key, PEM.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Ask sentinels for the primary instead of connecting to `url`'s host.
    pub sentinel: Option<Sentinel>,
}

/// A set of sentinels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinel {
    /// `HOST:PORT` of each.
    pub nodes: Vec<String>,
    /// The name of the primary they watch.
    pub service: String,
}

impl Options {
    /// See [`super::Options::same`].
    pub(super) fn same(&self, other: &Options) -> bool {
        // Every field by name: a new one must be thought of here.
        let Options { url, username, password, key_prefix, ca_file, client_cert, sentinel } = self;
        let secret = |of: &Option<SecretString>| of.as_ref().map(|s| s.expose_secret().to_owned());
        *url == other.url
            && *username == other.username
            && secret(password) == secret(&other.password)
            && *key_prefix == other.key_prefix
            && *ca_file == other.ca_file
            && *client_cert == other.client_cert
            && *sentinel == other.sentinel
    }
}
