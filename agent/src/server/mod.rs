//! The agent's socket.

pub mod listen;
pub mod peer;
