//! NUT's lines (RFC 9271): words, quoted words, errors.

/// A longer line is refused.
pub const MAX_LINE: usize = 4096;
const MAX_WORDS: usize = 16;

/// The words of one line: separated by spaces, quoted where they have spaces, with `\` before `"` and `\`.
/// `None` where a quotation does not end or there are too many.
pub fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut characters = line.trim_end_matches(['\r', '\n']).chars().peekable();
    loop {
        while characters.next_if(|c| *c == ' ').is_some() {}
        if characters.peek().is_none() {
            return Some(words);
        }
        if words.len() >= MAX_WORDS {
            return None;
        }
        let mut word = String::new();
        let is_quoted = characters.next_if_eq(&'"').is_some();
        loop {
            match characters.next() {
                None if is_quoted => return None,
                None => break,
                Some('"') if is_quoted => break,
                Some(' ') if !is_quoted => break,
                Some('\\') => word.extend(characters.next()),
                Some(c) => word.push(c),
            }
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_told_apart() {
        let told = |line| words(line).map(|words| words.join("|"));
        assert_eq!(
            told("VAR su700 ups.mfr \"APC by \\\"S\\\" \\\\\"\n").as_deref(),
            Some("VAR|su700|ups.mfr|APC by \"S\" \\")
        );
        assert_eq!(told("  OK  ").as_deref(), Some("OK"));
        assert_eq!(told("VAR a b \"\"").as_deref(), Some("VAR|a|b|"));
        assert_eq!(told("VAR \"a"), None);
        assert_eq!(told(&"a ".repeat(17)), None);
    }

    proptest! {
        #[test]
        fn any_line_is_words_or_refused(line in any::<String>()) {
            drop(words(&line));
        }
    }
}
