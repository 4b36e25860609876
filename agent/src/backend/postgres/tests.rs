//! The suite of every store on a real PostgreSQL, then what only PostgreSQL has: its tables, its
//! errors, its standbys, and a network that loses, holds and cuts.

mod access;
mod bare;
mod breaks;
mod doctor;
mod network;
mod notices;
mod pooler;
#[path = "../../../../tests/support/postgres.rs"]
mod server;
mod tables;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use stormlock_protocol::message::Level;
use stormlock_protocol::name::{Fence, UnixMs};

use super::super::certs::Certificates;
use super::super::contract::ttl;
use super::super::contract::{self, Others, Site, claim, granted, lease, nonce, proof, resource};
use super::super::proxy::{Fault, Proxy};
use super::*;
use crate::clock;
use server::PostgresServer;

/// The table as the Python tool's instructions have it.
const PYTHON_TABLE: &str = "CREATE TABLE stormlock (resource text PRIMARY KEY, lease uuid, \
    principal text, created timestamp DEFAULT current_timestamp, expires timestamp);";

struct Real {
    server: PostgresServer,
    table: &'static str,
}

impl Real {
    /// On the table that `setup` makes.
    fn start() -> Real {
        let server = PostgresServer::start();
        made(&server);
        Real { server, table: TABLE }
    }

    /// On the table of the Python tool's instructions, in a zone that is not UTC.
    fn on_the_python_table() -> Real {
        let server = PostgresServer::start_with(&["timezone=Asia/Kolkata"], server::TRUST);
        server.sql_as(USER, PYTHON_TABLE);
        made(&server);
        Real { server, table: TABLE }
    }
}

/// The one that another test of the suite has just now, or a new one: the suite needs no server of
/// its own, and a server is the dearest part of a test.
fn shared<T>(running: &Mutex<Weak<T>>, start: impl FnOnce() -> T) -> Arc<T> {
    let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
    running.upgrade().unwrap_or_else(|| {
        let started = Arc::new(start());
        *running = Arc::downgrade(&started);
        started
    })
}

fn site() -> Arc<Real> {
    static RUNNING: Mutex<Weak<Real>> = Mutex::new(Weak::new());
    shared(&RUNNING, Real::start)
}

fn python_site() -> Arc<Real> {
    static RUNNING: Mutex<Weak<Real>> = Mutex::new(Weak::new());
    shared(&RUNNING, Real::on_the_python_table)
}

/// A server with the tables.
fn ready() -> PostgresServer {
    Real::start().server
}

/// The tables, as `setup --print` says, over the server's socket.
fn made(server: &PostgresServer) {
    let said = open(&server.url()).setup_by_hand().expect("statements");
    server.sql(&format!("SET ROLE stormlock; {said}"));
}

impl Site for Real {
    fn open(&self) -> Arc<dyn Backend> {
        Arc::new(open(&self.server.url()))
    }

    fn others(&self) -> Option<&dyn Others> {
        Some(self)
    }
}

impl Others for Real {
    fn lock<'a>(&'a self, on: &'a Resource, lease: LeaseId, ttl: Option<Ttl>) -> Pending<'a, ()> {
        Box::pin(async move {
            let (table, lease) = (self.table, uuid(lease));
            let expires = match ttl {
                Some(ttl) => format!("current_timestamp + interval '{} s'", ttl.as_secs()),
                // It never leaves one without an end; a person with psql can.
                None => "'infinity'".to_owned(),
            };
            self.server.sql(&format!(
                "INSERT INTO {table} (resource, lease, principal, expires) \
                 VALUES ('{on}', '{lease}', 'py@other', {expires}) ON CONFLICT (resource) \
                 DO UPDATE SET (lease, principal, created, expires) = (excluded.lease, \
                 excluded.principal, DEFAULT, excluded.expires)"
            ));
            Ok(())
        })
    }

    fn litter<'a>(&'a self, on: &'a [Resource]) -> Pending<'a, ()> {
        Box::pin(async move {
            let table = self.table;
            self.server.sql(&format!(
                "ALTER TABLE {table} ALTER lease DROP NOT NULL, ALTER expires DROP NOT NULL"
            ));
            let id = "'00000000-0000-0000-0000-000000000007'";
            let rows = [
                "NULL, now() + interval '1 h'".to_owned(),
                "NULL, now() - interval '1 h'".to_owned(),
                "NULL, 'infinity'".to_owned(),
                "NULL, '-infinity'".to_owned(),
                "NULL, NULL".to_owned(),
                format!("{id}, NULL"),
            ];
            assert_eq!(rows.len(), on.len());
            for (row, on) in rows.iter().zip(on) {
                self.server.sql(&format!(
                    "INSERT INTO {table} (resource, principal, lease, expires) \
                     VALUES ('{on}', 'x', {row})"
                ));
            }
            Ok(())
        })
    }

    fn dump<'a>(&'a self, on: &'a Resource) -> Pending<'a, String> {
        Box::pin(async move {
            let table = self.table;
            Ok(self.server.sql(&format!("SELECT t FROM {table} t WHERE resource = '{on}'")))
        })
    }
}

fn options(url: &str) -> Options {
    Options {
        url: url.to_owned(),
        username: USER.to_owned(),
        password: None,
        passfile: None,
        table: TABLE.to_owned(),
        side_table: true,
        ca_file: None,
        client_cert: None,
    }
}

fn open(url: &str) -> Postgres {
    Postgres::new(&options(url)).unwrap()
}

contract::contract!(*site());
contract::contract_with_others!(*site());
contract::contract_of_wide_ids!(*site());

mod on_the_table_of_the_python_tool {
    use super::*;

    contract::contract!(*python_site());
    contract::contract_with_others!(*python_site());
}

/// What a call said, in a word.
fn outcome<T: std::fmt::Debug>(answer: Result<T, BackendError>) -> String {
    match answer {
        Ok(value) => format!("{value:?}"),
        Err(BackendError::Unknown { .. }) => "Unknown".to_owned(),
        Err(BackendError::Refused { kind, .. }) => format!("{kind:?}"),
    }
}

/// Waits until `until` holds.
async fn comes_true(what: &str, mut until: impl FnMut() -> bool) {
    let end = clock::now() + Duration::from_secs(30);
    while !until() {
        assert!(clock::now() < end, "{what}");
        tokio::task::yield_now().await;
    }
}

async fn setup(options: &Options, migrates: bool) -> Result<Vec<String>, BackendError> {
    Postgres::new(options).unwrap().make(migrates).await
}
