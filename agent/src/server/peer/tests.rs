use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use interprocess::local_socket::tokio::Stream as LocalStream;
use interprocess::os::unix::uds_local_socket::tokio::Stream as PathStream;
use tokio::process::Command;

use super::super::listen::{Access, Listener};
use super::*;

/// A program that connects to its argument and stays until its stdin ends; perl is on every Debian,
/// where all users can run it.
const CONNECT: &str = "use IO::Socket::UNIX;
my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die qq($!);
my @all = <STDIN>;";

fn in_runtime<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test)
}

fn async_end(end: UnixStream) -> Stream {
    end.set_nonblocking(true).unwrap();
    let end = PathStream::from(tokio::net::UnixStream::from_std(end).unwrap());
    Stream::new(LocalStream::UdSocket(end))
}

/// Whoever `setpriv` makes of a child, as the agent sees them.
async fn identify_child(options: &[&str]) -> Result<Peer, PeerError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::bind(&path, Access::PRIVATE).unwrap();
    open_to_all(dir.path(), &path);
    let mut child = Command::new("setpriv")
        .args(options)
        .args(["/usr/bin/perl", "-e", CONNECT])
        .arg(&path)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("setpriv is there");
    // Taken out, for waiting would close it.
    let stays = child.stdin.take();
    let stream = tokio::select! {
        stream = listener.accept() => stream.unwrap(),
        end = child.wait() => panic!("{end:?}; setpriv needs root, and tests/run is root's"),
    };
    let peer = Names::new().identify(&stream).await;
    if let Ok(peer) = &peer {
        assert_eq!(peer.pid, i32::try_from(child.id().unwrap()).unwrap());
    }
    drop(stays);
    assert!(child.wait().await.unwrap().success());
    peer
}

fn open_to_all(dir: &Path, socket: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
}

fn own_gids() -> BTreeSet<u32> {
    let mut gids: BTreeSet<u32> =
        nix::unistd::getgroups().unwrap().into_iter().map(|gid| gid.as_raw()).collect();
    gids.insert(nix::unistd::getegid().as_raw());
    gids
}

#[test]
fn the_kernel_says_that_this_is_us() {
    in_runtime(async {
        let (near, far) = UnixStream::pair().unwrap();
        let stream = async_end(near);
        // On a task of its own, as the agent does it.
        let peer = tokio::spawn(async move { Names::new().identify(&stream).await });
        let peer = peer.await.unwrap().unwrap();
        let uid = nix::unistd::geteuid();
        assert_eq!(peer.who.uid, Uid(uid.as_raw()));
        assert_eq!(peer.who.user, User::from_uid(uid).unwrap().unwrap().name);
        assert_eq!(peer.who.gids.iter().copied().collect::<BTreeSet<_>>(), own_gids());
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert!(peer.who.is_named);
        drop(far);
    });
}

#[test]
fn a_child_is_seen_with_its_own_user_and_all_its_groups() {
    in_runtime(async {
        let peer = identify_child(&["--reuid=1", "--regid=3", "--groups=4,5,54321"]).await.unwrap();
        assert_eq!((peer.who.uid, peer.who.user.as_str()), (Uid(1), "daemon"));
        assert_eq!(*peer.who.gids, [3, 4, 5, 54321]);
        assert!(peer.who.is_named);
    });
}

#[test]
fn more_groups_than_usual_are_all_seen() {
    in_runtime(async {
        let first = 60_000;
        let gids: Vec<u32> = (first..first + 5 * u32::try_from(GROUPS_USUAL).unwrap()).collect();
        let list: Vec<String> = gids.iter().map(u32::to_string).collect();
        let groups = format!("--groups={}", list.join(","));
        let peer = identify_child(&["--reuid=1", "--regid=60000", &groups]).await.unwrap();
        assert_eq!(*peer.who.gids, gids);
    });
}

#[test]
fn who_is_in_more_groups_than_anybody_needs_is_refused() {
    in_runtime(async {
        let most = u32::try_from(GROUPS_MAX).unwrap();
        let of = |count: u32| {
            let list: Vec<String> = (60_000..60_000 + count).map(|gid| gid.to_string()).collect();
            format!("--groups={}", list.join(","))
        };
        let peer = identify_child(&["--reuid=1", "--regid=60000", &of(most)]).await.unwrap();
        assert_eq!(peer.who.gids.len(), GROUPS_MAX);
        let error = identify_child(&["--reuid=1", "--regid=60000", &of(most + 1)]).await;
        let error = error.unwrap_err();
        assert!(matches!(error, PeerError::TooManyGroups(Uid(1))), "{error}");
    });
}

#[test]
fn a_user_that_this_namespace_does_not_know_is_refused() {
    in_runtime(async {
        let error = identify_child(&["--reuid=65534", "--clear-groups"]).await.unwrap_err();
        assert!(matches!(error, PeerError::Overflow(Uid(OVERFLOW_UID))), "{error}");
    });
}

#[test]
fn a_pidfd_tells_when_the_client_is_gone() {
    in_runtime(async {
        let peer = identify_child(&["--clear-groups"]).await.unwrap();
        let pidfd = crate::fd::watch(peer.pidfd.expect("Linux 6.5")).unwrap();
        let _gone = pidfd.readable().await.unwrap();
    });
}

#[test]
fn names_are_asked_for_once_in_a_while_and_not_for_each_connection() {
    in_runtime(async {
        let names = Names::new();
        let (near, _far) = UnixStream::pair().unwrap();
        let stream = async_end(near);
        let first = names.identify(&stream).await.unwrap();
        names.lookups.close();
        let second = names.identify(&stream).await.unwrap();
        assert_eq!(first.who.user, second.who.user);
        assert!(second.who.is_named);

        let uid = second.who.uid;
        locked(&names.known).get_mut(&uid).unwrap().until = Moment::BOOT;
        let third = names.identify(&stream).await.unwrap();
        assert_eq!(third.who.user, first.who.user, "what was said before counts without an answer");
        assert!(third.who.is_named);
        assert!(names.fresh(uid).is_some(), "and it is not asked for again at once");

        locked(&names.known).clear();
        let fourth = names.identify(&stream).await.unwrap();
        assert!(!fourth.who.is_named, "without any answer numbers stand for names, and it says so");
        assert_eq!(fourth.who.user, fourth.who.uid.0.to_string());
    });
}

#[test]
fn no_more_names_are_remembered_than_allowed() {
    let known = Mutex::default();
    let many = u32::try_from(NAMES_MAX).unwrap() + 10;
    remember(&known, Uid(many), "maria".to_owned(), Duration::ZERO);
    for uid in 0..many {
        remember(&known, Uid(uid), uid.to_string(), NAMES_FRESH);
    }
    assert!(locked(&known).len() <= NAMES_MAX);
    assert!(locked(&known).contains_key(&Uid(many)), "who has no name takes away nobody's");
    for uid in 0..many {
        remember(&known, Uid(uid), format!("user{uid}"), NAMES_FRESH);
    }
    assert!(locked(&known).len() <= NAMES_MAX);
}
