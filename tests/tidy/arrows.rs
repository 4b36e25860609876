//! Who may import whom: paths as the code names them, against the one table.

use super::source::{Source, Token, is_word};

/// A module and what it may name: modules of its own package, or `protocol` with or without the
/// module there. Everything may name the standard library; stores and runtimes have rules of their
/// own.
pub(crate) type Arrows = [(&'static str, &'static [&'static str])];

/// A path with `use` trees expanded: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    pub(crate) is_use: bool,
}

/// The module of a file below a `src`, as a path: `agent/src/lease/tests/world.rs` is
/// `lease::tests::world`, and a `lib.rs` or `main.rs` the empty one.
fn module_of(file: &str) -> Vec<String> {
    let (_, below) = file.split_once("src/").unwrap_or(("", file));
    let mut parts: Vec<String> =
        below.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// The top module a file belongs to; `lib` and `main` for the roots.
fn top_of(file: &str) -> String {
    let root = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".rs");
    module_of(file).first().cloned().unwrap_or_else(|| root.to_owned())
}

/// What is wrong with one file of the package whose table this is.
pub(crate) fn wrong_arrows(source: &Source, table: &Arrows) -> Vec<String> {
    let from = top_of(&source.path);
    let Some((_, allowed)) = table.iter().find(|(name, _)| *name == from) else {
        return vec![source.at(1, &format!("`{from}` has no row in the table of tests/tidy.rs"))];
    };
    let mut wrong = Vec::new();
    for named in paths(&source.tokens()) {
        let Some(to) = target(&named.segments, &module_of(&source.path), table) else { continue };
        let package = to.split("::").next().unwrap_or_default();
        let is_allowed = allowed.iter().any(|one| *one == "*" || *one == to || *one == package);
        if to != from && !is_allowed {
            let say = format!("`{from}` may not name `{to}`: the table of tests/tidy.rs");
            wrong.push(source.at(named.line, &say));
        }
    }
    wrong.dedup();
    wrong
}

/// The module a path leads to, as the table spells it; `None` for what the table does not rule.
fn target(segments: &[String], here: &[String], table: &Arrows) -> Option<String> {
    let first = segments.first()?.as_str();
    let second = segments.get(1).map(String::as_str);
    let known = |name: &str| table.iter().any(|(module, _)| *module == name);
    match first {
        "crate" => second.filter(|name| known(name)).map(str::to_owned),
        "stormlock_agent" => Some("lib".to_owned()),
        "stormlock_protocol" => Some(match second {
            Some(module) if module.starts_with(char::is_lowercase) => format!("protocol::{module}"),
            _ => "protocol".to_owned(),
        }),
        "super" => {
            let ups = segments.iter().take_while(|one| *one == "super").count();
            let reached = here.len().checked_sub(ups)?;
            let next = segments.get(ups).map(String::as_str);
            if reached == 0 { next.filter(|name| known(name)).map(str::to_owned) } else { None }
        }
        _ => None,
    }
}

/// Every path that the code names.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            at = expand(tokens, at + 1, &[], &mut found);
            continue;
        }
        let starts = tokens[at].text.chars().all(is_word)
            && (at == 0 || !matches!(tokens[at - 1].text.as_str(), "::" | "."));
        let mut end = at + 1;
        if starts {
            let mut segments = vec![tokens[at].text.clone()];
            while let [sep, next, ..] = &tokens[end..]
                && sep.text == "::"
                && next.text.chars().all(is_word)
            {
                segments.push(next.text.clone());
                end += 2;
            }
            if segments.len() > 1 {
                found.push(Named { segments, line: tokens[at].line, is_use: false });
            }
        }
        at = end;
    }
    found
}

/// Reads one `use` tree from `at`; gives the place after it.
fn expand(tokens: &[Token], mut at: usize, stem: &[String], found: &mut Vec<Named>) -> usize {
    let mut segments = stem.to_vec();
    let mut line = tokens.get(at).map_or(0, |token| token.line);
    let mut is_alias = false;
    let mut is_group = false;
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => {
                is_group = true;
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = expand(tokens, at, &segments, found);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
            }
            "," | "}" | ";" => break,
            "as" => is_alias = true,
            text if text.chars().all(is_word) && !is_alias => {
                line = token.line;
                segments.push(text.to_owned());
            }
            _ => {}
        }
        at += 1;
    }
    if !is_group && segments.len() > stem.len() {
        found.push(Named { segments, line, is_use: true });
    }
    at
}
