//! A password file as libpq has it (`~/.pgpass`): `HOST:PORT:DATABASE:USER:PASSWORD` on each line,
//! `*` for any, `\` before a `:` or `\` that is meant as such. Who may read it is checked where it
//! is read.

use std::fmt;

use secrecy::SecretString;

use super::place::Place;

/// Its lines.
#[derive(Clone)]
pub(super) struct Passfile(Vec<Line>);

#[derive(Clone)]
struct Line {
    fields: [String; 4],
    password: SecretString,
}

impl fmt::Debug for Passfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passfile({} lines)", self.0.len())
    }
}

impl Passfile {
    /// Lines that are none are left out, as libpq does.
    pub(super) fn parse(text: &str) -> Passfile {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Passfile(lines.filter_map(Line::parse).collect())
    }

    /// The first password that fits.
    pub(super) fn find(&self, place: &Place, database: &str, user: &str) -> Option<SecretString> {
        let (host, port) = place.host_and_port();
        let port = port.to_string();
        let wanted = [host, &port, database, user];
        let fits = |line: &&Line| {
            line.fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted)
        };
        self.0.iter().find(fits).map(|line| line.password.clone())
    }
}

impl Line {
    fn parse(line: &str) -> Option<Line> {
        let mut fields = [const { String::new() }; 5];
        let mut at = 0;
        let mut chars = line.trim_end_matches('\r').chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => fields.get_mut(at)?.push(chars.next()?),
                ':' if at < 4 => at += 1,
                c => fields.get_mut(at)?.push(c),
            }
        }
        let [host, port, database, user, password] = fields;
        let is_whole = at == 4 && !password.is_empty();
        is_whole.then(|| Line {
            fields: [host, port, database, user],
            password: SecretString::from(password),
        })
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let file = Passfile::parse(
            "# a remark\nshort:line\ndb1:5432:locks:stormlock:one\r\ndb2:*:*:*:t\\:w\\\\o:\n\
             *:*:*:other:any\nlocalhost:6:*:*:socket\n*:*:*:*:\n",
        );
        let tcp = |host: &str, port| Place::Tcp { host: host.to_owned(), port };
        for (place, user, expected) in [
            (tcp("db1", 5432), "stormlock", Some("one")),
            (tcp("db1", 5433), "stormlock", None),
            (tcp("db2", 1), "x", Some("t:w\\o:")),
            (tcp("db1", 5432), "other", Some("any")),
            (Place::Unix("/run".into(), 6), "x", Some("socket")),
        ] {
            let found = file.find(&place, "locks", user);
            let found = found.as_ref().map(|password| password.expose_secret());
            assert_eq!(found, expected, "{place} {user}");
        }
        assert!(!format!("{file:?}").contains("one"));
    }
}
