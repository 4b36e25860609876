//! The contract between `stormlockd` and everything that talks to it.
//!
//! # The conversation
//!
//! 1. The client connects to the agent's Unix socket and writes a [`frame::Hello`]: eight bytes of
//!    magic and the range of protocols it speaks. This part is hand-encoded and fixed for ever. It
//!    may write its first request in the same breath, so the greeting costs no round trip.
//! 2. The agent answers a [`frame::Welcome`]: its own range and either the protocol chosen or a
//!    code that says which side has to change. After a refusal it closes.
//! 3. Then frames, both ways: a little-endian `u32` length of at most [`FRAME_MAX`], and that many
//!    bytes of bincode. One [`message::Request`], one [`message::Reply`], in order. A request that
//!    may wait is answered by [`message::Reply::Waiting`] as often as the wait changes, then by its
//!    reply.
//! 4. [`message::Request::Subscribe`] turns the session into a stream of [`message::Event`]s: the
//!    whole state first, then each change.
//!
//! Who is asking is never in a message. The agent asks the kernel (`SO_PEERCRED`), once, at accept.
//!
//! # What may change
//!
//! Enums are append-only and no released struct is ever edited in place: bincode does not describe
//! itself, so a moved field is silent corruption. Golden bytes of each message are in `tests/wire`.
//! A new message means a new variant and a higher [`PROTOCOL_MAX`].
//!
//! No async runtime and no store client is ever a dependency of this package.

pub mod cause;
pub mod client;
pub mod duration;
pub mod frame;
pub mod message;
pub mod name;
pub mod process;

/// Oldest protocol that this build speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// Newest protocol that this build speaks.
pub const PROTOCOL_MAX: u16 = 1;
/// Longest frame body, in bytes; checked before anything is allocated for it.
pub const FRAME_MAX: usize = 64 * 1024;
/// Most resources one acquire or release may name.
pub const RESOURCES_MAX: usize = 32;
/// Most outcomes in one [`message::Reply::Released`]: each with a long refusal, they still fit into
/// one frame. When there are so many, there may be more to release.
pub const RELEASED_MAX: usize = 64;
/// How long the agent waits for a client's hello, in seconds.
pub const HELLO_SECS: u64 = 5;
/// Longest path of a Unix socket, in bytes: the kernel has room for no more.
pub const SOCKET_PATH_MAX: usize = 107;
/// Where the agent of the system listens.
pub const SYSTEM_SOCKET: &str = "/run/stormlock/stormlockd.sock";
/// Where the agent of one user listens, below `$XDG_RUNTIME_DIR`.
pub const USER_SOCKET: &str = "stormlock/stormlockd.sock";
