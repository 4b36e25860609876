//! What the system says about a failure, as people read it. Not for programs: they have the kind.

/// What the standard library writes before a number that only programs know.
const NUMBER: &str = " (os error ";

/// A chain of causes as text, without the numbers of the system's errors, and with these in lower
/// case like the rest: `reading /x: no such file or directory`.
#[must_use]
pub fn plain(text: &str) -> String {
    let Some((told, rest)) = text.split_once(NUMBER) else {
        return text.to_owned();
    };
    let Some((number, rest)) = rest.split_once(')') else {
        return text.to_owned();
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.to_owned();
    }
    let (before, cause) = told.split_at(told.rfind(": ").map_or(0, |at| at + 2));
    let mut letters = cause.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    let cause = first.into_iter().chain(letters);
    before.chars().chain(cause).chain(plain(rest).chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_words_lose_their_number_and_capital() {
        for (text, expected) in [
            ("reading /x: Is a directory (os error 21)", "reading /x: is a directory"),
            ("Permission denied (os error 13)", "permission denied"),
            (
                "a: No such file or directory (os error 2); b: Broken pipe (os error 32)!",
                "a: no such file or directory; b: broken pipe!",
            ),
            ("reading /X: nothing of that kind", "reading /X: nothing of that kind"),
            ("odd (os error x) text", "odd (os error x) text"),
            ("odd (os error 1", "odd (os error 1"),
            ("", ""),
        ] {
            assert_eq!(plain(text), expected);
        }
    }
}
