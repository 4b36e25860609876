//! Where the agent's log goes and how its lines begin. What is logged is not decided here.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use stormlock_agent::{clock, fd};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use super::exit::Failure;
use super::journal::Journal;
use super::paths::Env;
use super::syslog::Syslog;

const VARIABLE: &str = "STORMLOCK_LOG";
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
/// The log of a daemon on a host that has neither journal nor syslog.
const FILE: &str = "stormlockd.log";
const PRIVATE: u32 = 0o600;
/// Lines that wait for stderr.
const LINES_MAX: usize = 4096;

type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// What is logged: `given`, else `$STORMLOCK_LOG`, else `usual`. One of the levels is about
/// stormlock alone (its libraries stay at `warn`); anything else is taken as tracing's directives.
pub(crate) fn filter(given: Option<&str>, usual: &str, env: Env) -> Result<EnvFilter, Failure> {
    let variable = env(VARIABLE).map(|value| value.to_string_lossy().into_owned());
    let (said, by) = match (given, variable.as_deref().filter(|value| !value.is_empty())) {
        (Some(level), _) => (level, "--log"),
        (None, Some(level)) => (level, VARIABLE),
        (None, None) => (usual, "--log"),
    };
    let refused =
        || Failure::usage(format!("{by} {said:?} is no level: write one of {}", LEVELS.join(", ")));
    let directives = if LEVELS.contains(&said) {
        let libraries = if said == "error" { "error" } else { "warn" };
        format!("{libraries},stormlock_agent={said},stormlockd={said}")
    } else if said.contains(['=', ',']) {
        said.to_owned()
    } else {
        // A single word would be the name of a library, and a slip in a level the end of the log.
        return Err(refused());
    };
    EnvFilter::builder().parse(&directives).map_err(|_| refused())
}

/// Logs to stderr, or to the journal with all fields if that is where stderr leads. A terminal that
/// stands still (Ctrl-S), or a pipe that nobody reads, holds up no lease: lines that it has no room
/// for are left out. What is returned is to be kept until the end, for the last lines.
#[must_use]
pub(crate) fn to_stderr(filter: EnvFilter, env: Env) -> Option<WorkerGuard> {
    if let Some(journal) = is_journal(env).then(journal).flatten() {
        start(filter, journal);
        return None;
    }
    let stderr = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX);
    let (stderr, last_lines) = stderr.finish(io::stderr());
    start(filter, lines(stderr));
    Some(last_lines)
}

/// Logs to the journal, else to syslog, else to a file in the state directory: a daemon has no
/// stderr.
pub(crate) fn in_background(filter: EnvFilter, state: &Path) -> Result<(), Failure> {
    let syslog = || Syslog::open().ok().map(plain);
    let output = match journal().or_else(syslog) {
        Some(output) => output,
        None => {
            let path = state.join(FILE);
            let mut options = OpenOptions::new();
            let file = options.append(true).create(true).mode(PRIVATE).open(&path);
            let file = file
                .with_context(|| format!("opening the log {}", path.display()))
                .map_err(Failure::unavailable)?;
            lines(Roomy(file))
        }
    };
    start(filter, output);
    std::panic::set_hook(Box::new(|bug| tracing::error!(%bug, "this is a bug of stormlock")));
    Ok(())
}

fn start(filter: EnvFilter, output: Output) {
    // There is a subscriber already only where a test made one.
    let _ = tracing_subscriber::registry().with(output.with_filter(filter)).try_init();
}

/// `JOURNAL_STREAM` names the file that the journal gave to the service; a shell in between may
/// have sent stderr elsewhere.
fn is_journal(env: Env) -> bool {
    let Some(named) = env("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(io::stderr().as_fd())
        .is_ok_and(|stderr| named == format!("{}:{}", stderr.st_dev, stderr.st_ino).as_str())
}

fn journal() -> Option<Output> {
    Journal::open().ok().map(Layer::boxed)
}

fn plain(syslog: Syslog) -> Output {
    let layer = fmt::layer().with_writer(syslog).with_level(false).with_target(false);
    layer.without_time().compact().boxed()
}

fn lines<W>(to: W) -> Output
where
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    fmt::layer().with_writer(to).with_timer(Rfc3339).with_target(false).compact().boxed()
}

/// A file that leaves the rest of its disk to the journal: what users do is logged, as often as
/// they do it.
struct Roomy(File);

impl<'a> MakeWriter<'a> for Roomy {
    type Writer = Box<dyn Write + 'a>;

    fn make_writer(&'a self) -> Box<dyn Write + 'a> {
        if fd::has_room(&self.0) { Box::new(&self.0) } else { Box::new(io::sink()) }
    }
}

/// Wall time in UTC, to the millisecond.
struct Rfc3339;

impl FormatTime for Rfc3339 {
    fn format_time(&self, line: &mut Writer<'_>) -> std::fmt::Result {
        let now = jiff::Timestamp::from_millisecond(clock::wall().0).unwrap_or_default();
        write!(line, "{now:.3}")
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn check(given: Option<&str>, variable: Option<&str>, expected: Option<&str>) {
        let env = |_: &str| variable.map(OsString::from);
        let filter = filter(given, "info", &env).ok().map(|filter| filter.to_string());
        let sorted = |text: &str| {
            let mut parts: Vec<String> = text.split(',').map(str::to_owned).collect();
            parts.sort();
            parts
        };
        assert_eq!(filter.as_deref().map(sorted), expected.map(sorted), "{given:?} {variable:?}");
    }

    #[test]
    fn a_level_is_about_stormlock_and_its_libraries_only_warn() {
        check(None, None, Some("warn,stormlock_agent=info,stormlockd=info"));
        check(None, Some("trace"), Some("warn,stormlock_agent=trace,stormlockd=trace"));
        check(Some("error"), Some("trace"), Some("error,stormlock_agent=error,stormlockd=error"));
        check(Some("redis=debug"), None, Some("redis=debug"));
        check(Some("loud=yes"), None, None);
        check(Some("inof"), None, None);
        check(None, Some("INFO"), None);
        check(None, Some(""), Some("warn,stormlock_agent=info,stormlockd=info"));
    }
}
