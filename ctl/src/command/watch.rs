//! `watch`: what happens to the caller's leases, as JSON lines, while it happens.

use std::io;

use stormlock_protocol::cause::plain;
use stormlock_protocol::client::Client;
use stormlock_protocol::message::{Code, Event};

use crate::args;
use crate::connect::Link;
use crate::exit::{Answer, Exit, Failure};
use crate::render::json::{Document, LeaseJson, Line};
use crate::render::{Format, View};
use crate::time;

/// Runs the command, until its reader or the agent goes away.
pub(crate) fn run(args: &args::Watch, link: &mut Link, view: &View) -> Result<Answer, Failure> {
    let doing = "watching your leases";
    let mut event = link.read(doing, Client::subscribe)?;
    loop {
        let view = View { format: Format::Jsonl, now: time::now(), ..view.clone() };
        let text = match &event {
            Event::Lease(lease) => {
                let is_asked =
                    args.resources.is_empty() || args.resources.contains(&lease.resource);
                let line = is_asked.then(|| Line::Lease(LeaseJson::new(lease, &view.now)));
                line.map(|line| view.document(&line.document())).transpose()?
            }
            Event::Caught => Some(view.document(&Document::new(Line::Caught {}))?),
        };
        if let Some(text) = text {
            match crate::stdout::write(text.as_bytes()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(Answer::default());
                }
                Err(error) => {
                    let told = plain(&format!("{doing}: writing to stdout: {error}"));
                    return Err(Failure::new(Exit::Software, Code::Internal.as_str(), told));
                }
            }
        }
        event = link.read(doing, |client| client.next_event(None))?;
    }
}
