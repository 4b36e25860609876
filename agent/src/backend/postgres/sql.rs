//! The statements, and how a row is read. `{table}` is the Python tool's, `{ext}` ours beside it.
//!
//! Every write begins with [`Sql::lock`] or [`Sql::compare`]: our side table's row is what our own
//! writers queue at, always before the main one, so none waits for another in a circle. What
//! decides between us and the Python tool is the main table's row. Each further statement sees
//! what was committed before it began (READ COMMITTED), hence all of what the queue let by. Times
//! are `clock_timestamp()`: the others stand still while a statement waits.

use std::time::Duration;

use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource, TTL_MAX_SECS, UnixMs};
use tokio_postgres::Row;

use crate::lease::{Holder, Nonce};

/// What opens a transaction. A stronger `synchronous_commit` stays; the timeouts keep a call that
/// was cut in the middle, or a lock that somebody forgot, from holding up others.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
    SELECT set_config('synchronous_commit', 'on', true) \
    WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply'); \
    SET LOCAL lock_timeout = '2s'; SET LOCAL idle_in_transaction_session_timeout = '10s'";
pub(super) const COMMIT: &str = "COMMIT";

/// Now in microseconds: no fence is below it.
const NOW_US: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::int8";
/// What of a lock is read in the main table.
pub(super) const FIELDS: &str = "\
    t.resource, uuid_send(t.lease) AS lease, t.principal, t.expires IS NULL AS endless, \
    t.expires > clock_timestamp() AS alive, \
    CASE WHEN isfinite(t.created) \
        THEN (extract(epoch FROM t.created::timestamptz) * 1000)::int8 END AS created_ms, \
    CASE WHEN isfinite(t.expires) THEN (extract(epoch FROM \
        t.expires::timestamptz - clock_timestamp()) * 1000000)::int8 END AS left_us";
/// And in the side table.
const EXTRAS: &str = "\
    CASE WHEN e.lease = t.lease THEN e.fence END AS fence, \
    CASE WHEN e.lease = t.lease THEN e.host END AS host, \
    CASE WHEN e.lease = t.lease THEN e.reason END AS reason, \
    CASE WHEN e.lease = t.lease THEN e.nonce END AS nonce, \
    e.counter";
/// The same where there is none.
pub(super) const NO_EXTRAS: &str = "NULL::int8 AS fence, NULL::text AS host, \
    NULL::text AS reason, NULL::int8 AS nonce, NULL::int8 AS counter";
/// True where the lease is under one of the marks `$3`, or has none, or none are given.
const MARKED: &str = "(cardinality($3) = 0 OR NOT EXISTS (SELECT FROM {ext} e \
    WHERE e.resource = $1 AND e.lease = $2::uuid AND NOT e.nonce = ANY ($3)))";
/// Takes the main row if nobody has it.
const TAKE_FREE: &str = "INSERT INTO {table} AS t \
    (resource, lease, principal, created, expires) VALUES ($1, $2::uuid, $4, \
    to_timestamp($5 / 1000.0), clock_timestamp() + make_interval(secs => $3)) \
    ON CONFLICT (resource) DO UPDATE SET lease = excluded.lease, \
    principal = excluded.principal, created = excluded.created, expires = excluded.expires \
    WHERE t.expires < clock_timestamp() AND t.lease IS NOT NULL RETURNING 1";
/// Takes it from the lease that it breaks, for no less long than that had left.
const TAKE_OVER: &str = "UPDATE {table} SET lease = $2::uuid, principal = $4, \
    created = to_timestamp($5 / 1000.0), \
    expires = greatest(clock_timestamp() + make_interval(secs => $3), \
    CASE WHEN isfinite(expires) THEN expires END) \
    WHERE resource = $1 AND lease = $9::uuid AND expires > clock_timestamp() RETURNING 1";
/// Once it is taken: the next fence, and what else of a lock stands in the side table.
const GRANT: &str = "UPDATE {ext} SET (counter, fence) = (SELECT number, number FROM \
    (SELECT greatest(counter + 1, {now_us}) AS number) next), \
    lease = $2::uuid, host = $6, reason = $7, nonce = $8 \
    WHERE resource = $1 AND EXISTS (SELECT FROM got)";

/// The statements for one table.
#[derive(Debug)]
pub(super) struct Sql {
    /// $1 resource. How it stands: always one row.
    pub(super) stands: String,
    /// $1 resource, $2 the counter that an acquire saw, 0 for none. Fails by a division by zero if
    /// it is another now.
    pub(super) compare: String,
    /// $1 resource, $2 lease, $3 ttl in seconds, $4 principal, $5 created in ms, $6 host, $7
    /// reason, $8 mark. Takes what nobody has, with the next fence.
    pub(super) acquire: String,
    /// The same and $9, the lease that it takes it from.
    pub(super) take_over: String,
    /// $1 resource. Queues for our row, if there is one.
    pub(super) lock: String,
    /// $1 resource. Holds the main row: a write, so that its commit is as durable as any.
    pub(super) lock_main: String,
    /// $1 resource, $2 lease, $3 marks, $4 ttl in seconds.
    pub(super) renew: String,
    /// $1 resource, $2 lease, $3 marks, $4 the next mark.
    pub(super) mark: String,
    /// $1 resource, $2 lease, $3 marks. A row if it was there.
    pub(super) release: String,
    /// $1 resource. Moves the counter.
    pub(super) bump: String,
    /// $1 resource, $2 lease.
    pub(super) delete: String,
    /// $1 the resource to start after, $2 how many.
    pub(super) list: String,
}

impl Sql {
    /// The first two also for the way without a side table.
    pub(super) fn new(table: &Table, extras: Extras) -> Sql {
        let (extras, side) = match extras {
            Extras::SideTable => (EXTRAS, "{ext}"),
            Extras::None => (NO_EXTRAS, "(SELECT NULL::text AS resource)"),
        };
        let fill = |text: &str| {
            text.replace("{fields}", FIELDS)
                .replace("{extras}", extras)
                .replace("{side}", side)
                .replace("{marked}", MARKED)
                .replace("{now_us}", NOW_US)
                .replace("{table}", &table.main)
                .replace("{ext}", &table.ext)
        };
        Sql {
            stands: fill(
                "SELECT {fields}, {extras} FROM (SELECT $1 AS resource) asked \
                 LEFT JOIN {table} t ON t.resource = asked.resource \
                 LEFT JOIN {side} e ON e.resource = asked.resource",
            ),
            compare: fill(
                "INSERT INTO {ext} AS e (resource, counter) VALUES ($1, 0) \
                 ON CONFLICT (resource) DO UPDATE SET counter = e.counter \
                 RETURNING 1 / (e.counter = $2)::int",
            ),
            acquire: fill(&format!("WITH got AS ({TAKE_FREE}) {GRANT}")),
            take_over: fill(&format!("WITH got AS ({TAKE_OVER}) {GRANT}")),
            lock: fill("SELECT FROM {ext} WHERE resource = $1 FOR UPDATE"),
            lock_main: fill("SELECT FROM {table} WHERE resource = $1 FOR UPDATE"),
            renew: fill(
                "UPDATE {table} SET expires = clock_timestamp() + make_interval(secs => $4) \
                 WHERE resource = $1 AND lease = $2::uuid AND expires > clock_timestamp() \
                 AND {marked}",
            ),
            mark: fill(
                "UPDATE {ext} SET nonce = $4 \
                 WHERE resource = $1 AND lease = $2::uuid AND nonce = ANY ($3)",
            ),
            release: fill(
                "DELETE FROM {table} WHERE resource = $1 AND lease = $2::uuid AND {marked} \
                 RETURNING 1",
            ),
            bump: fill(
                "INSERT INTO {ext} AS e (resource, counter) VALUES ($1, {now_us}) \
                 ON CONFLICT (resource) DO UPDATE \
                 SET counter = greatest(e.counter + 1, {now_us})",
            ),
            delete: fill("DELETE FROM {table} WHERE resource = $1 AND lease = $2::uuid"),
            list: fill(
                "SELECT {fields}, {extras} FROM {table} t \
                 LEFT JOIN {side} e ON e.resource = t.resource \
                 WHERE t.expires > clock_timestamp() AND t.lease IS NOT NULL \
                 AND t.resource COLLATE \"C\" > $1 ORDER BY t.resource COLLATE \"C\" LIMIT $2",
            ),
        }
    }
}

/// Where host, reason, mark and fence of a lock stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extras {
    SideTable,
    None,
}

/// The names of the two tables and of the triggers' function, quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) main: String,
    pub(super) ext: String,
    /// The function of its triggers; tables of one schema share it.
    pub(super) tell: String,
}

/// Longest name of a table, in bytes: PostgreSQL's limit, less `_ext`.
const NAME_MAX: usize = 59;

impl Table {
    /// Reads `NAME` or `SCHEMA.NAME`, in small letters as PostgreSQL reads what is not quoted.
    pub(super) fn parse(text: &str) -> Result<Table, String> {
        let is_name = |name: &str| {
            let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
            let goes_on = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            begins && name.len() <= NAME_MAX && name.chars().all(goes_on)
        };
        let lower = text.to_ascii_lowercase();
        let (schema, name) = match lower.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, lower.as_str()),
        };
        if !is_name(name) || !schema.is_none_or(is_name) {
            return Err(format!(
                "is not a table's name, write NAME or SCHEMA.NAME, each of up to {NAME_MAX} \
                 letters, digits and _"
            ));
        }
        let schema = schema.map_or(String::new(), |schema| format!("\"{schema}\"."));
        Ok(Table {
            main: format!("{schema}\"{name}\""),
            ext: format!("{schema}\"{name}_ext\""),
            tell: format!("{schema}\"stormlock_tell\""),
        })
    }
}

/// What stands under a resource.
#[derive(Debug)]
pub(super) struct Record {
    /// The fence of its last grant, or what a cancel made of it; `None` if it never had one.
    pub(super) counter: Option<i64>,
    pub(super) state: State,
}

/// Whether it is a lock.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing, or what has ended.
    Free,
    /// A row that is no lock.
    Foreign,
    /// A lock, and the mark of ours.
    Held(Box<Holder>, Option<Nonce>),
}

impl Record {
    /// Reads a row of [`Sql::stands`] or [`Sql::list`].
    pub(super) fn read(row: &Row, on: &Resource) -> Result<Record, tokio_postgres::Error> {
        let text = |name: &str| row.try_get::<_, Option<String>>(name);
        let number = |name: &str| row.try_get::<_, Option<i64>>(name);
        let counter = number("counter")?;
        if text("resource")?.is_none() {
            return Ok(Record { counter, state: State::Free });
        }
        let lease: Option<&[u8]> = row.try_get("lease")?;
        let lease = lease.and_then(|bytes| bytes.try_into().ok()).map(LeaseId::from_bytes);
        let (Some(lease), false) = (lease, row.try_get("endless")?) else {
            return Ok(Record { counter, state: State::Foreign });
        };
        let left_us = number("left_us")?;
        if !row.try_get::<_, bool>("alive")? || left_us.is_some_and(|us| us <= 0) {
            return Ok(Record { counter, state: State::Free });
        }
        let known = |text: Option<String>| text.filter(|text| !text.is_empty());
        let holder = Holder {
            resource: on.clone(),
            lease,
            principal: Principal::foreign(&text("principal")?.unwrap_or_default()),
            // Tamed like a principal: it is printed beside one.
            host: known(text("host")?).map(|host| Principal::foreign(&host).as_str().to_owned()),
            reason: known(text("reason")?).map(|reason| Reason::foreign(&reason)),
            fence: number("fence")?.and_then(|fence| u64::try_from(fence).ok()).map(Fence),
            since: UnixMs(number("created_ms")?.unwrap_or(0)),
            remaining: left_us
                .map(|us| Duration::from_micros(u64::try_from(us).unwrap_or_default())),
        };
        let nonce = number("nonce")?.map(|nonce| Nonce(nonce.cast_unsigned()));
        Ok(Record { counter, state: State::Held(Box::new(holder), nonce) })
    }
}

/// What is left of a lease of ours. Somebody who took away a lock's end made it outlast every
/// lease.
pub(super) fn still(holder: &Holder) -> Duration {
    holder.remaining.unwrap_or(Duration::from_secs(u64::from(TTL_MAX_SECS)))
}
