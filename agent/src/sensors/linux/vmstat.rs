//! `/proc/vmstat`: paging, swapping, page faults, kills for want of memory.

use super::source::Source;
use super::text::{self, Composed, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "vmstat",
    |settings| vec![settings.roots.proc.join("vmstat")],
    |settings| Box::new(Vmstat::new(&settings.roots)),
);

/// `node_vmstat_<field>` for the fields that `node_exporter` takes by default.
pub(crate) struct Vmstat {
    source: Source,
    name: Composed,
}

impl Vmstat {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { source: Source::new(roots.proc.join("vmstat")), name: Composed::default() }
    }
}

impl Sensor for Vmstat {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let name = &mut self.name;
        let parsed = parse(self.source.read()?, |field, value| {
            sink.put(name.name("node_vmstat_", field, ""), &[], value);
        });
        parsed.map_err(|error| self.source.malformed(error))
    }
}

fn parse(bytes: &[u8], mut each: impl FnMut(&[u8], f64)) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        let mut fields = text::fields(content);
        let Some(field) = fields.next().filter(|field| is_taken(field)) else { continue };
        let value = fields.next().and_then(text::number).ok_or(Malformed { line, expected: "a number" })?;
        each(field, value as f64);
    }
    Ok(())
}

/// `^(oom_kill|pgpg|pswp|pg.*fault).*`
fn is_taken(field: &[u8]) -> bool {
    [&b"oom_kill"[..], b"pgpg", b"pswp"].iter().any(|prefix| field.starts_with(prefix))
        || field.strip_prefix(b"pg").is_some_and(|rest| rest.windows(5).any(|part| part == b"fault"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_node_exporter() {
        for taken in ["oom_kill", "oom_kill_x", "pgpgin", "pswpout", "pgfault", "pgmajfault", "pgfaults"] {
            assert!(is_taken(taken.as_bytes()), "{taken}");
        }
        for other in ["pgscan", "fault", "nr_free", "xpgpgin", "pgfaul", ""] {
            assert!(!is_taken(other.as_bytes()), "{other}");
        }
    }
}
