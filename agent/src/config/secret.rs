//! Passwords: from where, and that nobody else can read them there. A password never reaches a
//! message, and what was read is wiped.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::file::SecretKeys;
use super::reader::{Placed, Spot, Wrong};
use super::{Outside, Purpose};
use crate::others;

/// Longest password, in bytes: no store takes a longer one, so more is the wrong file.
const SECRET_MAX: u64 = 4096;
/// Permission bits of everyone who is neither owner nor in the group.
const OTHERS: u32 = 0o007;
/// Where systemd puts the credentials of a unit.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The password that one of the keys leads to.
pub(super) fn resolve(keys: &SecretKeys, outside: &Outside) -> Result<Option<SecretString>, Wrong> {
    let set: Vec<&Placed<String>> =
        [&keys.file, &keys.credential, &keys.env, &keys.literal].into_iter().flatten().collect();
    if let [first, second, ..] = set.as_slice() {
        let other = first.spot.key.rsplit('.').next().unwrap_or_default();
        return Err(second.spot.wrong(format!("`{other}` is set as well, keep one of them")));
    }
    if outside.purpose == Purpose::Show {
        return Ok(set.first().map(|_| SecretString::from("")));
    }
    if let Some(path) = &keys.file {
        return from_file(&absolute(path)?, &path.spot).map(Some);
    }
    if let Some(name) = &keys.credential {
        return from_credential(name, outside).map(Some);
    }
    if let Some(name) = &keys.env {
        return from_env(name, outside).map(Some);
    }
    keys.literal.as_ref().map(|literal| from_literal(literal, outside)).transpose()
}

/// A path that means the same wherever the agent was started.
pub(super) fn absolute(path: &Placed<String>) -> Result<PathBuf, Wrong> {
    if path.value.starts_with('/') {
        Ok(PathBuf::from(&path.value))
    } else {
        Err(path.spot.wrong("is not a full path, write one that begins with /"))
    }
}

/// A file with passwords among other things, line by line; nobody else may read it.
pub(super) fn whole_file(path: &Placed<String>, outside: &Outside) -> Result<SecretString, Wrong> {
    let shown = absolute(path)?;
    if outside.purpose == Purpose::Show {
        return Ok(SecretString::from(""));
    }
    let bytes = read_file(&shown, &path.spot)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > SECRET_MAX) {
        return Err(path.spot.wrong(format!("{} has more than 4096 bytes", shown.display())));
    }
    let text = std::str::from_utf8(&bytes);
    text.map(SecretString::from)
        .map_err(|_| path.spot.wrong(format!("{} is not UTF-8 text", shown.display())))
}

fn from_file(path: &Path, spot: &Spot) -> Result<SecretString, Wrong> {
    let bytes = read_file(path, spot)?;
    from_bytes(&bytes).map_err(|what| spot.wrong(format!("{} {what}", path.display())))
}

/// At most one byte more than a password has.
fn read_file(path: &Path, spot: &Spot) -> Result<Zeroizing<Vec<u8>>, Wrong> {
    let shown = path.display();
    let cannot_read = |source: io::Error| Wrong {
        spot: spot.clone(),
        what: format!("reading {shown}"),
        source: Some(source),
    };
    let (file, found) = others::open(path).map_err(cannot_read)?;
    if found.mode() & OTHERS != 0 {
        return Err(spot.wrong(format!("{shown} is open to everyone, run: chmod 600 {shown}")));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(SECRET_MAX + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    Ok(bytes)
}

fn from_credential(name: &Placed<String>, outside: &Outside) -> Result<SecretString, Wrong> {
    let Placed { value, spot } = name;
    if value.is_empty() || value.contains('/') || value.starts_with('.') {
        return Err(spot.wrong("is not a credential's name, write it as in LoadCredential="));
    }
    match (outside.env)(CREDENTIALS) {
        Some(directory) => from_file(&Path::new(&directory).join(value), spot),
        None if outside.purpose == Purpose::Check => Ok(SecretString::from("")),
        None => Err(spot.wrong(format!(
            "there are no credentials here (${CREDENTIALS} is not set); start the agent from a \
             unit with LoadCredential={value}:/path, or use {}",
            file_key(spot)
        ))),
    }
}

fn from_env(name: &Placed<String>, outside: &Outside) -> Result<SecretString, Wrong> {
    let Placed { value, spot } = name;
    let Some(secret) = (outside.env)(value) else {
        return Err(spot.wrong(format!("the environment of the agent has no {value:?}")));
    };
    let secret = Zeroizing::new(secret.into_encoded_bytes());
    from_bytes(&secret).map_err(|what| spot.wrong(format!("${value} {what}")))
}

fn from_literal(literal: &Placed<String>, outside: &Outside) -> Result<SecretString, Wrong> {
    if outside.others_may_read {
        return Err(literal.spot.wrong(format!(
            "stands in a file that others can read; run chmod 600 on it, or move the password \
             into a file of its own and write {}",
            file_key(&literal.spot)
        )));
    }
    from_bytes(literal.value.as_bytes()).map_err(|what| literal.spot.wrong(what))
}

/// The key that names a file instead of the one at `spot`.
fn file_key(spot: &Spot) -> String {
    let key = spot.key.rsplit('.').next().unwrap_or_default();
    format!("{}_file", key.strip_suffix("_credential").unwrap_or(key))
}

fn from_bytes(bytes: &[u8]) -> Result<SecretString, &'static str> {
    if u64::try_from(bytes.len()).is_ok_and(|len| len > SECRET_MAX) {
        return Err("is longer than a password (4096 bytes)");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8 text")?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err("is empty");
    }
    if text.contains(['\n', '\r']) {
        return Err("has more than one line, write only the password");
    }
    Ok(SecretString::from(text))
}
