//! One table played by hand: what goes in, at what time, and everything that came out.

use std::time::Duration;

use stormlock_protocol::name::Fence;

use super::*;

pub(super) const T0: Moment = Moment::from_nanos(1_000_000_000_000);

/// A table, its clock, and what it has said so far.
pub(super) struct Play {
    pub(super) table: LeaseTable,
    pub(super) now: Moment,
    pub(super) records: Vec<Record>,
    pub(super) syncs: Vec<SyncId>,
    pub(super) writes: Vec<SyncId>,
    pub(super) calls: Vec<(CallId, Call)>,
    pub(super) answers: Vec<Answer>,
    pub(super) changes: Vec<View>,
    /// Tickets that were told to wait, with their place and of how many.
    pub(super) waits: Vec<(u64, u32, u32)>,
    pub(super) guarded: Vec<ProcessId>,
    pub(super) watched: Vec<Resource>,
    pub(super) touches: Vec<Touch>,
}

impl Play {
    pub(super) fn new() -> Play {
        let table = table(None, 7);
        let (records, syncs, writes) = (Vec::new(), Vec::new(), Vec::new());
        let (calls, answers, changes) = (Vec::new(), Vec::new(), Vec::new());
        let (waits, guarded, watched) = (Vec::new(), Vec::new(), Vec::new());
        Play {
            table,
            now: T0,
            records,
            syncs,
            writes,
            calls,
            answers,
            changes,
            waits,
            guarded,
            watched,
            touches: Vec::new(),
        }
    }

    /// A play in which lease 1 on `infra` is held: its call left at [`T0`], with fence 10.
    pub(super) fn holding(hold: Hold) -> Play {
        let mut play = Play::new();
        play.input(ask(1, 1, vec![claim(1, "infra", 60)], hold));
        play.synced(true);
        play.settle(granted(10, 60));
        play.synced(true);
        assert!(matches!(play.answers.pop(), Some(Answer::Acquired(_))));
        play.changes.clear();
        play
    }

    /// A lease whose holder was killed ten seconds after the grant: others have fifteen more.
    pub(super) fn killed_holder() -> Play {
        let holder = ProcessId { pid: 7, started: 1, group: false };
        let mut play = Play::holding(Hold::Keep);
        let attach = Attach::Holder(holder, 15);
        play.input(Input::Attach { ticket: Ticket(2), lease: lease(1), attach });
        play.synced(true);
        play.at(secs(10));
        play.input(Input::Ended(holder));
        play
    }

    /// Takes an input; what waits for the kernel's hands only is there at once.
    pub(super) fn input(&mut self, input: Input) {
        self.hand_in(input);
        while let Some(sync) = self.writes.pop() {
            self.hand_in(Input::Synced { sync, durable: true });
        }
    }

    /// Takes an input, and leaves what waits for the kernel's hands to the test.
    pub(super) fn hand_in(&mut self, input: Input) {
        self.table.handle(self.now, input);
        while let Some(effect) = self.table.next_effect() {
            match effect {
                Effect::Record(record) => self.records.push(record),
                Effect::Sync(sync) => self.syncs.push(sync),
                Effect::Write(sync) => self.writes.push(sync),
                Effect::Call { id, call, .. } => self.calls.push((id, call)),
                Effect::Answer { answer, .. } => self.answers.push(answer),
                Effect::Changed(view) => self.changes.push(*view),
                Effect::Guard(process) => self.guarded.push(process),
                Effect::Watch { resource, .. } => self.watched.push(resource),
                Effect::Unwatch { resource, .. } => self.watched.retain(|on| *on != resource),
                Effect::Waiting { ticket, place, of, .. } => {
                    self.waits.push((ticket.0, place, of));
                }
                Effect::Touched(_, touch) => self.touches.push(touch),
            }
        }
    }

    pub(super) fn at(&mut self, after: Duration) {
        self.now = T0 + after;
        self.input(Input::Tick);
    }

    pub(super) fn synced(&mut self, durable: bool) {
        for sync in std::mem::take(&mut self.syncs) {
            self.input(Input::Synced { sync, durable });
        }
    }

    /// Ends the oldest call under way.
    pub(super) fn settle(&mut self, result: CallResult) {
        let (call, _) = self.calls.remove(0);
        self.input(Input::Settled { call, result });
    }

    /// Waits for the table's own next step, if it has not taken one at once.
    pub(super) fn go_on(&mut self) {
        if self.calls.is_empty() {
            self.now = self.table.next_wakeup().expect("it never gives up");
            self.input(Input::Tick);
        }
    }

    pub(super) fn call(&self) -> &Call {
        &self.calls.first().expect("a call is under way").1
    }

    pub(super) fn view(&self) -> View {
        self.table.view(self.now, lease(1)).expect("lease 1 is known")
    }

    /// What a start after a crash would read, with everything written.
    pub(super) fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for record in self.records.iter().cloned() {
            memory.apply(record);
        }
        memory
    }
}

pub(super) fn lease(number: u64) -> LeaseId {
    claim(number, "infra", 60).lease
}

pub(super) fn granted(fence: u64, secs: u64) -> CallResult {
    let remaining = Duration::from_secs(secs);
    CallResult::Attempted(Attempt::Granted(Grant { fence: Fence(fence), remaining }))
}

pub(super) fn ours(secs: u64) -> CallResult {
    CallResult::Stands(Standing::Ours { remaining: Duration::from_secs(secs) })
}

pub(super) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
