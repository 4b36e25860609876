//! The configuration as written: mirrors the TOML, refuses unknown keys, keeps lines. Whether the
//! values make sense together is decided in `check`.

use toml::de::DeTable;

use super::etcd::EtcdTable;
use super::exec::ExecTable;
use super::nearest::nearest;
use super::reader::{Placed, Spot, Table, Wrong, line_at};

/// The kinds of backend that this build has.
pub(super) const KINDS: &[&str] = &[
    "local",
    "redis",
    "etcd",
    "postgres",
    "exec",
    #[cfg(feature = "dynamodb")]
    "dynamodb",
];

pub(super) type Text = Option<Placed<String>>;
pub(super) type Texts = Option<Placed<Vec<Placed<String>>>>;

pub(super) struct File {
    pub(super) host: Text,
    pub(super) principal: Text,
    pub(super) default_ttl: Text,
    pub(super) default_backend: Text,
    pub(super) audit_file: Text,
    pub(super) backends: Vec<BackendTable>,
    pub(super) resources: Vec<ResourceTable>,
    pub(super) rules: Vec<RuleTable>,
}

pub(super) struct BackendTable {
    pub(super) name: Placed<String>,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Local,
    Redis(Box<RedisTable>),
    Etcd(Box<EtcdTable>),
    Postgres(Box<PostgresTable>),
    Exec(Box<ExecTable>),
    #[cfg(feature = "dynamodb")]
    DynamoDb(Box<super::dynamodb::DynamoDbTable>),
}

pub(super) struct RedisTable {
    pub(super) spot: Spot,
    pub(super) url: Text,
    pub(super) username: Text,
    pub(super) secret: SecretKeys,
    pub(super) key_prefix: Text,
    pub(super) ca_file: Text,
    pub(super) client_cert_file: Text,
    pub(super) client_key_file: Text,
    pub(super) sentinels: Texts,
    pub(super) sentinel_service: Text,
}

pub(super) struct PostgresTable {
    pub(super) spot: Spot,
    pub(super) url: Text,
    pub(super) username: Text,
    pub(super) secret: SecretKeys,
    pub(super) passfile: Text,
    pub(super) table: Text,
    pub(super) side_table: Option<Placed<bool>>,
    pub(super) ca_file: Text,
    pub(super) client_cert_file: Text,
    pub(super) client_key_file: Text,
}

/// The four places that a password may come from.
pub(super) struct SecretKeys {
    pub(super) file: Text,
    pub(super) credential: Text,
    pub(super) env: Text,
    pub(super) literal: Text,
}

pub(super) struct ResourceTable {
    pub(super) spot: Spot,
    pub(super) names: Texts,
    pub(super) backend: Text,
    pub(super) ttl: Text,
    pub(super) hold: Text,
    pub(super) max_ttl: Text,
    pub(super) max_hold: Text,
}

pub(super) struct RuleTable {
    pub(super) spot: Spot,
    pub(super) who: Texts,
    pub(super) resources: Texts,
    pub(super) may: Texts,
    pub(super) max_ttl: Text,
    pub(super) max_hold: Text,
    pub(super) max_leases: Option<Placed<u64>>,
    pub(super) require_reason: Option<Placed<bool>>,
}

impl File {
    pub(super) fn read(text: &str) -> Result<File, Wrong> {
        let document = DeTable::parse(text).map_err(|error| {
            let line = line_at(text, error.span().map_or(0, |span| span.start));
            Spot { line, key: String::new() }.wrong(format!("not TOML: {}", error.message()))
        })?;
        let top = Table::document(document.get_ref(), text);
        top.only(&[
            "host",
            "principal",
            "default_ttl",
            "default_backend",
            "audit",
            "backend",
            "resource",
            "rule",
        ])?;
        let mut backends = Vec::new();
        for (name, table) in top.named_tables("backend")? {
            let name = Placed { value: name, spot: table.spot.clone() };
            backends.push(BackendTable { name, kind: Kind::read(&table)? });
        }
        let resources = top.list_of_tables("resource")?;
        let rules = top.list_of_tables("rule")?;
        Ok(File {
            host: top.text("host")?,
            principal: top.text("principal")?,
            default_ttl: top.text("default_ttl")?,
            default_backend: top.text("default_backend")?,
            audit_file: audit_file(&top)?,
            backends,
            resources: resources.iter().map(ResourceTable::read).collect::<Result<_, _>>()?,
            rules: rules.iter().map(RuleTable::read).collect::<Result<_, _>>()?,
        })
    }
}

fn audit_file(top: &Table<'_>) -> Result<Text, Wrong> {
    let Some(audit) = top.table("audit")? else { return Ok(None) };
    audit.only(&["file"])?;
    audit.text("file")
}

impl Kind {
    fn read(table: &Table<'_>) -> Result<Kind, Wrong> {
        let have = KINDS.join(", ");
        let Some(kind) = table.text("kind")? else {
            let missing = table.spot.below("kind");
            return Err(missing.wrong(format!("is missing, write one of: {have}")));
        };
        match kind.value.as_str() {
            "local" => {
                table.only(&["kind"])?;
                Ok(Kind::Local)
            }
            "redis" => RedisTable::read(table).map(|redis| Kind::Redis(Box::new(redis))),
            "etcd" => EtcdTable::read(table).map(|etcd| Kind::Etcd(Box::new(etcd))),
            "postgres" => PostgresTable::read(table).map(|it| Kind::Postgres(Box::new(it))),
            "exec" => ExecTable::read(table).map(|exec| Kind::Exec(Box::new(exec))),
            #[cfg(feature = "dynamodb")]
            "dynamodb" => super::dynamodb::DynamoDbTable::read(table)
                .map(|dynamodb| Kind::DynamoDb(Box::new(dynamodb))),
            other => {
                let advice = match nearest(other, KINDS) {
                    Some(known) => format!("did you mean \"{known}\"?"),
                    None => format!("it has: {have}"),
                };
                Err(kind.spot.wrong(format!("this build has no backend {other:?} ({advice})")))
            }
        }
    }
}

impl RedisTable {
    fn read(table: &Table<'_>) -> Result<RedisTable, Wrong> {
        table.only(&[
            "kind",
            "url",
            "username",
            "password_file",
            "password_credential",
            "password_env",
            "password",
            "key_prefix",
            "ca_file",
            "client_cert_file",
            "client_key_file",
            "sentinels",
            "sentinel_service",
        ])?;
        Ok(RedisTable {
            spot: table.spot.clone(),
            url: table.text("url")?,
            username: table.text("username")?,
            secret: SecretKeys::read(table)?,
            key_prefix: table.text("key_prefix")?,
            ca_file: table.text("ca_file")?,
            client_cert_file: table.text("client_cert_file")?,
            client_key_file: table.text("client_key_file")?,
            sentinels: table.texts("sentinels")?,
            sentinel_service: table.text("sentinel_service")?,
        })
    }
}

impl PostgresTable {
    fn read(table: &Table<'_>) -> Result<PostgresTable, Wrong> {
        table.only(&[
            "kind",
            "url",
            "username",
            "password_file",
            "password_credential",
            "password_env",
            "password",
            "passfile",
            "table",
            "side_table",
            "ca_file",
            "client_cert_file",
            "client_key_file",
        ])?;
        Ok(PostgresTable {
            spot: table.spot.clone(),
            url: table.text("url")?,
            username: table.text("username")?,
            secret: SecretKeys::read(table)?,
            passfile: table.text("passfile")?,
            table: table.text("table")?,
            side_table: table.truth("side_table")?,
            ca_file: table.text("ca_file")?,
            client_cert_file: table.text("client_cert_file")?,
            client_key_file: table.text("client_key_file")?,
        })
    }
}

impl SecretKeys {
    pub(super) fn read(table: &Table<'_>) -> Result<SecretKeys, Wrong> {
        Ok(SecretKeys {
            file: table.text("password_file")?,
            credential: table.text("password_credential")?,
            env: table.text("password_env")?,
            literal: table.text("password")?,
        })
    }
}

impl ResourceTable {
    fn read(table: &Table<'_>) -> Result<ResourceTable, Wrong> {
        table.only(&["names", "backend", "ttl", "hold", "max_ttl", "max_hold"])?;
        Ok(ResourceTable {
            spot: table.spot.clone(),
            names: table.texts("names")?,
            backend: table.text("backend")?,
            ttl: table.text("ttl")?,
            hold: table.text("hold")?,
            max_ttl: table.text("max_ttl")?,
            max_hold: table.text("max_hold")?,
        })
    }
}

impl RuleTable {
    fn read(table: &Table<'_>) -> Result<RuleTable, Wrong> {
        table.only(&[
            "who",
            "resources",
            "may",
            "max_ttl",
            "max_hold",
            "max_leases",
            "require_reason",
        ])?;
        Ok(RuleTable {
            spot: table.spot.clone(),
            who: table.texts("who")?,
            resources: table.texts("resources")?,
            may: table.texts("may")?,
            max_ttl: table.text("max_ttl")?,
            max_hold: table.text("max_hold")?,
            max_leases: table.count("max_leases")?,
            require_reason: table.truth("require_reason")?,
        })
    }
}
