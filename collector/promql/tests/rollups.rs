//! Queries of a source that has roll-ups against the same queries of its samples: the same answers where the rule says
//! so, the best ones and a remark where samples are gone.

#[expect(dead_code, reason = "only scripts say when counts began")]
mod memory;

use std::time::Duration;

use memory::{Memory, limits};
use proptest::prelude::*;
use veghe_model::{Bucket, Expired, Labels, Matcher, RollupSeries, SeriesData, Timestamp, is_stale, stale_nan};
use veghe_promql::{Evaluation, Query, Source, Value};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Samples with roll-ups; of samples before `gone_until` only those of `gone_resolution` are left.
struct Rolled {
    samples: Memory,
    gone: Option<Expired>,
}

impl Source for Rolled {
    fn select(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> Result<Vec<SeriesData>, Failure> {
        let from = self.gone.map_or(start, |gone| gone.until.max(start));
        self.samples.select(matchers, from, end)
    }

    fn rollup_resolution(&self) -> Option<Duration> {
        Some(Duration::from_hours(1))
    }

    fn rollups(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        resolution: Duration,
        max_buckets: usize,
    ) -> Result<Option<Vec<RollupSeries>>, Failure> {
        let length = resolution.as_millis() as i64;
        let end_of = |time: i64| time + (-time).rem_euclid(length);
        let first = end_of(start.0);
        let all = self.samples.select(matchers, Timestamp(first - length + 1), end)?;
        let roll = |series: SeriesData| {
            let mut buckets: Vec<(i64, Bucket)> = Vec::new();
            for sample in series.iter() {
                let (time, value) = (sample.timestamp.0, sample.value);
                let one = if is_stale(value) {
                    Bucket { stale: true, ..Bucket::EMPTY }
                } else {
                    Bucket {
                        count: 1,
                        first_time: time,
                        first: value,
                        last_time: time,
                        last: value,
                        min: value,
                        max: value,
                        sum: value,
                        ..Bucket::EMPTY
                    }
                };
                match buckets.last_mut() {
                    Some((end, bucket)) if *end == end_of(time) => bucket.append(&one),
                    _ => buckets.push((end_of(time), one)),
                }
            }
            buckets.retain(|(bucket_end, _)| *bucket_end <= end.0);
            let (ends, buckets): (Vec<i64>, Vec<Bucket>) = buckets.into_iter().unzip();
            RollupSeries { labels: series.labels, ends: ends.into(), buckets }
        };
        let rolled: Vec<RollupSeries> = all.into_iter().map(roll).filter(|series| !series.buckets.is_empty()).collect();
        let count: usize = rolled.iter().map(|series| series.buckets.len()).sum();
        Ok((count <= max_buckets).then_some(rolled))
    }

    fn expired(&self, _: &[Matcher], start: Timestamp, _: Timestamp) -> Option<Expired> {
        self.gone.filter(|gone| start < gone.until)
    }
}

fn ask(source: &dyn Source, text: &str, (start, end, step): (i64, i64, i64)) -> Evaluation {
    let query = Query::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let step = Duration::from_millis(step as u64);
    let found = query.range(source, Timestamp(start), Timestamp(end), step, &limits(), &|| false);
    found.unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn matrix(evaluation: Evaluation) -> Vec<SeriesData> {
    match evaluation.value {
        Value::Matrix(series) => series,
        other => panic!("not a matrix: {other:?}"),
    }
}

/// The same series and moments, values within `tolerance` of the value or of `size`.
fn assert_near(found: &[SeriesData], expected: &[SeriesData], size: f64, what: &str) {
    let names = |series: &[SeriesData]| series.iter().map(|s| s.labels.clone()).collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert_eq!(a.timestamps, b.timestamps, "{what} {}", a.labels);
        for ((t, a), b) in a.timestamps.iter().zip(&a.values).zip(&b.values) {
            let near = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-9 * b.abs().max(size);
            assert!(near, "{what} at {t}: {a}, not {b}");
        }
    }
}

const EXACT: [&str; 8] = [
    "min_over_time",
    "max_over_time",
    "count_over_time",
    "present_over_time",
    "first_over_time",
    "last_over_time",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
];
const ROUNDED: [&str; 5] = ["sum_over_time", "avg_over_time", "rate", "increase", "delta"];

fn samples() -> impl Strategy<Value = Vec<(i64, f64)>> {
    let value = prop_oneof![
        30 => (0_i64..100_000).prop_map(|v| v as f64 / 8.0),
        // A counter goes on from the one before.
        30 => (0_i64..500).prop_map(|v| -(v as f64) - 1.0),
        2 => Just(stale_nan()),
        1 => Just(f64::NAN),
        1 => prop::sample::select(vec![f64::INFINITY, 0.0, -0.0, 1e12]),
    ];
    let pause = prop::sample::select(vec![1, 15_000, 60_000, 600_000, HOUR_MS, 5 * HOUR_MS - 1, DAY_MS + 7]);
    (-HOUR_MS..HOUR_MS, prop::collection::vec((pause, value), 1..160)).prop_map(|(mut time, steps)| {
        let mut before = 0.0;
        let mut next = |(pause, value): (i64, f64)| {
            time += pause;
            let value = if value < 0.0 { before - value } else { value };
            before = if value.is_finite() { value } else { 0.0 };
            (time, value)
        };
        steps.into_iter().map(&mut next).collect()
    })
}

fn labels(name: &str, n: usize) -> Labels {
    Labels::from_pairs([("__name__", name.to_owned()), ("n", n.to_string())])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn aligned_windows_of_roll_ups_give_what_samples_give(
        series in prop::collection::vec(samples(), 1..4),
        start in -30_i64..60,
        steps in 1_i64..60,
        step in 1_i64..30,
        range in 24_i64..100,
        offset in prop::sample::select(vec!["", " offset 7h", " offset -1d", " @ end()"]),
    ) {
        let mut rolled = Rolled { samples: Memory::default(), gone: None };
        for (n, samples) in series.iter().enumerate() {
            rolled.samples.append(labels("m_total", n), samples.iter().copied());
        }
        let times = (start * HOUR_MS, (start + steps * step) * HOUR_MS, step * HOUR_MS);
        for name in EXACT.iter().chain(&ROUNDED) {
            let text = format!("{name}(m_total[{range}h]{offset})");
            let (found, expected) = (ask(&rolled, &text, times), ask(&rolled.samples, &text, times));
            prop_assert_eq!(&found.infos, &expected.infos);
            prop_assert!(found.stats.read <= expected.stats.read.max(1));
            let size = if EXACT.contains(name) { 0.0 } else { 2e12 };
            assert_near(&matrix(found), &matrix(expected), size, &text);
        }
    }
}

/// Ten days of a counter that rises by 2 each 30 s, with a reset each 2 h, and of a gauge of half hours.
fn ten_days(gone: Option<Expired>) -> Rolled {
    let mut samples = Memory::default();
    let times = || (1..=10 * DAY_MS / 30_000).map(|n| n * 30_000);
    samples.append(labels("c_total", 0), times().map(|t| (t, (t % (2 * HOUR_MS) / 15_000) as f64)));
    samples.append(labels("g", 0), times().map(|t| (t, (t / 1_800_000) as f64)));
    Rolled { samples, gone }
}

fn gone(days: i64, resolution: Duration) -> Expired {
    Expired { until: Timestamp(days * DAY_MS), resolution }
}

const FIVE_MINUTES: Duration = Duration::from_mins(5);
const ONE_HOUR: Duration = Duration::from_hours(1);

#[test]
fn what_spans_days_reads_buckets_and_no_samples() {
    let rolled = ten_days(None);
    let times = (2 * DAY_MS, 10 * DAY_MS, 6 * HOUR_MS);
    let found = ask(&rolled, "sum(increase(c_total[1d]))", times);
    let expected = ask(&rolled.samples, "sum(increase(c_total[1d]))", times);
    assert_eq!((found.stats.read, expected.stats.read), (9 * 24, 9 * 2_880));
    assert_near(&matrix(found), &matrix(expected), 0.0, "increase");
    // Not aligned, or short: samples.
    for (text, times) in [
        ("sum(increase(c_total[1d]))", (2 * DAY_MS + 1, 10 * DAY_MS, 6 * HOUR_MS)),
        ("sum(increase(c_total[90m]))", times),
        ("sum(increase(c_total[1h]))", (DAY_MS, 2 * DAY_MS - 2 * HOUR_MS, HOUR_MS)),
        ("sum(increase(c_total[1d]))", (2 * DAY_MS, 10 * DAY_MS, 90 * 60_000)),
        ("sum(quantile_over_time(0.5, g[1d]))", times),
    ] {
        let (found, expected) = (ask(&rolled, text, times), ask(&rolled.samples, text, times));
        assert_eq!(found.stats, expected.stats, "{text}");
        assert_near(&matrix(found), &matrix(expected), 0.0, text);
    }
}

#[test]
fn where_samples_are_gone_aligned_windows_say_the_same_and_nothing_of_it() {
    let all = ten_days(None);
    for resolution in [FIVE_MINUTES, ONE_HOUR] {
        let rolled = ten_days(Some(gone(5, resolution)));
        for name in EXACT.iter().chain(&ROUNDED) {
            let text = format!("{name}(g[2h])");
            let times = (DAY_MS, 10 * DAY_MS, HOUR_MS);
            let (found, expected) = (ask(&rolled, &text, times), ask(&all.samples, &text, times));
            assert_eq!(found.infos, expected.infos, "{text}");
            assert_near(&matrix(found), &matrix(expected), 0.0, &text);
        }
    }
    // At 5 minutes too, as long as those are there.
    let times = (DAY_MS, 10 * DAY_MS, 300_000);
    let (found, expected) = (
        ask(&ten_days(Some(gone(5, FIVE_MINUTES))), "increase(c_total[10m])", times),
        ask(&all.samples, "increase(c_total[10m])", times),
    );
    assert!(found.infos.is_empty(), "{:?}", found.infos);
    assert_near(&matrix(found), &matrix(expected), 0.0, "increase at 5 minutes");
}

#[test]
fn where_samples_are_gone_other_windows_are_moved_and_it_is_said() {
    let all = ten_days(None);
    let rolled = ten_days(Some(gone(5, ONE_HOUR)));
    let times = (4 * DAY_MS + 1_234_567, 6 * DAY_MS, 1_000_000);
    let found = ask(&rolled, "rate(c_total[3h])", times);
    assert_eq!(
        found.infos,
        [
            "PromQL info: samples before 1970-01-06T00:00:00Z are gone; of their roll-ups windows begin and end at multiples of 1h (1:6)"
        ]
    );
    let (found, expected) = (matrix(found), matrix(ask(&all.samples, "rate(c_total[3h])", times)));
    assert_eq!(found[0].timestamps, expected[0].timestamps);
    for ((t, a), b) in found[0].timestamps.iter().zip(&found[0].values).zip(&expected[0].values) {
        if t - 3 * HOUR_MS >= 5 * DAY_MS {
            assert_eq!(a, b, "{t}");
        } else {
            assert!((a - b).abs() < 0.02 * b, "{t}: {a}, not {b}");
        }
    }
    // A window shorter than a bucket takes one.
    let (found, expected) =
        (ask(&rolled, "increase(c_total[5m])", times), ask(&all.samples, "increase(c_total[5m])", times));
    let (found, expected) = (matrix(found), matrix(expected));
    assert_eq!(found[0].timestamps, expected[0].timestamps);
    for ((t, a), b) in found[0].timestamps.iter().zip(&found[0].values).zip(&expected[0].values) {
        let expected = if t - 300_000 >= 5 * DAY_MS { *b } else { 20.0 };
        assert!((a - expected).abs() < 0.2, "{t}: {a}, not {expected}");
    }
}

#[test]
fn where_samples_are_gone_the_last_value_of_a_bucket_stands_for_them() {
    let rolled = ten_days(Some(gone(5, ONE_HOUR)));
    let times = (4 * DAY_MS, 6 * DAY_MS, 10 * 60_000);
    let found = ask(&rolled, "g", times);
    assert_eq!(
        found.infos,
        ["PromQL info: samples before 1970-01-06T00:00:00Z are gone; the last value of each 1h stands for them (1:1)"]
    );
    let found = matrix(found);
    assert_eq!(found[0].len() as i64, 2 * DAY_MS / 600_000 + 1);
    for (t, v) in found[0].timestamps.iter().zip(&found[0].values) {
        // Half hours are even at the end of an hour.
        let hour = t / HOUR_MS * 2;
        let expected = if *t < 5 * DAY_MS { hour } else { t / 1_800_000 };
        assert_eq!(*v, expected as f64, "{t}");
    }
    let found = ask(&rolled, "quantile_over_time(1, g[2h])", times);
    assert_eq!((found.infos.len(), matrix(found)[0].len() as i64), (1, 2 * DAY_MS / 600_000 + 1));
    // An instant, too; and what is not gone is not spoken of.
    let at = |t: i64| {
        let query = Query::parse("g").expect("query");
        query.instant(&rolled, Timestamp(t), &limits(), &|| false).expect("result")
    };
    assert_eq!((at(4 * DAY_MS + 1_000_000).infos.len(), at(9 * DAY_MS).infos.len()), (1, 0));
    assert!(matches!(at(4 * DAY_MS + 1_000_000).value, Value::Vector(v) if v.len() == 1));
}

#[test]
fn a_series_that_ended_stays_ended_in_its_roll_ups() {
    let mut rolled = Rolled { samples: Memory::default(), gone: Some(gone(5, ONE_HOUR)) };
    let ended = (0..120).map(|n| (n * 60_000 + 1, 1.0)).chain([(120 * 60_000, stale_nan())]);
    rolled.samples.append(labels("g", 0), ended);
    let found = matrix(ask(&rolled, "g", (0, DAY_MS, 600_000)));
    assert_eq!((found[0].timestamps[0], found[0].timestamps.last().copied()), (HOUR_MS, Some(2 * HOUR_MS - 600_000)));
}
