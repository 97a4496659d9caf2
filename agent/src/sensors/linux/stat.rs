//! `/proc/stat`: boot time, interrupts, context switches, processes.

use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "stat",
    |settings| vec![settings.roots.proc.join("stat")],
    |settings| Box::new(Stat::new(&settings.roots)),
);

/// `node_boot_time_seconds`, `node_context_switches_total`, `node_forks_total`, `node_intr_total`,
/// `node_procs_blocked`, `node_procs_running`.
pub(crate) struct Stat {
    source: Source,
}

impl Stat {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { source: Source::new(roots.proc.join("stat")) }
    }
}

impl Sensor for Stat {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let parsed = parse(self.source.read()?, |name, value| sink.put(name, &[], value));
        parsed.map_err(|error| self.source.malformed(error))
    }
}

fn parse(bytes: &[u8], mut each: impl FnMut(&'static str, f64)) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        let mut fields = text::fields(content);
        let name = match fields.next() {
            Some(b"btime") => "node_boot_time_seconds",
            Some(b"ctxt") => "node_context_switches_total",
            Some(b"intr") => "node_intr_total",
            Some(b"processes") => "node_forks_total",
            Some(b"procs_blocked") => "node_procs_blocked",
            Some(b"procs_running") => "node_procs_running",
            _ => continue,
        };
        // The first number of `intr` is the sum of the rest.
        let value = fields.next().and_then(text::number).ok_or(Malformed { line, expected: "a number" })?;
        each(name, value as f64);
    }
    Ok(())
}

/// When the system started, in seconds since the Unix epoch, by the clock as it is now.
pub(super) fn booted(stat: &[u8]) -> Option<u64> {
    text::lines(stat).find_map(|(_, line)| text::number(line.strip_prefix(b"btime ")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_the_line() {
        let error = parse(b"ctxt 1\nbtime soon\n", |_, _| {}).expect_err("malformed");
        assert_eq!(error, Malformed { line: 2, expected: "a number" });
    }
}
