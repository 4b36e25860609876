//! What doctor says where it takes more than a setting, and the rights that the README grants.

use super::super::super::readme;
use super::super::super::relay::{relay, write_after};
use super::*;

#[tokio::test]
async fn a_server_that_is_too_old_is_told() {
    let server = RedisServer::start();
    let port = relay(server.port(), |answer| write_after(answer, b"redis_version:", b"5"));
    let remarks = examined(&open(&format!("redis://127.0.0.1:{port}"))).await;
    check_says(&remarks, "Bad: redis 5.");
    assert!(remarks.iter().any(|it| it.ends_with("is older than 6.0")), "{remarks:#?}");
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_and_what_depends_on_it() {
    let server = RedisServer::start();
    // An answer to TIME: seconds of ten digits, then microseconds.
    let port = relay(server.port(), |answer| write_after(answer, b"*2\r\n$10\r\n", b"1000000000"));
    let remarks = examined(&open(&format!("redis://127.0.0.1:{port}"))).await;
    check_says(&remarks, "Note: its clock and this host's are ");
    let means = "no lease depends on it, but fences and times shown to people do";
    assert!(remarks.iter().any(|it| it.ends_with(means)), "{remarks:#?}");
}

#[tokio::test]
async fn a_cluster_and_replicas_are_told_by_what_they_are_worth() {
    let port = server::free_port().to_string();
    let cluster =
        RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-port", port.as_str()]);
    check_says(&examined(&open(&cluster.url())).await, "Bad: it is a cluster: locks and");

    let primary = RedisServer::start();
    let of = format!("127.0.0.1 {}", primary.port());
    let _replica = RedisServer::start_with(&["--replicaof", of.as_str()]);
    let follows = || primary.run("INFO replication").text().contains("connected_slaves:1");
    let end = clock::now() + Duration::from_secs(30);
    while !follows() {
        assert!(clock::now() < end, "it does not follow");
    }
    check_says(&examined(&open(&primary.url())).await, "Note: it has replicas: after a failover");
}

/// Everything that an agent asks of a server; what was refused first.
async fn everything(store: &Redis) -> Result<(), String> {
    let said = |error: BackendError| error.to_string();
    let claim = claim(&resource("rights"), 60);
    match store.acquire(&claim).await.map_err(said)? {
        Attempt::Granted(_) => {}
        other => return Err(format!("{other:?}")),
    }
    store.renew(&proof(&claim), ttl(60), claim.nonce).await.map_err(said)?;
    store.verify(&proof(&claim)).await.map_err(said)?;
    store.holder(&claim.resource).await.map_err(said)?;
    store.list(None, 10).await.map_err(said)?;
    store.release(&proof(&claim)).await.map_err(said)?;
    store.cancel(&claim.resource, claim.lease).await.map_err(said)?;
    store.identity().ok_or("it has no name for us")?;
    let remarks = store.examine().await.map_err(said)?;
    // The server of this test has no disk to keep anything on.
    let wrong = remarks.iter().find(|it| it.level != Level::Good && !it.text.contains("saved"));
    wrong.map_or(Ok(()), |remark| Err(remark.text.clone()))
}

#[tokio::test]
async fn the_rights_in_the_readme_are_enough_and_none_is_too_many() {
    let server = RedisServer::start();
    let line = readme::block("ACL SETUSER stormlock");
    let (_, rights) = line.trim().split_once(">PASSWORD ").expect("a password, then rights");
    let words: Vec<&str> = rights.split_whitespace().collect();
    assert_eq!(everything(&as_user(&server, rights)).await, Ok(()));
    for without in words.iter().filter(|word| word.starts_with(['+', '~'])) {
        let fewer: Vec<&str> = words.iter().copied().filter(|word| word != without).collect();
        server.run("SCRIPT FLUSH");
        let done = everything(&as_user(&server, &fewer.join(" "))).await;
        assert!(done.is_err(), "{without} is not needed");
    }
}
