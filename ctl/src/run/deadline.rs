//! When a command has to end: arithmetic on the deadlines that the agent told. No clock is read
//! here and nothing is done.

use std::collections::BTreeMap;
use std::time::Duration;

use stormlock_protocol::name::{LeaseId, Resource};

use crate::clock::Moment;

/// Between the last signal and the deadline, where something is to be killed: a busy host delivers
/// late, and a process that is being killed needs a moment to die.
pub(crate) const LAST: Duration = Duration::from_secs(1);
/// The same where nothing is to be killed, as a part of a short ttl.
const HOLDER_PART: u32 = 4;
/// The least that a command has for its work.
const WORK_MIN: Duration = Duration::from_secs(1);
/// The end of a hold is told by the wall clock, what is left by the boot clock: so much later is
/// the same.
pub(crate) const ROUNDING: Duration = Duration::from_secs(1);
/// How long before the command is asked to end its user is told that the hold does.
const TELL_BEFORE: Duration = Duration::from_secs(60);
/// A lease that is renewed as it should be has this much left at least, of a thousand parts of its
/// ttl: it is renewed after a third and a tenth of that, and believed for two thousandths less.
const SURE_PER_MILLE: u32 = 631;
/// The agent's own margin.
const MARGIN: Duration = Duration::from_millis(250);

/// The shortest ttl that leaves those who count on a lease time to end and a renewal time to be
/// late.
pub(crate) const TTL_MIN: Duration = Duration::from_secs(5);

/// The longest time between the two signals that a lease of this ttl leaves room for, so that a
/// renewal may fail and the next one still come in time.
pub(crate) fn grace_max(ttl: Duration) -> Duration {
    ttl / 3
}

/// How long a command is given that nobody gave a time: the usual, but no more than leaves half of
/// what a renewal on time finds for one that is late.
pub(crate) fn usual_grace(usual: Duration, ttl: Duration) -> Duration {
    let sure = (ttl / 1000 * SURE_PER_MILLE).saturating_sub(MARGIN);
    usual.min(grace_max(ttl)).min((sure / 2).saturating_sub(LAST))
}

/// True when a hold of this length leaves a command time for its work beside that to end in.
pub(crate) fn fits_hold(grace: Duration, hold: Duration) -> bool {
    grace + LAST + WORK_MIN <= hold
}

/// The longest time to end in that leaves a command at least half of a short hold for its work.
pub(crate) fn grace_of_hold(hold: Duration) -> Duration {
    (hold / 2).saturating_sub(LAST)
}

/// A lease that the command runs under.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) lease: LeaseId,
    pub(crate) resource: Resource,
    pub(crate) until: Proof,
    /// When the command's own time under it is over, whoever holds it longer.
    pub(crate) limit: Moment,
}

impl Kept {
    /// When what was asked for is over, proven or not.
    pub(crate) fn time_over(&self) -> Moment {
        self.until.hold_end.min(self.limit)
    }

    fn why_over(&self) -> Why {
        let is_limit = self.limit < self.until.hold_end;
        (if is_limit { Why::LimitOver } else { Why::HoldOver })(self.resource.clone())
    }
}

/// Until when a lease may be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof {
    /// What is asked for with each renewal.
    pub(crate) ttl: Duration,
    /// The deadline that the agent told; the hold's own end is not counted here.
    pub(crate) proven: Moment,
    /// When nobody renews it any more, and it is given back.
    pub(crate) hold_end: Moment,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// Say that this one was not renewed for half its ttl.
    Late(Resource),
    /// Say that a hold, or what the command has of one, is about to end.
    EndsSoon(Why),
    /// Send the first signal.
    Ask(Why),
    /// Send the last one.
    Kill(Why),
}

/// Why a command has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// The agent said so, in words.
    Lost(String),
    /// There was no proof in time.
    Unproven(Resource),
    /// What `--for` or `--until` said.
    HoldOver(Resource),
    /// The same of a command under a lease that is held on after it.
    LimitOver(Resource),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Runs,
    Asked(Moment, Why),
    Killed,
}

/// What somebody who only holds knows besides.
#[derive(Debug)]
struct Holder {
    /// How long those who depend on it may take to end, if nobody cuts a lease short.
    grace: Duration,
    /// Under which ttl they began to.
    ttls: BTreeMap<LeaseId, Duration>,
    /// What each lease leaves of the grace.
    fits: BTreeMap<LeaseId, Duration>,
}

/// The leases of one command and how far its end has come.
#[derive(Debug)]
pub(crate) struct Deadline {
    kept: Vec<Kept>,
    grace: Duration,
    /// Nothing is to be killed.
    holder: Option<Holder>,
    lost: Option<String>,
    stage: Stage,
    told_late: bool,
    told_end: bool,
}

impl Deadline {
    pub(crate) fn new(kept: Vec<Kept>, grace: Duration) -> Deadline {
        let (told_late, told_end) = (false, false);
        let holder = None;
        Deadline { kept, grace, holder, lost: None, stage: Stage::Runs, told_late, told_end }
    }

    /// Of somebody who only holds, and has nothing to end itself. It ends so long before the leases
    /// do, for those who count on it hear of their end by its own.
    pub(crate) fn of_holder(kept: Vec<Kept>, grace: Duration) -> Deadline {
        let holder = Holder { grace, ttls: BTreeMap::new(), fits: BTreeMap::new() };
        Deadline { holder: Some(holder), ..Deadline::new(kept, grace) }
    }

    /// What is kept free before the deadline. A renewal on time finds more than that.
    fn last(&self) -> Duration {
        let shortest = self.kept.iter().map(|kept| kept.until.ttl).min();
        match shortest {
            Some(ttl) if self.holder.is_some() => LAST.min(ttl / HOLDER_PART),
            Some(_) | None => LAST,
        }
    }

    /// The agent proved a lease anew. True when its lateness was told before, and is no more.
    pub(crate) fn prove(&mut self, now: Moment, lease: LeaseId, until: Proof) -> bool {
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.lease == lease) else {
            return false;
        };
        let (ttl, was_until) = (kept.until.ttl, kept.until.proven);
        kept.until = until;
        if let Some(holder) = &mut self.holder {
            // Somebody wants it shorter, which is no reason to give it up.
            let is_cut = until.proven < was_until;
            let left = if is_cut { now.until(until.proven) } else { until.ttl };
            let is_shorter = is_cut || until.ttl < *holder.ttls.entry(lease).or_insert(ttl);
            let fits = usual_grace(holder.grace, left.min(until.ttl));
            holder.fits.insert(lease, if is_shorter { fits } else { holder.grace });
            self.grace = holder.fits.values().copied().fold(holder.grace, Duration::min);
        }
        let is_mended = self.told_late && self.kept.iter().all(|kept| half(kept) > now);
        self.told_late &= !is_mended;
        is_mended
    }

    /// The agent said that a lease is over; the first such word counts.
    pub(crate) fn lose(&mut self, lease: LeaseId, told: String) {
        if self.kept.iter().any(|kept| kept.lease == lease) {
            self.lost.get_or_insert(told);
        }
    }

    /// The agent has given a lease back. That is a loss, but for one whose hold was to end by now.
    pub(crate) fn given_back(&mut self, now: Moment, lease: LeaseId, told: String) {
        match self.kept.iter_mut().find(|kept| kept.lease == lease) {
            // Until then it was renewed, whatever was heard of that.
            Some(kept) if kept.until.hold_end <= now + ROUNDING => {
                kept.until.proven = Moment::NEVER
            }
            Some(_) | None => self.lose(lease, told),
        }
    }

    /// When the first signal leaves, as far as is known.
    pub(crate) fn asks_at(&self) -> Moment {
        self.end().0 - (self.grace + self.last())
    }

    /// When the last signal leaves, as far as is known, to one that was not asked to end before.
    pub(crate) fn kills_at(&self) -> Moment {
        self.end().0 - self.last()
    }

    /// True while nothing has to end.
    pub(crate) fn lets_run(&self) -> bool {
        self.stage == Stage::Runs && self.lost.is_none()
    }

    /// True when something should have been heard by now that would count: a renewal, or that a
    /// hold lasts longer.
    pub(crate) fn is_late(&self, now: Moment) -> bool {
        let is_late = |kept| half(kept) <= now;
        self.lets_run() && (self.asks_at() <= now || self.kept.iter().any(is_late))
    }

    /// How long a command that was asked to end has left for that.
    pub(crate) fn grace_left(&self, now: Moment) -> Duration {
        now.until(self.next())
    }

    /// What is due, each thing once.
    pub(crate) fn due(&mut self, now: Moment) -> Due {
        let (end, why) = self.end();
        let last = end - self.last();
        match &self.stage {
            Stage::Killed => Due::Nothing,
            Stage::Asked(at, why) => {
                if now < (*at + self.grace).min(last) {
                    return Due::Nothing;
                }
                let why = why.clone();
                self.stage = Stage::Killed;
                Due::Kill(why)
            }
            Stage::Runs => {
                let why = self.lost.clone().map_or(why, Why::Lost);
                if now >= last {
                    self.stage = Stage::Killed;
                    Due::Kill(why)
                } else if self.lost.is_some() || now >= self.asks_at() {
                    self.stage = Stage::Asked(now, why.clone());
                    Due::Ask(why)
                } else {
                    self.notice(now)
                }
            }
        }
    }

    fn notice(&mut self, now: Moment) -> Due {
        let ends = self.kept.iter().min_by_key(|kept| kept.time_over());
        if let Some(kept) = ends.filter(|kept| !self.told_end && self.tells_at(kept) <= now) {
            self.told_end = true;
            return Due::EndsSoon(kept.why_over());
        }
        match self.kept.iter().find(|kept| half(kept) <= now) {
            Some(kept) if !self.told_late => {
                self.told_late = true;
                Due::Late(kept.resource.clone())
            }
            _ => Due::Nothing,
        }
    }

    fn tells_at(&self, kept: &Kept) -> Moment {
        kept.time_over() - (self.grace + self.last() + TELL_BEFORE)
    }

    /// When to ask again what is due.
    pub(crate) fn next(&self) -> Moment {
        match &self.stage {
            Stage::Killed => Moment::NEVER,
            Stage::Asked(at, _) => (*at + self.grace).min(self.kills_at()),
            Stage::Runs => {
                let ends = self.kept.iter().map(|kept| self.tells_at(kept));
                let late = self.kept.iter().map(half);
                let ends = ends.min().filter(|_| !self.told_end);
                let late = late.min().filter(|_| !self.told_late);
                ends.into_iter().chain(late).fold(self.asks_at(), Moment::min)
            }
        }
    }

    /// When the first of the leases is over, and what ends it.
    fn end(&self) -> (Moment, Why) {
        let end = |kept: &Kept| {
            let (proven, over) = (kept.until.proven, kept.time_over());
            match over <= proven {
                true => (over, kept.why_over()),
                false => (proven, Why::Unproven(kept.resource.clone())),
            }
        };
        let never = (Moment::NEVER, Why::Lost(String::new()));
        self.kept.iter().map(end).min_by_key(|(end, _)| *end).unwrap_or(never)
    }
}

/// When half of its ttl has gone by without a renewal.
fn half(kept: &Kept) -> Moment {
    kept.until.proven - kept.until.ttl / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn at(secs: u64) -> Moment {
        Moment::BOOT + Duration::from_secs(secs)
    }

    fn until(proven: u64, hold_end: Option<u64>) -> Proof {
        Proof { ttl: secs(90), proven: at(proven), hold_end: hold_end.map_or(Moment::NEVER, at) }
    }

    fn kept(proven: u64, hold_end: Option<u64>) -> Kept {
        Kept {
            lease: "1".parse().unwrap(),
            resource: Resource::new("prod/db").unwrap(),
            until: until(proven, hold_end),
            limit: Moment::NEVER,
        }
    }

    fn on() -> Resource {
        Resource::new("prod/db").unwrap()
    }

    #[test]
    fn without_a_renewal_it_is_told_then_asked_then_killed_before_the_deadline() {
        let mut deadline = Deadline::new(vec![kept(100, None)], secs(30));
        assert_eq!(deadline.next(), at(55));
        assert_eq!(deadline.due(at(54)), Due::Nothing);
        assert_eq!(deadline.due(at(55)), Due::Late(on()));
        assert_eq!(deadline.next(), at(69));
        assert_eq!(deadline.due(at(68)), Due::Nothing);
        assert_eq!(deadline.due(at(69)), Due::Ask(Why::Unproven(on())));
        assert_eq!(deadline.next(), at(99));
        assert_eq!(deadline.due(at(98)), Due::Nothing);
        assert_eq!(deadline.due(at(99)), Due::Kill(Why::Unproven(on())));
        assert_eq!(deadline.due(at(200)), Due::Nothing);
    }

    #[test]
    fn one_that_wakes_late_is_killed_at_once() {
        let mut deadline = Deadline::new(vec![kept(100, None)], secs(30));
        assert_eq!(deadline.due(at(99)), Due::Kill(Why::Unproven(on())));
        let mut deadline = Deadline::new(vec![kept(100, None)], secs(30));
        assert!(matches!(deadline.due(at(90)), Due::Ask(_)));
        assert_eq!(deadline.grace_left(at(90)), secs(9), "what is told is what there is");
        assert!(matches!(deadline.due(at(98)), Due::Nothing));
        assert!(matches!(deadline.due(at(99)), Due::Kill(_)), "never later than the deadline");
    }

    #[test]
    fn a_loss_is_acted_upon_at_once_and_gives_the_grace_that_is_left() {
        let mut deadline = Deadline::new(vec![kept(100, None)], secs(30));
        deadline.lose("1".parse().unwrap(), "taken".to_owned());
        let why = Why::Lost("taken".to_owned());
        assert_eq!(deadline.due(at(20)), Due::Ask(why.clone()));
        assert_eq!(deadline.grace_left(at(20)), secs(30));
        assert_eq!(deadline.due(at(49)), Due::Nothing);
        assert_eq!(deadline.due(at(50)), Due::Kill(why));
        let mut deadline = Deadline::new(vec![kept(100, None)], secs(30));
        deadline.lose("2".parse().unwrap(), "of somebody else".to_owned());
        assert_eq!(deadline.due(at(20)), Due::Nothing);
    }

    #[test]
    fn a_renewal_moves_everything_and_is_told_if_its_lateness_was() {
        let mut deadline = Deadline::new(vec![kept(100, None)], secs(30));
        assert!(!deadline.prove(at(43), "1".parse().unwrap(), until(110, None)));
        assert_eq!(deadline.due(at(64)), Due::Nothing);
        assert_eq!(deadline.due(at(65)), Due::Late(on()));
        assert!(deadline.prove(at(66), "1".parse().unwrap(), until(160, None)));
        assert_eq!(deadline.due(at(80)), Due::Nothing);
        assert_eq!(deadline.next(), at(115));
    }

    #[test]
    fn the_end_of_a_hold_is_told_before_and_ends_the_command_in_time() {
        let mut deadline = Deadline::new(vec![kept(1000, Some(300))], secs(30));
        assert_eq!(deadline.next(), at(209));
        assert_eq!(deadline.due(at(209)), Due::EndsSoon(Why::HoldOver(on())));
        assert_eq!(deadline.next(), at(269));
        assert_eq!(deadline.due(at(269)), Due::Ask(Why::HoldOver(on())));
        assert_eq!(deadline.due(at(299)), Due::Kill(Why::HoldOver(on())));
    }

    #[test]
    fn a_limit_of_its_own_ends_the_command_before_and_no_renewal_moves_it() {
        let limited = Kept { limit: at(150), ..kept(100, Some(1000)) };
        let mut deadline = Deadline::new(vec![limited], secs(30));
        deadline.prove(at(40), "1".parse().unwrap(), until(900, Some(1000)));
        assert_eq!(deadline.due(at(59)), Due::EndsSoon(Why::LimitOver(on())));
        assert_eq!(deadline.due(at(118)), Due::Nothing);
        assert_eq!(deadline.due(at(119)), Due::Ask(Why::LimitOver(on())));
        assert_eq!(deadline.due(at(149)), Due::Kill(Why::LimitOver(on())));
    }

    #[test]
    fn the_first_of_several_leases_decides() {
        let other = Kept { lease: "2".parse().unwrap(), ..kept(90, None) };
        let deadline = Deadline::new(vec![kept(100, None), other], secs(30));
        assert_eq!(deadline.asks_at(), at(59));
    }

    #[test]
    fn a_holder_ends_before_those_who_depend_on_it_have_to_have_ended() {
        let mut deadline = Deadline::of_holder(vec![kept(100, None)], secs(30));
        assert_eq!(deadline.due(at(55)), Due::Late(on()));
        assert_eq!(deadline.due(at(68)), Due::Nothing);
        assert_eq!(deadline.due(at(69)), Due::Ask(Why::Unproven(on())));
        // Somebody makes the ttl short: less grace is better than an end at once.
        let mut deadline = Deadline::of_holder(vec![kept(100, None)], secs(30));
        let shorter = Proof { ttl: secs(10), ..until(60, None) };
        deadline.prove(at(50), "1".parse().unwrap(), shorter);
        assert_eq!(deadline.due(at(50)), Due::Nothing);
        // It is told that it will be before it is.
        let mut deadline = Deadline::of_holder(vec![kept(100, None)], secs(30));
        deadline.prove(at(50), "1".parse().unwrap(), until(53, None));
        assert_eq!(deadline.due(at(50)), Due::Late(on()));
        assert_eq!(deadline.due(at(50)), Due::Nothing);
        deadline.prove(at(51), "1".parse().unwrap(), until(141, None));
        assert_eq!(deadline.asks_at(), at(110), "and longer again, it has its grace again");
    }

    #[test]
    fn a_short_hold_has_a_short_grace_that_leaves_the_command_half_of_it() {
        for hold in 4..300 {
            let grace = grace_of_hold(secs(hold));
            assert!(grace >= secs(1) && (grace + LAST) * 2 <= secs(hold), "{hold}: {grace:?}");
            assert!(fits_hold(grace, secs(hold)));
        }
        assert!(fits_hold(secs(30), secs(32)) && !fits_hold(secs(30), secs(31)));
    }

    #[test]
    fn a_short_lease_has_a_short_grace_that_no_renewal_on_time_comes_near() {
        assert_eq!(usual_grace(secs(30), secs(900)), secs(30));
        assert_eq!(usual_grace(secs(30), secs(60)), Duration::from_millis(17_805));
        for ttl in 5..900 {
            let grace = usual_grace(secs(30), secs(ttl));
            let left_at_renewal = secs(ttl) / 1000 * SURE_PER_MILLE - MARGIN;
            assert!(!grace.is_zero() && grace + LAST <= left_at_renewal / 2, "{ttl}: {grace:?}");
        }
    }
}
