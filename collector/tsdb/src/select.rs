//! Reads: head and chunks merged, every sample exactly once.
//!
//! Invariants: the head is looked at before the list of sealed windows, and that before the database; a window leaves
//! the head only after its chunks are committed and listed, so nothing is missed, and what is seen twice is merged.
//! Locks are held while references and raw rows are copied, never while anything is decoded or read from disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use roaring::RoaringBitmap;
use rusqlite::Connection;
use veghe_model::{Labels, Matcher, SeriesData, Timestamp};

use crate::bytes::Damaged;
use crate::chunks::{ChunkError, Level, TimesReader, WINDOWS_PER_DAY, row, take_snapshot};
use crate::head::{Part, PartKey, Piece, PieceTimes, Window};
use crate::store::{Inner, read};
use crate::{ReadError, codec};

/// Samples of one series from one place, ascending.
struct Run {
    times: Arc<[i64]>,
    values: Vec<f64>,
}

/// What a reader keeps of a part.
struct PartView {
    window: i64,
    pieces: Vec<Arc<Piece>>,
    /// Raw rows within the range, in order of arrival.
    times: Arc<[i64]>,
    rows: Vec<usize>,
}

/// Columns of parts that belong to one series.
struct ColumnView {
    view: usize,
    at: usize,
    raw: Vec<f64>,
}

#[derive(Default)]
struct Snapshot {
    views: Vec<PartView>,
    columns: BTreeMap<u32, Vec<ColumnView>>,
}

impl Inner {
    pub(crate) fn select(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<SeriesData>, ReadError> {
        if start > end {
            return Ok(Vec::new());
        }
        let (found, labels) = self.matching(matchers);
        self.select_found(&found, labels, start, end)
    }

    pub(crate) fn select_series(
        &self,
        series: &[Labels],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<SeriesData>, ReadError> {
        if start > end {
            return Ok(Vec::new());
        }
        let wanted: Vec<(u32, Labels)> = {
            let index = read(&self.index);
            series.iter().filter_map(|labels| Some((index.find(labels)?, labels.clone()))).collect()
        };
        let found = wanted.iter().map(|(id, _)| *id).collect();
        self.select_found(&found, wanted.into_iter().collect(), start, end)
    }

    fn select_found(
        &self,
        found: &RoaringBitmap,
        mut labels: HashMap<u32, Labels>,
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<SeriesData>, ReadError> {
        let (start, end) = (start.0, end.0);
        let tombstones = read(&self.tombstones).clone();
        let snapshot = self.snapshot(found, start, end);
        let days = read(&self.days);
        let in_days = days_between(&days, self.window_of(start), self.window_of(end));
        let wanted = |level| move |(unit, series): (i64, Arc<RoaringBitmap>)| (level, unit, &*series & found);
        // Days before windows: of a repeat what was sealed first stays.
        let sealed: Vec<(Level, i64, RoaringBitmap)> = (in_days.into_iter().map(wanted(Level::Day)))
            .chain(self.sealed_between(start, end).into_iter().map(wanted(Level::Window)))
            .filter(|(.., series)| !series.is_empty())
            .collect();
        // By series, each series' runs by window, chunks before the head: of a repeat the first stays.
        let mut runs: BTreeMap<u32, Vec<Run>> = BTreeMap::new();
        let corrupt = |window: i64, id: u32, damage: Damaged| ReadError::Corrupt {
            series: read(&self.index).labels(id),
            window: Timestamp(self.window_start(window)),
            detail: damage.to_string(),
        };
        if sealed.is_empty() {
            drop(days);
        } else {
            self.chunks.read(|connection| {
                let mut times = TimesReader::default();
                take_snapshot(connection)?;
                drop(days);
                for (level, unit, series) in &sealed {
                    let window = if *level == Level::Day { unit * WINDOWS_PER_DAY } else { *unit };
                    read_chunks(connection, *level, *unit, series, |id, data| {
                        match times.chunk(connection, *level, (*unit, id), data) {
                            Ok((times, values)) => {
                                runs.entry(id).or_default().push(Run { times, values });
                                Ok(())
                            }
                            Err(ChunkError::Database(error)) => Err(ReadFailure(ReadError::Database(error))),
                            Err(ChunkError::Damaged(damage)) => Err(ReadFailure(corrupt(window, id, damage))),
                        }
                    })?;
                }
                Ok::<_, ReadFailure>(())
            })?;
        }
        let mut piece_times = PieceTimes::default();
        for (id, columns) in &snapshot.columns {
            let runs = runs.entry(*id).or_default();
            for column in columns {
                let view = &snapshot.views[column.view];
                for piece in view.pieces.iter().filter(|p| p.overlaps(start, end)) {
                    let fail = |damage| corrupt(view.window, *id, damage);
                    let times = piece_times.of(piece).map_err(fail)?;
                    let mut values = Vec::with_capacity(times.len());
                    piece.values(column.at, &mut values).map_err(fail)?;
                    runs.push(Run { times, values });
                }
                if !view.times.is_empty() {
                    runs.push(Run { times: Arc::clone(&view.times), values: column.raw.clone() });
                }
            }
        }
        let mut joiner = Joiner { start, end, joined: HashMap::new() };
        let mut answer = Vec::with_capacity(runs.len());
        for (id, runs) in runs {
            let (mut timestamps, mut values) = joiner.join(runs);
            tombstones.strike_columns(id, &mut timestamps, &mut values);
            if values.is_empty() {
                continue;
            }
            if let Some(labels) = labels.remove(&id) {
                answer.push(SeriesData { labels, timestamps, values });
            }
        }
        answer.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(answer)
    }

    pub(crate) fn series_labels(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> Vec<Labels> {
        if start > end {
            return Vec::new();
        }
        let (first, last) = (self.window_of(start.0), self.window_of(end.0));
        let mut there = RoaringBitmap::new();
        {
            let head = read(&self.head);
            for window in head.windows.range(first..=last).map(|(_, w)| w) {
                there |= &window.series;
            }
            if let Some(frozen) = head.frozen.as_ref().filter(|f| (first..=last).contains(&f.window)) {
                there |= &frozen.content.series;
            }
        }
        {
            let days = read(&self.days);
            let in_days = days_between(&days, first, last);
            for (_, series) in in_days.into_iter().chain(self.sealed_between(start.0, end.0)) {
                there |= &*series;
            }
        }
        let index = read(&self.index);
        let mut labels: Vec<Labels> = (index.select(matchers) & there).iter().map(|id| index.labels(id)).collect();
        labels.sort();
        labels
    }

    fn matching(&self, matchers: &[Matcher]) -> (RoaringBitmap, HashMap<u32, Labels>) {
        let index = read(&self.index);
        let found = index.select(matchers);
        let labels = found.iter().map(|id| (id, index.labels(id))).collect();
        (found, labels)
    }

    fn sealed_between(&self, start: i64, end: i64) -> Vec<(i64, Arc<RoaringBitmap>)> {
        let range = self.window_of(start)..=self.window_of(end);
        read(&self.sealed).range(range).map(|(window, sealed)| (*window, Arc::clone(&sealed.series))).collect()
    }

    fn snapshot(&self, found: &RoaringBitmap, start: i64, end: i64) -> Snapshot {
        let (first, last) = (self.window_of(start), self.window_of(end));
        let mut snapshot = Snapshot::default();
        let head = read(&self.head);
        let frozen = head.frozen.as_ref().filter(|f| (first..=last).contains(&f.window));
        let frozen = frozen.map(|f| (f.window, &f.content));
        let mut windows: Vec<(i64, &Window)> = head.windows.range(first..=last).map(|(w, c)| (*w, c)).collect();
        windows.extend(frozen);
        // Stable: the frozen part of a window is older than what arrived since, but repeats exist in neither.
        windows.sort_by_key(|(window, _)| *window);
        for (window, content) in windows {
            let mut views: HashMap<PartKey, usize> = HashMap::new();
            for id in &content.series & found {
                let groups = head.groups_of(id).map(|(group, column)| (PartKey::Group(group), column));
                for (key, column) in groups.chain([(PartKey::Single(id), 0)]) {
                    let Some(part) = content.part(key) else { continue };
                    let view = *views.entry(key).or_insert_with(|| {
                        snapshot.views.push(part_view(window, part, start, end));
                        snapshot.views.len() - 1
                    });
                    snapshot.add(id, view, column as usize, part);
                }
            }
        }
        snapshot
    }
}

/// The days that have a window of `[first, last]`, and their series.
fn days_between(days: &BTreeMap<i64, Arc<RoaringBitmap>>, first: i64, last: i64) -> Vec<(i64, Arc<RoaringBitmap>)> {
    let range = first.div_euclid(WINDOWS_PER_DAY)..=last.div_euclid(WINDOWS_PER_DAY);
    days.range(range).map(|(day, series)| (*day, Arc::clone(series))).collect()
}

impl Snapshot {
    fn add(&mut self, id: u32, view: usize, column: usize, part: &Part) {
        let rows = &self.views[view].rows;
        let raw = if rows.is_empty() { Vec::new() } else { part.raw_column(column).collect::<Vec<_>>() };
        let raw = rows.iter().map(|row| raw[*row]).collect();
        self.columns.entry(id).or_default().push(ColumnView { view, at: column, raw });
    }
}

fn part_view(window: i64, part: &Part, start: i64, end: i64) -> PartView {
    let mut rows: Vec<usize> =
        part.times.iter().enumerate().filter(|(_, t)| (start..=end).contains(*t)).map(|(row, _)| row).collect();
    rows.sort_by_key(|row| part.times[*row]);
    let times = rows.iter().map(|row| part.times[*row]).collect();
    let pieces = part.pieces.iter().filter(|p| p.overlaps(start, end)).cloned().collect();
    PartView { window, pieces, times, rows }
}

/// Columns of time stamps, and what they are one after the other.
struct JoinedTimes {
    parts: Vec<Arc<[i64]>>,
    whole: Arc<[i64]>,
}

/// Joins the runs of each series into one column, sharing time stamps among series whose runs share theirs.
struct Joiner {
    start: i64,
    end: i64,
    /// By the addresses of the columns, which are kept so that no address is used twice.
    joined: HashMap<Vec<*const i64>, JoinedTimes>,
}

impl Joiner {
    fn join(&mut self, mut runs: Vec<Run>) -> (Arc<[i64]>, Vec<f64>) {
        runs.retain(|run| {
            run.times.first().is_some_and(|t| *t <= self.end) && run.times.last().is_some_and(|t| *t >= self.start)
        });
        // Merging needs the order they came in, chunks first.
        let mut order: Vec<usize> = (0..runs.len()).collect();
        order.sort_by_key(|at| runs[*at].times.first().copied());
        let ascending = order.windows(2).all(|pair| runs[pair[0]].times.last() < runs[pair[1]].times.first());
        if !ascending {
            return self.merge(runs);
        }
        runs.sort_by_key(|run| run.times.first().copied());
        if let [run] = &mut *runs
            && run.times.first().is_some_and(|t| *t >= self.start)
            && run.times.last().is_some_and(|t| *t <= self.end)
        {
            return (Arc::clone(&run.times), std::mem::take(&mut run.values));
        }
        let range =
            |times: &[i64]| (times.partition_point(|t| *t < self.start), times.partition_point(|t| *t <= self.end));
        let mut values = Vec::with_capacity(runs.iter().map(|r| r.values.len()).sum());
        for run in &runs {
            let (from, to) = range(&run.times);
            values.extend_from_slice(&run.values[from..to]);
        }
        let key: Vec<*const i64> = runs.iter().map(|run| run.times.as_ptr()).collect();
        if let Some(joined) = self.joined.get(&key) {
            debug_assert_eq!(joined.parts.len(), key.len());
            return (Arc::clone(&joined.whole), values);
        }
        let mut times = Vec::with_capacity(values.len());
        for run in &runs {
            let (from, to) = range(&run.times);
            times.extend_from_slice(&run.times[from..to]);
        }
        let times: Arc<[i64]> = times.into();
        let parts = runs.into_iter().map(|run| run.times).collect();
        self.joined.insert(key, JoinedTimes { parts, whole: Arc::clone(&times) });
        (times, values)
    }

    /// Runs that overlap: sorted, and of a repeat the sealed value stays.
    fn merge(&self, runs: Vec<Run>) -> (Arc<[i64]>, Vec<f64>) {
        let mut samples: Vec<(i64, f64)> = Vec::new();
        for run in runs {
            samples.extend(run.times.iter().copied().zip(run.values));
        }
        samples.retain(|(t, _)| (self.start..=self.end).contains(t));
        merge_samples(&mut samples);
        (samples.iter().map(|s| s.0).collect(), samples.iter().map(|s| s.1).collect())
    }
}

/// Sorts by time; of samples at the same time the first stays.
pub(crate) fn merge_samples(samples: &mut Vec<(i64, f64)>) {
    samples.sort_by_key(|(t, _)| *t);
    samples.dedup_by_key(|(t, _)| *t);
}

/// All samples that a part of the head has of one column, in order of time where its pieces are.
pub(crate) fn part_column(
    part: &Part,
    column: usize,
    piece_times: &mut PieceTimes,
    samples: &mut Vec<(i64, f64)>,
    values: &mut Vec<f64>,
) -> Result<(), Damaged> {
    for piece in &part.pieces {
        let times = piece_times.of(piece)?;
        values.clear();
        piece.values(column, values)?;
        samples.extend(times.iter().copied().zip(values.iter().copied()));
    }
    samples.extend(part.times.iter().copied().zip(part.raw_column(column)));
    Ok(())
}

/// Lets an error of ours cross [`crate::chunks::Chunks::read`].
struct ReadFailure(ReadError);

impl From<rusqlite::Error> for ReadFailure {
    fn from(error: rusqlite::Error) -> Self {
        Self(ReadError::Database(error))
    }
}

impl From<ReadFailure> for ReadError {
    fn from(failure: ReadFailure) -> Self {
        failure.0
    }
}

/// Gives the chunks of these series of a window or day, ascending: a scan where most are asked for, else one by one.
fn read_chunks(
    connection: &Connection,
    level: Level,
    window: i64,
    series: &RoaringBitmap,
    mut each: impl FnMut(u32, &[u8]) -> Result<(), ReadFailure>,
) -> Result<(), ReadFailure> {
    let (Some(first), Some(last)) = (series.min(), series.max()) else { return Ok(()) };
    let dense = series.len() * 8 >= u64::from(last - first);
    if dense {
        let mut statement =
            connection.prepare(&format!("SELECT id, data FROM {} WHERE id BETWEEN ?1 AND ?2", level.chunks()))?;
        let mut rows = statement.query([row(window, first), row(window, last)])?;
        while let Some(found) = rows.next()? {
            let id = found.get::<_, i64>(0)? as u32;
            if series.contains(id) {
                each(id, found.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?)?;
            }
        }
        return Ok(());
    }
    let mut statement = connection.prepare(&format!("SELECT data FROM {} WHERE id = ?1", level.chunks()))?;
    for id in series {
        let mut rows = statement.query([row(window, id)])?;
        if let Some(found) = rows.next()? {
            each(id, found.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
        }
    }
    Ok(())
}

/// Room that decoding uses again.
#[derive(Default)]
pub(crate) struct ReadScratch {
    pub(crate) samples: Vec<(i64, f64)>,
    pub(crate) values: Vec<f64>,
    pub(crate) codec: codec::Scratch,
}
