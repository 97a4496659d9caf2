//! What the fuzz targets feed: everything that reads bytes from outside. None may panic, hang or take memory without
//! bound. `cargo fuzz run batch --fuzz-dir tests/fuzz` explores; `cargo test` replays the corpus.

use std::time::Duration;

use veghe_model::{Labels, Matcher, Sample, SeriesData, Timestamp};
use veghe_promql::{Limits, Query, Source};
use veghe_wire::ack::{self, Ack, Presence};
use veghe_wire::batch::Decoder;
use veghe_wire::{AgentId, Topic};

/// Payloads of every topic, topics, and enrolment's token.
pub fn batch(data: &[u8]) {
    if let Ok(mut decoder) = Decoder::new() {
        drop(decoder.decode(data));
    }
    drop(ack::decode::<Ack>(data));
    drop(ack::decode::<Presence>(data));
    if let Ok(text) = std::str::from_utf8(data) {
        drop(Topic::parse(text));
        drop(text.parse::<AgentId>());
        drop(text.parse::<veghe_wire::enrolment::Token>());
        let mut problems = veghe_wire::document::Problems::new("fuzz");
        drop(veghe_wire::document::Node::parse(text, &mut problems));
    }
}

/// Records of the store's log, and sealed columns; the first two bytes are a column's length.
pub fn log(data: &[u8]) {
    veghe_tsdb::fuzz_log_record(data);
    if let Some((length, column)) = data.split_first_chunk() {
        veghe_tsdb::fuzz_value_column(column, u16::from_le_bytes(*length) % 4096);
    }
}

/// Queries, parsed, laid out and evaluated over a few series.
pub fn query(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(query) = Query::parse(text) else { return };
    drop(query.pretty());
    drop(query.tree());
    let limits = Limits { max_samples: 100_000, lookback: Duration::from_mins(5) };
    let checks = std::sync::atomic::AtomicU32::new(0);
    // Ends by count, not by the clock: the same input always takes the same way.
    let stop = || checks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 10_000;
    drop(query.instant(&Few, Timestamp(600_000), &limits, &stop));
    drop(query.range(&Few, Timestamp(0), Timestamp(600_000), Duration::from_secs(30), &limits, &stop));
}

struct Few;

impl Source for Few {
    fn select(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<SeriesData>, Box<dyn std::error::Error + Send + Sync>> {
        let series = ["a", "b", "c"].into_iter().map(|instance| {
            let labels = Labels::from_pairs([("__name__", "up"), ("instance", instance), ("le", "0.5")]);
            let samples: Vec<Sample> = (0..40)
                .map(|i| Sample { timestamp: Timestamp(i * 15_000), value: (i % 7) as f64 })
                .filter(|sample| start <= sample.timestamp && sample.timestamp <= end)
                .collect();
            SeriesData::new(labels, &samples)
        });
        Ok(series.filter(|s| !s.is_empty() && matchers.iter().all(|m| m.matches_labels(&s.labels))).collect())
    }
}

/// Image files: none is read beyond the bound of reading, whatever it says of itself.
///
/// # Panics
/// Where one is.
pub fn images(data: &[u8]) {
    let mut read = 0;
    let file = Counting { inner: std::io::Cursor::new(data), read: &mut read };
    drop(veghe_imagefile::inspect(file, data.len() as u64));
    assert!(read <= veghe_imagefile::MAX_READ_BYTES, "{read} bytes read");
}

/// Pixels of image files: at most as many images are looked at as there are.
///
/// # Panics
/// Where there are more.
pub fn pages(data: &[u8]) {
    if let Ok(found) = veghe_imagefile::inspect(std::io::Cursor::new(data), data.len() as u64) {
        let pixels = found.images.iter().map(|image| u64::from(image.width_px) * u64::from(image.height_px));
        // A small file of a large image costs as much as a large one, which is known and not looked for.
        if pixels.sum::<u64>() < 4_000_000 {
            let looked_at = veghe_imagefile::look(std::io::Cursor::new(data), &found, || ()).len();
            // Of a PDF the pages are counted and the first one's image is listed.
            assert!(looked_at <= found.images.len().max(found.count.unwrap_or(0) as usize));
        }
    }
}

/// Counts what is read.
struct Counting<'a> {
    inner: std::io::Cursor<&'a [u8]>,
    read: &'a mut u64,
}

impl std::io::Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        *self.read += count as u64;
        Ok(count)
    }
}

impl std::io::Seek for Counting<'_> {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

/// What devices on the network say: messages, documents, answers and lines.
pub fn devices(data: &[u8]) {
    use veghe_dialects::snmp::message::{decode_v2c, encode_v2c};
    use veghe_dialects::snmp::usm::{Answer, AuthProtocol, PrivProtocol, Session, User};
    use veghe_dialects::snmp::{Oid, Pdu};

    if let Ok((community, pdu)) = decode_v2c(data) {
        drop(encode_v2c(community, &pdu));
    }
    let user = User {
        name: "veghe".to_owned(),
        auth: Some((AuthProtocol::Sha1, b"authpass".to_vec())),
        privacy: Some((PrivProtocol::Aes128, b"privpass".to_vec())),
    };
    let Some(name) = Oid::new(vec![1, 3, 6, 1, 2, 1]) else { return };
    // The number of the message in the corpus, so that answers are looked into.
    let id = 0x1f3d_6357;
    let mut session = Session::new(user, "");
    let question = Pdu::bulk(id, &name, 10);
    drop(session.encode(&question, id, 1, Duration::ZERO));
    if session.decode(data, Duration::ZERO) == Ok(Answer::Again) {
        drop(session.encode(&question, id, 2, Duration::ZERO));
        drop(session.decode(data, Duration::ZERO));
    }
    drop(veghe_dialects::mdns::services(data, &["_uscan._tcp.local", "_uscans._tcp.local"]));
    drop(veghe_dialects::escl::status(data));
    drop(veghe_dialects::escl::capabilities(data));
    if let Ok(text) = std::str::from_utf8(data) {
        for line in text.lines() {
            drop(veghe_dialects::nut::words(line));
            drop(veghe_dialects::statsd::line(line));
        }
    }
}
