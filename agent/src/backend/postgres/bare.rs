//! Locks without the side table, for a user who has the Python tool's table and may make no other.
//!
//! - What decides: one UPDATE of a row that had ended, which names the lease and the end that the
//!   acquire saw in it. Where there is no row, the acquire first puts one that has ended, under an
//!   id that nobody holds, and goes on when that is committed. No id ever comes twice. So a cancel
//!   that gives the ended row another id makes every late copy fail for good, also when others took
//!   and gave back the resource in between; and where no row is, a late copy finds none. A claim
//!   over a lease names the version of that lock's row (`xmin`), which every write changes: also
//!   that of a cancel, which leaves everything else in a row that is another's.
//! - The fence: `created` in microseconds, the server's time of the grant, and more than it was in
//!   the row before. So nothing is deleted here: a lease that is given back ends. The Python tool
//!   does delete, and then only the server's clock makes fences rise.
//! - Weaker than with the side table: no marks, so that a copy of this machine is not told from it,
//!   and a release that comes late, after a crash of the agent, ends the lease that its next start
//!   renewed; others see no host, no reason, no fence, and the time of the grant as its beginning;
//!   and a cancel holds only while the server's clock is not set back behind the end of a row that
//!   an acquire saw to have ended.
//!
//! Fences of both ways are the server's microseconds, but each counts on from its own rows when
//! that clock is set back: so no acquire goes this way while there is a side table.

use stormlock_protocol::name::{Fence, LeaseId, Resource};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::super::{Attempt, BackendError, RefusedKind, Released, Unfit};
use super::link::Line;
use super::sql::{self, FIELDS, NO_EXTRAS, Record, State, Table};
use super::{foreign, strange, talk, uuid};
use crate::lease::{Claim, Grant, Proof};

/// The end of what nobody holds: one that every reader of times can read.
const ENDED: &str = "'epoch'";
/// The resource's row as an acquire sees it.
const LOOK: &str = "SELECT {fields}, t.lease::text AS seen_lease, t.expires::text AS seen_end, \
    t.xmin::text AS seen_version, \
    (extract(epoch FROM t.created::timestamptz) * 1000000)::int8 AS created_us, \
    to_regclass($2) IS NOT NULL AS has_side_table \
    FROM (SELECT $1 AS resource) asked LEFT JOIN {table} t ON t.resource = asked.resource";
/// Makes the row that was seen the claim's; a lock that it breaks had no longer left than that.
const TAKE: &str = "UPDATE {table} SET lease = $2::uuid, principal = $3, \
    expires = greatest(clock_timestamp() + make_interval(secs => $4), \
    CASE WHEN isfinite(expires) THEN expires END), \
    created = greatest(clock_timestamp(), CASE WHEN isfinite(created) \
    THEN created::timestamptz + interval '1 microsecond' END)";

/// The statements of this way.
#[derive(Debug)]
pub(super) struct Bare {
    ext: String,
    /// $1 resource, $2 the side table.
    look: String,
    /// $1 resource, $2 an id of its own, $3 principal. Puts a row that has ended; its end.
    place: String,
    /// $1 resource, $2 lease, $3 principal, $4 ttl in seconds, $5 the lease seen, $6 its end.
    take: String,
    /// $1 resource, $2 lease, $3 principal, $4 ttl in seconds, $5 the lease it breaks, $6 the
    /// version of its row that was seen.
    take_over: String,
    /// $1 resource. Holds the row: a write, so that its commit is as durable as any.
    hold: String,
    /// $1 resource, $2 lease, $3 ttl in seconds.
    renew: String,
    /// $1 resource, $2 lease, $3 an id of its own. A row if it was there.
    release: String,
    /// $1 resource, $2 lease, $3 an id of its own.
    cancel: String,
    /// $1 resource, $2 lease. Makes a new version of the row of a lock that is another's.
    stir: String,
}

/// What an acquire saw of the row that it may take.
enum Seen {
    /// It has ended.
    Ended { lease: String, end: String },
    /// It is the lock that the acquire is to break.
    Broken { lease: String, version: String },
}

impl Bare {
    pub(super) fn new(table: &Table) -> Bare {
        let fields = format!("{FIELDS}, {NO_EXTRAS}");
        let fill = |text: &str| {
            let text = text.replace("{fields}", &fields).replace("{ended}", ENDED);
            let text = text.replace("{take}", TAKE);
            text.replace("{table}", &table.main)
        };
        Bare {
            ext: table.ext.clone(),
            look: fill(LOOK),
            place: fill(
                "INSERT INTO {table} (resource, lease, principal, created, expires) \
                 VALUES ($1, $2::uuid, $3, clock_timestamp(), {ended}) \
                 ON CONFLICT (resource) DO NOTHING RETURNING expires::text",
            ),
            take: fill(
                "{take} WHERE resource = $1 AND lease = $5::uuid AND expires::text = $6 \
                 AND expires <= clock_timestamp()",
            ),
            take_over: fill(
                "{take} WHERE resource = $1 AND lease = $5::uuid AND xmin::text = $6 \
                 AND expires > clock_timestamp()",
            ),
            hold: fill("SELECT FROM {table} WHERE resource = $1 FOR UPDATE"),
            renew: fill(
                "UPDATE {table} SET expires = clock_timestamp() + make_interval(secs => $3) \
                 WHERE resource = $1 AND lease = $2::uuid AND expires > clock_timestamp()",
            ),
            release: fill(
                "UPDATE {table} SET lease = $3::uuid, expires = {ended} \
                 WHERE resource = $1 AND lease = $2::uuid RETURNING 1",
            ),
            cancel: fill(
                "UPDATE {table} SET lease = $3::uuid, expires = {ended} WHERE resource = $1 \
                 AND lease IS NOT NULL AND (lease = $2::uuid OR expires <= clock_timestamp())",
            ),
            stir: fill(
                "UPDATE {table} SET expires = expires WHERE resource = $1 \
                 AND lease <> $2::uuid AND expires > clock_timestamp()",
            ),
        }
    }

    /// See [`super::Backend::acquire`].
    pub(super) async fn acquire(
        &self,
        line: &Line,
        claim: &Claim,
    ) -> Result<Attempt, BackendError> {
        let on = claim.resource.as_str();
        let about: &[talk::Parameter<'_>] = &[(&on, Type::TEXT), (&self.ext, Type::TEXT)];
        let rows = line.read((&self.look, about)).await?;
        let row = one(&rows)?;
        if column::<bool>(row, "has_side_table")? {
            return Err(two_ways(&self.ext));
        }
        let seen = match Record::read(row, &claim.resource).map_err(|error| strange(&error))?.state
        {
            State::Foreign => return Err(foreign()),
            State::Held(holder, _) if holder.lease == claim.lease => None,
            State::Held(holder, _) if claim.over == Some(holder.lease) => {
                let version = column(row, "seen_version")?;
                Some(Seen::Broken { lease: uuid(holder.lease), version })
            }
            State::Held(holder, _) => return Ok(Attempt::Held(Some(holder))),
            State::Free if claim.over.is_some() => return Ok(Attempt::Gone),
            State::Free => match column::<Option<String>>(row, "seen_lease")? {
                Some(lease) => Some(Seen::Ended { lease, end: column(row, "seen_end")? }),
                None => match self.place(line, claim).await? {
                    Some(seen) => Some(seen),
                    // Another was quicker.
                    None => return Ok(Attempt::Moved),
                },
            },
        };
        self.take(line, claim, seen, about).await
    }

    /// Puts an ended row. Only when its commit is certain may an acquire name it: a cancel that
    /// finds no row must know that no acquire under way can find one.
    async fn place(&self, line: &Line, claim: &Claim) -> Result<Option<Seen>, BackendError> {
        let (on, principal, lease) =
            (claim.resource.as_str(), claim.principal.as_str(), nobodys()?);
        let row: &[talk::Parameter<'_>] =
            &[(&on, Type::TEXT), (&lease, Type::TEXT), (&principal, Type::TEXT)];
        let rows = line.transact(&[(&self.place, row)]).await?;
        let end = rows.first().map(|row| row.try_get(0)).transpose();
        Ok(end.map_err(|error| strange(&error))?.map(|end| Seen::Ended { lease, end }))
    }

    /// Takes what was seen; or, if it is ours already, proves it by a write.
    async fn take(
        &self,
        line: &Line,
        claim: &Claim,
        seen: Option<Seen>,
        about: &[talk::Parameter<'_>],
    ) -> Result<Attempt, BackendError> {
        let (on, principal) = (claim.resource.as_str(), claim.principal.as_str());
        let (lease, ttl) = (uuid(claim.lease), f64::from(claim.ttl.as_secs()));
        let look: talk::Statement<'_> = (&self.look, about);
        let rows = match seen {
            None => line.transact(&[(&self.hold, &[(&on, Type::TEXT)]), look]).await?,
            Some(seen) => {
                let (how, lease_seen, version) = match &seen {
                    Seen::Ended { lease, end } => (&self.take, lease, end),
                    Seen::Broken { lease, version } => (&self.take_over, lease, version),
                };
                let taking: &[talk::Parameter<'_>] = &[
                    (&on, Type::TEXT),
                    (&lease, Type::TEXT),
                    (&principal, Type::TEXT),
                    (&ttl, Type::FLOAT8),
                    (lease_seen, Type::TEXT),
                    (version, Type::TEXT),
                ];
                line.transact(&[(how, taking), look]).await?
            }
        };
        let row = one(&rows)?;
        match Record::read(row, &claim.resource).map_err(|error| strange(&error))?.state {
            State::Held(holder, _) if holder.lease == claim.lease => {
                let fence = u64::try_from(column::<i64>(row, "created_us")?)
                    .map_err(|_| unknown("postgres has the lease with a time before 1970"))?;
                let remaining = sql::still(&holder);
                Ok(Attempt::Granted(Grant { fence: Fence(fence), remaining }))
            }
            // It was renewed, or a cancel made another version of it.
            State::Held(holder, _) if claim.over == Some(holder.lease) => Ok(Attempt::Moved),
            State::Held(holder, _) => Ok(Attempt::Held(Some(holder))),
            State::Foreign => Err(foreign()),
            State::Free if claim.over.is_some() => Ok(Attempt::Gone),
            State::Free => Ok(Attempt::Moved),
        }
    }

    /// Renews, or with no ttl only proves; then looks.
    pub(super) async fn stands(
        &self,
        line: &Line,
        proof: &Proof,
        ttl: Option<f64>,
    ) -> Result<Vec<Row>, BackendError> {
        let (on, lease) = (proof.resource.as_str(), uuid(proof.lease));
        let about: &[talk::Parameter<'_>] = &[(&on, Type::TEXT), (&self.ext, Type::TEXT)];
        let look: talk::Statement<'_> = (&self.look, about);
        let rows = match ttl {
            None => line.transact(&[(&self.hold, &[(&on, Type::TEXT)]), look]).await?,
            Some(ttl) => {
                let renewal: &[talk::Parameter<'_>] =
                    &[(&on, Type::TEXT), (&lease, Type::TEXT), (&ttl, Type::FLOAT8)];
                line.transact(&[(&self.renew, renewal), look]).await?
            }
        };
        Ok(rows)
    }

    /// See [`super::Backend::release`].
    pub(super) async fn release(
        &self,
        line: &Line,
        proof: &Proof,
    ) -> Result<Released, BackendError> {
        let (on, lease, next) = (proof.resource.as_str(), uuid(proof.lease), nobodys()?);
        let named: &[talk::Parameter<'_>] =
            &[(&on, Type::TEXT), (&lease, Type::TEXT), (&next, Type::TEXT)];
        Ok(super::released(&line.transact(&[(&self.release, named)]).await?))
    }

    /// See [`super::Backend::cancel`]. What is another's gets its new version first: a break of
    /// that which commits before has made it the cancelled lease, which the second statement ends.
    pub(super) async fn cancel(
        &self,
        line: &Line,
        on: &Resource,
        lease: LeaseId,
    ) -> Result<(), BackendError> {
        let (on, lease, next) = (on.as_str(), uuid(lease), nobodys()?);
        let stirring: &[talk::Parameter<'_>] = &[(&on, Type::TEXT), (&lease, Type::TEXT)];
        let named: &[talk::Parameter<'_>] =
            &[(&on, Type::TEXT), (&lease, Type::TEXT), (&next, Type::TEXT)];
        line.transact(&[(&self.stir, stirring), (&self.cancel, named)]).await?;
        Ok(())
    }
}

fn one(rows: &[Row]) -> Result<&Row, BackendError> {
    match rows {
        [row] => Ok(row),
        _ => Err(unknown("postgres did not answer one row about one resource")),
    }
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    name: &str,
) -> Result<T, BackendError> {
    row.try_get(name).map_err(|error| strange(&error))
}

/// A lease id that nobody holds and nobody ever will.
pub(super) fn nobodys() -> Result<String, BackendError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| unknown("the kernel gives no random numbers"))?;
    Ok(uuid(LeaseId::from_bytes(bytes)))
}

pub(super) fn two_ways(ext: &str) -> BackendError {
    let why = format!(
        "there is a side table {ext}, which other agents may count fences in, and this \
         configuration says side_table = false: remove that line on every host, or the table"
    );
    BackendError::Refused { kind: RefusedKind::NotSetUp(Unfit::TwoWays), why }
}

fn unknown(why: &str) -> BackendError {
    BackendError::Unknown { why: why.to_owned() }
}
