//! Which Redis is the primary, as its sentinels say. They are asked for every new connection.
//!
//! The redis crate has a client for this, but it makes sockets of its own, which cannot be closed
//! by a reset; so the one question is asked here. Not here, and lost against that client: replicas,
//! and passwords of sentinels.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::Value;

use super::super::{OpenError, RefusedKind};
use super::link::{CONNECT_MAX, Greeting, Link, Purpose, Target};
use super::place::Place;
use super::refusal::Trouble;
use super::{Sentinel, setting};

/// A sentinel listens here unless its address says otherwise.
const PORT: u16 = 26_379;

/// Some sentinels and what to ask them for.
#[derive(Debug)]
pub(super) struct Sentinels {
    nodes: Vec<Place>,
    pub(super) service: String,
    /// The one that answered last: the first to be asked next.
    last: AtomicUsize,
}

impl Sentinels {
    pub(super) fn new(options: &Sentinel) -> Result<Sentinels, OpenError> {
        if options.nodes.is_empty() || options.service.is_empty() {
            return Err(setting(
                "sentinels need at least one HOST:PORT and the name of the primary they watch",
            ));
        }
        let nodes = options.nodes.iter().map(|node| Place::tcp(node, PORT));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        Ok(Sentinels { nodes, service: options.service.clone(), last: AtomicUsize::new(0) })
    }

    /// Connects to the first that a sentinel calls the primary and that is one. A sentinel that is
    /// behind may name a replica, so the others are asked then.
    pub(super) async fn connect(
        &self,
        target: &Target,
        purpose: Purpose,
    ) -> Result<(Link, Greeting), Trouble> {
        let last = self.last.load(Ordering::Relaxed);
        let mut kind = RefusedKind::Unreachable;
        let mut whys = Vec::new();
        for step in 0..self.nodes.len() {
            let at = (last + step) % self.nodes.len();
            let Some(node) = self.nodes.get(at) else { continue };
            let share = CONNECT_MAX / u32::try_from(self.nodes.len() + 1).unwrap_or(u32::MAX);
            let trouble = match self.ask(target, node, share).await {
                Ok(primary) => match target.connect_to(&primary, purpose).await {
                    Ok(connected) => {
                        self.last.store(at, Ordering::Relaxed);
                        return Ok(connected);
                    }
                    Err(trouble) => trouble.before_any_call(&format!("{primary}")),
                },
                Err(trouble) => trouble.before_any_call(&format!("sentinel {node}")),
            };
            if let Trouble::NotSent(of, why) = trouble {
                kind = of;
                whys.push(why);
            }
        }
        Err(Trouble::NotSent(kind, whys.join("; ")))
    }

    /// Where the primary is, as one sentinel knows; within a share of the time to connect, so that
    /// a mute one leaves some to the others.
    async fn ask(&self, target: &Target, node: &Place, share: Duration) -> Result<Place, Trouble> {
        let mut question = redis::cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(&self.service);
        let asked = async { target.raw(node).await?.say(&question).await };
        let Ok(answer) = tokio::time::timeout(share, asked).await else {
            return Err(Trouble::unreachable(format!("no answer within {share:?}")));
        };
        let answer = answer?;
        let place = match &answer {
            Value::Array(parts) => match parts.as_slice() {
                [Value::BulkString(host), Value::BulkString(port)] => {
                    let port = str::from_utf8(port).ok().and_then(|port| port.parse().ok());
                    str::from_utf8(host).ok().zip(port)
                }
                _ => None,
            },
            _ => None,
        };
        let why = || format!("it watches no primary named {:?}", self.service);
        let (host, port) = place.ok_or_else(|| Trouble::unreachable(why()))?;
        Ok(Place::Tcp { host: host.to_owned(), port })
    }
}
