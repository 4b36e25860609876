//! The disk: full, failing, read-only, slow.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::process::Command;
use std::rc::Rc;

use super::*;
use crate::journal::writer::Disk;

const DIR: &str = "STORMLOCK_TEST_FULL_DISK";

/// A writer without its thread, so that a test says what time it is.
struct Bench {
    _dir: tempfile::TempDir,
    writer: Writer<Box<dyn Fn(Said)>>,
    said: Rc<RefCell<Vec<Said>>>,
    shared: Arc<Shared>,
    records: Vec<Record>,
}

impl Bench {
    fn new() -> Bench {
        let (dir, said, shared) = (state_dir(), Rc::default(), Arc::new(Shared::default()));
        let hears: Rc<RefCell<Vec<Said>>> = Rc::clone(&said);
        let says: Box<dyn Fn(Said)> = Box::new(move |word| hears.borrow_mut().push(word));
        let opened = Writer::open(dir.path(), &place(), says, Arc::clone(&shared));
        let (writer, _) = opened.expect("a journal");
        let records = vec![boot(7, place().wall_at_boot.0)];
        Bench { _dir: dir, writer, said, shared, records }
    }

    /// What is said when these records and then a wait come in.
    fn commit(&mut self, now: Moment, records: &[Record], syncs: &[u64]) -> Vec<Said> {
        self.records.extend_from_slice(records);
        let records = records.iter().cloned().map(Message::Record);
        let syncs = syncs.iter().map(|sync| Message::Sync(SyncId(*sync)));
        self.writer.commit(now, records.chain(syncs));
        std::mem::take(&mut self.said.borrow_mut())
    }

    /// From now on the file is this one, whatever that does to it.
    fn use_file(&mut self, path: &str) {
        let device = OpenOptions::new().write(true).open(path).unwrap();
        let Disk::Works { file, .. } = &mut self.writer.disk else { panic!("broken") };
        *file = device;
    }

    fn path(&self) -> std::path::PathBuf {
        self._dir.path().join("journal")
    }

    fn on_disk(&self) -> Memory {
        recover(&fs::read(self.path()).unwrap()).memory
    }

    fn fdatasyncs(&self) -> u64 {
        self.shared.fdatasyncs.load(Ordering::Relaxed)
    }
}

fn synced(sync: u64, durable: bool) -> Said {
    Said::Synced { sync: SyncId(sync), durable }
}

fn keep(number: u64) -> Record {
    intent(number, Hold::Keep, Attach::Detached)
}

#[test]
fn all_that_wait_together_are_answered_in_order_by_one_sync() {
    let mut bench = Bench::new();
    let records: Vec<Record> = (0..500).map(keep).collect();
    let syncs: Vec<u64> = (0..500).collect();
    let said = bench.commit(at(1), &records, &syncs);
    assert_eq!(said, syncs.iter().map(|sync| synced(*sync, true)).collect::<Vec<_>>());
    assert_eq!(bench.fdatasyncs(), 1);
    assert_eq!(bench.on_disk(), sum(&bench.records));
}

#[test]
fn many_waits_while_the_disk_is_busy_need_few_syncs() {
    let dir = state_dir();
    let (says, said) = mpsc::channel();
    let (opens, gate) = mpsc::channel::<()>();
    let (journal, _) = Journal::open(dir.path(), &place(), move |word| {
        let _ = says.send(word);
        if word == synced(0, true) {
            let _ = gate.recv();
        }
    })
    .unwrap();
    journal.sync(SyncId(0));
    assert_eq!(said.recv_timeout(PATIENCE), Ok(synced(0, true)));
    for number in 1..=1000 {
        journal.record(keep(number));
        journal.sync(SyncId(number));
    }
    opens.send(()).unwrap();
    for number in 1..=1000 {
        assert_eq!(said.recv_timeout(PATIENCE), Ok(synced(number, true)));
    }
    assert!(journal.fdatasyncs() <= 2, "{}", journal.fdatasyncs());
}

#[test]
fn what_nobody_waits_for_is_synced_soon() {
    let mut bench = Bench::new();
    assert_eq!(bench.writer.next_wakeup(), None);
    bench.commit(at(10), &[keep(1)], &[]);
    assert_eq!((bench.fdatasyncs(), bench.writer.next_wakeup()), (0, Some(at(11))));
    bench.commit(at(11), &[], &[]);
    assert_eq!((bench.fdatasyncs(), bench.writer.next_wakeup()), (1, None));
}

#[test]
fn a_file_that_grew_is_written_anew_and_says_the_same() {
    let mut bench = Bench::new();
    bench.commit(at(1), &[keep(1), granted(1, 1, 1)], &[1]);
    let mut largest = 0;
    for round in 2..120 {
        let records: Vec<Record> = (0..100).map(|mark| renewed(1, mark, round)).collect();
        assert_eq!(bench.commit(at(round), &records, &[round]), [synced(round, true)]);
        largest = largest.max(fs::metadata(bench.path()).unwrap().len());
    }
    let len = fs::metadata(bench.path()).unwrap().len();
    assert!(len < largest && largest < (1 << 20) + (1 << 16), "{len}, largest {largest}");
    assert_eq!(bench.on_disk(), sum(&bench.records));
}

#[test]
fn after_a_failed_sync_only_a_whole_new_file_counts() {
    // Writing there works and syncing does not; and nothing that is written there comes back.
    failing("/dev/null");
}

#[test]
fn after_a_failed_write_only_a_whole_new_file_counts() {
    failing("/dev/full");
}

fn failing(device: &str) {
    let mut bench = Bench::new();
    assert_eq!(bench.commit(at(10), &[keep(1)], &[1]), [synced(1, true)]);
    let durable = bench.on_disk();
    bench.use_file(device);
    let said = bench.commit(at(20), &[keep(2)], &[2, 3]);
    assert_eq!(said, [Said::Works(false), synced(2, false), synced(3, false)]);
    assert!(bench.shared.trouble.lock().unwrap().as_ref().unwrap().contains("journal"));
    assert_eq!(bench.on_disk(), durable);
    // A second has not passed: nothing is tried, and the answer is known.
    assert_eq!(bench.commit(at(20) + secs(1) / 2, &[keep(3)], &[4]), [synced(4, false)]);
    assert_eq!(bench.on_disk(), durable);
    assert_eq!(bench.commit(at(21), &[], &[5]), [Said::Works(true), synced(5, true)]);
    assert_eq!(bench.on_disk(), sum(&bench.records));
    assert_eq!(*bench.shared.trouble.lock().unwrap(), None);
    assert_eq!(bench.commit(at(22), &[keep(4)], &[6]), [synced(6, true)]);
    assert_eq!(bench.on_disk(), sum(&bench.records));
}

#[test]
fn tries_become_rarer_and_a_wait_may_ask_for_one_each_second() {
    let mut bench = Bench::new();
    bench.use_file("/dev/null");
    // Where the new file should be is something that cannot be removed or replaced.
    let obstacle = bench._dir.path().join("journal.new");
    fs::create_dir(&obstacle).unwrap();
    assert_eq!(bench.commit(at(100), &[keep(1)], &[1]), [Said::Works(false), synced(1, false)]);
    let mut waits = Vec::new();
    let mut now = at(100);
    for _ in 0..7 {
        let next = bench.writer.next_wakeup().unwrap();
        waits.push(now.until(next).as_secs());
        now = next;
        assert_eq!(bench.commit(now, &[], &[]), []);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    fs::remove_dir(&obstacle).unwrap();
    let now = now + secs(1);
    assert_eq!(bench.commit(now, &[], &[2]), [Said::Works(true), synced(2, true)]);
    assert_eq!(bench.on_disk(), sum(&bench.records));
}

#[test]
fn a_file_that_cannot_be_compacted_goes_on_growing() {
    let mut bench = Bench::new();
    bench.commit(at(1), &[keep(1), granted(1, 1, 1)], &[1]);
    fs::create_dir(bench._dir.path().join("journal.new")).unwrap();
    for round in 2..120 {
        let records: Vec<Record> = (0..100).map(|mark| renewed(1, mark, round)).collect();
        assert_eq!(bench.commit(at(round), &records, &[round]), [synced(round, true)]);
    }
    assert!(bench.shared.trouble.lock().unwrap().is_some());
    assert_eq!(bench.on_disk(), sum(&bench.records));
}

#[test]
fn the_end_brings_a_broken_journal_to_disk_if_it_can() {
    let mut bench = Bench::new();
    bench.use_file("/dev/full");
    bench.commit(at(10), &[keep(1)], &[1]);
    bench.writer.close(at(10));
    assert_eq!(bench.on_disk(), sum(&bench.records));
}

/// On a real file system of 64 KiB, in a mount namespace of its own.
#[test]
fn a_full_disk_is_told_survived_and_mended() {
    if let Some(dir) = std::env::var_os(DIR) {
        return on_a_small_disk(Path::new(&dir));
    }
    let dir = state_dir();
    let script = "mount -t tmpfs -o size=64k,mode=0700 stormlock-test \"$1\" && \
                  exec \"$2\" --nocapture \
                  --exact journal::tests::disk::a_full_disk_is_told_survived_and_mended";
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .env(DIR, dir.path())
        .status()
        .expect("unshare, of util-linux");
    assert!(status.success(), "tests run as root: {status}");
}

fn on_a_small_disk(disk: &Path) {
    let dir = disk.join("state");
    let (journal, _, said) = open(&dir);
    let mut records = vec![boot(7, place().wall_at_boot.0), keep(1), granted(1, 1, 1)];
    write(&journal, &said, &records[1..]);
    fill(disk);

    let mut number = 1;
    let mut durable = records.clone();
    let first_no = loop {
        number += 1;
        records.push(keep(number));
        journal.record(keep(number));
        journal.sync(SyncId(number));
        match said.recv_timeout(PATIENCE).unwrap() {
            Said::Synced { durable: true, .. } => durable.clone_from(&records),
            other => break other,
        }
    };
    assert_eq!(first_no, Said::Works(false), "the reason comes before the answer");
    assert_eq!(said.recv_timeout(PATIENCE), Ok(synced(number, false)));
    journal.sync(SyncId(9000));
    assert_eq!(said.recv_timeout(PATIENCE), Ok(synced(9000, false)), "and is told once");
    let trouble = journal.trouble().expect("a reason");
    assert!(trouble.contains("No space left"), "{trouble}");
    let found = recover(&fs::read(dir.join("journal")).unwrap());
    assert_eq!(found.memory, sum(&durable), "no more and no less than what was told");
    assert!(matches!(Journal::open(&dir, &place(), |_| {}), Err(JournalError::InUse { .. })));

    fs::remove_file(disk.join("filler")).unwrap();
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::Works(true)));
    records.push(gone(1));
    write(&journal, &said, &records[records.len() - 1..]);
    drop(journal);

    // The next starts find a disk that is full again, and then one that is read-only.
    fill(disk);
    start_in_trouble(&dir, &sum(&records));
    let mount = |how| Command::new("mount").args(["-o", how]).arg(disk).status().unwrap();
    assert!(mount("remount,ro").success());
    start_in_trouble(&dir, &sum(&records));
    assert!(mount("remount,rw").success());
    fs::remove_file(disk.join("filler")).unwrap();
    let (_journal, recovered, _said) = open(&dir);
    assert_eq!((recovered.memory, recovered.notes), (sum(&records), vec![]));
}

/// What is remembered is there to be kept, and nothing new is promised.
fn start_in_trouble(dir: &Path, memory: &Memory) {
    let (journal, recovered, said) = open(dir);
    assert_eq!(&recovered.memory, memory);
    assert!(recovered.notes[0].contains("cannot be written"), "{:?}", recovered.notes);
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::Works(false)));
    journal.sync(SyncId(1));
    assert_eq!(said.recv_timeout(PATIENCE), Ok(synced(1, false)));
}

fn fill(disk: &Path) {
    let mut filler = File::create(disk.join("filler")).unwrap();
    let full = std::iter::repeat_with(|| filler.write_all(&[0xaa; 512])).find_map(Result::err);
    assert_eq!(full.unwrap().kind(), ErrorKind::StorageFull);
}
