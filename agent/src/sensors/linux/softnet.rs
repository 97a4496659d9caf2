//! `/proc/net/softnet_stat`: packets that each processor took from network devices, and those that it could not take.

use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "softnet",
    |settings| vec![settings.roots.proc.join("net/softnet_stat")],
    |settings| Box::new(Softnet::new(&settings.roots)),
);

/// Where kernels since 5.10 tell the processor; before, the line's number is it.
const PROCESSOR_COLUMN: usize = 12;

/// `node_softnet_*`.
pub(crate) struct Softnet {
    source: Source,
    /// The decimal numbers of processors, made once.
    processors: Vec<String>,
}

impl Softnet {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { source: Source::new(roots.proc.join("net/softnet_stat")), processors: Vec::new() }
    }
}

impl Sensor for Softnet {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let processors = &mut self.processors;
        let mut position = 0;
        let parsed = parse(self.source.read()?, |processor, [processed, dropped, squeezed]| {
            match processors.get_mut(position) {
                Some(known) if known.parse() == Ok(processor) => {}
                Some(known) => *known = processor.to_string(),
                None => processors.push(processor.to_string()),
            }
            let labels = [("cpu", processors.get(position).map_or("", String::as_str))];
            position += 1;
            sink.put("node_softnet_processed_total", &labels, processed as f64);
            sink.put("node_softnet_dropped_total", &labels, dropped as f64);
            sink.put("node_softnet_times_squeezed_total", &labels, squeezed as f64);
        });
        parsed.map_err(|error| self.source.malformed(error))
    }
}

/// Calls `each` with the processor and its first three numbers.
fn parse(bytes: &[u8], mut each: impl FnMut(u64, [u64; 3])) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        let malformed = Malformed { line, expected: "hexadecimal numbers" };
        let mut numbers = text::fields(content).map(text::hex);
        let mut next = || numbers.next().flatten().ok_or(malformed);
        let counts = [next()?, next()?, next()?];
        let processor = match text::fields(content).nth(PROCESSOR_COLUMN) {
            Some(processor) => text::hex(processor).ok_or(malformed)?,
            None => line as u64 - 1,
        };
        each(processor, counts);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_told_by_number_or_by_line() {
        let mut seen = Vec::new();
        let text = b"0a 0 1 0 0 0 0 0 0 0 0\n0b 0 2 0 0 0 0 0 0 0 0 0 00000007 0 0\n";
        parse(text, |processor, [processed, ..]| seen.push((processor, processed))).expect("well formed");
        assert_eq!(seen, [(0, 10), (7, 11)]);
        let error = parse(b"0a 0 1\n0b\n", |_, _| {}).expect_err("malformed");
        assert_eq!(error, Malformed { line: 2, expected: "hexadecimal numbers" });
    }
}
