//! Sockets that others can reach: which program listens on which port, and for whom.
//!
//! Looked at once a minute by a thread of its own, as finding the programs takes every open file of every process. The
//! number of series is bounded. Ports that the kernel hands out are told as one.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::thread::CapabilitySet;

use super::slowly::Slowly;
use super::text;
use super::{Entry, Sensor, SensorError, Sink, capabilities};

pub(crate) const ENTRY: Entry = Entry::new(
    "ports",
    |settings| vec![settings.roots.proc.join("net/tcp")],
    |settings| Box::new(Ports::new(&settings.roots.proc, settings.patience)),
)
.needing(|_| {
    let needed = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
    capabilities::missing(needed).map(|names| format!("names of others' programs: {names}"))
})
.on_request();

const EVERY: Duration = Duration::from_mins(1);
const MAX_SERIES: usize = 256;
/// The first port that Linux hands out by default.
const FIRST_DYNAMIC: u64 = 32_768;
const LISTEN: u64 = 0x0a;
/// A UDP socket that is not connected.
const UNCONNECTED: u64 = 0x07;

/// `veghe_listening_sockets`.
pub(crate) struct Ports(Slowly<Vec<(Listening, u64)>>);

/// What sockets have in common that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Listening {
    port: String,
    process: String,
    protocol: &'static str,
    scope: &'static str,
}

impl Ports {
    pub(crate) fn new(proc: &Path, patience: Duration) -> Self {
        let proc = proc.to_owned();
        Self(Slowly::new("ports", EVERY, patience, move || look(&proc)))
    }
}

impl Sensor for Ports {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        for (Listening { port, process, protocol, scope }, count) in self.0.latest().into_iter().flatten() {
            let labels = [("port", port.as_str()), ("process", process), ("protocol", protocol), ("scope", scope)];
            sink.put("veghe_listening_sockets", &labels, *count as f64);
        }
        Ok(())
    }
}

fn look(proc: &Path) -> Vec<(Listening, u64)> {
    let mut sockets = Vec::new();
    for (file, protocol, state) in
        [("tcp", "tcp", LISTEN), ("tcp6", "tcp", LISTEN), ("udp", "udp", UNCONNECTED), ("udp6", "udp", UNCONNECTED)]
    {
        let bytes = fs::read(proc.join("net").join(file)).unwrap_or_default();
        let lines = text::lines(&bytes).skip(1);
        sockets.extend(lines.filter_map(|(_, line)| socket(line, state)).map(|found| (protocol, found)));
    }
    let mut owners: HashMap<u64, Option<String>> = sockets.iter().map(|(_, (.., inode))| (*inode, None)).collect();
    find_owners(proc, &mut owners);
    let mut counts: BTreeMap<Listening, u64> = BTreeMap::new();
    for (protocol, (scope, port, inode)) in sockets {
        let process = owners.get(&inode).cloned().flatten().unwrap_or_else(|| "unknown".to_owned());
        let port = if port >= FIRST_DYNAMIC { "dynamic".to_owned() } else { port.to_string() };
        let mut listening = Listening { port, process, protocol, scope };
        if counts.len() >= MAX_SERIES && !counts.contains_key(&listening) {
            listening = Listening { port: "other".to_owned(), process: "other".to_owned(), ..listening };
        }
        *counts.entry(listening).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// Scope, port and inode of a socket in `state`, from its line.
fn socket(line: &[u8], state: u64) -> Option<(&'static str, u64, u64)> {
    let mut fields = text::fields(line);
    let local = fields.nth(1)?;
    let colon = local.iter().position(|&byte| byte == b':')?;
    let (address, port) = local.split_at(colon);
    if text::hex(fields.nth(1)?)? != state {
        return None;
    }
    let inode = text::number(fields.nth(5)?)?;
    // In the order of this machine's bytes: 127.0.0.0/8, ::1, and 127.0.0.0/8 as IPv6 has it.
    let is_loopback = match address.len() {
        8 => address.ends_with(b"7F"),
        _ => {
            address == b"00000000000000000000000001000000"
                || address.starts_with(b"0000000000000000FFFF0000") && address.ends_with(b"7F")
        }
    };
    let scope = if is_loopback { "loopback" } else { "network" };
    Some((scope, text::hex(port.get(1..)?)?, inode))
}

/// Names of the processes that have the sockets open, as far as they may be looked at.
fn find_owners(proc: &Path, owners: &mut HashMap<u64, Option<String>>) {
    let Ok(processes) = fs::read_dir(proc) else { return };
    let is_number =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    for process in processes.flatten().map(|entry| entry.path()).filter(is_number) {
        let Ok(files) = fs::read_dir(process.join("fd")) else { continue };
        for file in files.flatten() {
            let Ok(link) = fs::read_link(file.path()) else { continue };
            let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(owner) = inode.and_then(|inode: u64| owners.get_mut(&inode))
                && owner.is_none()
            {
                let name = fs::read(process.join("comm")).unwrap_or_default();
                *owner = Some(text::label(name.trim_ascii()).into_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn sockets_of_this_process_are_told_with_its_name() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("socket");
        let _udp = UdpSocket::bind("0.0.0.0:0").expect("socket");
        assert!(u64::from(tcp.local_addr().expect("address").port()) >= FIRST_DYNAMIC);
        let own = fs::read_to_string("/proc/self/comm").expect("comm").trim().to_owned();
        let found = look(Path::new("/proc"));
        let count = |protocol, scope| {
            let is_it = |listening: &Listening| {
                (listening.protocol, listening.scope, listening.port.as_str()) == (protocol, scope, "dynamic")
            };
            found
                .iter()
                .filter(|(listening, _)| is_it(listening))
                .map(|(listening, _)| listening.process.clone())
                .collect::<Vec<_>>()
        };
        // The main thread's name is that of the test program, cut to 15 bytes.
        assert!(count("tcp", "loopback").contains(&own), "{own}: {found:?}");
        assert!(count("udp", "network").contains(&own), "{own}: {found:?}");
    }

    #[test]
    fn a_line_tells_port_scope_and_inode() {
        let line =
            b"  0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 x";
        assert_eq!(socket(line, LISTEN), Some(("network", 22, 1234)));
        assert_eq!(socket(line, UNCONNECTED), None);
        let local =
            b"  1: 00000000000000000000000001000000:0277 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1";
        assert_eq!(socket(local, LISTEN), Some(("loopback", 631, 77)));
        assert_eq!(socket(b"junk", LISTEN), None);
    }
}
