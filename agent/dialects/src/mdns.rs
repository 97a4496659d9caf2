//! Multicast DNS (RFC 6762, 6763): a question for services, and who offers them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const PTR: u16 = 12;
const TXT: u16 = 16;
const SRV: u16 = 33;
const A: u16 = 1;
const AAAA: u16 = 28;
/// A name has at most 255 bytes (RFC 1035).
const MAX_NAME: usize = 255;
/// A pointer may point to a pointer, but not for ever.
const MAX_JUMPS: usize = 16;
const MAX_RECORDS: u32 = 500;

/// A service that somebody offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its instance, for example `TASKalfa 4054ci._uscan._tcp.local`.
    pub name: String,
    /// Its host, for example `scan-1.local`.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What it says of itself, for example `rs` and `ty`.
    pub text: BTreeMap<String, String>,
    /// Addresses of its host.
    pub addresses: Vec<IpAddr>,
}

/// A question for the services `types`, for example `_uscan._tcp.local`; answers come to whoever asked.
pub fn question(types: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 0, types.len() as u8, 0, 0, 0, 0, 0, 0];
    for name in types {
        for label in name.split('.').filter(|label| !label.is_empty()) {
            let label = label.as_bytes().get(..label.len().min(63)).unwrap_or_default();
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label);
        }
        bytes.push(0);
        // Class IN, and to us alone where a responder can do that.
        bytes.extend([0, PTR as u8, 0x80, 1]);
    }
    bytes
}

/// Services of the types `types` that the message offers; none where it is no answer.
pub fn services(message: &[u8], types: &[&str]) -> Vec<Service> {
    records(message, types).unwrap_or_default()
}

fn short(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]))
}

/// The name at `at`, and where it ends.
fn name(message: &[u8], at: usize) -> Option<(String, usize)> {
    let (mut at, mut end, mut jumps) = (at, None, 0);
    let mut name = String::new();
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&String::from_utf8_lossy(label));
                if name.len() > MAX_NAME * 3 {
                    return None;
                }
                at += 1 + usize::from(length);
            }
            0xc0.. => {
                jumps += 1;
                if jumps > MAX_JUMPS {
                    return None;
                }
                end = end.or(Some(at + 2));
                at = usize::from(short(message, at)? & 0x3fff);
            }
            _ => return None,
        }
    }
}

fn is_same(a: &str, b: &str) -> bool {
    a.trim_end_matches('.').eq_ignore_ascii_case(b.trim_end_matches('.'))
}

fn records(message: &[u8], types: &[&str]) -> Option<Vec<Service>> {
    let is_answer = *message.get(2)? & 0x80 != 0;
    if !is_answer {
        return None;
    }
    let mut at = 12;
    for _ in 0..short(message, 4)? {
        at = name(message, at)?.1 + 4;
    }
    let counts = [6, 8, 10].map(|at| short(message, at).map(u32::from));
    let count = counts.into_iter().sum::<Option<u32>>()?.min(MAX_RECORDS);
    let mut services: BTreeMap<String, Service> = BTreeMap::new();
    let mut addresses: Vec<(String, IpAddr)> = Vec::new();
    for _ in 0..count {
        // What came before a damaged record counts.
        let Some((owner, data_at)) = name(message, at) else { break };
        let (Some(kind), Some(length)) = (short(message, data_at), short(message, data_at + 8)) else { break };
        let start = data_at + 10;
        let Some(data) = message.get(start..start + usize::from(length)) else { break };
        at = start + data.len();
        let is_wanted = |instance: &str| types.iter().any(|kind| is_suffix(instance, kind));
        match kind {
            PTR if types.iter().any(|kind| is_same(&owner, kind)) => {
                let instance = name(message, start).map(|(instance, _)| instance);
                if let Some(instance) = instance.filter(|instance| is_wanted(instance)) {
                    let service = services.entry(instance.clone()).or_default();
                    service.name = instance;
                }
            }
            SRV if is_wanted(&owner) => {
                let (Some(port), Some((host, _))) = (short(message, start + 4), name(message, start + 6)) else {
                    continue;
                };
                let service = services.entry(owner.clone()).or_default();
                (service.name, service.host, service.port) = (owner, host, port);
            }
            TXT if is_wanted(&owner) => {
                let service = services.entry(owner.clone()).or_default();
                service.name = owner;
                service.text = text(data);
            }
            A => {
                let address: Option<[u8; 4]> = data.try_into().ok();
                addresses.extend(address.map(|address| (owner, IpAddr::from(Ipv4Addr::from(address)))));
            }
            AAAA => {
                let address: Option<[u8; 16]> = data.try_into().ok();
                addresses.extend(address.map(|address| (owner, IpAddr::from(Ipv6Addr::from(address)))));
            }
            _ => {}
        }
    }
    let with_addresses = services.into_values().map(|mut service| {
        let of_host = addresses.iter().filter(|(host, _)| is_same(host, &service.host)).map(|(_, address)| *address);
        service.addresses = of_host.collect();
        service
    });
    Some(with_addresses.collect())
}

fn is_suffix(instance: &str, kind: &str) -> bool {
    let at = instance.len().checked_sub(kind.len());
    at.and_then(|at| Some((instance.get(..at)?, instance.get(at..)?)))
        .is_some_and(|(before, end)| before.ends_with('.') && end.eq_ignore_ascii_case(kind))
}

fn text(mut data: &[u8]) -> BTreeMap<String, String> {
    let mut text = BTreeMap::new();
    while let Some((length, rest)) = data.split_first() {
        let Some((pair, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        let pair = String::from_utf8_lossy(pair);
        if let Some((key, value)) = pair.split_once('=') {
            // The first one counts (RFC 6763, 6.4).
            text.entry(key.to_ascii_lowercase()).or_insert_with(|| value.to_owned());
        }
        data = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPES: [&str; 2] = ["_uscan._tcp.local", "_uscans._tcp.local"];

    /// An answer as a scanner gives it, with the compression that it uses.
    fn answer() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 3];
        bytes.extend(b"\x06_uscan\x04_tcp\x05local\0");
        let instance = b"\x0dTASKalfa 4054\xc0\x0c";
        let record = |bytes: &mut Vec<u8>, kind: u16, data: &[u8]| {
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0x80, 1, 0, 0, 0, 120]);
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(data);
        };
        record(&mut bytes, PTR, instance);
        let at = bytes.len() - instance.len();
        let pointer = [0xc0, at as u8];
        bytes.extend(pointer);
        record(&mut bytes, SRV, b"\0\0\0\0\x1f\x90\x06scan-1\xc0\x18");
        let host = bytes.len() - 9;
        bytes.extend(pointer);
        record(&mut bytes, TXT, b"\x09txtvers=1\x07rs=eSCL\x0fty=TASKalfa 405\x05adf=1");
        bytes.extend([0xc0, host as u8]);
        record(&mut bytes, A, &[10, 0, 0, 5]);
        bytes
    }

    #[test]
    fn an_answer_tells_host_port_path_and_address() {
        let found = services(&answer(), &TYPES);
        let [service] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(service.name, "TASKalfa 4054._uscan._tcp.local");
        assert_eq!((service.host.as_str(), service.port), ("scan-1.local", 8080));
        assert_eq!(service.text.get("rs").map(String::as_str), Some("eSCL"));
        assert_eq!(service.addresses, [IpAddr::from([10, 0, 0, 5])]);
        assert_eq!(services(&answer(), &TYPES[1..]), []);
    }

    #[test]
    fn a_question_is_none_of_the_answers_and_loops_end() {
        let question = question(&TYPES);
        assert_eq!((question[5], services(&question, &TYPES)), (2, vec![]));
        let mut looping = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        looping.extend([0xc0, 12, 0, 12, 0, 1]);
        assert_eq!(services(&looping, &TYPES), []);
    }

    proptest! {
        #[test]
        fn damaged_answers_are_read_as_far_as_they_go(at in any::<prop::sample::Index>(), byte: u8, end in any::<prop::sample::Index>()) {
            let mut bytes = answer();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(end.index(bytes.len() + 1));
            drop(services(&bytes, &TYPES));
        }
    }
}
