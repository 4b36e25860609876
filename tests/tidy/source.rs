//! The project's own text, and Rust seen without its comments and strings. Not a parser: it knows
//! tokens, which is enough to find names, paths and braces.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that are no part of the project.
const FOREIGN: [&str; 4] = [".git", "target", "artefacts", "__pycache__"];

/// One file of the project.
pub(crate) struct Source {
    /// Below the project's top, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments as blanks and each character of a string or of a character literal
    /// as `"`; lines stay where they were. Only for Rust: elsewhere the same as `text`.
    pub(crate) code: String,
}

/// A word, `::`, or one character of punctuation, and the line it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let code = if path.ends_with(".rs") { mask(text) } else { text.to_owned() };
        Source { path: path.to_owned(), text: text.to_owned(), code }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Files that only tests see.
    pub(crate) fn is_test(&self) -> bool {
        self.path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "contract.rs"))
    }

    /// The code before the tests at the bottom of the file.
    pub(crate) fn product(&self) -> &str {
        let end = self.code.find("#[cfg(test)]\nmod tests {").unwrap_or(self.code.len());
        &self.code[..end]
    }

    pub(crate) fn tokens(&self) -> Vec<Token> {
        tokens(&self.code)
    }

    pub(crate) fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

pub(crate) fn project_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("agent/ stands in the project").to_owned()
}

/// All text files of the project.
pub(crate) fn project() -> Vec<Source> {
    let root = project_root();
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 30, "only {} files under {}: wrong folder?", found.len(), root.display());
    found.sort_by(|a: &Source, b| a.path.cmp(&b.path));
    found
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).expect("a folder of the project can be read") {
        let path = entry.expect("an entry can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if FOREIGN.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, found);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let below = path.strip_prefix(root).expect("it was found below the root");
            found.push(Source::new(&below.to_string_lossy(), &text));
        }
    }
}

fn tokens(code: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
        }
        if c.is_whitespace() {
            continue;
        }
        let mut text = String::from(c);
        if is_word(c) {
            while let Some(next) = chars.next_if(|next| is_word(*next)) {
                text.push(next);
            }
        } else if c == ':' && chars.next_if_eq(&':').is_some() {
            text.push(':');
        }
        found.push(Token { text, line });
    }
    found
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn mask(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let (end, filler) = match chars[at..] {
            ['/', '/', ..] => (line_end(&chars, at), ' '),
            ['/', '*', ..] => (comment_end(&chars, at), ' '),
            ['"', ..] => (string_end(&chars, at), '"'),
            ['r', '"' | '#', ..] if at == 0 || !is_word(chars[at - 1]) || is_byte(&chars, at) => {
                (raw_end(&chars, at), '"')
            }
            ['\'', '\\', ..] => (quote_end(&chars, at + 3), '"'),
            ['\'', _, '\'', ..] => (at + 3, '"'),
            _ => (at, ' '),
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
            continue;
        }
        code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { filler }));
        at = end;
    }
    code
}

/// True when the `r` at this place belongs to a `br"..."`.
fn is_byte(chars: &[char], at: usize) -> bool {
    chars[at - 1] == 'b' && (at == 1 || !is_word(chars[at - 2]))
}

fn line_end(chars: &[char], from: usize) -> usize {
    chars[from..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| from + n)
}

fn comment_end(chars: &[char], from: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = from;
    while at < chars.len() {
        match chars[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn string_end(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    chars.len().min(at + 1)
}

/// The end of `r"..."` or `r#"..."#`; the same place when it is a raw name (`r#type`).
fn raw_end(chars: &[char], from: usize) -> usize {
    let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(from + 1 + hashes) != Some(&'"') {
        return from;
    }
    let mut at = from + 2 + hashes;
    while at < chars.len() {
        let closed = chars[at] == '"' && chars[at + 1..].iter().take(hashes).all(|c| *c == '#');
        if closed && at + hashes < chars.len() {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

fn quote_end(chars: &[char], from: usize) -> usize {
    let from = from.min(chars.len());
    chars[from..].iter().position(|c| *c == '\'').map_or(chars.len(), |n| from + n + 1)
}
