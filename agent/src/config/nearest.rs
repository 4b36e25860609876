//! The word somebody probably meant.

/// Slips that a suggestion forgives, for a word of this many letters: one in short words, and one
/// more for each further four letters; beyond that a suggestion is a guess.
const LETTERS_PER_SLIP: usize = 4;

/// The candidate that is a few slips (a letter wrong, missing, added or swapped) away, if any.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let best = candidates.iter().min_by_key(|candidate| slips(word, candidate))?;
    let forgiven = 1 + best.chars().count() / LETTERS_PER_SLIP;
    // A one-letter word is one slip from every other.
    (slips(word, best) <= forgiven && word.chars().count() > 1).then_some(*best)
}

/// Letters to change, add, remove or swap with their neighbour.
fn slips(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut previous = None;
    for (row, have) in from.chars().enumerate() {
        let mut next = vec![row + 1];
        for (column, want) in to.iter().enumerate() {
            let changed = last[column] + usize::from(have != *want);
            let mut fewest = changed.min(last[column + 1] + 1).min(next[column] + 1);
            if column > 0 && previous == Some(*want) && have == to[column - 1] {
                fewest = fewest.min(before_last[column - 1] + 1);
            }
            next.push(fewest);
        }
        (before_last, last) = (last, next);
        previous = Some(have);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_a_foreign_word_finds_none() {
        let known = ["default_ttl", "default_backend", "host", "principal"];
        for (word, expected) in [
            ("defualt_ttl", Some("default_ttl")),
            ("hosts", Some("host")),
            ("hsot", Some("host")),
            ("principle", Some("principal")),
            ("default-backend", Some("default_backend")),
            ("timeout", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
        assert_eq!(nearest("host", &[]), None);
        assert_eq!(slips("", ""), 0);
        assert_eq!(slips("abc", ""), 3);
        assert_eq!(slips("abcd", "acbd"), 1);
    }
}
