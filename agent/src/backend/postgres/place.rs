//! Where a PostgreSQL is, as its URL says. No connection is made here, and no URL is ever repeated
//! in an error: it might carry a password.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// PostgreSQL's own port.
const PORT: u16 = 5432;
/// Most servers of one store: a primary, its standbys, and some to spare.
const PLACES_MAX: usize = 8;
/// Longest name of a database, in bytes, as the server has it.
const DATABASE_MAX: usize = 63;
/// What is accepted, said in each complaint about a URL.
const FORMS: &str = "write postgres://HOST:PORT/DATABASE, or \
    postgres:///DATABASE?host=/run/postgresql for a socket";

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Over the network.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        port: u16,
    },
    /// The folder of a socket on this host, and the port in its name.
    Unix(PathBuf, u16),
}

/// What a URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    /// Never empty.
    pub(super) places: Vec<Place>,
    pub(super) database: String,
    /// `sslmode`, if it is there: with TLS or without.
    pub(super) tls: Option<bool>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "{host}:{port}"),
            Place::Unix(folder, port) => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
        }
    }
}

impl Place {
    /// As a password file names it.
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        match self {
            Place::Tcp { host, port } => (host, *port),
            // libpq's word for a socket in the usual folder; it stands for every socket here.
            Place::Unix(_, port) => ("localhost", *port),
        }
    }

    /// True when what is sent there leaves this host.
    pub(super) fn is_elsewhere(&self) -> bool {
        match self {
            Place::Unix(..) => false,
            Place::Tcp { host, .. } => {
                host != "localhost"
                    && !host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl Url {
    /// Reads a URL; what is wrong with it reads well after its key.
    pub(super) fn parse(url: &str) -> Result<Url, String> {
        let form = || format!("is not an address of a PostgreSQL, {FORMS}");
        let (scheme, rest) = url.split_once("://").ok_or_else(form)?;
        if !["postgres", "postgresql"].contains(&scheme) {
            return Err(form());
        }
        if url.chars().any(|c| c.is_whitespace() || c.is_control() || c == '#' || c == '%') {
            return Err("holds white space, # or %, remove it".to_owned());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, database) = rest.split_once('/').ok_or_else(form)?;
        let has_login = |option: &str| option.starts_with("user") || option.starts_with("pass");
        if hosts.contains('@') || query.split('&').any(has_login) {
            return Err("holds a user or a password, which would show up in messages; write \
                        username and password_file"
                .to_owned());
        }
        if database.is_empty() || database.len() > DATABASE_MAX || database.contains('/') {
            return Err(format!("names no database, {FORMS}"));
        }
        let Query { tls, socket, port } = Query::parse(query)?;
        let places = match (hosts, socket) {
            ("", Some(folder)) => vec![Place::Unix(folder, port.unwrap_or(PORT))],
            (hosts, None) if !hosts.is_empty() && port.is_none() => hosts
                .split(',')
                .map(|place| tcp(place).ok_or_else(form))
                .collect::<Result<Vec<_>, _>>()?,
            _ => return Err(form()),
        };
        if places.len() > PLACES_MAX {
            return Err(format!("has more than {PLACES_MAX} hosts"));
        }
        Ok(Url { places, database: database.to_owned(), tls })
    }
}

/// What stands behind the question mark.
#[derive(Debug, Default)]
struct Query {
    tls: Option<bool>,
    socket: Option<PathBuf>,
    port: Option<u16>,
}

impl Query {
    fn parse(query: &str) -> Result<Query, String> {
        let mut read = Query::default();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=').unwrap_or((option, "")) {
                ("sslmode", "verify-full") => read.tls = Some(true),
                ("sslmode", "disable") => read.tls = Some(false),
                ("sslmode", _) => {
                    return Err("has an sslmode that does not verify the server, write \
                                sslmode=verify-full, or sslmode=disable for no TLS"
                        .to_owned());
                }
                ("host", folder) if folder.starts_with('/') => read.socket = Some(folder.into()),
                ("port", port) => read.port = Some(number(port).ok_or("has a port that is none")?),
                _ => {
                    return Err("may have only sslmode=, or host=/FOLDER and port= of a socket, \
                                after ?"
                        .to_owned());
                }
            }
        }
        Ok(read)
    }
}

/// Reads `HOST:PORT` or `[ADDRESS]:PORT`; without a port it is PostgreSQL's own.
fn tcp(text: &str) -> Option<Place> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_host = |c: char| c.is_alphanumeric() || "-_.:".contains(c);
    if host.is_empty() || !host.chars().all(is_host) {
        return None;
    }
    let port = port.map_or(Some(PORT), number)?;
    Some(Place::Tcp { host: host.to_owned(), port })
}

fn number(port: &str) -> Option<u16> {
    let is_plain = port.bytes().all(|b| b.is_ascii_digit());
    port.parse().ok().filter(|number| is_plain && *number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, places: &[&str], database: &str, tls: Option<bool>) {
        let read = Url::parse(url).unwrap();
        let shown: Vec<_> = read.places.iter().map(ToString::to_string).collect();
        assert_eq!((shown, read.database.as_str(), read.tls), (strings(places), database, tls));
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn every_form_of_a_url_is_read() {
        check("postgres://h/db", &["h:5432"], "db", None);
        check("postgresql://h:1/db?sslmode=disable", &["h:1"], "db", Some(false));
        check("postgres://a,b:6,[::1]:7/db", &["a:5432", "b:6", "[::1]:7"], "db", None);
        check("postgres://h/db?sslmode=verify-full", &["h:5432"], "db", Some(true));
        check("postgres:///db?host=/run/pg", &["/run/pg/.s.PGSQL.5432"], "db", None);
        check("postgres:///db?host=/run/pg&port=6", &["/run/pg/.s.PGSQL.6"], "db", None);
    }

    #[test]
    fn a_wrong_url_is_refused_without_repeating_it() {
        for (bad, word) in [
            ("h/db", "postgres://"),
            ("mysql://hunter2@h/db", "postgres://"),
            ("postgres://u:hunter2@h/db", "password_file"),
            ("postgres://h/db?password=hunter2", "password_file"),
            ("postgres://h/db?user=hunter2", "password_file"),
            ("postgres://h", "postgres://"),
            ("postgres://h/", "database"),
            ("postgres:///db", "postgres://"),
            ("postgres://h:0/db", "postgres://"),
            ("postgres://h:65536/db", "postgres://"),
            ("postgres://h:+1/db", "postgres://"),
            ("postgres://h,/db", "postgres://"),
            ("postgres://h/db?port=1", "postgres://"),
            ("postgres://h/db?host=/run", "postgres://"),
            ("postgres://h/db?sslmode=require", "verify-full"),
            ("postgres://h/db?x=hunter2", "sslmode="),
            ("postgres://h/d b", "white space"),
            ("postgres://a,b,c,d,e,f,g,h,i/db", "more than 8"),
        ] {
            let why = Url::parse(bad).unwrap_err();
            assert!(why.contains(word) && !why.contains("hunter2"), "{bad}: {why}");
        }
    }

    #[test]
    fn what_stays_on_this_host_needs_no_tls() {
        for (url, elsewhere) in [
            ("postgres://127.0.0.1/db", false),
            ("postgres://[::1]/db", false),
            ("postgres://localhost/db", false),
            ("postgres:///db?host=/run", false),
            ("postgres://10.0.0.1/db", true),
            ("postgres://localhost.example/db", true),
        ] {
            assert_eq!(Url::parse(url).unwrap().places[0].is_elsewhere(), elsewhere, "{url}");
        }
    }
}
