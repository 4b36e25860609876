//! Why a command has no result, and what that says about the call: nothing happened, or nobody
//! knows.
//!
//! An error reply of the server is a definite no: our scripts compare before they write, and a
//! write that may not be done is refused at the script's first. So it is one of the kinds below;
//! what we do not recognise is unknown. Texts carry what the server said, which never repeats a
//! password.

use redis::{RedisError, ServerError};

use super::super::{BackendError, RefusedKind};

/// Why a command has no result.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// It was not sent: there is no connection.
    NotSent(RefusedKind, String),
    /// The server answered an error.
    Answered { code: String, detail: String },
    /// It was sent, or may have been, and there is no answer.
    Silence(String),
}

impl Trouble {
    /// The server does not know the script that it was asked to run.
    pub(super) fn is_no_script(&self) -> bool {
        matches!(self, Trouble::Answered { code, .. } if code == "NOSCRIPT")
    }

    /// Nobody was reached.
    pub(super) fn unreachable(why: impl Into<String>) -> Trouble {
        Trouble::NotSent(RefusedKind::Unreachable, why.into())
    }

    /// The same trouble while connecting, when nothing of a call was sent.
    pub(super) fn before_any_call(self, doing: &str) -> Trouble {
        match self {
            Trouble::NotSent(kind, why) => Trouble::NotSent(kind, format!("{doing}: {why}")),
            Trouble::Silence(why) => Trouble::unreachable(format!("{doing}: {why}")),
            Trouble::Answered { code, detail } => {
                let kind = kind(&code, &detail).unwrap_or(RefusedKind::Unreachable);
                Trouble::NotSent(kind, format!("{doing}: {}", said(&code, &detail)))
            }
        }
    }
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Trouble {
        let source = std::error::Error::source(&error);
        match source.and_then(|source| source.downcast_ref::<ServerError>()) {
            Some(answer) => Trouble::Answered {
                code: answer.code().to_owned(),
                detail: answer.details().unwrap_or("").to_owned(),
            },
            None => Trouble::Silence(format!("no answer from redis: {error}")),
        }
    }
}

impl From<Trouble> for BackendError {
    fn from(trouble: Trouble) -> BackendError {
        match trouble {
            Trouble::NotSent(kind, why) => BackendError::Refused { kind, why },
            Trouble::Silence(why) => BackendError::Unknown { why },
            Trouble::Answered { code, detail } => {
                let why = said(&code, &detail);
                match kind(&code, &detail) {
                    Some(kind) => BackendError::Refused { kind, why },
                    None => BackendError::Unknown { why },
                }
            }
        }
    }
}

fn said(code: &str, detail: &str) -> String {
    format!("redis answered {code} {detail}").trim_end().to_owned()
}

/// Codes of a server that is up and does not write.
const NOT_WRITABLE: [&str; 13] = [
    "READONLY",
    "LOADING",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "MOVED",
    "ASK",
    "CROSSSLOT",
    "UNKILLABLE",
];
/// Codes of a server that does not let us.
const CREDENTIALS: [&str; 3] = ["NOAUTH", "WRONGPASS", "NOPERM"];
/// The same without a code: how some versions say that a script's user may not run a command, and
/// that there is no password to give.
const CREDENTIALS_IN_WORDS: [&str; 3] =
    ["ACL failure in script", "can't run this command", "without any password configured"];
/// How the versions say that the user may not touch a key: of others that says nothing.
const NOT_THIS_KEY: [&str; 3] =
    ["access a key", "access one of the keys", "access at least one of the keys"];

fn kind(code: &str, detail: &str) -> Option<RefusedKind> {
    let is_of_keys = NOT_THIS_KEY.iter().any(|words| detail.contains(words));
    if is_of_keys && ["NOPERM", "ERR"].contains(&code) {
        return Some(RefusedKind::Denied);
    }
    if let Some(kind) = by_code(code) {
        return Some(kind);
    }
    if code != "ERR" {
        return None;
    }
    if CREDENTIALS_IN_WORDS.iter().any(|words| detail.contains(words)) {
        return Some(RefusedKind::Credentials);
    }
    if detail.starts_with("unknown command") {
        return Some(RefusedKind::NotWritable);
    }
    // Before version 7 an error inside a script came as ERR with its own code in the text.
    detail.split_whitespace().find_map(|word| by_code(word.strip_prefix('-')?))
}

fn by_code(code: &str) -> Option<RefusedKind> {
    if NOT_WRITABLE.contains(&code) {
        return Some(RefusedKind::NotWritable);
    }
    if CREDENTIALS.contains(&code) {
        return Some(RefusedKind::Credentials);
    }
    (code == "WRONGTYPE").then_some(RefusedKind::Foreign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_reply_has_its_kind_and_the_rest_is_unknown() {
        use RefusedKind::{Credentials, Denied, Foreign, NotWritable};
        let of_old = "this user has no permissions to access one of the keys used as arguments";
        let in_old = "The user executing the script can't access at least one of the keys";
        let old =
            "Error running script (call to f_1): @user_script:7: @user_script: 7: -READONLY x";
        for (code, detail, expected) in [
            ("READONLY", "You can't write against a read only replica.", Some(NotWritable)),
            ("LOADING", "Redis is loading the dataset in memory", Some(NotWritable)),
            ("OOM", "command not allowed when used memory > 'maxmemory'.", Some(NotWritable)),
            ("MISCONF", "Redis is configured to save RDB snapshots, but", Some(NotWritable)),
            ("NOREPLICAS", "Not enough good replicas to write.", Some(NotWritable)),
            ("MOVED", "1234 10.0.0.1:6379", Some(NotWritable)),
            ("NOAUTH", "Authentication required.", Some(Credentials)),
            ("WRONGPASS", "invalid username-password pair", Some(Credentials)),
            ("NOPERM", "this user has no permissions", Some(Credentials)),
            ("NOPERM", "No permissions to access a key", Some(Denied)),
            ("NOPERM", of_old, Some(Denied)),
            ("NOPERM", "ACL failure in script: No permissions to access a key", Some(Denied)),
            ("ERR", in_old, Some(Denied)),
            ("WRONGTYPE", "Operation against a key", Some(Foreign)),
            ("ERR", old, Some(NotWritable)),
            ("ERR", "unknown command 'EVALSHA'", Some(NotWritable)),
            ("ERR", "The user executing the script can't run this command", Some(Credentials)),
            ("ERR", "something else", None),
            ("NEWCODE", "-READONLY", None),
        ] {
            assert_eq!(kind(code, detail), expected, "{code} {detail}");
        }
    }

    #[test]
    fn before_any_call_nothing_is_unknown() {
        for trouble in [
            Trouble::Silence("reset".to_owned()),
            Trouble::Answered { code: "ERR".to_owned(), detail: "max clients".to_owned() },
        ] {
            let error = BackendError::from(trouble.before_any_call("connecting to redis at a:1"));
            let BackendError::Refused { kind: RefusedKind::Unreachable, why } = error else {
                panic!("{error:?}")
            };
            assert!(why.starts_with("connecting to redis at a:1: "), "{why}");
        }
    }
}
