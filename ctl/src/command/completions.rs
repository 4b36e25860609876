//! `completions`: a shell's completion script, from the command line's own definition.

use clap_complete::{Shell, generate};

use crate::args;
use crate::exit::Answer;

/// Runs the command; it needs no agent.
pub(crate) fn run(args: &args::Completions) -> Answer {
    let shell = match args.shell {
        args::Shell::Bash => Shell::Bash,
        args::Shell::Zsh => Shell::Zsh,
        args::Shell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut args::command(), "stormctl", &mut script);
    Answer { data: String::from_utf8_lossy(&script).into_owned(), ..Answer::default() }
}
