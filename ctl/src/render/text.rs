//! Text from stores and agents, made safe to show, and its width on a screen.

use stormlock_protocol::name::is_invisible;

/// Text with each invisible or control character written as an escape, so that nobody's reason can
/// move the cursor or forge a line. The agent refuses such text; other writers share the store.
pub(crate) fn visible(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_invisible(c) { safe.extend(c.escape_unicode()) } else { safe.push(c) }
    }
    safe
}

/// Most of somebody's own words that is quoted to them, in characters.
const QUOTED_MAX: usize = 120;

/// The same of words that are quoted where they were not understood: of more than anybody reads
/// the beginning.
pub(crate) fn brief(text: &str) -> String {
    let mut brief = visible(&text.chars().take(QUOTED_MAX).collect::<String>());
    if text.chars().nth(QUOTED_MAX).is_some() {
        brief.push('…');
    }
    brief
}

/// One field of tab-separated values: tab, newline, return and backslash as `\t \n \r \\`.
pub(crate) fn tsv(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => safe.push_str("\\t"),
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\\' => safe.push_str("\\\\"),
            c if is_invisible(c) => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    safe
}

/// JSON text with what is invisible in its strings written as `\uXXXX`; the same value to a parser.
/// Line ends between values stay.
pub(crate) fn visible_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_invisible(c) { push_json_escape(&mut safe, c) } else { safe.push(c) }
    }
    safe
}

/// A JSON string of ASCII only, as Python's `json.dump` writes it.
pub(crate) fn ascii_json_string(text: &str) -> String {
    let mut safe = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => safe.push_str("\\\""),
            '\\' => safe.push_str("\\\\"),
            ' '..='~' => safe.push(c),
            c => push_json_escape(&mut safe, c),
        }
    }
    safe.push('"');
    safe
}

fn push_json_escape(json: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        json.push_str(&format!("\\u{unit:04x}"));
    }
}

/// The text in lines of so many columns, ended between words. A longer word has a line of its own.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if width(line) + 1 + width(word) <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// How many columns a text takes. Good for what names and reasons contain; a terminal may differ in
/// emoji sequences, which only moves a column.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// Text cut to at most `columns`, the cut shown by `…`.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += char_width(c);
        if used > columns {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

/// East Asian wide characters and emoji take two columns.
fn char_width(c: char) -> usize {
    let is_wide = matches!(c,
        '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}' | '\u{1f300}'..='\u{1faff}' | '\u{20000}'..='\u{3fffd}');
    if is_wide { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_between_words() {
        for (columns, lines) in [
            (usize::MAX, vec!["a lock is evicted"]),
            (17, vec!["a lock is evicted"]),
            (16, vec!["a lock is", "evicted"]),
            (1, vec!["a", "lock", "is", "evicted"]),
        ] {
            assert_eq!(wrapped("a lock is evicted", columns), lines);
        }
        assert_eq!(wrapped("", 1), [""]);
    }

    #[test]
    fn what_cannot_be_seen_is_written_as_an_escape() {
        assert_eq!(visible("a\u{1b}[31m\u{202e}b\u{200b}"), "a\\u{1b}[31m\\u{202e}b\\u{200b}");
        assert_eq!(visible("DOMAIN\\maria – ü 日本"), "DOMAIN\\maria – ü 日本");
        assert_eq!(tsv("a\tb\nc\\d\r\u{7f}"), "a\\tb\\nc\\\\d\\r\\u{7f}");
        assert_eq!(brief("a\nb"), "a\\u{a}b");
        assert_eq!(brief(&"ü".repeat(121)), "ü".repeat(120) + "…");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({ "reason": "a\u{202e}b\u{e0041}\u{1b}\n\u{9b}ü" });
        for json in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let safe = visible_json(&json);
            assert!(safe.chars().all(|c| c == '\n' || !is_invisible(c)), "{safe}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
        let ascii = ascii_json_string("ü\"\\\n😀");
        assert_eq!(ascii, "\"\\u00fc\\\"\\\\\\u000a\\ud83d\\ude00\"");
    }

    #[test]
    fn a_cut_text_fits_and_says_that_it_was_cut() {
        assert_eq!(cut("maria@bastion2", 14), "maria@bastion2");
        assert_eq!(cut("maria@bastion2", 8), "maria@b…");
        assert_eq!(cut("日本日本", 6), "日本…");
        assert_eq!(cut("abc", 1), "…");
    }
}
