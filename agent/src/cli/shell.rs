//! The interactive shell of `stormlockd dev`: the user's own, with the prompt hook on. The hook is
//! stormctl's; a shell that is not known here, or a stormctl that has none (or is not in reach),
//! gives a plain shell.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

const FALLBACK: &str = "/bin/sh";

const BASHRC: &str = "\
[ -r /etc/bash.bashrc ] && . /etc/bash.bashrc
[ -r ~/.bashrc ] && . ~/.bashrc
eval \"$(command stormctl init bash 2> /dev/null)\"
";

/// zsh reads its files from ZDOTDIR; after ours it is what it was before, or became in .zshenv.
const ZSHENV: &str = "\
ZDOTDIR=\"${STORMLOCK_DEV_ZDOTDIR:-$HOME}\"
unset STORMLOCK_DEV_ZDOTDIR
__stormlock_dev=@DIR@
[[ -r \"$ZDOTDIR/.zshenv\" ]] && . \"$ZDOTDIR/.zshenv\"
__stormlock_zdotdir=\"$ZDOTDIR\"
ZDOTDIR=\"$__stormlock_dev\"
";
const ZSHRC: &str = "\
ZDOTDIR=\"$__stormlock_zdotdir\"
unset __stormlock_zdotdir __stormlock_dev
[[ -r \"$ZDOTDIR/.zshrc\" ]] && . \"$ZDOTDIR/.zshrc\"
eval \"$(command stormctl init zsh 2> /dev/null)\"
";

const FISH: &str = "type -q stormctl; and command stormctl init fish 2> /dev/null | source";

/// What to run, and what to set for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shell {
    pub(crate) command: Vec<OsString>,
    pub(crate) env: Vec<(&'static str, OsString)>,
}

/// The user's shell; its start-up files are written into `dir`, whose path is plain text.
pub(crate) fn interactive(
    shell: Option<OsString>,
    zdotdir: Option<OsString>,
    dir: &Path,
) -> io::Result<Shell> {
    let shell = shell.filter(|path| !path.is_empty()).unwrap_or_else(|| FALLBACK.into());
    let kind = Path::new(&shell).file_name().map(|name| name.to_string_lossy().into_owned());
    let mut command = vec![shell];
    let mut env = Vec::new();
    match kind.as_deref() {
        Some("bash") => {
            let rc = dir.join("bashrc");
            fs::write(&rc, BASHRC)?;
            command.extend(["--rcfile".into(), rc.into_os_string(), "-i".into()]);
        }
        Some("zsh") => {
            fs::write(dir.join(".zshenv"), ZSHENV.replace("@DIR@", &dir.to_string_lossy()))?;
            fs::write(dir.join(".zshrc"), ZSHRC)?;
            env.push(("ZDOTDIR", dir.as_os_str().to_owned()));
            env.extend(zdotdir.map(|before| ("STORMLOCK_DEV_ZDOTDIR", before)));
            command.push("-i".into());
        }
        Some("fish") => command.extend(["-i".into(), "--init-command".into(), FISH.into()]),
        Some(_) | None => {}
    }
    Ok(Shell { command, env })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn check(shell: Option<&str>, expected: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let made = interactive(shell.map(OsString::from), None, dir.path()).unwrap();
        let rc = dir.path().join("bashrc").to_string_lossy().into_owned();
        let expected: Vec<OsString> =
            expected.iter().map(|arg| arg.replace("@RC@", &rc).into()).collect();
        assert_eq!(made.command, expected);
    }

    #[test]
    fn the_users_shell_is_started_with_its_hook_and_an_unknown_one_as_it_is() {
        check(Some("/bin/bash"), &["/bin/bash", "--rcfile", "@RC@", "-i"]);
        check(Some("/usr/bin/zsh"), &["/usr/bin/zsh", "-i"]);
        check(Some("/usr/bin/fish"), &["/usr/bin/fish", "-i", "--init-command", FISH]);
        check(Some("/bin/ksh"), &["/bin/ksh"]);
        check(Some(""), &[FALLBACK]);
        check(None, &[FALLBACK]);
    }

    /// What a shell's start-up file prints (stdout, stderr) beside this script as `stormctl`.
    fn told(shell: &str, stormctl: &str) -> (String, String) {
        let home = tempfile::tempdir().unwrap();
        let program = home.path().join("stormctl");
        fs::write(home.path().join(".bashrc"), "echo own\n").unwrap();
        fs::write(&program, format!("#!/bin/sh\n{stormctl}\n")).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let made = interactive(Some(shell.into()), None, home.path()).unwrap();
        // Without a terminal bash complains about `-i`; only its file is of interest.
        let rc = made.command.get(2).unwrap().clone();
        let output = std::process::Command::new(shell)
            .args(["--noprofile", "-c", ". \"$0\"; echo then"])
            .arg(rc)
            .env("HOME", home.path())
            .env("PATH", home.path())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    }

    #[test]
    fn bash_takes_the_hook_of_a_stormctl_that_has_one_and_is_silent_about_any_other() {
        let quiet = String::new;
        let without = "echo \"unrecognized subcommand '$1'\" >&2; exit 64";
        assert_eq!(told("/bin/bash", without), ("own\nthen\n".to_owned(), quiet()));
        assert_eq!(told("/bin/bash", "exit 127"), ("own\nthen\n".to_owned(), quiet()));
        let with = "[ \"$*\" = 'init bash' ] && echo 'echo hook'";
        assert_eq!(told("/bin/bash", with), ("own\nhook\nthen\n".to_owned(), quiet()));
    }
}
