//! What is known of a segment: in memory of each, and of the one that is read, where everything in it is.

use std::fs::{self, File};
use std::path::Path;

use veghe_wire::MAJOR;
use veghe_wire::batch::Decoder;

use super::SpoolError;
use super::record::{BATCH_PREFIX_BYTES, HEADER_BYTES, KIND_DICTIONARY, Records, batch_prefix};
use crate::session::{Definitions, Extent};

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) offset: u64,
    pub(super) bytes: u32,
    pub(super) needs: Extent,
}

/// What is kept in memory of each segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) spool_id: u64,
    pub(super) bytes: u64,
    pub(super) first_sequence: u64,
    pub(super) first_timestamp_ms: i64,
    pub(super) last_timestamp_ms: i64,
    pub(super) count: u64,
    pub(super) unsettled: u64,
    /// One bit a batch.
    pub(super) settled: Vec<u64>,
}

impl Segment {
    pub(super) fn new(number: u64, spool_id: u64) -> Self {
        Self {
            number,
            spool_id,
            bytes: HEADER_BYTES as u64,
            first_sequence: 0,
            first_timestamp_ms: 0,
            last_timestamp_ms: 0,
            count: 0,
            unsettled: 0,
            settled: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, sequence: u64, timestamp_ms: i64) {
        if self.count == 0 {
            self.first_sequence = sequence;
            self.first_timestamp_ms = timestamp_ms;
        }
        self.last_timestamp_ms = timestamp_ms;
        if self.count.is_multiple_of(64) {
            self.settled.push(0);
        }
        self.count += 1;
        self.unsettled += 1;
    }

    pub(super) fn position(&self, sequence: u64) -> Option<(usize, u64)> {
        let index = sequence.checked_sub(self.first_sequence).filter(|index| *index < self.count)?;
        Some(((index / 64) as usize, 1 << (index % 64)))
    }

    /// Whether the sequence was not settled before.
    pub(super) fn settle(&mut self, sequence: u64) -> bool {
        let Some((word, bit)) = self.position(sequence) else { return false };
        let Some(word) = self.settled.get_mut(word).filter(|word| **word & bit == 0) else { return false };
        *word |= bit;
        self.unsettled -= 1;
        true
    }

    pub(super) fn is_unsettled(&self, sequence: u64) -> bool {
        self.position(sequence).is_some_and(|(word, bit)| self.settled.get(word).is_some_and(|word| word & bit == 0))
    }

    /// The first that is not settled, from `sequence` on.
    pub(super) fn unsettled_from(&self, sequence: u64) -> Option<u64> {
        if self.unsettled == 0 {
            return None;
        }
        let begin = sequence.max(self.first_sequence);
        (begin..self.first_sequence + self.count).find(|sequence| self.is_unsettled(*sequence))
    }
}

/// Where batches and definitions of one segment are.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) number: u64,
    pub(super) file: File,
    pub(super) entries: Vec<Entry>,
    pub(super) definitions: Definitions,
}

pub(super) fn read_contents(path: &Path, number: u64) -> Result<Contents, SpoolError> {
    let failed = |source| SpoolError::Read { path: path.to_owned(), source };
    let data = fs::read(path).map_err(failed)?;
    let mut decoder = Decoder::new().map_err(failed)?;
    let mut contents = Contents {
        number,
        file: File::open(path).map_err(failed)?,
        entries: Vec::new(),
        definitions: Definitions::default(),
    };
    for record in Records::new(&data) {
        if let Some((sequence, _)) = batch_prefix(&record) {
            contents.entries.push(Entry {
                sequence,
                offset: (record.offset + BATCH_PREFIX_BYTES) as u64,
                bytes: (record.content.len() - BATCH_PREFIX_BYTES) as u32,
                needs: contents.definitions.extent(),
            });
        } else if record.kind == KIND_DICTIONARY {
            let payload = [&[MAJOR], record.content].concat();
            let dictionary = decoder.decode(&payload).ok().and_then(|batch| batch.dictionary).unwrap_or_default();
            if let Err(error) = contents.definitions.extend(&dictionary) {
                tracing::warn!(segment = %path.display(), error = &error as &dyn std::error::Error, "spool segment lacks definitions");
            }
        }
    }
    Ok(contents)
}
