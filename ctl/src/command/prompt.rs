//! `prompt`: what a shell shows of one's leases before each line that is typed. It says nothing
//! when in doubt, fails never, starts nothing, and takes a bounded time whatever the agent does.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use stormlock_protocol::client::ClientError;
use stormlock_protocol::message::{Glance, Hold, Lease, State};
use stormlock_protocol::name::UnixMs;

use crate::args::{self, Surface};
use crate::clock::Moment;
use crate::connect::{self, Places};
use crate::exit::Answer;
use crate::render::Mood;
use crate::time;

/// How long all of it may take, of the 50 ms that a prompt may cost.
const LIMIT: Duration = Duration::from_millis(40);
/// An answer to the prompt, and what that looks like.
type Shown = (Mood, String);

/// Does without the reading of a whole command line what shells call before each of theirs; `None`
/// when anything else is asked for.
pub(crate) fn quick(argv: &[OsString]) -> Option<Answer> {
    let surface = match argv {
        [_, verb] if verb == "prompt" => Surface::Plain,
        [_, verb, surface] if verb == "prompt" => Surface::named(surface.to_str()?)?,
        _ => return None,
    };
    Some(answer(surface, &Places::of_this_process(None)))
}

/// Runs the command.
pub(crate) fn run(args: &args::Prompt, places: &Places) -> Answer {
    answer(args.surface, places)
}

fn answer(surface: Surface, places: &Places) -> Answer {
    let look = Look::of_this_process(surface);
    let shown = ask(places, Moment::now() + LIMIT).map_or_else(
        |doubt| doubt.then(|| look.doubt()),
        |glance| look.glance(&glance, time::wall()),
    );
    let data = shown.map_or_else(String::new, |shown| look.painted(&shown));
    Answer { data, ..Answer::default() }
}

/// Asks the first agent that is there. An error is true when there is one, but no answer to be had:
/// what is held is not known then.
fn ask(places: &Places, until: Moment) -> Result<Glance, bool> {
    let left = || Moment::now().until(until).max(Duration::from_millis(1));
    for socket in places.in_order() {
        let mut client = match connect::connect(socket, left()) {
            Ok(client) => client,
            Err(ClientError::NoAgent { .. } | ClientError::LongPath(_)) => continue,
            // An agent for others.
            Err(ClientError::NoAccess { .. }) => return Err(false),
            Err(_) => return Err(true),
        };
        client.set_patience(left());
        return client.glance().map_err(|_| true);
    }
    Err(false)
}

/// How it is written where it is shown.
struct Look {
    surface: Surface,
    has_colour: bool,
    is_ascii: bool,
}

impl Look {
    fn of_this_process(surface: Surface) -> Look {
        let var = |name| env::var_os(name).filter(|value| !value.is_empty());
        let is_dumb = var("TERM").is_some_and(|term| term == "dumb");
        // In this order they decide (locale(7)).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(var).unwrap_or_default();
        let locale = locale.as_bytes().to_ascii_lowercase();
        let has = |word: &[u8]| locale.windows(word.len()).any(|part| part == word);
        Look {
            surface,
            has_colour: surface != Surface::Plain && !is_dumb && var("NO_COLOR").is_none(),
            is_ascii: is_dumb || !(has(b"utf-8") || has(b"utf8")),
        }
    }

    fn glance(&self, glance: &Glance, now: UnixMs) -> Option<Shown> {
        let lease = glance.lease.as_ref()?;
        let (mood, told) = told(lease, now)?;
        let mut text = format!("{} {} {told}", self.symbol(mood), lease.resource);
        match lease.waiters {
            0 => {}
            1 => text.push_str(", 1 waits"),
            many => text.push_str(&format!(", {many} wait")),
        }
        if lease.this_host_only {
            text.push_str(" (this host)");
        }
        if glance.more > 0 {
            text.push_str(&format!(" +{}", glance.more));
        }
        Some((mood, text))
    }

    fn doubt(&self) -> Shown {
        (Mood::Worry, "?".to_owned())
    }

    fn symbol(&self, mood: Mood) -> &'static str {
        match (mood, self.is_ascii) {
            (Mood::Good | Mood::Plain, false) => "\u{25c6}",
            (Mood::Good | Mood::Plain, true) => "*",
            (Mood::Worry, false) => "\u{25b2}",
            (Mood::Worry, true) => "!",
            (Mood::Bad, false) => "\u{2716}",
            (Mood::Bad, true) => "x",
        }
    }

    /// With the colour as the shell wants it, so that it knows how wide the text is, and a space
    /// between this and the prompt.
    fn painted(&self, (mood, text): &Shown) -> String {
        if !self.has_colour {
            return format!("{text} ");
        }
        let (code, name) = match mood {
            Mood::Good | Mood::Plain => ("32", "green"),
            Mood::Worry => ("33", "yellow"),
            Mood::Bad => ("31", "red"),
        };
        match self.surface {
            Surface::Plain => format!("{text} "),
            Surface::Bash => format!("\\[\\e[{code}m\\]{text}\\[\\e[0m\\] "),
            Surface::Zsh => format!("%F{{{name}}}{text}%f "),
            Surface::Fish => format!("\u{1b}[{code}m{text}\u{1b}[0m "),
            Surface::Tmux => format!("#[fg={name}]{text}#[default] "),
        }
    }
}

/// What is to be known of a lease, in a word or two. Nothing that another person wrote is in it.
fn told(lease: &Lease, now: UnixMs) -> Option<(Mood, String)> {
    let left = time::short(left_ms(lease, now) / 1_000);
    let is_kept = matches!(lease.hold, Hold::Keep);
    Some(match &lease.state {
        State::Lost(_) => (Mood::Bad, "lost".to_owned()),
        State::AtRisk => {
            let proven = time::short(lease.left_ms / 1_000);
            (Mood::Worry, format!("at risk, {proven}"))
        }
        State::Unknown => (Mood::Worry, "unknown".to_owned()),
        State::Held if is_kept => (Mood::Good, "kept".to_owned()),
        State::Held if lease.ends_soon || is_nearly_over(lease, now) => (Mood::Worry, left),
        State::Held => (Mood::Good, left),
        State::Asking | State::Released => return None,
    })
}

/// How much longer it is held if nobody does anything.
fn left_ms(lease: &Lease, now: UnixMs) -> u64 {
    match lease.hold {
        Hold::Until(end) => u64::try_from(end.0.saturating_sub(now.0)).unwrap_or(0),
        Hold::No | Hold::Usual | Hold::For(_) | Hold::Keep => lease.left_ms,
    }
}

/// True when less than 15 % is left of what it was taken for.
fn is_nearly_over(lease: &Lease, now: UnixMs) -> bool {
    let whole = match lease.hold {
        Hold::Until(end) => u64::try_from(end.0.saturating_sub(lease.since.0)).unwrap_or(0),
        Hold::No | Hold::Usual | Hold::For(_) | Hold::Keep => {
            u64::from(lease.ttl.as_secs()).saturating_mul(1_000)
        }
    };
    left_ms(lease, now).saturating_mul(100) < whole.saturating_mul(15)
}
