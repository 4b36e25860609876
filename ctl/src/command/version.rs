//! `-V`: who we are, and who the agent is if it answers. Never fails.

use stormlock_protocol::client::ClientError;
use stormlock_protocol::{PROTOCOL_MAX, PROTOCOL_MIN};

use crate::connect::{Link, range};
use crate::exit::{Answer, Failure};
use crate::render::text::visible;
use crate::render::{Format, View, tsv};

#[derive(serde::Serialize)]
struct Versions<'a> {
    client: Side<'a>,
    agent: Option<Side<'a>>,
}

#[derive(serde::Serialize)]
struct Side<'a> {
    /// Null for an agent that speaks another protocol: it cannot be asked.
    version: Option<&'a str>,
    protocol_min: u16,
    protocol_max: u16,
    socket: Option<String>,
}

/// Runs the command.
pub(crate) fn run(link: Result<Link, Failure>, view: &View) -> Result<Answer, Failure> {
    let mut talk = Vec::new();
    let mut told_version = None;
    let mut agent = None;
    match link {
        Ok(mut link) => {
            let asked = link.client.status(None);
            let welcome = match &asked {
                Err(ClientError::Greeting(welcome)) => Some(*welcome),
                _ => link.client.welcome(),
            };
            match asked {
                Ok(status) => told_version = Some(status.agent.version),
                Err(error) => talk.push(format!("the agent does not say its version: {error}")),
            }
            agent = welcome.map(|welcome| (welcome, link.socket.display().to_string()));
        }
        Err(failure) => talk.push(failure.message),
    }
    let client = Side {
        version: Some(env!("CARGO_PKG_VERSION")),
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        socket: None,
    };
    let agent = agent.map(|(welcome, socket)| Side {
        version: told_version.as_deref(),
        protocol_min: welcome.min,
        protocol_max: welcome.max,
        socket: Some(socket),
    });
    Ok(Answer { data: data(Versions { client, agent }, view)?, talk, ..Answer::default() })
}

fn data(versions: Versions<'_>, view: &View) -> Result<String, Failure> {
    if matches!(view.format, Format::Json | Format::Jsonl) {
        return view.one("version", versions);
    }
    let sides = [("stormctl", Some(versions.client)), ("stormlockd", versions.agent)];
    let sides = sides.into_iter().filter_map(|(name, side)| side.map(|side| (name, side)));
    let fields = sides.map(|(name, side)| {
        let version = visible(side.version.unwrap_or("(unknown version)"));
        let protocol = range(side.protocol_min, side.protocol_max);
        (name, version, protocol, side.socket.map(|socket| visible(&socket)))
    });
    if view.format == Format::Tsv {
        return Ok(tsv(fields.map(|(name, version, protocol, socket)| {
            [name.to_owned(), version, protocol, socket.unwrap_or_default()]
        })));
    }
    let lines = fields.map(|(name, version, protocol, socket)| {
        let place = socket.map_or_else(String::new, |socket| format!(", listens on {socket}"));
        format!("{name} {version} (protocol {protocol}{place})\n")
    });
    Ok(lines.collect())
}
