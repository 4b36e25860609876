//! The agent of stormlock. Imports run down only: `lease` knows nothing but names, `backend` knows
//! `lease`, and nobody but `driver` owns the leases.
//!
//! - [`lease`]: the pure core: what a lease is, and what may be believed of it.
//! - [`backend`]: one file per store; [`stores`] makes the calls, timed.
//! - [`journal`]: what must survive the agent.
//! - [`driver`]: the only owner of the leases: inputs in, effects out.
//! - [`audit`]: who took what, who gave it back, what was lost and what was refused.
//! - [`server`]: the socket; [`server::service`] says what a request means.
//! - [`config`], [`policy`]: what an administrator wrote, and who may do what.
//! - [`clock`]: the only reader of the OS clock.

pub mod audit;
pub mod backend;
pub mod clock;
pub mod config;
pub mod driver;
pub mod fd;
pub mod journal;
pub mod lease;
pub mod others;
pub mod place;
pub mod policy;
pub mod reload;
pub mod server;
pub mod stores;
pub mod systemd;
mod turns;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot, watch};

use audit::Audit;
use config::Config;
pub use driver::Leaving;
use driver::{Driver, Handle};
use journal::{Journal, Place};
use server::listen::Listener;
use server::service::{About, Service};
use stores::Stores;

/// Everything that an agent starts from.
pub struct Setup {
    /// Checked.
    pub config: Config,
    /// Where its journal lives.
    pub state_dir: PathBuf,
    /// Where this process runs.
    pub place: Place,
    /// Its socket, listening.
    pub listener: Listener,
    /// Called once, when it answers.
    pub ready: Box<dyn FnOnce() + Send>,
}

/// What a running agent is told.
#[derive(Debug)]
pub enum Control {
    /// Take this configuration; if it cannot be taken, the old one stays.
    Reload {
        /// It has been checked.
        config: Box<Config>,
        /// Told once it, or the old one for good, is in force.
        taken: oneshot::Sender<()>,
    },
    /// Stop.
    Stop(Leaving),
}

/// Runs an agent until it is told to stop.
///
/// # Errors
/// When the journal or a store cannot be opened, or the kernel gives no timers.
pub async fn run(setup: Setup, mut control: mpsc::Receiver<Control>) -> Result<()> {
    let stores = Arc::new(Stores::default());
    let backends = &setup.config.backends;
    stores
        .configure(backends)
        .map_err(|(name, error)| anyhow::Error::new(error).context(format!("backend {name}")))?;
    let (telling, said) = mpsc::unbounded_channel();
    let opened = Journal::open(&setup.state_dir, &setup.place, move |word| {
        // Nobody listens any more only when the agent has stopped.
        let _ = telling.send(word);
    });
    let (journal, recovered) =
        opened.with_context(|| format!("journal in {}", setup.state_dir.display()))?;
    for note in &recovered.notes {
        tracing::error!("{note}");
    }
    stores.recall(&recovered.memory);
    let path = audit_path(&setup.config, &setup.state_dir);
    let audit = Audit::start(path, &setup.config.host, setup.place.boot)
        .context("starting the thread of the audit")?;
    let (driver, handle) =
        Driver::new(Arc::clone(&stores), journal, said, recovered.memory, audit.clone());
    let mut driving = tokio::spawn(driver.run());

    let (configs, config) = watch::channel(Arc::new(setup.config));
    let about = About { since: clock::wall(), notes: recovered.notes };
    let service = Service::new(config, Arc::clone(&stores), handle.clone(), audit.clone(), about);
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(server::serve(setup.listener, Arc::new(service), stopping));
    (setup.ready)();

    let leaving = loop {
        tokio::select! {
            told = control.recv() => match told {
                Some(Control::Reload { config, taken }) => {
                    let path = audit_path(&config, &setup.state_dir);
                    reload(&handle, &configs, (&audit, path), *config).await;
                    let _ = taken.send(());
                }
                Some(Control::Stop(leaving)) => break leaving,
                None => break Leaving::Keep,
            },
            driven = &mut driving => {
                return driven.context("the driver ended")?.context("the driver's timers");
            }
        }
    };
    // The driver first: what it still owes goes out as replies before the sessions end.
    let _ = stop.send(true);
    handle.stop(leaving).await;
    serving.await.context("the server ended")?;
    audit.flush().await;
    driving.await.context("the driver ended")?.context("the driver's timers")
}

/// Takes a new configuration, all of it or nothing. No lease is dropped by it.
async fn reload(
    driver: &Handle,
    configs: &watch::Sender<Arc<Config>>,
    (audit, path): (&Audit, PathBuf),
    config: Config,
) {
    match driver.configure(config.backends.clone()).await {
        Ok(Ok(())) => {}
        Ok(Err((backend, error))) => {
            let refused = "the new configuration is refused, the old one stays";
            tracing::error!(%backend, %error, "{refused}");
            return;
        }
        Err(_) => return,
    }
    audit.configure(path, &config.host);
    let _ = configs.send(Arc::new(config));
    tracing::info!("took a new configuration");
}

fn audit_path(config: &Config, state_dir: &Path) -> PathBuf {
    config.audit_file.clone().unwrap_or_else(|| state_dir.join(audit::FILE))
}

/// What a random test begins with: told, and to be set by `STORMLOCK_SEED`, so that it can be
/// repeated.
#[cfg(test)]
pub(crate) fn seed() -> u64 {
    let given = std::env::var("STORMLOCK_SEED").ok();
    let given = given.map(|text| text.parse().expect("STORMLOCK_SEED is a number"));
    let seed = given.unwrap_or_else(|| getrandom::u64().expect("random bits"));
    println!("STORMLOCK_SEED={seed}");
    seed
}
