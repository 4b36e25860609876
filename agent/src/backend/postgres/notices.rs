//! What a server tells without being asked: that a row of the main table came, went or changed its
//! lease, whoever did that, by triggers with `NOTIFY` that `setup` makes. Over a connection of its
//! own, and one for all resources. Nothing is decided by it.
//!
//! Renewals are not told, nor what else leaves the lease as it is: a condition on the times would
//! stand in the way of their conversion (`setup --migrate`). What is told is bounded, for an
//! over-long payload or channel fails the writer's own statement: the channel has the table's
//! number, and the payload the first characters of the resource, of which ours have no more.
//! Commits with a `NOTIFY` queue behind each other, in the whole server: nothing beside the few
//! acquires and releases of people and jobs.
//!
//! Behind a pooler that shares out its connections, `LISTEN` succeeds and nothing ever comes. So
//! nothing is promised to those who wait before a notice of our own, sent over a connection for
//! calls, has come back.

use std::time::Duration;

use stormlock_protocol::name::{RESOURCE_MAX, Resource};
use tokio::sync::broadcast::error::RecvError;
use tokio_postgres::types::Type;

use super::super::line::{self, Dial};
use super::super::{BackendError, RefusedKind};
use super::link::{Line, Link};
use super::refusal::Trouble;
use super::sql::Table;
use super::{Postgres, Stirs, bare};

/// Longest time for a notice of our own to come back: a busy server takes milliseconds.
const PROOF_MAX: Duration = Duration::from_secs(5);
/// Before the number of the table: the channel.
const CHANNEL: &str = "stormlock_";
/// No resource begins like this.
const PROOF: &str = "!";
/// $1 the main table. Its number, and how many of its triggers are at work.
const TRIGGERS: &str = "SELECT t.oid::int8, (SELECT count(*) FROM pg_trigger \
    WHERE tgrelid = t.oid AND tgname IN ('stormlock_tell', 'stormlock_tell_moved') \
    AND tgenabled IN ('O', 'A')) FROM pg_class t WHERE t.oid = to_regclass($1)";
/// How many there are if all is well.
const TRIGGERS_ALL: i64 = 2;

/// The one connection to hear by, as long as somebody listens.
pub(super) type Ears = line::Line<Listener>;

/// How it is made.
pub(super) struct Listener {
    line: Line,
    main: String,
}

impl Listener {
    pub(super) fn new(line: Line, table: &Table) -> Listener {
        Listener { line, main: table.main.clone() }
    }

    /// The channel of the table, if there are triggers that use it.
    async fn channel(&self) -> Result<Option<String>, Trouble> {
        let rows = self.line.read((TRIGGERS, &[(&self.main, Type::TEXT)])).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let number = |at: usize| row.try_get::<_, i64>(at).ok();
        let works = number(1) == Some(TRIGGERS_ALL);
        Ok(number(0).filter(|_| works).map(|table| format!("{CHANNEL}{table}")))
    }

    /// Waits until the server tells of what was said over another connection.
    async fn prove(&self, link: &Link, channel: &str) -> Result<(), Trouble> {
        let mut notices = link.notices();
        let word = bare::nobodys().map_err(|error| Trouble::Silence(error.to_string()))?;
        let word = format!("{PROOF}{word}");
        let say: &[super::talk::Parameter<'_>] = &[(&channel, Type::TEXT), (&word, Type::TEXT)];
        self.line.read(("SELECT pg_notify($1, $2)", say)).await?;
        loop {
            match notices.recv().await {
                Ok(told) if told == word => return Ok(()),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Err(closed()),
            }
        }
    }
}

impl Dial for Listener {
    type Link = Link;
    type Trouble = Trouble;

    async fn dial(&self) -> Result<Link, Trouble> {
        let Some(channel) = self.channel().await? else {
            let why = format!("the table {} has no triggers that tell", self.main);
            return Err(Trouble::NotSent(RefusedKind::NotWritable, why));
        };
        let link = self.line.another().await?;
        let listen = format!("LISTEN \"{channel}\"");
        let heard = async {
            let listening = link.client.batch_execute(&listen).await;
            listening.map_err(|error| Trouble::of_statement(&error))?;
            self.prove(&link, &channel).await
        };
        let heard = tokio::time::timeout(PROOF_MAX, heard).await;
        heard.unwrap_or_else(|_| {
            let secs = PROOF_MAX.as_secs();
            let why = format!("a notice of our own did not come back within {secs} s");
            Err(Trouble::Silence(why))
        })?;
        Ok(link)
    }

    fn is_open(link: &Link) -> bool {
        link.is_open()
    }

    fn stopping() -> Trouble {
        Trouble::unreachable("the agent is stopping")
    }
}

impl Postgres {
    /// See [`super::super::Backend::watch`].
    pub(super) async fn listen(&self, on: &Resource, stirs: Stirs) -> Result<(), BackendError> {
        let link = self.ears.used().await?;
        let mut notices = link.notices();
        stirs.tell();
        loop {
            match notices.recv().await {
                Ok(told) if told != on.as_str() => {}
                // Of what was missed, one may have been about it.
                Ok(_) | Err(RecvError::Lagged(_)) => stirs.tell(),
                Err(RecvError::Closed) => return Err(closed().into()),
            }
        }
    }

    /// Whether the triggers are there and at work.
    pub(super) async fn has_triggers(&self) -> Result<bool, BackendError> {
        Ok(self.ears.dialler().channel().await?.is_some())
    }
}

/// Makes the triggers, also again.
const MAKE: &str = "\
CREATE OR REPLACE FUNCTION {tell}() RETURNS trigger LANGUAGE plpgsql AS $tell$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM pg_catalog.pg_notify(pg_catalog.concat('{channel}', TG_RELID),
            pg_catalog.substr(OLD.resource, 1, {max}));
    ELSE
        PERFORM pg_catalog.pg_notify(pg_catalog.concat('{channel}', TG_RELID),
            pg_catalog.substr(NEW.resource, 1, {max}));
    END IF;
    RETURN NULL;
END $tell$;
DROP TRIGGER IF EXISTS stormlock_tell ON {main};
CREATE TRIGGER stormlock_tell AFTER INSERT OR DELETE ON {main}
    FOR EACH ROW EXECUTE FUNCTION {tell}();
DROP TRIGGER IF EXISTS stormlock_tell_moved ON {main};
CREATE TRIGGER stormlock_tell_moved AFTER UPDATE ON {main}
    FOR EACH ROW WHEN (OLD.lease IS DISTINCT FROM NEW.lease) EXECUTE FUNCTION {tell}();";

/// What makes the triggers of a table.
pub(super) fn make_triggers(Table { main, tell, .. }: &Table) -> String {
    let make = MAKE.replace("{tell}", tell).replace("{main}", main);
    make.replace("{channel}", CHANNEL).replace("{max}", &RESOURCE_MAX.to_string())
}

fn closed() -> Trouble {
    Trouble::Silence("postgres closed the connection".to_owned())
}
