//! The names of the field as types: parsed once at the edge, never raw strings after that.
//!
//! Not here: who may use a name (the agent's policy), and how a store spells it (each backend).

use std::fmt;
use std::str::FromStr;

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

/// Longest [`Resource`], in bytes: keys of this length are accepted by every store we speak to,
/// and leave room for a site's prefix.
pub const RESOURCE_MAX: usize = 128;
/// Longest [`Principal`], in bytes.
pub const PRINCIPAL_MAX: usize = 128;
/// Longest [`Reason`], in bytes: a sentence, not a document; it is stored beside each lock.
pub const REASON_MAX: usize = 256;
/// Shortest [`Ttl`], in seconds. The stores count whole seconds.
pub const TTL_MIN_SECS: u32 = 1;
/// Longest [`Ttl`], in seconds (366 days). A ttl is crash safety; longer is a forgotten lock.
pub const TTL_MAX_SECS: u32 = 366 * 86_400;
/// Longest time, in seconds, that others may count on a lease after the end of its holder
/// ([`crate::message::Attach::Holder`]): nobody but root and the holder's user can have it sooner,
/// and no stop of a service takes longer.
pub const LINGER_SECS_MAX: u32 = 3600;

/// Why a text is not the name it was meant to be. The caller says which text and where it stood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or only white space.
    #[error("it is empty")]
    Empty,
    /// More bytes than the name may have.
    #[error("it has {len} bytes, the limit is {max}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A character outside the allowed alphabet.
    #[error("{0:?} is not allowed in it (allowed: letters, digits and . _ / : @ + -)")]
    Character(char),
    /// A resource that does not begin with a letter or a digit.
    #[error("it begins with {0:?} (a resource begins with a letter or a digit)")]
    Start(char),
    /// A control, bidirectional or zero-width character: text that could forge what a person reads.
    #[error("it contains the invisible or control character U+{0:04X}")]
    Invisible(u32),
    /// Not a lease id in any of the accepted spellings.
    #[error("it is not a lease id (32 hex digits, a UUID, or up to 16 hex digits)")]
    LeaseId,
    /// A ttl outside its limits.
    #[error("{0} s is outside {TTL_MIN_SECS} s to 366 days")]
    Ttl(u64),
}

/// What is protected: 1 to [`RESOURCE_MAX`] bytes of `[A-Za-z0-9._/:@+-]`, beginning with a letter
/// or a digit. The same text is the name in the store, after the backend's prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource(String);

impl Resource {
    /// Parses a resource name.
    ///
    /// # Errors
    /// [`NameError`] for an empty, long or foreign name; nothing is trimmed or repaired, because a
    /// repaired name would lock something else than what the person meant.
    pub fn new(text: impl Into<String>) -> Result<Resource, NameError> {
        let text = text.into();
        check_length(&text, RESOURCE_MAX)?;
        if let Some(bad) = text.chars().find(|c| !is_resource_char(*c)) {
            return Err(NameError::Character(bad));
        }
        match text.chars().next() {
            Some(first) if first.is_ascii_alphanumeric() => Ok(Resource(text)),
            Some(first) => Err(NameError::Start(first)),
            None => Err(NameError::Empty),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// True for the characters that a [`Resource`] may contain.
#[must_use]
pub fn is_resource_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._/:@+-".contains(c)
}

/// Who holds a lease, as text (`maria@bastion2`). The agent makes it from kernel credentials; what
/// other writers of the store wrote is taken by [`Principal::foreign`], which never fails.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(String);

impl Principal {
    /// Parses a principal.
    ///
    /// # Errors
    /// [`NameError`] for an empty or long text and for invisible characters.
    pub fn new(text: impl Into<String>) -> Result<Principal, NameError> {
        visible_text(text.into(), PRINCIPAL_MAX).map(Principal)
    }

    /// Takes what another writer put into the store: invisible characters become U+FFFD, the rest
    /// is cut at [`PRINCIPAL_MAX`] bytes on a character boundary, nothing becomes `?`.
    #[must_use]
    pub fn foreign(text: &str) -> Principal {
        Principal(tame(text, PRINCIPAL_MAX))
    }

    /// The principal as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why somebody took a lock, in their words: 1 to [`REASON_MAX`] bytes of visible text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reason(String);

impl Reason {
    /// Parses a reason.
    ///
    /// # Errors
    /// [`NameError`] for an empty or long text and for invisible characters.
    pub fn new(text: impl Into<String>) -> Result<Reason, NameError> {
        visible_text(text.into(), REASON_MAX).map(Reason)
    }

    /// Takes what another writer put into the store, as [`Principal::foreign`] does.
    #[must_use]
    pub fn foreign(text: &str) -> Reason {
        Reason(tame(text, REASON_MAX))
    }

    /// The reason as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// That of what stands in the place of a broken lease, which nobody holds; `None` when it is
    /// too long.
    #[must_use]
    pub fn of_a_break(broken: LeaseId, why: &Reason) -> Option<Reason> {
        Reason::new(format!("{BROKE}{broken}{WHY}{why}")).ok()
    }

    /// Which lease was broken and why, if it is such a reason.
    #[must_use]
    pub fn broken(&self) -> Option<(LeaseId, &str)> {
        let (broken, why) = self.0.strip_prefix(BROKE)?.split_once(WHY)?;
        Some((broken.parse().ok()?, why))
    }
}

/// How the reason of such a lease begins, and what follows on the broken lease's id.
const BROKE: &str = "broke ";
const WHY: &str = ": ";

/// The name of one held right, minted by us before the first try. A handle, not a secret.
///
/// 128 random bits for most stores; etcd's own lease ids have 63 bits, so an id whose upper half is
/// zero is written as plain hex without leading zeros, as the Python tool writes it there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct LeaseId([u8; 16]);

impl LeaseId {
    /// An id from 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> LeaseId {
        LeaseId(bytes)
    }

    /// The id as 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl FromStr for LeaseId {
    type Err = NameError;

    /// Accepts 32 hex digits, a UUID with dashes, or 1 to 16 hex digits (etcd).
    fn from_str(text: &str) -> Result<LeaseId, NameError> {
        let bytes = text.as_bytes();
        let dashed = bytes.len() == 36 && [8, 13, 18, 23].iter().all(|at| bytes[*at] == b'-');
        let digits: String = if dashed { text.replace('-', "") } else { text.to_owned() };
        let fits = digits.len() == 32 || (1..=16).contains(&digits.len());
        if !fits || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NameError::LeaseId);
        }
        let number = u128::from_str_radix(&digits, 16).map_err(|_| NameError::LeaseId)?;
        Ok(LeaseId(number.to_be_bytes()))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u128::from_be_bytes(self.0);
        if number >> 64 == 0 { write!(f, "{number:x}") } else { write!(f, "{number:032x}") }
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({self})")
    }
}

/// A number that rises with each grant on a resource (a fencing token). What writes to the
/// protected thing can refuse a smaller one than it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Fence(pub u64);

/// A point of the wall clock, in milliseconds since 1970-01-01T00:00:00Z. For people only: nothing
/// is ever decided by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct UnixMs(pub i64);

/// How long a lease lives without a renewal, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u32);

impl Ttl {
    /// A ttl of whole seconds.
    ///
    /// # Errors
    /// [`NameError::Ttl`] outside [`TTL_MIN_SECS`] to [`TTL_MAX_SECS`].
    pub fn from_secs(secs: u64) -> Result<Ttl, NameError> {
        match u32::try_from(secs) {
            Ok(fits) if (TTL_MIN_SECS..=TTL_MAX_SECS).contains(&fits) => Ok(Ttl(fits)),
            _ => Err(NameError::Ttl(secs)),
        }
    }

    /// The ttl in seconds.
    #[must_use]
    pub const fn as_secs(self) -> u32 {
        self.0
    }
}

macro_rules! displays_its_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.0.encode(encoder)
            }
        }
        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<$name, DecodeError> {
                let text = String::decode(decoder)?;
                $name::new(text).map_err(|e| DecodeError::OtherString(e.to_string()))
            }
        }
        bincode::impl_borrow_decode!($name);
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<$name, NameError> {
                $name::new(text)
            }
        }
    )*};
}
displays_its_text!(Resource, Principal, Reason);

impl Encode for Ttl {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

impl<C> Decode<C> for Ttl {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Ttl, DecodeError> {
        let secs = u32::decode(decoder)?;
        Ttl::from_secs(secs.into()).map_err(|e| DecodeError::OtherString(e.to_string()))
    }
}
bincode::impl_borrow_decode!(Ttl);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// True for characters that a person cannot see and that can forge what they read: controls,
/// bidirectional marks, zero-width and other format characters, line separators, private use of
/// tags, variation selectors.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

fn check_length(text: &str, max: usize) -> Result<(), NameError> {
    if text.trim().is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong { len: text.len(), max });
    }
    Ok(())
}

fn visible_text(text: String, max: usize) -> Result<String, NameError> {
    check_length(&text, max)?;
    match text.chars().find(|c| is_invisible(*c)) {
        Some(bad) => Err(NameError::Invisible(u32::from(bad))),
        None => Ok(text),
    }
}

fn tame(text: &str, max: usize) -> String {
    let mut tamed = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let c = if is_invisible(c) { char::REPLACEMENT_CHARACTER } else { c };
        if tamed.len() + c.len_utf8() > max {
            break;
        }
        tamed.push(c);
    }
    if tamed.trim().is_empty() { "?".to_owned() } else { tamed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_taken_as_written_or_refused() {
        for good in ["a", "prod/db", "9", "a.b_c/d:e@f+g-h", &"x".repeat(RESOURCE_MAX)] {
            assert_eq!(Resource::new(good).unwrap().as_str(), good);
        }
        assert_eq!(Resource::new(""), Err(NameError::Empty));
        assert_eq!(Resource::new("/a"), Err(NameError::Start('/')));
        assert_eq!(Resource::new("a b"), Err(NameError::Character(' ')));
        assert_eq!(Resource::new("$(touch x)"), Err(NameError::Character('$')));
        assert_eq!(Resource::new("ä"), Err(NameError::Character('ä')));
        let long = NameError::TooLong { len: 129, max: 128 };
        assert_eq!(Resource::new("x".repeat(129)), Err(long));
    }

    #[test]
    fn a_lease_id_reads_every_spelling_of_the_python_tool() {
        let wide = "0af1c2d3e4f50617283940515263748f";
        assert_eq!(wide.parse::<LeaseId>().unwrap().to_string(), wide);
        let uuid = "0af1c2d3-e4f5-0617-2839-40515263748f";
        assert_eq!(uuid.parse::<LeaseId>().unwrap().to_string(), wide);
        assert_eq!("70d5f".parse::<LeaseId>().unwrap().to_string(), "70d5f");
        for bad in ["", "xyz", "+1", "0x12", &"a".repeat(17), &"a".repeat(33), "é"] {
            assert_eq!(bad.parse::<LeaseId>(), Err(NameError::LeaseId), "{bad:?}");
        }
    }

    #[test]
    fn invisible_text_is_refused_from_us_and_tamed_from_others() {
        for bad in ["a\u{202e}b", "a\u{200b}b", "a\nb", "a\u{1b}[31mb", "\u{e0041}a"] {
            assert!(matches!(Reason::new(bad), Err(NameError::Invisible(_))), "{bad:?}");
            assert!(Principal::foreign(bad).as_str().chars().all(|c| !is_invisible(c)));
        }
        assert_eq!(Principal::foreign("  ").as_str(), "?");
        assert_eq!(Principal::foreign(&"é".repeat(100)).as_str().len(), PRINCIPAL_MAX);
    }

    #[test]
    fn a_ttl_is_whole_seconds_within_its_limits() {
        assert_eq!(Ttl::from_secs(0), Err(NameError::Ttl(0)));
        assert_eq!(Ttl::from_secs(1).unwrap().as_secs(), 1);
        assert_eq!(Ttl::from_secs(u64::MAX), Err(NameError::Ttl(u64::MAX)));
    }
}
