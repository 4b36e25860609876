//! A configuration of the Python tool (`.stormlock.cfg`) as TOML.
//!
//! What that tool locks in one store is never silently locked in another: a reference to a backend
//! that this build does not have stays in the result, and the configuration is refused until
//! somebody decides. Passwords are not copied.

mod conninfo;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod etcd;
mod ini;
mod redis_url;

use std::fmt::Write;

use stormlock_protocol::duration::{format_secs, parse_secs};
use stormlock_protocol::name::{Resource, Ttl};

use self::ini::{Ini, Section, Value};
use self::redis_url::Parts;
use crate::backend::postgres::{USER, check_table, check_url};

/// The section for resources that have none.
const DEFAULT: &str = "default";
/// What the sections of backends begin with.
const BACKEND: &str = "backend.";
/// The kinds that both the Python tool and this build have, by that tool's names.
const REDIS: &str = "redis";
const POSTGRES: &str = "postgresql";
const ETCD: &str = "etcd";

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The configuration.
    pub toml: String,
    /// What could not be taken as it was, one sentence each, for the person who imports.
    pub notes: Vec<String>,
}

/// Why a file cannot be imported. The caller says which file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ImportError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong; values are not quoted where a password may stand.
    pub what: String,
}

impl ImportError {
    fn new(line: usize, what: impl Into<String>) -> ImportError {
        ImportError { line, what: what.into() }
    }
}

/// Writes a configuration of the Python tool as TOML.
///
/// # Errors
/// [`ImportError`] for what the Python tool would refuse too, and for ttls and URLs that no
/// configuration of ours can say.
pub fn import(text: &str) -> Result<Imported, ImportError> {
    let ini = Ini::parse(text)?;
    let mut import = Import { ini: &ini, toml: HEAD.to_owned(), notes: Vec::new() };
    let sections = ini.sections();
    let default = ini.section(DEFAULT);
    if let Some(default) = default {
        import.default(default)?;
    }
    for name in import.backend_names()? {
        match ini.section(&format!("{BACKEND}{name}")) {
            section if name == REDIS => import.redis(section)?,
            section if name == ETCD => import.etcd(section)?,
            Some(section) if name == POSTGRES => import.postgres(section)?,
            #[cfg(feature = "dynamodb")]
            section if name == dynamodb::DYNAMODB => import.dynamodb(section)?,
            Some(section) => import.strange_backend(&name, section)?,
            None => import.note(format!("this build has no backend {name:?}, add one by hand")),
        }
    }
    for section in sections {
        if section.name != DEFAULT && !section.name.starts_with(BACKEND) {
            import.resource(section)?;
        }
    }
    Ok(Imported { toml: import.toml, notes: import.notes })
}

const HEAD: &str = "# Made by `stormlockd import` from a configuration of the Python tool.\n";

struct Import<'a> {
    ini: &'a Ini,
    toml: String,
    notes: Vec<String>,
}

impl Import<'_> {
    fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    fn put(&mut self, key: &str, value: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.toml, "{key} = {}", quoted(value));
    }

    fn default(&mut self, section: &Section) -> Result<(), ImportError> {
        if let Some(ttl) = self.ini.get(section, "ttl")? {
            self.put("default_ttl", &short_ttl(&ttl)?);
        }
        if let Some(backend) = self.ini.get(section, "backend")? {
            self.put("default_backend", &backend.text);
            self.note_if_strange(&backend.text, "the default backend");
        } else if let Some(first) = self.backend_names()?.first() {
            self.put("default_backend", first);
        }
        self.principal(section)
    }

    fn resource(&mut self, section: &Section) -> Result<(), ImportError> {
        self.principal(section)?;
        let name = &section.name;
        let ttl = self.ini.get(section, "ttl")?;
        let backend = self.ini.get(section, "backend")?;
        if ttl.is_none() && backend.is_none() {
            return Ok(());
        }
        if let Err(error) = Resource::new(name.as_str()) {
            let line = section.line;
            self.note(format!("[{}] (line {line}) is left out: {error}", name.escape_debug()));
            return Ok(());
        }
        let _ = writeln!(self.toml, "\n[[resource]]\nnames = [{}]", quoted(name));
        if let Some(backend) = backend {
            self.put("backend", &backend.text);
            self.note_if_strange(&backend.text, &format!("the backend of {name}"));
        }
        if let Some(ttl) = ttl {
            self.put("ttl", &short_ttl(&ttl)?);
        }
        Ok(())
    }

    fn principal(&mut self, section: &Section) -> Result<(), ImportError> {
        // An inherited one is noted once, where it stands.
        if !section.keys().any(|key| key == "principal") {
            return Ok(());
        }
        if let Some(Value { text, line }) = self.ini.get(section, "principal")? {
            self.note(format!(
                "principal {text:?} (line {line}) is not taken: the agent knows callers from the \
                 kernel and calls them {{user}}@{{host}}"
            ));
        }
        Ok(())
    }

    fn redis(&mut self, section: Option<&Section>) -> Result<(), ImportError> {
        let url = section.map(|section| self.ini.get(section, "url")).transpose()?.flatten();
        let (text, line) = match &url {
            Some(url) => (url.text.as_str(), url.line),
            None => (redis_url::PYTHON_DEFAULT, section.map_or(0, |section| section.line)),
        };
        let wrong = |what: String| ImportError::new(line, format!("the url {what}"));
        let Parts { url, username, has_password, ca_file, cert_file, key_file, left_out } =
            redis_url::take_apart(text).map_err(wrong)?;
        super::redis::check_url(&url).map_err(wrong)?;
        self.toml.push_str("\n[backend.redis]\nkind = \"redis\"\n");
        self.put("url", &url);
        match username {
            Some(name) if has_password => self.put("username", &name),
            Some(name) => self.note(format!("user {name:?} of the url has no password, left out")),
            None => {}
        }
        if has_password {
            let path = "/etc/stormlock/redis.password";
            self.put("password_file", path);
            self.note(format!(
                "the password of the url (line {line}) is not copied: run install -m 600 /dev/null \
                 {path}, write it into that file, and give the file to the agent's user"
            ));
        }
        let is_tls = url.starts_with("rediss://");
        let files =
            [("ca_file", ca_file), ("client_cert_file", cert_file), ("client_key_file", key_file)];
        for (key, path) in files.into_iter().filter_map(|(key, path)| Some((key, path?))) {
            if is_tls && path.starts_with('/') {
                self.put(key, &path);
            } else {
                self.note(format!("{key} {path:?} of the url is left out: it takes a full path"));
            }
        }
        for option in left_out {
            self.note(format!("option {option:?} of the url (line {line}) is left out"));
        }
        Ok(())
    }

    fn postgres(&mut self, section: &Section) -> Result<(), ImportError> {
        let Some(Value { text, line }) = self.ini.get(section, "connection")? else {
            return Err(ImportError::new(section.line, "there is no connection"));
        };
        let wrong = |what: String| ImportError::new(line, format!("the connection {what}"));
        let parts = conninfo::take_apart(&text).map_err(wrong)?;
        check_url(&parts.url).map_err(wrong)?;
        self.toml.push_str("\n[backend.postgresql]\nkind = \"postgres\"\n");
        self.put("url", &parts.url);
        match &parts.username {
            Some(name) => self.put("username", name),
            None => self.note(format!(
                "the connection (line {line}) names no user: the agent logs in as {USER:?}"
            )),
        }
        if parts.has_password {
            let path = "/etc/stormlock/postgres.password";
            self.put("password_file", path);
            self.note(format!(
                "the password of the connection (line {line}) is not copied: run install -m 600 \
                 /dev/null {path}, write it into that file, and give the file to the agent's user"
            ));
        }
        if let Some(table) = self.ini.get(section, "table")? {
            check_table(&table.text)
                .map_err(|what| ImportError::new(table.line, format!("table {what}")))?;
            self.put("table", &table.text);
        }
        if let Some(mode) = parts.sslmode {
            self.note(format!(
                "sslmode {mode:?} (line {line}) is left out: the agent verifies servers elsewhere \
                 by TLS, or uses none with disable"
            ));
        }
        let certificates = [
            ("ca_file", parts.ca_file),
            ("client_cert_file", parts.cert_file),
            ("client_key_file", parts.key_file),
            ("passfile", parts.passfile.filter(|_| !parts.has_password)),
        ];
        for (key, path) in certificates.into_iter().filter_map(|(key, path)| Some((key, path?))) {
            if path.starts_with('/') {
                self.put(key, &path);
            } else {
                self.note(format!("{key} {path:?} is left out: it takes a full path"));
            }
        }
        for option in parts.left_out {
            self.note(format!("option {option:?} of the connection (line {line}) is left out"));
        }
        self.note(
            "the table needs one of ours beside it: run stormlockd setup postgresql, or give an \
             administrator what it says with --print"
                .to_owned(),
        );
        Ok(())
    }

    /// A backend that this build does not have: as a comment, for whoever decides.
    fn strange_backend(&mut self, name: &str, section: &Section) -> Result<(), ImportError> {
        let quoted_name = quoted(name);
        let _ = writeln!(self.toml, "\n# Not in this build:");
        let _ = writeln!(self.toml, "#[backend.{quoted_name}]\n#kind = {quoted_name}");
        for key in section.keys() {
            let Some(value) = self.ini.get(section, key)? else { continue };
            if may_be_secret(key, &value.text) {
                let line = value.line;
                self.note(format!("{key:?} (line {line}) is left out: it may hold a password"));
            } else {
                let _ = writeln!(self.toml, "#{} = {}", quoted(key), quoted(&value.text));
            }
        }
        self.note(format!(
            "this build has no backend {name:?}: it stands in the file as a comment"
        ));
        Ok(())
    }

    fn note_if_strange(&mut self, backend: &str, what: &str) {
        #[cfg(feature = "dynamodb")]
        let is_known = [REDIS, ETCD, POSTGRES, dynamodb::DYNAMODB].contains(&backend);
        #[cfg(not(feature = "dynamodb"))]
        let is_known = [REDIS, ETCD, POSTGRES].contains(&backend);
        if !is_known {
            self.note(format!(
                "{what} is {backend:?}, which this build does not have: the configuration is \
                 refused until you write another one"
            ));
        }
    }

    /// The backends that have a section or are referred to, each once, in the order of the file.
    fn backend_names(&self) -> Result<Vec<String>, ImportError> {
        let mut names: Vec<String> = Vec::new();
        for section in self.ini.sections() {
            let name = match section.name.strip_prefix(BACKEND) {
                // [backend.KIND.PARAMETER] holds one parameter of a backend.
                Some(name) => name.split('.').next().map(str::to_owned),
                None => self.ini.get(section, "backend")?.map(|value| value.text),
            };
            if let Some(name) = name.filter(|name| !names.contains(name)) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// The ttl as the Python tool reads it, written shortly.
fn short_ttl(ttl: &Value) -> Result<String, ImportError> {
    let wrong = |what: String| ImportError::new(ttl.line, format!("ttl {:?}: {what}", ttl.text));
    let secs = parse_secs(&ttl.text).map_err(|error| wrong(error.to_string()))?;
    Ttl::from_secs(secs).map_err(|error| wrong(error.to_string()))?;
    Ok(format_secs(secs))
}

/// A connection string holds one among other things, so it counts as a whole.
fn may_be_secret(key: &str, value: &str) -> bool {
    let value = value.to_lowercase();
    ["pass", "secret", "token", "access_key"].iter().any(|word| key.contains(word))
        || value.contains("password")
        || value.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
}

/// A TOML string on one line, whatever is in it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
