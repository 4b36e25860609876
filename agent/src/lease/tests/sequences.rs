//! Random sequences of inputs, sensible or not: after each the table's own check must hold, every
//! question must be answered once, and what is over stays over.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use stormlock_protocol::name::{Fence, Principal};

use super::*;

/// One step of a sequence. Numbers pick among what there is at that time.
#[derive(Debug, Clone)]
enum Step {
    Pass(u32),
    Acquire {
        resources: Vec<u8>,
        ttl: u8,
        hold: u8,
        attached: bool,
    },
    Release(u8),
    Renew {
        which: u8,
        ttl: Option<u8>,
        hold: Option<u8>,
    },
    Gone(u8),
    Settle {
        which: u8,
        how: u8,
        secs: u8,
    },
    /// An answer to a question that was never asked.
    Stray(u8),
    Synced {
        which: u8,
        durable: bool,
    },
    Journal(bool),
    Suspect,
    Jump,
    Restart,
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    let small = any::<u8>;
    prop_oneof![
        4 => (0u32..30_000).prop_map(Step::Pass),
        4 => (prop::collection::vec(0u8..3, 1..4), 1u8..90, 0u8..3, any::<bool>()).prop_map(
            |(resources, ttl, hold, attached)| Step::Acquire { resources, ttl, hold, attached }
        ),
        2 => small().prop_map(Step::Release),
        2 => (small(), prop::option::of(1u8..90), prop::option::of(0u8..3))
            .prop_map(|(which, ttl, hold)| Step::Renew { which, ttl, hold }),
        1 => small().prop_map(Step::Gone),
        8 => (small(), small(), 0u8..90)
            .prop_map(|(which, how, secs)| Step::Settle { which, how, secs }),
        1 => small().prop_map(Step::Stray),
        8 => (small(), prop::bool::weighted(0.9))
            .prop_map(|(which, durable)| Step::Synced { which, durable }),
        1 => prop::bool::weighted(0.8).prop_map(Step::Journal),
        1 => Just(Step::Suspect),
        1 => Just(Step::Jump),
        1 => Just(Step::Restart),
        1 => Just(Step::Stop),
    ]
}

/// A table with everything that it waits for.
struct Run {
    table: LeaseTable,
    now: Moment,
    next: u64,
    journal: Vec<Record>,
    calls: Vec<CallId>,
    syncs: Vec<SyncId>,
    leases: Vec<LeaseId>,
    /// Questions, and how often each was answered.
    answers: BTreeMap<Ticket, u32>,
    lost: BTreeMap<LeaseId, u32>,
}

impl Run {
    fn new() -> Run {
        Run {
            table: table(None, 1),
            now: Moment::from_nanos(1_000_000_000_000),
            next: 0,
            journal: Vec::new(),
            calls: Vec::new(),
            syncs: Vec::new(),
            leases: Vec::new(),
            answers: BTreeMap::new(),
            lost: BTreeMap::new(),
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn question(&mut self) -> Ticket {
        let ticket = Ticket(self.fresh());
        self.answers.insert(ticket, 0);
        ticket
    }

    fn input(&mut self, input: Input) {
        self.table.handle(self.now, input);
        while let Some(effect) = self.table.next_effect() {
            match effect {
                Effect::Record(record) => self.journal.push(record),
                Effect::Sync(sync) => self.syncs.push(sync),
                Effect::Call { id, .. } => self.calls.push(id),
                Effect::Answer { ticket, .. } => {
                    let times = self.answers.get_mut(&ticket).expect("it was asked");
                    *times += 1;
                    assert_eq!(*times, 1, "{ticket:?} was answered twice");
                }
                Effect::Changed(view) => self.changed(&view),
            }
        }
    }

    fn changed(&mut self, view: &View) {
        let times = self.lost.entry(view.claim.lease).or_default();
        match view.state {
            State::Lost(_) => {
                *times += 1;
                assert_eq!(*times, 1, "lost twice: {view:?}");
            }
            State::Held | State::AtRisk => assert_eq!(*times, 0, "it came back: {view:?}"),
            State::Asking | State::Unknown | State::Released => {}
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Pass(millis) => {
                self.now = self.now + Duration::from_millis(u64::from(millis));
                self.input(Input::Tick);
            }
            Step::Acquire { mut resources, ttl, hold, attached } => {
                resources.sort_unstable();
                resources.dedup();
                self.acquire(&resources, ttl, hold, attached);
            }
            Step::Release(which) => {
                let ticket = self.question();
                let lease = self.lease(which);
                self.input(Input::Release { ticket, lease });
            }
            Step::Renew { which, ttl, hold } => {
                let ticket = self.question();
                let lease = self.lease(which);
                let ttl = ttl.map(|secs| super::ttl(u64::from(secs)));
                let hold = hold.map(|kind| self.hold(kind));
                self.input(Input::Renew { ticket, lease, ttl, hold });
            }
            Step::Gone(session) => self.input(Input::Gone(SessionId(u64::from(session % 4)))),
            Step::Settle { which, how, secs } => {
                if let Some(call) = take(&mut self.calls, which) {
                    self.input(Input::Settled { call, result: self.result(how, secs) });
                }
            }
            Step::Stray(how) => {
                let (call, sync) = (CallId(u64::MAX), SyncId(u64::MAX));
                self.input(Input::Settled { call, result: self.result(how, 9) });
                self.input(Input::Synced { sync, durable: true });
            }
            Step::Synced { which, durable } => {
                if let Some(sync) = take(&mut self.syncs, which) {
                    self.input(Input::Synced { sync, durable });
                }
            }
            Step::Journal(works) => self.input(Input::Journal { works }),
            Step::Suspect => self.input(Input::Suspect(backend())),
            Step::Jump => self.input(Input::ClockJumped),
            Step::Stop => self.input(Input::Stop),
            Step::Restart => self.restart(),
        }
    }

    fn acquire(&mut self, resources: &[u8], ttl: u8, hold: u8, attached: bool) {
        let ticket = self.question();
        let session = SessionId(u64::from(ttl % 4));
        let attach = if attached { Attach::Session(session) } else { Attach::Detached };
        let hold = self.hold(hold);
        let mut claims = Vec::new();
        for number in resources {
            let claim = claim(self.fresh(), &format!("res{number}"), u64::from(ttl));
            self.leases.push(claim.lease);
            claims.push(claim);
        }
        let (owner, leases_max) = (Uid(1000), 16);
        let ask = Ask { ticket, session, claims, owner, hold, attach, leases_max };
        self.input(Input::Acquire(Box::new(ask)));
    }

    /// A crash with everything written: the questions of before find no answer any more.
    fn restart(&mut self) {
        let mut memory = Memory::default();
        for record in &self.journal {
            memory.apply(record.clone());
        }
        let mut again = Memory::default();
        for record in memory.records() {
            again.apply(record);
        }
        assert_eq!(again, memory, "compacting changes nothing");
        self.journal = memory.records();
        self.calls.clear();
        self.syncs.clear();
        self.answers.clear();
        // A start tells of a loss that nobody acknowledged once more, to new subscribers.
        self.lost.retain(|lease, times| *times > 0 && !memory.leases.contains_key(lease));
        self.table = table(None, self.next);
        self.input(Input::Recover(Box::new(memory)));
    }

    fn hold(&self, kind: u8) -> Hold {
        match kind {
            0 => Hold::No,
            1 => Hold::Keep,
            _ => Hold::Until(self.now + Duration::from_secs(30)),
        }
    }

    fn lease(&mut self, which: u8) -> LeaseId {
        let count = self.leases.len().max(1);
        let known = self.leases.get(usize::from(which) % count).copied();
        known.unwrap_or_else(|| claim(u64::MAX, "res0", 1).lease)
    }

    /// Any answer, fitting or not.
    fn result(&self, how: u8, secs: u8) -> CallResult {
        let remaining = Duration::from_secs(u64::from(secs));
        let holder = || {
            Box::new(Holder {
                resource: resource("res0"),
                lease: claim(u64::MAX, "res0", 1).lease,
                principal: Principal::foreign("somebody"),
                host: None,
                reason: None,
                fence: None,
                since: UnixMs(0),
                remaining: Some(remaining),
            })
        };
        match how % 11 {
            0..=2 => {
                let fence = Fence(self.next + u64::from(secs));
                CallResult::Attempted(Attempt::Granted(Grant { fence, remaining }))
            }
            3 => CallResult::Attempted(Attempt::Held(Some(holder()))),
            4 => CallResult::Attempted(Attempt::Moved),
            5 | 6 => CallResult::Stands(Standing::Ours { remaining }),
            7 => CallResult::Stands(Standing::NotOurs(Some(holder()))),
            8 => CallResult::Done,
            9 => CallResult::Refused(RefusedKind::NotWritable),
            _ => CallResult::Unknown,
        }
    }

    /// Lets everything come to its end: then no question is without an answer.
    fn settle_all(&mut self) {
        self.input(Input::Journal { works: true });
        for _ in 0..2000 {
            let quiet = self.syncs.is_empty() && self.calls.is_empty();
            for sync in std::mem::take(&mut self.syncs) {
                self.input(Input::Synced { sync, durable: true });
            }
            for call in std::mem::take(&mut self.calls) {
                self.input(Input::Settled { call, result: CallResult::Refused(UNREACHABLE) });
            }
            if quiet && self.answers.values().all(|times| *times == 1) {
                return;
            }
            let Some(at) = self.table.next_wakeup() else { break };
            self.now = self.now.max(at);
            self.input(Input::Tick);
        }
        let open: Vec<_> = self.answers.iter().filter(|(_, times)| **times == 0).collect();
        assert!(open.is_empty(), "never answered: {open:?} {:?}", self.table);
    }
}

const UNREACHABLE: RefusedKind = RefusedKind::Unreachable;

fn take<T>(from: &mut Vec<T>, which: u8) -> Option<T> {
    let count = from.len();
    (count > 0).then(|| from.remove(usize::from(which) % count))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_inputs_keeps_the_table_sound(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        run.settle_all();
    }
}
