//! Where the agent's files are.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use stormlock_agent::config::{Config, Mode};
use stormlock_agent::lease::Uid;
use stormlock_agent::others::{Other, replaced_by};
use stormlock_protocol::{SYSTEM_SOCKET, USER_SOCKET};

use super::exit::Failure;

const SYSTEM_STATE: &str = "/var/lib/stormlock";
/// Below `$XDG_STATE_HOME`.
const USER_STATE: &str = "stormlock";
const STATE_MODE: u32 = 0o700;
/// Permission bits that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// The environment, as a function so that tests have their own.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

pub(crate) fn env(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The whole path: a daemon leaves the directory that it was started in.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .with_context(|| format!("finding {}", path.display()))
        .map_err(Failure::unavailable)
}

pub(crate) fn socket(given: Option<&Path>, mode: Mode, env: Env) -> Result<PathBuf, Failure> {
    match (given, mode) {
        (Some(path), _) => absolute(path),
        (None, Mode::System) => Ok(PathBuf::from(SYSTEM_SOCKET)),
        (None, Mode::User | Mode::Dev) => match full(env, "XDG_RUNTIME_DIR") {
            Some(dir) => Ok(dir.join(USER_SOCKET)),
            None => Err(Failure::usage(
                "XDG_RUNTIME_DIR is not set, so there is no usual place for your agent's socket: \
                 give --socket PATH, and set STORMLOCK_SOCKET for stormctl",
            )),
        },
    }
}

pub(crate) fn state(given: Option<&Path>, mode: Mode, env: Env) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return absolute(path);
    }
    // Systemd separates several by colons; the first is the one that the unit means for it.
    let from_systemd = env("STATE_DIRECTORY").and_then(|list| {
        let first = list.to_str()?.split(':').next()?.to_owned();
        Some(PathBuf::from(first)).filter(|path| path.is_absolute())
    });
    if let Some(path) = from_systemd {
        return Ok(path);
    }
    match mode {
        Mode::System => Ok(PathBuf::from(SYSTEM_STATE)),
        Mode::User | Mode::Dev => full(env, "XDG_STATE_HOME")
            .or_else(|| full(env, "HOME").map(|home| home.join(".local/state")))
            .map(|dir| dir.join(USER_STATE))
            .ok_or_else(|| Failure::usage("HOME is not set: give --state DIR")),
    }
}

pub(crate) fn config(given: Option<&Path>, mode: Mode) -> Result<Option<PathBuf>, Failure> {
    match given {
        Some(path) => absolute(path).map(Some),
        None => Ok(Config::usual_path(mode)),
    }
}

/// Makes the state directory if it is missing, and refuses one in which others could write: the
/// journal there says who holds what.
pub(crate) fn prepare_state(dir: &Path) -> Result<(), Failure> {
    let shown = dir.display();
    let made = DirBuilder::new().recursive(true).mode(STATE_MODE).create(dir);
    made.with_context(|| format!("making the state directory {shown}"))
        .map_err(Failure::unavailable)?;
    let found = fs::metadata(dir)
        .with_context(|| format!("looking at the state directory {shown}"))
        .map_err(Failure::unavailable)?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own {
        let owner = found.uid();
        return Err(Failure::unavailable(anyhow!(
            "the state directory {shown} belongs to uid {owner} and the agent runs as uid {own}: \
             chown it, or give another --state"
        )));
    }
    if found.mode() & OTHERS_WRITE != 0 {
        return Err(Failure::unavailable(anyhow!(
            "others can write in the state directory {shown}: chmod go-w it, or give another \
             --state"
        )));
    }
    not_replaceable(dir)
}

/// Refuses what is in a directory where everyone, or its owner, could put something else in its
/// place.
pub(crate) fn not_replaceable(path: &Path) -> Result<(), Failure> {
    let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) else {
        return Ok(());
    };
    let shown = above.display();
    let found = fs::metadata(above)
        .with_context(|| format!("looking at {shown}"))
        .map_err(Failure::unavailable)?;
    let path = path.display();
    match replaced_by(&found) {
        Some(Other::Owner(Uid(uid))) => Err(Failure::unavailable(anyhow!(
            "uid {uid}, whose directory {shown} is, could put something else in the place of \
             {path}: chown it, or name another"
        ))),
        Some(Other::Everyone) => Err(Failure::unavailable(anyhow!(
            "everyone could put something else in the place of {path}: chmod o-w {shown}"
        ))),
        // A group of the site's own choice.
        Some(Other::Group(_)) | None => Ok(()),
    }
}

pub(crate) fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// A relative path in these variables counts as none, as their specification says.
fn full(env: Env, name: &str) -> Option<PathBuf> {
    env(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn check(mode: Mode, vars: &[(&str, &str)], socket_at: Option<&str>, state_at: Option<&str>) {
        let env = |name: &str| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        let said = |path: Result<PathBuf, Failure>| path.ok();
        assert_eq!(said(socket(None, mode, &env)), socket_at.map(PathBuf::from), "{vars:?}");
        assert_eq!(said(state(None, mode, &env)), state_at.map(PathBuf::from), "{vars:?}");
    }

    #[test]
    fn files_are_where_the_system_and_the_user_expect_them() {
        let system = Some("/run/stormlock/stormlockd.sock");
        check(Mode::System, &[("HOME", "/h")], system, Some("/var/lib/stormlock"));
        check(Mode::System, &[("STATE_DIRECTORY", "/s/a:/s/b")], system, Some("/s/a"));
        check(
            Mode::User,
            &[("XDG_RUNTIME_DIR", "/r"), ("HOME", "/h")],
            Some("/r/stormlock/stormlockd.sock"),
            Some("/h/.local/state/stormlock"),
        );
        let relative = [("XDG_RUNTIME_DIR", "r"), ("XDG_STATE_HOME", "/x")];
        check(Mode::User, &relative, None, Some("/x/stormlock"));
        check(Mode::User, &[], None, None);
    }

    #[test]
    fn a_state_directory_is_made_private_and_one_open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        prepare_state(&state).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, STATE_MODE);
        prepare_state(&state).unwrap();
        fs::set_permissions(&state, Permissions::from_mode(0o770)).unwrap();
        let text = prepare_state(&state).unwrap_err().text();
        assert!(text.contains("chmod go-w"), "{text}");
    }
}
