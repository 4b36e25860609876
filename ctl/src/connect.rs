//! Finding the agent, and saying in words why it cannot be talked to.
//!
//! It starts nothing. An agent that stops closes its connections; where systemd keeps its socket,
//! the next one answers there in a moment, so a question that changes nothing is asked again.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{getegid, geteuid, getgid, getuid};
use stormlock_protocol::cause::plain;
use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::frame::{FrameError, Verdict, Welcome};
use stormlock_protocol::message::{Code, Refusal};
use stormlock_protocol::{PROTOCOL_MAX, PROTOCOL_MIN, SYSTEM_SOCKET, USER_SOCKET};

use crate::clock::Moment;
use crate::exit::{Exit, Failure};
use crate::render::say;

/// How long an answer may take. The agent bounds its own calls to a store well below this, so a
/// longer silence is an agent that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer about the agent itself may take: no store is asked for it.
pub(crate) const SHORT_PATIENCE: Duration = Duration::from_secs(2);

/// How long an agent may take to turn to a new client, however many come at once: nobody is told
/// meanwhile what is waited for.
const TURN: Duration = Duration::from_secs(5);
/// How much later than the end of a wait its answer may come: the agent may be asking the store
/// then, which it does for 5 s at most. A longer silence is an agent that hangs.
const WAIT_SLACK: Duration = Duration::from_secs(7);
/// How often a question is asked again because its agent stopped: one that does so again is broken.
const AGAIN: usize = 2;
/// When a person who waits for an answer begins to wonder.
const SLOW: Duration = Duration::from_secs(2);

const PROTOCOL_CODE: &str = "protocol";
const JOIN_THE_GROUP: &str =
    "join the group that may use it (`sudo usermod -aG stormlock $USER`) and log in again";
const ANOTHERS_AGENT: &str = "only its owner may use it: another user's own agent, or one of the \
     host's without a group; without --socket and STORMLOCK_SOCKET the agent of the host is asked";
const NAME_A_SOCKET: &str =
    "name the agent's socket, or leave out --socket and STORMLOCK_SOCKET: the host's is asked then";
const TREAT_AS_NOT_HELD: &str =
    "what was asked may have happened: treat it as not held; `stormctl status` shows what is yours";

fn told_slow(socket: &Path) {
    say(&format!(
        "waiting for the agent on {}, which has not answered for {} s: it or its store is slow, or \
         hangs; see `systemctl status stormlockd` (Ctrl-C ends this)",
        socket.display(),
        SLOW.as_secs()
    ));
}

/// A connection to the agent that explains its errors.
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) socket: PathBuf,
    pub(crate) patience: Duration,
    tells: bool,
}

/// Whether a question changes anything: then a lost answer leaves the outcome unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Reads,
    Changes,
}

impl Link {
    /// Connects to the first socket of the client's order that is there.
    pub(crate) fn open(explicit: Option<&Path>, patience: Duration) -> Result<Link, Failure> {
        open(&Places::of_this_process(explicit), patience)
    }

    /// Says so when an answer takes long: silence would look like a client that hangs.
    pub(crate) fn tell_if_slow(&mut self) {
        self.tells = true;
        self.client.tell_if_slow(SLOW, self.socket.clone(), told_slow);
    }

    /// Changes how long each later answer may take.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
        self.client.set_patience(patience);
    }

    /// Asks what changes nothing; of the next agent, if this one stops meanwhile.
    pub(crate) fn read<T>(
        &mut self,
        doing: &str,
        ask: impl Fn(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, Failure> {
        let began = Moment::now();
        let mut answer = ask(&mut self.client);
        for _ in 0..AGAIN {
            match &answer {
                Err(error) if stopped(error) && is_early(began, self.patience) => {}
                _ => break,
            }
            // What it said says more than that no other is there.
            let Ok(client) = connect_again(&self.socket, self.patience) else { break };
            self.client = client;
            if self.tells {
                self.tell_if_slow();
            }
            answer = ask(&mut self.client);
        }
        answer.map_err(|error| explain(error, doing, Asks::Reads))
    }

    /// Asks for a change.
    pub(crate) fn change<T>(
        &mut self,
        doing: &str,
        ask: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, Failure> {
        ask(&mut self.client).map_err(|error| explain(error, doing, Asks::Changes))
    }
}

/// Says why a question for a change has no answer.
pub(crate) fn explain_change(error: ClientError, doing: &str) -> Failure {
    explain(error, doing, Asks::Changes)
}

/// Says why a question that changes nothing has no answer.
pub(crate) fn explain_question(error: ClientError, doing: &str) -> Failure {
    explain(error, doing, Asks::Reads)
}

/// Passes an answer on if it is about what was asked: anything else is not ours to believe.
pub(crate) fn if_about<T>(answer: T, is_about: impl Fn(&T) -> bool) -> Result<T, ClientError> {
    if is_about(&answer) { Ok(answer) } else { Err(ClientError::WrongReply) }
}

/// Where an agent may listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    /// The one that was named, by option or environment; nothing else is tried then.
    pub(crate) named: Option<PathBuf>,
    /// The agent of the system.
    pub(crate) system: PathBuf,
    /// The agent of the user, tried when the system has none.
    pub(crate) user: Option<PathBuf>,
    /// True when the environment names a socket that is not used, because the process runs with
    /// other rights than its caller's.
    pub(crate) ignored: bool,
}

impl Places {
    pub(crate) fn of_this_process(explicit: Option<&Path>) -> Places {
        let has_own_rights = getuid() == geteuid() && getgid() == getegid();
        Places::new(explicit, has_own_rights, |name| env::var_os(name))
    }

    fn new(
        explicit: Option<&Path>,
        has_own_rights: bool,
        var: impl Fn(&str) -> Option<OsString>,
    ) -> Places {
        let path = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let from_env = path("STORMLOCK_SOCKET");
        let ignored = from_env.is_some() && !has_own_rights;
        let trusted = from_env.filter(|_| has_own_rights);
        let runtime = path("XDG_RUNTIME_DIR").filter(|dir| has_own_rights && dir.is_absolute());
        Places {
            named: explicit.map(Path::to_owned).or(trusted),
            system: SYSTEM_SOCKET.into(),
            user: runtime.map(|dir| dir.join(USER_SOCKET)),
            ignored,
        }
    }

    /// The sockets to try, one after the other.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Path> {
        let usual = [Some(&self.system), self.user.as_ref()].into_iter().flatten();
        let usual = usual.filter(|_| self.named.is_none());
        self.named.iter().chain(usual).map(PathBuf::as_path)
    }
}

/// A connection that waits no longer than it was told to.
pub(crate) fn connect(socket: &Path, patience: Duration) -> Result<Client, ClientError> {
    let mut client = Client::connect(socket, patience.min(TURN))?;
    client.set_patience(patience);
    client.bound_waits(WAIT_SLACK);
    Ok(client)
}

/// The same to the next agent, if this one stops before it has greeted.
fn connect_again(socket: &Path, patience: Duration) -> Result<Client, ClientError> {
    let began = Moment::now();
    let mut connected = connect(socket, patience);
    for _ in 0..AGAIN {
        match &connected {
            Err(error) if stopped(error) && is_early(began, patience) => {
                connected = connect(socket, patience);
            }
            _ => break,
        }
    }
    connected
}

/// True while another try does not make much more of what one may take.
fn is_early(began: Moment, patience: Duration) -> bool {
    began.until(Moment::now()) < patience / 4
}

/// True when the other end was an agent that stops, or that is gone.
fn stopped(error: &ClientError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error {
        ClientError::Closed => true,
        ClientError::Io(error) => matches!(error.kind(), ConnectionReset | BrokenPipe),
        ClientError::Greeting(welcome) => welcome.verdict == Verdict::Stopping,
        ClientError::Refused(refusal) => refusal.code == Code::Stopping,
        _ => false,
    }
}

fn open(places: &Places, patience: Duration) -> Result<Link, Failure> {
    let connect = |path: &Path| match connect_again(path, patience) {
        Ok(client) => Ok(Link { client, socket: path.to_owned(), patience, tells: false }),
        Err(error) => Err(error),
    };
    let opened = match (&places.named, &places.user) {
        (Some(named), _) => connect(named),
        (None, None) => connect(&places.system),
        (None, Some(user)) => match connect(&places.system) {
            Err(error) if is_absent(&error) => match connect(user) {
                // The system's socket is where an agent is expected: that is what to mend.
                Err(second) if is_absent(&second) => Err(error),
                other => other,
            },
            other => other,
        },
    };
    opened.map_err(|error| explain(error, "", Asks::Reads))
}

/// Nothing is there. A socket that nobody serves is to be mended, and no other agent is asked in
/// its place.
pub(crate) fn is_absent(error: &ClientError) -> bool {
    matches!(error, ClientError::NoAgent { source, .. }
        if source.kind() == std::io::ErrorKind::NotFound)
}

fn explain(error: ClientError, doing: &str, asks: Asks) -> Failure {
    let told = chain(&error);
    let message = if doing.is_empty() { told } else { format!("{doing}: {told}") };
    let fail = |exit, code| Failure::new(exit, code, message.clone());
    let in_doubt = |exit, code, otherwise: &str| {
        let advice = match asks {
            Asks::Changes => TREAT_AS_NOT_HELD,
            Asks::Reads => otherwise,
        };
        fail(exit, code).advise(advice)
    };
    let unavailable = Code::Unavailable.as_str();
    match error {
        ClientError::NoAgent { path, .. } if is_no_socket(&path) => {
            let told = format!("{} is no socket, so no agent listens there", path.display());
            Failure::new(Exit::Unavailable, unavailable, plain(&told)).advise(NAME_A_SOCKET)
        }
        ClientError::NoAgent { .. } => fail(Exit::Unavailable, unavailable).advise(
            "start one: `systemctl start stormlockd`, or without root `stormlockd --user`, \
             or to try it out `stormlockd dev`",
        ),
        ClientError::NoAccess { path, .. } => {
            let is_of_the_host = path == Path::new(SYSTEM_SOCKET) || is_for_a_group(&path);
            let advice = if is_of_the_host { JOIN_THE_GROUP } else { ANOTHERS_AGENT };
            fail(Exit::NoPerm, Code::Denied.as_str()).advise(advice)
        }
        ClientError::LongPath(_) => fail(Exit::Usage, Code::BadRequest.as_str()),
        ClientError::Mute(_) | ClientError::Closed => {
            in_doubt(Exit::Unavailable, unavailable, "see `systemctl status stormlockd`")
        }
        ClientError::Io(_) => in_doubt(Exit::Unavailable, unavailable, "see `stormctl doctor`"),
        ClientError::Greeting(welcome) => refused_greeting(welcome, doing),
        ClientError::Frame(FrameError::Magic) => fail(Exit::Protocol, PROTOCOL_CODE)
            .advise("something else listens on the agent's socket: see `stormctl doctor`"),
        ClientError::Frame(FrameError::Encode(_)) => fail(Exit::Usage, Code::BadRequest.as_str()),
        ClientError::Frame(_) => {
            in_doubt(Exit::Protocol, PROTOCOL_CODE, "compare the two versions: `stormctl -V`")
        }
        ClientError::WrongReply => {
            in_doubt(Exit::Software, Code::Internal.as_str(), "this is a bug: please report it")
        }
        ClientError::Refused(refusal) => refused(refusal, doing),
    }
}

/// The kernel says of anything else that it refuses.
fn is_no_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| !found.file_type().is_socket())
}

fn is_for_a_group(socket: &Path) -> bool {
    const GROUP_WRITES: u32 = 0o020;
    socket.metadata().is_ok_and(|found| found.mode() & GROUP_WRITES != 0)
}

/// A failure that the agent worded.
pub(crate) fn refused(refusal: Refusal, doing: &str) -> Failure {
    let message = match (&refusal.holder, doing) {
        (None, "") => refusal.message.clone(),
        (None, doing) => format!("{doing}: {}", refusal.message),
        // Who holds it says more than any sentence of the agent: see render::refusal.
        (Some(_), _) => refusal.message.clone(),
    };
    let mut failure = Failure::new(Exit::of(refusal.code), refusal.code.as_str(), message);
    if refusal.code == Code::Unavailable {
        failure = failure.advise("what is wrong with it: `stormctl doctor`");
    }
    failure.refusals.push(refusal);
    failure
}

fn refused_greeting(welcome: Welcome, doing: &str) -> Failure {
    let agent = range(welcome.min, welcome.max);
    let ours = range(PROTOCOL_MIN, PROTOCOL_MAX);
    let (exit, code, why, advice) = match welcome.verdict {
        Verdict::ClientTooOld => (
            Exit::Protocol,
            PROTOCOL_CODE,
            format!("the agent speaks protocol {agent}, this stormctl is older and speaks {ours}"),
            "update stormctl",
        ),
        Verdict::AgentTooOld => (
            Exit::Protocol,
            PROTOCOL_CODE,
            format!("this stormctl speaks protocol {ours}, the agent is older and speaks {agent}"),
            "restart the agent, which runs an older version: `systemctl restart stormlockd` \
             (no lease is lost by it)",
        ),
        Verdict::Speak(chosen) => (
            Exit::Protocol,
            PROTOCOL_CODE,
            format!("the agent chose protocol {chosen}, this stormctl offered {ours}"),
            "update stormctl",
        ),
        Verdict::Unknown(chosen) => (
            Exit::Protocol,
            PROTOCOL_CODE,
            format!("the agent refused the greeting with code {chosen}, unknown to this stormctl"),
            "update stormctl",
        ),
        Verdict::Garbage => (
            Exit::Protocol,
            PROTOCOL_CODE,
            "the agent did not understand the greeting".to_owned(),
            "compare the two versions: `stormctl -V`, `stormlockd --version`",
        ),
        Verdict::TooMany => (
            Exit::TempFail,
            Code::TooMany.as_str(),
            "the agent has too many sessions, in all or of yours".to_owned(),
            "end some of yours, or try again later",
        ),
        Verdict::Denied => (
            Exit::NoPerm,
            Code::Denied.as_str(),
            "the agent does not accept who you are".to_owned(),
            "its log says why: `journalctl -u stormlockd`",
        ),
        Verdict::Stopping => (
            Exit::Unavailable,
            Code::Stopping.as_str(),
            "the agent is stopping".to_owned(),
            "try again when it runs: `systemctl status stormlockd`",
        ),
        Verdict::Slow => (
            Exit::Unavailable,
            Code::Timeout.as_str(),
            "the greeting reached the agent too late".to_owned(),
            "try again; the host may be overloaded",
        ),
    };
    let message = if doing.is_empty() { why } else { format!("{doing}: {why}") };
    Failure::new(exit, code, message).advise(advice)
}

/// A range of protocols in words.
pub(crate) fn range(min: u16, max: u16) -> String {
    if min == max { min.to_string() } else { format!("{min} to {max}") }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    plain(&text)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn places(explicit: Option<&str>, own_rights: bool, vars: &[(&str, &str)]) -> Places {
        Places::new(explicit.map(Path::new), own_rights, |name| {
            vars.iter().find(|(var, _)| *var == name).map(|(_, value)| value.into())
        })
    }

    fn expected(named: Option<&str>, user: Option<&str>, ignored: bool) -> Places {
        let system = "/run/stormlock/stormlockd.sock".into();
        Places { named: named.map(Into::into), system, user: user.map(Into::into), ignored }
    }

    #[test]
    fn the_option_wins_over_the_environment() {
        let vars = [("STORMLOCK_SOCKET", "/env"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let user = Some("/run/user/7/stormlock/stormlockd.sock");
        assert_eq!(places(Some("/opt"), true, &vars), expected(Some("/opt"), user, false));
        assert_eq!(places(None, true, &vars), expected(Some("/env"), user, false));
        assert_eq!(places(None, true, &vars[1..]), expected(None, user, false));
    }

    #[test]
    fn the_environment_of_another_user_is_ignored() {
        let vars = [("STORMLOCK_SOCKET", "/env"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(places(None, false, &vars), expected(None, None, true));
        assert_eq!(places(Some("/opt"), false, &vars), expected(Some("/opt"), None, true));
    }

    #[test]
    fn an_empty_or_relative_place_is_no_place() {
        let vars = [("STORMLOCK_SOCKET", ""), ("XDG_RUNTIME_DIR", "run")];
        assert_eq!(places(None, true, &vars), expected(None, None, false));
    }

    #[test]
    fn the_users_agent_is_asked_only_when_the_system_has_no_socket() {
        let dir = tempfile::tempdir().unwrap();
        let (system, user) = (dir.path().join("system"), dir.path().join("user"));
        let places = Places {
            system: system.clone(),
            user: Some(user.clone()),
            ..expected(None, None, false)
        };
        let opened = || open(&places, SHORT_PATIENCE).map(|link| link.socket);
        let nobody = opened().unwrap_err();
        assert_eq!(nobody.exit, Exit::Unavailable);
        assert!(nobody.message.contains("system"), "{}", nobody.message);
        let _users = UnixListener::bind(&user).unwrap();
        assert_eq!(opened().unwrap(), user);
        let systems = UnixListener::bind(&system).unwrap();
        assert_eq!(opened().unwrap(), system);
        // A dead agent of the system is to be mended, not to be replaced behind one's back.
        drop(systems);
        assert_eq!(opened().unwrap_err().exit, Exit::Unavailable);
    }

    #[test]
    fn a_forbidden_socket_says_which_group_to_join() {
        let refused = |path: &str| {
            let source = io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error());
            explain(ClientError::NoAccess { path: path.into(), source }, "", Asks::Changes)
        };
        let failure = refused(SYSTEM_SOCKET);
        assert_eq!((failure.exit, failure.code), (Exit::NoPerm, "denied"));
        let told = format!("may not use the agent's socket {SYSTEM_SOCKET}: permission denied");
        assert_eq!(failure.message, told);
        let advice = failure.advice.unwrap();
        assert!(advice.contains("stormlock") && advice.contains("log in again"), "{advice}");
        let advice = refused("/proc/1/nothing/stormlockd.sock").advice.unwrap();
        assert!(advice.contains("another user's own agent, or one of the host's"), "{advice}");
    }
}
