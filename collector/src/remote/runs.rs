//! Finds what was sampled together, so that it is stored as rows of a group rather than sample by sample.
//!
//! The series that a sender scraped from one target come in one order with one time stamp, scrape after scrape. A row of a
//! group costs a tenth of its samples alone, in time and in memory. Invariant: groups are never forgotten by the store, so
//! their number is bounded here whatever comes: an order of series makes a group where none of them has one, or when it
//! came before, and no more once all groups together are several times the series.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;

use roaring::RoaringBitmap;
use veghe_model::Timestamp;
use veghe_tsdb::{Column, Commit, SeriesId, Store};

/// Fewer series are not worth a group.
const LEAST_SERIES: usize = 8;
/// More are not put into one.
const MOST_SERIES: usize = 2_000;
/// All groups may have so many members together, beside [`MEMBERS_PER_SERIES`].
const LEAST_MEMBERS: usize = 100_000;
const MEMBERS_PER_SERIES: usize = 3;
/// Orders that came and have no group; beyond, all are forgotten.
const MAX_SEEN: usize = 100_000;

/// Series that follow each other with the same time stamps.
#[derive(Default)]
pub(super) struct Run {
    series: Vec<SeriesId>,
    /// The samples of the first in the request; those of the others follow.
    first: Range<usize>,
}

/// Which orders of series are groups.
#[derive(Default)]
pub(super) struct Runs {
    run: Run,
    /// Orders that came once, by hash: what a wrong one of these costs is a group too many.
    seen: HashSet<u64>,
    made: HashSet<u64>,
    hasher: RandomState,
    /// Series that have a group.
    grouped: RoaringBitmap,
    members: usize,
}

impl Runs {
    /// Forgets what was added and not ended.
    pub(super) fn abandon(&mut self) {
        self.run = Run::default();
    }

    /// Adds series `id` with its `samples`, which lie in `all`.
    pub(super) fn add(
        &mut self,
        id: SeriesId,
        samples: Range<usize>,
        all: &[(i64, f64)],
        series: usize,
        store: &Store,
        commit: &mut Commit,
    ) {
        if samples.is_empty() {
            return;
        }
        let Run { series: run, first } = &self.run;
        let after = first.end + run.len().saturating_sub(1) * first.len();
        let goes_on = !run.is_empty()
            && run.len() < MOST_SERIES
            && samples.start == after
            && samples.len() == first.len()
            && all[samples.clone()].iter().zip(&all[first.clone()]).all(|(a, b)| a.0 == b.0);
        if !goes_on {
            self.end(all, series, store, commit);
            self.run.first = samples;
        }
        self.run.series.push(id);
    }

    /// Puts what was added so far into `commit`. `series` is how many there are.
    pub(super) fn end(&mut self, all: &[(i64, f64)], series: usize, store: &Store, commit: &mut Commit) {
        let run = std::mem::take(&mut self.run);
        let rows = run.first.len();
        let samples = &all[run.first.start..run.first.start + rows * run.series.len()];
        if self.is_group(&run.series, series) {
            let group = store.group(&run.series);
            commit.columns.extend((0..rows).map(|row| Column {
                group,
                timestamp: Timestamp(samples[row].0),
                values: samples.iter().skip(row).step_by(rows).map(|sample| sample.1).collect(),
            }));
        } else {
            let ids = run.series.iter().flat_map(|id| std::iter::repeat_n(*id, rows));
            commit.samples.extend(ids.zip(samples).map(|(id, (time, value))| (id, Timestamp(*time), *value)));
        }
        self.run.series = run.series;
        self.run.series.clear();
    }

    fn is_group(&mut self, run: &[SeriesId], series: usize) -> bool {
        if run.len() < LEAST_SERIES {
            return false;
        }
        let hash = self.hasher.hash_one(run);
        if self.made.contains(&hash) {
            return true;
        }
        if self.members + run.len() > LEAST_MEMBERS.max(MEMBERS_PER_SERIES * series) {
            return false;
        }
        let fresh = !run.iter().any(|id| self.grouped.contains(id.0));
        if !fresh && !self.seen.remove(&hash) {
            if self.seen.len() >= MAX_SEEN {
                self.seen.clear();
            }
            self.seen.insert(hash);
            return false;
        }
        self.made.insert(hash);
        self.members += run.len();
        self.grouped.extend(run.iter().map(|id| id.0));
        true
    }
}
