//! The set of labels that names a series.
//!
//! Invariants: names are unique, ascending, and no value is empty (in Prometheus an empty value *is* the missing label).

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";

/// One name and its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    /// For example `instance`.
    pub name: Arc<str>,
    /// For example `archive-nas-1`.
    pub value: Arc<str>,
}

impl PartialOrd for Label {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By name, then by value. Series of one store share their texts, so that most need not be looked at.
impl Ord for Label {
    fn cmp(&self, other: &Self) -> Ordering {
        let of = |a: &Arc<str>, b: &Arc<str>| if Arc::ptr_eq(a, b) { Ordering::Equal } else { a.cmp(b) };
        of(&self.name, &other.name).then_with(|| of(&self.value, &other.value))
    }
}

/// Labels in ascending order of name. Cloning is one reference count.
///
/// Order and equality are those of Prometheus' `labels.Compare`: by the pairs in turn.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[Label]>);

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl Labels {
    /// Labels from pairs in any order. An empty value drops the pair; of a repeated name the last pair stays.
    pub fn from_pairs<N: Into<Arc<str>>, V: Into<Arc<str>>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut builder = LabelsBuilder::default();
        for (name, value) in pairs {
            builder.set(name, value);
        }
        builder.build()
    }

    /// Labels from pairs that are already sorted by name, unique and not empty in value.
    pub fn from_sorted(pairs: impl IntoIterator<Item = Label>) -> Self {
        let pairs: Arc<[Label]> = pairs.into_iter().collect();
        debug_assert!(pairs.is_sorted_by(|a, b| a.name < b.name), "labels must ascend by name");
        Self(pairs)
    }

    /// The value of `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.position(name).ok().map(|at| &*self.0[at].value)
    }

    /// The metric's name, or the empty string where it was dropped by an operation.
    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME).unwrap_or("")
    }

    /// Every pair, ascending by name.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// How many labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A builder that starts from these labels.
    pub fn to_builder(&self) -> LabelsBuilder {
        LabelsBuilder { pairs: self.0.to_vec() }
    }

    /// These labels without the metric's name.
    #[must_use]
    pub fn without_name(&self) -> Self {
        match self.position(METRIC_NAME) {
            Ok(at) => Self(self.0.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, l)| l.clone()).collect()),
            Err(_) => self.clone(),
        }
    }

    /// Only the labels whose name `keep` accepts.
    #[must_use]
    pub fn filter(&self, mut keep: impl FnMut(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|l| keep(&l.name)).cloned().collect())
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|l| (*l.name).cmp(name))
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = &'a Label;
    type IntoIter = std::slice::Iter<'a, Label>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Prometheus' notation: `name{a="b", c="d"}`, with values quoted and escaped.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.metric_name())?;
        let mut rest = self.iter().filter(|l| &*l.name != METRIC_NAME).peekable();
        if rest.peek().is_none() {
            return if self.metric_name().is_empty() { f.write_str("{}") } else { Ok(()) };
        }
        f.write_str("{")?;
        for (i, label) in rest.enumerate() {
            write!(f, "{}{}={:?}", if i == 0 { "" } else { ", " }, label.name, &*label.value)?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Builds [`Labels`] one pair at a time.
#[derive(Clone, Debug, Default)]
pub struct LabelsBuilder {
    pairs: Vec<Label>,
}

impl LabelsBuilder {
    /// Sets `name` to `value`; an empty value removes it.
    pub fn set(&mut self, name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> &mut Self {
        let (name, value) = (name.into(), value.into());
        match (self.pairs.binary_search_by(|l| l.name.cmp(&name)), value.is_empty()) {
            (Ok(at), true) => {
                self.pairs.remove(at);
            }
            (Ok(at), false) => self.pairs[at].value = value,
            (Err(_), true) => {}
            (Err(at), false) => self.pairs.insert(at, Label { name, value }),
        }
        self
    }

    /// Removes `name` if it is there.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        if let Ok(at) = self.pairs.binary_search_by(|l| (*l.name).cmp(name)) {
            self.pairs.remove(at);
        }
        self
    }

    /// The value of `name` so far.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.binary_search_by(|l| (*l.name).cmp(name)).ok().map(|at| &*self.pairs[at].value)
    }

    /// The finished labels.
    pub fn build(&self) -> Labels {
        Labels(self.pairs.as_slice().into())
    }
}

/// Whether `name` may name a metric in the classic charset, `[a-zA-Z_:][a-zA-Z0-9_:]*`.
pub fn is_metric_name(name: &str) -> bool {
    is_name(name, |c| c == b':')
}

/// Whether `name` may name a label in the classic charset, `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_label_name(name: &str) -> bool {
    is_name(name, |_| false)
}

fn is_name(name: &str, also: fn(u8) -> bool) -> bool {
    let letter = |c: u8| c.is_ascii_alphabetic() || c == b'_' || also(c);
    let bytes = name.as_bytes();
    bytes.first().is_some_and(|&c| letter(c)) && bytes.iter().all(|&c| letter(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_value_is_a_missing_label() {
        let labels = Labels::from_pairs([("b", "2"), ("a", ""), ("__name__", "up")]);
        assert_eq!(labels.to_string(), r#"up{b="2"}"#);
        assert_eq!(labels.get("a"), None);
        assert_eq!(labels.without_name().to_string(), r#"{b="2"}"#);
    }

    #[test]
    fn names_follow_the_classic_charset() {
        assert!(is_metric_name("node:cpu:rate5m") && !is_label_name("node:cpu"));
        assert!(!is_metric_name("9lives") && !is_metric_name("") && !is_label_name("a-b"));
    }

    proptest! {
        #[test]
        fn pairs_in_any_order_give_the_same_labels(mut pairs in prop::collection::vec(("[a-z]{1,3}", "[a-z]{0,3}"), 0..8)) {
            pairs.sort();
            pairs.dedup_by(|a, b| a.0 == b.0);
            let forward = Labels::from_pairs(pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let backward = Labels::from_pairs(pairs.iter().rev().map(|(n, v)| (n.as_str(), v.as_str())));
            prop_assert_eq!(&forward, &backward);
            for (name, value) in &pairs {
                prop_assert_eq!(forward.get(name).unwrap_or(""), value.as_str());
            }
        }
    }
}
