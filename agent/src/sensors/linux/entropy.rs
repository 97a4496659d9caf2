//! `/proc/sys/kernel/random`: how much randomness the kernel has.

use super::source::Source;
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "entropy",
    |settings| vec![settings.roots.proc.join("sys/kernel/random/entropy_avail")],
    |settings| Box::new(Entropy::new(&settings.roots)),
);

/// `node_entropy_available_bits`, `node_entropy_pool_size_bits`.
pub(crate) struct Entropy {
    available: Source,
    pool: Source,
}

impl Entropy {
    pub(crate) fn new(roots: &Roots) -> Self {
        let source = |file| Source::new(roots.proc.join("sys/kernel/random").join(file));
        Self { available: source("entropy_avail"), pool: source("poolsize") }
    }
}

impl Sensor for Entropy {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        sink.put("node_entropy_available_bits", &[], self.available.number()?);
        sink.put("node_entropy_pool_size_bits", &[], self.pool.number()?);
        Ok(())
    }
}
