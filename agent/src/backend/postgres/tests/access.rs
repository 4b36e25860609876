//! Passwords, rights and TLS.

use super::*;

const SCRAM: &str = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";

fn with_password(server: &PostgresServer, password: Option<&str>) -> Postgres {
    let password = password.map(SecretString::from);
    let options = Options { password, ..options(&server.url()) };
    assert!(!format!("{options:?}").contains("hunter"));
    let store = Postgres::new(&options).unwrap();
    assert!(!format!("{store:?}").contains("hunter"));
    store
}

#[tokio::test]
async fn a_wrong_password_is_said_without_repeating_it() {
    let server = PostgresServer::start_with(&[], SCRAM);
    made(&server);
    server.sql("ALTER ROLE stormlock PASSWORD 'hunter2'");
    let on = resource("password");
    for password in [None, Some("hunter3")] {
        let Err(BackendError::Refused { kind: RefusedKind::Credentials, why }) =
            with_password(&server, password).holder(&on).await
        else {
            panic!("let in with {password:?}")
        };
        assert!(!why.contains("hunter"), "{why}");
    }
    granted(&with_password(&server, Some("hunter2")), &claim(&on, 60)).await;
}

#[tokio::test]
async fn a_password_file_has_the_password_of_each_host() {
    let server = PostgresServer::start_with(&[], SCRAM);
    made(&server);
    server.sql("ALTER ROLE stormlock PASSWORD 'hunter2'");
    let on = resource("passfile");
    let port = server.port();
    for (text, says) in [
        (format!("127.0.0.1:{port}:locks:stormlock:hunter2\n"), "None"),
        (format!("other:*:*:*:hunter2\n127.0.0.1:{port}:other:*:hunter2\n"), "Credentials"),
    ] {
        let passfile = Some(SecretString::from(text));
        let store = Postgres::new(&Options { passfile, ..options(&server.url()) }).unwrap();
        assert_eq!(outcome(store.holder(&on).await), says);
    }
}

#[tokio::test]
async fn a_database_or_role_that_is_not_there_is_told() {
    let server = ready();
    let on = resource("nowhere");
    let other = open(&format!("postgres://127.0.0.1:{}/other", server.port()));
    assert_eq!(outcome(other.holder(&on).await), "NotSetUp(NoDatabase)");
    let nobody = Options { username: "nobody".to_owned(), ..options(&server.url()) };
    let nobody = Postgres::new(&nobody).unwrap();
    assert_eq!(outcome(nobody.holder(&on).await), "Credentials");
}

#[tokio::test]
async fn the_rights_that_setup_prints_are_enough() {
    let server = PostgresServer::start();
    let options = Options { username: "agent".to_owned(), ..options(&server.url()) };
    server.sql("CREATE ROLE agent LOGIN");
    let store = Postgres::new(&options).unwrap();
    server.sql(&store.setup_by_hand().unwrap());
    let claim = claim(&resource("rights"), 60);
    granted(&store, &claim).await;
    store.renew(&proof(&claim), ttl(60), claim.nonce).await.unwrap();
    store.verify(&proof(&claim)).await.unwrap();
    assert_eq!(store.list(None, 10).await.unwrap().len(), 1);
    store.release(&proof(&claim)).await.unwrap();
    store.cancel(&claim.resource, claim.lease).await.unwrap();
    assert!(store.identity().is_some());
    let remarks = store.examine().await.unwrap();
    let bad: Vec<_> = remarks.iter().filter(|it| it.level == Level::Bad).collect();
    assert_eq!(bad.len(), 1, "only fsync: {bad:#?}");
}

#[tokio::test]
async fn a_user_without_rights_is_told_so_and_changes_nothing() {
    let server = ready();
    server.sql("CREATE ROLE poor LOGIN");
    let options = Options { username: "poor".to_owned(), ..options(&server.url()) };
    let claim = claim(&resource("poor"), 60);
    for grant in [
        "SELECT ON stormlock",
        "SELECT ON stormlock_ext",
        "INSERT, UPDATE ON stormlock",
        "INSERT ON stormlock_ext",
    ] {
        let store = Postgres::new(&options).unwrap();
        assert_eq!(outcome(store.acquire(&claim).await), "Credentials", "before {grant}");
        server.sql(&format!("GRANT {grant} TO poor"));
    }
    assert_eq!(server.sql("SELECT count(*) FROM stormlock"), "0");
    let store = Postgres::new(&options).unwrap();
    let remarks = store.examine().await.unwrap();
    assert!(remarks.iter().any(|it| it.level == Level::Bad && it.text.contains("permission")));
    server.sql("GRANT UPDATE ON stormlock_ext TO poor");
    granted(&store, &claim).await;
    let remarks = store.examine().await.unwrap();
    let missing = "the user may not: DELETE on \"stormlock\"";
    assert!(remarks.iter().any(|it| it.text == missing), "{remarks:#?}");
}

#[tokio::test]
async fn a_socket_of_this_host_is_reached() {
    let server = ready();
    let (folder, port) = (server.dir().display(), server.port());
    let store = open(&format!("postgres:///locks?host={folder}&port={port}"));
    granted(&store, &claim(&resource("unix"), 60)).await;
    let missing = open("postgres:///locks?host=/nowhere");
    assert_eq!(outcome(missing.holder(&resource("unix")).await), "Unreachable");
}

/// A server that speaks TLS only, and its certificates.
fn tls_server(rule: &str) -> (PostgresServer, Certificates) {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(dir.path()).copied();
    let settings = [
        "ssl=on",
        "ssl_cert_file={dir}/server.pem",
        "ssl_key_file={dir}/server.key",
        "ssl_ca_file={dir}/ca.pem",
    ];
    let hba = format!("local all all trust\nhostssl all all 127.0.0.1/32 {rule}\n");
    let server = PostgresServer::start_in(dir, &settings, &hba);
    made(&server);
    (server, certificates)
}

fn tls_options(port: u16, host: &str, ca: PathBuf) -> Options {
    Options { ca_file: Some(ca), ..options(&format!("postgres://{host}:{port}/locks")) }
}

#[tokio::test]
async fn a_lock_is_taken_by_tls_from_whom_the_authority_vouches_for() {
    let (server, certificates) = tls_server("trust");
    for host in ["127.0.0.1", "localhost"] {
        let store = Postgres::new(&tls_options(server.port(), host, certificates.ca())).unwrap();
        granted(&store, &claim(&resource("tls"), 60)).await;
    }
    // This host needs none, but this server wants it.
    assert_eq!(outcome(open(&server.url()).holder(&resource("tls")).await), "Credentials");
}

#[tokio::test]
async fn a_password_is_bound_to_the_server_s_certificate() {
    let (server, certificates) = tls_server("scram-sha-256");
    server.sql("ALTER ROLE stormlock PASSWORD 'hunter2'");
    let password = Some(SecretString::from("hunter2"));
    let options = tls_options(server.port(), "127.0.0.1", certificates.ca());
    let store = Postgres::new(&Options { password, ..options }).unwrap();
    granted(&store, &claim(&resource("tls"), 60)).await;
}

#[tokio::test]
async fn a_server_that_the_authority_does_not_vouch_for_is_refused() {
    let (server, certificates) = tls_server("trust");
    let elsewhere = tempfile::tempdir().unwrap();
    let others = Certificates::make(elsewhere.path());
    let on = resource("tls");
    let stranger = Postgres::new(&tls_options(server.port(), "127.0.0.1", others.ca())).unwrap();
    let Err(BackendError::Refused { kind: RefusedKind::Unreachable, why }) =
        stranger.holder(&on).await
    else {
        panic!("a stranger was trusted")
    };
    assert!(why.contains("certificate"), "{why}");
    // 127.0.0.2 is this host too, and not in the certificate.
    let other = Postgres::new(&tls_options(server.port(), "127.0.0.2", certificates.ca())).unwrap();
    assert_eq!(outcome(other.holder(&on).await), "Unreachable");
}

#[tokio::test]
async fn a_server_that_wants_client_certificates_gets_ours() {
    let (server, certificates) = tls_server("trust clientcert=verify-ca");
    let bare = tls_options(server.port(), "127.0.0.1", certificates.ca());
    let store = Postgres::new(&bare).unwrap();
    assert_eq!(outcome(store.holder(&resource("tls")).await), "Credentials");
    let known = Options { client_cert: Some(certificates.pair("client")), ..bare };
    let store = Postgres::new(&known).unwrap();
    granted(&store, &claim(&resource("tls"), 60)).await;
}

#[tokio::test]
async fn a_server_without_tls_gets_no_password_where_tls_is_wanted() {
    let server = ready();
    let dir = tempfile::tempdir().unwrap();
    let ca = Certificates::make(dir.path()).ca();
    let store = Postgres::new(&tls_options(server.port(), "127.0.0.1", ca)).unwrap();
    let Err(BackendError::Refused { kind: RefusedKind::Unreachable, why }) =
        store.holder(&resource("tls")).await
    else {
        panic!("it went on without TLS")
    };
    assert!(why.contains("sslmode=disable"), "{why}");
}

#[test]
fn options_that_differ_in_anything_are_not_the_same() {
    let base = options("postgres://a/b");
    assert!(base.same(&base.clone()));
    let path = || Some(PathBuf::from("x"));
    for other in [
        Options { url: "postgres://b/b".to_owned(), ..base.clone() },
        Options { username: "x".to_owned(), ..base.clone() },
        Options { password: Some(SecretString::from("x")), ..base.clone() },
        Options { passfile: Some(SecretString::from("x")), ..base.clone() },
        Options { table: "x".to_owned(), ..base.clone() },
        Options { side_table: false, ..base.clone() },
        Options { ca_file: path(), ..base.clone() },
        Options { client_cert: path().zip(path()), ..base.clone() },
    ] {
        assert!(!base.same(&other), "{other:?}");
    }
}

#[test]
fn options_that_cannot_work_are_refused_when_the_store_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (client, _) = Certificates::make(dir.path()).pair("client");
    let plain = || options("postgres://a/b?sslmode=disable");
    let tls = || options("postgres://a/b");
    for (wrong, word) in [
        (options("postgres://u:hunter2@a/b"), "password"),
        (Options { table: "a b".to_owned(), ..tls() }, "table"),
        (Options { ca_file: Some("/ca.pem".into()), ..plain() }, "sslmode=disable"),
        (Options { ca_file: Some("/nowhere/ca.pem".into()), ..tls() }, "/nowhere/ca.pem"),
        (Options { client_cert: Some((client.clone(), client)), ..tls() }, "client.pem"),
    ] {
        let OpenError::Setting(why) = Postgres::new(&wrong).unwrap_err();
        assert!(why.contains(word) && !why.contains("hunter2"), "{wrong:?}: {why}");
    }
}
