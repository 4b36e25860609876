//! What doctor says where it takes more than a setting, and the rights that the README grants.

use super::super::super::readme;
use super::super::super::refusing::refusing;
use super::super::super::relay::relay;
use super::*;

#[tokio::test]
async fn a_server_that_is_too_old_is_told() {
    let server = EtcdServer::start();
    let real = raw(&server).await.maintenance_client().status().await.unwrap().version().to_owned();
    // As many bytes as the real one has: only digits differ.
    let old: String = real.chars().map(|c| if c.is_ascii_digit() { '3' } else { c }).collect();
    let written = old.clone();
    let port = relay(server.port(), move |answer| {
        // Its field in the answer, with its length.
        let length = u8::try_from(real.len()).expect("a short version");
        let mark = [[0x12, length].as_slice(), real.as_bytes()].concat();
        let places = answer.windows(mark.len()).enumerate().filter(|(_, it)| *it == mark);
        for at in places.map(|(at, _)| at + 2).collect::<Vec<_>>() {
            answer[at..at + real.len()].copy_from_slice(written.as_bytes());
        }
    });
    let remarks = examined(&open(&format!("http://127.0.0.1:{port}"))).await;
    check_says(
        &remarks,
        &format!("Warning: etcd {old} is older than 3.4.42: such a version may end"),
    );
}

#[tokio::test]
async fn a_password_that_goes_over_the_network_in_the_clear_is_told() {
    let server = with_users(&[], "readwrite");
    // An address of this host that does not say so.
    let url = format!("http://0.0.0.0:{}", server.port());
    let login = Some(("maria".to_owned(), SecretString::from("hunter2")));
    let key_prefix = "/site/".to_owned();
    let store = Etcd::new(&Options { login, key_prefix, ..options(&url) }).unwrap();
    check_says(&examined(&store).await, "Warning: the password goes over the network for all to");
}

#[tokio::test]
async fn an_even_number_of_members_and_too_few_are_told() {
    let members = EtcdServer::cluster();
    let peer = format!("http://127.0.0.1:{}", server::free_port());
    // It adds none before its members have known each other for some seconds.
    until("a fourth is added", async || {
        let mut client = raw(&members[0]).await.cluster_client();
        client.member_add(vec![peer.clone()], None).await.is_ok()
    })
    .await;
    let store = open(&members[0].url());
    until("the new one counts", async || {
        let said = store.examine().await.unwrap_or_default();
        said.iter().any(|it| it.text == "it has 4 voting members: one fewer would survive as much")
    })
    .await;

    let mut client = raw(&members[0]).await.cluster_client();
    let listed = client.member_list().await.unwrap();
    // The fourth never came, so it has no name.
    for gone in ["", "c"] {
        let one = listed.members().iter().find(|it| it.name() == gone).expect("a member").id();
        until("one is removed", async || {
            raw(&members[0]).await.cluster_client().member_remove(one).await.is_ok()
        })
        .await;
    }
    until("two are told", async || {
        let said = store.examine().await.unwrap_or_default();
        let told = "it has 2 voting members: without one of them nobody gets a lock";
        said.iter().any(|it| it.text == told)
    })
    .await;
}

#[tokio::test]
async fn an_alarm_of_corruption_is_told_and_is_no_matter_of_space() {
    use etcd_client::{AlarmAction, AlarmType};
    let server = EtcdServer::start();
    let mut client = raw(&server).await.maintenance_client();
    // Whoever may maintain a cluster may raise it, as a member does that finds its data corrupt.
    client.alarm(AlarmAction::Activate, AlarmType::Corrupt, None).await.unwrap();
    let remarks = open(&server.url()).examine().await.unwrap();
    let told = remarks.iter().find(|it| it.text.contains("alarm:CORRUPT")).expect("it is told");
    assert_eq!(told.level, Level::Bad);
    let mend = told.mend.as_deref().unwrap_or_default();
    assert!(mend.contains("logs") && !mend.contains("defragment"), "{told:?}");
}

#[tokio::test]
async fn the_rights_in_the_readme_are_enough() {
    let server = EtcdServer::start();
    server.run("user add root:rootpw");
    server.run("user grant-role root root");
    let lines = readme::block("etcdctl user add");
    let commands = lines.split(['\n', '&']).map(str::trim).filter(|line| !line.is_empty());
    for command in commands {
        let words = command.strip_prefix("etcdctl ").expect("a command of etcdctl");
        // It would ask for the password.
        server.run(&words.replace("user add stormlock", "user add stormlock:hunter2"));
    }
    server.run("auth enable");
    let store = Arc::new(as_user(&server, "stormlock", "hunter2", "/"));
    let taken = claim(&resource("rights"), 60);
    let telling: Arc<dyn Backend> = store.clone();
    contract::Watch::start(&telling, &taken.resource).heard("that it works").await;
    granted(&*store, &taken).await;
    store.renew(&proof(&taken), ttl(60), taken.nonce).await.unwrap();
    store.verify(&proof(&taken)).await.unwrap();
    assert_eq!(store.list(None, 10).await.unwrap().len(), 1);
    store.release(&proof(&taken)).await.unwrap();
    store.cancel(&taken.resource, taken.lease).await.unwrap();
    let remarks = examined(&store).await;
    assert!(!remarks.iter().any(|it| it.starts_with("Bad")), "{remarks:#?}");
}

/// A site's user on a line that refuses these calls.
async fn refused(server: &EtcdServer, calls: &[&str]) -> Etcd {
    let login = Some(("maria".to_owned(), SecretString::from("hunter2")));
    let url = format!("http://127.0.0.1:{}", refusing(server.port(), calls).await);
    let key_prefix = "/site/".to_owned();
    Etcd::new(&Options { login, key_prefix, ..options(&url) }).unwrap()
}

#[tokio::test]
async fn a_user_whom_no_member_tells_its_status_locks_all_the_same() {
    // As 3.5.28 to 3.5.31 and 3.6.0 to 3.6.11 do, to everybody but root.
    let server = with_users(&[], "readwrite");
    let store = refused(&server, &["/etcdserverpb.Maintenance/Status"]).await;
    let taken = claim(&resource("status"), 60);
    granted(&store, &taken).await;
    assert_eq!(store.identity(), {
        let told = as_user(&server, "maria", "hunter2", "/site/");
        told.holder(&taken.resource).await.unwrap().expect("it is held");
        told.identity()
    });
    store.renew(&proof(&taken), ttl(60), taken.nonce).await.unwrap();
    store.verify(&proof(&taken)).await.unwrap();
    store.release(&proof(&taken)).await.unwrap();
    let telling: Arc<dyn Backend> = Arc::new(store);
    contract::Watch::start(&telling, &taken.resource).heard("that it works").await;
    let remarks = telling.examine().await.unwrap();
    let told = remarks.iter().find(|it| {
        it.text == "its version, alarms and space may not be read: etcdserver: permission denied"
    });
    assert_eq!(told.map(|it| it.level), Some(Level::Note), "{remarks:#?}");
    assert!(!remarks.iter().any(|it| it.level == Level::Bad), "{remarks:#?}");
}

#[tokio::test]
async fn members_that_may_not_be_listed_are_told() {
    // As 3.5.28 does, to everybody but root.
    let server = with_users(&[], "readwrite");
    let store = refused(&server, &["/etcdserverpb.Cluster/MemberList"]).await;
    granted(&store, &claim(&resource("members"), 60)).await;
    let told = "Note: its members may not be listed: etcdserver: permission denied";
    check_says(&examined(&store).await, told);
}

/// Where the field that begins here ends, as protobuf writes small numbers of fields and numbers.
fn field_end(bytes: &[u8]) -> usize {
    bytes.iter().skip(1).position(|byte| byte & 0x80 == 0).expect("a number ends") + 2
}

#[tokio::test]
async fn a_database_that_is_nearly_full_is_told() {
    const SIZE: u8 = 0x18;
    let server = EtcdServer::start();
    let version = raw(&server).await.maintenance_client().status().await.unwrap();
    let version = version.version().to_owned();
    // A server that does not say its limit, as old ones do, has that of two GiB, which no test can
    // fill: so what follows its size and its leader, three numbers of its log that nobody here
    // reads, becomes another size; the last one counts.
    let port = relay(server.port(), move |answer| {
        let length = u8::try_from(version.len()).expect("a short version");
        let mark = [[0x12, length].as_slice(), version.as_bytes(), &[SIZE]].concat();
        let Some(at) = answer.windows(mark.len()).position(|it| it == mark) else { return };
        let fields = &mut answer[at + mark.len() - 1..];
        let skip = |fields: &[u8], from: usize| from + field_end(&fields[from..]);
        let begin = skip(fields, skip(fields, 0));
        let end = skip(fields, skip(fields, skip(fields, begin)));
        let (last, number) = (end - 1, begin + 1..end);
        assert!(number.len() >= 5, "room for a number of 31 bits");
        fields[begin] = SIZE;
        let mut size: u64 = 2_000_000_000;
        for byte in &mut fields[number] {
            *byte = u8::try_from(size & 0x7f).expect("seven bits") | 0x80;
            size >>= 7;
        }
        fields[last] &= 0x7f;
    });
    let remarks = examined(&open(&format!("http://127.0.0.1:{port}"))).await;
    check_says(&remarks, "Warning: its database is 93 % full: a full one takes no new lock");
    assert!(!examined(&open(&server.url())).await.iter().any(|it| it.contains("% full")));
}
