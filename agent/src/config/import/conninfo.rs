//! A connection string of libpq, as the Python tool's PostgreSQL takes it, in the parts that our
//! configuration has: `host=h dbname=d` or a URL.

use super::redis_url::decode;

/// The folder of the socket that libpq of Debian takes when there is no host.
const SOCKET: &str = "/var/run/postgresql";

/// The parts of a connection string.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// Without login and options.
    pub(super) url: String,
    pub(super) username: Option<String>,
    /// The password itself is not kept.
    pub(super) has_password: bool,
    pub(super) passfile: Option<String>,
    pub(super) ca_file: Option<String>,
    pub(super) cert_file: Option<String>,
    pub(super) key_file: Option<String>,
    /// What it says of TLS that ours does not do.
    pub(super) sslmode: Option<String>,
    /// Names of options that we have no key for.
    pub(super) left_out: Vec<String>,
}

/// Takes a connection string apart; the error does not quote it.
pub(super) fn take_apart(text: &str) -> Result<Parts, String> {
    let is_url = ["postgres://", "postgresql://"].iter().any(|it| text.starts_with(it));
    let pairs = if is_url { of_url(text)? } else { of_words(text)? };
    let mut parts = Parts::default();
    let (mut host, mut address, mut port, mut database) = (None, None, None, None);
    for (key, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
        let part = match key.as_str() {
            "host" => &mut host,
            "hostaddr" => &mut address,
            "port" => &mut port,
            "dbname" => &mut database,
            "user" => &mut parts.username,
            "passfile" => &mut parts.passfile,
            "sslrootcert" => &mut parts.ca_file,
            "sslcert" => &mut parts.cert_file,
            "sslkey" => &mut parts.key_file,
            "sslmode" => &mut parts.sslmode,
            "password" => {
                parts.has_password = true;
                continue;
            }
            // Ours looks for the primary anyway.
            "target_session_attrs" => continue,
            _ => {
                parts.left_out.push(key);
                continue;
            }
        };
        *part = Some(value);
    }
    let Some(database) = database else {
        return Err("names no database, and the caller's name that libpq takes then is none of \
                    the agent's: add dbname"
            .to_owned());
    };
    let mode = match parts.sslmode.as_deref() {
        Some(mode @ ("disable" | "verify-full")) => Some(mode.to_owned()),
        _ => None,
    };
    if mode.is_some() {
        parts.sslmode = None;
    }
    // With both, the address is where to connect and the name only what is verified.
    let hosts = host.or(address).unwrap_or_else(|| SOCKET.to_owned());
    parts.url = url(&hosts, port.as_deref(), &database, mode.as_deref());
    Ok(parts)
}

fn url(hosts: &str, ports: Option<&str>, database: &str, mode: Option<&str>) -> String {
    let mode = mode.map(|mode| format!("sslmode={mode}"));
    if hosts.starts_with('/') {
        let port = ports.map_or(String::new(), |port| format!("&port={port}"));
        return format!("postgres:///{database}?host={hosts}{port}");
    }
    let ports: Vec<&str> = ports.map_or(Vec::new(), |ports| ports.split(',').collect());
    let places = hosts.split(',').enumerate().map(|(at, host)| {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        // As in libpq: one port is for all.
        match ports.get(at).or(ports.first().filter(|_| ports.len() == 1)) {
            Some(port) if !port.is_empty() => format!("{host}:{port}"),
            _ => host,
        }
    });
    let places = places.collect::<Vec<_>>().join(",");
    let query = mode.map_or(String::new(), |mode| format!("?{mode}"));
    format!("postgres://{places}/{database}{query}")
}

/// `key = 'value'` and `key=value`, with `\` before what is meant as such.
fn of_words(text: &str) -> Result<Vec<(String, String)>, String> {
    let form = || "is neither KEY=VALUE words nor a postgresql:// URL".to_owned();
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(form)?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(form());
        }
        let after = after.trim_start();
        let (is_quoted, after) = match after.strip_prefix('\'') {
            Some(after) => (true, after),
            None => (false, after),
        };
        let mut value = String::new();
        let mut chars = after.char_indices();
        let mut end = after.len();
        let mut is_closed = !is_quoted;
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                '\'' if is_quoted => {
                    (is_closed, end) = (true, at + 1);
                    break;
                }
                c if !is_quoted && c.is_whitespace() => {
                    end = at;
                    break;
                }
                c => value.push(c),
            }
        }
        if !is_closed {
            return Err("has a quote that does not end".to_owned());
        }
        pairs.push((key.to_owned(), value));
        rest = after.get(end..).unwrap_or_default().trim_start();
    }
    Ok(pairs)
}

fn of_url(text: &str) -> Result<Vec<(String, String)>, String> {
    let (_, rest) = text.split_once("://").unwrap_or_default();
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (login, hosts),
        None => ("", authority),
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[').and_then(|it| it.split_once(']')) {
            Some((name, port)) => (name, port.strip_prefix(':').unwrap_or(port)),
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(decode(name)?);
        ports.push(port);
    }
    let has_ports = ports.iter().any(|port| !port.is_empty());
    let ports = if has_ports { ports.join(",") } else { String::new() };
    let mut pairs = vec![
        ("host".to_owned(), names.join(",")),
        ("port".to_owned(), ports),
        ("dbname".to_owned(), decode(database)?),
        ("user".to_owned(), decode(user)?),
        ("password".to_owned(), decode(password)?),
    ];
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        pairs.push((key.to_owned(), decode(value)?));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, url: &str, change: impl FnOnce(&mut Parts)) {
        let mut expected = Parts { url: url.to_owned(), ..Parts::default() };
        change(&mut expected);
        assert_eq!(take_apart(text), Ok(expected), "{text}");
    }

    #[test]
    fn a_connection_is_taken_apart_as_libpq_does() {
        let user = || Some("u".to_owned());
        check("host=h dbname=d", "postgres://h/d", |_| ());
        check("dbname = d", "postgres:///d?host=/var/run/postgresql", |_| ());
        check("host=/run port=6 dbname=d", "postgres:///d?host=/run&port=6", |_| ());
        check("host=a,b port=5,6 dbname=d", "postgres://a:5,b:6/d", |_| ());
        check("host=a,b port=5 dbname=d", "postgres://a:5,b:5/d", |_| ());
        check("hostaddr=::1 dbname=d", "postgres://[::1]/d", |_| ());
        check("postgresql://h:1/d", "postgres://h:1/d", |_| ());
        check("postgres://h,[::1]:2/d", "postgres://h,[::1]:2/d", |_| ());
        check("postgresql://%2Frun/d", "postgres:///d?host=/run", |_| ());
        let full = "postgresql://u:p%40@h/d?sslmode=verify-full";
        check(full, "postgres://h/d?sslmode=verify-full", |it| {
            (it.username, it.has_password) = (user(), true);
        });
        check("user='u' password = 'a \\'b' host=h dbname=d", "postgres://h/d", |it| {
            (it.username, it.has_password) = (user(), true);
        });
        check("host=h dbname=d sslmode=require connect_timeout=3", "postgres://h/d", |it| {
            it.sslmode = Some("require".to_owned());
            it.left_out = vec!["connect_timeout".to_owned()];
        });
    }

    #[test]
    fn what_says_no_store_is_refused_without_quoting_it() {
        for text in ["", "hunter2", "host=h password='hunter2", "host=h password=hunter2", "=x"] {
            let why = take_apart(text).unwrap_err();
            assert!(!why.contains("hunter2"), "{text}: {why}");
        }
    }
}
