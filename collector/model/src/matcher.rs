//! Label matchers, with Prometheus' rules: regular expressions are anchored at both ends, and a missing label
//! is the empty string.

use std::fmt;
use std::sync::Arc;

use crate::Labels;

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

impl fmt::Display for MatchOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        })
    }
}

/// A condition on one label.
#[derive(Clone, Debug)]
pub struct Matcher {
    name: Arc<str>,
    op: MatchOp,
    value: Arc<str>,
    regex: Option<regex::Regex>,
}

/// Why a matcher can't be made.
#[derive(Debug, thiserror::Error)]
pub enum MatcherError {
    /// The pattern is not a regular expression in RE2's syntax.
    #[error("cannot compile matcher {name}{op}{value:?}")]
    Regex {
        /// The label.
        name: String,
        /// `=~` or `!~`.
        op: MatchOp,
        /// The pattern.
        value: String,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
}

/// The compiled size that a pattern may reach, so that a query can't take the memory of the appliance.
const REGEX_SIZE_LIMIT_BYTES: usize = 4 << 20;

impl Matcher {
    /// A condition on label `name`.
    ///
    /// # Errors
    /// [`MatcherError::Regex`] where the pattern is wrong or compiles to more than 4 MiB.
    pub fn new(name: impl Into<Arc<str>>, op: MatchOp, value: impl Into<Arc<str>>) -> Result<Self, MatcherError> {
        let (name, value) = (name.into(), value.into());
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(
                regex::RegexBuilder::new(&format!("^(?s:{value})$"))
                    .size_limit(REGEX_SIZE_LIMIT_BYTES)
                    .build()
                    .map_err(|source| MatcherError::Regex {
                        name: name.to_string(),
                        op,
                        value: value.to_string(),
                        source: Box::new(source),
                    })?,
            ),
        };
        Ok(Self { name, op, value, regex })
    }

    /// `name="value"`.
    pub fn equal(name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None }
    }

    /// The label that it looks at.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it compares.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// The value or pattern, as written.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether a label of this value satisfies it; a missing label is the empty string.
    pub fn matches(&self, value: &str) -> bool {
        match (self.op, &self.regex) {
            (MatchOp::Equal, _) => *self.value == *value,
            (MatchOp::NotEqual, _) => *self.value != *value,
            (MatchOp::Regex, Some(regex)) => regex.is_match(value),
            (MatchOp::NotRegex, Some(regex)) => !regex.is_match(value),
            (MatchOp::Regex | MatchOp::NotRegex, None) => unreachable!("invariant: a regex matcher has its regex"),
        }
    }

    /// Whether a series without this label satisfies it.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// Whether `labels` satisfy it.
    pub fn matches_labels(&self, labels: &Labels) -> bool {
        self.matches(labels.get(&self.name).unwrap_or(""))
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.op, &self.value) == (&other.name, other.op, &other.value)
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.op, &*self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_anchored_and_a_dot_takes_a_new_line() {
        let m = Matcher::new("job", MatchOp::Regex, "a|b.").expect("pattern");
        assert!(m.matches("a") && m.matches("b\n") && !m.matches("ab") && !m.matches("xa"));
    }

    #[test]
    fn a_missing_label_is_the_empty_string() {
        let labels = Labels::from_pairs([("a", "1")]);
        assert!(Matcher::equal("b", "").matches_labels(&labels));
        assert!(Matcher::new("b", MatchOp::NotEqual, "x").expect("matcher").matches_labels(&labels));
        assert!(!Matcher::new("a", MatchOp::NotRegex, ".*").expect("matcher").matches_labels(&labels));
    }

    #[test]
    fn a_wrong_pattern_names_the_matcher() {
        let error = Matcher::new("job", MatchOp::Regex, "(").expect_err("unbalanced");
        assert_eq!(error.to_string(), r#"cannot compile matcher job=~"(""#);
    }
}
