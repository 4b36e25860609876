//! `stormlockd check` and `stormlockd import`: about configurations, without an agent.

use std::fs;
use std::io::{self, Write};

use anyhow::Context;
use nix::unistd::{Group, User};
use stormlock_agent::config::import;
use stormlock_agent::config::{Config, Mode, Purpose};
use stormlock_agent::policy::Subject;

use super::args::{Check, Import};
use super::exit::Failure;
use super::paths;

pub(crate) fn check(args: &Check) -> Result<(), Failure> {
    let mode = if args.user { Mode::User } else { Mode::System };
    let path = paths::config(args.file.as_deref(), mode)?;
    let (config, what) = match path {
        Some(path) if args.file.is_some() || path.symlink_metadata().is_ok() => {
            let config = Config::load_for(Purpose::Check, &path, mode).map_err(Failure::config)?;
            (config, path.display().to_string())
        }
        Some(path) => (Config::fresh(mode), format!("no {}, the defaults hold", path.display())),
        None => (Config::fresh(mode), "no configuration, the defaults hold".to_owned()),
    };
    for (line, name) in unknown_names(&config) {
        eprintln!("stormlockd: note: the rule on line {line}: this host knows no {name}");
    }
    let backends: Vec<String> = config.backends.keys().map(ToString::to_string).collect();
    print(&format!("OK {what}; backends: {}\n", backends.join(", ")))
}

/// Names in rules that nobody has here: a slip, or somebody who is still to come. A number stands
/// for whoever has no name, and an error of the name service is no answer.
fn unknown_names(config: &Config) -> Vec<(usize, String)> {
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let unknown = |subject: &Subject| match subject {
        Subject::User(name) => {
            let is_unknown = !is_number(name) && matches!(User::from_name(name), Ok(None));
            is_unknown.then(|| format!("user {name}"))
        }
        Subject::Group(name) => {
            let is_unknown = !is_number(name) && matches!(Group::from_name(name), Ok(None));
            is_unknown.then(|| format!("group {name}"))
        }
        Subject::Uid(_) | Subject::Everyone => None,
    };
    let subjects = config.policy.subjects();
    subjects.filter_map(|(line, subject)| Some((line, unknown(subject)?))).collect()
}

pub(crate) fn import(args: &Import) -> Result<(), Failure> {
    let shown = args.file.display();
    let text = fs::read_to_string(&args.file)
        .with_context(|| format!("reading {shown}"))
        .map_err(Failure::config)?;
    let imported =
        import::import(&text).with_context(|| shown.to_string()).map_err(Failure::config)?;
    for note in &imported.notes {
        eprintln!("stormlockd: note: {note}");
    }
    print(&imported.toml)
}

pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::unavailable(anyhow::Error::new(e).context("writing to stdout")))
        }
        _ => Ok(()),
    }
}
