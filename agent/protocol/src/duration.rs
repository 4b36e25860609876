//! Durations as people write them: `90s`, `15m`, `2h30m`, `2d`, `30 minutes`.
//!
//! One reading for the configuration and the command line. It takes every form that the Python
//! tool takes (`1 days`, `4 seconds`, `1 d`: a number and any beginning of a unit's name), and
//! several parts, the largest unit first. It does not know which durations make sense: zero is a
//! duration, and limits are the caller's.

use std::fmt::Write;

/// The units, largest first: name and seconds. No name begins as another does, so any beginning of
/// a name is one unit; `m` is minutes, there are no months.
const UNITS: [(&str, u64); 4] =
    [("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1)];

/// Why a text is not a duration. The caller says which text and where it stood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing, or only white space.
    #[error("it is empty (write for example 90s, 15m, 2h30m or 2d)")]
    Empty,
    /// A number without a unit; nobody is made to guess which one was meant.
    #[error("{0} has no unit (write {0}s, {0}m, {0}h or {0}d)")]
    NoUnit(String),
    /// A unit without its number.
    #[error("{0:?} has no number before it (write for example 90s, 15m, 2h30m or 2d)")]
    NoNumber(String),
    /// A word that is no unit.
    #[error("{0:?} is not a unit (units are days, hours, minutes, seconds, or d, h, m, s)")]
    Unit(String),
    /// A smaller unit before a larger one, or one twice: more likely a slip than a meaning.
    #[error("{0} comes too late (write each unit once, the largest first: 1d2h30m)")]
    Order(&'static str),
    /// A character that stands in no duration.
    #[error("{0:?} is not allowed in it (write for example 90s, 15m, 2h30m or 2d)")]
    Character(char),
    /// More seconds than 64 bits count.
    #[error("it is too long to count")]
    TooLong,
}

/// Reads a duration, in seconds.
///
/// # Errors
/// [`DurationError`] says what to write instead. Upper case, fractions and bare numbers are
/// refused.
pub fn parse_secs(text: &str) -> Result<u64, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let (digits, after) = split(rest, |c| c.is_ascii_digit());
        let (word, after) = split(after.trim_start_matches(' '), |c| c.is_ascii_alphabetic());
        if word.is_empty() {
            return Err(match after.chars().next() {
                Some(strange) if !strange.is_ascii_digit() => DurationError::Character(strange),
                _ => DurationError::NoUnit(digits.to_owned()),
            });
        }
        if digits.is_empty() {
            return Err(DurationError::NoNumber(word.to_owned()));
        }
        let Some((name, _)) = UNITS.iter().find(|(name, _)| name.starts_with(word)) else {
            return Err(DurationError::Unit(word.to_owned()));
        };
        let Some((_, secs)) = units.find(|(unit, _)| unit == name) else {
            return Err(DurationError::Order(name));
        };
        // The only way that digits do not parse is that there are too many.
        let number: u64 = digits.parse().map_err(|_| DurationError::TooLong)?;
        let part = number.checked_mul(*secs).ok_or(DurationError::TooLong)?;
        total = total.checked_add(part).ok_or(DurationError::TooLong)?;
        rest = after.trim_start_matches(' ');
    }
    Ok(total)
}

/// Writes seconds shortly: `2h30m`, `1d`, `0s`. [`parse_secs`] reads it back as the same number.
#[must_use]
pub fn format_secs(secs: u64) -> String {
    let mut text = String::new();
    let mut rest = secs;
    for (name, unit) in UNITS {
        if rest >= unit {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{}", rest / unit, &name[..1]);
            rest %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

fn split(text: &str, is_inside: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !is_inside(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_durations_in_several_ways() {
        for (text, secs) in [
            ("90s", 90),
            ("15m", 900),
            ("2h30m", 9_000),
            ("2d", 172_800),
            ("30 minutes", 1_800),
            ("1d2h3m4s", 93_784),
            ("1 day 2 hours", 93_600),
            ("2h 30m", 9_000),
            ("1d4s", 86_404),
            ("  5m\n", 300),
            ("007s", 7),
            ("0s", 0),
            ("0 days", 0),
            ("90m", 5_400),
        ] {
            assert_eq!(parse_secs(text), Ok(secs), "{text:?}");
        }
    }

    #[test]
    fn every_beginning_of_a_unit_is_that_unit_as_in_the_python_tool() {
        for (name, secs) in UNITS {
            for end in 1..=name.len() {
                for gap in ["", " ", "   "] {
                    let text = format!("3{gap}{}", &name[..end]);
                    assert_eq!(parse_secs(&text), Ok(3 * secs), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused_with_what_to_write() {
        let example = "(write for example 90s, 15m, 2h30m or 2d)";
        let units = "is not a unit (units are days, hours, minutes, seconds, or d, h, m, s)";
        let largest_first = "(write each unit once, the largest first: 1d2h30m)";
        for (text, message) in [
            ("", format!("it is empty {example}")),
            (" \t ", format!("it is empty {example}")),
            ("90", "90 has no unit (write 90s, 90m, 90h or 90d)".into()),
            ("1h30", "30 has no unit (write 30s, 30m, 30h or 30d)".into()),
            ("1 30m", "1 has no unit (write 1s, 1m, 1h or 1d)".into()),
            ("m", format!("\"m\" has no number before it {example}")),
            ("1h m", format!("\"m\" has no number before it {example}")),
            ("forever", format!("\"forever\" has no number before it {example}")),
            ("1H", format!("\"H\" {units}")),
            ("1 Hours", format!("\"Hours\" {units}")),
            ("5ms", format!("\"ms\" {units}")),
            ("1 week", format!("\"week\" {units}")),
            ("1 secondss", format!("\"secondss\" {units}")),
            ("30m2h", format!("hours comes too late {largest_first}")),
            ("1h1h", format!("hours comes too late {largest_first}")),
            ("1.5h", format!("'.' is not allowed in it {example}")),
            ("-5m", format!("'-' is not allowed in it {example}")),
            ("+5m", format!("'+' is not allowed in it {example}")),
            ("5\tm", format!("'\\t' is not allowed in it {example}")),
            ("5m!", format!("'!' is not allowed in it {example}")),
            ("٣m", format!("'٣' is not allowed in it {example}")),
            ("5µs", format!("'µ' is not allowed in it {example}")),
            ("5m\u{202e}", format!("'\\u{{202e}}' is not allowed in it {example}")),
        ] {
            assert_eq!(parse_secs(text).unwrap_err().to_string(), message, "{text:?}");
        }
    }

    #[test]
    fn what_64_bits_cannot_count_is_refused_and_never_wraps() {
        assert_eq!(parse_secs("18446744073709551615s"), Ok(u64::MAX));
        for long in [
            "18446744073709551616s",
            "213503982334602d",
            "1d18446744073709551615s",
            &format!("{}s", "9".repeat(1000)),
        ] {
            assert_eq!(parse_secs(long), Err(DurationError::TooLong), "{long}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (secs, text) in
            [(0, "0s"), (9_000, "2h30m"), (86_400, "1d"), (93_784, "1d2h3m4s"), (59, "59s")]
        {
            assert_eq!(format_secs(secs), text);
        }
        let few = (0..100_000).step_by(7);
        for secs in few.chain((0..64).map(|bit| u64::MAX >> bit)) {
            assert_eq!(parse_secs(&format_secs(secs)), Ok(secs));
        }
    }
}
