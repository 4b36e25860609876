//! The directory: whose it is, who is in it, and what is left there.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use super::*;

fn refused(dir: &Path) -> String {
    let refused = Journal::open(dir, &place(), |_| {}).expect_err("not safe");
    refused.to_string()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn hold(number: u64) -> [Record; 2] {
    [intent(number, Hold::Keep, Attach::Detached), granted(number, number, 1)]
}

#[test]
fn what_was_recorded_is_there_at_the_next_start() {
    let dir = state_dir();
    let state = dir.path().join("var/lib/stormlock");
    let (journal, recovered, said) = open(&state);
    assert_eq!(recovered.notes, Vec::<String>::new());
    write(&journal, &said, &hold(1));
    // Nobody waits for these: the end of the journal does.
    for record in [renewed(1, 5, 6), intent(2, Hold::No, Attach::Detached)] {
        journal.record(record);
    }
    drop(journal);
    let (_journal, recovered, _said) = open(&state);
    let mut records = vec![boot(7, place().wall_at_boot.0)];
    records.extend(hold(1));
    records.extend([renewed(1, 5, 6), intent(2, Hold::No, Attach::Detached)]);
    assert_eq!(recovered.memory, sum(&records));
    assert_eq!(recovered.notes, Vec::<String>::new());
    assert_eq!(names(&state), ["journal", "lock"]);
    for (name, mode) in [("", 0o700), ("journal", 0o600), ("lock", 0o600)] {
        assert_eq!(fs::metadata(state.join(name)).unwrap().mode() & 0o7777, mode, "{name:?}");
    }
}

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() {
    let dir = state_dir();
    let (journal, _, said) = open(dir.path());
    let words = refused(dir.path());
    assert!(words.contains("another agent uses"), "{words}");
    assert!(words.contains(&dir.path().display().to_string()), "{words}");
    assert!(words.contains(&format!("(process {})", std::process::id())), "{words}");
    write(&journal, &said, &hold(1));
    drop(journal);
    let (_journal, recovered, _said) = open(dir.path());
    assert_eq!(recovered.memory.leases.len(), 1);
}

#[test]
fn a_directory_that_others_get_at_is_refused() {
    let dir = state_dir();
    for mode in [0o755, 0o710, 0o701] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let words = refused(dir.path());
        assert!(words.contains(&format!("{mode:04o}")) && words.contains("mode 0700"), "{words}");
    }
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let dir = state_dir();
    chown(dir.path(), Some(4321), None).expect("tests run as root");
    let words = refused(dir.path());
    assert!(words.contains("belongs to uid 4321"), "{words}");
}

#[test]
fn a_symbolic_link_is_never_followed() {
    let dir = state_dir();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    drop(open(&real));
    symlink(&real, &link).unwrap();
    let with_slash = link.join("");
    for path in [&link, &with_slash] {
        let words = refused(path);
        assert!(words.contains("symbolic link"), "{words}");
    }
    for name in ["journal", "lock"] {
        let path = real.join(name);
        let kept = dir.path().join(name);
        fs::rename(&path, &kept).unwrap();
        symlink(&kept, &path).unwrap();
        let words = refused(&real);
        assert!(words.contains("symbolic link") && words.contains(name), "{words}");
        fs::rename(&kept, &path).unwrap();
    }
    let precious = dir.path().join("precious");
    fs::write(&precious, "as it was").unwrap();
    symlink(&precious, real.join("journal.new")).unwrap();
    drop(open(&real));
    assert_eq!(fs::read_to_string(&precious).unwrap(), "as it was");
    assert_eq!(names(&real), ["journal", "lock"]);
}

#[test]
fn a_journal_that_others_get_at_or_that_is_no_file_is_refused_as_it_is() {
    let dir = state_dir();
    drop(open(dir.path()));
    let path = dir.path().join("journal");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused(dir.path()).contains("0640"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&path, Some(4321), None).expect("tests run as root");
    assert!(refused(dir.path()).contains("belongs to uid 4321"));
    fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let words = refused(dir.path());
    assert!(words.contains("something else"), "a pipe: {words}");
}

#[test]
fn half_a_file_of_an_earlier_crash_is_removed() {
    let dir = state_dir();
    let (journal, _, said) = open(dir.path());
    write(&journal, &said, &hold(1));
    drop(journal);
    fs::write(dir.path().join("journal.new"), "half").unwrap();
    let (_journal, recovered, _said) = open(dir.path());
    assert_eq!(recovered.memory.leases.len(), 1);
    assert_eq!(names(dir.path()), ["journal", "lock"]);
}

#[test]
fn a_damaged_journal_is_kept_beside_the_new_one() {
    let dir = state_dir();
    let (journal, _, said) = open(dir.path());
    write(&journal, &said, &[hold(1), hold(2), hold(3)].concat());
    drop(journal);
    let path = dir.path().join("journal");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.windows(9).position(|it| it == b"prod/db-2").unwrap();
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (journal, recovered, _said) = open(dir.path());
    assert!(recovered.damaged);
    assert!(!recovered.memory.leases.contains_key(&lease(2)));
    let aside = names(dir.path()).into_iter().find(|name| name.contains("damaged")).unwrap();
    assert!(recovered.notes[0].contains(&aside), "{:?}", recovered.notes);
    assert_eq!(fs::read(dir.path().join(&aside)).unwrap(), bytes);
    drop(journal);
    let (_journal, again, _said) = open(dir.path());
    assert_eq!((again.memory, again.notes), (recovered.memory, vec![]));
}

#[test]
fn another_machines_file_is_set_aside_and_nothing_of_it_is_held() {
    let dir = state_dir();
    let (journal, _, said) = open(dir.path());
    write(&journal, &said, &hold(1));
    drop(journal);
    let there = Place { machine: Some("a clone".to_owned()), ..place() };
    let (journal, recovered) = Journal::open(dir.path(), &there, |_| {}).unwrap();
    assert!(recovered.memory.leases.is_empty());
    assert!(recovered.notes[0].contains("a clone"), "{:?}", recovered.notes);
    drop(journal);
    assert!(names(dir.path()).iter().any(|name| name.starts_with("journal.other-machine-")));
    let (_journal, again) = Journal::open(dir.path(), &there, |_| {}).unwrap();
    assert_eq!(again.notes, Vec::<String>::new());
}

#[test]
fn another_boot_carries_every_moment_over() {
    let dir = state_dir();
    let (journal, _, said) = open(dir.path());
    write(&journal, &said, &hold(1));
    drop(journal);
    let wall_at_boot = UnixMs(place().wall_at_boot.0 + 500);
    let there = Place { boot: [8; 16], wall_at_boot, ..place() };
    for _ in 0..2 {
        let (journal, recovered) = Journal::open(dir.path(), &there, |_| {}).unwrap();
        let known = &recovered.memory.leases[&lease(1)];
        assert!(known.earlier_boot);
        assert_eq!(known.proven, Some((at(1) - Duration::from_millis(500), secs(900))));
        drop(journal);
    }
}

#[test]
fn a_newer_agents_journal_is_left_alone() {
    let dir = state_dir();
    drop(open(dir.path()));
    let path = dir.path().join("journal");
    let newer = frame::header_of(9) + "something";
    fs::write(&path, &newer).unwrap();
    let words = refused(dir.path());
    assert!(words.contains("its format is 9") && words.contains("start that one"), "{words}");
    assert_eq!(fs::read_to_string(&path).unwrap(), newer);
}

#[test]
fn a_journal_that_vanished_or_is_empty_is_said() {
    let dir = state_dir();
    drop(open(dir.path()));
    let path = dir.path().join("journal");
    fs::remove_file(&path).unwrap();
    let (journal, recovered, _said) = open(dir.path());
    assert!(recovered.notes[0].contains("is missing"), "{:?}", recovered.notes);
    drop(journal);
    fs::write(&path, "").unwrap();
    let (_journal, recovered, _said) = open(dir.path());
    assert!(recovered.damaged && recovered.notes[0].contains("damaged"), "{:?}", recovered.notes);
}

#[test]
fn a_journal_beyond_all_bounds_is_refused() {
    let dir = state_dir();
    drop(open(dir.path()));
    let file = fs::OpenOptions::new().write(true).open(dir.path().join("journal")).unwrap();
    file.set_len((256 << 20) + 1).unwrap();
    assert!(refused(dir.path()).contains("larger than"));
}
