//! `/proc/loadavg`: how many processes run or wait, on average.

use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "loadavg",
    |settings| vec![settings.roots.proc.join("loadavg")],
    |settings| Box::new(Loadavg::new(&settings.roots)),
);

/// `node_load1`, `node_load5`, `node_load15`.
pub(crate) struct Loadavg {
    source: Source,
}

impl Loadavg {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { source: Source::new(roots.proc.join("loadavg")) }
    }
}

impl Sensor for Loadavg {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let parsed = parse(self.source.read()?);
        let loads = parsed.map_err(|error| self.source.malformed(error))?;
        for (name, load) in ["node_load1", "node_load5", "node_load15"].into_iter().zip(loads) {
            sink.put(name, &[], load);
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<[f64; 3], Malformed> {
    let mut loads = text::fields(bytes).map(text::decimal);
    let mut next = || loads.next().flatten().ok_or(Malformed { line: 1, expected: "three load averages" });
    Ok([next()?, next()?, next()?])
}
