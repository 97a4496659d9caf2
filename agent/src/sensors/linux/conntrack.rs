//! Connection tracking: how full its table is, and what became of packets.

use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "conntrack",
    |settings| vec![settings.roots.proc.join("sys/net/netfilter/nf_conntrack_count")],
    |settings| Box::new(Conntrack::new(&settings.roots)),
);

/// Column of `/proc/net/stat/nf_conntrack` and its metric.
const COLUMNS: [(usize, &str); 8] = [
    (2, "node_nf_conntrack_stat_found"),
    (4, "node_nf_conntrack_stat_invalid"),
    (5, "node_nf_conntrack_stat_ignore"),
    (8, "node_nf_conntrack_stat_insert"),
    (9, "node_nf_conntrack_stat_insert_failed"),
    (10, "node_nf_conntrack_stat_drop"),
    (11, "node_nf_conntrack_stat_early_drop"),
    (16, "node_nf_conntrack_stat_search_restart"),
];
const COLUMNS_MIN: usize = 17;

/// `node_nf_conntrack_*`.
pub(crate) struct Conntrack {
    count: Source,
    limit: Source,
    stat: Source,
}

impl Conntrack {
    pub(crate) fn new(roots: &Roots) -> Self {
        let source = |path| Source::new(roots.proc.join(path));
        Self {
            count: source("sys/net/netfilter/nf_conntrack_count"),
            limit: source("sys/net/netfilter/nf_conntrack_max"),
            stat: source("net/stat/nf_conntrack"),
        }
    }
}

impl Sensor for Conntrack {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        sink.put("node_nf_conntrack_entries", &[], self.count.number()?);
        sink.put("node_nf_conntrack_entries_limit", &[], self.limit.number()?);
        // Not every kernel has it.
        if let Some(bytes) = self.stat.read_if_present()? {
            let parsed = parse(bytes);
            let sums = parsed.map_err(|error| self.stat.malformed(error))?;
            for ((_, metric), sum) in COLUMNS.iter().zip(sums) {
                sink.put(metric, &[], sum as f64);
            }
        }
        Ok(())
    }
}

/// The sums over all processors, each of which has a line.
fn parse(bytes: &[u8]) -> Result<[u64; COLUMNS.len()], Malformed> {
    let mut sums = [0u64; COLUMNS.len()];
    for (line, content) in text::lines(bytes).skip(1) {
        let malformed = Malformed { line, expected: "17 hexadecimal numbers" };
        if text::fields(content).count() < COLUMNS_MIN {
            return Err(malformed);
        }
        for ((column, _), sum) in COLUMNS.iter().zip(&mut sums) {
            let value = text::fields(content).nth(*column).and_then(text::hex).ok_or(malformed)?;
            *sum = sum.wrapping_add(value);
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_the_line() {
        let error = parse(b"header\n00 01\n").expect_err("malformed");
        assert_eq!(error, Malformed { line: 2, expected: "17 hexadecimal numbers" });
    }
}
