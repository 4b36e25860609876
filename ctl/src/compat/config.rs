//! The one thing that is read from the Python tool's config file: the ttl of a resource.
//!
//! Backend, credentials and principal are the agent's business, and are not even looked at.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::time;

/// The section that other sections fall back to.
const FALLBACK: &str = "default";
/// Python's own section: its options count as written in every section that exists.
const EVERYWHERE: &str = "DEFAULT";
const FILE_NAME: &str = "stormlock.cfg";

/// The ttl that the file gives a resource, in seconds; `None` when no file or no ttl is there.
///
/// A file that was named on the command line must exist: its absence is a slip, as for the Python
/// tool. One that the environment names may be gone: hosts that moved to the agent delete the file
/// with its credentials before every profile is changed.
pub(super) fn ttl_secs(named: Option<&str>, resource: &str) -> Result<Option<u64>, String> {
    let from_env = path_from("STORMLOCK_CONFIG").filter(|path| path.exists());
    let Some(path) = named.map(PathBuf::from).or(from_env).or_else(found) else {
        return Ok(None);
    };
    let bytes = fs::read(&path).map_err(|error| format!("reading {}: {error}", path.display()))?;
    let Some(ttl) = ttl_in(&String::from_utf8_lossy(&bytes), resource) else {
        return Ok(None);
    };
    match time::parse_duration(&ttl) {
        Ok(secs) => Ok(Some(secs)),
        Err(why) => Err(format!("reading {}: ttl {ttl:?}: {why}", path.display())),
    }
}

fn path_from(var: &str) -> Option<PathBuf> {
    env::var_os(var).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The first file of the tool's search path. Its `~` is the home directory here.
fn found() -> Option<PathBuf> {
    let home = path_from("HOME");
    let user = path_from("XDG_CONFIG_HOME").or(home.as_ref().map(|home| home.join(".config")));
    let places = [
        Some(Path::new(".").join(format!(".{FILE_NAME}"))),
        user.map(|dir| dir.join(FILE_NAME)),
        home.map(|dir| dir.join(format!(".{FILE_NAME}"))),
    ];
    places.into_iter().flatten().find(|path| path.is_file())
}

/// `ttl` of the resource's section, else of `[default]`, as Python's ConfigParser finds it.
fn ttl_in(text: &str, resource: &str) -> Option<String> {
    let sections = sections(text);
    let in_section = |wanted: &str| {
        let mut named = sections.iter().filter(|section| section.name == wanted).peekable();
        named.peek()?;
        let own = named.find_map(|section| section.ttl.clone());
        let mut everywhere = sections.iter().filter(|section| section.name == EVERYWHERE);
        own.or_else(|| everywhere.find_map(|section| section.ttl.clone()))
            .filter(|ttl| !ttl.is_empty())
    };
    in_section(resource).or_else(|| in_section(FALLBACK))
}

struct Section {
    name: String,
    ttl: Option<String>,
}

fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    // The indent of the option that an indented line would continue.
    let mut option_indent = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        if option_indent.is_some_and(|option| indent > option) {
            continue;
        }
        let header = trimmed.strip_prefix('[').and_then(|rest| rest.rsplit_once(']'));
        if let Some((name, _)) = header {
            sections.push(Section { name: name.to_owned(), ttl: None });
            option_indent = None;
        } else if let Some((key, value)) = trimmed.split_once(['=', ':']) {
            option_indent = Some(indent);
            if let Some(section) = sections.last_mut().filter(|_| is_ttl(key)) {
                section.ttl = Some(value.trim().to_owned());
            }
        }
    }
    sections
}

fn is_ttl(key: &str) -> bool {
    key.trim().eq_ignore_ascii_case("ttl")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(ttl_in(text, "prod/db").as_deref(), expected, "{text}");
    }

    #[test]
    fn a_resource_has_its_own_ttl_or_the_default() {
        check("[default]\nttl = 1 days\n[prod/db]\nttl=30 minutes\n", Some("30 minutes"));
        check("[default]\nttl = 1 days\n[prod/db]\nbackend=redis\n", Some("1 days"));
        check("[default]\nTTL: 1 days\n", Some("1 days"));
        check("[prod/db]\nttl =\n[default]\nttl = 5 s", Some("5 s"));
        check("[other]\nttl = 5 s\n", None);
        check("", None);
    }

    #[test]
    fn comments_and_continued_lines_are_no_options() {
        check("# ttl = 1 s\n[default]\n; ttl = 2 s\nttl = 3 s\n", Some("3 s"));
        check("[default]\nprincipal = a\n  ttl = 4 s\n", None);
        check("  [default]\n  ttl = 3 s\n", Some("3 s"));
    }

    #[test]
    fn pythons_own_section_counts_in_sections_that_exist() {
        check("[DEFAULT]\nttl = 3 s\n[default]\nbackend = x\n", Some("3 s"));
        check("[DEFAULT]\nttl = 3 s\n", None);
    }
}
