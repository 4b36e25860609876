//! Whom to trust over TLS: rustls with ring. Names are always verified; there is no way to turn
//! that off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Certificates of authorities to trust (`None` for the system's), and our own with its key.
pub(super) fn config(
    ca_file: Option<&Path>,
    client_cert: Option<&(PathBuf, PathBuf)>,
) -> Result<ClientConfig, String> {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions();
    let trusting = versions.map_err(|e| e.to_string())?.with_root_certificates(roots(ca_file)?);
    let Some((certificate, key)) = client_cert else {
        return Ok(trusting.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| format!("reading the client key {}: {}", key.display(), words(&e)))?;
    trusting.with_client_auth_cert(chain, secret).map_err(|e| {
        format!("the client certificate {} does not fit its key: {e}", certificate.display())
    })
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        // None at all is told when somebody has to be trusted: an endpoint may do without TLS.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(roots)
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
