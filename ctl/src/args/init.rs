//! What may be typed to join what is there already to the agent: shells, and units.

use clap::{Args, Subcommand};
use stormlock_protocol::name::Resource;

use super::{names, resource};

/// Longest name of a unit, its type included: systemd's own limit.
pub(crate) const UNIT_MAX: usize = 255;
/// What may stand in the name of a unit besides letters and digits.
const UNIT_MARKS: &str = ":-_.\\@";
const SERVICE: &str = ".service";
/// The agent's own unit, and the template of holders, without their type.
const AGENT: &str = "stormlockd";
const HOLDERS: &str = "stormlock@";

/// Show locks in a shell's prompt, or bind a unit of systemd to one
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, subcommand_value_name = "WHAT")]
#[command(after_help = "Examples:
  eval \"$(stormctl init bash)\"
  stormctl init fish | source
  stormctl init systemd nightly --lock prod/db")]
pub(crate) struct Init {
    #[command(subcommand)]
    pub(crate) what: Initial,
}

/// What is joined.
#[derive(Debug, Subcommand)]
pub(crate) enum Initial {
    /// Print what shows locks in the prompt of bash, and completes commands
    ///
    /// For ~/.bashrc, after what makes the prompt. Each prompt then begins with the lock of yours
    /// that matters most: green while it is held, yellow when its end is near or it is at risk, red
    /// when it is lost, until you take it again or release it.
    #[command(after_help = "Examples:
  eval \"$(stormctl init bash)\"
  eval \"$(stormctl init bash --no-prompt)\"; PS1='${STORMLOCK_PROMPT-}\\w \\$ '")]
    Bash(InitShell),
    /// Print what shows locks in the prompt of zsh, and completes commands
    ///
    /// For ~/.zshrc, after compinit and what makes the prompt. Each prompt then begins with the
    /// lock of yours that matters most, and changes with it while nobody types: green while it is
    /// held, yellow when its end is near or it is at risk, red when it is lost, until you take it
    /// again or release it.
    #[command(after_help = "Examples:
  eval \"$(stormctl init zsh)\"
  eval \"$(stormctl init zsh --no-prompt)\"; setopt prompt_subst
  PROMPT='$STORMLOCK_PROMPT%~ %# '")]
    Zsh(InitShell),
    /// Print what shows locks in the prompt of fish, and completes commands
    ///
    /// For ~/.config/fish/config.fish, after what makes the prompt. Each prompt then begins with
    /// the lock of yours that matters most, and changes with it while nobody types: green while it
    /// is held, yellow when its end is near or it is at risk, red when it is lost, until you take
    /// it again or release it.
    #[command(after_help = "Examples:
  stormctl init fish | source
  stormctl init fish --no-prompt | source")]
    Fish(InitShell),
    Systemd(InitSystemd),
}

/// How a shell shows locks.
#[derive(Debug, Args)]
pub(crate) struct InitShell {
    /// Leave the prompt alone, and only set STORMLOCK_PROMPT, for those who make it themselves
    #[arg(long)]
    pub(crate) no_prompt: bool,
}

/// Bind a unit of systemd to a lock: it starts with it, and is stopped when it is lost
///
/// It writes a drop-in, /etc/systemd/system/UNIT.d/50-stormlock.conf, which binds the unit to
/// stormlock@LOCK.service; that one holds the lock as long as any unit needs it. The unit itself is
/// not touched. It counts from the next `systemctl daemon-reload` on, which stops the unit if it
/// runs without the lock. A drop-in that is there and says something else is left as it is, unless
/// --force replaces it. It prints the path of the file. To undo it, stop the unit, delete the file,
/// and `systemctl daemon-reload`: a unit that runs meanwhile runs on without the lock.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stormctl init systemd nightly --lock prod/db
  stormctl init systemd nightly.service --lock prod/db --print
  stormctl init systemd --user backup@home --lock maria/backup")]
pub(crate) struct InitSystemd {
    /// The service to bind
    #[arg(value_name = "UNIT", value_parser = unit)]
    pub(crate) unit: String,
    /// The lock that it needs
    #[arg(long, value_name = "RESOURCE", value_parser = resource)]
    #[arg(add = names::known())]
    pub(crate) lock: Resource,
    /// A unit of your own, as in `systemctl --user`
    #[arg(long)]
    pub(crate) user: bool,
    /// Write nothing, but print what would be written
    #[arg(long)]
    pub(crate) print: bool,
    /// Replace a drop-in that says something else
    #[arg(long, conflicts_with = "print")]
    pub(crate) force: bool,
}

/// A service's whole name, as `systemctl` takes it: without a type it is one.
fn unit(text: &str) -> Result<String, String> {
    let name = match text.rsplit_once('.') {
        Some((_, "service")) => text.to_owned(),
        Some((name, "timer")) => {
            return Err(format!("a timer only starts another unit: bind that, {name}{SERVICE}"));
        }
        Some((
            _,
            "automount" | "device" | "mount" | "path" | "scope" | "slice" | "socket" | "swap"
            | "target",
        )) => {
            return Err("only a service can be bound like this".to_owned());
        }
        _ => format!("{text}{SERVICE}"),
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || UNIT_MARKS.contains(c);
    if name == SERVICE || name.starts_with("@") || !name.chars().all(is_allowed) {
        return Err(format!(
            "it is no name of a unit, allowed: letters, digits and {}",
            UNIT_MARKS.chars().map(String::from).collect::<Vec<_>>().join(" ")
        ));
    }
    if name.strip_suffix(SERVICE) == Some(AGENT) || name.starts_with(HOLDERS) {
        return Err("it is stormlock's own, which is there for other units to be bound to".into());
    }
    if name.len() > UNIT_MAX {
        return Err(format!("a unit's name has at most {UNIT_MAX} bytes"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_without_a_type_is_a_service() {
        for (typed, name) in [
            ("nightly", "nightly.service"),
            ("nightly.service", "nightly.service"),
            ("a.b@x\\x2dy", "a.b@x\\x2dy.service"),
        ] {
            assert_eq!(unit(typed).as_deref(), Ok(name));
        }
    }

    #[test]
    fn what_cannot_be_bound_is_told_why() {
        let too_long = "x".repeat(UNIT_MAX);
        for (typed, told) in [
            ("nightly.timer", "bind that, nightly.service"),
            ("x.socket", "only a service"),
            ("dev-sda.device", "only a service"),
            ("home.automount", "only a service"),
            ("stormlockd", "stormlock's own"),
            ("stormlockd.service", "stormlock's own"),
            ("stormlock@prod-db.service", "stormlock's own"),
            ("stormlock@", "stormlock's own"),
            ("../x", "no name of a unit"),
            ("a b", "no name of a unit"),
            ("", "no name of a unit"),
            (".service", "no name of a unit"),
            ("@x", "no name of a unit"),
            (too_long.as_str(), "at most 255 bytes"),
        ] {
            let error = unit(typed).unwrap_err();
            assert!(error.contains(told), "{typed:?}: {error}");
        }
    }
}
