//! TLS to a store: rustls with ring, our own socket below. Names are always verified; there is no
//! way to turn that off.
//!
//! Certificates are read for each connection, so that renewed ones need no restart, and once when
//! the store is opened, so that a wrong path is told at once.

use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::zeroize::Zeroizing;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::OpenError;
use crate::others;

/// Longest file, in bytes: all authorities of a system are a quarter of it.
const FILE_MAX: u64 = 1024 * 1024;
/// Permission bits of everyone who is neither owner nor in the group.
const EVERYONE: u32 = 0o007;

/// Whom to trust and how to name ourselves.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    ca_file: Option<PathBuf>,
    client_cert: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    pub(super) fn new(
        ca_file: Option<PathBuf>,
        client_cert: Option<(PathBuf, PathBuf)>,
    ) -> Result<Tls, OpenError> {
        let tls = Tls { ca_file, client_cert };
        tls.config().map_err(OpenError::Setting)?;
        Ok(tls)
    }

    /// Greets `host` on a new connection.
    pub(super) async fn over(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = self.fresh().await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// The certificates as they are now.
    pub(super) async fn fresh(&self) -> io::Result<ClientConfig> {
        let tls = self.clone();
        let read = tokio::task::spawn_blocking(move || tls.config()).await;
        read.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    fn config(&self) -> Result<ClientConfig, String> {
        self.trusting(self.roots()?)
    }

    fn trusting(&self, roots: RootCertStore) -> Result<ClientConfig, String> {
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let versions =
            ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions();
        let trusting = versions.map_err(|e| e.to_string())?.with_root_certificates(roots);
        let Some((certificate, key)) = &self.client_cert else {
            return Ok(trusting.with_no_client_auth());
        };
        let chain = certificates(certificate)?;
        let secret = private_key(key)?;
        trusting.with_client_auth_cert(chain, secret).map_err(|e| {
            format!("the client certificate {} does not fit its key: {e}", certificate.display())
        })
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        if let Some(path) = &self.ca_file {
            return authorities(path);
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("this system has no certificate authorities: install ca-certificates, or \
                        set ca_file"
                .to_owned());
        }
        Ok(roots)
    }
}

/// Whether a file has authorities to be trusted in it; else why not, in words.
pub(crate) fn check_authorities(path: &Path) -> Result<(), String> {
    authorities(path).map(drop)
}

/// Whether a certificate and its key are there and fit; else why not, in words.
pub(crate) fn check_client(paths: &(PathBuf, PathBuf)) -> Result<(), String> {
    // Whom it trusts is another question.
    let nobody = RootCertStore::empty();
    Tls { ca_file: None, client_cert: Some(paths.clone()) }.trusting(nobody).map(drop)
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |why: String| format!("reading certificates {}: {why}", path.display());
    let (bytes, _) = read(path).map_err(failed)?;
    let all = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|e| failed(words(&e)))?;
    if all.is_empty() {
        return Err(format!("there is no PEM certificate in {}", path.display()));
    }
    Ok(all)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let failed = |why: String| format!("reading the client key {}: {why}", path.display());
    let (bytes, found) = read(path).map_err(failed)?;
    if found.mode() & EVERYONE != 0 {
        return Err(format!("{0} is open to everyone, run: chmod o= {0}", path.display()));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| failed(words(&e)))
}

/// The whole file: what nobody else can change, and no pipe that is waited for.
fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Metadata), String> {
    let (file, found) = others::open(path).map_err(|e| e.to_string())?;
    if let Some(why) = others::changed_by(path, &found).map_err(|e| e.to_string())? {
        return Err(why);
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    match u64::try_from(bytes.len()) {
        Ok(len) if len <= FILE_MAX => Ok((bytes, found)),
        _ => Err(format!("it has more than {FILE_MAX} bytes")),
    }
}

/// The library's errors quote what they read; a key is none of a log's business.
fn words(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "there is none in it".to_owned(),
        _ => "it is not in PEM format".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::process::Command;

    use super::super::certs::Certificates;
    use super::*;

    #[test]
    fn certificates_that_others_could_change_and_keys_that_others_could_read_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let ours = Certificates::make(dir.path());
        let (ca, client) = (ours.ca(), ours.pair("client"));
        let chmod = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        let checked = || (check_authorities(&ca).err(), check_client(&client).err());
        assert_eq!(checked(), (None, None));
        chmod(&ca, 0o646);
        chmod(&client.1, 0o604);
        let (of_ca, of_client) = checked();
        assert!(of_ca.unwrap().contains("everyone can change it, run: chmod o-w"));
        assert!(of_client.unwrap().contains("open to everyone, run: chmod o="));
        chmod(&ca, 0o644);
        chmod(&client.1, 0o640);
        assert_eq!(checked(), (None, None));
        chmod(dir.path(), 0o777);
        let (of_ca, of_client) = checked();
        assert!(of_ca.unwrap().contains("everyone can replace it"));
        assert!(of_client.unwrap().contains("everyone can replace it"));
        chmod(dir.path(), 0o755);
        chown(&ca, Some(7), None).expect("tests run as root");
        assert!(checked().0.unwrap().contains("belongs to uid 7"));
    }

    #[test]
    fn what_is_no_file_or_has_no_end_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(check_authorities(&pipe).unwrap_err().contains("it is a pipe"));
        assert!(check_authorities(Path::new("/dev/zero")).unwrap_err().contains("it is a device"));
        let huge = dir.path().join("huge");
        fs::File::create(&huge).unwrap().set_len(FILE_MAX + 1).unwrap();
        assert!(check_authorities(&huge).unwrap_err().contains("more than"));
    }
}
