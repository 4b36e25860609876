//! `current`: who holds a resource, as the Python tool prints it or as JSON.

use stormlock_protocol::message::Lock;
use stormlock_protocol::name::Resource;

use super::list::lock_row;
use super::told_scope;
use crate::args::{self, Layout};
use crate::connect::{Link, if_about};
use crate::exit::{Answer, Exit, Failure};
use crate::render::failure::free;
use crate::render::json::{Document, Line, LockJson};
use crate::render::text::{ascii_json_string, visible};
use crate::render::{Format, View, tsv};
use crate::time;

/// Columns between the Python tool's columns.
const COLS_GAP: usize = 4;

#[derive(serde::Serialize)]
struct One<'a> {
    lock: Option<LockJson<'a>>,
}

/// Runs the command.
pub(crate) fn run(args: &args::Current, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let doing = format!("asking who holds {}", args.resource);
    let lock = ask(&args.resource, &doing, link)?;
    let exit = if lock.is_some() { None } else { Some(Exit::No) };
    let data = data(lock.as_ref(), args.layout(), view)?;
    let talk =
        lock.as_ref().map_or_else(|| vec!["no lock held".to_owned()], |lock| talk(lock, view));
    Ok(Answer { data, talk, exit, ..Answer::default() })
}

/// What the Python tool has no place for.
fn talk(lock: &Lock, view: &View) -> Vec<String> {
    if view.format != Format::Human {
        return Vec::new();
    }
    let broken = lock.left_ms.filter(|_| lock.is_in_place_of_broken()).map(|left| {
        let (on, who) = (&lock.resource, &lock.principal);
        format!("nobody holds {on}: {who} broke its lease; free {}", free(left, &view.now))
    });
    let here = lock.this_host_only.then(|| told_scope(&[lock.resource.to_string()], &lock.backend));
    broken.into_iter().chain(here).collect()
}

/// Asks who holds a resource.
pub(crate) fn ask(
    resource: &Resource,
    doing: &str,
    link: &mut Link,
) -> Result<Option<Lock>, Failure> {
    let is_asked = |lock: &Option<Lock>| lock.as_ref().is_none_or(|l| l.resource == *resource);
    link.read(doing, |client| {
        client.current(resource.clone()).and_then(|lock| if_about(lock, is_asked))
    })
}

/// "Nobody" is an answer: programs that asked for JSON get it.
fn data(lock: Option<&Lock>, layout: Option<Layout>, view: &View) -> Result<String, Failure> {
    let as_json = |lock| LockJson::new(lock, &view.now);
    let layout = match (layout, view.format) {
        (Some(layout), _) => layout,
        (None, Format::Human) => Layout::Rows,
        (None, Format::Id) => Layout::Id,
        (None, Format::Json) => {
            return view.document(&Document::new(One { lock: lock.map(as_json) }));
        }
        (None, Format::Jsonl) => {
            return view.documents(lock.map(|lock| Line::Lock(as_json(lock)).document()));
        }
        (None, Format::Tsv) => return Ok(tsv(lock.map(|lock| lock_row(lock, view)))),
    };
    Ok(lock.map_or_else(String::new, |lock| laid_out(lock, layout, view)))
}

/// A lock exactly as the Python tool prints it; its JSON has no line end.
pub(crate) fn laid_out(lock: &Lock, layout: Layout, view: &View) -> String {
    let principal = visible(lock.principal.as_str());
    let created = time::python(lock.since, view.now.time_zone());
    let id = lock.lease.to_string();
    match layout {
        Layout::Id => format!("{id}\n"),
        Layout::Rows => format!("Principal: {principal}\nCreated: {created}\nId: {id}\n"),
        Layout::Oneline => format!("{principal}\t{created}\t{id}\n"),
        Layout::Lines => format!("{principal}\n{created}\n{id}\n"),
        Layout::Json => {
            let quoted = [lock.lease.to_string(), created, lock.principal.to_string()]
                .map(|text| ascii_json_string(&text));
            let [id, created, principal] = quoted;
            format!("{{\"id\": {id}, \"created\": {created}, \"principal\": {principal}}}")
        }
        Layout::Cols => {
            let fields = [principal, created, id];
            let widest = fields.iter().map(|field| field.chars().count()).max().unwrap_or(0);
            let width = widest + COLS_GAP;
            let [principal, created, id] = fields;
            format!(
                "{:width$}{:width$}{:width$}\n{principal:width$}{created:width$}{id:width$}\n",
                "PRINCIPAL", "CREATED", "ID"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use jiff::tz::TimeZone;
    use stormlock_protocol::name::{LeaseId, Principal, UnixMs};

    use super::*;

    /// Expected texts were printed by the Python tool 0.4.1 for this lease.
    #[test]
    fn every_layout_is_the_python_tools_to_the_byte() {
        let now = date(2026, 11, 25).at(14, 2, 31, 7_000_000).to_zoned(TimeZone::UTC).unwrap();
        let lock = Lock {
            process: None,
            resource: Resource::new("prod/db").unwrap(),
            backend: "main".into(),
            this_host_only: false,
            principal: Principal::new("märia").unwrap(),
            host: None,
            lease: "70d5f".parse::<LeaseId>().unwrap(),
            fence: None,
            reason: None,
            since: UnixMs(now.timestamp().as_millisecond()),
            left_ms: None,
            mine: false,
            waiters: 0,
        };
        let view = View {
            format: Format::Human,
            is_quiet: false,
            is_verbose: false,
            has_colour: false,
            width: 80,
            now,
        };
        let created = "2026-11-25T14:02:31.007";
        let pad = |text: &str| format!("{text:27}");
        for (layout, expected) in [
            (Layout::Id, "70d5f\n".to_owned()),
            (Layout::Rows, format!("Principal: märia\nCreated: {created}\nId: 70d5f\n")),
            (Layout::Oneline, format!("märia\t{created}\t70d5f\n")),
            (Layout::Lines, format!("märia\n{created}\n70d5f\n")),
            (
                Layout::Json,
                format!("{{\"id\": \"70d5f\", \"created\": \"{created}\", ")
                    + "\"principal\": \"m\\u00e4ria\"}",
            ),
            (
                Layout::Cols,
                [pad("PRINCIPAL"), pad("CREATED"), pad("ID"), "\n".into()].concat()
                    + &[pad("märia"), pad(created), pad("70d5f"), "\n".into()].concat(),
            ),
        ] {
            assert_eq!(laid_out(&lock, layout, &view), expected, "{layout:?}");
        }
    }
}
