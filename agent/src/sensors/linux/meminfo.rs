//! `/proc/meminfo`: how memory is used. Every line is a metric; new kernels bring new ones.

use super::source::Source;
use super::text::{self, Composed, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "meminfo",
    |settings| vec![settings.roots.proc.join("meminfo")],
    |settings| Box::new(Meminfo::new(&settings.roots)),
);

/// `node_memory_<field>_bytes`, or without the suffix where the kernel gives a plain count.
pub(crate) struct Meminfo {
    source: Source,
    name: Composed,
}

impl Meminfo {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { source: Source::new(roots.proc.join("meminfo")), name: Composed::default() }
    }
}

impl Sensor for Meminfo {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let name = &mut self.name;
        let parsed = parse(self.source.read()?, |field, value, suffix| {
            sink.put(name.name("node_memory_", field, suffix), &[], value);
        });
        parsed.map_err(|error| self.source.malformed(error))
    }
}

/// Calls `each` with the field, its value and the suffix of its name.
fn parse(bytes: &[u8], mut each: impl FnMut(&[u8], f64, &str)) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        let malformed = |expected| Malformed { line, expected };
        let mut fields = text::fields(content);
        let Some(field) = fields.next() else { continue };
        let field = field.strip_suffix(b":").ok_or(malformed("a field's name and a colon"))?;
        // `Active(anon)` is `Active_anon`.
        let field = field.strip_suffix(b")").unwrap_or(field);
        let value = fields.next().and_then(text::number).ok_or(malformed("a number"))?;
        match fields.next() {
            None => each(field, value as f64, ""),
            Some(b"kB") => each(field, value as f64 * 1024.0, "_bytes"),
            Some(_) => return Err(malformed("the unit kB or none")),
        }
    }
    Ok(())
}
