//! The agent itself: everything around `stormlock_agent::run`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use stormlock_agent::config::{Config, Mode};
use stormlock_agent::reload::Reloader;
use stormlock_agent::server::burial;
use stormlock_agent::server::listen::{Access, Inherited, ListenError, Listener};
use stormlock_agent::{Control, Leaving, Setup, place, run, systemd};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::args::Serve;
use super::daemon::{self, Notice, Side};
use super::exit::Failure;
use super::{log, paths, process};

/// Wishes that may wait for the agent; more come only from somebody who sends signals in a loop.
const CONTROLS_MAX: usize = 4;
/// Longer than an agent lives.
const FOR_GOOD: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How long what still runs on other threads (a directory service that does not answer) may hold up
/// the end of the process.
const FAREWELL: Duration = Duration::from_secs(1);

const AS_ROOT: &str = "start it as root, or with --user as an agent of your own";

pub(crate) fn serve(args: &Serve) -> Result<(), Failure> {
    // First of all, for it changes the environment.
    let inherited = Inherited::take();
    let plan = Plan::new(args, inherited)?;
    let filter = log::filter(args.log.as_deref(), "info", &paths::env)?;
    if !args.daemonize {
        process::ensure_threads()?;
        process::prepare_to_serve();
        let _last_lines = log::to_stderr(filter, &paths::env);
        paths::prepare_state(&plan.state).map_err(|failure| plan.explain(failure))?;
        return plan.serve(systemd::ready);
    }
    let pidfile = args.pidfile.as_deref().map(paths::absolute).transpose()?;
    let notice = match daemon::detach(pidfile)? {
        Side::Parent(outcome) => return outcome,
        Side::Child(notice) => notice,
    };
    let outcome = serve_in_background(plan, filter, &notice);
    // Before the parent returns: whoever tries again at once must not find this one's pidfile.
    notice.gone();
    if let Err(failure) = &outcome {
        notice.failed(failure);
    }
    outcome
}

fn serve_in_background(
    plan: Plan,
    filter: tracing_subscriber::EnvFilter,
    notice: &Notice,
) -> Result<(), Failure> {
    process::ensure_threads()?;
    process::prepare_to_serve();
    paths::prepare_state(&plan.state).map_err(|failure| plan.explain(failure))?;
    log::in_background(filter, &plan.state)?;
    let ready = notice.clone();
    let outcome = plan.serve(move || ready.ready());
    if let Err(failure) = &outcome {
        tracing::error!("{}", failure.text());
    }
    outcome
}

/// What the arguments, the environment and the configuration amount to.
struct Plan {
    mode: Mode,
    config: Config,
    reloader: Option<Reloader>,
    state: PathBuf,
    /// `None` when systemd passes the socket.
    socket: Option<PathBuf>,
    inherited: Inherited,
}

impl Plan {
    fn new(args: &Serve, inherited: Inherited) -> Result<Plan, Failure> {
        let mode = if args.user { Mode::User } else { Mode::System };
        let path = paths::config(args.config.as_deref(), mode)?;
        let reloader = path.clone().map(|path| Reloader::new(path, mode));
        let config = match &path {
            Some(path) if args.config.is_some() => Config::load(path, mode),
            Some(path) => Config::load_or_fresh(path, mode),
            None => Ok(Config::fresh(mode)),
        };
        let socket = match inherited.is_some() {
            true => None,
            false => Some(paths::socket(args.socket.as_deref(), mode, &paths::env)?),
        };
        Ok(Plan {
            mode,
            config: config.map_err(Failure::config)?,
            reloader,
            state: paths::state(args.state.as_deref(), mode, &paths::env)?,
            socket,
            inherited,
        })
    }

    fn serve(self, ready: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
        let runtime = runtime()?;
        let served = runtime.block_on(self.attend(ready));
        end(runtime);
        served
    }

    async fn attend(self, ready: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
        let signals = Signals::new().map_err(no_signals)?;
        let mode = self.mode;
        let listener = listen(self.socket, self.inherited, mode)
            .map_err(|error| explain_socket(mode, error))?;
        let socket = listener.path().to_owned();
        let state = self.state.display().to_string();
        let place = place::here().map_err(Failure::unavailable)?;
        let setup = Setup {
            config: self.config,
            place,
            state_dir: self.state,
            listener,
            ready: Box::new(move || {
                let version = env!("CARGO_PKG_VERSION");
                tracing::info!(version, socket = %socket.display(), %state, "ready");
                ready();
            }),
        };
        let (control, wishes) = mpsc::channel(CONTROLS_MAX);
        let (hup, hups) = mpsc::channel(1);
        match self.reloader {
            Some(reloader) => drop(tokio::spawn(reload(reloader, control.clone(), hups))),
            // Nobody listens then, and whoever sends a signal is told so.
            None => drop(hups),
        }
        tokio::select! {
            served = run(setup, wishes) => served.map_err(Failure::unavailable),
            () = signals.attend(control, hup) => {
                tracing::warn!("stopping at once; the next start settles what is open");
                Ok(())
            }
        }
    }

    fn explain(&self, failure: Failure) -> Failure {
        failure.advise(advice(self.mode))
    }
}

/// A runtime of one thread: several are slower here, and the leases have one owner. It has another
/// for what blocks from the start, and keeps it: where the system gives no thread any more, tokio
/// panics unless there is one.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let mut builder = Builder::new_current_thread();
    let built = builder.enable_all().thread_keep_alive(FOR_GOOD).build();
    let runtime = built.context("starting the runtime").map_err(Failure::unavailable)?;
    let _has_one = runtime.spawn_blocking(|| ());
    Ok(runtime)
}

/// Nothing that clients left behind holds up the end of the process.
pub(crate) fn end(runtime: Runtime) {
    runtime.shutdown_timeout(FAREWELL);
    burial::settle();
}

pub(crate) fn no_signals(error: io::Error) -> Failure {
    Failure::unavailable(anyhow::Error::new(error).context("asking for signals"))
}

async fn reload(reloader: Reloader, control: mpsc::Sender<Control>, hups: mpsc::Receiver<()>) {
    if let Err(error) = reloader.run(control, hups).await {
        tracing::error!(%error, "the configuration is not watched, and SIGHUP is not heard");
    }
}

fn listen(
    socket: Option<PathBuf>,
    inherited: Inherited,
    mode: Mode,
) -> Result<Listener, ListenError> {
    let Some(path) = socket else { return inherited.listen() };
    let access = match mode {
        Mode::System => Access::system(),
        Mode::User | Mode::Dev => Access::PRIVATE,
    };
    if mode == Mode::System && access.group.is_none() {
        tracing::warn!(
            "there is no group stormlock that this process may give the socket to, so only its own \
             user can connect: groupadd --system stormlock, add people to it, restart"
        );
    }
    Listener::bind(&path, access)
}

fn explain_socket(mode: Mode, error: ListenError) -> Failure {
    let is_denied = matches!(&error, ListenError::Io { source, .. } if paths::is_denied(source));
    Failure::unavailable(error).advise(advice(mode).filter(|_| is_denied))
}

fn advice(mode: Mode) -> Option<&'static str> {
    let is_root = rustix::process::geteuid().is_root();
    (mode == Mode::System && !is_root).then_some(AS_ROOT)
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Passes on what they mean, until somebody asks a second time to stop.
    async fn attend(mut self, control: mpsc::Sender<Control>, hup: mpsc::Sender<()>) {
        self.until_stop(&hup).await;
        tracing::info!("stopping; leases stay");
        systemd::stopping();
        // Beside the wait for a second signal, since the agent may be too busy to take a wish.
        let wish = control.clone();
        tokio::spawn(async move { wish.send(Control::Stop(Leaving::Keep)).await });
        self.until_stop(&hup).await;
    }

    async fn until_stop(&mut self, hup: &mpsc::Sender<()>) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.hup.recv() => {
                    // Full means that the file will be read anyway.
                    if let Err(mpsc::error::TrySendError::Closed(())) = hup.try_send(()) {
                        tracing::warn!("there is no configuration file to read again");
                    }
                }
            }
        }
    }
}
