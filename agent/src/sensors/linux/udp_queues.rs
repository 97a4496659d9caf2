//! `/proc/net/udp{,6}`: bytes of datagrams that wait to be sent or read.

use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "udp_queues",
    |settings| vec![settings.roots.proc.join("net/udp")],
    |settings| Box::new(UdpQueues::new(&settings.roots)),
);

/// `node_udp_queues`.
pub(crate) struct UdpQueues {
    sources: [(&'static str, Source); 2],
}

impl UdpQueues {
    pub(crate) fn new(roots: &Roots) -> Self {
        let source = |ip, file| (ip, Source::new(roots.proc.join("net").join(file)));
        Self { sources: [source("v4", "udp"), source("v6", "udp6")] }
    }
}

impl Sensor for UdpQueues {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        for (ip, source) in &mut self.sources {
            let Some(bytes) = source.read_if_present()? else { continue };
            let mut queues = (0, 0);
            let parsed = sockets(bytes, |socket| {
                queues.0 += socket.sending_bytes;
                queues.1 += socket.received_bytes;
            });
            parsed.map_err(|error| source.malformed(error))?;
            sink.put("node_udp_queues", &[("ip", ip), ("queue", "tx")], queues.0 as f64);
            sink.put("node_udp_queues", &[("ip", ip), ("queue", "rx")], queues.1 as f64);
        }
        Ok(())
    }
}

/// One line of `/proc/net/{tcp,udp}{,6}`.
pub(crate) struct Socket {
    pub(crate) state: u64,
    pub(crate) sending_bytes: u64,
    pub(crate) received_bytes: u64,
}

/// Calls `each` with every socket.
pub(crate) fn sockets(bytes: &[u8], mut each: impl FnMut(Socket)) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes).skip(1) {
        let mut fields = text::fields(content).skip(3);
        let mut next = || fields.next().ok_or(Malformed { line, expected: "state and queues of a socket" });
        let (state, queues) = (next()?, next()?);
        let colon = queues.iter().position(|&byte| byte == b':').unwrap_or_default();
        let (sending, received) = queues.split_at(colon);
        let number = |digits| text::hex(digits).ok_or(Malformed { line, expected: "hexadecimal numbers" });
        each(Socket {
            state: number(state)?,
            sending_bytes: number(sending)?,
            received_bytes: number(received.get(1..).unwrap_or_default())?,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_the_line() {
        let error = sockets(b"  sl\n  0: 00:00 00:00 07 00000000-00000000 00\n", |_| {}).err();
        assert_eq!(error, Some(Malformed { line: 2, expected: "hexadecimal numbers" }));
    }
}
