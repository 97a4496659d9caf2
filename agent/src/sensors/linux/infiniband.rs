//! `/sys/class/infiniband`: adapters, their ports' states, traffic and errors.

use super::class::Class;
use super::glob::Globs;
use super::text;
use super::tree::{Attribute, Scale, Texts, put_all};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "infiniband",
    |settings| vec![settings.roots.sys.join("class/infiniband")],
    |settings| Box::new(Infiniband::new(&settings.roots)),
);

/// Data is counted in words of four bytes.
const WORDS: Scale = Scale::Times(4.0);
const COUNTERS: [Attribute; 30] = [
    ("counters/VL15_dropped", "node_infiniband_vl15_dropped_total", Scale::One),
    ("counters/excessive_buffer_overrun_errors", "node_infiniband_excessive_buffer_overrun_errors_total", Scale::One),
    ("counters/link_downed", "node_infiniband_link_downed_total", Scale::One),
    ("counters/link_error_recovery", "node_infiniband_link_error_recovery_total", Scale::One),
    ("counters/local_link_integrity_errors", "node_infiniband_local_link_integrity_errors_total", Scale::One),
    ("counters/multicast_rcv_packets", "node_infiniband_multicast_packets_received_total", Scale::One),
    ("counters/multicast_xmit_packets", "node_infiniband_multicast_packets_transmitted_total", Scale::One),
    ("counters/port_rcv_constraint_errors", "node_infiniband_port_constraint_errors_received_total", Scale::One),
    ("counters/port_rcv_data", "node_infiniband_port_data_received_bytes_total", WORDS),
    ("counters/port_rcv_discards", "node_infiniband_port_discards_received_total", Scale::One),
    ("counters/port_rcv_errors", "node_infiniband_port_errors_received_total", Scale::One),
    ("counters/port_rcv_packets", "node_infiniband_port_packets_received_total", Scale::One),
    (
        "counters/port_rcv_remote_physical_errors",
        "node_infiniband_port_receive_remote_physical_errors_total",
        Scale::One,
    ),
    ("counters/port_rcv_switch_relay_errors", "node_infiniband_port_receive_switch_relay_errors_total", Scale::One),
    ("counters/port_xmit_constraint_errors", "node_infiniband_port_constraint_errors_transmitted_total", Scale::One),
    ("counters/port_xmit_data", "node_infiniband_port_data_transmitted_bytes_total", WORDS),
    ("counters/port_xmit_discards", "node_infiniband_port_discards_transmitted_total", Scale::One),
    ("counters/port_xmit_packets", "node_infiniband_port_packets_transmitted_total", Scale::One),
    ("counters/port_xmit_wait", "node_infiniband_port_transmit_wait_total", Scale::One),
    ("counters/symbol_error", "node_infiniband_symbol_error_total", Scale::One),
    ("counters/unicast_rcv_packets", "node_infiniband_unicast_packets_received_total", Scale::One),
    ("counters/unicast_xmit_packets", "node_infiniband_unicast_packets_transmitted_total", Scale::One),
    ("counters_ext/port_multicast_rcv_packets", "node_infiniband_legacy_multicast_packets_received_total", Scale::One),
    (
        "counters_ext/port_multicast_xmit_packets",
        "node_infiniband_legacy_multicast_packets_transmitted_total",
        Scale::One,
    ),
    ("counters_ext/port_rcv_data_64", "node_infiniband_legacy_data_received_bytes_total", WORDS),
    ("counters_ext/port_rcv_packets_64", "node_infiniband_legacy_packets_received_total", Scale::One),
    ("counters_ext/port_unicast_rcv_packets", "node_infiniband_legacy_unicast_packets_received_total", Scale::One),
    ("counters_ext/port_unicast_xmit_packets", "node_infiniband_legacy_unicast_packets_transmitted_total", Scale::One),
    ("counters_ext/port_xmit_data_64", "node_infiniband_legacy_data_transmitted_bytes_total", WORDS),
    ("counters_ext/port_xmit_packets_64", "node_infiniband_legacy_packets_transmitted_total", Scale::One),
];
const BYTES_PER_GIGABIT: f64 = 125_000_000.0;

/// `node_infiniband_*`.
pub(crate) struct Infiniband {
    class: Class,
    ports: Texts,
}

impl Infiniband {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { class: Class::new(&roots.sys.join("class/infiniband"), Globs::default()), ports: Texts::default() }
    }
}

impl Sensor for Infiniband {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let ports = &mut self.ports;
        self.class.each(
            |_| true,
            |tree, device, texts, sink| {
                for file in ["board_id", "fw_ver", "hca_type"] {
                    texts.push(tree.text(file).unwrap_or_default());
                }
                let device = ("device", device);
                let info = [
                    ("board_id", texts.get(0)),
                    device,
                    ("firmware_version", texts.get(1)),
                    ("hca_type", texts.get(2)),
                ];
                sink.put("node_infiniband_info", &info, 1.0);
                let in_ports = tree.enter("ports");
                tree.directories(ports).unwrap_or_else(|_| ports.clear());
                for port in ports.iter() {
                    let mark = tree.enter(port);
                    let labels = [device, ("port", port)];
                    for (file, metric) in
                        [("state", "node_infiniband_state_id"), ("phys_state", "node_infiniband_physical_state_id")]
                    {
                        if let Some(state) = tree.text(file).and_then(state) {
                            sink.put(metric, &labels, state as f64);
                        }
                    }
                    if let Some(rate) = tree.text("rate").and_then(rate) {
                        sink.put("node_infiniband_rate_bytes_per_second", &labels, rate);
                    }
                    put_all(tree, &COUNTERS, &labels, sink);
                    tree.leave(mark);
                }
                tree.leave(in_ports);
            },
            sink,
        )
    }
}

/// The number before the colon in, for example, `4: ACTIVE`.
fn state(content: &[u8]) -> Option<u64> {
    text::number(content.split(|&byte| byte == b':').next()?.trim_ascii())
}

/// Bytes a second, from for example `100 Gb/sec (4X EDR)`.
fn rate(content: &[u8]) -> Option<f64> {
    Some((text::decimal(text::fields(content).next()?)? * BYTES_PER_GIGABIT).trunc())
}
