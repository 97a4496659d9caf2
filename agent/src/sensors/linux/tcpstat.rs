//! `/proc/net/tcp{,6}`: how many TCP connections are in which state. Costs a line for each connection.

use super::source::Source;
use super::udp_queues::sockets;
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "tcpstat",
    |settings| vec![settings.roots.proc.join("net/tcp")],
    |settings| Box::new(Tcpstat::new(&settings.roots)),
)
.on_request();

/// In the order of the kernel's numbers, from 1.
const STATES: [&str; 11] = [
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
];

/// `node_tcp_connection_states`, for the states that a connection is in.
pub(crate) struct Tcpstat {
    sources: [Source; 2],
}

impl Tcpstat {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { sources: ["tcp", "tcp6"].map(|file| Source::new(roots.proc.join("net").join(file))) }
    }
}

impl Sensor for Tcpstat {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let mut counts = [0u64; STATES.len()];
        let (mut received_bytes, mut sending_bytes, mut total) = (0, 0, 0u64);
        for source in &mut self.sources {
            let Some(bytes) = source.read_if_present()? else { continue };
            let parsed = sockets(bytes, |socket| {
                received_bytes += socket.received_bytes;
                sending_bytes += socket.sending_bytes;
                total += 1;
                let index = usize::try_from(socket.state).ok().and_then(|state| state.checked_sub(1));
                if let Some(count) = index.and_then(|index| counts.get_mut(index)) {
                    *count += 1;
                }
            });
            parsed.map_err(|error| source.malformed(error))?;
        }
        let states = STATES.iter().zip(counts).filter(|(_, count)| *count > 0);
        let queues = [("rx_queued_bytes", received_bytes), ("tx_queued_bytes", sending_bytes)];
        let queues = queues.iter().filter(|_| total > 0).map(|(state, bytes)| (state, *bytes));
        for (state, count) in states.chain(queues) {
            sink.put("node_tcp_connection_states", &[("state", state)], count as f64);
        }
        Ok(())
    }
}
