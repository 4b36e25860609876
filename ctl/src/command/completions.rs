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

/// bash takes `:`, `@` and `=` for ends of words. Here the words are whole again, and of each answer
/// only what bash is to put in the place of its own last word is left.
const IN_BASH: &str = r#"
_stormctl_completed() {
    local IFS=$' \t\n' rest=$COMP_LINE begun=${COMP_LINE:0:COMP_POINT} kept='' words=() word
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
"#;

/// zsh loads a file of its `fpath` when somebody first asks, and takes what is done then for the
/// answer; what clap writes only prepares for the next time.
const WHEN_LOADED: &str = "\
if [[ ${funcstack[1]-} == _stormctl ]]; then
    _clap_dynamic_completer_stormctl \"$@\"
fi
";

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
        args::Shell::Zsh => data.push_str(WHEN_LOADED),
        args::Shell::Fish => {}
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
