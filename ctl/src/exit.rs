//! What a command ends with: the one table of exit codes, and the two ways to end.
//!
//! Not here: how either is written out ([`crate::render`]).

use std::fmt::Write;

use stormlock_protocol::message::{Code, Refusal};

/// The exit codes of `stormctl`. They are API: scripts and units read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    Ok = 0,
    No = 1,
    Usage = 64,
    Unavailable = 69,
    Software = 70,
    TempFail = 75,
    Protocol = 76,
    NoPerm = 77,
    Config = 78,
    Lost = 79,
}

impl Exit {
    /// Every code with its name and meaning, as `stormctl --help` prints them.
    const TABLE: [(Exit, &'static str, &'static str); 10] = [
        (Exit::Ok, "ok", "done; yes"),
        (Exit::No, "no", "the answer is no; not held by you"),
        (Exit::Usage, "usage", "bad arguments"),
        (Exit::Unavailable, "unavailable", "agent or backend unreachable: treat as not held"),
        (Exit::Software, "software", "a bug of ours, or the answer could not be written"),
        (Exit::TempFail, "tempfail", "held by another, or a limit is reached: try again later"),
        (Exit::Protocol, "protocol", "client and agent cannot talk: one must be updated"),
        (Exit::NoPerm, "noperm", "policy says no, or the socket may not be used"),
        (Exit::Config, "config", "unknown backend, bad configuration of the agent"),
        (Exit::Lost, "lost", "the lease is lost or can no longer be proven"),
    ];

    /// The code as a process returns it.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// What a refusal by the agent ends with.
    pub(crate) fn of(code: Code) -> Exit {
        match code {
            Code::Held | Code::TooMany | Code::Timeout => Exit::TempFail,
            Code::Lost => Exit::Lost,
            Code::NotHeld => Exit::No,
            Code::Denied => Exit::NoPerm,
            Code::Unavailable | Code::Stopping => Exit::Unavailable,
            Code::BadRequest => Exit::Usage,
            Code::Config => Exit::Config,
            Code::Internal => Exit::Software,
        }
    }

    /// The table as text, one line per code.
    pub(crate) fn table() -> String {
        let mut text = String::from("Exit codes:\n");
        for (exit, name, meaning) in Exit::TABLE {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {:>2}  {name:<11}  {meaning}", exit.code());
        }
        text
    }
}

/// How a command ended that has an answer. The answer may be "no".
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// For stdout, whole lines.
    pub(crate) data: String,
    /// For stderr, one sentence each; left out with `-q`.
    pub(crate) talk: Vec<String>,
    /// For stderr even with `-q`: the answer promises less than it seems.
    pub(crate) warnings: Vec<String>,
    /// For stderr when `data` cannot be written: what was done all the same, and how to undo it.
    pub(crate) unwritten: Vec<String>,
    /// `None` is [`Exit::Ok`].
    pub(crate) exit: Option<Exit>,
}

/// How a command ended that has none. Nothing goes to stdout.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// For programs: a [`Code`] as text, or `protocol`.
    pub(crate) code: &'static str,
    /// What was being done, to what, and why it failed: lower case, no full stop.
    pub(crate) message: String,
    /// One sentence that says what to do.
    pub(crate) advice: Option<String>,
    /// The exact commands to type next, each with what it does.
    pub(crate) next: Vec<(String, &'static str)>,
    /// What the agent said, when it was the agent that said no; one per resource it refused.
    pub(crate) refusals: Vec<Refusal>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Failure {
        let (advice, next, refusals) = (None, Vec::new(), Vec::new());
        Failure { exit, code, message: message.into(), advice, next, refusals }
    }

    /// Arguments that make no sense together.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, Code::BadRequest.as_str(), message)
    }

    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Failure {
        self.advice = Some(advice.into());
        self
    }

    pub(crate) fn then_type(mut self, command: impl Into<String>, does: &'static str) -> Failure {
        self.next.push((command.into(), does));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_codes_are_those_of_the_contract() {
        let codes = Exit::TABLE.map(|(exit, name, _)| (exit.code(), name));
        let contract = [
            (0, "ok"),
            (1, "no"),
            (64, "usage"),
            (69, "unavailable"),
            (70, "software"),
            (75, "tempfail"),
            (76, "protocol"),
            (77, "noperm"),
            (78, "config"),
            (79, "lost"),
        ];
        assert_eq!(codes, contract);
    }

    #[test]
    fn every_refusal_has_an_exit_code_that_is_not_success() {
        let exits = Code::ALL.map(|code| Exit::of(code).code());
        assert_eq!(exits, [75, 79, 1, 77, 69, 64, 75, 75, 69, 78, 70]);
    }
}
