//! Where a Redis is, as its URL says. No connection is made here, and no URL is ever repeated in
//! an error: it might carry a password.

use std::fmt;
use std::path::PathBuf;

use super::super::OpenError;
use super::setting;

/// Redis' own port.
const PORT: u16 = 6379;

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Over the network.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        port: u16,
    },
    /// A socket on this host.
    Unix(PathBuf),
}

/// What a URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) place: Place,
    pub(super) db: u32,
    pub(super) tls: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "{host}:{port}"),
            Place::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Url {
    /// Reads `redis://HOST:PORT/DB`, `rediss://...` or `redis+unix:///PATH?db=DB`.
    pub(super) fn parse(url: &str) -> Result<Url, OpenError> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| setting(SCHEMES))?;
        let (tls, unix) = match scheme {
            "redis" => (false, false),
            "rediss" => (true, false),
            "redis+unix" => (false, true),
            _ => return Err(setting(SCHEMES)),
        };
        if unix { Url::unix(rest) } else { Url::tcp(rest, tls) }
    }

    fn unix(rest: &str) -> Result<Url, OpenError> {
        let (path, db) = match rest.split_once("?db=") {
            Some((path, db)) => (path, number(db)?),
            None => (rest, 0),
        };
        if !path.starts_with('/') || path.contains('?') {
            return Err(setting("a socket's url is redis+unix:///PATH or redis+unix:///PATH?db=N"));
        }
        Ok(Url { place: Place::Unix(path.into()), db, tls: false })
    }

    fn tcp(rest: &str, tls: bool) -> Result<Url, OpenError> {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(setting(
                "the url carries a user or a password: take it out of the url and give it by the \
                 backend's settings for user and password",
            ));
        }
        if path.contains(['?', '#']) || authority.contains(['?', '#']) {
            return Err(setting("the url has options: only redis://HOST:PORT/DB is understood"));
        }
        let db = if path.is_empty() { 0 } else { number(path)? };
        Ok(Url { place: Place::tcp(authority, PORT)?, db, tls })
    }
}

impl Place {
    /// Reads `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`; `default` where there is no port.
    pub(super) fn tcp(authority: &str, default: u16) -> Result<Place, OpenError> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, tail) = rest.split_once(']').ok_or_else(|| setting(NO_HOST))?;
                (host, if tail.is_empty() { None } else { tail.strip_prefix(':').or(Some("")) })
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() {
            return Err(setting(NO_HOST));
        }
        let port = match port {
            None => default,
            Some(port) => port.parse().map_err(|_| {
                setting("the port is no number from 1 to 65535 (an IPv6 address needs brackets)")
            })?,
        };
        Ok(Place::Tcp { host: host.to_owned(), port })
    }
}

const SCHEMES: &str = "the url begins with none of redis://, rediss:// and redis+unix://";
const NO_HOST: &str = "the url has no host";

fn number(db: &str) -> Result<u32, OpenError> {
    db.parse().map_err(|_| setting("the database at the end of the url is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_as_written() {
        let tcp = |host: &str, port| Place::Tcp { host: host.to_owned(), port };
        for (text, place, db, tls) in [
            ("redis://cache", tcp("cache", 6379), 0, false),
            ("redis://cache:1234/7", tcp("cache", 1234), 7, false),
            ("rediss://10.0.0.1/", tcp("10.0.0.1", 6379), 0, true),
            ("redis://[::1]:99/1", tcp("::1", 99), 1, false),
            ("redis://[::1]", tcp("::1", 6379), 0, false),
            ("redis+unix:///run/redis.sock", Place::Unix("/run/redis.sock".into()), 0, false),
            ("redis+unix:///run/redis.sock?db=3", Place::Unix("/run/redis.sock".into()), 3, false),
        ] {
            assert_eq!(Url::parse(text).unwrap(), Url { place, db, tls }, "{text}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_meant_is_refused_and_not_repeated() {
        for bad in [
            "cache:6379",
            "http://hunter2",
            "redis://",
            "redis:///0",
            "redis://:hunter2@cache",
            "redis://hunter2@cache/0",
            "rediss://maria:hunter2@cache/0",
            "redis://cache/hunter2",
            "redis://cache:hunter2",
            "redis://cache?password=hunter2",
            "redis://cache/0?password=hunter2",
            "redis://::1",
            "redis://[::1",
            "redis://[::1]hunter2",
            "redis+unix://hunter2",
            "redis+unix:///run/x?password=hunter2",
        ] {
            let OpenError::Setting(why) = Url::parse(bad).unwrap_err();
            assert!(!why.contains("hunter2"), "{bad}: {why}");
        }
    }

    #[test]
    fn a_place_is_shown_as_it_is_written() {
        for text in ["cache:6379", "[::1]:99"] {
            assert_eq!(Place::tcp(text, PORT).unwrap().to_string(), text);
        }
    }
}
