//! A Redis URL as the Python client takes it, in the parts that our configuration has.

/// What the Python client takes when the file says nothing.
pub(super) const PYTHON_DEFAULT: &str = "redis://localhost:6379";

/// The parts of a URL.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// Without login and options.
    pub(super) url: String,
    pub(super) username: Option<String>,
    /// The password itself is not kept.
    pub(super) has_password: bool,
    pub(super) ca_file: Option<String>,
    pub(super) cert_file: Option<String>,
    pub(super) key_file: Option<String>,
    /// Names of options that we have no key for.
    pub(super) left_out: Vec<String>,
}

/// Takes a URL apart; the error does not quote it.
pub(super) fn take_apart(url: &str) -> Result<Parts, String> {
    let form = || "is not redis://, rediss:// or unix://".to_owned();
    let (scheme, rest) = url.split_once("://").ok_or_else(form)?;
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut parts = Parts::default();
    let mut db = None;
    // As in Python: an option without a value counts as none, and of several the first counts.
    let options = query.split('&').filter_map(|option| option.split_once('='));
    for (name, value) in options.filter(|(_, value)| !value.is_empty()) {
        let value = decode(&value.replace('+', " "))?;
        let part = match name {
            "db" => &mut db,
            "username" => &mut parts.username,
            "ssl_ca_certs" => &mut parts.ca_file,
            "ssl_certfile" => &mut parts.cert_file,
            "ssl_keyfile" => &mut parts.key_file,
            "password" => {
                parts.has_password = true;
                continue;
            }
            other => {
                parts.left_out.push(other.to_owned());
                continue;
            }
        };
        part.get_or_insert(value);
    }
    let (authority, path) = match place.find('/') {
        Some(at) => place.split_at(at),
        None => (place, ""),
    };
    let (login, address) = match authority.rsplit_once('@') {
        Some((login, address)) => (Some(login), address),
        None => (None, authority),
    };
    if let Some(login) = login {
        let (username, password) = login.split_once(':').unwrap_or((login, ""));
        let username = decode(username)?;
        parts.username = Some(username).filter(|name| !name.is_empty()).or(parts.username);
        parts.has_password |= !password.is_empty();
    }
    let path = decode(path)?;
    parts.url = match scheme {
        "redis" | "rediss" => {
            let address = if address.is_empty() { "localhost" } else { address };
            // As in Python: a path that is no number counts as none.
            let path = path.replace('/', "");
            let db = db.unwrap_or_else(|| path.parse::<u32>().map_or(String::new(), |_| path));
            let slash = if db.is_empty() { "" } else { "/" };
            format!("{scheme}://{}{slash}{db}", decode(address)?)
        }
        "unix" => {
            let db = db.map(|db| format!("?db={db}"));
            format!("redis+unix://{path}{}", db.unwrap_or_default())
        }
        _ => return Err(form()),
    };
    Ok(parts)
}

/// Undoes `%XX`.
pub(super) fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = |digit: &u8| char::from(*digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
        match (first, after) {
            (b'%', [high, low, after @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                bytes.push(hex(high).unwrap_or(0) << 4 | hex(low).unwrap_or(0));
                rest = after;
            }
            (plain, after) => {
                bytes.push(*plain);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| "holds %XX that is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str, change: impl FnOnce(&mut Parts)) -> Parts {
        let mut parts = Parts { url: url.to_owned(), ..Parts::default() };
        change(&mut parts);
        parts
    }

    fn check(url: &str, expected: Parts) {
        assert_eq!(take_apart(url), Ok(expected), "{url}");
    }

    #[test]
    fn a_url_is_taken_apart_as_the_python_client_does() {
        let user = || Some("u".to_owned());
        check("redis://example.com:6379", parts("redis://example.com:6379", |_| ()));
        check(PYTHON_DEFAULT, parts(PYTHON_DEFAULT, |_| ()));
        check("redis://", parts("redis://localhost", |_| ()));
        check("redis://h/", parts("redis://h", |_| ()));
        check("redis://h/3", parts("redis://h/3", |_| ()));
        check("redis://h/x", parts("redis://h", |_| ()));
        check("redis://h/3?db=4&db=5", parts("redis://h/4", |_| ()));
        check("redis://h/3?db=&x", parts("redis://h/3", |_| ()));
        check("redis://u@h?username=other", parts("redis://h", |it| it.username = user()));
        check("rediss://:pw@h:1/2", parts("rediss://h:1/2", |it| it.has_password = true));
        check("redis://u@h", parts("redis://h", |it| it.username = user()));
        check(
            "redis://%75:p%40w@h",
            parts("redis://h", |it| (it.username, it.has_password) = (user(), true)),
        );
        check(
            "redis://a:b@c@h",
            parts("redis://h", |it| {
                (it.username, it.has_password) = (Some("a".to_owned()), true);
            }),
        );
        check(
            "redis://h?username=u&password=pw",
            parts("redis://h", |it| (it.username, it.has_password) = (user(), true)),
        );
        check("unix:///run/r.sock", parts("redis+unix:///run/r.sock", |_| ()));
        check(
            "unix://u@/run/r.sock?db=2&password=pw",
            parts("redis+unix:///run/r.sock?db=2", |it| {
                (it.username, it.has_password) = (user(), true);
            }),
        );
        check(
            "rediss://h?ssl_ca_certs=%2Fca.pem&ssl_cert_reqs=none&socket_timeout=5",
            parts("rediss://h", |it| {
                it.ca_file = Some("/ca.pem".to_owned());
                it.left_out = vec!["ssl_cert_reqs".to_owned(), "socket_timeout".to_owned()];
            }),
        );
    }

    #[test]
    fn what_the_python_client_refuses_is_refused_without_quoting_it() {
        for url in ["", "h:6379", "http://:hunter2@h", "redis:h"] {
            assert_eq!(take_apart(url), Err("is not redis://, rediss:// or unix://".to_owned()));
        }
        assert_eq!(take_apart("redis://%ff@h"), Err("holds %XX that is not UTF-8".to_owned()));
    }
}
