//! What somebody may do, for `doctor`: in all, and what each rule about them says.

use stormlock_protocol::duration::format_secs;
use stormlock_protocol::message::{Finding, Level};

use super::overview::finding;
use super::service::Caller;
use crate::config::Config;
use crate::policy::{Act, Glob, LEASES_MAX, Permit, Rule, Source};

/// Most rules that are shown to one person: far more than anybody reads, and a bound on the answer.
const RULES_MAX: usize = 20;
/// Most patterns of resources of one rule that are shown.
const GLOBS_MAX: usize = 8;

pub(super) fn findings(config: &Config, caller: &Caller) -> Vec<Finding> {
    let rules: Vec<_> = config.policy.rules_about(&caller.who).collect();
    let shown = rules.iter().take(RULES_MAX);
    let each = shown.map(|(by, rule)| finding(Level::Good, "you", &says(*by, rule)));
    let more = rules.len().saturating_sub(RULES_MAX);
    let rest = (more > 0).then(|| format!("and {more} more rules are about you"));
    let rest = rest.map(|text| finding(Level::Note, "you", &text));
    std::iter::once(in_all(config, caller)).chain(each).chain(rest).collect()
}

fn in_all(config: &Config, caller: &Caller) -> Finding {
    let may = |act| config.policy.judge(&caller.who, act, None);
    let acts = [
        (Act::Read, "see locks"),
        (Act::Acquire, "acquire"),
        (Act::ReleaseAny, "release and renew what others took"),
        (Act::Break, "break"),
    ];
    let allowed: Vec<&str> =
        acts.iter().filter(|(act, _)| may(*act).is_ok()).map(|(_, words)| *words).collect();
    let you = config.principal(&caller.who);
    match may(Act::Acquire) {
        Ok(_) => finding(Level::Good, "you", &format!("{you} may {}", allowed.join(", "))),
        Err(denial) => {
            let can = if allowed.is_empty() {
                "nothing".to_owned()
            } else {
                format!("{} only", allowed.join(", "))
            };
            let text = format!("{you} may {can}: {denial}");
            Finding {
                mend: Some("ask an administrator for a rule, or to join the group".to_owned()),
                ..finding(Level::Note, "you", &text)
            }
        }
    }
}

/// One rule in a line: on what, which acts, up to which limits.
fn says(by: Source, rule: &Rule) -> String {
    let globs = rule.resources.iter().map(Glob::as_str);
    let mut on: Vec<&str> = globs.take(GLOBS_MAX).collect();
    let more = format!("{} more", rule.resources.len().saturating_sub(on.len()));
    if rule.resources.len() > on.len() {
        on.push(&more);
    }
    let acts: Vec<&str> =
        Act::ALL.iter().filter(|act| rule.allows(**act)).map(|act| act.as_str()).collect();
    if acts.is_empty() {
        return format!("{}: nothing; {by}", on.join(", "));
    }
    let mut words = vec![format!("{}: {}", on.join(", "), acts.join(", "))];
    let Permit { max_ttl, max_hold_secs, max_leases, require_reason, .. } = &rule.permit;
    if *require_reason {
        words.push("with a reason".to_owned());
    }
    words.extend(max_ttl.map(|ttl| format!("ttl up to {}", format_secs(ttl.as_secs().into()))));
    words.extend(max_hold_secs.map(|secs| format!("held up to {}", format_secs(secs.into()))));
    if *max_leases < LEASES_MAX {
        words.push(format!("{max_leases} leases at once"));
    }
    format!("{}; {by}", words.join(", "))
}
