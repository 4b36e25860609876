use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

const LINE: &str = "{\"event\":\"acquire\"}\n";

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    (dir, path)
}

fn append(file: &mut AuditFile, line: &str) {
    file.append(line, Weight::Usual).unwrap();
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_new_file_is_for_its_owner_alone() {
    let (_dir, path) = place();
    let mut file = AuditFile::new(path.clone());
    append(&mut file, LINE);
    file.sync().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(text(&path), LINE);
}

#[test]
fn after_a_rename_the_next_line_is_in_a_new_file_of_that_name() {
    let (dir, path) = place();
    let mut file = AuditFile::new(path.clone());
    append(&mut file, "1\n");
    let old = dir.path().join("audit.jsonl.1");
    fs::rename(&path, &old).unwrap();
    append(&mut file, "2\n");
    append(&mut file, "3\n");
    assert_eq!((text(&old).as_str(), text(&path).as_str()), ("1\n", "2\n3\n"));
}

#[test]
fn after_a_delete_the_next_line_is_in_a_new_file_and_a_file_put_there_is_taken() {
    let (dir, path) = place();
    let mut file = AuditFile::new(path.clone());
    append(&mut file, "1\n");
    fs::remove_file(&path).unwrap();
    append(&mut file, "2\n");
    assert_eq!(text(&path), "2\n");
    // As logrotate's `create` does.
    fs::rename(&path, dir.path().join("old")).unwrap();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    append(&mut file, "3\n");
    assert_eq!(text(&path), "3\n");
}

#[test]
fn a_file_that_is_emptied_in_its_place_is_written_from_its_beginning() {
    let (_dir, path) = place();
    let mut file = AuditFile::new(path.clone());
    append(&mut file, "1\n");
    // As logrotate's `copytruncate` does.
    fs::File::options().write(true).truncate(true).open(&path).unwrap();
    append(&mut file, "2\n");
    assert_eq!(text(&path), "2\n");
}

#[test]
fn a_line_that_a_crash_tore_is_ended_before_the_next() {
    let (_dir, path) = place();
    fs::write(&path, "{\"whole\":1}\n{\"torn\":").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let mut file = AuditFile::new(path.clone());
    append(&mut file, LINE);
    append(&mut file, LINE);
    assert_eq!(text(&path), format!("{{\"whole\":1}}\n{{\"torn\":\n{LINE}{LINE}"));
}

fn check_refused(path: &Path, what: &str) {
    for read in [false, true] {
        let error = match read {
            false => AuditFile::new(path.to_owned()).append(LINE, Weight::Durable).unwrap_err(),
            true => open_to_read(path).unwrap_err(),
        };
        let text = error.to_string();
        assert!(matches!(error, FileError::NotSafe { .. }) && text.contains(what), "{text}");
    }
}

#[test]
fn what_could_lead_elsewhere_is_not_written_to() {
    let (dir, path) = place();
    let target = dir.path().join("target");
    fs::write(&target, "untouched").unwrap();
    symlink(&target, &path).unwrap();
    check_refused(&path, "symbolic link");
    fs::remove_file(&path).unwrap();
    // One that leads nowhere must not make a file there.
    symlink(dir.path().join("nowhere"), &path).unwrap();
    check_refused(&path, "symbolic link");
    assert!(!dir.path().join("nowhere").exists());
    fs::remove_file(&path).unwrap();
    fs::hard_link(&target, &path).unwrap();
    check_refused(&path, "second name");
    assert_eq!(text(&target), "untouched");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o622)).unwrap();
    check_refused(&path, "others can write");
}

#[test]
fn a_fifo_and_a_device_hold_up_nobody() {
    let (_dir, path) = place();
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    // Without a reader, then with one.
    check_refused(&path, "no plain file");
    let reader = OFlags::RDONLY | OFlags::NONBLOCK;
    let _reader = rustix::fs::open(&path, reader, Mode::empty()).unwrap();
    check_refused(&path, "no plain file");
    let null = AuditFile::new(PathBuf::from("/dev/null")).append(LINE, Weight::Usual);
    assert!(null.is_err());
}

#[test]
fn a_missing_directory_and_a_directory_are_told_with_the_file() {
    let (dir, path) = place();
    let below = path.join("audit.jsonl");
    let error = AuditFile::new(below.clone()).append(LINE, Weight::Usual).unwrap_err().to_string();
    assert_eq!(error, format!("making {}", below.display()));
    assert!(AuditFile::new(dir.path().to_owned()).append(LINE, Weight::Usual).is_err());
}

#[test]
fn a_file_that_is_opened_to_others_while_it_is_written_is_written_no_more_until_that_is_mended() {
    let (dir, path) = place();
    let mut file = AuditFile::new(path.clone());
    append(&mut file, "1\n");
    let refused = |file: &mut AuditFile| match file.append("2\n", Weight::Usual) {
        Err(FileError::NotSafe { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert!(refused(&mut file).contains("chmod go-w"));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let second = dir.path().join("second");
    fs::hard_link(&path, &second).unwrap();
    assert!(refused(&mut file).contains("hard link"));
    fs::remove_file(&second).unwrap();
    append(&mut file, "3\n");
    assert_eq!(text(&path), "1\n3\n");
}
