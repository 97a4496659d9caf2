//! `/proc/net/dev`: traffic and faults of network devices; the one counter that it lacks is in `/sys/class/net`.

use std::path::PathBuf;

use super::glob::Globs;
use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "netdev",
    |settings| vec![settings.roots.proc.join("net/dev")],
    |settings| Box::new(Netdev::new(&settings.roots, settings.ignored("netdev"))),
);

/// In the order of the file's columns.
const COLUMNS: [&str; 16] = [
    "node_network_receive_bytes_total",
    "node_network_receive_packets_total",
    "node_network_receive_errs_total",
    "node_network_receive_drop_total",
    "node_network_receive_fifo_total",
    "node_network_receive_frame_total",
    "node_network_receive_compressed_total",
    "node_network_receive_multicast_total",
    "node_network_transmit_bytes_total",
    "node_network_transmit_packets_total",
    "node_network_transmit_errs_total",
    "node_network_transmit_drop_total",
    "node_network_transmit_fifo_total",
    "node_network_transmit_colls_total",
    "node_network_transmit_carrier_total",
    "node_network_transmit_compressed_total",
];
const HEADER_LINES: usize = 2;

/// `node_network_*_total`, for each device but the loopback.
pub(crate) struct Netdev {
    source: Source,
    ignored: Globs,
    class: PathBuf,
    /// `rx_nohandler` of each device, in the order of the file, to be found without a look-up.
    nohandler: Vec<(Box<str>, Source)>,
}

impl Netdev {
    pub(crate) fn new(roots: &Roots, ignored: Globs) -> Self {
        let class = roots.sys.join("class/net");
        Self { source: Source::new(roots.proc.join("net/dev")), ignored, class, nohandler: Vec::new() }
    }
}

impl Sensor for Netdev {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let (class, ignored, nohandler) = (&self.class, &self.ignored, &mut self.nohandler);
        let mut devices = 0;
        let parsed = parse(self.source.read()?, |device, counters| {
            if ignored.matches(device) {
                return;
            }
            let labels = [("device", device)];
            for (name, value) in COLUMNS.iter().zip(counters) {
                sink.put(name, &labels, value as f64);
            }
            let source = match nohandler.iter().position(|(name, _)| **name == *device) {
                Some(position) => {
                    nohandler.swap(position, devices);
                    nohandler.get_mut(devices)
                }
                None if is_file_name(device) => {
                    let path = class.join(device).join("statistics/rx_nohandler");
                    nohandler.insert(devices, (device.into(), Source::new(path)));
                    nohandler.get_mut(devices)
                }
                None => None,
            };
            let Some((_, source)) = source else { return };
            devices += 1;
            // A device may go between the two files, and old kernels lack this one.
            if let Ok(Some(count)) = source.read_if_present()
                && let Some(count) = text::number(count.trim_ascii())
            {
                sink.put("node_network_receive_nohandler_total", &labels, count as f64);
            }
        });
        nohandler.truncate(devices);
        parsed.map_err(|error| self.source.malformed(error))
    }
}

fn parse(bytes: &[u8], mut each: impl FnMut(&str, [u64; COLUMNS.len()])) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes).skip(HEADER_LINES) {
        let malformed = |expected| Malformed { line, expected };
        // A device's name may hold a colon, as aliases once did; the counters do not.
        let colon = content.iter().rposition(|&byte| byte == b':').ok_or(malformed("a device and a colon"))?;
        let (device, counters) = content.split_at(colon);
        let device = device.trim_ascii();
        if device == b"lo" {
            continue;
        }
        let mut fields = text::fields(counters.get(1..).unwrap_or_default());
        let mut values = [0; COLUMNS.len()];
        for value in &mut values {
            *value = fields.next().and_then(text::number).ok_or(malformed("16 counters"))?;
        }
        each(&text::label(device), values);
    }
    Ok(())
}

/// Names come from the kernel, which forbids these too; a captured file may hold anything.
fn is_file_name(device: &str) -> bool {
    !device.is_empty() && device != "." && device != ".." && !device.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_whose_name_touches_its_first_counter_is_read() {
        let text = b"h\nh\n eth0:17 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n lo: x\n";
        let mut seen = Vec::new();
        parse(text, |device, values| seen.push((device.to_owned(), values[0], values[15]))).expect("well formed");
        assert_eq!(seen, [("eth0".to_owned(), 17, 16)]);
    }

    #[test]
    fn an_error_tells_the_line() {
        let error = parse(b"h\nh\neth0: 1 2 3\n", |_, _| {}).expect_err("malformed");
        assert_eq!(error, Malformed { line: 3, expected: "16 counters" });
    }
}
