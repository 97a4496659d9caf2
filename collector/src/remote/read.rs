//! Remote read: the samples of selectors over a range, whole or as a stream of XOR chunks
//! (`storage/remote/read_handler.go`).
//!
//! Invariants: series are read from the store a few at a time, so a stream takes the memory of its longest series,
//! whatever is asked for, and a whole answer is refused above a bound; series ascend by their labels. What it
//! deliberately does not do: HTTP (`web`), and hints: every sample of the range is given.

use prost::Message as _;
use veghe_model::{Labels, MatchOp, Matcher, MatcherError, SeriesData, Timestamp};
use veghe_tsdb::{ReadError, Store};

use super::messages::{Chunk, ChunkedReadResponse, ChunkedSeries, Label, QueryResult, ReadRequest, ReadResponse};
use super::messages::{Sample, TimeSeries};
use super::xor;

/// The largest request after decompression.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Samples in a whole answer; a stream has no bound.
const MAX_WHOLE_SAMPLES: usize = 10_000_000;
/// Selections in one request; clients send one.
const MAX_QUERIES: usize = 100;
/// Matchers in all of them.
const MAX_MATCHERS: usize = 1_000;
/// Samples read from the store at once, where a series has no more by itself.
const SAMPLES_AT_ONCE: usize = 1_000_000;
/// Series read from the store at once.
const SERIES_AT_ONCE: usize = 2_000;
/// From this size on a series goes on in the next frame; Prometheus' bound.
const FRAME_BYTES: usize = 1 << 20;

/// Why a request gets no samples.
#[derive(Debug, thiserror::Error)]
pub enum ReadRefusal {
    /// It is no request.
    #[error("cannot decode the request: {0}")]
    Malformed(String),
    /// A matcher can't be made.
    #[error(transparent)]
    Matcher(#[from] MatcherError),
    /// It accepts no form of answer that there is.
    #[error(
        "server does not support any of the requested response types: {0:?}; supported: [SAMPLES STREAMED_XOR_CHUNKS]"
    )]
    ResponseTypes(Vec<i32>),
    /// A whole answer would be too large.
    #[error("exceeded sample limit ({MAX_WHOLE_SAMPLES})")]
    TooManySamples,
    /// The store failed.
    #[error("cannot read samples")]
    Store(#[from] ReadError),
}

/// A request, decoded and checked.
#[derive(Debug)]
pub struct Reading {
    queries: Vec<Selection>,
    /// Whether the answer is a stream of chunks.
    pub is_streamed: bool,
}

#[derive(Debug)]
struct Selection {
    matchers: Vec<Matcher>,
    start: Timestamp,
    end: Timestamp,
}

impl Reading {
    /// Decodes `request`, compressed with snappy.
    ///
    /// # Errors
    /// [`ReadRefusal`], never of the store.
    pub fn decode(request: &[u8]) -> Result<Self, ReadRefusal> {
        let malformed = |error: &dyn std::fmt::Display| ReadRefusal::Malformed(error.to_string());
        let length = snap::raw::decompress_len(request).map_err(|error| malformed(&error))?;
        if length > MAX_REQUEST_BYTES {
            return Err(ReadRefusal::Malformed(format!("it has {length} bytes, more than {MAX_REQUEST_BYTES}")));
        }
        let request = snap::raw::Decoder::new().decompress_vec(request).map_err(|error| malformed(&error))?;
        let request = ReadRequest::decode(&*request).map_err(|error| malformed(&error))?;
        // Without a list it is an old client, which knows samples only.
        let types = request.accepted_response_types;
        let is_streamed = match types.iter().find(|kind| [0, 1].contains(*kind)) {
            Some(kind) => *kind == 1,
            None if types.is_empty() => false,
            None => return Err(ReadRefusal::ResponseTypes(types)),
        };
        // Each goes through all series, and each regular expression takes memory once it is compiled.
        let matchers = request.queries.iter().map(|query| query.matchers.len()).sum::<usize>();
        if request.queries.len() > MAX_QUERIES || matchers > MAX_MATCHERS {
            let queries = request.queries.len();
            let text = format!(
                "it has {queries} queries with {matchers} matchers, more than {MAX_QUERIES} with {MAX_MATCHERS}"
            );
            return Err(ReadRefusal::Malformed(text));
        }
        let queries = request.queries.into_iter().map(|query| {
            let matchers = query.matchers.into_iter().map(|matcher| {
                let op = match matcher.kind {
                    0 => MatchOp::Equal,
                    1 => MatchOp::NotEqual,
                    2 => MatchOp::Regex,
                    3 => MatchOp::NotRegex,
                    other => return Err(ReadRefusal::Malformed(format!("invalid matcher type {other}"))),
                };
                Ok(Matcher::new(matcher.name, op, matcher.value)?)
            });
            let (start, end) = (Timestamp(query.start_timestamp_ms), Timestamp(query.end_timestamp_ms));
            Ok(Selection { matchers: matchers.collect::<Result<_, ReadRefusal>>()?, start, end })
        });
        Ok(Self { queries: queries.collect::<Result<_, ReadRefusal>>()?, is_streamed })
    }

    /// The whole answer, `prometheus.ReadResponse` compressed with snappy. Blocks.
    ///
    /// # Errors
    /// [`ReadRefusal::TooManySamples`], or of the store.
    pub fn whole(&self, store: &Store) -> Result<Vec<u8>, ReadRefusal> {
        let mut response = ReadResponse::default();
        let mut samples = 0;
        for query in &self.queries {
            let mut timeseries = Vec::new();
            query.each(store, |series| {
                samples += series.len();
                if samples > MAX_WHOLE_SAMPLES {
                    return Err(ReadRefusal::TooManySamples);
                }
                let points = series.iter().map(|s| Sample { value: s.value, timestamp: s.timestamp.millis() });
                timeseries.push(TimeSeries { labels: labels_of(&series.labels), samples: points.collect() });
                Ok(())
            })?;
            response.results.push(QueryResult { timeseries });
        }
        let text = response.encode_to_vec();
        drop(response);
        snap::raw::Encoder::new().compress_vec(&text).map_err(|error| ReadRefusal::Malformed(error.to_string()))
    }

    /// The answer as frames, one after the other, until `give` takes none any more. Blocks.
    ///
    /// # Errors
    /// Of the store; what was given so far is a part of the answer.
    pub fn stream(&self, store: &Store, mut give: impl FnMut(Vec<u8>) -> Taken) -> Result<(), ReadRefusal> {
        for (query_index, query) in (0..).zip(&self.queries) {
            let mut refused = false;
            query
                .each(store, |series| {
                    if !refused {
                        refused = frames_of(&series, query_index, &mut give) == Taken::No;
                    }
                    // Ends the selection without an error of anybody.
                    if refused { Err(ReadRefusal::Malformed(String::new())) } else { Ok(()) }
                })
                .or_else(|error| if refused { Ok(()) } else { Err(error) })?;
            if refused {
                break;
            }
        }
        Ok(())
    }
}

/// Whether somebody still wants more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Yes.
    Yes,
    /// The reader went away.
    No,
}

impl Selection {
    /// Gives every series with its samples, ascending by labels.
    fn each(
        &self,
        store: &Store,
        mut give: impl FnMut(SeriesData) -> Result<(), ReadRefusal>,
    ) -> Result<(), ReadRefusal> {
        self.batches(store, SAMPLES_AT_ONCE, |batch| batch.into_iter().try_for_each(&mut give))
    }

    /// Gives all series in batches of at most `max_samples`, or of one series where that has more by itself.
    fn batches(
        &self,
        store: &Store,
        max_samples: usize,
        mut give: impl FnMut(Vec<SeriesData>) -> Result<(), ReadRefusal>,
    ) -> Result<(), ReadRefusal> {
        let all = store.series_labels(&self.matchers, self.start, self.end)?;
        let (mut rest, mut at_once) = (&*all, 1);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(at_once.min(rest.len()));
            let most = if now.len() == 1 { usize::MAX } else { max_samples };
            let Some(batch) = store.select_series(now, self.start, self.end, most)? else {
                // These are longer than those before them.
                at_once = (now.len() / 4).max(1);
                continue;
            };
            let widest = batch.iter().map(SeriesData::len).max().unwrap_or(0).max(1);
            give(batch)?;
            rest = later;
            // As many as would have the samples that may be held, if they are like those just read.
            at_once = (max_samples / widest).clamp(1, (at_once * 4).min(SERIES_AT_ONCE));
        }
        Ok(())
    }
}

fn labels_of(labels: &Labels) -> Vec<Label> {
    labels.iter().map(|l| Label { name: l.name.to_string(), value: l.value.to_string() }).collect()
}

fn frames_of(series: &SeriesData, query_index: i64, give: &mut impl FnMut(Vec<u8>) -> Taken) -> Taken {
    let labels = labels_of(&series.labels);
    let times = series.timestamps.chunks(xor::CHUNK_SAMPLES);
    let mut chunks = times.zip(series.values.chunks(xor::CHUNK_SAMPLES)).peekable();
    let (mut held, mut held_bytes) = (Vec::new(), 0);
    while let Some((times, values)) = chunks.next() {
        let (Some(first), Some(last)) = (times.first(), times.last()) else { continue };
        let data = xor::chunk(times, values);
        held_bytes += data.len() + 24;
        held.push(Chunk { min_time_ms: *first, max_time_ms: *last, encoding: 1, data });
        if held_bytes >= FRAME_BYTES || chunks.peek().is_none() {
            let series = ChunkedSeries { labels: labels.clone(), chunks: std::mem::take(&mut held) };
            let response = ChunkedReadResponse { chunked_series: vec![series], query_index };
            if give(frame(&response)) == Taken::No {
                return Taken::No;
            }
            held_bytes = 0;
        }
    }
    Taken::Yes
}

/// Length, CRC-32C, message (`storage/remote/chunked.go`).
fn frame(response: &ChunkedReadResponse) -> Vec<u8> {
    let message = response.encode_to_vec();
    let mut frame = Vec::with_capacity(message.len() + 14);
    prost::encoding::encode_varint(message.len() as u64, &mut frame);
    frame.extend_from_slice(&crc32c::crc32c(&message).to_be_bytes());
    frame.extend_from_slice(&message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::messages::{LabelMatcher, Query};
    use std::time::Duration;
    use veghe_model::{METRIC_NAME, stale_nan};
    use veghe_tsdb::Commit;

    /// Three series; the first has samples of two days, every 15 s.
    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("directory");
        let options =
            veghe_tsdb::Options { dir: dir.path().to_owned(), window: Duration::from_hours(2), max_series: 100 };
        let store = Store::open(options).expect("store").0;
        let mut commit = Commit::default();
        for (instance, count) in [("a", 11_520), ("b", 1), ("c", 121)] {
            let labels = Labels::from_pairs([(METRIC_NAME, "up"), ("instance", instance)]);
            let id = store.series(&labels).expect("series");
            for i in 0..count {
                let value = if i == 5 { stale_nan() } else { f64::from(i) / 3.0 };
                commit.samples.push((id, Timestamp(i64::from(i) * 15_000), value));
            }
        }
        store.commit(commit).expect("commit");
        (dir, store)
    }

    fn request(types: &[i32], matchers: &[(i32, &str, &str)]) -> Vec<u8> {
        let matchers = matchers.iter().map(|&(kind, name, value)| LabelMatcher {
            kind,
            name: name.to_owned(),
            value: value.to_owned(),
        });
        let query = Query { start_timestamp_ms: 0, end_timestamp_ms: i64::MAX, matchers: matchers.collect() };
        let request = ReadRequest { queries: vec![query.clone(), query], accepted_response_types: types.to_vec() };
        snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).expect("snappy")
    }

    /// Index of the query, labels, time stamps and bits of values.
    type Found = (i64, String, Vec<(i64, u64)>);

    fn name_of(labels: &[Label]) -> String {
        labels.iter().map(|l| format!("{}={}", l.name, l.value)).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn a_stream_and_a_whole_answer_have_the_same_samples() {
        let (_dir, store) = store();
        let all = [(0, METRIC_NAME, "up"), (3, "instance", "x.*")];
        let reading = Reading::decode(&request(&[1, 0], &all)).expect("request");
        assert!(reading.is_streamed);
        let mut streamed: Vec<Found> = vec![];
        reading
            .stream(&store, |frame| {
                let mut rest = &*frame;
                let length = prost::encoding::decode_varint(&mut rest).expect("length") as usize;
                let (sum, message) = rest.split_first_chunk::<4>().expect("checksum");
                assert_eq!((message.len(), crc32c::crc32c(message)), (length, u32::from_be_bytes(*sum)));
                let response = ChunkedReadResponse::decode(message).expect("message");
                for series in response.chunked_series {
                    let samples: Vec<_> =
                        series.chunks.iter().flat_map(|chunk| xor::tests::samples(&chunk.data)).collect();
                    assert_eq!(series.chunks[0].min_time_ms, samples[0].0);
                    assert_eq!(series.chunks.last().map(|c| c.max_time_ms), samples.last().map(|s| s.0));
                    streamed.push((response.query_index, name_of(&series.labels), samples));
                }
                Taken::Yes
            })
            .expect("stream");
        let whole = Reading::decode(&request(&[], &all)).expect("request");
        assert!(!whole.is_streamed);
        let bytes = whole.whole(&store).expect("whole");
        let bytes = snap::raw::Decoder::new().decompress_vec(&bytes).expect("snappy");
        let response = ReadResponse::decode(&*bytes).expect("response");
        let expected = (0..).zip(response.results).flat_map(|(index, result)| {
            result.timeseries.into_iter().map(move |series| {
                let samples = series.samples.iter().map(|s| (s.timestamp, s.value.to_bits())).collect();
                (index, name_of(&series.labels), samples)
            })
        });
        let expected: Vec<Found> = expected.collect();
        assert_eq!(streamed, expected);
        let found: Vec<_> =
            streamed.iter().map(|(index, name, samples)| (*index, name.as_str(), samples.len())).collect();
        let (a, b, c) = ("__name__=up,instance=a", "__name__=up,instance=b", "__name__=up,instance=c");
        assert_eq!(found, [(0, a, 11_520), (0, b, 1), (0, c, 121), (1, a, 11_520), (1, b, 1), (1, c, 121)]);
        assert_eq!(streamed[0].2[5], (75_000, stale_nan().to_bits()));
    }

    #[test]
    fn long_series_behind_many_short_ones_are_read_a_few_at_a_time() {
        let (_dir, store) = store();
        let mut commit = Commit::default();
        for number in 0..60 {
            let labels = Labels::from_pairs([(METRIC_NAME, "wide"), ("number", &format!("{number:02}"))]);
            let id = store.series(&labels).expect("series");
            let count = if number < 30 { 1 } else { 100 };
            commit.samples.extend((0..count).map(|i| (id, Timestamp(i * 1000), 1.0)));
        }
        store.commit(commit).expect("commit");
        let matchers = vec![Matcher::equal(METRIC_NAME, "wide")];
        let selection = Selection { matchers, start: Timestamp(0), end: Timestamp::MAX };
        let (mut lengths, mut largest) = (Vec::new(), 0);
        let counted = selection.batches(&store, 250, |batch| {
            largest = largest.max(batch.iter().map(SeriesData::len).sum());
            lengths.extend(batch.iter().map(SeriesData::len));
            Ok(())
        });
        counted.expect("read");
        assert_eq!(lengths, [[1; 30], [100; 30]].concat());
        assert!((200..=250).contains(&largest), "{largest}");
    }

    #[test]
    fn a_reader_that_goes_away_ends_the_stream() {
        let (_dir, store) = store();
        let reading = Reading::decode(&request(&[1], &[(2, METRIC_NAME, "u.")])).expect("request");
        let mut given = 0;
        reading
            .stream(&store, |_frame| {
                given += 1;
                Taken::No
            })
            .expect("no error");
        assert_eq!(given, 1);
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_reason() {
        let told = |bytes: &[u8]| Reading::decode(bytes).expect_err("refused").to_string();
        assert!(told(b"").starts_with("cannot decode the request"), "{}", told(b""));
        assert!(told(&[0xff, 0xff, 0xff, 0xff, 0x0f]).contains("more than 4194304"));
        let wrong_type = "server does not support any of the requested response types: [7]";
        assert!(told(&request(&[7], &[])).starts_with(wrong_type), "{}", told(&request(&[7], &[])));
        assert!(told(&request(&[], &[(9, "a", "b")])).contains("invalid matcher type 9"));
        assert!(told(&request(&[], &[(2, "a", "(")])).contains("cannot compile matcher"));
        let many = ReadRequest { queries: vec![Query::default(); 101], accepted_response_types: vec![] };
        let many = snap::raw::Encoder::new().compress_vec(&many.encode_to_vec()).expect("snappy");
        assert!(told(&many).contains("101 queries"), "{}", told(&many));
        assert!(told(&request(&[], &vec![(0, "a", "b"); 501])).contains("1002 matchers"));
    }
}
