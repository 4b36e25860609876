//! A failure on stderr: for people who holds it and what to type next, for programs one JSON line.

use jiff::Zoned;
use serde::Serialize;
use stormlock_protocol::message::{Code, Lock, Refusal};

use super::json::{Document, LockJson};
use super::text::visible;
use super::{Format, View};
use crate::exit::{Exit, Failure};
use crate::time;

/// Writes a failure to stderr and says what the process returns.
pub(crate) fn failure(failure: &Failure, view: &View) -> Exit {
    let text = match view.format {
        Format::Json | Format::Jsonl => as_json(failure, view),
        Format::Human | Format::Tsv | Format::Id => as_words(failure, view),
    };
    super::voice::tell(text);
    failure.exit
}

#[derive(Debug, Serialize)]
struct ErrorJson<'a> {
    error: Body<'a>,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    code: &'a str,
    exit: u8,
    message: &'a str,
    advice: Option<&'a str>,
    resource: Option<&'a str>,
    holder: Option<LockJson<'a>>,
    refusals: Vec<RefusalJson<'a>>,
    next: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct RefusalJson<'a> {
    code: &'a str,
    message: &'a str,
    resource: Option<&'a str>,
    holder: Option<LockJson<'a>>,
}

fn as_json(failure: &Failure, view: &View) -> String {
    let first = failure.refusals.first();
    let refusals = failure.refusals.iter().map(|refusal| RefusalJson {
        code: refusal.code.as_str(),
        message: &refusal.message,
        resource: refusal.resource.as_ref().map(|resource| resource.as_str()),
        holder: refusal.holder.as_deref().map(|lock| LockJson::new(lock, &view.now)),
    });
    let body = Body {
        code: failure.code,
        exit: failure.exit.code(),
        message: &failure.message,
        advice: failure.advice.as_deref(),
        resource: first.and_then(|r| r.resource.as_ref()).map(|resource| resource.as_str()),
        holder: first
            .and_then(|refusal| refusal.holder.as_deref())
            .map(|lock| LockJson::new(lock, &view.now)),
        refusals: refusals.collect(),
        next: failure.next.iter().map(|(command, _)| command.as_str()).collect(),
    };
    let line = View { format: Format::Jsonl, ..view.clone() };
    // A failure to write JSON is itself a failure, and can only be told in words.
    let document = Document::new(ErrorJson { error: body });
    line.document(&document).unwrap_or_else(|unwritten| as_words(&unwritten, view))
}

fn as_words(failure: &Failure, view: &View) -> String {
    let mut lines = Vec::new();
    let holder = failure.refusals.first().and_then(|refusal| refusal.holder.as_deref());
    match holder {
        Some(lock) => {
            let is_vain = failure.refusals.first().is_some_and(|it| it.code == Code::Timeout);
            let vain = if is_vain { "waited in vain: " } else { "" };
            lines.push(format!("stormctl: {vain}{}", headline(lock)));
            if !view.is_quiet {
                lines.extend(particulars(lock, &view.now));
            }
        }
        None => lines.push(format!("stormctl: {}", failure.message)),
    }
    let others = failure.refusals.iter().skip(1).map(told);
    lines.extend(others.map(|message| format!("stormctl: {message}")));
    if !view.is_quiet {
        lines.extend(failure.advice.iter().map(|advice| format!("  {advice}")));
        let widest = failure.next.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
        for (nth, (command, does)) in failure.next.iter().enumerate() {
            let lead = if nth == 0 { "next:" } else { "" };
            lines.push(format!("{lead:<5} {command:<widest$}  # {does}"));
        }
    }
    lines.iter().map(|line| visible(line) + "\n").collect()
}

/// One refusal among several, with what it is about.
pub(crate) fn told(refusal: &Refusal) -> String {
    match &refusal.resource {
        Some(resource) if !refusal.message.split(' ').any(|word| word == resource.as_str()) => {
            format!("{resource}: {}", refusal.message)
        }
        Some(_) | None => refusal.message.clone(),
    }
}

/// Who has it, since when and so on.
pub(crate) fn description(lock: &Lock, now: &Zoned) -> Vec<String> {
    std::iter::once(headline(lock)).chain(particulars(lock, now)).collect()
}

fn headline(lock: &Lock) -> String {
    if lock.mine {
        format!("{} is already yours ({})", lock.resource, lock.principal)
    } else if lock.is_in_place_of_broken() {
        format!("nobody holds {} yet: {} broke its lease", lock.resource, lock.principal)
    } else {
        format!("{} is held by {}", lock.resource, lock.principal)
    }
}

fn particulars(lock: &Lock, now: &Zoned) -> Vec<String> {
    let unknown = || "not told by its writer".to_owned();
    let ago = time::words(time::age_secs(lock.since, now));
    let until = match lock.left_ms {
        Some(left) if lock.is_in_place_of_broken() => free(left, now),
        Some(left) => {
            let at = time::clock(time::end(left, now), now);
            format!("in {} ({at}), unless it is renewed", time::words(left / 1_000))
        }
        None => "it is released: it has no end of its own".to_owned(),
    };
    let waiters = match lock.waiters {
        0 => None,
        1 => Some("1 on this host".to_owned()),
        many => Some(format!("{many} on this host")),
    };
    let scope = if lock.this_host_only { " (this host only)" } else { "" };
    let mut all = vec![
        ("host", lock.host.clone().unwrap_or_else(unknown)),
        ("why", lock.reason.as_ref().map_or_else(|| "no reason given".into(), |r| r.to_string())),
        ("since", format!("{ago} ago ({})", time::clock(lock.since, now))),
        (if lock.is_in_place_of_broken() { "free" } else { "until" }, until),
        ("fence", lock.fence.map_or_else(unknown, |fence| fence.to_string())),
        ("lease", lock.lease.to_string()),
        ("backend", format!("{}{scope}", lock.backend)),
    ];
    all.extend(waiters.map(|waiters| ("waiting", waiters)));
    all.into_iter().map(|(label, text)| format!("  {label:<8}{text}")).collect()
}

/// When what stands in the place of a broken lease makes room.
pub(crate) fn free(left_ms: u64, now: &Zoned) -> String {
    let (left, at) = (time::words(left_ms / 1_000), time::clock(time::end(left_ms, now), now));
    format!("when whoever relied on it has ended, in {left} ({at}) at the latest")
}
