//! What is typed, as the types that it means, or why it means nothing.

use std::time::Duration;

use stormlock_protocol::name::{NameError, Reason, Resource, Ttl, UnixMs};

use crate::time;

/// Longest glob: two patterns around the longest resource.
const GLOB_MAX: usize = 256;

/// Reads a duration as a ttl.
pub(crate) fn ttl(text: &str) -> Result<Ttl, String> {
    let secs = time::parse_duration(text)?;
    Ttl::from_secs(secs).map_err(|error| error.to_string())
}

pub(super) fn resource(text: &str) -> Result<Resource, NameError> {
    Resource::new(text)
}

pub(super) fn reason(text: &str) -> Result<Reason, NameError> {
    Reason::new(text)
}

pub(super) fn hold_secs(text: &str) -> Result<u32, String> {
    let secs = time::parse_duration(text)?;
    u32::try_from(secs).map_err(|_| "it is too long (use --keep to hold without an end)".to_owned())
}

pub(super) fn renew_secs(text: &str) -> Result<u32, String> {
    let secs = time::parse_duration(text)?;
    u32::try_from(secs).map_err(|_| "it is too long".to_owned())
}

pub(super) fn wait_secs(text: &str) -> Result<u32, String> {
    let secs = time::parse_duration(text)?;
    u32::try_from(secs).map_err(|_| "it is too long (use --wait to wait without an end)".to_owned())
}

pub(super) fn until(text: &str) -> Result<UnixMs, String> {
    time::parse_until(text, &time::now())
}

pub(super) fn patience(text: &str) -> Result<Duration, String> {
    time::parse_duration(text).map(Duration::from_secs)
}

pub(super) fn glob(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > GLOB_MAX {
        return Err(format!("it must have 1 to {GLOB_MAX} bytes"));
    }
    Ok(text.to_owned())
}
