//! Where the members of an etcd are, as their URLs say. No connection is made here, and no URL is
//! ever repeated in an error: it might carry a password.

use std::fmt;

use super::super::OpenError;

/// The port that etcd's clients use.
const PORT: u16 = 2379;

/// Where one member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Place {
    /// Reads `http://HOST:PORT` or `https://HOST:PORT`.
    pub(super) fn parse(url: &str) -> Result<Place, OpenError> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| setting(SCHEMES))?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(setting(SCHEMES)),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err(setting(
                "an endpoint carries a user or a password: take it out and give it by the \
                 backend's settings for user and password",
            ));
        }
        if authority.contains(['/', '?', '#']) {
            return Err(setting("an endpoint has a path or options: only HOST:PORT is understood"));
        }
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
            None => PORT,
            Some(port) => port.parse().map_err(|_| {
                setting("the port is no number from 1 to 65535 (an IPv6 address needs brackets)")
            })?,
        };
        Ok(Place { host: host.to_owned(), port, tls })
    }

    /// The URL that requests name; its host was read as one.
    pub(super) fn origin(&self) -> String {
        format!("{}://{self}", if self.tls { "https" } else { "http" })
    }

    /// True when nobody else can listen on the way there.
    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

const SCHEMES: &str = "an endpoint begins with neither http:// nor https://";
const NO_HOST: &str = "an endpoint has no host";

pub(super) fn setting(why: &str) -> OpenError {
    OpenError::Setting(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_as_written() {
        for (text, host, port, tls) in [
            ("http://etcd1", "etcd1", 2379, false),
            ("https://etcd1:99/", "etcd1", 99, true),
            ("https://[::1]:99", "::1", 99, true),
            ("http://[::1]", "::1", 2379, false),
        ] {
            let expected = Place { host: host.to_owned(), port, tls };
            assert_eq!(Place::parse(text).unwrap(), expected, "{text}");
        }
        assert_eq!(Place::parse("https://[::1]:99").unwrap().origin(), "https://[::1]:99");
    }

    #[test]
    fn an_endpoint_that_cannot_be_meant_is_refused_and_not_repeated() {
        for bad in [
            "etcd1:2379",
            "etcd://hunter2",
            "http://",
            "http://:hunter2@etcd1",
            "https://maria:hunter2@etcd1:2379",
            "http://etcd1/hunter2",
            "http://etcd1:hunter2",
            "http://etcd1?password=hunter2",
            "http://::1",
            "http://[::1",
            "http://[::1]hunter2",
        ] {
            let OpenError::Setting(why) = Place::parse(bad).unwrap_err();
            assert!(!why.contains("hunter2"), "{bad}: {why}");
        }
    }
}
