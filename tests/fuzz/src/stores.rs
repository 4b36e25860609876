//! What stands in a store, whoever wrote it, as the store's client hands it on.

use etcd_client::proto::PbTxnResponse;
use prost::Message;
use stormlock_agent::backend;
use stormlock_agent::lease::Holder;
use stormlock_protocol::name::{PRINCIPAL_MAX, Principal, REASON_MAX, Reason, Resource};

use crate::assert_visible;

/// What is asked about.
fn on() -> Resource {
    Resource::new("prod/db").expect("a resource")
}

/// Whatever a foreign writer wrote is fit for a terminal, and for the wire.
fn check(holder: &Holder) {
    let principal = holder.principal.as_str();
    assert_eq!(Principal::new(principal).as_ref(), Ok(&holder.principal));
    if let Some(host) = &holder.host {
        assert_visible(host);
        assert!(host.len() <= PRINCIPAL_MAX, "{host:?}");
    }
    if let Some(reason) = &holder.reason {
        assert!(reason.as_str().len() <= REASON_MAX);
        assert_eq!(Reason::new(reason.as_str()).as_ref(), Ok(reason));
    }
}

/// A holder that was asked about by name has that name.
fn check_asked(holder: Option<&Holder>) {
    if let Some(holder) = holder {
        assert_eq!(holder.resource, on());
        check(holder);
    }
}

/// The bytes of a server's answer to a script.
pub(crate) fn redis(bytes: &[u8]) -> bool {
    let read = backend::redis::fuzzing::read(bytes, &on());
    check_asked(read.as_ref().and_then(Option::as_ref));
    read.is_some()
}

/// The bytes of a server's answer to a transaction.
pub(crate) fn etcd(bytes: &[u8]) -> bool {
    let Ok(answer) = PbTxnResponse::decode(bytes) else { return false };
    let read = backend::etcd::fuzzing::read(answer, &on());
    check_asked(read.as_ref().and_then(Option::as_ref));
    read.is_some()
}

/// An item in the JSON of the store's protocol.
pub(crate) fn dynamodb(bytes: &[u8]) -> bool {
    let read = backend::dynamodb::fuzzing::read(bytes, &on());
    check_asked(read.as_ref());
    read.is_some()
}

/// A row as COPY writes it.
pub(crate) fn postgres(bytes: &[u8]) -> bool {
    let read = backend::postgres::fuzzing::read(bytes, &on());
    check_asked(read.as_ref().and_then(Option::as_ref));
    read.is_some()
}

/// A line of a program's.
pub(crate) fn exec(bytes: &[u8]) -> bool {
    let Ok(line) = str::from_utf8(bytes) else { return false };
    let Some(heard) = backend::exec::fuzzing::read(line.trim_end(), &on()) else { return false };
    heard.holders.iter().for_each(check);
    heard.texts.iter().for_each(|text| assert_visible(text));
    true
}
