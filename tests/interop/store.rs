//! A Redis for the interop tests, with a database for each side that needs its own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::program::ends_within;

const START_TRIES: u32 = 1000;
const START_PAUSE: Duration = Duration::from_millis(10);

/// A server of our own on a free port of 127.0.0.1. It ends with this value.
pub(crate) struct Store {
    port: u16,
    child: Child,
    _dir: TempDir,
}

impl Store {
    pub(crate) fn start() -> Store {
        let dir = tempfile::tempdir().expect("a folder for a Redis");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("the port it got").port();
        drop(listener);
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is not there: run tests/run, which installs it");
        let store = Store { port, child, _dir: dir };
        for _ in 0..START_TRIES {
            if store.connect(0).is_ok() {
                return store;
            }
            assert!(!ends_within(&store.child, START_PAUSE), "redis-server ended at once");
        }
        panic!("redis-server does not answer on port {port}");
    }

    /// Where one of its databases is.
    pub(crate) fn url(&self, database: u8) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.port)
    }

    /// How long the lock in a database still lives, in milliseconds; `None` when it is not there.
    pub(crate) fn left_ms(&self, database: u8, resource: &str) -> Option<u64> {
        let mut connection = self.connect(database).expect("our Redis answers");
        let left: i64 =
            redis::cmd("PTTL").arg(resource).query(&mut connection).expect("PTTL works");
        u64::try_from(left).ok()
    }

    fn connect(&self, database: u8) -> redis::RedisResult<redis::Connection> {
        let mut connection = redis::Client::open(self.url(database))?.get_connection()?;
        redis::cmd("PING").exec(&mut connection)?;
        Ok(connection)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
