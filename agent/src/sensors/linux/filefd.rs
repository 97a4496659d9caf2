//! `/proc/sys/fs/file-nr`: how many files are open, and how many may be.

use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "filefd",
    |settings| vec![settings.roots.proc.join("sys/fs/file-nr")],
    |settings| Box::new(Filefd::new(&settings.roots)),
);

/// `node_filefd_allocated`, `node_filefd_maximum`.
pub(crate) struct Filefd {
    source: Source,
}

impl Filefd {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { source: Source::new(roots.proc.join("sys/fs/file-nr")) }
    }
}

impl Sensor for Filefd {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let parsed = parse(self.source.read()?);
        let (allocated, maximum) = parsed.map_err(|error| self.source.malformed(error))?;
        sink.put("node_filefd_allocated", &[], allocated);
        sink.put("node_filefd_maximum", &[], maximum);
        Ok(())
    }
}

/// The first and the third number; the second is 0 since Linux 2.6.
fn parse(bytes: &[u8]) -> Result<(f64, f64), Malformed> {
    let mut numbers = text::fields(bytes.trim_ascii()).map(text::number);
    let mut next = |skip| numbers.nth(skip).flatten().ok_or(Malformed { line: 1, expected: "three numbers" });
    Ok((next(0)? as f64, next(1)? as f64))
}
