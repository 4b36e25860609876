//! What the audit file says, to those who may read the resources in it.

use stormlock_protocol::message::{Code, Log, Refusal, Reply};

use super::service::{Answered, Caller, Service};
use crate::audit::{NotRead, Search};
use crate::policy::Act;

impl Service {
    /// One page, the latest first.
    pub(super) async fn log(&self, caller: &Caller, ask: Log) -> Answered<Reply> {
        let config = self.config();
        // To somebody who may see none, no events would look like none that happened.
        self.permit(&config, caller, Act::Read, ask.resource.as_ref())?;
        let _turn = self.readings.of(caller.who.uid).await;
        let search = Search {
            resource: ask.resource,
            since: ask.since,
            before: ask.before,
            limit: usize::try_from(ask.limit).unwrap_or(usize::MAX),
            reader: caller.who.uid,
        };
        let who = caller.who.clone();
        let may = move |on: &_| config.policy.judge(&who, Act::Read, Some(on)).is_ok();
        match self.audit.read(search, may).await {
            Ok((events, next)) => Ok(Reply::Log { events, next }),
            Err(NotRead::Stopping) => Err(Refusal::new(Code::Stopping, "the agent is stopping")),
            Err(NotRead::File(error)) => {
                // Paths are the administrator's business.
                tracing::warn!(%error, "the audit file cannot be read");
                let why = "the audit file cannot be read; the agent's own log says why";
                Err(Refusal::new(Code::Unavailable, why))
            }
        }
    }
}
