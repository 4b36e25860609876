//! What time it is in the region: bounds, from the Date of each answer and this host's boot clock.
//! Never the host's wall clock.
//!
//! An answer to a question that left at `sent` and came at `received` was dated in between, in
//! whole seconds. So the region's clock was below `date + DATE_STALE` at `sent`, and not below
//! `date` at `received`. Later answers narrow that, and the drift between two clocks widens it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stormlock_protocol::name::Ttl;

use crate::lease::Moment;

/// A Date is cut to whole seconds, and servers are known to make a new one only once a second.
const DATE_STALE_US: i64 = 2_000_000;
/// Two clocks drift apart by less than a part in so many (500 ppm).
const DRIFT_PART: i64 = 2_000;
/// Microseconds of a second.
const SECOND_US: i64 = 1_000_000;

/// The region's clock, as far as this agent knows it.
#[derive(Debug, Default)]
pub(super) struct AwsTime(Mutex<Option<Bounds>>);

/// The region's clock less the boot clock, in microseconds: between these two, at that moment.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    at: Moment,
    low: i64,
    high: i64,
}

/// The region's clock at one moment, in microseconds since 1970: between these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) earliest: i64,
    pub(super) latest: i64,
}

impl AwsTime {
    /// Takes the Date of an answer, in seconds since 1970.
    pub(super) fn observe(&self, sent: Moment, received: Moment, date: i64) {
        let us = date.saturating_mul(SECOND_US);
        let seen = Bounds {
            at: received,
            low: us.saturating_sub(micros(received)),
            high: us.saturating_add(DATE_STALE_US).saturating_sub(micros(sent)),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(known.map_or(seen, |known| known.aged(received).with(seen)));
    }

    /// What it is at `at`; `None` before the first answer.
    pub(super) fn span(&self, at: Moment) -> Option<Span> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Bounds { low, high, .. } = known?.aged(at);
        let now = micros(at);
        Some(Span { earliest: now.saturating_add(low), latest: now.saturating_add(high) })
    }
}

impl Bounds {
    fn aged(self, now: Moment) -> Bounds {
        let drift = micros(now).saturating_sub(micros(self.at)).max(0) / DRIFT_PART;
        let (low, high) = (self.low.saturating_sub(drift), self.high.saturating_add(drift));
        Bounds { at: self.at.max(now), low, high }
    }

    /// Both hold. If they cannot, one of the clocks was set or stood still (a paused machine): the
    /// truth is in either, and the next answer says in which.
    fn with(self, seen: Bounds) -> Bounds {
        let at = self.at.max(seen.at);
        let (low, high) = (self.low.max(seen.low), self.high.min(seen.high));
        if low <= high {
            return Bounds { at, low, high };
        }
        Bounds { at, low: self.low.min(seen.low), high: self.high.max(seen.high) }
    }
}

impl Span {
    /// `expires` of a lease that begins now, in seconds: never before its time has passed.
    pub(super) fn end(self, ttl: Ttl) -> i64 {
        let end = self.latest.saturating_add(i64::from(ttl.as_secs()) * SECOND_US);
        end.saturating_add(SECOND_US - 1).div_euclid(SECOND_US)
    }

    /// How long it certainly is until `expires`.
    pub(super) fn left(self, expires: i64) -> Duration {
        let left = expires.saturating_mul(SECOND_US).saturating_sub(self.latest);
        Duration::from_micros(u64::try_from(left).unwrap_or(0))
    }

    /// How long it may be until `expires`.
    pub(super) fn at_most(self, expires: i64) -> Duration {
        let left = expires.saturating_mul(SECOND_US).saturating_sub(self.earliest);
        Duration::from_micros(u64::try_from(left).unwrap_or(0))
    }

    /// The greatest `expires` that is past for certain, by `margin`.
    pub(super) fn over(self, margin: Duration) -> i64 {
        let margin = i64::try_from(margin.as_secs()).unwrap_or(i64::MAX);
        self.earliest.div_euclid(SECOND_US).saturating_sub(margin)
    }
}

fn micros(at: Moment) -> i64 {
    i64::try_from(at.as_nanos() / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So long after boot, in milliseconds.
    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    /// To the millisecond; the drift of a test's seconds is below that.
    #[track_caller]
    fn check(time: &AwsTime, ms: u64, earliest_ms: i64, latest_ms: i64) {
        let span = time.span(at(ms)).expect("an answer");
        let found = [span.earliest, span.latest].map(|us| us.saturating_add(500).div_euclid(1000));
        assert_eq!(found, [earliest_ms, latest_ms], "at {ms}");
    }

    #[test]
    fn before_the_first_answer_nothing_is_known() {
        assert_eq!(AwsTime::default().span(at(5)), None);
    }

    #[test]
    fn a_date_bounds_the_clock_from_departure_and_from_arrival() {
        let time = AwsTime::default();
        time.observe(at(1000), at(1300), 50);
        check(&time, 1300, 50_000, 52_300);
        // Four seconds of drift at 500 ppm are 2 ms.
        check(&time, 5300, 53_998, 56_302);
    }

    #[test]
    fn later_answers_narrow_it() {
        let time = AwsTime::default();
        time.observe(at(1000), at(1000), 50);
        time.observe(at(1900), at(1900), 50);
        check(&time, 1900, 50_900, 52_000);
        // An older answer that comes late narrows it no less.
        time.observe(at(1200), at(1500), 51);
        check(&time, 1900, 51_400, 52_000);
    }

    #[test]
    fn answers_that_contradict_each_other_are_both_allowed_for_until_the_next() {
        let time = AwsTime::default();
        time.observe(at(1000), at(1000), 50);
        // An hour passed that the boot clock did not see.
        time.observe(at(1000), at(1000), 3650);
        check(&time, 1000, 50_000, 3_652_000);
        time.observe(at(1000), at(1000), 3650);
        check(&time, 1000, 3_650_000, 3_652_000);
        // Or one answer was dated wrongly.
        time.observe(at(1000), at(1000), 9000);
        time.observe(at(1000), at(1000), 3650);
        check(&time, 1000, 3_650_000, 3_652_000);
    }

    #[test]
    fn an_end_is_rounded_up_and_what_is_left_of_it_counts_from_the_latest() {
        let span = Span { earliest: 99_999_999, latest: 101_000_001 };
        let ttl = Ttl::from_secs(60).unwrap();
        assert_eq!(span.end(ttl), 162);
        assert!(span.left(span.end(ttl)) >= Duration::from_secs(60));
        assert_eq!(span.left(101), Duration::ZERO);
        assert_eq!(span.left(102), Duration::from_micros(999_999));
    }

    #[test]
    fn what_is_over_counts_from_the_earliest_less_the_margin() {
        let span = Span { earliest: 100_000_000, latest: 150_000_000 };
        assert_eq!(span.over(Duration::ZERO), 100);
        assert_eq!(span.over(Duration::from_secs(60)), 40);
        assert_eq!(Span { earliest: 99_999_999, ..span }.over(Duration::ZERO), 99);
    }
}
