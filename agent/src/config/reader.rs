//! Walks a parsed TOML document and keeps for each value where it stood, so that every complaint,
//! also a later one, can name line and key. It knows TOML, not the configuration.
//!
//! Not serde: its errors quote the value they do not like, which may be a password.

use std::io;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::nearest::nearest;

/// Where something stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    /// Counted from 1.
    pub(super) line: usize,
    /// `backend.main.url`; empty for the file as a whole.
    pub(super) key: String,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) spot: Spot,
}

/// What is wrong, and where; the file's name is added by the one who opened it.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) spot: Spot,
    pub(super) what: String,
    pub(super) source: Option<io::Error>,
}

impl Spot {
    pub(super) fn wrong(&self, what: impl Into<String>) -> Wrong {
        Wrong { spot: self.clone(), what: what.into(), source: None }
    }

    /// The spot of a key of the same table, or of the table itself.
    pub(super) fn below(&self, key: &str) -> Spot {
        let key = if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) };
        Spot { line: self.line, key }
    }
}

/// A table, read key by key.
pub(super) struct Table<'a> {
    entries: &'a DeTable<'a>,
    text: &'a str,
    pub(super) spot: Spot,
}

type Entry<'a> = (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>);

impl<'a> Table<'a> {
    /// The whole document.
    pub(super) fn document(document: &'a DeTable<'a>, text: &'a str) -> Table<'a> {
        Table { entries: document, text, spot: Spot { line: 1, key: String::new() } }
    }

    /// Refuses every key but these; the first strange one in the file is named.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Wrong> {
        let strange =
            self.entries.iter().filter(|(key, _)| !known.contains(&key.as_ref().as_ref()));
        let Some((key, _)) = strange.min_by_key(|(key, _)| key.span().start) else {
            return Ok(());
        };
        let name: &str = key.as_ref().as_ref();
        let advice = match nearest(name, known) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        Err(self.spot_of(key).wrong(format!("there is no such key ({advice})")))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<Placed<String>>, Wrong> {
        self.get(key, |value, spot| match value {
            DeValue::String(text) => Ok(text.to_string()),
            other => Err(unlike(&spot, other, "a text in quotes")),
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Placed<Vec<Placed<String>>>>, Wrong> {
        self.get(key, |value, spot| {
            let DeValue::Array(items) = value else {
                return Err(unlike(&spot, value, "a list of texts, as in [\"a\", \"b\"]"));
            };
            let mut texts = Vec::with_capacity(items.len());
            for item in items {
                let spot = Spot { line: self.line_at(item.span().start), key: spot.key.clone() };
                match item.as_ref() {
                    DeValue::String(text) => texts.push(Placed { value: text.to_string(), spot }),
                    other => return Err(unlike(&spot, other, "only texts in quotes in this list")),
                }
            }
            Ok(texts)
        })
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<Placed<u64>>, Wrong> {
        self.get(key, |value, spot| {
            let DeValue::Integer(number) = value else {
                return Err(unlike(&spot, value, "a whole number"));
            };
            u64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| spot.wrong("is not a number from 0 to 18446744073709551615"))
        })
    }

    pub(super) fn truth(&self, key: &str) -> Result<Option<Placed<bool>>, Wrong> {
        self.get(key, |value, spot| match value {
            DeValue::Boolean(truth) => Ok(*truth),
            other => Err(unlike(&spot, other, "true or false")),
        })
    }

    /// The table headed `[key]`.
    pub(super) fn table(&self, key: &str) -> Result<Option<Table<'a>>, Wrong> {
        let wanted = format!("a table, headed [{key}]");
        self.entry(key).map(|entry| self.enter(entry, &wanted)).transpose()
    }

    /// The tables below `[key.NAME]`, in the order of the file.
    pub(super) fn named_tables(&self, key: &str) -> Result<Vec<(String, Table<'a>)>, Wrong> {
        let Some(entry) = self.entry(key) else { return Ok(Vec::new()) };
        let wanted = format!("a table for each, headed [{key}.NAME]");
        let outer = self.enter(entry, &wanted)?;
        let mut entries: Vec<_> = outer.entries.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut tables = Vec::with_capacity(entries.len());
        for entry in entries {
            tables.push((entry.0.as_ref().to_string(), outer.enter(entry, &wanted)?));
        }
        Ok(tables)
    }

    /// The tables headed `[[key]]`, in the order of the file.
    pub(super) fn list_of_tables(&self, key: &str) -> Result<Vec<Table<'a>>, Wrong> {
        let Some((name, value)) = self.entry(key) else { return Ok(Vec::new()) };
        let wanted = format!("tables headed [[{key}]], with two brackets");
        let spot = self.spot_of(name);
        let DeValue::Array(items) = value.as_ref() else {
            return Err(unlike(&spot, value.as_ref(), &wanted));
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            let spot = Spot { line: self.line_at(item.span().start), key: spot.key.clone() };
            match item.as_ref() {
                DeValue::Table(entries) => {
                    tables.push(Table { entries, text: self.text, spot });
                }
                other => return Err(unlike(&spot, other, &wanted)),
            }
        }
        Ok(tables)
    }

    fn enter(&self, (key, value): Entry<'a>, wanted: &str) -> Result<Table<'a>, Wrong> {
        let spot = self.spot_of(key);
        match value.as_ref() {
            DeValue::Table(entries) => Ok(Table { entries, text: self.text, spot }),
            other => Err(unlike(&spot, other, wanted)),
        }
    }

    fn get<T>(
        &self,
        key: &str,
        read: impl FnOnce(&DeValue<'a>, Spot) -> Result<T, Wrong>,
    ) -> Result<Option<Placed<T>>, Wrong> {
        let Some((name, value)) = self.entry(key) else { return Ok(None) };
        let spot = self.spot_of(name);
        Ok(Some(Placed { value: read(value.as_ref(), spot.clone())?, spot }))
    }

    fn entry(&self, key: &str) -> Option<Entry<'a>> {
        self.entries.get_key_value(key)
    }

    fn spot_of(&self, key: &Spanned<DeString<'_>>) -> Spot {
        let below = self.spot.below(key.as_ref());
        Spot { line: self.line_at(key.span().start), ..below }
    }

    fn line_at(&self, offset: usize) -> usize {
        line_at(self.text, offset)
    }
}

/// The line, counted from 1, of a byte of the text.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn unlike(spot: &Spot, value: &DeValue<'_>, wanted: &str) -> Wrong {
    let found = match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    spot.wrong(format!("is {found}, write {wanted}"))
}
