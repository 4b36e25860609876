//! `log`: what the agent of this host has written down, newest last.

use stormlock_protocol::message::{self, LogCursor, Logged};
use stormlock_protocol::name::Principal;

use crate::args;
use crate::connect::Link;
use crate::exit::{Answer, Exit, Failure};
use crate::render::json::{Document, Line, LoggedJson};
use crate::render::table::{Column, Table};
use crate::render::{Format, Mood, View, or_empty, tsv};
use crate::time;

/// Events without `-n`: a screen.
const LINES_USUAL: usize = 20;
/// Events without `-n` since a time; more is for those who read the file itself.
const LINES_SINCE: usize = 10_000;

const COLUMNS: [Column; 5] = [
    Column { title: "WHEN", least: None },
    Column { title: "EVENT", least: None },
    Column { title: "RESOURCE", least: None },
    Column { title: "WHO", least: Some(10) },
    Column { title: "WHY", least: Some(8) },
];
/// The column that is coloured.
const EVENT: usize = 1;

#[derive(serde::Serialize)]
struct Listing<'a> {
    events: Vec<LoggedJson<'a>>,
}

/// Runs the command.
pub(crate) fn run(args: &args::Log, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let events = all(args, link)?;
    let talk = match (events.is_empty(), &args.resource, view.format) {
        (true, Some(resource), Format::Human) => {
            vec![format!("this host's agent has written down nothing about {resource}")]
        }
        (true, None, Format::Human) => vec!["no events".to_owned()],
        _ => Vec::new(),
    };
    Ok(Answer { data: data(&events, view)?, talk, ..Answer::default() })
}

/// The pages come from the end of the file, people read from the beginning.
fn all(args: &args::Log, link: &mut Link) -> Result<Vec<Logged>, Failure> {
    let usual = if args.since.is_some() { LINES_SINCE } else { LINES_USUAL };
    let wanted = args.lines.map_or(usual, |lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let mut events: Vec<Logged> = Vec::new();
    let mut before: Option<LogCursor> = None;
    while events.len() < wanted {
        let limit = u32::try_from(wanted - events.len()).unwrap_or(u32::MAX);
        let resource = args.resource.clone();
        let ask = message::Log { resource, since: args.since, before, limit };
        let (page, next) = link.read("reading the log", |client| client.log(ask.clone()))?;
        events.extend(page);
        match (before, next) {
            (_, None) => break,
            // An agent that does not move on would keep us here for ever.
            (Some(before), Some(next)) if next.file == before.file && next.end >= before.end => {
                let message = "reading the log: the agent sent the same page twice";
                return Err(Failure::new(Exit::Software, "internal", message));
            }
            (_, next) => before = next,
        }
    }
    events.truncate(wanted);
    events.reverse();
    Ok(events)
}

fn data(events: &[Logged], view: &View) -> Result<String, Failure> {
    match view.format {
        Format::Human if events.is_empty() => Ok(String::new()),
        Format::Human => Ok(table(events, view)),
        Format::Id => {
            let leases = events.iter().filter_map(|event| event.lease);
            Ok(leases.map(|lease| format!("{lease}\n")).collect())
        }
        Format::Tsv => Ok(tsv(events.iter().map(row))),
        Format::Json => {
            let events = events.iter().map(LoggedJson::new).collect();
            view.document(&Document::new(Listing { events }))
        }
        Format::Jsonl => {
            let lines = events.iter().map(|event| Line::Event(LoggedJson::new(event)));
            view.documents(lines.map(Line::document))
        }
    }
}

fn row(event: &Logged) -> [String; 15] {
    let origin = event.origin.as_ref();
    [
        or_empty(time::rfc3339(event.at)),
        event.event.clone(),
        event.result.clone(),
        or_empty(event.resource.as_ref()),
        or_empty(event.lease),
        or_empty(event.fence),
        or_empty(event.backend.as_ref()),
        or_empty(event.principal.as_ref()),
        or_empty(event.by.as_ref()),
        or_empty(origin.map(|origin| origin.uid)),
        or_empty(origin.and_then(|origin| origin.login.as_ref())),
        or_empty(origin.and_then(|origin| origin.pid)),
        or_empty(origin.and_then(|origin| origin.unit.as_ref())),
        or_empty(event.reason.as_ref()),
        or_empty(event.why.as_ref()),
    ]
}

fn table(events: &[Logged], view: &View) -> String {
    let mut table = Table::new(&COLUMNS);
    for event in events {
        table.row(vec![
            time::stamp(event.at, &view.now),
            in_words(event),
            or_empty(event.resource.as_ref()),
            who(event),
            why(event),
        ]);
    }
    table.render(view.width, |column, cell| match column {
        EVENT => view.paint(mood(cell.trim_end()), cell),
        _ => cell.to_owned(),
    })
}

fn in_words(event: &Logged) -> String {
    match (event.event.as_str(), event.result.as_str()) {
        ("acquire", "ok") => "acquired".to_owned(),
        ("release", "ok") if event.by.is_none() => "ended".to_owned(),
        ("release", "ok") => "released".to_owned(),
        ("renew", "ok") => "renewed".to_owned(),
        ("break", "ok") => "broken".to_owned(),
        ("resume", "ok") => "resumed".to_owned(),
        ("lost" | "gap", _) => event.event.clone(),
        (event, result) => format!("{event} {result}"),
    }
}

fn mood(words: &str) -> Mood {
    match words {
        "lost" | "broken" => Mood::Bad,
        "gap" => Mood::Worry,
        words if words.ends_with(" denied") || words.ends_with(" failed") => Mood::Worry,
        _ => Mood::Plain,
    }
}

/// Whoever did it, and whoever logged in to become them; of what nobody did, whose lease it was.
fn who(event: &Logged) -> String {
    let login = event.origin.as_ref().and_then(|origin| {
        let login = origin.login.as_ref()?;
        (*login != origin.user).then(|| format!(" (login {login})"))
    });
    let principal = event.by.as_ref().or(event.principal.as_ref());
    principal.map_or_else(String::new, |who| format!("{who}{}", login.unwrap_or_default()))
}

fn why(event: &Logged) -> String {
    let whose = |who: &Principal| format!("lease of {who}");
    let of_another = event
        .principal
        .as_ref()
        .filter(|_| event.by.as_ref().is_some_and(|by| Some(by) != event.principal.as_ref()));
    let missing = (event.missing > 0).then(|| format!("{} events are missing", event.missing));
    // An end that nobody asked for needs no reason why it was taken.
    let reason = event.reason.as_ref().filter(|_| event.by.is_some() || event.event == "resume");
    let parts =
        [of_another.map(whose), event.why.clone(), reason.map(ToString::to_string), missing];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}
