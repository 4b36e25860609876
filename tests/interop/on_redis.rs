//! Our agents and the Python tool on a Redis whose keys are not all locks.

use crate::python::{PythonTool, Said};
use crate::redis_server::RedisServer;
use crate::stores::Store;

const CONFIG: i32 = 78;

/// Commands that make what is no lock, and what Redis calls it.
const FOREIGN: [(&str, &str); 8] = [
    ("SET {key} precious", "string"),
    ("RPUSH {key} a b", "list"),
    ("SADD {key} a b", "set"),
    ("ZADD {key} 1 a 2 b", "zset"),
    ("XADD {key} 1-1 a b", "stream"),
    ("HSET {key} user maria cart 7", "hash"),
    ("HSET {key} id 42 name maria", "hash"),
    ("SET {key} precious EX 9000", "string"),
];

#[test]
fn what_is_no_lock_on_redis_is_refused_and_left_as_it_was() {
    let server = RedisServer::start();
    let mut python = PythonTool::new(&server.url(), "peer@elsewhere").peer();
    let store = Store::Redis(server);
    let agent = store.agent("alpha");
    let Store::Redis(server) = &store else { unreachable!("it was made above") };
    let id = "00112233445566778899aabbccddeeff";
    for (at, (make, kind)) in FOREIGN.iter().enumerate() {
        let key = format!("app/{at}");
        server.run(&make.replace("{key}", &key));
        let dump = || (server.command(&["DUMP", &key]), server.command(&["EXPIRETIME", &key]));
        let before = dump();
        for words in [&["acquire", &key][..], &["current", &key], &["is-held", &key]] {
            let refused = agent.ctl(words);
            assert_eq!(refused.code, Some(CONFIG), "{kind}: {refused:?}");
            assert!(refused.stdout.is_empty(), "{kind}: {refused:?}");
            let why = format!("something under that name that is no lock ({key})");
            assert!(refused.stderr.contains(&why), "{kind}: {refused:?}");
        }
        for words in [&["release", &key, id][..], &["renew", &key, id]] {
            let refused = agent.ctl(words);
            assert_ne!(refused.code, Some(0), "{kind}: {refused:?}");
        }
        assert!(!agent.ctl(&["list"]).stdout.contains(&key), "{kind} is listed");
        assert_eq!(dump(), before, "{kind} was touched");
    }
    // What is beside it can be taken, by both.
    assert_eq!(agent.ctl(&["acquire", "app"]).code, Some(0));
    assert!(matches!(python.acquire("app/8", 60), Said::Granted(_)));
    let listed = agent.ctl(&["list"]).stdout;
    assert!(listed.contains("app/8"), "{listed}");
}
