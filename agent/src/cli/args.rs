//! The arguments.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  stormlockd dev                     a private agent and a shell in it, to try things out
  stormlockd dev -- make deploy      the same for one command
  stormlockd check                   is the configuration right?
  stormlockd --user                  an agent of your own, in the foreground
  stormlockd --daemonize --pidfile /run/stormlockd.pid
                                     the host's agent, where there is no systemd

Signals:
  SIGHUP reads the configuration again; SIGTERM and SIGINT stop the agent. Leases survive a stop:
  the next start renews them before it believes them.

Exit codes:
  0 ok, 64 bad arguments, 69 socket or state unavailable, 70 a bug, 78 configuration refused";

const DEV_EXAMPLES: &str = "\
Examples:
  stormlockd dev                                      $SHELL, locks count on this host only
  stormlockd dev -- sh -c 'stormctl acquire demo && stormctl status'
  stormlockd dev --backend redis://127.0.0.1:6379/0   the same with a store
  stormlockd dev --backend postgres://127.0.0.1/locks

The agent, its socket and what it remembers go when the command ends; the leases it still holds are
given back first. The exit code is the command's: 128+N for signal N, 126 or 127 if it cannot be
run.";

/// The same error, with what to type where somebody names the file as for serving.
pub(crate) fn mended(mut error: clap::Error) -> clap::Error {
    use ContextKind::{InvalidSubcommand, PriorArg, Suggested};
    let says = |error: &clap::Error, kind, word: &str| match error.get(kind) {
        Some(ContextValue::String(said)) => said.contains(word),
        Some(ContextValue::Strings(said)) => said.iter().any(|said| said.contains(word)),
        _ => false,
    };
    if error.kind() == ErrorKind::ArgumentConflict
        && says(&error, InvalidSubcommand, "check")
        && says(&error, PriorArg, "--config")
    {
        let tip = StyledStr::from("check takes the file itself: stormlockd check FILE");
        error.insert(Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

/// Holds leases on resources for the users of this host, in a store that the site already runs.
#[derive(Debug, Parser)]
#[command(
    name = "stormlockd",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Serve,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// The configuration [default: /etc/stormlock/stormlock.toml if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where to listen, unless systemd passes a socket [default: /run/stormlock/stormlockd.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Where to remember leases [default: $STATE_DIRECTORY, else /var/lib/stormlock]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Serve only yourself, with a socket, a state directory and a configuration of your own
    #[arg(long)]
    pub(crate) user: bool,
    /// Go into the background; the command returns when the socket answers. The log is in the
    /// journal, else in syslog, else in stormlockd.log in the state directory
    #[arg(long)]
    pub(crate) daemonize: bool,
    /// Write the number of the process there, and lock it
    #[arg(long, value_name = "FILE", requires = "daemonize")]
    pub(crate) pidfile: Option<PathBuf>,
    /// error, warn, info, debug or trace [default: $STORMLOCK_LOG, else info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say whether a configuration is right, and where it is wrong
    ///
    /// It reads what the agent would read, passwords as well, but connects to no store. A
    /// password_credential is not read, unless $CREDENTIALS_DIRECTORY is set.
    Check(Check),
    /// Print the configuration of the Python tool (.stormlock.cfg) as one for this agent
    Import(Import),
    /// Make what a store needs before its first lock; harmless when it is there already
    Setup(Setup),
    /// Run a command, or a shell, with a private agent that goes with it
    Dev(Dev),
    /// End with standard input: what an agent leaves to it is closed then
    #[command(hide = true)]
    CloseFiles,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// The configuration [default: the one that the agent would read]
    pub(crate) file: Option<PathBuf>,
    /// Check it as the agent of one user reads it
    #[arg(long)]
    pub(crate) user: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// What the Python tool reads
    pub(crate) file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Setup {
    /// The backend, by its name in the configuration
    pub(crate) backend: String,
    /// Do nothing, but print the commands for whoever has the rights
    #[arg(long)]
    pub(crate) print: bool,
    /// Also convert what is there and does not fit: times without a time zone
    #[arg(long, conflicts_with = "print")]
    pub(crate) migrate: bool,
    /// The configuration [default: the one that the agent would read]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Take it as the agent of one user reads it
    #[arg(long)]
    pub(crate) user: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = DEV_EXAMPLES)]
pub(crate) struct Dev {
    /// The store: local, or a URL like redis://HOST:PORT/DB, postgres://HOST/DB, etcd://HOST:PORT.
    /// Others see a password in it (ps): for a store with one, use --config
    #[arg(long, value_name = "URL", default_value = "local", hide_default_value = true)]
    pub(crate) backend: String,
    /// Take the stores and the rules from this configuration
    #[arg(long, value_name = "FILE", conflicts_with = "backend")]
    pub(crate) config: Option<PathBuf>,
    /// error, warn, info, debug or trace [default: $STORMLOCK_LOG, else warn]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
    /// What to run [default: $SHELL]
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_option_of_the_agent_before_a_command_is_refused() {
        assert!(Args::try_parse_from(["stormlockd", "--daemonize", "check"]).is_err());
        assert!(Args::try_parse_from(["stormlockd", "--pidfile", "/run/x"]).is_err());
    }

    #[test]
    fn a_file_before_check_is_told_where_it_goes() {
        let refused = Args::try_parse_from(["stormlockd", "--config", "x.toml", "check"]);
        let text = super::mended(refused.unwrap_err()).to_string();
        assert!(text.contains("tip: check takes the file itself: stormlockd check FILE"), "{text}");
        let other = Args::try_parse_from(["stormlockd", "--log", "debug", "check"]);
        let text = super::mended(other.unwrap_err()).to_string();
        assert!(!text.contains("tip:"), "{text}");
    }

    #[test]
    fn what_follows_two_dashes_is_the_command_as_it_stands() {
        let args = Args::try_parse_from(["stormlockd", "dev", "--", "make", "--log", "x"]).unwrap();
        let Some(Command::Dev(dev)) = args.command else { panic!("{args:?}") };
        assert_eq!(dev.command, ["make", "--log", "x"]);
        assert_eq!((dev.backend.as_str(), dev.log), ("local", None));
    }
}
