//! Redis.

use std::path::PathBuf;

use secrecy::SecretString;

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
#[derive(Debug, Clone)]
pub struct Sentinel {
    /// `HOST:PORT` of each.
    pub nodes: Vec<String>,
    /// The name of the primary they watch.
    pub service: String,
}
