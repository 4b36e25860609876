//! When to stop believing, renew, verify and try again: arithmetic on [`Moment`], nothing else.

use std::time::Duration;

use stormlock_protocol::name::Ttl;

use super::Moment;

/// Belief ends this much before the store's end, for scheduling and signal delivery (law 1).
pub(super) const MARGIN: Duration = Duration::from_millis(250);
/// Thousandths of what remains that are believed: two clocks drift by up to 500 ppm each, and as
/// much again for a clock that is being slewed (law 1).
const BELIEVED_PER_MILLE: u32 = 998;
/// Longest time between two renewals, however long the ttl (law 11).
const RENEW_EVERY_MAX: Duration = Duration::from_secs(600);
/// How often a lease is read back: how late a break is noticed (law 11).
pub(super) const VERIFY_EVERY: Duration = Duration::from_secs(15);
/// Shortest upper bound of the wait before a retry; it doubles with each.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest upper bound of the wait before a retry.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A store that is back is asked again at once about each lease, but no sooner than this after the
/// last call: one that comes and goes because it is slow must not be made slower by that.
pub(super) const BACK_GAP: Duration = Duration::from_secs(1);
/// And not about all at once, for the same reason: so many, and then one after the other.
const BACK_FIRST: u32 = 8;
pub(super) const BACK_PACE: Duration = Duration::from_millis(50);
/// Longest time one call may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// Shortest time one call is given, however short the ttl.
const ATTEMPT_MIN: Duration = Duration::from_millis(200);

/// How often the first of those who wait asks, where the store says when something stirs: in case
/// it did not.
const LOOK_TOLD: Duration = Duration::from_secs(30);
/// The same where it does not.
const LOOK_UNTOLD: Duration = Duration::from_secs(2);
/// A lock with no more left than this is about to end.
pub(super) const LOOK_DUE: Duration = Duration::from_millis(250);
/// Shortest time between two questions of those who wait, whatever stirs.
pub(super) const LOOK_GAP: Duration = Duration::from_millis(50);
/// The part of a hold that is left when its end is near enough to be told.
const WARNING_PART: u32 = 10;
/// Longest time before the end of a hold that this is told.
const WARNING_MAX: Duration = Duration::from_secs(600);

/// Law 1: until when a proof is believed whose call left at `sent` and which said that so much
/// remained.
#[must_use]
pub(super) fn deadline(sent: Moment, remaining: Duration) -> Moment {
    (sent + remaining / 1000 * BELIEVED_PER_MILLE) - MARGIN
}

/// When to renew a lease that was proven by a call that left at `sent`; `roll` picks the jitter.
#[must_use]
pub(super) fn renewal(sent: Moment, ttl: Duration, roll: u64) -> Moment {
    let longest = (ttl / 3).min(RENEW_EVERY_MAX);
    sent + (longest - part(longest / 10, roll))
}

/// How long to wait before the try after `tries` failures: full jitter below a doubling bound,
/// itself bounded so that a short lease is tried several times before its deadline.
#[must_use]
pub(super) fn retry(tries: u32, ttl: Duration, roll: u64) -> Duration {
    part(bound(tries).min((ttl / 10).max(ATTEMPT_MIN)), roll)
}

/// How long to wait before a release or a cancel is tried again.
#[must_use]
pub(super) fn retry_ending(tries: u32, roll: u64) -> Duration {
    part(bound(tries), roll)
}

/// The same without chance, for one who looks alone.
#[must_use]
pub fn look_alone(remaining: Option<Duration>, tells: bool, late: u32) -> Duration {
    look(remaining, tells, late, 0)
}

/// How long somebody who waits leaves the store in peace: until a lock that ends by itself has
/// ended, and no longer than once in a while. Locks may outlast their end, by the store's leave or
/// its margin: after `late` looks at one it is looked at less and less often.
#[must_use]
pub(super) fn look(remaining: Option<Duration>, tells: bool, late: u32, roll: u64) -> Duration {
    let often = if tells { LOOK_TOLD } else { LOOK_UNTOLD };
    let often = often - part(often / 4, roll);
    let due = LOOK_DUE.saturating_mul(1 << late.min(10));
    remaining.map_or(often, |left| often.min(left.max(due)))
}

/// How long before its end a lease that lasts so long is said to end soon.
#[must_use]
pub(super) fn warning(length: Duration) -> Duration {
    (length / WARNING_PART).min(WARNING_MAX)
}

fn bound(tries: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << tries.min(10)).min(RETRY_MAX)
}

/// When, one after the other, a store that is back is asked, or asked by an agent that is.
#[derive(Debug, Default)]
pub(super) struct Pace {
    asked: u32,
}

impl Pace {
    /// How much later than now the next one is asked.
    pub(super) fn wait(&self) -> Duration {
        BACK_PACE * self.asked.saturating_sub(BACK_FIRST - 1)
    }

    /// One is.
    pub(super) fn step(&mut self) {
        self.asked = self.asked.saturating_add(1);
    }
}

/// How long one call may take.
#[must_use]
pub fn patience(ttl: Ttl) -> Duration {
    (length(ttl) / 10).clamp(ATTEMPT_MIN, ATTEMPT_MAX)
}

/// A ttl as a duration.
#[must_use]
pub(super) fn length(ttl: Ttl) -> Duration {
    Duration::from_secs(u64::from(ttl.as_secs()))
}

/// A part of `whole`, from nothing to all, as `roll` falls.
fn part(whole: Duration, roll: u64) -> Duration {
    let nanos = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(roll % nanos.saturating_add(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Moment = Moment::from_nanos(1_000_000_000_000);

    #[test]
    fn a_deadline_counts_from_departure_less_drift_and_margin() {
        let remaining = Duration::from_secs(100);
        assert_eq!(SENT.until(deadline(SENT, remaining)), Duration::from_millis(99_550));
        assert!(deadline(SENT, Duration::from_millis(200)) < SENT);
    }

    #[test]
    fn a_renewal_comes_between_nine_tenths_and_the_whole_of_a_third() {
        for roll in [0, 1, u64::MAX / 2, u64::MAX] {
            let wait = SENT.until(renewal(SENT, Duration::from_secs(90), roll));
            assert!((27..=30).contains(&wait.as_secs()), "{wait:?}");
            let wait = SENT.until(renewal(SENT, Duration::from_secs(86_400), roll));
            assert!((540..=600).contains(&wait.as_secs()), "{wait:?}");
        }
    }

    #[test]
    fn retries_are_bounded_by_a_tenth_of_the_ttl_and_by_half_a_minute() {
        for tries in 0..40 {
            assert!(retry(tries, Duration::from_secs(30), u64::MAX) <= Duration::from_secs(3));
            assert!(retry(tries, Duration::from_secs(86_400), u64::MAX) <= RETRY_MAX);
        }
        assert_eq!(retry(3, Duration::from_secs(30), 0), Duration::ZERO);
    }

    #[test]
    fn a_call_has_a_tenth_of_the_ttl_and_five_seconds_at_most() {
        let secs = |secs| patience(Ttl::from_secs(secs).unwrap());
        assert_eq!(secs(1), Duration::from_millis(200));
        assert_eq!(secs(20), Duration::from_secs(2));
        assert_eq!(secs(86_400), Duration::from_secs(5));
    }
}
