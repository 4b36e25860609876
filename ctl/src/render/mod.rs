//! From answers to bytes: stdout is data, stderr is talk.
//!
//! Not here: what is said about one command's answer; each file in [`crate::command`] does that.

pub(crate) mod failure;
pub(crate) mod json;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod voice;

use std::env;
use std::io::{self, IsTerminal};

use clap::ValueEnum;
use jiff::Zoned;
use serde::Serialize;
use stormlock_protocol::cause::plain;

use self::json::{Document, One};
use crate::exit::{Answer, Exit, Failure};

/// Narrower terminals get tables of this width: they would be unreadable cut further.
const WIDTH_MIN: usize = 40;

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people; may change between versions
    Human,
    /// One JSON document, stable, "schema": 1
    Json,
    /// One JSON document per line
    Jsonl,
    /// Tab-separated values, one line each, without titles
    Tsv,
    /// Lease ids only, one per line
    Id,
}

/// When colour is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    Auto,
    /// Also into files and pipes
    Always,
    /// Not at all
    Never,
}

/// What a command knows of the screen it writes for.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) format: Format,
    pub(crate) is_quiet: bool,
    pub(crate) is_verbose: bool,
    pub(crate) has_colour: bool,
    pub(crate) width: usize,
    pub(crate) now: Zoned,
}

/// What a state of affairs looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Good,
    Worry,
    Bad,
    Plain,
}

impl View {
    /// The view of this process.
    pub(crate) fn new(format: Format, colour: Colour, now: Zoned) -> View {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let var_is = |name, test: fn(&str) -> bool| {
            env::var_os(name).is_some_and(|value| test(&value.to_string_lossy()))
        };
        let has_colour = match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => {
                let is_unwanted = var_is("NO_COLOR", |value| !value.is_empty());
                is_terminal && !is_unwanted && !var_is("TERM", |value| value == "dumb")
            }
        };
        let of_terminal = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| size.ws_col);
        // watch(1) and pagers that cut tell the width so.
        let told = || env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        // What nobody limits is not cut: grep and less take lines of any length.
        let width = match usize::from(of_terminal) {
            0 => told().unwrap_or(usize::MAX),
            columns => columns,
        };
        let width = width.max(WIDTH_MIN);
        View { format, is_quiet: false, is_verbose: false, has_colour, width, now }
    }

    /// Text in the colour of a mood, if there is colour.
    /// The same at the time that it is now: something was waited for.
    pub(crate) fn renewed(&self) -> View {
        View { now: crate::time::now(), ..self.clone() }
    }

    pub(crate) fn paint(&self, mood: Mood, text: &str) -> String {
        let code = match mood {
            Mood::Good => "32",
            Mood::Worry => "33",
            Mood::Bad => "31",
            Mood::Plain => return text.to_owned(),
        };
        if self.has_colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// A JSON document: indented for `json`, one line for `jsonl`.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Result<String, Failure> {
        let written = match self.format {
            Format::Jsonl => serde_json::to_string(value),
            Format::Human | Format::Json | Format::Tsv | Format::Id => {
                serde_json::to_string_pretty(value)
            }
        };
        match written {
            Ok(json) => Ok(text::visible_json(&json) + "\n"),
            Err(error) => Err(Failure::new(
                Exit::Software,
                stormlock_protocol::message::Code::Internal.as_str(),
                format!("writing json: {error}"),
            )),
        }
    }

    /// A JSON document about one thing, of which a line of `jsonl` says what it is.
    pub(crate) fn one<T: Serialize>(
        &self,
        what: &'static str,
        content: T,
    ) -> Result<String, Failure> {
        let what = (self.format == Format::Jsonl).then_some(what);
        self.document(&Document::new(One { what, content }))
    }

    /// One JSON document per item and line.
    pub(crate) fn documents<T: Serialize>(
        &self,
        values: impl IntoIterator<Item = T>,
    ) -> Result<String, Failure> {
        let line = View { format: Format::Jsonl, ..self.clone() };
        values.into_iter().map(|value| line.document(&value)).collect()
    }
}

/// Rows of tab-separated values.
pub(crate) fn tsv<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> String {
    let lines = rows.into_iter().map(|row| row.map(|field| text::tsv(&field)).join("\t") + "\n");
    lines.collect()
}

/// A value that may be missing, as text.
pub(crate) fn or_empty<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Writes an answer and says what the process returns.
///
/// A reader that went away is no failure: `stormctl list | head -1` wanted no more. What the
/// command did stands, so its own code is returned.
pub(crate) fn answer(answer: &Answer, is_quiet: bool) -> Exit {
    let written = crate::stdout::write(answer.data.as_bytes());
    if !is_quiet {
        answer.talk.iter().for_each(|sentence| say(sentence));
    }
    answer.warnings.iter().for_each(|sentence| say(sentence));
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            say(&plain(&format!("writing the answer to stdout: {error}; what was asked is done")));
            answer.unwritten.iter().for_each(|sentence| say(sentence));
            Exit::Software
        }
        _ => answer.exit.unwrap_or(Exit::Ok),
    }
}

/// Writes one sentence to stderr. Whether anybody reads it is not our business.
pub(crate) fn say(sentence: &str) {
    voice::tell(format!("stormctl: {}\n", text::visible(sentence)));
}
