//! PostgreSQL: a table on its primary.
//!
//! - Whose clock expires a lease: the server's. `expires` is compared with its `clock_timestamp()`,
//!   and what remains is the difference.
//! - The fence: `max(counter + 1, server time in microseconds)`. The counter stands in a side table
//!   `TABLE_ext`, one row for each resource, which is never deleted; the fence of the lease beside
//!   it, since a cancel of another's acquire moves the counter under a held lease.
//! - What decides: one transaction (READ COMMITTED, `synchronous_commit` at least `on`) for each
//!   verb, in which the main table's upsert takes a row that has ended and no other. An acquire
//!   reads first, which costs no write where another holds, and compares the counter it saw: so a
//!   late copy fails after a grant or a cancel has moved it. A claim over a lease updates the row
//!   of that lease, and no other, in place of the upsert. A cancel moves the counter in a
//!   statement before the one that deletes: in one statement, or the other way round, an acquire
//!   that commits in between is overlooked.
//! - Not guaranteed: anything across a failover to an asynchronous standby, or after a crash with
//!   `fsync` off. Under synchronous replication a commit that no standby confirmed counts as
//!   unknown, and a read-back is a write, since a read shows what no standby has. Naive timestamp
//!   columns, as the Python tool's instructions have them, repeat an hour each autumn where the
//!   server's zone has summer time: `stormlockd setup BACKEND --migrate`. `examine` says which of
//!   these hold. Fences rise across all of them as long as the servers' clocks do.
//!
//! The main table is the Python tool's: `resource`, `lease`, `principal`, `created`, `expires`; its
//! ended rows stay. Without the right to make a second one, `side_table = false` has a way of its
//! own, which promises less: see `bare.rs`. Host, reason, mark and fence stand in the side table
//! and count only while its lease is the main row's, so what that tool takes over shows nothing of
//! ours. The session's time zone is never set: with naive columns both must use the server's. No
//! session's advisory locks and no prepared statements: they break behind poolers (`setup` queues
//! by one that ends with its transaction).

mod bare;
mod examine;
#[cfg(fuzzing)]
pub mod fuzzing;
mod link;
mod notices;
mod passfile;
mod place;
mod refusal;
mod setup;
mod sql;
mod talk;

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use stormlock_protocol::name::{LeaseId, Resource, Ttl};
use tokio_postgres::types::Type;

use super::tls::Tls;
use super::{
    Attempt, Backend, BackendError, OpenError, Pending, RefusedKind, Released, Remark, Standing,
    Stirs, Traits,
};
use crate::lease::{Claim, Grant, Holder, Nonce, Proof};
use bare::Bare;
use link::{Line, Target};
use notices::{Ears, Listener};
use passfile::Passfile;
use place::Url;
use sql::{Extras, Record, Sql, State, Table};

/// As `kind` in the configuration.
pub(super) const KIND: &str = "postgres";
/// The table of the Python tool, unless its configuration says otherwise.
pub const TABLE: &str = "stormlock";
/// The user, unless the configuration says otherwise.
pub const USER: &str = "stormlock";
/// Most locks that one statement reads: a few milliseconds of the server's time.
const PAGE_MAX: usize = 1000;

/// How to reach a PostgreSQL and what to write there.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where: `postgres://HOST:PORT,HOST2/DATABASE?sslmode=...` or
    /// `postgres:///DATABASE?host=/FOLDER`; never with a user or a password.
    pub url: String,
    /// Role to log in as.
    pub username: String,
    /// Password; `None` where the server wants none.
    pub password: Option<SecretString>,
    /// The text of a password file of libpq (`.pgpass`), for hosts that `password` is not for.
    pub passfile: Option<SecretString>,
    /// `NAME` or `SCHEMA.NAME`.
    pub table: String,
    /// False where there is none beside it and none can be made.
    pub side_table: bool,
    /// Certificates of authorities to trust, PEM; `None` for the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and its key, PEM.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

impl Options {
    /// See [`super::Options::same`].
    pub(super) fn same(&self, other: &Options) -> bool {
        // Every field by name: a new one must be thought of here.
        let Options { url, username, password, passfile, table, side_table, ca_file, client_cert } =
            self;
        let secret = |of: &Option<SecretString>| of.as_ref().map(|s| s.expose_secret().to_owned());
        *url == other.url
            && *username == other.username
            && secret(password) == secret(&other.password)
            && secret(passfile) == secret(&other.passfile)
            && *table == other.table
            && *side_table == other.side_table
            && *ca_file == other.ca_file
            && *client_cert == other.client_cert
    }
}

/// What is wrong with a URL, to be read after its key; the URL is not repeated.
///
/// # Errors
/// The complaint.
pub fn check_url(url: &str) -> Result<(), String> {
    Url::parse(url).map(|_| ())
}

/// What is wrong with a table's name, to be read after its key.
///
/// # Errors
/// The complaint.
pub fn check_table(table: &str) -> Result<(), String> {
    Table::parse(table).map(|_| ())
}

/// A PostgreSQL.
#[derive(Debug)]
pub struct Postgres {
    line: Line,
    /// For what is told without being asked: an abandoned call does not end it.
    ears: Ears,
    sql: Sql,
    /// The way without a side table, where that is configured.
    bare: Option<Bare>,
    table: Table,
    username: String,
}

impl Postgres {
    /// A PostgreSQL that nobody has connected to yet.
    ///
    /// # Errors
    /// [`OpenError`] when the options cannot work whatever the server says.
    pub fn new(options: &Options) -> Result<Postgres, OpenError> {
        let wrong = |what: &str| OpenError::Setting(format!("the postgres {what}"));
        let Url { places, database, tls: sslmode } =
            Url::parse(&options.url).map_err(|why| wrong(&format!("url {why}")))?;
        let table = Table::parse(&options.table).map_err(|why| wrong(&format!("table {why}")))?;
        let has_certificates = options.ca_file.is_some() || options.client_cert.is_some();
        if has_certificates && sslmode == Some(false) {
            return Err(wrong("url says sslmode=disable, but there are certificates for TLS"));
        }
        // Certificates are given to be used, also on this host.
        let tls_everywhere = sslmode.or(has_certificates.then_some(true));
        let wants_tls = tls_everywhere.unwrap_or(places.iter().any(place::Place::is_elsewhere));
        let (ca_file, client_cert) = (options.ca_file.clone(), options.client_cert.clone());
        let tls = wants_tls.then(|| Tls::new(ca_file, client_cert)).transpose()?;
        let passfile = options.passfile.as_ref();
        let line = Line::new(Target {
            places,
            database,
            username: options.username.clone(),
            password: options.password.clone(),
            passfile: passfile.map(|text| Passfile::parse(text.expose_secret())),
            tls,
            tls_everywhere,
        });
        let username = options.username.clone();
        let extras = if options.side_table { Extras::SideTable } else { Extras::None };
        let bare = (extras == Extras::None).then(|| Bare::new(&table));
        let ears = Ears::new(Listener::new(line.clone(), &table));
        Ok(Postgres { line, ears, sql: Sql::new(&table, extras), bare, table, username })
    }

    /// Looks how a resource stands, outside of any transaction.
    async fn look(&self, on: &Resource) -> Result<Record, BackendError> {
        let name = on.as_str();
        record(&self.line.read((&self.sql.stands, &[(&name, Type::TEXT)])).await?, on)
    }

    async fn take(&self, claim: &Claim, expected: i64) -> Result<Attempt, BackendError> {
        let on = claim.resource.as_str();
        let (lease, ttl) = (uuid(claim.lease), f64::from(claim.ttl.as_secs()));
        let (principal, host) = (claim.principal.as_str(), claim.host.as_str());
        let reason = claim.reason.as_ref().map(|reason| reason.as_str());
        let (created, mark) = (claim.created.0, mark(claim.nonce));
        let over = claim.over.map(uuid);
        let mut taking: Vec<talk::Parameter<'_>> = vec![
            (&on, Type::TEXT),
            (&lease, Type::TEXT),
            (&ttl, Type::FLOAT8),
            (&principal, Type::TEXT),
            (&created, Type::INT8),
            (&host, Type::TEXT),
            (&reason, Type::TEXT),
            (&mark, Type::INT8),
        ];
        let take = match &over {
            None => &self.sql.acquire,
            Some(over) => {
                taking.push((over, Type::TEXT));
                &self.sql.take_over
            }
        };
        let answer = self
            .line
            .transact(&[
                (&self.sql.compare, &[(&on, Type::TEXT), (&expected, Type::INT8)]),
                (take, &taking),
                (&self.sql.stands, &[(&on, Type::TEXT)]),
            ])
            .await;
        let rows = match answer {
            Err(trouble) if trouble.is_moved() => return Ok(Attempt::Moved),
            answer => answer?,
        };
        match record(&rows, &claim.resource)?.state {
            State::Held(holder, _) if holder.lease == claim.lease => match holder.fence {
                Some(fence) => {
                    Ok(Attempt::Granted(Grant { fence, remaining: sql::still(&holder) }))
                }
                None => Err(BackendError::Unknown {
                    why: "postgres has the lease without a fence".to_owned(),
                }),
            },
            // It had ended when it was to be broken, and its holder began it again.
            State::Held(holder, _) if claim.over == Some(holder.lease) => Ok(Attempt::Moved),
            State::Held(holder, _) => Ok(Attempt::Held(Some(holder))),
            State::Foreign => Err(foreign()),
            State::Free if claim.over.is_some() => Ok(Attempt::Gone),
            // Neither ended nor alive: the very microsecond of its end.
            State::Free => Ok(Attempt::Moved),
        }
    }

    /// Queues, does one thing to a lease, and looks how it stands then.
    async fn after(
        &self,
        proof: &Proof,
        marks: &[i64],
        act: &[talk::Statement<'_>],
    ) -> Result<Standing, BackendError> {
        let name = proof.resource.as_str();
        let on: &[talk::Parameter<'_>] = &[(&name, Type::TEXT)];
        let mut all: Vec<talk::Statement<'_>> = vec![(&self.sql.lock, on)];
        all.extend_from_slice(act);
        all.push((&self.sql.stands, on));
        standing(&self.line.transact(&all).await?, proof, marks)
    }
}

impl Backend for Postgres {
    fn traits(&self) -> Traits {
        Traits { kind: KIND, this_host_only: false, narrow_ids: false }
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Pending<'a, Attempt> {
        Box::pin(async move {
            if let Some(bare) = &self.bare {
                return bare.acquire(&self.line, claim).await;
            }
            let record = self.look(&claim.resource).await?;
            match record.state {
                State::Foreign => Err(foreign()),
                State::Held(holder, _)
                    if holder.lease != claim.lease && claim.over != Some(holder.lease) =>
                {
                    Ok(Attempt::Held(Some(holder)))
                }
                State::Free if claim.over.is_some() => Ok(Attempt::Gone),
                // Also for a lease that is ours already: a read proves nothing, a write does.
                State::Held(..) | State::Free => {
                    self.take(claim, record.counter.unwrap_or(0)).await
                }
            }
        })
    }

    fn renew<'a>(&'a self, proof: &'a Proof, ttl: Ttl, next: Nonce) -> Pending<'a, Standing> {
        Box::pin(async move {
            let (on, lease) = (proof.resource.as_str(), uuid(proof.lease));
            let mut marks: Vec<i64> = proof.nonces.iter().copied().map(mark).collect();
            let next = mark(next);
            let (ttl, is_marked) = (f64::from(ttl.as_secs()), !marks.is_empty());
            if let Some(bare) = &self.bare {
                let rows = bare.stands(&self.line, proof, Some(ttl)).await?;
                return standing(&rows, proof, &[]);
            }
            if is_marked {
                // A repeat of a renewal finds the mark that the first copy left: so it is a fit.
                marks.push(next);
            }
            let renewal: &[talk::Parameter<'_>] = &[
                (&on, Type::TEXT),
                (&lease, Type::TEXT),
                (&marks, Type::INT8_ARRAY),
                (&ttl, Type::FLOAT8),
            ];
            let marking: &[talk::Parameter<'_>] = &[
                (&on, Type::TEXT),
                (&lease, Type::TEXT),
                (&marks, Type::INT8_ARRAY),
                (&next, Type::INT8),
            ];
            let act = [(self.sql.renew.as_str(), renewal), (self.sql.mark.as_str(), marking)];
            let act = if is_marked { &act[..] } else { &act[..1] };
            self.after(proof, &marks, act).await
        })
    }

    fn verify<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Standing> {
        Box::pin(async move {
            if let Some(bare) = &self.bare {
                return standing(&bare.stands(&self.line, proof, None).await?, proof, &[]);
            }
            let on = proof.resource.as_str();
            let marks: Vec<i64> = proof.nonces.iter().copied().map(mark).collect();
            let act: talk::Statement<'_> = (&self.sql.lock_main, &[(&on, Type::TEXT)]);
            self.after(proof, &marks, &[act]).await
        })
    }

    fn release<'a>(&'a self, proof: &'a Proof) -> Pending<'a, Released> {
        Box::pin(async move {
            if let Some(bare) = &self.bare {
                return bare.release(&self.line, proof).await;
            }
            let (on, lease) = (proof.resource.as_str(), uuid(proof.lease));
            let marks: Vec<i64> = proof.nonces.iter().copied().map(mark).collect();
            let known: &[talk::Parameter<'_>] =
                &[(&on, Type::TEXT), (&lease, Type::TEXT), (&marks, Type::INT8_ARRAY)];
            let queue: talk::Statement<'_> = (&self.sql.lock, &[(&on, Type::TEXT)]);
            Ok(released(&self.line.transact(&[queue, (&self.sql.release, known)]).await?))
        })
    }

    fn cancel<'a>(&'a self, resource: &'a Resource, lease: LeaseId) -> Pending<'a, ()> {
        Box::pin(async move {
            if let Some(bare) = &self.bare {
                return bare.cancel(&self.line, resource, lease).await;
            }
            let (on, lease) = (resource.as_str(), uuid(lease));
            let bump: talk::Statement<'_> = (&self.sql.bump, &[(&on, Type::TEXT)]);
            let named: &[talk::Parameter<'_>] = &[(&on, Type::TEXT), (&lease, Type::TEXT)];
            self.line.transact(&[bump, (&self.sql.delete, named)]).await?;
            Ok(())
        })
    }

    fn holder<'a>(&'a self, resource: &'a Resource) -> Pending<'a, Option<Holder>> {
        Box::pin(async move {
            match self.look(resource).await?.state {
                State::Held(holder, _) => Ok(Some(*holder)),
                State::Free => Ok(None),
                State::Foreign => Err(foreign()),
            }
        })
    }

    fn list<'a>(&'a self, after: Option<&'a Resource>, limit: usize) -> Pending<'a, Vec<Holder>> {
        Box::pin(self.locks(after, limit))
    }

    fn examine(&self) -> Pending<'_, Vec<Remark>> {
        Box::pin(self.remarks())
    }

    fn setup(&self) -> Option<Pending<'_, Vec<String>>> {
        Some(Box::pin(self.make(false)))
    }

    fn setup_by_hand(&self) -> Option<String> {
        Some(self.by_hand())
    }

    fn migrate(&self) -> Option<Pending<'_, Vec<String>>> {
        Some(Box::pin(self.make(true)))
    }

    fn watch<'a>(&'a self, resource: &'a Resource, stirs: Stirs) -> Option<Pending<'a, ()>> {
        Some(Box::pin(self.listen(resource, stirs)))
    }

    fn identity(&self) -> Option<String> {
        self.line.identity()
    }
}

impl Postgres {
    /// The locks after `after`, at most `limit`; names that are none of ours are left out.
    async fn locks(
        &self,
        after: Option<&Resource>,
        limit: usize,
    ) -> Result<Vec<Holder>, BackendError> {
        let mut locks = Vec::new();
        let mut after = after.map_or(String::new(), |on| on.as_str().to_owned());
        while locks.len() < limit {
            let page = (limit - locks.len()).min(PAGE_MAX);
            let count = i64::try_from(page).unwrap_or(i64::MAX);
            let statement: talk::Statement<'_> =
                (&self.sql.list, &[(&after, Type::TEXT), (&count, Type::INT8)]);
            let rows = self.line.read(statement).await?;
            let Some(last) = rows.last() else { break };
            for row in &rows {
                let name: &str = row.try_get("resource").map_err(|error| strange(&error))?;
                let Ok(on) = Resource::new(name) else { continue };
                let record = Record::read(row, &on).map_err(|error| strange(&error))?;
                if let State::Held(holder, _) = record.state {
                    locks.push(*holder);
                }
            }
            after = last.try_get("resource").map_err(|error| strange(&error))?;
            if rows.len() < page {
                break;
            }
        }
        Ok(locks)
    }
}

/// The one row that tells how a resource stands.
fn record(rows: &[tokio_postgres::Row], on: &Resource) -> Result<Record, BackendError> {
    match rows {
        [row] => Record::read(row, on).map_err(|error| strange(&error)),
        rows => Err(BackendError::Unknown {
            why: format!("postgres answered {} rows about one resource", rows.len()),
        }),
    }
}

/// What a statement says that gives a row for what it let go of.
fn released(rows: &[tokio_postgres::Row]) -> Released {
    if rows.is_empty() { Released::NotThere } else { Released::Done }
}

/// What the row says of the lease, under one of these marks; none are compared if none are given.
fn standing(
    rows: &[tokio_postgres::Row],
    proof: &Proof,
    marks: &[i64],
) -> Result<Standing, BackendError> {
    Ok(match record(rows, &proof.resource)?.state {
        State::Held(holder, nonce) if holder.lease == proof.lease => {
            let is_known = |nonce: Nonce| marks.contains(&mark(nonce));
            if marks.is_empty() || nonce.is_none_or(is_known) {
                Standing::Ours { remaining: sql::still(&holder) }
            } else {
                Standing::Cloned
            }
        }
        State::Held(holder, _) => Standing::NotOurs(Some(holder)),
        State::Free | State::Foreign => Standing::NotOurs(None),
    })
}

/// A mark as it is stored: a signed number of the same bits.
fn mark(nonce: Nonce) -> i64 {
    nonce.0.cast_signed()
}

/// A lease id as text that PostgreSQL reads as its `uuid`.
fn uuid(lease: LeaseId) -> String {
    format!("{:032x}", u128::from_be_bytes(*lease.as_bytes()))
}

fn foreign() -> BackendError {
    let why =
        "there is a row under this name without a lease or an end: no lock of ours".to_owned();
    BackendError::Refused { kind: RefusedKind::Foreign, why }
}

/// A column that is not of the type that we know: whatever was done, this is no proof of it.
fn strange(error: &tokio_postgres::Error) -> BackendError {
    BackendError::Unknown { why: format!("postgres has a table of another layout: {error}") }
}

#[cfg(test)]
mod tests;
