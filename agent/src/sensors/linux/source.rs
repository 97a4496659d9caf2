//! A file of `/proc` or `/sys` that stays open and is read again from its beginning into the same buffer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::SensorError;
use super::text::{self, Malformed};

/// More than any file of these systems has; a bound against endless ones.
const MAX_BYTES: usize = 16 << 20;

/// A file that is read once a round.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
    length: usize,
}

impl Source {
    /// The file at `path`, which is opened at the first read.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, buffer: Vec::new(), length: 0 }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says now.
    pub(crate) fn read(&mut self) -> Result<&[u8], SensorError> {
        match self.fill() {
            Ok(()) => Ok(self.buffer.get(..self.length).unwrap_or_default()),
            Err(source) => {
                // The next round opens it anew: the device may be another by then.
                self.file = None;
                Err(SensorError::Read { path: self.path.clone(), source })
            }
        }
    }

    /// What the file says now, or `None` if it does not exist or its device has gone.
    pub(crate) fn read_if_present(&mut self) -> Result<Option<&[u8]>, SensorError> {
        match self.fill() {
            Ok(()) => Ok(Some(self.buffer.get(..self.length).unwrap_or_default())),
            Err(source) => {
                self.file = None;
                if source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(ENODEV) {
                    return Ok(None);
                }
                Err(SensorError::Read { path: self.path.clone(), source })
            }
        }
    }

    /// The one number that the file has.
    pub(crate) fn number(&mut self) -> Result<f64, SensorError> {
        let number = text::number(self.read()?.trim_ascii());
        let number = number.ok_or(Malformed { line: 1, expected: "a number" });
        number.map(|number| number as f64).map_err(|error| self.malformed(error))
    }

    /// The error of a parser, with the file's name.
    pub(crate) fn malformed(&self, error: Malformed) -> SensorError {
        SensorError::Malformed { path: self.path.clone(), line: error.line, expected: error.expected }
    }

    fn fill(&mut self) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(File::open(&self.path)?),
        };
        self.length = 0;
        loop {
            if self.length == self.buffer.len() {
                if self.length >= MAX_BYTES {
                    return Err(io::Error::other(format!("file has more than {MAX_BYTES} bytes")));
                }
                self.buffer.resize((2 * self.length).max(4096), 0);
            }
            let space = self.buffer.get_mut(self.length..).unwrap_or_default();
            match file.read_at(space, self.length as u64) {
                Ok(0) => return Ok(()),
                Ok(count) => self.length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// "No such device": what an open file of `/sys` answers once its device is gone.
const ENODEV: i32 = 19;
