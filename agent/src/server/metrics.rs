//! The agent in numbers, in the text format of Prometheus. Each label is one of a few words of
//! ours, or a backend's name from the configuration: never a resource or a principal, whose number
//! nobody bounds.

use std::fmt::Write as _;

use stormlock_protocol::message::{self, Health, Reply};

use super::service::{Answered, Caller, Service};
use crate::driver::{LOSSES, Measures, RENEWALS};
use crate::policy::Act;

/// Backends that are told of: more would not fit into one reply.
const BACKENDS_MAX: usize = 64;

/// What else there is to tell.
struct Rest {
    backends: Vec<message::Backend>,
    sessions: usize,
    audit_lost: u64,
    audit_works: bool,
    since_ms: i64,
}

impl Service {
    /// For whoever may see locks.
    pub(super) async fn metrics(&self, caller: &Caller) -> Answered<Reply> {
        self.permit(&self.config(), caller, Act::Read, None)?;
        let measures = self.driver.measures().await?;
        let mut backends = self.stores.health();
        backends.truncate(BACKENDS_MAX);
        let rest = Rest {
            backends,
            sessions: self.guests.count(),
            audit_lost: self.audit.lost(),
            audit_works: self.audit.trouble().is_none(),
            since_ms: self.about.since.0,
        };
        Ok(Reply::Metrics(text(&measures, &rest)))
    }
}

fn text(measures: &Measures, rest: &Rest) -> String {
    let mut page = Page::default();
    page.family("stormlock_info", "gauge", "The version of the agent.");
    page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("stormlock_start_time_seconds", "gauge", "When the agent started, in Unix time.");
    page.sample(&[], rest.since_ms / 1_000);
    page.family("stormlock_leases", "gauge", "Leases of this host, by state.");
    for (state, count) in &measures.leases {
        page.sample(&[("state", state)], count);
    }
    page.family("stormlock_waiters", "gauge", "Acquires that wait for what others hold.");
    page.sample(&[], measures.waiters);
    page.family("stormlock_leases_lost_total", "counter", "Leases lost, by reason.");
    for reason in LOSSES {
        let count = measures.lost.get(reason.as_str()).copied().unwrap_or(0);
        page.sample(&[("reason", reason.as_str())], count);
    }
    page.family("stormlock_renewals_total", "counter", "Renewals, by backend and result.");
    for backend in &rest.backends {
        for result in RENEWALS {
            let of = |(at, _): &(&(crate::lease::BackendName, &str), &u64)| {
                at.0.as_str() == backend.name && at.1 == result
            };
            let count = measures.renewals.iter().find(of).map_or(0, |(_, count)| *count);
            page.sample(&[("backend", &backend.name), ("result", result)], count);
        }
    }
    page.family(
        "stormlock_backend_up",
        "gauge",
        "Whether the last call to the backend was answered; nothing before the first call.",
    );
    for backend in &rest.backends {
        let up = match backend.health {
            Health::Unused => continue,
            Health::Up => 1,
            Health::Down => 0,
        };
        page.sample(&[("backend", &backend.name), ("kind", &backend.kind)], up);
    }
    page.family("stormlock_journal_works", "gauge", "Whether the journal can be written.");
    page.sample(&[], u8::from(measures.journal_works));
    page.family("stormlock_sessions", "gauge", "Clients that are connected.");
    page.sample(&[], rest.sessions);
    page.family("stormlock_audit_works", "gauge", "Whether the audit file can be written.");
    page.sample(&[], u8::from(rest.audit_works));
    page.family(
        "stormlock_audit_lines_lost_total",
        "counter",
        "Events that could not be written to the audit file.",
    );
    page.sample(&[], rest.audit_lost);
    page.text
}

/// Families of samples, one after the other.
#[derive(Default)]
struct Page {
    text: String,
    name: &'static str,
}

// Writing to a String cannot fail.
impl Page {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.text.push_str(self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(text));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_itself() {
        let mut page = Page { name: "x", ..Page::default() };
        page.sample(&[("a", "b\\\"c\nd"), ("e", "f")], 1);
        assert_eq!(page.text, "x{a=\"b\\\\\\\"c\\nd\",e=\"f\"} 1\n");
    }

    #[test]
    fn the_longest_page_fits_a_frame() {
        let name = "b".repeat(32);
        let backend = message::Backend {
            name: name.clone(),
            kind: "dynamodb".to_owned(),
            health: Health::Up,
            since: None,
        };
        let renewals = RENEWALS
            .into_iter()
            .map(|result| ((crate::lease::BackendName::new(&name), result), u64::MAX));
        let measures = Measures { renewals: renewals.collect(), ..Measures::default() };
        let rest = Rest {
            backends: vec![backend; BACKENDS_MAX],
            sessions: usize::MAX,
            audit_lost: u64::MAX,
            audit_works: true,
            since_ms: i64::MAX,
        };
        let len = text(&measures, &rest).len();
        assert!(len < stormlock_protocol::FRAME_MAX - 64, "{len}");
    }
}
