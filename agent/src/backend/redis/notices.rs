//! What a server tells without being asked: that a key which was read changed or expired, whoever
//! did that (`CLIENT TRACKING`, which no setting has to allow, unlike keyspace events). It tells
//! once for each read, so the key is read again each time. Over a connection of its own, and one
//! for all resources. Nothing is decided by it.

use redis::{PushInfo, PushKind, Value};
use stormlock_protocol::name::Resource;
use tokio::sync::broadcast::error::RecvError;

use super::link::Link;
use super::refusal::Trouble;
use super::{BackendError, Redis, Stirs};

impl Redis {
    /// See [`super::super::Backend::watch`].
    pub(super) async fn listen(&self, on: &Resource, stirs: Stirs) -> Result<(), BackendError> {
        let link = self.ears.used().await?;
        let trouble = link.tell(&self.key(on), &stirs).await;
        link.give_up();
        Err(trouble.into())
    }
}

impl Link {
    /// Tells as long as the server does; why it does not any more.
    async fn tell(&self, key: &str, stirs: &Stirs) -> Trouble {
        let mut notices = self.notices();
        loop {
            // Whatever it answers, from now on the server tells of the next change.
            if let Err(trouble) = self.say(redis::cmd("TYPE").arg(key)).await {
                return trouble;
            }
            stirs.tell();
            loop {
                match notices.recv().await {
                    Ok(notice) if !is_about(&notice, key) => {}
                    // Of what was missed, one may have been about it.
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => {
                        return Trouble::Silence("redis closed the connection".to_owned());
                    }
                }
            }
        }
    }
}

/// True when a key changed, or all did.
fn is_about(notice: &PushInfo, key: &str) -> bool {
    let is_key = |value: &Value| matches!(value, Value::BulkString(it) if it == key.as_bytes());
    notice.kind == PushKind::Invalidate
        && notice.data.iter().any(|data| match data {
            Value::Array(keys) => keys.iter().any(is_key),
            Value::Nil => true,
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_about_the_keys_that_it_names_or_about_all() {
        let keys = |names: &[&str]| {
            Value::Array(names.iter().map(|it| Value::BulkString(it.as_bytes().into())).collect())
        };
        let told = |kind, data| is_about(&PushInfo { kind, data }, "prod/db");
        assert!(told(PushKind::Invalidate, vec![keys(&["prod/app", "prod/db"])]));
        assert!(told(PushKind::Invalidate, vec![Value::Nil]));
        assert!(!told(PushKind::Invalidate, vec![keys(&["prod/dbx", "prod"])]));
        assert!(!told(PushKind::Invalidate, vec![]));
        assert!(!told(PushKind::Message, vec![keys(&["prod/db"])]));
    }
}
