//! `/sys/class/net`: how network devices are set up and linked.

use super::class::Class;
use super::glob::Globs;
use super::tree::{Attribute, Scale, put_all};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "netclass",
    |settings| vec![settings.roots.sys.join("class/net")],
    |settings| Box::new(Netclass::new(&settings.roots, settings.ignored("netclass"))),
);

const ATTRIBUTES: [Attribute; 16] = [
    ("addr_assign_type", "node_network_address_assign_type", Scale::One),
    ("carrier", "node_network_carrier", Scale::One),
    ("carrier_changes", "node_network_carrier_changes_total", Scale::One),
    ("carrier_up_count", "node_network_carrier_up_changes_total", Scale::One),
    ("carrier_down_count", "node_network_carrier_down_changes_total", Scale::One),
    ("dev_id", "node_network_device_id", Scale::One),
    ("dormant", "node_network_dormant", Scale::One),
    ("flags", "node_network_flags", Scale::One),
    ("ifindex", "node_network_iface_id", Scale::One),
    ("iflink", "node_network_iface_link", Scale::One),
    ("link_mode", "node_network_iface_link_mode", Scale::One),
    ("mtu", "node_network_mtu_bytes", Scale::One),
    ("name_assign_type", "node_network_name_assign_type", Scale::One),
    ("netdev_group", "node_network_net_dev_group", Scale::One),
    ("tx_queue_len", "node_network_transmit_queue_length", Scale::One),
    ("type", "node_network_protocol_type", Scale::One),
];
const BYTES_PER_MEGABIT: i64 = 1000 * 1000 / 8;

/// `node_network_*` that are no traffic.
pub(crate) struct Netclass {
    class: Class,
}

impl Netclass {
    pub(crate) fn new(roots: &Roots, ignored: Globs) -> Self {
        Self { class: Class::new(&roots.sys.join("class/net"), ignored) }
    }
}

impl Sensor for Netclass {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.class.each(
            |_| true,
            |tree, device, texts, sink| {
                for file in ["address", "broadcast", "duplex", "ifalias", "operstate"] {
                    texts.push(tree.text(file).unwrap_or_default());
                }
                let device = ("device", device);
                let info = [
                    ("address", texts.get(0)),
                    ("broadcast", texts.get(1)),
                    device,
                    ("duplex", texts.get(2)),
                    ("ifalias", texts.get(3)),
                    ("operstate", texts.get(4)),
                ];
                sink.put("node_network_info", &info, 1.0);
                sink.put("node_network_up", &[device], f64::from(u8::from(texts.get(4) == "up")));
                put_all(tree, &ATTRIBUTES, &[device], sink);
                // -1 where nobody knows.
                if let Some(megabits) = tree.signed("speed") {
                    sink.put("node_network_speed_bytes", &[device], megabits.saturating_mul(BYTES_PER_MEGABIT) as f64);
                }
            },
            sink,
        )
    }
}
