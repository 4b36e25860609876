//! What doctor says of a Redis: whether it can keep the promises of the header, setting by setting.
//! Nothing is changed, and what a user may not read is said rather than guessed.

use redis::{Cmd, Value};
use stormlock_protocol::message::Level;
use stormlock_protocol::name::{LeaseId, Resource};

use super::super::{BackendError, RefusedKind, Remark};
use super::link::field;
use super::refusal::Trouble;
use super::script;
use super::{Known, Redis};
use crate::clock;
use crate::lease::Proof;

/// The oldest version with ACL users and SCAN by type.
const VERSION_MIN: (u32, u32) = (6, 0);
/// A server's clock that is further off than this is worth a word, in milliseconds.
const SKEW_MS: u64 = 2_000;
/// A server that is fuller than this may soon take no new lock, in percent.
const FULL_PERCENT: u64 = 90;

impl Redis {
    /// See [`super::Backend::examine`].
    pub(super) async fn remarks(&self) -> Result<Vec<Remark>, BackendError> {
        let mut remarks = vec![self.trial().await?];
        match self.text(redis::cmd("INFO").arg("all")).await? {
            Ok(info) => {
                remarks.push(version(&info));
                remarks.extend(role(&info));
                remarks.extend(memory(&info));
            }
            Err(why) => remarks.push(unseen("INFO", &why, "+info")),
        }
        let settings = Settings {
            policy: self.setting("maxmemory-policy").await?,
            appendonly: self.setting("appendonly").await?,
            appendfsync: self.setting("appendfsync").await?,
            save: self.setting("save").await?,
        };
        remarks.extend(settings.remarks());
        remarks.push(self.notices().await);
        remarks.extend(self.skew().await?);
        Ok(remarks)
    }

    /// Reads back a lease that does not exist, as a renewal would, but writes nothing.
    async fn trial(&self) -> Result<Remark, BackendError> {
        let Ok(resource) = Resource::new("stormlock.doctor") else {
            return Err(BackendError::Unknown { why: "no name for a trial".to_owned() });
        };
        let lease = LeaseId::from_bytes([0; 16]);
        let proof = Proof { resource, lease, nonces: Vec::new() };
        let known = Known::new(&proof, None);
        match self.run(&script::VERIFY, &proof.resource, &known.arguments()).await {
            Ok(_) => Ok(good("it is a primary and lets us write")),
            Err(BackendError::Refused { kind, why }) if kind != RefusedKind::Unreachable => {
                Ok(remark(Level::Bad, why, mend(kind)))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether those who wait are woken, by trying it.
    async fn notices(&self) -> Remark {
        match self.ears.used().await {
            Ok(_) => good("those who wait are woken by its notices"),
            Err(trouble) => {
                let text =
                    format!("those who wait look every 2 s: {}", BackendError::from(trouble));
                remark(Level::Note, text, "give the user +client|tracking")
            }
        }
    }

    /// A text, or what the server says instead.
    async fn text(&self, command: &Cmd) -> Result<Result<String, String>, BackendError> {
        match self.line.ask(command).await {
            Ok(Value::BulkString(text)) => Ok(Ok(String::from_utf8_lossy(&text).into_owned())),
            Ok(other) => Ok(Err(format!("{other:?}"))),
            Err(Trouble::Answered { code, detail }) => Ok(Err(format!("{code} {detail}"))),
            Err(trouble) => Err(trouble.into()),
        }
    }

    async fn setting(&self, name: &str) -> Result<Option<String>, BackendError> {
        match self.line.ask(redis::cmd("CONFIG").arg("GET").arg(name)).await {
            Ok(Value::Array(pair)) => Ok(match pair.as_slice() {
                [_, Value::BulkString(value)] => Some(String::from_utf8_lossy(value).into_owned()),
                _ => None,
            }),
            Ok(_) | Err(Trouble::Answered { .. }) => Ok(None),
            Err(trouble) => Err(trouble.into()),
        }
    }

    async fn skew(&self) -> Result<Option<Remark>, BackendError> {
        let answer = match self.line.ask(&redis::cmd("TIME")).await {
            Ok(answer) => answer,
            Err(Trouble::Answered { .. }) => return Ok(None),
            Err(trouble) => return Err(trouble.into()),
        };
        let Value::Array(parts) = &answer else { return Ok(None) };
        let Some(Value::BulkString(secs)) = parts.first() else { return Ok(None) };
        let secs = str::from_utf8(secs).ok().and_then(|secs| secs.parse::<i64>().ok());
        let Some(ms) = secs.and_then(|secs| secs.checked_mul(1000)) else { return Ok(None) };
        let apart_ms = ms.abs_diff(clock::wall().0);
        // TIME's whole seconds alone may look up to one second off.
        Ok((apart_ms > SKEW_MS).then(|| {
            remark(
                Level::Note,
                format!(
                    "its clock and this host's are {} s apart; no lease depends on it, but fences \
                     and times shown to people do",
                    apart_ms / 1000
                ),
                "run a time service on both",
            )
        }))
    }
}

/// What to do about a script that is refused.
fn mend(kind: RefusedKind) -> &'static str {
    match kind {
        RefusedKind::Denied => {
            "give the user the keys that the README names; one who may lock some names only, and \
             not stormlock.doctor, is told this too"
        }
        RefusedKind::Credentials => {
            "give the user the rights that the README names below its section on Redis"
        }
        _ => "see what else is said of it here, and the server's log",
    }
}

fn version(info: &str) -> Remark {
    let version = field(info, "redis_version").unwrap_or("of unknown version");
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let pair = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if pair >= VERSION_MIN {
        return good(format!("redis {version}"));
    }
    let (major, minor) = VERSION_MIN;
    let text = format!("redis {version} is older than {major}.{minor}");
    remark(Level::Bad, text, "update the server")
}

fn role(info: &str) -> Vec<Remark> {
    let mut remarks = Vec::new();
    if field(info, "cluster_enabled") == Some("1") {
        remarks.push(remark(
            Level::Bad,
            "it is a cluster: locks and their counters would live on different nodes",
            "use a single primary",
        ));
    }
    if field(info, "connected_slaves").is_some_and(|count| count != "0") {
        remarks.push(remark(
            Level::Note,
            "it has replicas: after a failover a lock may be given twice, because replication is \
             asynchronous; what is protected should check the fence",
            "set min-replicas-to-write 1 so that a cut-off primary stops giving locks",
        ));
    }
    remarks
}

fn memory(info: &str) -> Option<Remark> {
    let number = |name| field(info, name).and_then(|value| value.parse::<u64>().ok());
    let (used, limit) = (number("used_memory")?, number("maxmemory")?);
    let is_full = limit > 0 && used.saturating_mul(100) > limit.saturating_mul(FULL_PERCENT);
    is_full.then(|| {
        let text = format!("its memory is {} % full: a full server takes no new lock", {
            used.saturating_mul(100) / limit.max(1)
        });
        remark(Level::Warning, text, "raise maxmemory")
    })
}

/// Settings, as far as they may be read.
struct Settings {
    policy: Option<String>,
    appendonly: Option<String>,
    appendfsync: Option<String>,
    save: Option<String>,
}

impl Settings {
    fn remarks(&self) -> Vec<Remark> {
        let (Some(policy), Some(appendonly)) = (&self.policy, &self.appendonly) else {
            return vec![unseen(
                "CONFIG GET",
                "whether locks can be evicted, and survive a crash, is not known",
                "+config|get",
            )];
        };
        vec![self.eviction(policy), self.durability(appendonly == "yes")]
    }

    fn eviction(&self, policy: &str) -> Remark {
        if policy == "noeviction" {
            return good("maxmemory-policy is noeviction: no lock is evicted");
        }
        let text = format!("maxmemory-policy is {policy}: a full server may evict a held lock");
        remark(Level::Bad, text, "set maxmemory-policy noeviction")
    }

    fn durability(&self, appendonly: bool) -> Remark {
        let mend = "set appendonly yes and appendfsync always";
        match (appendonly, self.appendfsync.as_deref().unwrap_or("unknown")) {
            (true, "always") => good("appendfsync is always: a crash loses no lock"),
            (true, fsync) => remark(
                Level::Warning,
                format!("appendfsync is {fsync}: a crash may lose the latest locks"),
                mend,
            ),
            (false, _) if self.save.as_deref().is_some_and(|save| !save.is_empty()) => remark(
                Level::Warning,
                "appendonly is no: a crash loses the locks since the last snapshot",
                mend,
            ),
            (false, _) => {
                remark(Level::Warning, "nothing is saved: a restart loses all locks", mend)
            }
        }
    }
}

fn good(text: impl Into<String>) -> Remark {
    Remark { level: Level::Good, text: text.into(), mend: None }
}

fn remark(level: Level, text: impl Into<String>, mend: &str) -> Remark {
    Remark { level, text: text.into(), mend: Some(mend.to_owned()) }
}

fn unseen(what: &str, why: &str, right: &str) -> Remark {
    let text = format!("{what} may not be read: {why}");
    remark(Level::Note, text, &format!("give the user {right}, or check by hand"))
}
