//! TLS, in front of the emulator, which has none.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::certs::Certificates;
use super::proxy::Proxy;
use super::*;

/// A door with TLS in front of `upstream`; its port. It goes with the test's runtime.
async fn door(upstream: u16, certificates: &Certificates, asks_for_client: bool) -> u16 {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(ring.clone());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = if asks_for_client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificates.ca()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), ring);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let (certificate, key) = certificates.pair("server");
    let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
    let config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut inside) = acceptor.accept(stream).await else { return };
                let mut server = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut server).await;
            });
        }
    });
    port
}

fn certificates() -> (tempfile::TempDir, Certificates) {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(dir.path());
    (dir, certificates)
}

fn by_tls(port: u16, host: &str, ca: &Path, client: Option<(PathBuf, PathBuf)>) -> DynamoDb {
    let options = Options {
        ca_file: Some(ca.to_owned()),
        client_cert: client,
        ..options(&format!("https://{host}:{port}"))
    };
    DynamoDb::new(&options, clock::now).unwrap()
}

#[tokio::test]
async fn a_lock_is_taken_by_tls_from_whom_the_authority_vouches_for() {
    let server = DynamoServer::start();
    let (_dir, ours) = certificates();
    let port = door(server.port(), &ours, false).await;
    for host in ["127.0.0.1", "localhost"] {
        let store = by_tls(port, host, &ours.ca(), None);
        granted(&store, &claim(&resource("tls"), 60)).await;
    }
}

#[tokio::test]
async fn a_server_that_the_authority_does_not_vouch_for_is_refused() {
    let server = DynamoServer::start();
    let ((_dir, ours), (_other_dir, others)) = (certificates(), certificates());
    let port = door(server.port(), &ours, false).await;
    let store = by_tls(port, "127.0.0.1", &others.ca(), None);
    let claim = claim(&resource("tls"), 60);
    assert_eq!(outcome(store.acquire(&claim).await), "Unreachable");
    // Nor by the system's authorities, if there are any.
    let system = options(&format!("https://127.0.0.1:{port}"));
    let store = DynamoDb::new(&system, clock::now).unwrap();
    assert_eq!(outcome(store.acquire(&claim).await), "Unreachable");
    assert_eq!(server.item(claim.resource.as_str()), Value::Null);
}

#[tokio::test]
async fn a_server_that_wants_client_certificates_gets_ours() {
    let server = DynamoServer::start();
    let (_dir, ours) = certificates();
    let port = door(server.port(), &ours, true).await;
    let claim = claim(&resource("tls"), 60);
    let nobody = by_tls(port, "127.0.0.1", &ours.ca(), None);
    assert_eq!(outcome(nobody.acquire(&claim).await), "Unreachable");
    let store = by_tls(port, "127.0.0.1", &ours.ca(), Some(ours.pair("client")));
    granted(&store, &claim).await;
}

#[tokio::test]
async fn an_abandoned_call_over_tls_is_reset_as_well() {
    let server = DynamoServer::start();
    let (_dir, ours) = certificates();
    let proxy = Proxy::start(door(server.port(), &ours, false).await);
    let store = by_tls(proxy.port(), "127.0.0.1", &ours.ca(), None);
    let claim = claim(&resource("tls"), 60);
    granted(&store, &claim).await;
    proxy.freeze();
    let polls = std::cell::Cell::new(0);
    let known = proof(&claim);
    network::dropped_when(store.verify(&known), || polls.replace(polls.get() + 1) == 50).await;
    proxy.thaw();
    network::comes_true("no reset", || proxy.resets() > 0).await;
    assert!(store.holder(&claim.resource).await.unwrap().is_some());
}

#[test]
fn certificates_that_cannot_work_are_refused_when_the_store_is_opened() {
    let (dir, ours) = certificates();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    std::fs::set_permissions(&empty, Permissions::from_mode(0o600)).unwrap();
    let (client, _) = ours.pair("client");
    let (_, server_key) = ours.pair("server");
    let base = || options("https://127.0.0.1:1");
    for (options, expected) in [
        (Options { ca_file: Some("/no/such.pem".into()), ..base() }, "reading certificates"),
        (Options { ca_file: Some(empty.clone()), ..base() }, "there is no PEM certificate"),
        (Options { client_cert: Some((client.clone(), server_key)), ..base() }, "does not fit"),
        (Options { client_cert: Some((client, empty)), ..base() }, "reading the client key"),
    ] {
        let error = DynamoDb::new(&options, clock::now).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
