//! Realistic load: hosts whose series behave like `node_exporter`'s, told to a collector by simulated agents over the
//! real protocol, and to Prometheus by remote write.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use veghe_wire::ack::{self, Ack};
use veghe_wire::batch::{Batch, Cycle, Dictionary, Layout, SeriesDefinition, append_frame};
use veghe_wire::{AgentId, MAX_PACKET_BYTES, MINOR, Topic};

use crate::fleet::FleetHost;

/// Series that one host has.
pub const SERIES_PER_HOST: usize = 500;

/// One host's series and how they move: of 20, 13 stand still, 5 count and 2 are gauges. Synthetic: how much chance is in the
/// increments decides the bytes a sample of every store, so those say nothing of recorded data.
pub struct Host {
    /// Its name.
    pub name: String,
    values: Vec<f64>,
    random: u64,
}

impl Host {
    /// A host that behaves the same for the same number.
    pub fn new(number: usize) -> Self {
        let random = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut host = Self { name: format!("host-{number:04}"), values: Vec::new(), random };
        host.values = (0..SERIES_PER_HOST).map(|_| host.below(1 << 40) as f64).collect();
        host
    }

    /// The labels of series `i`, without `instance`.
    pub fn labels(i: usize) -> [(&'static str, String); 3] {
        [
            ("__name__", format!("load_metric_{:03}", i / 5)),
            ("device", format!("device{}", i % 5)),
            ("job", "node".into()),
        ]
    }

    /// The next row of values.
    pub fn step(&mut self) -> &[f64] {
        for i in 0..self.values.len() {
            let step = match i % 20 {
                0..13 => 0.0,
                13 | 14 => self.below(5) as f64,
                15 | 16 => 1_500.0 + self.below(1_000) as f64,
                17 => self.below(1_000_000) as f64,
                18 => (self.below(2_001) as f64 - 1_000.0) * 4096.0,
                _ => (self.below(201) as f64 - 100.0) / 100.0,
            };
            self.values[i] += step;
        }
        &self.values
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// The names of the metrics that every host has.
pub fn metric_names() -> impl Iterator<Item = String> {
    (0..SERIES_PER_HOST).step_by(5).map(|i| format!("load_metric_{:03}", i / 5))
}

/// What a simulated agent needs to speak for its host.
pub struct Identity {
    /// Who it is.
    pub agent: AgentId,
    /// The broker's port on loopback.
    pub port: u16,
    /// TLS with the agent's certificate.
    pub tls: Arc<rustls::ClientConfig>,
}

/// Sends `rows` rows of `host`, `step_ms` apart from `start_ms`, with at most `in_flight` batches unacknowledged, until
/// every one of them is acknowledged.
///
/// # Errors
/// Where the broker or the collector refuses.
pub async fn send(
    identity: Identity,
    mut host: impl Rows,
    rows: u64,
    start_ms: i64,
    step_ms: i64,
    in_flight: u64,
) -> anyhow::Result<()> {
    let Identity { agent, port, tls } = identity;
    let mut options = MqttOptions::new(agent.as_str(), "127.0.0.1", port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    options.set_keep_alive(Duration::from_secs(30)).set_max_packet_size(Some(MAX_PACKET_BYTES as u32));
    let (client, mut events) = AsyncClient::new(options, 64);
    client.subscribe(Topic::Ack.of(&agent), QoS::AtLeastOnce).await?;
    let spool_id = host.seed();
    let mut dictionary = Some(host.dictionary());
    let topic = Topic::Batch.of(&agent);
    let (mut sent, mut accepted, mut subscribed) = (0, 0, false);
    while accepted < rows {
        while subscribed && sent < rows && sent - accepted < in_flight {
            sent += 1;
            let timestamp_ms = start_ms + (sent as i64 - 1) * step_ms;
            let payload = batch(spool_id, sent, timestamp_ms, dictionary.take(), host.step())?;
            client.publish(&topic, QoS::AtLeastOnce, false, payload).await?;
            if sent.is_multiple_of(16) {
                break;
            }
        }
        match events.poll().await.context("the broker closed the connection")? {
            Event::Incoming(Packet::SubAck(_)) => subscribed = true,
            Event::Incoming(Packet::Publish(publish)) => {
                let ack: Ack = ack::decode(&publish.payload)?;
                ensure!(ack.refused.is_empty(), "refused: {:?}", ack.refused);
                if let Some(hold) = ack.held.first() {
                    bail!("held: {}", hold.reason);
                }
                accepted += ack.accepted.len() as u64;
            }
            _ => {}
        }
    }
    client.disconnect().await?;
    Ok(())
}

fn batch(
    spool_id: u64,
    sequence: u64,
    timestamp_ms: i64,
    dictionary: Option<Dictionary>,
    values: &[f64],
) -> anyhow::Result<Vec<u8>> {
    let mut payload = Vec::new();
    if dictionary.is_some() {
        append_frame(&mut payload, &Batch { dictionary, ..Batch::default() })?;
    }
    let cycles = vec![Cycle { timestamp_ms, layout: 0, values: values.to_vec() }];
    append_frame(
        &mut payload,
        &Batch { minor: MINOR, spool_id, sequence, oldest_sequence: 1, dictionary: None, cycles },
    )?;
    Ok(payload)
}

/// What a simulated agent tells of: always the same series, row after row.
pub trait Rows {
    /// A number that tells this sender from others.
    fn seed(&self) -> u64;
    /// The definition of its series.
    fn dictionary(&self) -> Dictionary;
    /// The next row of values, in the order of the definition.
    fn step(&mut self) -> &[f64];
}

impl Rows for Host {
    fn seed(&self) -> u64 {
        self.random
    }

    fn dictionary(&self) -> Dictionary {
        dictionary_of((0..SERIES_PER_HOST).map(|i| Host::labels(i).map(|(name, value)| (name.to_owned(), value))))
    }

    fn step(&mut self) -> &[f64] {
        Host::step(self)
    }
}

impl Rows for FleetHost {
    fn seed(&self) -> u64 {
        FleetHost::seed(self)
    }

    fn dictionary(&self) -> Dictionary {
        dictionary_of(self.labels().map(<[_]>::to_vec))
    }

    fn step(&mut self) -> &[f64] {
        FleetHost::step(self)
    }
}

fn dictionary_of(series: impl Iterator<Item = impl IntoIterator<Item = (String, String)>>) -> Dictionary {
    let mut dictionary = Dictionary::default();
    let mut known: HashMap<String, u32> = HashMap::new();
    for one in series {
        let mut labels = Vec::new();
        for (name, value) in one {
            for text in [name, value] {
                labels.push(*known.entry(text.clone()).or_insert_with(|| {
                    dictionary.strings.push(text);
                    dictionary.strings.len() as u32 - 1
                }));
            }
        }
        dictionary.series.push(SeriesDefinition { labels });
    }
    dictionary.layouts.push(Layout { series: (0..dictionary.series.len() as u32).collect() });
    dictionary
}

/// One remote-write 1.0 request (snappy-compressed protobuf) with one row of `host`.
///
/// # Errors
/// Where the row can't be compressed.
pub fn remote_write(host: &mut Host, timestamp_ms: i64) -> anyhow::Result<Vec<u8>> {
    let instance = host.name.clone();
    let series: Vec<RemoteSeries> = host
        .step()
        .iter()
        .enumerate()
        .map(|(i, &value)| {
            let [name, device, job] = Host::labels(i);
            let labels = [name, device, ("instance", instance.clone()), job];
            let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            RemoteSeries { labels, timestamp_ms, value }
        })
        .collect();
    write_request(&series)
}

/// One sample of a series as remote write tells it.
pub struct RemoteSeries {
    /// Names and values, ascending by name.
    pub labels: Vec<(String, String)>,
    /// When.
    pub timestamp_ms: i64,
    /// What.
    pub value: f64,
}

/// One remote-write 1.0 request (snappy-compressed protobuf).
///
/// # Errors
/// Where it can't be compressed.
pub fn write_request(series: &[RemoteSeries]) -> anyhow::Result<Vec<u8>> {
    use prost::Message as _;
    let series = series.iter().map(|series| remote::TimeSeries {
        labels: series.labels.iter().cloned().map(|(name, value)| remote::Label { name, value }).collect(),
        samples: vec![remote::Sample { value: series.value, timestamp: series.timestamp_ms }],
    });
    let request = remote::WriteRequest { timeseries: series.collect() };
    Ok(snap::raw::Encoder::new().compress_vec(&request.encode_to_vec())?)
}

/// Prometheus' remote-write 1.0 messages (`prompb/remote.proto`), as far as a sender needs them.
mod remote {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub(super) timeseries: Vec<TimeSeries>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub(super) labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub(super) samples: Vec<Sample>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Label {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) value: String,
    }
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Sample {
        #[prost(double, tag = "1")]
        pub(super) value: f64,
        #[prost(int64, tag = "2")]
        pub(super) timestamp: i64,
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Memory in use now.
    pub resident_bytes: u64,
    /// The most memory in use at any time.
    pub peak_resident_bytes: u64,
}

/// Reads `/proc/<pid>/stat` and `status`.
///
/// # Errors
/// Where there is no such process.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no command in stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name: &str| -> anyhow::Result<u64> {
        let line = status.lines().find(|l| l.starts_with(name)).with_context(|| format!("no {name}"))?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse::<u64>()? * 1024)
    };
    Ok(Usage {
        cpu_seconds: ticks / rustix::param::clock_ticks_per_second() as f64,
        resident_bytes: bytes("VmRSS:")?,
        peak_resident_bytes: bytes("VmHWM:")?,
    })
}

/// Bytes that the files below `dir` occupy by length.
///
/// # Errors
/// Where a directory can't be read.
pub fn disk_bytes(dir: &Path) -> anyhow::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            total += disk_bytes(&entry.path())?;
        } else if kind.is_file() {
            // A file may go while we look.
            total += entry.metadata().map_or(0, |m| m.len());
        }
    }
    Ok(total)
}
