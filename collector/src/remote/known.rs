//! Which series the label bytes of a request name, without parsing, hashing or allocating where a sender repeats itself.
//!
//! A sender tells the same series in the same order again and again: after one series the same one follows as last time,
//! so that one comparison of bytes usually answers. Everything else goes by a hash, verified by comparing.
//! What it deliberately does not do: judge labels, or make series (`receiver`).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use veghe_tsdb::SeriesId;

/// Bytes of labels that are remembered with their series; beyond, all are forgotten and looked up anew.
const MAX_BYTES: usize = 128 << 20;

struct Entry {
    /// Where its labels lie in the text.
    start: u32,
    end: u32,
    id: SeriesId,
    /// The entry that came after this one last time.
    next: u32,
}

/// The series of label bytes as they came.
#[derive(Default)]
pub(super) struct Known {
    text: Vec<u8>,
    entries: Vec<Entry>,
    by_hash: HashMap<u64, u32>,
    hasher: RandomState,
    last: u32,
}

impl Known {
    fn key(&self, entry: u32) -> &[u8] {
        let entry = self.entries.get(entry as usize);
        entry.and_then(|entry| self.text.get(entry.start as usize..entry.end as usize)).unwrap_or_default()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The labels that should come next, if `rest` begins with them: how many bytes they have.
    pub(super) fn expected(&self, rest: &[u8]) -> Option<usize> {
        let key = self.key(self.entries.get(self.last as usize)?.next);
        (!key.is_empty() && rest.starts_with(key)).then_some(key.len())
    }

    /// The series of these label bytes.
    pub(super) fn find(&mut self, key: &[u8]) -> Option<SeriesId> {
        let next = self.entries.get(self.last as usize)?.next;
        if self.key(next) == key {
            self.last = next;
            return self.entries.get(next as usize).map(|entry| entry.id);
        }
        let found = *self.by_hash.get(&self.hasher.hash_one(key))?;
        if self.key(found) != key {
            return None;
        }
        self.follow(found);
        self.entries.get(found as usize).map(|entry| entry.id)
    }

    /// Remembers that `key` names `id`.
    pub(super) fn insert(&mut self, key: &[u8], id: SeriesId) {
        if self.text.len() + key.len() > MAX_BYTES {
            *self = Self::default();
        }
        let (start, number) = (self.text.len() as u32, self.entries.len() as u32);
        self.text.extend_from_slice(key);
        // Of two keys with one hash the newer is found; the other is looked up in the store each time.
        self.by_hash.insert(self.hasher.hash_one(key), number);
        self.entries.push(Entry { start, end: self.text.len() as u32, id, next: number });
        self.follow(number);
    }

    fn follow(&mut self, entry: u32) {
        if let Some(before) = self.entries.get_mut(self.last as usize) {
            before.next = entry;
        }
        self.last = entry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_key_names_its_own_series_in_any_order(
            keys in prop::collection::vec(prop::collection::vec(0_u8..3, 1..4), 1..60),
        ) {
            let mut known = Known::default();
            let mut expected: HashMap<Vec<u8>, SeriesId> = HashMap::new();
            let dir = tempfile::tempdir().expect("directory");
            let options = veghe_tsdb::Options {
                dir: dir.path().to_owned(),
                window: std::time::Duration::from_hours(2),
                max_series: 1_000,
            };
            let (store, _) = veghe_tsdb::Store::open(options).expect("store");
            for key in keys {
                let told = expected.get(&key).copied();
                prop_assert_eq!(known.find(&key), told);
                if told.is_none() {
                    let labels = veghe_model::Labels::from_pairs([("key", format!("{key:?}"))]);
                    let id = store.series(&labels).expect("series");
                    known.insert(&key, id);
                    expected.insert(key, id);
                }
            }
        }
    }
}
