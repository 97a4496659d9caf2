//! `/proc/schedstat`: for how long processors ran work, and for how long work waited for them.

use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "schedstat",
    |settings| vec![settings.roots.proc.join("schedstat")],
    |settings| Box::new(Schedstat::new(&settings.roots)),
);

const NANOSECONDS: f64 = 1e9;

/// `node_schedstat_*`.
pub(crate) struct Schedstat {
    source: Source,
}

impl Schedstat {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { source: Source::new(roots.proc.join("schedstat")) }
    }
}

impl Sensor for Schedstat {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let parsed = parse(self.source.read()?, |cpu, [running_ns, waiting_ns, timeslices]| {
            let labels = [("cpu", cpu)];
            sink.put("node_schedstat_running_seconds_total", &labels, running_ns as f64 / NANOSECONDS);
            sink.put("node_schedstat_waiting_seconds_total", &labels, waiting_ns as f64 / NANOSECONDS);
            sink.put("node_schedstat_timeslices_total", &labels, timeslices as f64);
        });
        parsed.map_err(|error| self.source.malformed(error))
    }
}

/// Calls `each` with a processor and the last three of its nine numbers.
fn parse(bytes: &[u8], mut each: impl FnMut(&str, [u64; 3])) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        let mut fields = text::fields(content);
        let Some(cpu) = fields.next().and_then(|field| field.strip_prefix(b"cpu")) else { continue };
        let mut numbers = fields.skip(6).map(text::number);
        let mut next = || numbers.next().flatten().ok_or(Malformed { line, expected: "nine numbers" });
        each(&text::label(cpu), [next()?, next()?, next()?]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_the_line() {
        let error = parse(b"version 15\ncpu0 1 2 3\n", |_, _| {}).expect_err("malformed");
        assert_eq!(error, Malformed { line: 2, expected: "nine numbers" });
    }
}
