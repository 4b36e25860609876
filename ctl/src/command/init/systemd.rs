//! `init systemd`: the drop-in that binds a unit to the holder of a lock.
//!
//! It starts nothing and asks systemd nothing: what to type next is told.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use stormlock_protocol::message::Code;
use stormlock_protocol::name::Resource;

use crate::args::{InitSystemd, UNIT_MAX};
use crate::exit::{Answer, Exit, Failure};

/// What people copy by hand: its settings are what is written, with another name in it.
const EXAMPLE: &str = include_str!("../../../../systemd/examples/job.conf");
/// The holder in it.
const EXAMPLES_HOLDER: &str = "stormlock@prod-db.service";
/// Where its settings begin; before that it says how to use it.
const FIRST_SECTION: &str = "[Unit]";
/// Where the drop-ins of the host's units stand.
const SYSTEM: &str = "/etc/systemd/system";
/// The same below a user's folder of configurations.
const USER: &str = "systemd/user";
/// Where else systemd looks for units, see systemd.unit(5).
const SYSTEMS: [&str; 8] = [
    "/etc/systemd/system.control",
    "/run/systemd/system",
    "/run/systemd/transient",
    "/run/systemd/generator",
    "/run/systemd/generator.late",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const USERS: [&str; 7] = [
    "/etc/systemd/user",
    "/run/systemd/user",
    "/usr/local/share/systemd/user",
    "/usr/share/systemd/user",
    "/usr/local/lib/systemd/user",
    "/usr/lib/systemd/user",
    "/lib/systemd/user",
];
/// The same below a user's folder of what runs now.
const USERS_RUNNING: [&str; 4] =
    ["systemd/user", "systemd/transient", "systemd/generator", "systemd/generator.late"];
const BINDS: &str = "BindsTo=";
const FILE: &str = "50-stormlock.conf";

/// Runs the command; it needs no agent.
pub(crate) fn run(args: &InitSystemd) -> Result<Answer, Failure> {
    let text = drop_in(args)?;
    if args.print {
        return Ok(Answer { data: text, ..Answer::default() });
    }
    let folder = folder(args.user)?;
    let path = folder.join(format!("{}.d", args.unit)).join(FILE);
    let before = match fs::read_to_string(&path) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("reading", &path, &error)),
    };
    let is_there = before.as_ref() == Some(&text);
    if before.is_some() && !is_there && !args.force {
        return Err(Failure::usage(format!("{} says something else already", path.display()))
            .advise("--print shows what would be written, and --force replaces it"));
    }
    if !is_there {
        write(&path, &text).map_err(|error| failed("writing", &path, &error))?;
    }
    let replaced = before.filter(|_| !is_there).and_then(|before| holder_in(&before));
    let replaced = replaced.filter(|replaced| Some(replaced) != holder_in(&text).as_ref());
    let mut talk = told(args, is_there, replaced.as_deref());
    if !is_known(&args.unit, &folder, args.user) {
        talk.push(format!(
            "note: systemd has no {} in its usual places by now; is its name right?",
            args.unit
        ));
    }
    Ok(Answer { data: format!("{}\n", path.display()), talk, ..Answer::default() })
}

/// The holder that a drop-in binds to.
fn holder_in(text: &str) -> Option<String> {
    let binds = text.lines().filter_map(|line| line.trim().strip_prefix(BINDS));
    binds
        .flat_map(str::split_whitespace)
        .find(|unit| unit.starts_with("stormlock@"))
        .map(Into::into)
}

/// True where a file says what this unit is, or its template.
fn is_known(unit: &str, folder: &Path, is_users: bool) -> bool {
    let mut folders = vec![folder.to_owned()];
    if is_users {
        folders.extend(USERS.map(PathBuf::from));
        let full = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = full("XDG_DATA_HOME").or(full("HOME").map(|home| home.join(".local/share")));
        folders.extend(data.map(|data| data.join(USER)));
        let running = full("XDG_RUNTIME_DIR");
        folders.extend(running.iter().flat_map(|at| USERS_RUNNING.map(|name| at.join(name))));
    } else {
        folders.extend(SYSTEMS.map(PathBuf::from));
    }
    let template = unit.split_once('@').map(|(name, _)| format!("{name}@.service"));
    // What ends with a dash is meant for all whose names begin so.
    unit.ends_with("-.service")
        || folders.iter().any(|folder| {
            let has = |name: &str| folder.join(name).symlink_metadata().is_ok();
            has(unit) || template.as_deref().is_some_and(has)
        })
}

/// The text of the drop-in.
fn drop_in(args: &InitSystemd) -> Result<String, Failure> {
    let holder = format!("stormlock@{}.service", escaped(&args.lock));
    if holder.len() > UNIT_MAX {
        return Err(Failure::usage(format!(
            "{} is too long for the name of a unit: {holder} would have {} of at most {UNIT_MAX} \
             bytes",
            args.lock,
            holder.len()
        ))
        .advise("a `stormctl run` in the unit's own ExecStart= takes it"));
    }
    let settings = EXAMPLE.find(FIRST_SECTION).and_then(|begin| EXAMPLE.get(begin..));
    let settings = settings.unwrap_or(EXAMPLE).replace(EXAMPLES_HOLDER, &holder);
    let user = if args.user { "--user " } else { "" };
    Ok(format!(
        "# Written by `stormctl init systemd {user}{} --lock {}`:\n\
         # the unit starts only with that lock, and is stopped when it is lost.\n{settings}",
        args.unit, args.lock
    ))
}

/// A name as `systemd-escape` writes it, for what stands behind the @.
fn escaped(resource: &Resource) -> String {
    let mut text = String::new();
    for (nth, byte) in resource.as_str().bytes().enumerate() {
        match byte {
            b'/' => text.push('-'),
            b'.' if nth > 0 => text.push('.'),
            b':' | b'_' => text.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            byte => {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text
}

fn folder(is_users: bool) -> Result<PathBuf, Failure> {
    if !is_users {
        return Ok(PathBuf::from(SYSTEM));
    }
    let full = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let configurations = full("XDG_CONFIG_HOME").or(full("HOME").map(|home| home.join(".config")));
    configurations.map(|folder| folder.join(USER)).ok_or_else(|| {
        Failure::usage(
            "looking for the folder of your units: neither XDG_CONFIG_HOME nor HOME is set",
        )
        .advise("--print prints what would be written")
    })
}

/// Whole or not at all, whatever happens meanwhile.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Failure {
    let (exit, code) = match error.kind() {
        io::ErrorKind::PermissionDenied => (Exit::NoPerm, Code::Denied),
        _ => (Exit::Config, Code::Config),
    };
    Failure::new(exit, code.as_str(), format!("{doing} {}: {error}", path.display()))
        .advise("run it as root, with --user for a unit of your own, or with --print")
}

/// `replaced`: the holder that it was bound to before.
fn told(args: &InitSystemd, is_there: bool, replaced: Option<&str>) -> Vec<String> {
    let InitSystemd { unit, lock, .. } = args;
    let systemctl = if args.user { "systemctl --user" } else { "systemctl" };
    let already = if is_there { " already" } else { "" };
    // A template is started by an instance of it.
    let name = match unit.split_once("@.") {
        Some((name, _)) => format!("{name}@INSTANCE"),
        None => unit.trim_end_matches(".service").to_owned(),
    };
    let bound = format!("{unit} is bound to the lock {lock}{already}; for that to count: ");
    match replaced {
        None => vec![
            format!("{bound}{systemctl} daemon-reload"),
            format!(
                "if it runs now, that stops it, for it has no lock yet; then: {systemctl} start \
                 {name}"
            ),
        ],
        // At the reload its old holder is not needed any more, and gives back at once.
        Some(replaced) => vec![
            format!("{bound}{systemctl} stop {name}, and only then {systemctl} daemon-reload"),
            format!(
                "if it runs at the daemon-reload, the lock of {replaced} is given up before it has \
                 ended; after it: {systemctl} start {name}"
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use stormlock_protocol::name::RESOURCE_MAX;

    use super::*;

    /// Each character that a resource may have, alone and beside others.
    #[test]
    fn names_are_escaped_as_systemd_does() {
        let marks = (b'!'..=b'~').map(char::from);
        let mut names: Vec<String> = marks
            .flat_map(|mark| [format!("a{mark}"), format!("a{mark}{mark}b"), mark.into()])
            .collect();
        names.push("prod/db".into());
        names.push("9/.a/..-b//c@d+e:f_g/".into());
        names.push("x".repeat(RESOURCE_MAX));
        let names: Vec<Resource> =
            names.into_iter().filter_map(|name| Resource::new(name.as_str()).ok()).collect();
        assert!(names.len() > 130, "{}", names.len());
        let mut systemds = Command::new("systemd-escape");
        let systemds =
            systemds.arg("--").args(names.iter().map(Resource::as_str)).output().unwrap();
        assert!(systemds.status.success(), "{systemds:?}");
        let ours: Vec<String> = names.iter().map(escaped).collect();
        assert_eq!(String::from_utf8(systemds.stdout).unwrap().trim_end(), ours.join(" "));
    }

    #[test]
    fn the_example_has_what_is_replaced() {
        assert_eq!(EXAMPLE.matches(EXAMPLES_HOLDER).count(), 2);
        assert!(EXAMPLE.contains(FIRST_SECTION));
    }
}
