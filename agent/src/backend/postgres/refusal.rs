//! Why a call has no result, and what that says about it: nothing happened, or nobody knows.
//!
//! A transaction is all or nothing, so an error that the server gives to any of its statements
//! before the COMMIT is a definite no, whatever it is: unless it is the end of the session, which a
//! pooler says in the server's place when it has lost it. At the COMMIT only those are that the
//! server gives before it wrote anything; and a COMMIT that "succeeded" with the warning that no
//! standby has it is unknown. Texts carry what the server said, which never repeats a password.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::super::{BackendError, RefusedKind, Unfit};

/// Why a call has no result.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// Nothing was sent: there is no connection.
    NotSent(RefusedKind, String),
    /// The server answered an error, and nothing happened.
    Answered { code: String, text: String },
    /// It was sent, or may have been, and what became of it is not known.
    Silence(String),
}

/// What a database that is not there is refused with.
const NO_DATABASE: &str = "3D000";
/// What our own comparison of the counter fails with.
const DIVISION_BY_ZERO: &str = "22012";
/// The class of errors of a connection. A server has it for what breaks the protocol, a pooler for
/// whatever is wrong with its server.
const CONNECTION: &str = "08";
/// Of an error that ends the session.
const FATAL: &str = "FATAL";
/// Classes of errors that end a transaction at its COMMIT: constraints, its state, rollback.
const ENDS_AT_COMMIT: [&str; 3] = ["23", "25", "40"];

impl Trouble {
    /// Nobody was reached.
    pub(super) fn unreachable(why: impl Into<String>) -> Trouble {
        Trouble::NotSent(RefusedKind::Unreachable, why.into())
    }

    /// The counter was not the expected one.
    pub(super) fn is_moved(&self) -> bool {
        matches!(self, Trouble::Answered { code, .. } if code == DIVISION_BY_ZERO)
    }

    /// An error while connecting, when nothing of a call was sent.
    pub(super) fn before_any_call(error: &Error) -> Trouble {
        match error.as_db_error() {
            Some(answer) => {
                let kind = match answer.code().code() {
                    code if code.starts_with("28") => RefusedKind::Credentials,
                    NO_DATABASE => RefusedKind::NotSetUp(Unfit::NoDatabase),
                    // A pooler is there, and its server is not.
                    code if code.starts_with(CONNECTION) => RefusedKind::Unreachable,
                    _ => RefusedKind::NotWritable,
                };
                Trouble::NotSent(kind, said(answer.code().code(), answer.message()))
            }
            None => {
                let why = words(error);
                if why.contains("password missing") {
                    let why = "the server wants a password: write password_file";
                    return Trouble::NotSent(RefusedKind::Credentials, why.to_owned());
                }
                let mend = if why.contains("does not support TLS") {
                    "; switch it on there, or write ?sslmode=disable where nobody can listen"
                } else {
                    ""
                };
                Trouble::unreachable(format!("{why}{mend}"))
            }
        }
    }

    /// An error of a statement before the COMMIT.
    pub(super) fn of_statement(error: &Error) -> Trouble {
        match error.as_db_error() {
            // What a pooler passed on before it lost the server, the COMMIT too, may be done yet.
            Some(answer)
                if answer.code().code().starts_with(CONNECTION) || answer.severity() == FATAL =>
            {
                Trouble::Silence(words(error))
            }
            Some(answer) => Trouble::Answered {
                code: answer.code().code().to_owned(),
                text: answer.message().to_owned(),
            },
            None => Trouble::Silence(format!("no answer from postgres: {}", words(error))),
        }
    }

    /// An error of the COMMIT itself.
    pub(super) fn of_commit(error: &Error) -> Trouble {
        let is_rollback = error.code().is_some_and(|code: &SqlState| {
            ENDS_AT_COMMIT.iter().any(|class| code.code().starts_with(class))
        });
        match Trouble::of_statement(error) {
            Trouble::Answered { code, text } if !is_rollback => {
                Trouble::Silence(format!("at the commit {}", said(&code, &text)))
            }
            trouble => trouble,
        }
    }

    /// The next call had better look for another server or a new session.
    pub(super) fn ends_session(&self) -> bool {
        match self {
            Trouble::Silence(_) => true,
            Trouble::NotSent(..) => false,
            Trouble::Answered { code, .. } => {
                ["25006", "57", CONNECTION, "XX"].iter().any(|class| code.starts_with(class))
            }
        }
    }
}

impl From<Trouble> for BackendError {
    fn from(trouble: Trouble) -> BackendError {
        match trouble {
            Trouble::NotSent(kind, why) => BackendError::Refused { kind, why },
            Trouble::Silence(why) => BackendError::Unknown { why },
            Trouble::Answered { code, text } => {
                BackendError::Refused { kind: kind(&code, &text), why: said(&code, &text) }
            }
        }
    }
}

/// What kind of no an error of a statement is.
fn kind(code: &str, text: &str) -> RefusedKind {
    match code {
        // A policy of rows may let through other resources.
        "42501" if text.contains("row-level security") => RefusedKind::Denied,
        "42501" => RefusedKind::Credentials,
        NO_DATABASE => RefusedKind::NotSetUp(Unfit::NoDatabase),
        "42P01" | "3F000" => RefusedKind::NotSetUp(Unfit::NoTable),
        // Columns or types that are not those of the table that we know.
        "42703" | "42804" | "42883" | "42809" | "42P10" => RefusedKind::NotSetUp(Unfit::OtherTable),
        // Of one row, or of one table for as long as somebody alters it.
        "55P03" | "40P01" | "40001" => RefusedKind::Blocked,
        // A counter that is none of ours: it has no number after it.
        "22003" => RefusedKind::Foreign,
        _ if code.starts_with("28") => RefusedKind::Credentials,
        _ => RefusedKind::NotWritable,
    }
}

/// What the server said, and where we know better than it, what to do.
fn said(code: &str, text: &str) -> String {
    let text: String = text.chars().take(TEXT_MAX).collect();
    let mend = match code {
        "42P01" | "3F000" => {
            "; make the tables with: stormlockd setup BACKEND; or, on the Python tool's table \
             where none may be made, write side_table = false"
        }
        NO_DATABASE => {
            "; create it there (createdb), then make the tables with: stormlockd setup BACKEND"
        }
        "42501" => "; grant the rights that stormlockd setup BACKEND --print shows",
        "42703" | "42804" | "42883" | "42809" | "42P10" => {
            "; the table is not as stormlockd setup BACKEND makes it"
        }
        "55P03" => "; another session keeps the row locked",
        "22P05" | "22021" => "; the database is not in UTF8",
        _ if text.contains("statement pooling") => {
            "; let the pooler keep a transaction whole: pool_mode = transaction"
        }
        _ => "",
    };
    format!("postgres answered {code} {text}{mend}")
}

/// Characters of a server's text that are told: one line of a log.
const TEXT_MAX: usize = 200;

/// What the server said; or an error and its causes, of which the library's own text names the
/// first only.
pub(super) fn words(error: &Error) -> String {
    if let Some(answer) = error.as_db_error() {
        return said(answer.code().code(), answer.message());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_a_statement_has_its_kind() {
        use RefusedKind::{Blocked, Credentials, Denied, Foreign, NotSetUp, NotWritable};
        for (code, expected) in [
            ("42501", Credentials),
            ("28P01", Credentials),
            ("42703", NotSetUp(Unfit::OtherTable)),
            ("42883", NotSetUp(Unfit::OtherTable)),
            ("22003", Foreign),
            ("42P01", NotSetUp(Unfit::NoTable)),
            ("3F000", NotSetUp(Unfit::NoTable)),
            ("3D000", NotSetUp(Unfit::NoDatabase)),
            ("25006", NotWritable),
            ("55P03", Blocked),
            ("53100", NotWritable),
            ("40P01", Blocked),
        ] {
            assert_eq!(kind(code, ""), expected, "{code}");
        }
        let of_rows = "new row violates row-level security policy for table \"stormlock\"";
        assert_eq!(kind("42501", of_rows), Denied);
    }

    #[test]
    fn a_session_that_cannot_write_any_more_is_given_up() {
        let answered =
            |code: &str| Trouble::Answered { code: code.to_owned(), text: String::new() };
        assert!(answered("25006").ends_session());
        assert!(answered("57P01").ends_session());
        assert!(Trouble::Silence(String::new()).ends_session());
        assert!(!answered("22012").ends_session());
        assert!(answered("22012").is_moved());
    }
}
