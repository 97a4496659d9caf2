//! `/proc/net/sockstat{,6}`: how many sockets there are, and the memory that they take.

use super::source::Source;
use super::text::{self, Composed, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "sockstat",
    |settings| vec![settings.roots.proc.join("net/sockstat")],
    |settings| Box::new(Sockstat::new(&settings.roots)),
);

/// `node_sockstat_<protocol>_<field>`; of a field `mem`, which counts pages, also the bytes.
pub(crate) struct Sockstat {
    sources: [Source; 2],
    name: Composed,
    page_bytes: f64,
}

impl Sockstat {
    pub(crate) fn new(roots: &Roots) -> Self {
        let source = |file| Source::new(roots.proc.join("net").join(file));
        let page_bytes = rustix::param::page_size() as f64;
        Self { sources: ["sockstat", "sockstat6"].map(source), name: Composed::default(), page_bytes }
    }
}

impl Sensor for Sockstat {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let (name, page_bytes) = (&mut self.name, self.page_bytes);
        for source in &mut self.sources {
            // Without IPv6 there is no second one.
            let Some(bytes) = source.read_if_present()? else { continue };
            let parsed = parse(bytes, |protocol, field, value| {
                sink.put(name.pair("node_sockstat_", protocol, field), &[], value as f64);
                if field == b"mem" {
                    sink.put(name.pair("node_sockstat_", protocol, b"mem_bytes"), &[], value as f64 * page_bytes);
                }
            });
            parsed.map_err(|error| source.malformed(error))?;
        }
        Ok(())
    }
}

/// Calls `each` with protocol, field and value, for the fields that the kernel documents.
fn parse(bytes: &[u8], mut each: impl FnMut(&[u8], &[u8], u64)) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        let malformed = |expected| Malformed { line, expected };
        let mut fields = text::fields(content);
        let protocol = fields.next().and_then(|field| field.strip_suffix(b":"));
        let protocol = protocol.ok_or(malformed("a protocol and a colon"))?;
        while let Some(field) = fields.next() {
            let value = fields.next().and_then(text::number).ok_or(malformed("a number after each name"))?;
            if matches!(field, b"used" | b"inuse" | b"orphan" | b"tw" | b"alloc" | b"mem" | b"memory") {
                each(protocol, field, value);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_the_line() {
        let error = parse(b"sockets: used 1\nTCP: inuse\n", |_, _, _| {}).expect_err("malformed");
        assert_eq!(error, Malformed { line: 2, expected: "a number after each name" });
    }
}
