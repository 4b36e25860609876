//! TLS to a store: rustls with ring, our own socket below. Names are always verified; there is no
//! way to turn that off.
//!
//! Certificates are read for each connection, so that renewed ones need no restart, and once when
//! the store is opened, so that a wrong path is told at once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::OpenError;

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
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let versions =
            ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions();
        let trusting = versions.map_err(|e| e.to_string())?.with_root_certificates(self.roots()?);
        let Some((certificate, key)) = &self.client_cert else {
            return Ok(trusting.with_no_client_auth());
        };
        let chain = certificates(certificate)?;
        let secret = PrivateKeyDer::from_pem_file(key)
            .map_err(|e| format!("reading the client key {}: {}", key.display(), words(&e)))?;
        trusting.with_client_auth_cert(chain, secret).map_err(|e| {
            format!("the client certificate {} does not fit its key: {e}", certificate.display())
        })
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca_file {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| format!("{}: {e}", path.display()))?;
            }
            return Ok(roots);
        }
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("this system has no certificate authorities: install ca-certificates, or \
                        set ca_file"
                .to_owned());
        }
        Ok(roots)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all =
        read.map_err(|e| format!("reading certificates {}: {}", path.display(), words(&e)))?;
    if all.is_empty() {
        return Err(format!("there is no PEM certificate in {}", path.display()));
    }
    Ok(all)
}

/// The library's errors quote what they read; a key is none of a log's business.
fn words(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "there is none in it".to_owned(),
        _ => "it is not in PEM format".to_owned(),
    }
}
