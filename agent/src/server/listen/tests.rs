use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;

/// Starts of two agents at once, so many times; one lost race would show two winners or none.
const RACES: usize = 50;
/// Binds that a witness watches for a mode that lets too many in.
const WATCHED_BINDS: usize = 50;

#[path = "../../../../tests/support/meanwhile.rs"]
mod meanwhile;
use self::meanwhile::Meanwhile;

struct Place {
    dir: TempDir,
    runtime: Runtime,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Place { dir, runtime }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent/stormlockd.sock")
    }

    fn with_dir(self) -> Place {
        fs::create_dir(self.socket().parent().unwrap()).unwrap();
        self
    }

    fn bind(&self) -> Result<Listener, ListenError> {
        self.bind_for(Access::PRIVATE)
    }

    fn bind_for(&self, access: Access) -> Result<Listener, ListenError> {
        let _inside = self.runtime.enter();
        Listener::bind(&self.socket(), access)
    }

    fn answers(&self, listener: &Listener) -> bool {
        let _client = UnixStream::connect(listener.path()).unwrap();
        self.runtime.block_on(listener.accept()).is_ok()
    }

    fn refusal(&self) -> String {
        self.bind().unwrap_err().to_string()
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & PERMISSIONS
}

#[test]
fn a_fresh_socket_answers_in_a_private_directory_and_is_gone_afterwards() {
    let place = Place::new();
    let listener = place.bind().unwrap();
    assert!(place.answers(&listener));
    assert_eq!(mode(&place.socket()), 0o600);
    assert_eq!(mode(place.socket().parent().unwrap()), 0o700);
    drop(listener);
    assert!(!place.socket().exists());
    assert!(place.bind().is_ok());
}

#[test]
fn a_stale_socket_is_replaced() {
    let place = Place::new().with_dir();
    drop(UnixListener::bind(place.socket()).unwrap());
    assert!(place.socket().exists());
    let listener = place.bind().unwrap();
    assert!(place.answers(&listener));
}

#[test]
fn the_socket_of_a_live_agent_is_left_alone() {
    let place = Place::new();
    let first = place.bind().unwrap();
    assert!(matches!(place.bind(), Err(ListenError::InUse(..))));
    assert!(place.answers(&first));
}

#[test]
fn the_socket_of_a_live_stranger_that_takes_no_lock_is_left_alone() {
    let place = Place::new().with_dir();
    let stranger = UnixListener::bind(place.socket()).unwrap();
    assert!(matches!(place.bind(), Err(ListenError::InUse(..))));
    stranger.set_nonblocking(true).unwrap();
    assert!(stranger.accept().is_ok(), "the look at it was a connection");
    UnixStream::connect(place.socket()).unwrap();
}

#[test]
fn a_live_agent_that_answers_nobody_is_still_live() {
    let place = Place::new().with_dir();
    let path = place.socket();
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        None,
    );
    let socket = socket.unwrap();
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let _fills_the_backlog = UnixStream::connect(&path).unwrap();
    assert!(matches!(place.bind(), Err(ListenError::InUse(..))));
    assert!(path.exists());
}

#[test]
fn what_is_no_socket_of_ours_is_refused_with_advice_and_left_alone() {
    let place = Place::new().with_dir();
    fs::write(place.socket(), "precious").unwrap();
    assert!(place.refusal().contains("no socket; move it away"));
    assert_eq!(fs::read_to_string(place.socket()).unwrap(), "precious");

    fs::rename(place.socket(), place.dir.path().join("precious")).unwrap();
    symlink(place.dir.path().join("precious"), place.socket()).unwrap();
    assert!(place.refusal().contains("symbolic link"));
    assert!(place.dir.path().join("precious").exists());
}

#[test]
fn a_stale_socket_of_another_user_is_refused_by_name() {
    let place = Place::new().with_dir();
    drop(UnixListener::bind(place.socket()).unwrap());
    lchown(place.socket(), Some(1), None).expect("tests/run is root's");
    assert!(place.refusal().contains("a socket of daemon is there"), "{}", place.refusal());
}

#[test]
fn a_directory_where_others_could_replace_the_socket_is_refused() {
    let place = Place::new().with_dir();
    let dir = place.socket().parent().unwrap().to_owned();
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    assert!(place.refusal().contains("everybody can write there (mode 777)"));
    fs::set_permissions(&dir, Permissions::from_mode(0o1777)).unwrap();
    assert!(place.bind().is_ok(), "in a sticky directory nobody can");

    let place = Place::new();
    fs::create_dir(place.dir.path().join("elsewhere")).unwrap();
    symlink(place.dir.path().join("elsewhere"), place.socket().parent().unwrap()).unwrap();
    assert!(place.refusal().contains("symbolic link"));

    let place = Place::new().with_dir();
    lchown(place.socket().parent().unwrap(), Some(1), None).expect("tests/run is root's");
    assert!(place.refusal().contains("it belongs to daemon"), "{}", place.refusal());
}

#[test]
fn a_lock_file_that_is_a_link_is_not_followed() {
    let place = Place::new().with_dir();
    let target = place.dir.path().join("target");
    let mut lock = place.socket().into_os_string();
    lock.push(".lock");
    symlink(&target, lock).unwrap();
    assert!(place.bind().is_err());
    assert!(!target.exists());
}

#[test]
fn a_path_longer_than_the_kernel_allows_is_refused_in_words() {
    let place = Place::new();
    let base = place.dir.path().as_os_str().len() + 1;
    let fits = place.dir.path().join("s".repeat(PATH_MAX - base));
    let _inside = place.runtime.enter();
    drop(Listener::bind(&fits, Access::PRIVATE).unwrap());
    let long = place.dir.path().join("s".repeat(PATH_MAX + 1 - base));
    let error = Listener::bind(&long, Access::PRIVATE).unwrap_err().to_string();
    assert!(error.contains("108 bytes long and the kernel allows 107"), "{error}");
}

#[test]
fn of_two_that_start_together_exactly_one_listens() {
    let place = Place::new().with_dir();
    for race in 0..RACES {
        if race % 2 == 0 {
            drop(UnixListener::bind(place.socket()).unwrap());
        }
        let start = Barrier::new(2);
        let one = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            let _inside = runtime.enter();
            start.wait();
            let bound = Listener::bind(&place.socket(), Access::PRIVATE);
            // Both hold what they have until both have tried.
            start.wait();
            match bound {
                Ok(listener) => {
                    UnixStream::connect(listener.path()).unwrap();
                    true
                }
                Err(ListenError::InUse(..)) => false,
                Err(other) => panic!("race {race}: {other}"),
            }
        };
        let winners = std::thread::scope(|scope| {
            let (a, b) = (scope.spawn(one), scope.spawn(one));
            usize::from(a.join().unwrap()) + usize::from(b.join().unwrap())
        });
        assert_eq!(winners, 1, "race {race}");
    }
}

#[test]
fn a_socket_that_was_given_up_is_free_though_a_child_has_a_copy_of_its_lock() {
    let place = Place::new().with_dir();
    let listener = place.bind().unwrap();
    let copy = listener.claim.as_ref().unwrap().lock.try_clone().unwrap();
    drop(listener);
    assert!(place.bind().is_ok());
    drop(copy);
}

#[test]
fn a_socket_that_another_put_in_place_of_ours_is_not_removed() {
    let place = Place::new();
    let listener = place.bind().unwrap();
    fs::remove_file(place.socket()).unwrap();
    let _other = UnixListener::bind(place.socket()).unwrap();
    drop(listener);
    assert!(place.socket().exists());
}

#[test]
fn the_group_gets_the_socket_and_the_umask_takes_nothing_from_it() {
    const GID: u32 = 54_321;
    let place = Place::new();
    let listener = place.bind_for(Access { dir_mode: 0o755, group: Some(GID) });
    let listener = listener.expect("tests/run is root's");
    let made = fs::symlink_metadata(listener.path()).unwrap();
    assert_eq!((made.mode() & PERMISSIONS, made.gid()), (0o660, GID));
    assert_eq!(mode(place.socket().parent().unwrap()), 0o755);
}

#[test]
fn nobody_is_let_in_for_an_instant_before_the_mode_is_set() {
    let place = Place::new().with_dir();
    let path = place.socket();
    let (has_seen, is_done) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        let meanwhile = Meanwhile(&is_done);
        let witness = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !is_done.load(Ordering::Acquire) {
                if let Ok(found) = fs::symlink_metadata(&path) {
                    seen.insert(found.mode() & PERMISSIONS);
                    has_seen.store(true, Ordering::Release);
                }
            }
            seen
        });
        for _ in 0..WATCHED_BINDS {
            drop(place.bind().unwrap());
        }
        let _stays = place.bind().unwrap();
        while !has_seen.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        drop(meanwhile);
        witness.join().unwrap()
    });
    assert_eq!(seen, BTreeSet::from([0o600]));
}

#[test]
fn a_listening_socket_of_systemd_is_taken_over_and_stays_when_the_agent_goes() {
    let place = Place::new().with_dir();
    let systemds = UnixListener::bind(place.socket()).unwrap();
    let _inside = place.runtime.enter();
    let listener = adopt(systemds.try_clone().unwrap()).unwrap();
    assert!(listener.is_inherited());
    assert_eq!(listener.path(), place.socket());
    assert!(place.answers(&listener));
    drop(listener);
    assert!(place.socket().exists());
}

/// Sends a file along with a byte.
fn send_file(to: &Path) -> Result<usize, Errno> {
    let client = UnixStream::connect(to).unwrap();
    let files = [client.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    assert!(along.push(SendAncillaryMessage::ScmRights(&files)));
    sendmsg(&client, &[io::IoSlice::new(b"!")], &mut along, SendFlags::empty())
}

/// Whether this kernel is one of those that know how.
fn refuses_files() -> bool {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut parts = kernel.split(|c: char| !c.is_ascii_digit()).map_while(|it| it.parse().ok());
    (parts.next().unwrap(), parts.next().unwrap()) >= (6_u32, 16_u32)
}

#[test]
fn a_file_that_is_sent_along_stays_with_its_sender() {
    let expected = if refuses_files() { Err(Errno::PERM) } else { Ok(1) };
    let place = Place::new();
    let bound = place.bind().unwrap();
    assert_eq!(send_file(bound.path()), expected);
    drop(bound);
    let _inside = place.runtime.enter();
    let systemds = UnixListener::bind(place.socket()).unwrap();
    assert_eq!(send_file(&place.socket()), Ok(1));
    let _adopted = adopt(systemds).unwrap();
    assert_eq!(send_file(&place.socket()), expected);
}

#[test]
fn what_else_systemd_may_pass_is_refused() {
    let place = Place::new();
    let _inside = place.runtime.enter();
    let (connected, _other) = UnixStream::pair().unwrap();
    let error = adopt(OwnedFd::from(connected).into()).unwrap_err().to_string();
    assert!(error.contains("Accept=no"), "{error}");

    let name = SocketAddr::from_abstract_name(b"stormlock-test-no-path");
    let error = adopt(UnixListener::bind_addr(&name.unwrap()).unwrap()).unwrap_err().to_string();
    assert!(error.contains("it has no path"), "{error}");

    let error = Inherited(listenfd::ListenFd::empty()).listen().unwrap_err().to_string();
    assert!(error.contains("expected one socket, not 0"), "{error}");
}
