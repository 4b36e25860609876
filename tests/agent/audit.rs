//! What the agent writes down: one whole line for each change of hands and each refusal, whatever
//! becomes of the file; `log` shows it, `metrics` counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use stormlock_protocol::frame::{self, Hello};
use stormlock_protocol::message::{Hold, Log, Release, Request, Target};

use crate::agent::{Agent, program};
use crate::day::{ok, says};
use crate::meanwhile::Meanwhile;
use crate::program::run;
use crate::redis_server::RedisServer;
use crate::{acquire, local, resource, until, wish};

const DENIED: i32 = 77;
const FILE: &str = "audit.jsonl";
/// Leases that change hands while the file is put away again and again.
const ROUNDS: usize = 300;
/// Crashes while leases are taken.
const CRASHES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// A configuration on which other users are let on the socket: some may take `free/*`, all may see
/// what is below `open/` and `free/`.
fn shared() -> String {
    format!(
        "{}\n[[rule]]\nwho = [\"everyone\"]\nresources = [\"free/*\"]\nmay = [\"acquire\"]\n\
         [[rule]]\nwho = [\"everyone\"]\nresources = [\"open/*\"]\nmay = [\"read\"]\n",
        local()
    )
}

/// The lines of a file; each has to be whole.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end: {text}");
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn audit(agent: &Agent) -> Vec<Value> {
    // What was recorded before it is asked is written before it answers.
    let ask = Log { resource: None, since: None, before: None, limit: 1 };
    agent.client().expect("it answers").log(ask).expect("a page");
    lines(&agent.state().join(FILE))
}

/// How many lines have their end.
fn ends(agent: &Agent) -> usize {
    fs::read_to_string(agent.state().join(FILE)).unwrap_or_default().matches('\n').count()
}

fn word(line: &Value, key: &str) -> String {
    line[key].as_str().unwrap_or_default().to_owned()
}

/// Event, result and resource of each line.
fn told(lines: &[Value]) -> Vec<String> {
    let told = |line| [word(line, "event"), word(line, "result"), word(line, "resource")].join(" ");
    lines.iter().map(told).collect()
}

/// Runs `stormctl ARGS` as another user, who may reach the socket.
fn as_user(agent: &Agent, uid: u32, args: &[&str]) -> crate::program::Ran {
    let open = |path: &Path, mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(path, permissions).expect("our own files");
    };
    open(agent.socket().parent().expect("a folder"), 0o711);
    open(&agent.socket(), 0o666);
    // The build may be where nobody else may look.
    let ctl = agent.file("stormctl");
    if !ctl.exists() {
        fs::copy(program("stormctl"), &ctl).expect("a copy of the client");
        open(&ctl, 0o755);
    }
    let uid = uid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]).arg(ctl);
    run(command.arg("--socket").arg(agent.socket()).args(args), PATIENCE)
}

#[test]
fn each_change_of_hands_is_one_line_that_says_by_whom() {
    let agent = Agent::start(&local());
    let id = ok(agent.ctl(&["acquire", "prod/db", "-m", "migration 42", "--keep"]));
    ok(agent.ctl(&["renew", "prod/db", "--for", "1h"]));
    ok(agent.ctl(&["current", "prod/db"]));
    ok(agent.ctl(&["release", "prod/db"]));
    ok(agent.ctl(&["run", "prod/run", "--", "true"]));
    ok(agent.ctl(&["acquire", "prod/short", "--ttl", "1s"]));
    ok(agent.ctl(&["wait", "prod/short"]));
    let lines = audit(&agent);
    let expected = [
        "acquire ok prod/db",
        "release ok prod/db",
        "acquire ok prod/run",
        "release ok prod/run",
        "acquire ok prod/short",
        "lost expired prod/short",
    ];
    assert_eq!(told(&lines), expected);
    let me = rustix::process::geteuid().as_raw();
    for line in &lines[..2] {
        assert_eq!(word(line, "lease"), id.trim());
        assert_eq!((word(line, "by").as_str(), line["uid"].as_u64()), ("caller", Some(me.into())));
        assert_eq!((word(line, "backend"), word(line, "host")), ("here".into(), "alpha".into()));
        assert_eq!(word(line, "reason"), "migration 42");
        assert!(line["pid"].as_u64() > Some(0) && line["fence"].as_u64() > Some(0), "{line}");
        assert!(word(line, "time").ends_with('Z') && word(line, "boot").len() == 36, "{line}");
    }
    assert_eq!(word(&lines[5], "by"), "agent");
    assert_eq!(fs::metadata(agent.state().join(FILE)).expect("a file").mode() & 0o777, 0o600);
}

/// Sends a greeting and one request after the other (frames in hexadecimal), as somebody who logged
/// in as user 4242.
const LOGGED_IN: &str = "
import socket, sys
with open('/proc/self/loginuid', 'w') as login:
    login.write('4242')
agent = socket.socket(socket.AF_UNIX)
agent.connect(sys.argv[1])
read = lambda count: agent.recv(count, socket.MSG_WAITALL)
for number, ask in enumerate(sys.argv[2:]):
    agent.sendall(bytes.fromhex(ask))
    if number == 0:
        print('sent', flush=True)
        read(16)
    read(int.from_bytes(read(4), 'little'))
";

#[test]
fn who_logged_in_is_said_also_of_one_who_began_with_a_prompt() {
    let agent = Agent::start(&local());
    let frame = |ask: &Request| frame::encode(ask).expect("a request");
    let acquire = |name| frame(&Request::Acquire(wish(name, Hold::Keep)));
    let greeting = |ask: Vec<u8>| [&Hello::OURS.encode()[..], &ask].concat();
    let conversations = [
        vec![greeting(acquire("prod/asked"))],
        vec![greeting(frame(&Request::Glance)), acquire("prod/glanced")],
    ];
    for asks in conversations {
        let mut python = Command::new("python3");
        python.args(["-c", LOGGED_IN]).arg(agent.socket());
        let hex = |ask: &Vec<u8>| ask.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // The agent sees the connection and the first request at once, as it does a prompt's.
        agent.pause();
        python.args(asks.iter().map(hex)).stdout(Stdio::piped());
        let mut python = python.spawn().expect("python3");
        let said = BufReader::new(python.stdout.take().expect("a pipe")).lines().next();
        agent.resume();
        assert_eq!(said.and_then(Result::ok).as_deref(), Some("sent"));
        assert!(python.wait().expect("it ends").success());
    }
    let lines = audit(&agent);
    assert_eq!(told(&lines), ["acquire ok prod/asked", "acquire ok prod/glanced"]);
    for line in lines {
        assert_eq!(line["login_uid"].as_u64(), Some(4242), "{line}");
    }
}

#[test]
fn what_policy_refused_is_written_down_and_another_user_sees_what_they_may() {
    let agent = Agent::start(&shared());
    let other = 1234;
    says(&as_user(&agent, other, &["acquire", "open/db"]), DENIED, &["may not acquire open/db"]);
    says(&as_user(&agent, other, &["acquire", "secret/db"]), DENIED, &["no rule"]);
    let mine = ok(agent.ctl(&["acquire", "open/mine", "--keep"]));
    let release = ["release", "open/mine", "--lease", mine.trim()];
    says(&as_user(&agent, other, &release), DENIED, &["open/mine"]);
    ok(as_user(&agent, other, &["acquire", "free/theirs", "--keep"]));
    let lines = audit(&agent);
    let expected = [
        "acquire denied open/db",
        "acquire denied secret/db",
        "acquire ok open/mine",
        "release denied open/mine",
        "acquire ok free/theirs",
    ];
    assert_eq!(told(&lines), expected);
    assert_eq!(word(&lines[3], "lease"), mine.trim());
    assert!(lines.iter().all(|line| line["uid"] != other || word(line, "user") == "1234"));

    let log = ok(as_user(&agent, other, &["log", "-o", "jsonl"]));
    let seen: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let without_secret: Vec<&str> =
        expected.into_iter().filter(|line| !line.contains("secret")).collect();
    assert_eq!(told(&seen), without_secret);
    // Of others the number of their process is none of this user's business.
    let pids: Vec<bool> = seen.iter().map(|line| line["pid"].is_u64()).collect();
    assert_eq!(pids, [true, false, true, true]);
    says(&as_user(&agent, other, &["log", "secret/db"]), DENIED, &["may not see secret/db"]);

    let human = ok(agent.ctl(&["log", "open/mine"]));
    let rows: Vec<&str> = human.lines().collect();
    assert!(rows[0].starts_with("WHEN") && rows.len() == 3, "{human}");
    assert!(rows[1].contains("acquired") && rows[2].contains("release denied"), "{human}");
    let last = ok(agent.ctl(&["log", "-n", "1", "-o", "tsv"]));
    assert!(last.contains("\tacquire\tok\tfree/theirs\t") && last.lines().count() == 1, "{last}");
    let nothing = agent.ctl(&["log", "prod/nothing"]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), ""));
    assert!(nothing.stderr.contains("nothing about prod/nothing"), "{nothing:?}");
}

#[test]
fn a_refused_user_who_tries_again_and_again_fills_no_file() {
    let agent = Agent::start(&shared());
    let script = "for n in $(seq 60); do \"$0\" \"$@\" acquire open/db; done; exit 0";
    as_user(&agent, 1234, &["acquire", "open/db"]);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "1234", "--regid", "1234", "--clear-groups", "sh", "-c", script]);
    command.arg(agent.file("stormctl")).arg("--socket").arg(agent.socket());
    ok(run(&mut command, PATIENCE));
    let written = audit(&agent).len();
    // On a machine that is very slow two windows of a minute have room for more than one.
    assert!((2..=60).contains(&written), "{written}");
}

#[test]
fn a_lease_that_another_took_in_the_store_is_lost_in_the_audit_and_a_strangers_lease_is_given_back()
{
    let server = RedisServer::start();
    let agent = Agent::on_redis("alpha", &server.url());
    let other = Agent::on_redis("beta", &server.url());
    let mut client = agent.client().expect("it answers");
    acquire(&mut client, wish("prod/lost", Hold::Keep));
    server.run("DEL prod/lost");
    let theirs = ok(other.ctl(&["acquire", "prod/theirs", "--keep"]));
    ok(agent.ctl(&["release", "prod/theirs", "--lease", theirs.trim()]));
    let lost = until("the loss is noticed", || {
        audit(&agent).into_iter().find(|line| word(line, "event") == "lost")
    });
    assert_eq!(
        (word(&lost, "result"), word(&lost, "by")),
        ("store_lost_it".into(), "agent".into())
    );
    let released = audit(&agent).into_iter().find(|line| word(line, "event") == "release");
    let released = released.expect("a line");
    assert_eq!(
        (word(&released, "lease"), word(&released, "by")),
        (theirs.trim().into(), "caller".into())
    );
    assert!(word(&released, "principal").ends_with("@beta"), "{released}");
    let metrics = metrics(&agent);
    assert_eq!(metrics["stormlock_leases_lost_total{reason=\"store_lost_it\"}"], 1);
}

#[test]
fn no_event_is_lost_or_torn_while_the_file_is_put_away() {
    let agent = Agent::start(&local());
    let path = agent.state().join(FILE);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _meanwhile = Meanwhile(&is_done);
            let mut client = agent.client().expect("it answers");
            for number in 0..ROUNDS {
                let name = format!("r/{number}");
                acquire(&mut client, wish(&name, Hold::Keep));
                let target = Target { resource: resource(&name), lease: None };
                client.release(Release::These(vec![target])).expect("it is given back");
            }
        });
        let mut put_away = 0;
        while !is_done.load(Ordering::Relaxed) {
            let old = agent.file(&format!("old.{put_away}"));
            put_away += usize::from(fs::rename(&path, old).is_ok());
            std::thread::yield_now();
        }
        assert!(put_away > 1, "{put_away}");
    });
    audit(&agent);
    let files = fs::read_dir(agent.socket().parent().expect("a folder")).expect("its folder");
    let old = files.filter_map(|file| {
        let path = file.expect("a file").path();
        path.to_str()?.contains("/old.").then_some(path)
    });
    let mut seen: Vec<String> = old.chain([path]).flat_map(|path| told(&lines(&path))).collect();
    seen.sort();
    let mut expected: Vec<String> = (0..ROUNDS)
        .flat_map(|number| [format!("acquire ok r/{number}"), format!("release ok r/{number}")])
        .collect();
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn a_crash_leaves_whole_lines_and_the_next_agent_says_what_goes_on() {
    let mut agent = Agent::start(&local());
    for round in 0..CRASHES {
        std::thread::scope(|scope| {
            let socket = agent.socket();
            let asks = scope.spawn(move || {
                let Ok(mut client) = stormlock_protocol::client::Client::connect(&socket, PATIENCE)
                else {
                    return;
                };
                for number in 0.. {
                    let name = format!("r/{round}/{number}");
                    if client.acquire(wish(&name, Hold::Keep)).is_err() || number > 200 {
                        return;
                    }
                }
            });
            let before = ends(&agent);
            until("some are taken", || (ends(&agent) > before + 3).then_some(()));
            agent.kill();
            asks.join().expect("it only asks");
        });
        agent.restart();
    }
    let held = crate::leases(&mut agent.client().expect("it answers"));
    let held: BTreeSet<String> = held.iter().map(|lease| lease.lease.to_string()).collect();
    let text = fs::read_to_string(agent.state().join(FILE)).expect("a file");
    let lines: Vec<Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    // The kernel may leave a write half done for a process that is killed in the midst of it.
    assert!(text.lines().count() - lines.len() <= CRASHES, "{text}");
    let named = |lines: &[Value], event: &str| -> BTreeSet<String> {
        let of = lines.iter().filter(|line| word(line, "event") == event);
        of.map(|line| word(line, "lease")).collect()
    };
    // Whatever a crash kept from being written when it was taken was written when it went on.
    let resumed = until("all go on", || {
        let log = agent.ctl(&["log", "-n", "1000", "-o", "jsonl"]).stdout;
        let log: Vec<Value> =
            log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let resumed = named(&log, "resume");
        held.is_subset(&resumed).then_some(resumed)
    });
    assert!(!resumed.is_empty() && !named(&lines, "acquire").is_empty());
}

#[test]
fn half_a_line_that_a_crash_left_is_ended_and_passed_over() {
    let mut agent = Agent::start(&local());
    ok(agent.ctl(&["acquire", "prod/db", "--keep"]));
    agent.kill();
    let path = agent.state().join(FILE);
    let text = fs::read_to_string(&path).expect("a file");
    fs::write(&path, format!("{text}{}", &text[..text.len() / 2])).expect("our own file");
    agent.restart();
    ok(agent.ctl(&["release", "prod/db"]));
    let log = ok(agent.ctl(&["log", "prod/db", "-o", "jsonl"]));
    let seen: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let expected = ["acquire ok prod/db", "resume ok prod/db", "release ok prod/db"];
    assert_eq!(told(&seen), expected);
}

#[test]
fn a_file_that_cannot_be_written_stops_nothing_and_doctor_says_so() {
    let mut agent = Agent::prepare(&local());
    let path = agent.state().join(FILE);
    symlink(agent.file("elsewhere"), &path).expect("a link");
    agent.restart();
    let doctor = agent.ctl(&["doctor"]);
    assert!(doctor.stdout.contains("symbolic link"), "{doctor:?}");
    ok(agent.ctl(&["acquire", "prod/db", "--keep"]));
    ok(agent.ctl(&["release", "prod/db"]));
    assert!(!agent.file("elsewhere").exists(), "nothing is made where the link leads");
    let metrics_before = metrics(&agent);
    assert_eq!(metrics_before["stormlock_audit_works"], 0);
    assert_eq!(metrics_before["stormlock_audit_lines_lost_total"], 2);
    assert_eq!(agent.log().matches("the audit file cannot be written").count(), 1);
    says(&agent.ctl(&["log"]), 69, &["the audit file cannot be read"]);
    fs::remove_file(&path).expect("our own link");
    let doctor = agent.ctl(&["doctor"]);
    assert!(doctor.stdout.contains("can be written again; 2 events"), "{doctor:?}");
    assert_eq!(told(&audit(&agent)), ["gap failed "]);
    assert_eq!(audit(&agent)[0]["missing"], 2);
}

#[test]
fn the_file_is_where_the_configuration_says_also_after_a_reload() {
    let mut agent = Agent::prepare("");
    let config = |agent: &Agent, name: &str| {
        let file = agent.file(name);
        format!("{}\n[audit]\nfile = \"{}\"\n", local(), file.display())
    };
    agent.configure(&config(&agent, "one.jsonl"));
    agent.restart();
    ok(agent.ctl(&["acquire", "prod/db", "--keep"]));
    agent.configure(&config(&agent, "two.jsonl"));
    until("the new configuration is taken", || agent.file("two.jsonl").exists().then_some(()));
    ok(agent.ctl(&["release", "prod/db"]));
    audit(&agent);
    assert_eq!(told(&lines(&agent.file("one.jsonl"))), ["acquire ok prod/db"]);
    assert_eq!(told(&lines(&agent.file("two.jsonl"))), ["release ok prod/db"]);
    assert!(!agent.state().join(FILE).exists());
}

/// The samples of `stormctl metrics`, which has to keep to the text format of Prometheus: each
/// family once, HELP and TYPE before its samples, a counter called `_total`, whole numbers.
fn metrics(agent: &Agent) -> BTreeMap<String, u64> {
    let text = ok(agent.ctl(&["metrics"]));
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let (mut helped, mut family, mut kind) = (String::new(), String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped = rest.split(' ').next().unwrap_or_default().to_owned();
            assert!(rest.len() > helped.len() + 1, "no help: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').expect("a type");
            assert_eq!(name, helped, "HELP comes first");
            assert!(["gauge", "counter"].contains(&of), "{line}");
            (family, kind) = (name.to_owned(), of.to_owned());
            assert!(families.insert(family.clone()), "{family} twice");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            assert_eq!(name, family, "a sample of another family");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            let labels = labels.strip_suffix('}').expect("labels have an end");
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (key, text) = label.split_once("=\"").expect("a label");
                assert!(key.bytes().all(|b| b.is_ascii_lowercase()), "{line}");
                assert!(text.strip_suffix('"').is_some_and(|text| !text.contains('"')), "{line}");
            }
            let value = value.parse().expect("a whole number");
            assert_eq!(samples.insert(series.to_owned(), value), None, "{series} twice");
        }
    }
    samples
}

#[test]
fn metrics_count_and_name_no_resource_and_nobody() {
    let agent = Agent::start(&local());
    let before = metrics(&agent);
    assert_eq!(before["stormlock_leases{state=\"held\"}"], 0);
    assert_eq!(before["stormlock_waiters"], 0);
    assert_eq!(before["stormlock_sessions"], 1);
    assert_eq!(before["stormlock_journal_works"], 1);
    assert!(!before.contains_key("stormlock_backend_up{backend=\"here\",kind=\"local\"}"));
    ok(agent.ctl(&["acquire", "prod/db", "--keep"]));
    ok(agent.ctl(&["acquire", "prod/web", "--ttl", "1s"]));
    ok(agent.ctl(&["wait", "prod/web"]));
    ok(agent.ctl(&["renew", "prod/db", "--ttl", "2m"]));
    let mut waiting = Command::new(program("stormctl"))
        .arg("--socket")
        .arg(agent.socket())
        .args(["acquire", "prod/db", "--wait", "-q"])
        .spawn()
        .expect("stormctl can be started");
    let after = until("one waits", || {
        let now = metrics(&agent);
        (now["stormlock_waiters"] == 1).then_some(now)
    });
    assert_eq!(after["stormlock_leases{state=\"held\"}"], 1);
    assert_eq!(after["stormlock_leases_lost_total{reason=\"expired\"}"], 1);
    assert!(after["stormlock_renewals_total{backend=\"here\",result=\"ok\"}"] >= 1);
    assert_eq!(after["stormlock_backend_up{backend=\"here\",kind=\"local\"}"], 1);
    assert_eq!(after["stormlock_sessions"], 2);
    assert_eq!(after["stormlock_audit_works"], 1);
    assert!(after.keys().all(|series| !series.contains("prod") && !series.contains('@')));
    waiting.kill().expect("our own child");
    waiting.wait().expect("our own child");
    until("it waits no more", || (metrics(&agent)["stormlock_waiters"] == 0).then_some(()));
}
