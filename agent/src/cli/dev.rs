//! `stormlockd dev`: a private agent and one command, or a shell, in it. Terminal and signals are
//! the command's; the agent goes when it goes, and gives its leases back.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::ExitStatus;

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal as Number, kill_process};
use stormlock_agent::config::Config;
use stormlock_agent::server::listen::{Access, Listener};
use stormlock_agent::{Control, Leaving, Setup, place, run, systemd};
use stormlock_protocol::cause::plain;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use self::backend::Given;
use super::args::Dev;
use super::exit::{self, Failure};
use super::private::PrivateDir;
use super::serve::{self, no_signals, runtime};
use super::{log, paths, process, shell};

mod backend;

/// How stormctl finds the agent.
const SOCKET: &str = "STORMLOCK_SOCKET";
/// Where systemd puts the secrets of a unit.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// What `stormctl run` tells its command; it is about leases of another agent.
const OF_ANOTHER_AGENT: [&str; 7] = [
    "STORMLOCK_RESOURCE",
    "STORMLOCK_RESOURCES",
    "STORMLOCK_LEASE",
    "STORMLOCK_LEASES",
    "STORMLOCK_FENCE",
    "STORMLOCK_FENCES",
    "STORMLOCK_DEADLINE",
];

pub(crate) fn dev(args: &Dev) -> Result<u8, Failure> {
    let filter = log::filter(args.log.as_deref(), "warn", &paths::env)?;
    let given = match &args.config {
        Some(path) => Given::file(&paths::absolute(path)?)?,
        None => Given::url(&args.backend)?,
    };
    process::ensure_threads()?;
    let _last_lines = log::to_stderr(filter, &paths::env);
    let dir = PrivateDir::new()?;
    paths::prepare_state(&dir.state())?;
    let command = command(args, &given, &dir)?;
    let runtime = runtime()?;
    let code = runtime.block_on(attend(given.config, command, &dir));
    serve::end(runtime);
    code
}

fn command(args: &Dev, given: &Given, dir: &PrivateDir) -> Result<Command, Failure> {
    let (words, env) = if args.command.is_empty() {
        eprintln!(
            "stormlockd: a private agent for this shell; {}; exit ends it and gives its locks back",
            given.reach
        );
        let shell = shell::interactive(paths::env("SHELL"), paths::env("ZDOTDIR"), dir.path())
            .context("writing the shell's start-up file")
            .map_err(Failure::unavailable)?;
        (shell.command, shell.env)
    } else {
        (args.command.clone(), Vec::new())
    };
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::usage("there is no command"));
    };
    let mut command = Command::new(program);
    command.args(arguments).envs(env).env(SOCKET, dir.socket());
    if let Some(path) = path_with_us(paths::env("PATH"), std::env::current_exe().ok()) {
        command.env("PATH", path);
    }
    let secrets = given.secret_variables.iter().map(String::as_str);
    let others = [CREDENTIALS].into_iter().chain(OF_ANOTHER_AGENT).chain(systemd::VARIABLES);
    for variable in secrets.chain(others) {
        command.env_remove(variable);
    }
    Ok(command)
}

/// The directory of this program first, so that the stormctl beside it is the one that is found.
fn path_with_us(path: Option<OsString>, us: Option<PathBuf>) -> Option<OsString> {
    let own = us?.parent()?.to_owned();
    let path = path.unwrap_or_default();
    let mut all: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if path.is_empty() {
        all.clear();
    }
    if !all.contains(&own) {
        all.insert(0, own);
    }
    std::env::join_paths(all).ok()
}

async fn attend(config: Config, command: Command, dir: &PrivateDir) -> Result<u8, Failure> {
    // Caught rather than ignored: what is ignored stays so in the child.
    let mut signals = Signals::new().map_err(no_signals)?;
    let listener = Listener::bind(&dir.socket(), Access::PRIVATE).map_err(Failure::unavailable)?;
    let (control, wishes) = mpsc::channel(1);
    let (tell_ready, ready) = oneshot::channel();
    let place = place::here().map_err(Failure::unavailable)?;
    let setup = Setup {
        config,
        place,
        state_dir: dir.state(),
        listener,
        ready: Box::new(move || {
            // Nobody listens any more when this one is stopping already.
            let _ = tell_ready.send(());
        }),
    };
    let mut agent = pin!(run(setup, wishes));
    tokio::select! {
        ended = agent.as_mut() => return Err(ended_early(ended)),
        _ = ready => {}
    }
    let (code, ended) = match start(command) {
        Ok(child) => beside(child, agent.as_mut(), &mut signals).await?,
        Err((code, text)) => {
            eprintln!("stormlockd: {text}");
            (code, None)
        }
    };
    if let Some(ended) = ended {
        return Err(ended_early(ended));
    }
    let stopped = async { tokio::join!(control.send(Control::Stop(Leaving::Release)), agent).1 };
    tokio::select! {
        // It takes the wish and ends; a signal is from somebody who does not want to wait for that.
        ended = stopped => ended.map_err(Failure::unavailable)?,
        _ = signals.next() => {
            eprintln!("stormlockd: leases may be left behind until their ttl ends");
        }
    }
    Ok(code)
}

fn start(mut command: Command) -> Result<Child, (u8, String)> {
    command.spawn().map_err(|error| {
        let is_missing = error.kind() == io::ErrorKind::NotFound;
        let code = if is_missing { exit::NOT_FOUND } else { exit::CANNOT_RUN };
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        (code, plain(&format!("running {program}: {error}")))
    })
}

type Ended = anyhow::Result<()>;

/// Lets the agent run while the child runs. If the agent ends first the child goes on: what it does
/// without an agent is for its own stormctl to decide.
async fn beside<A: Future<Output = Ended>>(
    mut child: Child,
    mut agent: Pin<&mut A>,
    signals: &mut Signals,
) -> Result<(u8, Option<Ended>), Failure> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut ended = None;
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.context("waiting for the command");
                return Ok((code(status.map_err(Failure::unavailable)?), ended));
            }
            end = agent.as_mut(), if ended.is_none() => {
                eprintln!("stormlockd: the private agent ended, its locks are not kept any more");
                ended = Some(end);
            }
            number = signals.next() => {
                // The terminal sends its own to the child as well; the others are sent to us alone.
                let is_ours = number == Number::TERM || number == Number::HUP;
                if let Some(pid) = pid.filter(|_| is_ours) {
                    // It is not waited for yet, so the number is still its own.
                    let _ = kill_process(pid, number);
                }
            }
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    let signal = status.signal().and_then(|number| u8::try_from(number).ok());
    code.or(signal.map(|number| exit::SIGNALLED.saturating_add(number))).unwrap_or(exit::SOFTWARE)
}

fn ended_early(ended: Ended) -> Failure {
    match ended {
        Ok(()) => Failure::new(exit::SOFTWARE, anyhow!("the private agent ended unasked")),
        Err(error) => Failure::unavailable(error.context("the private agent")),
    }
}

struct Signals {
    int: Signal,
    quit: Signal,
    term: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Number {
        tokio::select! {
            _ = self.int.recv() => Number::INT,
            _ = self.quit.recv() => Number::QUIT,
            _ = self.term.recv() => Number::TERM,
            _ = self.hup.recv() => Number::HUP,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn the_command_finds_the_agent_and_inherits_no_secret_and_no_socket_of_systemd() {
        let dir = PrivateDir::new().unwrap();
        let given = Given {
            secret_variables: vec!["REDIS_PASSWORD".to_owned()],
            ..Given::url("local").unwrap()
        };
        let args = Dev {
            backend: "local".to_owned(),
            config: None,
            log: None,
            command: vec!["true".into()],
        };
        let command = command(&args, &given, &dir).unwrap();
        let of = |name: &str| {
            let mut envs = command.as_std().get_envs();
            envs.find(|(key, _)| *key == name).map(|(_, value)| value.map(OsString::from))
        };
        assert_eq!(of(SOCKET), Some(Some(dir.socket().into_os_string())));
        for removed in ["REDIS_PASSWORD", "LISTEN_FDS", "NOTIFY_SOCKET", "STORMLOCK_LEASE"] {
            assert_eq!(of(removed), Some(None), "{removed}");
        }
    }

    fn check_path(before: Option<&str>, expected: &str) {
        let us = Some(PathBuf::from("/opt/bin/stormlockd"));
        assert_eq!(path_with_us(before.map(OsString::from), us), Some(expected.into()));
    }

    #[test]
    fn the_stormctl_beside_this_program_is_found_first() {
        check_path(Some("/usr/bin:/bin"), "/opt/bin:/usr/bin:/bin");
        check_path(Some("/usr/bin:/opt/bin"), "/usr/bin:/opt/bin");
        check_path(Some(""), "/opt/bin");
        check_path(None, "/opt/bin");
    }

    #[test]
    fn the_exit_code_is_that_of_the_command_as_a_shell_says_it() {
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code(ExitStatus::from_raw(15)), 143);
    }

    #[test]
    fn a_command_that_cannot_be_run_is_told_from_one_that_is_not_there() {
        let code = |program: &str| start(Command::new(program)).map(drop).unwrap_err().0;
        let runtime = runtime().unwrap();
        let _inside = runtime.enter();
        assert_eq!(code("/nowhere/at-all"), exit::NOT_FOUND);
        assert_eq!(code("/etc/passwd"), exit::CANNOT_RUN);
    }
}
