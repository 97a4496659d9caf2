//! Roll-ups against their definition, worked out from what was committed: with resets, staleness markers, NaN, gaps and
//! late samples, in the head, in chunks, across both, and after a reopening.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use veghe_model::{Bucket, Labels, MatchOp, Matcher, Timestamp, is_stale, stale_nan};
use veghe_tsdb::{Commit, Options, Store};

const SERIES: usize = 3;
const WINDOW_MS: i64 = 600_000;

fn open(dir: &Path) -> Store {
    let options = Options { dir: dir.to_owned(), window: Duration::from_millis(WINDOW_MS as u64), max_series: 100 };
    Store::open(options).expect("store opens").0
}

fn labels(n: usize) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())])
}

type Model = BTreeMap<usize, BTreeMap<i64, f64>>;

#[derive(Clone, Debug)]
enum Step {
    Run { n: usize, time: i64, pause: i64, values: Vec<f64> },
    Seal { now: i64 },
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
        for (n, samples) in model {
            let ends: std::collections::BTreeSet<i64> = samples
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
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
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
                        model.entry(n).or_default().entry(t.0).or_insert(*v);
                    }
                    store.commit(Commit { samples, ..Commit::default() }).expect("commit");
                }
                Step::Seal { now } => while store.seal(Timestamp(now)).expect("seal").more {},
                Step::Reopen => {
                    drop(store);
                    store = open(dir.path());
                }
            }
        }
        check(&store, &model, (i64::MIN, i64::MAX));
        check(&store, &model, (from, from + length));
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
