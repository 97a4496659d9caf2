//! Scanners of the local network, found by mDNS now and then.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use url::Url;
use veghe_dialects::mdns::{self, Service};

use super::settings::{TIMEOUT, Target};
use crate::clock;
use crate::sensors::asked::Asked;

/// Scanners by TLS come first, as those that offer both are asked that way.
const TYPES: [&str; 2] = ["_uscans._tcp.local", "_uscan._tcp.local"];
const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)), 5353);
const INTERVAL: Duration = Duration::from_mins(5);
/// Answers come within this time (RFC 6762, 6).
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_SERVICES: usize = 100;

/// Looks for scanners on a thread of its own.
#[derive(Default)]
pub(super) struct Discovery {
    asked: Option<Asked<Vec<Target>>>,
    began: Option<Instant>,
}

impl Discovery {
    /// What was found since the last call; looks again if it is time.
    pub(super) fn found(&mut self) -> Vec<Target> {
        if self.asked.is_none() {
            self.asked = Asked::start("escl-mdns", 128 << 10, neighbours).ok();
        }
        let Some(asked) = &mut self.asked else { return Vec::new() };
        let found = asked.answer(Duration::ZERO).unwrap_or_default();
        if self.began.is_none_or(|began| began.elapsed() >= INTERVAL) {
            asked.ask();
            self.began = Some(clock::instant());
        }
        found
    }
}

/// Scanners that answer now.
pub(super) fn neighbours() -> Vec<Target> {
    // A machine without a network has no neighbours.
    targets(&browse(GROUP, PATIENCE).unwrap_or_default())
}

/// Asks `to` for scanners and takes answers for a while.
fn browse(to: SocketAddr, patience: Duration) -> io::Result<Vec<Service>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_multicast_ttl_v4(255)?;
    socket.send_to(&mdns::question(&TYPES), to)?;
    let until = clock::instant() + patience;
    let mut services = Vec::new();
    let mut packet = vec![0; 9000];
    loop {
        let left = until.saturating_duration_since(clock::instant());
        if left.is_zero() || services.len() >= MAX_SERVICES {
            return Ok(services);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut packet) {
            Ok(length) => services.extend(mdns::services(packet.get(..length).unwrap_or_default(), &TYPES)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// One for each scanner, by TLS where it offers that.
fn targets(services: &[Service]) -> Vec<Target> {
    let mut hosts = Vec::new();
    let mut targets = Vec::new();
    for (kind, scheme) in TYPES.iter().zip(["https", "http"]) {
        for service in services.iter().filter(|service| service.name.ends_with(kind) && service.port > 0) {
            let host = service.host.trim_end_matches('.');
            if host.is_empty() || hosts.contains(&host) {
                continue;
            }
            // Few machines can resolve names of mDNS; the address is what answered.
            let address = service.addresses.iter().find(|address| address.is_ipv4());
            let address = address.map_or_else(|| host.to_owned(), ToString::to_string);
            let path = service.text.get("rs").map_or("eSCL", |path| path.trim_matches('/'));
            let Ok(url) = Url::parse(&format!("{scheme}://{address}:{}/{path}", service.port)) else { continue };
            hosts.push(host);
            let labels = vec![("host".to_owned(), host.to_owned())];
            targets.push(Target { url, ca_file: None, timeout: TIMEOUT, labels });
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// An answer about one scanner that offers both kinds.
    fn answer() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0x84, 0, 0, 0, 0, 3, 0, 0, 0, 0];
        for (kind, port) in [("_uscan", 8080_u16), ("_uscans", 8443)] {
            bytes.extend(b"\x04scan");
            bytes.push(kind.len() as u8);
            bytes.extend(kind.as_bytes());
            bytes.extend(b"\x04_tcp\x05local\0\0\x21\x80\x01\0\0\0\x78\0\x12\0\0\0\0");
            bytes.extend(port.to_be_bytes());
            bytes.extend(b"\x04host\x05local\0");
        }
        bytes.extend(b"\x04host\x05local\0\0\x01\x80\x01\0\0\0\x78\0\x04\x0a\0\0\x07");
        bytes
    }

    #[test]
    fn a_scanner_that_answers_is_asked_by_tls() {
        let responder = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = responder.local_addr().expect("an address");
        let thread = thread::spawn(move || {
            let mut packet = [0; 1500];
            let (length, from) = responder.recv_from(&mut packet).expect("a question");
            assert_eq!(packet[..length], mdns::question(&TYPES));
            responder.send_to(b"noise", from).expect("send");
            responder.send_to(&answer(), from).expect("send");
        });
        let services = browse(address, Duration::from_secs(4)).expect("services");
        thread.join().expect("the responder");
        let urls: Vec<String> = targets(&services).into_iter().map(|target| target.url.to_string()).collect();
        assert_eq!(urls, ["https://10.0.0.7:8443/eSCL"]);
    }
}
