//! The socket: taken over from systemd, or bound after a look at what is there. It never takes a
//! live agent's socket, and whom the mode keeps out could not connect at any instant.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use interprocess::ConnectWaitMode;
use interprocess::local_socket::tokio::Listener as LocalListener;
use interprocess::local_socket::traits::tokio::Listener as _;
use interprocess::local_socket::{
    ConnectOptions, GenericFilePath, ListenerOptions, Name, prelude::*,
};
use interprocess::os::unix::local_socket::ListenerOptionsExt as _;
use interprocess::os::unix::uds_local_socket::tokio::Listener as PathListener;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::burial::refuse_files;
use super::stream::Stream;
use crate::fd;
use crate::lease::Uid;
use crate::others::{Other, replaced_by};

/// The group whose members may use the system's agent.
pub const GROUP: &str = "stormlock";

/// The kernel's `sockaddr_un` has room for a path of so many bytes and a zero.
const PATH_MAX: usize = stormlock_protocol::SOCKET_PATH_MAX;
/// How long a look at a socket may take before it counts as that of a live, busy agent.
const PROBE: Duration = Duration::from_secs(2);
const OWNER_ONLY: u32 = 0o600;
const OWNER_AND_GROUP: u32 = 0o660;
/// Permission bits of a mode.
const PERMISSIONS: u32 = 0o7777;

/// Who can connect, as the file system decides it. What they may do then is the policy's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The mode of the socket's directory, where it has to be made.
    pub dir_mode: u32,
    /// The group that may connect besides the agent's own user; `None` for nobody else.
    pub group: Option<u32>,
}

impl Access {
    /// For the agent of one user, or of one command.
    pub const PRIVATE: Access = Access { dir_mode: 0o700, group: None };

    /// For the agent of the whole host: group [`GROUP`] where it exists and this process can give
    /// the socket to it. Everybody may see into the directory, so that those without the right hear
    /// "permission denied" instead of "no agent".
    ///
    /// It may ask a directory service; call it before anything waits.
    #[must_use]
    pub fn system() -> Access {
        let group = match nix::unistd::Group::from_name(GROUP) {
            Ok(Some(group)) if may_give(group.gid) => Some(group.gid.as_raw()),
            Ok(_) | Err(_) => None,
        };
        Access { dir_mode: 0o755, group }
    }
}

fn may_give(group: nix::unistd::Gid) -> bool {
    nix::unistd::geteuid().is_root()
        || nix::unistd::getegid() == group
        || nix::unistd::getgroups().is_ok_and(|groups| groups.contains(&group))
}

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Systemd passed something else than one listening socket.
    #[error("taking the socket that systemd passed (LISTEN_FDS): {0}")]
    Inherited(String),
    /// The kernel has no room for such a path.
    #[error(
        "the socket's path {} is {} bytes long and the kernel allows {PATH_MAX}: choose a shorter \
         one with --socket", .0.display(), .0.as_os_str().len()
    )]
    TooLong(PathBuf),
    /// A live agent has it: this process, where the kernel says.
    #[error(
        "another agent listens on {}{}: stop it first, or give this one another --socket",
        .0.display(), fd::process(*.1)
    )]
    InUse(PathBuf, Option<u32>),
    /// Something else is there.
    #[error("will not listen on {}: {what}", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
        /// What is there, and what to do about it.
        what: String,
    },
    /// The directory may not be used.
    #[error("will not put a socket into {}: {what}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and what to do about it.
        what: String,
    },
    /// The system said no.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The socket that systemd passed. It is taken from the environment once, by `main`, while there is
/// one thread only: the variables are removed, so that no child takes the socket for its own.
pub struct Inherited(listenfd::ListenFd);

impl std::fmt::Debug for Inherited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Inherited").field(&self.0.len()).finish()
    }
}

impl Inherited {
    /// What `LISTEN_FDS` says, if it is meant for this process.
    #[must_use]
    pub fn take() -> Inherited {
        Inherited(listenfd::ListenFd::from_env())
    }

    /// Whether systemd passed anything.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.0.len() > 0
    }

    /// Listens on it. Call it inside a runtime.
    ///
    /// # Errors
    /// [`ListenError::Inherited`] unless it is exactly one listening Unix stream socket with a
    /// path.
    pub fn listen(mut self) -> Result<Listener, ListenError> {
        let refuse = |why: String| ListenError::Inherited(why);
        if self.0.len() != 1 {
            let count = self.0.len();
            return Err(refuse(format!("expected one socket, not {count}: see the .socket unit")));
        }
        let taken = self.0.take_unix_listener(0).map_err(|e| refuse(e.to_string()))?;
        let listener = taken.ok_or_else(|| refuse("it was taken before".to_owned()))?;
        adopt(listener)
    }
}

fn adopt(listener: std::os::unix::net::UnixListener) -> Result<Listener, ListenError> {
    let refuse = |why: String| ListenError::Inherited(why);
    if !rustix::net::sockopt::socket_acceptconn(&listener).is_ok_and(|listens| listens) {
        return Err(refuse("it does not listen: the .socket unit needs Accept=no".to_owned()));
    }
    let address = listener.local_addr().map_err(|e| refuse(e.to_string()))?;
    let Some(path) = address.as_pathname().map(Path::to_owned) else {
        return Err(refuse("it has no path: ListenStream= must be one".to_owned()));
    };
    let inner = PathListener::try_from(OwnedFd::from(listener));
    let inner = inner.map_err(|e| refuse(e.to_string()))?;
    Ok(Listener::new(inner.into(), &path, None))
}

/// Most connections that nobody has accepted yet. A flood fills the queue, however long it is, and
/// who comes then waits for all that are in it; those outside of it have their turn one by one.
const QUEUE: i32 = 128;

/// The agent's ear.
#[derive(Debug)]
pub struct Listener {
    inner: LocalListener,
    path: PathBuf,
    /// `None` for a socket that belongs to systemd.
    claim: Option<Claim>,
}

/// The socket file that this process made. The lock outlives it: nobody else binds, probes or
/// removes while it is held.
#[derive(Debug)]
struct Claim {
    device: u64,
    inode: u64,
    lock: File,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Closing is not enough: a child of the agent that has not come to its exec has a copy.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

impl Listener {
    fn new(inner: LocalListener, path: &Path, claim: Option<Claim>) -> Listener {
        let LocalListener::UdSocket(socket) = &inner;
        refuse_files(socket.as_fd());
        // Else it is as long as the host's limit, and whoever is not of a flood waits longer.
        let _ = rustix::net::listen(socket.as_fd(), QUEUE);
        Listener { inner, path: path.to_owned(), claim }
    }

    /// Binds `path`, an absolute one, and listens. Makes its directory if only that is missing.
    /// Call it inside a runtime.
    ///
    /// # Errors
    /// [`ListenError`] says what is there and what to do.
    pub fn bind(path: &Path, access: Access) -> Result<Listener, ListenError> {
        if path.as_os_str().as_bytes().len() > PATH_MAX {
            return Err(ListenError::TooLong(path.to_owned()));
        }
        prepare_directory(path, access)?;
        let lock = lock(path)?;
        clear(path)?;
        let inner = listen(path)?;
        let made = fs::symlink_metadata(path).map_err(io_error("looking at", path))?;
        let claim = Claim { device: made.dev(), inode: made.ino(), lock };
        let listener = Listener::new(inner, path, Some(claim));
        if let Some(gid) = access.group {
            // The group first: a wider mode must not be the old group's for an instant.
            match lchown(path, None, Some(gid)) {
                Ok(()) => fs::set_permissions(path, Permissions::from_mode(OWNER_AND_GROUP))
                    .map_err(io_error("opening to its group", path))?,
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    tracing::warn!(
                        gid,
                        "this user namespace has no such group, so only the agent's own user can \
                         connect"
                    );
                }
                Err(error) => return Err(io_error("giving to its group", path)(error)),
            }
        }
        Ok(listener)
    }

    /// The next connection. Dropping the future loses none.
    ///
    /// # Errors
    /// Those of accept(2). The socket stays usable; after `EMFILE` and its like, wait until a
    /// session ends before asking again.
    pub async fn accept(&self) -> io::Result<Stream> {
        loop {
            match self.inner.accept().await {
                // The client was gone before its turn came; that concerns nobody.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                other => return other.map(Stream::new),
            }
        }
    }

    /// The socket once more. Connections that nobody accepted go with the last of it, and what
    /// lies in them, which can take a while ([`super::stream`]).
    pub(super) fn once_more(&self) -> io::Result<OwnedFd> {
        let LocalListener::UdSocket(inner) = &self.inner;
        inner.as_fd().try_clone_to_owned()
    }

    /// Where clients find it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether systemd owns the socket and keeps it when the agent goes.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.claim.is_none()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(claim) = &self.claim else { return };
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == claim.device && found.ino() == claim.inode);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket stays behind");
        }
    }
}

fn listen(path: &Path) -> Result<LocalListener, ListenError> {
    // The mode is set before the name exists, and no umask takes from the owner's bits.
    let options = ListenerOptions::new()
        .name(name(path)?)
        .mode(OWNER_ONLY)
        .reclaim_name(false)
        .try_overwrite(false);
    options.create_tokio().map_err(io_error("listening on", path))
}

fn name(path: &Path) -> Result<Name<'_>, ListenError> {
    path.to_fs_name::<GenericFilePath>().map_err(io_error("naming the socket", path))
}

fn prepare_directory(socket: &Path, access: Access) -> Result<(), ListenError> {
    let Some(dir) = socket.parent().filter(|dir| !dir.as_os_str().is_empty()) else {
        let what = "give the whole path with --socket".to_owned();
        return Err(ListenError::Occupied { path: socket.to_owned(), what });
    };
    match DirBuilder::new().mode(access.dir_mode).create(dir) {
        // Again, because the umask has taken from it.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(access.dir_mode))
            .map_err(io_error("opening the directory", dir))?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        // Whether it may be used shows below; a read-only parent is no reason to refuse.
        Err(_) if dir.exists() => {}
        Err(e) => return Err(io_error("making the socket's directory", dir)(e)),
    }
    check_directory(dir)
}

/// Whoever can write there can put another socket in the agent's place and hear what is asked.
fn check_directory(dir: &Path) -> Result<(), ListenError> {
    let refuse = |what: String| Err(ListenError::Directory { path: dir.to_owned(), what });
    let found = fs::symlink_metadata(dir).map_err(io_error("looking at", dir))?;
    if found.file_type().is_symlink() {
        return refuse("it is a symbolic link; give the path that it leads to".to_owned());
    }
    if !found.is_dir() {
        return refuse("it is no directory".to_owned());
    }
    let mode = found.mode() & PERMISSIONS;
    match replaced_by(&found) {
        Some(Other::Owner(Uid(uid))) => refuse(format!("it belongs to {}", owner(uid))),
        Some(Other::Everyone) => {
            refuse(format!("everybody can write there (mode {mode:o}); try chmod o-w"))
        }
        Some(Other::Group(gid)) => {
            refuse(format!("group {gid} can write there (mode {mode:o}); try chmod g-w"))
        }
        None => Ok(()),
    }
}

/// Held by a live agent for as long as it lives, so that of two that start together one waits for
/// nothing and hears that it is second. The file stays: removing it would let two lock two files.
fn lock(socket: &Path) -> Result<File, ListenError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    // Not blocking: in a directory where others may write, a pipe may be in its place.
    let safe = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(OWNER_ONLY)
        .custom_flags(i32::try_from(safe.bits()).unwrap_or(0))
        .open(&path)
        .map_err(io_error("opening", &path))?;
    let found = file.metadata().map_err(io_error("looking at", &path))?;
    if !found.is_file() || found.uid() != own_uid() {
        let what = format!(
            "it is to be a file of the agent's own, and something of {} is there; have it removed, \
             or give another --socket",
            owner(found.uid())
        );
        return Err(ListenError::Occupied { path, what });
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(ListenError::InUse(socket.to_owned(), fd::locked_by(&file))),
        Err(e) => Err(io_error("locking", &path)(e.into())),
    }
}

/// Makes room: removes a socket of ours that nobody listens on any more, and nothing else.
fn clear(path: &Path) -> Result<(), ListenError> {
    let refuse = |what: String| Err(ListenError::Occupied { path: path.to_owned(), what });
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error("looking at", path)(e)),
    };
    if found.file_type().is_symlink() {
        return refuse("a symbolic link is there; remove it, or give another --socket".to_owned());
    }
    if !found.file_type().is_socket() {
        return refuse("it is no socket; move it away, or give another --socket".to_owned());
    }
    if found.uid() != own_uid() {
        let owner = owner(found.uid());
        return refuse(format!(
            "a socket of {owner} is there; have it removed, or give another --socket"
        ));
    }
    let probe = ConnectOptions::new().name(name(path)?).wait_mode(ConnectWaitMode::Timeout(PROBE));
    match probe.connect_sync() {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(io_error("removing the socket of an agent that died", path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // Connected, or its backlog is full.
        Ok(_) => Err(ListenError::InUse(path.to_owned(), None)),
        Err(e) if is_busy(&e) => Err(ListenError::InUse(path.to_owned(), None)),
        Err(e) => Err(io_error("looking who listens on", path)(e)),
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn owner(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ListenError + 'a {
    move |source| ListenError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
