//! Patterns of names in settings: `*` stands for any text, `?` for one character, all else for itself.

/// Some patterns; a name matches if one of them does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globs(Vec<String>);

impl Globs {
    /// The patterns as they were written.
    pub fn new(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    /// Whether `name` matches one of them, from its beginning to its end.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
    }

    /// The patterns as they were written.
    pub fn patterns(&self) -> &[String] {
        &self.0
    }
}

/// Linear in the product of both lengths: only the last `*` is ever taken back.
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut in_pattern, mut in_name) = (0, 0);
    let mut last_star = None;
    while let Some(&byte) = name.get(in_name) {
        match pattern.get(in_pattern) {
            Some(b'*') => {
                last_star = Some((in_pattern + 1, in_name));
                in_pattern += 1;
            }
            Some(&wanted) if wanted == byte || wanted == b'?' => {
                in_pattern += 1;
                in_name += 1;
            }
            _ => {
                let Some((after, begin)) = last_star else { return false };
                last_star = Some((after, begin + 1));
                (in_pattern, in_name) = (after, begin + 1);
            }
        }
    }
    pattern.get(in_pattern..).unwrap_or_default().iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_text() {
        let all = ["veth*", "docker0", "eth?", "*.bak*.gz"].map(str::to_owned).to_vec();
        let globs = Globs::new(all);
        for name in ["veth", "veth1234", "docker0", "eth0", "x.bak1.gz", ".bak.gz"] {
            assert!(globs.matches(name), "{name}");
        }
        for name in ["vet", "docker", "docker01", "eth", "eth10", "x.bak1.gzip", ""] {
            assert!(!globs.matches(name), "{name}");
        }
        assert!(matches(b"*", b"") && matches(b"a*a", b"aa") && !matches(b"a*a", b"a"));
    }
}
