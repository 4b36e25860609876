//! A way in for `tests/fuzz`; no other build has it.

use stormlock_protocol::name::{LeaseId, Principal, Resource, Ttl, UnixMs};

use super::super::{Attempt, BackendError, Standing};
use super::said::{Answer, Looked, Said};
use super::trouble::Trouble;
use crate::lease::{BackendName, Claim, Holder, Nonce};

/// What an agent makes of one line of a program's.
#[derive(Debug, Default)]
pub struct Heard {
    /// The holders that it tells of.
    pub holders: Vec<Holder>,
    /// What will be shown to people.
    pub texts: Vec<String>,
}

/// Reads a line as the answer to each question that there is; `None` if it is no answer at all.
#[must_use]
pub fn read(line: &str, on: &Resource) -> Option<Heard> {
    let said = || serde_json::from_str::<Answer>(line).ok().map(|answer| answer.said);
    let claim = claim(on)?;
    let mut heard = Heard::default();
    let looked = said()?.looked(on).map(|looked| match looked {
        Looked::Held(holder, _) => holder,
        Looked::Free(_) => None,
    });
    heard.holders(looked);
    let attempt = said()?.attempt(&claim).map(|attempt| match attempt {
        Attempt::Held(holder) => holder.map(|holder| *holder),
        Attempt::Granted(_) | Attempt::Moved | Attempt::Gone => None,
    });
    heard.holders(attempt);
    let standing = said()?.standing(on).map(|standing| match standing {
        Standing::NotOurs(holder) => holder.map(|holder| *holder),
        Standing::Ours { .. } | Standing::Cloned => None,
    });
    heard.holders(standing);
    heard.holders(said()?.locks());
    heard.texts(said()?.done());
    heard.texts(said()?.remarks().map(|remarks| {
        let remarks = remarks.into_iter().flatten();
        remarks.flat_map(|remark| [Some(remark.text), remark.mend]).flatten().collect()
    }));
    if let Said::Ready(ready) = said()? {
        // It is shown by those who ask which store it is.
        let _ = (ready.protocol, ready.kind, ready.store, ready.this_host_only);
    }
    Some(heard)
}

impl Heard {
    fn holders(&mut self, heard: Result<impl IntoIterator<Item = Holder>, Trouble>) {
        match heard {
            Ok(holders) => self.holders.extend(holders),
            Err(trouble) => self.texts.push(BackendError::from(trouble).to_string()),
        }
    }

    fn texts(&mut self, heard: Result<Vec<String>, Trouble>) {
        match heard {
            Ok(texts) => self.texts.extend(texts),
            Err(trouble) => self.texts.push(BackendError::from(trouble).to_string()),
        }
    }
}

fn claim(on: &Resource) -> Option<Claim> {
    Some(Claim {
        resource: on.clone(),
        lease: LeaseId::from_bytes([7; 16]),
        backend: BackendName::new("main"),
        principal: Principal::foreign("maria@bastion2"),
        host: "bastion2".to_owned(),
        reason: None,
        ttl: Ttl::from_secs(60).ok()?,
        created: UnixMs(0),
        nonce: Nonce(1),
        over: Some(LeaseId::from_bytes([8; 16])),
    })
}
