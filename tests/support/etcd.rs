//! A real etcd of a test's own: one member on free ports of this host, in a directory of its own,
//! gone when it is dropped. Shared by path between test binaries, so it needs std and tempfile
//! only.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How often other ports are tried when one was taken between finding and using it.
const PORT_TRIES: usize = 5;
/// A server that is not ready by then never will be.
const START_MAX: Duration = Duration::from_secs(30);
/// Ready at once, and a lease of one second is one: etcd's own times take a second for an election,
/// and make the shortest lease two.
const FAST: [&str; 2] = ["--heartbeat-interval=10", "--election-timeout=100"];
/// What etcd says when it answers.
const READY: &str = "ready to serve client requests";

/// A running etcd.
pub(crate) struct EtcdServer {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    peer_port: u16,
    args: Vec<String>,
}

impl EtcdServer {
    pub(crate) fn start() -> EtcdServer {
        EtcdServer::start_with(&[])
    }

    /// The same with more settings.
    pub(crate) fn start_with(args: &[&str]) -> EtcdServer {
        let dir = tempfile::tempdir().expect("a directory");
        EtcdServer::start_in(dir, args)
    }

    /// The same in a directory that already has what the settings name; with `--cert-file` it
    /// speaks TLS.
    pub(crate) fn start_in(dir: tempfile::TempDir, args: &[&str]) -> EtcdServer {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut said = String::new();
        for _ in 0..PORT_TRIES {
            let (port, peer_port) = (free_port(), free_port());
            match spawn(&dir, port, peer_port, &args) {
                Ok(child) => return EtcdServer { child, dir, port, peer_port, args },
                Err(log) => said = log,
            }
        }
        panic!("etcd does not start:\n{said}");
    }

    /// Three members of one cluster. Their elections take longer: on a busy machine they would
    /// else hold one after the other.
    pub(crate) fn cluster() -> Vec<EtcdServer> {
        let names = ["a", "b", "c"];
        let peers = names.map(|name| (name, free_port()));
        let all = peers.map(|(name, port)| format!("{name}=http://127.0.0.1:{port}")).join(",");
        let start = |(name, peer_port): (&str, u16)| {
            let (dir, port) = (tempfile::tempdir().expect("a directory"), free_port());
            let args = vec![
                format!("--name={name}"),
                format!("--initial-cluster={all}"),
                "--heartbeat-interval=50".to_owned(),
                "--election-timeout=500".to_owned(),
            ];
            let child = launch(&dir, port, peer_port, &args);
            EtcdServer { child, dir, port, peer_port, args }
        };
        // None is ready before there are two.
        let mut members: Vec<EtcdServer> = peers.into_iter().map(start).collect();
        for member in &mut members {
            wait_until_ready(&mut member.child).expect("a member of a cluster starts");
        }
        members
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `http://...` of its port, or `https://...`.
    pub(crate) fn url(&self) -> String {
        url(self.port, &self.args)
    }

    /// Its directory, with its files.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a kill");
        self.child.wait().expect("its end");
    }

    /// Ends it in its own time, as an upgrade does.
    pub(crate) fn stop(&mut self) {
        self.signal("-TERM");
        self.child.wait().expect("its end");
    }

    /// Starts it again on the same ports, after [`EtcdServer::kill`].
    pub(crate) fn start_again(&mut self) {
        let started = spawn(&self.dir, self.port, self.peer_port, &self.args);
        self.child = started.expect("etcd starts again");
    }

    /// Forgets everything that it stored, after [`EtcdServer::kill`].
    pub(crate) fn wipe(&mut self) {
        std::fs::remove_dir_all(self.dir.path().join("data")).expect("its data are removed");
    }

    /// Stops it in its tracks, without closing anything.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().expect("kill");
        assert!(status.success(), "kill {signal} {pid}");
    }

    /// `etcdctl WORDS…` on it, which must succeed: `server.run("put a b")`.
    pub(crate) fn run(&self, words: &str) -> String {
        self.run_with(words, "")
    }

    /// The same with something to read.
    pub(crate) fn run_with(&self, words: &str, input: &str) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]);
        command.args(words.split(' '));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("etcdctl (Debian: apt-get install etcd-client)");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        let ran = child.wait_with_output().expect("its end");
        assert!(ran.status.success(), "{words}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

fn url(port: u16, args: &[String]) -> String {
    let tls = args.iter().any(|arg| arg.starts_with("--cert-file"));
    format!("{}://127.0.0.1:{port}", if tls { "https" } else { "http" })
}

fn spawn(
    dir: &tempfile::TempDir,
    port: u16,
    peer_port: u16,
    args: &[String],
) -> Result<Child, String> {
    let mut child = launch(dir, port, peer_port, args);
    match wait_until_ready(&mut child) {
        Ok(()) => Ok(child),
        Err(log) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(log)
        }
    }
}

fn launch(dir: &tempfile::TempDir, port: u16, peer_port: u16, args: &[String]) -> Child {
    let clients = url(port, args);
    let peers = format!("http://127.0.0.1:{peer_port}");
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(dir.path().join("data")).args(FAST);
    // A test's data need not survive the host.
    command.arg("--unsafe-no-fsync");
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("default={peers}")]);
    command.args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("etcd (Debian: apt-get install etcd-server)")
}

fn wait_until_ready(child: &mut Child) -> Result<(), String> {
    let log_lines = child.stderr.take().expect("its log");
    let (tell, told) = mpsc::channel();
    // It reads on for as long as the server lives: a full pipe would stop the server.
    std::thread::spawn(move || {
        let (mut log, mut ready) = (String::new(), false);
        for line in BufReader::new(log_lines).lines().map_while(Result::ok) {
            if !ready {
                let _ = writeln!(log, "{line}");
            }
            if !ready && line.contains(READY) {
                ready = true;
                let _ = tell.send(Ok(()));
            }
        }
        let _ = tell.send(Err(log));
    });
    told.recv_timeout(START_MAX).unwrap_or_else(|_| Err("it says nothing".to_owned()))
}
