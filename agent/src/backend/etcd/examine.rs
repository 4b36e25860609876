//! What doctor says of an etcd: whether it can keep the promises of the header. Nothing is changed,
//! and what a user may not read is said rather than guessed.

use etcd_client::{Compare, CompareOp, Txn};
use stormlock_protocol::message::Level;
use stormlock_protocol::name::Resource;

use super::super::{BackendError, RefusedKind, Remark};
use super::keys::Part;
use super::link::Link;
use super::refusal::Trouble;
use super::{Etcd, unknown};

/// The first sound release of each line, oldest line first; later lines are sound.
const SOUND: [(u32, u32, u32); 3] = [(3, 4, 42), (3, 5, 28), (3, 6, 9)];
/// Members of a cluster that survives the loss of one.
const MEMBERS_MIN: usize = 3;
/// A database that is fuller than this may soon take no new lock, in percent of its limit.
const FULL_PERCENT: u64 = 90;
/// The limit of a database where the server does not say it: etcd's own default.
const QUOTA: u64 = 2 * 1024 * 1024 * 1024;

impl Etcd {
    /// See [`super::Backend::examine`].
    pub(super) async fn remarks(&self) -> Result<Vec<Remark>, BackendError> {
        let link = self.line.link().await?;
        let trial = self.trial().await?;
        let is_open = trial.level == Level::Good;
        let mut remarks = vec![trial];
        remarks.extend(self.status().await?);
        remarks.push(self.members().await?);
        remarks.extend(self.secrecy(&link, is_open));
        Ok(remarks)
    }

    /// Asks for a write that never happens: the rights to it are looked at all the same.
    async fn trial(&self) -> Result<Remark, BackendError> {
        let on = Resource::new("stormlock.doctor").map_err(|_| unknown("no name for a trial"))?;
        let keys = self.keys(&on);
        let never = Compare::create_revision(keys.of(Part::Id), CompareOp::Less, 0);
        let put = keys.put(Part::Counter, "0", 0);
        let txn = Txn::new().when(vec![never]).and_then(vec![put]).or_else(keys.read());
        match self.transact(txn).await.map_err(BackendError::from) {
            Ok(_) => Ok(good("it has a leader and lets us write")),
            Err(BackendError::Refused { kind, why }) if kind != RefusedKind::Unreachable => {
                Ok(remark(Level::Bad, why, mend(kind)))
            }
            Err(error) => Err(error),
        }
    }

    /// What the member that we are connected to says of itself.
    async fn status(&self) -> Result<Vec<Remark>, BackendError> {
        let asked = self.line.ask(async |client| client.maintenance_client().status().await);
        match asked.await {
            Ok(status) => {
                let mut remarks = vec![version(status.version())];
                remarks.extend(alarms(status.errors()));
                remarks.extend(size(status.db_size(), status.db_size_quota()));
                Ok(remarks)
            }
            Err(ref trouble @ Trouble::Answered(ref why)) if trouble.is_no_right() => {
                Ok(vec![remark(
                    Level::Note,
                    format!("its version, alarms and space may not be read: {why}"),
                    "update the servers (3.5.32 and 3.6.12 tell every user), or look as root: \
                 `etcdctl endpoint status -w table`",
                )])
            }
            Err(trouble) => Err(trouble.into()),
        }
    }

    async fn members(&self) -> Result<Remark, BackendError> {
        let asked = self.line.ask(async |client| client.cluster_client().member_list().await);
        match asked.await {
            Ok(list) => {
                let voting = list.members().iter().filter(|member| !member.is_learner());
                Ok(majority(Ok(voting.count())))
            }
            Err(Trouble::Answered(why)) => Ok(majority(Err(why))),
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// Who else may write, and who may listen; `is_open`: we may write.
    fn secrecy(&self, link: &Link, is_open: bool) -> Vec<Remark> {
        let target = &self.line.dialler().target;
        let mut remarks = Vec::new();
        if link.login_was_idle {
            remarks.push(remark(
                Level::Warning,
                "a user is configured, but the cluster has authentication off: everybody who \
                 reaches it may take and free locks",
                "run `etcdctl auth enable`, or take the user out of the configuration",
            ));
        }
        let is_far = target.places.iter().any(|place| !place.tls && !place.is_loopback());
        if is_far && target.login.is_some() {
            remarks.push(remark(
                Level::Warning,
                "the password goes over the network for all to read",
                "use https:// endpoints",
            ));
        }
        if is_open && target.login.is_none() && target.tls.is_none() {
            remarks.push(remark(
                Level::Note,
                "it asks for no password: everybody who reaches it may take and free locks",
                "use client certificates, or users (`etcdctl auth enable`)",
            ));
        }
        remarks
    }
}

/// What to do about a write that is refused.
fn mend(kind: RefusedKind) -> &'static str {
    match kind {
        RefusedKind::Denied => {
            "give the user readwrite on the prefix, see the README; one who may lock some names \
             only, and not stormlock.doctor, is told this too"
        }
        RefusedKind::Credentials => "see the README for the user that it wants",
        _ => "see what else is said of it here, and the members' logs",
    }
}

fn version(version: &str) -> Remark {
    let plain = version.split(['-', '+']).next().unwrap_or(version);
    let mut numbers = plain.split('.').map_while(|part| part.parse::<u32>().ok());
    let mut next = || numbers.next().unwrap_or(0);
    let (major, minor, patch) = (next(), next(), next());
    let floor = SOUND.into_iter().find(|(x, y, _)| (*x, *y) >= (major, minor));
    let Some((x, y, z)) = floor.filter(|floor| (major, minor, patch) < *floor) else {
        return good(format!("etcd {version}"));
    };
    remark(
        Level::Warning,
        format!(
            "etcd {version} is older than {x}.{y}.{z}: such a version may end a live lease, give \
             fences that fall after a crash, or take lease calls from anybody"
        ),
        "update the servers",
    )
}

/// How many voting members there are, or why nobody says.
fn majority(members: Result<usize, String>) -> Remark {
    match members {
        Err(why) => remark(
            Level::Note,
            format!("its members may not be listed: {why}"),
            "count them by hand: three or five",
        ),
        Ok(members @ 0..MEMBERS_MIN) => remark(
            Level::Note,
            match members {
                1 => "it has 1 voting member: without it nobody gets a lock".to_owned(),
                _ => format!(
                    "it has {members} voting members: without one of them nobody gets a lock"
                ),
            },
            "make it a cluster of three",
        ),
        Ok(members) if members.is_multiple_of(2) => remark(
            Level::Note,
            format!("it has {members} voting members: one fewer would survive as much"),
            "make their number odd",
        ),
        Ok(members) => good(format!("it has {members} voting members")),
    }
}

fn alarms(errors: &[String]) -> Vec<Remark> {
    let full = |error: &String| error.contains("NOSPACE");
    let told = errors.iter().map(|error| {
        let text = format!("a member raises an alarm: {error}");
        let mend = if full(error) {
            "compact and defragment it, then run `etcdctl alarm disarm`"
        } else {
            "see `etcdctl endpoint status` and the members' logs"
        };
        remark(Level::Bad, text, mend)
    });
    told.collect()
}

/// Bytes, and how many there may be: 0 from a server that does not say it.
fn size(used: i64, quota: i64) -> Option<Remark> {
    let used = u64::try_from(used).ok()?;
    let quota = u64::try_from(quota).ok().filter(|quota| *quota > 0);
    let quota = quota.unwrap_or(QUOTA);
    let percent = used.saturating_mul(100) / quota;
    (percent > FULL_PERCENT).then(|| {
        let text = format!("its database is {percent} % full: a full one takes no new lock");
        remark(Level::Warning, text, "compact and defragment it, or raise --quota-backend-bytes")
    })
}

fn good(text: impl Into<String>) -> Remark {
    Remark { level: Level::Good, text: text.into(), mend: None }
}

fn remark(level: Level, text: impl Into<String>, mend: &str) -> Remark {
    Remark { level, text: text.into(), mend: Some(mend.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_known_faults_are_said() {
        for (text, expected) in [
            ("3.4.23", Level::Warning),
            ("3.4.42", Level::Good),
            ("3.5.9", Level::Warning),
            ("3.5.28", Level::Good),
            ("3.6.0-rc.1", Level::Warning),
            ("3.6.9", Level::Good),
            ("3.7.0", Level::Good),
            ("4.0.0", Level::Good),
            ("3.3.27", Level::Warning),
            ("", Level::Warning),
        ] {
            assert_eq!(version(text).level, expected, "{text}");
        }
    }

    // What follows is of answers that no server of a test gives: see `tests/doctor.rs` for others.

    #[test]
    fn a_database_that_is_nearly_full_is_said() {
        assert_eq!(size(90, 100), None);
        let told = size(91, 100).unwrap();
        assert_eq!(told.text, "its database is 91 % full: a full one takes no new lock");
        assert!(told.mend.unwrap().starts_with("compact and defragment it"));
        // The usual limit, where the server says none.
        assert_eq!(size(1 << 30, 0), None);
        assert!(size(2_000_000_000, 0).is_some());
    }

    #[test]
    fn an_alarm_that_is_not_of_space_has_a_remedy_of_its_own() {
        let [told] = &alarms(&["memberID:1 alarm:CORRUPT".to_owned()])[..] else { panic!() };
        assert_eq!(told.text, "a member raises an alarm: memberID:1 alarm:CORRUPT");
        assert!(told.mend.as_ref().unwrap().contains("logs"));
    }
}
