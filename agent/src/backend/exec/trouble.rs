//! Why a question has no answer, and what that says about the call: nothing happened, or nobody
//! knows. Texts carry what the program wrote, tamed; it is told never to write a password.

use super::super::{BackendError, RefusedKind};
use super::said::tame;

/// Characters of a strange answer that are told: one line of a log.
const STRANGE_MAX: usize = 200;

/// Why a question has no answer.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    /// What is certain; `None` when nothing is.
    kind: Option<RefusedKind>,
    why: String,
}

impl Trouble {
    /// The program was not asked: nothing happened.
    pub(super) fn unreachable(why: impl Into<String>) -> Trouble {
        Trouble::no(RefusedKind::Unreachable, why)
    }

    /// Nothing happened and never will.
    pub(super) fn no(kind: RefusedKind, why: impl Into<String>) -> Trouble {
        Trouble { kind: Some(kind), why: why.into() }
    }

    /// It was asked, and what it did is not known.
    pub(super) fn silence(why: impl Into<String>) -> Trouble {
        Trouble { kind: None, why: why.into() }
    }

    /// An answer that does not belong to its question: no proof of anything.
    pub(super) fn strange(what: impl AsRef<str>) -> Trouble {
        let what = tame(what.as_ref(), STRANGE_MAX);
        Trouble::silence(format!("the program's answer does not belong to its question: {what}"))
    }

    /// What was seen.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// The same trouble with a question that changes nothing: then it is a definite no.
    pub(super) fn of_reading(self) -> Trouble {
        Trouble { kind: self.kind.or(Some(RefusedKind::Unreachable)), ..self }
    }

    /// The same with what was being done in front.
    pub(super) fn while_doing(self, doing: &str) -> Trouble {
        Trouble { why: format!("{doing}: {}", self.why), ..self }
    }
}

impl From<Trouble> for BackendError {
    fn from(Trouble { kind, why }: Trouble) -> BackendError {
        match kind {
            Some(kind) => BackendError::Refused { kind, why },
            None => BackendError::Unknown { why },
        }
    }
}
