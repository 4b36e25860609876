//! Every complaint as a person reads it, and what a good configuration means.

mod quotes;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::backend::redis;
use crate::policy::{Act, known as who};

/// A host named `bastion2`, an agent of uid 990, and an environment of two variables.
fn outside() -> Outside {
    Outside {
        mode: Mode::System,
        uid: Uid(990),
        nodename: "bastion2".to_owned(),
        others_may_read: false,
        purpose: Purpose::Run,
        env: |name| match name {
            "REDIS_PASSWORD" => Some("from the environment".into()),
            "EMPTY" => Some(OsString::new()),
            _ => None,
        },
    }
}

pub(super) fn parse(text: &str) -> Result<Config, String> {
    parse_with(text, &outside())
}

fn parse_with(text: &str, outside: &Outside) -> Result<Config, String> {
    Config::parse(text.as_bytes(), Path::new("s.toml"), outside).map_err(in_full)
}

fn in_full(error: ConfigError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

fn redis_of(config: &Config) -> &redis::Options {
    match config.backends.values().next() {
        Some(Options::Redis(options)) => options,
        other => panic!("{other:?}"),
    }
}

fn on(name: &str) -> Resource {
    Resource::new(name).unwrap()
}

const FULL: &str = r#"
host = "b2.example"
principal = "{user}.{uid}@{host}"
default_ttl = "20 minutes"
default_backend = "main"

[backend.main]
kind = "redis"
url = "rediss://redis.example:6380/3"
username = "stormlock"
password_env = "REDIS_PASSWORD"
key_prefix = "locks:"
ca_file = "/etc/ca.pem"
client_cert_file = "/etc/c.pem"
client_key_file = "/etc/c.key"
sentinels = ["s1:26379", "[::1]:26379"]
sentinel_service = "mymaster"

[backend.here]
kind = "local"

[[resource]]
names = ["prod/*", "live"]
ttl = "30m"
hold = "4h"
max_ttl = "1d"
max_hold = "12h"

[[resource]]
names = ["*"]
backend = "here"
hold = "keep"

[[rule]]
who = ["user:maria", "group:ops", "uid:1000", "root"]
resources = ["prod/*"]
may = ["acquire", "break"]
max_ttl = "2d"
max_leases = 10
require_reason = true

[[rule]]
who = ["everyone"]
may = ["read"]
"#;

#[test]
fn a_full_configuration_means_what_it_says() {
    let config = parse(FULL).unwrap();
    assert_eq!(config.host, "b2.example");
    let names: Vec<_> = config.backends.keys().map(BackendName::as_str).collect();
    assert_eq!(names, ["here", "main"]);
    let Some(Options::Redis(redis)) = config.backends.get(&BackendName::new("main")) else {
        panic!("main is a Redis");
    };
    assert_eq!(redis.url, "rediss://redis.example:6380/3");
    assert_eq!(redis.username.as_deref(), Some("stormlock"));
    assert_eq!(redis.password.as_ref().unwrap().expose_secret(), "from the environment");
    assert_eq!(redis.key_prefix, "locks:");
    assert_eq!(redis.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
    assert_eq!(redis.client_cert, Some(("/etc/c.pem".into(), "/etc/c.key".into())));
    let sentinel = redis.sentinel.as_ref().unwrap();
    assert_eq!((sentinel.nodes.len(), sentinel.service.as_str()), (2, "mymaster"));

    let maria = who(1234, "maria", &[]);
    assert_eq!(config.principal(&maria).as_str(), "maria.1234@b2.example");
    let defaults = |name: &str| {
        let Defaults { backend, ttl, hold } = config.defaults(&on(name));
        (backend.to_string(), ttl.as_secs(), hold)
    };
    assert_eq!(defaults("prod/db"), ("main".to_owned(), 1800, Hold::For(14_400)));
    assert_eq!(defaults("live"), ("main".to_owned(), 1800, Hold::For(14_400)));
    assert_eq!(defaults("test"), ("here".to_owned(), 1200, Hold::Keep));

    let permit = config.policy.judge(&maria, Act::Break, Some(&on("prod/db"))).unwrap();
    assert_eq!(permit.max_ttl.unwrap().as_secs(), 86_400, "the resource's, which is smaller");
    assert_eq!(permit.max_hold_secs, Some(43_200));
    assert_eq!((permit.max_leases, permit.require_reason), (10, true));
    let denial = config.policy.judge(&maria, Act::Acquire, Some(&on("live"))).unwrap_err();
    assert_eq!(
        denial.0,
        "maria may not acquire live: rule 2 (line 42 of the configuration) decides and allows read"
    );
}

#[test]
fn without_a_file_locks_stay_on_this_host_and_the_mode_decides_who_may() {
    let eve = who(1001, "eve", &[]);
    for (mode, reads) in [(Mode::System, true), (Mode::User, false), (Mode::Dev, false)] {
        let config = Config::fresh_for(&Outside { mode, ..outside() });
        assert_eq!(config.host, "bastion2");
        assert!(matches!(
            config.backends.iter().next(),
            Some((name, Options::Local)) if name.as_str() == LOCAL && config.backends.len() == 1
        ));
        let defaults = config.defaults(&on("x"));
        assert_eq!((defaults.backend.as_str(), defaults.ttl.as_secs()), (LOCAL, 900));
        assert_eq!(config.principal(&eve).as_str(), "eve@bastion2");
        assert_eq!(config.policy.judge(&eve, Act::Read, None).is_ok(), reads, "{mode:?}");
        let own = who(990, "stormlock", &[]);
        let acquires = config.policy.judge(&own, Act::Acquire, Some(&on("x"))).is_ok();
        assert_eq!(acquires, mode != Mode::System, "{mode:?}");
        let empty = parse_with("", &Outside { mode, ..outside() }).unwrap();
        assert_eq!(format!("{empty:?}"), format!("{config:?}"), "an empty file is a fresh one");
    }
}

#[test]
fn the_name_of_a_host_is_made_plain() {
    for (nodename, host) in [
        ("b2.example", "b2.example"),
        ("", "localhost"),
        ("a b\u{202e}ü", "a-b--"),
        (&"x".repeat(65), &"x".repeat(64)),
    ] {
        let config = Config::fresh_for(&Outside { nodename: nodename.to_owned(), ..outside() });
        assert_eq!(config.host, host);
    }
}

/// One bad configuration per row: the text, and the whole complaint after the file's name.
const COMPLAINTS: &[(&str, &str)] = &[
    // TOML
    ("host = ", "1: not TOML: string values must be quoted, expected literal string"),
    ("host = \"a\"\nhost = \"b\"", "2: not TOML: duplicate key"),
    ("host = 3", "1: key `host`: is a number, write a text in quotes"),
    ("\nhost = [\"a\"]", "2: key `host`: is a list, write a text in quotes"),
    ("host.x = 1", "1: key `host`: is a table, write a text in quotes"),
    ("default_ttl = 2020-01-01", "1: key `default_ttl`: is a date, write a text in quotes"),
    // keys
    ("\n\nhots = \"a\"", "3: key `hots`: there is no such key (did you mean `host`?)"),
    (
        "timeout = 1",
        "1: key `timeout`: there is no such key (known here: host, principal, default_ttl, \
         default_backend, audit, backend, resource, rule)",
    ),
    (
        "z_last = 1\na_first_in_the_alphabet = 2",
        "1: key `z_last`: there is no such key (known here: host, principal, default_ttl, \
         default_backend, audit, backend, resource, rule)",
    ),
    (
        "[[rule]]\nwho = [\"root\"]\nmay = []\nmax_lease = 3",
        "4: key `rule.max_lease`: there is no such key (did you mean `max_leases`?)",
    ),
    (
        "[backend.a]\nkind = \"local\"\nurl = \"x\"",
        "3: key `backend.a.url`: there is no such key (known here: kind)",
    ),
    // host, principal, ttl
    (
        "host = \"a b\"",
        "1: key `host`: \"a b\" is not a host's name, write 1 to 64 letters, digits and . _ -",
    ),
    (
        "principal = \"ops\"",
        "1: key `principal`: would call every user the same, write {user} or {uid} into it",
    ),
    (
        "default_ttl = \"15\"",
        "1: key `default_ttl`: \"15\" is not a duration: 15 has no unit (write 15s, 15m, 15h or \
         15d)",
    ),
    (
        "default_ttl = \"0s\"",
        "1: key `default_ttl`: \"0s\" is no ttl: 0 s is outside 1 s to 366 days",
    ),
    (
        "default_ttl = \"367d\"",
        "1: key `default_ttl`: \"367d\" is no ttl: 31708800 s is outside 1 s to 366 days",
    ),
    // backends
    (
        "backend = \"redis\"",
        "1: key `backend`: is a text, write a table for each, headed [backend.NAME]",
    ),
    (
        "[backend]\nkind = \"redis\"",
        "2: key `backend.kind`: is a text, write a table for each, headed [backend.NAME]",
    ),
    (
        "\n[backend.a]",
        "2: key `backend.a.kind`: is missing, write one of: local, redis, etcd, postgres, \
         exec, dynamodb",
    ),
    (
        "[backend.a]\nkind = \"zookeeper\"",
        "2: key `backend.a.kind`: this build has no backend \"zookeeper\" (it has: local, redis, \
         etcd, postgres, exec, dynamodb)",
    ),
    (
        "[backend.a]\nkind = \"reddis\"",
        "2: key `backend.a.kind`: this build has no backend \"reddis\" (did you mean \"redis\"?)",
    ),
    (
        "[backend.\"A b\"]\nkind = \"local\"",
        "1: key `backend.A b`: \"A b\" is not a backend's name, write 1 to 32 of a-z 0-9 _ -",
    ),
    (
        "[backend.a]\nkind = \"local\"\n[backend.b]\nkind = \"local\"",
        "1: key `default_backend`: is missing, write which of the backends is it: a, b",
    ),
    (
        "default_backend = \"mian\"\n[backend.main]\nkind = \"local\"",
        "1: key `default_backend`: there is no backend \"mian\" (did you mean \"main\"?)",
    ),
    (
        "default_backend = \"etcd\"",
        "1: key `default_backend`: there is no backend \"etcd\" (write a table [backend.etcd] with \
         its kind)",
    ),
    (
        "[backend.a]\nkind = \"local\"\n[[resource]]\nnames = [\"x\"]\nbackend = \"other\"",
        "5: key `resource.backend`: there is no backend \"other\" (there are: a)",
    ),
    // resources
    (
        "[resource]\nnames = [\"x\"]",
        "1: key `resource`: is a table, write tables headed [[resource]], with two brackets",
    ),
    (
        "\n[[resource]]\nttl = \"1m\"",
        "2: key `resource.names`: is missing, write for example [\"prod/*\"], or [\"*\"] for all",
    ),
    (
        "[[resource]]\nnames = []",
        "2: key `resource.names`: is empty, write for example [\"prod/*\"], or [\"*\"] for all",
    ),
    (
        "[[resource]]\nnames = \"prod/*\"",
        "2: key `resource.names`: is a text, write a list of texts, as in [\"a\", \"b\"]",
    ),
    (
        "[[resource]]\nnames = [\n\"a\",\n7]",
        "4: key `resource.names`: is a number, write only texts in quotes in this list",
    ),
    (
        "[[resource]]\nnames = [\"a\",\n\"db[12]\"]",
        "3: key `resource.names`: \"db[12]\" matches no resource: '[' stands in none (write * for \
         any run, ? for one character)",
    ),
    (
        "[[resource]]\nnames = [\"/prod\"]",
        "2: key `resource.names`: \"/prod\" matches no resource: they begin with a letter or a \
         digit",
    ),
    (
        "[[resource]]\nnames = [\"\"]",
        "2: key `resource.names`: \"\" matches no resource: it is empty (write \"*\" for all)",
    ),
    (
        "[[resource]]\nnames = [\"x\"]\nttl = \"2h\"\nmax_ttl = \"90m\"",
        "3: key `resource.ttl`: 2h is longer than max_ttl 1h30m, make one of them fit the other",
    ),
    (
        "[[resource]]\nnames = [\"x\"]\nmax_ttl = \"10m\"",
        "3: key `resource.max_ttl`: 10m is shorter than default_ttl 15m, write a shorter ttl here \
         as well",
    ),
    (
        "[[resource]]\nnames = [\"x\"]\nhold = \"keep\"\nmax_hold = \"1h\"",
        "3: key `resource.hold`: is longer than max_hold 1h, make them fit",
    ),
    (
        "[[resource]]\nnames = [\"x\"]\nmax_hold = \"0s\"",
        "3: key `resource.max_hold`: is zero, write at least 1s",
    ),
    (
        "[[resource]]\nnames = [\"x\"]\nmax_hold = \"60000d\"",
        "3: key `resource.max_hold`: \"60000d\" is too long, write at most 49710d6h28m15s",
    ),
    // rules
    (
        "[[rule]]\nmay = []",
        "1: key `rule.who`: is missing, write for example who = [\"group:ops\"]",
    ),
    (
        "[[rule]]\nwho = [\"root\"]",
        "1: key `rule.may`: is missing, write for example may = [\"read\"], or [] to forbid all",
    ),
    (
        "[[rule]]\nwho = []\nmay = []",
        "2: key `rule.who`: is empty, write for example [\"everyone\"]",
    ),
    (
        "[[rule]]\nwho = [\"maria\"]\nmay = []",
        "2: key `rule.who`: \"maria\" is nobody, write \"user:maria\", \"group:maria\", \"root\" \
         or \"everyone\"",
    ),
    (
        "[[rule]]\nwho = [\"user:1000\"]\nmay = []",
        "2: key `rule.who`: \"user:1000\" is nobody, write \"uid:1000\"",
    ),
    (
        "[[rule]]\nwho = [\"uid:4294967296\"]\nmay = []",
        "2: key `rule.who`: \"uid:4294967296\" is nobody, write a uid up to 4294967295",
    ),
    (
        "[[rule]]\nwho = [\"host:b2\"]\nmay = []",
        "2: key `rule.who`: \"host:b2\" is nobody, write root, everyone, user:NAME, group:NAME or \
         uid:NUMBER",
    ),
    (
        "[[rule]]\nwho = [\"root\"]\nmay = [\"aquire\"]",
        "3: key `rule.may`: there is no act \"aquire\" (did you mean \"acquire\"?)",
    ),
    (
        "[[rule]]\nwho = [\"root\"]\nmay = [\"everything\"]",
        "3: key `rule.may`: there is no act \"everything\" (there are: read, acquire, release-any, \
         break)",
    ),
    (
        "[[rule]]\nwho = [\"root\"]\nmay = [\"read\"]\nmax_ttl = \"1d\"",
        "4: key `rule.max_ttl`: has no effect: this rule lets nobody acquire; add \"acquire\" to \
         may, or remove it",
    ),
    (
        "[[rule]]\nwho = [\"root\"]\nmay = [\"acquire\"]\nmax_leases = 0",
        "4: key `rule.max_leases`: is zero, take \"acquire\" out of may instead",
    ),
    (
        "[[rule]]\nwho = [\"root\"]\nmay = [\"acquire\"]\nmax_leases = 257",
        "4: key `rule.max_leases`: is above the limit, write at most 256",
    ),
    (
        "[[rule]]\nwho = [\"root\"]\nmay = [\"acquire\"]\nmax_leases = -1",
        "4: key `rule.max_leases`: is not a number from 0 to 18446744073709551615",
    ),
    (
        "[[rule]]\nwho = [\"root\"]\nmay = [\"acquire\"]\nmax_leases = \"ten\"",
        "4: key `rule.max_leases`: is a text, write a whole number",
    ),
    (
        "[[rule]]\nwho = [\"root\"]\nmay = [\"acquire\"]\nrequire_reason = \"yes\"",
        "4: key `rule.require_reason`: is a text, write true or false",
    ),
    (
        "[audit]\nfile = \"audit.jsonl\"",
        "2: key `audit.file`: \"audit.jsonl\" is no full path of a file: write its full path, \
         as in \"/var/log/stormlock/audit.jsonl\"",
    ),
    ("[audit]\npath = \"/x\"", "2: key `audit.path`: there is no such key (known here: file)"),
    ("audit = \"/x\"", "1: key `audit`: is a text, write a table, headed [audit]"),
];

#[test]
fn each_complaint_names_file_line_and_key_and_says_what_to_write() {
    for (text, complaint) in COMPLAINTS {
        let said = parse(text).map(|_| "nothing").unwrap_err();
        assert_eq!(said, format!("s.toml:{complaint}"), "for:\n{text}");
    }
}

const FORMS: &str = "write redis://HOST:PORT/DB, rediss://HOST:PORT/DB or redis+unix:///PATH";
const MOVED: &str = "key `backend.r.url`: holds a user or a password, which would show up in \
    messages; write username and password_file";

/// What a Redis table says wrong, below `kind` on line 2.
fn redis_complaints() -> Vec<(&'static str, String)> {
    let no_address = format!("3: key `backend.r.url`: is not an address of a Redis, {FORMS}");
    vec![
        ("", format!("1: key `backend.r.url`: is missing, {FORMS}")),
        ("url = \"localhost:6379\"", no_address.clone()),
        ("url = \"http://h\"", no_address.clone()),
        ("url = \"redis://\"", no_address.clone()),
        ("url = \"redis://h:0\"", no_address.clone()),
        ("url = \"redis://h:65536\"", no_address.clone()),
        ("url = \"redis://h:+1\"", no_address.clone()),
        ("url = \"redis://h/x\"", no_address.clone()),
        ("url = \"redis://[::1]x\"", no_address),
        ("url = \"redis://:hunter2@h\"", format!("3: {MOVED}")),
        ("url = \"redis://u@h\"", format!("3: {MOVED}")),
        ("url = \"redis+unix:///s?db=1&pass=hunter2\"", format!("3: {MOVED}")),
        ("url = \"redis+unix:///s?password=hunter2\"", format!("3: {MOVED}")),
        ("url = \"redis://h?username=u\"", format!("3: {MOVED}")),
        (
            "url = \"redis+unix:///s?x=1\"",
            "3: key `backend.r.url`: may have only db=NUMBER after ?".into(),
        ),
        (
            "url = \"redis+unix://s\"",
            "3: key `backend.r.url`: needs a full path, as in redis+unix:///run/redis.sock".into(),
        ),
        (
            "url = \"rediss://h#insecure\"",
            "3: key `backend.r.url`: has a part after #, remove it".into(),
        ),
        ("url = \"redis://h?x=1\"", "3: key `backend.r.url`: has a part after ?, remove it".into()),
        (
            "url = \"redis://h \"",
            "3: key `backend.r.url`: holds white space or an invisible character, remove it".into(),
        ),
        (
            "url = \"redis://h\"\nusername = \"u\"",
            "4: key `backend.r.username`: has no password, add password_file".into(),
        ),
        (
            "url = \"redis://h\"\npassword = \"hunter2\"\npassword_env = \"REDIS_PASSWORD\"",
            "4: key `backend.r.password`: `password_env` is set as well, keep one of them".into(),
        ),
        ("url = \"redis://h\"\npassword = \"\"", "4: key `backend.r.password`: is empty".into()),
        (
            "url = \"redis://h\"\npassword = 2222",
            "4: key `backend.r.password`: is a number, write a text in quotes".into(),
        ),
        (
            "url = \"redis://h\"\npassword_env = \"NOT_SET\"",
            "4: key `backend.r.password_env`: the environment of the agent has no \"NOT_SET\""
                .into(),
        ),
        (
            "url = \"redis://h\"\npassword_env = \"EMPTY\"",
            "4: key `backend.r.password_env`: $EMPTY is empty".into(),
        ),
        (
            "url = \"redis://h\"\npassword_credential = \"redis.password\"",
            "4: key `backend.r.password_credential`: there are no credentials here \
             ($CREDENTIALS_DIRECTORY is not set); start the agent from a unit with \
             LoadCredential=redis.password:/path, or use password_file"
                .into(),
        ),
        (
            "url = \"redis://h\"\npassword_credential = \"../shadow\"",
            "4: key `backend.r.password_credential`: is not a credential's name, write it as in \
             LoadCredential="
                .into(),
        ),
        (
            "url = \"redis://h\"\npassword_file = \"redis.password\"",
            "4: key `backend.r.password_file`: is not a full path, write one that begins with /"
                .into(),
        ),
        (
            "url = \"redis://h\"\npassword_file = \"/nowhere/at/all\"",
            "4: key `backend.r.password_file`: reading /nowhere/at/all: No such file or directory \
             (os error 2)"
                .into(),
        ),
        (
            "url = \"redis://h\"\nca_file = \"/ca.pem\"",
            "4: key `backend.r.ca_file`: has no effect without TLS, write a url with rediss://"
                .into(),
        ),
        (
            "url = \"rediss://h\"\nclient_cert_file = \"/c.pem\"",
            "4: key `backend.r.client_cert_file`: has no key, add client_key_file".into(),
        ),
        (
            "url = \"rediss://h\"\nclient_key_file = \"/c.key\"",
            "4: key `backend.r.client_key_file`: has no certificate, add client_cert_file".into(),
        ),
        (
            "url = \"redis://h\"\nkey_prefix = \"a b\"",
            "4: key `backend.r.key_prefix`: holds white space or an invisible character, remove it"
                .into(),
        ),
        (
            "url = \"redis://h\"\nsentinels = [\"s:1\"]",
            "4: key `backend.r.sentinels`: names no primary to ask for, add sentinel_service"
                .into(),
        ),
        (
            "url = \"redis://h\"\nsentinel_service = \"m\"",
            "4: key `backend.r.sentinel_service`: has nobody to ask, add sentinels = \
             [\"HOST:PORT\"]"
                .into(),
        ),
        (
            "url = \"redis://h\"\nsentinels = []\nsentinel_service = \"m\"",
            "4: key `backend.r.sentinels`: is empty, write at least one \"HOST:PORT\"".into(),
        ),
        (
            "url = \"redis://h\"\nsentinels = [\"s1\"]\nsentinel_service = \"m\"",
            "4: key `backend.r.sentinels`: \"s1\" is not HOST:PORT".into(),
        ),
        (
            "url = \"redis://h\"\nsentinels = [\"s:1\"]\nsentinel_service = \"\"",
            "5: key `backend.r.sentinel_service`: is not the name of a primary, write it as in \
             sentinel.conf"
                .into(),
        ),
    ]
}

#[test]
fn each_complaint_about_a_redis_says_what_to_write_and_no_password() {
    for (keys, complaint) in redis_complaints() {
        let text = format!("[backend.r]\nkind = \"redis\"\n{keys}");
        let said = parse(&text).map(|_| "nothing").unwrap_err();
        assert_eq!(said, format!("s.toml:{complaint}"), "for:\n{text}");
        assert!(!said.contains("hunter2"));
    }
}

/// What a PostgreSQL table says wrong, below `kind` on line 2.
const POSTGRES_COMPLAINTS: [(&str, &str); 12] = [
    ("", "1: key `backend.p.url`: is missing, write postgres://HOST:PORT/DATABASE, or "),
    ("url = \"h\"", "3: key `backend.p.url`: is not an address of a PostgreSQL, write postgres://"),
    ("url = \"postgres://u:hunter2@h/d\"", "3: key `backend.p.url`: holds a user or a password"),
    ("url = \"postgres://h/d?sslmode=prefer\"", "3: key `backend.p.url`: has an sslmode that does"),
    (
        "url = \"postgres://h/d\"\nsslmode = \"x\"",
        "4: key `backend.p.sslmode`: there is no such key",
    ),
    (
        "url = \"postgres://h/d\"\ntable = \"a b\"",
        "4: key `backend.p.table`: is not a table's name",
    ),
    ("url = \"postgres://h/d\"\nusername = \"\"", "4: key `backend.p.username`: is not a role's"),
    (
        "url = \"postgres://h/d\"\npassword = \"hunter2\"\npassfile = \"/p\"",
        "5: key `backend.p.passfile`: is not needed beside a password, keep one of them",
    ),
    (
        "url = \"postgres://h/d\"\npassfile = \"p\"",
        "4: key `backend.p.passfile`: is not a full path, write one that begins with /",
    ),
    ("url = \"postgres://h/d\"\npassfile = \"/nowhere\"", "4: key `backend.p.passfile`: reading"),
    (
        "url = \"postgres://h/d\"\nclient_cert_file = \"/c.pem\"",
        "4: key `backend.p.client_cert_file`: has no key, add client_key_file",
    ),
    (
        "url = \"postgres://h/d?sslmode=disable\"\nca_file = \"/ca.pem\"",
        "4: key `backend.p.ca_file`: has no effect without TLS, remove sslmode=disable from url",
    ),
];

#[test]
fn each_complaint_about_a_postgres_says_what_to_write_and_no_password() {
    for (keys, complaint) in POSTGRES_COMPLAINTS {
        let text = format!("[backend.p]\nkind = \"postgres\"\n{keys}");
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("s.toml:{complaint}")), "{keys}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_postgres_has_the_python_tool_s_table_unless_told_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let passfile = directory.path().join("pgpass");
    std::fs::write(&passfile, "h:5432:d:u:hunter2\n*:*:*:*:other\n").unwrap();
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    let shown = passfile.display();
    let bare = "[backend.p]\nkind = \"postgres\"\nurl = \"postgres://h/d\"\n";
    let of = |text: &str| match parse(text).unwrap().backends.into_values().next() {
        Some(Options::Postgres(options)) => options,
        other => panic!("{other:?}"),
    };
    let options = of(bare);
    assert_eq!((options.username.as_str(), options.table.as_str()), ("stormlock", "stormlock"));
    assert!(options.side_table);
    assert!(!of(&format!("{bare}side_table = false\n")).side_table);
    let options = of(&format!("{bare}passfile = \"{shown}\"\ntable = \"ops.locks\"\n"));
    assert_eq!(options.passfile.unwrap().expose_secret().lines().count(), 2);
    assert_eq!(options.table, "ops.locks");
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = parse(&format!("{bare}passfile = \"{shown}\"")).unwrap_err().to_string();
    assert!(error.contains("run: chmod 600") && !error.contains("hunter2"), "{error}");
}

#[test]
fn every_form_of_a_redis_url_is_taken() {
    for url in [
        "redis://h",
        "redis://h/",
        "redis://h:6379",
        "redis://127.0.0.1:6379/15",
        "rediss://[::1]:6380/0",
        "redis://[fe80::1%eth0]",
        "redis+unix:///run/redis.sock",
        "redis+unix:///run/redis.sock?db=3",
    ] {
        let text = format!("[backend.r]\nkind = \"redis\"\nurl = \"{url}\"");
        assert_eq!(redis_of(&parse(&text).unwrap()).url, url);
    }
}

#[test]
fn a_password_is_read_from_a_file_that_others_cannot_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("redis.password");
    let shown = path.display();
    let text =
        format!("[backend.r]\nkind = \"redis\"\nurl = \"redis://h\"\npassword_file = \"{shown}\"");
    let read = |content: &[u8], mode| {
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let config = parse(&text)?;
        let password = redis_of(&config).password.as_ref().unwrap().expose_secret().to_owned();
        assert!(!format!("{config:?}").contains(&password));
        Ok::<_, String>(password)
    };
    let said = |what: &str| {
        Err(format!("s.toml:4: key `backend.r.password_file`: {what}")
            .replace("FILE", path.to_str().unwrap()))
    };
    assert_eq!(read(b"hunter2", 0o600), Ok("hunter2".to_owned()));
    assert_eq!(read(b"hunter2\n", 0o640), Ok("hunter2".to_owned()));
    assert_eq!(read(b" hunter2 \r\n", 0o400), Ok(" hunter2 ".to_owned()));
    assert_eq!(read(b"h", 0o644), said("FILE is open to everyone, run: chmod 600 FILE"));
    assert_eq!(read(b"h", 0o602), said("FILE is open to everyone, run: chmod 600 FILE"));
    assert_eq!(read(b"", 0o600), said("FILE is empty"));
    assert_eq!(read(b"\n", 0o600), said("FILE is empty"));
    assert_eq!(
        read(b"a\nb\n", 0o600),
        said("FILE has more than one line, write only the password")
    );
    assert_eq!(read(b"\xff", 0o600), said("FILE is not UTF-8 text"));
    assert_eq!(read(&[b'a'; 4097], 0o600), said("FILE is longer than a password (4096 bytes)"));
}

#[test]
fn a_password_in_a_file_that_others_can_read_is_refused() {
    let text = "[backend.r]\nkind = \"redis\"\nurl = \"redis://h\"\npassword = \"hunter2\"";
    let config = parse(text).unwrap();
    assert_eq!(redis_of(&config).password.as_ref().unwrap().expose_secret(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    let said = parse_with(text, &Outside { others_may_read: true, ..outside() }).unwrap_err();
    assert_eq!(
        said,
        "s.toml:4: key `backend.r.password`: stands in a file that others can read; run chmod 600 \
         on it, or move the password into a file of its own and write password_file"
    );
}

#[test]
fn a_file_is_read_with_its_permissions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stormlock.toml");
    let shown = path.display();
    let load = |content: &[u8], mode| {
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Config::load(&path, Mode::System).map(|config| config.host).map_err(in_full)
    };
    let literal = b"[backend.r]\nkind = \"redis\"\nurl = \"redis://h\"\npassword = \"hunter2\"\n";
    assert_eq!(load(b"host = \"a\"", 0o644), Ok("a".to_owned()));
    assert!(load(literal, 0o600).is_ok());
    assert!(load(literal, 0o640).unwrap_err().contains("others can read"));
    assert!(load(literal, 0o604).unwrap_err().contains("others can read"));
    assert_eq!(
        load(b"", 0o646),
        Err(format!("{shown}: everyone can change it, run: chmod o-w {shown}"))
    );
    assert_eq!(
        load(&[b'#'; 262_145], 0o644),
        Err(format!("{shown}: is larger than 262144 bytes, is it the right file?"))
    );
    assert_eq!(load(b"a = 1\n\n\xff", 0o644), Err(format!("{shown}:3: not UTF-8 text")));
}

#[test]
fn only_a_file_that_is_not_there_is_a_fresh_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("stormlock.toml");
    assert!(Config::load_or_fresh(&missing, Mode::System).is_ok());
    assert_eq!(
        in_full(Config::load(&missing, Mode::System).unwrap_err()),
        format!("reading {}: No such file or directory (os error 2)", missing.display())
    );
    std::os::unix::fs::symlink("/nowhere/at/all", &missing).unwrap();
    assert!(Config::load_or_fresh(&missing, Mode::System).is_err(), "a link to nowhere");
    // Never told to run chmod on it, which would break /tmp.
    assert_eq!(
        in_full(Config::load_or_fresh(directory.path(), Mode::System).unwrap_err()),
        format!("reading {}: is a directory", directory.path().display())
    );
}

#[test]
fn a_name_that_no_variable_can_have_is_not_set() {
    for name in ["", "A=B", "A\0B"] {
        assert_eq!(from_env(name), None);
    }
}

#[test]
fn a_user_has_a_configuration_below_home() {
    let path = PathBuf::from;
    let home = |name: &str| (name == "HOME").then(|| OsString::from("/home/maria"));
    assert_eq!(user_path(home), Some(path("/home/maria/.config/stormlock/stormlock.toml")));
    assert_eq!(user_path(|_| Some("/x".into())), Some(path("/x/stormlock/stormlock.toml")));
    assert_eq!(user_path(|_| Some("relative".into())), None);
    assert_eq!(user_path(|_| None), None);
    assert_eq!(Config::usual_path(Mode::System), Some(path(SYSTEM_CONFIG)));
    assert_eq!(Config::usual_path(Mode::Dev), None);
}

#[test]
fn the_example_is_a_fresh_configuration_and_a_valid_one_without_its_number_signs() {
    let fresh = Config::fresh_for(&outside());
    assert_eq!(format!("{:?}", parse(EXAMPLE).unwrap()), format!("{fresh:?}"));

    let directory = tempfile::tempdir().unwrap();
    let password = directory.path().join("p");
    std::fs::write(&password, "hunter2").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let is_prose = |line: &str| line.starts_with("# ");
    let lines = EXAMPLE.lines().filter(|line| !is_prose(line));
    let keys: Vec<_> = lines.map(|line| line.strip_prefix('#').unwrap_or(line)).collect();
    let mut text = keys.join("\n");
    for file in ["redis.password", "etcd.password", "pgpass", "aws.secret", "own.password"] {
        text = text.replace(&format!("/etc/stormlock/{file}"), password.to_str().unwrap());
    }
    let config = parse(&text).unwrap();
    assert_eq!(config.backends.len(), 6);
    assert_eq!(config.resources.len(), 1);
    assert!(config.policy.judge(&who(0, "root", &[]), Act::Break, Some(&on("prod/x"))).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Config::parse(&bytes, Path::new("s.toml"), &outside());
    }

    #[test]
    fn no_damage_to_a_full_configuration_makes_it_panic(
        at in 0..FULL.len(),
        len in 0..40_usize,
        junk in "[ -~\n]{0,8}",
    ) {
        let mut bytes = FULL.as_bytes().to_vec();
        let end = (at + len).min(bytes.len());
        bytes.splice(at..end, junk.bytes());
        if let Err(error) = Config::parse(&bytes, Path::new("s.toml"), &outside()) {
            prop_assert!(error.to_string().starts_with("s.toml:"), "{}", error);
        }
    }
}
