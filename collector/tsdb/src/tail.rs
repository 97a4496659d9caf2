//! The log read record by record, for those who pass samples on, and segments held for them.
//!
//! Invariants: a record is read only after its commit returned. A position is the sequence of the last record read, so
//! it stays good over restarts, renames and cuts. A segment that only readers need lies in `log/held`, where replay
//! does not look: it costs a start nothing. Each pin has its bound of bytes there; beyond, the oldest segments go and
//! their samples are counted. What it deliberately does not do: keep positions (a mark of the caller's does).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use veghe_model::{Labels, Timestamp};

use crate::log::{Decoder, FRAME_BYTES, HEADER_BYTES, Record, Segment};
use crate::segment;
use crate::store::{Inner, lock, read};
use crate::{SeriesId, Store, TailError};

/// How far a reader of the log has come; earlier is smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(pub u64);

/// What one commit wrote.
#[derive(Clone, Debug, Default)]
pub struct LogRecord {
    /// Where a reader is that has read this record.
    pub position: LogPosition,
    /// Its samples in their order, repeats of a time stamp included.
    pub samples: Vec<(SeriesId, Timestamp, f64)>,
}

impl From<Record> for LogRecord {
    fn from(record: Record) -> Self {
        let columns = record.columns.iter().flat_map(|(series, time, values)| {
            series.iter().zip(values).map(|(id, value)| (SeriesId(*id), Timestamp(*time), *value))
        });
        let singles = record.samples.iter().map(|(id, time, value)| (SeriesId(*id), Timestamp(*time), *value));
        Self { position: LogPosition(record.sequence), samples: columns.chain(singles).collect() }
    }
}

/// A segment that is kept for readers only.
#[derive(Debug)]
struct Held {
    number: u64,
    path: PathBuf,
    bytes: u64,
    last_sequence: u64,
    samples: u64,
}

/// Somebody who still has to read.
#[derive(Clone, Copy, Debug, Default)]
struct Pin {
    position: u64,
    max_bytes: u64,
    skipped: u64,
}

/// Segments beyond what the store itself needs, oldest first, and who needs them.
#[derive(Debug)]
pub(crate) struct Keep {
    dir: PathBuf,
    held: Vec<Held>,
    pins: BTreeMap<String, Pin>,
}

/// `<number>-<last sequence>-<samples>.log`, each 16 hexadecimal digits.
fn held_name(segment: &Segment) -> String {
    format!("{:016x}-{:016x}-{:016x}.log", segment.number, segment.last_sequence, segment.samples)
}

fn parse_held_name(name: &str) -> Option<[u64; 3]> {
    let mut numbers = [0; 3];
    let mut parts = name.strip_suffix(".log")?.split('-');
    for number in &mut numbers {
        let hex = parts.next().filter(|hex| hex.len() == 16)?;
        *number = u64::from_str_radix(hex, 16).ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

impl Keep {
    /// What an earlier process kept below `log_dir`.
    pub(crate) fn open(log_dir: &Path) -> io::Result<Self> {
        let dir = log_dir.join("held");
        let mut held = Vec::new();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        for entry in entries.into_iter().flatten() {
            let entry = entry?;
            let Some([number, last_sequence, samples]) = entry.file_name().to_str().and_then(parse_held_name) else {
                continue;
            };
            held.push(Held { number, path: entry.path(), bytes: entry.metadata()?.len(), last_sequence, samples });
        }
        held.sort_by_key(|segment| segment.last_sequence);
        Ok(Self { dir, held, pins: BTreeMap::new() })
    }

    /// The number that the next segment may have, and a sequence that every later record exceeds.
    pub(crate) fn after(&self) -> (u64, u64) {
        let numbers = self.held.iter().map(|segment| segment.number + 1);
        (numbers.max().unwrap_or(0), self.held.last().map_or(0, |segment| segment.last_sequence))
    }

    /// How many segments are held, and their bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.held.len() as u64, self.held.iter().map(|segment| segment.bytes).sum())
    }

    /// The segments that are held and their bytes, oldest first.
    pub(crate) fn held(&self) -> impl Iterator<Item = (PathBuf, u64)> {
        self.held.iter().map(|segment| (segment.path.clone(), segment.bytes))
    }

    /// Whether somebody has not read everything up to this record.
    pub(crate) fn lags(&self, sequence: u64) -> bool {
        !self.held.is_empty() || self.pins.values().any(|pin| pin.position < sequence)
    }

    /// Takes over a segment that the store needs no more, or deletes it.
    pub(crate) fn take_over(&mut self, segment: &Segment) -> io::Result<()> {
        let wanted = self.pins.values().any(|pin| pin.position < segment.last_sequence && pin.max_bytes > 0);
        if !wanted || segment.samples == 0 {
            return fs::remove_file(&segment.path);
        }
        fs::create_dir_all(&self.dir)?;
        let path = self.dir.join(held_name(segment));
        fs::rename(&segment.path, &path)?;
        let (number, bytes, last_sequence, samples) =
            (segment.number, segment.bytes, segment.last_sequence, segment.samples);
        self.held.push(Held { number, path, bytes, last_sequence, samples });
        self.held.sort_by_key(|segment| segment.last_sequence);
        Ok(())
    }

    /// Deletes what nobody needs, and what is beyond the bounds; oldest first.
    pub(crate) fn trim(&mut self) -> Result<(), (PathBuf, io::Error)> {
        for (name, pin) in &mut self.pins {
            let mut bytes = 0;
            let mut beyond = None;
            let unread = self.held.iter().filter(|segment| segment.last_sequence > pin.position);
            for segment in unread.rev() {
                bytes += segment.bytes;
                if bytes > pin.max_bytes {
                    beyond = Some(segment.last_sequence);
                    break;
                }
            }
            let Some(through) = beyond else { continue };
            let lost = self.held.iter().filter(|s| s.last_sequence > pin.position && s.last_sequence <= through);
            let samples: u64 = lost.map(|segment| segment.samples).sum();
            tracing::error!(
                reader = name,
                samples,
                max_bytes = pin.max_bytes,
                "unread log is larger than it may be; its oldest samples will not be passed on"
            );
            pin.skipped += samples;
            pin.position = through;
        }
        let first_needed = self.pins.values().map(|pin| pin.position).min();
        while let Some(oldest) = self.held.first() {
            if first_needed.is_some_and(|position| oldest.last_sequence > position) {
                break;
            }
            match fs::remove_file(&oldest.path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err((oldest.path.clone(), error)),
            }
            self.held.remove(0);
        }
        Ok(())
    }
}

impl Store {
    /// The position of a reader that has read everything there is now.
    pub fn log_end(&self) -> LogPosition {
        LogPosition(lock(&self.inner.writer).sequence)
    }

    /// Keeps what comes after `position` for the reader called `name`, as long as segments that are kept for readers only
    /// have at most `max_bytes` together; beyond, the oldest go. A pin lasts as long as the process: set it again
    /// before the first [`Store::seal`]. It never moves back.
    pub fn pin_log(&self, name: &str, position: LogPosition, max_bytes: u64) {
        let mut writer = lock(&self.inner.writer);
        let pin = writer.keep.pins.entry(name.to_owned()).or_default();
        pin.position = pin.position.max(position.0);
        pin.max_bytes = max_bytes;
    }

    /// Samples, at most, that the reader called `name` did not get because they were beyond its bound, since the process
    /// began.
    pub fn log_skipped(&self, name: &str) -> u64 {
        lock(&self.inner.writer).keep.pins.get(name).map_or(0, |pin| pin.skipped)
    }

    /// A reader of everything after `position` that still exists.
    pub fn log_tail(&self, position: LogPosition) -> LogTail {
        LogTail { inner: Arc::clone(&self.inner), position: position.0, open: None }
    }

    /// The labels of `series`; empty where the store does not know it.
    pub fn labels(&self, series: SeriesId) -> Labels {
        read(&self.inner.index).labels(series.0)
    }
}

/// Where to read on.
struct Found {
    number: u64,
    path: PathBuf,
    /// What of it is committed.
    bytes: u64,
    last_sequence: u64,
}

impl Inner {
    /// The oldest segment that has a record after `position`.
    fn segment_after(&self, position: u64) -> Option<Found> {
        let writer = lock(&self.writer);
        if writer.sequence <= position {
            return None;
        }
        if let Some(held) = writer.keep.held.iter().find(|segment| segment.last_sequence > position) {
            let Held { number, ref path, bytes, last_sequence, .. } = *held;
            return Some(Found { number, path: path.clone(), bytes, last_sequence });
        }
        let mut segments: Vec<&Segment> = writer.log.segments().filter(|s| s.last_sequence > position).collect();
        segments.sort_by_key(|segment| segment.last_sequence);
        segments.first().map(|segment| Found {
            number: segment.number,
            path: segment.path.clone(),
            bytes: segment.bytes,
            last_sequence: segment.last_sequence,
        })
    }
}

/// Reads the log, oldest record first, while it is written.
pub struct LogTail {
    inner: Arc<Inner>,
    position: u64,
    open: Option<Open>,
}

struct Open {
    number: u64,
    path: PathBuf,
    file: File,
    offset: u64,
    /// What is known to be committed.
    bytes: u64,
    last_sequence: u64,
    decoder: Decoder,
}

/// A segment may move while it is looked for, once.
const OPEN_TRIES: usize = 8;

impl LogTail {
    /// Where it is.
    pub fn position(&self) -> LogPosition {
        LogPosition(self.position)
    }

    /// The next record; none where everything is read that is committed.
    ///
    /// # Errors
    /// [`TailError::Damaged`]: the rest of that segment is left out, and the next call goes on behind it.
    /// [`TailError::Io`]: it may be better later, so the next call tries the same place again; [`Self::skip_segment`] gives
    /// it up.
    pub fn next_record(&mut self) -> Result<Option<LogRecord>, TailError> {
        loop {
            if self.open.as_ref().is_none_or(|open| open.offset >= open.bytes) && !self.look()? {
                return Ok(None);
            }
            let Some(open) = &mut self.open else { return Ok(None) };
            match open.read() {
                Ok(record) if record.sequence <= self.position => {}
                Ok(record) => {
                    self.position = record.sequence;
                    return Ok(Some(record.into()));
                }
                Err(error) => {
                    if matches!(error, TailError::Damaged { .. }) {
                        self.position = self.position.max(open.last_sequence);
                    }
                    // Opened anew, it is read from its beginning: what was given already is passed over.
                    self.open = None;
                    return Err(error);
                }
            }
        }
    }

    /// Leaves out the rest of the segment that the next record is in, for who has tried often enough to read it.
    pub fn skip_segment(&mut self) {
        self.open = None;
        if let Some(found) = self.inner.segment_after(self.position) {
            self.position = self.position.max(found.last_sequence);
        }
    }

    /// Finds where to read on; whether there is anything.
    fn look(&mut self) -> Result<bool, TailError> {
        let mut tries = OPEN_TRIES;
        loop {
            let Some(found) = self.inner.segment_after(self.position) else { return Ok(false) };
            if let Some(open) = self.open.as_mut().filter(|open| open.number == found.number) {
                (open.bytes, open.last_sequence) = (found.bytes, found.last_sequence);
                if open.offset < open.bytes {
                    return Ok(true);
                }
                // It says that it has more records than it has bytes.
                self.position = found.last_sequence;
                continue;
            }
            match File::open(&found.path) {
                Ok(file) => {
                    let Found { number, path, bytes, last_sequence } = found;
                    let mut header = [0; HEADER_BYTES];
                    let version = match file.read_exact_at(&mut header, 0) {
                        Ok(()) => segment::version_of(&header),
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                        Err(source) => return Err(TailError::Io { path, source }),
                    };
                    let (offset, decoder) = (HEADER_BYTES as u64, Decoder::new(version.unwrap_or(0)));
                    self.open = Some(Open { number, path, file, offset, bytes, last_sequence, decoder });
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries > 0 => tries -= 1,
                Err(source) => return Err(TailError::Io { path: found.path, source }),
            }
        }
    }
}

impl Open {
    fn read(&mut self) -> Result<Record, TailError> {
        let damaged = |offset: u64, detail: &str| TailError::Damaged {
            path: self.path.clone(),
            offset,
            detail: detail.to_owned(),
        };
        let io_error = |source: io::Error| match source.kind() {
            // It does not grow again.
            io::ErrorKind::UnexpectedEof => damaged(self.offset, "the segment is shorter than what was written to it"),
            _ => TailError::Io { path: self.path.clone(), source },
        };
        let mut frame = [0; FRAME_BYTES];
        self.file.read_exact_at(&mut frame, self.offset).map_err(io_error)?;
        let (len, crc) = segment::frame(frame);
        let end = self.offset + FRAME_BYTES as u64 + len as u64;
        if end > self.bytes {
            return Err(damaged(self.offset, "a record is longer than its segment"));
        }
        let mut body = vec![0; len];
        self.file.read_exact_at(&mut body, self.offset + FRAME_BYTES as u64).map_err(io_error)?;
        if crc32fast::hash(&body) != crc {
            return Err(damaged(self.offset, "the checksum of a record does not hold"));
        }
        let record = self.decoder.record(&body).map_err(|damage| damaged(self.offset, &damage.to_string()))?;
        self.offset = end;
        Ok(record)
    }
}
