//! The Python tool's section of etcd, in the keys that our configuration has.

use super::ini::{Section, Value};
use super::{Import, ImportError, quoted};

/// What the Python tool takes when the file says nothing.
const HOST: &str = "localhost";
const PORT: &str = "2379";
/// Where the password is expected.
const PASSWORD: &str = "/etc/stormlock/etcd.password";

impl Import<'_> {
    pub(super) fn etcd(&mut self, section: Option<&Section>) -> Result<(), ImportError> {
        let get = |key| section.map(|section| self.ini.get(section, key)).transpose();
        let get = |key| Ok::<_, ImportError>(get(key)?.flatten());
        let (host, port) = (get("host")?, get("port")?);
        let (user, password) = (get("user")?, get("password")?);
        let prefix = get("prefix")?;
        let files = [
            ("ca_file", get("ca_cert")?),
            ("client_cert_file", get("cert_cert")?),
            ("client_key_file", get("cert_key")?),
        ];
        let timeout = get("timeout")?;

        let text = |value: &Option<Value>, default: &str| {
            value.as_ref().map_or(default, |value| &value.text).to_owned()
        };
        // As in the Python tool: TLS is what a certificate of an authority brings.
        let is_tls = files.iter().any(|(key, value)| *key == "ca_file" && value.is_some());
        let scheme = if is_tls { "https" } else { "http" };
        let endpoint = format!("{scheme}://{}:{}", text(&host, HOST), text(&port, PORT));
        let line = host.as_ref().or(port.as_ref()).map_or(0, |value| value.line);
        crate::config::etcd::check_endpoint(&endpoint).map_err(|_| {
            ImportError::new(line, "host and port are not the address of an etcd".to_owned())
        })?;
        self.toml.push_str("\n[backend.etcd]\nkind = \"etcd\"\n");
        self.toml.push_str(&format!("endpoints = [{}]\n", quoted(&endpoint)));
        if let Some(prefix) = prefix {
            self.put("key_prefix", &prefix.text);
        }
        self.etcd_login(user.as_ref(), password.as_ref());
        for (key, Value { text, line }) in
            files.into_iter().filter_map(|(key, value)| Some((key, value?)))
        {
            if is_tls && text.starts_with('/') {
                self.put(key, &text);
            } else {
                self.note(format!(
                    "{key} {text:?} (line {line}) is left out: it takes a full path"
                ));
            }
        }
        if let Some(timeout) = timeout {
            let line = timeout.line;
            self.note(format!("\"timeout\" (line {line}) is left out: the agent has its own"));
        }
        Ok(())
    }

    fn etcd_login(&mut self, user: Option<&Value>, password: Option<&Value>) {
        match (user, password) {
            (None, None) => {}
            (Some(user), Some(password)) => {
                self.put("username", &user.text);
                self.put("password_file", PASSWORD);
                let line = password.line;
                self.note(format!(
                    "the password (line {line}) is not copied: run install -m 600 /dev/null \
                     {PASSWORD}, write it into that file, and give the file to the agent's user"
                ));
            }
            (Some(user), None) => {
                self.note(format!("user {:?} has no password, left out", user.text));
            }
            (None, Some(password)) => {
                let line = password.line;
                self.note(format!("the password (line {line}) has no user, left out"));
            }
        }
    }
}
