//! A `[backend.dynamodb]` of the Python tool.

use super::ini::Section;
use super::{Import, ImportError};

/// The kind that both the Python tool and this build have.
pub(super) const DYNAMODB: &str = "dynamodb";

/// What each of the tool's keys is called here. The secret is not copied.
const KEYS: [(&str, &str); 5] = [
    ("table", "table"),
    ("region", "region"),
    ("endpoint", "endpoint_url"),
    ("profile", "profile"),
    ("access_key_id", "access_key_id"),
];

impl Import<'_> {
    pub(super) fn dynamodb(&mut self, section: Option<&Section>) -> Result<(), ImportError> {
        self.toml.push_str("\n[backend.dynamodb]\nkind = \"dynamodb\"\n");
        let mut has_keys = false;
        if let Some(section) = section {
            let has = |key: &str| section.keys().any(|known| known == key);
            has_keys = has("access_key_id") && has("secret_access_key");
            for (theirs, ours) in KEYS {
                let value = self.ini.get(section, theirs)?;
                let Some(value) = value.filter(|value| !value.text.is_empty()) else { continue };
                let line = value.line;
                match theirs {
                    // As in the Python tool: keys count before a profile's.
                    "profile" if has_keys => {
                        self.note(format!(
                            "profile (line {line}) is left out: access_key_id counts before it"
                        ));
                    }
                    "access_key_id" if !has_keys => {
                        self.note(format!(
                            "access_key_id (line {line}) has no secret_access_key, left out"
                        ));
                    }
                    _ => self.put(ours, &value.text),
                }
            }
            if let Some(secret) = self.ini.get(section, "secret_access_key")?.filter(|_| has_keys) {
                let (path, line) = ("/etc/stormlock/aws.secret", secret.line);
                self.put("secret_access_key_file", path);
                self.note(format!(
                    "secret_access_key (line {line}) is not copied: run install -m 600 /dev/null \
                     {path}, write it into that file, and give the file to the agent's user"
                ));
            }
        }
        if !has_keys {
            self.note(
                "the keys, and the region if it is not written, are those that the agent's own \
                 user has: its environment, its ~/.aws, or the host's role"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::import;

    #[track_caller]
    fn check(text: &str, toml: &str, notes: &[&str]) {
        let imported = import(&format!("[default]\nbackend = dynamodb\n{text}")).unwrap();
        let (_, after) = imported.toml.split_once("kind = \"dynamodb\"\n").unwrap();
        assert_eq!(after, toml);
        assert_eq!(imported.notes, notes);
    }

    const OWN: &str = "the keys, and the region if it is not written, are those that the agent's \
                       own user has: its environment, its ~/.aws, or the host's role";

    #[test]
    fn a_table_of_the_python_tool_is_imported() {
        check("", "", &[OWN]);
        check(
            "[backend.dynamodb]\ntable = locks\nregion = eu-west-1\nendpoint = http://h:8000\n\
             profile = ops\n",
            "table = \"locks\"\nregion = \"eu-west-1\"\nendpoint_url = \"http://h:8000\"\n\
             profile = \"ops\"\n",
            &[OWN],
        );
        check(
            "[backend.dynamodb]\naccess_key_id = AKIA1\n",
            "",
            &["access_key_id (line 4) has no secret_access_key, left out", OWN],
        );
    }

    #[test]
    fn a_secret_is_not_copied_and_the_note_says_where_it_goes() {
        check(
            "[backend.dynamodb]\naccess_key_id = AKIA1\nsecret_access_key = hunter2\nprofile = p\n",
            "access_key_id = \"AKIA1\"\nsecret_access_key_file = \"/etc/stormlock/aws.secret\"\n",
            &[
                "profile (line 6) is left out: access_key_id counts before it",
                "secret_access_key (line 5) is not copied: run install -m 600 /dev/null \
                 /etc/stormlock/aws.secret, write it into that file, and give the file to the \
                 agent's user",
            ],
        );
    }
}
