//! The spool: batches on disk from the moment they are taken until the collector has them.
//!
//! Segments `<number>.seg` in ascending order of time. A segment is a header (magic, version, number, spool id, CRC)
//! and records: length, CRC-32 (of length, kind and content), kind, content. The kinds are a dictionary (a zstd frame
//! of a batch with nothing else) and a batch (sequence, time stamp, zstd frame as it will be sent). Every segment
//! begins with all definitions of its spool id so far: when the oldest segment is dropped, nothing else is lost.
//! What the collector has settled is in `<number>.ack` beside it, twelve bytes a sequence; losing one of those means
//! one batch is sent again, which changes nothing.
//!
//! Invariants: a batch is written to the file before anybody may send it, unless the disk refuses, when it waits in
//! memory (bounded, oldest dropped first and counted). Sequences ascend without gaps within a segment. Size and age
//! are bounded; what is dropped is counted. A torn or corrupt record costs itself and nothing else.
//! What it deliberately does not do: network, clock, know what is in a frame.

mod record;
mod segment;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use veghe_wire::batch::{Batch, FrameEncoder};

use self::record::{
    ACK_BYTES, HEADER_BYTES, KIND_BATCH, KIND_DICTIONARY, MAGIC, Records, batch_prefix, header_spool_id, push_record,
    settled_sequence,
};
use self::segment::{Contents, Entry, Segment, read_contents};
use crate::session::{Definitions, EncodedRound, Extent, Session};
use crate::system::{self, Private as _};

/// A segment is closed when it is larger.
const SEGMENT_BYTES: u64 = 1 << 20;
/// So that an agent that is started over and over without a collector does not fill the directory.
const MAX_SEGMENTS: usize = 4096;
/// What waits in memory while the disk refuses.
const MAX_WAITING_BATCHES: usize = 256;
const MAX_WAITING_BYTES: usize = 2 << 20;

/// How much the spool may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// On disk; the oldest segment goes first.
    pub max_bytes: u64,
    /// By the batches' time stamps.
    pub max_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 512 << 20, max_age: Duration::from_hours(30 * 24) }
    }
}

/// Which batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// Which run of the agent.
    pub spool_id: u64,
    /// Within that run.
    pub sequence: u64,
}

/// Whether a batch must survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Survives the end of the process.
    Written,
    /// Survives the end of the machine.
    Synced,
}

/// Why the spool can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The directory can't be made or listed.
    #[error("cannot open spool {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A segment can't be read.
    #[error("cannot read spool segment {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What was wrong with the segments that were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Segments whose end was cut off in the middle of a record, as after a power cut.
    pub torn_segments: u64,
    /// Records or whole segments that were skipped because their checksum was wrong.
    pub corrupt_records: u64,
}

/// What happened when a batch was added.
#[derive(Debug, Default)]
pub struct Appended {
    /// Why it is only in memory so far.
    pub disk_error: Option<io::Error>,
    /// Batches given up, oldest first, to make room or because of their age.
    pub dropped_batches: u64,
}

/// A batch as it can be sent.
#[derive(Debug, PartialEq)]
pub struct StoredBatch {
    /// The frame.
    pub frame: Vec<u8>,
    /// The definitions that it may refer to.
    pub needs: Extent,
}

/// The segment that is written.
#[derive(Debug)]
struct Active {
    file: File,
    entries: Vec<Entry>,
    /// The definitions that are in it.
    extent: Extent,
}

#[derive(Debug)]
struct Waiting {
    id: BatchId,
    timestamp_ms: i64,
    frame: Vec<u8>,
    needs: Extent,
}

/// Batches that the collector does not have yet.
pub struct Spool {
    dir: PathBuf,
    limits: Limits,
    /// Oldest first; the last is `active`'s, if there is one.
    segments: VecDeque<Segment>,
    active: Option<Active>,
    next_number: u64,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// The older segment that was read last.
    open: Option<Contents>,
    encoder: FrameEncoder,
    repairs: Repairs,
}

impl Spool {
    /// The spool in `dir`, with what earlier runs left there.
    ///
    /// # Errors
    /// Where the directory or a segment can't be read; what is wrong inside segments is counted in
    /// [`Spool::repairs`].
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::Open { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|n| n.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        let mut spool = Self {
            dir: dir.to_owned(),
            limits,
            segments: VecDeque::new(),
            active: None,
            next_number: numbers.last().map_or(1, |last| last + 1),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            open: None,
            encoder: FrameEncoder::new().map_err(failed)?,
            repairs: Repairs::default(),
        };
        for number in numbers {
            spool.recover(number)?;
        }
        Ok(spool)
    }

    /// What was wrong when it was opened.
    pub fn repairs(&self) -> Repairs {
        self.repairs
    }

    /// Bytes on disk and in memory.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum::<u64>() + self.waiting_bytes as u64
    }

    /// Batches that are not settled.
    pub fn batches(&self) -> u64 {
        self.segments.iter().map(|segment| segment.unsettled).sum::<u64>() + self.waiting.len() as u64
    }

    /// The time of the oldest segment with something unsettled, as near as is known without reading it.
    pub fn oldest_timestamp_ms(&self) -> Option<i64> {
        let on_disk = self.segments.iter().find(|segment| segment.unsettled > 0).map(|s| s.first_timestamp_ms);
        on_disk.or_else(|| self.waiting.front().map(|waiting| waiting.timestamp_ms))
    }

    /// Adds the next batch of `session`. Where the disk refuses it waits in memory, and the next call tries again.
    pub fn append(&mut self, round: EncodedRound, session: &Session, durability: Durability) -> Appended {
        let mut appended = Appended::default();
        let needs = session.definitions().extent();
        let id = BatchId { spool_id: session.spool_id(), sequence: round.sequence };
        self.waiting_bytes += round.frame.len();
        self.waiting.push_back(Waiting { id, timestamp_ms: round.timestamp_ms, frame: round.frame, needs });
        loop {
            appended.disk_error = self.write_waiting(session, durability).err();
            let is_over = self.waiting.len() > MAX_WAITING_BATCHES || self.waiting_bytes > MAX_WAITING_BYTES;
            if appended.disk_error.is_none() || !is_over {
                break;
            }
            // Room on the disk may be our own to give; otherwise the oldest that waits goes. The segment that is written
            // is older than what waits, and goes first if there is something in it.
            if self.segments.len() == 1 && self.segments.iter().all(|segment| segment.count > 0) {
                self.close_active();
            }
            if let Some(count) = self.drop_oldest_segment() {
                appended.dropped_batches += count;
            } else if let Some(oldest) = self.waiting.pop_front() {
                self.waiting_bytes -= oldest.frame.len();
                appended.dropped_batches += 1;
            }
        }
        appended.dropped_batches += self.enforce_limits(round.timestamp_ms);
        appended
    }

    /// Begins a new segment with the next batch: its spool id will be another. Returns how many batches are given up:
    /// those that still wait for the disk, as their definitions end with the run.
    pub fn end_run(&mut self) -> u64 {
        self.close_active();
        self.waiting_bytes = 0;
        self.waiting.drain(..).len() as u64
    }

    /// Makes what is written survive the end of the machine.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&mut self) -> io::Result<()> {
        self.active.as_ref().map_or(Ok(()), |active| active.file.sync_data())
    }

    /// The collector has these for ever, or never wants them. Returns those that were not settled before.
    pub fn settle(&mut self, ids: &[BatchId]) -> Vec<BatchId> {
        let mut settled = Vec::new();
        let mut notes: Vec<(u64, Vec<u8>)> = Vec::new();
        for id in ids {
            if let Some(at) = self.waiting.iter().position(|waiting| waiting.id == *id) {
                if let Some(gone) = self.waiting.remove(at) {
                    self.waiting_bytes -= gone.frame.len();
                    settled.push(*id);
                }
                continue;
            }
            let owner =
                self.segments.iter_mut().find(|s| s.spool_id == id.spool_id && s.position(id.sequence).is_some());
            let Some(segment) = owner else { continue };
            if !segment.settle(id.sequence) {
                continue;
            }
            settled.push(*id);
            let sequence = id.sequence.to_le_bytes();
            let note = [&sequence[..], &crc32fast::hash(&sequence).to_le_bytes()].concat();
            match notes.iter_mut().find(|(number, _)| *number == segment.number) {
                Some((_, bytes)) => bytes.extend(note),
                None => notes.push((segment.number, note)),
            }
        }
        self.remove_settled();
        for (number, bytes) in notes {
            if !self.segments.iter().any(|segment| segment.number == number) {
                continue;
            }
            let file = OpenOptions::new().create(true).append(true).private().open(self.path(number, "ack"));
            if let Err(error) = file.and_then(|mut file| file.write_all(&bytes)) {
                tracing::debug!(%error, "cannot note settled batches; they may be sent again after a restart");
            }
        }
        settled
    }

    /// The oldest unsettled batch after `after`, or of all.
    pub fn next_unsettled(&self, after: Option<BatchId>) -> Option<BatchId> {
        let mut begin = (0, 0);
        if let Some(after) = after {
            let waits = self.waiting.iter().position(|waiting| waiting.id == after);
            if let Some(at) = waits {
                return self.waiting.get(at + 1).map(|waiting| waiting.id);
            }
            let holds = |s: &Segment| s.spool_id == after.spool_id && s.position(after.sequence).is_some();
            if let Some(at) = self.segments.iter().position(holds) {
                begin = (at, after.sequence + 1);
            }
        }
        let on_disk = self.segments.iter().enumerate().skip(begin.0).find_map(|(at, segment)| {
            let from = if at == begin.0 { begin.1 } else { 0 };
            let sequence = segment.unsettled_from(from)?;
            Some(BatchId { spool_id: segment.spool_id, sequence })
        });
        on_disk.or_else(|| self.waiting.front().map(|waiting| waiting.id))
    }

    /// Whether it is here and not settled.
    pub fn is_unsettled(&self, id: BatchId) -> bool {
        self.segments.iter().any(|s| s.spool_id == id.spool_id && s.is_unsettled(id.sequence))
            || self.waiting.iter().any(|waiting| waiting.id == id)
    }

    /// Every sequence of the run below this one is settled or given up; `next` where nothing is left.
    pub fn oldest_sequence(&self, spool_id: u64, next: u64) -> u64 {
        let on_disk = self.segments.iter().filter(|s| s.spool_id == spool_id).find_map(|s| s.unsettled_from(0));
        let waiting = || self.waiting.iter().find(|w| w.id.spool_id == spool_id).map(|w| w.id.sequence);
        on_disk.or_else(waiting).unwrap_or(next)
    }

    /// The batch, unless it is settled, dropped or unreadable.
    ///
    /// # Errors
    /// Where its segment can't be read.
    pub fn load(&mut self, id: BatchId) -> Result<Option<StoredBatch>, SpoolError> {
        if let Some(waiting) = self.waiting.iter().find(|waiting| waiting.id == id) {
            return Ok(Some(StoredBatch { frame: waiting.frame.clone(), needs: waiting.needs }));
        }
        let owner = self.segments.iter().position(|s| s.spool_id == id.spool_id && s.is_unsettled(id.sequence));
        let Some(at) = owner else { return Ok(None) };
        let number = self.segments.get(at).map_or(0, |segment| segment.number);
        let path = self.path(number, "seg");
        let (file, entries) = match &self.active {
            Some(active) if at + 1 == self.segments.len() => (&active.file, &active.entries),
            _ => {
                let contents = self.contents(number)?;
                (&contents.file, &contents.entries)
            }
        };
        let Some(entry) = entries.binary_search_by_key(&id.sequence, |e| e.sequence).ok().and_then(|i| entries.get(i))
        else {
            return Ok(None);
        };
        let mut frame = vec![0; entry.bytes as usize];
        system::read_exact_at(file, &mut frame, entry.offset).map_err(|source| SpoolError::Read { path, source })?;
        Ok(Some(StoredBatch { frame, needs: entry.needs }))
    }

    /// Definitions of an earlier run as its segment with this batch has them.
    ///
    /// # Errors
    /// Where the segment can't be read.
    pub fn definitions(&mut self, id: BatchId) -> Result<Option<&Definitions>, SpoolError> {
        let owner = self.segments.iter().find(|s| s.spool_id == id.spool_id && s.position(id.sequence).is_some());
        let Some(number) = owner.map(|segment| segment.number) else { return Ok(None) };
        Ok(Some(&self.contents(number)?.definitions))
    }

    /// `part` as one zstd frame, by the encoder that is here anyway.
    ///
    /// # Errors
    /// Only what zstd reports, in practice lack of memory.
    pub fn frame(&mut self, part: &Batch) -> io::Result<Vec<u8>> {
        self.encoder.frame(part)
    }

    fn path(&self, number: u64, kind: &str) -> PathBuf {
        self.dir.join(format!("{number:010}.{kind}"))
    }

    fn write_waiting(&mut self, session: &Session, durability: Durability) -> io::Result<()> {
        while let Some(waiting) = self.waiting.front() {
            let id = waiting.id;
            let segment_bytes = SEGMENT_BYTES.min(self.limits.max_bytes / 8);
            let follows = self.segments.back().is_some_and(|s| {
                s.spool_id == id.spool_id
                    && s.bytes < segment_bytes
                    && (s.count == 0 || s.first_sequence + s.count == id.sequence)
            });
            if self.active.is_some() && !follows {
                self.close_active();
            }
            if self.active.is_none() {
                self.begin_segment(id.spool_id)?;
            }
            let (Some(active), Some(segment)) = (&mut self.active, self.segments.back_mut()) else { return Ok(()) };
            let Some(waiting) = self.waiting.front() else { return Ok(()) };
            let timestamp_ms = waiting.timestamp_ms;
            let mut bytes = Vec::with_capacity(waiting.frame.len() + 64);
            let news = session.definitions().since(active.extent);
            if let Some(dictionary) = news {
                let part = Batch { dictionary: Some(dictionary), ..Batch::default() };
                push_record(&mut bytes, KIND_DICTIONARY, &[&self.encoder.frame(&part)?]);
            }
            let prefix = [id.sequence.to_le_bytes(), timestamp_ms.to_le_bytes()].concat();
            push_record(&mut bytes, KIND_BATCH, &[&prefix, &waiting.frame]);
            let written = system::write_all_at(&active.file, &bytes, segment.bytes).and_then(|()| match durability {
                Durability::Written => Ok(()),
                Durability::Synced => active.file.sync_data(),
            });
            if let Err(error) = written {
                // Half a record at the end would be taken for damage; if this fails too, the next open cuts it.
                active.file.set_len(segment.bytes).ok();
                return Err(error);
            }
            segment.bytes += bytes.len() as u64;
            segment.add(id.sequence, timestamp_ms);
            active.extent = session.definitions().extent();
            active.entries.push(Entry {
                sequence: id.sequence,
                offset: segment.bytes - waiting.frame.len() as u64,
                bytes: waiting.frame.len() as u32,
                needs: waiting.needs,
            });
            self.waiting_bytes -= waiting.frame.len();
            self.waiting.pop_front();
        }
        Ok(())
    }

    fn begin_segment(&mut self, spool_id: u64) -> io::Result<()> {
        let number = self.next_number;
        let path = self.path(number, "seg");
        let file = OpenOptions::new().read(true).write(true).create_new(true).private().open(&path)?;
        let mut header = [&MAGIC[..], &number.to_le_bytes(), &spool_id.to_le_bytes()].concat();
        header.extend(crc32fast::hash(&header).to_le_bytes());
        let made = system::write_all_at(&file, &header, 0).and_then(|()| system::sync_directory(&self.dir));
        if let Err(error) = made {
            fs::remove_file(&path).ok();
            return Err(error);
        }
        self.next_number += 1;
        self.segments.push_back(Segment::new(number, spool_id));
        self.active = Some(Active { file, entries: Vec::new(), extent: Extent::default() });
        Ok(())
    }

    fn close_active(&mut self) {
        let Some(active) = self.active.take() else { return };
        if let Err(error) = active.file.sync_data() {
            tracing::warn!(%error, "cannot sync spool segment");
        }
        self.remove_settled();
    }

    /// Removes segments in which nothing is left to send; never the one that is written.
    fn remove_settled(&mut self) {
        let closed = self.segments.len() - usize::from(self.active.is_some());
        let mut at = 0;
        let mut gone = Vec::new();
        self.segments.retain(|segment| {
            at += 1;
            let keeps = at > closed || segment.unsettled > 0;
            if !keeps {
                gone.push(segment.number);
            }
            keeps
        });
        for number in gone {
            self.remove_files(number);
        }
    }

    fn remove_files(&mut self, number: u64) {
        if self.open.as_ref().is_some_and(|open| open.number == number) {
            self.open = None;
        }
        // The segment first: an acknowledgement without its segment means nothing.
        for kind in ["seg", "ack"] {
            match fs::remove_file(self.path(number, kind)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(number, %error, "cannot remove spool segment");
                }
                _ => {}
            }
        }
    }

    /// Drops the oldest segment that is not written to any more: how many unsettled batches were in it.
    fn drop_oldest_segment(&mut self) -> Option<u64> {
        let closed = self.segments.len() - usize::from(self.active.is_some());
        if closed == 0 {
            return None;
        }
        let oldest = self.segments.pop_front()?;
        self.remove_files(oldest.number);
        Some(oldest.unsettled)
    }

    fn enforce_limits(&mut self, now_ms: i64) -> u64 {
        let mut dropped = 0;
        let max_age_ms = i64::try_from(self.limits.max_age.as_millis()).unwrap_or(i64::MAX);
        let oldest_ms = now_ms.saturating_sub(max_age_ms);
        let is_over = |spool: &Self| {
            spool.bytes() > spool.limits.max_bytes
                || spool.segments.len() > MAX_SEGMENTS
                || spool.segments.front().is_some_and(|s| s.count > 0 && s.last_timestamp_ms < oldest_ms)
        };
        while is_over(self)
            && let Some(count) = self.drop_oldest_segment()
        {
            dropped += count;
        }
        dropped
    }

    /// Reads a segment of an earlier run, cuts its torn end and takes it over.
    fn recover(&mut self, number: u64) -> Result<(), SpoolError> {
        let path = self.path(number, "seg");
        let failed = |source| SpoolError::Read { path: path.clone(), source };
        let data = fs::read(&path).map_err(failed)?;
        let Some(spool_id) = header_spool_id(&data, number) else {
            // Not even its header was on the disk, or nothing can be made of it.
            self.repairs.corrupt_records += u64::from(data.len() >= HEADER_BYTES);
            self.repairs.torn_segments += u64::from(data.len() < HEADER_BYTES);
            self.remove_files(number);
            return Ok(());
        };
        let mut segment = Segment::new(number, spool_id);
        let mut records = Records::new(&data);
        for record in records.by_ref() {
            if let Some((sequence, timestamp_ms)) = batch_prefix(&record) {
                let follows = segment.first_sequence + segment.count;
                let hole = sequence.checked_sub(follows);
                if segment.count > 0 && hole.is_none_or(|hole| hole > data.len() as u64) {
                    continue;
                }
                if segment.count > 0 {
                    // A corrupt record left a hole: what was there will not come.
                    for lost in follows..sequence {
                        segment.add(lost, timestamp_ms);
                        segment.settle(lost);
                    }
                }
                segment.add(sequence, timestamp_ms);
            }
        }
        segment.bytes = records.end as u64;
        self.repairs.corrupt_records += records.corrupt;
        if records.end < data.len() {
            self.repairs.torn_segments += 1;
            let file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
            file.set_len(records.end as u64).map_err(failed)?;
        }
        match fs::read(self.path(number, "ack")) {
            Ok(notes) => notes.chunks_exact(ACK_BYTES).filter_map(settled_sequence).for_each(|sequence| {
                segment.settle(sequence);
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(SpoolError::Read { path: self.path(number, "ack"), source }),
        }
        if segment.unsettled == 0 {
            self.remove_files(number);
        } else {
            self.segments.push_back(segment);
        }
        Ok(())
    }

    /// The contents of a segment; stays open for the next call.
    fn contents(&mut self, number: u64) -> Result<&Contents, SpoolError> {
        let contents = match self.open.take() {
            Some(open) if open.number == number => open,
            _ => read_contents(&self.path(number, "seg"), number)?,
        };
        Ok(self.open.insert(contents))
    }
}

#[cfg(test)]
mod tests;
