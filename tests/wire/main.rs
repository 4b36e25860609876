//! The bytes of every message, and that no bytes at all can hurt who reads them.
//!
//! `golden.txt` is the contract with clients and agents of other versions. A line that a release
//! has shipped is never edited and never taken away: what must change becomes a new variant.

mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use stormlock_protocol::frame::{self, FrameError, HEADER_LEN};
use stormlock_protocol::message::{Reply, Request};

use samples::{Sample, samples};

const GOLDEN: &str = include_str!("golden.txt");

/// Name and bytes, as `golden.txt` has them.
fn golden() -> BTreeMap<&'static str, &'static str> {
    let lines = GOLDEN.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pairs: Vec<_> =
        lines.map(|line| line.split_once(" = ").expect("a line is NAME = HEX")).collect();
    let golden: BTreeMap<_, _> = pairs.iter().copied().collect();
    assert_eq!(golden.len(), pairs.len(), "a name stands twice in golden.txt");
    golden
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The body of a frame; a greeting is its own.
fn body(sample: &Sample) -> &[u8] {
    let is_greeting = sample.bytes.starts_with(&frame::MAGIC);
    if is_greeting { &sample.bytes } else { &sample.bytes[HEADER_LEN..] }
}

/// The largest one-byte number of bincode's, which no enum of ours reaches.
const NO_VARIANT: u8 = 250;

/// How many variants the decoder knows of the sample's type; `None` when it is no enum.
fn variants(sample: &Sample) -> Option<u32> {
    use bincode::error::{AllowedEnumVariants::Range, DecodeError::UnexpectedVariant};
    match (sample.again)(&[NO_VARIANT]) {
        Err(FrameError::Body(UnexpectedVariant { allowed: Range { max, .. }, .. })) => {
            Some(max + 1)
        }
        _ => None,
    }
}

#[test]
fn every_message_has_its_golden_bytes() {
    let golden = golden();
    let mut edited = Vec::new();
    let mut missing = Vec::new();
    for Sample { name, bytes, .. } in samples() {
        let now = hex(&bytes);
        match golden.get(name.as_str()) {
            Some(bytes) if *bytes == now => {}
            Some(bytes) => edited.push(format!("{name} was {bytes} and is now {now}")),
            None => missing.push(format!("{name} = {now}")),
        }
    }
    let edited = edited.join("\n");
    assert!(edited.is_empty(), "old clients and agents would misread these:\n{edited}");
    let missing = missing.join("\n");
    assert!(missing.is_empty(), "new messages: add to tests/wire/golden.txt\n{missing}");
}

#[test]
fn every_golden_line_is_a_message_still() {
    let samples: BTreeSet<String> = samples().into_iter().map(|sample| sample.name).collect();
    let gone: Vec<_> = golden().into_keys().filter(|name| !samples.contains(*name)).collect();
    assert!(gone.is_empty(), "no sample makes these any more: {gone:?}");
}

/// What a changed message leaves behind would be noise to the readers that are tried with it.
#[test]
fn the_seeds_of_fuzzing_are_messages_of_now() {
    let golden: BTreeSet<&str> = golden().into_values().collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/frame");
    let mut seen = 0;
    for seed in fs::read_dir(&folder).expect("the seeds") {
        let path = seed.expect("a seed").path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"odd")) {
            continue;
        }
        let bytes = fs::read(&path).expect("a seed can be read");
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let body = frame::split(rest).expect("a length").expect("a whole frame").len();
            let (message, after) = rest.split_at(HEADER_LEN + body);
            let message = hex(message);
            assert!(golden.contains(&message[..]), "{}: {message}", path.display());
            rest = after;
            seen += 1;
        }
    }
    assert!(seen > 0, "no seed in {}", folder.display());
}

#[test]
fn every_variant_that_the_decoder_knows_has_a_sample() {
    let mut seen: BTreeMap<String, (u32, BTreeSet<u32>)> = BTreeMap::new();
    for sample in samples() {
        let Some(variants) = variants(&sample) else { continue };
        let of = sample.name.split("::").next().unwrap_or_default().to_owned();
        let entry = seen.entry(of).or_insert((variants, BTreeSet::new()));
        entry.1.insert(u32::from(body(&sample)[0]));
    }
    let enums: Vec<_> = seen.keys().map(String::as_str).collect();
    let known = [
        "Attach",
        "Code",
        "Event",
        "Health",
        "Hold",
        "Level",
        "LostReason",
        "Release",
        "Reply",
        "Request",
        "State",
        "Wait",
    ];
    assert_eq!(enums, known);
    for (of, (variants, tags)) in seen {
        let all: BTreeSet<u32> = (0..variants).collect();
        assert_eq!(tags, all, "the variants of {of} that have samples");
    }
}

#[test]
fn golden_bytes_read_back_to_what_was_written() {
    for sample in samples() {
        let again = (sample.again)(body(&sample));
        assert_eq!(again.expect(&sample.name), sample.bytes, "{}", sample.name);
    }
}

#[test]
fn a_message_cut_short_is_refused() {
    for sample in samples() {
        let body = body(&sample);
        for len in 0..body.len() {
            let name = &sample.name;
            assert!((sample.again)(&body[..len]).is_err(), "{name} cut to {len} bytes");
        }
    }
}

#[test]
fn a_message_with_a_flipped_bit_never_panics() {
    let mut refused = 0;
    let mut taken = 0;
    for sample in samples() {
        for bit in 0..body(&sample).len() * 8 {
            let mut bytes = body(&sample).to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match (sample.again)(&bytes) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
        }
    }
    println!("flipped bits: {refused} refused, {taken} read as another message");
    assert!(refused > 0 && taken > 0, "{refused} refused, {taken} taken: did the flips arrive?");
}

#[test]
fn a_header_with_a_flipped_bit_never_panics_and_never_promises_too_much() {
    for sample in samples().iter().filter(|sample| !sample.bytes.starts_with(&frame::MAGIC)) {
        for bit in 0..HEADER_LEN * 8 {
            let mut bytes = sample.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Some(body)) = frame::split(&bytes) {
                assert!(body.len() <= sample.bytes.len() - HEADER_LEN, "{}", sample.name);
                assert!((sample.again)(body).is_err(), "{} at bit {bit}", sample.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..2048)) {
        let _ = frame::decode::<Request>(&bytes);
        let _ = frame::decode::<Reply>(&bytes);
        let _ = frame::split(&bytes);
    }

    #[test]
    fn random_bytes_after_a_true_beginning_never_panic(
        at in any::<prop::sample::Index>(),
        keep in any::<prop::sample::Index>(),
        tail in vec(any::<u8>(), 0..512),
    ) {
        let samples = samples();
        let sample = at.get(&samples);
        let body = body(sample);
        let mut bytes = body[..keep.index(body.len())].to_vec();
        bytes.extend(tail);
        let _ = (sample.again)(&bytes);
    }
}
