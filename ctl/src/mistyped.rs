//! What clap says of a command line that it cannot read, mended where its tip would lead astray.
//!
//! Nothing is guessed here: every such line stays a usage error.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::render::text::brief;

/// What clap offers for any word that begins with a dash: as a value it is hardly ever meant.
const AS_A_VALUE: &str = "as a value";
const AFTER_THE_DASHES: &str =
    "put -- before the command, and its options after that: stormctl run RESOURCE... -- COMMAND";
const LONGER: &str = "say how long it is kept: '--for DUR' or '--until TIME'";

/// What the verbs are called elsewhere, where clap offers none of ours or another one.
const ELSEWHERE: [(&str, &[&str]); 6] = [
    ("acquire", &["lock", "take", "get", "grab"]),
    ("release", &["unlock", "free", "drop", "delete", "rm", "give"]),
    ("renew", &["extend", "refresh", "touch", "keep"]),
    ("break", &["steal", "force", "force-unlock", "force-release", "kill"]),
    ("current", &["show", "holder", "who", "owner", "info"]),
    ("run", &["exec", "with"]),
];

/// The same error with the tips that help, and no more of somebody's words than help either.
pub(crate) fn mended(mut error: clap::Error, argv: &[OsString]) -> clap::Error {
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg] {
        if let Some(ContextValue::String(quoted)) = error.get(kind) {
            let quoted = ContextValue::String(brief(quoted));
            error.insert(kind, quoted);
        }
    }
    let about = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(about)) => about.clone(),
        _ => String::new(),
    };
    let mut tips = match error.remove(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(tips)) => tips,
        Some(other) => {
            error.insert(ContextKind::Suggested, other);
            return error;
        }
        None => Vec::new(),
    };
    if let Some(verb) = meant(&error) {
        let verbs = vec![verb.to_owned()];
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(verbs));
    }
    tips.retain(|tip| !tip.to_string().contains(AS_A_VALUE));
    let is_unknown = error.kind() == ErrorKind::UnknownArgument;
    let is_guessed = error.get(ContextKind::SuggestedArg).is_some();
    let is_no_resource = error.kind() == ErrorKind::ValueValidation && about.contains("RESOURCE");
    match verb(argv) {
        Some("run") if (is_unknown && !is_guessed) || is_no_resource => {
            tips.push(StyledStr::from(AFTER_THE_DASHES));
        }
        Some("renew") if is_unknown && about == "--keep" => tips.push(StyledStr::from(LONGER)),
        _ => {}
    }
    if !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// The verb that somebody means who is used to another tool.
fn meant(error: &clap::Error) -> Option<&'static str> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    let calls_it = |(_, words): &&(_, &[&str])| words.contains(&word.as_str());
    ELSEWHERE.iter().find(calls_it).map(|(verb, _)| *verb)
}

/// The verb: the first word that is one.
fn verb(argv: &[OsString]) -> Option<&str> {
    let verbs = crate::args::Cli::command();
    let is_verb = |word: &&str| verbs.find_subcommand(word).is_some();
    argv.iter().filter_map(|word| word.to_str()).find(is_verb)
}
