//! What people type that has a grammar of its own.

use jiff::civil::date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use stormlock_protocol::duration::{format_secs, parse_secs};
use stormlock_protocol::name::UnixMs;

use crate::{assert_quotes, assert_visible};

#[allow(dead_code, reason = "the client has no library: of its file, this wants the readers")]
#[allow(unfulfilled_lint_expectations, reason = "the client has a clippy.toml of its own")]
#[path = "../../../ctl/src/time.rs"]
mod time;

/// Durations: what is read is written shortly and read again.
pub(crate) fn duration(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    match parse_secs(text) {
        Ok(secs) => {
            assert_eq!(parse_secs(&format_secs(secs)), Ok(secs));
            let _ = (time::words(secs), time::short(secs));
            true
        }
        Err(error) => {
            assert_quotes(&error.to_string());
            false
        }
    }
}

/// Times, as `--until` and `--since` take them, an hour before the clocks are set back.
pub(crate) fn until(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let now = now();
    let (until, since) = (time::parse_until(text, &now), time::parse_since(text, &now));
    for error in [until.as_ref().err(), since.as_ref().err()].into_iter().flatten() {
        assert_quotes(error);
    }
    for at in [until.as_ref().ok(), since.as_ref().ok()].into_iter().flatten() {
        assert_visible(&time::clock(*at, &now));
        assert_visible(&time::stamp(*at, &now));
        assert_visible(&time::python(*at, now.time_zone()));
        let _ = time::age_secs(*at, &now);
    }
    let now_ms = now.timestamp().as_millisecond();
    if let Ok(until) = until {
        assert!(until.0 >= now_ms, "{until:?} is past");
        if let Some(text) = time::rfc3339(until) {
            let again: Timestamp = text.parse().expect("a time as programs read it");
            assert_eq!(again.as_second(), until.0.div_euclid(1000), "{text}");
        }
    }
    if let Ok(UnixMs(since)) = since {
        assert!(since <= now_ms, "{since} is yet to come");
    }
    until.is_ok() || since.is_ok()
}

fn now() -> Zoned {
    let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a time zone");
    let civil = date(2026, 10, 25).at(1, 30, 0, 0);
    civil.to_zoned(berlin).expect("a time that was")
}
