//! Reads and checks a `kind = "dynamodb"` table. Whether that table is there is the backend's
//! business.

use std::time::Duration;

use stormlock_protocol::duration::parse_secs;

use super::Outside;
use super::file::SecretKeys;
use super::reader::{Placed, Spot, Table, Wrong};
use super::{secret, tls};
use crate::backend::dynamodb::{Options, TABLE, TAKEOVER_MARGIN};

/// Longest `takeover_margin`: a day is more than any clock is wrong without anybody noticing.
const MARGIN_MAX_SECS: u64 = 86_400;

/// Longest and shortest name of a table, as the service has them.
const TABLE_LENGTH: std::ops::RangeInclusive<usize> = 3..=255;

type Text = Option<Placed<String>>;

pub(super) struct DynamoDbTable {
    pub(super) spot: Spot,
    pub(super) table: Text,
    pub(super) region: Text,
    pub(super) endpoint_url: Text,
    pub(super) profile: Text,
    pub(super) access_key_id: Text,
    pub(super) secret: SecretKeys,
    pub(super) takeover_margin: Text,
    pub(super) ca_file: Text,
    pub(super) client_cert_file: Text,
    pub(super) client_key_file: Text,
}

impl DynamoDbTable {
    pub(super) fn read(table: &Table<'_>) -> Result<DynamoDbTable, Wrong> {
        table.only(&[
            "kind",
            "table",
            "region",
            "endpoint_url",
            "profile",
            "access_key_id",
            "secret_access_key_file",
            "secret_access_key_credential",
            "secret_access_key_env",
            "secret_access_key",
            "takeover_margin",
            "ca_file",
            "client_cert_file",
            "client_key_file",
        ])?;
        Ok(DynamoDbTable {
            spot: table.spot.clone(),
            table: table.text("table")?,
            region: table.text("region")?,
            endpoint_url: table.text("endpoint_url")?,
            profile: table.text("profile")?,
            access_key_id: table.text("access_key_id")?,
            secret: SecretKeys {
                file: table.text("secret_access_key_file")?,
                credential: table.text("secret_access_key_credential")?,
                env: table.text("secret_access_key_env")?,
                literal: table.text("secret_access_key")?,
            },
            takeover_margin: table.text("takeover_margin")?,
            ca_file: table.text("ca_file")?,
            client_cert_file: table.text("client_cert_file")?,
            client_key_file: table.text("client_key_file")?,
        })
    }
}

pub(super) fn check(table: DynamoDbTable, outside: &Outside) -> Result<Options, Wrong> {
    let name = table.table.as_ref().map(check_table).transpose()?;
    let region = table.region.as_ref().map(check_region).transpose()?;
    let endpoint_url = table.endpoint_url.as_ref().map(check_endpoint).transpose()?;
    let profile = table.profile.as_ref().map(check_word).transpose()?;
    let secret = secret::resolve(&table.secret, outside)?;
    let keys = match (&table.access_key_id, secret) {
        (Some(id), Some(secret)) => Some((check_word(id)?, secret)),
        (Some(id), None) => {
            return Err(id.spot.wrong("has no secret, add secret_access_key_file"));
        }
        (None, Some(_)) => {
            let missing = table.spot.below("access_key_id");
            return Err(missing.wrong("is missing, write the id of the secret access key"));
        }
        (None, None) => None,
    };
    if let (Some(profile), Some(_)) = (&table.profile, &keys) {
        return Err(profile.spot.wrong("has no effect beside access_key_id, keep one of them"));
    }
    let (ca_file, client_cert) =
        tls::check(&table.ca_file, &table.client_cert_file, &table.client_key_file, outside)?;
    let tls_only = table.ca_file.as_ref().or(table.client_cert_file.as_ref());
    let is_plain = endpoint_url.as_ref().is_some_and(|url| url.starts_with("http://"));
    if let Some(key) = tls_only.filter(|_| is_plain) {
        return Err(key.spot.wrong("has no effect without TLS, write endpoint_url with https://"));
    }
    let takeover_margin = table.takeover_margin.as_ref().map(check_margin).transpose()?;
    Ok(Options {
        table: name.unwrap_or_else(|| TABLE.to_owned()),
        region,
        endpoint_url,
        profile,
        keys,
        takeover_margin: takeover_margin.unwrap_or(TAKEOVER_MARGIN),
        ca_file,
        client_cert,
    })
}

fn check_table(name: &Placed<String>) -> Result<String, Wrong> {
    let Placed { value, spot } = name;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !TABLE_LENGTH.contains(&value.len()) || !value.chars().all(is_plain) {
        return Err(spot.wrong(format!(
            "{value:?} is not a table's name, write {} to {} of a-z A-Z 0-9 _ . -",
            TABLE_LENGTH.start(),
            TABLE_LENGTH.end()
        )));
    }
    Ok(value.clone())
}

/// A region becomes part of a host's name.
fn check_region(region: &Placed<String>) -> Result<String, Wrong> {
    let Placed { value, spot } = region;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if value.is_empty() || !value.chars().all(is_plain) {
        return Err(spot.wrong(format!("{value:?} is not a region, write for example eu-west-1")));
    }
    Ok(value.clone())
}

/// Complains without quoting: there may be a password in it.
fn check_endpoint(url: &Placed<String>) -> Result<String, Wrong> {
    let Placed { value, spot } = url;
    let form = || spot.wrong("is not an address, write https://HOST or https://HOST:PORT");
    let (scheme, place) = value.split_once("://").ok_or_else(form)?;
    if place.contains('@') {
        return Err(spot
            .wrong("holds a user or a password; write access_key_id and secret_access_key_file"));
    }
    let host = place.strip_suffix('/').unwrap_or(place);
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
    let is_known = matches!(scheme, "http" | "https");
    if !is_known || host.is_empty() || !host.chars().all(is_host) {
        return Err(form());
    }
    Ok(value.clone())
}

fn check_word(word: &Placed<String>) -> Result<String, Wrong> {
    let Placed { value, spot } = word;
    if value.is_empty() || value.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(spot.wrong("is empty or holds white space, write one word"));
    }
    Ok(value.clone())
}

fn check_margin(text: &Placed<String>) -> Result<Duration, Wrong> {
    let Placed { value, spot } = text;
    let secs = parse_secs(value);
    let secs = secs.map_err(|error| spot.wrong(format!("{value:?} is not a duration: {error}")))?;
    if secs > MARGIN_MAX_SECS {
        return Err(spot.wrong("is longer than a day, write for example 60s or 15m"));
    }
    Ok(Duration::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use secrecy::ExposeSecret;

    use super::super::{Config, Mode, Purpose};
    use super::*;
    use crate::backend;
    use crate::lease::Uid;

    fn parse(text: &str) -> Result<Options, String> {
        let outside = Outside {
            mode: Mode::System,
            uid: Uid(990),
            nodename: "bastion2".to_owned(),
            others_may_read: false,
            env: |name| (name == "SECRET").then(|| "from the environment".into()),
            purpose: Purpose::Run,
        };
        let text = format!("[backend.d]\nkind = \"dynamodb\"\n{text}");
        let config = Config::parse(text.as_bytes(), Path::new("s.toml"), &outside);
        let config = config.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        match config.backends.into_values().next() {
            Some(backend::Options::DynamoDb(options)) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_table_means_what_it_says() {
        let options = parse(
            "table = \"locks\"\nregion = \"eu-west-1\"\nendpoint_url = \"https://d.example:8443\"\n\
             access_key_id = \"AKIA1\"\nsecret_access_key_env = \"SECRET\"\n\
             takeover_margin = \"15m\"\nca_file = \"/etc/ca.pem\"\n\
             client_cert_file = \"/etc/c.pem\"\nclient_key_file = \"/etc/c.key\"",
        );
        let options = options.unwrap();
        assert_eq!(
            (options.table.as_str(), options.region.as_deref()),
            ("locks", Some("eu-west-1"))
        );
        assert_eq!(options.endpoint_url.as_deref(), Some("https://d.example:8443"));
        let (id, secret) = options.keys.unwrap();
        assert_eq!((id.as_str(), secret.expose_secret()), ("AKIA1", "from the environment"));
        assert_eq!(options.takeover_margin, Duration::from_secs(900));
        assert_eq!(options.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
        assert_eq!(options.client_cert, Some(("/etc/c.pem".into(), "/etc/c.key".into())));
    }

    #[test]
    fn an_empty_table_is_the_python_tool_s_with_the_credentials_of_the_sdk() {
        let options = parse("").unwrap();
        assert_eq!((options.table.as_str(), options.takeover_margin), (TABLE, TAKEOVER_MARGIN));
        assert!(options.keys.is_none() && options.region.is_none() && options.profile.is_none());
        assert_eq!(parse("profile = \"ops\"").unwrap().profile.as_deref(), Some("ops"));
    }

    #[test]
    fn every_complaint_names_line_and_key_and_says_what_to_write() {
        for (text, expected) in [
            (
                "url = \"x\"",
                "3: key `backend.d.url`: there is no such key (known here: kind, table,",
            ),
            ("table = \"a b\"", "3: key `backend.d.table`: \"a b\" is not a table's name, write 3"),
            ("region = \"a.b\"", "3: key `backend.d.region`: \"a.b\" is not a region, write for"),
            ("endpoint_url = \"h:1\"", "3: key `backend.d.endpoint_url`: is not an address, write"),
            (
                "endpoint_url = \"https://a:hunter2@h\"",
                "3: key `backend.d.endpoint_url`: holds a user or a password; write access_key_id",
            ),
            (
                "access_key_id = \"A\"",
                "3: key `backend.d.access_key_id`: has no secret, add secret_access_key_file",
            ),
            (
                "secret_access_key = \"hunter2\"",
                "1: key `backend.d.access_key_id`: is missing, write the id of the secret",
            ),
            (
                "access_key_id = \"A\"\nsecret_access_key_credential = \"k\"",
                "4: key `backend.d.secret_access_key_credential`: there are no credentials here \
                 ($CREDENTIALS_DIRECTORY is not set); start the agent from a unit with \
                 LoadCredential=k:/path, or use secret_access_key_file",
            ),
            (
                "access_key_id = \"A\"\nsecret_access_key = \"b\"\nprofile = \"p\"",
                "5: key `backend.d.profile`: has no effect beside access_key_id",
            ),
            ("takeover_margin = \"60\"", "3: key `backend.d.takeover_margin`: \"60\" is not a dur"),
            (
                "takeover_margin = \"2d\"",
                "3: key `backend.d.takeover_margin`: is longer than a day",
            ),
            ("client_key_file = \"/k\"", "3: key `backend.d.client_key_file`: has no certificate"),
            (
                "endpoint_url = \"http://h\"\nca_file = \"/c\"",
                "4: key `backend.d.ca_file`: has no effect without TLS, write endpoint_url with",
            ),
        ] {
            let complaint = parse(text).unwrap_err();
            let expected = format!("s.toml:{expected}");
            assert!(complaint.starts_with(&expected), "{complaint}\n{expected}");
            assert!(!complaint.contains("hunter2"), "{complaint}");
        }
    }
}
