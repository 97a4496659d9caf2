//! Realistic load: hosts whose series behave as a recorded host's did, told to a collector by simulated agents over the
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
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use veghe_model::Labels;
use veghe_wire::ack::{self, Ack};
use veghe_wire::batch::{Batch, Cycle, Dictionary, Layout, SeriesDefinition, append_frame};
use veghe_wire::{AgentId, MAX_PACKET_BYTES, MINOR, Topic};

use crate::fleet::FleetHost;
use crate::recording::Recording;

/// A host that behaves as the recorded one did.
pub struct Host {
    /// Its name.
    pub name: String,
    number: usize,
    recording: Arc<Recording>,
    /// The row that comes next.
    next: usize,
}

impl Host {
    /// The host of this number.
    pub fn new(number: usize, recording: &Arc<Recording>) -> Self {
        Self { name: format!("host-{number:04}"), number, recording: Arc::clone(recording), next: 0 }
    }

    /// The labels that an agent gives to its series: without `instance`, which the collector knows.
    fn labels(&self) -> impl Iterator<Item = Labels> {
        self.recording.series.iter().map(|labels| labels.to_builder().set("job", "node").build())
    }
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

/// TLS with the certificates of an enrolled agent in `state_dir`.
///
/// # Errors
/// Where a file is missing or is no certificate or key.
pub fn tls(state_dir: &Path) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(state_dir.join("ca.crt"))?)?;
    let chain = CertificateDer::pem_file_iter(state_dir.join("agent.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(state_dir.join("agent.key"))?;
    // The collector's certificate is also good for 127.0.0.1, so the ordinary check of the name serves here.
    // Said, as packages that are built together may bring another provider too.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_client_auth_cert(chain, key)?))
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
            let timestamp_ms = start_ms + host.offset_ms(sent - 1, step_ms);
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

/// Publishes a message with `CloudEvents` as equipment does, and waits until the broker has acknowledged it.
///
/// # Errors
/// Where the broker closes the connection instead.
pub async fn tell(identity: Identity, events: Vec<u8>) -> anyhow::Result<()> {
    let Identity { agent, port, tls } = identity;
    let mut options = MqttOptions::new(agent.as_str(), "127.0.0.1", port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    let (client, mut polled) = AsyncClient::new(options, 8);
    client.publish(Topic::Event.of(&agent), QoS::AtLeastOnce, false, events).await?;
    while !matches!(
        polled.poll().await.context("the broker closed the connection")?,
        Event::Incoming(Packet::PubAck(_))
    ) {}
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
    /// When row number `row` is taken, after the first; every `step_ms` unless it was recorded otherwise.
    fn offset_ms(&self, row: u64, step_ms: i64) -> i64 {
        row as i64 * step_ms
    }
}

impl Rows for Host {
    fn seed(&self) -> u64 {
        self.number as u64 + 1
    }

    fn dictionary(&self) -> Dictionary {
        let text = |label: &veghe_model::Label| (label.name.to_string(), label.value.to_string());
        dictionary_of(self.labels().map(|labels| labels.iter().map(text).collect::<Vec<_>>()))
    }

    fn step(&mut self) -> &[f64] {
        self.next += 1;
        &self.recording.rows[self.next - 1]
    }

    fn offset_ms(&self, row: u64, _step_ms: i64) -> i64 {
        self.recording.offsets_ms[row as usize]
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

/// One remote-write 1.0 request (snappy-compressed protobuf) with row number `row` of `host`, the first at `start_ms`.
///
/// # Errors
/// Where the row can't be compressed.
pub fn remote_write(host: &Host, row: u64, start_ms: i64) -> anyhow::Result<Vec<u8>> {
    let recording = &host.recording;
    let timestamp_ms = start_ms + recording.offsets_ms[row as usize];
    let series: Vec<RemoteSeries> = host
        .labels()
        .zip(&recording.rows[row as usize])
        .map(|(labels, &value)| {
            let labels = labels.to_builder().set("instance", host.name.as_str()).build();
            let labels = labels.iter().map(|label| (label.name.to_string(), label.value.to_string())).collect();
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
