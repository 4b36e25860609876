//! `list`: all locks in the backends, whoever wrote them.

use stormlock_protocol::client::Locks;
use stormlock_protocol::message::{self, Lock};

use super::{footnote, marked};
use crate::args;
use crate::connect::Link;
use crate::exit::{Answer, Exit, Failure};
use crate::render::json::{Document, Line, LockJson, UnreadJson};
use crate::render::table::{Column, Table};
use crate::render::{Format, View, or_empty, tsv};
use crate::time;

const COLUMNS: [Column; 7] = [
    Column { title: "RESOURCE", least: None },
    Column { title: "HOLDER", least: Some(10) },
    Column { title: "HOST", least: Some(8) },
    Column { title: "SINCE", least: None },
    Column { title: "LEFT", least: None },
    Column { title: "BACKEND", least: Some(7) },
    Column { title: "REASON", least: Some(8) },
];

#[derive(serde::Serialize)]
struct Listing<'a> {
    locks: Vec<LockJson<'a>>,
    unread: Vec<UnreadJson<'a>>,
}

/// Runs the command.
pub(crate) fn run(args: &args::List, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let found = all(args, link)?;
    let unread = found.unread.iter();
    let warnings: Vec<String> = unread
        .map(|unread| format!("backend {} could not be read: {}", unread.backend, unread.why))
        .collect();
    let exit = if warnings.is_empty() { None } else { Some(Exit::Unavailable) };
    // What could not be read may be held: only a whole answer says that there is none.
    let is_empty = found.locks.is_empty() && found.unread.is_empty();
    let talk = match (is_empty, &args.glob, view.format) {
        (true, Some(glob), Format::Human) => vec![format!("no lock matches {glob}")],
        (true, None, Format::Human) => vec!["no locks".to_owned()],
        _ => Vec::new(),
    };
    Ok(Answer { data: data(&found, view)?, talk, warnings, exit, ..Answer::default() })
}

/// A lock as a row of `-o tsv`.
pub(super) fn lock_row(lock: &Lock, view: &View) -> [String; 11] {
    let until = lock.left_ms.and_then(|left| time::rfc3339(time::end(left, &view.now)));
    [
        lock.resource.to_string(),
        lock.principal.to_string(),
        or_empty(lock.host.as_ref()),
        or_empty(time::rfc3339(lock.since)),
        or_empty(until),
        or_empty(lock.left_ms.map(|left| left / 1_000)),
        lock.backend.clone(),
        lock.this_host_only.to_string(),
        lock.lease.to_string(),
        or_empty(lock.fence),
        or_empty(lock.reason.as_ref()),
    ]
}

fn all(args: &args::List, link: &mut Link) -> Result<Locks, Failure> {
    let mut all = Locks { locks: Vec::new(), next: None, unread: Vec::new() };
    loop {
        let after = all.next.clone();
        let ask = message::List { glob: args.glob.clone(), mine: args.mine, after: after.clone() };
        let page = link.read("listing locks", |client| client.list(ask.clone()))?;
        all.locks.extend(page.locks.into_iter().filter(|lock| is_wanted(lock, args)));
        for unread in page.unread {
            if !all.unread.contains(&unread) {
                all.unread.push(unread);
            }
        }
        match page.next {
            None => return Ok(all),
            // An agent that does not move on would keep us here for ever.
            Some(next) if after.is_some_and(|after| next <= after) => {
                let message = "listing locks: the agent sent the same page twice";
                return Err(Failure::new(Exit::Software, "internal", message));
            }
            next => all.next = next,
        }
    }
}

fn is_wanted(lock: &Lock, args: &args::List) -> bool {
    match &args.host {
        Some(host) => lock.host.as_ref() == Some(host),
        None => true,
    }
}

fn data(found: &Locks, view: &View) -> Result<String, Failure> {
    let as_json = |lock| LockJson::new(lock, &view.now);
    match view.format {
        Format::Human if found.locks.is_empty() => Ok(String::new()),
        Format::Human => Ok(table(&found.locks, view)),
        Format::Id => Ok(found.locks.iter().map(|lock| format!("{}\n", lock.lease)).collect()),
        Format::Tsv => Ok(tsv(found.locks.iter().map(|lock| lock_row(lock, view)))),
        Format::Json => view.document(&Document::new(Listing {
            locks: found.locks.iter().map(as_json).collect(),
            unread: found.unread.iter().map(UnreadJson::new).collect(),
        })),
        Format::Jsonl => {
            let locks = found.locks.iter().map(|lock| Line::Lock(as_json(lock)));
            let unread = found.unread.iter().map(|unread| Line::Unread(UnreadJson::new(unread)));
            view.documents(locks.chain(unread).map(Line::document))
        }
    }
}

/// Who broke a lease does not hold what stands in its place.
fn holder(lock: &Lock) -> String {
    if lock.is_in_place_of_broken() {
        return format!("nobody ({} broke it)", lock.principal);
    }
    lock.principal.to_string()
}

fn table(locks: &[Lock], view: &View) -> String {
    let mut table = Table::new(&COLUMNS);
    for lock in locks {
        table.row(vec![
            lock.resource.to_string(),
            holder(lock),
            or_empty(lock.host.as_ref()),
            time::short(time::age_secs(lock.since, &view.now)),
            lock.left_ms.map_or_else(|| "no end".into(), |left| time::short(left / 1_000)),
            marked(&lock.backend, lock.this_host_only),
            or_empty(lock.reason.as_ref()),
        ]);
    }
    let text = table.render(view.width, |_, cell| cell.to_owned());
    text + footnote(locks.iter().any(|lock| lock.this_host_only))
}
