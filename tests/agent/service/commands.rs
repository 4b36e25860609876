//! `check` and `import`: about files, without an agent.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{CONFIG, USAGE, ok, path, run_it, says, stormlockd};
use crate::program::Ran;

/// The configuration in the README of stormlock 0.4.1 on PyPI, word for word.
const PYTHON_README: &str = "\
# Default section is used for default configuration for locks.
# If a configuration isn't specified in a more specific section it falls back
# to values in here.
[default]
# ttl is the maximum time a lock can be held without renewing
ttl = 1 days
# principal is an identifier of who is holding the lock
principal = me@example.com
# specify which backend to use
backend = etcd

# Specify configuration for a specific lock
[special]
ttl = 30 minutes
backend = redis

# Backend sections have configuration specific to the backend
[backend.etcd]
host = etcd.example.com

[backend.redis]
url = redis://example.com:6379
";

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, name: &str, mode: u32, text: &str) -> PathBuf {
        let file = self.0.path().join(name);
        fs::write(&file, text).expect("a file");
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("its mode");
        file
    }

    /// `stormlockd check` of a file with this content and mode.
    fn check(&self, mode: u32, text: &str) -> Ran {
        let file = self.file("stormlock.toml", mode, text);
        run_it(&mut stormlockd(&["check", path(&file)]))
    }

    fn import(&self, text: &str) -> Ran {
        let file = self.file(".stormlock.cfg", 0o600, text);
        run_it(&mut stormlockd(&["import", path(&file)]))
    }
}

#[test]
fn check_says_ok_and_names_the_backends_of_a_good_file() {
    let folder = Folder::new();
    let good = "[backend.main]\nkind = \"redis\"\nurl = \"redis://10.0.0.1:6379/0\"\n\
                [backend.here]\nkind = \"local\"\n";
    let said = ok(folder.check(0o644, &format!("default_backend = \"main\"\n{good}")));
    assert!(said.starts_with("OK ") && said.contains("stormlock.toml"), "{said}");
    assert!(said.trim_end().ends_with("backends: here, main"), "{said}");
}

#[test]
fn check_names_file_line_and_key_of_what_is_wrong() {
    let folder = Folder::new();
    let file = format!("{}:", folder.0.path().join("stormlock.toml").display());
    for (text, line, words) in [
        ("host = \"a\"\ndefault_tll = \"1h\"\n", "2:", ["default_tll", "default_ttl"]),
        ("\n[backend.main]\nkind = \"redis\"\n", "2:", ["backend.main", "url"]),
        ("[[rule]]\nwho = [\"root\"]\nmay = [\"aquire\"]\n", "3:", ["may", "acquire"]),
        ("default_ttl = \"soon\"\n", "1:", ["default_ttl", "soon"]),
        ("[backend\n", "1:", ["not TOML", ""]),
    ] {
        let said = folder.check(0o600, text);
        says(&said, CONFIG, &[&format!("{file}{line}"), words[0], words[1]]);
        assert!(said.stderr.starts_with("stormlockd: "), "{said:?}");
    }
}

#[test]
fn check_refuses_a_password_that_others_can_read_and_keeps_it_to_itself() {
    let folder = Folder::new();
    let text = "[backend.main]\nkind = \"redis\"\nurl = \"redis://10.0.0.1\"\n\
                password = \"canary-5f1e\"\n";
    for mode in [0o644, 0o640, 0o604] {
        let said = folder.check(mode, text);
        says(&said, CONFIG, &[":4:", "backend.main.password", "chmod"]);
        assert!(!said.stderr.contains("canary-5f1e"), "{said:?}");
    }
    ok(folder.check(0o600, text));
    says(&folder.check(0o602, text), CONFIG, &["everyone can change it", "chmod o-w"]);
}

#[test]
fn check_notes_who_is_not_known_here_and_is_content() {
    let folder = Folder::new();
    let who = "[\"group:no-such-group\", \"user:root\", \"user:no-such-user\", \"group:4242\"]";
    let said = folder.check(0o644, &format!("\n[[rule]]\nwho = {who}\nmay = [\"acquire\"]\n"));
    let note = "stormlockd: note: the rule on line 2: this host knows no";
    let notes = format!("{note} group no-such-group\n{note} user no-such-user\n");
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), notes.as_str()));
}

#[test]
fn check_by_hand_takes_the_credential_of_the_unit_for_granted() {
    let folder = Folder::new();
    let backend = "[backend.main]\nkind = \"redis\"\nurl = \"redis://10.0.0.1\"\n";
    let text = format!("{backend}username = \"s\"\npassword_credential = \"redis\"\n");
    assert!(ok(folder.check(0o644, &text)).starts_with("OK "));
    let serve =
        run_it(&mut stormlockd(&["--config", path(&folder.0.path().join("stormlock.toml"))]));
    says(&serve, CONFIG, &[":5:", "there are no credentials here"]);
}

#[test]
fn a_wrong_word_is_told_by_name_and_a_wrong_level_is_no_silent_log() {
    for (words, told) in [
        (["--conifg", "x"], "stormlockd: unexpected argument '--conifg'"),
        (["--log", "inof"], "stormlockd: --log \"inof\" is no level"),
    ] {
        let said = run_it(&mut stormlockd(&words));
        says(&said, USAGE, &[told]);
    }
}

#[test]
fn check_of_a_file_that_is_not_there_fails_and_of_none_means_the_usual_one() {
    let folder = Folder::new();
    let missing = folder.0.path().join("none.toml");
    says(&run_it(&mut stormlockd(&["check", path(&missing)])), CONFIG, &["none.toml", "no such"]);
    let home = || {
        let mut command = stormlockd(&["check", "--user"]);
        command.env("XDG_CONFIG_HOME", folder.0.path());
        command
    };
    assert!(ok(run_it(&mut home())).contains("the defaults hold"));
    fs::create_dir(folder.0.path().join("stormlock")).expect("a folder");
    folder.file("stormlock/stormlock.toml", 0o600, "default_tll = \"1h\"\n");
    says(&run_it(&mut home()), CONFIG, &["stormlock/stormlock.toml:1:"]);
}

#[test]
fn an_imported_file_passes_the_check() {
    let folder = Folder::new();
    let imported = folder.import(PYTHON_README);
    assert!(imported.stderr.contains("me@example.com"), "the principal is not taken: {imported:?}");
    let toml = ok(imported);
    assert!(toml.contains("default_ttl = \"1d\"") && toml.contains("ttl = \"30m\""), "{toml}");
    assert!(ok(folder.check(0o644, &toml)).contains("backends: etcd, redis"), "{toml}");
}

#[test]
fn what_the_python_tool_locks_elsewhere_is_imported_and_refused_until_somebody_decides() {
    let folder = Folder::new();
    let imported = folder.import(&PYTHON_README.replace("etcd", "mysql"));
    assert!(imported.stderr.contains("refused until you write another one"), "{imported:?}");
    let toml = ok(imported);
    let said = folder.check(0o644, &toml);
    says(&said, CONFIG, &["default_backend", "mysql"]);
    let decided = toml.replace("default_backend = \"mysql\"", "default_backend = \"redis\"");
    ok(folder.check(0o644, &decided));
}

#[test]
fn an_imported_password_is_left_out_and_its_place_is_said() {
    let folder = Folder::new();
    let imported =
        folder.import("[backend.redis]\nurl = redis://u:canary-5f1e@example.com:6379/1\n");
    assert!(imported.stderr.contains("/etc/stormlock/redis.password"), "{imported:?}");
    assert!(!format!("{imported:?}").contains("canary-5f1e"), "{imported:?}");
    let toml = ok(imported).replace("/etc/stormlock", path(folder.0.path()));
    says(&folder.check(0o644, &toml), CONFIG, &["password_file", "no such file"]);
    folder.file("redis.password", 0o600, "canary-5f1e\n");
    ok(folder.check(0o644, &toml));
}

#[test]
fn what_cannot_be_imported_says_its_line() {
    let folder = Folder::new();
    says(&folder.import("[default]\nttl = soon\n"), CONFIG, &["line 2", "soon"]);
    let missing = folder.0.path().join("none.cfg");
    says(&run_it(&mut stormlockd(&["import", path(&missing)])), CONFIG, &["none.cfg", "no such"]);
}

#[test]
fn a_program_that_cannot_be_run_is_found_by_the_check() {
    let folder = Folder::new();
    let program = folder.file("own", 0o600, "#!/bin/sh\n");
    let check = |path: &str| {
        folder.check(0o644, &format!("[backend.own]\nkind = \"exec\"\ncommand = [\"{path}\"]\n"))
    };
    let none = format!("{}.none", path(&program));
    let key = "stormlock.toml:3: key `backend.own.command`: ";
    says(&check(&none), CONFIG, &[key, &format!("looking for {none}"), "no such file"]);
    says(&check(path(folder.0.path())), CONFIG, &[key, "is no file"]);
    says(&check(path(&program)), CONFIG, &[key, "not executable", "chmod +x"]);
    folder.file("own", 0o777, "#!/bin/sh\n");
    says(&check(path(&program)), CONFIG, &[key, "everyone can change", "chmod o-w"]);
    folder.file("own", 0o755, "#!/bin/sh\n");
    ok(check(path(&program)));
}

#[test]
fn a_program_s_password_file_is_looked_at_by_the_check() {
    let folder = Folder::new();
    let program = folder.file("own", 0o755, "#!/bin/sh\n");
    let file = folder.0.path().join("own.password");
    let text = format!(
        "[backend.own]\nkind = \"exec\"\ncommand = [\"{}\"]\npassword_file = \"{}\"\n",
        path(&program),
        path(&file)
    );
    let key = "stormlock.toml:4: key `backend.own.password_file`: ";
    says(&folder.check(0o644, &text), CONFIG, &[key, "own.password", "no such file"]);
    folder.file("own.password", 0o644, "canary-5f1e\n");
    says(&folder.check(0o644, &text), CONFIG, &[key, "open to everyone", "chmod 600"]);
    folder.file("own.password", 0o600, "canary-5f1e\n");
    ok(folder.check(0o644, &text));
}

#[test]
fn a_device_is_no_configuration_and_nobody_is_told_to_change_its_mode() {
    let said = run_it(&mut stormlockd(&["check", "/dev/null"]));
    says(&said, CONFIG, &["/dev/null", "a device, not a file"]);
    assert!(!said.stderr.contains("chmod"), "{said:?}");
}

#[test]
fn what_is_to_be_done_by_hand_is_printed_without_any_password() {
    let folder = Folder::new();
    let file = folder.file(
        "stormlock.toml",
        0o600,
        "default_backend = \"own\"\n\
         [backend.pg]\nkind = \"postgres\"\nurl = \"postgres://127.0.0.1:1/locks\"\n\
         password_file = \"/no/such/password\"\n\
         [backend.other]\nkind = \"postgres\"\nurl = \"postgres://127.0.0.1:1/locks\"\n\
         passfile = \"/no/such/pgpass\"\n\
         [backend.aws]\nkind = \"dynamodb\"\nregion = \"eu-west-1\"\n\
         endpoint_url = \"http://127.0.0.1:8000\"\naccess_key_id = \"x\"\n\
         secret_access_key_file = \"/no/such/secret\"\n\
         [backend.own]\nkind = \"exec\"\ncommand = [\"/no/such/program\"]\n",
    );
    let setup = |args: &[&str]| {
        let mut command = stormlockd(&["setup"]);
        run_it(command.args(args).arg("--config").arg(&file))
    };
    for name in ["pg", "other"] {
        assert!(ok(setup(&[name, "--print"])).contains("CREATE TABLE"));
    }
    let aws = ok(setup(&["aws", "--print"]));
    assert_eq!(aws.matches(" --endpoint-url http://127.0.0.1:8000 ").count(), 3, "{aws}");
    let own = ok(setup(&["own", "--print"]));
    assert!(own.contains("nothing to print") && own.contains("stormlockd setup own"), "{own}");
    // To do it, the password is needed.
    says(&setup(&["pg"]), CONFIG, &["/no/such/password"]);
}
