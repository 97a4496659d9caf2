//! `/sys/class/nvme`: which drives of this kind there are, and whether they live.

use super::class::Class;
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "nvme",
    |settings| vec![settings.roots.sys.join("class/nvme")],
    |settings| Box::new(Nvme::new(&settings.roots)),
);

/// `node_nvme_info`.
pub(crate) struct Nvme {
    class: Class,
}

impl Nvme {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { class: Class::new(&roots.sys.join("class/nvme"), super::glob::Globs::default()) }
    }
}

impl Sensor for Nvme {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.class.each(
            |_| true,
            |tree, device, texts, sink| {
                for file in ["firmware_rev", "model", "serial", "state"] {
                    texts.push(tree.text(file).unwrap_or_default());
                }
                let labels = [
                    ("device", device),
                    ("firmware_revision", texts.get(0)),
                    ("model", texts.get(1)),
                    ("serial", texts.get(2)),
                    ("state", texts.get(3)),
                ];
                sink.put("node_nvme_info", &labels, 1.0);
            },
            sink,
        )
    }
}
