//! `/sys/devices/system/cpu/cpu*/cpufreq`: how fast processors run, and may run.

use super::class::{Class, is_numbered};
use super::glob::Globs;
use super::tree::{Attribute, Scale, put_all};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "cpufreq",
    |settings| vec![settings.roots.sys.join("devices/system/cpu/cpu0/cpufreq")],
    |settings| Box::new(Cpufreq::new(&settings.roots)),
);

const KILOHERTZ: Scale = Scale::Times(1000.0);
const ATTRIBUTES: [Attribute; 6] = [
    ("cpufreq/cpuinfo_cur_freq", "node_cpu_frequency_hertz", KILOHERTZ),
    ("cpufreq/cpuinfo_min_freq", "node_cpu_frequency_min_hertz", KILOHERTZ),
    ("cpufreq/cpuinfo_max_freq", "node_cpu_frequency_max_hertz", KILOHERTZ),
    ("cpufreq/scaling_cur_freq", "node_cpu_scaling_frequency_hertz", KILOHERTZ),
    ("cpufreq/scaling_min_freq", "node_cpu_scaling_frequency_min_hertz", KILOHERTZ),
    ("cpufreq/scaling_max_freq", "node_cpu_scaling_frequency_max_hertz", KILOHERTZ),
];

/// `node_cpu_frequency_*`, `node_cpu_scaling_frequency_*`.
pub(crate) struct Cpufreq {
    class: Class,
}

impl Cpufreq {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { class: Class::new(&roots.sys.join("devices/system/cpu"), Globs::default()) }
    }
}

impl Sensor for Cpufreq {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let each = |tree: &mut super::tree::Tree, cpu: &str, _: &mut super::tree::Texts, sink: &mut Sink| {
            put_all(tree, &ATTRIBUTES, &[("cpu", cpu.strip_prefix("cpu").unwrap_or(cpu))], sink);
        };
        self.class.each(|name| is_numbered(name, "cpu"), each, sink)
    }
}
