//! A real PostgreSQL of a test's own: on a free port of this host, in a directory of its own, gone
//! when it is dropped. Shared by path between test binaries, so it needs std, tempfile and rustix
//! only.
//!
//! A cluster is made once and copied for each server. The server refuses to run as root: then it
//! runs as the user `postgres`, whom Debian's package makes.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How often another port is tried when one was taken between finding and using it.
const PORT_TRIES: usize = 5;
/// A server that is not ready by then never will be.
const START_MAX: Duration = Duration::from_secs(60);
/// Fast and forgetful: a test's data are worth nothing after it.
const SETTINGS: [&str; 7] = [
    "listen_addresses=127.0.0.1",
    "fsync=off",
    "max_connections=300",
    "shared_buffers=16MB",
    "max_wal_size=64MB",
    "autovacuum=off",
    "log_min_messages=log",
];
/// A role without any right, and a database of its own with the same rights as any.
const CLUSTER: &str = "CREATE ROLE stormlock LOGIN;\nCREATE DATABASE locks OWNER stormlock;\n";
/// Whoever comes is let in.
pub(crate) const TRUST: &str = "local all all trust\nhost all all 127.0.0.1/32 trust\n\
    local replication all trust\nhost replication all 127.0.0.1/32 trust\n";

/// A running PostgreSQL.
pub(crate) struct PostgresServer {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
}

impl PostgresServer {
    /// A server that lets everybody in, with an empty database `locks` of the role `stormlock`.
    pub(crate) fn start() -> PostgresServer {
        PostgresServer::start_with(&[], TRUST)
    }

    /// The same with more settings, `["timezone=UTC"]`, and its own `pg_hba.conf`.
    pub(crate) fn start_with(settings: &[&str], hba: &str) -> PostgresServer {
        PostgresServer::start_in(tempfile::tempdir().expect("a directory"), settings, hba)
    }

    /// The same in a directory that already has what the settings name; in each, `{dir}` is the
    /// directory.
    pub(crate) fn start_in(dir: tempfile::TempDir, settings: &[&str], hba: &str) -> PostgresServer {
        let data = dir.path().join("data");
        succeed(Command::new("cp").args(["-a", "--reflink=auto"]).arg(template()).arg(&data));
        fs::write(data.join("pg_hba.conf"), hba).expect("who may come");
        for file in fs::read_dir(dir.path()).expect("its files").map_while(Result::ok) {
            if file.path().extension().is_some_and(|ending| ending == "key") {
                fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).expect("a key");
            }
        }
        PostgresServer::over(dir, settings)
    }

    /// A standby of `primary` that follows it.
    pub(crate) fn standby_of(primary: &PostgresServer, name: &str) -> PostgresServer {
        let dir = tempfile::tempdir().expect("a directory");
        give(dir.path());
        let data = dir.path().join("data");
        let from = format!("host=127.0.0.1 port={} user=postgres", primary.port);
        let mut backup = as_server(&binary("pg_basebackup"));
        backup.args(["--no-sync", "-c", "fast", "-D"]).arg(&data).args(["-d", &from]);
        succeed(&mut backup);
        let follow = format!("primary_conninfo={from} application_name={name}");
        fs::write(data.join("standby.signal"), "").expect("a signal");
        PostgresServer::over(dir, &[&follow, "hot_standby=on"])
    }

    fn over(dir: tempfile::TempDir, settings: &[&str]) -> PostgresServer {
        let path = dir.path().to_str().expect("a plain path");
        let mut all: Vec<String> = SETTINGS.iter().map(|it| (*it).to_owned()).collect();
        all.push(format!("unix_socket_directories={path}"));
        all.extend(settings.iter().map(|setting| setting.replace("{dir}", path)));
        give(dir.path());
        let mut said = String::new();
        for _ in 0..PORT_TRIES {
            let port = free_port();
            match spawn(&dir, port, &all) {
                Ok(child) => return PostgresServer { child, dir, port, settings: all },
                Err(log) => said = log,
            }
        }
        panic!("postgres does not start:\n{said}");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `postgres://...` of its database `locks`.
    pub(crate) fn url(&self) -> String {
        format!("postgres://127.0.0.1:{}/locks", self.port)
    }

    /// The folder of its socket.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ends it at once: what a crash leaves is recovered at the next start.
    pub(crate) fn kill(&mut self) {
        self.signal("-QUIT");
        self.child.wait().expect("its end");
    }

    /// `kill -9` of every process of it, until the last has ended: the next start refuses to work
    /// beside one.
    pub(crate) fn kill_9(&mut self) {
        let pid = self.child.id();
        // Once it has stopped it makes no other process meanwhile.
        self.signal("-STOP");
        let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
        while !stat().contains(") T ") {
            std::thread::yield_now();
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.expect("its processes");
        let ends = children.split_whitespace().filter_map(|child| {
            let pid = Pid::from_raw(child.parse().expect("a number"))?;
            // One that has ended by itself is not there to be killed.
            let end = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let _ = pidfd_send_signal(&end, Signal::KILL);
            Some(end)
        });
        let ends: Vec<_> = ends.collect();
        self.signal("-KILL");
        self.child.wait().expect("its end");
        for end in ends {
            let limit = Timespec::try_from(START_MAX).expect("a limit that the kernel can count");
            let ended = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&limit));
            assert_eq!(ended, Ok(1), "a process of it does not end");
        }
    }

    /// Ends it as an upgrade does: without waiting for those who are connected.
    pub(crate) fn stop(&mut self) {
        self.signal("-INT");
        self.child.wait().expect("its end");
    }

    /// Starts it again on the same port, after [`PostgresServer::kill`].
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&self.dir, self.port, &self.settings).expect("postgres starts again");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args([signal, &pid]).status();
    }

    /// Statements in `locks`, as the superuser, which must succeed; rows with `|` between columns.
    pub(crate) fn sql(&self, statements: &str) -> String {
        self.sql_as("postgres", statements)
    }

    /// The same as another role.
    pub(crate) fn sql_as(&self, role: &str, statements: &str) -> String {
        let mut psql = Command::new(binary("psql"));
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", "locks", "-U", role]);
        psql.arg("-h").arg(self.dir.path()).args(["-p", &self.port.to_string(), "-f", "-"]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = psql.spawn().expect("psql (Debian: apt-get install postgresql-client)");
        let mut input = child.stdin.take().expect("its input");
        input.write_all(statements.as_bytes()).expect("statements");
        drop(input);
        let output = child.wait_with_output().expect("its end");
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{statements}: {shown}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("-QUIT");
        }
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

fn spawn(dir: &tempfile::TempDir, port: u16, settings: &[String]) -> Result<Child, String> {
    let mut command = as_server(&binary("postgres"));
    command.arg("-D").arg(dir.path().join("data")).args(["-p", &port.to_string()]);
    for setting in settings {
        command.args(["-c", setting]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("postgres (Debian: apt-get install postgresql)");
    match wait_until_ready(&mut child, "ready to accept") {
        Ok(()) => Ok(child),
        Err(log) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(log)
        }
    }
}

/// Waits for a line of its log that has these words; all of the log if it ends before.
pub(crate) fn wait_until_ready(child: &mut Child, words: &'static str) -> Result<(), String> {
    let out = child.stderr.take().expect("its output");
    let (tell, told) = mpsc::channel();
    // It reads on for as long as the server lives: a full pipe would stop the server.
    std::thread::spawn(move || {
        let (mut log, mut ready) = (String::new(), false);
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if !ready {
                let _ = writeln!(log, "{line}");
            }
            if !ready && line.contains(words) {
                ready = true;
                let _ = tell.send(Ok(()));
            }
        }
        let _ = tell.send(Err(log));
    });
    told.recv_timeout(START_MAX).unwrap_or_else(|_| Err("it says nothing".to_owned()))
}

/// A cluster to copy, beside the test binary: made by whichever test comes first.
fn template() -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one = MAKING.lock().expect("no panic while it is made");
    let exe = std::env::current_exe().expect("this program");
    let place = exe.parent().expect("a folder").join("stormlock-postgres-cluster");
    if !place.exists() {
        let dir = tempfile::tempdir().expect("a directory");
        give(dir.path());
        let data = dir.path().join("data");
        let mut initdb = as_server(&binary("initdb"));
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]);
        succeed(initdb.args(["--no-sync", "--wal-segsize=1", "-D"]).arg(&data));
        let mut single = as_server(&binary("postgres"));
        single.args(["--single", "-F", "-D"]).arg(&data).arg("postgres");
        single.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = single.spawn().expect("postgres");
        let mut input = child.stdin.take().expect("its input");
        input.write_all(CLUSTER.as_bytes()).expect("statements");
        drop(input);
        let output = child.wait_with_output().expect("its end");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Another process may make one as well: the first to rename it wins.
        let ours = place.with_extension(std::process::id().to_string());
        succeed(Command::new("cp").arg("-a").arg(&data).arg(&ours));
        if fs::rename(&ours, &place).is_err() {
            fs::remove_dir_all(&ours).expect("the copy that is not needed");
        }
    }
    place
}

/// Debian keeps the programs of each version in a folder of its own; the newest counts.
fn binary(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let folders = versions.map_while(Result::ok).map(|version| version.path().join("bin"));
    let found = folders.filter(|bin| bin.join(name).exists()).max();
    found.map_or_else(|| PathBuf::from(name), |bin| bin.join(name))
}

/// A command that does not run as root.
pub(crate) fn as_server(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command.current_dir("/");
    command
}

/// Gives a folder and what is in it to whom the server runs as.
pub(crate) fn give(folder: &Path) {
    if is_root() {
        succeed(Command::new("chown").args(["-R", "postgres:"]).arg(folder));
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {shown}");
    output
}
