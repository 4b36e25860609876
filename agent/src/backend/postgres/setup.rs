//! `stormlockd setup`: makes the two tables and the triggers of one, and converts what the Python
//! tool's instructions made. It does what is missing and says so; what is there it never empties.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::super::{BackendError, RefusedKind};
use super::Postgres;
use super::notices::make_triggers;
use super::sql::Table;

/// What the main table has, and of what types it may be; the first is what `setup` makes.
const MAIN: [(&str, &[&str]); 5] = [
    ("resource", &["text", "character varying"]),
    ("lease", &["uuid"]),
    ("principal", &["text", "character varying"]),
    ("created", &[WITH_ZONE, NAIVE]),
    ("expires", &[WITH_ZONE, NAIVE]),
];
/// What the side table has.
const EXT: [(&str, &[&str]); 7] = [
    ("resource", &["text"]),
    ("counter", &["bigint"]),
    ("fence", &["bigint"]),
    ("lease", &["uuid"]),
    ("host", &["text"]),
    ("reason", &["text"]),
    ("nonce", &["bigint"]),
];
const WITH_ZONE: &str = "timestamp with time zone";
const NAIVE: &str = "timestamp without time zone";
/// The columns of a table and their types.
const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute \
    WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
/// Longest time for all of it: a table that somebody keeps locked is told, not waited for.
const SETUP_MAX: Duration = Duration::from_secs(30);
/// One setup after the other: two hosts that make the same table at once both fail otherwise.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '10s'; \
    SELECT pg_advisory_xact_lock(hashtext('stormlockd setup'))";

impl Postgres {
    /// The statements that make what is missing and give the agent's user its rights, for an
    /// administrator to run.
    pub(super) fn by_hand(&self) -> String {
        let Table { main, ext, .. } = &self.table;
        let user = self.username.replace('"', "\"\"");
        let make_main = make_main(&self.table);
        let triggers = make_triggers(&self.table);
        let triggers =
            format!("-- Not needed for a lock: wakes those who wait at once.\n{triggers}");
        let convert = format!("-- Where its times have no zone:\n-- {}", convert(&self.table));
        let schema = main.rsplit_once('.').map(|(schema, _)| schema);
        let usage = schema.map(|schema| format!("GRANT USAGE ON SCHEMA {schema} TO \"{user}\";\n"));
        let usage = usage.unwrap_or_default();
        if self.bare.is_some() {
            return format!(
                "{make_main}\n{convert}\n{triggers}\n{usage}\
                 GRANT SELECT, INSERT, UPDATE ON {main} TO \"{user}\";\n"
            );
        }
        let make_ext = make_ext(&self.table);
        format!(
            "{make_main}\n{convert}\n{make_ext}\n{triggers}\n{usage}\
             GRANT SELECT, INSERT, UPDATE, DELETE ON {main} TO \"{user}\";\n\
             GRANT SELECT, INSERT, UPDATE ON {ext} TO \"{user}\";\n"
        )
    }

    /// Makes what is missing, all of it or nothing, and says what it did.
    pub(super) async fn make(&self, migrates: bool) -> Result<Vec<String>, BackendError> {
        let done = tokio::time::timeout(SETUP_MAX, self.make_all(migrates)).await;
        let secs = SETUP_MAX.as_secs();
        done.unwrap_or_else(|_| {
            Err(BackendError::Unknown { why: format!("postgres did not finish within {secs} s") })
        })
    }

    async fn make_all(&self, migrates: bool) -> Result<Vec<String>, BackendError> {
        let mut said = Vec::new();
        let mut act = vec![BEGIN.to_owned()];
        let Table { main, ext, .. } = &self.table;
        let columns = self.columns(main).await?;
        if columns.is_empty() {
            act.push(make_main(&self.table));
            said.push(format!("made the table {main}"));
        } else {
            check(main, &columns, &MAIN)?;
            said.push(format!("the table {main} is there"));
            let naive: Vec<&str> = naive(&columns);
            if !naive.is_empty() && migrates {
                act.push(convert(&self.table));
                let zone = self.zone().await?;
                let naive = naive.join(" and ");
                said.push(format!("converted {naive} of {main} from {zone} to {WITH_ZONE}"));
            } else if !naive.is_empty() {
                said.push(format!(
                    "{} of {main} have no time zone: convert them with --migrate",
                    naive.join(" and ")
                ));
            }
        }
        let columns = self.columns(ext).await?;
        if self.bare.is_some() {
            if !columns.is_empty() {
                return Err(super::bare::two_ways(ext));
            }
            said.push("side_table is false: there is no second table to make".to_owned());
        } else if columns.is_empty() {
            act.push(make_ext(&self.table));
            said.push(format!("made the table {ext}"));
        } else {
            check(ext, &columns, &EXT)?;
            said.push(format!("the table {ext} is there"));
        }
        if act.len() > 1 {
            act.push("COMMIT".to_owned());
            let made = self.line.script(&act.join("; ")).await;
            made.map_err(|trouble| told(trouble.into()))?;
        }
        said.push(self.make_triggers().await?);
        Ok(said)
    }

    /// Makes the triggers if they are missing. They are no part of a lock: where they may not be
    /// made, the rest stays.
    async fn make_triggers(&self) -> Result<String, BackendError> {
        let main = &self.table.main;
        if self.has_triggers().await? {
            return Ok(format!("the triggers of {main} are there"));
        }
        let make = format!("{BEGIN}; {} COMMIT", make_triggers(&self.table));
        match self.line.script(&make).await.map_err(BackendError::from) {
            Ok(()) => Ok(format!("made the triggers of {main} that wake those who wait")),
            Err(BackendError::Refused { kind, why }) if kind != RefusedKind::Unreachable => {
                Ok(format!(
                    "made no triggers of {main}, so those who wait look every 2 s: {why} (they \
                     need CREATE on its schema and the table's owner; --print shows them)"
                ))
            }
            Err(error) => Err(error),
        }
    }

    /// The columns of a table, none if it is not there.
    pub(super) async fn columns(&self, table: &str) -> Result<Vec<Column>, BackendError> {
        let rows = self.line.read((COLUMNS, &[(&table, Type::TEXT)])).await?;
        Ok(rows.iter().filter_map(Column::read).collect())
    }

    /// The time zone of our sessions.
    pub(super) async fn zone(&self) -> Result<String, BackendError> {
        let rows = self.line.read(("SELECT current_setting('TimeZone')", &[])).await?;
        Ok(rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default())
    }
}

/// A column of a table.
#[derive(Debug)]
pub(super) struct Column {
    name: String,
    kind: String,
}

impl Column {
    fn read(row: &Row) -> Option<Column> {
        Some(Column { name: row.try_get(0).ok()?, kind: row.try_get(1).ok()? })
    }
}

/// The columns without a time zone.
pub(super) fn naive(columns: &[Column]) -> Vec<&str> {
    columns.iter().filter(|it| it.kind == NAIVE).map(|it| it.name.as_str()).collect()
}

/// What a user lacks who may not: the server names only where.
fn told(error: BackendError) -> BackendError {
    match error {
        BackendError::Refused { kind: RefusedKind::Credentials, why } => {
            let needs = "a new table needs CREATE on its schema, a conversion the table's owner";
            BackendError::Refused { kind: RefusedKind::Credentials, why: format!("{why}; {needs}") }
        }
        error => error,
    }
}

fn check(table: &str, columns: &[Column], wanted: &[(&str, &[&str])]) -> Result<(), BackendError> {
    for (name, kinds) in wanted {
        let kinds_in_words = kinds.join(" or ");
        match columns.iter().find(|column| column.name == *name) {
            Some(column) if kinds.contains(&column.kind.as_str()) => {}
            Some(Column { kind, .. }) => {
                return Err(refused(format!(
                    "there is a table {table} whose column {name} is {kind}, not {kinds_in_words}: \
                     is it another program's? write another table"
                )));
            }
            None => {
                return Err(refused(format!(
                    "there is a table {table} without a column {name}: is it another program's? \
                     write another table"
                )));
            }
        }
    }
    Ok(())
}

fn make_main(Table { main, .. }: &Table) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {main} (\n    resource text PRIMARY KEY,\n    \
         lease uuid NOT NULL,\n    principal text NOT NULL,\n    \
         created timestamptz NOT NULL DEFAULT current_timestamp,\n    \
         expires timestamptz NOT NULL\n);"
    )
}

fn make_ext(Table { ext, .. }: &Table) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {ext} (\n    resource text PRIMARY KEY,\n    \
         counter bigint NOT NULL,\n    lease uuid,\n    fence bigint,\n    \
         host text,\n    reason text,\n    \
         nonce bigint\n);"
    )
}

fn convert(Table { main, .. }: &Table) -> String {
    format!(
        "ALTER TABLE {main} ALTER COLUMN created TYPE timestamptz, \
         ALTER COLUMN expires TYPE timestamptz;"
    )
}

fn refused(why: String) -> BackendError {
    BackendError::Refused { kind: RefusedKind::Foreign, why }
}
