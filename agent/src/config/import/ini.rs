//! The syntax of the Python tool's file, as `configparser.ConfigParser()` reads it: `=` or `:`,
//! comment lines, continuation by indentation, keys without case, a `DEFAULT` section for all
//! others, `%(name)s`. Complaints never quote a value, which may be a password.

use super::ImportError;

/// The section whose keys every other one inherits. `default` in lower case is an ordinary one.
const INHERITED: &str = "DEFAULT";
/// How deep one value may refer to others, as in Python.
const DEPTH_MAX: usize = 10;
/// References that one value may follow in all: ten levels of ten references each would otherwise
/// keep us busy for hours.
const REFERENCES_MAX: usize = 1000;
/// Longest value after its references are filled in, in bytes.
const VALUE_MAX: usize = 64 * 1024;

pub(super) struct Ini {
    sections: Vec<Section>,
    inherited: Section,
}

#[derive(Default)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) line: usize,
    entries: Vec<Entry>,
}

struct Entry {
    key: String,
    value: String,
    line: usize,
}

/// A value after its references are filled in, and the line it begins on.
pub(super) struct Value {
    pub(super) text: String,
    pub(super) line: usize,
}

impl Ini {
    pub(super) fn parse(text: &str) -> Result<Ini, ImportError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut reading = Reading::default();
        for (index, line) in text.split('\n').enumerate() {
            reading.line(index + 1, line)?;
        }
        let mut ini = Ini { sections: Vec::new(), inherited: Section::default() };
        for mut section in reading.sections {
            for entry in &mut section.entries {
                entry.value.truncate(entry.value.trim_end().len());
            }
            if section.name == INHERITED {
                ini.inherited = section;
            } else {
                ini.sections.push(section);
            }
        }
        Ok(ini)
    }

    pub(super) fn sections(&self) -> &[Section] {
        &self.sections
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// A value of the section or, failing that, of those that it inherits; an empty one is none.
    pub(super) fn get(&self, section: &Section, key: &str) -> Result<Option<Value>, ImportError> {
        let Some(entry) = self.entry(section, key) else { return Ok(None) };
        let mut filling = Filling { ini: self, section, line: entry.line, followed: 0 };
        let mut text = String::new();
        filling.fill(&entry.value, &mut text, 0)?;
        Ok(Some(Value { text, line: entry.line }).filter(|value| !value.text.is_empty()))
    }

    fn entry<'a>(&'a self, section: &'a Section, key: &str) -> Option<&'a Entry> {
        let find = |section: &'a Section| section.entries.iter().find(|entry| entry.key == key);
        find(section).or_else(|| find(&self.inherited))
    }
}

impl Section {
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }
}

/// Between two lines.
#[derive(Default)]
struct Reading {
    sections: Vec<Section>,
    /// How far the current key or header is indented; what is further in continues it.
    indent: usize,
    /// Whether a key of the last section can be continued.
    has_key: bool,
}

impl Reading {
    fn line(&mut self, number: usize, line: &str) -> Result<(), ImportError> {
        let content = line.trim();
        if content.starts_with(['#', ';']) {
            return Ok(());
        }
        let indent = line.chars().take_while(|c| c.is_whitespace()).count();
        if (content.is_empty() || indent > self.indent)
            && let Some(entry) = self.open_entry()
        {
            entry.value.push('\n');
            entry.value.push_str(content);
            return Ok(());
        }
        if content.is_empty() {
            return Ok(());
        }
        self.indent = indent;
        // As Python's greedy pattern: up to the last bracket; what follows it is ignored.
        let header = content.strip_prefix('[').and_then(|rest| rest.rsplit_once(']'));
        match header {
            Some((name, _)) if !name.is_empty() => self.open_section(number, name),
            _ => self.key(number, content),
        }
    }

    fn open_entry(&mut self) -> Option<&mut Entry> {
        if !self.has_key {
            return None;
        }
        self.sections.last_mut()?.entries.last_mut()
    }

    fn open_section(&mut self, line: usize, name: &str) -> Result<(), ImportError> {
        self.has_key = false;
        if let Some(at) = self.sections.iter().position(|section| section.name == name) {
            let first = self.sections.remove(at);
            // The only one that Python lets stand more than once.
            if name == INHERITED {
                self.sections.push(first);
                return Ok(());
            }
            return Err(ImportError::new(
                line,
                format!("section {name:?} stands on line {} already", first.line),
            ));
        }
        self.sections.push(Section { name: name.to_owned(), line, entries: Vec::new() });
        Ok(())
    }

    fn key(&mut self, line: usize, content: &str) -> Result<(), ImportError> {
        let Some(section) = self.sections.last_mut() else {
            return Err(ImportError::new(line, "before the first [section]"));
        };
        let Some((key, value)) = content.split_once(['=', ':']) else {
            return Err(ImportError::new(line, "neither a [section] nor KEY = VALUE"));
        };
        let key = key.trim_end().to_lowercase();
        if key.is_empty() {
            return Err(ImportError::new(line, "there is no key before the = or :"));
        }
        if let Some(first) = section.entries.iter().find(|entry| entry.key == key) {
            return Err(ImportError::new(
                line,
                format!("key {key:?} stands on line {} already", first.line),
            ));
        }
        section.entries.push(Entry { key, value: value.trim().to_owned(), line });
        self.has_key = true;
        Ok(())
    }
}

/// Fills the references of one value in.
struct Filling<'a> {
    ini: &'a Ini,
    section: &'a Section,
    line: usize,
    followed: usize,
}

impl Filling<'_> {
    fn fill(&mut self, raw: &str, out: &mut String, depth: usize) -> Result<(), ImportError> {
        let line = self.line;
        self.followed += 1;
        if depth > DEPTH_MAX || self.followed > REFERENCES_MAX || out.len() > VALUE_MAX {
            return Err(ImportError::new(line, "its references %(...)s go round or are too many"));
        }
        let mut rest = raw;
        while let Some((before, after)) = rest.split_once('%') {
            out.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                out.push('%');
                rest = after;
                continue;
            }
            let reference = after.strip_prefix('(').and_then(|after| after.split_once(')'));
            let reference = reference.and_then(|(name, after)| {
                after.strip_prefix('s').filter(|_| !name.is_empty()).map(|after| (name, after))
            });
            let Some((name, after)) = reference else {
                let what = "a single % in its value (the Python tool refuses it too; write %%)";
                return Err(ImportError::new(line, what));
            };
            let Some(entry) = self.ini.entry(self.section, &name.to_lowercase()) else {
                let name = name.escape_debug();
                let what = format!("%({name})s refers to a key that is not in its section");
                return Err(ImportError::new(line, what));
            };
            self.fill(&entry.value, out, depth + 1)?;
            rest = after;
        }
        out.push_str(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, section: &str, key: &str) -> Option<String> {
        let ini = Ini::parse(text).unwrap();
        let section = ini.section(section).unwrap();
        ini.get(section, key).unwrap().map(|value| value.text)
    }

    fn complaint(text: &str) -> String {
        let ini = match Ini::parse(text) {
            Ok(ini) => ini,
            Err(error) => return error.to_string(),
        };
        let section = ini.section("s").unwrap();
        ini.get(section, "k").map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn keys_are_read_as_the_python_tool_reads_them() {
        for (text, expected) in [
            ("[s]\nk = v", "v"),
            ("[s]\nK: v", "v"),
            ("[s]\nk=a = b", "a = b"),
            ("[s]\nk : redis://h:1", "redis://h:1"),
            ("[s]\nk = v ; not a comment", "v ; not a comment"),
            ("[s]\n# c\n; c\nk = v\n# c", "v"),
            ("[s] trailing\r\nk = v\r\n", "v"),
            ("\u{feff}[s]\rk = v", "v"),
            ("[s]\nk = a\n  b\n\n  c\n\n", "a\nb\n\nc"),
            ("[s]\nk = a\n  # c\n  b", "a\nb"),
            ("[s]\n  k = a\n  x = b", "a"),
            ("[s]\nk =\n  a\n  x = b", "\na\nx = b"),
            ("[DEFAULT]\nk = v\n[s]", "v"),
            ("[DEFAULT]\nk = v\n[s]\nk = w", "w"),
            ("[DEFAULT]\nk = v\n[DEFAULT]\nh = w\n[s]", "v"),
            ("[s]\nk = 100%%", "100%"),
            ("[s]\nh = x\nk = %(H)s-%(h)s", "x-x"),
            ("[DEFAULT]\nh = x\n[s]\nk = <%(a)s>\na = %(h)s%%", "<x%>"),
        ] {
            assert_eq!(value(text, "s", "k").as_deref(), Some(expected), "{text:?}");
        }
        assert_eq!(value("[s]\nk =\n", "s", "k"), None);
        assert_eq!(value("[default]\nk = v\n[s]", "s", "k"), None, "default inherits to nobody");
        assert_eq!(value("[a]b]\nk = v", "a]b", "k").as_deref(), Some("v"));
    }

    #[test]
    fn what_python_refuses_is_refused_without_its_value() {
        let round = "line 2: its references %(...)s go round or are too many";
        for (text, expected) in [
            ("k = hunter2", "line 1: before the first [section]"),
            ("[s]\nhunter2", "line 2: neither a [section] nor KEY = VALUE"),
            ("[s]\n= hunter2", "line 2: there is no key before the = or :"),
            ("[s]\n[s]", "line 2: section \"s\" stands on line 1 already"),
            ("[s]\nk = a\nK = hunter2", "line 3: key \"k\" stands on line 2 already"),
            (
                "[s]\nk = hunter%2",
                "line 2: a single % in its value (the Python tool refuses it too; write %%)",
            ),
            (
                "[s]\nk = %(x)d",
                "line 2: a single % in its value (the Python tool refuses it too; write %%)",
            ),
            ("[s]\nk = %(x)s", "line 2: %(x)s refers to a key that is not in its section"),
            ("[s]\nk = %(k)s", round),
            ("[s]\nk = %(j)s\nj = %(k)s", round),
        ] {
            assert_eq!(complaint(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_a_complaint_quotes_moves_no_cursor() {
        let told = complaint("[s]\nk = %(\u{1b}[2J\u{202e})s");
        let shown = r"line 2: %(\u{1b}[2J\u{202e})s refers to a key that is not in its section";
        assert_eq!(told, shown);
    }

    #[test]
    fn references_that_multiply_are_stopped() {
        let mut text = "[s]\nk = %(l0)s\n".to_owned();
        for level in 0..8 {
            let next = format!("%(l{})s", level + 1).repeat(20);
            text += &format!("l{level} = {next}\n");
        }
        text += "l8 =\n";
        assert!(complaint(&text).contains("too many"));
    }
}
