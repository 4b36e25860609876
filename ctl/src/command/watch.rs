//! `watch`: what happens to the caller's leases, as JSON lines, while it happens.

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use stormlock_protocol::cause::plain;
use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{Code, Event};

use crate::args;
use crate::connect::{Link, explain_question};
use crate::exit::{Answer, Exit, Failure};
use crate::render::json::{Document, LeaseJson, Line};
use crate::render::{Format, View, say};
use crate::run::take::{is_away, may_pass};
use crate::time;

const DOING: &str = "watching your leases";
/// How often an agent that went away is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs the command, until its reader goes away. An agent that went away is waited for.
pub(crate) fn run(args: &args::Watch, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let mut event = link.read(DOING, Client::subscribe)?;
    loop {
        if let Some(text) = text(&event, args, view)? {
            match crate::stdout::write(text.as_bytes()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => {
                    let told = plain(&format!("{DOING}: writing to stdout: {error}"));
                    return Err(Failure::new(Exit::Software, Code::Internal.as_str(), told));
                }
            }
        }
        event = match link.client.next_event(None) {
            Ok(event) => event,
            Err(error) if may_pass(&error) => match come_back(link, view)? {
                Some(event) => event,
                None => break,
            },
            Err(error) => return Err(explain_question(error, DOING)),
        };
    }
    Ok(Answer::default())
}

fn text(event: &Event, args: &args::Watch, view: &View) -> Result<Option<String>, Failure> {
    let view = View { format: Format::Jsonl, now: time::now(), ..view.clone() };
    match event {
        Event::Lease(lease) => {
            let is_asked = args.resources.is_empty() || args.resources.contains(&lease.resource);
            let line = is_asked.then(|| Line::Lease(LeaseJson::new(lease, &view.now)));
            line.map(|line| view.document(&line.document())).transpose()
        }
        Event::Caught => view.document(&Document::new(Line::Caught {})).map(Some),
        // It does not ask twice.
        Event::Anew => Ok(None),
    }
}

/// The first event of an agent that is back; none when nobody reads any more.
fn come_back(link: &mut Link, view: &View) -> Result<Option<Event>, Failure> {
    let tell = |sentence: String| {
        if !view.is_quiet {
            say(&sentence);
        }
    };
    let socket = link.socket.display().to_string();
    tell(format!("the agent on {socket} closed the stream; it is looked for until it is back"));
    loop {
        if is_unread_after(LOOK_EVERY) {
            return Ok(None);
        }
        let back = Client::connect(&link.socket, link.patience)
            .and_then(|mut client| client.subscribe().map(|event| (client, event)));
        match back {
            Ok((client, event)) => {
                link.client = client;
                tell("the agent is back; all leases are told anew".to_owned());
                return Ok(Some(event));
            }
            Err(error) if may_come(&error) => {}
            Err(error) => return Err(explain_question(error, DOING)),
        }
    }
}

fn may_come(error: &ClientError) -> bool {
    may_pass(error) || is_away(error) || matches!(error, ClientError::Mute(_))
}

/// Rests for so long, unless the reader of stdout goes away: nothing is written meanwhile that
/// would tell.
fn is_unread_after(rest: Duration) -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    let Ok(rest) = rest.try_into() else { return false };
    let _ = poll(&mut polled, Some(&rest));
    polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}
