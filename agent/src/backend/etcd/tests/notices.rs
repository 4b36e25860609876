//! What a cluster tells those who wait.

use super::super::super::contract::{Telling, Watch, lease};
use super::*;

impl Telling for Real {
    /// It revokes the etcd lease of that number.
    fn give_back<'a>(&'a self, _: &'a Resource, lease: LeaseId) -> Pending<'a, ()> {
        Box::pin(async move {
            let number = keys::number(lease).expect("a narrow id");
            raw(&self.server).await.lease_client().revoke(number).await.expect("a release");
            Ok(())
        })
    }
}

contract::contract_of_notices!(Real::start(PREFIX));

#[tokio::test]
async fn a_watch_tells_of_the_end_of_a_lease() {
    let site = Real::start(PREFIX);
    let (store, on) = (site.open(), resource("ends"));
    let mut watch = Watch::start(&store, &on);
    watch.heard("that it works").await;
    Others::lock(&site, &on, lease(), Some(ttl(2))).await.unwrap();
    watch.heard("of a lock").await;
    watch.heard("of its end").await;
    assert_eq!(store.holder(&on).await.unwrap(), None);
}

#[tokio::test]
async fn an_abandoned_call_and_a_watch_leave_each_other_alone() {
    let server = EtcdServer::start();
    let proxy = Proxy::start(server.port());
    let (store, other) = (Arc::new(through(&proxy)), open(&server.url()));
    let needle = |claim: &Claim| needle(claim).into_bytes();
    contract::an_abandoned_call_and_a_watch_leave_each_other_alone(store, &other, &proxy, needle)
        .await;
}

#[tokio::test]
async fn a_watch_ends_with_its_server() {
    let mut server = EtcdServer::start();
    let store = Arc::new(open(&server.url()));
    contract::a_watch_ends_with_its_server(store, || server.kill()).await;
}

#[tokio::test]
async fn a_watch_by_a_user_without_rights_ends_and_with_them_it_tells() {
    let server = with_users(&[], "readwrite");
    let as_maria =
        |prefix| -> Arc<dyn Backend> { Arc::new(as_user(&server, "maria", "hunter2", prefix)) };
    let on = resource("rights");
    let refused = Watch::start(&as_maria("/other/"), &on).ends().await;
    assert_eq!(outcome::<()>(Err(refused)), "Denied");
    let store = as_maria("/site/");
    let mut watch = Watch::start(&store, &on);
    watch.heard("that it works").await;
    granted(&*store, &claim(&on, 60)).await;
    watch.heard("of a grant").await;
}

#[tokio::test]
async fn a_member_that_lost_its_cluster_ends_its_watches() {
    let mut members = EtcdServer::cluster();
    let store: Arc<dyn Backend> = Arc::new(open(&members[0].url()));
    let mut watch = Watch::start(&store, &resource("alone"));
    watch.heard("that it works").await;
    for member in &mut members[1..] {
        member.kill();
    }
    let why = watch.ends().await.to_string();
    assert!(why.contains("no leader"), "{why}");
}
