//! Parts of the log made ready to be sent: records in, requests out.
//!
//! Invariants: the same records give the same requests, so that a part can be sent again as it was; within a shard the
//! in-order samples of a series ascend over all requests; a sample at or before one that its series already sent is in
//! a request of its own kind, because Prometheus refuses a request whole for one of them. A repeat within a part, or of
//! the series' last sample, is left out. What it deliberately does not do: know of earlier samples than that; a repeat
//! of one goes out again.

use std::collections::HashMap;
use std::ops::Range;

use veghe_model::{Labels, RelabelRule, Timestamp, relabel};
use veghe_tsdb::{LogPosition, LogTail, SeriesId, Store, TailError};

use super::Protocol;
use super::encode::{self, Encoder};
use super::settings::Target;

/// The requests for each shard that make one part, about.
const REQUESTS_PER_SHARD: usize = 4;
/// Where a request is cut before it has all samples that it may have: labels can be long.
const REQUEST_BYTES: usize = 4 << 20;
/// Bytes of labels that are remembered with their series; beyond, all are forgotten and looked up anew.
const MAX_CACHED_BYTES: usize = 64 << 20;

/// One request and what it holds.
#[derive(Debug)]
pub(super) struct Request {
    protocol: Protocol,
    series: Vec<(Labels, Range<usize>)>,
    samples: Vec<(i64, f64)>,
    /// Compressed.
    pub(super) body: bytes::Bytes,
}

impl Request {
    fn new(
        protocol: Protocol,
        series: Vec<(Labels, Range<usize>)>,
        samples: Vec<(i64, f64)>,
        encoder: &mut Encoder,
    ) -> Self {
        let entries = series.iter().map(|(labels, at)| (labels, &samples[at.clone()]));
        let body = encoder.request(protocol, entries).into();
        Self { protocol, series, samples, body }
    }

    /// How many samples it holds.
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    /// Its time stamps' latest.
    pub(super) fn newest(&self) -> Timestamp {
        Timestamp(self.samples.iter().map(|sample| sample.0).max().unwrap_or(i64::MIN))
    }

    /// A series that it holds, for messages.
    pub(super) fn first_series(&self) -> String {
        self.series.first().map_or_else(String::new, |(labels, _)| labels.to_string())
    }

    /// Two requests of half the samples each, in order; none where it has only one.
    pub(super) fn split(&self) -> Option<(Self, Self)> {
        let half = self.samples.len() / 2;
        if half == 0 {
            return None;
        }
        let part = |bounds: Range<usize>| {
            let within = self.series.iter().filter_map(|(labels, at)| {
                let at = at.start.max(bounds.start)..at.end.min(bounds.end);
                (!at.is_empty()).then(|| (labels.clone(), at.start - bounds.start..at.end - bounds.start))
            });
            Self::new(self.protocol, within.collect(), self.samples[bounds.clone()].to_vec(), &mut Encoder::default())
        };
        Some((part(0..half), part(half..self.samples.len())))
    }
}

/// What is sent before the mark moves on.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Where a reader is that has read it.
    pub(super) end: LogPosition,
    /// Whether nothing was behind it when it was read.
    pub(super) at_end: bool,
    /// Whether what is behind it could not be read now, and may be later.
    pub(super) blocked: bool,
    /// Samples of the log in it, those that are not sent included.
    pub(super) read: u64,
    /// Samples of series that relabelling drops.
    pub(super) dropped: u64,
    /// Records that could not be read, and all behind them in their segment.
    pub(super) errors: u64,
    /// For each shard its requests in order.
    pub(super) shards: Vec<Vec<Request>>,
}

impl Part {
    /// Samples in its requests.
    pub(super) fn samples(&self) -> u64 {
        self.shards.iter().flatten().map(|request| request.len() as u64).sum()
    }
}

/// What becomes of a segment that the file system does not let be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The part ends before it: it may be better later.
    Awaited,
    /// It is left out and counted.
    Skipped,
}

/// Reads the log for one target.
pub(super) struct Reader {
    store: Store,
    tail: LogTail,
    external: Labels,
    rules: Vec<RelabelRule>,
    protocol: Protocol,
    shards: usize,
    request_samples: usize,
    /// What the target is told of a series; none where it is dropped.
    cache: HashMap<SeriesId, Option<Labels>>,
    cached_bytes: usize,
    /// The latest time stamp of each series so far, by its number.
    newest: Vec<i64>,
    encoder: Encoder,
}

impl Reader {
    /// A reader of everything after `position` for `target`.
    pub(super) fn new(store: &Store, position: LogPosition, external: Labels, target: &Target) -> Self {
        Self {
            tail: store.log_tail(position),
            store: store.clone(),
            external,
            rules: target.relabel.clone(),
            protocol: target.protocol,
            shards: target.queue.max_shards,
            request_samples: target.queue.max_samples_per_send,
            cache: HashMap::new(),
            cached_bytes: 0,
            newest: Vec::new(),
            encoder: Encoder::default(),
        }
    }

    /// The next part: everything through `through`, or without it as much as fits, to the end of the log at most; less
    /// where it is [`blocked`](Part::blocked). Blocks.
    pub(super) fn read(&mut self, through: Option<LogPosition>, mut unreadable: Unreadable) -> Part {
        let mut part = Part { end: self.tail.position(), ..Part::default() };
        let enough = (self.shards * self.request_samples * REQUESTS_PER_SHARD) as u64;
        // (shard, series, time, place in the log)
        let (mut in_order, mut late) = (Vec::new(), Vec::new());
        let mut sending = 0;
        loop {
            let complete = match through {
                Some(through) => self.tail.position() >= through,
                None => sending >= enough,
            };
            if complete {
                break;
            }
            let record = match self.tail.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => {
                    part.at_end = true;
                    break;
                }
                Err(error @ TailError::Io { .. }) if unreadable == Unreadable::Awaited => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot read the log for remote write now; it is tried again"
                    );
                    part.blocked = true;
                    break;
                }
                Err(error) => {
                    if matches!(error, TailError::Io { .. }) {
                        self.tail.skip_segment();
                        // The next one is waited for as long; but a part that is repeated ends where it ended.
                        if through.is_none() {
                            unreadable = Unreadable::Awaited;
                        }
                    }
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot read the log; what is left of this segment is not passed on"
                    );
                    part.errors += 1;
                    continue;
                }
            };
            part.read += record.samples.len() as u64;
            for (id, time, value) in record.samples {
                if self.target_labels(id).is_none() {
                    part.dropped += 1;
                    continue;
                }
                let shard = id.0 as usize % self.shards;
                let newest = self.newest_of(id);
                if time.0 > *newest {
                    *newest = time.0;
                    in_order.push((shard, id, time.0, value));
                    sending += 1;
                } else if time.0 < *newest {
                    late.push((shard, id, time.0, value));
                    sending += 1;
                }
            }
        }
        part.end = self.tail.position();
        // In-order samples of a series ascend already; of late ones that are equal the first came first.
        in_order.sort_by_key(|&(shard, id, time, _)| (shard, id, time));
        late.sort_by_key(|&(shard, id, time, _)| (shard, id, time));
        late.dedup_by_key(|&mut (_, id, time, _)| (id, time));
        late.retain(|&(shard, id, time, _)| {
            in_order.binary_search_by_key(&(shard, id, time), |&(shard, id, time, _)| (shard, id, time)).is_err()
        });
        part.shards = (0..self.shards).map(|_| Vec::new()).collect();
        for samples in [in_order, late] {
            self.cut(&samples, &mut part.shards);
        }
        part
    }

    /// Cuts sorted samples into requests, behind those that each shard has.
    fn cut(&mut self, samples: &[(usize, SeriesId, i64, f64)], shards: &mut [Vec<Request>]) {
        for of_shard in samples.chunk_by(|a, b| a.0 == b.0) {
            let mut draft = Draft::default();
            for of_series in of_shard.chunk_by(|a, b| a.1 == b.1) {
                let (shard, id, ..) = of_series[0];
                let Some(labels) = self.target_labels(id) else { continue };
                let mut rest = of_series;
                while !rest.is_empty() {
                    let room = self.request_samples - draft.samples.len();
                    let (now, later) = rest.split_at(rest.len().min(room));
                    draft.add(&labels, now);
                    rest = later;
                    if draft.samples.len() >= self.request_samples || draft.bytes >= REQUEST_BYTES {
                        shards[shard].extend(std::mem::take(&mut draft).finish(self.protocol, &mut self.encoder));
                    }
                }
            }
            let shard = of_shard[0].0;
            shards[shard].extend(draft.finish(self.protocol, &mut self.encoder));
        }
    }

    fn newest_of(&mut self, id: SeriesId) -> &mut i64 {
        let at = id.0 as usize;
        if self.newest.len() <= at {
            self.newest.resize(at + 1, i64::MIN);
        }
        &mut self.newest[at]
    }

    /// The labels by which the target knows a series.
    fn target_labels(&mut self, id: SeriesId) -> Option<Labels> {
        if let Some(known) = self.cache.get(&id) {
            return known.clone();
        }
        let labels = self.store.labels(id);
        let mut builder = labels.to_builder();
        for label in &self.external {
            // A series' own label is stronger, as in Prometheus.
            if builder.get(&label.name).is_none() {
                builder.set(std::sync::Arc::clone(&label.name), std::sync::Arc::clone(&label.value));
            }
        }
        // A series that the store does not know must not become one of external labels alone.
        let found = if labels.is_empty() { None } else { relabel(&builder.build(), &self.rules) };
        if self.cached_bytes > MAX_CACHED_BYTES {
            self.cache.clear();
            self.cached_bytes = 0;
        }
        self.cached_bytes += 64 + found.as_ref().map_or(0, |labels| encode::bound(labels, 0));
        self.cache.insert(id, found.clone());
        found
    }
}

/// A request that grows.
#[derive(Default)]
struct Draft {
    series: Vec<(Labels, Range<usize>)>,
    samples: Vec<(i64, f64)>,
    bytes: usize,
}

impl Draft {
    fn add(&mut self, labels: &Labels, samples: &[(usize, SeriesId, i64, f64)]) {
        let start = self.samples.len();
        self.samples.extend(samples.iter().map(|&(_, _, time, value)| (time, value)));
        self.series.push((labels.clone(), start..self.samples.len()));
        self.bytes += encode::bound(labels, samples.len());
    }

    fn finish(self, protocol: Protocol, encoder: &mut Encoder) -> Option<Request> {
        if self.samples.is_empty() {
            return None;
        }
        Some(Request::new(protocol, self.series, self.samples, encoder))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use url::Url;
    use veghe_model::{RelabelAction, RelabelSettings};
    use veghe_tsdb::{Commit, Options};

    use super::super::decode::{Decoded, label_pairs};
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("directory");
        let options = Options { dir: dir.path().to_owned(), window: Duration::from_hours(2), max_series: 100 };
        let (store, _) = Store::open(options).expect("store");
        (dir, store)
    }

    fn commit(store: &Store, samples: &[(&str, i64, f64)]) {
        let samples = samples.iter().map(|(instance, time, value)| {
            let labels = Labels::from_pairs([("__name__", "up"), ("instance", instance)]);
            (store.series(&labels).expect("series"), Timestamp(*time), *value)
        });
        store.commit(Commit { samples: samples.collect(), ..Commit::default() }).expect("commit");
    }

    fn target(max_shards: usize, max_samples_per_send: usize) -> Target {
        let mut target = Target::new(Url::parse("http://a/").expect("url"));
        (target.queue.max_shards, target.queue.max_samples_per_send) = (max_shards, max_samples_per_send);
        target
    }

    type Content = Vec<(String, Vec<(i64, f64)>)>;

    /// What a receiver finds in a request.
    fn content(request: &Request) -> Content {
        let body = snap::raw::Decoder::new().decompress_vec(&request.body).expect("snappy");
        let mut decoded = Decoded::default();
        decoded.version_1(&body, |_| None).expect("request");
        let mut found = Vec::new();
        for series in &decoded.series {
            let pairs = label_pairs(decoded.labels(&body, series)).expect("labels");
            found.push((Labels::from_pairs(pairs).to_string(), decoded.samples[series.samples.clone()].to_vec()));
        }
        found
    }

    fn contents(part: &Part) -> Vec<Content> {
        part.shards.iter().flatten().map(content).collect()
    }

    fn up(instance: &str, samples: &[(i64, f64)]) -> (String, Vec<(i64, f64)>) {
        (format!("up{{instance=\"{instance}\"}}"), samples.to_vec())
    }

    #[test]
    fn late_samples_have_requests_of_their_own_and_repeats_are_left_out() {
        let (_dir, store) = store();
        let mut reader = Reader::new(&store, store.log_end(), Labels::default(), &target(1, 3));
        commit(&store, &[("a", 10, 1.0), ("b", 10, 2.0)]);
        // A repeat of the last sample, a late one twice, a sample of now, a late one that is a repeat within the part.
        commit(&store, &[("a", 10, 9.0), ("b", 5, 3.0), ("b", 5, 4.0), ("b", 20, 5.0), ("b", 10, 6.0), ("b", 30, 7.0)]);
        let part = reader.read(None, Unreadable::Awaited);
        assert!(part.at_end);
        assert_eq!((part.read, part.samples(), part.end), (8, 5, store.log_end()));
        assert_eq!(
            contents(&part),
            [
                vec![up("a", &[(10, 1.0)]), up("b", &[(10, 2.0), (20, 5.0)])],
                vec![up("b", &[(30, 7.0)])],
                vec![up("b", &[(5, 3.0)])],
            ]
        );
        // What an earlier part sent stays known.
        commit(&store, &[("b", 30, 8.0), ("b", 25, 1.0)]);
        assert_eq!(contents(&reader.read(None, Unreadable::Awaited)), [[up("b", &[(25, 1.0)])]]);
    }

    #[test]
    fn the_same_records_give_the_same_requests() {
        let (_dir, store) = store();
        let start = store.log_end();
        let target = target(3, 2);
        let mut reader = Reader::new(&store, start, Labels::default(), &target);
        for row in 0..20 {
            let names = ["a", "b", "c", "d", "e"];
            commit(&store, &names.map(|name| (name, row, row as f64)));
        }
        let first = reader.read(None, Unreadable::Awaited);
        assert!(!first.at_end && first.samples() >= 24, "{first:?}");
        assert!(first.end < store.log_end());
        let bodies = |part: &Part| part.shards.iter().map(|s| s.iter().map(|r| r.body.clone()).collect()).collect();
        let again = Reader::new(&store, start, Labels::default(), &target).read(Some(first.end), Unreadable::Awaited);
        let (first_bodies, again_bodies): (Vec<Vec<_>>, Vec<Vec<_>>) = (bodies(&first), bodies(&again));
        assert_eq!(first_bodies, again_bodies);
        assert_eq!((again.end, again.at_end), (first.end, false));
        // Nothing is left out between parts, and each series ascends.
        let mut all: HashMap<String, Vec<i64>> = HashMap::new();
        let mut part = first;
        loop {
            for (name, samples) in contents(&part).into_iter().flatten() {
                all.entry(name).or_default().extend(samples.iter().map(|sample| sample.0));
            }
            if part.at_end {
                break;
            }
            part = reader.read(None, Unreadable::Awaited);
        }
        let rows: Vec<i64> = (0..20).collect();
        assert!(all.len() == 5 && all.into_values().all(|times| times == rows));
    }

    #[test]
    fn rules_see_external_labels_and_what_they_drop_is_counted() {
        let (_dir, store) = store();
        let mut target = target(1, 10);
        let settings = [
            RelabelSettings {
                source_labels: vec!["instance".to_owned()],
                regex: "b".to_owned(),
                action: RelabelAction::Drop,
                ..RelabelSettings::default()
            },
            RelabelSettings {
                source_labels: vec!["site".to_owned()],
                target_label: "place".to_owned(),
                replacement: "at-$1".to_owned(),
                ..RelabelSettings::default()
            },
        ];
        target.relabel = settings.map(|settings| RelabelRule::new(settings).expect("rule")).to_vec();
        let external = Labels::from_pairs([("site", "cluj"), ("instance", "weaker")]);
        let mut reader = Reader::new(&store, store.log_end(), external, &target);
        commit(&store, &[("a", 1, 1.0), ("b", 1, 2.0)]);
        let part = reader.read(None, Unreadable::Awaited);
        assert_eq!((part.read, part.dropped), (2, 1));
        let name = r#"up{instance="a", place="at-cluj", site="cluj"}"#.to_owned();
        assert_eq!(contents(&part), [[(name, vec![(1, 1.0)])]]);
    }

    #[test]
    fn a_request_splits_down_to_single_samples() {
        let (_dir, store) = store();
        let mut reader = Reader::new(&store, store.log_end(), Labels::default(), &target(1, 10));
        commit(&store, &[("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, 3.0)]);
        let part = reader.read(None, Unreadable::Awaited);
        let (first, second) = part.shards[0][0].split().expect("two");
        assert_eq!(content(&first), [up("a", &[(1, 1.0)])]);
        assert_eq!(content(&second), [up("a", &[(2, 2.0)]), up("b", &[(1, 3.0)])]);
        assert!(first.split().is_none());
        assert_eq!((second.len(), second.newest()), (2, Timestamp(2)));
    }
}
