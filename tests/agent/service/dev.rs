//! `dev`: a private agent for one command. It is found without a word, nobody else gets in, and
//! nothing of it is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{ok, path, run_it, stormlockd};
use crate::dice::now_ms;
use crate::program::{Ran, ends_within};
use crate::redis_server::{Answer, RedisServer};
use crate::{readme, until};

const STOP_MAX: Duration = Duration::from_secs(20);
const PASSWORD: &str = "canary-5f1e-hunter2";

/// Where the private folders are made.
struct Base(TempDir);

impl Base {
    fn new() -> Base {
        Base(tempfile::tempdir().expect("a folder"))
    }

    fn dev(&self, args: &[&str]) -> Command {
        let mut command = stormlockd(&["dev"]);
        command.args(args).env("TMPDIR", self.0.path()).env_remove("STORMLOCK_SOCKET");
        command
    }

    /// Runs a shell script in a private agent; nothing may stay behind.
    fn script(&self, args: &[&str], script: &str) -> Ran {
        let ran = run_it(self.dev(args).args(["--", "sh", "-euc", script]));
        assert_eq!(self.left(), Vec::<PathBuf>::new(), "left behind");
        ran
    }

    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path()).expect("the folder");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }
}

/// A `dev` that a test ends.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        Running(command.spawn().expect("stormlockd can be started"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("our own child takes a signal");
    }

    fn wait(&mut self) -> ExitStatus {
        assert!(ends_within(&self.0, STOP_MAX), "it does not end");
        self.0.wait().expect("our own child can be waited for")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_command_finds_stormctl_and_its_private_agent_without_a_word() {
    let base = Base::new();
    let ran = base.script(
        &[],
        "lease=$(stormctl acquire demo/db -m 'first try' --for 1h)
         test ${#lease} = 32
         stormctl status
         stormctl release demo/db >&2
         ! stormctl is-held demo/db",
    );
    let said = ok(ran);
    assert!(said.contains("demo/db") && said.contains("first try"), "{said}");
}

/// As it stands there, but for the build before it.
#[test]
fn the_first_command_of_the_readme_takes_shows_and_gives_back() {
    let block = readme::block("first try");
    let (_, words) = block.split_once("stormlockd dev -- sh -c").expect("a script for a shell");
    let script = words.trim().strip_prefix('\'').and_then(|words| words.strip_suffix('\''));
    let ran = Base::new().script(&[], script.expect("it stands in quotes"));
    assert!(ran.stderr.contains("demo/db is released"), "{ran:?}");
    let said = ok(ran);
    let shown = said.lines().find(|line| line.contains("demo/db"));
    assert!(shown.is_some_and(|line| line.contains("first try")), "{said}");
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let base = Base::new();
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
    {
        assert_eq!(base.script(&[], script).code, Some(code), "{script}");
    }
    let missing = run_it(&mut base.dev(&["--", "no-such-command-here"]));
    assert_eq!(missing.code, Some(127), "{missing:?}");
    assert!(missing.stderr.contains("running no-such-command-here: "), "{missing:?}");
    let plain = run_it(&mut base.dev(&["--", "/etc/passwd"]));
    assert_eq!(plain.code, Some(126), "{plain:?}");
    assert_eq!(base.left(), Vec::<PathBuf>::new(), "left behind");
}

#[test]
fn a_lease_in_a_store_is_given_back_when_the_command_ends() {
    let (base, store) = (Base::new(), RedisServer::start());
    let ran = base.script(
        &["--backend", &store.url()],
        "stormctl acquire prod/db --keep; stormctl acquire prod/two; stormctl list -o tsv",
    );
    let said = ok(ran);
    assert!(said.contains("prod/db") && said.contains("prod/two"), "{said}");
    assert_eq!(store.run("EXISTS prod/db prod/two"), Answer::Int(0), "left in the store");
    // Also when the command is killed while it holds.
    let killed =
        base.script(&["--backend", &store.url()], "stormctl acquire prod/db --keep; kill -KILL $$");
    assert_eq!(killed.code, Some(137));
    assert_eq!(store.run("EXISTS prod/db"), Answer::Int(0), "left in the store");
}

#[test]
fn two_at_once_do_not_meet() {
    let base = Base::new();
    let ran = base.script(
        &[],
        "stormctl acquire same >&2
         first=$STORMLOCK_SOCKET
         stormlockd dev -- sh -euc '
             test \"$STORMLOCK_SOCKET\" != \"$0\"
             stormctl acquire same >&2
             stormctl acquire other >&2
             stormctl list -o tsv
         ' \"$first\"
         stormctl is-held same
         ! stormctl is-held other",
    );
    let said = ok(ran);
    assert!(said.contains("same") && said.contains("other"), "{said}");
}

#[test]
fn socket_and_journal_are_the_users_alone() {
    let ran = Base::new().script(
        &[],
        "stormctl acquire demo/db >&2
         dir=$(dirname \"$STORMLOCK_SOCKET\")
         stat -c '%a %F' \"$dir\" \"$STORMLOCK_SOCKET\" \"$dir/state\" \"$dir/state/journal\"",
    );
    let said = ok(ran);
    assert_eq!(said, "700 directory\n600 socket\n700 directory\n600 regular file\n");
}

/// Everything that a child can see of its private agent is without the password; gives what ps
/// shows of the agent itself.
fn is_kept_from_the_child(base: &Base, args: &[&str]) -> String {
    let seen = base.0.path().join("seen");
    fs::create_dir(&seen).expect("a folder");
    let script = format!(
        "cd '{}'
         stormctl acquire prod/db --keep >&2
         cat /proc/self/environ >environ
         cat /proc/$$/cmdline >cmdline
         stormctl -v status >status
         stormctl doctor >doctor
         cp -r \"$(dirname \"$STORMLOCK_SOCKET\")/state\" state
         tr '\\0' ' ' </proc/$PPID/cmdline",
        path(&seen)
    );
    let mut dev = base.dev(args);
    if args.contains(&"--config") {
        dev.env("HUSH", PASSWORD);
    }
    let ran = run_it(dev.args(["--", "sh", "-euc", &script]));
    assert!(!ran.stderr.contains(PASSWORD), "{ran:?}");
    let own = ok(ran);
    let mut files = 0;
    for file in walk(&seen) {
        files += 1;
        let bytes = fs::read(&file).expect("a file");
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(PASSWORD), "{} has it: {text}", file.display());
    }
    assert!(files >= 6, "only {files} files were looked at");
    own
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let entry = entry.expect("an entry").path();
        if entry.is_dir() { files.extend(walk(&entry)) } else { files.push(entry) }
    }
    files
}

#[test]
fn a_password_stays_with_the_agent_and_where_the_user_typed_it() {
    let store = RedisServer::start_with(&["--requirepass", PASSWORD]);
    let base = Base::new();
    let file = base.0.path().join("stormlock.toml");
    let config = format!(
        "[backend.main]\nkind = \"redis\"\nurl = \"{}\"\npassword_env = \"HUSH\"\n",
        store.url()
    );
    fs::write(&file, config).expect("a configuration");
    let own = is_kept_from_the_child(&base, &["--config", path(&file)]);
    assert!(own.contains("dev --config") && !own.contains(PASSWORD), "{own}");
    let help = ok(run_it(&mut base.dev(&["--help"])));
    assert!(help.contains("Others see a password in it (ps)"), "{help}");
}

#[test]
fn a_password_in_the_url_is_seen_in_the_command_line_that_the_user_typed_and_nowhere_else() {
    let store = RedisServer::start_with(&["--requirepass", PASSWORD]);
    let url = store.url().replace("redis://", &format!("redis://:{PASSWORD}@"));
    let own = is_kept_from_the_child(&Base::new(), &["--log", "debug", "--backend", &url]);
    assert!(own.contains(PASSWORD), "ps shows what was typed: {own}");
}

#[test]
fn sigterm_ends_the_command_and_gives_its_lease_back() {
    let (base, store) = (Base::new(), RedisServer::start());
    let held = "stormctl acquire prod/db --keep; exec tail -f /dev/null";
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut dev = base.dev(&["--backend", &store.url(), "--", "sh", "-c", held]);
        let mut dev = Running::start(dev.stdout(Stdio::null()).stderr(Stdio::null()));
        let taken = || (store.run("EXISTS prod/db") == Answer::Int(1)).then_some(());
        until("the command holds it", taken);
        let child = until("the command is at work", || child_of(dev.0.id(), "tail"));
        let began = now_ms();
        dev.signal(signal);
        assert_eq!(dev.wait().code(), Some(code));
        assert!(now_ms() - began < 5000, "it took {} ms", now_ms() - began);
        assert!(!is_alive(child), "the command is left behind");
        assert_eq!(store.run("EXISTS prod/db"), Answer::Int(0), "left in the store");
        assert_eq!(base.left(), Vec::<PathBuf>::new(), "left behind");
    }
}

/// The child of a process that runs this program.
fn child_of(parent: u32, program: &str) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().map(|pid| pid.parse().expect("a number")).find(|pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == program
    })
}

fn is_alive(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}

#[test]
fn a_backend_that_is_none_is_a_bad_argument_and_a_bad_file_is_said() {
    let base = Base::new();
    for url in ["http://127.0.0.1/", "redis://", "nothing"] {
        let ran = run_it(&mut base.dev(&["--backend", url, "--", "true"]));
        assert_eq!(ran.code, Some(64), "{url}: {ran:?}");
        assert!(ran.stderr.contains("--backend"), "{ran:?}");
    }
    let file = base.0.path().join("stormlock.toml");
    fs::write(&file, "host = 1\n").expect("a configuration");
    let ran = run_it(&mut base.dev(&["--config", path(&file), "--", "true"]));
    assert_eq!(ran.code, Some(78), "{ran:?}");
    assert!(ran.stderr.contains("stormlock.toml:1:"), "{ran:?}");
}
