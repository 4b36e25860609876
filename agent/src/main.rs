//! stormlockd: arguments, configuration, log and exit code of the agent. What the agent does is in
//! the library.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
