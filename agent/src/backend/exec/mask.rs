//! The password that the program was told, taken out of what it writes for people: that goes into
//! logs, and to whoever asks `doctor`.
//!
//! Nothing is taken out of what the program says to the agent: a short password may stand in any
//! answer.

use std::fmt;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

/// What stands instead.
const HIDDEN: &str = "[password]";

/// What must not be seen.
#[derive(Clone)]
pub(super) struct Mask(Option<Arc<SecretString>>);

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mask")
    }
}

impl Mask {
    pub(super) fn new(password: Option<&SecretString>) -> Mask {
        let some = password.filter(|password| !password.expose_secret().is_empty());
        Mask(some.map(|password| Arc::new(password.clone())))
    }

    /// The text with something else where the password stands, as it is or as JSON writes it.
    pub(super) fn hide(&self, text: &str) -> String {
        let Some(password) = self.password() else { return text.to_owned() };
        let plain = text.replace(password, HIDDEN);
        let quoted = serde_json::to_string(password).unwrap_or_default();
        match quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(quoted) => plain.replace(quoted, HIDDEN),
            None => plain,
        }
    }

    /// A text that was cut, without a password's beginning at its end.
    pub(super) fn hide_end(&self, mut text: String) -> String {
        let Some(password) = self.password() else { return text };
        let beginnings = password.char_indices().skip(1).filter_map(|(at, _)| password.get(..at));
        if let Some(begun) = beginnings.filter(|begun| text.ends_with(begun)).last() {
            text.truncate(text.len() - begun.len());
        }
        text
    }

    fn password(&self) -> Option<&str> {
        self.0.as_ref().map(|password| password.expose_secret())
    }
}
