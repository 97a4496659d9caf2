//! Roll-ups against their definition, worked out from what was committed: with resets, staleness markers, NaN, gaps and
//! late samples, in the head, in chunks, across both, and after a reopening.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use veghe_model::{Bucket, Labels, MatchOp, Matcher, Timestamp, is_stale, stale_nan};
use veghe_tsdb::{Ages, Commit, Options, Retention, Store};

const SERIES: usize = 3;
const WINDOW_MS: i64 = 600_000;

fn open(dir: &Path) -> Store {
    let options = Options { dir: dir.to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 100 };
    let store = Store::open(options).expect("store opens").0;
    store.roll_up_from(1);
    store
}

fn labels(n: usize) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())])
}

const DAY_MS: i64 = 12 * WINDOW_MS;

/// Seals everything and, after a rest, merges it.
fn settle(store: &Store) {
    for now in [1_000_000_000, 1_000_000_000 + 2 * DAY_MS] {
        while store.seal(Timestamp(now)).expect("seal").more {}
    }
}

type Series = BTreeMap<usize, BTreeMap<i64, f64>>;

/// What was committed and not deleted.
struct Model {
    samples: Series,
    /// The series and days whose samples retention took, and of those the ones that it left no roll-ups of 5 minutes.
    expired: BTreeSet<(usize, i64)>,
    coarse: BTreeSet<(usize, i64)>,
}

impl Model {
    fn new() -> Self {
        Self { samples: Series::new(), expired: BTreeSet::new(), coarse: BTreeSet::new() }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Run {
        n: usize,
        time: i64,
        pause: i64,
        values: Vec<f64>,
    },
    Seal {
        now: i64,
    },
    /// Everything is merged; then samples that ended before go, and roll-ups stay, those of 5 minutes perhaps.
    Retain {
        days: i64,
        minutes5: bool,
    },
    Delete {
        n: usize,
        time: i64,
        length: i64,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        12 => (0_i64..1_000).prop_map(|v| v as f64 / 4.0),
        1 => Just(stale_nan()),
        1 => Just(f64::NAN),
        1 => prop::sample::select(vec![-0.0, f64::INFINITY, -1e300, 1e-9]),
    ];
    // Times on and around the ends of buckets, windows and days.
    let time = (-30_i64..300, prop::sample::select(vec![-1, 0, 1, 17, 14_999])).prop_map(|(n, off)| n * 300_000 + off);
    let pause = prop::sample::select(vec![1, 999, 15_000, 60_000, 299_999, 300_000, 1_234_567]);
    prop_oneof![
        8 => (0..SERIES, time, pause, prop::collection::vec(value, 1..60))
            .prop_map(|(n, time, pause, values)| Step::Run { n, time, pause, values }),
        2 => (0_i64..200).prop_map(|n| Step::Seal { now: n * 1_000_000 }),
        1 => (-2_i64..40, any::<bool>()).prop_map(|(days, minutes5)| Step::Retain { days, minutes5 }),
        1 => (0..SERIES, 0_i64..90_000_000, 0_i64..9_000_000).prop_map(|(n, time, length)| Step::Delete { n, time, length }),
        1 => Just(Step::Reopen),
    ]
}

/// The bucket of `(end - resolution, end]`; the sum is that of the values as they come.
fn defined(samples: &BTreeMap<i64, f64>, end: i64, resolution: i64) -> Option<Bucket> {
    let all: Vec<(i64, f64)> = samples.range(end - resolution + 1..=end).map(|(t, v)| (*t, *v)).collect();
    let stale = is_stale(all.last()?.1);
    let live: Vec<(i64, f64)> = all.into_iter().filter(|(_, v)| !is_stale(*v)).collect();
    let (first, last) = (live.first().copied().unwrap_or_default(), live.last().copied().unwrap_or_default());
    let values = || live.iter().map(|s| s.1);
    Some(Bucket {
        count: live.len() as u32,
        first_time: first.0,
        first: first.1,
        last_time: last.0,
        last: last.1,
        // `f64::min` and `f64::max` prefer what is not NaN.
        min: values().reduce(f64::min).unwrap_or(0.0),
        max: values().reduce(f64::max).unwrap_or(0.0),
        sum: values().sum(),
        resets: live.windows(2).filter(|pair| pair[1].1 < pair[0].1).map(|pair| pair[0].1).sum(),
        stale,
    })
}

fn same(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan()
}

fn check(store: &Store, model: &Model, (start, end): (i64, i64)) {
    let all = Matcher::new("n", MatchOp::Regex, ".+").expect("pattern");
    for resolution in Store::resolutions() {
        let found = store
            .rollups(std::slice::from_ref(&all), Timestamp(start), Timestamp(end), resolution)
            .expect("read")
            .expect("covered");
        let resolution = resolution.as_millis() as i64;
        let mut expected: BTreeMap<Labels, Vec<(i64, Bucket)>> = BTreeMap::new();
        for (n, samples) in &model.samples {
            let kept = |t: i64| resolution == 3_600_000 || !model.coarse.contains(&(*n, t.div_euclid(DAY_MS)));
            let samples: &BTreeMap<i64, f64> =
                &samples.iter().filter(|(t, _)| kept(**t)).map(|(t, v)| (*t, *v)).collect();
            let ends: BTreeSet<i64> = samples
                .keys()
                .map(|t| t.div_euclid(resolution) * resolution)
                .flat_map(|e| [e, e + resolution])
                .collect();
            for e in ends.into_iter().filter(|e| (start..=end).contains(e)) {
                if let Some(bucket) = defined(samples, e, resolution) {
                    expected.entry(labels(*n)).or_default().push((e, bucket));
                }
            }
        }
        let names: Vec<&Labels> = found.iter().map(|s| &s.labels).collect();
        assert_eq!(names, expected.keys().collect::<Vec<_>>());
        for series in &found {
            let expected = &expected[&series.labels];
            assert_eq!(series.ends.to_vec(), expected.iter().map(|e| e.0).collect::<Vec<_>>());
            assert_eq!(series.buckets.len(), expected.len());
            for (a, (end, b)) in series.buckets.iter().zip(expected) {
                let what = format!("{} at {end}: {a:?}, not {b:?}", series.labels);
                assert_eq!((a.count, a.stale), (b.count, b.stale), "{what}");
                if a.count == 0 {
                    continue;
                }
                assert_eq!((a.first_time, a.last_time), (b.first_time, b.last_time), "{what}");
                assert!(same(a.first, b.first) && same(a.last, b.last), "{what}");
                assert!(same(a.min, b.min) && same(a.max, b.max), "{what}");
                assert!(same(a.resets, b.resets), "{what}");
                // The same but for what the plain sum loses to values of another size.
                let size = b.first.abs().max(b.min.abs()).max(b.max.abs());
                assert!(same(a.sum, b.sum) || (a.sum - b.sum).abs() <= size * 1e-12 * f64::from(b.count), "{what}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn roll_ups_are_what_their_definition_makes_of_the_samples(
        steps in prop::collection::vec(step(), 1..25),
        from in -3_000_000_i64..20_000_000,
        length in 0_i64..100_000_000,
    ) {
        let dir = tempfile::tempdir().expect("directory");
        let mut store = open(dir.path());
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Run { n, time, pause, values } => {
                    let id = store.series(&labels(n)).expect("series");
                    let times = (0..).map(|i| time + i * pause);
                    let samples: Vec<_> = times.zip(values).map(|(t, v)| (id, Timestamp(t), v)).collect();
                    for (_, t, v) in &samples {
                        // What comes for a day whose samples are gone comes to nothing.
                        if !model.expired.contains(&(n, t.0.div_euclid(DAY_MS))) {
                            model.samples.entry(n).or_default().entry(t.0).or_insert(*v);
                        }
                    }
                    store.commit(Commit { samples, ..Commit::default() }).expect("commit");
                }
                Step::Seal { now } => while store.seal(Timestamp(now)).expect("seal").more {},
                Step::Retain { days, minutes5 } => {
                    settle(&store);
                    let long = Duration::from_hours(24 * 365 * 100);
                    let raw = Duration::from_millis(1);
                    let ages = Ages { raw, rollup_5m: if minutes5 { long } else { raw }, rollup_1h: long };
                    let retention = Retention { classes: Vec::new(), ages, max_bytes: None };
                    store.retain(&retention, Timestamp(days * DAY_MS + 1)).expect("retain");
                    for (n, samples) in &model.samples {
                        let past: BTreeSet<(usize, i64)> =
                            samples.range(..days * DAY_MS).map(|(t, _)| (*n, t.div_euclid(DAY_MS))).collect();
                        if !minutes5 {
                            model.coarse.extend(&past);
                        }
                        model.expired.extend(&past);
                    }
                    let all = Matcher::new("n", MatchOp::Regex, ".+").expect("pattern");
                    let left = store.select(&[all], Timestamp(-1_000_000_000), Timestamp(days * DAY_MS - 1));
                    assert!(left.expect("select").is_empty(), "samples outlive their age");
                }
                Step::Delete { n, time, length } => {
                    // Of roll-ups without samples whole buckets go, see another test.
                    let expired = model.expired.iter().map(|(_, day)| (day + 1) * DAY_MS).fold(i64::MIN, i64::max);
                    let (start, end) = (time.max(expired), time.saturating_add(length));
                    store.delete(&[Matcher::equal("n", n.to_string())], Timestamp(start), Timestamp(end)).expect("delete");
                    // What is late for the deleted stretch would go too, until it is cleaned.
                    settle(&store);
                    store.clean_tombstones().expect("clean");
                    if let Some(samples) = model.samples.get_mut(&n) {
                        samples.retain(|t, _| !(start..=end).contains(t));
                    }
                }
                Step::Reopen => {
                    drop(store);
                    store = open(dir.path());
                }
            }
        }
        check(&store, &model, (i64::MIN, i64::MAX));
        check(&store, &model, (from, from + length));
        settle(&store);
        check(&store, &model, (i64::MIN, i64::MAX));
        let report = store.verify(&mut |_| ControlFlow::Continue(())).expect("verification");
        assert_eq!(report.damaged, 0, "{report:?}");
        drop(store);
        check(&open(dir.path()), &model, (i64::MIN, i64::MAX));
    }
}

#[test]
fn an_unknown_resolution_is_not_covered() {
    let dir = tempfile::tempdir().expect("directory");
    let store = open(dir.path());
    let found = store.rollups(&[], Timestamp(0), Timestamp(1), Duration::from_mins(7)).expect("read");
    assert!(found.is_none());
}

/// Three days of one series, merged; a sample each 10 s that counts up.
fn three_days(dir: &Path) -> Store {
    let store = open(dir);
    let id = store.series(&labels(0)).expect("series");
    let samples = (0..3 * DAY_MS / 10_000).map(|n| (id, Timestamp(n * 10_000), n as f64)).collect();
    store.commit(Commit { samples, ..Commit::default() }).expect("commit");
    settle(&store);
    store
}

fn all_buckets(store: &Store, resolution: Duration) -> Vec<(i64, Bucket)> {
    let found = store.rollups(&[], Timestamp::MIN, Timestamp::MAX, resolution).expect("read").expect("covered");
    found.iter().flat_map(|s| s.ends.iter().copied().zip(s.buckets.iter().copied())).collect()
}

fn keep_rollups(raw_days: i64) -> Retention {
    let long = Duration::from_hours(24 * 365);
    let raw = Duration::from_millis((raw_days * DAY_MS) as u64);
    Retention { classes: Vec::new(), ages: Ages { raw, rollup_5m: long, rollup_1h: long }, max_bytes: None }
}

#[test]
fn roll_ups_outlive_samples_and_say_until_where() {
    let [fine, coarse] = Store::resolutions();
    let dir = tempfile::tempdir().expect("directory");
    let store = three_days(dir.path());
    let before = [all_buckets(&store, fine), all_buckets(&store, coarse)];
    assert_eq!(store.expired(&[], Timestamp::MIN, Timestamp::MAX), None);
    let report = store.retain(&keep_rollups(1), Timestamp(3 * DAY_MS)).expect("retain");
    assert_eq!((report.aged_chunks, report.aged_rollups), (2, 0));
    let raw = store.select(&[], Timestamp::MIN, Timestamp::MAX).expect("select");
    assert_eq!(raw[0].timestamps[0], 2 * DAY_MS);
    assert_eq!([all_buckets(&store, fine), all_buckets(&store, coarse)], before);
    let expired = store.expired(&[], Timestamp::MIN, Timestamp::MAX).expect("something is expired");
    assert_eq!((expired.until, expired.resolution), (Timestamp(2 * DAY_MS), fine));
    assert_eq!(store.expired(&[], Timestamp(2 * DAY_MS), Timestamp::MAX), None);
    assert_eq!(store.series_labels(&[], Timestamp(0), Timestamp(1)).expect("labels"), [labels(0)]);
    drop(store);
    let store = open(dir.path());
    assert_eq!([all_buckets(&store, fine), all_buckets(&store, coarse)], before);
    // The finer ones go first, then all.
    let mut retention = keep_rollups(1);
    retention.ages.rollup_5m = retention.ages.raw;
    assert_eq!(store.retain(&retention, Timestamp(3 * DAY_MS)).expect("retain").aged_rollups, 2);
    assert_eq!(all_buckets(&store, coarse), before[1]);
    assert_eq!(store.expired(&[], Timestamp(0), Timestamp(1)).map(|e| e.resolution), Some(coarse));
    retention.ages = Ages::alike(Duration::from_millis(DAY_MS as u64));
    store.retain(&retention, Timestamp(10 * DAY_MS)).expect("retain");
    assert_eq!((all_buckets(&store, coarse), store.stats().series), (Vec::new(), 0));
}

#[test]
fn deleting_takes_every_bucket_that_has_some_of_it() {
    let dir = tempfile::tempdir().expect("directory");
    let store = three_days(dir.path());
    let [fine, coarse] = Store::resolutions();
    let before = [all_buckets(&store, fine), all_buckets(&store, coarse)];
    store.retain(&keep_rollups(1), Timestamp(3 * DAY_MS)).expect("retain");
    let (start, end) = (400_000, 1_100_000);
    assert_eq!(store.delete(&[], Timestamp(start), Timestamp(end)).expect("delete"), 1);
    let left = |buckets: &[(i64, Bucket)]| -> Vec<(i64, Bucket)> {
        buckets.iter().filter(|(_, b)| b.last_time < start || b.first_time > end).copied().collect()
    };
    let expected = [left(&before[0]), left(&before[1])];
    assert_eq!((before[0].len() - expected[0].len(), before[1].len() - expected[1].len()), (3, 1));
    assert_eq!([all_buckets(&store, fine), all_buckets(&store, coarse)], expected);
    store.clean_tombstones().expect("clean");
    assert_eq!([all_buckets(&store, fine), all_buckets(&store, coarse)], expected);
    drop(store);
    let store = open(dir.path());
    assert_eq!([all_buckets(&store, fine), all_buckets(&store, coarse)], expected);
}

/// Few samples have no roll-ups beside them; where roll-ups outlive them, they are made when the samples go.
#[test]
fn roll_ups_that_are_not_worth_their_room_are_made_when_the_samples_go() {
    let [_, coarse] = Store::resolutions();
    for (rollup_5m, fine_too) in [(Duration::from_hours(24 * 365), true), (Duration::from_millis(1), false)] {
        for max_bytes in [None, Some(1)] {
            let dir = tempfile::tempdir().expect("directory");
            let store = open(dir.path());
            store.roll_up_from(721);
            // 720 samples a day, and one more on the second.
            let ids = [0, 1].map(|n| store.series(&labels(n)).expect("series"));
            let samples = (0..3 * DAY_MS / 10_000).map(|n| (ids[0], Timestamp(n * 10_000), n as f64));
            let one_more = [(ids[0], Timestamp(DAY_MS + 1), 0.5), (ids[1], Timestamp(5), 1.0)];
            store.commit(Commit { samples: samples.chain(one_more).collect(), ..Commit::default() }).expect("commit");
            settle(&store);
            let rows = |store: &Store| store.verify(&mut |_| ControlFlow::Continue(())).expect("verification").rollups;
            assert_eq!(rows(&store), 1);
            assert!(store.rolled_up(&[], Timestamp(DAY_MS), Timestamp(DAY_MS + 1)));
            assert!(!store.rolled_up(&[], Timestamp(0), Timestamp(3 * DAY_MS)));
            let before = all_buckets(&store, coarse);
            // Late samples make it worth it, or a deletion no longer.
            store.commit(Commit { samples: vec![(ids[0], Timestamp(7), 3.0)], ..Commit::default() }).expect("commit");
            store.delete(&[], Timestamp(DAY_MS + 1), Timestamp(DAY_MS + 1)).expect("delete");
            settle(&store);
            store.clean_tombstones().expect("clean");
            assert_eq!(rows(&store), 1);
            store.delete(&[], Timestamp(7), Timestamp(7)).expect("delete");
            store.clean_tombstones().expect("clean");
            assert_eq!(rows(&store), 0);
            // A start does not look at everything again.
            drop(store);
            let store = open(dir.path());
            settle(&store);
            assert_eq!(rows(&store), 0);
            let long = Duration::from_hours(24 * 365);
            let raw = if max_bytes.is_none() { Duration::from_millis(DAY_MS as u64) } else { long };
            let ages = Ages { raw, rollup_5m: rollup_5m.max(raw), rollup_1h: long * 2 };
            let retention = Retention { classes: Vec::new(), ages, max_bytes };
            let report = store.retain(&retention, Timestamp(3 * DAY_MS)).expect("retain");
            assert!(report.aged_chunks + report.surplus_chunks == 3, "{report:?}");
            let late = |buckets: Vec<(i64, Bucket)>| -> Vec<_> {
                // The deleted sample was in the first bucket of the second day.
                buckets.into_iter().filter(|(end, _)| *end != DAY_MS + 3_600_000).collect()
            };
            if max_bytes.is_none() {
                assert_eq!(rows(&store), if fine_too { 6 } else { 3 });
                assert_eq!(late(all_buckets(&store, coarse)), late(before));
            }
            assert_eq!(store.verify(&mut |_| ControlFlow::Continue(())).expect("verification").damaged, 0);
        }
    }
}
