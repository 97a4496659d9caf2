//! Samples that are not in chunks yet, by window: per group some raw rows, the rest in small compressed pieces.
//!
//! Invariants: a series has a time stamp at most once in the whole head (the first stays); a window that is being
//! sealed is frozen, what arrives for it meanwhile starts a new part. Only the writer changes the head; readers take a
//! snapshot under a short lock and decode outside it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use roaring::RoaringBitmap;
use veghe_model::Timestamp;

use crate::HeadShape;
use crate::bytes::{Cursor, Damaged};
use crate::codec::{self, Packing, Scratch};
use crate::timecolumn;

/// Raw rows before they are compressed; the first time fewer, so that groups do not fall due together.
const GROUP_ROWS: usize = 60;
const SINGLE_ROWS: usize = 120;

/// A run of rows, compressed column by column.
#[derive(Debug)]
pub(crate) struct Piece {
    times: Box<[u8]>,
    first: i64,
    last: i64,
    rows: usize,
    /// Where each column ends in `data`.
    ends: Box<[u32]>,
    data: Box<[u8]>,
}

impl Piece {
    fn bytes(&self) -> u64 {
        (size_of::<Self>() + self.times.len() + self.ends.len() * 4 + self.data.len() + 16) as u64
    }

    pub(crate) fn overlaps(&self, start: i64, end: i64) -> bool {
        self.first <= end && self.last >= start
    }

    pub(crate) fn times(&self) -> Result<Arc<[i64]>, Damaged> {
        timecolumn::decode(&mut Cursor::new(&self.times), Packing::Bits)
    }

    pub(crate) fn values(&self, column: usize, out: &mut Vec<f64>) -> Result<(), Damaged> {
        let start = column.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        let mut cursor = Cursor::new(&self.data[start..self.ends[column] as usize]);
        codec::decode(&mut cursor, self.rows, Packing::Bits, out)
    }
}

/// Time stamps of pieces, decoded once. Pieces must outlive it: they are told apart by address.
#[derive(Default)]
pub(crate) struct PieceTimes(HashMap<usize, Arc<[i64]>>);

impl PieceTimes {
    pub(crate) fn of(&mut self, piece: &Arc<Piece>) -> Result<Arc<[i64]>, Damaged> {
        let address = Arc::as_ptr(piece).addr();
        if let Some(times) = self.0.get(&address) {
            return Ok(Arc::clone(times));
        }
        let times = piece.times()?;
        self.0.insert(address, Arc::clone(&times));
        Ok(times)
    }
}

/// The rows of one group, or of one series that came alone, in one window.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) series: Arc<[u32]>,
    pub(crate) pieces: Vec<Arc<Piece>>,
    /// Raw rows in order of arrival.
    pub(crate) times: Vec<i64>,
    /// Row after row.
    values: Vec<f64>,
    due: usize,
}

impl Part {
    fn new(series: Arc<[u32]>, due: usize) -> Self {
        Self { series, pieces: Vec::new(), times: Vec::new(), values: Vec::new(), due }
    }

    fn has(&self, timestamp: i64) -> bool {
        self.times.contains(&timestamp)
            || self
                .pieces
                .iter()
                .filter(|p| p.overlaps(timestamp, timestamp))
                .any(|p| p.times().is_ok_and(|times| times.binary_search(&timestamp).is_ok()))
    }

    /// The raw values of one column, in order of arrival.
    pub(crate) fn raw_column(&self, column: usize) -> impl Iterator<Item = f64> + '_ {
        self.values.iter().skip(column).step_by(self.series.len().max(1)).copied()
    }

    /// The value of one raw row and column.
    pub(crate) fn raw_value(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.series.len() + column]
    }

    fn raw_bytes(&self) -> u64 {
        (self.times.len() * 8 + self.values.len() * 8) as u64
    }

    /// The raw rows, compressed, in order of time.
    fn compress(&self, scratch: &mut Scratch) -> Piece {
        let mut order: Vec<usize> = (0..self.times.len()).collect();
        order.sort_by_key(|row| self.times[*row]);
        let times: Vec<i64> = order.iter().map(|row| self.times[*row]).collect();
        let (mut packed_times, mut data, mut ends) = (Vec::new(), Vec::new(), Vec::with_capacity(self.series.len()));
        timecolumn::encode(&times, Packing::Bits, &mut packed_times);
        let mut column = Vec::with_capacity(order.len());
        for at in 0..self.series.len() {
            column.clear();
            column.extend(order.iter().map(|row| self.values[row * self.series.len() + at]));
            codec::encode(&column, Packing::Bits, scratch, &mut data);
            ends.push(data.len() as u32);
        }
        Piece {
            times: packed_times.into(),
            first: times.first().copied().unwrap_or(0),
            last: times.last().copied().unwrap_or(0),
            rows: times.len(),
            ends: ends.into(),
            data: data.into(),
        }
    }
}

/// Which part of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PartKey {
    Group(u32),
    Single(u32),
}

/// Everything of one window.
#[derive(Debug, Default)]
pub(crate) struct Window {
    parts: HashMap<PartKey, Part>,
    pub(crate) series: RoaringBitmap,
    pub(crate) samples: u64,
    pub(crate) bytes: u64,
    /// [`Head::clock`] when the first sample came, and when the last did.
    pub(crate) born: Option<i64>,
    pub(crate) touched: Option<i64>,
}

impl Window {
    pub(crate) fn part(&self, key: PartKey) -> Option<&Part> {
        self.parts.get(&key)
    }

    /// Every series with the part and column that hold it, in ascending order.
    pub(crate) fn entries(&self) -> Vec<(u32, PartKey, u32)> {
        let of_part = |(key, part): (&PartKey, &Part)| {
            let key = *key;
            (0_u32..).zip(part.series.iter()).map(move |(column, id)| (*id, key, column)).collect::<Vec<_>>()
        };
        let mut entries: Vec<_> = self.parts.iter().flat_map(of_part).collect();
        entries.sort_unstable();
        entries
    }
}

/// A window on its way into chunks; it does not change any more.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) window: i64,
    /// The last record whose samples are in here or in chunks.
    pub(crate) sequence: u64,
    pub(crate) content: Window,
    pub(crate) entries: Vec<(u32, PartKey, u32)>,
}

/// The head.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) windows: BTreeMap<i64, Window>,
    pub(crate) frozen: Option<Arc<Frozen>>,
    /// The time that sealing was last given; None before the first time, so that what replay found counts as long there.
    pub(crate) clock: Option<i64>,
    /// The newest time stamp of each series; what is later than it can't be a repeat.
    newest: Vec<i64>,
    /// Where each series is a member: its first group and column there.
    member: Vec<(u32, u32)>,
    members: HashMap<u32, Vec<(u32, u32)>>,
    joined: RoaringBitmap,
}

const NO_GROUP: u32 = u32::MAX;

/// What happened to the samples of one commit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Applied {
    pub(crate) added: u64,
    pub(crate) duplicates: u64,
}

impl Head {
    pub(crate) fn samples(&self) -> u64 {
        self.all().map(|w| w.samples).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.all().map(|w| w.bytes).sum::<u64>() + (self.newest.len() * 8 + self.member.len() * 8) as u64
    }

    /// How many runs of samples its series have, and the oldest and newest time stamp.
    pub(crate) fn shape(&self) -> HeadShape {
        let mut pieces = 0;
        let mut span: Option<(i64, i64)> = None;
        for part in self.all().flat_map(|window| window.parts.values()) {
            let runs = part.pieces.len() + usize::from(!part.times.is_empty());
            pieces += (runs * part.series.len()) as u64;
            let compressed = part.pieces.iter().map(|piece| (piece.first, piece.last));
            let raw = part.times.iter().map(|time| (*time, *time));
            for (first, last) in compressed.chain(raw) {
                span = Some(span.map_or((first, last), |(a, b)| (a.min(first), b.max(last))));
            }
        }
        HeadShape { pieces, span: span.map(|(first, last)| (Timestamp(first), Timestamp(last))) }
    }

    fn all(&self) -> impl Iterator<Item = &Window> {
        self.windows.values().chain(self.frozen.iter().map(|f| &f.content))
    }

    /// The groups that series `id` belongs to, and its column in each.
    pub(crate) fn groups_of(&self, id: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let first = self.member.get(id as usize).copied().filter(|(group, _)| *group != NO_GROUP);
        first.into_iter().chain(self.members.get(&id).into_iter().flatten().copied())
    }

    fn join(&mut self, group: u32, series: &[u32]) {
        if !self.joined.insert(group) {
            return;
        }
        for (column, &id) in (0_u32..).zip(series) {
            if self.member.len() <= id as usize {
                self.member.resize(id as usize + 1, (NO_GROUP, 0));
            }
            let slot = &mut self.member[id as usize];
            if slot.0 == NO_GROUP {
                *slot = (group, column);
            } else {
                self.members.entry(id).or_default().push((group, column));
            }
        }
    }

    /// Adds one row of a group whose series are all different. Gives the part that is due for compression.
    pub(crate) fn add_row(
        &mut self,
        window: i64,
        group: u32,
        series: &Arc<[u32]>,
        timestamp: i64,
        values: &[f64],
        applied: &mut Applied,
    ) -> Option<PartKey> {
        self.join(group, series);
        let later = |newest: &[i64], id: u32| newest.get(id as usize).is_none_or(|t| *t < timestamp);
        if series.iter().all(|id| later(&self.newest, *id)) {
            for id in &**series {
                self.advance(*id, timestamp);
            }
        } else {
            let fresh: Vec<bool> = series
                .iter()
                .map(|id| {
                    let fresh = later(&self.newest, *id) || !self.has(window, *id, timestamp);
                    if later(&self.newest, *id) {
                        self.advance(*id, timestamp);
                    }
                    fresh
                })
                .collect();
            if !fresh.iter().all(|fresh| *fresh) {
                // A row has no holes: what is new of this one goes in alone.
                self.mention(window);
                for ((id, value), fresh) in series.iter().zip(values).zip(fresh) {
                    if fresh {
                        self.put_single(window, *id, timestamp, *value);
                        applied.added += 1;
                    } else {
                        applied.duplicates += 1;
                    }
                }
                return None;
            }
        }
        applied.added += values.len() as u64;
        let due = GROUP_ROWS / 2 + (group as usize * 7) % (GROUP_ROWS / 2);
        self.put(window, PartKey::Group(group), || (Arc::clone(series), due), timestamp, values)
    }

    /// Adds one sample of one series.
    pub(crate) fn add_sample(
        &mut self,
        window: i64,
        id: u32,
        timestamp: i64,
        value: f64,
        applied: &mut Applied,
    ) -> Option<PartKey> {
        if self.newest.get(id as usize).is_none_or(|t| *t < timestamp) {
            self.advance(id, timestamp);
        } else if self.has(window, id, timestamp) {
            applied.duplicates += 1;
            self.mention(window);
            return None;
        }
        applied.added += 1;
        self.put_single(window, id, timestamp, value)
    }

    fn put_single(&mut self, window: i64, id: u32, timestamp: i64, value: f64) -> Option<PartKey> {
        let due = SINGLE_ROWS / 2 + (id as usize * 7) % (SINGLE_ROWS / 2);
        self.put(window, PartKey::Single(id), || (Arc::from([id]), due), timestamp, &[value])
    }

    fn put(
        &mut self,
        window: i64,
        key: PartKey,
        make: impl FnOnce() -> (Arc<[u32]>, usize),
        timestamp: i64,
        values: &[f64],
    ) -> Option<PartKey> {
        let clock = self.clock;
        let window = self.mention(window);
        window.touched = clock;
        let part = window.parts.entry(key).or_insert_with(|| {
            let (series, due) = make();
            window.series.extend(series.iter().copied());
            window.bytes += (size_of::<Part>() + 64) as u64;
            Part::new(series, due)
        });
        part.times.push(timestamp);
        part.values.extend_from_slice(values);
        window.samples += values.len() as u64;
        window.bytes += (values.len() * 8 + 8) as u64;
        (part.times.len() >= part.due).then_some(key)
    }

    /// A window of which a record had only repeats is sealed too, so that its watermark passes that record.
    fn mention(&mut self, window: i64) -> &mut Window {
        let born = self.clock;
        self.windows.entry(window).or_insert_with(|| Window { born, ..Window::default() })
    }

    fn advance(&mut self, id: u32, timestamp: i64) {
        if self.newest.len() <= id as usize {
            self.newest.resize(id as usize + 1, i64::MIN);
        }
        self.newest[id as usize] = timestamp;
    }

    /// Whether series `id` has a sample at this time in the head.
    fn has(&self, window: i64, id: u32, timestamp: i64) -> bool {
        let frozen = self.frozen.as_ref().filter(|f| f.window == window).map(|f| &f.content);
        self.windows.get(&window).into_iter().chain(frozen).any(|content| {
            let has = |key| content.part(key).is_some_and(|part| part.has(timestamp));
            content.series.contains(id)
                && (has(PartKey::Single(id)) || self.groups_of(id).any(|(group, _)| has(PartKey::Group(group))))
        })
    }

    /// What the raw rows of a part compress to.
    pub(crate) fn compress(&self, window: i64, key: PartKey, scratch: &mut Scratch) -> Option<Piece> {
        let part = self.windows.get(&window)?.part(key)?;
        (!part.times.is_empty()).then(|| part.compress(scratch))
    }

    /// Puts a piece in the place of the raw rows that it was made of. Nothing may have been added between.
    pub(crate) fn replace_raw(&mut self, window: i64, key: PartKey, piece: Piece) {
        let Some(window) = self.windows.get_mut(&window) else { return };
        let Some(part) = window.parts.get_mut(&key) else { return };
        window.bytes = (window.bytes + piece.bytes()).saturating_sub(part.raw_bytes());
        part.pieces.push(Arc::new(piece));
        // The room is given back: raw rows of all groups together would be a quarter of the head.
        part.times = Vec::new();
        part.values = Vec::new();
        part.due = if matches!(key, PartKey::Group(_)) { GROUP_ROWS } else { SINGLE_ROWS };
    }

    /// Takes a window out for sealing.
    pub(crate) fn freeze(&mut self, window: i64, sequence: u64) -> Option<Arc<Frozen>> {
        let content = self.windows.remove(&window)?;
        let frozen = Arc::new(Frozen { window, sequence, entries: content.entries(), content });
        self.frozen = Some(Arc::clone(&frozen));
        Some(frozen)
    }

    /// The newest time stamp of these series since the process began, if one of them had a sample.
    pub(crate) fn newest_of(&self, series: &RoaringBitmap) -> Option<i64> {
        let newest = series.iter().filter_map(|id| self.newest.get(id as usize)).copied().max();
        newest.filter(|time| *time > i64::MIN)
    }

    /// Every series with samples in the head.
    pub(crate) fn series(&self) -> RoaringBitmap {
        self.all().fold(RoaringBitmap::new(), |all, w| all | &w.series)
    }
}
