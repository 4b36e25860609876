//! `stormlockd setup`: what a store needs before its first lock. It speaks to the store itself,
//! with the agent's configuration and no agent.

use std::fmt::Write;

use anyhow::{Context, anyhow};
use stormlock_agent::backend::{self, BackendError, RefusedKind};
use stormlock_agent::clock;
use stormlock_agent::config::{Config, Mode, Purpose};
use stormlock_agent::lease::BackendName;

use super::args::Setup;
use super::check::print;
use super::exit::Failure;
use super::paths;

pub(crate) fn setup(args: &Setup) -> Result<(), Failure> {
    let mode = if args.user { Mode::User } else { Mode::System };
    let config = match paths::config(args.config.as_deref(), mode)? {
        Some(path) => {
            let purpose = if args.print { Purpose::Show } else { Purpose::Run };
            Config::load_for(purpose, &path, mode).map_err(Failure::config)?
        }
        None => Config::fresh(mode),
    };
    let name = &args.backend;
    let Some(options) = config.backends.get(&BackendName::new(name)) else {
        let known: Vec<String> = config.backends.keys().map(ToString::to_string).collect();
        let known = known.join(", ");
        return Err(Failure::config(anyhow!("no backend is called {name} (there are: {known})")));
    };
    let of_backend = || format!("backend {name}");
    let store =
        backend::open(options, clock::now).with_context(of_backend).map_err(Failure::config)?;
    if args.print {
        return match store.setup_by_hand() {
            Some(commands) => print(&commands),
            None if store.setup().is_some() => print(&format!(
                "# only its program knows what {name} needs, so there is nothing to print\n\
                 # have it made: stormlockd setup {name}\n"
            )),
            None => print(&format!("# {} needs no setup\n", options.kind())),
        };
    }
    let work = if args.migrate { store.migrate().or_else(|| store.setup()) } else { store.setup() };
    let Some(work) = work else {
        return print(&format!("{} needs no setup\n", options.kind()));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the runtime").map_err(Failure::unavailable)?;
    let done = runtime.block_on(work).map_err(|error| {
        let by_hand = match &error {
            BackendError::Refused {
                kind: RefusedKind::Credentials | RefusedKind::Denied, ..
            } => store.setup_by_hand(),
            BackendError::Refused { .. } | BackendError::Unknown { .. } => None,
        };
        let failure = anyhow::Error::new(error).context(of_backend());
        Failure::unavailable(match by_hand {
            Some(by_hand) => {
                anyhow!("{failure:#}\nwhoever has the rights can run this instead:\n\n{by_hand}")
            }
            None => failure,
        })
    })?;
    let mut said = String::new();
    for line in done {
        // Writing to a String cannot fail.
        let _ = writeln!(said, "{line}");
    }
    print(&said)
}
