//! Times and durations between people and the wire: the host's time zone, words, RFC 3339.
//!
//! All of it is for display and for `--until`: no lease is judged by a time from here.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use stormlock_protocol::duration::{format_secs, parse_secs};
use stormlock_protocol::name::UnixMs;

/// Times nearer than this are shown with seconds: a minute would be too coarse.
const SHOW_SECONDS_WITHIN_SECS: i64 = 10 * 60;
/// Words and seconds of the units, largest first.
const UNITS: [(&str, u64); 4] = [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)];
const UNTIL_FORMS: &str =
    "write for example 18:00, `tomorrow 9:00`, 2026-11-26T09:00, 2026-11-26T09:00:00Z or +2h";

const SINCE_FORMS: &str = "write for example 2h, 9:00, `2026-11-25 18:00` or 2026-11-25T17:00:00Z";

const ZONE_UNKNOWN: &str = "the time zone here is not known: mend TZ (or set TZ=UTC), or write \
     for example +2h or 2026-11-26T09:00:00Z";

/// The wall clock in the host's time zone.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub(crate) fn now() -> Zoned {
    Zoned::now()
}

/// The wall clock alone: no zone is looked up.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub(crate) fn wall() -> UnixMs {
    UnixMs(Timestamp::now().as_millisecond())
}

/// Reads the argument of `--until`.
///
/// A time of day means today. A time that the clocks skip (spring) is moved forward by the gap; of
/// a time that comes twice (autumn) the next one is meant. The past is refused.
pub(crate) fn parse_until(text: &str, now: &Zoned) -> Result<UnixMs, String> {
    let text = text.trim();
    let at = match text.strip_prefix('+') {
        Some(duration) => from_now(duration, now)?,
        None => match text.parse::<Timestamp>() {
            Ok(instant) => instant,
            Err(_) => local(text, now)?,
        },
    };
    if at <= now.timestamp() {
        let was = at.to_zoned(now.time_zone().clone());
        let told = format!("{} is in the past", was.strftime("%Y-%m-%d %H:%M %Z"));
        return Err(if was.date() == now.date() {
            format!("{told} (for the next day write `tomorrow {}`)", was.strftime("%-H:%M"))
        } else {
            told
        });
    }
    Ok(UnixMs(at.as_millisecond()))
}

/// Reads the argument of `--since`: how long ago, or when. A time of day means today; of a time
/// that comes twice (autumn) the first is meant. The future is refused: nothing happened there yet.
pub(crate) fn parse_since(text: &str, now: &Zoned) -> Result<UnixMs, String> {
    let text = text.trim();
    let now_ms = now.timestamp().as_millisecond();
    if let Ok(secs) = parse_duration(text) {
        let ms = i64::try_from(secs).ok().and_then(|secs| secs.checked_mul(1_000));
        return Ok(UnixMs(now_ms.saturating_sub(ms.unwrap_or(i64::MAX))));
    }
    let at = match text.parse::<Timestamp>() {
        Ok(instant) => instant,
        Err(_) if now.time_zone().is_unknown() => return Err(ZONE_UNKNOWN.to_owned()),
        Err(_) => {
            let civil =
                civil(text, now).map_err(|_| format!("it is not a time ({SINCE_FORMS})"))?;
            let earlier = now.time_zone().to_ambiguous_zoned(civil).earlier();
            earlier.map_err(|_| "it is too far away".to_owned())?.timestamp()
        }
    };
    match at.as_millisecond() {
        ms if ms > now_ms => Err("it is in the future".to_owned()),
        ms => Ok(UnixMs(ms)),
    }
}

/// A point of time as programs read it, in UTC; `None` for one that no calendar has, or whose year
/// is none of RFC 3339's four digits.
pub(crate) fn rfc3339(at: UnixMs) -> Option<String> {
    let instant = Timestamp::from_millisecond(at.0).ok()?;
    let has_four_digits = (0..=9999).contains(&instant.to_zoned(TimeZone::UTC).year());
    has_four_digits.then(|| format!("{instant:.0}"))
}

/// The end of something with `left_ms` to go, as a point of the wall clock.
pub(crate) fn end(left_ms: u64, now: &Zoned) -> UnixMs {
    let left = i64::try_from(left_ms).unwrap_or(i64::MAX);
    UnixMs(now.timestamp().as_millisecond().saturating_add(left))
}

/// A point of time as the Python tool prints it: local, milliseconds, no offset.
pub(crate) fn python(at: UnixMs, zone: &TimeZone) -> String {
    match Timestamp::from_millisecond(at.0) {
        Ok(instant) => instant.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S.%3f").to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// A point of time as a person reads it: `14:02` today, with the date on other days.
pub(crate) fn clock(at: UnixMs, now: &Zoned) -> String {
    let Ok(instant) = Timestamp::from_millisecond(at.0) else {
        return "an impossible time".to_owned();
    };
    let local = instant.to_zoned(now.time_zone().clone());
    let is_near = local.timestamp().duration_since(now.timestamp()).as_secs().abs()
        < SHOW_SECONDS_WITHIN_SECS;
    let format = match (local.date() == now.date(), is_near) {
        (_, true) => "%H:%M:%S",
        (true, false) => "%H:%M",
        (false, false) => "%Y-%m-%d %H:%M",
    };
    local.strftime(format).to_string()
}

/// A point of time in a list of many: date and time to the second, where this host is.
pub(crate) fn stamp(at: UnixMs, now: &Zoned) -> String {
    match Timestamp::from_millisecond(at.0) {
        Ok(at) => at.to_zoned(now.time_zone().clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "an impossible time".to_owned(),
    }
}

/// Seconds since a point of time; zero for one in the future (another host's clock).
pub(crate) fn age_secs(since: UnixMs, now: &Zoned) -> u64 {
    let age_ms = now.timestamp().as_millisecond().saturating_sub(since.0);
    u64::try_from(age_ms).unwrap_or(0) / 1_000
}

/// A duration in words, by its two largest units: `2 hours 5 minutes`.
pub(crate) fn words(secs: u64) -> String {
    let parts = parts(secs).map(|(count, unit)| {
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {unit}{plural}")
    });
    parts.collect::<Vec<_>>().join(" ")
}

/// A duration for a table, by its two largest units: `2h5m`.
pub(crate) fn short(secs: u64) -> String {
    parts(secs).map(|(count, unit)| format!("{count}{}", &unit[..1])).collect()
}

/// Reads a duration in seconds; zero is refused, for nothing is held that long.
pub(crate) fn parse_duration(text: &str) -> Result<u64, String> {
    match parse_secs(text) {
        Ok(0) => Err("it must be at least a second".to_owned()),
        Ok(secs) => Ok(secs),
        Err(error) => Err(error.to_string()),
    }
}

/// A duration exactly, as [`parse_duration`] reads it.
pub(crate) fn exact(secs: u64) -> String {
    format_secs(secs)
}

fn parts(secs: u64) -> impl Iterator<Item = (u64, &'static str)> {
    let first = UNITS.iter().position(|(_, unit)| secs >= *unit).unwrap_or(UNITS.len() - 1);
    let mut rest = secs;
    UNITS.iter().skip(first).take(2).enumerate().filter_map(move |(nth, (name, unit))| {
        let count = rest / unit;
        rest %= unit;
        (nth == 0 || count > 0).then_some((count, *name))
    })
}

fn from_now(duration: &str, now: &Zoned) -> Result<Timestamp, String> {
    let secs = parse_duration(duration)?;
    let ms = i64::try_from(secs).ok().and_then(|secs| secs.checked_mul(1_000));
    ms.and_then(|ms| now.timestamp().as_millisecond().checked_add(ms))
        .and_then(|at| Timestamp::from_millisecond(at).ok())
        .ok_or_else(|| "it is too far away".to_owned())
}

fn local(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let zone = now.time_zone();
    if zone.is_unknown() {
        return Err(ZONE_UNKNOWN.to_owned());
    }
    let ambiguous = zone.to_ambiguous_zoned(civil(text, now)?);
    let earlier = ambiguous.clone().compatible();
    let at = match &earlier {
        Ok(zoned) if zoned.timestamp() <= now.timestamp() => ambiguous.later(),
        _ => earlier,
    };
    at.map(|zoned| zoned.timestamp()).map_err(|_| "it is too far away".to_owned())
}

fn civil(text: &str, now: &Zoned) -> Result<DateTime, String> {
    let unreadable = || format!("it is not a time ({UNTIL_FORMS})");
    let (day, clock) = match text.split_once([' ', 'T']) {
        Some((day, clock)) => (day, clock.trim_start()),
        None => ("today", text),
    };
    let date = match day {
        "today" => now.date(),
        "tomorrow" => now.date().tomorrow().map_err(|_| unreadable())?,
        date if is_plain_date(date) => date.parse().map_err(|_| unreadable())?,
        _ => return Err(unreadable()),
    };
    Ok(date.to_datetime(time_of_day(clock).ok_or_else(unreadable)?))
}

/// jiff takes more forms than people mean (`20261126`, week dates); only this one is documented.
fn is_plain_date(text: &str) -> bool {
    text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-')
}

/// `9:00`, `18:00` or `18:00:30`; 24:00 and leap seconds are no times here.
fn time_of_day(text: &str) -> Option<Time> {
    let mut fields = text.split(':').map(|field| {
        let is_number = matches!(field.len(), 1..=2) && field.bytes().all(|b| b.is_ascii_digit());
        if is_number { field.parse::<i8>().ok() } else { None }
    });
    let (hour, minute) = (fields.next()??, fields.next()??);
    let second = match fields.next() {
        Some(second) => second?,
        None => 0,
    };
    if fields.next().is_some() {
        return None;
    }
    Time::new(hour, minute, second, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central Europe by its rule, so that the tests need no zone database: clocks go forward on
    /// 2026-03-29 at 2:00 and back on 2026-10-25 at 3:00.
    fn berlin(local: &str) -> Zoned {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        local.parse::<DateTime>().unwrap().to_zoned(zone).unwrap()
    }

    fn until(text: &str, now: &str) -> String {
        rfc3339(parse_until(text, &berlin(now)).unwrap()).unwrap()
    }

    #[test]
    fn until_takes_the_forms_that_people_write() {
        for (text, expected) in [
            ("18:00", "2026-11-25T17:00:00Z"),
            ("today 18:00", "2026-11-25T17:00:00Z"),
            ("18:00:30", "2026-11-25T17:00:30Z"),
            ("tomorrow 9:00", "2026-11-26T08:00:00Z"),
            ("2026-11-26T09:00", "2026-11-26T08:00:00Z"),
            ("2026-11-26 09:00", "2026-11-26T08:00:00Z"),
            ("2026-11-26T09:00:00Z", "2026-11-26T09:00:00Z"),
            ("2026-11-26T09:00:00+05:30", "2026-11-26T03:30:00Z"),
            ("+2h", "2026-11-25T13:00:00Z"),
        ] {
            assert_eq!(until(text, "2026-11-25T12:00"), expected, "{text}");
        }
    }

    #[test]
    fn until_refuses_the_past_and_what_is_no_time() {
        let now = berlin("2026-11-25T12:00");
        let past = parse_until("9:00", &now).unwrap_err();
        assert!(past.contains("in the past") && past.contains("`tomorrow 9:00`"), "{past}");
        assert!(parse_until("2026-11-25T11:00:00Z", &now).unwrap_err().contains("in the past"));
        for bad in [
            "",
            "noon",
            "18",
            "25:00",
            "18:60",
            "18:00:00:00",
            "2026-11-26",
            "tomorrow",
            "20261126T09:00",
            "-1:00",
            "+",
            "+0s",
            "+99999999999999d",
        ] {
            assert!(parse_until(bad, &now).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn since_is_how_long_ago_or_when_and_never_in_the_future() {
        let now = berlin("2026-11-25T12:00");
        for (text, expected) in [
            ("2h", "2026-11-25T09:00:00Z"),
            ("30 minutes", "2026-11-25T10:30:00Z"),
            ("9:00", "2026-11-25T08:00:00Z"),
            ("2026-11-24 18:00", "2026-11-24T17:00:00Z"),
            ("2026-11-24T17:00:00Z", "2026-11-24T17:00:00Z"),
        ] {
            assert_eq!(rfc3339(parse_since(text, &now).unwrap()).unwrap(), expected, "{text}");
        }
        for bad in ["", "yesterday", "-1h", "13:00", "2026-11-26T09:00:00Z", "0s"] {
            assert!(parse_since(bad, &now).is_err(), "{bad:?}");
        }
        assert!(parse_since("99999999999999d", &now).is_ok());
        let nowhere = now.with_time_zone(TimeZone::unknown());
        assert!(parse_since("9:00", &nowhere).unwrap_err().contains("TZ"));
        assert!(parse_since("2h", &nowhere).is_ok());
    }

    #[test]
    fn where_the_time_zone_is_not_known_no_local_time_is_guessed() {
        let now = berlin("2026-11-25T12:00").with_time_zone(TimeZone::unknown());
        assert!(parse_until("18:00", &now).unwrap_err().contains("TZ"));
        assert!(parse_until("+2h", &now).is_ok());
        assert!(parse_until("2026-11-26T09:00:00Z", &now).is_ok());
    }

    #[test]
    fn a_skipped_hour_moves_forward_and_a_repeated_one_is_the_next() {
        assert_eq!(until("2:30", "2026-03-29T01:00"), "2026-03-29T01:30:00Z");
        assert_eq!(until("tomorrow 9:00", "2026-03-28T12:00"), "2026-03-29T07:00:00Z");
        assert_eq!(until("2:30", "2026-10-25T01:00"), "2026-10-25T00:30:00Z");
        // 02:45 for the first time: 02:30 has passed once and comes again.
        assert_eq!(until("2:30", "2026-10-25T02:45"), "2026-10-25T01:30:00Z");
    }

    #[test]
    fn words_name_the_two_largest_units() {
        for (secs, long, brief) in [
            (0, "0 seconds", "0s"),
            (1, "1 second", "1s"),
            (61, "1 minute 1 second", "1m1s"),
            (7_200, "2 hours", "2h"),
            (7_205, "2 hours", "2h"),
            (93_784, "1 day 2 hours", "1d2h"),
        ] {
            assert_eq!((words(secs).as_str(), short(secs).as_str()), (long, brief));
        }
        assert!(words(u64::MAX).contains("days"));
    }

    #[test]
    fn a_clock_shows_the_date_only_on_another_day() {
        let now = berlin("2026-11-25T12:00");
        let at = |local: &str| UnixMs(berlin(local).timestamp().as_millisecond());
        assert_eq!(clock(at("2026-11-25T12:00:30"), &now), "12:00:30");
        assert_eq!(clock(at("2026-11-25T18:00"), &now), "18:00");
        assert_eq!(clock(at("2026-11-26T09:00"), &now), "2026-11-26 09:00");
        assert_eq!(clock(UnixMs(i64::MAX), &now), "an impossible time");
        assert_eq!(age_secs(at("2026-11-25T13:00"), &now), 0);
    }

    #[test]
    fn the_python_tool_prints_local_time_without_an_offset() {
        let now = berlin("2026-11-25T12:00");
        let at = UnixMs(now.timestamp().as_millisecond() + 7);
        assert_eq!(python(at, now.time_zone()), "2026-11-25T12:00:00.007");
        assert_eq!(rfc3339(at).unwrap(), "2026-11-25T11:00:00Z");
        for never in [i64::MIN, i64::MAX, -200_000_000_000_000] {
            assert_eq!(rfc3339(UnixMs(never)), None, "{never}");
        }
    }
}
