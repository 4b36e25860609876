//! Checks a `kind = "redis"` table. Whether that Redis is there is the backend's business.

use stormlock_protocol::name::is_invisible;

use super::Outside;
use super::file::RedisTable;
use super::reader::{Placed, Wrong};
use super::{secret, tls};
use crate::backend::redis::{Options, Sentinel};

/// Longest prefix of keys, in bytes: with the longest resource a key stays short enough to read.
const PREFIX_MAX: usize = 64;

/// What is accepted as `url`, said in each complaint about one.
const URL_FORMS: &str = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB or redis+unix:///PATH";

pub(super) fn check(table: RedisTable, outside: &Outside) -> Result<Options, Wrong> {
    let Some(url) = &table.url else {
        return Err(table.spot.below("url").wrong(format!("is missing, write {URL_FORMS}")));
    };
    check_url(&url.value).map_err(|what| url.spot.wrong(what))?;
    let password = secret::resolve(&table.secret, outside)?;
    if let (Some(username), None) = (&table.username, &password) {
        return Err(username.spot.wrong("has no password, add password_file"));
    }
    let (ca_file, client_cert) =
        tls::check(&table.ca_file, &table.client_cert_file, &table.client_key_file, outside)?;
    let tls_only = table.ca_file.as_ref().or(table.client_cert_file.as_ref());
    if let Some(key) = tls_only.filter(|_| !url.value.starts_with("rediss://")) {
        return Err(key.spot.wrong("has no effect without TLS, write a url with rediss://"));
    }
    let key_prefix = table.key_prefix.as_ref().map(check_prefix).transpose()?;
    Ok(Options {
        sentinel: check_sentinel(&table)?,
        username: table.username.map(|username| username.value),
        url: url.value.clone(),
        password,
        key_prefix: key_prefix.unwrap_or_default(),
        ca_file,
        client_cert,
    })
}

pub(super) fn check_prefix(prefix: &Placed<String>) -> Result<String, Wrong> {
    let Placed { value, spot } = prefix;
    if value.len() > PREFIX_MAX {
        return Err(spot.wrong(format!("is longer than {PREFIX_MAX} bytes, write a shorter one")));
    }
    if value.chars().any(|c| c.is_whitespace() || is_invisible(c)) {
        return Err(spot.wrong("holds white space or an invisible character, remove it"));
    }
    Ok(value.clone())
}

fn check_sentinel(table: &RedisTable) -> Result<Option<Sentinel>, Wrong> {
    let (nodes, service) = match (&table.sentinels, &table.sentinel_service) {
        (None, None) => return Ok(None),
        (Some(nodes), Some(service)) => (nodes, service),
        (Some(nodes), None) => {
            return Err(nodes.spot.wrong("names no primary to ask for, add sentinel_service"));
        }
        (None, Some(service)) => {
            return Err(service.spot.wrong("has nobody to ask, add sentinels = [\"HOST:PORT\"]"));
        }
    };
    if nodes.value.is_empty() {
        return Err(nodes.spot.wrong("is empty, write at least one \"HOST:PORT\""));
    }
    for node in &nodes.value {
        let port = node.value.rsplit_once(':').map(|(_, port)| port);
        if !is_host_and_port(&node.value) || port.is_none_or(|port| !is_port(port)) {
            return Err(node.spot.wrong(format!("{:?} is not HOST:PORT", node.value)));
        }
    }
    if service.value.is_empty() || service.value.chars().any(|c| c.is_whitespace()) {
        return Err(service
            .spot
            .wrong("is not the name of a primary, write it as in sentinel.conf"));
    }
    let nodes = nodes.value.iter().map(|node| node.value.clone()).collect();
    Ok(Some(Sentinel { nodes, service: service.value.clone() }))
}

/// Complains without quoting: there may be a password in it.
pub(super) fn check_url(url: &str) -> Result<(), String> {
    let form = || format!("is not an address of a Redis, write {URL_FORMS}");
    let (scheme, rest) = url.split_once("://").ok_or_else(form)?;
    if url.chars().any(|c| c.is_whitespace() || is_invisible(c)) {
        return Err("holds white space or an invisible character, remove it".to_owned());
    }
    if rest.contains('#') {
        return Err("has a part after #, remove it".to_owned());
    }
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    let has_login = |name: &str| name.starts_with("user") || name.starts_with("pass");
    let in_query = query.is_some_and(|query| query.split('&').any(has_login));
    match scheme {
        "redis" | "rediss" if place.contains('@') => return Err(moved_login()),
        _ if in_query => return Err(moved_login()),
        "redis" | "rediss" => {
            let (host, db) = place.split_once('/').unwrap_or((place, ""));
            if !is_host_and_port(host) || !is_database(db) {
                return Err(form());
            }
            if query.is_some() {
                return Err("has a part after ?, remove it".to_owned());
            }
        }
        "redis+unix" => {
            if !place.starts_with('/') {
                return Err("needs a full path, as in redis+unix:///run/redis.sock".to_owned());
            }
            let db = query.map(|query| query.strip_prefix("db="));
            if !matches!(db, None | Some(Some(_))) || !is_database(db.flatten().unwrap_or("0")) {
                return Err("may have only db=NUMBER after ?".to_owned());
            }
        }
        _ => return Err(form()),
    }
    Ok(())
}

fn moved_login() -> String {
    "holds a user or a password, which would show up in messages; write username and password_file"
        .to_owned()
}

pub(super) fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or("not a port"))),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_host = |c: char| c.is_alphanumeric() || "-_.:%".contains(c);
    !host.is_empty() && host.chars().all(is_host) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

fn is_database(text: &str) -> bool {
    text.is_empty() || (text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok())
}
