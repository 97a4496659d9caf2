//! Which series exist and which of them satisfy matchers.
//!
//! Names and values are interned; each (name, value) has a bitmap of its series. Regular expressions run once over the
//! distinct values of a label, never over series. A removed series keeps its number and labels until the process ends,
//! so that whoever still holds the number can write to it again.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use roaring::{MultiOps as _, RoaringBitmap};
use veghe_model::{Label, Labels, MatchOp, Matcher};

use crate::Cardinality;

type Symbol = u32;

/// The label that holds a metric's name.
const METRIC_NAME: &str = "__name__";

#[derive(Default)]
struct Symbols {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, Symbol>,
}

impl Symbols {
    fn intern(&mut self, text: &Arc<str>) -> Symbol {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = self.texts.len() as Symbol;
        self.texts.push(Arc::clone(text));
        self.numbers.insert(Arc::clone(text), number);
        number
    }
}

#[derive(Default)]
struct Postings {
    all: RoaringBitmap,
    values: BTreeMap<Symbol, RoaringBitmap>,
}

/// The index; rebuilt from labels at every start.
#[derive(Default)]
pub(crate) struct Index {
    symbols: Symbols,
    hasher: RandomState,
    /// By series number; empty for numbers never used.
    series: Vec<Box<[(Symbol, Symbol)]>>,
    /// Numbers in use, removed series included.
    known: RoaringBitmap,
    alive: RoaringBitmap,
    by_hash: HashMap<u64, u32>,
    /// Series whose hash another one has taken.
    collided: HashMap<u64, Vec<u32>>,
    postings: BTreeMap<Symbol, Postings>,
    next: u32,
}

impl Index {
    pub(crate) fn alive(&self) -> &RoaringBitmap {
        &self.alive
    }

    /// The next number that no series has had.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Numbers below `next` are taken, whether or not their series still exist.
    pub(crate) fn reserve(&mut self, next: u32) {
        self.next = self.next.max(next);
    }

    /// Whether this number has been given out, even if its series is removed by now.
    pub(crate) fn knows(&self, id: u32) -> bool {
        self.known.contains(id)
    }

    fn pairs(&self, labels: &Labels) -> Option<Vec<(Symbol, Symbol)>> {
        let number = |text: &Arc<str>| self.symbols.numbers.get(text).copied();
        labels.iter().map(|l| Some((number(&l.name)?, number(&l.value)?))).collect()
    }

    fn find_pairs(&self, pairs: &[(Symbol, Symbol)]) -> Option<u32> {
        let hash = self.hasher.hash_one(pairs);
        let same = |id: &u32| *self.series[*id as usize] == *pairs;
        self.by_hash
            .get(&hash)
            .into_iter()
            .chain(self.collided.get(&hash).into_iter().flatten())
            .find(|id| same(id))
            .copied()
    }

    /// The number of the series of `labels`, removed or not.
    pub(crate) fn find(&self, labels: &Labels) -> Option<u32> {
        self.find_pairs(&self.pairs(labels)?)
    }

    /// A new series of the next number.
    pub(crate) fn create(&mut self, labels: &Labels) -> u32 {
        let id = self.next;
        self.insert(id, labels);
        id
    }

    /// Puts series `id` in, as a file names it. A number or labels that are there already stay as they are.
    pub(crate) fn insert(&mut self, id: u32, labels: &Labels) {
        let pairs: Box<[(Symbol, Symbol)]> =
            labels.iter().map(|l| (self.symbols.intern(&l.name), self.symbols.intern(&l.value))).collect();
        if self.known.contains(id) || self.find_pairs(&pairs).is_some() {
            return;
        }
        let hash = self.hasher.hash_one(&*pairs);
        if self.series.len() <= id as usize {
            self.series.resize_with(id as usize + 1, Box::default);
        }
        self.series[id as usize] = pairs;
        self.known.insert(id);
        self.next = self.next.max(id.saturating_add(1));
        if let std::collections::hash_map::Entry::Vacant(e) = self.by_hash.entry(hash) {
            e.insert(id);
        } else {
            self.collided.entry(hash).or_default().push(id);
        }
        self.revive(id);
    }

    /// Makes a removed series visible again.
    pub(crate) fn revive(&mut self, id: u32) {
        if !self.known.contains(id) || !self.alive.insert(id) {
            return;
        }
        for &(name, value) in &*self.series[id as usize] {
            let postings = self.postings.entry(name).or_default();
            postings.all.insert(id);
            postings.values.entry(value).or_default().insert(id);
        }
    }

    /// Takes series out of every answer.
    pub(crate) fn remove(&mut self, ids: &RoaringBitmap) {
        for id in ids {
            if !self.alive.remove(id) {
                continue;
            }
            for (name, value) in &*self.series[id as usize] {
                let Some(postings) = self.postings.get_mut(name) else { continue };
                postings.all.remove(id);
                if let Some(bitmap) = postings.values.get_mut(value) {
                    bitmap.remove(id);
                    if bitmap.is_empty() {
                        postings.values.remove(value);
                    }
                }
            }
        }
    }

    /// The labels of series `id`.
    pub(crate) fn labels(&self, id: u32) -> Labels {
        let text = |symbol: Symbol| Arc::clone(&self.symbols.texts[symbol as usize]);
        let pairs = self.series.get(id as usize).map_or(&[][..], |pairs| pairs);
        Labels::from_sorted(pairs.iter().map(|&(name, value)| Label { name: text(name), value: text(value) }))
    }

    /// What the series are made of: the largest `limit` of each kind.
    pub(crate) fn cardinality(&self, limit: usize) -> Cardinality {
        let text = |symbol: Symbol| &*self.symbols.texts[symbol as usize];
        let mut report = Cardinality { series: self.alive.len(), ..Cardinality::default() };
        for (&name, postings) in &self.postings {
            let values = postings.values.len() as u64;
            if values == 0 {
                continue;
            }
            report.label_pairs += values;
            // As Prometheus counts it: the texts of the values, for each series that has one.
            let bytes = postings.values.iter().map(|(value, with)| text(*value).len() as u64 * with.len()).sum();
            keep_largest(&mut report.values_by_label, limit, values, || text(name).to_owned());
            keep_largest(&mut report.bytes_by_label, limit, bytes, || text(name).to_owned());
            keep_largest(&mut report.series_by_label, limit, postings.all.len(), || text(name).to_owned());
            for (&value, with) in &postings.values {
                let pair = || format!("{}={}", text(name), text(value));
                keep_largest(&mut report.series_by_pair, limit, with.len(), pair);
                if text(name) == METRIC_NAME {
                    keep_largest(&mut report.series_by_metric, limit, with.len(), || text(value).to_owned());
                }
            }
        }
        report
    }

    /// The series that satisfy every matcher.
    pub(crate) fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        let mut found: Option<RoaringBitmap> = None;
        // Narrow first, then exclude: what matches a missing label can only take away.
        for matcher in matchers.iter().filter(|m| !m.matches_empty()) {
            let with = self.with_value(matcher, veghe_model::Matcher::matches);
            found = Some(match found {
                Some(found) => found & with,
                None => with,
            });
        }
        let mut found = found.unwrap_or_else(|| self.alive.clone());
        for matcher in matchers.iter().filter(|m| m.matches_empty()) {
            if found.is_empty() {
                break;
            }
            found -= self.with_value(matcher, |m, value| !m.matches(value));
        }
        found
    }

    fn with_value(&self, matcher: &Matcher, accept: impl Fn(&Matcher, &str) -> bool) -> RoaringBitmap {
        let number = |text: &str| self.symbols.numbers.get(text);
        let Some(postings) = number(matcher.name()).and_then(|name| self.postings.get(name)) else {
            return RoaringBitmap::new();
        };
        // `name="value"` and `name!="value"` both ask for the one value that is written.
        let one = match matcher.op() {
            MatchOp::Equal | MatchOp::NotEqual => !matcher.value().is_empty(),
            MatchOp::Regex | MatchOp::NotRegex => false,
        };
        if one {
            return number(matcher.value()).and_then(|v| postings.values.get(v)).cloned().unwrap_or_default();
        }
        if matcher.value().is_empty() {
            return postings.all.clone();
        }
        let accepted = |(value, _): &(&Symbol, _)| accept(matcher, &self.symbols.texts[**value as usize]);
        postings.values.iter().filter(accepted).map(|(_, bitmap)| bitmap).union()
    }
}

/// Keeps the largest counts, descending; of equal ones those that come first.
fn keep_largest(list: &mut Vec<(String, u64)>, limit: usize, count: u64, name: impl FnOnce() -> String) {
    if list.len() >= limit && list.last().is_none_or(|(_, least)| *least >= count) {
        return;
    }
    let at = list.partition_point(|(_, other)| *other >= count);
    list.insert(at, (name(), count));
    list.truncate(limit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels() -> impl Strategy<Value = Labels> {
        prop::collection::vec(("[abc]", "[xyz]{0,2}"), 0..4).prop_map(Labels::from_pairs)
    }

    fn matcher() -> impl Strategy<Value = Matcher> {
        let op = prop::sample::select(vec![MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]);
        let value = prop::sample::select(vec!["", "x", "xy", "x|y", ".*", ".+", "x.*", "|z", "nothing"]);
        ("[abcd]", op, value).prop_map(|(name, op, value)| Matcher::new(name, op, value).expect("pattern"))
    }

    #[test]
    fn the_largest_names_and_values_are_counted() {
        let mut index = Index::default();
        for n in 0..6 {
            let name = if n < 4 { "often" } else { "seldom" };
            index.create(&Labels::from_pairs([("__name__", name), ("n", &n.to_string()), ("job", "node")]));
        }
        index.remove(&[5].into_iter().collect());
        let report = index.cardinality(2);
        let pairs = |list: &[(&str, u64)]| list.iter().map(|(text, n)| ((*text).to_owned(), *n)).collect::<Vec<_>>();
        assert_eq!((report.series, report.label_pairs), (5, 8));
        assert_eq!(report.series_by_metric, pairs(&[("often", 4), ("seldom", 1)]));
        assert_eq!(report.values_by_label, pairs(&[("n", 5), ("__name__", 2)]));
        assert_eq!(report.series_by_pair, pairs(&[("job=node", 5), ("__name__=often", 4)]));
        assert_eq!(report.bytes_by_label[0], ("__name__".to_owned(), 4 * 5 + 6));
        assert_eq!(index.cardinality(0), Cardinality { series: 5, label_pairs: 8, ..Cardinality::default() });
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_a_naive_filter(
            all in prop::collection::vec(labels(), 0..30),
            matchers in prop::collection::vec(matcher(), 0..4),
            gone in prop::collection::vec(0_u32..30, 0..5),
        ) {
            let mut index = Index::default();
            for labels in &all {
                if index.find(labels).is_none() {
                    let id = index.create(labels);
                    prop_assert_eq!(&index.labels(id), labels);
                }
            }
            index.remove(&gone.iter().copied().collect());
            let expected: RoaringBitmap = (0..index.next())
                .filter(|id| !gone.contains(id))
                .filter(|id| matchers.iter().all(|m| m.matches_labels(&index.labels(*id))))
                .collect();
            prop_assert_eq!(index.select(&matchers), expected);
            (0..index.next()).for_each(|id| index.revive(id));
            let expected: RoaringBitmap =
                (0..index.next()).filter(|id| matchers.iter().all(|m| m.matches_labels(&index.labels(*id)))).collect();
            prop_assert_eq!(index.select(&matchers), expected);
        }
    }
}
