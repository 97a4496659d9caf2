//! `/proc/pressure`: for how long work has waited for processors, memory, input and output.

use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "pressure",
    |settings| ["cpu", "io", "memory"].map(|file| settings.roots.proc.join("pressure").join(file)).to_vec(),
    |settings| Box::new(Pressure::new(&settings.roots)),
);

/// `node_pressure_<resource>_waiting_seconds_total` (some processes waited) and `.._stalled_..` (all of them did).
pub(crate) struct Pressure {
    resources: [Resource; 3],
}

struct Resource {
    source: Source,
    waiting: &'static str,
    /// The kernel's number for the processor is always zero, and `node_exporter` has none.
    stalled: Option<&'static str>,
}

impl Pressure {
    pub(crate) fn new(roots: &Roots) -> Self {
        let resource = |file, waiting, stalled| Resource {
            source: Source::new(roots.proc.join("pressure").join(file)),
            waiting,
            stalled,
        };
        Self {
            resources: [
                resource("cpu", "node_pressure_cpu_waiting_seconds_total", None),
                resource(
                    "io",
                    "node_pressure_io_waiting_seconds_total",
                    Some("node_pressure_io_stalled_seconds_total"),
                ),
                resource(
                    "memory",
                    "node_pressure_memory_waiting_seconds_total",
                    Some("node_pressure_memory_stalled_seconds_total"),
                ),
            ],
        }
    }
}

impl Sensor for Pressure {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        for resource in &mut self.resources {
            let (waiting, stalled) = (resource.waiting, resource.stalled);
            let parsed = parse(resource.source.read()?, |kind, seconds| {
                if let Some(name) = if kind == b"some" { Some(waiting) } else { stalled } {
                    sink.put(name, &[], seconds);
                }
            });
            parsed.map_err(|error| resource.source.malformed(error))?;
        }
        Ok(())
    }
}

/// Calls `each` with `some` or `full` and the total in seconds.
fn parse(bytes: &[u8], mut each: impl FnMut(&[u8], f64)) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        let mut fields = text::fields(content);
        let Some(kind) = fields.next().filter(|kind| matches!(*kind, b"some" | b"full")) else { continue };
        let total_us = fields.find_map(|field| field.strip_prefix(b"total=")).and_then(text::number);
        let total_us = total_us.ok_or(Malformed { line, expected: "total= and microseconds" })?;
        each(kind, total_us as f64 / 1000.0 / 1000.0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_the_line() {
        let error = parse(b"some avg10=0.00 total=1\nfull avg10=0.00\n", |_, _| {}).expect_err("malformed");
        assert_eq!(error, Malformed { line: 2, expected: "total= and microseconds" });
    }
}
