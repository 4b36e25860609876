//! stormctl: the client of stormlockd. It reads arguments, asks the agent one thing and prints the
//! answer, or holds what it asked for while a command runs; called as `stormlock` it is the Python
//! tool's command line.
//!
//! It never sees a store or a credential, keeps nothing, and returns from `main`, always, unless it
//! did not come to that (`early`).

mod args;
mod clock;
mod command;
mod compat;
mod connect;
// The harness of its tests has arguments of its own.
#[cfg(all(target_os = "linux", target_env = "gnu", not(test)))]
mod early;
mod exit;
mod mistyped;
mod notify;
mod render;
mod run;
mod stdout;
mod time;

use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::args::{Cli, Command};
use crate::connect::{Link, PATIENCE, Places, SHORT_PATIENCE};
use crate::exit::{Answer, Exit, Failure};
use crate::render::View;
use crate::render::text::visible;

/// In the place of musl's, which is slow. Elsewhere the C library's own will do.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let argv: Vec<OsString> = env::args_os().collect();
    if compat::is_called(argv.first()) {
        return ExitCode::from(compat::run(argv));
    }
    if let Some(args) = run::shim::is_called(&argv) {
        return ExitCode::from(run::shim::run(args));
    }
    if let Some(surface) = command::prompt::is_asked(&argv) {
        command::prompt::answer_shell(surface);
        return ExitCode::SUCCESS;
    }
    if let Some(args) = run::guardian::is_called(&argv) {
        return ExitCode::from(run::guardian::run(args));
    }
    if let Some(code) = command::completions::answer(&argv) {
        return ExitCode::from(code);
    }
    let code = match args::parse(argv.clone()) {
        Ok(cli) => do_it(&cli),
        Err(error) => told(&mistyped::mended(error, &argv)).code(),
    };
    ExitCode::from(code)
}

fn do_it(cli: &Cli) -> u8 {
    let globals = &cli.globals;
    let mut view = View::new(globals.format(), globals.color, time::now());
    view.is_quiet = globals.quiet;
    view.is_verbose = globals.verbose;
    // The command's own code may be any.
    let ran = match &cli.command {
        Some(Command::Run(args)) => command::run::run(args, || open(cli, &view), &view),
        _ => dispatch(cli, &view).map(|answer| render::answer(&answer, view.is_quiet).code()),
    };
    let code =
        ran.unwrap_or_else(|failure| render::failure::failure(&failure, &view.renewed()).code());
    render::voice::finish();
    code
}

fn open(cli: &Cli, view: &View) -> Result<Link, Failure> {
    let patience = cli.globals.patience.unwrap_or(PATIENCE);
    let mut link = Link::open(cli.globals.socket.as_deref(), patience)?;
    if !view.is_quiet {
        link.tell_if_slow();
    }
    if view.is_verbose {
        render::say(&format!("asking the agent on {}", link.socket.display()));
    }
    Ok(link)
}

fn dispatch(cli: &Cli, view: &View) -> Result<Answer, Failure> {
    let explicit = cli.globals.socket.as_deref();
    let patience = cli.globals.patience.unwrap_or(PATIENCE);
    if cli.version {
        return command::version::run(Link::open(explicit, patience.min(SHORT_PATIENCE)), view);
    }
    let Some(command) = &cli.command else {
        return Err(Failure::usage("no command is given").advise("see `stormctl --help`"));
    };
    let open = || open(cli, view);
    match command {
        Command::Acquire(args) => command::acquire::run(args, &mut open()?, view),
        Command::Release(args) => command::release::run(args, &mut open()?, view),
        Command::Renew(args) => command::renew::run(args, &mut open()?, view),
        Command::Break(args) => command::breaking::run(args, &mut open()?, view),
        Command::Current(args) => command::current::run(args, &mut open()?, view),
        Command::IsHeld(args) => command::is_held::run(args, &mut open()?, view),
        Command::List(args) => command::list::run(args, &mut open()?, view),
        Command::Status(_) => command::status::run(&mut open()?, view),
        Command::Wait(args) => command::wait::run(args, &mut open()?, view),
        Command::Doctor(_) => {
            command::doctor::run(&Places::of_this_process(explicit), open(), view)
        }
        Command::Hold(args) => command::hold::run(args, open, view),
        Command::Log(args) => command::log::run(args, &mut open()?, view),
        Command::Metrics(_) => command::metrics::run(&mut open()?),
        Command::Watch(args) => command::watch::run(args, &mut open()?, view),
        Command::Run(_) => Err(Failure::usage("run has an exit code of its own")),
        Command::Prompt(args) => command::prompt::run(args, &Places::of_this_process(explicit)),
        Command::Init(args) => command::init::run(args),
        Command::Completions(args) => Ok(command::completions::run(args)),
    }
}

/// Help that was asked for goes to stdout and is success; every other word of clap is a usage
/// error.
fn told(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let data = error.render().to_string();
            render::answer(&Answer { data, ..Answer::default() }, false)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage
        }
        _ => {
            let text = error.render().to_string();
            // It quotes the arguments, which may be somebody else's words.
            let told = text.strip_prefix("error: ").unwrap_or(&text).lines().map(visible);
            let told: String = told.map(|line| line + "\n").collect();
            let _ = write!(std::io::stderr(), "stormctl: {told}");
            Exit::Usage
        }
    }
}
