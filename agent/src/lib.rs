//! The agent of stormlock. Imports run down only: `lease` knows nothing but names, `backend` knows
//! `lease`, and nobody but `driver` (to come) will own the leases.

pub mod backend;
pub mod lease;
