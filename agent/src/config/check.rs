//! From what was written to what is valid: the one place where values are compared.

use std::collections::BTreeMap;
use std::path::PathBuf;

use stormlock_protocol::duration::{format_secs, parse_secs};
use stormlock_protocol::message::Hold;
use stormlock_protocol::name::{RESOURCE_MAX, Ttl, is_resource_char};

use super::file::{BackendTable, File, Kind, ResourceTable, RuleTable};
use super::nearest::nearest;
use super::principal::Template;
use super::reader::{Placed, Spot, Wrong};
use super::{
    Config, HOST_MAX, LOCAL, OfResource, Outside, built_in, etcd, exec, fresh_ttl, host_of,
    is_host_char, postgres, redis,
};
use crate::backend::Options;
use crate::lease::{BackendName, Uid};
use crate::policy::{Act, Cap, Glob, LEASES_MAX, Permit, Policy, Rule, Subject};

/// Longest name of a backend, in bytes: it stands in each line of `list`.
const BACKEND_NAME_MAX: usize = 32;

pub(super) fn check(file: File, outside: &Outside) -> Result<Config, Wrong> {
    let host = match &file.host {
        Some(host) => check_host(host)?,
        None => host_of(&outside.nodename),
    };
    let principal = match &file.principal {
        Some(template) => {
            Template::parse(&template.value, &host).map_err(|what| template.spot.wrong(what))?
        }
        None => Template::standard(&host),
    };
    let default_ttl = match &file.default_ttl {
        Some(ttl) => check_ttl(ttl)?,
        None => fresh_ttl(),
    };
    let audit_file = file.audit_file.as_ref().map(check_audit_file).transpose()?;
    let default_backend = default_backend(&file)?;
    let names: Vec<String> = file.backends.iter().map(|it| it.name.value.clone()).collect();
    let mut backends = BTreeMap::new();
    for backend in file.backends {
        let (name, options) = check_backend(backend, outside)?;
        backends.insert(name, options);
    }
    if backends.is_empty() {
        backends.insert(BackendName::new(LOCAL), Options::Local);
    }
    let mut resources = Vec::with_capacity(file.resources.len());
    let mut caps = Vec::with_capacity(file.resources.len());
    for table in &file.resources {
        let (of_resource, cap) = check_resource(table, &default_backend, default_ttl, &names)?;
        resources.push(of_resource);
        caps.push(cap);
    }
    let rules = file.rules.iter().map(check_rule).collect::<Result<Vec<_>, _>>()?;
    let policy = if rules.is_empty() { built_in(outside) } else { Policy::written(rules) };
    Ok(Config {
        host,
        backends,
        policy: policy.with_caps(caps),
        audit_file,
        principal,
        default_backend,
        default_ttl,
        resources,
    })
}

fn check_host(host: &Placed<String>) -> Result<String, Wrong> {
    let Placed { value, spot } = host;
    if value.is_empty() || value.len() > HOST_MAX || !value.chars().all(is_host_char) {
        return Err(spot.wrong(format!(
            "{value:?} is not a host's name, write 1 to {HOST_MAX} letters, digits and . _ -"
        )));
    }
    Ok(value.clone())
}

/// Whether it can be written shows when it is, and stops nobody from running the agent.
fn check_audit_file(file: &Placed<String>) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(&file.value);
    if !path.is_absolute() || path.file_name().is_none() {
        let advice = "write its full path, as in \"/var/log/stormlock/audit.jsonl\"";
        return Err(file
            .spot
            .wrong(format!("{:?} is no full path of a file: {advice}", file.value)));
    }
    Ok(path)
}

/// Where the locks of a resource live that no `[[resource]]` sends elsewhere.
fn default_backend(file: &File) -> Result<BackendName, Wrong> {
    let names: Vec<&str> = file.backends.iter().map(|it| it.name.value.as_str()).collect();
    match (&file.default_backend, names.as_slice()) {
        (Some(name), names) => known_backend(name, names),
        (None, []) => Ok(BackendName::new(LOCAL)),
        (None, [only]) => Ok(BackendName::new(only)),
        (None, several) => {
            let top = Spot { line: 1, key: "default_backend".to_owned() };
            let several = several.join(", ");
            Err(top.wrong(format!("is missing, write which of the backends is it: {several}")))
        }
    }
}

fn known_backend(name: &Placed<String>, known: &[&str]) -> Result<BackendName, Wrong> {
    let Placed { value, spot } = name;
    if known.contains(&value.as_str()) || (known.is_empty() && value == LOCAL) {
        return Ok(BackendName::new(value));
    }
    let advice = match (nearest(value, known), known) {
        (Some(near), _) => format!("did you mean \"{near}\"?"),
        (None, []) => format!("write a table [backend.{value}] with its kind"),
        (None, known) => format!("there are: {}", known.join(", ")),
    };
    Err(spot.wrong(format!("there is no backend {value:?} ({advice})")))
}

fn check_backend(table: BackendTable, outside: &Outside) -> Result<(BackendName, Options), Wrong> {
    let Placed { value: name, spot } = table.name;
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
    if name.is_empty() || name.len() > BACKEND_NAME_MAX || !name.bytes().all(is_plain) {
        return Err(spot.wrong(format!(
            "{name:?} is not a backend's name, write 1 to {BACKEND_NAME_MAX} of a-z 0-9 _ -"
        )));
    }
    let options = match table.kind {
        Kind::Local => Options::Local,
        Kind::Redis(table) => Options::Redis(Box::new(redis::check(*table, outside)?)),
        Kind::Etcd(table) => Options::Etcd(Box::new(etcd::check(*table, outside)?)),
        Kind::Postgres(table) => Options::Postgres(Box::new(postgres::check(*table, outside)?)),
        Kind::Exec(table) => Options::Exec(Box::new(exec::check(&table, outside)?)),
        #[cfg(feature = "dynamodb")]
        Kind::DynamoDb(table) => {
            Options::DynamoDb(Box::new(super::dynamodb::check(*table, outside)?))
        }
    };
    Ok((BackendName::new(&name), options))
}

fn check_resource(
    table: &ResourceTable,
    default_backend: &BackendName,
    default_ttl: Ttl,
    backends: &[String],
) -> Result<(OfResource, Cap), Wrong> {
    let known: Vec<&str> = backends.iter().map(String::as_str).collect();
    let names = check_globs(table.names.as_ref(), &table.spot.below("names"))?;
    let backend = match &table.backend {
        Some(name) => known_backend(name, &known)?,
        None => default_backend.clone(),
    };
    let ttl = table.ttl.as_ref().map(check_ttl).transpose()?;
    let max_ttl = table.max_ttl.as_ref().map(check_ttl).transpose()?;
    let max_hold_secs = table.max_hold.as_ref().map(check_hold).transpose()?;
    let unasked = ttl.unwrap_or(default_ttl);
    if let (Some(max), Some(limit)) = (max_ttl, &table.max_ttl)
        && max < unasked
    {
        let max = in_words(max);
        return Err(match &table.ttl {
            Some(ttl) => ttl.spot.wrong(format!(
                "{} is longer than max_ttl {max}, make one of them fit the other",
                in_words(unasked)
            )),
            None => limit.spot.wrong(format!(
                "{max} is shorter than default_ttl {}, write a shorter ttl here as well",
                in_words(unasked)
            )),
        });
    }
    let hold = table.hold.as_ref().map_or(Ok(Hold::No), check_usual_hold)?;
    if let (Some(max), Some(spot)) = (max_hold_secs, table.hold.as_ref().map(|it| &it.spot))
        && !matches!(hold, Hold::No)
        && !matches!(hold, Hold::For(secs) if secs <= max)
    {
        let max = format_secs(max.into());
        return Err(spot.wrong(format!("is longer than max_hold {max}, make them fit")));
    }
    let of_resource = OfResource { names: names.clone(), backend, ttl: unasked, hold };
    Ok((of_resource, Cap { line: table.spot.line, names, max_ttl, max_hold_secs }))
}

fn check_rule(table: &RuleTable) -> Result<Rule, Wrong> {
    let missing = |key: &str, example: &str| {
        table.spot.below(key).wrong(format!("is missing, write for example {key} = {example}"))
    };
    let Some(who) = &table.who else {
        return Err(missing("who", "[\"group:ops\"]"));
    };
    if who.value.is_empty() {
        return Err(who.spot.wrong("is empty, write for example [\"everyone\"]"));
    }
    let Some(may) = &table.may else {
        return Err(missing("may", "[\"read\"], or [] to forbid all"));
    };
    let acts = may.value.iter().map(check_act).collect::<Result<Vec<_>, _>>()?;
    if !acts.contains(&Act::Acquire) {
        let ttl_or_hold = table.max_ttl.as_ref().or(table.max_hold.as_ref()).map(|it| &it.spot);
        if let Some(spot) = ttl_or_hold.or(table.max_leases.as_ref().map(|it| &it.spot)) {
            return Err(spot.wrong(
                "has no effect: this rule lets nobody acquire; add \"acquire\" to may, or \
                 remove it",
            ));
        }
    }
    Ok(Rule {
        line: table.spot.line,
        who: who.value.iter().map(check_subject).collect::<Result<_, _>>()?,
        resources: match &table.resources {
            Some(globs) => check_globs(Some(globs), &globs.spot)?,
            None => vec![Glob::new("*")],
        },
        may: acts,
        permit: Permit {
            max_ttl: table.max_ttl.as_ref().map(check_ttl).transpose()?,
            max_hold_secs: table.max_hold.as_ref().map(check_hold).transpose()?,
            max_leases: table.max_leases.as_ref().map_or(Ok(LEASES_MAX), check_leases)?,
            require_reason: table.require_reason.as_ref().is_some_and(|it| it.value),
            ..Permit::default()
        },
    })
}

fn check_subject(subject: &Placed<String>) -> Result<Subject, Wrong> {
    let Placed { value, spot } = subject;
    let wrong = |advice: String| spot.wrong(format!("{value:?} is nobody, write {advice}"));
    match value.split_once(':') {
        None if value == "root" => Ok(Subject::Uid(Uid(0))),
        None if value == "everyone" => Ok(Subject::Everyone),
        Some(("user", name)) if is_number(name) => Err(wrong(format!("\"uid:{name}\""))),
        Some(("user", name)) if is_account(name) => Ok(Subject::User(name.to_owned())),
        Some(("group", name)) if is_account(name) => Ok(Subject::Group(name.to_owned())),
        Some(("uid", number)) if is_number(number) => number
            .parse()
            .map(|uid| Subject::Uid(Uid(uid)))
            .map_err(|_| wrong(format!("a uid up to {}", u32::MAX))),
        None if is_account(value) => {
            let forms = format!("\"user:{value}\", \"group:{value}\"");
            Err(wrong(format!("{forms}, \"root\" or \"everyone\"")))
        }
        _ => Err(wrong("root, everyone, user:NAME, group:NAME or uid:NUMBER".to_owned())),
    }
}

fn check_act(act: &Placed<String>) -> Result<Act, Wrong> {
    let known = Act::ALL.map(Act::as_str);
    Act::ALL.into_iter().find(|it| it.as_str() == act.value).ok_or_else(|| {
        let advice = match nearest(&act.value, &known) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("there are: {}", known.join(", ")),
        };
        act.spot.wrong(format!("there is no act {:?} ({advice})", act.value))
    })
}

fn check_globs(
    globs: Option<&Placed<Vec<Placed<String>>>>,
    missing: &Spot,
) -> Result<Vec<Glob>, Wrong> {
    let example = "write for example [\"prod/*\"], or [\"*\"] for all";
    let Some(globs) = globs else {
        return Err(missing.wrong(format!("is missing, {example}")));
    };
    if globs.value.is_empty() {
        return Err(globs.spot.wrong(format!("is empty, {example}")));
    }
    globs.value.iter().map(check_glob).collect()
}

/// Refuses patterns that no resource can match: somebody meant something else.
fn check_glob(glob: &Placed<String>) -> Result<Glob, Wrong> {
    let Placed { value, spot } = glob;
    let wrong = |what: String| Err(spot.wrong(format!("{value:?} matches no resource: {what}")));
    if let Some(bad) = value.chars().find(|c| !is_resource_char(*c) && !"*?".contains(*c)) {
        return wrong(format!("{bad:?} stands in none (write * for any run, ? for one character)"));
    }
    match value.chars().next() {
        None => return wrong("it is empty (write \"*\" for all)".to_owned()),
        Some(first) if !first.is_ascii_alphanumeric() && !"*?".contains(first) => {
            return wrong("they begin with a letter or a digit".to_owned());
        }
        Some(_) if value.len() > RESOURCE_MAX => {
            return wrong(format!("they have at most {RESOURCE_MAX} characters"));
        }
        Some(_) => {}
    }
    Ok(Glob::new(value))
}

fn check_ttl(text: &Placed<String>) -> Result<Ttl, Wrong> {
    Ttl::from_secs(secs(text)?)
        .map_err(|error| text.spot.wrong(format!("{:?} is no ttl: {error}", text.value)))
}

fn check_hold(text: &Placed<String>) -> Result<u32, Wrong> {
    match u32::try_from(secs(text)?) {
        Ok(0) => Err(text.spot.wrong("is zero, write at least 1s")),
        Ok(fits) => Ok(fits),
        Err(_) => Err(text.spot.wrong(format!(
            "{:?} is too long, write at most {}",
            text.value,
            format_secs(u32::MAX.into())
        ))),
    }
}

/// `no`, `keep`, or how long.
fn check_usual_hold(text: &Placed<String>) -> Result<Hold, Wrong> {
    match text.value.as_str() {
        "no" => Ok(Hold::No),
        "keep" => Ok(Hold::Keep),
        _ => check_hold(text).map(Hold::For),
    }
}

fn check_leases(number: &Placed<u64>) -> Result<usize, Wrong> {
    match usize::try_from(number.value) {
        Ok(0) => Err(number.spot.wrong("is zero, take \"acquire\" out of may instead")),
        Ok(fits) if fits <= LEASES_MAX => Ok(fits),
        _ => Err(number.spot.wrong(format!("is above the limit, write at most {LEASES_MAX}"))),
    }
}

fn secs(text: &Placed<String>) -> Result<u64, Wrong> {
    let Placed { value, spot } = text;
    parse_secs(value).map_err(|error| spot.wrong(format!("{value:?} is not a duration: {error}")))
}

fn in_words(ttl: Ttl) -> String {
    format_secs(ttl.as_secs().into())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Directories other than /etc/passwd have names with spaces, backslashes and `@`, but none with a
/// colon.
fn is_account(text: &str) -> bool {
    !text.is_empty() && !text.contains(':') && !text.chars().any(char::is_control)
}
