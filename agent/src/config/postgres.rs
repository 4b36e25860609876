//! Checks a `kind = "postgres"` table. Whether that PostgreSQL is there is the backend's business.

use stormlock_protocol::name::is_invisible;

use super::Outside;
use super::file::PostgresTable;
use super::reader::{Placed, Wrong};
use super::{secret, tls};
use crate::backend::postgres::{Options, TABLE, USER, check_table, check_url};

/// Longest name of a role, in bytes, as the server has it.
const USER_MAX: usize = 63;

pub(super) fn check(table: PostgresTable, outside: &Outside) -> Result<Options, Wrong> {
    let Some(url) = &table.url else {
        let missing = "is missing, write postgres://HOST:PORT/DATABASE, or \
                       postgres:///DATABASE?host=/run/postgresql for a socket";
        return Err(table.spot.below("url").wrong(missing));
    };
    check_url(&url.value).map_err(|what| url.spot.wrong(what))?;
    let password = secret::resolve(&table.secret, outside)?;
    let passfile = match (&table.passfile, &password) {
        (Some(passfile), Some(_)) => {
            return Err(passfile.spot.wrong("is not needed beside a password, keep one of them"));
        }
        (Some(passfile), None) => Some(secret::whole_file(passfile, outside)?),
        (None, _) => None,
    };
    let (ca_file, client_cert) =
        tls::check(&table.ca_file, &table.client_cert_file, &table.client_key_file, outside)?;
    let tls_only = table.ca_file.as_ref().or(table.client_cert_file.as_ref());
    if let Some(key) = tls_only
        && url.value.contains("sslmode=disable")
    {
        return Err(key.spot.wrong("has no effect without TLS, remove sslmode=disable from url"));
    }
    let named = table.table.as_ref().map(check_name).transpose()?;
    let username = table.username.as_ref().map(check_user).transpose()?;
    Ok(Options {
        url: url.value.clone(),
        username: username.unwrap_or_else(|| USER.to_owned()),
        password,
        passfile,
        table: named.unwrap_or_else(|| TABLE.to_owned()),
        side_table: table.side_table.is_none_or(|side_table| side_table.value),
        ca_file,
        client_cert,
    })
}

fn check_name(table: &Placed<String>) -> Result<String, Wrong> {
    check_table(&table.value).map_err(|what| table.spot.wrong(what))?;
    Ok(table.value.clone())
}

fn check_user(user: &Placed<String>) -> Result<String, Wrong> {
    let Placed { value, spot } = user;
    if value.is_empty() || value.len() > USER_MAX || value.chars().any(is_invisible) {
        return Err(spot.wrong(format!("is not a role's name, write 1 to {USER_MAX} letters")));
    }
    Ok(value.clone())
}
