//! A DynamoDB of a test's own: an emulator on a free port of this host, gone when it is dropped.
//! Shared by path between test binaries, so it needs std and serde_json only.
//!
//! Most tests run on `ministack` (PyPI), which has users and rights too. The suite of every store
//! runs on `dynoxide` (a crate) as well, whose authors read DynamoDB's manual for themselves.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::env;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// How often another port is tried when one was taken between finding and using it.
const PORT_TRIES: usize = 5;
/// It is ready after half a second, and on a busy machine after some more.
const START_MAX: Duration = Duration::from_secs(60);
/// How often it is asked meanwhile.
const START_EVERY: Duration = Duration::from_millis(20);
/// The access key that the emulator lets do everything.
pub(crate) const ROOT: &str = "test";

/// Whose DynamoDB it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emulator {
    /// Everything that a test needs.
    Ministack,
    /// The table's operations only.
    Dynoxide,
}

/// A running emulator.
pub(crate) struct DynamoServer {
    child: Child,
    port: u16,
    emulator: Emulator,
}

impl DynamoServer {
    /// An emulator that believes every signature, with the table `stormlock`.
    pub(crate) fn start() -> DynamoServer {
        let server = DynamoServer::start_with(&[]);
        server.create_table("stormlock");
        server
    }

    /// The same with more settings in its environment, and without a table.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> DynamoServer {
        DynamoServer::start_empty(Emulator::Ministack, settings)
    }

    /// The emulator named, with the table `stormlock`.
    pub(crate) fn start_on(emulator: Emulator) -> DynamoServer {
        let server = DynamoServer::start_empty(emulator, &[]);
        server.create_table("stormlock");
        server
    }

    fn start_empty(emulator: Emulator, settings: &[(&str, &str)]) -> DynamoServer {
        for _ in 0..PORT_TRIES {
            let port = free_port();
            if let Some(child) = spawn(emulator, port, settings) {
                return DynamoServer { child, port, emulator };
            }
        }
        panic!("{emulator:?} does not start: run it by hand to see why");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its endpoint.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The configuration of an agent called `host` on it, where the user of this test may do all.
    pub(crate) fn agent_config(&self, host: &str) -> String {
        format!(
            "host = \"{host}\"\n\n[backend.main]\nkind = \"dynamodb\"\nregion = \"us-east-1\"\n\
             endpoint_url = \"{}\"\naccess_key_id = \"{ROOT}\"\n\
             secret_access_key = \"canary-5f1e\"\n\
             takeover_margin = \"0s\"\n\n[[rule]]\nwho = [\"everyone\"]\n\
             may = [\"acquire\", \"break\", \"read\", \"release-any\"]\n",
            self.url()
        )
    }

    /// The same for the Python tool: its `[backend.dynamodb]`.
    pub(crate) fn python_config(&self) -> String {
        format!(
            "[backend.dynamodb]\nendpoint = {}\nregion = us-east-1\naccess_key_id = {ROOT}\n\
             secret_access_key = secret\n",
            self.url()
        )
    }

    /// A table of locks, as `stormlockd setup` makes it.
    pub(crate) fn create_table(&self, name: &str) {
        self.run(
            "CreateTable",
            &json!({
                "TableName": name,
                "AttributeDefinitions": [{"AttributeName": "resource", "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": "resource", "KeyType": "HASH"}],
                "BillingMode": "PAY_PER_REQUEST",
                "DeletionProtectionEnabled": true,
            }),
        );
        self.sweeps(name, true);
    }

    /// An emulator whose table keeps what has ended until somebody deletes it, as DynamoDB's does
    /// for days: the emulator itself would sweep it away every minute.
    pub(crate) fn start_unswept() -> DynamoServer {
        let server = DynamoServer::start();
        server.sweeps("stormlock", false);
        server
    }

    fn sweeps(&self, name: &str, enabled: bool) {
        self.run(
            "UpdateTimeToLive",
            &json!({
                "TableName": name,
                "TimeToLiveSpecification": {"Enabled": enabled, "AttributeName": "expires"},
            }),
        );
    }

    /// What stands under a key; `Null` for nothing.
    pub(crate) fn item(&self, key: &str) -> Value {
        let ask = json!({"TableName": "stormlock", "Key": {"resource": {"S": key}},
            "ConsistentRead": true});
        self.run("GetItem", &ask).get("Item").cloned().unwrap_or(Value::Null)
    }

    /// Puts an item, whatever stands there.
    pub(crate) fn put(&self, item: &Value) {
        self.run("PutItem", &json!({"TableName": "stormlock", "Item": item}));
    }

    /// Everything that the table has; a test's table is a page.
    pub(crate) fn items(&self) -> Vec<Value> {
        let page = self.run("Scan", &json!({"TableName": "stormlock", "ConsistentRead": true}));
        assert!(page.get("LastEvaluatedKey").is_none(), "more than one page");
        page["Items"].as_array().cloned().unwrap_or_default()
    }

    /// Sets one attribute, whatever stands there.
    pub(crate) fn set(&self, key: &str, attribute: &str, value: &Value) {
        self.run(
            "UpdateItem",
            &json!({
                "TableName": "stormlock", "Key": {"resource": {"S": key}},
                "UpdateExpression": "SET #a = :a",
                "ExpressionAttributeNames": {"#a": attribute},
                "ExpressionAttributeValues": {":a": value},
            }),
        );
    }

    /// One operation, which must succeed.
    pub(crate) fn run(&self, operation: &str, body: &Value) -> Value {
        let target = format!("DynamoDB_20120810.{operation}");
        let head =
            [("X-Amz-Target", target.as_str()), ("Content-Type", "application/x-amz-json-1.0")];
        let (status, answer) = self.post(&head, "dynamodb", &body.to_string()).expect("an answer");
        assert_eq!(status, 200, "{operation}: {answer}");
        serde_json::from_str(&answer).expect("JSON")
    }

    /// One operation of IAM, for an emulator with `AUTH=true`: its answer in XML.
    pub(crate) fn iam(&self, form: &str) -> String {
        let head = [("Content-Type", "application/x-www-form-urlencoded")];
        let (status, answer) = self.post(&head, "iam", form).expect("an answer");
        assert_eq!(status, 200, "{form}: {answer}");
        answer
    }

    fn post(&self, head: &[(&str, &str)], service: &str, body: &str) -> Option<(u16, String)> {
        post(self.port, head, service, body)
    }

    /// Ends it at once, as a crash would; what it kept is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a kill");
        self.child.wait().expect("its end");
    }

    /// Starts it again on the same port, after [`DynamoServer::kill`], with a new table.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(self.emulator, self.port, &[]).expect("it starts again");
        self.create_table("stormlock");
    }
}

impl Drop for DynamoServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

fn spawn(emulator: Emulator, port: u16, settings: &[(&str, &str)]) -> Option<Child> {
    let mut command = Command::new(program(emulator));
    match emulator {
        Emulator::Ministack => {
            command.env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
            command.env("SERVICES", "dynamodb,iam").env("LOG_LEVEL", "ERROR");
            command.envs(settings.iter().copied());
        }
        Emulator::Dynoxide => {
            command.args(["serve", "--host", "127.0.0.1", "--log", "quiet", "--port"]);
            command.arg(port.to_string());
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the emulator runs");
    let list = [
        ("X-Amz-Target", "DynamoDB_20120810.ListTables"),
        ("Content-Type", "application/x-amz-json-1.0"),
    ];
    let tries = START_MAX.as_millis() / START_EVERY.as_millis();
    for _ in 0..tries {
        if child.try_wait().expect("its state").is_some() {
            return None;
        }
        if post(port, &list, "dynamodb", "{}").is_some_and(|(status, _)| status == 200) {
            return Some(child);
        }
        // It says nothing when it is ready: it has to be asked, and not without a pause.
        pause();
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// A pause without a sleep: a wait for a word that never comes.
fn pause() {
    let (_tell, told) = std::sync::mpsc::channel::<()>();
    let _ = told.recv_timeout(START_EVERY);
}

fn post(port: u16, head: &[(&str, &str)], service: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(START_MAX)).ok()?;
    let mut request = format!("POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n");
    request.push_str(&format!(
        "Authorization: AWS4-HMAC-SHA256 Credential={ROOT}/20260101/us-east-1/{service}/\
         aws4_request, SignedHeaders=host, Signature=0\r\nX-Amz-Date: 20260101T000000Z\r\n\
         Content-Length: {}\r\n",
        body.len()
    ));
    for (name, value) in head {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// `$STORMLOCK_MINISTACK` or `$STORMLOCK_DYNOXIDE`, or what tests/run makes.
fn program(emulator: Emulator) -> PathBuf {
    let (setting, place) = match emulator {
        Emulator::Ministack => ("STORMLOCK_MINISTACK", "stormlock-venv/bin/ministack"),
        Emulator::Dynoxide => ("STORMLOCK_DYNOXIDE", "stormlock-dynoxide/bin/dynoxide"),
    };
    let default = || {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || PathBuf::from(env::var_os("HOME").expect("$HOME is set")).join(".cache");
        cache.unwrap_or_else(home).join(place)
    };
    let program = env::var_os(setting).map_or_else(default, PathBuf::from);
    assert!(
        program.exists(),
        "{emulator:?} is not at {}: run tests/run, which installs it, or set {setting}",
        program.display()
    );
    program
}
