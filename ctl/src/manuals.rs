//! Writes the manual pages into a folder: those of the commands from the definitions that `--help`
//! prints, the others from `ctl/manuals/`.
//!
//! Not part of stormctl: an example of its package, run when a package is made (`cargo run -p
//! stormctl --example manuals -- FOLDER`).

#![expect(dead_code, reason = "all that the definition stands on; a page needs a part of it")]

mod args;
mod clock;
mod command;
mod compat;
mod connect;
mod exit;
mod mistyped;
mod notify;
mod render;
mod run;
mod stdout;
mod time;

/// The agent's command line, which stands on nothing else.
#[path = "../../agent/src/cli/args.rs"]
mod agent;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;

/// The configuration that is shipped: each key with an example and what it does.
const CONFIG: &str = include_str!("../../agent/src/config/stormlock.toml");
/// The pages that no command line is the source of. `@VERSION@`, `@EXIT@` and `@CONFIG@` are
/// replaced.
const WRITTEN: [(&str, &str); 3] = [
    ("stormlock.1", include_str!("../manuals/stormlock.1")),
    ("stormlock.7", include_str!("../manuals/stormlock.7")),
    ("stormlock.toml.5", include_str!("../manuals/stormlock.toml.5")),
];
/// What stands at the foot of each page, in the middle of its head, and is the version of all.
const SOURCE: &str = concat!("stormlock ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "Locks for operators";

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "say into which folder the pages go")
    })?;
    fs::create_dir_all(&folder)?;
    let mut client = args::command().disable_help_subcommand(true);
    client.build();
    for verb in client.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let page = command_page(verb, "1", "stormctl(1), stormlock(7)")?;
        fs::write(folder.join(format!("stormctl-{}.1", verb.get_name())), page)?;
        for part in verb.get_subcommands().filter(|part| part.get_name() != "help") {
            let page = command_page(part, "1", "stormctl(1), stormlock(7), systemd.unit(5)")?;
            let name = format!("stormctl-{}-{}.1", verb.get_name(), part.get_name());
            fs::write(folder.join(name), page)?;
        }
    }
    let see = "stormlock(7), stormlockd(8), stormlock(1)";
    fs::write(folder.join("stormctl.1"), command_page(&client, "1", see)?)?;
    fs::write(folder.join("stormlockd.8"), agent_page()?)?;
    for (name, text) in WRITTEN {
        let page = text
            .replace("@VERSION@", SOURCE)
            .replace("@EXIT@\n", &example(&exit::Exit::table()))
            .replace("@CONFIG@\n", &config());
        fs::write(folder.join(name), page)?;
    }
    Ok(())
}

fn command_page(command: &clap::Command, section: &str, see: &str) -> io::Result<String> {
    let mut page = head(command, section)?;
    let man = man(command);
    page += &rendered(|page| man.render_options_section(page))?;
    if command.has_subcommands() {
        page += &rendered(|page| man.render_subcommands_section(page))?;
    }
    if command.get_name() != "stormctl" {
        page += ".PP\nWhat every command takes stands in\n.BR stormctl (1).\n";
    }
    page += &after_help(command, ".SH");
    page += &see_also(see);
    Ok(page)
}

/// One page for the agent and its few commands.
fn agent_page() -> io::Result<String> {
    let mut agent = agent::Args::command().disable_help_subcommand(true);
    agent.build();
    let mut page = head(&agent, "8")?;
    page += &rendered(|page| man(&agent).render_options_section(page))?;
    page += ".SH COMMANDS\n";
    for command in agent.get_subcommands() {
        let man = man(command);
        page += &format!(".SS {}\n", command.get_name());
        page += &without_heading(&rendered(|page| man.render_synopsis_section(page))?);
        page += &description(command, false);
        page += &without_heading(&rendered(|page| man.render_options_section(page))?);
        page += &after_help(command, ".PP");
    }
    page += &after_help(&agent, ".SH");
    page += &see_also("stormlock.toml(5), stormctl(1), stormlock(7), systemd.unit(5)");
    Ok(page)
}

/// Title, name, synopsis and description.
fn head(command: &clap::Command, section: &str) -> io::Result<String> {
    let title = command.get_display_name().unwrap_or_else(|| command.get_name()).to_uppercase();
    let title = format!(".TH {} {section} \"\" \"{SOURCE}\" \"{MANUAL}\"\n", escaped(&title));
    let man = man(command);
    let name = rendered(|page| man.render_name_section(page))?;
    let synopsis = rendered(|page| man.render_synopsis_section(page))?;
    Ok(title + &name + &synopsis + ".SH DESCRIPTION\n" + &description(command, true))
}

/// Without what stands on every page, and with the usage that `--help` prints.
fn man(command: &clap::Command) -> Man {
    let mut command = command.clone();
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim_start().to_owned();
    let is_verb = command.get_bin_name().is_some_and(|name| name.contains(' '));
    Man::new(command.override_usage(usage).mut_args(|arg| {
        let is_left_out = arg.get_id() == "help" || is_verb && arg.is_global_set();
        if is_left_out { arg.hide(true) } else { arg }
    }))
}

fn rendered(render: impl Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<String> {
    let mut roff = Vec::new();
    render(&mut roff)?;
    Ok(literals(&String::from_utf8_lossy(&roff)))
}

fn without_heading(section: &str) -> String {
    let body = section.lines().skip_while(|line| !line.starts_with(".SH")).skip(1);
    body.map(|line| format!("{line}\n")).collect()
}

/// What `--help` says first: of a page without its first paragraph, which is its name already.
fn description(command: &clap::Command, has_name: bool) -> String {
    let about = command.get_long_about().or_else(|| command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let mut paragraphs: Vec<&str> = about.split("\n\n").collect();
    if has_name && paragraphs.len() > 1 {
        paragraphs.remove(0);
    }
    paragraphs.iter().map(|text| format!(".PP\n{}", literals(&sentence(text)))).collect()
}

/// A first line of `--help` has no full stop.
fn sentence(text: &str) -> String {
    let stop = if text.ends_with(['.', ':']) { "" } else { "." };
    escaped(text) + stop + "\n"
}

/// What `--help` sets in backticks, in bold.
fn literals(roff: &str) -> String {
    let line = |line: &str| match line.matches('`').count() {
        0 => format!("{line}\n"),
        count if count % 2 == 1 => format!("{}\n", line.replace('`', "\\(aq")),
        _ => {
            let mut parts = line.split('`');
            let mut text = parts.next().unwrap_or_default().to_owned();
            for (nth, part) in parts.enumerate() {
                text += if nth % 2 == 0 { "\\fB" } else { "\\fR" };
                text += part;
            }
            text + "\n"
        }
    };
    roff.lines().map(line).collect()
}

/// What follows the options in `--help`: parts, with a heading or without. Lines with commands or
/// in columns stay as they are.
fn after_help(command: &clap::Command, heading: &str) -> String {
    let Some(text) = command.get_after_long_help().or_else(|| command.get_after_help()) else {
        return String::new();
    };
    let text = text.to_string();
    let mut page = String::new();
    for part in text.split("\n\n") {
        match part.split_once(":\n") {
            Some((title, body)) if !title.contains('\n') => {
                page += &match (heading, title) {
                    (".SH", "Exit codes") => ".SH EXIT STATUS\n".to_owned(),
                    (".SH", title) => format!(".SH {}\n", title.to_uppercase()),
                    (other, title) => format!("{other}\n{title}:\n"),
                };
                let is_prose = !body.contains("storm") && !body.trim().contains("   ");
                page += &if is_prose { prose(body) } else { example(body) };
            }
            _ => page += &format!(".PP\n{}\n", escaped(part)),
        }
    }
    page
}

fn prose(text: &str) -> String {
    let lines = text.lines().map(|line| escaped(line.trim()) + "\n");
    format!(".PP\n{}", lines.collect::<String>())
}

/// Lines as they stand.
fn example(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.is_empty() && *line != "Exit codes:");
    let lines: String =
        lines.map(|line| escaped(line.strip_prefix("  ").unwrap_or(line)) + "\n").collect();
    format!(".PP\n.nf\n{lines}.fi\n")
}

fn see_also(pages: &str) -> String {
    let pages: Vec<String> = pages
        .split(", ")
        .filter_map(|page| page.strip_suffix(')')?.split_once('('))
        .map(|(name, section)| format!(".BR {} ({section})", escaped(name)))
        .collect();
    format!(".SH SEE ALSO\n{}\n", pages.join(",\n"))
}

/// The comments of the configuration as text, and its keys as they are written.
fn config() -> String {
    let mut page = String::new();
    let mut in_keys = false;
    // Its first lines are about the file.
    for line in CONFIG.lines().skip_while(|line| !line.is_empty()) {
        let is_key = !line.is_empty() && !line.starts_with("# ");
        if in_keys && !is_key {
            page += ".fi\n";
        }
        if is_key && !in_keys {
            page += ".PP\n.nf\n";
        }
        if line.is_empty() || (in_keys && !is_key) {
            page += ".PP\n";
        }
        in_keys = is_key;
        if !line.is_empty() {
            let text = line.strip_prefix("# ").or_else(|| line.strip_prefix('#'));
            let indent = if is_key { "    " } else { "" };
            page += &literals(&format!("{indent}{}", escaped(text.unwrap_or(line))));
        }
    }
    page + if in_keys { ".fi\n" } else { "" }
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    let line = |line: &str| match line.starts_with('.') {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
