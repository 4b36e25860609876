//! Random runs that can be repeated, and the time that tests count in.

#![allow(dead_code, reason = "each test binary uses its own part of the support")]

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since boot.
pub(crate) fn now_ms() -> u64 {
    now_us() / 1000
}

/// Microseconds since boot.
pub(crate) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let us = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    u64::try_from(us).expect("the boot clock is not negative")
}

/// A small generator whose seed is printed: xorshift64*.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn seeded(test: &str) -> Dice {
        Dice::told(test).1
    }

    /// The same with its seed, for a test that tells it in its own way too.
    pub(crate) fn told(test: &str) -> (u64, Dice) {
        let seed = match std::env::var("STORMLOCK_SEED") {
            Ok(text) => text.parse().expect("STORMLOCK_SEED is a number"),
            Err(_) => now_ms(),
        };
        println!("{test}: STORMLOCK_SEED={seed}");
        // A state of nought would stay nought.
        (seed, Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    /// Another generator, for another thread.
    pub(crate) fn split(&mut self) -> Dice {
        self.below(2);
        Dice(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let rolled = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(rolled).expect("31 bits fit") % end
    }
}
