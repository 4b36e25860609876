//! Who is at the other end of a connection, from the kernel alone. Nothing that the client says
//! counts, and names are only words for the kernel's numbers.

mod groups;
mod origin;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use interprocess::local_socket::traits::StreamCommon as _;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::User;
use tokio::sync::Semaphore;

use self::groups::Groups;
use self::origin::Origin;
use super::stream::Stream;
use crate::audit::Login;
use crate::clock;
use crate::lease::{Moment, Uid};
use crate::policy::{GroupNames, Policy, Who};
use crate::turns::Turns;

/// Most groups of one user: as many as a ticket of Active Directory has room for. The kernel gives
/// a process 64 times as many (`NGROUPS_MAX`), whoever has subordinate groups takes as many as they
/// like, and they are kept for each session.
const GROUPS_MAX: usize = 1024;
/// Room for the groups of nearly everybody, so that one question is enough.
const GROUPS_USUAL: usize = 32;
/// Whom the kernel shows for a user that this namespace does not know, unless it says otherwise.
const OVERFLOW_UID: u32 = 65_534;
const OVERFLOW_UID_FILE: &str = "/proc/sys/kernel/overflowuid";
/// How long names may take to look up, since a directory service can hang for minutes.
pub const LOOKUP_PATIENCE: Duration = Duration::from_secs(1);
/// The same for a name that is known from before, which does if nothing is heard.
const AGAIN_PATIENCE: Duration = Duration::from_millis(200);
/// How long such a name does then.
const AGAIN: Duration = Duration::from_secs(5);
/// Lookups at once: a service that hangs holds no more threads than this.
const LOOKUPS_MAX: usize = 32;
/// And of one user.
const LOOKUPS_OF_ONE: usize = 1;
/// How long names are believed without asking again. It is for names only: which groups a client is
/// in comes from the kernel each time.
const NAMES_FRESH: Duration = Duration::from_secs(60);
/// Names of users remembered, far more than a host has people at work.
const NAMES_MAX: usize = 1024;

/// Why a connection has to be closed unheard.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The kernel does not say who it is.
    #[error("asking the kernel who connected")]
    Credentials(#[source] io::Error),
    /// The kernel does not say in which groups they are.
    #[error("asking the kernel for the groups of uid {}", uid.0)]
    Groups {
        /// Whose.
        uid: Uid,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Nobody is in so many groups who has nothing else in mind.
    #[error("uid {} is in more than {GROUPS_MAX} groups", .0.0)]
    TooManyGroups(Uid),
    /// A user from outside of this user namespace: many different people have this number.
    #[error(
        "uid {} stands for every user that this namespace does not know; run the client in the \
         agent's user namespace (no PrivateUsers= on either side)", .0.0
    )]
    Overflow(Uid),
}

impl PeerError {
    /// Whose connection it was, as far as the kernel says.
    #[must_use]
    pub fn uid(&self) -> Uid {
        match self {
            PeerError::Credentials(_) => Uid(OVERFLOW_UID),
            PeerError::Groups { uid, .. }
            | PeerError::TooManyGroups(uid)
            | PeerError::Overflow(uid) => *uid,
        }
    }
}

/// Who is at the other end.
#[derive(Debug)]
pub struct Peer {
    /// What rules look at.
    pub who: Who,
    /// The process that connected, when it did; for audit and binding only. Numbers are used again.
    pub pid: i32,
    /// The same process for certain; `None` before Linux 6.5, or when it has gone already.
    pub pidfd: Option<OwnedFd>,
}

/// Turns connections into [`Peer`]s and remembers names for a while.
#[derive(Debug)]
pub struct Names {
    overflow: Uid,
    lookups: Arc<Semaphore>,
    turns: Turns,
    known: Arc<Mutex<HashMap<Uid, Known>>>,
    groups: Groups,
}

impl Names {
    /// Nothing remembered.
    #[must_use]
    pub fn new() -> Names {
        Names {
            overflow: Uid(overflow_uid()),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            turns: Turns::new(LOOKUPS_OF_ONE, Duration::ZERO),
            known: Arc::default(),
            groups: Groups::new(),
        }
    }

    /// What the names of the groups that rules go by stand for, as far as it can be known now.
    pub async fn groups(&self, policy: &Policy) -> Arc<GroupNames> {
        self.groups.named(policy.groups()).await
    }

    /// The user who connected; at once, from the kernel.
    ///
    /// # Errors
    /// [`PeerError`]: close the connection.
    pub fn uid(&self, stream: &Stream) -> Result<Uid, PeerError> {
        self.ids(stream).map(|(uid, ..)| uid)
    }

    /// User, group and process.
    fn ids(&self, stream: &Stream) -> Result<(Uid, u32, i32), PeerError> {
        let creds = stream.local().peer_creds().map_err(PeerError::Credentials)?;
        let (Some(uid), Some(gid), Some(pid)) = (creds.euid(), creds.egid(), creds.pid()) else {
            return Err(PeerError::Credentials(io::ErrorKind::Unsupported.into()));
        };
        let uid = Uid(uid);
        if uid == self.overflow || uid.0 == OVERFLOW_UID || uid.0 == u32::MAX {
            return Err(PeerError::Overflow(uid));
        }
        Ok((uid, gid, pid))
    }

    /// Asks the kernel who is there, and looks up what they are called: not for longer than
    /// [`LOOKUP_PATIENCE`], and not on the caller's thread. What their groups are called is asked
    /// for when they want something: [`Names::groups`].
    ///
    /// # Errors
    /// [`PeerError`]: close the connection.
    pub async fn identify(&self, stream: &Stream) -> Result<Peer, PeerError> {
        let (uid, gid, pid) = self.ids(stream)?;
        let fd = stream.as_fd();
        let mut gids = peer_groups(fd).map_err(|errno| match errno {
            Errno::ERANGE => PeerError::TooManyGroups(uid),
            errno => PeerError::Groups { uid, source: errno.into() },
        })?;
        gids.push(gid);
        gids.sort_unstable();
        gids.dedup();
        let pidfd = getsockopt(&fd, sockopt::PeerPidfd).ok();
        let name = self.name(uid).await;
        let who = Who {
            uid,
            is_named: name.is_some(),
            user: name.unwrap_or_else(|| uid.0.to_string()),
            gids: gids.into(),
            groups: Arc::default(),
        };
        Ok(Peer { who, pid, pidfd })
    }

    /// Who logged in, as the kernel keeps it when somebody becomes another user, and the systemd
    /// unit of the process: hints, and only for audit. Nothing when the process has ended.
    pub async fn trace(&self, peer: &Peer) -> (Option<Login>, Option<String>) {
        let Peer { who, pid, pidfd } = peer;
        let Origin { login, unit } = Origin::of(*pid, pidfd.as_ref(), who.uid);
        let login = match login {
            Some(uid) if uid == who.uid => Some(Login { uid, user: who.user.clone() }),
            Some(uid) => {
                let user = self.name(uid).await.unwrap_or_else(|| uid.0.to_string());
                Some(Login { uid, user })
            }
            None => None,
        };
        (login, unit)
    }

    /// A user's name, or the number of one who has none; `None` when it cannot be known. What a
    /// service said before counts while it does not answer.
    async fn name(&self, uid: Uid) -> Option<String> {
        if let Some(name) = self.fresh(uid) {
            return Some(name);
        }
        let before = locked(&self.known).get(&uid).map(|known| known.name.clone());
        let patience = if before.is_some() { AGAIN_PATIENCE } else { LOOKUP_PATIENCE };
        let asked = tokio::time::timeout(patience, self.look_up(uid)).await.ok().flatten();
        let stale = before.filter(|_| asked.is_none());
        if let Some(name) = &stale {
            remember(&self.known, uid, name.clone(), AGAIN);
        }
        asked.or(stale)
    }

    fn fresh(&self, uid: Uid) -> Option<String> {
        let known = locked(&self.known);
        known.get(&uid).filter(|known| clock::now() < known.until).map(|known| known.name.clone())
    }

    /// What comes too late for its asker is still there for the next.
    async fn look_up(&self, uid: Uid) -> Option<String> {
        // Who asks again and again waits for their own lookups first.
        let turn = self.turns.of(uid).await;
        if let Some(name) = self.fresh(uid) {
            return Some(name);
        }
        let permit = Arc::clone(&self.lookups).acquire_owned().await.ok()?;
        let known = Arc::clone(&self.known);
        let looked_up = tokio::task::spawn_blocking(move || {
            let found = User::from_uid(uid.0.into());
            let name = found.map(|user| user.map_or_else(|| uid.0.to_string(), |user| user.name));
            if let Ok(name) = &name {
                remember(&known, uid, name.clone(), NAMES_FRESH);
            }
            drop((permit, turn));
            name
        });
        match looked_up.await {
            Ok(Ok(name)) => Some(name),
            Ok(Err(error)) => {
                tracing::warn!(%error, uid = uid.0, "the name of a user cannot be looked up");
                None
            }
            Err(_) => None,
        }
    }
}

impl Default for Names {
    fn default() -> Names {
        Names::new()
    }
}

#[derive(Debug)]
struct Known {
    name: String,
    until: Moment,
}

fn remember(known: &Mutex<HashMap<Uid, Known>>, uid: Uid, name: String, fresh: Duration) {
    let now = clock::now();
    let mut known = locked(known);
    // Subordinate users are many, and have no names.
    if known.len() >= NAMES_MAX {
        known.retain(|uid, one| one.name != uid.0.to_string());
    }
    if known.len() >= NAMES_MAX {
        known.retain(|_, one| now < one.until);
    }
    if known.len() >= NAMES_MAX {
        known.clear();
    }
    known.insert(uid, Known { name, until: now + fresh });
}

/// A panic elsewhere leaves a map that is as good as before.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn overflow_uid() -> u32 {
    let text = fs::read_to_string(OVERFLOW_UID_FILE).unwrap_or_default();
    text.trim().parse().unwrap_or(OVERFLOW_UID)
}

/// The supplementary groups that the other end had when it connected.
fn peer_groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut groups = vec![0; GROUPS_USUAL];
    loop {
        match read_peer_groups(socket, &mut groups) {
            Ok(count) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(Errno::ERANGE) if groups.len() < GROUPS_MAX => {
                groups.resize((groups.len() * 2).min(GROUPS_MAX), 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Fills `groups` and says how many there are; `ERANGE` when they do not fit.
#[expect(unsafe_code, reason = "no crate reads SO_PEERGROUPS, and groups decide who may do what")]
fn read_peer_groups(socket: BorrowedFd<'_>, groups: &mut [u32]) -> Result<usize, Errno> {
    let mut bytes = libc::socklen_t::try_from(size_of_val(groups)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel writes at most `bytes` bytes to `groups`, which is that long, writable and
    // of a type for which any bytes are a value; it writes the count to `bytes`, which is ours.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    Errno::result(result)?;
    let count = usize::try_from(bytes).unwrap_or(0) / size_of::<u32>();
    Ok(count.min(groups.len()))
}

#[cfg(test)]
mod tests;
