//! One lease: what is known of it, what may be believed, what is to be done next and when.

use std::collections::VecDeque;
use std::time::Duration;

use stormlock_protocol::name::{Fence, LINGER_SECS_MAX, LeaseId, TTL_MAX_SECS, Ttl};

use super::port::{After, CallId, No, State, SyncId, Ticket, View};
use super::schedule::{self, length};
use super::{
    Attach, Claim, Ending, Hold, Intent, Loss, Moment, Nonce, ProcessId, Proof, RefusedKind,
    Remembered, SessionId, Stage, Terminal, Uid,
};

/// Most marks that one lease may have in doubt; after that many renewals of unknown outcome in a
/// row the last mark is used again.
pub(super) const MARKS_MAX: usize = 8;
/// A release that nobody acknowledged is given up this long after the store must have ended the
/// lease by itself.
const RELEASE_SLACK: Duration = Duration::from_secs(60);
/// The part of a ttl that others may count on it after its holder: one that is renewed on time has
/// more left than that at any time.
const LINGER_PART: u32 = 3;
/// And no longer, whatever the ttl: the longest time that whoever breaks it waits for it.
const LINGER_MAX: Duration = Duration::from_secs(LINGER_SECS_MAX as u64);
/// The part of a ttl by which the store's clock may be slower than ours: as in law 1.
const DRIFT_PART: u32 = 500;

/// One lease.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) claim: Claim,
    pub(super) owner: Uid,
    pub(super) hold: Hold,
    pub(super) attach: Attach,
    /// The processes that have to end, too, before the end of that one ends it.
    pub(super) sharers: Vec<ProcessId>,
    /// The greatest ttl under which a command was let go: it counts on that.
    pub(super) command_ttl: Option<Ttl>,
    pub(super) terminal: Option<Terminal>,
    pub(super) phase: Phase,
    pub(super) fence: Option<Fence>,
    /// The latest proof: when its call left, what the store said remained.
    pub(super) proven: Option<(Moment, Duration)>,
    /// When belief ends: of that proof (law 1), or where a renewal for less may make it end.
    pub(super) deadline: Moment,
    /// The renewal that is about to leave or under way: since when, for how long.
    pub(super) planned: Option<(Moment, Ttl)>,
    /// The least that a renewal of unknown outcome asked for: a copy of it may yet come late.
    pub(super) doubt: Option<Ttl>,
    /// The earliest end that such a renewal can have brought about.
    pub(super) doubt_end: Moment,
    /// Every mark that the store may have; the first is the last one acknowledged.
    pub(super) marks: Vec<Nonce>,
    /// The mark of a renewal whose outcome is unknown, and the ttl it carried.
    pub(super) pending: Option<(Nonce, Ttl)>,
    /// The ttl of renewals under the first mark: while the mark stays it never grows, so that a
    /// late copy of one cuts nothing that a later one gave.
    pub(super) carried: Ttl,
    /// An attempt of its acquire had no answer: a copy of it may come late and fit once the store
    /// has let go, for only a cancel moves the counter (law 5).
    pub(super) is_in_copies: bool,
    /// Lost, and the store has let go: what is left is the cancel.
    pub(super) is_swept: bool,
    /// What the store said is left of a remembered lease that nobody wants renewed.
    pub(super) left: Option<Duration>,
    /// Changes of its end that were asked for and not yet tried.
    pub(super) wishes: VecDeque<Wish>,
    /// The change that the renewal under way carries.
    pub(super) trying: Option<Wish>,
    /// The one call or one wait for the journal that is under way.
    pub(super) busy: Busy,
    /// When to renew, to read back, to try again.
    pub(super) renew_at: Moment,
    pub(super) verify_at: Moment,
    pub(super) retry_at: Moment,
    /// Failed tries since the last success.
    pub(super) tries: u32,
    /// When its last call left.
    pub(super) called_at: Moment,
    /// The store may have become another one since the last proof.
    pub(super) suspect: bool,
    /// Only a call that left since then says that all is well.
    pub(super) doubted_at: Moment,
    /// Something may stand in its place since it was broken, to be given back then at the latest.
    pub(super) instead: bool,
    pub(super) frees_at: Moment,
    /// It stands in the place of a broken lease, if it does: then it is let go when it is over.
    pub(super) waits_out: bool,
    /// Its holder knows that it is broken, and a command has not ended yet that relies on it.
    pub(super) is_known_broken: bool,
    /// It was given back while it was believed, and the store has not said yet whether it was
    /// there: if it was not, it was lost.
    pub(super) may_be_lost: bool,
    /// Nobody is left who could acknowledge it.
    pub(super) is_orphan: bool,
    /// Until when the store may keep the lease if calls of unknown outcome came through.
    pub(super) kept_until: Moment,
    /// Recovered and attached: given back then unless its holder comes back.
    pub(super) orphan_at: Moment,
    /// When its end is near enough to be told.
    pub(super) warn_at: Moment,
    /// What subscribers were told last.
    pub(super) told: Option<Told>,
    /// The wakeup that stands in the table's order for it.
    pub(super) wakeup: Moment,
}

/// How far a lease has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// Being acquired.
    Asking(Asking),
    /// Granted; believed until its deadline.
    Held,
    /// Remembered, not proven (law 12).
    Unproven,
    /// Being ended; those who wait for it.
    Ending(Ending, Vec<Ticket>),
    /// Lost and not acknowledged; true while the store may still have it.
    Lost(Loss, bool),
}

/// An acquire under way.
#[derive(Debug)]
pub(super) struct Asking {
    /// The group it belongs to, by its question.
    pub(super) group: Ticket,
    /// Answers that meant "ask again".
    pub(super) moved: u32,
    /// An attempt may have come through (law 3).
    pub(super) uncertain: bool,
    /// Its turn in the group has come.
    pub(super) turn: bool,
    /// Granted, and waiting for the others of the group.
    pub(super) granted: bool,
}

/// What one lease waits for; never two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    /// Nothing.
    No,
    /// A call that left then.
    Call { id: CallId, sent: Moment, purpose: Purpose },
    /// The journal.
    Sync(SyncId),
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To acquire.
    Ask,
    /// To renew, under this mark.
    Renew(Nonce),
    /// To read back.
    Read,
    /// To release or cancel.
    End,
    /// To see what stands there, before the end or instead of it.
    Look,
}

/// What is worth telling of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) state: State,
    /// The end of belief.
    pub(super) end: Moment,
    pub(super) waiters: u32,
    pub(super) ends_soon: bool,
}

/// A change of a lease's end that somebody waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) ticket: Ticket,
    pub(super) ttl: Option<Ttl>,
    pub(super) hold: Option<Hold>,
}

/// The longest that any renewal can have asked for.
const TTL_MAX: Duration = Duration::from_secs(TTL_MAX_SECS as u64);

impl Entry {
    pub(super) fn asked(intent: Intent, group: Ticket) -> Entry {
        let marks = vec![intent.claim.nonce];
        let (moved, uncertain, turn, granted) = (0, false, false, false);
        let phase = Phase::Asking(Asking { group, moved, uncertain, turn, granted });
        Entry::new(intent, phase, marks)
    }

    /// Law 12: nothing that a journal says is held.
    pub(super) fn remembered(known: Remembered, now: Moment, orphan_at: Moment) -> Entry {
        let attached = known.intent.attach != Attach::Detached;
        let phase = match known.stage {
            Stage::Asked => Phase::Ending(Ending::Cancel, Vec::new()),
            Stage::Held if attached && known.earlier_boot => {
                Phase::Ending(Ending::Release, Vec::new())
            }
            Stage::Held => Phase::Unproven,
            // Nobody of that boot counts on it any more.
            Stage::Ending(Ending::Linger) if known.earlier_boot => {
                Phase::Ending(Ending::Release, Vec::new())
            }
            // Without a proof nobody knows how long the store keeps it: not a thing to give up.
            Stage::Ending(_) if known.proven.is_none() => Phase::Ending(Ending::Cancel, Vec::new()),
            Stage::Ending(how) => Phase::Ending(how, Vec::new()),
            Stage::Lost(loss) => {
                let sweeps = loss == Loss::Expired;
                Phase::Lost(loss, sweeps)
            }
        };
        let in_doubt = known.nonces.len() > 1;
        let mut entry = Entry::new(known.intent, phase, known.nonces);
        entry.fence = known.fence;
        entry.is_in_copies = true;
        entry.sharers = known.sharers;
        entry.command_ttl = known.command_ttl;
        if matches!(entry.phase, Phase::Lost(Loss::BrokenBy { .. }, _)) {
            // Whether it made room the agent before us did not write down.
            entry.makes_room_later(now);
        }
        if let Some((sent, remaining)) = known.proven {
            entry.proven = known.proven;
            entry.deadline = schedule::deadline(sent, remaining);
            // The last renewals of the agent before us may be missing in the journal; of those in
            // doubt it does not say how long they asked for.
            let longest = if in_doubt { TTL_MAX } else { length(entry.claim.ttl) };
            entry.kept_until = now.max(sent + remaining) + longest;
        }
        if matches!(entry.attach, Attach::Session(_)) {
            entry.attach = Attach::Session(SessionId::NOBODY);
            entry.orphan_at = orphan_at;
        }
        entry
    }

    fn new(intent: Intent, phase: Phase, marks: Vec<Nonce>) -> Entry {
        Entry {
            carried: intent.claim.ttl,
            command_ttl: intent.attach.is_command().then_some(intent.claim.ttl),
            claim: intent.claim,
            owner: intent.owner,
            hold: intent.hold,
            attach: intent.attach,
            sharers: Vec::new(),
            terminal: intent.terminal,
            phase,
            fence: None,
            proven: None,
            deadline: Moment::BOOT,
            is_in_copies: false,
            is_swept: false,
            left: None,
            planned: None,
            doubt: None,
            doubt_end: Moment::NEVER,
            marks,
            pending: None,
            wishes: VecDeque::new(),
            trying: None,
            busy: Busy::No,
            renew_at: Moment::NEVER,
            verify_at: Moment::NEVER,
            retry_at: Moment::BOOT,
            tries: 0,
            called_at: Moment::BOOT,
            suspect: false,
            doubted_at: Moment::BOOT,
            instead: false,
            frees_at: Moment::NEVER,
            waits_out: false,
            is_known_broken: false,
            may_be_lost: false,
            is_orphan: false,
            kept_until: Moment::BOOT,
            orphan_at: Moment::NEVER,
            warn_at: Moment::NEVER,
            told: None,
            wakeup: Moment::NEVER,
        }
    }

    /// A command was let go under it, or one has ended.
    pub(super) fn commands_changed(&mut self, began: bool) {
        let (before, began) = (self.command_ttl, began.then_some(self.claim.ttl));
        self.command_ttl = self.attach.command_ttl(&self.sharers, before, began);
    }

    pub(super) fn lease(&self) -> LeaseId {
        self.claim.lease
    }

    /// The end of belief: of the proof, or of the hold, whichever is first.
    pub(super) fn end(&self) -> Moment {
        self.deadline.min(self.hold_end())
    }

    /// The end that is told: of what lingers, when others can have it.
    pub(super) fn told_end(&self) -> Moment {
        if self.lingers() { self.retry_at } else { self.end() }
    }

    /// When its hold gives it back. Not under a command that was started under it: that is ended
    /// before, and if nobody did so (its wrapper stands still, or was killed), the end of its group
    /// gives back what another would have under it else.
    pub(super) fn hold_end(&self) -> Moment {
        let goes_on = self.attach.is_command() || self.sharers.iter().any(|process| process.group);
        match self.hold {
            Hold::Until(end) if !goes_on => end,
            Hold::Until(_) | Hold::No | Hold::Keep => Moment::NEVER,
        }
    }

    /// What may be believed now (law 6: now is compared each time).
    pub(super) fn state(&self, now: Moment, journal_works: bool, checks: bool) -> State {
        match &self.phase {
            Phase::Asking(_) => State::Asking,
            Phase::Held if !checks => State::Held,
            Phase::Held if now >= self.deadline => State::Lost(Loss::Expired),
            Phase::Held if now >= self.end() => State::Released,
            Phase::Held if self.is_at_risk(now, journal_works) => State::AtRisk,
            Phase::Held => State::Held,
            Phase::Unproven => State::Unknown,
            Phase::Ending(Ending::Linger, _) => State::Lingering,
            Phase::Ending(..) if self.is_undecided() => State::Releasing,
            Phase::Ending(..) => State::Released,
            Phase::Lost(loss, _) => State::Lost(loss.clone()),
        }
    }

    pub(super) fn view(
        &self,
        now: Moment,
        journal_works: bool,
        checks: bool,
        waiters: u32,
    ) -> View {
        let state = self.state(now, journal_works, checks);
        let is_held = matches!(state, State::Held | State::AtRisk);
        View {
            ends_soon: is_held && now >= self.warn_at,
            state,
            waiters,
            claim: self.claim.clone(),
            owner: self.owner,
            fence: self.fence,
            deadline: self.told_end(),
            hold: self.hold,
            attach: self.attach,
            sharers: self.sharers.clone(),
            command_ttl: self.command_ttl,
            terminal: self.terminal,
        }
    }

    /// True while the store is still to be told that nobody has it any more.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Ending(..) | Phase::Lost(_, true))
    }

    /// True while nobody holds it any more, and it is not known whether it was lost before.
    pub(super) fn is_undecided(&self) -> bool {
        self.may_be_lost && matches!(self.phase, Phase::Ending(Ending::Release, _))
    }

    /// True while others count on it whose holder has ended.
    pub(super) fn lingers(&self) -> bool {
        matches!(self.phase, Phase::Ending(Ending::Linger, _))
    }

    /// What to say to whoever would have its end moved, when it is no lease any more.
    pub(super) fn is_over(&self) -> No {
        if self.lingers() { No::Lingers(self.claim.resource.clone()) } else { No::NotHeld }
    }

    /// How long others count on it after the end of its holder.
    pub(super) fn lingers_for(&self) -> Duration {
        self.attach.grace().min(length(self.claim.ttl) / LINGER_PART).min(LINGER_MAX)
    }

    /// True while this agent may still be about to free the resource in the store.
    pub(super) fn is_clearing(&self) -> bool {
        // That in the place of a broken one may yet stand for long, and what lingers, too.
        let stays = self.claim.over.is_some() || self.lingers();
        self.is_leaving() && self.tries == 0 && !stays
    }

    pub(super) fn proof(&self) -> Proof {
        Proof {
            resource: self.claim.resource.clone(),
            lease: self.claim.lease,
            nonces: self.marks.clone(),
        }
    }

    /// When the half of the ttl that is worth a warning begins.
    fn half(&self) -> Moment {
        self.deadline - length(self.claim.ttl) / 2
    }

    fn is_at_risk(&self, now: Moment, journal_works: bool) -> bool {
        // Nobody asked for a lease without a hold to be renewed: that it runs down is no news.
        let renewed = self.hold != Hold::No;
        self.suspect || !journal_works || renewed && (self.tries > 0 || now >= self.half())
    }

    /// Its end is another one since now: when to say that it comes near.
    pub(super) fn warn_later(&mut self, now: Moment) {
        let end = match self.hold {
            Hold::Keep => return self.warn_at = Moment::NEVER,
            Hold::Until(end) => end,
            Hold::No => self.deadline,
        };
        self.warn_at = end - schedule::warning(now.until(end));
    }

    /// Schedules the next renewal after a grant or a renewal that left at `sent`.
    pub(super) fn renew_next(&mut self, sent: Moment, roll: u64) {
        // A store may give less than was asked for (etcd keeps the ttl of the grant).
        let given = self.proven.map_or(Duration::MAX, |(_, remaining)| remaining);
        self.renew_at = match self.hold {
            Hold::No => Moment::NEVER,
            _ => schedule::renewal(sent, length(self.claim.ttl).min(given), roll),
        };
    }

    /// Brings the next renewal forward where a read-back says that the store keeps the lease for
    /// less than we thought: another writer touched it.
    pub(super) fn renew_no_later(&mut self, sent: Moment, remaining: Duration, roll: u64) {
        self.renew_at = match self.hold {
            Hold::No => Moment::NEVER,
            _ => self.renew_at.min(schedule::renewal(sent, remaining, roll)),
        };
    }

    /// What to say when the store did not do something for this lease.
    pub(super) fn store_no(&self, kind: Option<RefusedKind>, after: After) -> No {
        let Claim { backend, resource, .. } = self.claim.clone();
        No::Store { backend, resource, kind, after }
    }

    /// When a release that nobody acknowledges is given up: long after the store's own end.
    pub(super) fn release_until(&self) -> Moment {
        self.kept_until + RELEASE_SLACK + length(self.claim.ttl) / DRIFT_PART
    }

    /// When something is to be done though nothing comes in.
    pub(super) fn next_wakeup(&self, now: Moment) -> Moment {
        let idle = |at: Moment| if self.busy == Busy::No { at } else { Moment::NEVER };
        let wish = if self.wishes.is_empty() { Moment::NEVER } else { Moment::BOOT };
        match &self.phase {
            Phase::Asking(asking) if asking.turn && !asking.granted => idle(self.retry_at),
            Phase::Asking(_) => Moment::NEVER,
            Phase::Held => {
                let half = if self.hold == Hold::No || self.half() <= now {
                    Moment::NEVER
                } else {
                    self.half()
                };
                let warning = if self.warn_at <= now { Moment::NEVER } else { self.warn_at };
                let work = self.renew_at.min(self.verify_at).min(wish);
                self.end().min(self.orphan_at).min(half).min(warning).min(idle(work))
            }
            Phase::Unproven => self.end().min(self.orphan_at).min(idle(self.retry_at)),
            Phase::Ending(Ending::Linger, _) => idle(self.retry_at.min(self.verify_at)),
            Phase::Ending(..) => idle(self.retry_at),
            Phase::Lost(_, true) => idle(self.retry_at).min(self.frees_at),
            Phase::Lost(_, false) => self.frees_at,
        }
    }
}
