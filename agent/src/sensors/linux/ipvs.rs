//! `/proc/net/ip_vs{,_stats}`: the kernel's load balancer, its traffic and its backends.

use std::net::{IpAddr, Ipv4Addr};

use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "ipvs",
    |settings| vec![settings.roots.proc.join("net/ip_vs_stats")],
    |settings| Box::new(Ipvs::new(&settings.roots)),
);

const TOTALS: [&str; 5] = [
    "node_ipvs_connections_total",
    "node_ipvs_incoming_packets_total",
    "node_ipvs_outgoing_packets_total",
    "node_ipvs_incoming_bytes_total",
    "node_ipvs_outgoing_bytes_total",
];
const EXPECTED_SERVICE: &str = "a protocol and an address with port";

/// `node_ipvs_*`.
pub(crate) struct Ipvs {
    stats: Source,
    services: Source,
    backends: Vec<Backend>,
}

/// One real server of one virtual one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Backend {
    local: Local,
    remote_address: String,
    remote_port: String,
    active: u64,
    inactive: u64,
    weight: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Local {
    proto: String,
    address: String,
    port: String,
    mark: String,
}

impl Ipvs {
    pub(crate) fn new(roots: &Roots) -> Self {
        let source = |file| Source::new(roots.proc.join("net").join(file));
        Self { stats: source("ip_vs_stats"), services: source("ip_vs"), backends: Vec::new() }
    }
}

impl Sensor for Ipvs {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let parsed = parse_totals(self.stats.read()?);
        for (metric, total) in TOTALS.iter().zip(parsed.map_err(|error| self.stats.malformed(error))?) {
            sink.put(metric, &[], total as f64);
        }
        self.backends.clear();
        let parsed = parse_services(self.services.read()?, &mut self.backends);
        parsed.map_err(|error| self.services.malformed(error))?;
        for backend in &self.backends {
            let labels = [
                ("local_address", backend.local.address.as_str()),
                ("local_mark", &backend.local.mark),
                ("local_port", &backend.local.port),
                ("proto", &backend.local.proto),
                ("remote_address", &backend.remote_address),
                ("remote_port", &backend.remote_port),
            ];
            sink.put("node_ipvs_backend_connections_active", &labels, backend.active as f64);
            sink.put("node_ipvs_backend_connections_inactive", &labels, backend.inactive as f64);
            sink.put("node_ipvs_backend_weight", &labels, backend.weight as f64);
        }
        Ok(())
    }
}

/// The third line has them, in hexadecimal.
fn parse_totals(bytes: &[u8]) -> Result<[u64; TOTALS.len()], Malformed> {
    const EXPECTED: Malformed = Malformed { line: 3, expected: "five hexadecimal numbers" };
    let (_, line) = text::lines(bytes).nth(2).ok_or(EXPECTED)?;
    let mut numbers = text::fields(line).map(text::hex);
    let mut next = || numbers.next().flatten().ok_or(EXPECTED);
    Ok([next()?, next()?, next()?, next()?, next()?])
}

/// A line for each virtual server, and below it a line that begins with `->` for each real one.
fn parse_services(bytes: &[u8], backends: &mut Vec<Backend>) -> Result<(), Malformed> {
    let mut local = Local::default();
    for (line, content) in text::lines(bytes) {
        let malformed = |expected| Malformed { line, expected };
        let mut fields = text::fields(content);
        match fields.next() {
            Some(proto @ (b"TCP" | b"UDP" | b"SCTP")) => {
                let address = fields.next().and_then(address_and_port).ok_or(malformed(EXPECTED_SERVICE))?;
                local = Local {
                    proto: text::label(proto).into_owned(),
                    address: address.0,
                    port: address.1,
                    mark: String::new(),
                };
            }
            Some(proto @ b"FWM") => {
                let mark = fields.next().ok_or(malformed("a firewall mark"))?;
                local = Local {
                    proto: text::label(proto).into_owned(),
                    address: String::new(),
                    port: "0".to_owned(),
                    mark: text::label(mark).into_owned(),
                };
            }
            Some(b"->") => {
                // The header has such a line, too.
                let Some((remote_address, remote_port)) = fields.next().and_then(address_and_port) else { continue };
                let mut numbers = fields.skip(1).map(text::number);
                let mut next = || numbers.next().flatten().ok_or(malformed("weight and numbers of connections"));
                let (weight, active, inactive) = (next()?, next()?, next()?);
                let is_same = |known: &&mut Backend| {
                    known.local == local && known.remote_address == remote_address && known.remote_port == remote_port
                };
                if let Some(known) = backends.iter_mut().find(is_same) {
                    known.active += active;
                    known.inactive += inactive;
                    known.weight += weight;
                } else {
                    let local = local.clone();
                    backends.push(Backend { local, remote_address, remote_port, active, inactive, weight });
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// `C0A80016:0CEA` or `[2620:0000:...:0001]:0050`.
fn address_and_port(field: &[u8]) -> Option<(String, String)> {
    let colon = field.iter().rposition(|&byte| byte == b':')?;
    let (address, port) = field.split_at(colon);
    let port = u16::try_from(text::hex(port.get(1..)?)?).ok()?;
    let address: IpAddr = if let Some(address) = address.strip_prefix(b"[") {
        std::str::from_utf8(address.strip_suffix(b"]")?).ok()?.parse().ok()?
    } else {
        let address = u32::try_from(text::hex(address).filter(|_| address.len() == 8)?).ok()?;
        Ipv4Addr::from_bits(address).into()
    };
    Some((address.to_string(), port.to_string()))
}
