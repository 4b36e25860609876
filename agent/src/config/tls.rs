//! The keys about TLS, which are the same for every store that has it.

use std::path::PathBuf;

use super::file::Text;
use super::reader::Wrong;
use super::{Outside, Purpose, secret};
use crate::backend::tls;

/// Whom to trust, and how to name ourselves.
pub(super) type Files = (Option<PathBuf>, Option<(PathBuf, PathBuf)>);

/// Checks what `ca_file`, `client_cert_file` and `client_key_file` say. Whether those files are any
/// good counts for `stormlockd check` only: to an agent it is a store that is down.
pub(super) fn check(ca: &Text, cert: &Text, key: &Text, outside: &Outside) -> Result<Files, Wrong> {
    let ca_file = ca.as_ref().map(secret::absolute).transpose()?;
    let client_cert = match (cert, key) {
        (Some(cert), Some(key)) => Some((secret::absolute(cert)?, secret::absolute(key)?)),
        (Some(cert), None) => return Err(cert.spot.wrong("has no key, add client_key_file")),
        (None, Some(key)) => {
            return Err(key.spot.wrong("has no certificate, add client_cert_file"));
        }
        (None, None) => None,
    };
    if outside.purpose == Purpose::Check {
        if let (Some(ca), Some(path)) = (ca, &ca_file) {
            tls::check_authorities(path).map_err(|why| ca.spot.wrong(why))?;
        }
        if let (Some(cert), Some(paths)) = (cert, &client_cert) {
            tls::check_client(paths).map_err(|why| cert.spot.wrong(why))?;
        }
    }
    Ok((ca_file, client_cert))
}
