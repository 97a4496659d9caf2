//! What network drivers count, and which they are, asked by ioctl(2) as ethtool(8) does.
//!
//! Names are put together from the driver's, as `node_exporter` does. The names are asked for once, and again when a
//! driver has another number of them. The unsafe call is here, as no safe wrapper exists among this crate's dependencies.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use super::glob::Globs;
use super::tree::{Texts, Tree};
use super::{Entry, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "ethtool",
    |settings| vec![settings.roots.sys.join("class/net")],
    |settings| Box::new(Ethtool::new(&settings.roots.sys, settings.ignored("ethtool"))),
)
.on_request();

const SIOCETHTOOL: u64 = 0x8946;
const GET_SETTINGS: u32 = 0x01;
const GET_DRIVER_INFO: u32 = 0x03;
const GET_STRINGS: u32 = 0x1b;
const GET_STATISTICS: u32 = 0x1d;
const STATISTICS: u32 = 1;
const NAME_BYTES: usize = 32;
const VALUE_BYTES: usize = 8;
const DRIVER_INFO_BYTES: usize = 196;
const SETTINGS_BYTES: usize = 44;
/// More than any driver has; one with more is left out.
const MAX_STATISTICS: usize = 16_384;
/// The kernel writes as many as the driver has when it is asked, which may be more than it had before: no driver comes
/// near this. Pages that nobody writes to are not resident.
const BUFFER_STATISTICS: usize = 4 * MAX_STATISTICS;

/// Places in `struct ethtool_drvinfo`.
const DRIVER: usize = 4;
const VERSION: usize = 36;
const FIRMWARE: usize = 68;
const BUS: usize = 100;
const EXPANSION_ROM: usize = 132;
const STATISTICS_COUNT: usize = 180;

/// Places in `struct ethtool_cmd`.
const SUPPORTED: usize = 4;
const ADVERTISED: usize = 8;
const AUTONEGOTIATION: usize = 18;

/// Kinds of ports by their bits in a set of link modes, ascending.
const PORTS: [(u32, &str); 6] = [(7, "TP"), (8, "AUI"), (9, "MII"), (10, "FIBRE"), (11, "BNC"), (16, "Backplane")];
/// Megabits a second, duplex and mode by their bits.
const SPEEDS: [(u32, f64, &str, &str); 23] = [
    (0, 10.0, "half", "10baseT"),
    (1, 10.0, "full", "10baseT"),
    (2, 100.0, "half", "100baseT"),
    (3, 100.0, "full", "100baseT"),
    (4, 1000.0, "half", "1000baseT"),
    (5, 1000.0, "full", "1000baseT"),
    (12, 10_000.0, "full", "10000baseT"),
    (15, 2500.0, "full", "2500baseX"),
    (17, 1000.0, "full", "1000baseKX"),
    (18, 10_000.0, "full", "10000baseKX4"),
    (19, 10_000.0, "full", "10000baseKR"),
    (20, 10_000.0, "full", "10000baseR_FEC"),
    (21, 20_000.0, "full", "20000baseMLD2"),
    (22, 20_000.0, "full", "20000baseKR2"),
    (23, 40_000.0, "full", "40000baseKR4"),
    (24, 40_000.0, "full", "40000baseCR4"),
    (25, 40_000.0, "full", "40000baseSR4"),
    (26, 40_000.0, "full", "40000baseLR4"),
    (27, 56_000.0, "full", "56000baseKR4"),
    (28, 56_000.0, "full", "56000baseCR4"),
    (29, 56_000.0, "full", "56000baseSR4"),
    (30, 56_000.0, "full", "56000baseLR4"),
    (31, 25_000.0, "full", "25000baseCR"),
];
const MEGABITS: f64 = 1e6 / 8.0;
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (6, "node_network_autonegotiate_supported", "node_network_autonegotiate_advertised"),
    (13, "node_network_pause_supported", "node_network_pause_advertised"),
    (14, "node_network_asymmetricpause_supported", "node_network_asymmetricpause_advertised"),
];

/// `node_ethtool_*`, `node_network_autonegotiate` and what else the link can do.
pub(crate) struct Ethtool {
    tree: Tree,
    names: Texts,
    ignored: Globs,
    socket: Option<UdpSocket>,
    devices: Vec<Device>,
    strings: Vec<u8>,
    values: Vec<u8>,
}

/// A network device, with the metrics that it has.
struct Device {
    name: String,
    count: usize,
    /// By position; empty for those that can't be told. In the order of the driver's own names.
    metrics: Vec<(usize, String)>,
}

impl Ethtool {
    pub(crate) fn new(sys: &Path, ignored: Globs) -> Self {
        Self {
            tree: Tree::new(&sys.join("class/net")),
            names: Texts::default(),
            ignored,
            socket: None,
            devices: Vec::new(),
            strings: Vec::new(),
            values: Vec::new(),
        }
    }

    fn tell(&mut self, name: &str, sink: &mut Sink) -> io::Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => self.socket.insert(UdpSocket::bind("127.0.0.1:0")?),
        };
        let mut settings = [0; SETTINGS_BYTES];
        put_u32(&mut settings, 0, GET_SETTINGS);
        if ask(socket, name, &mut settings).is_ok() {
            put_settings(name, &settings, sink);
        }
        let mut info = [0; DRIVER_INFO_BYTES];
        put_u32(&mut info, 0, GET_DRIVER_INFO);
        ask(socket, name, &mut info)?;
        let text = |place: usize| text_at(&info, place);
        let labels = [
            ("bus_info", text(BUS)),
            ("device", name),
            ("driver", text(DRIVER)),
            ("expansion_rom_version", text(EXPANSION_ROM)),
            ("firmware_version", text(FIRMWARE)),
            ("version", text(VERSION)),
        ];
        sink.put("node_ethtool_info", &labels, 1.0);
        let count = usize::try_from(u32_at(&info, STATISTICS_COUNT)).unwrap_or(usize::MAX);
        if count == 0 || count > MAX_STATISTICS {
            return Ok(());
        }
        let known = self.devices.iter().position(|device| device.name == name && device.count == count);
        let position = if let Some(position) = known {
            position
        } else {
            self.devices.retain(|device| device.name != name);
            self.strings.resize(12 + BUFFER_STATISTICS * NAME_BYTES, 0);
            put_u32(&mut self.strings, 0, GET_STRINGS);
            put_u32(&mut self.strings, 4, STATISTICS);
            put_u32(&mut self.strings, 8, u32::try_from(count).unwrap_or_default());
            ask(socket, name, &mut self.strings)?;
            let metrics = metrics(self.strings.get(12..).unwrap_or_default(), count);
            // Needed once for each device.
            self.strings = Vec::new();
            self.devices.push(Device { name: name.to_owned(), count, metrics });
            self.devices.len() - 1
        };
        self.values.resize(8 + BUFFER_STATISTICS * VALUE_BYTES, 0);
        put_u32(&mut self.values, 0, GET_STATISTICS);
        put_u32(&mut self.values, 4, u32::try_from(count).unwrap_or_default());
        ask(socket, name, &mut self.values)?;
        let Some(device) = self.devices.get(position) else { return Ok(()) };
        for (index, metric) in &device.metrics {
            let place = 8 + index * VALUE_BYTES;
            let bytes = self.values.get(place..place + VALUE_BYTES).and_then(|bytes| bytes.try_into().ok());
            let value = bytes.map_or(0, u64::from_ne_bytes);
            sink.put(metric, &[("device", name)], value as f64);
        }
        Ok(())
    }
}

impl Sensor for Ethtool {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let mut names = std::mem::take(&mut self.names);
        let list = self.tree.directories(&mut names);
        let result = list.map_err(|source| SensorError::Read { path: self.tree.path().to_owned(), source });
        for name in names.iter() {
            if self.ignored.matches(name) {
                continue;
            }
            // One without a driver that counts is left out, and so is one that goes meanwhile.
            if let Err(error) = self.tell(name, sink) {
                tracing::trace!(%error, device = name, "no answer of a network driver");
            }
        }
        self.devices.retain(|device| names.iter().any(|name| name == device.name));
        self.names = names;
        result
    }
}

/// What the link can do, of which the kernel's first 32 modes are told.
fn put_settings(device: &str, settings: &[u8], sink: &mut Sink) {
    let (supported, advertised) = (u32_at(settings, SUPPORTED), u32_at(settings, ADVERTISED));
    let both = [(supported, "node_network_supported_speed_bytes"), (advertised, "node_network_advertised_speed_bytes")];
    for (modes, metric) in both {
        for (_, speed, duplex, mode) in SPEEDS.iter().filter(|(bit, ..)| modes >> bit & 1 == 1) {
            let labels = [("device", device), ("duplex", *duplex), ("mode", *mode)];
            sink.put(metric, &labels, speed * MEGABITS);
        }
    }
    for (_, port) in PORTS.iter().filter(|(bit, _)| supported >> bit & 1 == 1) {
        sink.put("node_network_supported_port_info", &[("device", device), ("type", port)], 1.0);
    }
    for (bit, of_supported, of_advertised) in CAPABILITIES {
        for (modes, metric) in [(supported, of_supported), (advertised, of_advertised)] {
            sink.put(metric, &[("device", device)], f64::from(modes >> bit & 1));
        }
    }
    let is_negotiated = settings.get(AUTONEGOTIATION).copied().unwrap_or_default();
    sink.put("node_network_autonegotiate", &[("device", device)], f64::from(is_negotiated));
}

/// Names of metrics by position, in the order of the driver's own names; of equal names the first counts.
fn metrics(strings: &[u8], count: usize) -> Vec<(usize, String)> {
    let mut own: Vec<(&str, usize)> = strings
        .chunks_exact(NAME_BYTES)
        .take(count)
        .enumerate()
        .map(|(index, name)| (text_at(name, 0), index))
        .collect();
    own.sort_unstable();
    let mut found: Vec<(usize, String)> = Vec::new();
    for (name, index) in own.into_iter().filter(|(name, _)| !name.is_empty()) {
        let metric = metric(name);
        if !found.iter().any(|(_, other)| *other == metric) {
            found.push((index, metric));
        }
    }
    found
}

/// Some have names that tell more; all else is the driver's name with `rx` and `tx` written out.
fn metric(name: &str) -> String {
    let known = match name {
        "rx_bytes" => "received_bytes_total",
        "rx_dropped" => "received_dropped_total",
        "rx_errors" => "received_errors_total",
        "rx_packets" => "received_packets_total",
        "tx_bytes" => "transmitted_bytes_total",
        "tx_errors" => "transmitted_errors_total",
        "tx_packets" => "transmitted_packets_total",
        _ => "",
    };
    if !known.is_empty() {
        return format!("node_ethtool_{known}");
    }
    let mut parts: Vec<&str> = Vec::new();
    let lower = name.to_ascii_lowercase();
    // What can't be in a name becomes one `_`, with those beside it; other `_` stay as they are.
    let mut clean = String::new();
    for c in lower.chars() {
        let is_in_name = c.is_ascii_alphanumeric() || c == '_';
        clean.push(if is_in_name { c } else { '\u{1}' });
    }
    while let Some(place) = clean.find('\u{1}') {
        let is_joint = |c: char| c == '\u{1}' || c == '_';
        let before = clean.get(..place).unwrap_or_default().trim_end_matches('_').to_owned();
        let after = clean.get(place..).unwrap_or_default().trim_start_matches(is_joint).to_owned();
        clean = format!("{before}_{after}");
    }
    let mut is_replaced = (false, false);
    for part in clean.trim_start_matches('_').split('_') {
        // The exporter's pattern takes the `_` on both sides, so that of two in a row the second stays.
        let (part, now) = match (part, is_replaced) {
            ("rx", (false, _)) => ("received", (true, false)),
            ("tx", (_, false)) => ("transmitted", (false, true)),
            (part, _) => (part, (false, false)),
        };
        parts.push(part);
        is_replaced = now;
    }
    format!("node_ethtool_{}", parts.join("_"))
}

/// A text of at most 32 bytes that ends at its first zero.
fn text_at(bytes: &[u8], place: usize) -> &str {
    let field = bytes.get(place..place + NAME_BYTES).unwrap_or_default();
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    field.get(..end).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
}

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    bytes.get(place..place + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn put_u32(bytes: &mut [u8], place: usize, value: u32) {
    if let Some(field) = bytes.get_mut(place..place + 4) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
}

/// Has the kernel answer the command in `buffer`, in place. `buffer` must hold the largest answer.
#[expect(unsafe_code, reason = "no dependency wraps this ioctl")]
fn ask(socket: &UdpSocket, device: &str, buffer: &mut [u8]) -> io::Result<()> {
    // SAFETY: `ifreq` consists of integers and pointers, for which all zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = device.as_bytes();
    // The last byte stays zero.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name) {
        // Signed on some machines, unsigned on others.
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    request.ifr_ifru.ifru_data = buffer.as_mut_ptr().cast();
    // SAFETY: the descriptor is open, `request` and `buffer` live through the call, and the kernel writes no more than the
    // answer to the command in `buffer`, for which its callers made room (see `BUFFER_STATISTICS`).
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_node_exporter() {
        for (name, expected) in [
            ("rx_packets", "received_packets_total"),
            ("rx_drops", "received_drops"),
            ("tx_tx_timeouts", "transmitted_tx_timeouts"),
            ("rx0_xdp_tx", "rx0_xdp_transmitted"),
            ("rx_xdp_tx_drops", "received_xdp_transmitted_drops"),
            ("[0]: rx_ucast packets", "0_received_ucast_packets"),
            ("TX Errors", "transmitted_errors"),
            ("port.rx_bytes", "port_received_bytes"),
        ] {
            assert_eq!(metric(name), format!("node_ethtool_{expected}"), "{name}");
        }
    }
}
