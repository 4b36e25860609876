//! `prompt`: what a shell shows of one's leases before each line that is typed. It says nothing
//! when in doubt, fails never, starts nothing, and takes a bounded time whatever the agent does.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stormlock_protocol::client::{AskedGlance, ClientError};
use stormlock_protocol::frame::Verdict;
use stormlock_protocol::message::{Code, Glance, Hold, Lease, State};
use stormlock_protocol::name::UnixMs;

use crate::args::{self, Surface};
use crate::clock::Moment;
use crate::connect::{self, Places};
use crate::exit::{Answer, Exit, Failure};
use crate::render::Mood;
use crate::{stdout, time};

/// How long all of it may take, of the 50 ms that a prompt may cost.
const LIMIT: Duration = Duration::from_millis(40);
/// Between two looks of one that follows. With the look itself a change is shown within a second.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 900_000_000 };
/// How often one that follows tells that time has passed and nothing else has changed: a prompt
/// that is drawn anew may cost its shell many processes.
const MINUTE: Duration = Duration::from_secs(60);
/// Between two looks for an agent that is not there.
const REST: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// How long one that follows looks for such an agent: an upgrade takes less.
const RETURNS_WITHIN: Duration = Duration::from_secs(600);

/// What there is to be seen now.
enum Seen {
    Shown(Shown),
    /// So the agent says, or one that this user has nothing to do with.
    Nothing,
    /// No agent is there to say anything.
    NoAgent,
}

impl Seen {
    fn shown(&self) -> Option<&Shown> {
        match self {
            Seen::Shown(shown) => Some(shown),
            Seen::Nothing | Seen::NoAgent => None,
        }
    }
}

/// What is shown, and what of it stays so while nothing but time passes.
struct Shown {
    mood: Mood,
    text: String,
    lasting: String,
}

/// What shells ask before each of their lines, known without the reading of a whole command line;
/// `None` when anything else is asked for.
pub(crate) fn is_asked(argv: &[OsString]) -> Option<Surface> {
    match argv {
        [_, verb] if verb == "prompt" => Some(Surface::Plain),
        [_, verb, surface] if verb == "prompt" => Surface::named(surface.to_str()?),
        _ => None,
    }
}

/// Answers that.
pub(crate) fn answer_shell(surface: Surface) {
    show(surface, &Places::of_this_process(None));
}

/// Runs the command.
pub(crate) fn run(args: &args::Prompt, places: &Places) -> Result<Answer, Failure> {
    if args.follow.is_some() || args.tell.is_some() {
        return follow(args, places);
    }
    show(args.surface, places);
    Ok(Answer::default())
}

/// Writes what is to be shown now. One that cannot be written is a prompt without it.
fn show(surface: Surface, places: &Places) {
    let asked = ask(places);
    // While the agent wakes up.
    let look = Look::of_this_process(surface);
    let _ = stdout::write(look.painted(seen(&look, asked).shown()).as_bytes());
}

fn seen(look: &Look, asked: Result<AskedGlance, Silence>) -> Seen {
    let answer = |asked: AskedGlance| asked.answer().map_err(|error| Silence::of(&error));
    match asked.and_then(answer) {
        Ok(glance) => look.glance(&glance, time::wall()).map_or(Seen::Nothing, Seen::Shown),
        Err(Silence::Mute) => Seen::Shown(look.doubt()),
        Err(Silence::ForOthers) => Seen::Nothing,
        Err(Silence::NoAgent) => Seen::NoAgent,
    }
}

/// Says what is to be shown whenever that changes, until an agent says that nothing is, none has
/// been there for long, or nobody is left to hear it. It asks anew each time and keeps no
/// connection: as many shells as one likes may be open, and the agent may come and go.
fn follow(args: &args::Prompt, places: &Places) -> Result<Answer, Failure> {
    let failed = |what: &str, error: io::Error| {
        Failure::new(Exit::Unavailable, Code::Unavailable.as_str(), format!("{what}: {error}"))
    };
    let look = Look::of_this_process(args.surface);
    let told = args.tell.map(Told::of).transpose();
    let told = told.map_err(|error| failed("finding the shell that is to be told", error))?;
    let listener = args.follow.flatten().map(process).transpose();
    let listener = listener.map_err(|error| failed("finding the shell that listens", error))?;
    let mut last = None;
    let mut said_at = Moment::now();
    let mut answered_at = Moment::now();
    loop {
        let seen = seen(&look, ask(places));
        let now = Moment::now();
        if !matches!(seen, Seen::NoAgent) {
            answered_at = now;
        }
        let (is_over, pause) = match seen {
            Seen::Shown(_) => (false, &PAUSE),
            Seen::Nothing => (true, &REST),
            Seen::NoAgent => (answered_at.until(now) >= RETURNS_WITHIN, &REST),
        };
        // What was said is what the next is compared with.
        if is_other(last.as_ref(), &seen, said_at.until(now)) {
            match &told {
                None => stdout::write(format!("{}\n", look.painted(seen.shown())).as_bytes())
                    .map_err(|error| failed("writing the prompt", error))?,
                Some(shell) if shell.listens() => {
                    shell.tell().map_err(|error| failed("telling a shell", error))?;
                }
                Some(_) => return Ok(Answer::default()),
            }
            said_at = now;
            last = Some(seen);
        }
        let process = told.as_ref().map(|shell| &shell.process).or(listener.as_ref());
        if is_over || is_gone(process, pause).map_err(|error| failed("waiting", error))? {
            return Ok(Answer::default());
        }
    }
}

/// Whether what is shown now is to be said, so long after what was said last.
fn is_other(last: Option<&Seen>, now: &Seen, passed: Duration) -> bool {
    let Some(last) = last else { return true };
    match (last.shown(), now.shown()) {
        (Some(last), Some(now)) => {
            last.mood != now.mood
                || last.lasting != now.lasting
                || (passed >= MINUTE && last.text != now.text)
        }
        (last, now) => last.is_some() || now.is_some(),
    }
}

/// Waits until it is time to ask again; true when there is nobody any more to be told: the reader
/// of a pipe, or a process.
fn is_gone(process: Option<&OwnedFd>, pause: &Timespec) -> io::Result<bool> {
    let stdout = io::stdout();
    let mut whom = vec![PollFd::new(&stdout, PollFlags::empty())];
    whom.extend(process.map(|process| PollFd::new(process, PollFlags::IN)));
    match poll(&mut whom, Some(pause)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn process(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(pidfd_open(pid.ok_or(io::ErrorKind::InvalidInput)?, PidfdFlags::empty())?)
}

/// A shell that is told by a signal: it has no other ear while somebody types.
struct Told {
    process: OwnedFd,
    folder: PathBuf,
    program: PathBuf,
}

impl Told {
    fn of(pid: u32) -> io::Result<Told> {
        let process = process(pid)?;
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let program = fs::read_link(folder.join("exe"))?;
        Ok(Told { process, folder, program })
    }

    /// A shell that became another program (`exec`) may end by a signal that it does not know.
    fn listens(&self) -> bool {
        let is_same = fs::read_link(self.folder.join("exe")).is_ok_and(|now| now == self.program);
        let status = fs::read_to_string(self.folder.join("status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        is_same && caught.unwrap_or(0) >> (Signal::USR1.as_raw() - 1) & 1 == 1
    }

    fn tell(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.process, Signal::USR1) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Why no agent says what is held.
enum Silence {
    /// There is one, but no answer to be had.
    Mute,
    /// There is one, and this user has nothing to do with it.
    ForOthers,
    NoAgent,
}

impl Silence {
    fn of(error: &ClientError) -> Silence {
        if is_for_others(error) { Silence::ForOthers } else { Silence::Mute }
    }
}

/// Asks the first agent that is there.
fn ask(places: &Places) -> Result<AskedGlance, Silence> {
    let until = Moment::now() + LIMIT;
    let left = || Some(Moment::now().until(until)).filter(|left| !left.is_zero());
    for socket in places.in_order() {
        let mut client = match connect::connect(socket, left().ok_or(Silence::Mute)?) {
            Ok(client) => client,
            Err(ClientError::LongPath(_)) => continue,
            Err(error) if connect::is_absent(&error) => continue,
            Err(ClientError::NoAgent { .. }) => return Err(Silence::NoAgent),
            Err(error) => return Err(Silence::of(&error)),
        };
        client.set_patience(left().ok_or(Silence::Mute)?);
        return client.ask_glance().map_err(|error| Silence::of(&error));
    }
    Err(Silence::NoAgent)
}

/// An agent that this user has nothing to do with: nothing is held through it.
fn is_for_others(error: &ClientError) -> bool {
    match error {
        ClientError::NoAccess { .. } => true,
        ClientError::Greeting(welcome) => welcome.verdict == Verdict::Denied,
        _ => false,
    }
}

/// How it is written where it is shown.
struct Look {
    surface: Surface,
    has_colour: bool,
    is_ascii: bool,
}

impl Look {
    fn of_this_process(surface: Surface) -> Look {
        let var = |name| env::var_os(name).filter(|value| !value.is_empty());
        let is_dumb = var("TERM").is_some_and(|term| term == "dumb");
        // In this order they decide (locale(7)).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(var).unwrap_or_default();
        let locale = locale.as_bytes().to_ascii_lowercase();
        let has = |word: &[u8]| locale.windows(word.len()).any(|part| part == word);
        Look {
            surface,
            has_colour: surface != Surface::Plain && !is_dumb && var("NO_COLOR").is_none(),
            is_ascii: is_dumb || !(has(b"utf-8") || has(b"utf8")),
        }
    }

    fn glance(&self, glance: &Glance, now: UnixMs) -> Option<Shown> {
        let lease = glance.lease.as_ref()?;
        let told = told(lease, now)?;
        let mut rest = match lease.waiters {
            0 => String::new(),
            1 => ", 1 waits".to_owned(),
            many => format!(", {many} wait"),
        };
        if lease.this_host_only {
            rest.push_str(" (this host)");
        }
        if glance.more > 0 {
            rest.push_str(&format!(" +{}", glance.more));
        }
        let symbol = self.symbol(told.mood);
        let begins = format!("{symbol} {} {}", lease.resource, told.words);
        let lasting = format!("{begins}{rest}");
        Some(Shown { mood: told.mood, text: begins + &told.left + &rest, lasting })
    }

    fn doubt(&self) -> Shown {
        Shown { mood: Mood::Worry, text: "?".to_owned(), lasting: "?".to_owned() }
    }

    fn symbol(&self, mood: Mood) -> &'static str {
        match (mood, self.is_ascii) {
            (Mood::Good | Mood::Plain, false) => "\u{25c6}",
            (Mood::Good | Mood::Plain, true) => "*",
            (Mood::Worry, false) => "\u{25b2}",
            // Some shells have a number in the place of an exclamation mark.
            (Mood::Worry, true) => "^",
            (Mood::Bad, false) => "\u{2716}",
            (Mood::Bad, true) => "x",
        }
    }

    /// With the colour as the shell wants it, so that it knows how wide the text is, and a space
    /// between this and the prompt.
    fn painted(&self, shown: Option<&Shown>) -> String {
        let Some(Shown { mood, text, .. }) = shown else { return String::new() };
        if !self.has_colour {
            return format!("{text} ");
        }
        let (code, name) = match mood {
            Mood::Good | Mood::Plain => ("32", "green"),
            Mood::Worry => ("33", "yellow"),
            Mood::Bad => ("31", "red"),
        };
        match self.surface {
            Surface::Plain => format!("{text} "),
            // The marks of readline itself, which count in a variable too.
            Surface::Bash => format!("\u{1}\u{1b}[{code}m\u{2}{text}\u{1}\u{1b}[0m\u{2} "),
            Surface::Zsh => format!("%F{{{name}}}{text}%f "),
            Surface::Fish => format!("\u{1b}[{code}m{text}\u{1b}[0m "),
            Surface::Tmux => format!("#[fg={name}]{text}#[default] "),
        }
    }
}

/// What is to be known of a lease, in a word or two. Nothing that another person wrote is in it.
struct Word {
    mood: Mood,
    words: &'static str,
    left: String,
}

fn told(lease: &Lease, now: UnixMs) -> Option<Word> {
    let left = || time::short(left_ms(lease, now) / 1_000);
    let is_kept = matches!(lease.hold, Hold::Keep);
    let word = |mood, words| Some(Word { mood, words, left: String::new() });
    let proven = |words| {
        let left = time::short(lease.left_ms / 1_000);
        Some(Word { mood: Mood::Worry, words, left })
    };
    match &lease.state {
        State::Lost(_) => word(Mood::Bad, "lost"),
        State::AtRisk => proven("at risk, "),
        State::Lingering => proven("ends, "),
        State::Unknown => word(Mood::Worry, "unknown"),
        State::Held if is_kept => word(Mood::Good, "kept"),
        State::Held => {
            let is_near = lease.ends_soon || is_nearly_over(lease, now);
            let mood = if is_near { Mood::Worry } else { Mood::Good };
            Some(Word { mood, words: "", left: left() })
        }
        State::Asking | State::Released => None,
    }
}

/// How much longer it is held if nobody does anything.
fn left_ms(lease: &Lease, now: UnixMs) -> u64 {
    match lease.hold {
        Hold::Until(end) => u64::try_from(end.0.saturating_sub(now.0)).unwrap_or(0),
        Hold::No | Hold::Usual | Hold::For(_) | Hold::Keep => lease.left_ms,
    }
}

/// True when less than 15 % is left of what it was taken for.
fn is_nearly_over(lease: &Lease, now: UnixMs) -> bool {
    let whole = match lease.hold {
        Hold::Until(end) => u64::try_from(end.0.saturating_sub(lease.since.0)).unwrap_or(0),
        Hold::No | Hold::Usual | Hold::For(_) | Hold::Keep => {
            u64::from(lease.ttl.as_secs()).saturating_mul(1_000)
        }
    };
    left_ms(lease, now).saturating_mul(100) < whole.saturating_mul(15)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_agent_that_is_asked_is_the_one_that_every_other_verb_asks() {
        let dir = tempfile::tempdir().unwrap();
        let (system, user) = (dir.path().join("system"), dir.path().join("user"));
        let _users = UnixListener::bind(&user).unwrap();
        let (named, user) = (None, Some(user));
        let places = Places { named, system: system.clone(), user, ignored: false };
        assert!(ask(&places).is_ok(), "nothing is where the system's would be");
        drop(UnixListener::bind(&system).unwrap());
        assert!(matches!(ask(&places), Err(Silence::NoAgent)), "it is to be mended");
        let _systems = UnixListener::bind(dir.path().join("other")).unwrap();
        std::fs::rename(dir.path().join("other"), &system).unwrap();
        assert!(ask(&places).is_ok());
    }
}
