//! `/proc/net/arp`: how many neighbours each network device knows.

use super::glob::Globs;
use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "arp",
    |settings| vec![settings.roots.proc.join("net/arp")],
    |settings| Box::new(Arp::new(&settings.roots, settings.ignored("arp"))),
);

/// `node_arp_entries`.
pub(crate) struct Arp {
    source: Source,
    ignored: Globs,
    /// Devices in the order in which they were seen first.
    counts: Vec<(String, u64)>,
}

impl Arp {
    pub(crate) fn new(roots: &Roots, ignored: Globs) -> Self {
        Self { source: Source::new(roots.proc.join("net/arp")), ignored, counts: Vec::new() }
    }
}

impl Sensor for Arp {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let (counts, ignored) = (&mut self.counts, &self.ignored);
        for (_, count) in counts.iter_mut() {
            *count = 0;
        }
        let parsed = parse(self.source.read()?, |device| {
            let device = text::label(device);
            match counts.iter_mut().find(|(known, _)| *known == device) {
                Some((_, count)) => *count += 1,
                None if !ignored.matches(&device) => counts.push((device.into_owned(), 1)),
                None => {}
            }
        });
        parsed.map_err(|error| self.source.malformed(error))?;
        self.counts.retain(|(_, count)| *count > 0);
        for (device, count) in &self.counts {
            sink.put("node_arp_entries", &[("device", device)], *count as f64);
        }
        Ok(())
    }
}

/// Calls `each` with the device of each entry, which is the last field.
fn parse(bytes: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        if line == 1 {
            continue;
        }
        let device = text::fields(content).skip(5).last().ok_or(Malformed { line, expected: "six fields" })?;
        each(device);
    }
    Ok(())
}
