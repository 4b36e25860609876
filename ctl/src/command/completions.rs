//! `completions`: what has a shell ask this program for completions, and the answers: verbs and
//! flags from the command line's own definition, names from the agent.

use std::env;
use std::ffi::OsString;

use clap_complete::CompleteEnv;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use crate::args;
use crate::exit::{Answer, Exit};

/// Set by the shell when it asks.
const VARIABLE: &str = "COMPLETE";
const NAME: &str = "stormctl";

/// bash takes `:`, `@` and `=` for ends of words. Here the words are whole again, and of each
/// answer only what bash is to put in the place of its own last word is left. The command that
/// `run` runs has completions of its own, where the package bash-completion is there.
const IN_BASH: &str = r#"
_stormctl_completed() {
    local IFS=$' \t\n' rest=$COMP_LINE begun=${COMP_LINE:0:COMP_POINT} kept='' words=() word at
    for ((at = 1; at < COMP_CWORD; at++)); do
        if [[ ${COMP_WORDS[at]} == -- && " ${COMP_WORDS[*]:0:at} " == *' run '* ]]; then
            _stormctl_runs "$2" "$((at + 1))"
            return 0
        fi
    done
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if [[ ${#words[@]} -eq 0 || $rest == [[:blank:]]* ]]; then
            words+=("$word")
        else
            words[-1]+=$word
        fi
        rest=${rest#*"$word"}
    done
    # What bash keeps of what is typed. A quote is no part of a name.
    begun=${begun##*[[:blank:]]}
    if [[ $begun == *"$2" ]]; then
        kept=${begun%"$2"} kept=${kept#[\"\']}
    fi
    local COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
    _clap_complete_stormctl "$1" "$kept$2"
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
}
_stormctl_runs() {
    compopt +o nospace
    if declare -F _command_offset >/dev/null; then
        _command_offset "$2" || :
    elif [[ $2 -eq $COMP_CWORD && $1 != */* ]]; then
        mapfile -t COMPREPLY < <(compgen -c -- "$1")
    else
        COMPREPLY=()
        compopt -o default
    fi
}
"#;

/// The command that `run` runs has completions of its own. zsh loads a file of its `fpath` when
/// somebody first asks, and takes what is done then for the answer.
const IN_ZSH: &str = r#"
_stormctl_completed() {
    local -i behind=${words[(i)--]}
    if (( behind < CURRENT )) && [[ " ${words[1,behind]} " == *' run '* ]]; then
        shift $behind words
        (( CURRENT -= behind ))
        _normal
    else
        _clap_dynamic_completer_stormctl
    fi
}
compdef _stormctl_completed stormctl
if [[ ${funcstack[1]-} == _stormctl ]]; then
    _stormctl_completed
fi
"#;

/// The same in fish, which asks both.
const IN_FISH: &str = r#"
function __stormctl_runs
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l at (contains --index -- -- $words)
    and contains run $words[1..$at]
    or return 1
    set -e words[1..$at]
    set --query words[1]
    and set words (string escape -- $words)
    string join ' ' -- $words (commandline --current-token)
    or true
end
complete --command stormctl --condition '__stormctl_runs >/dev/null' \
    --arguments '(complete --do-complete (__stormctl_runs))'
"#;

/// Runs the command; it needs no agent.
pub(crate) fn run(args: &args::Completions) -> Answer {
    let shell: &dyn EnvCompleter = match args.shell {
        args::Shell::Bash => &Bash,
        args::Shell::Zsh => &Zsh,
        args::Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    // Writing to memory cannot fail.
    let _ = shell.write_registration(VARIABLE, NAME, NAME, NAME, &mut script);
    let mut data = String::from_utf8_lossy(&script).into_owned();
    match args.shell {
        args::Shell::Bash => {
            data = data.replace("-F _clap_complete_stormctl", "-F _stormctl_completed");
            data.push_str(IN_BASH);
        }
        args::Shell::Zsh => data.push_str(IN_ZSH),
        args::Shell::Fish => data.push_str(IN_FISH),
    }
    Answer { data, ..Answer::default() }
}

/// Answers a shell that asks what may stand where somebody types; `None` when nobody asks. What is
/// wrong is nothing that can be said in the midst of a line.
pub(crate) fn answer(argv: &[OsString]) -> Option<u8> {
    env::var_os(VARIABLE)?;
    match CompleteEnv::with_factory(args::command).var(VARIABLE).try_complete(argv, None) {
        Ok(true) => Some(Exit::Ok.code()),
        Ok(false) => None,
        Err(_) => Some(Exit::Usage.code()),
    }
}
