//! What sensors measured: names of series, columns of values, rounds.
//!
//! Invariant: a set of series is shared by reference and never changes; who holds two sets compares the pointers, and
//! strings are compared only by the [`Sink`], in place, without allocation, while nothing changes.
//! What it deliberately does not do: read files, know the clock or the wire format.

use std::collections::HashSet;
use std::sync::Arc;

/// Label pairs of one series: `__name__` first, the rest ascending by name. No `instance` (the collector sets it), no
/// `job` unless it is another than `node`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeriesName(pub Box<[(Box<str>, Box<str>)]>);

impl SeriesName {
    /// The series `metric` with `labels`.
    pub fn new(metric: &str, labels: &[(&str, &str)]) -> Self {
        let pair = |(name, value): (&str, &str)| (Box::from(name), Box::from(value));
        Self(std::iter::once(pair(("__name__", metric))).chain(labels.iter().copied().map(pair)).collect())
    }

    /// The metric's name, the value of `__name__`.
    pub fn metric(&self) -> &str {
        self.0.first().map_or("", |(_, value)| value)
    }

    /// Every label but `__name__`.
    pub fn labels(&self) -> &[(Box<str>, Box<str>)] {
        self.0.get(1..).unwrap_or_default()
    }

    fn is(&self, metric: &str, labels: &[(&str, &str)]) -> bool {
        self.metric() == metric
            && self.labels().len() == labels.len()
            && self.labels().iter().zip(labels).all(|((n, v), (name, value))| **v == **value && **n == **name)
    }
}

/// Series that are measured together, in the order of their values.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SeriesSet(pub Vec<SeriesName>);

impl SeriesSet {
    /// The series of `self` that `now` lacks; `None` if it has them all.
    pub fn ended_in(&self, now: &Self) -> Option<Arc<Self>> {
        let present: HashSet<&SeriesName> = now.0.iter().collect();
        let ended: Vec<_> = self.0.iter().filter(|name| !present.contains(name)).cloned().collect();
        (!ended.is_empty()).then(|| Arc::new(Self(ended)))
    }
}

/// What one sensor measured in one round.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The sensor's name, for example `meminfo`.
    pub sensor: &'static str,
    /// The same `Arc` as in the sensor's round before while nothing changed (`Arc::ptr_eq`).
    pub series: Arc<SeriesSet>,
    /// As many as `series` has, in its order.
    pub values: Vec<f64>,
    /// Series of the sensor's round before that are no more; the uplink sends the staleness marker once.
    pub ended: Option<Arc<SeriesSet>>,
}

/// What was measured at one moment.
#[derive(Clone, Debug)]
pub struct Round {
    /// Milliseconds since the Unix epoch; the planned tick where the real start was within 20 ms of it.
    pub timestamp_ms: i64,
    /// One per sensor, each sensor at most once.
    pub readings: Vec<Reading>,
}

/// Where a sensor puts its values; remembers the series of the round before.
#[derive(Debug, Default)]
pub struct Sink {
    series: Arc<SeriesSet>,
    values: Vec<f64>,
    /// The series so far, once this round differs from the one before.
    changed: Option<Vec<SeriesName>>,
}

impl Sink {
    /// Adds a value of the series `metric` with `labels`, which are ascending by name. Each series once a round.
    pub fn put(&mut self, metric: &str, labels: &[(&str, &str)], value: f64) {
        let position = self.values.len();
        self.values.push(value);
        if let Some(changed) = &mut self.changed {
            changed.push(SeriesName::new(metric, labels));
        } else if !self.series.0.get(position).is_some_and(|name| name.is(metric, labels)) {
            let mut changed = self.series.0.get(..position).unwrap_or_default().to_vec();
            changed.push(SeriesName::new(metric, labels));
            self.changed = Some(changed);
        }
    }

    /// As [`Sink::put`], with a name that was put together before.
    pub fn put_named(&mut self, name: &SeriesName, value: f64) {
        let position = self.values.len();
        self.values.push(value);
        if let Some(changed) = &mut self.changed {
            changed.push(name.clone());
        } else if self.series.0.get(position) != Some(name) {
            let mut changed = self.series.0.get(..position).unwrap_or_default().to_vec();
            changed.push(name.clone());
            self.changed = Some(changed);
        }
    }

    /// Ends the round: its series and values. The next begins empty.
    pub fn take(&mut self) -> (Arc<SeriesSet>, Vec<f64>) {
        let next = Vec::with_capacity(self.values.len());
        let values = std::mem::replace(&mut self.values, next);
        match self.changed.take() {
            Some(changed) => self.series = Arc::new(SeriesSet(changed)),
            None if values.len() < self.series.0.len() => {
                self.series = Arc::new(SeriesSet(self.series.0.get(..values.len()).unwrap_or_default().to_vec()));
            }
            None => {}
        }
        (Arc::clone(&self.series), values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(sink: &mut Sink, devices: &[&str]) -> Arc<SeriesSet> {
        for device in devices {
            sink.put("node_disk_io_now", &[("device", device)], 1.0);
        }
        let (series, values) = sink.take();
        assert_eq!(values.len(), devices.len());
        let names: Vec<_> = devices.iter().map(|d| SeriesName::new("node_disk_io_now", &[("device", d)])).collect();
        assert_eq!(series.0, names);
        series
    }

    #[test]
    fn the_same_series_are_the_same_arc() {
        let mut sink = Sink::default();
        let first = round(&mut sink, &["sda", "sdb"]);
        assert!(Arc::ptr_eq(&first, &round(&mut sink, &["sda", "sdb"])));
    }

    #[test]
    fn added_removed_and_renamed_series_make_a_new_set() {
        let mut sink = Sink::default();
        let mut before = round(&mut sink, &[]);
        for devices in [&["sda", "sdb"][..], &["sda", "sdb", "sdc"], &["sdb", "sdc"], &["sdb"], &["sdx"], &[]] {
            let now = round(&mut sink, devices);
            assert!(!Arc::ptr_eq(&before, &now), "{devices:?}");
            before = now;
        }
    }

    #[test]
    fn ended_series_are_those_that_are_missing_now() {
        let set =
            |devices: &[&str]| SeriesSet(devices.iter().map(|d| SeriesName::new("x", &[("device", d)])).collect());
        assert_eq!(set(&["a", "b"]).ended_in(&set(&["b", "c"])).as_deref(), Some(&set(&["a"])));
        assert_eq!(set(&["a"]).ended_in(&set(&["a", "b"])), None);
    }

    proptest::proptest! {
        #[test]
        fn a_sink_always_tells_exactly_what_was_put(rounds in proptest::collection::vec(proptest::collection::vec("[a-c]", 0..5), 1..8)) {
            let mut sink = Sink::default();
            for devices in &rounds {
                round(&mut sink, &devices.iter().map(String::as_str).collect::<Vec<_>>());
            }
        }
    }
}
