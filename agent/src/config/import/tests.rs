//! Files of the Python tool, and what becomes of them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;
use stormlock_protocol::name::Resource;

use super::*;
use crate::config::{Config, Mode, Outside, Purpose};
use crate::lease::Uid;

/// As in the Python tool's README, without the kind that this build lacks.
const README: &str = "\
# Default section is used for default configuration for locks.
[default]
# ttl is the maximum time a lock can be held without renewing
ttl = 1 days
principal = me@example.com
backend = redis

[special]
ttl = 30 minutes
backend = redis

[backend.redis]
url = redis://example.com:6379
";

/// The configuration that a result is, with its password files in a directory of the test.
fn config(imported: &Imported) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    for store in ["redis", "etcd"] {
        let password = directory.path().join(format!("{store}.password"));
        std::fs::write(&password, "hunter2\n").unwrap();
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let toml = imported.toml.replace("/etc/stormlock", directory.path().to_str().unwrap());
    let outside = Outside {
        mode: Mode::System,
        uid: Uid(990),
        nodename: "bastion2".to_owned(),
        others_may_read: true,
        purpose: Purpose::Run,
        env: |_| None,
    };
    Config::parse(toml.as_bytes(), Path::new("s.toml"), &outside).map_err(|e| e.to_string())
}

fn defaults(config: &Config, name: &str) -> (String, u32) {
    let defaults = config.defaults(&Resource::new(name).unwrap());
    (defaults.backend.to_string(), defaults.ttl.as_secs())
}

#[test]
fn the_readme_of_the_python_tool_is_imported() {
    let imported = import(README).unwrap();
    assert_eq!(
        imported.toml,
        r#"# Made by `stormlockd import` from a configuration of the Python tool.
default_ttl = "1d"
default_backend = "redis"

[backend.redis]
kind = "redis"
url = "redis://example.com:6379"

[[resource]]
names = ["special"]
backend = "redis"
ttl = "30m"
"#
    );
    assert_eq!(
        imported.notes,
        ["principal \"me@example.com\" (line 5) is not taken: the agent knows callers from the \
          kernel and calls them {user}@{host}"]
    );
    let config = config(&imported).unwrap();
    assert_eq!(defaults(&config, "special"), ("redis".to_owned(), 1800));
    assert_eq!(defaults(&config, "other"), ("redis".to_owned(), 86_400));
}

#[test]
fn a_password_is_not_copied_and_the_note_says_where_it_goes() {
    let imported =
        import("[default]\nbackend: redis\n[backend.redis]\nurl: rediss://u:hunter2@h/1").unwrap();
    assert_eq!(
        imported.toml.split_once('\n').unwrap().1,
        r#"default_backend = "redis"

[backend.redis]
kind = "redis"
url = "rediss://h/1"
username = "u"
password_file = "/etc/stormlock/redis.password"
"#
    );
    assert_eq!(
        imported.notes,
        ["the password of the url (line 4) is not copied: run install -m 600 /dev/null \
          /etc/stormlock/redis.password, write it into that file, and give the file to the agent's \
          user"]
    );
    config(&imported).unwrap();
}

#[test]
fn a_backend_that_this_build_lacks_is_a_comment_and_its_locks_go_nowhere_else() {
    let imported = import(
        "[default]\nttl = 4 seconds\nbackend = mariadb\n\
         [special]\nbackend = redis\n\
         [backend.mariadb]\nhost = db.example.com\nport = 2379\nuser = u\npassword = hunter2\n\
         [backend.mysql]\nhost = h\n[backend.mysql.extra]\nx = 1\n",
    )
    .unwrap();
    assert_eq!(
        imported.toml.split_once('\n').unwrap().1,
        r#"default_ttl = "4s"
default_backend = "mariadb"

# Not in this build:
#[backend."mariadb"]
#kind = "mariadb"
#"host" = "db.example.com"
#"port" = "2379"
#"user" = "u"

[backend.redis]
kind = "redis"
url = "redis://localhost:6379"

# Not in this build:
#[backend."mysql"]
#kind = "mysql"
#"host" = "h"

[[resource]]
names = ["special"]
backend = "redis"
"#
    );
    assert_eq!(
        imported.notes,
        [
            "the default backend is \"mariadb\", which this build does not have: the configuration \
             is refused until you write another one",
            "\"password\" (line 10) is left out: it may hold a password",
            "this build has no backend \"mariadb\": it stands in the file as a comment",
            "this build has no backend \"mysql\": it stands in the file as a comment",
        ]
    );
    assert_eq!(
        config(&imported).unwrap_err(),
        "s.toml:3: key `default_backend`: there is no backend \"mariadb\" (there are: redis)"
    );
}

#[test]
fn an_etcd_is_imported_without_its_password() {
    let imported = import(
        "[default]\nbackend = etcd\n[backend.etcd]\nprefix = /locks/\nhost = etcd.example.com\n\
         port = 2380\nca_cert = /etc/ca.pem\ncert_key = c.key\ntimeout = 3\nuser = u\n\
         password = hunter2\n",
    )
    .unwrap();
    assert_eq!(
        imported.toml.split_once('\n').unwrap().1,
        r#"default_backend = "etcd"

[backend.etcd]
kind = "etcd"
endpoints = ["https://etcd.example.com:2380"]
key_prefix = "/locks/"
username = "u"
password_file = "/etc/stormlock/etcd.password"
ca_file = "/etc/ca.pem"
"#
    );
    assert_eq!(
        imported.notes,
        [
            "the password (line 11) is not copied: run install -m 600 /dev/null \
             /etc/stormlock/etcd.password, write it into that file, and give the file to the \
             agent's user",
            "client_key_file \"c.key\" (line 8) is left out: it takes a full path",
            "\"timeout\" (line 9) is left out: the agent has its own",
        ]
    );
    config(&imported).unwrap();
}

#[test]
fn an_etcd_that_is_only_named_is_the_python_tool_s_default() {
    let imported = import("[default]\nbackend = etcd\n").unwrap();
    assert!(imported.toml.contains("endpoints = [\"http://localhost:2379\"]\n"), "{imported:?}");
    assert!(imported.notes.is_empty(), "{imported:?}");
    config(&imported).unwrap();
    let wrong = import("[backend.etcd]\nhost = a b\n").unwrap_err();
    assert_eq!(wrong.to_string(), "line 2: host and port are not the address of an etcd");
}

#[test]
fn a_postgres_is_taken_without_its_password() {
    let imported = import(
        "[default]\nbackend = postgresql\n[backend.postgresql]\n\
         connection = host=db1 dbname=ops user=py password=hunter2 sslmode=require\n\
         table = ops.locks\n",
    )
    .unwrap();
    assert_eq!(
        imported.toml.split_once('\n').unwrap().1,
        r#"default_backend = "postgresql"

[backend.postgresql]
kind = "postgres"
url = "postgres://db1/ops"
username = "py"
password_file = "/etc/stormlock/postgres.password"
table = "ops.locks"
"#
    );
    let notes = imported.notes.join("\n");
    for words in ["password of the connection (line 4)", "sslmode \"require\"", "setup postgresql"]
    {
        assert!(notes.contains(words), "{notes}");
    }
    let without = "[backend.postgresql]\nconnection = dbname=ops\n";
    let config = config(&import(without).unwrap()).unwrap();
    assert_eq!(defaults(&config, "x"), ("postgresql".to_owned(), 900));
    for (text, expected) in [
        ("[backend.postgresql]\ntable = x", "line 1: there is no connection"),
        ("[backend.postgresql]\nconnection = host=h", "line 2: the connection names no database"),
    ] {
        let error = import(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_resource_that_changes_nothing_or_has_no_valid_name_is_no_table() {
    let imported = import(
        "[default]\nttl = 1 d\nbackend = redis\n[a b]\nttl = 2 d\n[quiet]\nprincipal = me\n",
    )
    .unwrap();
    assert!(!imported.toml.contains("[[resource]]"));
    assert_eq!(
        imported.notes,
        [
            "[a b] (line 4) is left out: ' ' is not allowed in it (allowed: letters, digits and \
             . _ / : @ + -)",
            "principal \"me\" (line 7) is not taken: the agent knows callers from the kernel and \
             calls them {user}@{host}",
        ]
    );
    config(&imported).unwrap();
}

#[test]
fn what_stands_in_default_with_capitals_counts_for_every_section() {
    let imported =
        import("[DEFAULT]\nbackend = redis\nttl = 5 m\n[default]\n[x]\nttl = 7m").unwrap();
    let config = config(&imported).unwrap();
    assert_eq!(defaults(&config, "other"), ("redis".to_owned(), 300));
    assert_eq!(defaults(&config, "x"), ("redis".to_owned(), 420));
}

#[test]
fn options_of_a_url_become_keys_or_notes() {
    let imported = import(
        "[default]\nbackend = redis\n[backend.redis]\n\
         url = rediss://h?ssl_ca_certs=/ca.pem&ssl_certfile=c.pem&ssl_cert_reqs=none&username=u\n",
    )
    .unwrap();
    assert!(imported.toml.contains("ca_file = \"/ca.pem\"\n"));
    assert_eq!(
        imported.notes,
        [
            "user \"u\" of the url has no password, left out",
            "client_cert_file \"c.pem\" of the url is left out: it takes a full path",
            "option \"ssl_cert_reqs\" of the url (line 4) is left out",
        ]
    );
    config(&imported).unwrap();
}

#[test]
fn what_cannot_be_imported_names_its_line_and_no_password() {
    for (text, expected) in [
        (
            "[default]\nttl = 1 week",
            "line 2: ttl \"1 week\": \"week\" is not a unit (units are days, hours, minutes, \
             seconds, or d, h, m, s)",
        ),
        ("[default]\nttl = 0 d", "line 2: ttl \"0 d\": 0 s is outside 1 s to 366 days"),
        (
            "[backend.redis]\nurl = http://:hunter2@h",
            "line 2: the url is not redis://, rediss:// or unix://",
        ),
        (
            "[backend.redis]\nurl = redis://:hunter2@h:x",
            "line 2: the url is not an address of a Redis, write redis://HOST:PORT/DB, \
             rediss://HOST:PORT/DB or redis+unix:///PATH",
        ),
        ("ttl = 1 d", "line 1: before the first [section]"),
    ] {
        assert_eq!(import(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_string_stays_on_its_line() {
    let quoted = quoted("a\"b\\c\n[x]\u{7f}é");
    assert_eq!(quoted, r#""a\"b\\c\u000A[x]\u007Fé""#);
    let table: toml::Table = format!("k = {quoted}").parse().unwrap();
    assert_eq!(table["k"].as_str(), Some("a\"b\\c\n[x]\u{7f}é"));
}

fn lines() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "\\[(default|DEFAULT|backend\\.[a-z.]{1,6}|backend\\.redis|[ -~]{1,6})\\]",
        "(ttl|backend|url|principal) ?[=:] ?[ -~]{0,12}",
        "ttl = [0-9]{1,3} ?(d|hours|m|second)",
        "backend = (redis|etcd|local)",
        "url = (redis|rediss|unix)://[a-z:@/?&=%0-9]{0,16}",
        "[ \t]{0,3}.{0,10}",
    ];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn nothing_makes_it_panic_and_every_result_is_toml(text in lines()) {
        if let Ok(imported) = import(&text) {
            let parsed = imported.toml.parse::<toml::Table>();
            prop_assert!(parsed.is_ok(), "{:?}: {}", parsed, imported.toml);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = import(&text);
    }
}
