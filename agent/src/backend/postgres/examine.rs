//! What doctor says of a PostgreSQL: whether it can keep the promises of the header, setting by
//! setting. Nothing is changed, and what a user may not read is said rather than guessed.

use std::collections::BTreeMap;

use stormlock_protocol::message::Level;
use stormlock_protocol::name::{LeaseId, Resource};
use tokio_postgres::types::Type;

use super::super::{Backend, BackendError, RefusedKind, Remark};
use super::Postgres;
use super::setup::naive;
use crate::clock;
use crate::lease::Proof;

/// The oldest version that has all we say to it, and was still looked after when this was written
/// or shortly before.
const VERSION_MIN: u32 = 12;
/// A server's clock that is further off than this is worth a word, in milliseconds.
const SKEW_MS: u64 = 2_000;

const SETTINGS: &str = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', \
    'full_page_writes', 'synchronous_commit', 'synchronous_standby_names', 'server_encoding', \
    'server_version', 'server_version_num')";
/// $1 the main table, $2 ours, null without one: rights that are missing.
const RIGHTS: &str = "SELECT coalesce(string_agg(need.word || ' on ' || need.name, ', '), '') \
    FROM (VALUES ($1, 'SELECT'), ($1, 'INSERT'), ($1, 'UPDATE'), ($2, 'SELECT'), ($2, 'INSERT'), \
    ($2, 'UPDATE'), (CASE WHEN $2 IS NOT NULL THEN $1 END, 'DELETE')) AS need (name, word) \
    WHERE NOT has_table_privilege(need.name, need.word)";
/// $1, $2 the tables: those that a crash empties.
const UNLOGGED: &str = "SELECT count(*) FROM pg_class \
    WHERE oid IN (to_regclass($1), to_regclass($2)) AND relpersistence <> 'p'";
const NOW_MS: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";
const STANDBYS: &str = "SELECT count(*) FROM pg_stat_replication";
/// How many distances to UTC the sessions' time zone has within a year.
const OFFSETS: &str = "SELECT count(DISTINCT (at AT TIME ZONE current_setting('TimeZone')) \
    - (at AT TIME ZONE 'UTC')) FROM generate_series(now(), now() + interval '1 year', '1 week') at";

impl Postgres {
    /// See [`super::super::Backend::examine`].
    pub(super) async fn remarks(&self) -> Result<Vec<Remark>, BackendError> {
        let (trial, works) = self.trial().await?;
        let mut remarks = vec![trial];
        let settings = self.settings().await?;
        remarks.push(version(&settings));
        if works {
            remarks.extend(self.rights().await?);
            remarks.extend(self.columns_remark().await?);
            remarks.extend(self.side_table().await?);
            remarks.push(self.notices().await?);
        }
        remarks.extend(self.durability(&settings).await?);
        if settings.get("server_encoding").is_some_and(|encoding| encoding != "UTF8") {
            remarks.push(remark(
                Level::Warning,
                "the database is not in UTF8: a name or reason in another script is refused",
                "make a database with ENCODING 'UTF8'",
            ));
        }
        remarks.extend(self.skew().await?);
        Ok(remarks)
    }

    /// Reads back a lease that does not exist, as every verb does; whether the tables work.
    async fn trial(&self) -> Result<(Remark, bool), BackendError> {
        let Ok(resource) = Resource::new("stormlock.doctor") else {
            return Err(BackendError::Unknown { why: "no name for a trial".to_owned() });
        };
        let lease = LeaseId::from_bytes([0; 16]);
        let proof = Proof { resource, lease, nonces: Vec::new() };
        match self.verify(&proof).await {
            Ok(_) if self.bare.is_some() => {
                Ok((good("it is a primary, and its table is there"), true))
            }
            Ok(_) => Ok((good("it is a primary, and its tables are there"), true)),
            Err(BackendError::Refused { kind, why }) if kind != RefusedKind::Unreachable => {
                // Without a connection there is nothing more to ask.
                self.line.lend().await?;
                let mend = "see the README's table of stores, and stormlockd setup BACKEND";
                Ok((remark(Level::Bad, why, mend), false))
            }
            Err(error) => Err(error),
        }
    }

    async fn settings(&self) -> Result<BTreeMap<String, String>, BackendError> {
        let rows = self.line.read((SETTINGS, &[])).await?;
        let read = |row: &tokio_postgres::Row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?));
        Ok(rows.iter().filter_map(read).collect())
    }

    async fn rights(&self) -> Result<Option<Remark>, BackendError> {
        let ext = self.bare.is_none().then_some(&self.table.ext);
        let tables = [(&self.table.main as &_, Type::TEXT), (&ext as &_, Type::TEXT)];
        let rows = self.line.read((RIGHTS, &tables)).await?;
        let missing: String = rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default();
        Ok((!missing.is_empty()).then(|| {
            let text = format!("the user may not: {missing}");
            remark(Level::Bad, text, "run what stormlockd setup BACKEND --print says")
        }))
    }

    /// What is given up without the side table, and whether it is really not there.
    async fn side_table(&self) -> Result<Option<Remark>, BackendError> {
        if self.bare.is_none() {
            return Ok(None);
        }
        if !self.columns(&self.table.ext).await?.is_empty() {
            let text = format!(
                "side_table is false, but there is a table {}: no lock is taken, since the fences \
                 of the two ways do not go together",
                self.table.ext
            );
            let mend = "remove side_table = false on every host, or the table if none uses it";
            return Ok(Some(remark(Level::Bad, text, mend)));
        }
        Ok(Some(remark(
            Level::Note,
            "it has no side table: others see no host, reason or fence of a lock, and a copy of \
             this machine is not told from it",
            "have the tables made (stormlockd setup BACKEND --print, without side_table = false), \
             then remove side_table = false on every host",
        )))
    }

    /// Whether those who wait are woken, by trying it.
    async fn notices(&self) -> Result<Remark, BackendError> {
        let mend = match self.ears.used().await {
            Ok(_) => return Ok(good("those who wait are woken by its notices")),
            Err(_) if !self.has_triggers().await? => {
                "have them made: stormlockd setup BACKEND, or what its --print shows"
            }
            Err(trouble) => {
                let text =
                    format!("those who wait look every 2 s: {}", BackendError::from(trouble));
                let mend = "connect past the pooler, if there is one, or let it keep sessions";
                return Ok(remark(Level::Note, text, mend));
            }
        };
        let text = "those who wait look every 2 s: its table has no triggers that wake them";
        Ok(remark(Level::Note, text, mend))
    }

    /// Whether the main table's times mean the same all year.
    async fn columns_remark(&self) -> Result<Option<Remark>, BackendError> {
        let columns = self.columns(&self.table.main).await?;
        if naive(&columns).is_empty() {
            return Ok(Some(good("its times have a time zone")));
        }
        let zone = self.zone().await?;
        let mend = "convert them: stormlockd setup BACKEND --migrate";
        let offsets = self.count((OFFSETS, &[])).await?;
        Ok(Some(if offsets == 1 {
            let text = format!(
                "its times have no time zone: right only while every client's is {zone}, as the \
                 server's is for us"
            );
            remark(Level::Warning, text, mend)
        } else {
            let text = format!(
                "its times have no time zone, and {zone} has summer time: in the hour that comes \
                 twice in autumn a lock is given twice"
            );
            remark(Level::Bad, text, mend)
        }))
    }

    async fn durability(
        &self,
        settings: &BTreeMap<String, String>,
    ) -> Result<Vec<Remark>, BackendError> {
        let mut remarks = Vec::new();
        let is_off = |name: &str| settings.get(name).is_some_and(|setting| setting == "off");
        if is_off("fsync") {
            let text = "fsync is off: a crash of its host may lose or damage locks";
            remarks.push(remark(Level::Bad, text, "set fsync = on"));
        } else if is_off("full_page_writes") {
            let text = "full_page_writes is off: a crash of its host may damage locks";
            remarks.push(remark(Level::Warning, text, "set full_page_writes = on"));
        } else {
            remarks.push(good("a commit is on its disk: a crash loses no lock of ours"));
        }
        let (main, ext) = (&self.table.main, &self.table.ext);
        let tables = [(main as &_, Type::TEXT), (ext as &_, Type::TEXT)];
        if self.count((UNLOGGED, &tables)).await? > 0 {
            let text = "a table is unlogged: a crash of the server empties it";
            remarks.push(remark(Level::Bad, text, "ALTER TABLE ... SET LOGGED for both tables"));
        }
        if is_off("synchronous_commit") {
            remarks.push(remark(
                Level::Note,
                "synchronous_commit is off: ours are committed all the same, those of other \
                 writers may be lost in a crash",
                "set synchronous_commit = on for the users of the table",
            ));
        }
        let is_synchronous =
            settings.get("synchronous_standby_names").is_some_and(|names| !names.is_empty());
        if is_synchronous {
            remarks.push(good("it has synchronous standbys: a failover to one loses no lock"));
        } else if self.count((STANDBYS, &[])).await? > 0 {
            remarks.push(remark(
                Level::Note,
                "its standbys are asynchronous: after a failover a lock may be given twice; what \
                 is protected should check the fence",
                "set synchronous_standby_names",
            ));
        }
        Ok(remarks)
    }

    async fn skew(&self) -> Result<Option<Remark>, BackendError> {
        let ms = self.count((NOW_MS, &[])).await?;
        let apart_ms = ms.abs_diff(clock::wall().0);
        Ok((apart_ms > SKEW_MS).then(|| {
            let text = format!(
                "its clock and this host's are {} s apart; no lease depends on it, but fences and \
                 times shown to people do",
                apart_ms / 1000
            );
            remark(Level::Note, text, "run a time service on both")
        }))
    }

    /// The one number of a question's answer.
    async fn count(&self, statement: super::talk::Statement<'_>) -> Result<i64, BackendError> {
        let rows = self.line.read(statement).await?;
        Ok(rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default())
    }
}

fn version(settings: &BTreeMap<String, String>) -> Remark {
    let number = settings.get("server_version_num").and_then(|text| text.parse::<u32>().ok());
    let version = settings.get("server_version").map_or("of unknown version", String::as_str);
    // 15.4 is 150004.
    if number.is_some_and(|number| number / 10_000 >= VERSION_MIN) {
        return good(format!("postgres {version}"));
    }
    let text = format!("postgres {version} is older than {VERSION_MIN}");
    remark(Level::Bad, text, "update the server")
}

fn good(text: impl Into<String>) -> Remark {
    Remark { level: Level::Good, text: text.into(), mend: None }
}

fn remark(level: Level, text: impl Into<String>, mend: &str) -> Remark {
    Remark { level, text: text.into(), mend: Some(mend.to_owned()) }
}
