//! The example of a backend of one's own, on a file of a test's own. Shared by path between test
//! binaries, so it needs std and tempfile only.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the statements of its second argument on the file of its first, and prints what they find.
const RUN_SQL: &str = "import sqlite3, sys\n\
                       db = sqlite3.connect(sys.argv[1], timeout=20)\n\
                       for statement in sys.argv[2].split(';'):\n    \
                       for row in db.execute(statement):\n        print(row)\n\
                       db.commit()\n";

/// A place for the example's locks.
pub(crate) struct ExecStore {
    dir: tempfile::TempDir,
}

impl ExecStore {
    pub(crate) fn start() -> ExecStore {
        ExecStore { dir: tempfile::tempdir().expect("a directory") }
    }

    /// The file with the locks.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("locks.db")
    }

    /// The program and its argument.
    pub(crate) fn command(&self) -> Vec<String> {
        [example(), self.file()].iter().map(|path| path.display().to_string()).collect()
    }

    /// Runs SQL on the file, as somebody else than the example.
    pub(crate) fn sql(&self, statements: &str) -> String {
        let mut python = Command::new("python3");
        python.args(["-c", RUN_SQL]).arg(self.file()).arg(statements);
        let ran = python.output().expect("python3 (Debian: apt-get install python3)");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{statements}: {said}");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }
}

/// The example itself.
pub(crate) fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sqlite-backend.py")
}
