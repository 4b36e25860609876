//! Each of the targets, by the name in `STORMLOCK_FUZZ`: linked once for all, for `tests/run`.

#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use stormlock_fuzz::Run;

static TARGET: LazyLock<Run> = LazyLock::new(|| {
    let name = std::env::var("STORMLOCK_FUZZ").expect("STORMLOCK_FUZZ names a target");
    let run = stormlock_fuzz::target(&name);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(&name);
    for seed in fs::read_dir(&corpus).expect("a corpus") {
        let path = seed.expect("a seed").path();
        let is_odd =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"odd"));
        // The last one in the log is the one that it fell over.
        eprintln!("{}", path.display());
        let makes_sense = run(&fs::read(&path).expect("a seed can be read"));
        assert!(makes_sense != is_odd, "{}: does it make sense? {makes_sense}", path.display());
    }
    run
});

libfuzzer_sys::fuzz_target!(init: { LazyLock::force(&TARGET); }, |bytes: &[u8]| { TARGET(bytes); });
