//! Why a question to an etcd has no answer, and what that says: nothing happened, or nobody knows.
//!
//! A member that says no says so with one of the sentences below, whatever the gRPC code beside it.
//! What we do not recognise, and what the client library makes up when a connection breaks, is
//! unknown. Texts carry what the member said, which never repeats a password.

use std::error::Error;

use super::super::{BackendError, RefusedKind};

/// Why a question has no answer.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// It was not sent: there is no connection.
    NotSent(RefusedKind, String),
    /// A member answered an error.
    Answered(String),
    /// It was sent, or may have been, and there is no answer.
    Silence(String),
}

/// What each sentence of a member begins with.
const ETCD: &str = "etcdserver: ";
/// Nobody is on the lease that a write wanted to hang a key on.
const NO_LEASE: &str = "etcdserver: requested lease not found";
/// An earlier copy of the same grant was first.
const LEASE_EXISTS: &str = "etcdserver: lease already exists";
/// There are no users, so nobody has a password.
const NO_USERS: &str = "etcdserver: authentication is not enabled";
/// What the client library says of a lease that a keepalive did not find.
const GONE: &str = "lease not found";

/// Sentences of a cluster that is up and does not write; all are said before anything is done.
const NOT_WRITABLE: [&str; 6] = [
    "etcdserver: no leader",
    "etcdserver: mvcc: database space exceeded",
    "etcdserver: too many requests",
    "etcdserver: corrupt cluster",
    "etcdserver: rpc not supported for learner",
    "etcdserver: not capable",
];
/// What is said of rights, on keys above all: of others that says nothing.
const NO_RIGHT: &str = "etcdserver: permission denied";
/// Sentences of a cluster that does not let us.
const CREDENTIALS: [&str; 7] = [
    "etcdserver: user name is empty",
    "etcdserver: user name not found",
    "etcdserver: authentication failed",
    "etcdserver: invalid auth token",
    "etcdserver: invalid auth management",
    "etcdserver: revision of auth store is old",
    NO_USERS,
];

impl Trouble {
    /// Nobody was reached.
    pub(super) fn unreachable(why: impl Into<String>) -> Trouble {
        Trouble::NotSent(RefusedKind::Unreachable, why.into())
    }

    /// A watch was ended by its member. The reason is a sentence, with or without more before it.
    pub(super) fn refused(reason: &str) -> Trouble {
        match reason.find(ETCD).and_then(|at| reason.get(at..)) {
            Some(said) => Trouble::Answered(said.to_owned()),
            None if reason.is_empty() => Trouble::Silence("etcd ended a watch".to_owned()),
            None => Trouble::Silence(format!("etcd ended a watch: {reason}")),
        }
    }

    pub(super) fn is_no_lease(&self) -> bool {
        matches!(self, Trouble::Answered(said) if said.starts_with(NO_LEASE) || said == GONE)
    }

    pub(super) fn is_lease_exists(&self) -> bool {
        matches!(self, Trouble::Answered(said) if said.starts_with(LEASE_EXISTS))
    }

    pub(super) fn is_no_users(&self) -> bool {
        matches!(self, Trouble::Answered(said) if said.starts_with(NO_USERS))
    }

    /// The user has not the right to what was asked.
    pub(super) fn is_no_right(&self) -> bool {
        matches!(self, Trouble::Answered(said) if said.starts_with(NO_RIGHT))
    }

    /// True when the member is fit for the next question all the same.
    pub(super) fn is_about_the_question(&self) -> bool {
        self.is_no_right() || self.is_no_lease() || self.is_lease_exists()
    }

    /// The same trouble while connecting, when nothing of a call was sent.
    pub(super) fn before_any_call(self, doing: &str) -> Trouble {
        match self {
            Trouble::NotSent(kind, why) => Trouble::NotSent(kind, format!("{doing}: {why}")),
            Trouble::Silence(why) => Trouble::unreachable(format!("{doing}: {why}")),
            Trouble::Answered(said) => {
                let kind = kind(&said).unwrap_or(RefusedKind::Unreachable);
                Trouble::NotSent(kind, format!("{doing}: {said}"))
            }
        }
    }
}

impl From<etcd_client::Error> for Trouble {
    fn from(error: etcd_client::Error) -> Trouble {
        match &error {
            etcd_client::Error::GRpcStatus(status) if status.message().starts_with(ETCD) => {
                Trouble::Answered(status.message().to_owned())
            }
            etcd_client::Error::LeaseKeepAliveError(said) if said == GONE => {
                Trouble::Answered(GONE.to_owned())
            }
            etcd_client::Error::GRpcStatus(status) => {
                Trouble::Silence(format!("no answer from etcd: {}", of_status(status)))
            }
            _ => Trouble::Silence(format!("no answer from etcd: {}", chain(&error))),
        }
    }
}

impl From<Trouble> for BackendError {
    fn from(trouble: Trouble) -> BackendError {
        match trouble {
            Trouble::NotSent(kind, why) => BackendError::Refused { kind, why },
            Trouble::Silence(why) => BackendError::Unknown { why },
            Trouble::Answered(said) => {
                let why = format!("etcd answered: {said}");
                match kind(&said) {
                    Some(kind) => BackendError::Refused { kind, why },
                    None => BackendError::Unknown { why },
                }
            }
        }
    }
}

/// An error with its causes: the library's outermost one is two words.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn of_status(status: &tonic::Status) -> String {
    let code = format!("{:?}", status.code()).to_lowercase();
    let said = if status.message().is_empty() { code } else { status.message().to_owned() };
    match status.source() {
        Some(source) => {
            let source = chain(source);
            if source.contains(&said) { source } else { format!("{said}: {source}") }
        }
        None => said,
    }
}

fn kind(said: &str) -> Option<RefusedKind> {
    let is_one_of = |sentences: &[&str]| sentences.iter().any(|it| said.starts_with(it));
    if is_one_of(&NOT_WRITABLE) {
        return Some(RefusedKind::NotWritable);
    }
    if is_one_of(&[NO_RIGHT]) {
        return Some(RefusedKind::Denied);
    }
    is_one_of(&CREDENTIALS).then_some(RefusedKind::Credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sentence_has_its_kind_and_the_rest_is_unknown() {
        use RefusedKind::{Credentials, Denied, NotWritable};
        for (said, expected) in [
            ("etcdserver: no leader", Some(NotWritable)),
            ("etcdserver: mvcc: database space exceeded", Some(NotWritable)),
            ("etcdserver: too many requests", Some(NotWritable)),
            ("etcdserver: permission denied", Some(Denied)),
            ("etcdserver: user name is empty", Some(Credentials)),
            ("etcdserver: authentication failed, invalid user ID or password", Some(Credentials)),
            ("etcdserver: invalid auth token", Some(Credentials)),
            // It may have been written.
            ("etcdserver: request timed out", None),
            ("etcdserver: request timed out, possibly due to previous leader failure", None),
            ("etcdserver: leader changed", None),
            ("etcdserver: server stopped", None),
            ("etcdserver: something new", None),
        ] {
            let error = etcd_client::Error::GRpcStatus(tonic::Status::unavailable(said));
            let expected_error = BackendError::from(Trouble::from(error));
            match (expected_error, expected) {
                (BackendError::Refused { kind, .. }, Some(expected)) => assert_eq!(kind, expected),
                (BackendError::Unknown { .. }, None) => {}
                (other, _) => panic!("{said}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_the_library_says_itself_is_unknown_and_before_any_call_nothing_is() {
        let error = || etcd_client::Error::GRpcStatus(tonic::Status::permission_denied("no"));
        assert!(matches!(Trouble::from(error()), Trouble::Silence(_)));
        let error = BackendError::from(Trouble::from(error()).before_any_call("connecting to a:1"));
        let BackendError::Refused { kind: RefusedKind::Unreachable, why } = error else {
            panic!("{error:?}")
        };
        assert!(why.starts_with("connecting to a:1: "), "{why}");
    }
}
