//! Exit codes (sysexits.h, as stormctl's) and what is printed before one.

use std::fmt;

use stormlock_protocol::cause::plain;

pub(crate) const OK: u8 = 0;
/// Bad arguments.
pub(crate) const USAGE: u8 = 64;
/// The socket, the state directory or something else that the agent needs cannot be had.
pub(crate) const UNAVAILABLE: u8 = 69;
/// A bug of ours.
pub(crate) const SOFTWARE: u8 = 70;
/// The configuration is refused.
pub(crate) const CONFIG: u8 = 78;
/// What a shell says for a command that is there and cannot be run.
pub(crate) const CANNOT_RUN: u8 = 126;
/// What a shell says for a command that is not there.
pub(crate) const NOT_FOUND: u8 = 127;
/// What a shell adds to the number of the signal that ended a command.
pub(crate) const SIGNALLED: u8 = 128;

/// Why nothing came of it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// The error and its causes, without secrets.
    text: String,
    advice: Option<String>,
    /// Whoever waits for it has heard it already.
    pub(crate) is_told: bool,
}

impl Failure {
    pub(crate) fn new(code: u8, error: impl Into<anyhow::Error>) -> Failure {
        Failure { code, text: plain(&format!("{:#}", error.into())), advice: None, is_told: false }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Failure {
        Failure { code: USAGE, text: text.into(), advice: None, is_told: false }
    }

    pub(crate) fn unavailable(error: impl Into<anyhow::Error>) -> Failure {
        Failure::new(UNAVAILABLE, error)
    }

    pub(crate) fn config(error: impl Into<anyhow::Error>) -> Failure {
        Failure::new(CONFIG, error)
    }

    /// What the parent of a daemon heard.
    pub(crate) fn told(code: u8, text: String) -> Failure {
        Failure { code, text, advice: None, is_told: false }
    }

    /// It must not be printed again.
    pub(crate) fn silent(self) -> Failure {
        Failure { is_told: true, ..self }
    }

    /// One line about what to do.
    pub(crate) fn advise(mut self, advice: Option<&str>) -> Failure {
        self.advice = advice.map(str::to_owned);
        self
    }

    /// Without the program's name in front.
    pub(crate) fn text(&self) -> String {
        match &self.advice {
            Some(advice) => format!("{}\n{advice}", self.text),
            None => self.text.clone(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stormlockd: {}", self.text())
    }
}
