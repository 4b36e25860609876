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

/// The verb: the first word that is one.
fn verb(argv: &[OsString]) -> Option<&str> {
    let verbs = crate::args::Cli::command();
    let is_verb = |word: &&str| verbs.find_subcommand(word).is_some();
    argv.iter().filter_map(|word| word.to_str()).find(is_verb)
}
