//! What the README tells administrators to write, for tests that do it.

use std::path::Path;

/// The fenced block of the README that has these words, lines that go on joined.
pub(crate) fn block(words: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("README.md")).expect("the README");
    let mut blocks = text.split("\n```").skip(1).step_by(2);
    let found = blocks.find(|block| block.contains(words));
    let block = found.unwrap_or_else(|| panic!("the README has no block with {words:?}"));
    let (_, body) = block.split_once('\n').expect("its first line");
    body.replace("\\\n", "")
}
