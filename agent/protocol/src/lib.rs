//! What the agent and its clients share: names, and soon messages, framing and a blocking client.
//!
//! No async runtime and no store client is ever a dependency of this package.

pub mod name;
