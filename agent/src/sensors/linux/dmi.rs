//! `/sys/class/dmi/id`: what machine this is. It never changes while the machine runs, so it is read once.

use super::tree::Tree;
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "dmi",
    |settings| vec![settings.roots.sys.join("class/dmi/id")],
    |settings| Box::new(Dmi::new(&settings.roots)),
)
.needing(|settings| {
    let serial = settings.roots.sys.join("class/dmi/id/product_serial");
    super::unreadable(&serial).then(|| "serial numbers: CAP_DAC_READ_SEARCH".to_owned())
});

/// Files and labels, ascending by label.
const FILES: [(&str, &str); 20] = [
    ("bios_date", "bios_date"),
    ("bios_release", "bios_release"),
    ("bios_vendor", "bios_vendor"),
    ("bios_version", "bios_version"),
    ("board_asset_tag", "board_asset_tag"),
    ("board_name", "board_name"),
    ("board_serial", "board_serial"),
    ("board_vendor", "board_vendor"),
    ("board_version", "board_version"),
    ("chassis_asset_tag", "chassis_asset_tag"),
    ("chassis_serial", "chassis_serial"),
    ("chassis_vendor", "chassis_vendor"),
    ("chassis_version", "chassis_version"),
    ("product_family", "product_family"),
    ("product_name", "product_name"),
    ("product_serial", "product_serial"),
    ("product_sku", "product_sku"),
    ("product_uuid", "product_uuid"),
    ("product_version", "product_version"),
    ("sys_vendor", "system_vendor"),
];

/// `node_dmi_info`, with a label for each file that is there and may be read.
pub(crate) struct Dmi {
    labels: Vec<(&'static str, String)>,
}

impl Dmi {
    pub(crate) fn new(roots: &Roots) -> Self {
        let mut tree = Tree::new(&roots.sys.join("class/dmi/id"));
        let label =
            |(file, label): &(&str, &'static str)| Some((*label, super::text::label(tree.text(file)?).into_owned()));
        Self { labels: FILES.iter().filter_map(label).collect() }
    }
}

impl Sensor for Dmi {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let mut labels = [("", ""); FILES.len()];
        for (place, (label, value)) in labels.iter_mut().zip(&self.labels) {
            *place = (label, value.as_str());
        }
        sink.put("node_dmi_info", labels.get(..self.labels.len()).unwrap_or_default(), 1.0);
        Ok(())
    }
}
