//! The pure core: what a lease is, and what may be believed of it.
//!
//! No IO, no clock, no async, no log: time comes in as an argument, effects come out as values.

mod claim;
mod moment;
mod record;

pub use claim::{
    Attach, Attempt, BackendName, Claim, Grant, Hold, Holder, Loss, Nonce, Proof, RefusedKind,
    SessionId, Standing, Uid,
};
pub use moment::Moment;
pub use record::{Ending, Intent, Memory, Record, Remembered, Stage};
