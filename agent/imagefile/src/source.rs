//! Reads parts of a file by place, within a budget.

use std::io::{ErrorKind, Read, Seek, SeekFrom};

use crate::{Fault, Found, MAX_READ_BYTES};

/// A file of known length.
pub(crate) struct Source<R> {
    reader: R,
    length: u64,
    /// Bytes that may still be read.
    budget: u64,
}

impl<R: Read + Seek> Source<R> {
    pub(crate) fn new(reader: R, length: u64) -> Self {
        Self::with_budget(reader, length, MAX_READ_BYTES)
    }

    /// Of which at most `budget` bytes are read.
    pub(crate) fn with_budget(reader: R, length: u64, budget: u64) -> Self {
        Self { reader, length, budget }
    }

    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Takes `n` bytes that are read, or that come of decompressing them, off the budget.
    pub(crate) fn charge(&mut self, n: u64) -> Found<()> {
        self.budget = self.budget.checked_sub(n).ok_or(Fault::TooLarge("the directory of the file"))?;
        Ok(())
    }

    /// The `n` bytes at `offset`.
    pub(crate) fn at(&mut self, offset: u64, n: u64) -> Found<Vec<u8>> {
        if offset.checked_add(n).is_none_or(|end| end > self.length) {
            return Err(Fault::Truncated);
        }
        self.charge(n)?;
        let mut bytes = vec![0; n as usize];
        self.reader.seek(SeekFrom::Start(offset)).map_err(Fault::Read)?;
        self.reader.read_exact(&mut bytes).map_err(|error| match error.kind() {
            // It became shorter since it was looked at.
            ErrorKind::UnexpectedEof => Fault::Truncated,
            _ => Fault::Read(error),
        })?;
        Ok(bytes)
    }

    /// The bytes at `offset`, `n` or as many as there are.
    pub(crate) fn up_to(&mut self, offset: u64, n: u64) -> Found<Vec<u8>> {
        self.at(offset, n.min(self.length.saturating_sub(offset)))
    }

    pub(crate) fn array<const N: usize>(&mut self, offset: u64) -> Found<[u8; N]> {
        let bytes = self.at(offset, N as u64)?;
        Ok(bytes.try_into().unwrap_or([0; N]))
    }

    /// Whether the file ends with `mark`; zeros and line ends after it, as some writers leave, do not count.
    pub(crate) fn ends_with(&mut self, mark: &[u8]) -> Found<bool> {
        const PADDING_BYTES: u64 = 4096;
        let tail = self.up_to(self.length.saturating_sub(PADDING_BYTES), PADDING_BYTES)?;
        let end = tail.iter().rposition(|byte| !matches!(byte, 0 | b'\n' | b'\r')).map_or(0, |last| last + 1);
        Ok(tail.get(..end).is_some_and(|tail| tail.ends_with(mark)))
    }
}
