//! Passwords stay with the agent: in no byte that it sends to a client, logs, writes down or gives
//! to a child, whatever a store makes of them and whatever is wrong with the configuration.
//!
//! Each password of these tests has [`CANARY`] in it, and so has every other that a test of an
//! agent uses: when an agent ends, its state and its log are looked through for it, and `tests/run`
//! does the same with all that the tests printed.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::agent::{Agent, CANARY, program};
use crate::postgres_server::PostgresServer;
use crate::program::{Ran, run};
use crate::redis_server::RedisServer;
use crate::until;

/// Everything that any library has to say, too.
const ALL_LOGS: &str = "trace,stormlock_agent=trace";
/// How long one command may take.
const LONGEST: Duration = Duration::from_secs(60);
/// A port that nobody listens on.
const NOBODY: &str = "127.0.0.1:9";

/// A relay before the agent's socket, and all that the agent sent through it.
struct Tap {
    socket: PathBuf,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    fn before(agent: &Agent) -> Tap {
        let (socket, upstream) = (agent.file("tap"), agent.socket());
        let listener = UnixListener::bind(&socket).expect("a socket in the agent's folder");
        let sent = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&sent);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(&upstream) else { continue };
                let clone = |stream: &UnixStream| stream.try_clone().expect("the same socket");
                let (from, to) = (clone(&client), clone(&server));
                thread::spawn(move || copies(from, to, |_| {}));
                let all = Arc::clone(&all);
                thread::spawn(move || {
                    copies(server, client, |bytes| all.lock().unwrap().extend_from_slice(bytes));
                });
            }
        });
        Tap { socket, sent }
    }

    fn ctl(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(program("stormctl"));
        command.arg("--socket").arg(&self.socket).args(args);
        let ran = run(&mut command, LONGEST);
        is_clean(&format!("{args:?}"), format!("{ran:?}").as_bytes());
        ran
    }
}

fn copies(mut from: UnixStream, mut to: UnixStream, note: impl Fn(&[u8])) {
    let mut bytes = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        note(&bytes[..length]);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn is_clean(what: &str, bytes: &[u8]) {
    let found = bytes.windows(CANARY.len()).any(|it| it == CANARY.as_bytes());
    assert!(!found, "{what}: {}", String::from_utf8_lossy(bytes));
}

fn private(agent: &Agent, name: &str, text: &str) -> String {
    let file = agent.file(name);
    fs::write(&file, text).expect("a file of ours");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("its mode");
    file.display().to_string()
}

/// Each kind of store with a password, from each kind of place: stores that take it, that refuse
/// it and that are not there.
fn config(agent: &Agent, redis: u16, postgres: u16) -> String {
    let file = private(agent, "file.secret", &format!("{CANARY}-file\n"));
    let program = agent.file("program").display().to_string();
    let seen = agent.file("program.env").display().to_string();
    fs::write(&program, format!("#!/bin/sh\nenv >'{seen}'\nexec cat >/dev/null\n"))
        .expect("a file");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("its mode");
    let redis_of = |name: &str, address: &str, password: &str| {
        format!("[backend.{name}]\nkind = \"redis\"\nurl = \"redis://{address}\"\n{password}\n")
    };
    let here = format!("127.0.0.1:{redis}");
    let stores = [
        redis_of("good", &here, &format!("password = \"{CANARY}-good\"")),
        redis_of("wrong", &here, &format!("username = \"otto\"\npassword = \"{CANARY}-wrong\"")),
        redis_of("file", &here, &format!("password_file = \"{file}\"")),
        redis_of("environment", &here, "password_env = \"STORMLOCK_TEST_SECRET\""),
        redis_of("credential", &here, "password_credential = \"redis\""),
        redis_of("away", NOBODY, &format!("password = \"{CANARY}-away\"")),
        format!(
            "[backend.pg]\nkind = \"postgres\"\nurl = \"postgres://127.0.0.1:{postgres}/locks\"\n\
             username = \"otto\"\n\
             password = \"{CANARY}-pg\"\n"
        ),
        format!(
            "[backend.etcd]\nkind = \"etcd\"\nendpoints = [\"http://{NOBODY}\"]\n\
             username = \"otto\"\npassword = \"{CANARY}-etcd\"\n"
        ),
        format!(
            "[backend.dynamo]\nkind = \"dynamodb\"\nregion = \"us-east-1\"\n\
             endpoint_url = \"http://127.0.0.1:{redis}\"\naccess_key_id = \"AKIATEST\"\n\
             secret_access_key = \"{CANARY}-dynamo\"\n"
        ),
        format!(
            "[backend.exec]\nkind = \"exec\"\ncommand = [\"{program}\"]\n\
             password = \"{CANARY}-exec\"\n"
        ),
    ];
    let names =
        NAMES.map(|name| format!("[[resource]]\nnames = [\"{name}/*\"]\nbackend = \"{name}\"\n"));
    format!("host = \"alpha\"\ndefault_backend = \"good\"\n{}{}", stores.concat(), names.concat())
}

const NAMES: [&str; 10] =
    ["good", "wrong", "file", "environment", "credential", "away", "pg", "etcd", "dynamo", "exec"];

fn starts(agent: &mut Agent, redis: &RedisServer, postgres: &PostgresServer) {
    let text = config(agent, redis.port(), postgres.port());
    agent.configure(&text);
    fs::create_dir(agent.file("credentials")).expect("a folder");
    private(agent, "credentials/redis", &format!("{CANARY}-credential"));
    let credentials = agent.file("credentials");
    agent.restart_with(|command| {
        command.env("STORMLOCK_TEST_SECRET", format!("{CANARY}-environment"));
        command.env("CREDENTIALS_DIRECTORY", credentials).env("STORMLOCK_LOG", ALL_LOGS);
    });
}

#[test]
fn no_password_is_in_any_byte_that_leaves_the_agent() {
    let password = format!("{CANARY}-good");
    let redis = RedisServer::start_with(&["--requirepass", &password]);
    let postgres = PostgresServer::start_with(&[], "host all all 127.0.0.1/32 scram-sha-256\n");
    let mut agent = Agent::prepare("");
    starts(&mut agent, &redis, &postgres);
    let tap = Tap::before(&agent);
    let ran = tap.ctl(&["acquire", "good/db", "-m", "migration", "--keep"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for name in &NAMES[1..] {
        for args in [&["acquire", "-o", "json"][..], &["current"], &["wait", "--timeout", "1s"]] {
            let on = format!("{name}/db");
            let ran = tap.ctl(&[args, &[&on]].concat());
            assert!(ran.code != Some(0) && ran.stdout.is_empty(), "{ran:?}");
        }
    }
    for args in [
        &["doctor"][..],
        &["doctor", "-o", "json"],
        &["-v", "status"],
        &["status", "-o", "json"],
        &["list"],
        &["log", "-n", "100"],
        &["metrics"],
    ] {
        assert!(!tap.ctl(args).stdout.is_empty(), "{args:?}");
    }
    // What a command under a lease is given.
    let ran = tap.ctl(&["run", "good/run", "--", "env"]);
    assert!(ran.stdout.contains("STORMLOCK_LEASE="), "{ran:?}");
    // What is wrong with a configuration is told with the line, and without what stands there.
    let text = config(&agent, redis.port(), postgres.port());
    for (from, to) in [
        ("password = \"", "password = "),
        ("password = \"", "pasword = \""),
        ("secret_access_key = \"", "secret_access_key = [\""),
        ("password = \"", "password = 5 # \""),
        ("url = \"redis://", &format!("url = \"redis://otto:{CANARY}-url@")),
        ("endpoints = [\"http://", &format!("endpoints = [\"http://otto:{CANARY}-url@")),
        ("postgres://", &format!("postgres://otto:{CANARY}-url@")),
        ("kind = \"exec\"", &format!("kind = \"exec\"\nenv = [\"{CANARY}-x\"]")),
    ] {
        let bad = text.replacen(from, to, 1);
        assert_ne!(bad, text, "{from}");
        agent.configure(&bad);
        let before = agent.log().matches("configuration").count();
        agent.signal(Signal::HUP);
        until("it is refused", || {
            (agent.log().matches("configuration").count() > before).then_some(())
        });
        let mut check = Command::new(program("stormlockd"));
        let ran = run(check.arg("check").arg(agent.file("stormlockd.toml")), LONGEST);
        assert_eq!(ran.code, Some(78), "{to}: {ran:?}");
        is_clean(to, format!("{ran:?}").as_bytes());
    }
    agent.configure(&text);
    let log = agent.log();
    assert!(log.contains("TRACE"), "the libraries say nothing");
    is_clean("its log", log.as_bytes());
    let seen = fs::read(agent.file("program.env")).expect("the program was started");
    is_clean("the environment of a program", &seen);
    let sent = tap.sent.lock().unwrap();
    assert!(sent.len() > 10_000, "only {} bytes were sent", sent.len());
    is_clean("the wire", &sent);
    is_clean_below("its state", &agent.state());
}

fn is_clean_below(what: &str, folder: &Path) {
    let mut files = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let file = entry.expect("an entry").path();
        if file.is_file() {
            files += 1;
            is_clean(what, &fs::read(&file).expect("a file"));
        }
    }
    assert!(files >= 2, "{what}: only {files} files");
}

/// Not even its own user reads its memory, its environment or what it has open.
#[test]
fn nobody_looks_into_the_agent() {
    let base = tempfile::tempdir().expect("a folder");
    fs::set_permissions(base.path(), Permissions::from_mode(0o777)).expect("its mode");
    for name in ["stormlockd", "stormctl"] {
        fs::copy(program(name), base.path().join(name)).expect("a copy");
    }
    let script = "
        export XDG_RUNTIME_DIR=$PWD/run XDG_STATE_HOME=$PWD/state HOME=$PWD
        export XDG_CONFIG_HOME=$PWD/config
        mkdir -m 700 run state config
        SECRET=$CANARY-user ./stormlockd --user --log error & agent=$!
        trap 'kill $agent' EXIT
        until ./stormctl status >/dev/null 2>&1; do kill -0 $agent; done
        unset CANARY
        for file in environ mem maps fd/0 exe root; do
            if cat /proc/$agent/$file >/dev/null 2>&1 || ls -L /proc/$agent/$file/ >/dev/null 2>&1
            then echo open: $file; fi
        done
        cat /proc/$$/environ >/dev/null && echo open: its own shell";
    let mut command = Command::new("setpriv");
    command.args(["--reuid=70001", "--regid=70001", "--clear-groups", "sh", "-uc", script]);
    command.current_dir(base.path()).env("CANARY", CANARY);
    let ran = run(&mut command, LONGEST);
    assert_eq!(ran.stdout, "open: its own shell\n", "{ran:?}");
}

#[test]
fn an_agent_that_crashes_leaves_no_core() {
    let mut agent = Agent::prepare(&crate::local());
    agent.restart_under(&["sh", "-c", "ulimit -c unlimited; exec \"$@\"", "sh"], |_| {});
    agent.signal(Signal::ABORT);
    let status = agent.wait();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false), "{status:?}");
}
