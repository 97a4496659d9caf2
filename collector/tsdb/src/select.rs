//! Reads: head and chunks merged, every sample exactly once.
//!
//! Invariants: the head is looked at before the list of sealed windows, and that before the database; a window leaves
//! the head only after its chunks are committed and listed, so nothing is missed, and what is seen twice is merged.
//! Locks are held while references and raw rows are copied, never while anything is decoded or read from disk.

use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use roaring::RoaringBitmap;
use rusqlite::Connection;
use veghe_model::{Labels, Matcher, Need, SeriesData, Timestamp};

use crate::bytes::{Cursor, Damaged};
use crate::chunks::{ChunkError, Level, Resolution, TimesReader, WINDOWS_PER_DAY, row, take_snapshot};
use crate::codec::Packing;
use crate::head::{Part, PartKey, Piece, PieceTimes, Window};
use crate::store::{Inner, lock, read};
use crate::turns::Turns;
use crate::{ReadError, codec};

/// Samples to decode that are worth a further thread: some milliseconds of work. On a busy machine a thread waits that long
/// for its turn, and the selection for the thread.
const SAMPLES_PER_THREAD: usize = 500_000;
/// Series that a thread takes at once.
const SERIES_AT_ONCE: usize = 16;
/// A selection uses no more threads beside its own.
const MAX_HELPERS: usize = 3;

/// Threads that selections may use beside their own, all selections together: one less than there are processors, so that
/// however many queries run, what is written still finds its turn.
pub(crate) struct Helpers {
    left: AtomicUsize,
}

impl Default for Helpers {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { left: AtomicUsize::new(processors.saturating_sub(1)) }
    }
}

impl Helpers {
    /// As many of `wanted` as are left now.
    fn lend(&self, wanted: usize) -> Lent<'_> {
        let wanted = wanted.min(MAX_HELPERS);
        let take = |left: usize| Some(left - left.min(wanted));
        let left = self.left.fetch_update(Relaxed, Relaxed, take).unwrap_or(0);
        Lent { of: self, count: left.min(wanted) }
    }
}

struct Lent<'a> {
    of: &'a Helpers,
    count: usize,
}

impl Lent<'_> {
    fn count(&self) -> usize {
        self.count
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.of.left.fetch_add(self.count, Relaxed);
    }
}

/// A series that is to be put together.
struct Found {
    labels: Labels,
    id: u32,
    runs: Vec<Run>,
}

/// What `select` gives, in order.
fn collected(
    select: impl FnOnce(Each<'_>) -> Result<Option<()>, ReadError>,
) -> Result<Option<Vec<SeriesData>>, ReadError> {
    let all = Mutex::new(Vec::new());
    let told = select(&|place, series| {
        lock(&all).push((place, series));
        ControlFlow::Continue(())
    })?;
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_unstable_by_key(|(place, _)| *place);
    Ok(told.map(|()| all.into_iter().map(|(_, series)| series).collect()))
}

/// Samples of one series from one place, ascending; their values are decoded when the series is put together.
struct Run {
    window: i64,
    times: Arc<[i64]>,
    values: Values,
}

enum Values {
    /// The rest of a chunk, in the bytes that were read.
    Sealed(Range<usize>),
    Piece(Arc<Piece>, usize),
    Raw(Vec<f64>),
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

/// The runs of each series, ascending by series; of one series by window, chunks before the head: of a repeat the first
/// stays.
#[derive(Default)]
struct Gathered {
    runs: BTreeMap<u32, Vec<Run>>,
    /// Encoded values of chunks.
    bytes: Vec<u8>,
    /// Samples in the range.
    samples: usize,
    /// Samples of all runs, whole.
    to_decode: usize,
}

impl Gathered {
    /// Adds a run where it is within the range; gives whether it is.
    fn add(&mut self, id: u32, span: Span, window: i64, times: Arc<[i64]>, values: impl FnOnce(&mut Self) -> Values) {
        let (from, to) = span.of(&times);
        if from < to {
            self.samples += to - from;
            self.to_decode += times.len();
            let values = values(self);
            self.runs.entry(id).or_default().push(Run { window, times, values });
        }
    }
}

/// Samples of one series, by its number.
pub(crate) type IdColumns = (u32, Arc<[i64]>, Vec<f64>);

/// The range of time that is asked for, both ends included.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

impl Span {
    /// Which of `times` are within.
    fn of(self, times: &[i64]) -> (usize, usize) {
        let inside = times.first().is_some_and(|t| *t >= self.start) && times.last().is_some_and(|t| *t <= self.end);
        if inside {
            return (0, times.len());
        }
        (times.partition_point(|t| *t < self.start), times.partition_point(|t| *t <= self.end))
    }
}

/// Takes a series with its place in the order of labels; may be called from several threads at once. Ends the selection
/// where it answers so.
pub(crate) type Each<'a> = &'a (dyn Fn(usize, SeriesData) -> ControlFlow<()> + Sync);

impl Inner {
    pub(crate) fn select(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<SeriesData>, ReadError> {
        self.select_at_most(matchers, start, end, usize::MAX).map(Option::unwrap_or_default)
    }

    /// `None` where the series have more than `max_samples` in the range: counted before anything is decoded.
    pub(crate) fn select_at_most(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        max_samples: usize,
    ) -> Result<Option<Vec<SeriesData>>, ReadError> {
        collected(|each| self.select_each(matchers, start, end, Need::Values, max_samples, each))
    }

    pub(crate) fn select_each(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        need: Need,
        max_samples: usize,
        each: Each<'_>,
    ) -> Result<Option<()>, ReadError> {
        if start > end {
            return Ok(Some(()));
        }
        let found = read(&self.index).select(matchers);
        self.select_found(&found, Span { start: start.0, end: end.0 }, need, max_samples, each)
    }

    pub(crate) fn select_series(
        &self,
        series: &[Labels],
        start: Timestamp,
        end: Timestamp,
        max_samples: usize,
    ) -> Result<Option<Vec<SeriesData>>, ReadError> {
        if start > end {
            return Ok(Some(Vec::new()));
        }
        let found = {
            let index = read(&self.index);
            series.iter().filter_map(|labels| index.find(labels)).collect()
        };
        let span = Span { start: start.0, end: end.0 };
        collected(|each| self.select_found(&found, span, Need::Values, max_samples, each))
    }

    fn select_found(
        &self,
        found: &RoaringBitmap,
        span: Span,
        need: Need,
        max_samples: usize,
        each: Each<'_>,
    ) -> Result<Option<()>, ReadError> {
        self.select_numbered(found, (span, need), max_samples, &|place, _, series| each(place, series))
    }

    /// The samples of each series that has some, by number.
    pub(crate) fn select_ids(&self, found: &RoaringBitmap, span: Span) -> Result<Vec<IdColumns>, ReadError> {
        let columns = Mutex::new(Vec::new());
        self.select_numbered(found, (span, Need::Values), usize::MAX, &|_, id, series| {
            lock(&columns).push((id, series.timestamps, series.values));
            ControlFlow::Continue(())
        })?;
        Ok(columns.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// [`Self::select_found`], with the number of each series.
    fn select_numbered(
        &self,
        found: &RoaringBitmap,
        (span, need): (Span, Need),
        max_samples: usize,
        each: &(dyn Fn(usize, u32, SeriesData) -> ControlFlow<()> + Sync),
    ) -> Result<Option<()>, ReadError> {
        let tombstones = read(&self.tombstones).clone();
        let snapshot = self.snapshot(found, span.start, span.end);
        let mut gathered = Gathered::default();
        self.gather_sealed(&mut gathered, found, span, max_samples)?;
        if gathered.samples <= max_samples {
            self.gather_head(&mut gathered, &snapshot, span)?;
        }
        drop(snapshot);
        if gathered.samples > max_samples {
            return Ok(None);
        }
        let Gathered { runs, bytes, to_decode, .. } = gathered;
        let mut all: Vec<Found> = {
            let index = read(&self.index);
            runs.into_iter().map(|(id, runs)| Found { labels: index.labels(id), id, runs }).collect()
        };
        all.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        let turns = Turns::new(all.len(), SERIES_AT_ONCE);
        // Of several damaged series the first is told, whoever comes to it.
        let first_damage: Mutex<Option<(usize, i64, Damaged)>> = Mutex::new(None);
        let work = || {
            let mut joiner =
                Joiner { span, need, bytes: &bytes, joined: HashMap::new(), scratch: codec::DecodeScratch::default() };
            while let Some(turn) = turns.take() {
                for (place, series) in turn.places.clone().zip(&all[turn.places.clone()]) {
                    let (mut timestamps, mut values) = match joiner.join(&series.runs) {
                        Ok(joined) => joined,
                        Err((window, damage)) => {
                            let mut first = lock(&first_damage);
                            if first.as_ref().is_none_or(|(other, ..)| place < *other) {
                                *first = Some((place, window, damage));
                            }
                            turns.end();
                            return;
                        }
                    };
                    tombstones.strike_columns(series.id, &mut timestamps, &mut values);
                    if values.is_empty() {
                        continue;
                    }
                    let data = SeriesData { labels: series.labels.clone(), timestamps, values };
                    if each(place, series.id, data).is_break() {
                        turns.end();
                        return;
                    }
                }
            }
        };
        let to_decode = if need == Need::Values { to_decode } else { 0 };
        let helpers = self.helpers.lend((to_decode / SAMPLES_PER_THREAD).min(all.len() / SERIES_AT_ONCE));
        std::thread::scope(|scope| {
            // This thread does its part itself; a panic of another one goes on here.
            (0..helpers.count()).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        drop(helpers);
        match lock(&first_damage).take() {
            Some((place, window, damage)) => Err(self.corrupt(window, all[place].id, damage)),
            None => Ok(Some(())),
        }
    }

    pub(crate) fn corrupt(&self, window: i64, id: u32, damage: Damaged) -> ReadError {
        ReadError::Corrupt {
            series: read(&self.index).labels(id),
            window: Timestamp(self.window_start(window)),
            detail: damage.to_string(),
        }
    }

    /// The runs that are in chunks. Ends early where there are more samples than may be.
    fn gather_sealed(
        &self,
        gathered: &mut Gathered,
        found: &RoaringBitmap,
        span: Span,
        max_samples: usize,
    ) -> Result<(), ReadError> {
        let days = read(&self.days);
        let in_days = days_between(&days, self.window_of(span.start), self.window_of(span.end));
        let wanted = |level| move |(unit, series): (i64, Arc<RoaringBitmap>)| (level, unit, &*series & found);
        // Days before windows: of a repeat what was sealed first stays.
        let sealed: Vec<(Level, i64, RoaringBitmap)> = (in_days.into_iter().map(wanted(Level::Day)))
            .chain(self.sealed_between(span.start, span.end).into_iter().map(wanted(Level::Window)))
            .filter(|(.., series)| !series.is_empty())
            .collect();
        if sealed.is_empty() {
            return Ok(());
        }
        self.chunks.read(|connection| {
            let mut times = TimesReader::default();
            take_snapshot(connection)?;
            drop(days);
            for (level, unit, series) in &sealed {
                let window = if *level == Level::Day { unit * WINDOWS_PER_DAY } else { *unit };
                read_chunks(connection, *level, *unit, series, |id, data| {
                    let (times, mut values) =
                        times.open(connection, *level, (*unit, id), data).map_err(|error| match error {
                            ChunkError::Database(error) => ReadFailure(ReadError::Database(error)),
                            ChunkError::Damaged(damage) => ReadFailure(self.corrupt(window, id, damage)),
                        })?;
                    gathered.add(id, span, window, times, |gathered| {
                        let from = gathered.bytes.len();
                        gathered.bytes.extend_from_slice(values.rest());
                        Values::Sealed(from..gathered.bytes.len())
                    });
                    Ok(())
                })?;
                if gathered.samples > max_samples {
                    break;
                }
            }
            Ok::<_, ReadFailure>(())
        })?;
        Ok(())
    }

    /// The runs that are in the head.
    fn gather_head(&self, gathered: &mut Gathered, snapshot: &Snapshot, span: Span) -> Result<(), ReadError> {
        let mut piece_times = PieceTimes::default();
        for (id, columns) in &snapshot.columns {
            for column in columns {
                let view = &snapshot.views[column.view];
                for piece in view.pieces.iter().filter(|p| p.overlaps(span.start, span.end)) {
                    let times = piece_times.of(piece).map_err(|damage| self.corrupt(view.window, *id, damage))?;
                    gathered.add(*id, span, view.window, times, |_| Values::Piece(Arc::clone(piece), column.at));
                }
                let raw = || Values::Raw(column.raw.clone());
                gathered.add(*id, span, view.window, Arc::clone(&view.times), |_| raw());
            }
        }
        Ok(())
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
            let rolled = read(&self.rolled);
            for resolution in Resolution::ALL {
                for (_, series) in days_between(rolled.of(resolution), first, last) {
                    there |= &*series;
                }
            }
        }
        let index = read(&self.index);
        let mut labels: Vec<Labels> = (index.select(matchers) & there).iter().map(|id| index.labels(id)).collect();
        labels.sort();
        labels
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
        let raw = self.views[view].rows.iter().map(|row| part.raw_value(*row, column)).collect();
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

/// The columns of one series, or where a run of it is damaged.
type Joined = Result<(Arc<[i64]>, Vec<f64>), (i64, Damaged)>;

/// Columns of time stamps, and what they are one after the other.
struct JoinedTimes {
    /// Held, not used: their addresses must not be used twice.
    _parts: Vec<Arc<[i64]>>,
    whole: Arc<[i64]>,
}

/// Joins the runs of each series into one column, sharing time stamps among series whose runs share theirs.
struct Joiner<'a> {
    span: Span,
    need: Need,
    bytes: &'a [u8],
    /// By the addresses of the columns, which are kept so that no address is used twice.
    joined: HashMap<Vec<*const i64>, JoinedTimes>,
    scratch: codec::DecodeScratch,
}

impl Joiner<'_> {
    /// Appends the values of `run` that are within the span.
    fn decode(&mut self, run: &Run, out: &mut Vec<f64>) -> Result<(), (i64, Damaged)> {
        let at = |damage| (run.window, damage);
        let before = out.len();
        let (from, to) = self.span.of(&run.times);
        match &run.values {
            Values::Sealed(bytes) => {
                let mut cursor = Cursor::new(&self.bytes[bytes.clone()]);
                let part = (run.times.len(), from..to);
                match self.need {
                    Need::Values => codec::decode_range(&mut cursor, part, Packing::Pco, &mut self.scratch, out),
                    Need::Presence => codec::presence(&mut cursor, part, out),
                }
                .map_err(at)?;
            }
            Values::Piece(piece, column) => {
                piece.values(*column, out).map_err(at)?;
                cut(out, before, (from, to));
            }
            Values::Raw(values) => out.extend_from_slice(&values[from..to]),
        }
        if out.len() - before == to - from {
            Ok(())
        } else {
            Err(at(Damaged("a column has not as many values as time stamps")))
        }
    }

    fn join(&mut self, runs: &[Run]) -> Joined {
        if let [run] = runs {
            return self.only(run);
        }
        // Merging needs the order they came in, chunks first.
        let mut order: Vec<&Run> = runs.iter().collect();
        order.sort_by_key(|run| run.times.first().copied());
        if !order.windows(2).all(|pair| pair[0].times.last() < pair[1].times.first()) {
            return self.merge(runs);
        }
        let within = |run: &Run| {
            let (from, to) = self.span.of(&run.times);
            to - from
        };
        let mut values = Vec::with_capacity(runs.iter().map(within).sum());
        for run in &order {
            self.decode(run, &mut values)?;
        }
        let key: Vec<*const i64> = order.iter().map(|run| run.times.as_ptr()).collect();
        if let Some(joined) = self.joined.get(&key) {
            return Ok((Arc::clone(&joined.whole), values));
        }
        let mut times = Vec::with_capacity(values.len());
        for run in &order {
            let (from, to) = self.span.of(&run.times);
            times.extend_from_slice(&run.times[from..to]);
        }
        let whole: Arc<[i64]> = times.into();
        let parts = order.iter().map(|run| Arc::clone(&run.times)).collect();
        self.joined.insert(key, JoinedTimes { _parts: parts, whole: Arc::clone(&whole) });
        Ok((whole, values))
    }

    fn only(&mut self, run: &Run) -> Joined {
        let (from, to) = self.span.of(&run.times);
        let mut values = Vec::with_capacity(to - from);
        self.decode(run, &mut values)?;
        if to - from == run.times.len() {
            return Ok((Arc::clone(&run.times), values));
        }
        let key = vec![run.times.as_ptr()];
        let whole = self
            .joined
            .entry(key)
            .or_insert_with(|| JoinedTimes { _parts: vec![Arc::clone(&run.times)], whole: run.times[from..to].into() });
        Ok((Arc::clone(&whole.whole), values))
    }

    /// Runs that overlap: sorted, and of a repeat the sealed value stays.
    fn merge(&mut self, runs: &[Run]) -> Joined {
        let mut samples: Vec<(i64, f64)> = Vec::new();
        let mut values = Vec::new();
        for run in runs {
            values.clear();
            self.decode(run, &mut values)?;
            let (from, to) = self.span.of(&run.times);
            samples.extend(run.times[from..to].iter().copied().zip(values.iter().copied()));
        }
        merge_samples(&mut samples);
        Ok((samples.iter().map(|s| s.0).collect(), samples.iter().map(|s| s.1).collect()))
    }
}

/// Of the values from `at` on, keeps those of a range, as far as they are there.
fn cut(values: &mut Vec<f64>, at: usize, (from, to): (usize, usize)) {
    values.truncate(at + to);
    values.drain(at..values.len().min(at + from));
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
pub(crate) struct ReadFailure(pub(crate) ReadError);

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

/// Rows between two series that are stepped over rather than looked up: a step costs about an eighth of a look-up.
const STEPPED_OVER: u32 = 8;

/// Gives the chunks of these series of a window or day, ascending: those that are near each other by one look-up. The series
/// of one target are, as they were first seen together.
pub(crate) fn read_chunks(
    connection: &Connection,
    level: Level,
    window: i64,
    series: &RoaringBitmap,
    mut each: impl FnMut(u32, &[u8]) -> Result<(), ReadFailure>,
) -> Result<(), ReadFailure> {
    let chunks = level.chunks();
    let mut range = connection.prepare_cached(&format!("SELECT id, data FROM {chunks} WHERE id BETWEEN ?1 AND ?2"))?;
    let mut one = connection.prepare_cached(&format!("SELECT id, data FROM {chunks} WHERE id = ?1"))?;
    let mut wanted = series.iter().peekable();
    while let Some(first) = wanted.next() {
        let mut last = first;
        while let Some(near) = wanted.next_if(|id| id - last <= STEPPED_OVER) {
            last = near;
        }
        let mut rows = if first == last {
            one.query([row(window, first)])?
        } else {
            range.query([row(window, first), row(window, last)])?
        };
        while let Some(found) = rows.next()? {
            let id = found.get::<_, i64>(0)? as u32;
            if series.contains(id) {
                each(id, found.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?)?;
            }
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
