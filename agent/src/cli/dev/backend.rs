//! The configuration of a private agent: a file, or one store by its URL. It is made in memory, and
//! a password in the URL goes where passwords belong.

use std::fs;
use std::path::Path;

use anyhow::Context;
use secrecy::zeroize::Zeroizing;
use stormlock_agent::config::{Config, ConfigError, Mode, Outside, Purpose};
use stormlock_agent::lease::Uid;

use crate::cli::exit::Failure;
use crate::cli::paths;

const LOCAL: &str = "local";
/// How a URL of an etcd begins, and an endpoint then; etcd itself has no form of its own.
const ETCD: [(&str, &str); 2] = [("etcd://", "http://"), ("etcds://", "https://")];
/// How the URL of a Redis begins.
const REDIS: [&str; 3] = ["redis://", "rediss://", "redis+unix://"];
/// How the URL of a PostgreSQL begins.
const POSTGRES: [&str; 2] = ["postgres://", "postgresql://"];

/// What the private agent works with.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) config: Config,
    /// How far its locks count, for the person at the shell.
    pub(crate) reach: String,
    /// Variables that hold passwords; not for the child.
    pub(crate) secret_variables: Vec<String>,
}

impl Given {
    pub(crate) fn file(path: &Path) -> Result<Given, Failure> {
        let config = Config::load(path, Mode::Dev).map_err(Failure::config)?;
        let text = fs::read_to_string(path)
            .with_context(|| format!("reading {}", path.display()))
            .map_err(Failure::config)?;
        Ok(Given {
            config,
            reach: format!("its stores are those of {}", path.display()),
            secret_variables: secret_variables(&Zeroizing::new(text)),
        })
    }

    pub(crate) fn url(url: &str) -> Result<Given, Failure> {
        if url == LOCAL {
            return Ok(Given {
                config: Config::fresh(Mode::Dev),
                reach: "its locks count for this shell only".to_owned(),
                secret_variables: Vec::new(),
            });
        }
        let Login { plain, user, password } = Login::split(url)?;
        let (kind, place) = place(&plain).ok_or_else(|| unknown(&plain))?;
        let mut toml = Zeroizing::new(format!("[backend.{kind}]\nkind = \"{kind}\"\n{place}"));
        let mut add = |key: &str, value: &str| {
            toml.push_str(&format!("{key} = {}\n", toml::Value::from(value)));
        };
        if let Some(user) = &user {
            add("username", user);
        }
        if let Some(password) = &password {
            add("password", password);
        }
        let outside = Outside {
            mode: Mode::Dev,
            uid: Uid(rustix::process::geteuid().as_raw()),
            nodename: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            others_may_read: false,
            purpose: Purpose::Run,
            env: paths::env,
        };
        let config = Config::parse(toml.as_bytes(), Path::new("--backend"), &outside);
        let config = config.map_err(|error| match error {
            ConfigError::Wrong { what, .. } => Failure::usage(format!("--backend {what}")),
            other => Failure::config(other),
        })?;
        Ok(Given { config, reach: format!("its locks are in {plain}"), secret_variables: vec![] })
    }
}

/// What is no store that a URL can name. Only the kind is repeated: the rest may hold a password.
fn unknown(url: &str) -> Failure {
    let is_kind = |kind: &&str| kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '+');
    let given = match url.split_once("://").map(|(kind, _)| kind).filter(is_kind) {
        Some(kind) => format!("{kind}:// is no store that is known here"),
        None => "is neither local nor a URL".to_owned(),
    };
    Failure::usage(format!(
        "--backend {given}: write local, redis://HOST:PORT/DB (with TLS rediss://), \
         redis+unix:///PATH, etcd://HOST:PORT (with TLS etcds://) or \
         postgres://HOST:PORT/DATABASE; for DynamoDB, or a program of your own, use --config FILE"
    ))
}

/// The kind of store that a URL means, and the line that says where it is.
fn place(url: &str) -> Option<(&'static str, String)> {
    for (begins, endpoint) in ETCD {
        if let Some(hosts) = url.strip_prefix(begins) {
            let endpoints = hosts.split(',').map(|host| format!("{endpoint}{host}"));
            let endpoints: Vec<_> = endpoints.map(toml::Value::from).collect();
            return Some(("etcd", format!("endpoints = {}\n", toml::Value::from(endpoints))));
        }
    }
    let begins = |all: &[&str]| all.iter().any(|begins| url.starts_with(begins));
    let kind = match url {
        _ if begins(&POSTGRES) => "postgres",
        _ if begins(&REDIS) => "redis",
        _ => return None,
    };
    Some((kind, format!("url = {}\n", toml::Value::from(url))))
}

/// A URL without what must not be seen, and that.
#[derive(Debug, PartialEq, Eq)]
struct Login {
    plain: String,
    user: Option<String>,
    password: Option<Zeroizing<String>>,
}

impl Login {
    fn split(url: &str) -> Result<Login, Failure> {
        let none = || Login { plain: url.to_owned(), user: None, password: None };
        let Some((scheme, rest)) = url.split_once("://") else { return Ok(none()) };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (place, after) = rest.split_at(end);
        let Some((login, host)) = place.rsplit_once('@') else { return Ok(none()) };
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (login, None),
        };
        let decode = |text: &str| {
            percent_decode(text).ok_or_else(|| {
                Failure::usage("--backend: what stands before @ is not percent-encoded text")
            })
        };
        let user = Some(user).filter(|user| !user.is_empty()).map(decode).transpose()?;
        Ok(Login {
            plain: format!("{scheme}://{host}{after}"),
            user: user.map(|user| user.to_string()),
            password: password.map(decode).transpose()?,
        })
    }
}

fn percent_decode(text: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok().map(Zeroizing::new)
}

/// The keys that name such a variable.
const SECRET_KEYS: [&str; 2] = ["password_env", "secret_access_key_env"];

/// Every variable that holds a secret, wherever it stands; the file has passed, so it is TOML.
fn secret_variables(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        collect(&toml::Value::Table(table), &mut found);
    }
    found
}

fn collect(value: &toml::Value, found: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                match value {
                    toml::Value::String(name) if SECRET_KEYS.contains(&key.as_str()) => {
                        found.push(name.clone());
                    }
                    other => collect(other, found),
                }
            }
        }
        toml::Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        toml::Value::String(_)
        | toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use stormlock_agent::backend::Options;

    use super::*;

    fn options(url: &str) -> Box<stormlock_agent::backend::redis::Options> {
        let given = Given::url(url).unwrap();
        match given.config.backends.into_values().next() {
            Some(Options::Redis(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_password_in_the_url_moves_out_of_it() {
        let options = options("redis://maria:p%40ss%22w@127.0.0.1:6379/2");
        assert_eq!(options.url, "redis://127.0.0.1:6379/2");
        assert_eq!(options.username.as_deref(), Some("maria"));
        assert_eq!(options.password.unwrap().expose_secret(), "p@ss\"w");
    }

    #[test]
    fn a_password_without_a_user_and_a_url_without_both_work() {
        let with = options("redis://:secret@127.0.0.1:6379/0");
        assert_eq!((with.username, with.password.is_some()), (None, true));
        let without = options("redis://127.0.0.1:6379/0");
        assert_eq!((without.username, without.password.is_none()), (None, true));
    }

    #[test]
    fn a_url_of_postgres_is_one_of_its_own() {
        let given = Given::url("postgres://maria:p%40ss@127.0.0.1:5433/locks").unwrap();
        let Some(Options::Postgres(options)) = given.config.backends.into_values().next() else {
            panic!("not a PostgreSQL")
        };
        assert_eq!(options.url, "postgres://127.0.0.1:5433/locks");
        assert_eq!((options.username.as_str(), options.table.as_str()), ("maria", "stormlock"));
        assert_eq!(options.password.unwrap().expose_secret(), "p@ss");
    }

    #[test]
    fn a_wrong_url_is_refused_without_its_password() {
        for url in ["http://u:hush@h/", "u:hush@h", "redis://u:hush@", "redis://u:hush%ZZ@h/0"] {
            let text = Given::url(url).unwrap_err().text();
            assert!(text.starts_with("--backend") && !text.contains("hush"), "{url}: {text}");
        }
    }

    #[test]
    fn a_kind_that_is_none_is_told_which_there_are() {
        for (url, given) in [
            ("bogus", "is neither local nor a URL"),
            ("u:hush@h", "is neither local nor a URL"),
            ("mongodb://u:hush@h/x", "mongodb:// is no store"),
            ("dynamodb://eu-west-1", "dynamodb:// is no store"),
        ] {
            let text = Given::url(url).unwrap_err().text();
            assert!(text.starts_with(&format!("--backend {given}")), "{url}: {text}");
            for kind in ["local", "redis://", "etcd://", "postgres://", "DynamoDB", "--config"] {
                assert!(text.contains(kind) && !text.contains("hush"), "{url}: {text}");
            }
        }
    }

    #[test]
    fn an_etcd_is_given_by_its_members() {
        let given = Given::url("etcds://maria:p%40ss@e1:2379,e2:2379/").unwrap();
        assert!(!given.reach.contains("maria") && !given.reach.contains("p%40ss"));
        let Some(Options::Etcd(etcd)) = given.config.backends.into_values().next() else {
            panic!("no etcd")
        };
        assert_eq!(etcd.endpoints, ["https://e1:2379", "https://e2:2379/"]);
        let (user, password) = etcd.login.unwrap();
        assert_eq!((user.as_str(), password.expose_secret()), ("maria", "p@ss"));
        for url in ["etcd://", "etcd://h/x", "etcd://h:0", "etcd://u:hush@h,"] {
            let text = Given::url(url).unwrap_err().text();
            assert!(text.starts_with("--backend") && !text.contains("hush"), "{url}: {text}");
        }
    }

    #[test]
    fn local_needs_no_store() {
        let given = Given::url("local").unwrap();
        assert!(matches!(given.config.backends.into_values().next(), Some(Options::Local)));
    }

    #[test]
    fn every_variable_with_a_password_is_known() {
        let text = "[backend.a]\npassword_env = \"A\"\n[backend.b]\nkind = \"local\"\n\
                    [[x]]\npassword_env = \"B\"\n";
        assert_eq!(secret_variables(text), ["A", "B"]);
    }
}
