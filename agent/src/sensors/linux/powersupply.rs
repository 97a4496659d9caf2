//! `/sys/class/power_supply`: batteries and mains.

use super::class::Class;
use super::glob::Globs;
use super::text::{self, Composed};
use super::tree::Scale;
use super::{Entry, Roots, Sensor, SensorError, Sink};

/// The name is that of `node_exporter`'s collector.
pub(crate) const ENTRY: Entry = Entry::new(
    "powersupplyclass",
    |settings| vec![settings.roots.sys.join("class/power_supply")],
    |settings| Box::new(Powersupply::new(&settings.roots, settings.ignored("powersupplyclass"))),
);

const MILLIONTHS: Scale = Scale::Over(1e6);
const TENTHS: Scale = Scale::Over(10.0);
/// Files, the rest of their metrics' names, and units.
const NUMBERS: [(&str, &[u8], Scale); 49] = [
    ("authentic", b"authentic", Scale::One),
    ("calibrate", b"calibrate", Scale::One),
    ("capacity", b"capacity", Scale::One),
    ("capacity_alert_max", b"capacity_alert_max", Scale::One),
    ("capacity_alert_min", b"capacity_alert_min", Scale::One),
    ("cycle_count", b"cyclecount", Scale::One),
    ("online", b"online", Scale::One),
    ("present", b"present", Scale::One),
    ("time_to_empty_now", b"time_to_empty_seconds", Scale::One),
    ("time_to_full_now", b"time_to_full_seconds", Scale::One),
    ("current_boot", b"current_boot", MILLIONTHS),
    ("current_max", b"current_max", MILLIONTHS),
    ("current_now", b"current_ampere", MILLIONTHS),
    ("energy_empty", b"energy_empty", MILLIONTHS),
    ("energy_empty_design", b"energy_empty_design", MILLIONTHS),
    ("energy_full", b"energy_full", MILLIONTHS),
    ("energy_full_design", b"energy_full_design", MILLIONTHS),
    ("energy_now", b"energy_watthour", MILLIONTHS),
    ("voltage_boot", b"voltage_boot", MILLIONTHS),
    ("voltage_max", b"voltage_max", MILLIONTHS),
    ("voltage_max_design", b"voltage_max_design", MILLIONTHS),
    ("voltage_min", b"voltage_min", MILLIONTHS),
    ("voltage_min_design", b"voltage_min_design", MILLIONTHS),
    ("voltage_now", b"voltage_volt", MILLIONTHS),
    ("voltage_ocv", b"voltage_ocv", MILLIONTHS),
    ("charge_control_limit", b"charge_control_limit", MILLIONTHS),
    ("charge_control_limit_max", b"charge_control_limit_max", MILLIONTHS),
    ("charge_counter", b"charge_counter", MILLIONTHS),
    ("charge_empty", b"charge_empty", MILLIONTHS),
    ("charge_empty_design", b"charge_empty_design", MILLIONTHS),
    ("charge_full", b"charge_full", MILLIONTHS),
    ("charge_full_design", b"charge_full_design", MILLIONTHS),
    ("charge_now", b"charge_ampere", MILLIONTHS),
    ("charge_term_current", b"charge_term_current", MILLIONTHS),
    ("constant_charge_current", b"constant_charge_current", MILLIONTHS),
    ("constant_charge_current_max", b"constant_charge_current_max", MILLIONTHS),
    ("constant_charge_voltage", b"constant_charge_voltage", MILLIONTHS),
    ("constant_charge_voltage_max", b"constant_charge_voltage_max", MILLIONTHS),
    ("precharge_current", b"precharge_current", MILLIONTHS),
    ("input_current_limit", b"input_current_limit", MILLIONTHS),
    ("power_now", b"power_watt", MILLIONTHS),
    ("temp", b"temp_celsius", TENTHS),
    ("temp_alert_max", b"temp_alert_max_celsius", TENTHS),
    ("temp_alert_min", b"temp_alert_min_celsius", TENTHS),
    ("temp_ambient", b"temp_ambient_celsius", TENTHS),
    ("temp_ambient_max", b"temp_ambient_max_celsius", TENTHS),
    ("temp_ambient_min", b"temp_ambient_min_celsius", TENTHS),
    ("temp_max", b"temp_max_celsius", TENTHS),
    ("temp_min", b"temp_min_celsius", TENTHS),
];
/// Files and labels of the information, ascending; the device itself comes in between.
const TEXTS: [&str; 11] = [
    "capacity_level",
    "charge_type",
    "health",
    "manufacturer",
    "model_name",
    "scope",
    "serial_number",
    "status",
    "technology",
    "type",
    "usb_type",
];
const DEVICE_LABEL: &str = "power_supply";

/// `node_power_supply_*`.
pub(crate) struct Powersupply {
    class: Class,
    name: Composed,
}

impl Powersupply {
    pub(crate) fn new(roots: &Roots, ignored: Globs) -> Self {
        Self { class: Class::new(&roots.sys.join("class/power_supply"), ignored), name: Composed::default() }
    }
}

impl Sensor for Powersupply {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let name = &mut self.name;
        self.class.each(
            |_| true,
            |tree, device, texts, sink| {
                for file in TEXTS {
                    texts.push(tree.text(file).unwrap_or_default());
                }
                let mut labels = [("", ""); TEXTS.len() + 1];
                let mut count = 0;
                let device_label = std::iter::once((DEVICE_LABEL, device));
                let before = TEXTS.iter().copied().zip(texts.iter()).filter(|(label, _)| *label < DEVICE_LABEL);
                let after = TEXTS.iter().copied().zip(texts.iter()).filter(|(label, _)| *label > DEVICE_LABEL);
                let present = before.chain(device_label).chain(after).filter(|(_, text)| !text.is_empty());
                for (place, label) in labels.iter_mut().zip(present) {
                    *place = label;
                    count += 1;
                }
                sink.put("node_power_supply_info", labels.get(..count).unwrap_or_default(), 1.0);
                for (file, suffix, scale) in NUMBERS {
                    if let Some(number) = tree.text(file).and_then(text::signed) {
                        let metric = name.name("node_power_supply_", suffix, "");
                        sink.put(metric, &[(DEVICE_LABEL, device)], scale.apply(number as f64));
                    }
                }
            },
            sink,
        )
    }
}
