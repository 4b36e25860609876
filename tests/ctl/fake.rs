//! A scripted agent on a socket of its own, and the real client run against it.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use stormlock_protocol::frame::{self, HEADER_LEN, HELLO_LEN, Hello, Verdict, Welcome};
use stormlock_protocol::message::{
    Agent, Attach, Code, Hold, Lease, Lock, Refusal, Reply, Request, State, Status,
};
use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, Ttl, UnixMs};
use tempfile::TempDir;

/// 2026-11-25T14:02:31Z
pub(crate) const SINCE: UnixMs = UnixMs(1_795_615_351_000);
pub(crate) const ID: &str = "0af1c2d3e4f50617283940515263748f";

/// What the agent does with one question.
#[expect(clippy::large_enum_variant, reason = "a handful for each test")]
pub(crate) enum Act {
    Reply(Reply),
    /// Writes these bytes instead of a frame, then closes.
    Bytes(Vec<u8>),
    /// Writes these bytes and nothing more until the client goes away.
    Part(Vec<u8>),
    /// Closes without a word.
    Close,
    /// Says nothing until the client goes away.
    Mute,
}

/// How the agent answers greetings.
pub(crate) enum Greet {
    Properly,
    /// So many, and has no session for any after them.
    Only(usize),
    With(Welcome),
    Bytes(Vec<u8>),
}

/// A scripted agent. Its acts are used up over all connections, in order.
pub(crate) struct Fake {
    dir: TempDir,
    requests: Receiver<Request>,
}

impl Fake {
    pub(crate) fn new(acts: Vec<Act>) -> Fake {
        Fake::greeting(Greet::Properly, acts)
    }

    pub(crate) fn replying(replies: Vec<Reply>) -> Fake {
        Fake::new(replies.into_iter().map(Act::Reply).collect())
    }

    pub(crate) fn refusing(refusal: Refusal) -> Fake {
        Fake::replying(vec![Reply::Refused(refusal)])
    }

    pub(crate) fn greeting(greet: Greet, acts: Vec<Act>) -> Fake {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("agent.sock")).unwrap();
        let (told, requests) = channel();
        thread::spawn(move || {
            let mut acts = acts.into_iter();
            for (before, stream) in listener.incoming().enumerate() {
                let is_full = matches!(greet, Greet::Only(most) if before >= most);
                let full = Greet::With(Welcome::refusal(Verdict::TooMany));
                let greet = if is_full { &full } else { &greet };
                // A client that goes away ends its session, nothing else.
                let _ = serve(stream.unwrap(), greet, &mut acts, &told);
            }
        });
        Fake { dir, requests }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Runs `stormctl` with these arguments.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args))
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = stormctl();
        command.arg("--socket").arg(self.socket()).args(args);
        command
    }

    /// Runs the client under its second name.
    pub(crate) fn run_stormlock(&self, args: &[&str]) -> Run {
        Run::of(self.stormlock(args))
    }

    pub(crate) fn stormlock(&self, args: &[&str]) -> Command {
        let name = self.dir.path().join("stormlock");
        if !name.exists() {
            symlink(env!("CARGO_BIN_EXE_stormctl"), &name).unwrap();
        }
        let mut command = clean(Command::new(name));
        command.env("STORMLOCK_SOCKET", self.socket()).current_dir(self.dir.path());
        command.env("HOME", self.dir.path()).args(args);
        command
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The next question that the agent was asked.
    pub(crate) fn asked(&self) -> Request {
        self.requests.try_recv().expect("the agent was asked nothing")
    }

    pub(crate) fn was_asked_nothing_more(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

fn serve(
    mut stream: UnixStream,
    greet: &Greet,
    acts: &mut impl Iterator<Item = Act>,
    told: &Sender<Request>,
) -> std::io::Result<()> {
    let mut hello = [0; HELLO_LEN];
    stream.read_exact(&mut hello)?;
    match greet {
        Greet::Properly | Greet::Only(_) => {
            stream.write_all(&Hello::decode(&hello).unwrap().answer().encode())?
        }
        Greet::With(welcome) => return stream.write_all(&welcome.encode()),
        Greet::Bytes(bytes) => return stream.write_all(bytes),
    }
    loop {
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header)?;
        let mut body = vec![0; frame::body_len(header).unwrap()];
        stream.read_exact(&mut body)?;
        told.send(frame::decode(&body).unwrap()).unwrap();
        match acts.next().expect("the script has no act for this question") {
            Act::Reply(reply) => stream.write_all(&frame::encode(&reply).unwrap())?,
            Act::Bytes(bytes) => return stream.write_all(&bytes),
            Act::Close => return Ok(()),
            Act::Part(bytes) => {
                stream.write_all(&bytes)?;
                return until_it_goes(&mut stream);
            }
            Act::Mute => return until_it_goes(&mut stream),
        }
    }
}

fn until_it_goes(stream: &mut UnixStream) -> std::io::Result<()> {
    stream.read_to_end(&mut Vec::new()).map(|_| ())
}

/// `stormctl` with an environment that no developer's shell can change.
pub(crate) fn stormctl() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_stormctl")))
}

fn clean(mut command: Command) -> Command {
    command.env_clear().env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// What a run of the client left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(mut command: Command) -> Run {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let code = status.code().expect("the client was ended by a signal");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code, stdout: text(stdout), stderr: text(stderr) }
    }

    /// Checks code and stderr of a command that failed: stdout is empty then.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, stderr: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        for part in stderr {
            assert!(self.stderr.contains(part), "no {part:?} in {}", self.stderr);
        }
    }

    #[track_caller]
    pub(crate) fn succeeds(&self, stdout: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (0, stdout), "{self:?}");
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        let value: serde_json::Value = serde_json::from_str(&self.stdout).unwrap();
        assert_eq!(value["schema"], 1);
        value
    }

    #[track_caller]
    pub(crate) fn error_json(&self) -> serde_json::Value {
        assert_eq!((self.stdout.as_str(), self.stderr.lines().count()), ("", 1), "{self:?}");
        let value: serde_json::Value = serde_json::from_str(&self.stderr).unwrap();
        assert_eq!(value["schema"], 1);
        assert_eq!(value["error"]["exit"], self.code);
        value["error"].clone()
    }
}

pub(crate) fn resource(name: &str) -> Resource {
    Resource::new(name).unwrap()
}

pub(crate) fn id(text: &str) -> LeaseId {
    text.parse().unwrap()
}

/// A held lease of maria's, with four and a half minutes to go.
pub(crate) fn lease(name: &str, lease: &str) -> Lease {
    Lease {
        resource: resource(name),
        lease: id(lease),
        fence: Some(Fence(41)),
        backend: "main".into(),
        this_host_only: false,
        state: State::Held,
        principal: Principal::new("maria@bastion2").unwrap(),
        reason: Some(Reason::new("schema migration").unwrap()),
        since: SINCE,
        left_ms: 270_999,
        ttl: Ttl::from_secs(300).unwrap(),
        hold: Hold::No,
        attach: Attach::Detached,
        waiters: 0,
        ends_soon: false,
    }
}

/// A lock of another on `prod/db`.
pub(crate) fn lock() -> Lock {
    Lock {
        process: None,
        resource: resource("prod/db"),
        backend: "main".into(),
        this_host_only: false,
        principal: Principal::new("otto@bastion3").unwrap(),
        host: Some("bastion3".into()),
        lease: id(ID),
        fence: Some(Fence(41)),
        reason: Some(Reason::new("schema migration").unwrap()),
        since: SINCE,
        left_ms: Some(270_999),
        mine: false,
        waiters: 0,
    }
}

pub(crate) fn held_by(lock: Lock) -> Refusal {
    let refusal = Refusal::new(Code::Held, "held by another").about(&lock.resource);
    Refusal { holder: Some(Box::new(lock)), ..refusal }
}

pub(crate) fn status(leases: Vec<Lease>) -> Status {
    Status {
        agent: Agent {
            version: env!("CARGO_PKG_VERSION").into(),
            host: "bastion2".into(),
            pid: 77,
            since: SINCE,
            you: Principal::new("maria@bastion2").unwrap(),
            journal_works: true,
        },
        leases,
        next: None,
        backends: Vec::new(),
    }
}
