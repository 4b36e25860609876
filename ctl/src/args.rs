//! The command line of `stormctl`: what may be typed, and the help that teaches it.
//!
//! Values become their final types here; what they mean is each command's.

mod init;
mod names;
mod told;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Styles;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use stormlock_protocol::RESOURCES_MAX;
use stormlock_protocol::message;
use stormlock_protocol::name::{LeaseId, Reason, Resource, Ttl, UnixMs};

pub(crate) use values::ttl;
use values::{glob, hold_secs, patience, reason, renew_secs, resource, until, wait_secs};

pub(crate) use self::init::{Init, InitShell, InitSystemd, Initial, UNIT_MAX};
pub(crate) use self::told::{Log, Metrics, Prompt, Surface};
use crate::exit::Exit;
use crate::render::{Colour, Format};

/// Reads the command line; an error prints itself ([`clap::Error::print`]).
pub(crate) fn parse(argv: Vec<OsString>) -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches_from(argv)?;
    let cli = Cli::from_arg_matches(&matches)?;
    // Clap's own word on it would name the first that is too many, and no number.
    match cli.command.as_ref().map_or(0, Command::named) {
        named if named > RESOURCES_MAX => {
            let why = format!("one command takes at most {RESOURCES_MAX} resources, not {named}\n");
            Err(command().error(ErrorKind::TooManyValues, why))
        }
        _ => Ok(cli),
    }
}

/// The definition of the command line, for parsing and for completions.
pub(crate) fn command() -> clap::Command {
    Cli::command().after_help(Exit::table()).styles(Styles::plain())
}

/// Locks across the fleet, through the agent of this host
///
/// stormctl talks to the agent (stormlockd) of this host, which keeps leases in a store that the
/// whole fleet shares. stdout is data, stderr is talk; nothing waits unless told to.
#[derive(Debug, Parser)]
#[command(
    name = "stormctl",
    disable_version_flag = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    /// Print the versions and protocols of client and agent
    #[arg(short = 'V', long)]
    pub(crate) version: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// The agent's socket [default: $STORMLOCK_SOCKET, the system's, the user's]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// How the answer is written
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value = "human")]
    #[arg(hide_default_value = true)]
    pub(crate) output: Format,
    /// The same as `-o json`
    #[arg(long, global = true, conflicts_with = "output")]
    pub(crate) json: bool,
    /// Say only what failed
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Say also which agent answered
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// When to use colour
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto")]
    #[arg(hide_default_value = true)]
    pub(crate) color: Colour,
    /// Give up when the agent has not answered for this long
    #[arg(long, global = true, value_name = "DUR", hide = true, value_parser = patience)]
    pub(crate) patience: Option<Duration>,
}

impl Globals {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Acquire(Acquire),
    Release(Release),
    Renew(Renew),
    Break(Break),
    Current(Current),
    IsHeld(IsHeld),
    List(List),
    Status(Status),
    Doctor(Doctor),
    Run(Run),
    Hold(Hold),
    Wait(Wait),
    Watch(Watch),
    Log(Log),
    Metrics(Metrics),
    Prompt(Prompt),
    Init(Init),
    Completions(Completions),
}

impl Command {
    /// How many resources are to be taken or given back at once.
    fn named(&self) -> usize {
        match self {
            Command::Acquire(args) => args.resources.len(),
            Command::Run(args) => args.resources.len(),
            Command::Hold(args) => args.resources.len(),
            Command::Release(args) => args.words.len(),
            Command::Renew(_)
            | Command::Break(_)
            | Command::Current(_)
            | Command::IsHeld(_)
            | Command::List(_)
            | Command::Status(_)
            | Command::Doctor(_)
            | Command::Wait(_)
            | Command::Watch(_)
            | Command::Log(_)
            | Command::Metrics(_)
            | Command::Prompt(_)
            | Command::Init(_)
            | Command::Completions(_) => 0,
        }
    }
}

/// Take resources, all or none; prints one lease id per resource
///
/// The agent keeps the lease. Without --for, --until or --keep it is held as the agent's
/// configuration says: where that says nothing it is not renewed, and ends after its ttl. If
/// another holds one of the resources, nothing is taken and the exit code is 75, unless you --wait.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl acquire prod/db -m 'schema migration' --for 2h
  stormctl acquire prod/db prod/cache --until 18:00
  stormctl acquire prod/db --timeout 10m --bind $$
  lease=$(stormctl acquire -q db) && { ./job; stormctl release db \"$lease\"; }")]
pub(crate) struct Acquire {
    /// What to take, at most 32: letters, digits and . _ / : @ + -
    #[arg(required = true, num_args = 1.., value_parser = resource)]
    #[arg(add = names::known())]
    #[arg(value_name = "RESOURCE")]
    pub(crate) resources: Vec<Resource>,
    #[command(flatten)]
    pub(crate) take: Take,
    /// Give it back when this process ends ($$ is this shell)
    #[arg(long, value_name = "PID")]
    pub(crate) bind: Option<u32>,
}

/// How something is taken.
#[derive(Debug, Args)]
pub(crate) struct Take {
    /// Why, for others to read
    #[arg(short = 'm', long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: Option<Reason>,
    /// How long the lock stays behind if this host dies [default: the agent's]
    #[arg(long, value_name = "DUR", value_parser = ttl, allow_hyphen_values = true)]
    pub(crate) ttl: Option<Ttl>,
    #[command(flatten)]
    pub(crate) hold: TakeHold,
    #[command(flatten)]
    pub(crate) wait: TakeWait,
}

/// Whether to wait for what others hold.
#[derive(Debug, Args)]
pub(crate) struct TakeWait {
    /// Wait while others hold it; first come first served on this host
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// Wait for so long at most; after it the exit code is 75
    #[arg(long, value_name = "DUR", value_parser = wait_secs, allow_hyphen_values = true)]
    pub(crate) timeout: Option<u32>,
}

impl TakeWait {
    pub(crate) fn wait(&self) -> message::Wait {
        match (self.timeout, self.wait) {
            (Some(secs), _) => message::Wait::For(secs),
            (None, true) => message::Wait::Forever,
            (None, false) => message::Wait::No,
        }
    }
}

/// How long the agent renews what is taken.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct TakeHold {
    /// Keep it renewed for this long: 90s, 15m, 2h30m, 2d, '30 minutes'
    #[arg(long = "for", value_name = "DUR", value_parser = hold_secs, allow_hyphen_values = true)]
    pub(crate) for_secs: Option<u32>,
    /// Keep it renewed until then: 18:00, 'tomorrow 9:00', 2026-11-26T09:00, +2h
    #[arg(long, value_name = "TIME", value_parser = until, allow_hyphen_values = true)]
    pub(crate) until: Option<UnixMs>,
    /// Keep it renewed until it is released
    #[arg(long)]
    pub(crate) keep: bool,
}

impl TakeHold {
    pub(crate) fn hold(&self) -> message::Hold {
        match (self.for_secs, self.until, self.keep) {
            (Some(secs), _, _) => message::Hold::For(secs),
            (None, Some(at), _) => message::Hold::Until(at),
            (None, None, true) => message::Hold::Keep,
            (None, None, false) => message::Hold::Usual,
        }
    }
}

/// Hold resources while a command runs, and end it before it could outlive them
///
/// The resources are taken, kept renewed while the command (or, without one, a shell) runs, and
/// given back when it and all of its process group have ended. If a lease is lost, or is not
/// renewed in time, the command has to end: first by a signal, then it and all that it started are
/// killed, before another could have the resource. The exit code is the command's own, 128 and the
/// number of the signal that ended it, 126 or 127 when it cannot be run, or 79 when it had to end
/// (with --exec its own also then).
///
/// The command finds in its environment STORMLOCK_RESOURCE, STORMLOCK_LEASE, STORMLOCK_FENCE (of
/// the first), STORMLOCK_RESOURCES, STORMLOCK_LEASES, STORMLOCK_FENCES (of all, in the same order,
/// separated by spaces), STORMLOCK_DEADLINE (unix seconds, unless renewed) and STORMLOCK_SOCKET. A
/// `run` of the same resource in it is part of this one.
#[derive(Debug, Args)]
#[command(override_usage = "stormctl run [OPTIONS] RESOURCE... [-- COMMAND [ARG]...]
       stormctl run [OPTIONS] RESOURCE... -c LINE")]
#[command(after_help = "Examples:
  stormctl run prod/db -m 'schema migration' -- ./migrate --all
  stormctl run prod/db prod/cache --timeout 10m -c 'dump | load'
  stormctl run nightly -E 0 -- backup
  stormctl run prod/db")]
pub(crate) struct Run {
    /// What to take, at most 32: letters, digits and . _ / : @ + -
    #[arg(required = true, num_args = 1.., value_parser = resource)]
    #[arg(add = names::known())]
    #[arg(value_name = "RESOURCE")]
    pub(crate) resources: Vec<Resource>,
    #[command(flatten)]
    pub(crate) take: Take,
    /// From the signal that asks it to end until it is killed; at most a third of the ttl [default:
    /// 30s, or what a short ttl or hold leaves]
    #[arg(long, value_name = "DUR", value_parser = patience, allow_hyphen_values = true)]
    pub(crate) kill_after: Option<Duration>,
    /// What the command gets when it has to end; with warn it goes on, and only you are told
    #[arg(long, value_enum, value_name = "HOW", default_value = "term")]
    pub(crate) on_lost: OnLost,
    /// The exit code when another holds it or the wait is over, in place of 75
    #[arg(short = 'E', long, value_name = "N")]
    pub(crate) conflict_exit_code: Option<u8>,
    /// Become the command instead of waiting for it, for units with Type=notify, WatchdogSec= or a
    /// socket; a second process keeps the deadline
    #[arg(long)]
    pub(crate) exec: bool,
    /// Run this line in /bin/sh
    #[arg(short = 'c', long = "command", value_name = "LINE", conflicts_with = "command")]
    pub(crate) line: Option<OsString>,
    /// The command and its arguments [default: $SHELL]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// What a command gets that has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnLost {
    Term,
    Int,
    Hup,
    Warn,
}

/// Hold resources in the foreground, for units; gives them back on SIGTERM
///
/// It says to systemd (Type=notify) when it holds them, and feeds its watchdog while they are
/// proven. It ends with 0 by SIGTERM, SIGINT or the end of the hold, and with 79 when a lease is
/// lost. Whoever depends on it hears of that by its end; so it ends --grace before the lease does,
/// and when it is killed nobody else has the resource for so long.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl hold prod/db -m 'the primary runs here' --wait
  stormctl hold prod/db prod/cache --ttl 1m --grace 15s")]
pub(crate) struct Hold {
    /// What to take, at most 32: letters, digits and . _ / : @ + -
    #[arg(required = true, num_args = 1.., value_parser = resource)]
    #[arg(add = names::known())]
    #[arg(value_name = "RESOURCE")]
    pub(crate) resources: Vec<Resource>,
    #[command(flatten)]
    pub(crate) take: Take,
    /// How long what depends on this may take to end; at most a third of the ttl, and an hour
    /// [default: 30s, or what a short ttl or hold leaves]
    #[arg(long, value_name = "DUR", value_parser = patience, allow_hyphen_values = true)]
    pub(crate) grace: Option<Duration>,
}

/// Print what happens to your leases, one JSON document per line
///
/// First each lease as it is, then a line of the type caught, then each change, until you end it or
/// its reader goes away. When the agent restarts it says so, and begins anew once that is back.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl watch
  stormctl watch prod/db prod/cache | jq -r .state")]
pub(crate) struct Watch {
    /// Only these
    #[arg(value_parser = resource, value_name = "RESOURCE")]
    #[arg(add = names::yours())]
    pub(crate) resources: Vec<Resource>,
}

/// Wait until nobody holds a resource; takes nothing
///
/// When it returns somebody else may already have taken it: to take it, `acquire --wait`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl wait prod/db && echo free
  stormctl wait prod/db --timeout 2h")]
pub(crate) struct Wait {
    /// What to wait for
    #[arg(value_parser = resource)]
    #[arg(add = names::held())]
    pub(crate) resource: Resource,
    /// Wait for so long at most; after it the exit code is 75
    #[arg(long, value_name = "DUR", value_parser = wait_secs, allow_hyphen_values = true)]
    pub(crate) timeout: Option<u32>,
}

/// Give back what you hold
///
/// The lease id is optional: the agent knows yours. With it, only that lease is released, so that a
/// script never gives back what was taken again since. It may follow exactly one resource. If the
/// last word could be both, it is a resource when you hold one of that name or it has up to 8 hex
/// digits, else a lease id; --lease says it without doubt.
#[derive(Debug, Args)]
#[command(override_usage = "stormctl release [OPTIONS] RESOURCE [LEASE]
       stormctl release [OPTIONS] RESOURCE...
       stormctl release [OPTIONS] --all")]
#[command(after_help = "Examples:
  stormctl release prod/db
  stormctl release prod/db 0af1c2d3e4f50617283940515263748f
  stormctl release --all")]
pub(crate) struct Release {
    /// What to give back, at most 32, and optionally the lease id
    #[arg(required_unless_present = "all", conflicts_with = "all", value_parser = resource)]
    #[arg(add = names::yours())]
    #[arg(value_name = "RESOURCE", num_args = 1..)]
    pub(crate) words: Vec<Resource>,
    /// Only if this is the lease; goes with exactly one resource
    #[arg(long, value_name = "ID", conflicts_with = "all")]
    pub(crate) lease: Option<LeaseId>,
    /// All that you hold through this agent; what was lost is told, and known from then on
    #[arg(long)]
    pub(crate) all: bool,
    /// Not holding it is fine
    #[arg(long)]
    pub(crate) if_held: bool,
}

/// Take a lock away from its holder, who is told by whom and why
///
/// It shows what it breaks and asks before it does. Only the lease that was seen is broken, never a
/// later one. Nobody can take the resource before whoever relied on it has ended: an agent notices
/// within 15 s and ends a `stormctl run`, and the resource is free when that has ended, or when the
/// broken lease would have been over. --now does not wait for that: then nothing but the fence
/// keeps the two apart. Exit code 1: nobody holds it; 75: another lease than --lease is there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl break prod/db -m 'bob left for the week-end'
  stormctl break prod/db -m 'host is gone for good' --now
  stormctl break prod/db --lease 0af1c2d3e4f50617283940515263748f -m cleanup --yes")]
pub(crate) struct Break {
    /// What to take away
    #[arg(value_parser = resource)]
    #[arg(add = names::held())]
    pub(crate) resource: Resource,
    /// Why, for its holder and everybody else to read
    #[arg(short = 'm', long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: Reason,
    /// Only if this is the lease
    #[arg(long, value_name = "ID")]
    pub(crate) lease: Option<LeaseId>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Leave no time for whoever relied on it to end
    #[arg(long)]
    pub(crate) now: bool,
}

/// Move the end of a lease
///
/// Without options its ttl starts again; --for and --until say how long it is kept. A lease that
/// ended cannot be renewed: exit code 79.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl renew prod/db
  stormctl renew prod/db --for 2h
  stormctl renew prod/db 0af1c2d3e4f50617283940515263748f --ttl 10m")]
pub(crate) struct Renew {
    /// What you hold
    #[arg(value_parser = resource)]
    #[arg(add = names::yours())]
    pub(crate) resource: Resource,
    /// Only if this is the lease
    pub(crate) lease: Option<LeaseId>,
    /// A new ttl
    #[arg(long, value_name = "DUR", value_parser = ttl, allow_hyphen_values = true)]
    pub(crate) ttl: Option<Ttl>,
    #[command(flatten)]
    pub(crate) hold: RenewHold,
}

/// A new hold.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct RenewHold {
    /// Keep it renewed for this long from now
    #[arg(long = "for", value_name = "DUR", value_parser = renew_secs, allow_hyphen_values = true)]
    pub(crate) for_secs: Option<u32>,
    /// Keep it renewed until then
    #[arg(long, value_name = "TIME", value_parser = until, allow_hyphen_values = true)]
    pub(crate) until: Option<UnixMs>,
}

impl RenewHold {
    pub(crate) fn hold(&self) -> Option<message::Hold> {
        self.for_secs.map(message::Hold::For).or(self.until.map(message::Hold::Until))
    }
}

/// Show who holds a resource; exit code 1 when nobody does
///
/// Without -f or -o it prints as the Python tool does.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl current prod/db
  stormctl current prod/db -f oneline
  stormctl current prod/db -o json | jq -r .lock.reason")]
pub(crate) struct Current {
    /// What to look at
    #[arg(value_parser = resource)]
    #[arg(add = names::held())]
    pub(crate) resource: Resource,
    /// As the Python tool prints it; wins over -o
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<Layout>,
    /// The same as `-f id`
    #[arg(long, conflicts_with = "format")]
    pub(crate) id_only: bool,
}

impl Current {
    pub(crate) fn layout(&self) -> Option<Layout> {
        if self.id_only { Some(Layout::Id) } else { self.format }
    }
}

/// The Python tool's layouts of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    Rows,
    Oneline,
    Lines,
    Cols,
    Json,
    Id,
}

/// Ask whether a resource is held: exit code 0 for yes, 1 for no
///
/// Any other code means that nobody knows: treat it as not held. It prints nothing but with -o.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl is-held prod/db && echo busy
  stormctl is-held prod/db --by me
  stormctl is-held prod/db 0af1c2d3e4f50617283940515263748f")]
pub(crate) struct IsHeld {
    /// What to look at
    #[arg(value_parser = resource)]
    #[arg(add = names::known())]
    pub(crate) resource: Resource,
    /// Only by this lease
    pub(crate) lease: Option<LeaseId>,
    /// Only by you, through this agent
    #[arg(long, value_enum, value_name = "WHO")]
    pub(crate) by: Option<By>,
}

/// Whom `is-held --by` may ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// You, through this agent
    Me,
}

/// Show all locks in the agent's backends
///
/// If a backend cannot be read, what could be read is printed and the exit code is 69. The columns
/// of `-o tsv`: resource, principal, host, since, until, seconds left, backend, this host only,
/// lease, fence, reason.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl list
  stormctl list 'prod/*' --mine
  stormctl list --host bastion2 -o tsv")]
pub(crate) struct List {
    /// Only resources that match, with * and ?
    #[arg(value_parser = glob)]
    pub(crate) glob: Option<String>,
    /// Only yours, through this agent
    #[arg(long)]
    pub(crate) mine: bool,
    /// Only those held from this host
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
}

/// Show what you hold on this host, and how the agent and its backends are
///
/// The columns of `-o tsv`: resource, lease, fence, state, backend, this host only, until, seconds
/// left, principal, reason.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl status
  stormctl status -o json | jq '.leases[].resource'")]
pub(crate) struct Status {}

/// Find what is wrong, and say how to mend it; exit code 1 when something does not work
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl doctor
  stormctl --socket /run/stormlock/stormlockd.sock doctor")]
pub(crate) struct Doctor {}

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  source <(stormctl completions bash)
  stormctl completions zsh > ~/.zfunc/_stormctl
  stormctl completions fish > ~/.config/fish/completions/stormctl.fish")]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// The shells that are supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Cli, clap::Error> {
        parse(["stormctl"].iter().chain(line).map(OsString::from).collect())
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_verb_teaches_by_examples() {
        for verb in command().get_subcommands_mut() {
            let help = verb.render_long_help().to_string();
            let examples = help.lines().filter(|line| line.contains("  stormctl ")).count();
            assert!(help.contains("Examples:") && examples >= 2, "{}", verb.get_name());
        }
    }

    #[test]
    fn every_example_can_be_typed() {
        for verb in command().get_subcommands() {
            let examples = verb.get_after_help().unwrap().to_string();
            for line in examples.lines().filter_map(|line| line.strip_prefix("  stormctl ")) {
                let line = line.replace("$$", "1");
                let words = line.split('\'').enumerate().map(|(nth, part)| match nth % 2 {
                    // What is quoted is one word, whatever stands in it.
                    1 => part.replace(['|', '>', '&'], "+"),
                    _ => part.to_owned(),
                });
                let line = words.collect::<Vec<_>>().join("'");
                let line = line.split(['|', '>', '&']).next().unwrap();
                let words: Vec<&str> =
                    line.split('\'').enumerate().fold(Vec::new(), |mut words, (nth, part)| {
                        if nth % 2 == 1 {
                            words.push(part)
                        } else {
                            words.extend(part.split(' '))
                        }
                        words
                    });
                let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
                // A clock time may have passed today; only its form is under test.
                let parsed = parsed(&words).map_err(|error| error.to_string());
                let is_past = parsed.as_ref().is_err_and(|error| error.contains("in the past"));
                assert!(parsed.is_ok() || is_past, "{line}: {parsed:?}");
            }
        }
    }

    #[test]
    fn help_shows_the_exit_codes() {
        let help = command().render_help().to_string();
        assert!(help.contains("75  tempfail") && help.contains("79  lost"), "{help}");
    }

    #[test]
    fn a_foreign_resource_is_told_which_characters_are_allowed() {
        let error = parsed(&["acquire", "a b"]).unwrap_err().to_string();
        assert!(error.contains("allowed: letters, digits and . _ / : @ + -"), "{error}");
    }

    #[test]
    fn a_negative_duration_is_told_to_be_one() {
        for option in ["--ttl", "--for"] {
            let error = parsed(&["acquire", "a", option, "-1s"]).unwrap_err().to_string();
            assert!(error.contains("'-1s' for") && error.contains("for example 90s"), "{error}");
        }
    }

    #[test]
    fn holds_exclude_each_other() {
        assert!(parsed(&["acquire", "a", "--for", "2h", "--keep"]).is_err());
        assert!(parsed(&["renew", "a", "--for", "2h", "--until", "+1h"]).is_err());
        assert!(parsed(&["acquire", "a", "--for", "0s"]).is_err());
        assert!(parsed(&["acquire", "a", "--ttl", "400d"]).is_err());
        assert!(parsed(&["acquire", "a", "--ttl", "30 minutes", "--for", "2h30m"]).is_ok());
    }

    #[test]
    fn what_follows_the_two_dashes_is_the_commands() {
        let run = |line: &[&str]| match parsed(line).unwrap().command {
            Some(Command::Run(run)) => run,
            other => panic!("{other:?}"),
        };
        let ran = run(&["run", "a", "b", "-m", "why", "--", "cmd", "-v", "--", "--ttl", "1s"]);
        assert_eq!(ran.command, ["cmd", "-v", "--", "--ttl", "1s"]);
        assert_eq!(ran.resources.len(), 2);
        assert!(run(&["run", "a"]).command.is_empty());
        assert_eq!(run(&["run", "a", "-c", "x | y"]).line, Some("x | y".into()));
        for bad in [&["run"][..], &["run", "--", "cmd"], &["run", "a", "-c", "x", "--", "y"]] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }
}
