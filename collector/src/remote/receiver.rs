//! Remote-write requests become durable commits.
//!
//! Invariants: what is answered as written is on disk; a request that can't be decoded changes nothing; series that are
//! refused do not keep the others of their request out. What it deliberately does not do: ask for the time.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use veghe_model::{Labels, METRIC_NAME, Timestamp};
use veghe_tsdb::{Commit, CommitError, SeriesId, Store};

use super::decode::{Decoded, Malformed, Series, label_pairs};
use super::known::Known;
use super::runs::Runs;

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
    /// Native histograms that were refused: none are kept.
    pub dropped_histograms: u64,
    /// Exemplars that were left out: none are kept.
    pub dropped_exemplars: u64,
}

/// Why nothing of a request counts as written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Sending it again does not help.
    #[error("{0}")]
    Malformed(String),
    /// Sending it again later does.
    #[error("cannot store samples")]
    Unavailable(#[source] Arc<CommitError>),
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
    known: Known,
    runs: Runs,
    draft: Draft,
}

/// What is not committed yet.
#[derive(Default)]
struct Draft {
    commit: Commit,
    samples: usize,
    /// Bytes of labels of its new series, as the log has them at most.
    new_bytes: usize,
    /// The first request that has a part of it.
    first: usize,
}

/// Takes remote-write requests, one batch at a time.
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
        self.write_all(&[(request, protocol)], now).pop().unwrap_or_else(|| Ok(Outcome::default()))
    }

    /// Stores what several requests hold, together as far as that is not too much at once; gives what became of each. Blocks
    /// until all is on disk.
    pub fn write_all(&self, requests: &[(&[u8], Protocol)], now: Timestamp) -> Vec<Result<Outcome, WriteError>> {
        // What a panic left is only room to be used again.
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.draft = Draft::default();
        core.runs.abandon();
        let mut results: Vec<Result<Outcome, WriteError>> = Vec::with_capacity(requests.len());
        for (request, protocol) in requests {
            if core.draft.samples == 0 {
                core.draft.first = results.len();
            }
            let result = self.take(&mut core, &mut results, request, *protocol, now);
            results.push(result);
        }
        if let Err(error) = self.flush(&mut core.draft, &mut results) {
            tracing::debug!(error = &error as &dyn std::error::Error, "requests were not stored");
        }
        // A rare large request must not hold its room for ever.
        core.body.truncate(4 << 20);
        core.body.shrink_to(4 << 20);
        core.decoded.shrink();
        results
    }

    /// Commits the draft; where that fails, the requests of `results` that have a part of it are told.
    fn flush(&self, draft: &mut Draft, results: &mut [Result<Outcome, WriteError>]) -> Result<(), WriteError> {
        let Draft { commit, first, .. } = std::mem::take(draft);
        draft.first = results.len();
        self.store.commit(commit).map_err(|error| {
            let error = Arc::new(error);
            for result in results.iter_mut().skip(first).filter(|result| result.is_ok()) {
                *result = Err(WriteError::Unavailable(Arc::clone(&error)));
            }
            WriteError::Unavailable(error)
        })
    }

    /// Puts what `request` holds into the draft.
    fn take(
        &self,
        core: &mut Core,
        results: &mut [Result<Outcome, WriteError>],
        request: &[u8],
        protocol: Protocol,
        now: Timestamp,
    ) -> Result<Outcome, WriteError> {
        let Core { decoder, body, decoded, known, runs, draft } = core;
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
            Protocol::Version1 => decoded.version_1(body, |rest| known.expected(rest))?,
            Protocol::Version2 => decoded.version_2(body)?,
        }
        let latest = now.saturating_add(MAX_AHEAD);
        let mut problems = Problems::default();
        let mut written = 0;
        let dropped = |count: fn(&Series) -> usize| decoded.series.iter().map(count).sum::<usize>() as u64;
        let (dropped_histograms, dropped_exemplars) = (dropped(|s| s.histograms), dropped(|s| s.exemplars));
        for series in &decoded.series {
            let key = decoded.labels(body, series);
            if series.dangling {
                problems.note("labels_refs point outside of the symbols table or have no value".to_owned());
                continue;
            }
            let id = match known.find(key) {
                Some(id) => id,
                None => match self.series(key) {
                    Ok(id) => {
                        draft.new_bytes += 4 * key.len();
                        known.insert(key, id);
                        id
                    }
                    Err(problem) => {
                        problems.note(problem);
                        continue;
                    }
                },
            };
            let samples = &decoded.samples[series.samples.clone()];
            if samples.iter().all(|(time, _)| (EARLIEST.0..=latest.0).contains(time)) {
                runs.add(id, series.samples.clone(), &decoded.samples, known.len(), &self.store, &mut draft.commit);
                written += samples.len();
                draft.samples += samples.len();
            } else {
                for &(time, value) in samples {
                    let time = Timestamp(time);
                    if time > latest || time < EARLIEST {
                        let far = time > latest;
                        let why = if far { "timestamp is too far in the future" } else { "timestamp is too old" };
                        problems.note(format!("out of bounds: {why} for series {}", self.store.labels(id)));
                        continue;
                    }
                    draft.commit.samples.push((id, time, value));
                    written += 1;
                    draft.samples += 1;
                }
            }
            if series.histograms > 0 {
                problems.note(format!("native histograms are not stored here, for series {}", self.store.labels(id)));
            }
            if draft.samples >= COMMIT_SAMPLES || draft.new_bytes >= COMMIT_LABEL_BYTES {
                runs.end(&decoded.samples, known.len(), &self.store, &mut draft.commit);
                self.flush(draft, results)?;
            }
        }
        runs.end(&decoded.samples, known.len(), &self.store, &mut draft.commit);
        Ok(Outcome { samples: written as u64, problems: problems.text(), dropped_histograms, dropped_exemplars })
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
        assert_eq!(outcome, Outcome { samples: 2, ..Outcome::default() });
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
    fn what_is_told_together_again_and_again_is_stored_as_it_was_told() {
        let (_dir, receiver) = receiver();
        let mut told = Vec::new();
        for request in 0..6_i64 {
            // Whole rows, cut rows, several rows at once, another order, one series twice.
            let (from, to, rows) =
                [(0, 20, 1), (0, 20, 3), (5, 20, 1), (0, 20, 1), (3, 18, 2), (0, 20, 1)][request as usize];
            let mut numbers: Vec<i64> = (from..to).collect();
            if request == 3 {
                numbers.reverse();
            }
            if request == 5 {
                numbers.push(0);
            }
            let mut body = Vec::new();
            for number in numbers {
                let samples: Vec<(i64, f64)> =
                    (0..rows).map(|row| (request * 60_000 + row * 15_000, (number * 100 + request) as f64)).collect();
                body.extend(series_1(&[("__name__", "up"), ("n", &format!("{number:02}"))], &samples));
                let labels = format!(r#"up{{n="{number:02}"}}"#);
                told.extend(samples.iter().map(|(time, value)| (labels.clone(), *time, value.to_bits())));
            }
            let count = told.len();
            let outcome = receiver.write(&snappy(&body), Protocol::Version1, Timestamp(0)).expect("written");
            assert!(outcome.problems.is_empty() && outcome.samples as usize <= count, "{outcome:?}");
        }
        told.sort();
        told.dedup();
        assert_eq!(stored(&receiver, "up"), told);
    }

    #[test]
    fn of_requests_that_are_stored_together_each_has_its_own_answer() {
        let (_dir, receiver) = receiver();
        let good = |time| snappy(&series_1(&[("__name__", "up")], &[(time, 1.0)]));
        let nameless = snappy(&series_1(&[("job", "a")], &[(1, 1.0)]));
        let requests: Vec<Vec<u8>> = vec![good(1), b"no snappy".to_vec(), nameless, good(2)];
        let requests: Vec<_> = requests.iter().map(|body| (body.as_slice(), Protocol::Version1)).collect();
        let results = receiver.write_all(&requests, Timestamp(0));
        assert!(matches!(&results[0], Ok(outcome) if outcome.samples == 1 && outcome.problems.is_empty()));
        assert!(matches!(&results[1], Err(WriteError::Malformed(_))));
        assert!(matches!(&results[2], Ok(outcome) if outcome.samples == 0 && !outcome.problems.is_empty()));
        assert!(matches!(&results[3], Ok(outcome) if outcome.samples == 1));
        assert_eq!(stored(&receiver, "up").len(), 2);
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
    fn what_is_not_kept_is_counted() {
        let (_dir, receiver) = receiver();
        let label = field(1, &[field(1, b"__name__"), field(2, b"up")].concat());
        // An exemplar is field 3 and a histogram field 4 in 1.0, the other way round in 2.0.
        let one = field(1, &[label, field(2, &sample(1, 1.0)), field(3, b""), field(3, b""), field(4, b"")].concat());
        let symbols = ["", "__name__", "up"].map(|s| field(4, s.as_bytes())).concat();
        let series = field(5, &[field(1, &[1, 2]), field(3, b""), field(4, b""), field(4, b"")].concat());
        for (body, protocol) in [(one, Protocol::Version1), ([symbols, series].concat(), Protocol::Version2)] {
            let outcome = receiver.write(&snappy(&body), protocol, Timestamp(0)).expect("written");
            assert_eq!((outcome.dropped_histograms, outcome.dropped_exemplars), (1, 2), "{outcome:?}");
        }
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

    #[test]
    fn a_small_request_that_becomes_large_in_memory_is_refused() {
        let (_dir, receiver) = receiver();
        // Each byte of references names a mebibyte.
        let symbols = [field(4, b""), field(4, b"__name__"), field(4, &vec![b'x'; 1 << 20])].concat();
        let references = [symbols, field(5, &field(1, &[2; 200]))].concat();
        // Each series takes two bytes.
        let series = field(1, b"").repeat(1_000_001);
        for (body, protocol, why) in [
            (references, Protocol::Version2, "too long together"),
            (series, Protocol::Version1, "too many series"),
            (field(5, &field(1, &vec![1; 70_000])), Protocol::Version2, "too many labels"),
        ] {
            let result = receiver.write(&snappy(&body), protocol, Timestamp(0));
            assert!(matches!(&result, Err(WriteError::Malformed(text)) if text.contains(why)), "{result:?}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoded = Decoded::default();
            for expected in [None, bytes.first().map(|n| usize::from(*n)), Some(usize::MAX)] {
                let read = match expected {
                    Some(usize::MAX) => decoded.version_2(&bytes),
                    expected => decoded.version_1(&bytes, |rest| expected.filter(|n| *n <= rest.len())),
                };
                if read.is_ok() {
                    for series in &decoded.series {
                        drop(label_pairs(decoded.labels(&bytes, series)));
                        prop_assert!(decoded.samples.get(series.samples.clone()).is_some());
                    }
                }
            }
        }
    }
}
