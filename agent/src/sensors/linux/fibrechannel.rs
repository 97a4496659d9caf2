//! `/sys/class/fc_host`: Fibre Channel adapters, their links and errors.

use super::class::Class;
use super::glob::Globs;
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "fibrechannel",
    |settings| vec![settings.roots.sys.join("class/fc_host")],
    |settings| Box::new(Fibrechannel::new(&settings.roots)),
);

/// Files below `statistics` and their metrics.
const COUNTERS: [(&str, &str); 14] = [
    ("dumped_frames", "node_fibrechannel_dumped_frames_total"),
    ("error_frames", "node_fibrechannel_error_frames_total"),
    ("fcp_packet_aborts", "node_fibrechannel_fcp_packet_aborts_total"),
    ("invalid_crc_count", "node_fibrechannel_invalid_crc_total"),
    ("invalid_tx_word_count", "node_fibrechannel_invalid_tx_words_total"),
    ("link_failure_count", "node_fibrechannel_link_failure_total"),
    ("loss_of_signal_count", "node_fibrechannel_loss_of_signal_total"),
    ("loss_of_sync_count", "node_fibrechannel_loss_of_sync_total"),
    ("nos_count", "node_fibrechannel_nos_total"),
    ("rx_frames", "node_fibrechannel_rx_frames_total"),
    ("rx_words", "node_fibrechannel_rx_words_total"),
    ("seconds_since_last_reset", "node_fibrechannel_seconds_since_last_reset_total"),
    ("tx_frames", "node_fibrechannel_tx_frames_total"),
    ("tx_words", "node_fibrechannel_tx_words_total"),
];
/// What a driver says that does not count the thing.
const NOT_COUNTED: u64 = u64::MAX;

/// What a file of the information has in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    /// Begins with `0x`, which is left out.
    Hexadecimal,
}

/// Files of the information.
const INFO: [(&str, Form); 10] = [
    ("dev_loss_tmo", Form::Text),
    ("fabric_name", Form::Hexadecimal),
    ("port_id", Form::Hexadecimal),
    ("port_name", Form::Hexadecimal),
    ("port_state", Form::Text),
    ("port_type", Form::Text),
    ("speed", Form::Text),
    ("supported_classes", Form::Text),
    ("supported_speeds", Form::Text),
    ("symbolic_name", Form::Text),
];

/// `node_fibrechannel_*`.
pub(crate) struct Fibrechannel {
    class: Class,
}

impl Fibrechannel {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { class: Class::new(&roots.sys.join("class/fc_host"), Globs::default()) }
    }
}

impl Sensor for Fibrechannel {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.class.each(
            |_| true,
            |tree, host, texts, sink| {
                for (file, form) in INFO {
                    let text = tree.text(file).unwrap_or_default();
                    texts.push(if form == Form::Hexadecimal { text.strip_prefix(b"0x").unwrap_or(text) } else { text });
                }
                let host = ("fc_host", host);
                let info = [
                    ("dev_loss_tmo", texts.get(0)),
                    ("fabric_name", texts.get(1)),
                    host,
                    ("port_id", texts.get(2)),
                    ("port_name", texts.get(3)),
                    ("port_state", texts.get(4)),
                    ("port_type", texts.get(5)),
                    ("speed", texts.get(6)),
                    ("supported_classes", texts.get(7)),
                    ("supported_speeds", texts.get(8)),
                    ("symbolic_name", texts.get(9)),
                ];
                sink.put("node_fibrechannel_info", &info, 1.0);
                let mark = tree.enter("statistics");
                for (file, metric) in COUNTERS {
                    if let Some(count) = tree.number(file).filter(|count| *count != NOT_COUNTED) {
                        sink.put(metric, &[host], count as f64);
                    }
                }
                tree.leave(mark);
            },
            sink,
        )
    }
}
