//! Behind a real PgBouncer that shares out its connections from one transaction to the next.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use super::doctor::{check_says, examined};
use super::*;

/// Fewer than its clients have: they must take turns.
const SHARED: usize = 3;
/// What it is started with; `{port}` and `{upstream}` are filled in. It waits for a server that
/// does not let it in for a second instead of fifteen.
const SETTINGS: &str = "[databases]\n* = host=127.0.0.1 port={upstream}\n[pgbouncer]\n\
    listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
    auth_file = {dir}/users\n{more}\ndefault_pool_size = {shared}\n\
    max_client_conn = 200\nserver_login_retry = 1\n";

/// How often another port is tried when one was taken between finding and using it.
const PORT_TRIES: usize = 5;

/// A running PgBouncer of a test's own.
struct Pooler {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Pooler {
    fn start(upstream: u16, more: &str) -> Pooler {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().expect("a plain path");
        fs::write(dir.path().join("users"), "\"stormlock\" \"\"\n").unwrap();
        let mut said = String::new();
        for _ in 0..PORT_TRIES {
            let port = server::free_port();
            let settings = SETTINGS
                .replace("{upstream}", &upstream.to_string())
                .replace("{port}", &port.to_string())
                .replace("{dir}", path)
                .replace("{more}", more)
                .replace("{shared}", &SHARED.to_string());
            fs::write(dir.path().join("settings.ini"), settings).unwrap();
            server::give(dir.path());
            match launch(dir.path()) {
                Ok(child) => return Pooler { child, port, _dir: dir },
                Err(log) => said = log,
            }
        }
        panic!("pgbouncer does not start:\n{said}");
    }

    fn url(&self) -> String {
        format!("postgres://127.0.0.1:{}/locks", self.port)
    }
}

fn launch(dir: &Path) -> Result<Child, String> {
    let mut command = server::as_server("pgbouncer".as_ref());
    command.arg(dir.join("settings.ini"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("pgbouncer (Debian: apt-get install pgbouncer)");
    server::wait_until_ready(&mut child, "process up").map(|()| child)
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Pooled {
    pooler: Pooler,
    real: Real,
}

impl Pooled {
    fn start() -> Pooled {
        let real = Real::start();
        Pooled { pooler: Pooler::start(real.server.port(), "pool_mode = transaction"), real }
    }
}

impl Site for Pooled {
    fn open(&self) -> Arc<dyn Backend> {
        Arc::new(open(&self.pooler.url()))
    }

    fn others(&self) -> Option<&dyn Others> {
        Some(&self.real)
    }
}

fn site() -> Arc<Pooled> {
    static RUNNING: Mutex<Weak<Pooled>> = Mutex::new(Weak::new());
    shared(&RUNNING, Pooled::start)
}

contract::contract!(*site());
contract::contract_with_others!(*site());
contract::contract_of_wide_ids!(*site());

#[tokio::test]
async fn whoever_waits_behind_a_pooler_is_not_woken_and_doctor_says_so() {
    let server = PostgresServer::start_with(&["fsync=on"], server::TRUST);
    made(&server);
    let pooler = Pooler::start(server.port(), "pool_mode = transaction");
    let remarks = open(&pooler.url()).examine().await.unwrap();
    let told = remarks.iter().find(|it| it.level != Level::Good).expect("it is told");
    assert_eq!(told.level, Level::Note);
    let what = "those who wait look every 2 s: a notice of our own did not come back within 5 s";
    assert_eq!(told.text, what);
    assert!(told.mend.as_ref().unwrap().starts_with("connect past the pooler"), "{told:?}");
    let others = remarks.iter().filter(|it| it.level != Level::Good);
    assert_eq!(others.count(), 1, "all else is as without a pooler: {remarks:#?}");

    let keeping = Pooler::start(server.port(), "pool_mode = session");
    check_says(&examined(&open(&keeping.url())).await, "Good: those who wait are woken");
}

#[tokio::test]
async fn a_pooler_that_allows_no_transactions_is_told_by_its_own_words() {
    let server = ready();
    let pooler = Pooler::start(server.port(), "pool_mode = statement");
    let store = open(&pooler.url());
    let claim = claim(&resource("statement"), 60);
    let error = store.acquire(&claim).await.unwrap_err();
    let BackendError::Unknown { why } = error else { panic!("{error:?}") };
    assert!(why.contains("transaction blocks not allowed in statement pooling mode"), "{why}");
    // It may have passed on what it was sent beside that: not known is the right word.
    assert!(why.ends_with("pool_mode = transaction"), "{why}");
}

/// Whoever takes a lock waits here, on its way, until there is an hour.
const GATE: &str = "CREATE TABLE gate (at timestamptz); GRANT SELECT ON gate TO stormlock; \
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    WHILE NOT EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NEW; END $$; \
    CREATE TRIGGER wait BEFORE INSERT ON stormlock FOR EACH ROW EXECUTE FUNCTION wait()";

#[tokio::test]
async fn what_a_pooler_says_when_it_has_lost_its_server_is_no_definite_no() {
    let server = ready();
    let proxy = Proxy::start(server.port());
    let pooler = Pooler::start(proxy.port(), "pool_mode = transaction\nquery_timeout = 15");
    let store = Arc::new(open(&pooler.url()));
    store.holder(&resource("warm")).await.unwrap();
    server.sql(GATE);
    let claim = claim(&resource("lost"), 600);
    let asked = {
        let (store, claim) = (Arc::clone(&store), claim.clone());
        tokio::spawn(async move { store.acquire(&claim).await })
    };
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    comes_true("it does not wait", || server.sql(waits) == "1").await;
    proxy.freeze();
    assert_eq!(outcome(asked.await.unwrap()), "Unknown");
    // The server has all of it, knows nothing of its client's end, and goes on.
    server.sql("INSERT INTO gate VALUES (now())");
    let holds = format!("SELECT lease = '{}' FROM stormlock", uuid(claim.lease));
    comes_true("it was not done", || server.sql(&holds) == "t").await;
    proxy.thaw();
    granted(&*store, &claim).await;
}

#[tokio::test]
async fn a_pooler_without_its_server_is_down_until_it_is_back() {
    let mut server = ready();
    let pooler = Pooler::start(server.port(), "pool_mode = transaction");
    let store = open(&pooler.url());
    let claim = claim(&resource("back"), 600);
    granted(&store, &claim).await;
    server.kill();
    let end = clock::now() + Duration::from_secs(60);
    while outcome(open(&pooler.url()).holder(&claim.resource).await) != "Unreachable" {
        assert!(clock::now() < end, "it is not said");
    }
    server.start_again();
    while !outcome(store.verify(&proof(&claim)).await).starts_with("Ours") {
        assert!(clock::now() < end, "it is not back");
    }
}
