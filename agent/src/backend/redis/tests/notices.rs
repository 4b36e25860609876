//! What a server tells those who wait.

use super::super::super::contract::{Telling, Watch, lease};
use super::*;

impl Telling for Real {
    fn give_back<'a>(&'a self, on: &'a Resource, _: LeaseId) -> Pending<'a, ()> {
        Box::pin(async move {
            assert_eq!(self.server.command(&["DEL", &self.key(on)]), Answer::Int(1));
            Ok(())
        })
    }
}

contract::contract_of_notices!(Real::start(""));

mod with_a_prefix_too {
    use super::*;

    contract::contract_of_notices!(Real::start("site[1]*/"));
}

#[tokio::test]
async fn a_watch_tells_of_the_end_of_a_lease_and_of_a_database_that_was_emptied() {
    let site = Real::start("");
    let (store, on) = (site.open(), resource("ends"));
    let mut watch = Watch::start(&store, &on);
    watch.heard("that it works").await;
    Others::lock(&site, &on, lease(), Some(ttl(1))).await.unwrap();
    watch.heard("of a lock").await;
    watch.heard("of its end").await;
    assert_eq!(store.holder(&on).await.unwrap(), None);
    site.server.run("FLUSHALL");
    watch.heard("of a database that was emptied").await;
}

#[tokio::test]
async fn an_abandoned_call_and_a_watch_leave_each_other_alone() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let (store, other) = (Arc::new(through(&proxy)), open(&server.url()));
    let needle = |_: &Claim| script::ACQUIRE.sha1.clone().into_bytes();
    contract::an_abandoned_call_and_a_watch_leave_each_other_alone(store, &other, &proxy, needle)
        .await;
}

#[tokio::test]
async fn a_watch_ends_with_its_server() {
    let mut server = RedisServer::start();
    let store = Arc::new(open(&server.url()));
    contract::a_watch_ends_with_its_server(store, || server.kill()).await;
}

#[tokio::test]
async fn a_watch_by_a_user_without_the_right_to_it_ends_and_the_rest_works() {
    let server = RedisServer::start();
    let rights = "~* +@read +@write +@scripting +time +info";
    let store: Arc<dyn Backend> = Arc::new(as_user(&server, rights));
    let on = resource("rights");
    let refused = Watch::start(&store, &on).ends().await;
    assert!(refused.to_string().contains("tracking"), "{refused}");
    assert_eq!(outcome::<()>(Err(refused)), "Credentials");
    granted(&*store, &claim(&on, 60)).await;
    let remarks = examined(&as_user(&server, rights)).await;
    check_says(&remarks, "Note: those who wait look every 2 s: connecting to redis");
}

#[tokio::test]
async fn a_watch_logs_in_and_goes_where_the_calls_go() {
    let server = RedisServer::start_with(&["--requirepass", "secret"]);
    let password = Some(SecretString::from("secret"));
    let url = format!("redis://127.0.0.1:{}/3", server.port());
    let with_password = Options { password: password.clone(), ..options(&url) };
    let socket = format!("redis+unix://{}?db=3", server.socket().display());
    let over_a_socket = Options { password, ..options(&socket) };
    let on = resource("login");
    for options in [with_password, over_a_socket] {
        let store: Arc<dyn Backend> = Arc::new(Redis::new(&options).unwrap());
        let mut watch = Watch::start(&store, &on);
        watch.heard("that it works").await;
        let claim = claim(&on, 60);
        granted(&*store, &claim).await;
        watch.heard("of a grant").await;
        store.release(&proof(&claim)).await.unwrap();
    }
    let primary = RedisServer::start();
    let sentinel = sentinel_for(primary.port());
    let nodes = vec![format!("127.0.0.1:{}", sentinel.port())];
    let store: Arc<dyn Backend> = Arc::new(by_sentinels(nodes, "main"));
    Watch::start(&store, &on).heard("that it works").await;
}

#[tokio::test]
async fn a_watch_works_over_tls() {
    let (server, certificates) = tls_server("no");
    let options = tls_options(server.port(), "127.0.0.1", certificates.ca());
    let store: Arc<dyn Backend> = Arc::new(Redis::new(&options).unwrap());
    let on = resource("tls");
    let mut watch = Watch::start(&store, &on);
    watch.heard("that it works").await;
    granted(&*store, &claim(&on, 60)).await;
    watch.heard("of a grant").await;
}
