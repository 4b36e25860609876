//! Certificates for a test's own servers on this host. Shared by path between test binaries, so it
//! needs std and rcgen only.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// An authority and what it signed, as PEM files in a directory.
pub(crate) struct Certificates {
    dir: PathBuf,
    /// Where they are copies.
    own: Option<tempfile::TempDir>,
}

impl Certificates {
    /// Makes an authority, a server (127.0.0.1 and localhost) and a client in `dir`.
    pub(crate) fn make(dir: &Path) -> Certificates {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // A name of its own: a certificate whose issuer has its own name looks self-signed.
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let put = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect(name);
            // Keys are for their owner.
            std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect(name);
        };
        put("ca.pem", ca.pem());
        for (name, hosts) in [("server", &["127.0.0.1", "localhost"][..]), ("client", &["client"])]
        {
            let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(hosts).expect("plain names");
            let signed = params.signed_by(&key, &ca).expect("a certificate");
            put(&format!("{name}.pem"), signed.pem());
            put(&format!("{name}.key"), key.serialize_pem());
        }
        Certificates { dir: dir.to_owned(), own: None }
    }

    /// The same as files of this process's own, when another user is going to own those.
    #[allow(dead_code, reason = "not every test has servers of another user")]
    pub(crate) fn copied(&self) -> Certificates {
        let own = tempfile::tempdir().expect("a directory");
        for name in ["ca.pem", "server.pem", "server.key", "client.pem", "client.key"] {
            std::fs::copy(self.dir.join(name), own.path().join(name)).expect(name);
        }
        Certificates { dir: own.path().to_owned(), own: Some(own) }
    }

    /// The authority's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// `server` or `client`: the certificate and its key.
    pub(crate) fn pair(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}.key")))
    }
}
