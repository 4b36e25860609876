//! What may be typed to hear what the agent has to tell of the past, and in numbers.

use clap::{Args, ValueEnum};
use stormlock_protocol::name::{Resource, UnixMs};

use super::{names, resource};
use crate::time;

/// Show what this host's agent has written down, newest last
///
/// Who took what, who gave it back, what was lost, and what policy refused; only of resources that
/// you may see, and what the kernel said of a caller only of your own requests (root sees all). It
/// reads the agent's audit file as it is now, not those that were put away. The columns of
/// `-o tsv`: time, event, result, resource, lease, fence, backend, principal, by, uid, login, pid,
/// unit, reason, why.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl log prod/db
  stormctl log -n 100
  stormctl log prod/db --since 2h
  stormctl log --since '2026-11-26 09:00' -o jsonl | jq -r .event")]
pub(crate) struct Log {
    /// Only about this
    #[arg(value_parser = resource)]
    #[arg(add = names::known())]
    pub(crate) resource: Option<Resource>,
    /// So many of the latest events [default: 20; with --since, all]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) lines: Option<u32>,
    /// Nothing older: 2h, 9:00, '2026-11-25 18:00', 2026-11-25T17:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since, allow_hyphen_values = true)]
    pub(crate) since: Option<UnixMs>,
}

/// Print the agent's numbers in the text format of Prometheus
///
/// Leases by state, renewals by backend and result, leases lost by reason, waiters, sessions, and
/// whether backends, journal and audit file work. No label names a resource or a person.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl metrics
  stormctl metrics > /var/lib/node_exporter/stormlock.prom")]
pub(crate) struct Metrics {}

/// Show the lease that matters most now, for a shell's prompt
///
/// In a word or two: the resource, how long it is held, who waits, and how many more you hold.
/// Green is held, yellow ends soon or is at risk, red is lost, until you take it again or release
/// it. It takes at most 50 ms, fails never, and shows `?` when the agent does not answer in time.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl prompt
  stormctl prompt tmux

`stormctl init SHELL` has a shell call it.")]
pub(crate) struct Prompt {
    /// Where it is shown: how colours are written there
    #[arg(value_enum, default_value = "plain", value_name = "WHERE")]
    pub(crate) surface: Surface,
    /// Go on: a line whenever that changes, until nothing is held or ten minutes without an agent,
    /// or the end of this process
    #[arg(long, value_name = "PID", num_args = 0..=1, require_equals = true)]
    pub(crate) follow: Option<Option<u32>>,
    /// The same, by SIGUSR1 to this process, a shell that handles it
    #[arg(long, value_name = "PID", conflicts_with = "follow")]
    pub(crate) tell: Option<u32>,
}

/// Where a prompt is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Surface {
    /// Without colours
    Plain,
    /// In PS1
    Bash,
    /// In PROMPT
    Zsh,
    /// In the output of fish_prompt, or on a terminal
    Fish,
    /// In status-left and its like
    Tmux,
}

impl Surface {
    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Surface> {
        Surface::from_str(name, false).ok()
    }
}

fn since(text: &str) -> Result<UnixMs, String> {
    time::parse_since(text, &time::now())
}
