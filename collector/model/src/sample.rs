//! Points in time, samples and whole series.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::Labels;

/// What of its samples a selection is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Moments and values.
    Values,
    /// Moments, and which samples are staleness markers: other values may be any.
    Presence,
}

/// How far a selection that several threads make may be ahead in telling one series while it still makes an earlier one: what
/// whoever needs them in order holds back at most.
pub const SERIES_OUT_OF_ORDER: usize = 1024;

/// Milliseconds since the Unix epoch, as everywhere in Prometheus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Before every sample.
    pub const MIN: Self = Self(i64::MIN);
    /// After every sample.
    pub const MAX: Self = Self(i64::MAX);

    /// The moment in milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// The moment in seconds since the Unix epoch, as query results show it.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// The nearest millisecond to `seconds` since the Unix epoch.
    pub fn from_seconds(seconds: f64) -> Self {
        Self((seconds * 1000.0).round() as i64)
    }

    /// `self + span`, held at [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// `self - span`, held at [`Timestamp::MIN`].
    #[must_use]
    pub fn saturating_sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seconds())
    }
}

/// One value of one series at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When it was taken.
    pub timestamp: Timestamp,
    /// What was measured; [`is_stale`] tells the marker that ends a series.
    pub value: f64,
}

/// The bits of Prometheus' staleness marker: a NaN that no computation yields
/// (`model/value/value.go`, `StaleNaN`).
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The value that says "this series ends here".
pub const fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// Whether `value` is the staleness marker, told by its bits: an ordinary NaN is a value.
pub const fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// Samples of one series over some range: `timestamps[i]` belongs to `values[i]`, strictly ascending in time.
///
/// Series of one target usually share their time stamps, so the column is shared too.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesData {
    /// Which series.
    pub labels: Labels,
    /// Milliseconds since the Unix epoch, strictly ascending.
    pub timestamps: Arc<[i64]>,
    /// As many values; staleness markers included.
    pub values: Vec<f64>,
}

impl SeriesData {
    /// A series of the given samples, which must ascend strictly in time.
    pub fn new(labels: Labels, samples: &[Sample]) -> Self {
        Self {
            labels,
            timestamps: samples.iter().map(|s| s.timestamp.0).collect(),
            values: samples.iter().map(|s| s.value).collect(),
        }
    }

    /// The samples, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Sample> + ExactSizeIterator + '_ {
        self.timestamps.iter().zip(&self.values).map(|(&t, &value)| Sample { timestamp: Timestamp(t), value })
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_nan_is_not_stale() {
        assert!(is_stale(stale_nan()));
        assert!(!is_stale(f64::NAN));
        assert!(stale_nan().is_nan());
    }

    #[test]
    fn seconds_round_to_the_nearest_millisecond() {
        assert_eq!(Timestamp::from_seconds(1.0004), Timestamp(1000));
        assert_eq!(Timestamp::from_seconds(1.0006), Timestamp(1001));
        assert_eq!(Timestamp(1500).since(Timestamp(2000)), Duration::ZERO);
    }
}
