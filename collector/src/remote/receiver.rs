//! Remote-write requests become durable commits.
//!
//! Invariants: what is answered as written is on disk; a request that can't be decoded changes nothing; series that are
//! refused do not keep the others of their request out. What it deliberately does not do: ask for the time.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use veghe_model::{Labels, METRIC_NAME, Timestamp};
use veghe_tsdb::{Commit, CommitError, SeriesId, Store};

use super::decode::{Decoded, Malformed, label_pairs};

/// The largest request after decompression.
const MAX_DECODED_BYTES: usize = 32 << 20;
/// How far ahead of the collector's clock a time stamp may be; Prometheus' bound.
const MAX_AHEAD: Duration = Duration::from_mins(10);
/// Nothing measured is older: 1901, by 32 bits of seconds. The store numbers windows in 32 bits.
const EARLIEST: Timestamp = Timestamp(-2_147_483_648_000);
/// Labels of one series.
const MAX_LABELS: usize = 128;
/// Samples in one commit.
const COMMIT_SAMPLES: usize = 200_000;
/// Bytes of labels of new series in one commit: half of what a log record may hold.
const COMMIT_LABEL_BYTES: usize = 16 << 20;
/// Bytes of labels that are remembered with their series; beyond, all are forgotten and looked up anew.
const MAX_CACHED_BYTES: usize = 128 << 20;
/// Problems told in one answer; the others are counted.
const MAX_PROBLEMS: usize = 10;

/// Which message a request holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `prometheus.WriteRequest`
    Version1,
    /// `io.prometheus.write.v2.Request`
    Version2,
}

/// What became of a request that was decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Samples that are on disk now, or were before.
    pub samples: u64,
    /// Why others were refused, one line each; empty where none was.
    pub problems: String,
}

/// Why nothing of a request counts as written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Sending it again does not help.
    #[error("{0}")]
    Malformed(String),
    /// Sending it again later does.
    #[error("cannot store samples")]
    Unavailable(#[source] CommitError),
}

impl From<Malformed> for WriteError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error.to_string())
    }
}

#[derive(Default)]
struct Core {
    decoder: snap::raw::Decoder,
    body: Vec<u8>,
    decoded: Decoded,
    /// The series of label bytes as they came.
    cache: HashMap<Box<[u8]>, SeriesId>,
    cached_bytes: usize,
}

/// Takes remote-write requests, one at a time.
pub struct Receiver {
    store: Store,
    core: Mutex<Core>,
}

#[derive(Default)]
struct Problems {
    lines: Vec<String>,
    more: usize,
}

impl Problems {
    fn note(&mut self, line: String) {
        if self.lines.len() < MAX_PROBLEMS {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }

    fn text(self) -> String {
        let mut text = self.lines.join("\n");
        if self.more > 0 {
            write!(text, "\nand {} more", self.more).expect("invariant: a string takes every write");
        }
        text
    }
}

impl Receiver {
    /// A receiver that writes to `store`.
    pub fn new(store: Store) -> Self {
        Self { store, core: Mutex::default() }
    }

    /// Stores what a request holds. Blocks until it is on disk.
    ///
    /// # Errors
    /// [`WriteError`]. A part of a large request may be stored already where the store fails: a repeat changes nothing.
    pub fn write(&self, request: &[u8], protocol: Protocol, now: Timestamp) -> Result<Outcome, WriteError> {
        // What a panic left is only room to be used again.
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let Core { decoder, body, decoded, cache, cached_bytes } = &mut *core;
        let wrong =
            |error: &dyn std::fmt::Display| WriteError::Malformed(format!("cannot decompress the request: {error}"));
        let length = snap::raw::decompress_len(request).map_err(|error| wrong(&error))?;
        if length > MAX_DECODED_BYTES {
            let text = format!(
                "the request has {length} bytes decompressed, more than {MAX_DECODED_BYTES}; send less at once"
            );
            return Err(WriteError::Malformed(text));
        }
        body.resize(length, 0);
        decoder.decompress(request, body).map_err(|error| wrong(&error))?;
        match protocol {
            Protocol::Version1 => decoded.version_1(body)?,
            Protocol::Version2 => decoded.version_2(body)?,
        }
        let latest = now.saturating_add(MAX_AHEAD);
        let mut problems = Problems::default();
        let mut commit = Commit::default();
        let (mut written, mut new_bytes) = (0, 0);
        for series in &decoded.series {
            let key = decoded.labels(body, series);
            let id = match cache.get(key).copied().filter(|_| !series.dangling) {
                Some(id) => id,
                None if series.dangling => {
                    problems.note("labels_refs point outside of the symbols table or have no value".to_owned());
                    continue;
                }
                None => match self.series(key) {
                    Ok(id) => {
                        if *cached_bytes > MAX_CACHED_BYTES {
                            cache.clear();
                            *cached_bytes = 0;
                        }
                        *cached_bytes += key.len() + 64;
                        new_bytes += 4 * key.len();
                        cache.insert(key.into(), id);
                        id
                    }
                    Err(problem) => {
                        problems.note(problem);
                        continue;
                    }
                },
            };
            for &(time, value) in &decoded.samples[series.samples.clone()] {
                let time = Timestamp(time);
                if time > latest || time < EARLIEST {
                    let why = if time > latest { "timestamp is too far in the future" } else { "timestamp is too old" };
                    problems.note(format!("out of bounds: {why} for series {}", self.store.labels(id)));
                    continue;
                }
                commit.samples.push((id, time, value));
            }
            if series.histograms > 0 {
                problems.note(format!("native histograms are not stored here, for series {}", self.store.labels(id)));
            }
            if commit.samples.len() >= COMMIT_SAMPLES || new_bytes >= COMMIT_LABEL_BYTES {
                written += commit.samples.len() as u64;
                self.store.commit(std::mem::take(&mut commit)).map_err(WriteError::Unavailable)?;
                new_bytes = 0;
            }
        }
        written += commit.samples.len() as u64;
        self.store.commit(commit).map_err(WriteError::Unavailable)?;
        // A rare large request must not hold its room for ever.
        body.shrink_to(4 << 20);
        Ok(Outcome { samples: written, problems: problems.text() })
    }

    fn series(&self, key: &[u8]) -> Result<SeriesId, String> {
        let pairs = label_pairs(key).map_err(|error| format!("invalid metric name or labels: {error}"))?;
        let labels = Labels::from_pairs(pairs.iter().copied());
        if labels.metric_name().is_empty() || pairs.iter().any(|(name, _)| name.is_empty()) {
            return Err(format!("invalid metric name or labels, got {labels}"));
        }
        let mut names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        if let Some([twice, ..]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("invalid labels for series, labels {labels}, duplicated label {twice}"));
        }
        if pairs.len() > MAX_LABELS {
            let name = labels.get(METRIC_NAME).unwrap_or("");
            return Err(format!("series {name} has {} labels, more than {MAX_LABELS}", pairs.len()));
        }
        self.store.series(&labels).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use veghe_model::{Matcher, stale_nan};

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(content);
        bytes
    }

    fn sample(time: i64, value: f64) -> Vec<u8> {
        let mut bytes = vec![0x09];
        bytes.extend_from_slice(&value.to_bits().to_le_bytes());
        bytes.push(0x10);
        let mut rest = time as u64;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    }

    fn series_1(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Vec<u8> {
        let labels = labels.iter().map(|(n, v)| field(1, &[field(1, n.as_bytes()), field(2, v.as_bytes())].concat()));
        let samples = samples.iter().map(|(t, v)| field(2, &sample(*t, *v)));
        field(1, &labels.chain(samples).collect::<Vec<_>>().concat())
    }

    fn snappy(body: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(body).expect("snappy")
    }

    fn receiver() -> (tempfile::TempDir, Receiver) {
        let dir = tempfile::tempdir().expect("directory");
        let options =
            veghe_tsdb::Options { dir: dir.path().to_owned(), window: Duration::from_hours(2), max_series: 100 };
        let receiver = Receiver::new(Store::open(options).expect("store").0);
        (dir, receiver)
    }

    fn stored(receiver: &Receiver, name: &str) -> Vec<(String, i64, u64)> {
        let matcher = Matcher::equal(METRIC_NAME, name);
        let found = receiver.store.select(&[matcher], Timestamp(0), Timestamp::MAX).expect("select");
        let samples =
            found.iter().flat_map(|s| s.iter().map(|x| (s.labels.to_string(), x.timestamp.0, x.value.to_bits())));
        samples.collect()
    }

    #[test]
    fn samples_of_both_protocols_are_the_same_series_and_exact() {
        let (_dir, receiver) = receiver();
        let labels = [("__name__", "up"), ("job", "a"), ("empty", "")];
        let one = snappy(&series_1(&labels, &[(1_000, 1.0), (2_000, stale_nan())]));
        let outcome = receiver.write(&one, Protocol::Version1, Timestamp(0)).expect("written");
        assert_eq!(outcome, Outcome { samples: 2, problems: String::new() });
        let symbols = ["", "__name__", "up", "job", "a"].map(|s| field(4, s.as_bytes())).concat();
        let series = field(5, &[field(1, &[1, 2, 3, 4]), field(2, &sample(3_000, -0.0))].concat());
        let two = snappy(&[symbols, series].concat());
        receiver.write(&two, Protocol::Version2, Timestamp(0)).expect("written");
        // A repeat changes nothing, whatever its value: the first stays.
        receiver
            .write(&snappy(&series_1(&labels, &[(1_000, 9.0)])), Protocol::Version1, Timestamp(0))
            .expect("written");
        let up = r#"up{job="a"}"#.to_owned();
        let expected = [(1_000, 1.0_f64), (2_000, stale_nan()), (3_000, -0.0)];
        assert_eq!(stored(&receiver, "up"), expected.map(|(t, v)| (up.clone(), t, v.to_bits())));
    }

    #[test]
    fn what_is_refused_is_told_and_keeps_nothing_else_out() {
        let (_dir, receiver) = receiver();
        let good = [("__name__", "up")];
        let body = [
            series_1(&[("job", "nameless")], &[(1, 1.0)]),
            series_1(&[("__name__", "up"), ("a", "1"), ("a", "2")], &[(1, 1.0)]),
            series_1(&good, &[(1, 1.0), (600_001, 2.0)]),
        ];
        let outcome = receiver.write(&snappy(&body.concat()), Protocol::Version1, Timestamp(0)).expect("written");
        assert_eq!(outcome.samples, 1);
        assert_eq!(
            outcome.problems,
            "invalid metric name or labels, got {job=\"nameless\"}\n\
             invalid labels for series, labels up{a=\"2\"}, duplicated label a\n\
             out of bounds: timestamp is too far in the future for series up"
        );
        assert_eq!(stored(&receiver, "up"), [("up".to_owned(), 1, 1.0_f64.to_bits())]);
        let dangling = [field(4, b""), field(5, &[field(1, &[1, 2]), field(2, &sample(5, 5.0))].concat())].concat();
        let outcome = receiver.write(&snappy(&dangling), Protocol::Version2, Timestamp(0)).expect("decoded");
        assert!(outcome.samples == 0 && outcome.problems.contains("symbols table"), "{outcome:?}");
    }

    #[test]
    fn labels_that_other_fields_part_are_still_one_series() {
        let (_dir, receiver) = receiver();
        let label = |n: &str, v: &str| field(1, &[field(1, n.as_bytes()), field(2, v.as_bytes())].concat());
        let parted = field(1, &[label("__name__", "up"), field(2, &sample(7, 7.0)), label("b", "c")].concat());
        receiver.write(&snappy(&parted), Protocol::Version1, Timestamp(0)).expect("written");
        assert_eq!(stored(&receiver, "up"), [(r#"up{b="c"}"#.to_owned(), 7, 7.0_f64.to_bits())]);
    }

    #[test]
    fn a_request_that_claims_too_much_is_refused_before_it_is_decompressed() {
        let (_dir, receiver) = receiver();
        let error = receiver.write(&[0xff, 0xff, 0xff, 0xff, 0x0f], Protocol::Version1, Timestamp(0));
        assert!(matches!(error, Err(WriteError::Malformed(text)) if text.contains("send less at once")));
        let cut = series_1(&[("__name__", "up")], &[(1, 1.0)]);
        let cut = snappy(&cut[..cut.len() - 1]);
        assert!(matches!(receiver.write(&cut, Protocol::Version1, Timestamp(0)), Err(WriteError::Malformed(_))));
        assert!(stored(&receiver, "up").is_empty());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoded = Decoded::default();
            for version in [Decoded::version_1, Decoded::version_2] {
                if version(&mut decoded, &bytes).is_ok() {
                    for series in &decoded.series {
                        drop(label_pairs(decoded.labels(&bytes, series)));
                        prop_assert!(decoded.samples.get(series.samples.clone()).is_some());
                    }
                }
            }
        }
    }
}
