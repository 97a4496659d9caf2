//! Names of things in a MIB.

use std::fmt;
use std::str::FromStr;

/// More parts are no name (RFC 2578, 3.5).
pub const MAX_PARTS: usize = 128;

/// An object identifier, for example `1.3.6.1.2.1.1.3.0`; ordered as walks go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(Vec<u32>);

impl Oid {
    /// The name with these parts; `None` where it has fewer than two, more than [`MAX_PARTS`], or begins with what no
    /// name does.
    pub fn new(parts: Vec<u32>) -> Option<Self> {
        let begins = match parts.get(..2)? {
            [0 | 1, second] => *second < 40,
            // The encoding adds 80 to it.
            [2, second] => *second <= u32::MAX - 80,
            _ => false,
        };
        (begins && parts.len() <= MAX_PARTS).then_some(Self(parts))
    }

    /// Its parts.
    pub fn parts(&self) -> &[u32] {
        &self.0
    }

    /// What follows `prefix`; `None` where it is not below it.
    pub fn below(&self, prefix: &Oid) -> Option<&[u32]> {
        self.0.strip_prefix(prefix.parts())
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            write!(f, "{}{part}", if index == 0 { "" } else { "." })?;
        }
        Ok(())
    }
}

/// A text that is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no object identifier; write for example 1.3.6.1.2.1.1.3.0")]
pub struct OidError;

impl FromStr for Oid {
    type Err = OidError;

    /// Reads numbers with dots between; a leading dot may be there.
    fn from_str(text: &str) -> Result<Self, OidError> {
        let parts = text.strip_prefix('.').unwrap_or(text).split('.').map(|part| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| part.parse().ok()).flatten()
        });
        parts.collect::<Option<Vec<u32>>>().and_then(Self::new).ok_or(OidError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_written_and_ordered() {
        let oid: Oid = ".1.3.6.1.2.1.2.2.1.10".parse().expect("a name");
        assert_eq!(oid.to_string(), "1.3.6.1.2.1.2.2.1.10");
        let row: Oid = "1.3.6.1.2.1.2.2.1.10.7".parse().expect("a name");
        assert_eq!(row.below(&oid), Some(&[7][..]));
        assert_eq!(oid.below(&row), None);
        assert!(oid < row && row < "1.3.6.1.2.1.2.2.1.11".parse().expect("a name"));
        for wrong in ["", "1", "1.", "1.3.x", "1.40", "3.1", "1.3.4294967296", "1.+3", "2.4294967295"] {
            assert!(wrong.parse::<Oid>().is_err(), "{wrong}");
        }
        assert!(vec!["1"; 129].join(".").parse::<Oid>().is_err());
    }
}
