//! A complaint quotes what somebody wrote, on a terminal: it moves no cursor and forges no line.

use std::fs;

use super::*;
use crate::config::import::import;

/// Raw where the syntax allows it, and escaped where it does not: a tab, a turn of the writing
/// direction, an escape sequence, a new line.
const ODD: [&str; 7] = ["\t", "\u{202e}", "\u{1b}[2J", "\\t", "\\u202e", "\\u001b[2J", "\\n"];

/// Every sample of a folder with each of them at every place; how many complaints there were.
fn complaints(folder: &str, complain: impl Fn(&str) -> Vec<String>) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(folder);
    let mut count = 0;
    for sample in fs::read_dir(&folder).unwrap() {
        let text = fs::read_to_string(sample.unwrap().path()).unwrap();
        for (at, _) in text.char_indices() {
            for odd in ODD {
                let (before, after) = text.split_at(at);
                let odd_text = format!("{before}{odd}{after}");
                for complaint in complain(&odd_text) {
                    let bad = complaint.chars().find(|c| is_invisible(*c));
                    assert_eq!(bad, None, "{complaint:?} of {odd:?} in:\n{odd_text}");
                    count += 1;
                }
            }
        }
    }
    count
}

#[test]
fn no_complaint_shows_a_control_character_wherever_one_is_written() {
    let shown = Outside { purpose: Purpose::Show, ..outside() };
    let count = complaints("config", |text| parse_with(text, &shown).err().into_iter().collect());
    assert!(count > 1000, "{count} complaints");
}

#[test]
fn no_note_of_an_import_does_either() {
    let count = complaints("import", |text| match import(text) {
        Ok(imported) => imported.notes,
        Err(error) => vec![error.to_string()],
    });
    assert!(count > 1000, "{count} notes");
}
