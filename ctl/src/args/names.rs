//! The names of resources, for a shell that completes a command line. The agent is asked for them,
//! for a bounded time; without an answer there are none.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::{ArgValueCompleter, CompletionCandidate};
use stormlock_protocol::client::Client;
use stormlock_protocol::message::{List, Log};
use stormlock_protocol::name::Resource;

use crate::clock::Moment;
use crate::connect::{self, Places};

/// How long all of it may take: somebody waits with a finger on a key.
const LIMIT: Duration = Duration::from_millis(50);
/// Events that are looked through for names: what was used of late.
const EVENTS: u32 = 100;

/// One's own, and those that were lost.
pub(super) fn yours() -> ArgValueCompleter {
    completed_by(|known, _| known.leases())
}

/// Those that anybody holds.
pub(super) fn held() -> ArgValueCompleter {
    completed_by(|known, prefix| known.locks(prefix))
}

/// Those that anybody holds, and those that were used on this host of late.
pub(super) fn known() -> ArgValueCompleter {
    completed_by(|known, prefix| {
        known.locks(prefix);
        known.events();
    })
}

fn completed_by(find: fn(&mut Known, &str)) -> ArgValueCompleter {
    ArgValueCompleter::new(move |typed: &OsStr| {
        // What no name begins with is completed to nothing.
        let Some(prefix) = typed.to_str() else { return Vec::new() };
        let mut known = Known { until: Moment::now() + LIMIT, names: BTreeSet::new() };
        find(&mut known, prefix);
        let names = known.names.iter().map(Resource::as_str);
        names.filter(|name| name.starts_with(prefix)).map(CompletionCandidate::new).collect()
    })
}

struct Known {
    until: Moment,
    names: BTreeSet<Resource>,
}

impl Known {
    fn leases(&mut self) {
        if let Some(status) = self.ask(|client| client.status(None).ok()) {
            self.names.extend(status.leases.into_iter().map(|lease| lease.resource));
        }
    }

    /// As many as one page has; whoever types more of the name sees others.
    fn locks(&mut self, prefix: &str) {
        // A star in what was typed would be one of the pattern's.
        let glob =
            (!prefix.is_empty() && !prefix.contains(['*', '?'])).then(|| format!("{prefix}*"));
        let list = List { glob, mine: false, after: None };
        if let Some(page) = self.ask(|client| client.list(list).ok()) {
            self.names.extend(page.locks.into_iter().map(|lock| lock.resource));
        }
    }

    fn events(&mut self) {
        let log = Log { resource: None, since: None, before: None, limit: EVENTS };
        if let Some((events, _)) = self.ask(|client| client.log(log).ok()) {
            self.names.extend(events.into_iter().filter_map(|event| event.resource));
        }
    }

    fn ask<T>(&self, ask: impl FnOnce(&mut Client) -> Option<T>) -> Option<T> {
        let left = || Some(Moment::now().until(self.until)).filter(|left| !left.is_zero());
        let places = Places::of_this_process(None);
        let mut client =
            places.in_order().find_map(|socket| connect::connect(socket, left()?).ok())?;
        client.set_patience(left()?);
        ask(&mut client)
    }
}
