//! `init bash`, `init zsh`, `init fish`: the files in `shell/`, and completions.

use crate::args::{self, InitShell, Shell};
use crate::command::completions;
use crate::exit::Answer;

const BASH: &str = include_str!("../../../../shell/stormlock.bash");
const ZSH: &str = include_str!("../../../../shell/stormlock.zsh");
const FISH: &str = include_str!("../../../../shell/stormlock.fish");

/// Runs the command; it needs no agent.
pub(super) fn run(shell: Shell, args: &InitShell) -> Answer {
    let completions = completions::run(&args::Completions { shell }).data;
    let (hooks, no_prompt, completions) = match shell {
        Shell::Bash => (BASH, "__stormlock_no_prompt=yes\n", completions),
        // Without compinit there is nobody to complete anything.
        Shell::Zsh => (
            ZSH,
            "typeset -g __stormlock_no_prompt=yes\n",
            format!("if (( ${{+functions[compdef]}} )); then\n{completions}\nfi\n"),
        ),
        Shell::Fish => (FISH, "set -g __stormlock_no_prompt yes\n", completions),
    };
    let no_prompt = if args.no_prompt { no_prompt } else { "" };
    let data = format!("{no_prompt}{hooks}\n{completions}");
    Answer { data, ..Answer::default() }
}
