//! `/sys/class/scsi_tape`: what tape drives read and write.

use super::class::{Class, is_numbered};
use super::tree::{Attribute, Scale, put_all};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "tapestats",
    |settings| vec![settings.roots.sys.join("class/scsi_tape")],
    |settings| Box::new(Tapestats::new(&settings.roots, settings.ignored("tapestats"))),
);

const NANOSECONDS: Scale = Scale::Times(0.000_000_001);
const ATTRIBUTES: [Attribute; 10] = [
    ("stats/in_flight", "node_tape_io_now", Scale::One),
    ("stats/io_ns", "node_tape_io_time_seconds_total", NANOSECONDS),
    ("stats/other_cnt", "node_tape_io_others_total", Scale::One),
    ("stats/read_byte_cnt", "node_tape_read_bytes_total", Scale::One),
    ("stats/read_cnt", "node_tape_reads_completed_total", Scale::One),
    ("stats/read_ns", "node_tape_read_time_seconds_total", NANOSECONDS),
    ("stats/resid_cnt", "node_tape_residual_total", Scale::One),
    ("stats/write_byte_cnt", "node_tape_written_bytes_total", Scale::One),
    ("stats/write_cnt", "node_tape_writes_completed_total", Scale::One),
    ("stats/write_ns", "node_tape_write_time_seconds_total", NANOSECONDS),
];

/// `node_tape_*`. A drive has a device for each of its modes; only the plain one counts.
pub(crate) struct Tapestats {
    class: Class,
}

impl Tapestats {
    pub(crate) fn new(roots: &Roots, ignored: super::glob::Globs) -> Self {
        Self { class: Class::new(&roots.sys.join("class/scsi_tape"), ignored) }
    }
}

impl Sensor for Tapestats {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let is_plain = |name: &str| is_numbered(name, "st");
        self.class.each(is_plain, |tree, device, _, sink| put_all(tree, &ATTRIBUTES, &[("device", device)], sink), sink)
    }
}
