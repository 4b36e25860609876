//! The Python tool's command line, read as its argparse reads it: options anywhere, unambiguous
//! beginnings of long options, `--ttl=5s`, `-t5s`, `--`, and its words for what is wrong.

use crate::args::Layout;
use crate::time;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Print this to stdout.
    Help(String),
    Call(Call),
}

/// One command, with what was typed; which of the fields matter is the verb's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) config: Option<String>,
    pub(super) resource: String,
    pub(super) lease: String,
    pub(super) ttl_secs: Option<u64>,
    pub(super) layout: Layout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Acquire,
    Release,
    Renew,
    Current,
    IsHeld,
}

const MAIN_USAGE: &str =
    "usage: stormlock [-h] [-c CONFIG] {acquire,release,renew,current,is-held} ...\n";
const MAIN_HELP: &str = "
Served by stormlockd; of the config file only the ttl is used.

positional arguments:
  {acquire,release,renew,current,is-held}
    acquire             attempt to acquire a lock
    release             release a lock
    renew               renew a lock
    current             show currently held lock
    is-held             check if lease is still valid

options:
  -h, --help            show this help message and exit
  -c CONFIG, --config CONFIG
                        config file
";
const CHOICES: &str = "'acquire', 'release', 'renew', 'current', 'is-held'";

/// An option of one parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opt {
    Help,
    Config,
    Ttl,
    Format,
    IdOnly,
}

/// One of argparse's parsers: the main one, or a verb's.
struct Parser {
    name: &'static str,
    usage: &'static str,
    options: &'static [Opt],
}

impl Opt {
    /// Short name, long name, whether it takes a value, and its help.
    const fn spelled(self) -> (&'static str, &'static str, bool, &'static str) {
        match self {
            Opt::Help => ("-h", "--help", false, "show this help message and exit"),
            Opt::Config => ("-c", "--config", true, "config file"),
            Opt::Ttl => ("-t", "--ttl", true, "Override time to live for lease"),
            Opt::Format => ("-f", "--format", true, "format to print lease info"),
            Opt::IdOnly => ("", "--id-only", false, "equivalent to --format=id"),
        }
    }

    fn label(self) -> String {
        match self.spelled() {
            ("", long, ..) => long.to_owned(),
            (short, long, ..) => format!("{short}/{long}"),
        }
    }
}

impl Verb {
    fn named(name: &str) -> Option<Verb> {
        match name {
            "acquire" => Some(Verb::Acquire),
            "release" => Some(Verb::Release),
            "renew" => Some(Verb::Renew),
            "current" => Some(Verb::Current),
            "is-held" => Some(Verb::IsHeld),
            _ => None,
        }
    }

    fn parser(self) -> Parser {
        let (name, usage, options): (_, _, &'static [Opt]) = match self {
            Verb::Acquire => (
                "stormlock acquire",
                "usage: stormlock acquire [-h] [-t TTL] resource\n",
                &[Opt::Help, Opt::Ttl],
            ),
            Verb::Release => (
                "stormlock release",
                "usage: stormlock release [-h] resource lease_id\n",
                &[Opt::Help],
            ),
            Verb::Renew => (
                "stormlock renew",
                "usage: stormlock renew [-h] [-t TTL] resource lease_id\n",
                &[Opt::Help, Opt::Ttl],
            ),
            Verb::Current => (
                "stormlock current",
                "usage: stormlock current [-h] [-f {id,json,lines,oneline,cols,rows}]\n\
                 \x20                        [--id-only]\n\
                 \x20                        resource\n",
                &[Opt::Help, Opt::Format, Opt::IdOnly],
            ),
            Verb::IsHeld => (
                "stormlock is-held",
                "usage: stormlock is-held [-h] resource lease_id\n",
                &[Opt::Help],
            ),
        };
        Parser { name, usage, options }
    }

    fn takes_lease(self) -> bool {
        matches!(self, Verb::Release | Verb::Renew | Verb::IsHeld)
    }
}

/// Reads the words after the program's name; an error is the text for stderr.
pub(super) fn parse(words: &[String]) -> Result<Asked, String> {
    let main = Parser { name: "stormlock", usage: MAIN_USAGE, options: &[Opt::Help, Opt::Config] };
    let (mut config, mut foreign) = (None, Vec::new());
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        rest = after;
        match main.recognize(word)? {
            Word::Plain if word == "--" => {}
            Word::Plain => return verb(word, rest, (config, foreign), &main),
            Word::Known(Opt::Help, _) => return Ok(Asked::Help(MAIN_USAGE.to_owned() + MAIN_HELP)),
            Word::Known(option, joined) => {
                let value = main.value(option, joined, &mut rest)?;
                // As there: an empty name is no name.
                config = Some(value).filter(|value| !value.is_empty());
            }
            Word::Foreign => foreign.push(word.clone()),
        }
    }
    Err(main.error("the following arguments are required: cmd"))
}

fn verb(
    name: &str,
    words: &[String],
    (config, mut foreign): (Option<String>, Vec<String>),
    main: &Parser,
) -> Result<Asked, String> {
    let Some(verb) = Verb::named(name) else {
        let told = format!("argument cmd: invalid choice: '{name}' (choose from {CHOICES})");
        return Err(main.error(&told));
    };
    let parser = verb.parser();
    let (mut ttl_secs, mut layout) = (None, Layout::Rows);
    let wanted = if verb.takes_lease() { 2 } else { 1 };
    let (mut plain, mut only_plain) = (Vec::new(), false);
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        rest = after;
        match if only_plain { Word::Plain } else { parser.recognize(word)? } {
            Word::Plain if word == "--" && !only_plain => only_plain = true,
            Word::Plain if plain.len() < wanted => plain.push(word.clone()),
            Word::Plain => foreign.push(word.clone()),
            Word::Known(Opt::Help, _) => return Ok(Asked::Help(parser.help(verb))),
            Word::Known(Opt::IdOnly, None) => layout = Layout::Id,
            Word::Known(option, joined) => {
                let value = parser.value(option, joined, &mut rest)?;
                match option {
                    Opt::Ttl => ttl_secs = Some(parser.ttl(&value)?),
                    Opt::Format => layout = parser.layout(&value)?,
                    Opt::Help | Opt::Config | Opt::IdOnly => {}
                }
            }
            Word::Foreign => foreign.push(word.clone()),
        }
    }
    let mut plain = plain.into_iter();
    let (resource, lease) = (plain.next(), verb.takes_lease().then(|| plain.next()));
    match (resource, lease) {
        (Some(resource), lease) if lease != Some(None) => {
            if !foreign.is_empty() {
                return Err(main.unrecognized(&foreign));
            }
            let lease = lease.flatten().unwrap_or_default();
            Ok(Asked::Call(Call { verb, config, resource, lease, ttl_secs, layout }))
        }
        (None, Some(_)) => Err(parser.missing("resource, lease_id")),
        (None, None) => Err(parser.missing("resource")),
        (Some(_), _) => Err(parser.missing("lease_id")),
    }
}

/// What a word is to a parser.
enum Word {
    Plain,
    /// An option, and the value that is joined to it.
    Known(Opt, Option<String>),
    Foreign,
}

impl Parser {
    fn recognize(&self, word: &str) -> Result<Word, String> {
        if !word.starts_with('-') || word == "-" || word == "--" {
            return Ok(Word::Plain);
        }
        let (name, joined) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        let known = self.options.iter().copied().find(|option| {
            let (short, long, ..) = option.spelled();
            name == short || (name.len() > 2 && long.starts_with(name))
        });
        if let Some(option) = known {
            return self.known(option, joined);
        }
        let glued = self.options.iter().copied().find_map(|option| {
            let (short, _, takes_value, _) = option.spelled();
            let value = word.strip_prefix(short).filter(|_| takes_value && !short.is_empty())?;
            Some(Word::Known(option, Some(value.to_owned())))
        });
        let is_number = word.bytes().skip(1).all(|b| b.is_ascii_digit() || b == b'.');
        Ok(match glued {
            Some(word) => word,
            None if is_number || word.contains(' ') => Word::Plain,
            None => Word::Foreign,
        })
    }

    fn known(&self, option: Opt, joined: Option<String>) -> Result<Word, String> {
        match (option.spelled().2, joined) {
            (false, Some(value)) => Err(self.error(&format!(
                "argument {}: ignored explicit argument '{value}'",
                option.label()
            ))),
            (_, joined) => Ok(Word::Known(option, joined)),
        }
    }

    fn value(
        &self,
        option: Opt,
        joined: Option<String>,
        rest: &mut &[String],
    ) -> Result<String, String> {
        if let Some(value) = joined {
            return Ok(value);
        }
        match rest.split_first() {
            Some((word, after)) if word != "--" && matches!(self.recognize(word)?, Word::Plain) => {
                *rest = after;
                Ok(word.clone())
            }
            _ => Err(self.error(&format!("argument {}: expected one argument", option.label()))),
        }
    }

    fn ttl(&self, text: &str) -> Result<u64, String> {
        time::parse_duration(text)
            .map_err(|why| self.error(&format!("argument -t/--ttl: invalid ttl '{text}': {why}")))
    }

    fn layout(&self, text: &str) -> Result<Layout, String> {
        match text {
            "id" => Ok(Layout::Id),
            "json" => Ok(Layout::Json),
            "lines" => Ok(Layout::Lines),
            "oneline" => Ok(Layout::Oneline),
            "cols" => Ok(Layout::Cols),
            "rows" => Ok(Layout::Rows),
            other => Err(self.error(&format!(
                "argument -f/--format: invalid choice: '{other}' \
                 (choose from 'id', 'json', 'lines', 'oneline', 'cols', 'rows')"
            ))),
        }
    }

    fn help(&self, verb: Verb) -> String {
        let lease = if verb.takes_lease() { "  lease_id  Id of an acquired lease\n" } else { "" };
        let mut text =
            format!("{}\npositional arguments:\n  resource\n{lease}\noptions:\n", self.usage);
        for option in self.options {
            let (.., help) = option.spelled();
            text.push_str(&format!("  {:<14}  {help}\n", option.label().replace('/', ", ")));
        }
        text
    }

    fn missing(&self, names: &str) -> String {
        self.error(&format!("the following arguments are required: {names}"))
    }

    fn unrecognized(&self, words: &[String]) -> String {
        self.error(&format!("unrecognized arguments: {}", words.join(" ")))
    }

    fn error(&self, told: &str) -> String {
        format!("{}{}: error: {told}\n", self.usage, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Asked, String> {
        parse(&line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[track_caller]
    fn call(line: &[&str]) -> Call {
        match parsed(line) {
            Ok(Asked::Call(call)) => call,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn options_stand_anywhere_and_may_be_shortened() {
        for line in [
            &["acquire", "-t", "5s", "a"][..],
            &["acquire", "a", "-t", "5s"],
            &["acquire", "a", "-t5s"],
            &["acquire", "a", "-t=5s"],
            &["acquire", "a", "--ttl", "5s"],
            &["acquire", "a", "--tt=5 seconds"],
            &["acquire", "--t", "5 s", "--", "a"],
            &["acquire", "a", "-t", "1d", "-t", "5s"],
        ] {
            let call = call(line);
            assert_eq!((call.resource.as_str(), call.ttl_secs), ("a", Some(5)), "{line:?}");
        }
        for line in [
            &["-c", "f", "current", "a"][..],
            &["-cf", "current", "a"],
            &["--conf=f", "current", "a"],
        ] {
            assert_eq!(call(line).config.as_deref(), Some("f"), "{line:?}");
        }
        assert_eq!(call(&["-c", "", "current", "a"]).config, None);
    }

    #[test]
    fn positionals_are_taken_as_they_are() {
        let renew = call(&["renew", "a", "b"]);
        assert_eq!((renew.resource.as_str(), renew.lease.as_str()), ("a", "b"));
        assert_eq!(call(&["release", "a", ""]).lease, "");
        assert_eq!(call(&["acquire", "-1"]).resource, "-1");
        assert_eq!(call(&["acquire", "--", "-x"]).resource, "-x");
        assert_eq!(call(&["acquire", "-a b"]).resource, "-a b");
    }

    #[test]
    fn the_layout_is_the_last_one_given() {
        assert_eq!(call(&["current", "a"]).layout, Layout::Rows);
        assert_eq!(call(&["current", "a", "-fcols"]).layout, Layout::Cols);
        assert_eq!(call(&["current", "a", "-f", "json", "--id"]).layout, Layout::Id);
        assert_eq!(call(&["current", "--id-only", "-f", "json", "a"]).layout, Layout::Json);
    }

    /// The messages were printed by the Python tool 0.4.1 for the same words.
    #[test]
    fn what_is_wrong_is_said_in_the_tools_words() {
        for (line, told) in [
            (&[][..], "stormlock: error: the following arguments are required: cmd"),
            (
                &["acquire"],
                "stormlock acquire: error: the following arguments are required: resource",
            ),
            (
                &["renew", "a"],
                "stormlock renew: error: the following arguments are required: lease_id",
            ),
            (&["acquire", "a", "b"], "stormlock: error: unrecognized arguments: b"),
            (&["acquire", "a", "-c", "f"], "stormlock: error: unrecognized arguments: -c f"),
            (&["acquire", "a", "b", "--zz"], "stormlock: error: unrecognized arguments: b --zz"),
            (&["acquire", "a", "--zz"], "stormlock: error: unrecognized arguments: --zz"),
            (
                &["acquire", "a", "-t"],
                "stormlock acquire: error: argument -t/--ttl: expected one argument",
            ),
            (
                &["acquire", "a", "-t", "-5s"],
                "stormlock acquire: error: argument -t/--ttl: expected one argument",
            ),
            (
                &["current", "a", "--id=3"],
                "stormlock current: error: argument --id-only: ignored explicit argument '3'",
            ),
            (&["-c"], "stormlock: error: argument -c/--config: expected one argument"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.starts_with("usage: stormlock"), "{error}");
            assert_eq!(error.lines().last(), Some(told), "{line:?}");
        }
        for line in [&["foo"][..], &["current", "a", "-f", "zz"], &["acquire", "a", "-t", "5"]] {
            assert!(parsed(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn help_is_asked_for_by_the_tool_or_by_a_verb() {
        for line in [&["-h"][..], &["--he"], &["acquire", "-h"], &["current", "a", "--help"]] {
            assert!(matches!(parsed(line), Ok(Asked::Help(text)) if text.starts_with("usage: ")));
        }
    }
}
