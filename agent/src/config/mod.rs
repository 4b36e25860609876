//! The configuration: valid by construction. `file` mirrors what was written, `check` makes a
//! [`Config`] of it or says where and what is wrong; nothing is checked again after that.
//!
//! Not here: whether a store answers, and when a changed file is read again.

mod check;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod etcd;
mod exec;
mod file;
pub mod import;
mod nearest;
mod postgres;
mod principal;
mod reader;
mod redis;
mod secret;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::zeroize::Zeroizing;
use stormlock_protocol::message::Hold;
use stormlock_protocol::name::{Principal, Resource, Ttl, is_invisible};

use self::principal::Template;
use self::reader::{Wrong, line_at};
use crate::backend::Options;
use crate::lease::{BackendName, Uid};
use crate::others::{self, changed_by, is_open};
use crate::policy::{Glob, Policy, Who};

/// The configuration of the host's agent.
pub const SYSTEM_CONFIG: &str = "/etc/stormlock/stormlock.toml";
/// The configuration of one user's agent, below `$XDG_CONFIG_HOME`.
pub const USER_CONFIG: &str = "stormlock/stormlock.toml";
/// What a package installs as [`SYSTEM_CONFIG`]: every key with its default, commented out.
pub const EXAMPLE: &str = include_str!("stormlock.toml");

/// How long a lease lives that says nothing, in seconds: long enough to outlast a restart of a
/// store, short enough that a crashed host does not block a team for the day.
pub const DEFAULT_TTL_SECS: u64 = 15 * 60;
/// The backend of a configuration that has none.
pub const LOCAL: &str = "local";
/// Longest name of a host, in bytes, as the kernel has it.
pub const HOST_MAX: usize = 64;
/// Largest configuration, in bytes: hundreds of rules; more is the wrong file.
const FILE_MAX: u64 = 256 * 1024;
/// Permission bits that let others than the owner read; in a file with a password, nobody may.
const OTHERS_READ: u32 = 0o044;

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
    /// Where events are written down, if not at the usual place.
    pub audit_file: Option<PathBuf>,
    principal: Template,
    default_backend: BackendName,
    default_ttl: Ttl,
    resources: Vec<OfResource>,
}

/// What a `[[resource]]` says of those it names; the first that matches decides.
#[derive(Debug, Clone)]
struct OfResource {
    names: Vec<Glob>,
    backend: BackendName,
    ttl: Ttl,
    hold: Hold,
}

/// What a resource gets that its acquire does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Where its lock lives; one of [`Config::backends`].
    pub backend: BackendName,
    /// Its ttl; a permit may allow less, see [`crate::policy::Permit::unasked_ttl`].
    pub ttl: Ttl,
    /// How long it is renewed: not at all, for a while, or until it is released. A permit may allow
    /// less.
    pub hold: Hold,
}

/// What a configuration refers to beyond its own text.
#[derive(Debug, Clone)]
pub struct Outside {
    /// Whom the agent serves.
    pub mode: Mode,
    /// The agent's own user.
    pub uid: Uid,
    /// The host's name, as the kernel has it.
    pub nodename: String,
    /// Whether others than the owner can read the file: then no password may stand in it.
    pub others_may_read: bool,
    /// What it is read for.
    pub purpose: Purpose,
    /// The environment.
    pub env: fn(&str) -> Option<OsString>,
}

/// What a configuration is read for; what comes of another than the first is not to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be run.
    Run,
    /// To say whether it is right, perhaps outside of the agent's unit: a credential that systemd
    /// gives to the unit alone is taken for granted, and a program has to be there.
    Check,
    /// To say what its stores need: nothing is connected to, and no password is read.
    Show,
}

/// Why a configuration is refused. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Everyone could make the rules.
    #[error("{0}: everyone can change it, run: chmod o-w {0}", path.display())]
    OpenToAll {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else than root and the agent's own user could.
    #[error("{}: {why}", path.display())]
    OpenToOne {
        /// The file.
        path: PathBuf,
        /// How, and what to do about it.
        why: String,
    },
    /// More than any configuration has.
    #[error("{}: is larger than {FILE_MAX} bytes, is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Something in it is wrong.
    #[error("{}:{line}: {}{what}", path.display(), in_front(key))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The key, as in `backend.main.url`; empty when it is about no key.
        key: String,
        /// What is wrong and what to write instead.
        what: String,
        /// What the system said about another file that the key names.
        #[source]
        source: Option<io::Error>,
    },
}

impl Config {
    /// What holds without a file: locks among the users of this host, and the built-in policy.
    #[must_use]
    pub fn fresh(mode: Mode) -> Config {
        Config::fresh_for(&Outside::here(mode))
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, line, key and what to do.
    pub fn load(path: &Path, mode: Mode) -> Result<Config, ConfigError> {
        Config::read(path, Outside::here(mode))
    }

    /// Reads and checks a file for something else than to run it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_for(purpose: Purpose, path: &Path, mode: Mode) -> Result<Config, ConfigError> {
        Config::read(path, Outside { purpose, ..Outside::here(mode) })
    }

    fn read(path: &Path, outside: Outside) -> Result<Config, ConfigError> {
        let cannot_read = |source| ConfigError::Read { path: path.to_owned(), source };
        let (file, found) = others::open(path).map_err(cannot_read)?;
        let permissions = found.mode();
        if is_open(&found) {
            return Err(ConfigError::OpenToAll { path: path.to_owned() });
        }
        // One that is only checked may yet be on its way to its place.
        if outside.purpose == Purpose::Run
            && let Some(why) = changed_by(path, &found).map_err(cannot_read)?
        {
            return Err(ConfigError::OpenToOne { path: path.to_owned(), why });
        }
        // Wiped at the end: a password may stand in it.
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
        if u64::try_from(bytes.len()).is_ok_and(|len| len > FILE_MAX) {
            return Err(ConfigError::TooLarge { path: path.to_owned() });
        }
        let others_may_read = permissions & OTHERS_READ != 0;
        Config::parse(&bytes, path, &Outside { others_may_read, ..outside })
    }

    /// Reads a file at its usual place; [`Config::fresh`] if there is none. One that is there but
    /// cannot be read is an error: its rules must not be forgotten silently.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_or_fresh(path: &Path, mode: Mode) -> Result<Config, ConfigError> {
        // A link that leads nowhere is there as well.
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Config::fresh(mode)),
            _ => Config::load(path, mode),
        }
    }

    /// Checks what stands in a file.
    ///
    /// # Errors
    /// As [`Config::load`]; passwords are read from where it says.
    pub fn parse(bytes: &[u8], path: &Path, outside: &Outside) -> Result<Config, ConfigError> {
        let wrong = |wrong: Wrong| ConfigError::Wrong {
            path: path.to_owned(),
            line: wrong.spot.line,
            key: visible(&wrong.spot.key),
            what: visible(&wrong.what),
            source: wrong.source,
        };
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let readable = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = line_at(&String::from_utf8_lossy(readable), readable.len());
            wrong(reader::Spot { line, key: String::new() }.wrong("not UTF-8 text"))
        })?;
        file::File::read(text).and_then(|file| check::check(file, outside)).map_err(wrong)
    }

    /// Where the configuration usually stands; none for [`Mode::Dev`], nor for a user without a
    /// home.
    #[must_use]
    pub fn usual_path(mode: Mode) -> Option<PathBuf> {
        match mode {
            Mode::System => Some(PathBuf::from(SYSTEM_CONFIG)),
            Mode::User => user_path(from_env),
            Mode::Dev => None,
        }
    }

    /// What a resource gets that its acquire does not say.
    #[must_use]
    pub fn defaults(&self, on: &Resource) -> Defaults {
        let said = self.resources.iter().find(|it| it.names.iter().any(|glob| glob.matches(on)));
        match said {
            Some(said) => {
                Defaults { backend: said.backend.clone(), ttl: said.ttl, hold: said.hold }
            }
            None => Defaults {
                backend: self.default_backend.clone(),
                ttl: self.default_ttl,
                hold: Hold::No,
            },
        }
    }

    /// What `who` is called in the stores.
    #[must_use]
    pub fn principal(&self, who: &Who) -> Principal {
        self.principal.principal(who)
    }

    fn fresh_for(outside: &Outside) -> Config {
        let host = host_of(&outside.nodename);
        let local = BackendName::new(LOCAL);
        Config {
            principal: Template::standard(&host),
            host,
            backends: BTreeMap::from([(local.clone(), Options::Local)]),
            policy: built_in(outside),
            audit_file: None,
            default_backend: local,
            default_ttl: fresh_ttl(),
            resources: Vec::new(),
        }
    }
}

impl Outside {
    /// This process on this host; no file is open to others until somebody looked.
    fn here(mode: Mode) -> Outside {
        Outside {
            mode,
            uid: Uid(rustix::process::geteuid().as_raw()),
            nodename: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            others_may_read: false,
            purpose: Purpose::Run,
            env: from_env,
        }
    }
}

/// The policy of a configuration without rules.
fn built_in(outside: &Outside) -> Policy {
    match outside.mode {
        Mode::System => Policy::host(),
        Mode::User | Mode::Dev => Policy::only(outside.uid),
    }
}

fn fresh_ttl() -> Ttl {
    Ttl::from_secs(DEFAULT_TTL_SECS).expect("the default is a ttl")
}

/// The kernel takes any bytes as its name, the stores only what a person can read.
fn host_of(nodename: &str) -> String {
    let plain = nodename.chars().map(|c| if is_host_char(c) { c } else { '-' });
    let host: String = plain.take(HOST_MAX).collect();
    if host.is_empty() { "localhost".to_owned() } else { host }
}

fn is_host_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

/// `$XDG_CONFIG_HOME` counts only as a full path, as its specification says.
fn user_path(env: fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let full = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || full("HOME").map(|home| home.join(".config"));
    full("XDG_CONFIG_HOME").or_else(home).map(|directory| directory.join(USER_CONFIG))
}

fn from_env(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// What a complaint quotes is whatever somebody wrote into the file, and it is read on terminals.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_invisible(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

fn in_front(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("key `{key}`: ") }
}
