//! The log: append-only segment files, one record per commit, synced before the commit returns.
//!
//! Invariants: a segment is written by one process and only at its end; what was acknowledged lies before everything
//! that was not; a file on which a write or sync failed is never written again. Replaying a record twice changes
//! nothing, so a failed commit that reached the disk does no harm. FORMAT.md has every byte.
//! A record refers to those before it back to the last one that begins anew, so that damage costs no more than that.
//! What it deliberately does not do: read segments (`segment`), decide which may go (`seal`), or hold samples (`head`).

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use veghe_model::{Label, Labels};

use crate::CommitError;
use crate::bytes::{Cursor, Damaged, put_sized, put_varint, put_zigzag};

pub(crate) const MAGIC: [u8; 8] = *b"VEGHELOG";
/// The newest format of a segment.
pub(crate) const VERSION: u32 = 2;
pub(crate) const HEADER_BYTES: usize = 24;
/// Length and checksum, not counted by the length.
pub(crate) const FRAME_BYTES: usize = 8;
/// Sequence and uncompressed length, before the compressed bytes; flags between them since format 2.
pub(crate) const PREFIX_BYTES: usize = 12;
/// The record refers to none before it.
pub(crate) const ANEW: u8 = 1;
/// After so many records, or so many bytes, one begins anew.
const RECORDS_PER_START: usize = 64;
const BYTES_PER_START: u64 = 1 << 20;
/// What a record may take before compression.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 20;
/// A segment is closed at this size, so that it can go: past samples that are sealed soon lie beside a few of the present,
/// which hold the segment for hours.
const SEGMENT_BYTES: u64 = 4 << 20;

/// What one record holds, in the order in which it is applied.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) sequence: u64,
    pub(crate) series: Vec<(u32, Labels)>,
    pub(crate) columns: Vec<(Arc<[u32]>, i64, Vec<f64>)>,
    pub(crate) samples: Vec<(u32, i64, f64)>,
    pub(crate) marks: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Number and series of a group, time stamp, values.
pub(crate) type DraftColumn<'a> = (u32, Arc<[u32]>, i64, &'a [f64]);

/// What is to be written; borrowed from the commit.
pub(crate) struct Draft<'a> {
    pub(crate) sequence: u64,
    pub(crate) series: &'a [(u32, Labels)],
    pub(crate) columns: &'a [DraftColumn<'a>],
    pub(crate) samples: &'a [(u32, i64, f64)],
    pub(crate) marks: &'a [(Vec<u8>, Vec<u8>)],
}

impl Draft<'_> {
    /// An upper bound of the record before compression.
    fn bytes(&self) -> usize {
        let series = self.series.iter().map(|(_, l)| 16 + labels_bytes(l) + 10 * l.len()).sum::<usize>();
        let columns = self.columns.iter().map(|(_, group, ..)| 32 + 13 * group.len()).sum::<usize>();
        let marks = self.marks.iter().map(|(k, v)| 20 + k.len() + v.len()).sum::<usize>();
        64 + series + columns + marks + self.samples.len() * 28
    }

    fn count(&self) -> u64 {
        (self.columns.iter().map(|c| c.3.len()).sum::<usize>() + self.samples.len()) as u64
    }
}

pub(crate) fn labels_bytes(labels: &Labels) -> usize {
    labels.iter().map(|l| l.name.len() + l.value.len()).sum()
}

/// A segment as the rest of the store sees it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) last_sequence: u64,
    pub(crate) samples: u64,
    /// The last record that has samples of each window.
    pub(crate) windows: BTreeMap<i64, u64>,
}

struct Active {
    segment: Segment,
    file: File,
    /// Groups that this segment has defined: their number here.
    groups: HashMap<u32, u32>,
    /// The bits of each group's last row: the next is written as the difference.
    rows: Vec<Vec<u64>>,
    /// Records since one began anew, and where it ended.
    since_start: usize,
    start_bytes: u64,
    newest_window: i64,
}

/// Writes segments.
pub(crate) struct Log {
    dir: PathBuf,
    next_number: u64,
    active: Option<Active>,
    closed: Vec<Segment>,
    compressor: zstd::bulk::Compressor<'static>,
    raw: Vec<u8>,
    out: Vec<u8>,
}

impl Log {
    pub(crate) fn new(dir: &Path, next_number: u64, closed: Vec<Segment>) -> io::Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            next_number,
            active: None,
            closed,
            compressor: zstd::bulk::Compressor::new(1)?,
            raw: Vec::new(),
            out: Vec::new(),
        })
    }

    /// Writes and syncs one record. `windows` are those of its samples.
    pub(crate) fn append(&mut self, draft: &Draft<'_>, windows: &[i64]) -> Result<(), CommitError> {
        let bytes = draft.bytes();
        if bytes > MAX_RECORD_BYTES {
            return Err(CommitError::TooLarge { bytes, limit: MAX_RECORD_BYTES });
        }
        let newest = windows.iter().copied().max();
        self.roll(newest);
        let path = self.active.as_ref().map_or_else(|| self.next_path(), |a| a.segment.path.clone());
        self.write(draft, windows, newest).map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => CommitError::DiskFull { path, source },
            _ => CommitError::Io { path, source },
        })
    }

    fn next_path(&self) -> PathBuf {
        self.dir.join(segment_name(self.next_number))
    }

    /// Closes the active segment where it is large, or where a new window begins: then it can go once the old is sealed.
    fn roll(&mut self, newest: Option<i64>) {
        let over = |a: &Active| a.segment.bytes >= SEGMENT_BYTES || newest.is_some_and(|w| w > a.newest_window);
        if self.active.as_ref().is_some_and(over) {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(active) = self.active.take() {
            self.closed.push(active.segment);
        }
    }

    fn write(&mut self, draft: &Draft<'_>, windows: &[i64], newest: Option<i64>) -> io::Result<()> {
        let mut active = match self.active.take() {
            Some(active) => active,
            None => self.create(newest)?,
        };
        let good = active.segment.bytes;
        match self.write_to(&mut active, draft) {
            Ok(()) => {
                active.segment.last_sequence = draft.sequence;
                active.segment.samples += draft.count();
                for &window in windows {
                    active.segment.windows.insert(window, draft.sequence);
                }
                active.newest_window = newest.map_or(active.newest_window, |w| active.newest_window.max(w));
                self.active = Some(active);
                Ok(())
            }
            Err(error) => {
                // After a failed write or sync nobody knows what of the file is on disk: never write to it again.
                // Cutting is worth a try, so that the next start does not see what was refused; replay copes without.
                if good == 0 {
                    if let Err(error) = fs::remove_file(&active.segment.path) {
                        tracing::warn!(%error, path = %active.segment.path.display(), "cannot remove failed log segment");
                    }
                } else {
                    if let Err(error) = active.file.set_len(good) {
                        tracing::warn!(%error, path = %active.segment.path.display(), "cannot cut failed log segment");
                    }
                    self.closed.push(active.segment);
                }
                Err(error)
            }
        }
    }

    fn create(&mut self, newest: Option<i64>) -> io::Result<Active> {
        let (number, path) = (self.next_number, self.next_path());
        // The number is used up even if this fails: a file of that name may exist now.
        self.next_number += 1;
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Active {
            segment: Segment { number, path, bytes: 0, last_sequence: 0, samples: 0, windows: BTreeMap::new() },
            file,
            groups: HashMap::new(),
            rows: Vec::new(),
            since_start: 0,
            start_bytes: 0,
            newest_window: newest.unwrap_or(i64::MIN),
        })
    }

    fn write_to(&mut self, active: &mut Active, draft: &Draft<'_>) -> io::Result<()> {
        let fresh = active.segment.bytes == 0;
        self.out.clear();
        if fresh {
            put_header(&mut self.out, self.next_number - 1);
        }
        self.raw.clear();
        let anew = active.since_start.is_multiple_of(RECORDS_PER_START)
            || active.segment.bytes.saturating_sub(active.start_bytes) >= BYTES_PER_START;
        if anew {
            active.groups.clear();
            active.rows.clear();
            active.since_start = 0;
        }
        active.since_start += 1;
        put_payload(&mut self.raw, draft, &mut active.groups, &mut active.rows);
        let compressed = self.compressor.compress(&self.raw)?;
        put_record(&mut self.out, draft.sequence, if anew { ANEW } else { 0 }, self.raw.len(), &compressed);
        active.file.write_all(&self.out)?;
        active.file.sync_data()?;
        if fresh {
            sync_dir(&self.dir)?;
        }
        active.segment.bytes += self.out.len() as u64;
        if anew {
            active.start_bytes = active.segment.bytes;
        }
        // A rare large commit must not hold its room for ever.
        self.raw.shrink_to(4 << 20);
        self.out.shrink_to(4 << 20);
        Ok(())
    }

    /// Gives closed segments of which `may_go` says so to `remove`, and the active one too where it says so; oldest first.
    pub(crate) fn delete(
        &mut self,
        may_go: impl Fn(&Segment) -> bool,
        mut remove: impl FnMut(&Segment) -> io::Result<()>,
    ) -> Result<(), (PathBuf, io::Error)> {
        if self.active.as_ref().is_some_and(|a| may_go(&a.segment)) {
            self.close();
        }
        let mut at = 0;
        while let Some(segment) = self.closed.get(at) {
            if !may_go(segment) {
                at += 1;
                continue;
            }
            match remove(segment) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err((segment.path.clone(), error)),
            }
            self.closed.remove(at);
        }
        Ok(())
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.closed.iter().chain(self.active.iter().map(|a| &a.segment))
    }
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn segment_name(number: u64) -> String {
    format!("{number:016x}.log")
}

fn put_header(out: &mut Vec<u8>, number: u64) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

fn put_record(out: &mut Vec<u8>, sequence: u64, flags: u8, raw: usize, compressed: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&((PREFIX_BYTES + 1 + compressed.len()) as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.push(flags);
    out.extend_from_slice(&(raw as u32).to_le_bytes());
    out.extend_from_slice(compressed);
    let crc = crc32fast::hash(&out[start + FRAME_BYTES..]);
    out[start + 4..start + FRAME_BYTES].copy_from_slice(&crc.to_le_bytes());
}

fn put_payload(out: &mut Vec<u8>, draft: &Draft<'_>, groups: &mut HashMap<u32, u32>, rows: &mut Vec<Vec<u64>>) {
    put_varint(out, draft.series.len() as u64);
    for (id, labels) in draft.series {
        put_varint(out, u64::from(*id));
        put_labels(out, labels);
    }
    let mut defined: Vec<&[u32]> = Vec::new();
    for (group, series, ..) in draft.columns {
        groups.entry(*group).or_insert_with(|| {
            defined.push(series);
            rows.push(vec![0; series.len()]);
            rows.len() as u32 - 1
        });
    }
    put_varint(out, defined.len() as u64);
    for series in defined {
        put_varint(out, series.len() as u64);
        let mut before = 0;
        for &id in series {
            put_zigzag(out, i64::from(id) - before);
            before = i64::from(id);
        }
    }
    put_varint(out, draft.marks.len() as u64);
    for (key, value) in draft.marks {
        put_sized(out, key);
        put_sized(out, value);
    }
    let mut words: Vec<u64> = Vec::new();
    put_varint(out, draft.columns.len() as u64);
    let mut before = 0_i64;
    for (group, _, timestamp, values) in draft.columns {
        let number = groups[group];
        put_varint(out, u64::from(number));
        put_zigzag(out, timestamp.wrapping_sub(before));
        before = *timestamp;
        for (last, value) in rows[number as usize].iter_mut().zip(*values) {
            words.push(value.to_bits() ^ *last);
            *last = value.to_bits();
        }
    }
    put_varint(out, draft.samples.len() as u64);
    let mut before_id = 0_i64;
    for &(id, timestamp, value) in draft.samples {
        put_zigzag(out, i64::from(id) - before_id);
        put_zigzag(out, timestamp.wrapping_sub(before));
        (before_id, before) = (i64::from(id), timestamp);
        words.push(value.to_bits());
    }
    for plane in 0..8 {
        out.extend(words.iter().map(|word| (word >> (8 * plane)) as u8));
    }
}

pub(crate) fn put_labels(out: &mut Vec<u8>, labels: &Labels) {
    put_varint(out, labels.len() as u64);
    for label in labels {
        put_sized(out, label.name.as_bytes());
        put_sized(out, label.value.as_bytes());
    }
}

pub(crate) fn take_labels(cursor: &mut Cursor<'_>) -> Result<Labels, Damaged> {
    let n = cursor.count(2)?;
    let mut pairs: Vec<Label> = Vec::with_capacity(n);
    for _ in 0..n {
        let mut text = || std::str::from_utf8(cursor.sized()?).or(Err(Damaged("a label is not UTF-8")));
        let label = Label { name: text()?.into(), value: text()?.into() };
        if label.value.is_empty() || pairs.last().is_some_and(|before| before.name >= label.name) {
            return Err(Damaged("labels are empty or do not ascend"));
        }
        pairs.push(label);
    }
    Ok(Labels::from_sorted(pairs))
}

/// Decodes the records of one segment in turn; later ones refer to earlier ones.
#[derive(Default)]
pub(crate) struct Decoder {
    /// The format of the segment.
    version: u32,
    /// A record is missing: until one begins anew nothing can be decoded.
    lost: bool,
    groups: Vec<Arc<[u32]>>,
    rows: Vec<Vec<u64>>,
    /// Made with the first record: a new one for each costs more than most records take to decompress.
    unpacker: Option<zstd::bulk::Decompressor<'static>>,
    raw: Vec<u8>,
}

impl Decoder {
    /// For a segment of this format.
    pub(crate) fn new(version: u32) -> Self {
        Self { version, ..Self::default() }
    }

    /// Says that a record before the next one is missing.
    pub(crate) fn lose(&mut self) {
        self.lost = true;
    }

    /// The record of `body`, which is what follows length and checksum.
    pub(crate) fn record(&mut self, body: &[u8]) -> Result<Record, Damaged> {
        let mut cursor = Cursor::new(body);
        let sequence = cursor.u64()?;
        if self.version > 1 && cursor.u8()? & ANEW != 0 {
            self.groups.clear();
            self.rows.clear();
            self.lost = false;
        }
        if self.lost {
            return Err(Damaged("a record refers to a damaged one"));
        }
        let raw_len = cursor.u32()? as usize;
        if raw_len > MAX_RECORD_BYTES {
            return Err(Damaged("a record is longer than any may be"));
        }
        let mut raw = std::mem::take(&mut self.raw);
        let record = self.unpack(cursor.rest(), raw_len, &mut raw).and_then(|()| self.payload(sequence, &raw));
        // A rare large record must not hold its room for ever.
        raw.truncate(0);
        raw.shrink_to(1 << 20);
        self.raw = raw;
        record
    }

    fn unpack(&mut self, packed: &[u8], raw_len: usize, raw: &mut Vec<u8>) -> Result<(), Damaged> {
        let refused = |_| Damaged("a record does not decompress");
        let unpacker = match &mut self.unpacker {
            Some(unpacker) => unpacker,
            none => none.insert(zstd::bulk::Decompressor::new().map_err(refused)?),
        };
        raw.clear();
        raw.reserve(raw_len);
        unpacker.decompress_to_buffer(packed, raw).map_err(refused)?;
        if raw.len() == raw_len { Ok(()) } else { Err(Damaged("a record has another length than it says")) }
    }

    /// The record of an uncompressed payload.
    pub(crate) fn payload(&mut self, sequence: u64, raw: &[u8]) -> Result<Record, Damaged> {
        let mut cursor = Cursor::new(raw);
        let mut record = Record { sequence, ..Record::default() };
        for _ in 0..cursor.count(2)? {
            record.series.push((cursor.varint_u32()?, take_labels(&mut cursor)?));
        }
        for _ in 0..cursor.count(1)? {
            let n = cursor.count(1)?;
            let mut before = 0_i64;
            let mut series = Vec::with_capacity(n);
            for _ in 0..n {
                before = before.saturating_add(cursor.zigzag()?);
                series.push(u32::try_from(before).or(Err(Damaged("a series number is too large")))?);
            }
            self.groups.push(series.into());
            self.rows.push(vec![0; n]);
        }
        for _ in 0..cursor.count(2)? {
            record.marks.push((cursor.sized()?.to_vec(), cursor.sized()?.to_vec()));
        }
        let mut before = 0_i64;
        let mut cells = 0_usize;
        let mut columns = Vec::new();
        for _ in 0..cursor.count(2)? {
            let number = cursor.varint_u32()? as usize;
            before = before.wrapping_add(cursor.zigzag()?);
            let group = self.groups.get(number).ok_or(Damaged("a column's group is not defined"))?;
            cells += group.len();
            columns.push((number, before));
        }
        let mut before_id = 0_i64;
        let mut samples = Vec::new();
        for _ in 0..cursor.count(2)? {
            before_id = before_id.saturating_add(cursor.zigzag()?);
            before = before.wrapping_add(cursor.zigzag()?);
            samples.push((u32::try_from(before_id).or(Err(Damaged("a series number is too large")))?, before));
        }
        cells += samples.len();
        let planes = cursor.rest();
        if cells.checked_mul(8) != Some(planes.len()) {
            return Err(Damaged("a record has another number of values than it says"));
        }
        let word =
            |at: usize| (0..8).fold(0_u64, |word, plane| word | u64::from(planes[plane * cells + at]) << (8 * plane));
        let mut at = 0;
        for (number, timestamp) in columns {
            let row = &mut self.rows[number];
            for last in row.iter_mut() {
                *last ^= word(at);
                at += 1;
            }
            let values = row.iter().map(|bits| f64::from_bits(*bits)).collect();
            record.columns.push((Arc::clone(&self.groups[number]), timestamp, values));
        }
        for (id, timestamp) in samples {
            record.samples.push((id, timestamp, f64::from_bits(word(at))));
            at += 1;
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn draft_bytes(draft: &Draft<'_>) -> Vec<u8> {
        let mut raw = Vec::new();
        put_payload(&mut raw, draft, &mut HashMap::new(), &mut Vec::new());
        raw
    }

    #[test]
    fn a_record_comes_back_whole() {
        let group: Arc<[u32]> = [3, 1, 7].as_slice().into();
        let rows = [[1.0, -0.0, 2.5], [1.0, f64::INFINITY, 3.5]];
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "node")]);
        let draft = Draft {
            sequence: 9,
            series: &[(3, labels.clone())],
            columns: &[(5, Arc::clone(&group), 1_000, &rows[0]), (5, Arc::clone(&group), 2_000, &rows[1])],
            samples: &[(2, i64::MAX, 4.0), (0, -5, f64::NAN)],
            marks: &[(b"k".to_vec(), b"v".to_vec())],
        };
        let record = Decoder::default().payload(9, &draft_bytes(&draft)).expect("record");
        assert_eq!(record.series, [(3, labels)]);
        assert_eq!(record.marks, draft.marks);
        assert_eq!(record.columns[1], (group, 2_000, rows[1].to_vec()));
        assert_eq!(record.columns[0].2[1].to_bits(), (-0.0_f64).to_bits());
        assert_eq!(record.samples[0], (2, i64::MAX, 4.0));
        assert_eq!((record.samples[1].0, record.samples[1].1), (0, -5));
        assert!(draft_bytes(&draft).len() <= draft.bytes());
    }

    proptest! {
        #[test]
        fn random_payloads_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // Only that it returns matters here.
            drop(Decoder::default().payload(1, &bytes));
        }
    }
}
