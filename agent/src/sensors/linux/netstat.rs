//! `/proc/net/{netstat,snmp,snmp6}`: what the network protocols count.

use super::source::Source;
use super::text::{self, Composed, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "netstat",
    |settings| vec![settings.roots.proc.join("net/netstat"), settings.roots.proc.join("net/snmp")],
    |settings| Box::new(Netstat::new(&settings.roots)),
);

/// `node_netstat_<protocol>_<field>` for the fields that `node_exporter` takes by default.
pub(crate) struct Netstat {
    /// Each protocol has a line of names and a line of numbers.
    tables: [Source; 2],
    /// Each field has a line.
    snmp6: Source,
    name: Composed,
}

impl Netstat {
    pub(crate) fn new(roots: &Roots) -> Self {
        let source = |file| Source::new(roots.proc.join("net").join(file));
        Self { tables: ["netstat", "snmp"].map(source), snmp6: source("snmp6"), name: Composed::default() }
    }
}

impl Sensor for Netstat {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let name = &mut self.name;
        let mut put = |protocol: &[u8], field: &[u8], value: f64| {
            sink.put(name.pair("node_netstat_", protocol, field), &[], value);
        };
        for table in &mut self.tables {
            let parsed = parse_table(table.read()?, &mut put);
            parsed.map_err(|error| table.malformed(error))?;
        }
        // Without IPv6 there is none.
        if let Some(bytes) = self.snmp6.read_if_present()? {
            let parsed = parse_snmp6(bytes, &mut put);
            parsed.map_err(|error| self.snmp6.malformed(error))?;
        }
        Ok(())
    }
}

type Put<'a> = dyn FnMut(&[u8], &[u8], f64) + 'a;

fn parse_table(bytes: &[u8], each: &mut Put<'_>) -> Result<(), Malformed> {
    let mut lines = text::lines(bytes);
    while let Some((_, names)) = lines.next() {
        let (line, numbers) = lines.next().unwrap_or_default();
        let malformed = |expected| Malformed { line, expected };
        let (mut names, mut numbers) = (text::fields(names), text::fields(numbers));
        let protocol = names.next().unwrap_or_default();
        if numbers.next() != Some(protocol) {
            return Err(malformed("the numbers of the protocol before"));
        }
        let protocol = protocol.strip_suffix(b":").ok_or(malformed("a protocol and a colon"))?;
        for field in names {
            let number = numbers.next().ok_or(malformed("as many numbers as names"))?;
            if is_taken(protocol, field) {
                each(protocol, field, text::decimal(number).ok_or(malformed("a number"))?);
            }
        }
    }
    Ok(())
}

fn parse_snmp6(bytes: &[u8], each: &mut Put<'_>) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        let mut fields = text::fields(content);
        let (Some(name), Some(number)) = (fields.next(), fields.next()) else { continue };
        // `Ip6InReceives`: the protocol ends with the 6.
        let Some(six) = name.iter().position(|&byte| byte == b'6') else { continue };
        let (protocol, field) = name.split_at(six + 1);
        if is_taken(protocol, field) {
            each(protocol, field, text::decimal(number).ok_or(Malformed { line, expected: "a number" })?);
        }
    }
    Ok(())
}

/// `^(.*_(InErrors|InErrs)|Ip_Forwarding|Ip(6|Ext)_(InOctets|OutOctets)|Icmp6?_(InMsgs|OutMsgs)|TcpExt_(Listen.*|...))$`
fn is_taken(protocol: &[u8], field: &[u8]) -> bool {
    match (protocol, field) {
        (_, b"InErrors" | b"InErrs")
        | (b"Ip", b"Forwarding")
        | (b"Ip6" | b"IpExt", b"InOctets" | b"OutOctets")
        | (b"Icmp" | b"Icmp6", b"InMsgs" | b"OutMsgs")
        | (b"TcpExt", b"TCPSynRetrans" | b"TCPTimeouts")
        | (
            b"Tcp",
            b"ActiveOpens" | b"InSegs" | b"OutSegs" | b"OutRsts" | b"PassiveOpens" | b"RetransSegs" | b"CurrEstab",
        )
        | (b"Udp" | b"Udp6", b"InDatagrams" | b"OutDatagrams" | b"NoPorts" | b"RcvbufErrors" | b"SndbufErrors") => true,
        (b"TcpExt", field) => field.starts_with(b"Listen") || field.starts_with(b"Syncookies"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_the_line() {
        let parse = |bytes: &[u8]| parse_table(bytes, &mut |_, _, _| {});
        let error = parse(b"Tcp: InSegs InErrs\nTcp: 1\n").expect_err("malformed");
        assert_eq!(error, Malformed { line: 2, expected: "as many numbers as names" });
        let error = parse(b"Tcp: InSegs\nUdp: 1\n").expect_err("malformed");
        assert_eq!(error, Malformed { line: 2, expected: "the numbers of the protocol before" });
        assert!(parse(b"Tcp: InSegs\n").is_err());
    }
}
