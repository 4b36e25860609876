//! What an agent's audit file says: see [`super::Request::Log`].

use bincode::{Decode, Encode};

use crate::name::{Fence, LeaseId, Principal, Reason, Resource, UnixMs};

/// Ask for one page of the agent's audit file, the latest events first.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Log {
    /// Only events about this resource; `None` for all that the caller may read.
    pub resource: Option<Resource>,
    /// Nothing older than this.
    pub since: Option<UnixMs>,
    /// Where the last page ended.
    pub before: Option<LogCursor>,
    /// At most so many events; the agent may give fewer.
    pub limit: u32,
}

/// Where a page of [`super::Reply::Log`] ended. Pages go back in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct LogCursor {
    /// Which file: after it was put away, its pages end.
    pub file: u64,
    /// What stands before this byte is still to be read.
    pub end: u64,
}

/// One event. Its words are those of the file, which an agent of another version may have written.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Logged {
    /// When, by the host's wall clock.
    pub at: UnixMs,
    /// What was done or happened: `acquire`, `release`, `renew`, `attach`, `break`, `lost`,
    /// `resume`, `gap`.
    pub event: String,
    /// What came of it: `ok`, `denied`, `failed`, or why it was lost.
    pub result: String,
    /// The resource, where it is about one.
    pub resource: Option<Resource>,
    /// The lease, where it is about one.
    pub lease: Option<LeaseId>,
    /// Its fence.
    pub fence: Option<Fence>,
    /// The backend's name in the agent's configuration.
    pub backend: Option<String>,
    /// Whose lease it is or was.
    pub principal: Option<Principal>,
    /// Who did it; `None`: the agent, or somebody elsewhere.
    pub by: Option<Principal>,
    /// Why, as somebody said who did it, or took the lease.
    pub reason: Option<Reason>,
    /// More about the result, in words.
    pub why: Option<String>,
    /// So many events before this one could not be written.
    pub missing: u64,
    /// What the kernel said of who did it. Told to that user and to root.
    pub origin: Option<Origin>,
}

/// What the kernel said of whoever asked for something.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Origin {
    /// The user.
    pub uid: u32,
    /// The user's name; the number as text when there is none.
    pub user: String,
    /// Who logged in, where that was another user.
    pub login: Option<String>,
    /// The process.
    pub pid: Option<u32>,
    /// The systemd unit of the process.
    pub unit: Option<String>,
}
