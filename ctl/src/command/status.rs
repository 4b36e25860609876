//! `status`: what is yours on this host, and how the agent and its backends are.

use stormlock_protocol::message::{Agent, Backend, Health, Hold, Lease, State, Status};
use stormlock_protocol::process::Process;

use super::{footnote, lease_row, marked};
use crate::connect::Link;
use crate::exit::{Answer, Exit, Failure};
use crate::render::json::{
    AgentJson, BackendJson, Document, LeaseJson, Line, health_word, lost_to, lost_why, lost_word,
};
use crate::render::table::{Column, Table};
use crate::render::text::visible;
use crate::render::{Format, Mood, View, or_empty, tsv};
use crate::time;

const COLUMNS: [Column; 6] = [
    Column { title: "RESOURCE", least: None },
    Column { title: "STATE", least: None },
    Column { title: "LEFT", least: None },
    Column { title: "HOLD", least: None },
    Column { title: "BACKEND", least: Some(7) },
    Column { title: "REASON", least: Some(8) },
];
/// Where [`COLUMNS`] has the state, for its colour.
const STATE_COLUMN: usize = 1;

#[derive(serde::Serialize)]
struct Whole<'a> {
    agent: AgentJson<'a>,
    leases: Vec<LeaseJson<'a>>,
    backends: Vec<BackendJson<'a>>,
}

/// Runs the command.
pub(crate) fn run(link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let status = all_leases(link, "asking for the status")?;
    Ok(Answer { data: data(&status, view)?, ..Answer::default() })
}

/// The caller's leases from all pages, with what the last page said of agent and backends.
pub(super) fn all_leases(link: &mut Link, doing: &str) -> Result<Status, Failure> {
    let mut leases = Vec::new();
    let mut after = None;
    loop {
        let page = link.read(doing, |client| client.status(after))?;
        leases.extend(page.leases.iter().cloned());
        match page.next {
            None => return Ok(Status { leases, ..page }),
            Some(next) if after.is_some_and(|after| next <= after) => {
                let message = format!("{doing}: the agent sent the same page twice");
                return Err(Failure::new(Exit::Software, "internal", message));
            }
            next => after = next,
        }
    }
}

fn data(status: &Status, view: &View) -> Result<String, Failure> {
    let leases = status.leases.iter();
    match view.format {
        Format::Human => Ok(human(status, view)),
        Format::Id => Ok(leases.map(|lease| format!("{}\n", lease.lease)).collect()),
        Format::Tsv => Ok(tsv(leases.map(|lease| lease_row(lease, view)))),
        Format::Json => view.document(&Document::new(Whole {
            agent: AgentJson::new(&status.agent),
            leases: leases.map(|lease| LeaseJson::new(lease, &view.now)).collect(),
            backends: status.backends.iter().map(BackendJson::new).collect(),
        })),
        Format::Jsonl => {
            let agent = [Line::Agent(AgentJson::new(&status.agent))].into_iter();
            let leases = leases.map(|lease| Line::Lease(LeaseJson::new(lease, &view.now)));
            let backends = status.backends.iter().map(|b| Line::Backend(BackendJson::new(b)));
            view.documents(agent.chain(leases).chain(backends).map(Line::document))
        }
    }
}

fn human(status: &Status, view: &View) -> String {
    let mut text = about_agent(&status.agent, view);
    for backend in &status.backends {
        text.push_str(&about_backend(backend, view));
    }
    text.push('\n');
    if status.leases.is_empty() {
        text.push_str("you hold nothing through this agent\n");
    } else {
        text.push_str(&table(&status.leases, view));
    }
    text
}

fn about_agent(agent: &Agent, view: &View) -> String {
    let since = time::words(time::age_secs(agent.since, &view.now));
    let mut text = format!(
        "agent    stormlockd {} on {}, pid {}, for {since}\nyou      {}\n",
        visible(&agent.version),
        visible(&agent.host),
        agent.pid,
        visible(agent.you.as_str()),
    );
    if !agent.journal_works {
        let told = "its journal cannot be written: no new lease is taken";
        text.push_str(&format!("journal  {}\n", view.paint(Mood::Bad, told)));
    }
    text
}

fn about_backend(backend: &Backend, view: &View) -> String {
    let (mood, told) = match backend.health {
        Health::Unused => (Mood::Plain, "not used yet"),
        Health::Up => (Mood::Good, health_word(Health::Up)),
        Health::Down => (Mood::Bad, "cannot be used, see `stormctl doctor`"),
    };
    let since = match backend.since {
        Some(since) => format!(" for {}", time::words(time::age_secs(since, &view.now))),
        None => String::new(),
    };
    let scope = if backend.kind == "local" { ", this host only" } else { "" };
    let (name, kind) = (visible(&backend.name), visible(&backend.kind));
    format!("backend  {name} ({kind}{scope}) {}{since}\n", view.paint(mood, told))
}

fn table(leases: &[Lease], view: &View) -> String {
    let mut table = Table::new(&COLUMNS);
    for lease in leases {
        table.row(vec![
            lease.resource.to_string(),
            told_state(lease),
            if lease.left_ms == 0 { "-".into() } else { time::short(lease.left_ms / 1_000) },
            told_hold(lease, view),
            marked(&lease.backend, lease.this_host_only),
            or_empty(lease.reason.as_ref()),
        ]);
    }
    let text = table.render(view.width, |column, cell| {
        if column == STATE_COLUMN { view.paint(mood(cell), cell) } else { cell.to_owned() }
    });
    text + footnote(leases.iter().any(|lease| lease.this_host_only))
}

fn told_state(lease: &Lease) -> String {
    let mut told = state_words(&lease.state);
    if lease.ends_soon {
        told += ", ends soon";
    }
    match lease.waiters {
        0 => told,
        1 => told + ", 1 waits",
        many => format!("{told}, {many} wait"),
    }
}

fn state_words(state: &State) -> String {
    match state {
        State::Asking => "asking".to_owned(),
        State::Held => "held".to_owned(),
        State::AtRisk => "at risk".to_owned(),
        State::Unknown => "unknown".to_owned(),
        // What the store has confirmed is not shown any more.
        State::Released => "being released".to_owned(),
        State::Lingering => "its holder has ended".to_owned(),
        State::Lost(reason) => {
            let why = lost_word(reason).replace('_', " ");
            let to = lost_to(reason).map_or_else(String::new, |who| format!(" {who}"));
            let said = lost_why(state).map_or_else(String::new, |why| format!(": {why}"));
            format!("lost: {why}{to}{said}")
        }
    }
}

/// The table paints text, so the mood is read from the words of [`told_state`].
fn mood(told: &str) -> Mood {
    match told.split([':', ',']).next() {
        Some("held") if told.contains("ends soon") => Mood::Worry,
        Some("held") => Mood::Good,
        Some("at risk" | "unknown" | "asking" | "its holder has ended") => Mood::Worry,
        Some("lost") => Mood::Bad,
        _ => Mood::Plain,
    }
}

fn told_hold(lease: &Lease, view: &View) -> String {
    if lease.state == State::Lingering {
        return "given back then".to_owned();
    }
    match (lease.hold, lease.attach.process()) {
        (Hold::Keep, Some(Process { pid, group: true, .. })) => {
            format!("until group {pid} ends")
        }
        (Hold::Keep, Some(Process { pid, .. })) => format!("until {pid} ends"),
        (Hold::Keep, _) => "until released".to_owned(),
        (Hold::No | Hold::Usual, _) => "not renewed".to_owned(),
        (Hold::For(secs), _) => format!("for {}", time::exact(u64::from(secs))),
        (Hold::Until(at), _) => format!("until {}", time::clock(at, &view.now)),
    }
}
