//! The log put back into memory at the start.
//!
//! Invariants: replaying a record twice changes nothing; the head grows no larger than it may be while the store runs,
//! whatever the log holds: whole windows are sealed on the way, and what later records have of them is merged as late
//! samples are. A kill in the middle leaves watermarks that say how far each window is.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunks::Sealed;
use crate::codec::Scratch;
use crate::head::{Applied, Head};
use crate::index::Index;
use crate::log::Record;
use crate::seal::seal_whole;
use crate::store::{Groups, apply, put_mark};
use crate::tombstone::Tombstones;

/// Puts log records back into memory.
pub(crate) struct Replay<'a> {
    pub(crate) window_ms: i64,
    pub(crate) catalog_through: u64,
    pub(crate) windows: BTreeMap<i64, Sealed>,
    pub(crate) connection: &'a mut rusqlite::Connection,
    pub(crate) tombstones: Tombstones,
    /// Series that the database had.
    pub(crate) lost: &'a roaring::RoaringBitmap,
    pub(crate) marks: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) index: Index,
    pub(crate) head: Head,
    pub(crate) groups: Groups,
    pub(crate) new_series: roaring::RoaringBitmap,
    pub(crate) new_marks: BTreeSet<Vec<u8>>,
    pub(crate) sequence: u64,
    pub(crate) samples: u64,
    pub(crate) unknown: u64,
    pub(crate) scratch: Scratch,
}

impl Replay<'_> {
    /// Seals the oldest windows while the head is larger than it may be, but never the newest, which is still growing: a
    /// start needs no more memory than what came before it.
    pub(crate) fn relieve(&mut self, head_limit: u64) -> rusqlite::Result<()> {
        while self.head.bytes() > head_limit && self.head.windows.len() > 1 {
            let Some(oldest) = self.head.windows.keys().next().copied() else { break };
            let Some(frozen) = self.head.freeze(oldest, self.sequence) else { break };
            let before = self.windows.get(&oldest).cloned().unwrap_or_default();
            let sealed = seal_whole(self.connection, &frozen, before, &self.tombstones)?;
            self.windows.insert(oldest, sealed);
            self.head.frozen = None;
        }
        Ok(())
    }

    pub(crate) fn apply(&mut self, record: Record) {
        let sequence = record.sequence;
        self.sequence = self.sequence.max(sequence);
        for (id, labels) in &record.series {
            if sequence > self.catalog_through || self.lost.contains(*id) {
                self.index.insert(*id, labels);
                self.index.revive(*id);
                self.new_series.insert(*id);
            }
        }
        if sequence > self.catalog_through {
            for (key, value) in record.marks {
                self.new_marks.insert(key.clone());
                put_mark(&mut self.marks, key, value);
            }
        }
        let window_ms = self.window_ms;
        let wanted = |time: i64| {
            let window = time.div_euclid(window_ms);
            i32::try_from(window).is_ok() && self.windows.get(&window).is_none_or(|w| sequence > w.through)
        };
        let mut samples: Vec<(u32, i64, f64)> = Vec::new();
        let mut rows = Vec::new();
        for (series, time, values) in record.columns.into_iter().filter(|c| wanted(c.1)) {
            let number = self.groups.make(&series);
            let group = self.groups.list[number as usize].clone();
            if group.series.iter().all(|id| self.index.alive().contains(*id)) {
                rows.push((number, group, time, values));
            } else {
                samples.extend(series.iter().zip(values).map(|(id, value)| (*id, time, value)));
            }
        }
        samples.extend(record.samples.into_iter().filter(|s| wanted(s.1)));
        let before = samples.len();
        samples.retain(|s| self.index.alive().contains(s.0));
        self.unknown += (before - samples.len()) as u64;
        let mut applied = Applied::default();
        let borrowed = rows.iter().map(|(number, group, time, values)| (*number, group, *time, &**values));
        let due = apply(&mut self.head, |time| time.div_euclid(window_ms), borrowed, &samples, &mut applied);
        for (window, key) in due {
            if let Some(piece) = self.head.compress(window, key, &mut self.scratch) {
                self.head.replace_raw(window, key, piece);
            }
        }
        self.samples += applied.added;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use veghe_model::{Labels, Timestamp};

    use crate::room::Reserve;
    use crate::store::{Inner, read};
    use crate::{Column, Commit, GroupId, Options, SeriesId};

    const WINDOW_MS: i64 = 60_000;

    fn rows(inner: &Inner) -> Vec<(Labels, Vec<(i64, f64)>)> {
        let found = inner.select(&[], Timestamp::MIN, Timestamp::MAX).expect("select");
        found.iter().map(|s| (s.labels.clone(), s.iter().map(|x| (x.timestamp.0, x.value)).collect())).collect()
    }

    #[test]
    fn a_log_of_many_windows_is_sealed_on_the_way_and_nothing_changes() {
        let dir = tempfile::tempdir().expect("directory");
        let options =
            || Options { dir: dir.path().to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 100 };
        let (inner, _) = Inner::open(options()).expect("store opens");
        let labels = |n: u32| Labels::from_pairs([("n", n.to_string())]);
        let series: Vec<SeriesId> = (0..20).map(|n| inner.series(&labels(n)).expect("series")).collect();
        let group: GroupId = inner.group(&series);
        for row in 0..600_i64 {
            let values = (0..20).map(|n| (row * 7 % 31 + n) as f64).collect();
            let columns = vec![Column { group, timestamp: Timestamp(row * 5_000), values }];
            // Late ones for a window that is sealed by then.
            let samples = vec![(series[3], Timestamp(row * 11), row as f64)];
            // Large enough for several segments.
            let marks = vec![(
                vec![row as u8],
                (0..60_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761 + row as u32).to_le_bytes()).collect(),
            )];
            let marks = if row % 20 == 0 { marks } else { Vec::new() };
            inner.commit(Commit { columns, samples, marks }, Reserve::Kept).expect("commit");
        }
        let before = rows(&inner);
        drop(inner);
        for again in 0..2 {
            let (inner, _) = Inner::open_bounded(options(), 20_000).expect("store opens");
            let (bytes, windows) = (read(&inner.head).bytes(), read(&inner.head).windows.len());
            assert!(bytes <= 20_000 || windows == 1, "{bytes} bytes, {windows} windows in the head at start {again}");
            assert!(!read(&inner.sealed).is_empty());
            assert!(rows(&inner) == before, "start {again} shows something else");
        }
    }
}
