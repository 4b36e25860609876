//! A real redis-server of a test's own: on a free port of this host, in a directory of its own,
//! gone when it is dropped. Shared by path between test binaries, so it needs std and tempfile
//! only.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How often another port is tried when one was taken between finding and using it.
const PORT_TRIES: usize = 5;
/// A server that is not ready by then never will be.
const START_MAX: Duration = Duration::from_secs(30);

/// A running redis-server.
pub(crate) struct RedisServer {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    args: Vec<String>,
    password: Option<String>,
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Option<Vec<u8>>),
    Array(Vec<Answer>),
}

impl RedisServer {
    /// A server that keeps everything in memory, without a password.
    pub(crate) fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// The same with more settings: `["--maxmemory", "1mb"]`. In each, `{dir}` is the server's
    /// directory and `{port}` its free port: with `--port 0` for something else (`--tls-port`).
    pub(crate) fn start_with(args: &[&str]) -> RedisServer {
        let dir = tempfile::tempdir().expect("a directory");
        RedisServer::start_in(dir, args)
    }

    /// The same in a directory that already has what the settings name.
    pub(crate) fn start_in(dir: tempfile::TempDir, args: &[&str]) -> RedisServer {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let password = args.iter().position(|arg| arg == "--requirepass");
        let password = password.and_then(|at| args.get(at + 1).cloned());
        let mut said = String::new();
        for _ in 0..PORT_TRIES {
            let port = free_port();
            match spawn(&dir, port, &args) {
                Ok(child) => return RedisServer { child, dir, port, args, password },
                Err(log) => said = log,
            }
        }
        panic!("redis-server does not start:\n{said}");
    }

    /// A sentinel with its configuration in `file`, which it rewrites.
    pub(crate) fn sentinel_in(dir: tempfile::TempDir, file: &std::path::Path) -> RedisServer {
        let file = file.to_str().expect("a plain path");
        RedisServer::start_in(dir, &[file, "--sentinel"])
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `redis://...` of its port.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
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

    /// Starts it again on the same port, after [`RedisServer::kill`].
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&self.dir, self.port, &self.args).expect("redis-server starts again");
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

    /// One command, as the default user, over its Unix socket.
    pub(crate) fn command<A: AsRef<[u8]>>(&self, words: &[A]) -> Answer {
        let mut stream = UnixStream::connect(self.socket()).expect("its socket");
        stream.set_read_timeout(Some(START_MAX)).expect("a timeout");
        let mut answers = BufReader::new(stream.try_clone().expect("the same socket"));
        if let Some(password) = &self.password {
            stream.write_all(&encode(&["AUTH", password])).expect("a password");
            assert_eq!(read(&mut answers), Answer::Simple("OK".to_owned()));
        }
        stream.write_all(&encode(words)).expect("a command");
        read(&mut answers)
    }

    /// The same in words without spaces, which must succeed: `server.run("SET a b")`.
    pub(crate) fn run(&self, command: &str) -> Answer {
        let words: Vec<&str> = command.split(' ').collect();
        match self.command(&words) {
            Answer::Error(error) => panic!("{command}: {error}"),
            answer => answer,
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    /// The text of an answer that is one.
    pub(crate) fn text(&self) -> String {
        match self {
            Answer::Simple(text) | Answer::Error(text) => text.clone(),
            Answer::Bulk(Some(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("no text: {other:?}"),
        }
    }
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

fn spawn(dir: &tempfile::TempDir, port: u16, args: &[String]) -> Result<Child, String> {
    let path = dir.path().to_str().expect("a plain path");
    let fill = |arg: &str| arg.replace("{dir}", path).replace("{port}", &port.to_string());
    let mut command = Command::new("redis-server");
    // A configuration file, which only a sentinel needs, comes first.
    let (files, args): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.starts_with('/'));
    command.args(files);
    command.args(["--bind", "127.0.0.1", "--protected-mode", "no", "--appendonly", "no"]);
    command.args(["--save", "", "--daemonize", "no", "--logfile", "", "--dir", path]);
    command.args(["--unixsocket", &format!("{path}/s")]);
    if !args.iter().any(|arg| *arg == "--port") {
        command.args(["--port", &port.to_string()]);
    }
    command.args(args.into_iter().map(|arg| fill(arg)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("redis-server (Debian: apt-get install redis-server)");
    match wait_until_ready(&mut child) {
        Ok(()) => Ok(child),
        Err(log) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(log)
        }
    }
}

fn wait_until_ready(child: &mut Child) -> Result<(), String> {
    let out = child.stdout.take().expect("its output");
    let (tell, told) = mpsc::channel();
    // It reads on for as long as the server lives: a full pipe would stop the server.
    std::thread::spawn(move || {
        let (mut log, mut ready) = (String::new(), false);
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if !ready {
                let _ = writeln!(log, "{line}");
            }
            let is_ready = |words: &&str| line.contains(*words);
            if !ready && ["ready to accept connections at", "+monitor"].iter().any(is_ready) {
                ready = true;
                let _ = tell.send(Ok(()));
            }
        }
        let _ = tell.send(Err(log));
    });
    told.recv_timeout(START_MAX).unwrap_or_else(|_| Err("it says nothing".to_owned()))
}

fn encode<A: AsRef<[u8]>>(words: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend(word);
        bytes.extend(b"\r\n");
    }
    bytes
}

fn read(stream: &mut impl BufRead) -> Answer {
    let mut line = String::new();
    stream.read_line(&mut line).expect("an answer");
    let line = line.trim_end();
    let Some((kind, rest)) = line.split_at_checked(1) else { panic!("the server hung up") };
    let count = || rest.parse::<i64>().expect("a number");
    match kind {
        "+" => Answer::Simple(rest.to_owned()),
        "-" => Answer::Error(rest.to_owned()),
        ":" => Answer::Int(count()),
        "*" => Answer::Array((0..count()).map(|_| read(stream)).collect()),
        "$" if rest == "-1" => Answer::Bulk(None),
        "$" => {
            let mut bytes = vec![0; usize::try_from(count()).expect("a length") + 2];
            stream.read_exact(&mut bytes).expect("a text");
            bytes.truncate(bytes.len() - 2);
            Answer::Bulk(Some(bytes))
        }
        other => panic!("a {other:?} answer"),
    }
}
