//! A lot of what is nothing by itself: locks in a store that others list, process groups under
//! leases, lines in the audit file.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use stormlock_protocol::frame::{self, Verdict};
use stormlock_protocol::message::{
    Acquire, Attach, Break, Code, Hold, List, Release, Reply, Request, Target,
};
use stormlock_protocol::name::Reason;
use stormlock_protocol::process::Process;

use super::crowd::{MEMORY_OF_ONE_KB, memory_kb};
use super::descriptors::open_files;
use super::victim::Victim;
use super::{
    CROWD, EVE, MALLORY, SESSIONS_OF_ONE, ask, connect_as, open_to_all, refusal, reply, said_hello,
    shared, welcomed,
};
use crate::agent::Agent;
use crate::dice::now_ms;
use crate::meanwhile::Meanwhile;
use crate::redis_server::RedisServer;
use crate::{acquire, locks, resource, until, wish};

/// Locks in a Redis, far more than any site has, that others put there.
const LOCKS: usize = 100_000;
/// Commands that may share all leases of one user, and those that may share one.
const SHARERS_OF_ONE: usize = 256;
const SHARERS: usize = 64;
/// Lines of one user that are written as fast as they come, and how far apart later ones are.
const LINES_AT_ONCE: usize = 2048;
const LINE_EVERY_MS: u64 = 50;
/// Groups of one user.
const GROUPS_MAX: u32 = 1024;
/// The number of group adm on every Debian.
const ADM: u32 = 4;
/// More than may be looked up at once.
const USERS: u32 = 110;
/// Leases that one user may have, that one request may ask for, and requests that ask for less than
/// all of them.
const LEASES_OF_ONE: usize = 256;
const AT_ONCE: usize = 32;
const AT_A_TIME: usize = 7;
/// Longer than what is not slowed down takes, and shorter than what is.
const SLOW_MS: u64 = 5_000;
/// Questions of somebody who does not wait for the answers.
const BREAKS: usize = 200;
/// Lines that come after those.
const LINES_LATER: usize = 60;

fn these(names: &[&str]) -> Vec<Target> {
    let target = |name: &&str| Target { resource: resource(name), lease: None };
    names.iter().map(target).collect()
}

#[test]
fn lists_of_many_locks_delay_no_renewal_and_no_look_at_one() {
    list(&[EVE], SESSIONS_OF_ONE);
}

/// Whoever has subordinate users is as many as they like.
#[test]
fn lists_of_many_users_delay_no_renewal_and_no_look_at_one() {
    let users: Vec<u32> = (CROWD..CROWD + 200).collect();
    list(&users, 2);
}

/// So many sessions of each list 100,000 locks and find none.
fn list(users: &[u32], each: usize) {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let fill = "for i = 1, tonumber(ARGV[1]) do local key = 'store/foreign/' .. i \
                redis.call('HSET', key, 'id', string.rep('x', 16), 'p', 'someone@else', \
                'c', '1795703092.504') redis.call('PEXPIRE', key, 7200000) end";
    store.command(&["EVAL", fill, "0", &LOCKS.to_string()]);
    let victim = Victim::in_store(&agent);
    victim.during("nobody lists anything", || {}).is_undisturbed();
    let (ends, lists) = (AtomicBool::new(false), AtomicUsize::new(0));
    let of_one = |uid: &u32| (0..each).map(|_| welcomed(&agent, *uid)).collect::<Vec<_>>();
    let mut sessions: Vec<UnixStream> = users.iter().flat_map(of_one).collect();
    let clone = |stream: &UnixStream| stream.try_clone().expect("a file");
    let streams: Vec<UnixStream> = sessions.iter().map(clone).collect();
    std::thread::scope(|scope| {
        let meanwhile = Meanwhile(&ends);
        for session in &mut sessions {
            scope.spawn(|| {
                let glob = Some("nothing*".to_owned());
                let list = Request::List(List { glob, mine: false, after: None });
                while !ends.load(Ordering::Relaxed) {
                    // In time or not: what counts is what others notice.
                    let bytes = frame::encode(&list).expect("a request");
                    if session.write_all(&bytes).is_err() {
                        return;
                    }
                    lists.fetch_add(1, Ordering::Relaxed);
                    if super::try_receive(session).is_err() {
                        return;
                    }
                }
            });
        }
        let mut mallory = welcomed(&agent, MALLORY);
        let mut slowest = 0;
        let what = format!("{each} sessions of {} users list {LOCKS} locks", users.len());
        let measure = victim.during(&what, || {
            let asked = now_ms();
            let answer = ask(&mut mallory, &Request::Current(resource("store/foreign/7")));
            assert!(matches!(&answer, Reply::Current(Some(_))), "{answer:?}");
            slowest = slowest.max(now_ms() - asked);
        });
        drop(meanwhile);
        // Nobody waits for the answers of those that are queued.
        for stream in &streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let count = lists.load(Ordering::Relaxed);
        println!("limits: {count} lists; another's question took {slowest} ms at most");
        measure.is_undisturbed();
    });
    assert!(lists.into_inner() >= streams.len(), "that was no flood");
}

/// A group whose leader ends when it is told to, while another process of it goes on.
struct Headless {
    leader: Child,
    _out: ChildStdout,
}

impl Headless {
    fn start(uid: u32) -> Headless {
        let mut leader = Command::new("sh");
        leader.args(["-c", "sleep 1000 </dev/null & echo; read x; exit 0"]);
        leader.stdin(Stdio::piped()).stdout(Stdio::piped()).uid(uid).gid(uid).process_group(0);
        let mut leader = leader.spawn().expect("a process");
        let mut out = leader.stdout.take().expect("a pipe");
        std::io::Read::read_exact(&mut out, &mut [0]).expect("a line");
        Headless { leader, _out: out }
    }

    fn process(&self) -> Process {
        Process::look(self.leader.id(), true).expect("it waits")
    }

    fn behead(&mut self) {
        drop(self.leader.stdin.take());
        self.leader.wait().expect("our own child");
    }
}

impl Drop for Headless {
    fn drop(&mut self) {
        let group = i32::try_from(self.leader.id()).ok().and_then(rustix::process::Pid::from_raw);
        let group = group.expect("a number");
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.leader.wait();
    }
}

#[test]
fn process_groups_under_one_users_leases_are_limited_and_delay_no_renewal() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    let mut eve = welcomed(&agent, EVE);
    let names: Vec<String> =
        (0..=SHARERS_OF_ONE / SHARERS).map(|at| format!("free/{at}")).collect();
    let own = Process::look(std::process::id(), false).expect("this process");
    for name in &names {
        let on = Acquire { attach: Attach::Process(own), ..wish(name, Hold::Keep) };
        let taken = ask(&mut eve, &Request::Acquire(on));
        assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
    }
    let share = |on: &str, with: &Headless| Request::Share {
        leases: these(&[on]),
        process: with.process(),
    };
    let mut groups = Vec::new();
    for at in 0..SHARERS_OF_ONE {
        let mut group = Headless::start(EVE);
        let shared = ask(&mut eve, &share(&names[at / SHARERS], &group));
        assert!(matches!(shared, Reply::Acquired(_)), "{at}: {shared:?}");
        group.behead();
        groups.push(group);
    }
    let one_more = Headless::start(EVE);
    let no = refusal(&mut eve, &share(&names[SHARERS_OF_ONE / SHARERS], &one_more));
    assert_eq!(no.code, Code::TooMany, "{no:?}");
    assert!(no.message.contains("256 commands share your leases"), "{no:?}");
    let mut slowest = 0;
    let mut mallory = welcomed(&agent, MALLORY);
    let mut look = || {
        let asked = now_ms();
        let taken = ask(&mut mallory, &Request::Acquire(wish("free/mallory", Hold::No)));
        assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
        let release = Release::These(these(&["free/mallory"]));
        ask(&mut mallory, &Request::Release(release));
        slowest = slowest.max(now_ms() - asked);
    };
    // They are looked at one by one and, more seldom, all together.
    for _ in 0..3 {
        victim.during("256 groups without leaders", &mut look).is_undisturbed();
    }
    groups.clear();
    victim.during("256 groups that end at once", &mut look).is_undisturbed();
    println!("limits: another's acquire and release took {slowest} ms at most");
    let mut shared = ask(&mut eve, &share(&names[0], &one_more));
    while !matches!(shared, Reply::Acquired(_)) {
        shared = ask(&mut eve, &share(&names[0], &one_more));
    }
}

#[test]
fn who_takes_and_gives_back_in_a_loop_is_slowed_down_and_every_line_of_it_is_written() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    let mut eve = welcomed(&agent, EVE);
    let began = now_ms();
    let (mut changes, mut slow) = (0, 0);
    let mut cycle = || {
        let asked = now_ms();
        let taken = ask(&mut eve, &Request::Acquire(wish("free/0", Hold::No)));
        assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
        slow = slow.max(now_ms() - asked);
        let released = ask(&mut eve, &Request::Release(Release::These(these(&["free/0"]))));
        assert!(matches!(released, Reply::Released(_)), "{released:?}");
        changes += 2;
        changes
    };
    victim.during("a lock that is taken and given back", &mut cycle).is_undisturbed();
    while cycle() < LINES_AT_ONCE + LINES_LATER {}
    let took = now_ms() - began;
    println!("limits: {changes} changes in {took} ms; the slowest took {slow} ms");
    let later = usize::try_from(took / LINE_EVERY_MS).expect("a number");
    assert!(changes <= LINES_AT_ONCE + later + 2, "{changes} in {took} ms");
    // Nobody else is slower for that.
    let mut mallory = welcomed(&agent, MALLORY);
    let taken = ask(&mut mallory, &Request::Acquire(wish("free/0", Hold::No)));
    assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
    let held = locks(&mut agent.client().expect("the agent answers"));
    assert!(held.iter().any(|it| it.resource.as_str() == "free/0"), "{held:?}");
    // What was recorded before it is asked is written before it answers.
    agent.ctl(&["log"]);
    let lines = fs::read_to_string(agent.state().join("audit.jsonl")).expect("the file");
    let hers = |line: &&str| line.contains(&format!("\"uid\":{EVE},"));
    assert_eq!(lines.lines().filter(hers).count(), changes, "a line for each");
}

/// Leases that end with their connections count as those that are given back; and who is slowed
/// down cannot keep the agent's files, or have something done after they hung up.
#[test]
fn who_is_slowed_down_and_hangs_up_has_asked_for_nothing() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let mut client = agent.client().expect("the agent answers");
    acquire(&mut client, wish("prod/db", Hold::Keep));
    let victim = locks(&mut client).first().expect("it is held").lease;
    for uid in [rustix::process::geteuid().as_raw(), EVE] {
        get_slow(&agent, uid);
        let before = open_files(&agent);
        let reason = Reason::new("mine now").expect("a reason");
        let (on, now) = (resource("prod/db"), true);
        let ask = Request::Break(Break { resource: on, lease: victim, reason, now });
        for _ in 0..BREAKS {
            super::send(&mut welcomed(&agent, uid), &ask);
        }
        let files = open_files(&agent);
        assert!(files < before + BREAKS / 2, "{files} files of {before} before");
    }
    until("all sessions are over", || {
        let metrics = client.metrics().expect("numbers");
        metrics.lines().any(|line| line == "stormlock_sessions 1").then_some(())
    });
    let held = locks(&mut client);
    assert!(held.iter().any(|it| it.lease == victim), "{held:?}");
}

/// Has somebody write so many lines that they have to wait for some seconds from then on.
fn get_slow(agent: &Agent, uid: u32) {
    for round in 0..2 * LINES_AT_ONCE / LEASES_OF_ONE {
        let began = now_ms();
        let mut sessions: Vec<UnixStream> = (0..AT_A_TIME).map(|_| welcomed(agent, uid)).collect();
        for (nth, session) in sessions.iter_mut().enumerate() {
            let name = |at| resource(&format!("free/{uid}/{round}/{nth}/{at}"));
            let (resources, attach) = ((0..AT_ONCE).map(name).collect(), Attach::Session);
            let ask = Acquire { resources, attach, ..wish("free/0", Hold::No) };
            super::send(session, &Request::Acquire(ask));
        }
        for session in &mut sessions {
            let taken = reply(session);
            assert!(matches!(taken, Reply::Acquired(_)), "{taken:?}");
        }
        drop(sessions);
        // All is given back, and that is written.
        until("it is free", || {
            let metrics = agent.client().ok()?.metrics().ok()?;
            let leases = metrics.lines().filter(|line| line.starts_with("stormlock_leases{"));
            let counts = leases.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
            // In any state: one that is being released is one of a user's leases yet.
            (counts.sum::<usize>() == 1).then_some(())
        });
        if now_ms() - began > SLOW_MS {
            return;
        }
    }
    panic!("uid {uid} was never slowed down");
}

#[test]
fn a_page_of_locks_names_none_that_its_reader_may_not_see() {
    let store = RedisServer::start();
    let agent = Agent::start(&format!(
        "host = \"alpha\"\n[backend.main]\nkind = \"redis\"\nurl = \"{}\"\n\
         [[rule]]\nwho = [\"uid:{EVE}\"]\nresources = [\"secret/*\"]\nmay = []\n\
         [[rule]]\nwho = [\"everyone\"]\nmay = [\"acquire\"]\n",
        store.url()
    ));
    open_to_all(&agent);
    let fill = "for i = 1, 10000 do for _, key in ipairs({'secret/' .. i, 'zz/' .. i % 100}) do \
                redis.call('HSET', key, 'id', string.rep('x', 16), 'p', 'someone@else', \
                'c', '1795703092.504') redis.call('PEXPIRE', key, 7200000) end end";
    store.command(&["EVAL", fill, "0"]);
    let mut eve = welcomed(&agent, EVE);
    for (glob, expected) in [(None, 100), (Some("*9"), 10), (Some("secret/*"), 0)] {
        let (mut after, mut seen) = (None, 0);
        loop {
            let glob = glob.map(str::to_owned);
            super::send(&mut eve, &Request::List(List { glob, mine: false, after }));
            let bytes = super::receive(&mut eve);
            assert!(!bytes.windows(6).any(|part| part == b"secret"), "{bytes:?}");
            let reply = frame::decode::<Reply>(&bytes).expect("a reply");
            let Reply::Locks { locks, next, unread } = reply else { panic!("{reply:?}") };
            assert!(unread.is_empty(), "{unread:?}");
            seen += locks.len();
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, expected, "{glob:?}");
    }
}

/// Whoever has subordinate groups is in as many as they like, other ones each time.
#[test]
fn groups_without_number_are_turned_away_and_many_delay_nobody() {
    let store = RedisServer::start();
    let agent = Agent::start(&shared(store.port()));
    open_to_all(&agent);
    let victim = Victim::of(&agent);
    let of = |round: u32, count: u32| -> Vec<u32> {
        (0..count).map(|number| 1_000_000 + 2 * round * GROUPS_MAX + number).collect()
    };
    let too_many = connect_as(&agent, EVE, &of(0, GROUPS_MAX + 1));
    assert_eq!(said_hello(too_many).err(), Some(Verdict::Denied));
    let before = memory_kb(&agent);
    let (mut round, mut slowest) = (0, 0);
    let mut sessions = Vec::new();
    let measure =
        victim.during("sessions of somebody in 1,024 groups, other ones each time", || {
            round += 1;
            if sessions.len() < SESSIONS_OF_ONE - 1 {
                sessions.push(connect_as(&agent, EVE, &of(round, GROUPS_MAX)));
            }
            let asked = now_ms();
            // Somebody whose names nobody has looked up yet.
            let mut somebody = welcomed(&agent, CROWD + round);
            let answer = ask(&mut somebody, &Request::Acquire(wish("free/0", Hold::No)));
            assert!(matches!(answer, Reply::Acquired(_)), "{answer:?}");
            ask(&mut somebody, &Request::Release(Release::These(these(&["free/0"]))));
            slowest = slowest.max(now_ms() - asked);
        });
    measure.is_undisturbed();
    let mut sessions: Vec<UnixStream> =
        sessions.into_iter().map(|stream| said_hello(stream).expect("it is let in")).collect();
    let measure = victim.during("what they ask", || {
        for session in &mut sessions {
            super::send(session, &Request::Current(resource("store/prod/0")));
        }
        for session in &mut sessions {
            super::receive(session);
        }
    });
    measure.is_undisturbed();
    let grown = memory_kb(&agent).saturating_sub(before);
    println!("limits: {} sessions: {grown} KiB; another waited {slowest} ms", sessions.len());
    assert!(grown < MEMORY_OF_ONE_KB, "{grown} KiB for the sessions of one user");
}

/// Whoever has subordinate users is as many as they like, each in as many groups.
#[test]
fn a_hundred_users_in_a_thousand_groups_each_hold_up_nobodys_name() {
    let rules = "host = \"alpha\"\n[backend.here]\nkind = \"local\"\n\
                 [[rule]]\nwho = [\"group:games\", \"user:nobody\"]\nmay = []\n\
                 [[rule]]\nwho = [\"group:adm\"]\nmay = [\"acquire\"]\n";
    let agent = Agent::start(rules);
    open_to_all(&agent);
    let stops = AtomicBool::new(false);
    let came = AtomicUsize::new(0);
    let mut slowest = 0;
    std::thread::scope(|scope| {
        let _meanwhile = Meanwhile(&stops);
        for at in 0..USERS {
            let (agent, stops, came) = (&agent, &stops, &came);
            scope.spawn(move || {
                for round in 0.. {
                    if stops.load(Ordering::Relaxed) {
                        return;
                    }
                    let first = 1_000_000 + (at * 1000 + round) * GROUPS_MAX;
                    let groups: Vec<u32> = (first..first + GROUPS_MAX - 1).collect();
                    let stream = connect_as(agent, 2 * CROWD + at, &groups);
                    if said_hello(stream).is_ok() {
                        came.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        until("all of them came", || {
            (came.load(Ordering::Relaxed) > 2 * USERS as usize).then_some(())
        });
        for round in 0..10 {
            // Nobody has looked up what they are called.
            let asked = now_ms();
            let somebody = connect_as(&agent, CROWD + round, &[ADM]);
            let mut somebody = said_hello(somebody).expect("it is let in");
            let answer = ask(&mut somebody, &Request::Acquire(wish("free", Hold::No)));
            assert!(matches!(answer, Reply::Acquired(_)), "{answer:?}");
            ask(&mut somebody, &Request::Release(Release::These(these(&["free"]))));
            slowest = slowest.max(now_ms() - asked);
        }
    });
    println!("limits: {USERS} users in {GROUPS_MAX} groups each; another waited {slowest} ms");
}
