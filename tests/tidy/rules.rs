//! The rules that one file can keep or break on its own. Each gives a sentence per breach.

use super::arrows::paths;
use super::source::{Source, Token, is_word};

/// Longest function, in lines of code.
const FUNCTION_MAX: usize = 70;
/// Longest function of tests: a table of cases is long and has no branches.
const TEST_FUNCTION_MAX: usize = 150;
/// Longest file before its tests, in lines of code: blank lines and comments are free, because the
/// protocol's files are half prose.
const FILE_MAX: usize = 400;
/// Longest file of tests: a simulated world is one idea and may be longer.
const TEST_FILE_MAX: usize = 800;
/// Longest line, as rustfmt has it; rustfmt lets comments and strings pass.
const LINE_MAX: usize = 100;
/// Words that say nothing about what a thing is.
const EMPTY_WORDS: [&str; 8] =
    ["util", "utils", "helper", "helpers", "common", "manager", "handler", "context"];
/// Shortest name of a test that is still a sentence, in words.
const TEST_NAME_WORDS: usize = 3;
/// How far above an `unsafe` its reason may begin, in lines.
const SAFETY_NEAR: usize = 8;
/// What reads a clock.
const CLOCK_READERS: [(&str, &str); 5] = [
    ("Instant", "now"),
    ("SystemTime", "now"),
    ("Timestamp", "now"),
    ("Zoned", "now"),
    ("time", "clock_gettime"),
];
/// The clocks' own files: the agent's, the client's for people (`--until`, times shown) and for its
/// own timer, and the blocking client's patience, which is no lease's time.
const CLOCKS: [&str; 4] = [
    "agent/src/clock.rs",
    "agent/protocol/src/client/patience.rs",
    "ctl/src/clock.rs",
    "ctl/src/time.rs",
];
/// Store clients, and the one file or folder that may name each.
const STORE_CLIENTS: [(&str, &str); 6] = [
    ("redis", "agent/src/backend/redis"),
    ("etcd_client", "agent/src/backend/etcd"),
    ("tonic", "agent/src/backend/etcd"),
    ("aws_sdk_dynamodb", "agent/src/backend/dynamodb"),
    ("aws_config", "agent/src/backend/dynamodb"),
    ("tokio_postgres", "agent/src/backend/postgres"),
];
/// What the pure modules never name: no IO, no clock, no async, no log.
const IMPURE: [&str; 14] = [
    "tokio",
    "tracing",
    "rustix",
    "nix",
    "notify",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::sync::Mutex",
    "std::time::Instant",
    "std::time::SystemTime",
];
/// The pure modules.
const PURE: [&str; 2] = ["agent/src/lease/", "agent/src/policy"];

pub(crate) fn sizes(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    if !source.is_rust() {
        return wrong;
    }
    let (code, max) = if source.is_test() {
        (&*source.code, TEST_FILE_MAX)
    } else {
        (source.product(), FILE_MAX)
    };
    let lines = lines_of_code(code);
    if lines > max {
        wrong.push(source.at(1, &format!("{lines} lines of code, the limit is {max}: two ideas?")));
    }
    let tokens = source.tokens();
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.text == "fn") {
        let Some((open, close)) = body(&tokens, at) else { continue };
        let lines = source.code.lines().skip(token.line - 1).take(close - token.line + 1);
        let lines = lines_of_code(&lines.collect::<Vec<_>>().join("\n"));
        let max = if source.is_test() { TEST_FUNCTION_MAX } else { FUNCTION_MAX };
        if open > 0 && lines > max {
            let name = tokens.get(at + 1).map_or("?", |name| &name.text);
            let say = format!("`{name}` has {lines} lines, the limit is {max}");
            wrong.push(source.at(token.line, &say));
        }
    }
    wrong
}

fn lines_of_code(code: &str) -> usize {
    code.lines().filter(|line| !line.trim().is_empty()).count()
}

/// The lines of the braces of the function whose `fn` stands at `from`; `None` without a body.
fn body(tokens: &[Token], from: usize) -> Option<(usize, usize)> {
    let mut depth = 0_usize;
    let mut braces = 0_usize;
    let mut open = 0;
    for token in &tokens[from..] {
        match token.text.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth = depth.checked_sub(1)?,
            "{" => {
                open = if braces == 0 { token.line } else { open };
                braces += 1;
            }
            "}" => {
                braces = braces.checked_sub(1)?;
                if braces == 0 {
                    return Some((open, token.line));
                }
            }
            ";" | "," if depth == 0 && braces == 0 => return None,
            _ => {}
        }
    }
    None
}

pub(crate) fn lines(source: &Source) -> Vec<String> {
    let checked = [".rs", ".sh", ".bash", ".zsh", ".fish", ".py", "/run", ".service", ".socket"];
    if !checked.iter().any(|end| source.path.ends_with(end)) {
        return Vec::new();
    }
    let long = |line: &str| line.chars().count() > LINE_MAX;
    let numbered = source.text.lines().enumerate().filter(|(_, line)| long(line));
    numbered.map(|(at, _)| source.at(at + 1, &format!("longer than {LINE_MAX}"))).collect()
}

pub(crate) fn words(source: &Source) -> Vec<String> {
    let mut declared = vec![(1, source.path.rsplit('/').next().unwrap_or("").to_owned())];
    if source.is_rust() {
        let tokens = source.tokens();
        for pair in tokens.windows(2) {
            let declares = ["struct", "enum", "trait", "type", "mod", "union", "macro_rules"];
            if declares.contains(&pair[0].text.as_str()) {
                declared.push((pair[1].line, pair[1].text.clone()));
            }
        }
    }
    let is_empty = |name: &str| split_name(name).iter().any(|w| EMPTY_WORDS.contains(&w.as_str()));
    declared.retain(|(_, name)| is_empty(name));
    let say = |name: &str| format!("`{name}` does not say what it is");
    declared.iter().map(|(line, name)| source.at(*line, &say(name))).collect()
}

/// `LockManager` and `lock_manager.rs` as lower-case words.
fn split_name(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c.is_uppercase() || !c.is_alphanumeric() {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
    }
    words
}

pub(crate) fn clocks(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    if !source.is_rust() || source.is_test() || CLOCKS.contains(&source.path.as_str()) {
        return wrong;
    }
    for named in paths(&source.tokens()) {
        let last: Vec<&str> = named.segments.iter().rev().take(2).map(String::as_str).collect();
        let reads = |(of, what): &(&str, &str)| last == [*what, *of];
        if CLOCK_READERS.iter().any(reads) {
            let say = format!("reads a clock ({}): only clock.rs does", named.segments.join("::"));
            wrong.push(source.at(named.line, &say));
        }
    }
    wrong
}

pub(crate) fn stores(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    if !source.is_rust() || !source.path.starts_with("agent/src/") {
        return wrong;
    }
    let tokens = source.tokens();
    let paths = paths(&tokens);
    for (client, home) in STORE_CLIENTS {
        // A module of ours may have the client's name: where it is declared or imported, it is it.
        let is_module = tokens.windows(2).any(|w| w[0].text == "mod" && w[1].text == client)
            || paths.iter().any(|p| {
                let ours = matches!(p.segments[0].as_str(), "crate" | "super" | "self");
                ours && p.is_use && p.segments.last().is_some_and(|last| last == client)
            });
        if source.path.starts_with(home) || is_module {
            continue;
        }
        for named in paths.iter().filter(|named| named.segments[0] == client) {
            wrong.push(source.at(named.line, &format!("names {client}: only {home} does")));
        }
    }
    wrong
}

pub(crate) fn purity(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    if source.is_test() || !PURE.iter().any(|pure| source.path.starts_with(pure)) {
        return wrong;
    }
    for named in paths(&source.tokens()) {
        let path = named.segments.join("::");
        let is_below = |impure: &str| path == *impure || path.starts_with(&format!("{impure}::"));
        if IMPURE.iter().any(|impure| is_below(impure)) {
            wrong.push(source.at(named.line, &format!("names {path}: this module is pure")));
        }
    }
    let waits = |token: &&Token| matches!(token.text.as_str(), "async" | "await");
    let waiting = source.tokens();
    wrong.extend(
        waiting.iter().filter(waits).map(|t| source.at(t.line, "waits: this module is pure")),
    );
    wrong
}

pub(crate) fn tests(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    if !source.is_rust() {
        let naps = |line: &str| {
            line.trim_start().starts_with("sleep ") || line.contains(concat!("time.sl", "eep("))
        };
        let numbered = source.text.lines().enumerate();
        let naps = numbered.filter(|(_, line)| source.is_test() && naps(line));
        return naps.map(|(at, _)| source.at(at + 1, "sleeps: wait for the thing")).collect();
    }
    let tokens = source.tokens();
    for (at, token) in tokens.iter().enumerate() {
        let word = |back: usize| at.checked_sub(back).map_or("", |i| tokens[i].text.as_str());
        match token.text.as_str() {
            "ignore" if word(1) == "[" && word(2) == "#" => {
                wrong.push(source.at(token.line, "an ignored test is no test"));
            }
            "sleep" if word(1) == "::" && matches!(word(2), "thread" | "time") => {
                wrong.push(source.at(token.line, "sleeps: wait for the thing itself"));
            }
            "allow" if word(1) == "[" => {
                let mut inside = tokens[at..].iter().take_while(|t| t.text != "]");
                if !inside.any(|t| t.text == "reason") {
                    let say = "allow: expect it, or say the reason";
                    wrong.push(source.at(token.line, say));
                }
            }
            "test" if word(1) == "[" || (word(1) == "::" && word(2) == "tokio") => {
                let name = tokens[at..].iter().skip_while(|t| t.text != "fn").nth(1);
                let short = name.filter(|n| n.text.starts_with(is_word));
                // A macro's test has the name that the macro was given.
                let short = short.filter(|n| n.text.split('_').count() < TEST_NAME_WORDS);
                wrong.extend(short.map(|n| {
                    source.at(n.line, &format!("`{}` is no sentence: what does it show?", n.text))
                }));
            }
            _ => {}
        }
    }
    wrong
}

pub(crate) fn text(source: &Source) -> Vec<String> {
    let unfinished = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let hosts = [
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("pythonhosted", ".org"),
        concat!("npmjs", ".org"),
        concat!("deb", ".debian.org"),
    ];
    let machine = [
        concat!("/wo", "rk/"),
        concat!("/tmp/", "wt"),
        concat!("/tmp/", "t/"),
        concat!("/ro", "ot/."),
        concat!("/opt/", "wheels"),
    ];
    let mut wrong = Vec::new();
    if source.path == "Cargo.lock" {
        return wrong;
    }
    for (at, line) in source.text.lines().enumerate() {
        let mut say = |what: &str| wrong.push(source.at(at + 1, what));
        if line.split(|c| !is_word(c)).any(|word| unfinished.contains(&word)) {
            say("unfinished: finish it, or write an issue");
        }
        if hosts.iter().any(|host| line.contains(host)) {
            say("names a registry's host: ordinary clients know where it is");
        }
        if machine.iter().any(|path| line.contains(path)) {
            say("names a path of one machine");
        }
    }
    wrong
}

pub(crate) fn safety(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    if !source.is_rust() {
        return wrong;
    }
    let text: Vec<&str> = source.text.lines().collect();
    for token in source.tokens().iter().filter(|token| token.text == "unsafe") {
        let above = &text[token.line.saturating_sub(SAFETY_NEAR)..token.line];
        if !above.iter().any(|line| line.contains("// SAFETY:")) {
            wrong.push(source.at(token.line, "unsafe without its `// SAFETY:` reason"));
        }
    }
    wrong
}

/// The product never does otherwise because it is being tried: `cfg(fuzzing)` gives a way in, by
/// modules of that name, and nothing else.
pub(crate) fn ways_in(source: &Source) -> Vec<String> {
    let is_way_in = source.path.ends_with("/fuzzing.rs");
    if !source.is_rust() || is_way_in || source.path.starts_with("tests/") {
        return Vec::new();
    }
    let declared = "#[cfg(fuzzing)]\npub mod fuzzing;\n";
    let rest = source.code.replace(declared, "\n\n");
    let named = rest.lines().enumerate().filter(|(_, line)| {
        line.split(|c| !is_word(c)).any(|word| word == "fuzzing" || word == "stormlock_fuzz")
    });
    named.map(|(at, _)| source.at(at + 1, "fuzzing gives a way in, and changes nothing")).collect()
}
