//! `stormlockd check` and `stormlockd import`: about configurations, without an agent.

use std::fs;
use std::io::{self, Write};

use anyhow::Context;
use stormlock_agent::config::import;
use stormlock_agent::config::{Config, Mode};

use super::args::{Check, Import};
use super::exit::Failure;
use super::paths;

pub(crate) fn check(args: &Check) -> Result<(), Failure> {
    let mode = if args.user { Mode::User } else { Mode::System };
    let path = paths::config(args.file.as_deref(), mode)?;
    let (config, what) = match path {
        Some(path) if args.file.is_some() || path.symlink_metadata().is_ok() => {
            let config = Config::load(&path, mode).map_err(Failure::config)?;
            (config, path.display().to_string())
        }
        Some(path) => (Config::fresh(mode), format!("no {}, the defaults hold", path.display())),
        None => (Config::fresh(mode), "no configuration, the defaults hold".to_owned()),
    };
    let backends: Vec<String> = config.backends.keys().map(ToString::to_string).collect();
    print(&format!("OK {what}; backends: {}\n", backends.join(", ")))
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
