//! `/sys/class/thermal`: temperatures of zones, and what is throttled to lower them.

use super::class::{Class, is_numbered};
use super::glob::Globs;
use super::tree::Scale;
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "thermal_zone",
    |settings| vec![settings.roots.sys.join("class/thermal")],
    |settings| Box::new(ThermalZone::new(&settings.roots)),
);

const ZONE: &str = "thermal_zone";
const COOLER: &str = "cooling_device";
const MILLIDEGREES: Scale = Scale::Over(1000.0);

/// `node_thermal_zone_temp`, `node_cooling_device_*`.
pub(crate) struct ThermalZone {
    class: Class,
}

impl ThermalZone {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { class: Class::new(&roots.sys.join("class/thermal"), Globs::default()) }
    }
}

impl Sensor for ThermalZone {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.class.each(
            |name| is_numbered(name, ZONE) || is_numbered(name, COOLER),
            |tree, name, texts, sink| {
                texts.push(tree.text("type").unwrap_or_default());
                let kind = ("type", texts.get(0));
                if let Some(zone) = name.strip_prefix(ZONE) {
                    // A zone that is off has no temperature.
                    if let Some(temperature) = tree.signed("temp") {
                        let celsius = MILLIDEGREES.apply(temperature as f64);
                        sink.put("node_thermal_zone_temp", &[kind, ("zone", zone)], celsius);
                    }
                } else if let Some(cooler) = name.strip_prefix(COOLER) {
                    for (file, metric) in
                        [("cur_state", "node_cooling_device_cur_state"), ("max_state", "node_cooling_device_max_state")]
                    {
                        if let Some(state) = tree.signed(file) {
                            sink.put(metric, &[("name", cooler), kind], state as f64);
                        }
                    }
                }
            },
            sink,
        )
    }
}
