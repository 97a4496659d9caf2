//! `/sys/devices/system/edac/mc`: memory errors that were corrected, and those that could not be.

use super::class::{Class, is_numbered};
use super::glob::Globs;
use super::tree::Texts;
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "edac",
    |settings| vec![settings.roots.sys.join("devices/system/edac/mc")],
    |settings| Box::new(Edac::new(&settings.roots)),
);

/// `node_edac_*`.
pub(crate) struct Edac {
    class: Class,
    rows: Texts,
}

impl Edac {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { class: Class::new(&roots.sys.join("devices/system/edac/mc"), Globs::default()), rows: Texts::default() }
    }
}

impl Sensor for Edac {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        const ROW: [(&str, &str); 2] = [
            ("ce_count", "node_edac_csrow_correctable_errors_total"),
            ("ue_count", "node_edac_csrow_uncorrectable_errors_total"),
        ];
        let rows = &mut self.rows;
        self.class.each(
            |name| is_numbered(name, "mc"),
            |tree, controller, _, sink| {
                let controller = ("controller", controller.strip_prefix("mc").unwrap_or(controller));
                for (file, metric, row) in [
                    ("ce_count", "node_edac_correctable_errors_total", None),
                    ("ce_noinfo_count", "node_edac_csrow_correctable_errors_total", Some("unknown")),
                    ("ue_count", "node_edac_uncorrectable_errors_total", None),
                    ("ue_noinfo_count", "node_edac_csrow_uncorrectable_errors_total", Some("unknown")),
                ] {
                    let Some(count) = tree.number(file) else { continue };
                    match row {
                        Some(row) => sink.put(metric, &[controller, ("csrow", row)], count as f64),
                        None => sink.put(metric, &[controller], count as f64),
                    }
                }
                tree.directories(rows).unwrap_or_else(|_| rows.clear());
                for row in rows.iter().filter(|name| is_numbered(name, "csrow")) {
                    let mark = tree.enter(row);
                    let label = ("csrow", row.strip_prefix("csrow").unwrap_or(row));
                    for (file, metric) in ROW {
                        if let Some(count) = tree.number(file) {
                            sink.put(metric, &[controller, label], count as f64);
                        }
                    }
                    tree.leave(mark);
                }
            },
            sink,
        )
    }
}
