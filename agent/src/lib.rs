//! The agent of stormlock. Imports run down only: `lease` knows nothing but names, `backend` knows
//! `lease`, and nobody but `driver` owns the leases.

pub mod backend;
pub mod clock;
pub mod config;
pub mod journal;
pub mod lease;
pub mod policy;
