//! Locks among the users of this one host.
