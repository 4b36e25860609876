use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

use stormlock_protocol::name::{Fence, Principal, Reason, Ttl, UnixMs};
use tempfile::TempDir;

use super::*;
use crate::lease::{Attach, BackendName, Claim, Hold, Loss, Moment, Nonce};

const DIR: &str = "STORMLOCK_TEST_AUDIT_DISK";

struct Bench {
    dir: TempDir,
    audit: Audit,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::start(dir.path().join(FILE), "alpha", [0xab; 16]).unwrap();
        Bench { dir, audit }
    }

    async fn lines(&self) -> Vec<serde_json::Value> {
        self.audit.flush().await;
        lines(&self.dir.path().join(FILE))
    }

    /// What is told of each line: its event, its result and who did it.
    async fn told(&self) -> Vec<String> {
        let word = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap().to_owned();
        let told = |line: &serde_json::Value| {
            [word(line, "event"), word(line, "result"), word(line, "by")].join(" ")
        };
        self.lines().await.iter().map(told).collect()
    }
}

/// Every line has to be whole.
fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn in_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn lease(number: u8) -> LeaseId {
    LeaseId::from_bytes([number; 16])
}

fn view(number: u8, state: State) -> View {
    let claim = Claim {
        resource: Resource::new("prod/db").unwrap(),
        lease: lease(number),
        backend: BackendName::new("main"),
        principal: Principal::new("maria@alpha").unwrap(),
        host: "alpha".to_owned(),
        reason: Some(Reason::new("migration 42").unwrap()),
        ttl: Ttl::from_secs(60).unwrap(),
        created: UnixMs(0),
        nonce: Nonce(1),
        over: None,
    };
    View {
        claim,
        owner: Uid(1000),
        fence: Some(Fence(7)),
        state,
        deadline: Moment::NEVER,
        hold: Hold::Keep,
        attach: Attach::Detached,
        sharers: Vec::new(),
        command_ttl: None,
        terminal: None,
        waiters: 0,
        ends_soon: false,
    }
}

fn facts(uid: u32) -> Arc<Facts> {
    Arc::new(Facts {
        principal: Principal::new("root@alpha").unwrap(),
        uid: Uid(uid),
        user: "root".to_owned(),
        login: Some(Login { uid: Uid(1001), user: "alice".to_owned() }),
        pid: Some(4711),
        unit: Some("session-3.scope".to_owned()),
    })
}

fn refusal(uid: u32) -> Event {
    Event::new(Deed::Acquire, Outcome::Denied, By::Caller(facts(uid))).explained("no rule")
}

#[test]
fn a_line_says_who_did_what_to_which_lease_when_and_where() {
    in_runtime(async {
        let bench = Bench::new();
        bench.audit.acquired(&view(1, State::Held), &facts(0));
        let mut line = bench.lines().await.remove(0);
        let time = line["time"].take();
        let age = clock::wall().0
            - time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
        assert!((0..60_000).contains(&age), "{time}");
        let expected = serde_json::json!({
            "time": null, "event": "acquire", "result": "ok", "resource": "prod/db",
            "lease": "01010101010101010101010101010101", "fence": 7, "backend": "main",
            "principal": "maria@alpha", "owner": 1000, "by": "caller", "caller": "root@alpha",
            "uid": 0, "user": "root", "login_uid": 1001, "login": "alice", "pid": 4711,
            "unit": "session-3.scope", "reason": "migration 42", "host": "alpha",
            "boot": "abababab-abab-abab-abab-abababababab",
        });
        assert_eq!(line, expected);
    });
}

#[test]
fn what_moves_a_cursor_is_an_escape_in_a_line_and_the_same_to_a_parser() {
    in_runtime(async {
        let bench = Bench::new();
        let nasty = "a\u{1b}[31m\u{202e}\n\u{9b}\u{e0041}%F{red}$(id)\"\\";
        let event = Event::new(Deed::Renew, Outcome::Denied, By::Agent).explained(nasty);
        bench.audit.record(&event);
        assert_eq!(bench.lines().await[0]["why"].as_str(), Some(nasty));
        let text = fs::read_to_string(bench.audit.path()).unwrap();
        let is_shown = |c: char| c == '\n' || !stormlock_protocol::name::is_invisible(c);
        assert!(text.chars().all(is_shown) && text.matches('\n').count() == 1, "{text:?}");
    });
}

#[test]
fn each_lease_has_one_line_when_it_is_taken_and_one_when_it_is_over() {
    in_runtime(async {
        let bench = Bench::new();
        let audit = &bench.audit;
        let (held, at_risk) = (State::Held, State::AtRisk);
        audit.changed(&view(1, State::Held), None);
        audit.acquired(&view(1, State::Held), &facts(0));
        audit.changed(&view(1, State::AtRisk), Some(&held));
        audit.changed(&view(1, State::Unknown), Some(&at_risk));
        audit.changed(&view(1, State::Held), Some(&State::Unknown));
        audit.releasing(&[lease(1)], &facts(0));
        audit.not_released(lease(1));
        audit.changed(&view(1, State::Released), Some(&held));
        // A second end of the same lease is none, nor is the end of what never was.
        audit.changed(&view(1, State::Released), None);
        audit.changed(&view(9, State::Lost(Loss::Expired)), None);
        assert_eq!(bench.told().await, ["acquire ok caller", "release ok agent"]);
    });
}

#[test]
fn an_end_is_by_whoever_asked_for_it_and_a_loss_says_why() {
    in_runtime(async {
        let bench = Bench::new();
        let audit = &bench.audit;
        for number in [1, 2] {
            audit.changed(&view(number, State::Held), None);
        }
        audit.releasing(&[lease(1), lease(8)], &facts(0));
        audit.changed(&view(1, State::Released), Some(&State::Held));
        let who = Principal::new("eve@beta").unwrap();
        let loss = Loss::BrokenBy { who, why: Some(Reason::new("stuck").unwrap()) };
        audit.changed(&view(2, State::Lost(loss)), Some(&State::Held));
        assert_eq!(bench.told().await, ["release ok caller", "lost broken_by agent"]);
        assert_eq!(bench.lines().await[1]["why"], "eve@beta broke it: stuck");
        assert!(locked(&audit.shared.known).is_empty(), "nothing is remembered of what is over");
    });
}

#[test]
fn what_an_earlier_agent_had_is_told_once_when_it_goes_on_and_when_it_ends() {
    in_runtime(async {
        let bench = Bench::new();
        let audit = &bench.audit;
        audit.changed(&view(1, State::Unknown), None);
        audit.changed(&view(1, State::Held), Some(&State::Unknown));
        audit.changed(&view(1, State::Unknown), Some(&State::Held));
        audit.changed(&view(1, State::Held), Some(&State::Unknown));
        // One that ends before it was proven.
        audit.changed(&view(2, State::Unknown), None);
        audit.releasing(&[lease(2)], &facts(0));
        audit.changed(&view(2, State::Released), Some(&State::Unknown));
        assert_eq!(bench.told().await, ["resume ok agent", "release ok caller"]);
    });
}

#[test]
fn a_flood_of_refusals_is_cut_short_and_the_next_line_says_by_how_many() {
    in_runtime(async {
        let bench = Bench::new();
        for _ in 0..1_000 {
            bench.audit.refused(refusal(1000), &facts(1000));
        }
        bench.audit.refused(refusal(1001), &facts(1001));
        let lines = bench.lines().await;
        assert!((2..100).contains(&lines.len()), "{}", lines.len());
        assert_eq!(lines.last().unwrap()["uid"], 1001);
        assert_eq!(bench.audit.lost(), 0, "what is left out on purpose is not lost");
    });
}

#[test]
fn what_is_durable_is_there_when_it_is_said_and_is_not_said_when_it_cannot_be() {
    in_runtime(async {
        let bench = Bench::new();
        let event = Event::of_view(Deed::Break, Outcome::Done, By::Agent, &view(1, State::Held));
        bench.audit.durable(&event).await.unwrap();
        assert_eq!(lines(&bench.audit.path()).len(), 1);
        let path = bench.dir.path().join("missing/audit.jsonl");
        bench.audit.configure(path, "beta");
        let refused = bench.audit.durable(&event).await.unwrap_err();
        assert!(matches!(refused, NotDurable::File(FileError::Io { .. })), "{refused:?}");
        assert_eq!(bench.audit.lost(), 0, "it was not done, so nothing is missing");
    });
}

#[test]
fn another_file_and_another_name_are_taken_from_the_next_line_on() {
    in_runtime(async {
        let bench = Bench::new();
        bench.audit.record(&refusal(0));
        let next = bench.dir.path().join("next.jsonl");
        bench.audit.configure(next.clone(), "beta");
        bench.audit.record(&refusal(0));
        assert_eq!(bench.lines().await.len(), 1);
        assert_eq!(lines(&next)[0]["host"], "beta");
    });
}

#[test]
fn what_could_not_be_written_is_counted_and_told_as_a_gap() {
    in_runtime(async {
        let bench = Bench::new();
        let missing = bench.dir.path().join("missing");
        let path = missing.join(FILE);
        bench.audit.configure(path.clone(), "alpha");
        for _ in 0..3 {
            bench.audit.record(&refusal(0));
        }
        bench.audit.flush().await;
        assert_eq!(bench.audit.lost(), 3);
        let trouble = bench.audit.trouble().expect("a reason");
        assert!(trouble.contains("no such file or directory"), "{trouble}");
        fs::create_dir(&missing).unwrap();
        bench.audit.record(&refusal(0));
        bench.audit.flush().await;
        let lines = lines(&path);
        assert_eq!(
            (lines[0]["event"].as_str(), lines[0]["missing"].as_u64()),
            (Some("gap"), Some(3))
        );
        assert_eq!((lines.len(), bench.audit.trouble(), bench.audit.lost()), (2, None, 3));
    });
}

#[test]
fn no_line_is_lost_or_torn_while_the_file_is_put_away_again_and_again() {
    in_runtime(async {
        let bench = Bench::new();
        let path = bench.audit.path();
        let mut put_away = 0;
        for number in 0..2_000_u32 {
            bench.audit.record(&refusal(number));
            if number % 50 == 0 {
                bench.audit.flush().await;
                let old = bench.dir.path().join(format!("old.{put_away}"));
                if fs::rename(&path, old).is_ok() {
                    put_away += 1;
                }
            }
        }
        bench.audit.flush().await;
        let files = fs::read_dir(bench.dir.path()).unwrap();
        let mut uids: Vec<u64> = files
            .flat_map(|file| lines(&file.unwrap().path()))
            .map(|line| line["uid"].as_u64().unwrap())
            .collect();
        uids.sort_unstable();
        assert_eq!(uids, (0..2_000).collect::<Vec<_>>());
        assert!(put_away > 20, "{put_away}");
    });
}

/// On a real file system of 256 KiB, in a mount namespace of its own.
#[test]
fn a_full_disk_loses_lines_before_the_journal_needs_the_room_and_is_mended() {
    if let Some(dir) = std::env::var_os(DIR) {
        return in_runtime(on_a_small_disk(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    let name =
        "audit::tests::a_full_disk_loses_lines_before_the_journal_needs_the_room_and_is_mended";
    let script = "mount -t tmpfs -o size=256k,mode=0700 stormlock-test \"$1\" && \
                  exec \"$2\" --nocapture --exact \"$3\"";
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(DIR, dir.path())
        .status()
        .expect("unshare, of util-linux");
    assert!(status.success(), "tests run as root: {status}");
}

async fn on_a_small_disk(disk: &Path) {
    let path = disk.join(FILE);
    let audit = Audit::start(path.clone(), "alpha", [0; 16]).unwrap();
    for _ in 0..2_000 {
        audit.record(&refusal(0));
        audit.flush().await;
    }
    let lost = audit.lost();
    assert!((1..2_000).contains(&lost), "{lost}");
    let trouble = audit.trouble().expect("a reason");
    assert!(trouble.contains("nearly full"), "{trouble}");
    // The room that is left is for others, and for what somebody waits for.
    audit.durable(&refusal(1)).await.expect("there is room for this");
    let mut filler = File::create(disk.join("filler")).unwrap();
    let full = std::iter::repeat_with(|| filler.write_all(&[0xaa; 512])).find_map(Result::err);
    assert_eq!(full.unwrap().kind(), ErrorKind::StorageFull);
    // What is left of the file's last page takes some lines, and a part of the last one.
    let refused = loop {
        if let Err(refused) = audit.durable(&refusal(2)).await {
            break refused;
        }
    };
    assert!(matches!(refused, NotDurable::File(FileError::Io { .. })), "{refused:?}");
    fs::remove_file(disk.join("filler")).unwrap();
    fs::rename(&path, disk.join("old")).unwrap();
    let kept = fs::read(disk.join("old")).unwrap();
    fs::remove_file(disk.join("old")).unwrap();
    audit.record(&refusal(3));
    audit.flush().await;
    assert_eq!((audit.trouble(), audit.lost()), (None, lost));
    let lines = lines(&path);
    assert_eq!(lines[0]["missing"].as_u64(), Some(lost));
    assert_eq!(lines[1]["uid"].as_u64(), Some(3));
    let whole = kept
        .split(|byte| *byte == b'\n')
        .filter(|line| serde_json::from_slice::<serde_json::Value>(line).is_ok());
    assert!(whole.count() > 100);
}

#[test]
fn a_thread_that_stands_still_holds_up_nobody() {
    // Nobody reads this queue: as when the disk hangs.
    let (queue, _messages) = sync_channel(4);
    let names = line::Writer { host: "alpha".to_owned(), boot: uuid([0; 16]) };
    let names = Mutex::new(Names { path: FILE.into(), writer: names });
    let (known, refused, health) = (Mutex::default(), Mutex::default(), Arc::default());
    let readers = Semaphore::new(READERS_MAX);
    let pace = Pace::default();
    let shared = Shared { queue, names, known, refused, pace, health, readers };
    let audit = Audit { shared: Arc::new(shared) };
    for _ in 0..10 {
        audit.record(&refusal(0));
    }
    assert_eq!(audit.lost(), 6);
    in_runtime(async {
        let asked = audit.durable(&refusal(0)).await;
        assert!(matches!(asked, Err(NotDurable::Busy)), "{asked:?}");
        audit.flush().await;
    });
}
