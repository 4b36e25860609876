//! The configuration: valid by construction.
