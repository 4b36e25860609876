//! What callers are called in the stores: the template `{user}@{host}`.

use stormlock_protocol::name::{PRINCIPAL_MAX, Principal};

use crate::policy::Who;

/// Most digits of a uid.
const UID_DIGITS: usize = 10;

/// A template that names each user differently, with the host filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    User,
    Uid,
}

impl Template {
    /// `{user}@{host}`, of a configuration that has none.
    pub(super) fn standard(host: &str) -> Template {
        Template(vec![Piece::User, Piece::Text(format!("@{host}"))])
    }

    /// Reads a template; the error says what to write instead.
    pub(super) fn parse(text: &str, host: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else {
                return Err("has a { without its }".to_owned());
            };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(match name {
                "user" => Piece::User,
                "uid" => Piece::Uid,
                "host" => Piece::Text(host.to_owned()),
                other => {
                    return Err(format!(
                        "{{{other}}} means nothing, write {{user}}, {{uid}} or {{host}}"
                    ));
                }
            });
            rest = after;
        }
        if rest.contains('}') {
            return Err("has a } without its {".to_owned());
        }
        pieces.push(Piece::Text(rest.to_owned()));
        if !pieces.iter().any(|piece| matches!(piece, Piece::User | Piece::Uid)) {
            return Err("would call every user the same, write {user} or {uid} into it".to_owned());
        }
        let template = Template(pieces);
        let longest = template.fill(&"9".repeat(UID_DIGITS), &"9".repeat(UID_DIGITS));
        match Principal::new(longest) {
            Ok(_) => Ok(template),
            Err(error) => {
                Err(format!("makes no principal of at most {PRINCIPAL_MAX} visible bytes: {error}"))
            }
        }
    }

    /// The principal of a caller. A user name that is too long or holds invisible characters is
    /// replaced by the uid: cut or tamed, two users could be called the same.
    pub(super) fn principal(&self, who: &Who) -> Principal {
        let uid = who.uid.0.to_string();
        Principal::new(self.fill(&who.user, &uid))
            .unwrap_or_else(|_| Principal::foreign(&self.fill(&uid, &uid)))
    }

    fn fill(&self, user: &str, uid: &str) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            Piece::User => user,
            Piece::Uid => uid,
        });
        pieces.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::known;

    fn called(template: &str, uid: u32, user: &str) -> String {
        let who = known(uid, user, &[]);
        let template = Template::parse(template, "bastion2").unwrap();
        template.principal(&who).as_str().to_owned()
    }

    #[test]
    fn a_template_is_filled_from_what_the_kernel_says() {
        assert_eq!(called("{user}@{host}", 1000, "maria"), "maria@bastion2");
        assert_eq!(called("{host}/{uid} ({user})", 1000, "maria"), "bastion2/1000 (maria)");
        assert_eq!(called("{uid}", u32::MAX, "x"), "4294967295");
    }

    #[test]
    fn a_user_name_that_is_no_principal_gives_way_to_the_uid() {
        for strange in ["a\u{202e}b", "a\nb", &"x".repeat(PRINCIPAL_MAX)] {
            assert_eq!(called("{user}@{host}", 1000, strange), "1000@bastion2");
        }
    }

    #[test]
    fn the_standard_template_is_user_at_host() {
        let who = known(7, "maria", &[]);
        assert_eq!(Template::standard("bastion2").principal(&who).as_str(), "maria@bastion2");
    }

    #[test]
    fn a_user_name_is_never_read_as_a_template() {
        assert_eq!(called("{user}@{host}", 1000, "{uid}"), "{uid}@bastion2");
    }

    #[test]
    fn a_template_that_cannot_name_users_is_refused() {
        let long = "x".repeat(PRINCIPAL_MAX) + "{user}";
        for (template, expected) in [
            ("ops@{host}", "would call every user the same, write {user} or {uid} into it"),
            ("{name}", "{name} means nothing, write {user}, {uid} or {host}"),
            ("{user", "has a { without its }"),
            ("user}", "has a } without its {"),
            (
                "{user}\u{200b}",
                "makes no principal of at most 128 visible bytes: it contains the invisible or \
                 control character U+200B",
            ),
            (
                &long,
                "makes no principal of at most 128 visible bytes: it has 138 bytes, the limit is \
                 128",
            ),
        ] {
            assert_eq!(Template::parse(template, "h").unwrap_err(), expected);
        }
    }
}
