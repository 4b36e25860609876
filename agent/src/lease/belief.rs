//! Until when a lease is believed: what its latest proof says, less what a renewal that asked for
//! less may have brought about. Not here: what is done about it.

use std::time::Duration;

use stormlock_protocol::name::Ttl;

use super::Moment;
use super::entry::{Entry, Phase};
use super::port::Touch;
use super::schedule::{self, length};

/// An end that a read-back finds this far from where the last proof put it was moved by somebody:
/// stores round to seconds, and one whose clock is read from a Date knows it to three of them.
const MOVED_MIN: Duration = Duration::from_secs(5);

impl Entry {
    /// What a renewal for `ttl` that leaves now, or later, may cut the latest proof to.
    pub(super) fn ceiling(&self, now: Moment, ttl: Ttl) -> Option<(Moment, Duration)> {
        let (sent, remaining) = self.proven?;
        (now + length(ttl) < sent + remaining).then_some((now, length(ttl)))
    }

    /// Takes a new proof by a write: belief counts from the moment its call left (law 1), and no
    /// copy of a call before it fits any more.
    pub(super) fn prove(&mut self, sent: Moment, remaining: Duration) {
        (self.planned, self.doubt, self.doubt_end) = (None, None, Moment::NEVER);
        self.tries = 0;
        self.take(sent, remaining);
    }

    /// Takes a new proof by a read: a renewal of unknown outcome may come through after it, and
    /// reading says nothing about whether renewals do.
    pub(super) fn read_back(&mut self, sent: Moment, remaining: Duration) {
        self.doubt_end =
            self.doubt.map_or(Moment::NEVER, |ttl| schedule::deadline(sent, length(ttl)));
        self.take(sent, remaining);
    }

    /// What a read-back that left at `sent` says that another writer did to this lease; `None` also
    /// where a renewal of ours that had no answer may have done it.
    pub(super) fn touch(&self, sent: Moment, remaining: Duration) -> Option<Touch> {
        let (proven_at, left) = self.proven.filter(|_| matches!(self.phase, Phase::Held))?;
        let (expected, found) = (proven_at + left, sent + remaining);
        if self.doubt.is_some() {
            return None;
        }
        if found + MOVED_MIN < expected {
            return Some(Touch::Cut);
        }
        (expected + MOVED_MIN < found).then_some(Touch::Lengthened)
    }

    fn take(&mut self, sent: Moment, remaining: Duration) {
        self.proven = Some((sent, remaining));
        if sent >= self.doubted_at {
            self.verify_at = sent + schedule::VERIFY_EVERY;
            self.suspect = false;
        }
        self.set_deadline();
    }

    /// Something happened after which the store has to be asked again, at once.
    pub(super) fn is_doubted(&mut self, now: Moment) {
        self.verify_at = now;
        self.doubted_at = now;
    }

    /// The store is back, or is another one: it has to be asked again, at that moment, or told what
    /// it missed: whoever wants the resource next need not wait for a pause that has grown
    /// meanwhile. True if that is sooner than it would have been.
    pub(super) fn met_a_stranger(&mut self, now: Moment, at: Moment) -> bool {
        self.suspect = true;
        self.doubted_at = now;
        if self.lingers() {
            // What the store needs to be told is not to be told sooner.
            return false;
        }
        let due = if self.is_leaving() { &mut self.retry_at } else { &mut self.verify_at };
        let is_sooner = at < *due;
        *due = at.min(*due);
        is_sooner
    }

    /// A renewal for `ttl` is about to leave: whoever counts on a later end than it may bring
    /// hears so before.
    pub(super) fn plan(&mut self, now: Moment, ttl: Ttl) {
        self.planned = Some((now, ttl));
        self.set_deadline();
    }

    /// The planned renewal certainly did not happen and never will.
    pub(super) fn never_left(&mut self) {
        self.planned = None;
        self.set_deadline();
    }

    /// The planned renewal may have happened, or may yet happen (law 3).
    pub(super) fn may_have_come_through(&mut self) {
        if let Some((sent, ttl)) = self.planned.take() {
            self.doubt = Some(self.doubt.map_or(ttl, |least| least.min(ttl)));
            self.doubt_end = self.doubt_end.min(schedule::deadline(sent, length(ttl)));
        }
        self.set_deadline();
    }

    fn set_deadline(&mut self) {
        let end = |(sent, length)| schedule::deadline(sent, length);
        let planned = self.planned.map(|(sent, ttl)| (sent, length(ttl)));
        // Never for longer than the ttl that the journal has: the next start renews for no more.
        let ttl = length(self.claim.ttl);
        let proven = self.proven.map(|(sent, remaining)| (sent, remaining.min(ttl)));
        self.deadline = proven.map_or(Moment::BOOT, end);
        self.deadline = self.deadline.min(self.doubt_end).min(planned.map_or(Moment::NEVER, end));
    }
}
