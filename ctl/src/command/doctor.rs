//! `doctor`: what is wrong, from this side of the socket first, then the agent's own findings.

use std::io::{self, IsTerminal};
use std::{env, fs};

use rustix::process::{Pid, getppid};
use stormlock_protocol::message::{Finding, Level};

use super::status::all_leases;
use crate::connect::{Link, Places, SHORT_PATIENCE};
use crate::exit::{Answer, Exit, Failure};
use crate::render::json::{Document, FindingJson, Line, level_word};
use crate::render::text::{visible, wrapped};
use crate::render::{Format, Mood, View, or_empty, tsv};

/// The shells that have a hook, and what puts it there.
const HOOKS: [(&str, &str); 3] = [
    ("bash", "put `eval \"$(stormctl init bash)\"` into ~/.bashrc"),
    ("zsh", "put `eval \"$(stormctl init zsh)\"` into ~/.zshrc, after compinit"),
    ("fish", "put `stormctl init fish | source` into ~/.config/fish/config.fish"),
];
/// Where a hook says in which process it is.
const HOOKED: &str = "STORMLOCK_SHELL";

/// The longest word for how bad it is.
const LEVEL_WIDTH: usize = "warning".len();
/// What separates two columns.
const GAP: &str = "  ";

#[derive(serde::Serialize)]
struct Findings<'a> {
    findings: Vec<FindingJson<'a>>,
}

/// Runs the command. An agent that cannot be reached is a finding, not a failure.
pub(crate) fn run(
    places: &Places,
    link: Result<Link, Failure>,
    view: &View,
) -> Result<Answer, Failure> {
    let mut findings = Vec::new();
    if places.ignored {
        findings.push(finding(
            Level::Note,
            "socket",
            "$STORMLOCK_SOCKET is ignored: this process has other rights than its caller",
        ));
    }
    match link {
        Ok(mut link) => examine(&mut link, &mut findings),
        Err(failure) => findings.push(from_failure("socket", failure)),
    }
    findings.extend(shell());
    let is_bad = findings.iter().any(|finding| finding.level == Level::Bad);
    let exit = if is_bad { Some(Exit::No) } else { None };
    if view.is_quiet {
        findings.retain(|it| matches!(it.level, Level::Warning | Level::Bad));
    }
    Ok(Answer { data: data(&findings, view)?, exit, ..Answer::default() })
}

fn examine(link: &mut Link, findings: &mut Vec<Finding>) {
    let socket = link.socket.display().to_string();
    let patience = link.patience;
    link.set_patience(patience.min(SHORT_PATIENCE));
    let status = match all_leases(link, "asking for the status") {
        Ok(status) => status,
        Err(failure) => return findings.push(from_failure("agent", failure)),
    };
    link.set_patience(patience);
    findings.push(finding(Level::Good, "socket", format!("an agent answers on {socket}")));
    findings.push(versions(&status.agent.version));
    findings.push(finding(
        Level::Good,
        "you",
        format!("you are {}, and hold {} here", status.agent.you, leases(status.leases.len())),
    ));
    match link.read("asking the agent's findings", |client| client.doctor()) {
        Ok(theirs) => findings.extend(theirs),
        Err(failure) => findings.push(from_failure("agent", failure)),
    }
}

/// Whether the prompt of the shell that this was typed into shows locks. Of a script nothing is
/// told: it has none.
fn shell() -> Option<Finding> {
    let parent = getppid().map_or(0, Pid::as_raw_pid);
    let name = fs::read_to_string(format!("/proc/{parent}/comm")).ok()?;
    let (name, mend) = HOOKS.into_iter().find(|(shell, _)| *shell == name.trim_end())?;
    if env::var(HOOKED).is_ok_and(|pid| pid == parent.to_string()) {
        return Some(finding(
            Level::Good,
            "shell",
            format!("the prompt of this {name} shows locks"),
        ));
    }
    io::stderr().is_terminal().then(|| Finding {
        mend: Some(mend.to_owned()),
        ..finding(Level::Note, "shell", format!("the prompt of this {name} shows no locks"))
    })
}

fn leases(count: usize) -> String {
    if count == 1 { "1 lease".to_owned() } else { format!("{count} leases") }
}

fn versions(agent: &str) -> Finding {
    let client = env!("CARGO_PKG_VERSION");
    if agent == client {
        return finding(Level::Good, "versions", format!("client and agent are {client}"));
    }
    let told = format!("client {client}, agent {agent}: they understand each other, but differ");
    Finding {
        mend: Some("after an update restart the agent: `systemctl restart stormlockd`".into()),
        ..finding(Level::Note, "versions", told)
    }
}

fn finding(level: Level, about: &str, text: impl Into<String>) -> Finding {
    Finding { level, about: about.to_owned(), text: text.into(), mend: None }
}

fn from_failure(about: &str, failure: Failure) -> Finding {
    Finding { mend: failure.advice, ..finding(Level::Bad, about, failure.message) }
}

fn data(findings: &[Finding], view: &View) -> Result<String, Failure> {
    match view.format {
        Format::Human => Ok(human(findings, view)),
        // A finding has no lease.
        Format::Id => Ok(String::new()),
        Format::Tsv => Ok(tsv(findings.iter().map(|finding| {
            let level = level_word(finding.level).to_owned();
            let (about, text) = (finding.about.clone(), finding.text.clone());
            [level, about, text, or_empty(finding.mend.as_ref())]
        }))),
        Format::Json => {
            let findings = findings.iter().map(FindingJson::new).collect();
            view.document(&Document::new(Findings { findings }))
        }
        Format::Jsonl => {
            let lines = findings.iter().map(|f| Line::Finding(FindingJson::new(f)));
            view.documents(lines.map(Line::document))
        }
    }
}

fn human(findings: &[Finding], view: &View) -> String {
    let abouts = findings.iter().map(|finding| visible(&finding.about).chars().count());
    let widest = abouts.max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let mood = match finding.level {
            Level::Good => Mood::Good,
            Level::Note => Mood::Plain,
            Level::Warning => Mood::Worry,
            Level::Bad => Mood::Bad,
        };
        let level = view.paint(mood, &format!("{:<LEVEL_WIDTH$}", level_word(finding.level)));
        let about = visible(&finding.about);
        let indent = LEVEL_WIDTH + widest + 2 * GAP.len();
        let room = view.width.saturating_sub(indent);
        let next = format!("\n{:indent$}", "");
        let mut lines = wrapped(&visible(&finding.text), room);
        if let Some(mend) = &finding.mend {
            lines.extend(wrapped(&format!("mend: {}", visible(mend)), room));
        }
        text.push_str(&format!("{level}{GAP}{about:<widest$}{GAP}{}\n", lines.join(&next)));
    }
    text
}
