//! A `kind = "etcd"` table: as written, and checked. Whether that etcd is there is the backend's
//! business.

use secrecy::SecretString;
use stormlock_protocol::name::is_invisible;

use super::Outside;
use super::file::{SecretKeys, Text, Texts};
use super::reader::{Placed, Spot, Table, Wrong};
use super::redis::{check_prefix, is_host_and_port};
use super::{secret, tls};
use crate::backend::etcd::{Options, PREFIX};

/// Most endpoints: clusters have seven members at most, and each is given a share of the time to
/// connect.
const ENDPOINTS_MAX: usize = 9;
/// What is accepted as an endpoint, said in each complaint about one.
const FORMS: &str = "https://HOST:PORT or http://HOST:PORT";

pub(super) struct EtcdTable {
    spot: Spot,
    endpoints: Texts,
    username: Text,
    secret: SecretKeys,
    key_prefix: Text,
    ca_file: Text,
    client_cert_file: Text,
    client_key_file: Text,
}

impl EtcdTable {
    pub(super) fn read(table: &Table<'_>) -> Result<EtcdTable, Wrong> {
        table.only(&[
            "kind",
            "endpoints",
            "username",
            "password_file",
            "password_credential",
            "password_env",
            "password",
            "key_prefix",
            "ca_file",
            "client_cert_file",
            "client_key_file",
        ])?;
        Ok(EtcdTable {
            spot: table.spot.clone(),
            endpoints: table.texts("endpoints")?,
            username: table.text("username")?,
            secret: SecretKeys::read(table)?,
            key_prefix: table.text("key_prefix")?,
            ca_file: table.text("ca_file")?,
            client_cert_file: table.text("client_cert_file")?,
            client_key_file: table.text("client_key_file")?,
        })
    }
}

pub(super) fn check(table: EtcdTable, outside: &Outside) -> Result<Options, Wrong> {
    let endpoints = check_endpoints(&table)?;
    let login = check_login(&table, outside)?;
    let (ca_file, client_cert) =
        tls::check(&table.ca_file, &table.client_cert_file, &table.client_key_file, outside)?;
    let tls_only = table.ca_file.as_ref().or(table.client_cert_file.as_ref());
    let has_tls = endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
    if let Some(key) = tls_only.filter(|_| !has_tls) {
        return Err(key.spot.wrong("has no effect without TLS, write endpoints with https://"));
    }
    let key_prefix = table.key_prefix.as_ref().map(check_prefix).transpose()?;
    Ok(Options {
        endpoints,
        login,
        key_prefix: key_prefix.unwrap_or_else(|| PREFIX.to_owned()),
        ca_file,
        client_cert,
    })
}

fn check_endpoints(table: &EtcdTable) -> Result<Vec<String>, Wrong> {
    let Some(Placed { value, spot }) = &table.endpoints else {
        let missing = table.spot.below("endpoints");
        return Err(missing.wrong(format!("is missing, write a list of {FORMS}")));
    };
    let Some(first) = value.first() else {
        return Err(spot.wrong(format!("is empty, write at least one {FORMS}")));
    };
    if value.len() > ENDPOINTS_MAX {
        let count = value.len();
        return Err(spot.wrong(format!(
            "has {count} members, write at most {ENDPOINTS_MAX}: any few of a cluster will do"
        )));
    }
    for endpoint in value {
        check_endpoint(&endpoint.value).map_err(|what| endpoint.spot.wrong(what))?;
        if scheme(&endpoint.value) != scheme(&first.value) {
            return Err(endpoint.spot.wrong(
                "is not like the first one: make all of them https://, or all of them http://",
            ));
        }
    }
    Ok(value.iter().map(|endpoint| endpoint.value.clone()).collect())
}

fn scheme(endpoint: &str) -> Option<&str> {
    endpoint.split_once("://").map(|(scheme, _)| scheme)
}

/// Complains without quoting: there may be a password in it.
pub(super) fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let form = || format!("is not an address of an etcd, write {FORMS}");
    let (scheme, rest) = endpoint.split_once("://").ok_or_else(form)?;
    if endpoint.chars().any(|c| c.is_whitespace() || is_invisible(c)) {
        return Err("holds white space or an invisible character, remove it".to_owned());
    }
    if rest.contains('@') {
        return Err("holds a user or a password, which would show up in messages; write username \
                    and password_file"
            .to_owned());
    }
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if !["http", "https"].contains(&scheme) || !is_host_and_port(host) {
        return Err(form());
    }
    Ok(())
}

fn check_login(
    table: &EtcdTable,
    outside: &Outside,
) -> Result<Option<(String, SecretString)>, Wrong> {
    let password = secret::resolve(&table.secret, outside)?;
    match (&table.username, password) {
        (Some(user), Some(password)) => Ok(Some((user.value.clone(), password))),
        (Some(user), None) => Err(user.spot.wrong("has no password, add password_file")),
        (None, Some(_)) => {
            let missing = table.spot.below("username");
            Err(missing.wrong("is missing, there is a password without a user"))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::*;
    use crate::backend;
    use crate::lease::BackendName;

    fn complaint(keys: &str) -> String {
        parse(&format!("[backend.e]\nkind = \"etcd\"\n{keys}")).unwrap_err()
    }

    #[test]
    fn an_etcd_is_configured_as_written() {
        let text = "[backend.e]\nkind = \"etcd\"\n\
                    endpoints = [\"https://e1:2379\", \"https://e2:2379/\"]\nusername = \"u\"\n\
                    password_env = \"REDIS_PASSWORD\"\nkey_prefix = \"/locks/\"\n\
                    ca_file = \"/ca.pem\"\nclient_cert_file = \"/c.pem\"\n\
                    client_key_file = \"/c.key\"\n";
        let config = parse(text).unwrap();
        let Some(backend::Options::Etcd(etcd)) = config.backends.get(&BackendName::new("e")) else {
            panic!("{:?}", config.backends)
        };
        assert_eq!(etcd.endpoints, ["https://e1:2379", "https://e2:2379/"]);
        assert_eq!(etcd.login.as_ref().unwrap().0, "u");
        assert_eq!(etcd.key_prefix, "/locks/");
        assert_eq!(etcd.client_cert, Some(("/c.pem".into(), "/c.key".into())));
        assert!(!format!("{config:?}").contains("from the environment"));
        let plain = parse("[backend.e]\nkind = \"etcd\"\nendpoints = [\"http://e\"]\n").unwrap();
        let Some(backend::Options::Etcd(etcd)) = plain.backends.get(&BackendName::new("e")) else {
            panic!("{:?}", plain.backends)
        };
        assert_eq!(etcd.key_prefix, "/", "as the Python tool has it");
    }

    #[test]
    fn each_complaint_about_an_etcd_says_what_to_write_and_no_password() {
        let form =
            format!("3: key `backend.e.endpoints`: is not an address of an etcd, write {FORMS}");
        for (keys, expected) in [
            ("", "1: key `backend.e.endpoints`: is missing, write a list of"),
            ("endpoints = []", "3: key `backend.e.endpoints`: is empty, write at least one"),
            ("endpoints = [\"e:2379\"]", &form),
            ("endpoints = [\"etcd://e:2379\"]", &form),
            ("endpoints = [\"http://\"]", &form),
            ("endpoints = [\"http://e:0\"]", &form),
            ("endpoints = [\"http://e/hunter2\"]", &form),
            ("endpoints = [\"http://u:hunter2@e\"]", "holds a user or a password"),
            ("endpoints = [\"http://e \"]", "holds white space"),
            ("endpoints = [\"http://e\", \"https://f\"]", "is not like the first one"),
            ("endpoints = [\"http://e\"]\nusername = \"u\"", "username`: has no password, add"),
            ("endpoints = [\"http://e\"]\npassword = \"hunter2\"", "username`: is missing, there"),
            ("endpoints = [\"http://e\"]\nca_file = \"/c\"", "4: key `backend.e.ca_file`: has no"),
            ("endpoints = [\"https://e\"]\nclient_cert_file = \"/c\"", "has no key, add"),
            ("endpoints = [\"https://e\"]\nurl = \"x\"", "url"),
        ] {
            let said = complaint(keys);
            assert!(said.contains(expected) && !said.contains("hunter2"), "{keys}: {said}");
        }
        let ten = ["\"http://e\""; ENDPOINTS_MAX + 1].join(", ");
        assert!(complaint(&format!("endpoints = [{ten}]")).contains("write at most 9"));
    }
}
