//! No bytes make a reader allocate much. A binary of its own with a single test: the count is of
//! the whole process.

mod samples;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use stormlock_protocol::FRAME_MAX;
use stormlock_protocol::frame::{self, HEADER_LEN};
use stormlock_protocol::message::{Reply, Request};

use samples::samples;

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What reading one body may allocate in all: the frame's limit counts what a message claims, and a
/// text is copied once more on its way into a name; the rest is room for errors and boxes.
const ALLOCATED_MAX: usize = 2 * FRAME_MAX;

/// The lengths that a collection or a text may claim, as bincode writes them.
fn claims() -> Vec<Vec<u8>> {
    let mut claims = vec![vec![250]];
    claims.extend([1_000_u16, u16::MAX].map(|n| [&[251][..], &n.to_le_bytes()].concat()));
    claims
        .extend([1 << 17, 1 << 30, u32::MAX].map(|n: u32| [&[252], &n.to_le_bytes()[..]].concat()));
    claims.extend([1 << 40, u64::MAX].map(|n: u64| [&[253], &n.to_le_bytes()[..]].concat()));
    claims
}

fn spent(read: impl Fn()) -> usize {
    let region = Region::new(COUNTED);
    read();
    region.change().bytes_allocated
}

#[test]
fn reading_hostile_bytes_allocates_no_more_than_a_few_frames() {
    let mut worst = 0;
    let mut tries = 0;
    let mut check = |what: &str, bytes: &[u8], read: &dyn Fn(&[u8])| {
        let spent = spent(|| read(bytes));
        assert!(spent <= ALLOCATED_MAX, "{what}: {spent} bytes for {} read", bytes.len());
        worst = worst.max(spent);
        tries += 1;
    };
    for sample in samples().iter().filter(|sample| !sample.bytes.starts_with(&frame::MAGIC)) {
        let body = &sample.bytes[HEADER_LEN..];
        let read = |bytes: &[u8]| drop((sample.again)(bytes));
        for bit in 0..body.len() * 8 {
            let mut bytes = body.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            check(&sample.name, &bytes, &read);
        }
        for at in 0..body.len() {
            for claim in claims() {
                let mut bytes = [&body[..at], &claim].concat();
                bytes.resize(FRAME_MAX, b'a');
                check(&sample.name, &bytes, &read);
            }
        }
    }
    for first in 0..=u8::MAX {
        let bytes = vec![first; FRAME_MAX];
        check("a whole frame of one byte", &bytes, &|bytes| {
            drop(frame::decode::<Request>(bytes));
            drop(frame::decode::<Reply>(bytes));
        });
    }
    println!("{tries} hostile bodies, {worst} bytes allocated at worst");
    assert!(worst > 0, "the counting does not work");
}
