//! The target of this name, for cargo-fuzz.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    stormlock_fuzz::target("hello")(bytes);
});
