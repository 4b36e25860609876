//! What must hold whatever happens to the file, the disk and the process.

mod crash;
mod damage;
mod disk;
mod lines;
mod open;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;
use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, Ttl, UnixMs};

use super::body::Line;
use super::*;
use crate::lease::{
    Attach, BackendName, Claim, Ending, Hold, Intent, Loss, Moment, Nonce, ProcessId, SessionId,
    Stage, Terminal, Uid,
};

/// Longer than any disk takes; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
const PROCESS: ProcessId = ProcessId { pid: 4711, started: 123_456_789, group: true };
/// Names that somebody will use one day.
const ODD: [&str; 6] = [
    "maria@bastion2",
    "\"quoted\\ {\"gone\":{\"lease\":\"1\"}}",
    "Žofie Дмитрий 明 🦀",
    "'; drop table leases; --",
    "$(reboot) `x` %s {} \u{fffd}",
    "{",
];

fn place() -> Place {
    Place {
        machine: Some("5a1cf0b2c4d84e0ba0e7d3f1a2b3c4d5".to_owned()),
        boot: [7; 16],
        wall_at_boot: UnixMs(1_700_000_000_000),
    }
}

fn lease(number: u64) -> LeaseId {
    let mut id = [0xee; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    LeaseId::from_bytes(id)
}

fn at(secs: u64) -> Moment {
    Moment::BOOT + Duration::from_secs(secs)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn ttl(secs: u64) -> Ttl {
    Ttl::from_secs(secs).expect("a ttl of a test")
}

fn intent(number: u64, hold: Hold, attach: Attach) -> Record {
    let odd = ODD[usize::try_from(number).expect("small") % ODD.len()];
    let claim = Claim {
        resource: Resource::new(format!("prod/db-{number}")).expect("a name of a test"),
        lease: lease(number),
        backend: BackendName::new("main"),
        principal: Principal::new(odd).expect("a name of a test"),
        host: "bastion2".to_owned(),
        reason: number.is_multiple_of(2).then(|| Reason::new(odd).expect("a name of a test")),
        ttl: ttl(900),
        created: UnixMs(1_700_000_123_456),
        nonce: Nonce(number << 32),
        over: None,
    };
    let owner = Uid(1000 + u32::try_from(number).expect("small"));
    let terminal =
        number.is_multiple_of(3).then_some(Terminal { device: 0x8800, session: PROCESS });
    Record::Intent(Box::new(Intent { claim, owner, hold, attach, terminal }))
}

fn granted(number: u64, fence: u64, sent: u64) -> Record {
    let (fence, sent) = (Fence(fence), at(sent));
    Record::Granted { lease: lease(number), fence, sent, remaining: secs(900) }
}

fn marking(number: u64, mark: u64) -> Record {
    Record::Marking { lease: lease(number), next: Nonce(mark), ceiling: None }
}

fn renewed(number: u64, mark: u64, sent: u64) -> Record {
    Record::Renewed {
        lease: lease(number),
        nonce: Some(Nonce(mark)),
        ttl: ttl(600),
        hold: Hold::Keep,
        sent: at(sent),
        remaining: secs(600),
    }
}

fn ending(number: u64, how: Ending) -> Record {
    Record::Ending { lease: lease(number), how }
}

fn lost(number: u64, loss: Loss) -> Record {
    Record::Lost { lease: lease(number), loss }
}

fn shared(number: u64, started: u64) -> Record {
    Record::Shared { lease: lease(number), process: ProcessId { started, ..PROCESS } }
}

fn left(number: u64, started: u64) -> Record {
    Record::Left { lease: lease(number), process: ProcessId { started, ..PROCESS } }
}

fn gone(number: u64) -> Record {
    Record::Gone { lease: lease(number) }
}

fn boot(id: u8, wall: i64) -> Record {
    Record::Boot { id: [id; 16], wall_at_boot: UnixMs(wall) }
}

/// What records add up to, after those of `place`'s boot.
fn sum(records: &[Record]) -> Memory {
    let mut memory = Memory::default();
    for record in records {
        memory.apply(record.clone());
    }
    memory
}

fn lines(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        writer::push(&mut bytes, &Line::Record(record.clone())).expect("a short record");
    }
    bytes
}

fn recover(bytes: &[u8]) -> recover::Found {
    recover::recover(bytes, &place(), |aside| format!("/state/{aside:?}")).expect("our format")
}

/// Opens, and what it says comes out of the channel.
fn open(dir: &Path) -> (Journal, Recovered, mpsc::Receiver<Said>) {
    let (says, said) = mpsc::channel();
    let (journal, recovered) = Journal::open(dir, &place(), move |word| {
        let _ = says.send(word);
    })
    .expect("a journal");
    (journal, recovered, said)
}

/// Records, and waits for the disk.
fn write(journal: &Journal, said: &mpsc::Receiver<Said>, records: &[Record]) {
    for record in records {
        journal.record(record.clone());
    }
    let sync = SyncId(u64::MAX);
    journal.sync(sync);
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::Synced { sync, durable: true }));
}

fn state_dir() -> tempfile::TempDir {
    let owners_only = std::fs::Permissions::from_mode(0o700);
    let dir = tempfile::Builder::new().permissions(owners_only).tempdir();
    dir.expect("a temporary directory")
}

/// Records as the core writes them: each choice takes one of a few leases one step on.
fn core_like(choices: &[(u8, u8)]) -> Vec<Record> {
    let mut memory = sum(&[]);
    let (mut records, mut next, mut fence) = (Vec::new(), 0, 0);
    let mut leases: Vec<u64> = vec![];
    for (index, (which, what)) in choices.iter().enumerate() {
        let clock = 10 + index as u64;
        let known = if leases.is_empty() { 0 } else { usize::from(*which) % (leases.len() + 1) };
        let number = leases.get(known).copied();
        let stage = number.and_then(|it| memory.leases.get(&lease(it)).map(|it| it.stage.clone()));
        let record = match (number, stage) {
            (Some(number), Some(stage)) => step(number, &stage, *what, clock, &mut fence),
            _ => {
                next += 1;
                leases.push(next);
                let attach = match what % 4 {
                    0 => Attach::Detached,
                    3 => Attach::Holder(PROCESS, 30),
                    1 => Attach::Session(SessionId(3)),
                    _ => Attach::Process(PROCESS),
                };
                intent(next, Hold::Until(at(5000)), attach)
            }
        };
        memory.apply(record.clone());
        leases.retain(|it| memory.leases.contains_key(&lease(*it)));
        records.push(record);
    }
    records
}

fn step(number: u64, stage: &Stage, what: u8, clock: u64, fence: &mut u64) -> Record {
    match (stage, what % 8) {
        (Stage::Asked, 0) => gone(number),
        (Stage::Asked, 1) => ending(number, Ending::Cancel),
        (Stage::Asked, _) => {
            *fence += 1;
            granted(number, *fence, clock)
        }
        (Stage::Held, 0) => ending(number, Ending::Release),
        (Stage::Held, 7) => shared(number, clock % 5),
        (Stage::Held, 6) => left(number, clock % 5),
        (Stage::Held, 5) => ending(number, Ending::Linger),
        (Stage::Held, 1) => lost(number, Loss::TakenBy(Principal::foreign(ODD[1]))),
        (Stage::Held, 2) => Record::Marking {
            lease: lease(number),
            next: Nonce(clock),
            ceiling: Some((at(clock), secs(30))),
        },
        (Stage::Held, 3) => marking(number, clock),
        (Stage::Held, _) => renewed(number, clock, clock),
        (Stage::Ending(_), _) => gone(number),
        (Stage::Lost(_), 0) => ending(number, Ending::Release),
        (Stage::Lost(_), _) => gone(number),
    }
}

fn choices() -> impl Strategy<Value = Vec<(u8, u8)>> {
    proptest::collection::vec(any::<(u8, u8)>(), 0..40)
}
