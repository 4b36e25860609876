//! A `kind = "exec"` table: as written, and checked. Whether that program is there counts for
//! `stormlockd check` only: to an agent it is a store that is down.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::file::{SecretKeys, Texts};
use super::reader::{Placed, Spot, Table, Wrong};
use super::secret;
use super::{Outside, Purpose};
use crate::backend::exec::Options;
use crate::others::changed_by;

/// An example, said where there is no command.
const EXAMPLE: &str = "[\"/usr/local/lib/stormlock/own-backend\", \"argument\"]";

pub(super) struct ExecTable {
    spot: Spot,
    command: Texts,
    env: Texts,
    secret: SecretKeys,
}

impl ExecTable {
    pub(super) fn read(table: &Table<'_>) -> Result<ExecTable, Wrong> {
        table.only(&[
            "kind",
            "command",
            "env",
            "password_file",
            "password_credential",
            "password_env",
            "password",
        ])?;
        Ok(ExecTable {
            spot: table.spot.clone(),
            command: table.texts("command")?,
            env: table.texts("env")?,
            secret: SecretKeys::read(table)?,
        })
    }
}

pub(super) fn check(table: &ExecTable, outside: &Outside) -> Result<Options, Wrong> {
    let command = check_command(table)?;
    if outside.purpose == Purpose::Check
        && let Some(program) = table.command.iter().flat_map(|it| &it.value).next()
    {
        check_program(program)?;
    }
    let mut env = BTreeMap::new();
    for variable in table.env.iter().flat_map(|env| &env.value) {
        let (name, value) = check_variable(variable)?;
        if env.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(variable.spot.wrong(format!("has {name} twice, keep one of them")));
        }
    }
    let password = secret::resolve(&table.secret, outside)?;
    Ok(Options { command, env, password })
}

fn check_command(table: &ExecTable) -> Result<Vec<String>, Wrong> {
    let Some(Placed { value, spot }) = &table.command else {
        let missing = table.spot.below("command");
        return Err(missing.wrong(format!("is missing, write {EXAMPLE}")));
    };
    let Some(program) = value.first() else {
        return Err(spot.wrong(format!("is empty, write {EXAMPLE}")));
    };
    secret::absolute(program)?;
    if program.value.contains(char::is_whitespace) && value.len() == 1 {
        return Err(program.spot.wrong(format!(
            "is one text with spaces: there is no shell, write each argument as a text of its own, \
             as in {EXAMPLE}"
        )));
    }
    value.iter().map(|word| check_word(word).map(|()| word.value.clone())).collect()
}

/// Permission bits: somebody may run it.
const MAY_RUN: u32 = 0o111;

fn check_program(program: &Placed<String>) -> Result<(), Wrong> {
    let Placed { value: path, spot } = program;
    let found = std::fs::metadata(path).map_err(|error| Wrong {
        spot: spot.clone(),
        what: format!("looking for {path}"),
        source: Some(error),
    })?;
    if !found.is_file() {
        return Err(spot.wrong(format!("{path} is no file, so it cannot be run")));
    }
    if found.mode() & MAY_RUN == 0 {
        return Err(spot.wrong(format!("{path} is not executable, run: chmod +x {path}")));
    }
    match changed_by(Path::new(path), &found) {
        Ok(Some(why)) => Err(spot.wrong(format!("{path}: {why}"))),
        Ok(None) => Ok(()),
        Err(error) => Err(Wrong {
            spot: spot.clone(),
            what: format!("looking where {path} is"),
            source: Some(error),
        }),
    }
}

/// Complains without quoting: somebody may have put a password there.
fn check_variable(variable: &Placed<String>) -> Result<(&str, &str), Wrong> {
    check_word(variable)?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match variable.value.split_once('=') {
        Some((name, value)) if !name.is_empty() && name.chars().all(is_name) => Ok((name, value)),
        _ => Err(variable.spot.wrong("is not NAME=value, write for example \"LANG=C.UTF-8\"")),
    }
}

fn check_word(word: &Placed<String>) -> Result<(), Wrong> {
    if word.value.contains('\0') {
        return Err(word.spot.wrong("holds a null character, which no program can be given"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::super::tests::parse;
    use super::*;
    use crate::backend;
    use crate::lease::BackendName;

    fn options(keys: &str) -> Options {
        let config = parse(&format!("[backend.own]\nkind = \"exec\"\n{keys}")).unwrap();
        match config.backends.get(&BackendName::new("own")) {
            Some(backend::Options::Exec(exec)) => (**exec).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_program_is_configured_as_written() {
        let exec = options(
            "command = [\"/usr/lib/own\", \"--table\", \"a b\"]\nenv = [\"LANG=C\", \"A=b=c\"]\n\
             password_env = \"REDIS_PASSWORD\"\n",
        );
        assert_eq!(exec.command, ["/usr/lib/own", "--table", "a b"]);
        assert_eq!(exec.env["LANG"], "C");
        assert_eq!(exec.env["A"], "b=c");
        assert_eq!(exec.password.as_ref().unwrap().expose_secret(), "from the environment");
        assert!(!format!("{exec:?}").contains("from the environment"));
        let plain = options("command = [\"/usr/lib/own\"]\n");
        assert!(plain.env.is_empty() && plain.password.is_none());
    }

    #[test]
    fn each_complaint_about_a_program_says_what_to_write_and_no_password() {
        let command = "command = [\"/own\"]\n";
        for (keys, expected) in [
            ("", "1: key `backend.own.command`: is missing, write [\"/usr"),
            ("command = []", "3: key `backend.own.command`: is empty, write [\"/usr"),
            ("command = \"/own x\"", "3: key `backend.own.command`: is a text, write a list of"),
            ("command = [\"own\"]", "3: key `backend.own.command`: is not a full path"),
            ("command = [\"/own --x\"]", "there is no shell, write each argument as"),
            ("command = [\"/own\", \"\\u0000\"]", "holds a null character"),
            (&format!("{command}env = [\"hunter2\"]"), "4: key `backend.own.env`: is not NAME="),
            (&format!("{command}env = [\"=hunter2\"]"), "is not NAME=value"),
            (&format!("{command}env = [\"A=hunter2\", \"A=\"]"), "has A twice"),
            (&format!("{command}shell = true"), "there is no such key"),
            (&format!("{command}password = \"a\"\npassword_env = \"b\""), "is set as well"),
        ] {
            let said = parse(&format!("[backend.own]\nkind = \"exec\"\n{keys}")).unwrap_err();
            assert!(said.contains(expected) && !said.contains("hunter2"), "{keys}: {said}");
        }
    }

    #[test]
    fn what_changes_a_program_makes_another_store_of_it() {
        let of = |keys: &str| backend::Options::Exec(Box::new(options(keys)));
        let plain = of("command = [\"/own\"]\n");
        assert!(plain.same(&of("command = [\"/own\"]\n")));
        for other in [
            "command = [\"/own\", \"x\"]\n",
            "command = [\"/own\"]\nenv = [\"A=\"]\n",
            "command = [\"/own\"]\npassword_env = \"REDIS_PASSWORD\"\n",
        ] {
            assert!(!plain.same(&of(other)), "{other}");
        }
        assert_eq!(plain.kind(), "exec");
    }
}
