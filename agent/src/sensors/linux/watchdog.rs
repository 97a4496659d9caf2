//! `/sys/class/watchdog`: timers that restart a machine that hangs. The names are those of `node_exporter` 1.6.

use super::class::Class;
use super::tree::{Attribute, Scale, put_all};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "watchdog",
    |settings| vec![settings.roots.sys.join("class/watchdog")],
    |settings| Box::new(Watchdog::new(&settings.roots)),
);

const ATTRIBUTES: [Attribute; 7] = [
    ("access_cs0", "node_watchdog_access_cs0", Scale::One),
    ("bootstatus", "node_watchdog_bootstatus", Scale::One),
    ("fw_version", "node_watchdog_fw_version", Scale::One),
    ("nowayout", "node_watchdog_nowayout", Scale::One),
    ("pretimeout", "node_watchdog_pretimeout_seconds", Scale::One),
    ("timeleft", "node_watchdog_timeleft_seconds", Scale::One),
    ("timeout", "node_watchdog_timeout_seconds", Scale::One),
];

/// `node_watchdog_*`.
pub(crate) struct Watchdog {
    class: Class,
}

impl Watchdog {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { class: Class::new(&roots.sys.join("class/watchdog"), super::glob::Globs::default()) }
    }
}

impl Sensor for Watchdog {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.class.each(
            |_| true,
            |tree, watchdog, texts, sink| {
                for file in ["identity", "options", "pretimeout_governor", "state", "status"] {
                    texts.push(tree.text(file).unwrap_or_default());
                }
                let name = ("name", watchdog);
                let info = [
                    ("identity", texts.get(0)),
                    name,
                    ("options", texts.get(1)),
                    ("pretimeout_governor", texts.get(2)),
                    ("state", texts.get(3)),
                    ("status", texts.get(4)),
                ];
                sink.put("node_watchdog_info", &info, 1.0);
                put_all(tree, &ATTRIBUTES, &[name], sink);
            },
            sink,
        )
    }
}
