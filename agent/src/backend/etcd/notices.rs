//! What a cluster tells without being asked: that the key which says who has a lock was written or
//! deleted, whoever did that, and also when its etcd lease ended. Over a connection of its own, and
//! one for all resources. Nothing is decided by it.

use stormlock_protocol::name::Resource;

use super::keys::Part;
use super::link::Link;
use super::refusal::Trouble;
use super::{BackendError, Etcd, Stirs};

impl Etcd {
    /// See [`super::super::Backend::watch`].
    pub(super) async fn listen(&self, on: &Resource, stirs: Stirs) -> Result<(), BackendError> {
        let link = self.ears.used().await?;
        let trouble = link.tell(self.keys(on).of(Part::Id), &stirs).await;
        // Whatever it was, a member that lost its leader or forgot our token: another one next.
        link.give_up();
        Err(trouble.into())
    }
}

impl Link {
    /// Tells as long as the member does; why it does not any more.
    async fn tell(&self, key: String, stirs: &Stirs) -> Trouble {
        let mut watch = match self.client.watch_client().watch(key, None).await {
            Ok(watch) => watch,
            Err(error) => return error.into(),
        };
        loop {
            match watch.message().await {
                Ok(Some(told)) if told.canceled() => return Trouble::refused(told.cancel_reason()),
                // The first is that it tells from now on.
                Ok(Some(told)) if told.created() || !told.events().is_empty() => stirs.tell(),
                Ok(Some(_)) => {}
                Ok(None) => return Trouble::Silence("etcd closed a watch".to_owned()),
                Err(error) => return error.into(),
            }
        }
    }
}
