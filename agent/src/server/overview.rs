//! The questions about many things at once: all locks, the caller's leases, what a doctor would
//! say.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use stormlock_protocol::message::{
    self, Agent, Code, Cursor, Finding, Level, List, Refusal, Reply, Status, Unread,
};
use stormlock_protocol::name::{LeaseId, RESOURCE_MAX, Resource};
use tokio::task::JoinSet;

use super::service::{Answered, Caller, QUESTION_PATIENCE, Service, is_mine};
use super::{rights, told};
use crate::clock;
use crate::driver::Snapshot;
use crate::lease::{BackendName, Holder, Moment, Uid};
use crate::policy::{Act, Glob};
use crate::stores::{AskError, Stores};

/// Locks or leases on one page: with the longest names this stays below the longest frame.
const PAGE: usize = 64;
/// Locks that are read at once where none on the page before is to be told.
const LATER_PAGE: usize = 4096;
/// How long is looked for one: less than a client waits.
const LIST_PATIENCE: Duration = Duration::from_secs(15);

/// Longest pattern, in bytes: the longest name with a star around each character. It is tried on
/// every lock of a page on the thread that renews, and a frame has room for a far longer one.
const GLOB_MAX: usize = 2 * RESOURCE_MAX + 1;

/// How long one store is waited for alone before the others are asked meanwhile: most pages come
/// from the first store asked, and the others need not be read for them.
const HEAD_START: Duration = Duration::from_millis(250);

/// What a store said when it was asked for a page.
type Page = Result<Vec<Holder>, AskError>;

/// The stores that a page may come from, in order; a mute one is waited for beside the others.
/// Dropped, it asks no further.
struct Asked {
    stores: Arc<Stores>,
    by: Uid,
    /// Where each begins, those that were not asked yet.
    waiting: VecDeque<(BackendName, Option<Resource>)>,
    order: VecDeque<BackendName>,
    running: JoinSet<(BackendName, Page)>,
    done: BTreeMap<BackendName, Page>,
}

impl Asked {
    fn from(service: &Service, by: Uid, after: Option<&Cursor>) -> Asked {
        let mut waiting = VecDeque::new();
        for backend in service.stores.names() {
            match after {
                Some(cursor) if cursor.backend.as_str() > backend.as_str() => {}
                Some(cursor) if cursor.backend == backend.as_str() => {
                    waiting.push_back((backend, Some(cursor.resource.clone())));
                }
                _ => waiting.push_back((backend, None)),
            }
        }
        Asked {
            stores: Arc::clone(&service.stores),
            by,
            order: waiting.iter().map(|(backend, _)| backend.clone()).collect(),
            waiting,
            running: JoinSet::new(),
            done: BTreeMap::new(),
        }
    }

    /// The answer of the next store; `None` after the last.
    async fn next(&mut self) -> Answered<Option<(BackendName, Page)>> {
        let Some(wanted) = self.order.pop_front() else { return Ok(None) };
        if self.waiting.front().is_some_and(|(backend, _)| *backend == wanted) {
            self.ask_one();
        }
        loop {
            if let Some(page) = self.done.remove(&wanted) {
                return Ok(Some((wanted, page)));
            }
            match tokio::time::timeout(HEAD_START, self.running.join_next()).await {
                Ok(Some(Ok((backend, page)))) => {
                    self.done.insert(backend, page);
                }
                Ok(Some(Err(_)) | None) => return Err(told::bug("a list")),
                Err(_) => while self.ask_one() {},
            }
        }
    }

    fn ask_one(&mut self) -> bool {
        let Some((backend, after)) = self.waiting.pop_front() else { return false };
        let (stores, by) = (Arc::clone(&self.stores), self.by);
        self.running.spawn(async move {
            let page = read(&stores, by, &backend, after.as_ref(), PAGE).await;
            (backend, page)
        });
        true
    }
}

async fn read(
    stores: &Stores,
    by: Uid,
    backend: &BackendName,
    after: Option<&Resource>,
    limit: usize,
) -> Page {
    let store = stores.get(backend).ok_or_else(|| AskError::NoSuch(backend.clone()))?;
    stores.reading(backend, QUESTION_PATIENCE, store.list(after, limit), Some(by)).await
}

impl Service {
    /// One page of the locks that the caller may see. A page may be short and yet have a next one:
    /// what does not match is left out after it was read. Where the next begins is always a lock of
    /// this one, for the name of another may be none of the caller's business.
    pub(super) async fn list(&self, caller: &Caller, ask: List) -> Answered<Reply> {
        // To somebody who may see none, no locks would look like none held.
        self.permit(&self.config(), caller, Act::Read, None)?;
        let _turn = self.turns.of(caller.who.uid).await;
        if ask.glob.as_ref().is_some_and(|glob| glob.len() > GLOB_MAX) {
            let why = format!("a pattern has at most {GLOB_MAX} bytes; no name needs a longer one");
            return Err(Refusal::new(Code::BadRequest, why));
        }
        let until = clock::now() + LIST_PATIENCE;
        let mut unread = Vec::new();
        let mut asked = Asked::from(self, caller.who.uid, ask.after.as_ref());
        while let Some((backend, read)) = asked.next().await? {
            let locks = match self.first_seen(caller, &ask, &backend, read, until).await? {
                Ok(locks) => locks,
                Err(why) => {
                    unread.push(Unread { backend: backend.to_string(), why });
                    continue;
                }
            };
            let Some(last) = locks.last() else { continue };
            // When it was the store's last, the next page finds the next store.
            let next = Cursor { backend: backend.to_string(), resource: last.resource.clone() };
            return Ok(Reply::Locks { locks, next: Some(next), unread });
        }
        Ok(Reply::Locks { locks: Vec::new(), next: None, unread })
    }

    /// The first of a store's locks that were asked for and that the caller may see, from the page
    /// on that was read; none when there is none. Else why nobody knows.
    async fn first_seen(
        &self,
        caller: &Caller,
        ask: &List,
        backend: &BackendName,
        mut read_so_far: Page,
        until: Moment,
    ) -> Answered<Result<Vec<message::Lock>, String>> {
        loop {
            let holders = match read_so_far {
                Ok(holders) => holders,
                Err(error) => return Ok(Err(told::describe_error(backend, &error))),
            };
            let last = holders.last().map(|holder| holder.resource.clone());
            let mut locks = self.seen(caller, ask, backend, holders).await?;
            let Some(last) = last.filter(|_| locks.is_empty()) else {
                locks.truncate(PAGE);
                return Ok(Ok(locks));
            };
            if until <= clock::now() {
                return Ok(Err("has too many locks to look through for those that you may see, \
                               or that match: ask for one by its name"
                    .to_owned()));
            }
            read_so_far =
                read(&self.stores, caller.who.uid, backend, Some(&last), LATER_PAGE).await;
        }
    }

    /// Those of a store's locks that were asked for and that the caller may see.
    async fn seen(
        &self,
        caller: &Caller,
        ask: &List,
        backend: &BackendName,
        holders: Vec<Holder>,
    ) -> Answered<Vec<message::Lock>> {
        let config = self.config();
        let leases = holders.iter().map(|holder| holder.lease).collect();
        let views = self.driver.views(leases).await?;
        let this_host_only = self.this_host_only(backend);
        let glob = ask.glob.as_ref().map(Glob::new);
        let mut locks = Vec::with_capacity(holders.len());
        for holder in holders {
            let known = views.iter().find(|view| view.claim.lease == holder.lease);
            let mine = known.is_some_and(|view| is_mine(caller, view));
            let is_asked = (!ask.mine || mine)
                && glob.as_ref().is_none_or(|glob| glob.matches(&holder.resource));
            let may = config.policy.judge(&caller.who, Act::Read, Some(&holder.resource)).is_ok();
            if is_asked && may {
                let waiters = known.map_or(0, |view| view.waiters);
                let lock = told::lock(backend, this_host_only, holder);
                locks.push(message::Lock { mine, waiters, ..lock });
            }
        }
        Ok(locks)
    }

    /// One page of the caller's own leases, and the agent's health.
    pub(super) async fn status(&self, caller: &Caller, after: Option<LeaseId>) -> Answered<Reply> {
        let config = self.config();
        let views = self.driver.owned(caller.who.uid, after, PAGE + 1).await?;
        let snapshot = self.driver.snapshot().await?;
        // What the agent has is for those who may see any of it.
        let may_read = config.policy.judge(&caller.who, Act::Read, None).is_ok();
        let next = (views.len() > PAGE).then(|| views[PAGE - 1].claim.lease);
        Ok(Reply::Status(Status {
            agent: Agent {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                host: config.host.clone(),
                pid: std::process::id(),
                since: self.about.since,
                you: config.principal(&caller.who),
                journal_works: snapshot.journal_works,
            },
            leases: views.iter().take(PAGE).map(|view| self.told(view)).collect(),
            next,
            backends: if may_read { self.stores.health() } else { Vec::new() },
        }))
    }

    /// What is worth saying about the agent, the caller's rights and each store.
    pub(super) async fn doctor(&self, caller: &Caller) -> Answered<Reply> {
        let config = self.config();
        let mut findings = rights::findings(&config, caller);
        if config.policy.judge(&caller.who, Act::Read, None).is_err() {
            return Ok(Reply::Findings(findings));
        }
        let _turn = self.turns.of(caller.who.uid).await;
        let snapshot = self.driver.snapshot().await?;
        let names = self.stores.names();
        let elsewhere = snapshot.backends.iter().filter(|(name, _)| !names.contains(name));
        let elsewhere: Vec<Finding> = elsewhere
            .map(|(name, leases)| {
                finding_of_unnamed(name, *leases, self.stores.get(name).is_some())
            })
            .collect();
        findings.push(finding_of_journal(snapshot));
        // What it says now, not at the last event.
        self.audit.flush().await;
        findings.push(finding_of_audit(self.audit.trouble(), self.audit.lost()));
        findings.extend(elsewhere);
        for note in &self.about.notes {
            let mend = "see `stormctl list`: what this host holds there and `stormctl status` does \
                        not show ends by itself, or is given back by its lease id";
            let mend = Some(mend.to_owned());
            findings.push(Finding { mend, ..finding(Level::Warning, "journal", note) });
        }
        // All at once: a doctor is asked when many are mute, and each would be waited for.
        let (mut examined, by) = (JoinSet::new(), Some(caller.who.uid));
        for backend in names {
            let Some(store) = self.stores.get(&backend) else { continue };
            let stores = Arc::clone(&self.stores);
            examined.spawn(async move {
                let said = stores.within(&backend, QUESTION_PATIENCE, store.examine(), by).await;
                (backend, said)
            });
        }
        let mut examined = examined.join_all().await;
        examined.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (backend, said) in examined {
            let about = format!("backend {backend}");
            match said {
                Ok(remarks) => findings.extend(remarks.into_iter().map(|remark| Finding {
                    level: remark.level,
                    about: about.clone(),
                    text: remark.text,
                    mend: remark.mend,
                })),
                Err(error) => {
                    let text = format!("{}: {error}", told::describe_error(&backend, &error));
                    findings.push(finding(Level::Bad, &about, &text));
                }
            }
        }
        Ok(Reply::Findings(findings))
    }
}

fn finding_of_journal(driver: Snapshot) -> Finding {
    let (level, text) = match (driver.journal_works, driver.trouble) {
        (true, None) => return finding(Level::Good, "journal", "can be written"),
        (true, Some(why)) => (Level::Warning, format!("grows and cannot be written anew: {why}")),
        (false, why) => {
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            (Level::Bad, format!("cannot be written, no new lease is taken{why}"))
        }
    };
    let mend = "free space on, or remount, the state directory's disk".to_owned();
    Finding { mend: Some(mend), ..finding(level, "journal", &text) }
}

fn finding_of_audit(trouble: Option<String>, lost: u64) -> Finding {
    let missing = format!("{lost} events since the agent's start are missing in it");
    let (level, text) = match (trouble, lost) {
        (None, 0) => return finding(Level::Good, "audit", "can be written"),
        (None, _) => (Level::Warning, format!("can be written again; {missing}")),
        (Some(why), 0) => (Level::Warning, format!("cannot be written: {why}")),
        (Some(why), _) => (Level::Warning, format!("cannot be written: {why}; {missing}")),
    };
    let mend = "see the agent's own log, which has the same events".to_owned();
    Finding { mend: Some(mend), ..finding(level, "audit", &text) }
}

/// A store that the configuration does not name, and how many leases are in it.
fn finding_of_unnamed(backend: &BackendName, leases: usize, is_open: bool) -> Finding {
    let then = if is_open {
        "from the agent's next start on none of them is renewed or given back"
    } else {
        "none of them is renewed or given back"
    };
    let text =
        format!("no configuration names it, and leases in it are kept here ({leases}): {then}");
    let mend = "name it in the configuration until its leases are given back".to_owned();
    let about = format!("backend {backend}");
    Finding { mend: Some(mend), ..finding(Level::Warning, &about, &text) }
}

pub(super) fn finding(level: Level, about: &str, text: &str) -> Finding {
    Finding { level, about: about.to_owned(), text: text.to_owned(), mend: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_of_the_journal_is_told_by_what_it_costs() {
        for (journal_works, trouble, level, text) in [
            (true, None, Level::Good, "can be written"),
            (true, Some("full"), Level::Warning, "grows and cannot be written anew: full"),
            (false, Some("full"), Level::Bad, "cannot be written, no new lease is taken (full)"),
            (false, None, Level::Bad, "cannot be written, no new lease is taken"),
        ] {
            let trouble = trouble.map(str::to_owned);
            let backends = BTreeMap::new();
            let found =
                finding_of_journal(Snapshot { leases: 0, backends, journal_works, trouble });
            assert_eq!((found.level, found.text.as_str()), (level, text));
            assert_eq!(found.mend.is_none(), level == Level::Good);
        }
    }

    #[test]
    fn what_is_missing_in_the_audit_is_told_also_after_it_was_mended() {
        for (trouble, lost, level, text) in [
            (None, 0, Level::Good, "can be written"),
            (None, 3, Level::Warning, "can be written again; 3 events"),
            (Some("full"), 0, Level::Warning, "cannot be written: full"),
            (Some("full"), 3, Level::Warning, "cannot be written: full; 3 events"),
        ] {
            let found = finding_of_audit(trouble.map(str::to_owned), lost);
            assert_eq!(found.level, level);
            assert!(found.text.starts_with(text), "{found:?}");
        }
    }

    #[test]
    fn a_store_that_no_configuration_names_is_told_by_what_becomes_of_its_leases() {
        for (is_open, then) in [
            (true, ": from the agent's next start on none of them is renewed or given back"),
            (false, ": none of them is renewed or given back"),
        ] {
            let found = finding_of_unnamed(&BackendName::new("old"), 3, is_open);
            assert_eq!((found.level, found.about.as_str()), (Level::Warning, "backend old"));
            assert!(found.text.contains("(3)") && found.text.ends_with(then), "{found:?}");
        }
    }
}
