//! Bytes and lines: a header, then length, checksum and body of each line, and how to find the
//! sound ones again in a file that is not sound.
//!
//! Not here: what a line says (`body`), and what to conclude from a gap (`recover`).

/// Of the header and everything after it.
pub(super) const FORMAT: u64 = 1;

/// Longest body. Below 64 KiB the upper half of each length is two zero bytes, and JSON text has
/// none: so nothing that a user wrote into a reason can be taken for a line.
pub(super) const BODY_MAX: usize = u16::MAX as usize;

const MAGIC: &str = "stormlock journal";
/// The longest header that is looked for: magic, a number, a checksum and three separators.
const HEADER_MAX: usize = MAGIC.len() + 20 + 8 + 3;
/// Length and checksum.
const PREFIX: usize = 8;

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// Ours.
    Sound,
    /// Of this format, which is not ours.
    Foreign(u64),
    /// Nothing that makes sense.
    Damaged,
}

/// A stretch of the file after its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A sound line's body.
    Body(&'a [u8]),
    /// Bytes that are no sound line.
    Gap {
        /// Where they begin in the file.
        at: usize,
        /// How many.
        len: usize,
    },
}

pub(super) fn header() -> Vec<u8> {
    header_of(FORMAT).into_bytes()
}

/// The number stands under a checksum, so that a flipped bit in it is no newer format.
pub(super) fn header_of(format: u64) -> String {
    let said = format!("{MAGIC} {format}");
    let crc = crc32c::crc32c(said.as_bytes());
    format!("{said} {crc:08x}\n")
}

/// Appends a line; false, and nothing is done, when the body is too long.
#[must_use]
pub(super) fn push(to: &mut Vec<u8>, body: &[u8]) -> bool {
    let Some(len) = u32::try_from(body.len()).ok().filter(|_| body.len() <= BODY_MAX) else {
        return false;
    };
    to.extend(len.to_le_bytes());
    to.extend(checksum(len, body).to_le_bytes());
    to.extend(body);
    true
}

/// Takes a file apart. A damaged header is the first gap.
pub(super) fn split(bytes: &[u8]) -> (Header, Vec<Piece<'_>>) {
    let (header, mut at) = read_header(bytes);
    let mut pieces = Vec::new();
    let mut gap_at = if header == Header::Damaged { Some(0) } else { None };
    while at < bytes.len() {
        let Some((body, next)) = line_at(bytes, at) else {
            gap_at.get_or_insert(at);
            at += 1;
            continue;
        };
        if let Some(from) = gap_at.take() {
            pieces.push(Piece::Gap { at: from, len: at - from });
        }
        pieces.push(Piece::Body(body));
        at = next;
    }
    if let Some(from) = gap_at {
        pieces.push(Piece::Gap { at: from, len: bytes.len() - from });
    }
    (header, pieces)
}

fn read_header(bytes: &[u8]) -> (Header, usize) {
    let damaged = (Header::Damaged, 0);
    let Some(end) = bytes.iter().take(HEADER_MAX).position(|byte| *byte == b'\n') else {
        return damaged;
    };
    let Some(line) = bytes.get(..=end).and_then(|line| std::str::from_utf8(line).ok()) else {
        return damaged;
    };
    let format = line.strip_prefix(MAGIC).and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    match format {
        Some(format) if line != header_of(format) => damaged,
        Some(FORMAT) => (Header::Sound, end + 1),
        Some(format) => (Header::Foreign(format), end + 1),
        None => damaged,
    }
}

/// The sound line that begins there, and where the next one begins.
fn line_at(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let prefix = bytes.get(at..)?.get(..PREFIX)?;
    let (len, crc) = prefix.split_first_chunk::<4>()?;
    let (len, crc) = (u32::from_le_bytes(*len), u32::from_le_bytes(crc.try_into().ok()?));
    let size = usize::try_from(len).ok().filter(|size| *size <= BODY_MAX)?;
    let from = at.checked_add(PREFIX)?;
    let next = from.checked_add(size)?;
    let body = bytes.get(from..next)?;
    // Cheap before dear: a scan through a damaged file asks this at each byte.
    let is_object = body.first() == Some(&b'{') && body.last() == Some(&b'}');
    (is_object && checksum(len, body) == crc).then_some((body, next))
}

fn checksum(len: u32, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len.to_le_bytes()), body)
}
